#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Three functions are started cold in a VM and captured; then that VM is turned from each into the next, round and
round, with every answer compared to the cold one. A second VM attaches the same templates."""
import argparse
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "vm"))
from trial import COMMANDS, Trial, TrialError, private_bytes, scratch  # noqa: E402

SEEDS = range(3)


def since(start):
    return (time.monotonic() - start) * 1000


def answers(control, function):
    return [control.get(function, f"/?seed={seed}") for seed in SEEDS]


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def start_cold(vm, name, figures):
    start = time.monotonic()
    function = vm.run(name)
    vm.control.get(function, "/?seed=0")
    figures["cold_first_answer_ms"] = since(start)
    cold = answers(vm.control, function)
    result = vm.control.call("capture", function=function, name=name, end=True)
    figures["template_bytes"] = result["template"]["user_state_bytes"]
    figures["capture_stopped_ms"] = result["stopped_us"] / 1000
    print(f"  {name:7} first answer after {figures['cold_first_answer_ms']:6.0f} ms; captured, "
          f"{figures['template_bytes'] / 1e6:.1f} MB", flush=True)
    return cold


def go_round(vm, rounds, cold, figures):
    times = {name: {"repurpose": [], "first_answer": [], "in_place": 0} for name in cold}
    current = None
    for _ in range(rounds):
        for name in cold:
            start = time.monotonic()
            if current is None:
                result = vm.control.call("attach", name=name)
            else:
                result = vm.control.call("repurpose", function=current, name=name)
            took = since(start)
            first = vm.control.get(result["function"]["id"], f"/?seed={SEEDS[0]}")
            answered = since(start)
            current_answers = [first] + [vm.control.get(result["function"]["id"], f"/?seed={s}") for s in SEEDS[1:]]
            if current_answers != cold[name]:
                raise TrialError(f"{name}: an answer differs from the one of its cold start")
            if current is not None:
                times[name]["repurpose"].append(took)
                times[name]["first_answer"].append(answered)
            times[name]["in_place"] += result["pages"] == "in_place"
            current = result["function"]["id"]
        print(".", end="", flush=True)
    print()
    for name, got in times.items():
        figures[name]["repurpose_ms"] = spread(got["repurpose"])
        figures[name]["repurpose_first_answer_ms"] = spread(got["first_answer"])
        figures[name]["in_place"] = got["in_place"]


def share(options, folder, cold, figures):
    with Trial(options.bin, folder / "second", folder / "store", options.kernel) as second:
        for name, expected in cold.items():
            before = private_bytes(second.qemu, folder / "store")
            function = second.control.call("attach", name=name)["function"]["id"]
            if answers(second.control, function) != expected:
                raise TrialError(f"{name}: an answer differs in the second VM")
            figures[name]["second_vm_private_bytes"] = private_bytes(second.qemu, folder / "store") - before
            second.control.call("kill", function=function)


def print_table(figures):
    print(f"\n{'':8}{'cold start to':>15}{'repurpose to':>15}{'faster':>8}{'repurpose':>22}{'template':>11}{'2nd VM':>10}")
    print(f"{'':8}{'first answer':>15}{'first answer':>15}{'':>8}{'median (min..max)':>22}{'':>11}{'takes':>10}")
    for name, f in figures.items():
        done, first = f["repurpose_ms"], f["repurpose_first_answer_ms"]["median"]
        bounds = f"{done['median']:.0f} ({done['min']:.0f}..{done['max']:.0f})"
        print(f"{name:8}{f['cold_first_answer_ms']:>12.0f} ms{first:>12.0f} ms{f['cold_first_answer_ms'] / first:>7.1f}x"
              f"{bounds:>19} ms{f['template_bytes'] / 1e6:>8.1f} MB{f['second_vm_private_bytes'] / 1e6:>7.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1", choices=["6.1", "6.12"])
    parser.add_argument("--rounds", type=int, default=8, help="times round all functions")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2")
    with scratch() as name:
        folder = pathlib.Path(name)
        print("a VM boots (the first time its image is made, which takes a minute or two)", flush=True)
        start = time.monotonic()
        with Trial(options.bin, folder / "first", folder / "store", options.kernel) as vm:
            print(f"  ready after {since(start) / 1000:.1f} s, under {vm.accel}, Linux {options.kernel}")
            figures = {name: {} for name in COMMANDS}
            cold = {name: start_cold(vm, name, figures[name]) for name in COMMANDS}
            print(f"the VM becomes {', '.join(cold)}, {options.rounds} times round ", end="", flush=True)
            go_round(vm, options.rounds, cold, figures)
            report = {"accel": vm.accel, "kernel": options.kernel, "rounds": options.rounds, "functions": figures}
            print("a second VM attaches the same templates", flush=True)
            share(options, folder, cold, figures)
    print_table(figures)
    print(f"\nAll answers equal those of the cold start. Guest under {report['accel']}; one host, one run.")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TrialError as e:
        print(f"demo: {e}", file=sys.stderr)
        sys.exit(1)
