# SPDX-License-Identifier: Apache-2.0
"""One workload in one mode of the matrix."""

import os
import re
import signal
import time

import memory
import oracle
import rig
from freezers import freezers
from kill.scenario import GRACE
from rig import Failed

COUNT = 20
# What a workload does by itself when it is interrupted: (pattern of differences, reason).
UNSTEADY = {
    "socket_timeout": (r"threads/|status/Threads|brought back",
                       "recv with SO_RCVTIMEO ends with EINTR after any stop (signal(7)); its thread ends"),
    "itimer_fires": (r"status/ShdPnd|brought back", "its timer fires while it waits, on its stack"),
    "posix_timer_thread": (r"maps/|threads/|status/Threads|memory", "each expiry runs in a thread of its own, with a stack of its own"),
    "posix_timer_periodic": (r"status/ShdPnd|brought back", "its timers fire while it waits, on its stack"),
    "syscall_storm": (r"maps/|fds/|status/|memory", "maps, opens and closes all the time"),
    "threads_8": (r"memory", "half its threads wake every 20 ms"),
    "threads_8_static": (r"memory", "half its threads wake every 20 ms"),
    "threads_100": (r"memory", "half its threads wake every 20 ms"),
    "threads_500": (r"memory", "half its threads wake every 20 ms"),
    "thread_churn": (r"threads/|maps/|status/|memory", "its threads come and go all the time"),
    "epoll_wait_timeout": (r"brought back", "epoll_wait with a time limit ends with EINTR after any stop (signal(7))"),
    "sigwait_blocked": (r"brought back", "sigtimedwait ends with EINTR after any stop (signal(7))"),
    "poll_timeout": (r"brought back", "the kernel writes the time left to the caller's timespec when a wait is interrupted"),
    "relative_waits_left": (r"brought back", "the kernel writes the time left to the caller's timespec when a wait is interrupted"),
    "write_pipe_blocked": (r"brought back", "a write that is interrupted returns what went through, and the rest is written anew"),
}
# Their waits of a few seconds may end while many copies are made and looked at one after the other: only the last is looked at.
BRIEF = {"clock_nanosleep_absolute", "clock_nanosleep_relative", "cond_timedwait", "futex_relative_timeout", "nanosleep_relative", "poll_timeout",
         "relative_waits_left"}


class MayRefuse(Exception):
    """A workload of may_refuse.txt was refused, as it may be."""


class Case:
    """One workload in one mode."""

    def __init__(self, options, mode, workload, notes):
        self.options, self.bin, self.mode, self.workload = options, options.bin, mode, workload
        self.timeout, self.notes = options.timeout, notes
        self.tool = rig.Tool(options.bin, options.timeout)
        self.place = rig.Workplace()
        self.victim = self.tracer = None
        self.refused = workload in options.refuse
        self.changes = workload in options.changed

    def run(self):
        try:
            program = os.path.join(self.bin, "workloads", self.workload)
            # The reparented kind of victim: nobody but the keeper ever waits for it.
            orphan = self.mode in ("twice", "twice-sandbox")
            self.victim = rig.Victim(program, self.place.root, orphan, self.timeout)
            self.victim.wait_ready()
            self.tracer = rig.status_field(self.victim.pid, "TracerPid")  # some have one of their own
            try:
                getattr(self, "mode_" + self.mode.replace("-", "_"))()
            except MayRefuse:
                self.place.expect_only()
                self.untouched()
                self.victim.go()
        except Failed as e:
            said = [line for line in self.victim.results() if line != "pass"] if self.victim else []
            if said and said[0] not in str(e):
                raise Failed(f"{e}; its result: {said[0]}") from None
            raise
        finally:
            if self.victim:
                self.victim.close()
            left = self.sweep()
            self.place.close()
        if left:
            raise Failed("processes left behind: " + ", ".join(left))

    def sweep(self):
        """Kills what is still a child of this case. Ends of processes show here a moment late."""
        left = []
        rig.wait_until(lambda: not self.reap_orphans(), GRACE)
        for pid in rig.children():
            left.append(rig.describe(pid))
            handle = rig.Handle(pid)
            handle.kill()
            handle.reap(5)
        return left

    @staticmethod
    def reap_orphans():
        """Reaps ended children; true while some still run."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            return True
        except ChildProcessError:
            return False

    # --- without the tool -------------------------------------------------------------------

    def mode_plain(self):
        self.victim.go()

    def mode_freeze(self):
        pid = self.victim.pid
        for _ in range(4):
            rig.stop(pid)
            rig.resume(pid)
            rig.wait_until(lambda: not rig.all_in_state(pid, "T"), self.timeout)
        for freezer in freezers():
            freezer(pid, self.timeout)
        self.victim.go()

    # --- dump -------------------------------------------------------------------------------

    def refused_as_it_may(self, outcome):
        """Of a workload of may_refuse.txt, and with its message."""
        allowed = self.options.may_refuse.get(self.workload)
        return outcome.code in (rig.EXIT_REFUSED, rig.EXIT_AGAIN) and bool(allowed and re.search(allowed, outcome.err, re.I))

    def dump(self, *options, name="t"):
        pid = self.victim.pid
        outcome = self.tool.run("dump", pid, self.place.template(name), "--json", *options)
        if self.refused_as_it_may(outcome):
            raise MayRefuse
        if outcome.code != 0:
            raise Failed(f"dump: {outcome.text()}")
        try:
            report = outcome.json()
        except ValueError:
            raise Failed(f"dump --json printed {outcome.out[:200]!r}") from None
        if report.get("pid") not in (pid, rig.inner_pid(pid) or pid):
            raise Failed(f"dump of {pid} reports pid {report.get('pid')}")
        self.note("dump_us", report.get("total_us"))
        self.note("stopped_us", report.get("stopped_us"))
        self.note("user_state_bytes", report.get("user_state_bytes"))
        return report

    def note(self, key, value):
        self.notes.setdefault(key, []).append(value)

    def refusal(self, *options):
        """The dump is refused by name, and the process has not noticed."""
        pattern, code = self.options.refuse[self.workload], rig.EXIT_REFUSED
        if other := re.match(r"exit (\d+): ", pattern):
            pattern, code = pattern[other.end():], int(other[1])
        # Of a leader that has ended /proc shows next to nothing.
        before = None if rig.state(self.victim.pid) == "Z" else oracle.steady(self.victim.pid)
        outcome = self.tool.run("dump", self.victim.pid, self.place.template(), *options)
        if outcome.code != code:
            raise Failed(f"dump should refuse (exit {code}): {outcome.text()}")
        if pattern and not re.search(pattern, outcome.err, re.I):
            raise Failed(f"refusal does not match /{pattern}/: {outcome.text()}")
        with open(f"/proc/{self.victim.pid}/comm", encoding="utf-8") as f:
            name = f.read().rstrip("\n")
        if not re.search(rf"\bdump {self.victim.pid} \({re.escape(name)}\): .+; \w", outcome.err):
            raise Failed(f"refusal does not name {self.victim.pid} ({name}), or no remedy: {outcome.text()}")
        self.place.expect_only()
        self.untouched()
        if before:
            self.compare(before, "leave")  # some refusals come when the process was already asked from inside
        self.victim.go()

    def untouched(self):
        pid = self.victim.pid
        if not rig.wait_until(lambda: running(pid, self.tracer), GRACE):
            raise Failed("the dump leaves it stopped or traced: " + rig.describe(pid))

    def mode_leave(self):
        if self.refused:
            return self.refusal("--leave-running")
        pid = self.victim.pid
        rig.stop(pid)
        rig.resume(pid)  # a blocked SIGCONT stays pending: have it in the snapshot already
        before = oracle.steady(pid)
        # First at rest, where memory must be the same to the bit; the polling loop makes noise.
        rig.stop(pid)
        at_rest = memory.content(pid)
        stopped = self.tool.run("dump", pid, self.place.template("stopped"), "--leave-running")
        if stopped.code != 0 and not self.refused_as_it_may(stopped):
            raise Failed("dump of the stopped process: " + stopped.text())
        self.same_memory(at_rest, "dump of the stopped process")
        if not rig.all_in_state(pid, "T"):
            raise Failed("a stopped process runs after dump --leave-running: " + rig.describe(pid))
        if stopped.code == 0:
            self.tool.must("verify", self.place.template("stopped"))
        else:
            self.place.expect_only()
            self.note("stopped_refused", stopped.err.strip())
        rig.resume(pid)
        self.leave_running()
        self.compare(before)
        self.beside()

    def beside(self):
        """What was captured comes back in a sandbox, while the one that it was captured from runs on."""
        if self.changes or self.workload in self.options.single:
            return self.victim.go()
        original = self.victim.handles[-1]
        copy = self.one(self.restore("--sandbox", name="run0"))
        self.boxed(copy.pid, rig.inner_pid(original.pid))
        self.victim.go(2, [original, copy])
        for handle in reversed(self.victim.handles[1:]):  # the function, then its init
            self.ended(handle)
        return None

    def leave_running(self):
        """Dump of the running process. It moves to another CPU now and then, and the kernel writes
        that into its rseq area: only a page that changes with every dump counts."""
        pid, noisy, always = self.victim.pid, self.noise(), None
        for i in range(3):
            rig.stop(pid)
            before = memory.content(pid)
            rig.resume(pid)
            self.dump("--leave-running", name=f"run{i}")
            self.untouched()
            self.tool.must("verify", self.place.template(f"run{i}"))
            self.polls()  # not in the middle of what the interrupted sleep does: at rest in the next one
            rig.stop(pid)
            after = memory.content(pid, before[0])
            rig.resume(pid)
            changed = set(memory.differences(before, after)) - noisy
            always = changed if always is None else always & changed
            if not always or self.unsteady("memory"):
                return
        # On a busy machine some of what the victim does by itself shows only now and then.
        always -= self.noise(20)
        if not always:
            return
        raise Failed(f"dump --leave-running changed {len(always)} pages: "
                     + ", ".join(memory.where(pid, a) for a in sorted(always)[:4]))

    def noise(self, samples=3):
        """Pages that change by themselves while the victim polls for "go", and timers of up to 50 ms fire."""
        pid, noisy, last = self.victim.pid, set(), None
        for _ in range(samples):
            rig.stop(pid)
            now = memory.content(pid, last[0] if last else ())
            if last:
                noisy.update(memory.differences(last, now))
            last = now
            rig.resume(pid)
            time.sleep(0.05)
            self.polls()
        return noisy

    def polls(self, seconds=0.1):
        """The victim has looked for "go" and sleeps again, if it is one that polls and the machine lets it."""
        pid, switches = self.victim.pid, rig.status_field(self.victim.pid, "voluntary_ctxt_switches")
        rig.wait_until(lambda: rig.status_field(pid, "voluntary_ctxt_switches") != switches, seconds)

    def same_memory(self, before, what):
        pid = self.victim.pid
        changed = memory.differences(before, memory.content(pid, before[0]))
        if changed:
            raise Failed(f"{what} changed {len(changed)} pages: "
                         + ", ".join(memory.where(pid, a) for a in changed[:4]))

    def compare(self, before, mode=None, pid=None, what=""):
        found = oracle.compare(before, pid or self.victim.pid, mode or self.mode)
        found = [d for d in found if not self.unsteady(d)]
        if found:
            raise Failed(f"{what}{len(found)} differences: " + "; ".join(found[:12])[:3000])

    # --- restore ----------------------------------------------------------------------------

    def end_by_dump(self, name="t"):
        """Dump that ends the process: killed, and nothing of it left once its parent has reaped."""
        handle = self.victim.handles[-1]
        self.dump(name=name)
        if rig.alive(handle.pid) and handle.exists():
            rig.wait_until(lambda: not rig.alive(handle.pid), GRACE)
            if rig.alive(handle.pid):
                raise Failed("still there after dump: " + rig.describe(handle.pid))
        if not handle.reap(5):
            raise Failed("not reapable after dump: " + rig.describe(handle.pid))
        if handle.status is not None and not (
                os.WIFSIGNALED(handle.status) and os.WTERMSIG(handle.status) == signal.SIGKILL):
            raise Failed(f"dump should end it by SIGKILL, not {rig._end(handle.status)}")
        if handle.exists():
            raise Failed("a zombie is left after dump: " + rig.describe(handle.pid))

    def restore(self, *options, name="t"):
        if self.changes:
            self.victim.touch("restored")
        outcome = self.tool.must("restore", self.place.template(name), "--json", *options)
        try:
            processes = outcome.json()["processes"]
            pids = [p["pid"] for p in processes]
        except (ValueError, KeyError, TypeError):
            raise Failed(f"restore --json printed {outcome.out[:200]!r}") from None
        self.note("restore_us", outcome.json().get("total_us"))
        # The function is adopted last, so that it is the newest handle: dump and go look there.
        for process in processes:
            if process.get("sandbox_init"):
                self.victim.adopt(process["sandbox_init"])
        return [self.victim.adopt(pid) for pid in pids]

    def unsteady(self, what):
        if self.changes and re.match(r"fds/\d+/details/", what):
            return True  # changed.txt: comes back changed on purpose, and checks that itself
        entry = UNSTEADY.get(self.workload)
        return bool(entry and re.match(entry[0], what))

    def one(self, handles):
        if len(handles) != 1:
            raise Failed(f"{len(handles)} processes restored, not 1")
        return handles[0]

    def samples(self, count=3):
        """Memory of the running process at rest in its poll, as good as it can be had without a stop."""
        taken = []
        for _ in range(count):
            self.polls(5)
            taken.append(memory.content(self.victim.pid, taken[0][0] if taken else ()))
        return taken

    def compare_memory(self, before):
        """No page came back with content that it had in none of the samples from before, but those that change
        by themselves."""
        if self.changes or self.unsteady("memory") or self.unsteady("brought back"):
            return
        noisy = _moving(before)
        for count in (2, 20):  # on a busy machine some of what the victim does by itself shows only now and then
            pid, after = self.victim.pid, [memory.content(self.victim.pid, before[0][0])]
            after += self.samples(count)
            noisy |= _moving(after)
            changed = set.intersection(*(set(memory.differences(b, a)) for b in before for a in after)) - noisy
            if not changed:
                return
        raise Failed(f"{len(changed)} pages came back changed: "
                     + "; ".join(memory.explain(pid, a, before[-1], after[-1]) for a in sorted(changed)[:4]))

    def mode_restore(self):
        if self.refused:
            return self.refusal()
        pid, before = self.victim.pid, oracle.steady(self.victim.pid)
        pages = self.samples()
        self.end_by_dump()
        self.place.expect_only("t")
        self.tool.must("verify", self.place.template())
        restored = self.one(self.restore())
        if restored.pid != pid:
            raise Failed(f"restored as pid {restored.pid}, was {pid}")
        self.compare(before)
        self.compare_memory(pages)
        parent = rig.stat_fields(pid)[1]
        if int(parent) != os.getpid():
            raise Failed(f"restored process is a child of {rig.describe(int(parent))}, not handed over")
        self.untouched()
        self.victim.go()
        self.ended(restored)

    def ended(self, handle):
        if not handle.reap(5):
            raise Failed("does not end after its result: " + rig.describe(handle.pid) + rig._where(handle.pid))

    def mode_sandbox(self):
        if self.refused:
            return None
        before, pages = oracle.steady(self.victim.pid), self.samples()
        old = self.victim.pid
        self.end_by_dump()
        restored = self.one(self.restore("--sandbox"))
        self.boxed(restored.pid, old)
        self.compare(before)
        self.compare_memory(pages)
        self.victim.go(watch=[restored])
        for handle in reversed(self.victim.handles[1:]):  # the function, then its init
            self.ended(handle)
        return None

    def boxed(self, pid, inner):
        if rig.inner_pid(pid) != inner:
            raise Failed(f"pid inside the sandbox is {rig.inner_pid(pid)}, was {inner}")
        for ns in ("pid", "mnt", "ipc", "time"):
            if os.readlink(f"/proc/{pid}/ns/{ns}") == os.readlink(f"/proc/self/ns/{ns}"):
                raise Failed(f"the sandbox shares the caller's {ns} namespace")

    def mode_twice(self):
        self.chain()

    def mode_twice_sandbox(self):
        self.chain("--sandbox")

    def chain(self, *options):
        """Dump, restore, dump, restore: what came back must be as good as what was there."""
        old = self.victim.pid
        self.end_by_dump("first")
        middle = self.one(self.restore(*options, name="first"))
        before = oracle.steady(middle.pid)
        self.end_by_dump("second")
        for handle in reversed(self.victim.handles[1:]):
            self.ended(handle)  # its init goes with the function
        last = self.one(self.restore(*options, name="second"))
        if rig.inner_pid(last.pid) != old:
            raise Failed(f"pid {rig.inner_pid(last.pid)} after the second restore, was {old}")
        self.compare(before, "sandbox" if options else "restore", what="second generation: ")
        self.victim.go(watch=[last])
        self.ended(last)

    def mode_many(self):
        before, pages = oracle.steady(self.victim.pid), self.samples()
        self.end_by_dump()
        restored = self.restore("--sandbox", "--count", COUNT)
        if len({h.pid for h in restored}) != COUNT:
            raise Failed(f"{len(restored)} processes restored, not {COUNT}")
        for i, handle in enumerate(restored, 1):
            if i == COUNT or self.workload not in BRIEF:
                self.compare(before, "sandbox", handle.pid, f"number {i} of {COUNT}: ")
        self.compare_memory(pages)  # of the last
        self.victim.go(COUNT, restored)
        for handle in reversed(self.victim.handles[1:]):  # the function, then its init
            self.ended(handle)


def _moving(samples):
    """Pages that differ between samples of one process."""
    return {a for now in samples[1:] for a in memory.differences(samples[0], now)}


def running(pid, tracer):
    return all(rig.state(pid, t) in ("R", "S", "D", "Z", None) for t in rig.tids(pid)) and \
        rig.status_field(pid, "TracerPid") == tracer
