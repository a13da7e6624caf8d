#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Functions of a live VM leave its RAM and come back: every byte, from inside; under load; when the pool is full or damaged;
when they are captured, detached or killed meanwhile."""
import argparse
import functools
import os
import pathlib
import sys
import time

from ctl import SERVER, run_cases
from machine import missing_parts, skip_all
from trial import COMMANDS, CallError, Trial, TrialError, expect, host_memory, scratch

HERE = pathlib.Path(__file__).resolve().parent
PREFETCH = ("working-set", "all", "none")
MOST_LEFT = 0.1  # of what was offloaded may still be in RAM: what the guest touched as it was frozen and looked at
CASES = []

PART_SIZES = {"runtime": 4 << 20, "init": 8 << 20, "exec": 3 << 20}
# Holds so much more in each part of its life. The agent looks while it runs on, hence the pause.
PARTS = f"""
import socket, time
def hold(size):
    part = bytearray(size)
    part[::4096] = b'7' * (size // 4096)
    return part
parts = [hold({PART_SIZES["runtime"]})]
print('up', flush=True)
time.sleep(3)
parts.append(hold({PART_SIZES["init"]}))
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/parts.sock')
s.listen(8)
while True:
    c, _ = s.accept()
    if c.recv(65536):
        if len(parts) == 2:
            parts.append(hold({PART_SIZES["exec"]}))
        whole = all(p[::4096] == b'7' * (len(p) // 4096) for p in parts)
        body = b'ok' if whole else b'damaged'
        c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s' % (len(body), body))
    c.close()
"""


def case(function):
    @functools.wraps(function)
    def alone(s):
        try:
            function(s)
        finally:
            s.end(*(f["id"] for f in s.control.call("ps")["functions"] if f["state"] != "ended" and f["id"] != s.gardener))

    CASES.append(alone)
    return alone


class Setting:
    def __init__(self, options, folder, name="vm", more=()):
        self.options, self.folder = options, pathlib.Path(folder)
        more = [*more, "--cpus", "2", "--payload", f"init.d/60-gardener={HERE / 'guest' / 'gardener.py'}"]
        self.vm = Trial(options.bin, self.folder / name, self.folder / "store", options.kernel, more=more)
        self.control = self.vm.control
        self.gardener = self.vm.start("gardener", ["/usr/bin/sleep", "1000000"], port=9093)

    def info(self, function):
        return next(f for f in self.control.call("ps")["functions"] if f["id"] == function)

    def pager(self):
        return self.control.call("status")["vm"]["pager"]

    def hash(self, function):
        return self.control.get(self.gardener, f"/hash?pid={self.info(function)['pid']}")

    def server(self, name):
        """One that counts, at a socket of its own sandbox: there may be many."""
        return self.vm.start_at(name, "unix:/tmp/ctl.sock", ["/usr/bin/python3", "-S", "-c", SERVER], "--ready", "connect")

    def end(self, *functions):
        for function in functions:
            self.control.call("kill", function=function)
        self.control.call("ps")  # which gives the pool's room back


@case
def every_byte_comes_back(s):
    for name in COMMANDS:
        function = s.vm.run(name)
        answer = s.control.get(function, "/?seed=1")
        for prefetch in PREFETCH:
            s.control.call("freeze", function=function)
            before = s.hash(function)
            result = s.control.call("offload", function=function)
            moved = result["offloaded_bytes"] + result["zero_bytes"] + result["already_bytes"]
            expect(moved > 4 << 20, f"{name}: {result}")
            expect(s.info(function)["state"] == "frozen", f"{name} runs after an offload")
            after = s.hash(function)  # by which every page is fetched
            expect(before == after, f"{name}: {before!r} became {after!r}")
            s.control.call("offload", function=function)
            s.control.call("recall", function=function, prefetch=prefetch)
            expect(s.control.get(function, "/?seed=1") == answer, f"{name}: another answer after recall {prefetch}")
        s.end(function)


@case
def memory_goes_back_to_the_host(s):
    function = s.vm.run("python")
    s.control.get(function, "/?seed=1")
    before = host_memory(s.vm.qemu, s.folder)["ram"]
    result = s.control.call("offload", function=function)
    fell = before - host_memory(s.vm.qemu, s.folder)["ram"]
    moved = result["offloaded_bytes"] + result["zero_bytes"]
    expect(fell > moved * (1 - MOST_LEFT), f"{moved} bytes were offloaded, the host has {fell} back")
    left = s.control.call("pages", function=function)["functions"][0]
    use = s.info(function)
    print(f"  python: {moved >> 10} KiB out, {fell >> 10} KiB back; left in the guest: {use['kernel_bytes'] >> 10} KiB of the kernel's")
    expect(left["user_private"] >= moved - (1 << 20), f"the guest sees {left}")
    expect(use["kernel_bytes"] < 2 << 20, f"kernel memory of an offloaded function: {use['kernel_bytes']}")
    s.end(function)


@case
def segments_go_by_themselves(s):
    function = s.vm.start_at("parts", "unix:/tmp/parts.sock", ["/usr/bin/python3", "-S", "-c", PARTS], "--ready", "connect",
                             "--runtime-up", "line:up")
    expect(s.control.get(function, "/") == b"ok", "its answer")

    def segments():
        return s.control.call("pages", function=function)["functions"][0]["segments"]

    before = segments()
    for segment, size in PART_SIZES.items():
        at_least, slack = size, 6 << 20  # python itself is a runtime, and needs a little for all that it does
        expect(at_least <= before[segment]["bytes"] < at_least + slack, f"{segment}: {before}")
        expect(before[segment]["offloaded_bytes"] == 0, f"{segment}: {before}")
    result = s.control.call("offload", function=function, segment="exec")
    after = segments()
    expect(result["offloaded_bytes"] + result["zero_bytes"] >= PART_SIZES["exec"], str(result))
    expect(after["exec"]["offloaded_bytes"] >= PART_SIZES["exec"], str(after))
    expect(after["runtime"]["offloaded_bytes"] == after["init"]["offloaded_bytes"] == 0, str(after))
    for step in range(3):  # What the guest's kernel makes huge pages of meanwhile comes back: so not the sum.
        result = s.control.call("offload", function=function, segment="init", most_bytes=1 << 20)
        expect(result["offloaded_bytes"] + result["zero_bytes"] == 1 << 20, f"step {step}: {result}")
    expect(segments()["runtime"]["offloaded_bytes"] == 0, str(segments()))
    s.control.call("recall", function=function)
    expect(s.control.get(function, "/") == b"ok", "its answer after a recall")
    s.end(function)


@case
def three_functions_under_load(s):
    functions = [s.server(f"web{i}") for i in range(3)]
    counts = dict.fromkeys(functions, 0)
    for number in range(s.options.cycles):
        function = functions[number % 3]
        s.control.call("offload", function=function, run_on=number % 2 == 1, cold_only=number % 5 == 4)
        for other in functions:
            if other != function:
                counts[other] += 1
                expect(s.control.get(other, "/count") == b"%d" % counts[other], f"cycle {number}: a neighbour's count")
        if number % 2 == 0:
            s.control.call("recall", function=function, prefetch=PREFETCH[number // 2 % 3])
        counts[function] += 1
        expect(s.control.get(function, "/count") == b"%d" % counts[function], f"cycle {number}: its count")
        expect(s.control.get(function, "/bytes") == bytes(range(256)), f"cycle {number}: its bytes")
    pager = s.pager()
    expect(pager["faults"] > 0 and pager["lost_pages"] == 0, str(pager))
    s.end(*functions)


@case
def detach_fetches_nothing(s):
    function = s.vm.run("python")
    used = s.pager()["pool_used_bytes"]
    s.control.call("offload", function=function)
    before = s.pager()
    result = s.control.call("detach", function=function)
    after = s.pager()
    expect(result["detached"] and after["pool_used_bytes"] <= used, f"{result['detached']}, {used} -> {after}")
    fetched = after["prefetched_pages"] - before["prefetched_pages"] + after["fault_pages"] - before["fault_pages"]
    # The end of a process writes a few words into its memory.
    expect(fetched < 128, f"{fetched} pages were fetched for a detach")


@case
def captured_while_it_is_out(s):
    function = s.vm.run("python")
    answer = s.control.get(function, "/?seed=3")
    used = s.pager()["pool_used_bytes"]
    s.control.call("offload", function=function)
    s.control.call("capture", function=function, name="out", end=True)
    s.control.call("ps")
    expect(s.pager()["pool_used_bytes"] <= used, f"{used} before, after its end: {s.pager()}")
    attached = s.control.call("attach", name="out")["function"]["id"]
    expect(s.control.get(attached, "/?seed=3") == answer, "another answer of the template")
    # What a function writes on top of a template leaves RAM, the template's own pages have never been there.
    result = s.control.call("offload", function=attached)
    template = s.control.call("templates.show", name="out")["template"]["user_state_bytes"]
    expect(result["offloaded_bytes"] < template, f"{result['offloaded_bytes']} bytes of a template of {template}")
    s.control.call("recall", function=attached)
    expect(s.control.get(attached, "/?seed=3") == answer, "another answer after its recall")
    s.end(attached)
    s.control.call("templates.remove", name="out")


@case
def killed_while_it_is_out(s):
    function = s.server("web")
    s.control.call("offload", function=function)
    expect(s.pager()["pool_used_bytes"] > 1 << 20, str(s.pager()))
    s.end(function)
    expect(s.pager()["pool_used_bytes"] < 256 << 10, f"after its end: {s.pager()}")


@case
def pool_is_full(s):
    with_little = Setting(s.options, s.folder, "little", ["--pool-mib", "2"])
    try:
        function = with_little.vm.run("python")
        answer = with_little.control.get(function, "/?seed=1")
        try:
            with_little.control.call("offload", function=function)
            raise TrialError("no error where RESOURCE_EXHAUSTED is due")
        except CallError as e:
            expect(e.name == "RESOURCE_EXHAUSTED", str(e))
        expect(with_little.info(function)["state"] == "running", "it does not run on")
        expect(with_little.control.get(function, "/?seed=1") == answer, "another answer")
        expect(with_little.pager()["pool_used_bytes"] == 0, str(with_little.pager()))
    finally:
        with_little.vm.close()


def damage(pid, folder):
    """Overwrites all of the pool, which is a file without a name in `folder`."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        target = os.readlink(path)
        # Not the changes to the root disk, which QEMU keeps in one that it has unlinked.
        if target.startswith(f"{folder}/#"):
            with open(path, "r+b") as pool:
                pool.write(b"\xee" * os.fstat(pool.fileno()).st_size)
                return
    raise TrialError("no pool is open in QEMU")


def end_of_victim(broken, victim):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if broken.info(victim)["state"] == "ended":
                return "the function has ended"
        except (TrialError, OSError):
            if not os.path.exists(f"/proc/{broken.vm.qemu}") or broken.vm.process.poll() is not None:
                return "the emulator has ended"
        time.sleep(0.5)
    raise TrialError("after a minute neither the function nor the emulator has ended")


@case
def pool_is_damaged(s):
    """Never an answer of wrong bytes. The function ends, and its neighbour answers; or, when the guest's CPU that waits
    keeps the agent from being heard, the emulator ends, and has said why."""
    broken = Setting(s.options, s.folder, "broken")
    try:
        victim, neighbour = broken.server("victim"), broken.server("neighbour")
        broken.control.call("offload", function=victim)
        damage(broken.vm.qemu, s.folder / "broken")
        broken.control.call("thaw", function=victim)
        try:
            body = broken.control.get(victim, "/bytes")
            raise TrialError(f"an answer of {len(body)} bytes came of damaged pages")
        except (TrialError, OSError) as e:
            if "an answer of" in str(e):
                raise
        outcome = end_of_victim(broken, victim)
        print(f"  {outcome}")
        if outcome == "the function has ended":
            expect(broken.control.get(neighbour, "/count") == b"1", "its neighbour's answer")
        log = broken.vm.logs()
        expect("is lost" in log, f"nothing is said of it: {log}")
    finally:
        broken.vm.close()


@case
def policy_moves_an_idle_function_out_and_back(s):
    spec = "semi-warm:settle_s=0.2:init_unknown_s=0.5:step_every_s=0.1:step_share=0.5"
    function = s.vm.run("python")
    answer = s.control.get(function, "/?seed=1")
    s.control.call("policy", function=function, policy=spec)

    def kept():
        return next(p for p in s.control.call("status")["policies"] if p["function"] == function)

    def until(what, seconds=60):
        deadline = time.monotonic() + seconds
        while not what(kept()):
            expect(time.monotonic() < deadline, f"after {seconds} s: {kept()}")
            time.sleep(0.05)

    def is_out(one):
        parts = one["segments"].values()
        return one["state"] == "frozen" and sum(p["offloaded_bytes"] for p in parts) > 4 << 20 and not sum(p["resident_bytes"] for p in parts)

    for number in range(6):
        # All of it, in the end: nothing is asked of it, and the policy goes on step by step. Or a request meets it at work.
        until(is_out if number % 2 == 0 else lambda one: one["state"] == "frozen")
        if number % 2 == 0:
            expect(s.info(function)["offloaded_bytes"] > 4 << 20, f"{s.info(function)}, but {kept()}")
        expect(s.control.get(function, "/?seed=1") == answer, "another answer than before")
    s.control.call("policy", function=function, policy="off")
    expect(s.control.get(function, "/?seed=1") == answer, "another answer than before")
    deadline = time.monotonic() + 60
    while [p for p in s.control.call("status")["policies"] if p["function"] == function]:
        expect(time.monotonic() < deadline, "a policy that is off is still told")
        time.sleep(0.05)
    time.sleep(1)
    expect(s.info(function)["state"] == "running", f"with its policy off it is {s.info(function)['state']}")
    # One that ends a function which nobody asks anything.
    s.control.call("policy", function=function, policy="fixed:keep_alive_s=0.5")
    deadline = time.monotonic() + 30
    while s.info(function)["state"] != "ended":
        expect(time.monotonic() < deadline, f"it lives on: {s.info(function)}")
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--cycles", type=int, default=30, help="offloads under load")
    parser.add_argument("--only", help="one case")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    with scratch() as folder:
        setting = Setting(options, folder)
        try:
            return run_cases([c for c in CASES if options.only in (None, c.__name__)], setting, close=setting.vm.close)
        finally:
            setting.vm.close()


if __name__ == "__main__":
    sys.exit(main())
