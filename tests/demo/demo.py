#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Three functions are started cold in a VM and captured; then that VM is turned from each into the next, round and
round, with every answer compared to the cold one. Two more VMs attach the same templates. In the same run: CRIU in the
same guest, and whole VMs whose saved RAM is mapped copy-on-write."""
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
from trial import COMMANDS, FUNCTIONS, Trial, TrialError, compile_java, private_bytes, scratch  # noqa: E402

SEEDS = range(3)
MEMORY = 1024  # MiB of every guest


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
        self.peers = {"cold_start_ms": {}, "criu_restore_ms": {}, "vm_cow_restore_ms": {}}
        self.accel = None

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
                self.start_cold(vm, name)
            say(f"the VM becomes {', '.join(COMMANDS)}, {self.options.rounds} times round ")
            function = self.go_round(vm)
            if self.options.no_peers:
                return
            vm.control.call("kill", function=function)
            self.restore_by_criu(vm)

    def start_cold(self, vm, name):
        start = time.monotonic()
        function = vm.run(name)
        vm.control.get(function, "/?seed=0")
        cold = self.peers["cold_start_ms"][name] = since(start)
        self.cold[name] = self.answers(vm.control, function)
        start = time.monotonic()
        result = vm.control.call("capture", function=function, name=name, end=True)
        size = result["template"]["user_state_bytes"]
        self.functions[name].update(user_state_bytes=size, capture_ms=since(start), stopped_ms=result["stopped_us"] / 1000)
        print(f"  {name:7} first answer after {cold:6.0f} ms; captured, {size / 1e6:.1f} MB", flush=True)

    def go_round(self, vm):
        current = last = None
        for _ in range(self.options.rounds):
            for name in COMMANDS:
                start = time.monotonic()
                result = vm.control.call("attach" if current is None else "repurpose", name=name,
                                         **({} if current is None else {"function": current}))
                took = since(start)
                current = result["function"]["id"]
                first = vm.control.get(current, f"/?seed={SEEDS[0]}")
                answered = since(start)
                self.same(name, [first] + [vm.control.get(current, f"/?seed={s}") for s in SEEDS[1:]])
                if last is not None:
                    # One name may come twice: once from each side of a phase that both take part in.
                    phases = {p["name"]: p["us"] / 1000 for p in result["phases"]}
                    self.repurposes.append({"from": last, "to": name, "total_ms": took, "first_answer_ms": answered,
                                            "pages": result["pages"], "phases": phases})
                last = name
            say(".")
        print()
        return current

    def restore_by_criu(self, vm):
        say(f"CRIU restores each in the same guest, {self.options.rounds} times ")
        criu = Criu(vm)
        for name in COMMANDS:
            criu.prepare(name, SEEDS)
            times = []
            for _ in range(self.options.rounds):
                took, answer = criu.restore(SEEDS[0])
                self.same(name, [answer])
                times.append(took)
                criu.end()
            self.peers["criu_restore_ms"][name] = times
            say(".")
        criu.close()
        print()

    def restore_vms(self):
        say(f"whole VMs with each are saved and restored, {self.options.rounds} times ")
        compile_java(self.folder)
        payload = {f"functions/{f.name}": f.read_bytes() for f in FUNCTIONS.iterdir() if f.suffix in (".py", ".js")}
        payload["functions/Primes.class"] = (self.folder / "Primes.class").read_bytes()
        for name in COMMANDS:
            saved = SavedVm(self.options.bin, self.folder / f"saved-{name}", self.options.kernel, MEMORY, name, payload)
            try:
                self.same(name, saved.save(self.accel, SEEDS))
                times = []
                for _ in range(self.options.rounds):
                    took, answer = saved.restore(self.accel, SEEDS[0])
                    self.same(name, [answer])
                    times.append(took)
                    saved.end()
                self.peers["vm_cow_restore_ms"][name] = times
            finally:
                saved.close()
            say(".")
        print()

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
        if not self.options.no_peers:
            self.restore_vms()
        print("a second and a third VM attach the same templates", flush=True)
        for which in ("second", "third"):
            self.share(which)

    def to(self, name, key):
        return [r[key] for r in self.repurposes if r["to"] == name]

    def report(self):
        median = statistics.median
        peers = {peer: {name: median(times) if isinstance(times, list) else times for name, times in by_name.items()}
                 for peer, by_name in self.peers.items()}
        return {"accel": self.accel, "kernel": self.options.kernel, "rounds": self.options.rounds,
                "wrong_answers": self.wrong, "functions": list(self.functions.values()), "repurpose": self.repurposes,
                "peers": peers, "extra_vm_host_bytes": {name: max(sizes) for name, sizes in self.extra.items()}}


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
            row(f"  {title}", [f"{times[n]:.0f} ({times[n] / first[n]:.1f}x)" for n in COMMANDS], "ms (of repurpose)")
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
    print(f"\nAll answers equal those of the cold start. Medians of {options.rounds - 1} or more; guests under "
          f"{report['accel']}, one CPU; one host, one run. Phases of the host's contain the agent's.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (TrialError, VmError) as e:
        print(f"demo: {e}", file=sys.stderr)
        sys.exit(1)
