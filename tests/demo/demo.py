#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Three functions are started cold in a VM and captured; then that VM is turned from each into the next, round and
round, with every answer compared to the cold one. In each round, in turns with it: a cold start and CRIU in the same guest,
and whole VMs whose saved RAM is mapped copy-on-write. In the end two more VMs attach the same templates."""
import argparse
import json
import pathlib
import statistics
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vm"))
from machine import VmError  # noqa: E402
from peers import GUEST, Criu, SavedVm  # noqa: E402
from trial import COMMANDS, FUNCTIONS, Trial, TrialError, private_bytes, scratch  # noqa: E402

SEEDS = range(3)
MEMORY = 1024  # MiB of every guest
# How many times as long as a repurpose each is to take at least; of the functions' ratios, the least counts.
GOALS = {"criu_restore": 5, "vm_cow_restore": 3}
# Seconds of rest before each of the ways: no function ends the moment after it has begun, and what one leaves to be done is not
# the next one's to wait for.
REST = 0.5


def since(start):
    return (time.monotonic() - start) * 1000


def say(text):
    print(text, end="", flush=True)


class Demo:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.store = folder / "store"
        self.cold, self.wrong = {}, 0
        self.functions = {name: {"name": name} for name in COMMANDS}
        self.repurposes, self.extra = [], {name: [] for name in COMMANDS}
        self.peers = {peer: {name: [] for name in COMMANDS} for peer in ("cold_start_ms", "criu_restore_ms", "vm_cow_restore_ms")}
        self.current = self.last = self.accel = None

    def same(self, name, answers):
        self.wrong += sum(got != wanted for got, wanted in zip(answers, self.cold[name]))

    def answers(self, control, function):
        return [control.get(function, f"/?seed={seed}") for seed in SEEDS]

    def first_vm(self):
        start = time.monotonic()
        more = () if self.options.no_peers else ("--payload", f"init.d/60-peer={GUEST}")
        with Trial(self.options.bin, self.folder / "first", self.store, self.options.kernel, MEMORY, more) as vm:
            self.accel = vm.accel
            print(f"  ready after {since(start) / 1000:.1f} s, under {vm.accel}, Linux {self.options.kernel}")
            for name in COMMANDS:
                self.capture(vm, name)
            if self.options.no_peers:
                say(f"the VM becomes {', '.join(COMMANDS)}, {self.options.rounds} times round ")
                for _ in range(self.options.rounds):
                    self.go_round(vm)
                print()
            else:
                self.go_rounds_with_peers(vm)

    def start_cold(self, vm, name):
        time.sleep(REST)
        start = time.monotonic()
        function = vm.run(name)
        answer = vm.control.get(function, f"/?seed={SEEDS[0]}")
        self.peers["cold_start_ms"][name].append(since(start))
        return function, answer

    def capture(self, vm, name):
        function, first = self.start_cold(vm, name)
        # Of a cache that is cold, too: it does not count.
        took = self.peers["cold_start_ms"][name].pop()
        self.cold[name] = [first] + [vm.control.get(function, f"/?seed={seed}") for seed in SEEDS[1:]]
        start = time.monotonic()
        result = vm.control.call("capture", function=function, name=name, end=True)
        size = result["template"]["user_state_bytes"]
        self.functions[name].update(user_state_bytes=size, capture_ms=since(start), stopped_ms=result["stopped_us"] / 1000)
        print(f"  {name:7} first answer after {took:6.0f} ms; captured, {size / 1e6:.1f} MB", flush=True)

    def become(self, vm, name):
        """Attaches, or repurposes what is there; returns the result and how long it took, first answer included."""
        vm.control.settle()
        time.sleep(REST)
        start = time.monotonic()
        result = vm.control.call("attach" if self.current is None else "repurpose", name=name,
                                 **({} if self.current is None else {"function": self.current}))
        took = since(start)
        self.current = result["function"]["id"]
        first = vm.control.get(self.current, f"/?seed={SEEDS[0]}")
        answered = since(start)
        self.same(name, [first] + [vm.control.get(self.current, f"/?seed={s}") for s in SEEDS[1:]])
        return result, took, answered

    def go_round(self, vm):
        names = list(COMMANDS)
        if self.current is None:
            self.last = names[-1]
            self.become(vm, self.last)
        for name in names:
            result, took, answered = self.become(vm, name)
            phases = {}
            # One name may come twice: in the half that detaches and in the half that attaches.
            for phase in result["phases"]:
                phases[phase["name"]] = phases.get(phase["name"], 0) + phase["us"] / 1000
            self.repurposes.append({"from": self.last, "to": name, "total_ms": took, "first_answer_ms": answered,
                                    "pages": result["pages"], "phases": phases})
            self.last = name
        say(".")

    def go_rounds_with_peers(self, vm):
        """In turns, since a machine that is shared changes its speed as one goes."""
        say("functions are prepared for CRIU, and whole VMs saved ")
        saved = {}
        criu = Criu(vm)
        try:
            for name in COMMANDS:
                criu.prepare(name, SEEDS)
                saved[name] = self.save_vm(name)
                say(".")
            say(f"\n{self.options.rounds} times round: the VM becomes {', '.join(COMMANDS)}; each starts cold, and is restored by CRIU "
                "and as a whole VM ")
            for _ in range(self.options.rounds):
                self.go_round(vm)
                # All of them want the same port.
                vm.control.call("kill", function=self.current)
                self.current = None
                for name in COMMANDS:
                    self.ask_peers(vm, criu, saved[name], name)
            criu.close()
        finally:
            for vm_of_one in saved.values():
                vm_of_one.close()
        print()

    def ask_peers(self, vm, criu, saved, name):
        function, answer = self.start_cold(vm, name)
        vm.control.call("kill", function=function)
        time.sleep(REST)
        took, restored = criu.restore(name, SEEDS[0])
        criu.end(name)
        self.peers["criu_restore_ms"][name].append(took)
        time.sleep(REST)
        took, of_vm = saved.restore(self.accel, SEEDS[0])
        saved.end()
        self.peers["vm_cow_restore_ms"][name].append(took)
        for got in (answer, restored, of_vm):
            self.same(name, [got])

    def save_vm(self, name):
        payload = {f"functions/{f.name}": f.read_bytes() for f in FUNCTIONS.iterdir() if f.suffix in (".py", ".js")}
        payload["functions/Primes.class"] = (self.folder / "first" / "Primes.class").read_bytes()
        saved = SavedVm(self.options.bin, self.folder / f"saved-{name}", self.options.kernel, MEMORY, name, payload)
        try:
            self.same(name, saved.save(self.accel, SEEDS))
        except BaseException:
            saved.close()
            raise
        return saved

    def share(self, which):
        with Trial(self.options.bin, self.folder / which, self.store, self.options.kernel, MEMORY) as vm:
            for name in COMMANDS:
                before = private_bytes(vm.qemu, self.store)
                function = vm.control.call("attach", name=name)["function"]["id"]
                self.same(name, self.answers(vm.control, function))
                self.extra[name].append(private_bytes(vm.qemu, self.store) - before)
                vm.control.call("kill", function=function)

    def run(self):
        print("a VM boots (the first time its image is made, which takes a minute or two)", flush=True)
        self.first_vm()
        print("a second and a third VM attach the same templates", flush=True)
        for which in ("second", "third"):
            self.share(which)

    def to(self, name, key):
        return [r[key] for r in self.repurposes if r["to"] == name]

    def ratios(self, peer):
        """How many times as long as a repurpose, round by round: medians."""
        ours = {name: self.to(name, "first_answer_ms") for name in COMMANDS}
        return {name: statistics.median(theirs / our for theirs, our in zip(times, ours[name]))
                for name, times in self.peers[peer].items() if times}

    def goals(self):
        goals = {}
        for peer, wanted in GOALS.items():
            ratios = self.ratios(f"{peer}_ms")
            if ratios:
                goals[peer] = {"goal": wanted, "measured": min(ratios.values()), "met": min(ratios.values()) >= wanted}
        return goals

    def report(self):
        peers = {peer: {name: statistics.median(times) for name, times in by_name.items() if times}
                 for peer, by_name in self.peers.items()}
        return {"accel": self.accel, "kernel": self.options.kernel, "rounds": self.options.rounds,
                "wrong_answers": self.wrong, "functions": list(self.functions.values()), "repurpose": self.repurposes,
                "peers": peers, "ratios": {peer.removesuffix("_ms"): self.ratios(peer) for peer in self.peers},
                "goals": self.goals(),
                "extra_vm_host_bytes": {name: max(sizes) for name, sizes in self.extra.items()}}


def row(title, cells, unit=""):
    print(f"{title:36}" + "".join(f"{cell:>16}" for cell in cells) + (f"  {unit}" if unit else ""))


def print_tables(demo, report):
    median = statistics.median
    first = {name: median(demo.to(name, "first_answer_ms")) for name in COMMANDS}
    print()
    row("", COMMANDS)
    row("user state", [f"{f['user_state_bytes'] / 1e6:.1f}" for f in report["functions"]], "MB")
    row("capture (stopped)", [f"{f['capture_ms']:.0f} ({f['stopped_ms']:.0f})" for f in report["functions"]], "ms")
    row("extra VM takes", [f"{report['extra_vm_host_bytes'][n] / 1e6:.1f}" for n in COMMANDS], "MB")
    print("to the first answer:")
    row("  repurpose", [f"{first[n]:.0f}" for n in COMMANDS], "ms")
    for peer, title in (("cold_start_ms", "cold start in the same guest"), ("criu_restore_ms", "CRIU restore in the same guest"),
                        ("vm_cow_restore_ms", "whole VM, copy-on-write")):
        times = report["peers"][peer]
        if times:
            ratios = report["ratios"][peer.removesuffix("_ms")]
            row(f"  {title}", [f"{times[n]:.0f} ({ratios[n]:.1f}x)" for n in COMMANDS], "ms (of repurpose)")
    for peer, goal in report["goals"].items():
        print(f"  goal: {goal['goal']}x {peer.replace('_', ' ')}: {'met' if goal['met'] else 'missed'}, {goal['measured']:.1f}x at least")
    print("repurpose:")
    spread = [demo.to(name, "total_ms") for name in COMMANDS]
    row("  median (min..max)", [f"{median(s):.0f} ({min(s):.0f}..{max(s):.0f})" for s in spread], "ms")
    phases = list(dict.fromkeys(phase for r in report["repurpose"] for phase in r["phases"]))
    for phase in phases:
        cells = [median([r["phases"].get(phase, 0) for r in report["repurpose"] if r["to"] == n]) for n in COMMANDS]
        if max(cells) >= 0.5:
            row(f"    {phase}", [f"{cell:.1f}" for cell in cells])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1", choices=["6.1", "6.12"])
    parser.add_argument("--rounds", type=int, default=21, help="times round all functions")
    parser.add_argument("--no-peers", action="store_true", help="nothing to compare with, which takes most of the time")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds: at least 2")
    with scratch() as name:
        demo = Demo(options, pathlib.Path(name))
        demo.run()
    report = demo.report()
    print_tables(demo, report)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if demo.wrong:
        raise TrialError(f"{demo.wrong} answers differ from those of the cold start")
    print(f"\nAll answers equal those of the cold start. Medians of {options.rounds}; guests under "
          f"{report['accel']}, one CPU; one host, one run. Phases of the host's contain the agent's.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (TrialError, VmError) as e:
        print(f"demo: {e}", file=sys.stderr)
        sys.exit(1)
