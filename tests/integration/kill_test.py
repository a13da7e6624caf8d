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


# --- the tool dies --------------------------------------------------------------------------


def kill_dump(scenario, workload):
    victim = scenario.workload(workload)
    picture = maps(victim.pid), rig.tids(victim.pid)
    args = ("dump", victim.pid, scenario.place.template(), "--leave-running")
    duration = scenario.measure(*args, after=scenario.drop_template)
    for _ in range(rounds_for(scenario, workload)):
        when, _ = scenario.killed(duration, *args)
        scenario.runs_on(victim, picture, when)
        scenario.template_whole_or_absent(when)
    scenario.tool.must(*args)  # and it can still be dumped
    victim.go()


def rounds_for(scenario, workload):
    """Fewer where each one takes long."""
    return max(4, scenario.options.rounds // (4 if workload in HEAVY else 1))


def kill_dump_ending(scenario, workload):
    """Dump that ends the process: only a tool that lives may end it, and only when the template is whole."""
    victim = scenario.workload(workload)
    duration = scenario.tool.must("dump", victim.pid, scenario.place.template()).seconds
    victim.handles[-1].reap(GRACE)
    scenario.drop_template()
    victim = None
    for _ in range(rounds_for(scenario, workload)):
        victim = victim or scenario.workload(workload)
        picture = maps(victim.pid), rig.tids(victim.pid)
        when, done = scenario.killed(duration, "dump", victim.pid, scenario.place.template())
        if done or not rig.alive(victim.pid) or dying(victim.pid):
            if not os.path.exists(scenario.place.template()):
                raise Failed(f"{when}: the victim ends without a template")
            if not victim.handles[-1].reap(GRACE):
                raise Failed(f"{when}: does not end: {rig.describe(victim.pid)}")
            scenario.count("ended by the tool")
            victim = None
            if not reap_until(set()):
                raise Failed(f"{when}: left behind: {[rig.describe(c) for c in rig.children()]}")
        else:  # the tool is dead, so nobody may end it from here on
            reap_until({victim.pid})
            scenario.runs_on(victim, picture, when)
        scenario.template_whole_or_absent(when)
    if victim:
        victim.go()


def kill_tracer(scenario, workload):
    """SIGKILL of the child that traces, at any moment but those in which the process answers questions. The
    kernel lets a process go on with whatever registers it has when its tracer is killed."""
    victim = scenario.workload(workload)
    args = lambda: ("dump", victim.pid, scenario.place.template())
    can_lower = int(rig.status_field("self", "CapEff"), 16) & 1 << CAP_SYS_RESOURCE
    duration = scenario.measure(*args(), "--leave-running", after=scenario.drop_template)
    for _ in range(rounds_for(scenario, workload)):
        picture = maps(victim.pid), rig.tids(victim.pid)
        proc = scenario.start(*args())
        tracer = rig.wait_until(lambda: int(rig.status_field(victim.pid, "TracerPid")), GRACE)
        if not tracer:
            raise Failed("it is not traced: " + proc.communicate()[1])
        with open(f"/proc/{tracer}/oom_score_adj", encoding="ascii") as f:
            if f.read().strip() != "-1000" and can_lower:
                raise Failed("the OOM killer may choose the tracer")
        time.sleep(scenario.random.uniform(0, duration / 2))
        struck = strike(victim.pid, tracer)
        _, err = proc.communicate(timeout=GRACE * 5)
        when = f"tracer {'killed' if struck else 'met too late'}, the tool said {err.strip()!r}"
        if proc.returncode == 0:  # the tool had ended the process by then, so the template must be whole
            if not os.path.exists(scenario.place.template()):
                raise Failed(f"{when}: the victim ends without a template")
            if not victim.handles[-1].reap(0):
                raise Failed(f"{when}: not ended: {rig.describe(victim.pid)}")
            scenario.count("ended by the tool")
            scenario.template_whole_or_absent(when)
            victim = scenario.workload(workload)
            continue
        if not struck:
            raise Failed(f"exit {proc.returncode}: {when}")
        if proc.returncode != rig.EXIT_AGAIN or str(victim.pid) not in err:
            raise Failed(f"exit {proc.returncode} with an unclear message: {err.strip()!r}")
        scenario.count("tracer killed")
        scenario.runs_on(victim, picture, when)
        scenario.template_whole_or_absent(when)
    if not scenario.log.get("tracer killed"):
        raise Failed("the tracer was never met in time")
    victim.go()


def strike(pid, tracer):
    """Kills the tracer while the process's own signal mask is in force, which it is not inside of a program."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline and rig.status_field(pid, "TracerPid") == str(tracer):
        try:
            os.kill(tracer, signal.SIGSTOP)
            if not rig.wait_until(lambda: rig.all_in_state(tracer, "T") or not rig.alive(tracer), GRACE):
                return False
            own_mask = rig.status_field(pid, "SigBlk")
            if int(own_mask, 16) != PROGRAM_MASK:
                os.kill(tracer, signal.SIGKILL)
                return True
            os.kill(tracer, signal.SIGCONT)
        except ProcessLookupError:  # it was done
            return False
        time.sleep(0.002)
    return False


def kill_restore(scenario, workload, *options):
    count = int(options[options.index("--count") + 1]) if "--count" in options else 1
    victim = scenario.workload(workload)
    pid, threads, exe = victim.pid, len(rig.tids(victim.pid)), executable(victim.pid)
    scenario.tool.must("dump", pid, scenario.place.template())
    victim.handles[-1].reap(5)
    args = ("restore", scenario.place.template(), *options)
    duration = scenario.measure(*args, after=end_children)
    scratch = listing(victim.scratch)
    for _ in range(scenario.options.rounds):
        when, _ = scenario.killed(duration, *args)
        found = settle(pid, threads, exe, when, count)
        if found:
            scenario.count("restored whole")
            handles = [victim.adopt(p) for p in found]
            victim.go(len(found), handles)
            for name in ("go", "result"):
                os.unlink(victim.path(name))
        if extra := listing(victim.scratch) - scratch:
            raise Failed(f"{when}: files left: {sorted(extra)}")
        if not reap_until(set(), 5):
            raise Failed(f"{when}: left behind: {[rig.describe(c) for c in rig.children()]}")
    scenario.tool.must("verify", scenario.place.template())


def kill_new(scenario, workload, which, *options):
    """SIGKILL of what a restore makes: the tool notices, and nothing is left."""
    victim = scenario.workload(workload)
    scenario.tool.must("dump", victim.pid, scenario.place.template())
    victim.handles[-1].reap(5)
    args = ("restore", scenario.place.template(), *options)
    duration = scenario.measure(*args, after=end_children)
    for _ in range(scenario.options.rounds):
        proc = scenario.start(*args)
        target = rig.wait_until(lambda: made_by(proc, victim.pid, which), GRACE)
        time.sleep(scenario.random.uniform(0, duration / 2))
        try:
            if target and target > 0:  # else it was over before it was seen
                os.kill(target, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            _, err = proc.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.wait()
            raise Failed("the tool does not end in 15 s") from None
        scenario.count(f"exit {proc.returncode}")
        if proc.returncode not in (0, rig.EXIT_AGAIN):
            raise Failed(f"exit {proc.returncode}: {err.strip()}")
        if proc.returncode and not err.startswith("moult-image: restore "):
            raise Failed(f"exit {proc.returncode} with an unclear message: {err.strip()!r}")
        if proc.returncode == 0:  # it was whole by then
            end_children()
        if not reap_until(set(), 5):
            raise Failed(f"exit {proc.returncode}: left behind: {[rig.describe(c) for c in rig.children()]}")


def made_by(proc, inner, which):
    """The process in the making, or the sandbox's init, as soon as it is there."""
    wanted = 1 if which == "init" else inner
    todo = rig.children(proc.pid)
    while todo:
        pid = todo.pop()
        if rig.inner_pid(pid) == wanted:
            return pid
        todo += rig.children(pid)
    return -1 if proc.poll() is not None else None


def end_children():
    for child in rig.children():
        handle = rig.Handle(child)
        handle.kill()
        handle.reap(5)
        handle.close()
    reap_until(set())


def listing(top):
    return {os.path.join(folder, name) for folder, folders, files in os.walk(top) for name in folders + files}


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


def executable(pid):
    """What file a process runs, whatever its name is from here."""
    try:
        found = os.stat(f"/proc/{pid}/exe")
        return found.st_dev, found.st_ino
    except (FileNotFoundError, ProcessLookupError):
        return None


def settle(pid, threads, exe, when, count):
    """After the grace: the restored processes when they are there, and whole; none when there is none.

    One that still runs the tool's code has the right pid, and is not traced before the tool has attached to it, but
    waits for a tool that is dead: it ends when it finds out."""

    def candidates():
        return [p for p in descendants() if rig.inner_pid(p) == pid]

    def settled():
        reap_until(set(), 0)
        if any(dying(p) for p in descendants()):
            return False
        found = candidates()
        return not descendants() or len(found) == count and all(
            len(rig.tids(p)) == threads and clean_state(p) and executable(p) == exe for p in found)

    if not rig.wait_until(settled, GRACE):
        raise Failed(f"{when}: half-made: {[rig.describe(p) for p in descendants()]}")
    found = candidates()
    if not found and rig.alive(pid):
        raise Failed(f"{when}: half-made, and not ours: {rig.describe(pid)}")
    return found


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


CAP_SYS_RESOURCE = 24
HEAVY = ("anon_256m", "threads_500")
PROGRAM_MASK = 0xffffffffffffffff & ~(1 << signal.SIGTRAP - 1 | 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1)

SCENARIOS = {
    "kill-dump-single": (kill_dump, "anon_pattern"),
    "kill-dump-memory": (kill_dump, "anon_256m"),
    "kill-dump-threads": (kill_dump, "threads_100"),
    "kill-dump-threads-500": (kill_dump, "threads_500"),
    "kill-dump-ending-single": (kill_dump_ending, "anon_pattern"),
    "kill-dump-ending-memory": (kill_dump_ending, "anon_256m"),
    "kill-dump-ending-threads": (kill_dump_ending, "threads_100"),
    "kill-dump-ending-threads-500": (kill_dump_ending, "threads_500"),
    "kill-tracer-memory": (kill_tracer, "anon_256m"),
    "kill-restore-single": (kill_restore, "anon_pattern"),
    "kill-restore-threads": (kill_restore, "threads_100"),
    "kill-restore-sandbox": (kill_restore, "anon_pattern", "--sandbox"),
    "new-process-killed": (kill_new, "threads_100", "function"),
    "new-process-killed-sandbox": (kill_new, "threads_100", "function", "--sandbox"),
    "sandbox-init-killed": (kill_new, "threads_100", "init", "--sandbox"),
    "kill-restore-many": (kill_restore, "anon_pattern", "--sandbox", "--count", "3"),
    "kill-restore-unlinked-file": (kill_restore, "file_deleted"),
    "kill-restore-removed-cwd": (kill_restore, "cwd_deleted"),
    "kill-restore-socket-file": (kill_restore, "unix_listen_path"),
    "victim-killed": (restless, "killed"),
    "victim-exits": (restless, "exit"),
    "victim-execs": (restless, "exec"),
    "victim-execs-in-thread": (restless, "thread-exec"),
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
