# SPDX-License-Identifier: Apache-2.0
"""What the scenarios of death share."""

import os
import random
import shutil
import signal
import subprocess
import time

import rig
from rig import Failed

GRACE = 15.0  # seconds within which everything must be clean again, on a machine that others use as well


def maps(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as f:
        return f.read()


def clean_state(pid):
    """Neither stopped nor traced, none of its threads."""
    return all(rig.state(pid, t) not in ("T", "t") and rig.status_field(pid, "TracerPid", t) in ("0", None)
               for t in rig.tids(pid))


class Scenario:
    def __init__(self, options, name):
        self.options, self.name = options, name
        self.tool = rig.Tool(options.bin, 30)
        self.place = rig.Workplace()
        self.random = random.Random(f"{options.seed} {name}")
        self.victims = []
        self.log = {}

    def close(self):
        for victim in self.victims:
            victim.close()
        reap_until(set())
        left = [rig.describe(p) for p in rig.children()]
        for pid in rig.children():
            handle = rig.Handle(pid)
            handle.kill()
            handle.reap(5)
        self.place.close()
        if left:
            raise Failed("processes left behind: " + ", ".join(left))

    def victim(self, program, *args):
        root = os.path.join(self.place.root, f"v{len(self.victims)}")
        os.mkdir(root, 0o755)
        victim = rig.Victim(program, root, timeout=30, args=args)
        self.victims.append(victim)
        victim.wait_ready()
        return victim

    def workload(self, name):
        return self.victim(os.path.join(self.options.bin, "workloads", name))

    def count(self, what):
        self.log[what] = self.log.get(what, 0) + 1

    def measure(self, *args, after):
        """Seconds that the tool takes, the middle one of three runs."""
        times = []
        for _ in range(3):
            times.append(self.tool.must(*args).seconds)
            after()
        return sorted(times)[1]

    def start(self, *args):
        return subprocess.Popen([self.tool.path, *map(str, args)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def killed(self, duration, *args):
        """Runs the tool and kills it somewhere on its way. True as the second when it was done before."""
        delay = self.random.uniform(0, duration * 1.1)
        proc = self.start(*args)
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline:  # sleeping is too coarse for a dump of a few ms
            pass
        proc.kill()
        proc.stderr.close()
        code = proc.wait()
        self.count("killed" if code == -signal.SIGKILL else "ended before")
        return f"after {delay * 1000:.2f} of {duration * 1000:.2f} ms", code == 0

    def drop_template(self):
        shutil.rmtree(self.place.template(), ignore_errors=True)

    def template_whole_or_absent(self, when):
        """A killed tool cannot clean up itself, so what it made must have had no name yet."""
        names = lambda: os.listdir(self.place.templates)
        rig.wait_until(lambda: names() in ([], ["t"]), GRACE)
        if names() not in ([], ["t"]):
            raise Failed(f"{when}: beside the template: {names()}")
        if names():
            if rig.wait_until(lambda: self.tool.run("verify", self.place.template()).code == 0, GRACE):
                self.count("template whole")
            else:
                raise Failed(f"{when}: an incomplete template is left: {os.listdir(self.place.template())}")
        self.drop_template()

    def unharmed(self, pid, when):
        if not rig.wait_until(lambda: clean_state(pid), GRACE):
            raise Failed(f"{when}: left stopped or traced: {rig.describe(pid)}")

    def runs_on(self, victim, picture, when):
        """The victim is as it was, and nothing but it is left."""
        pid, (before, threads) = victim.pid, picture
        if not rig.alive(pid):
            raise Failed(f"{when}: the victim is dead; log: {victim.log_tail()}")
        self.unharmed(pid, when)
        if not rig.wait_until(lambda: maps(pid) == before, GRACE):
            extra = set(maps(pid).splitlines()) ^ set(before.splitlines())
            raise Failed(f"{when}: mappings differ: {sorted(extra)[:4]}")
        if rig.tids(pid) != threads:
            raise Failed(f"{when}: threads were {len(threads)}, are {len(rig.tids(pid))}")
        if not reap_until({pid}):
            raise Failed(f"{when}: left behind: {[rig.describe(c) for c in set(rig.children()) - {pid}]}")


def reap_until(allowed, seconds=GRACE):
    """Reaps orphans that came to us; true once no child but the allowed ones is left."""

    def only_allowed():
        for pid in set(rig.children()) - allowed:
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                pass
        return not set(rig.children()) - allowed

    return rig.wait_until(only_allowed, seconds)


def dying(pid):
    """On its way out: the kernel has sent SIGKILL for the dead tool, but the process still looks whole."""
    pf_exiting, pf_signaled, sigkill = 0x4, 0x400, 1 << 8
    for tid in rig.tids(pid):
        # Pending first: the signal goes from there as the flag is set.
        pending = int(rig.status_field(pid, "SigPnd", tid) or "0", 16) | int(rig.status_field(pid, "ShdPnd", tid) or "0", 16)
        fields = rig.stat_fields(pid, tid)
        if pending & sigkill or fields is None or int(fields[6]) & (pf_exiting | pf_signaled):
            return True
    return False
