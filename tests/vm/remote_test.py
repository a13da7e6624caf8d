#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""VMs attach to a template that stays in a file: pool elsewhere: what they touch is fetched, once for the host; what the pool
does not give ends that function, and no VM."""
import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import open_metrics
from ctl import SERVER, run_cases
from machine import missing_parts, skip_all
from trial import CallError, Trial, TrialError, close_all, expect, scratch

ROUNDS = 3
TEMPLATES = ("python", "broken", "gone")  # The last two are for what goes wrong.
# What tests/demo/functions/thumbnail.py looks at for these lies far apart: in rows 37 to 292 of its table, and 518 to 773.
APART = ("/?seed=1", "/?seed=14")
LOOKED_AT = 512 << 10  # bytes, for each: fewer than there are
# Holds 8 MiB that it looks at for /sum alone.
HOLDER = SERVER.replace("count = 0\n", "count = 0\nheld = bytes(range(1, 256)) * 32896\n").replace(
    "    elif path == b'/slow':", "    elif path == b'/sum':\n        body = b'%d' % sum(held[::1024])\n    elif path == b'/slow':")
CASES = []


def case(function):
    CASES.append(function)
    return function


class Setting:
    """A VM at home, where the function is captured; a pool; and two more VMs of one host, with a cache between them."""

    def __init__(self, options, folder, cache):
        self.options, self.folder, self.cache = options, pathlib.Path(folder), pathlib.Path(cache)
        self.pool = self.folder / "pool"
        self.pool.mkdir()
        self.uri = f"file:{self.pool}"
        self.store = self.folder / "store"
        self.vms = []
        self.vm = self.boot("first")
        self.control = self.vm.control

    def boot(self, name, prefetch_mib=0):
        settings = {"cache": self.cache, "cache_mib": 256, "prefetch_mib": prefetch_mib, "fault_ms": 10000}
        more = []
        for key, value in settings.items():
            more += ["--set", f"{key}={value}"]
        vm = Trial(self.options.bin, self.folder / name, self.store, self.options.kernel, memory=512, cpus=2, more=more)
        self.vms.append(vm)
        return vm

    def moultctl(self, *words):
        done = subprocess.run([pathlib.Path(self.options.bin) / "moultctl", "--store", self.store, *words], capture_output=True,
                              text=True, timeout=120, check=False)
        expect(done.returncode == 0, f"moultctl {words}: exit {done.returncode}: {done.stderr}")
        return done.stdout

    def size(self, name="python"):
        return (self.pool / name / "pages").stat().st_size

    def remote(self, vm=None):
        return (vm or self.vm).control.call("status")["vm"]["remote"]

    def pooled(self, vm=None):
        remote = self.remote(vm)
        return remote["fetched_bytes"] + remote["prefetched_bytes"]

    def attach(self, name="python", vm=None, **params):
        result = (vm or self.vm).control.call("attach", name=name, **params)
        expect(result["pages"] == "in_place", str(result.get("notes")))
        return result

    def forget_cache(self, sets=True):
        for file in self.cache.rglob("*"):
            if file.suffix == ".pages" or (sets and file.suffix == ".set"):
                file.unlink()

    def cached(self, name="python"):
        """How many bytes the cache has of this template, which it alone is of, each as the pool has it."""
        [path] = self.cache.rglob("*.pages")
        with open(path, "rb") as ours, open(self.pool / name / "pages", "rb") as whole:
            end = there = 0
            while True:
                try:
                    start = os.lseek(ours.fileno(), end, os.SEEK_DATA)
                except OSError:  # There is no more.
                    return there
                end = os.lseek(ours.fileno(), start, os.SEEK_HOLE)
                expect(os.pread(ours.fileno(), end - start, start) == os.pread(whole.fileno(), end - start, start),
                       f"the cache has other bytes than the pool between {start} and {end}")
                there += end - start

    def damage(self, name):
        """One bit of each chunk of the pool's copy."""
        path = self.pool / name / "pages"
        path.chmod(0o600)
        with open(path, "r+b") as pages:
            for chunk in range(0, self.size(name), 256 << 10):
                pages.seek(chunk + 100)
                byte = pages.read(1)[0]
                pages.seek(chunk + 100)
                pages.write(bytes([byte ^ 1]))

    def close(self):
        close_all(self.vms)


def server(s, name, program=SERVER):
    return s.vm.start_at(name, "unix:/tmp/ctl.sock", ["/usr/bin/python3", "-S", "-c", program], "--ready", "connect")


@case
def captured_and_pushed(s):
    function = s.vm.run("python")
    s.answers = {path: s.control.get(function, path) for path in APART}
    s.answer = s.answers["/?seed=1"]
    for name in TEMPLATES:
        s.control.call("capture", function=function, name=name, end=name == TEMPLATES[-1])
        s.moultctl("pool", "push", s.uri, name)
    expect("python" in s.moultctl("pool", "ls", s.uri), "pool ls")
    expect("whole" in s.moultctl("pool", "verify", s.uri, "python"), "pool verify")


@case
def attached_while_it_is_remote(s):
    before = s.pooled()
    result = s.attach(**{"from": s.uri})
    function = result["function"]["id"]
    expect(s.control.get(function, "/?seed=1") == s.answer, "another answer")
    fetched = s.pooled() - before
    print(f"  {fetched >> 10} KiB of {s.size() >> 10} KiB fetched; until it was ready: {result['bytes_by_source']}")
    expect(0 < fetched < s.size(), f"{fetched} bytes of {s.size()} were fetched")
    expect(s.remote()["lost_slots"] == 0, str(s.remote()))
    deadline = time.monotonic() + 20
    while not list(s.cache.rglob("*.set")):
        expect(time.monotonic() < deadline, "no working set was recorded")
        time.sleep(0.1)
    s.control.call("detach", function=function)


@case
def second_vm_reads_nothing_from_the_pool(s):
    s.second = s.boot("second")
    function = s.attach(vm=s.second, **{"from": s.uri})["function"]["id"]
    expect(s.second.control.get(function, "/?seed=1") == s.answer, "another answer")
    metrics = open_metrics.samples(s.second.control.call("metrics")["text"])
    remote = s.remote(s.second)
    expect(s.pooled(s.second) == 0, f"read from the pool: {remote}")
    expect(remote["hit_bytes"] > 0, str(remote))
    expect(metrics["moult_remote_bytes_total", (("source", "pool"),)] == 0 and metrics["moult_remote_cache_used_bytes", ()] > 0, f"metrics: {metrics}")
    s.second.control.call("detach", function=function)


def first_answer(s, **params):
    start = time.monotonic()
    function = s.attach(**params)["function"]["id"]
    expect(s.control.get(function, "/?seed=1") == s.answer, "another answer")
    took = time.monotonic() - start
    s.control.call("detach", function=function)
    return took


@case
def time_to_first_answer(s):
    first_answer(s)
    times = {"plain": [], "warm": [], "cold": [], "cold with its working set": []}
    for _ in range(ROUNDS):
        times["plain"].append(first_answer(s))
        times["warm"].append(first_answer(s, **{"from": s.uri}))
        s.forget_cache(sets=False)
        times["cold with its working set"].append(first_answer(s, **{"from": s.uri}))
        s.forget_cache()
        times["cold"].append(first_answer(s, **{"from": s.uri}))
    for kind in times:
        ratios = [a / b for a, b in zip(times[kind], times["plain"])]
        print(f"  {kind}: {1000 * statistics.median(times[kind]):.0f} ms, {statistics.median(ratios):.2f} of a plain attach")


def answers_right(s, vm, function, *paths):
    for path in paths:
        expect(vm.control.get(function, path) == s.answers[path], f"another answer to {path}")


@case
def two_vms_fill_the_cache_at_once(s):
    """Where the host has nothing: what both need comes by whoever is first, what one alone looks at by that one."""
    vms = (s.vm, s.second)
    expect(not any(window["slots"] for vm in vms for window in vm.control.call("status")["vm"]["windows"]), "a template is still in a window")
    s.forget_cache()
    before = [s.pooled(vm) for vm in vms]

    def fill(vm, path):
        function = s.attach(vm=vm, **{"from": s.uri})["function"]["id"]
        answers_right(s, vm, function, path)
        return function
    with concurrent.futures.ThreadPoolExecutor() as pool:
        functions = [asked.result() for asked in [pool.submit(fill, vm, path) for vm, path in zip(vms, APART)]]
    filled = [s.pooled(vm) - bytes_before for vm, bytes_before in zip(vms, before)]
    print(f"  {[bytes_filled >> 10 for bytes_filled in filled]} KiB of {s.size() >> 10} KiB fetched by each")
    expect(min(filled) >= LOOKED_AT, f"one of them has fetched less than it alone has looked at: {filled}")
    for vm, function in zip(vms, functions):
        answers_right(s, vm, function, *APART)
    expect(s.cached() >= 2 * LOOKED_AT, f"{s.cached()} bytes are in the cache")
    for vm, function in zip(vms, functions):
        expect(s.remote(vm)["lost_slots"] == 0, str(s.remote(vm)))
        vm.control.call("detach", function=function)


@case
def vm_is_killed_as_it_fills_the_cache(s):
    """Amid its prefetch: what it leaves there is right, for who has the template already and for who comes later."""
    s.forget_cache()
    beside = s.attach(vm=s.second, **{"from": s.uri})["function"]["id"]
    answers_right(s, s.second, beside, APART[0])
    filler = s.boot("filler", prefetch_mib=1)  # All of it takes as many seconds as it has MiB.
    before = s.cached()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        attached = pool.submit(s.attach, vm=filler, **{"from": s.uri})
        deadline = time.monotonic() + 120
        while s.remote(filler)["prefetched_bytes"] == 0:
            expect(time.monotonic() < deadline and not (attached.done() and attached.exception()), f"nothing is prefetched: {attached}")
            time.sleep(0.02)
        os.kill(filler.qemu, signal.SIGKILL)
    expect(filler.has_ended(60), "a VM that was killed has not ended")
    left = s.cached()
    print(f"  killed when the cache had {left >> 10} KiB of {s.size() >> 10} KiB")
    expect(before < left < s.size(), f"{left} bytes of {s.size()} are in the cache, {before} before the prefetch")
    answers_right(s, s.second, beside, *APART)
    late = s.attach(**{"from": s.uri})["function"]["id"]
    answers_right(s, s.vm, late, *APART)
    s.cached()
    for vm, function in ((s.second, beside), (s.vm, late)):
        expect(s.remote(vm)["lost_slots"] == 0, str(s.remote(vm)))
        vm.control.call("detach", function=function)


@case
def repurposed_from_the_pool(s):
    function = server(s, "web")
    result = s.control.call("repurpose", function=function, name="python", **{"from": s.uri})
    expect(s.control.get(result["function"]["id"], "/?seed=1") == s.answer, "another answer")
    # What is captured again is all there, though most of it was never touched.
    s.control.call("capture", function=result["function"]["id"], name="again", end=True)
    expect(s.control.call("templates.verify", name="again")["whole"], "a capture of a remote function")
    s.control.call("ps")  # By which it is known that the function has ended, and its template in use no more.
    again = s.attach(name="again")["function"]["id"]
    expect(s.control.get(again, "/?seed=1") == s.answer, "another answer of what was captured again")
    s.control.call("detach", function=again)


@case
def damaged_image_is_refused(s):
    """Before anything of it is in the VM."""
    s.alive = server(s, "alive")
    image = s.pool / "broken" / "image"
    image.chmod(0o600)
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    refused(s, "DATA_LOSS", "broken")
    expect(s.control.get(s.alive, "/bytes") == bytes(range(256)), "another function's answer")


def refused(s, code, name):
    try:
        s.control.call("attach", name=name, **{"from": s.uri})
        raise TrialError(f"attached {name}, where {code} is due")
    except CallError as e:
        expect(e.name == code, str(e))


@case
def removed_template_is_not_found(s):
    running = s.attach("gone", **{"from": s.uri})["function"]["id"]
    s.moultctl("pool", "rm", s.uri, "gone")
    refused(s, "NOT_FOUND", "gone")
    # Who has it goes on with it.
    expect(s.control.get(running, "/?seed=1") == s.answer, "another answer")
    s.control.call("detach", function=running)
    expect(s.control.get(s.alive, "/bytes") == bytes(range(256)), "another function's answer")


@case
def damaged_pages_end_the_function(s):
    """Never an answer of wrong bytes. The function ends, and `moultctl ps` says what was lost, and of which pool; or, when the guest's
    CPU that waits keeps the agent from being heard, which under emulation it does, the emulator, and has said why. Another VM that has
    the pages goes on."""
    holder = server(s, "holder", HOLDER)
    total = s.control.get(holder, "/sum")
    s.control.call("capture", function=holder, name="holder", end=True)
    s.moultctl("pool", "push", s.uri, "holder")
    has = s.attach("holder", **{"from": s.uri})["function"]["id"]
    expect(s.control.get(has, "/sum") == total, "another sum")
    third = s.boot("third")
    s.forget_cache()
    function = s.attach("holder", vm=third, **{"from": s.uri})["function"]["id"]
    expect(third.control.get(function, "/bytes") == bytes(range(256)), "another answer")
    s.damage("holder")
    start = time.monotonic()
    try:
        body = third.control.get(function, "/sum")
        raise TrialError(f"an answer came of damaged pages: {body}, it was {total}")
    except (TrialError, OSError) as e:
        expect("an answer" not in str(e), str(e))
    took = time.monotonic() - start
    print(f"  {end_of(s, third, function)} after {took:.1f} s")
    expect("is lost" in third.logs(), f"nothing is said of it: {third.logs()}")
    expect(s.control.get(has, "/sum") == total, "another sum of a VM that has the pages")
    s.control.call("detach", function=has)


@case
def fork_is_attached_elsewhere_while_the_first_goes_on(s):
    first = server(s, "counter", HOLDER)
    total = s.control.get(first, "/sum")
    expect(s.control.get(first, "/count") == b"1", "the first count")
    plain = s.control.call("capture", function=first, name="plain")
    told = s.control.call("fork", function=first, name="counter", to=s.uri)
    print(f"  stopped {told['stopped_us'] / plain['stopped_us']:.2f} times as long as by a capture; {told['total_us'] / plain['total_us']:.2f} times in all")
    expect(told["pushed"] and not told["kept"], str(told))
    phases = [phase["name"] for phase in told["phases"]]
    expect(phases.index("host.push") > phases.index("host.resume"), f"pushed before it ran: {phases}")
    expect("counter" not in [t["name"] for t in s.control.call("templates.list")["templates"]], "the store has it, too")
    other = s.attach("counter", vm=s.second, **{"from": s.uri})["function"]["id"]
    for turn in (b"2", b"3", b"4"):
        expect(s.second.control.get(other, "/count") == turn, "the fork does not go on where it was")
    expect(s.control.get(first, "/count") == b"2", "the first does not go on where it was")
    expect(s.second.control.get(other, "/count") == b"5", "the fork sees what the first does")
    expect(s.control.get(first, "/sum") == total == s.second.control.get(other, "/sum"), "another sum")
    s.second.control.call("detach", function=other)
    expect(s.control.get(first, "/count") == b"3", "the first goes with its fork")
    s.control.call("detach", function=first)


def end_of(s, vm, function):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            told = json.loads(s.moultctl("--control", vm.control.path, "--json", "ps"))
            shown = next(f for f in told["functions"] if f["id"] == function)
            if shown["state"] == "ended":
                break
        except (TrialError, OSError):
            if vm.process.poll() is not None:
                return "the emulator has ended"
        time.sleep(0.2)
    else:
        raise TrialError("neither the function nor the emulator has ended")
    reason = shown["end_reason"]
    expect("is lost" in reason and s.uri in reason, f"that pool {s.uri} did not give a page is not why it has ended: {reason}")
    return f"the function has ended: {reason};"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True, cpus=2)
    if missing:
        return skip_all(len(CASES), missing)
    with scratch() as folder:
        cache = pathlib.Path(f"/dev/shm/moult-remote-test-{os.getpid()}")
        setting = None
        try:
            setting = Setting(options, folder, cache)
            return run_cases(CASES, setting, close=setting.close)
        finally:
            if setting is not None:
                setting.close()
            subprocess.run(["rm", "-rf", cache], check=False)


if __name__ == "__main__":
    sys.exit(main())
