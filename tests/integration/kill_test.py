#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Death at random moments: of the tool while it dumps or restores, of the process while it is dumped.

`kill_test.py --bin DIR [--rounds N] [--only GLOB] [--seed N]`. Whatever dies, the rest must be whole:
the victim runs as before, a template is complete or not there, a restored process likewise.
"""

import argparse
import fnmatch
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import rig
from rig import Failed

GRACE = 2.0  # seconds within which everything must be clean again
EXEC_LOOP = """#!/bin/sh
# Becomes itself again and again: the tool meets a process in the middle of an exec.
if [ ! -e "$1/ready" ]; then echo $$ > "$1/ready.tmp"; mv "$1/ready.tmp" "$1/ready"; fi
if [ -e "$1/go" ]; then echo pass >> "$1/result"; exit 0; fi
echo . >> "$1/beat"
exec "$0" "$@"
"""


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
        """Runs the tool and kills it somewhere on its way."""
        delay = self.random.uniform(0, duration * 1.1)
        proc = self.start(*args)
        deadline = time.monotonic() + delay
        while time.monotonic() < deadline:  # sleeping is too coarse for a dump of a few ms
            pass
        proc.kill()
        proc.stderr.close()
        self.count("killed" if proc.wait() == -signal.SIGKILL else "ended before")
        return f"after {delay * 1000:.2f} of {duration * 1000:.2f} ms"

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


# --- the tool dies --------------------------------------------------------------------------


def kill_dump(scenario, workload):
    victim = scenario.workload(workload)
    pid, before, threads = victim.pid, maps(victim.pid), rig.tids(victim.pid)
    args = ("dump", pid, scenario.place.template(), "--leave-running")
    duration = scenario.measure(*args, after=scenario.drop_template)
    for _ in range(scenario.options.rounds):
        when = scenario.killed(duration, *args)
        if not rig.alive(pid):
            raise Failed(f"{when}: the victim is dead; log: {victim.log_tail()}")
        scenario.unharmed(pid, when)
        if not rig.wait_until(lambda: maps(pid) == before, GRACE):
            extra = set(maps(pid).splitlines()) ^ set(before.splitlines())
            raise Failed(f"{when}: mappings differ: {sorted(extra)[:4]}")
        if rig.tids(pid) != threads:
            raise Failed(f"{when}: threads were {len(threads)}, are {len(rig.tids(pid))}")
        if not reap_until({pid}):
            raise Failed(f"{when}: left behind: {[rig.describe(c) for c in set(rig.children()) - {pid}]}")
        scenario.template_whole_or_absent(when)
    scenario.tool.must(*args)  # and it can still be dumped
    victim.go()


def kill_restore(scenario, workload, *options):
    victim = scenario.workload(workload)
    pid, threads = victim.pid, len(rig.tids(victim.pid))
    scenario.tool.must("dump", pid, scenario.place.template())
    victim.handles[-1].reap(5)
    args = ("restore", scenario.place.template(), *options)

    def end():
        for child in rig.children():
            handle = rig.Handle(child)
            handle.kill()
            handle.reap(5)
            handle.close()
        reap_until(set())

    duration = scenario.measure(*args, after=end)
    for _ in range(scenario.options.rounds):
        when = scenario.killed(duration, *args)
        found = settle(pid, threads, when)
        if found:
            scenario.count("restored whole")
            victim.adopt(found)
            victim.go(watch=[victim.handles[-1]])
            for name in ("go", "result"):
                os.unlink(victim.path(name))
        if not reap_until(set(), 5):
            raise Failed(f"{when}: left behind: {[rig.describe(c) for c in rig.children()]}")
    scenario.tool.must("verify", scenario.place.template())


def descendants():
    found, todo = [], rig.children()
    while todo:
        pid = todo.pop()
        if rig.alive(pid):
            found.append(pid)
        todo += rig.children(pid)
    return found


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


def settle(pid, threads, when):
    """After the grace: the restored process when it is there, and whole; None when there is none."""

    def candidates():
        return [p for p in descendants() if rig.inner_pid(p) == pid]

    def settled():
        reap_until(set(), 0)
        if any(dying(p) for p in descendants()):
            return False
        return not descendants() or all(
            len(rig.tids(p)) == threads and clean_state(p) for p in candidates()) and candidates()

    if not rig.wait_until(settled, GRACE):
        raise Failed(f"{when}: half-made: {[rig.describe(p) for p in descendants()]}")
    found = candidates()
    if not found and rig.alive(pid):
        raise Failed(f"{when}: half-made, and not ours: {rig.describe(pid)}")
    return found[0] if found else None


# --- the process does something -------------------------------------------------------------


def restless(scenario, kind):
    rounds = max(4, scenario.options.rounds // 2)
    duration = None
    for i in range(rounds):
        if kind == "exec":
            program = os.path.join(scenario.place.root, "again")
            if not os.path.exists(program):
                with open(program, "w", encoding="ascii") as f:
                    f.write(EXEC_LOOP)
                os.chmod(program, 0o755)
            victim = scenario.victim(program)
        elif kind == "killed":
            victim = scenario.workload("threads_8" if i % 2 else "anon_pattern")
        else:
            victim = scenario.victim(os.fspath(rig.HERE / "restless.py"), kind)
        try:
            duration = duration or typical_dump(scenario)
            one_restless(scenario, victim, kind, duration, leave=i % 2 == 0)
        finally:
            victim.close()
            scenario.drop_template()
    return None


def typical_dump(scenario):
    quiet = scenario.workload("anon_pattern")
    try:
        return scenario.measure("dump", quiet.pid, scenario.place.template(), "--leave-running",
                                after=scenario.drop_template)
    finally:
        quiet.close()


def one_restless(scenario, victim, kind, duration, leave):
    if kind == "exit":
        with open(victim.path("until.tmp"), "w", encoding="ascii") as f:
            f.write(str(duration * 1.5))
        os.rename(victim.path("until.tmp"), victim.path("until"))
    else:
        time.sleep(scenario.random.uniform(0, 0.01))  # meet it in another phase each time
    proc = scenario.start("dump", victim.pid, scenario.place.template(), *(["--leave-running"] if leave else []))
    if kind == "killed":
        time.sleep(scenario.random.uniform(0, duration * 1.1))
        victim.handles[-1].kill()
    try:
        _, err = proc.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        proc.kill()
        proc.wait()
        raise Failed("the tool does not end in 10 s") from None
    scenario.count(f"exit {proc.returncode}")
    if proc.returncode not in (0, rig.EXIT_REFUSED, rig.EXIT_NOT_FOUND, rig.EXIT_AGAIN):
        raise Failed(f"exit {proc.returncode}: {err.strip()}")
    if proc.returncode and not (err.startswith("moult-image: dump ") and str(victim.pid) in err):
        raise Failed(f"exit {proc.returncode} with an unclear message: {err.strip()!r}")
    if proc.returncode == 0:
        scenario.tool.must("verify", scenario.place.template())
    else:
        scenario.place.expect_only()
    if kind in ("exit", "killed"):
        if not victim.handles[-1].reap(GRACE):
            raise Failed("does not end: " + rig.describe(victim.pid))
    elif proc.returncode or leave:
        still_beats(scenario, victim)


def still_beats(scenario, victim):
    """The victim goes on with what it does."""
    if not rig.alive(victim.pid):
        raise Failed(f"the victim is dead; log: {victim.log_tail()}")
    size = os.path.getsize(victim.path("beat"))
    if not rig.wait_until(lambda: os.path.getsize(victim.path("beat")) > size, GRACE):
        raise Failed("the victim stands still: " + rig.describe(victim.pid) + rig._where(victim.pid))
    # A thread that just started or a process in exec shows as stopped for no moment, ever.
    scenario.unharmed(victim.pid, "afterwards")
    victim.go()


SCENARIOS = {
    "kill-dump-single": (kill_dump, "anon_pattern"),
    "kill-dump-threads": (kill_dump, "threads_100"),
    "kill-restore-single": (kill_restore, "anon_pattern"),
    "kill-restore-threads": (kill_restore, "threads_100"),
    "kill-restore-sandbox": (kill_restore, "anon_pattern", "--sandbox"),
    "victim-killed": (restless, "killed"),
    "victim-exits": (restless, "exit"),
    "victim-execs": (restless, "exec"),
    "victim-forks": (restless, "fork"),
    "victim-starts-threads": (restless, "threads"),
    "victim-maps": (restless, "maps"),
}


def run(options, name):
    function, *args = SCENARIOS[name]
    scenario = Scenario(options, name)
    try:
        try:
            function(scenario, *args)
        except BaseException:
            try:
                scenario.close()
            except Failed:  # what went wrong first says more
                pass
            raise
        scenario.close()
        outcome, reason = "PASS", ""
    except rig.Skipped as e:
        outcome, reason = "SKIP", str(e)
    except Failed as e:
        outcome, reason = "FAIL", str(e)
    except Exception as e:  # a process vanished under the test, or the test is at fault
        import traceback
        frame = traceback.extract_tb(e.__traceback__)[-1]
        outcome, reason = "FAIL", f"{type(e).__name__}: {e} ({os.path.basename(frame.filename)}:{frame.lineno})"
    counts = ", ".join(f"{n} x {what}" for what, n in sorted(scenario.log.items()))
    print(f"{outcome} {name}{': ' + reason if reason else ''}{f' [{counts}]' if counts else ''}", flush=True)
    return outcome


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    options.bin = os.path.abspath(options.bin)
    rig.become_subreaper()
    print(f"seed {options.seed}")
    outcomes = [run(options, n) for n in SCENARIOS if fnmatch.fnmatchcase(n, options.only)]
    passed, failed, skipped = (outcomes.count(o) for o in ("PASS", "FAIL", "SKIP"))
    print(rig.closing_line(passed, failed, skipped))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
