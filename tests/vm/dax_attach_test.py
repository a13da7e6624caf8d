#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""VMs attach to a template in a dax: pool, end to end: its pages are mapped from there, in the window of each, and a function
that runs on them answers as before. The pool is a file of this host, so that stock QEMU is where it is mapped; devices are
dax_test.py's. Fork goes there, too."""
import argparse
import json
import pathlib
import subprocess
import sys
import time

from ctl import SERVER, run_cases
from machine import missing_parts, skip_all
from trial import CallError, Trial, TrialError, close_all, expect, scratch

POOL_MIB = 512
SETTLE = 15  # s, at most
CASES = []


def case(function):
    CASES.append(function)
    return function


class Setting:
    def __init__(self, options, folder):
        self.options, self.folder = options, pathlib.Path(folder)
        self.file = self.folder / "pmem"
        self.uri = f"dax:{self.file}"
        self.store = self.folder / "store"
        self.vms = []
        self.vm = self.boot("first")
        self.control = self.vm.control

    def boot(self, name):
        vm = Trial(self.options.bin, self.folder / name, self.store, self.options.kernel, memory=512)
        self.vms.append(vm)
        return vm

    def moultctl(self, *words):
        argv = [pathlib.Path(self.options.bin) / "moultctl", "--json", "--store", self.store, *words]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
        expect(done.returncode == 0, f"moultctl {words}: exit {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def stat(self):
        return self.moultctl("pool", "stat", self.uri)

    def attach(self, vm, name, **params):
        result = vm.control.call("attach", name=name, **{"from": self.uri, **params})
        expect(result["pages"] == "in_place", str(result.get("notes")))
        return result["function"]["id"]

    def mapped(self, vm):
        """Of the pool's file in QEMU's process, in bytes: {"Size", "Anonymous", ...}, all mappings together."""
        sums = {}
        with open(f"/proc/{vm.qemu}/smaps", encoding="utf-8") as smaps:
            ours = False
            for line in smaps:
                words = line.split()
                if "-" in words[0] and not words[0].endswith(":"):
                    ours = str(self.file) in line
                elif ours and words[-1] == "kB":
                    sums[words[0][:-1]] = sums.get(words[0][:-1], 0) + int(words[1]) * 1024
        return sums

    def close(self):
        close_all(self.vms)


def slot(vm):
    """The one that is in use."""
    [found] = [s for window in vm.control.call("status")["vm"]["windows"] for s in window["slots"] if s["users"]]
    return found


def sees_only_the_pool(s, vm, function, pages_bytes):
    """What of the template the function has not written is the pool's own page, for guest and host."""
    told = slot(vm)
    expect(told["direct"] and not told["remote"] and told["length"] >= pages_bytes, str(told))
    sums = s.mapped(vm)
    expect(sums["Size"] >= pages_bytes and sums["Rss"] > 0, f"{s.file} is not what is mapped: {sums}")
    expect(sums["Anonymous"] == 0 and sums["Private_Dirty"] == 0, f"copies on the host: {sums}")
    with open(f"/proc/{vm.qemu}/maps", encoding="utf-8") as maps:
        expect("memfd:moult-template" not in maps.read(), "the template is in memory, too")
    ledger = vm.control.call("pages", function=function)
    [mine] = [f for f in ledger["functions"] if f["id"] == function]
    expect(mine["template"] + mine["user_private"] >= pages_bytes * 0.9 and mine["template"] > pages_bytes * 0.3,
           f"{mine['template']} bytes of {pages_bytes} are the template's, {mine['user_private']} the function's own")
    return mine["template"]


@case
def captured_and_pushed(s):
    function = s.vm.run("python")
    s.answers = [s.control.get(function, f"/?seed={seed}") for seed in range(4)]
    s.size = s.control.call("capture", function=function, name="python", end=True)["template"]["pages_bytes"]
    stat = s.moultctl("pool", "format", s.uri, "--size", str(POOL_MIB))
    expect(stat["medium"] == "page cache", str(stat))
    s.moultctl("pool", "push", s.uri, "python")
    s.moultctl("pool", "verify", s.uri, "python")
    s.control.call("templates.remove", name="python")


@case
def attached_where_it_lies(s):
    s.function = s.attach(s.vm, "python")
    expect(s.control.get(s.function, "/?seed=0") == s.answers[0], "another answer")
    template = sees_only_the_pool(s, s.vm, s.function, s.size)
    print(f"  {template >> 10} KiB of {s.size >> 10} KiB are the pool's own pages in the guest, after one request")
    for seed, answer in enumerate(s.answers):
        expect(s.control.get(s.function, f"/?seed={seed}") == answer, f"another answer to seed {seed}")
    s.moultctl("pool", "verify", s.uri, "python")  # What the function has written went nowhere else.


@case
def second_vm_has_the_same_pages(s):
    s.second = s.boot("second")
    function = s.attach(s.second, "python")
    for seed, answer in enumerate(s.answers):
        expect(s.second.control.get(function, f"/?seed={seed}") == answer, f"another answer to seed {seed}")
    sees_only_the_pool(s, s.second, function, s.size)
    sums = s.mapped(s.second)
    expect(sums["Shared_Clean"] + sums["Shared_Dirty"] > 0, f"nothing is shared with the first VM: {sums}")
    expect(s.control.get(s.function, "/?seed=0") == s.answers[0], "another answer of the first")
    s.second.control.call("detach", function=function)


@case
def repurposed_from_there(s):
    result = s.control.call("repurpose", function=s.function, name="python", settled=True, **{"from": s.uri})
    s.function = result["function"]["id"]
    expect(s.control.get(s.function, "/?seed=1") == s.answers[1], "another answer")
    sees_only_the_pool(s, s.vm, s.function, s.size)


@case
def forked_there_while_it_goes_on(s):
    first = s.vm.start_at("counter", "unix:/tmp/ctl.sock", ["/usr/bin/python3", "-S", "-c", SERVER], "--ready", "connect")
    expect(s.control.get(first, "/count") == b"1", "the first count")
    told = s.control.call("fork", function=first, name="counter", to=s.uri)
    expect(told["pushed"] and not told["kept"], str(told))
    other = s.attach(s.second, "counter", digest=told["template"]["digest"])
    expect([s.second.control.get(other, "/count") for _ in range(3)] == [b"2", b"3", b"4"], "the fork does not go on where it was")
    expect(s.control.get(first, "/count") == b"2", "the first does not go on where it was")
    s.second.control.call("detach", function=other)
    s.control.call("detach", function=first)
    s.moultctl("pool", "rm", s.uri, "counter")


@case
def removed_template_goes_on_where_it_is_mapped(s):
    s.moultctl("pool", "rm", s.uri, "python")
    expect(s.stat()["held_bytes"] >= s.size, f"{s.stat()}: of {s.size} bytes that are mapped")
    try:
        s.attach(s.second, "python")
        raise TrialError("what was removed was attached")
    except CallError as e:
        expect(e.name == "NOT_FOUND", str(e))
    for seed, answer in enumerate(s.answers):
        expect(s.control.get(s.function, f"/?seed={seed}") == answer, f"another answer to seed {seed}")
    s.control.call("detach", function=s.function)
    deadline = time.monotonic() + SETTLE
    while s.stat()["used_bytes"]:
        expect(time.monotonic() < deadline, f"its space was not given back: {s.stat()}")
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    with scratch() as folder:
        setting = None
        try:
            setting = Setting(options, folder)
            return run_cases(CASES, setting, close=setting.close)
        finally:
            if setting is not None:
                setting.close()


if __name__ == "__main__":
    sys.exit(main())
