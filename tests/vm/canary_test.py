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
from trial import COMMANDS, Trial, TrialError, scratch

HERE = pathlib.Path(__file__).resolve().parent
SEED = {"function": 1, "daemon": 2}
CASES = 3


def marker(seed):
    return b"".join(word.to_bytes(8, "little") for word in words(seed))


def expect(condition, text):
    if not condition:
        raise TrialError(text)


def guest_ram(pid):
    """The memory of the guest, as the host has it."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        if os.readlink(path).startswith("/memfd:memory-backend-memfd"):
            with open(path, "rb") as f:
                return mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    raise TrialError("QEMU has no memfd for guest RAM")


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

    def marks(self, whose):
        return places(self.ram, marker(SEED[whose]))

    def daemon(self):
        return json.loads(self.vm.control.get(self.probe, "/"))

    def plant(self):
        """A function whose marks are in RAM."""
        function = self.vm.start("canary", ["/run/moult/functions/canary", str(SEED["function"])], "--ready", "http:/")
        planted = int(self.vm.control.get(function, "/"))
        found = len(self.marks("function"))
        expect(found >= planted, f"{planted} marks were made, the host finds {found}")
        return function


def nothing_is_left(guest, cold, way):
    """`way` ends the function, and may make another."""
    before = guest.daemon()
    function = guest.plant()
    made = way(guest.vm.control, function)
    left = guest.marks("function")
    expect(not left, f"{len(left)} marks are left in guest RAM, at {[hex(at) for at in left[:8]]}")
    if made is not None:
        expect(guest.vm.control.get(made, "/?seed=1") == cold, "the next function's answer differs from its cold start's")
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
    expect(result["discarded_bytes"] > 12 << 20, f"only {result['discarded_bytes']} bytes were discarded")


def run(options, counts):
    more = ["--payload", f"functions/canary={pathlib.Path(options.bin) / 'moult-vm-canary'}",
            "--payload", f"init.d/60-daemon={HERE / 'guest' / 'daemon.py'}"]
    with scratch() as folder, Trial(options.bin, f"{folder}/vm", f"{folder}/store", options.kernel, more=more) as vm:
        function = vm.start("python", COMMANDS["python"], "--ready", "http:/", "--ready-timeout", "120000")
        cold = vm.control.get(function, "/?seed=1")
        vm.control.call("capture", function=function, name="python", end=True)
        guest = Guest(vm)
        for way in (repurpose, repurpose_copy, detach):
            try:
                nothing_is_left(guest, cold, way)
                counts["passed"] += 1
                print(f"ok nothing is left after {way.__name__}", flush=True)
            except (TrialError, OSError) as e:
                counts["failed"] += 1
                print(f"FAIL nothing is left after {way.__name__}: {e}", flush=True)
        guest.ram.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(CASES, missing)
    counts = {"passed": 0, "failed": 0}
    run(options, counts)
    print(f"{counts['passed']} passed, {counts['failed']} failed, 0 skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
