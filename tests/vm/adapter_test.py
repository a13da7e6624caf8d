#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The QEMU adapter where the machine is not the plain one: RAM that goes on above 4 GiB, another QEMU; and code in a
window's pages, which an emulating QEMU must not have translated once and for all."""
import argparse
import os
import pathlib
import re
import sys

from ctl import expect, run_cases
from machine import missing_parts, qemu_program, skip_all
from trial import Trial, scratch

CASES = []
MEMORY = 4096  # MiB: q35 puts more than a half of it above 4 GiB.
FOUR_GIB = 4 << 30
VALUES = {"one": 1111, "two": 2222}


def case(function):
    CASES.append(function)
    return function


class Setting:
    def __init__(self, vm, version):
        self.vm, self.control, self.version = vm, vm.control, version

    def jit(self, function):
        """What its code gives, and where the code is."""
        value, place = self.control.get(function, "/").split()
        return int(value), int(place)


@case
def adapter_is_in_the_qemu_that_was_asked_for(s):
    embedder = s.control.call("status")["embedder"]
    expect(re.match(s.version, embedder["vmm_version"]), f"QEMU is {embedder['vmm_version']}")
    checks = s.control.call("doctor")["checks"]
    expect(all(c["ok"] for c in checks), f"doctor: {[c for c in checks if not c['ok']]}")


@case
def ram_is_seen_on_both_sides_of_four_gib(s):
    ram = s.control.call("status")["embedder"]["ram"]
    above = [part for part in ram if part["gpa"] >= FOUR_GIB]
    expect(len(above) == 1 and above[0]["gpa"] == FOUR_GIB, f"RAM: {ram}")
    expect(sum(part["length"] for part in ram if part["gpa"] < FOUR_GIB) == above[0]["offset"] < FOUR_GIB, f"RAM: {ram}")
    # The firmware's corner below 1 MiB is not RAM to the guest.
    expect(MEMORY - 1 <= sum(part["length"] for part in ram) >> 20 <= MEMORY, f"RAM: {ram}")


@case
def pages_above_four_gib_are_captured_and_given_back(s):
    function = s.vm.run("python")
    wanted = s.control.get(function, "/?seed=1")
    s.control.call("capture", function=function, name="python")
    told = s.control.call("repurpose", function=function, name="python", settled=True)
    expect(told["pages"] == "in_place" and told["discarded_bytes"] > 4 << 20, f"{told}")
    function = told["function"]["id"]
    expect(s.control.get(function, "/?seed=1") == wanted, "another answer after the repurpose")
    s.control.call("detach", function=function)


@case
def code_in_the_window_is_the_templates(s):
    """Two functions whose code differs, one after the other at the same place of the window."""
    for name, value in VALUES.items():
        function = s.vm.start(name, ["/run/moult/bin/jit", str(value)], "--ready", "http:/")
        got, place = s.jit(function)
        expect(got == value and place >= FOUR_GIB, f"{name}: {got} from {place:#x}: the guest's own pages are above 4 GiB")
        s.control.call("capture", function=function, name=name, end=True)
    places = set()
    function = None
    for name in [*VALUES] * 3:
        if function is not None:
            s.control.call("detach", function=function)
        function = s.control.call("attach", name=name, pages="in_place")["function"]["id"]
        # More than once: the second time it is translated already.
        for _ in range(3):
            got, place = s.jit(function)
            expect(got == VALUES[name], f"{name} gives {got}: code of the template that was there before")
        places.add(place)
    expect(len(places) == 1, f"the code was at different places, {places}: nothing is shown by this")
    window = s.control.call("status")["embedder"]["windows"][0]
    expect(window["gpa"] <= place < window["gpa"] + window["length"], f"the code at {place:#x} is not in the window {window}")
    s.control.call("kill", function=function)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--qemu", default="7.2", choices=["7.2", "backports"])
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True, qemu=options.qemu)
    if missing:
        return skip_all(len(CASES), missing)
    program, needs = qemu_program(options.qemu)
    os.environ.update(needs)
    with scratch() as folder:
        folder = pathlib.Path(folder)
        more = ("--qemu", program, "--payload", f"bin/jit={options.bin / 'moult-vm-jit'}")
        with Trial(options.bin, folder / "vm", folder / "store", options.kernel, MEMORY, more) as vm:
            code = run_cases(CASES, Setting(vm, r"7\.2" if options.qemu == "7.2" else r"(8|9|1\d)\."))
            if code:
                print(vm.logs())
            return code


if __name__ == "__main__":
    sys.exit(main())
