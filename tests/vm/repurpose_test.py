#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The main job in real VMs: three real functions are captured in one, which is then turned from each into each other;
every answer is compared with that of the function that was started cold. A second VM attaches the same templates."""
import argparse
import hashlib
import pathlib
import sys

from chaos_setting import STRIKER
from ctl import run_cases
from machine import missing_parts, skip_all
from together import CASES as TOGETHER
from trial import CallError, COMMANDS, expect, host_memory, private_bytes, scratch, template_copies, Trial, TrialError

SEEDS = range(4)
SHARE = 0.6  # at most so much of a template do these functions write as they answer
# What a function costs the guest beside the pages that it writes: page tables, the kernel's own, what the agent needs to make it.
BESIDE = 2 << 20
CASES = []


def case(function):
    CASES.append(function)
    return function


def expect_error(name, action):
    try:
        action()
    except CallError as e:
        expect(e.name == name, f"{name} was expected, not {e}")
        return str(e)
    raise TrialError(f"no error where {name} is due")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def answers(control, function):
    return [control.get(function, f"/?seed={seed}") for seed in SEEDS]


class Setting:
    """Cold starts and captures in the first VM; what the cases work on."""

    def __init__(self, options, folder):
        self.options, self.folder, self.store = options, pathlib.Path(folder), pathlib.Path(folder) / "store"
        self.vm = Trial(options.bin, self.folder / "first", self.store, options.kernel,
                        more=["--payload", f"init.d/60-striker={STRIKER}"])
        self.control = self.vm.control
        self.cold = {}
        self.current = None

    def names(self):
        return list(COMMANDS)

    def same(self, name, function):
        expect(answers(self.control, function) == self.cold[name], f"{name}: an answer differs from the cold start's")

    def repurpose(self, name, **more):
        if self.current is None:
            result = self.control.call("attach", name=f"t-{name}", **more)
        else:
            result = self.control.call("repurpose", function=self.current, name=f"t-{name}", **more)
        self.current = result["function"]["id"]
        return result


@case
def functions_are_captured_and_run_on(s):
    for name in s.names():
        function = s.vm.run(name)
        s.cold[name] = answers(s.control, function)
        expect(len(set(s.cold[name])) == len(SEEDS), f"{name} gives one answer to all")
        result = s.control.call("capture", function=function, name=f"t-{name}")
        expect(result["template"]["user_state_bytes"] > 1 << 20, f"{name}: {result['template']}")
        s.same(name, function)
        s.control.call("kill", function=function)
    found = [t["name"] for t in s.control.call("templates.list")["templates"]]
    expect(sorted(found) == sorted(f"t-{n}" for n in s.names()), f"the store lists {found}")
    for name in s.names():
        s.control.call("templates.verify", name=f"t-{name}")


@case
def each_becomes_each_other(s):
    for i, _ in enumerate(s.names()):
        for name in s.names()[i:] + s.names()[:i]:
            result = s.repurpose(name)
            expect(result["pages"] == "in_place", f"{name} was attached {result['pages']}")
            s.same(name, s.current)


@case
def template_that_was_attached_is_kept(s):
    """Its image is read and planned once in a guest, whatever came between."""
    for name in s.names() * 2:
        result = s.repurpose(name)
        read = [p["name"] for p in result["phases"] if p["name"].endswith("read image")]
        expect(not read, f"{name} was attached before, and was read again")
        s.same(name, s.current)


@case
def pages_can_be_copied_too(s):
    for name in s.names():
        result = s.repurpose(name, pages="copy")
        expect(result["pages"] == "copy", f"{name} was attached {result['pages']}")
        s.same(name, s.current)


@case
def attached_function_is_captured_again(s):
    s.repurpose("python")
    s.control.call("capture", function=s.current, name="again")
    s.same("python", s.current)
    s.repurpose("node")
    result = s.control.call("repurpose", function=s.current, name="again")
    s.current = result["function"]["id"]
    s.same("python", s.current)


@case
def template_that_is_missing_costs_nothing(s):
    s.repurpose("node")
    message = expect_error("NOT_FOUND", lambda: s.control.call("repurpose", function=s.current, name="no-such"))
    expect("no-such" in message, message)
    s.same("node", s.current)
    expect_error("NOT_FOUND", lambda: s.control.call("repurpose", function=987654, name="t-node"))


@case
def memory_of_the_guest_stays(s):
    def available():
        return s.control.call("hello")["hello"]["ram_bytes"], private_bytes(s.vm.qemu, s.store)

    for name in s.names() * 2:
        s.repurpose(name)
    _, before = available()
    for name in s.names() * s.options.rounds:
        s.repurpose(name)
        s.same(name, s.current)
    _, after = available()
    expect(after - before < 24 << 20, f"host memory grew from {before} to {after} in {s.options.rounds} rounds")
    running = [f for f in s.control.call("ps")["functions"] if f["state"] == "running"]
    expect(len(running) == 1, f"{len(running)} functions run after the rounds")


def attached(s, vm, name):
    function = vm.control.call("attach", name=f"t-{name}", pages="in_place")["function"]["id"]
    expect(answers(vm.control, function) == s.cold[name], f"{name}: an answer differs in the VM {vm.folder.name}")
    return function


def same_copies(s, vms, name):
    """All of them have this template mapped from one file, which nobody else's can be."""
    content = digest(s.store / f"t-{name}" / "pages")
    files = [{file for file, path in template_copies(vm.qemu).items() if digest(path) == content} for vm in vms]
    expect(all(len(f) == 1 for f in files) and len(set.union(*files)) == 1, f"{name} is mapped from {files}")


@case
def other_vms_share_the_templates(s):
    """Whichever device shows the window to their guests: the third has none but virtio-pmem."""
    with Trial(s.options.bin, s.folder / "second", s.store, s.options.kernel) as second, \
            Trial(s.options.bin, s.folder / "third", s.store, s.options.kernel, more=["--window-device", "virtio-pmem"]) as third:
        for name in s.names():
            template = s.control.call("templates.show", name=f"t-{name}")["template"]["user_state_bytes"]
            s.repurpose(name)
            # The first time the guest also reads the runtime's files. Its pages go back to the host.
            second.control.call("detach", function=attached(s, second, name))
            before = host_memory(second.qemu, s.store)
            function = attached(s, second, name)
            after = host_memory(second.qemu, s.store)
            held = second.control.call("pages", function=function)["functions"][0]
            written = held["user_private"] + held["user_shared"]
            grown = after["ram"] - before["ram"]
            print(f"  {name}: template {template >> 10} KiB, {written >> 10} written, the second VM took {grown >> 10} KiB")
            expect(after["slots"] == 0, f"{name}: the second VM has {after['slots']} bytes of template pages of its own")
            expect(0 < written < template * SHARE, f"{name}: {written} bytes were written, of a template of {template}")
            expect(grown < written + BESIDE, f"{name}: the second VM took {grown} bytes, {written} were written")
            in_third = attached(s, third, name)
            same_copies(s, (s.vm, second, third), name)
            third.control.call("detach", function=in_third)
            second.control.call("detach", function=function)


CASES.extend(TOGETHER)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the memory case")
    parser.add_argument("--only", help="one case, after the first")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    with scratch() as folder:
        setting = Setting(options, folder)
        try:
            cases = [CASES[0], *(c for c in CASES[1:] if options.only in (None, c.__name__))]
            code = run_cases(cases, setting, close=setting.vm.close)
            if code:
                print(setting.vm.logs())
            return code
        finally:
            setting.vm.close()


if __name__ == "__main__":
    sys.exit(main())
