# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the tool while it restores, and of what a restore makes."""

import os
import signal
import subprocess
import time

import rig
from kill.scenario import clean_state, dying, GRACE, reap_until
from rig import Failed


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
