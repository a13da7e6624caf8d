# SPDX-License-Identifier: Apache-2.0
"""A process that ends, execs, forks or changes while it is dumped."""

import os
import subprocess
import time

import rig
from kill.scenario import GRACE
from rig import Failed

EXEC_LOOP = """#!/bin/sh
# Becomes itself again and again: the tool meets a process in the middle of an exec.
if [ ! -e "$1/ready" ]; then echo $$ > "$1/ready.tmp"; mv "$1/ready.tmp" "$1/ready"; fi
if [ -e "$1/go" ]; then echo pass >> "$1/result"; exit 0; fi
echo . >> "$1/beat"
exec "$0" "$@"
"""


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
