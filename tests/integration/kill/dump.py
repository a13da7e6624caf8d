# SPDX-License-Identifier: Apache-2.0
"""SIGKILL of the tool, or of its tracer, while it dumps."""

import contextlib
import os
import signal
import time

import rig
from kill.scenario import dying, GRACE, maps, reap_until
from rig import Failed

CAP_SYS_RESOURCE = 24
HEAVY = ("anon_256m", "threads_500")
PROGRAM_MASK = 0xffffffffffffffff & ~(1 << signal.SIGTRAP - 1 | 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1)


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
        tracer = rig.wait_until(lambda: int(rig.status_field(victim.pid, "TracerPid")) or proc.poll() is not None, GRACE)
        if not tracer:
            raise Failed("it is not traced: " + proc.communicate()[1])
        struck = False
        if tracer is not True:  # on a busy machine the tool may be done before anybody has looked, here and below
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{tracer}/oom_score_adj", encoding="ascii") as f:
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
