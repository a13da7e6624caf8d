#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Of a function that was repurposed nothing is left in guest RAM, and nothing of the guest's system is gone."""
import argparse
import json
import mmap
import os
import pathlib
import sys

from guest.daemon import words
from machine import missing_parts, skip_all
from trial import COMMANDS, expect, scratch, Trial, TrialError

HERE = pathlib.Path(__file__).resolve().parent
SEED = {"function": 1, "daemon": 2}
HEAP = 8 << 20  # of the canary


def marker(seed):
    return b"".join(word.to_bytes(8, "little") for word in words(seed))


def guest_ram_file(pid):
    """The file that the memory of the guest is."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path).startswith("/memfd:memory-backend-memfd"):
            return path
    raise TrialError("QEMU has no memfd for guest RAM")


def guest_ram(pid):
    """The memory of the guest, as the host has it."""
    with open(guest_ram_file(pid), "rb") as f:
        return mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)


def places(ram, wanted):
    """Where it is, in whole 16 bytes."""
    found, at = [], ram.find(wanted)
    while at >= 0:
        found.append(at)
        at = ram.find(wanted, at + len(wanted))
    return found


class Guest:
    def __init__(self, vm):
        self.vm, self.ram = vm, guest_ram(vm.qemu)
        self.probe = vm.start("probe", ["/usr/bin/sleep", "100000"], port=9090)
        function = vm.start("python", COMMANDS["python"], "--ready", "http:/", "--ready-timeout", "120000")
        self.cold = vm.control.get(function, "/?seed=1")
        vm.control.call("capture", function=function, name="python", end=True)

    def marks(self, whose):
        return places(self.ram, marker(SEED[whose]))

    def daemon(self):
        return json.loads(self.vm.control.get(self.probe, "/"))

    def plant(self, what="pn"):
        """A function whose marks are in RAM; `what` as canary.c has it."""
        function = self.vm.start("canary", ["/run/moult/functions/canary", str(SEED["function"]), what], "--ready", "http:/")
        self.expect_marks(int(self.vm.control.get(function, "/")))
        return function

    def plant_attached(self, what, pages):
        """The same, but captured, ended, attached, and with memory that it has written since."""
        name = f"canary-{pages}{what}"
        self.vm.control.call("capture", function=self.plant(what), name=name, end=True)
        result = self.vm.control.call("attach", name=name, **({"pages": pages} if pages != "auto" else {}))
        self.vm.control.get(result["function"]["id"], "/dirty")
        self.expect_marks(HEAP // 16)
        return result["function"]["id"]

    def expect_marks(self, planted):
        found = len(self.marks("function"))
        expect(found >= planted, f"{planted} marks were made, the host finds {found}")


def nothing_is_left(guest, plant, way):
    """`way` ends the function that `plant` makes, and may make another."""
    before = guest.daemon()
    function = plant()
    made = way(guest.vm.control, function)
    guest.vm.control.settle()
    left = guest.marks("function")
    expect(not left, f"{len(left)} marks are left in guest RAM, at {[hex(at) for at in left[:8]]}")
    if made is not None:
        expect(guest.vm.control.get(made, "/?seed=1") == guest.cold, "the next function's answer differs from its cold start's")
        guest.vm.control.call("kill", function=made)
    after = guest.daemon()
    expect(after["pid"] == before["pid"] and not after["faults"], f"the guest's daemon: {after}")
    expect(after["beats"] > before["beats"], "the guest's daemon stands still")
    expect(len(guest.marks("daemon")) >= after["marks"], "marks of the guest's daemon are gone")


def repurpose(control, function):
    return control.call("repurpose", function=function, name="python")["function"]["id"]


def repurpose_copy(control, function):
    return control.call("repurpose", function=function, name="python", pages="copy")["function"]["id"]


def detach(control, function):
    result = control.call("detach", function=function)
    expect(result["detached"], str(result))


def capture_then_repurpose(control, function):
    control.call("capture", function=function, name="canary")
    made = repurpose(control, function)
    control.call("templates.remove", name="canary")
    return made


# What the guest's kernel lets go of by itself (memory that a function gave back, buffers of sockets and pipes that images
# and copied pages went through) it wipes only when it was booted with init_on_free=1.
WIPES = "init_on_free=1"
CASES = {
    "in place": ("", [], [
        ("repurpose", lambda g: g.plant(), repurpose),
        ("repurpose, the next one copied", lambda g: g.plant(), repurpose_copy),
        ("detach", lambda g: g.plant(), detach),
        ("capture and repurpose", lambda g: g.plant("n"), capture_then_repurpose),
        ("attach in place and detach", lambda g: g.plant_attached("", "in_place"), detach),
        ("attach with a named file and no other shared memory, and detach", lambda g: g.plant_attached("nx", "in_place"), detach)]),
    "init_on_free": (WIPES, [], [
        ("capture with a full pipe, memory given back, and repurpose", lambda g: g.plant("pnf"), capture_then_repurpose),
        ("attach in place with a full pipe, and detach", lambda g: g.plant_attached("pf", "in_place"), detach),
        ("attach by copy and detach", lambda g: g.plant_attached("pf", "copy"), detach)]),
    "no driver": (WIPES, ["--window", "0"], [
        ("attach and detach without the driver", lambda g: g.plant_attached("pf", "auto"), detach)]),
}


def run(options, group, counts):
    append, more, cases = CASES[group]
    more = [*more, "--payload", f"functions/canary={pathlib.Path(options.bin) / 'moult-vm-canary'}",
            "--payload", f"init.d/60-daemon={HERE / 'guest' / 'daemon.py'}"]
    with scratch() as folder, Trial(options.bin, f"{folder}/vm", f"{folder}/store", options.kernel, more=more, append=append) as vm:
        guest = Guest(vm)
        for name, plant, way in cases:
            try:
                nothing_is_left(guest, lambda plant=plant: plant(guest), way)
                counts["passed"] += 1
                print(f"ok {group}: nothing is left after {name}", flush=True)
            except (TrialError, OSError) as e:
                counts["failed"] += 1
                print(f"FAIL {group}: nothing is left after {name}: {e}", flush=True)
        guest.ram.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--only", choices=CASES, help="one group of cases")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(sum(len(cases) for *_, cases in CASES.values()), missing)
    counts = {"passed": 0, "failed": 0}
    for group in CASES:
        if options.only not in (None, group):
            continue
        try:
            run(options, group, counts)
        except TrialError as e:
            counts["failed"] += 1
            print(f"FAIL {group}: {e}", flush=True)
    print(f"{counts['passed']} passed, {counts['failed']} failed, 0 skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
