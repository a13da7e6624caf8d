# SPDX-License-Identifier: Apache-2.0
"""What the cases of offload_test.py work on: a VM with a gardener, functions that have data, and the guest's kernel log."""
import contextlib
import functools
import hashlib
import json
import pathlib
import re
import time

from ctl import Failure, SERVER
from machine import qemu_for, qemu_program
from trial import COMMANDS, Trial, TrialError, expect

HERE = pathlib.Path(__file__).resolve().parent
REDIS = ["/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", "6379", "--save", ""]
REDIS_KEYS, REDIS_VALUE = 2000, 4096
# For guest/parts.py: memory of all kinds that processes may share.
SHARED = {kind: (kind, 2 << 20, 1) for kind in ("shared", "memfd", "tmpfs", "sysv")}
SHARED_PAGES = sum(size for _, size, _ in SHARED.values()) // 4096
SUBJECTS = (*COMMANDS, "redis", "sharer")
CPUS = 2
BYSTANDER_WITHIN = 30  # seconds for each call to a VM whose pool is well
ENDS_WITHIN = 60  # seconds: a VM that has said that it ends
# A guest on a busy host finds its clocks wanting.
OF_TIME = re.compile(r"clocksource|hrtimer: interrupt took|perf: interrupt took|sched_clock|\btsc\b", re.IGNORECASE)


def qemu_with(s, name, more="", under=""):
    """Options for a Setting whose QEMU has `more` options; `under` is what of a shell's words comes before it."""
    qemu = s.folder / f"qemu-with-{name}"
    qemu.write_text(f'#!/bin/sh\n{under} exec {qemu_program(qemu_for(s.options.kernel, CPUS))[0]} "$@" {more}\n', encoding="utf-8")
    qemu.chmod(0o755)
    return ["--qemu", qemu]


def case_of(cases):
    """A decorator that adds to `cases`. In the end of each no function is left, and the guest's kernel has said nothing."""
    def case(function):
        @functools.wraps(function)
        def alone(s):
            before = s.kernel_log()
            try:
                function(s)
                said = [line for number, line in s.kernel_log() if number > before[-1][0] and not OF_TIME.search(line)]
                expect(not said, f"the guest's kernel says: {said[:5]}")
            finally:
                s.end(*(f["id"] for f in s.control.call("ps")["functions"] if f["state"] != "ended" and f["id"] != s.gardener))

        cases.append(alone)
        return alone
    return case


def insist(condition, text):
    """As expect, of what no end of a VM excuses."""
    if not condition:
        raise Failure(text)


def thaw_and_ask(one, function):
    """What it answers once it runs. For a thread of its own where a CPU of the guest may wait: also the thaw's answer may need that."""
    one.control.call("thaw", function=function)
    return one.control.get(function, "/bytes", seconds=60)


def answer_or_none(asked):
    """Of what a thread asks."""
    try:
        return asked.result()
    except (TrialError, OSError):
        return None


def ended_by_a_lost_page(one):
    """Whether the VM of a Setting ends, and has said that this is why. README ("Promises") has that where a page is lost and the guest
    cannot be heard, as it needs the CPU that waits; nothing else excuses the end of a VM."""
    return one.vm.has_ended(ENDS_WITHIN) and "is lost" in one.log() and "they are poisoned, by which the VM ends" in one.log()


class Bystander:
    """A function of the shared VM, which is out in the pool of that VM, for cases that break the pool of another."""

    def __init__(self, s):
        self.s, self.count = s, 0
        self.function = s.server("bystander")
        s.control.call("offload", function=self.function)

    def works_on(self):
        """However ill the other VM's pool is just now: it comes back, answers, and goes out again."""
        expect(self.s.info(self.function)["offloaded_bytes"] > 1 << 20, "another VM's function is not out")
        for prefetch in ("none", "all"):
            self.s.control.call("recall", seconds=BYSTANDER_WITHIN, function=self.function, prefetch=prefetch)
            self.count += 1
            expect(self.s.control.get(self.function, "/bytes", seconds=BYSTANDER_WITHIN) == bytes(range(256)), "another VM's function is damaged")
            expect(self.s.control.get(self.function, "/count", seconds=BYSTANDER_WITHIN) == b"%d" % self.count, "another VM's function counts wrong")
            self.s.control.call("offload", seconds=BYSTANDER_WITHIN, function=self.function)
        expect(self.s.pager()["lost_pages"] == 0, f"another VM loses pages: {self.s.pager()}")


class Setting:
    def __init__(self, options, folder, name="vm", more=(), under=(), cpus=CPUS, append=""):
        self.options, self.folder = options, pathlib.Path(folder)
        more = [*more, "--payload", f"init.d/60-gardener={HERE / 'guest' / 'gardener.py'}",
                *(word for name in ("busy.py", "parts.py", "serving.py") for word in ("--payload", f"functions/{name}={HERE / 'guest' / name}"))]
        self.vm = Trial(options.bin, self.folder / name, self.folder / "store", options.kernel, append=append, cpus=cpus, more=more, under=under)
        self.control = self.vm.control
        self.gardener = self.vm.start("gardener", ["/usr/bin/sleep", "1000000"], port=9093)

    def info(self, function):
        return next(f for f in self.control.call("ps")["functions"] if f["id"] == function)

    def pager(self):
        return self.control.call("status")["vm"]["pager"]

    def log(self):
        """All that the VMM has said; the VM's logs() are the end of it."""
        return (self.vm.folder / "trial.log").read_text(errors="replace")

    def hash(self, function):
        return json.loads(self.control.get(self.gardener, f"/hash?pid={self.info(function)['pid']}"))

    def parts(self, name, parts, *options):
        """guest/parts.py with these."""
        return self.vm.start_at(name, "unix:/tmp/parts.sock", ["/usr/bin/python3", "-S", "/run/moult/functions/parts.py", json.dumps(parts)],
                                "--ready", "connect", *options)

    @contextlib.contextmanager
    def no_new_huge_pages(self):
        """What is out stays out meanwhile: of what the guest's kernel makes a huge page, all comes back."""
        before = self.control.get(self.gardener, "/khugepaged?every_ms=4000000000")
        try:
            yield
        finally:
            self.control.get(self.gardener, f"/khugepaged?every_ms={before.decode()}")

    def server(self, name):
        """One that counts, at a socket of its own sandbox: there may be many."""
        return self.vm.start_at(name, "unix:/tmp/ctl.sock", ["/usr/bin/python3", "-S", "-c", SERVER], "--ready", "connect")

    def kernel_log(self):
        return json.loads(self.control.get(self.gardener, "/log"))

    def run(self, name, port=8080):
        """One of SUBJECTS that has data; redis and who shares have their own."""
        if name == "sharer":
            return self.parts(name, SHARED)
        if name != "redis":
            return self.vm.run(name, "--env", f"PORT={port}", port=port)
        function = self.vm.start("redis", REDIS, "--ready", "connect", port=6379)
        with self.control.stream(function) as redis, redis.makefile("rb") as answers:
            for key in range(REDIS_KEYS):
                value = hashlib.sha256(b"%d" % key).digest() * (REDIS_VALUE // 32)
                redis.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\n%04d\r\n$%d\r\n%s\r\n" % (key, len(value), value))
                expect(answers.readline() == b"+OK\r\n", f"redis does not take key {key}")
        return function

    def answer(self, name, function):
        """Always the same, and of all of its data."""
        if name == "sharer":
            told = self.control.get(function, "/all")
            expect(told == b"ok", f"what it shares is {told}")
            return told
        if name != "redis":
            return self.control.get(function, "/?seed=1")
        digest = hashlib.sha256()
        with self.control.stream(function) as redis, redis.makefile("rb") as answers:
            for key in range(REDIS_KEYS):
                redis.sendall(b"*2\r\n$3\r\nGET\r\n$4\r\n%04d\r\n" % key)
                length = answers.readline()
                expect(length == b"$%d\r\n" % REDIS_VALUE, f"redis on key {key}: {length!r}")
                digest.update(answers.read(REDIS_VALUE + 2))
        return digest.hexdigest()

    def end(self, *functions):
        for function in functions:
            self.control.call("kill", function=function)
        self.swept()

    def swept(self):
        """The pool's room of all functions that have ended is given back, which begins when somebody has looked at them."""
        self.control.call("ps")
        deadline = time.monotonic() + 60
        while (sweep := self.control.call("status")["sweep"])["functions"]:
            expect(time.monotonic() < deadline, f"room in the pool is not given back: {sweep}")
            time.sleep(0.02)
