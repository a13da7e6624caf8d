#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A short run of ../../demo, started in another folder: the figures that it writes have the members and types that are
promised, and fit each other."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vm"))
from ctl import expect, run_cases  # noqa: E402
from machine import missing_parts, skip_all  # noqa: E402

REPO = HERE.parents[1]
NAMES = ["python", "node", "java"]
ROUNDS = 2
CASES = []


def case(function):
    CASES.append(function)
    return function


def numbers(what, value, keys):
    expect(sorted(value) == sorted(keys), f"{what} has {sorted(value)}")
    for key, number in value.items():
        expect(isinstance(number, (int, float)) and number > 0, f"{what}.{key} is {number!r}")


@case
def no_answer_is_wrong(r):
    expect(r["wrong_answers"] == 0 and r["accel"] in ("tcg", "kvm") and r["rounds"] == ROUNDS, f"{r['wrong_answers']}, {r['accel']}")


@case
def functions_are_described(r):
    expect([f["name"] for f in r["functions"]] == NAMES, f"functions: {r['functions']}")
    for function in r["functions"]:
        numbers(f"functions[{function.pop('name')}]", function, ["user_state_bytes", "capture_ms", "stopped_ms"])
        expect(function["stopped_ms"] <= function["capture_ms"], f"{function}")


@case
def every_repurpose_is_there(r):
    pairs = [(one["from"], one["to"]) for one in r["repurpose"]]
    expect(pairs == list(zip(NAMES[-1:] + NAMES[:-1], NAMES)) * ROUNDS, f"repurposes: {pairs}")
    for one in r["repurpose"]:
        expect(one["pages"] == "in_place" and 0 < one["total_ms"] <= one["first_answer_ms"], f"{one}")
        expect(all(name.split(".")[0] in ("host", "agent") for name in one["phases"]), f"phases: {list(one['phases'])}")


@case
def phases_of_the_host_add_up(r):
    """To no more than the whole; and to most of it, or a phase was lost."""
    for one in r["repurpose"]:
        of_host = sum(ms for name, ms in one["phases"].items() if name.startswith("host."))
        expect(0.5 * one["total_ms"] <= of_host <= one["total_ms"] * 1.01, f"{of_host} of {one['total_ms']} ms: {one['phases']}")


@case
def peers_are_compared(r):
    expect(sorted(r["peers"]) == ["cold_start_ms", "criu_restore_ms", "vm_cow_restore_ms"], f"peers: {list(r['peers'])}")
    for peer, times in r["peers"].items():
        numbers(f"peers.{peer}", times, NAMES)
        numbers(f"ratios.{peer}", r["ratios"][peer.removesuffix("_ms")], NAMES)
    numbers("extra_vm_host_bytes", r["extra_vm_host_bytes"], NAMES)


@case
def goals_are_judged(r):
    """Whether they are met depends on the machine; that it is said does not."""
    expect({peer: goal["goal"] for peer, goal in r["goals"].items()} == {"criu_restore": 5, "vm_cow_restore": 3}, f"goals: {r['goals']}")
    for peer, goal in r["goals"].items():
        expect(goal["measured"] == min(r["ratios"][peer].values()) and goal["met"] == (goal["measured"] >= goal["goal"]), f"{peer}: {goal}")


@case
def repurpose_beats_a_cold_start_and_a_whole_vm(r):
    for peer in ("cold_start", "vm_cow_restore"):
        for name, ratio in r["ratios"][peer].items():
            expect(ratio > 1, f"{peer} of {name} takes {ratio:.2f} of a repurpose")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    # The script builds the preset `dev` first, which only for that one is done already.
    script = [REPO / "demo"] if options.bin.resolve() == REPO / "build/dev/bin" else [sys.executable, HERE / "demo.py", "--bin", options.bin.resolve()]
    with tempfile.TemporaryDirectory(prefix="moult-demo-test-") as folder:
        done = subprocess.run([*script, "--kernel", options.kernel, "--rounds", str(ROUNDS), "--json", "figures.json"], cwd=folder, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1700, check=False, env=dict(os.environ))
        path = pathlib.Path(folder, "figures.json")
        if done.returncode or not path.exists():
            print(f"{done.stdout[-3000:]}\nFAIL demo: exit {done.returncode}, files {os.listdir(folder)}\n0 passed, {len(CASES)} failed, 0 skipped")
            return 1
        return run_cases(CASES, json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
