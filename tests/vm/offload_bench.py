#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whether a daemon of the guest is held up while its neighbours' memory leaves the guest and comes back: in turns with the same
neighbours, asked the same, that stay. Prints ratios, how far quiet turns differ among themselves, and a verdict, which is no error.

    nice -n 0 tests/vm/offload_bench.py --bin build/dev/bin [--kernel 6.1] [--turns 12] [--seconds 5] [--json FILE]
"""
import argparse
import json
import statistics
import sys

from ctl import run_cases
from machine import missing_parts, skip_all
from offload_load import daemon_beside, Load
from offload_setting import CPUS, Setting
from trial import scratch

WHAT = {"pieces_ms": "a piece of its work", "answers_ms": "an answer"}


def late(values):
    """Of 20 the slowest."""
    return sorted(values)[len(values) * 95 // 100]


def judged(turns, of):
    """Of one number a turn: of those in which functions move, their median by that of the others; these by the same, from the least to
    the most. Within noise: no further above than the others are among themselves."""
    quiet, moving = ([of(turn) for turn in turns if turn.moves == moves] for moves in (False, True))
    base = statistics.median(quiet)
    ratio, spread = statistics.median(moving) / base, (min(quiet) / base, max(quiet) / base)
    return {"ms_quiet": base, "ratio": ratio, "quiet_spread": spread, "within_noise": ratio <= spread[1]}


def report(turns):
    found = {}
    for name, what in WHAT.items():
        for how, of in (("median", statistics.median), ("slowest of 20", late)):
            one = found[f"{what}, {how}"] = judged(turns, lambda turn, name=name, of=of: of(getattr(turn, name)))
            print(f"{what + ', ' + how:36} {one['ms_quiet']:8.2f} ms   {one['ratio']:.2f} times as long beside functions that move; quiet turns "
                  f"{one['quiet_spread'][0]:.2f}..{one['quiet_spread'][1]:.2f}   within noise: {'yes' if one['within_noise'] else 'no'}")
    return found


def daemon_beside_functions(s):
    options, load = s.options, Load(s)
    daemon_beside(s, load, turns=2, seconds=options.seconds)  # what is done first takes longer
    turns = daemon_beside(s, load, options.turns, options.seconds)
    print(f"a daemon beside three functions, {options.turns} turns of {options.seconds} s, Linux {options.kernel}")
    found = report(turns)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"turns": options.turns, "seconds": options.seconds, "kernel": options.kernel, "method": judged.__doc__, "found": found}, file)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--turns", type=int, default=12, help="half of them with functions that move")
    parser.add_argument("--seconds", type=float, default=5, help="that a turn takes")
    parser.add_argument("--json", help="file for the same as JSON")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True, cpus=CPUS)
    if missing:
        return skip_all(1, missing)
    with scratch() as folder:
        setting = Setting(options, folder)
        try:
            return run_cases([daemon_beside_functions], setting, close=setting.vm.close)
        finally:
            setting.vm.close()


if __name__ == "__main__":
    sys.exit(main())
