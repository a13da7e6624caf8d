#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A system call of the tool fails, each kind at several places: the tool says so, and nothing is harmed or left.

`fault_test.py --bin DIR [--places N] [--only GLOB]`. strace makes the calls fail. Of a dump it follows the tool and
the process that traces; of a restore the tool alone, since what a restore makes has the tool for its tracer.
"""

import argparse
import fnmatch
import os
import re
import subprocess
import sys
import tempfile

import oracle
import rig
from kill.restore import end_children
from kill.scenario import GRACE, reap_until
from rig import Failed

STRACE = "/usr/bin/strace"
# Calls and the error that each one is made to return: what a full machine, a limit or a process that ends gives.
DUMP_FAULTS = {
    "openat": "EMFILE", "read": "EIO", "pread64": "EIO", "getdents64": "ENOMEM", "readlinkat": "ENOENT", "fstat,newfstatat": "EIO",
    "mmap": "ENOMEM", "process_vm_readv": "EFAULT", "process_vm_writev": "ESRCH", "ptrace": "EPERM", "kcmp": "EPERM",
    "pidfd_open": "EMFILE", "pidfd_getfd": "EMFILE", "pwritev,pwritev2,pwrite64": "ENOSPC", "write": "ENOSPC", "fsync": "EIO",
    "ftruncate,fallocate": "ENOSPC", "linkat": "EXDEV", "mkdirat,mkdir": "EDQUOT", "rename,renameat,renameat2": "EROFS",
    "sched_getattr": "EPERM", "sched_getaffinity": "EPERM", "get_robust_list": "EPERM", "pidfd_send_signal": "EPERM",
}
RESTORE_FAULTS = {
    "openat": "EMFILE", "read": "EIO", "pread64": "EIO", "fstat,newfstatat": "EIO", "mmap": "ENOMEM", "memfd_create": "EMFILE",
    "ftruncate": "ENOSPC", "clone3": "EAGAIN", "ptrace": "ESRCH", "fcntl": "EMFILE", "getdents64": "ENOMEM", "pidfd_open": "EMFILE",
    "setns": "EPERM", "process_vm_readv": "EFAULT",
}
# Whatever call they come from, the user can do something about it: kRemedies in protocol/src/base/status.cc.
REMEDIED = ("EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EDQUOT", "EPERM", "EACCES", "EIO", "EAGAIN")
# Once a process is seized, ptrace fails only for a thread that has ended, which strace cannot make true.
FIRST_ONLY = ("ptrace",)
# Every code but "usage": which one depends on what failed. Not a signal.
CODES = (0, 1, 3, 4, 5, 6, 7, 8)


class Faults:
    def __init__(self, options):
        self.options = options
        self.tool = rig.Tool(options.bin, 60)
        self.place = rig.Workplace()
        self.log = tempfile.NamedTemporaryFile(prefix="moult-strace-")
        self.outcomes = {"PASS": 0, "FAIL": 0, "SKIP": 0}
        self.codes = {}

    def strace(self, follow, calls, fault, *args):
        argv = [STRACE, *(["-f", "--seccomp-bpf"] if follow else []), "-qq", "-o", self.log.name, "-e", f"trace={calls}",
                *(["-e", f"inject={calls}:{fault}"] if fault else []), self.tool.path, *map(str, args)]
        proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = proc.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            proc.kill()
            proc.communicate()
            raise Failed("the tool does not end in 60 s") from None
        return proc.returncode, out, err

    def count(self, follow, calls, *args):
        """How often a run without faults makes these calls, for each of its processes."""
        code, _, err = self.strace(follow, calls, None, *args)
        if code != 0:
            raise Failed(f"without a fault: exit {code}: {err}")
        with open(self.log.name, encoding="utf-8", errors="replace") as f:
            lines = f.read().splitlines()
        by_process = {}
        for line in lines:
            pid = re.match(r"\d+(?= )", line)
            key = pid.group() if pid and follow else "tool"
            by_process[key] = by_process.get(key, 0) + ("resumed>" not in line and "+++" not in line and "---" not in line)
        return max(by_process.values(), default=0)

    def places(self, calls, first_only=False):
        """Some of 1..calls: the first ones (up to three), the last one, and evenly in between."""
        if first_only:
            return [1, 2]
        if calls == 0:
            raise rig.Skipped("it is not called")
        wanted = self.options.places
        return sorted({*range(1, min(wanted, 3) + 1), calls, *(1 + i * calls // wanted for i in range(wanted))} & set(range(1, calls + 1)))

    def check_run(self, op, code, err, error):
        self.codes[code] = self.codes.get(code, 0) + 1
        if code not in CODES:
            raise Failed(f"exit {code}: {err.strip()!r}")
        if code != 0 and not re.fullmatch(rf"moult-image: ({op} \S+|write the result to stdout:)[^\n]+\n", err):
            raise Failed(f"exit {code} with an unclear message: {err!r}")
        if code != 0 and error in REMEDIED and not re.search(r"; \w", err):
            raise Failed(f"exit {code} with a message that names no remedy: {err!r}")

    # --- dump -------------------------------------------------------------------------------

    def dump(self, calls, error, leave):
        victim = rig.Victim(os.path.join(self.options.bin, "workloads", self.options.workload), tempfile.mkdtemp(dir=self.place.root), timeout=30)
        try:
            victim.wait_ready()
            args = ("dump", victim.pid, self.place.template(), *(["--leave-running"] if leave else []))
            total = self.count(True, calls, "dump", victim.pid, self.place.template(), "--leave-running")
            self.drop()
            before = oracle.steady(victim.pid)
            if not leave and calls == "pidfd_send_signal":
                total = 1  # by which the process is ended
            for place in self.places(total, calls in FIRST_ONLY):
                code, _, err = self.strace(True, calls, f"error={error}:when={place}", *args)
                when = f"{calls} number {place} of {total} fails with {error}"
                self.after_dump(victim, before, code, err, error, when, leave)
                if not rig.alive(victim.pid):
                    break  # ended, as was asked for
            else:
                victim.go()
        finally:
            victim.close()

    def after_dump(self, victim, before, code, err, error, when, leave):
        try:
            self.check_run("dump", code, err, error)
        except Failed as e:
            raise Failed(f"{when}: {e}") from None
        if code == 0:
            self.tool.must("verify", self.place.template())
        elif os.listdir(self.place.templates) not in ([], ["t"]):
            raise Failed(f"{when}: beside the template: {os.listdir(self.place.templates)}")
        elif os.listdir(self.place.templates):  # published, and a later step failed
            self.tool.must("verify", self.place.template())
        self.drop()
        if not leave and (code == 0 or "write the result" in err):  # which comes when all is done
            if not victim.handles[-1].reap(5):
                raise Failed(f"{when}: it was to end: {rig.describe(victim.pid)}")
            return
        if not rig.wait_until(lambda: rig.alive(victim.pid) and rig.status_field(victim.pid, "TracerPid") == "0"
                              and not rig.all_in_state(victim.pid, "Tt"), GRACE):
            raise Failed(f"{when}: exit {code} ({err.strip()}), and harmed: {rig.describe(victim.pid)}; log: {victim.log_tail()}")
        found = oracle.compare(before, victim.pid, "leave")
        if found:
            raise Failed(f"{when}: exit {code} ({err.strip()}), and changed: {found[:4]}")

    def drop(self):
        for name in os.listdir(self.place.templates):
            subprocess.run(["rm", "-rf", os.path.join(self.place.templates, name)], check=True)

    # --- restore ----------------------------------------------------------------------------

    def restore(self, calls, error, *options):
        victim = rig.Victim(os.path.join(self.options.bin, "workloads", self.options.workload), tempfile.mkdtemp(dir=self.place.root), timeout=30)
        try:
            victim.wait_ready()
            self.tool.must("dump", victim.pid, self.place.template())
            victim.handles[-1].reap(5)
            args = ("restore", self.place.template(), *options)
            total = self.count(False, calls, *args)
            end_children()
            for place in self.places(total):
                code, _, err = self.strace(False, calls, f"error={error}:when={place}", *args)
                when = f"{calls} number {place} of {total} fails with {error}"
                try:
                    self.check_run("restore", code, err, error)
                except Failed as e:
                    raise Failed(f"{when}: {e}") from None
                if code == 0:
                    end_children()
                if not reap_until(set(), 5):
                    raise Failed(f"{when}: exit {code} ({err.strip()}), and left: {[rig.describe(c) for c in rig.children()]}")
            # And the template is as good as before.
            outcome = self.tool.must(*args)
            victim.adopt(int(outcome.out.split()[0]))
            victim.go(watch=[victim.handles[-1]])
        finally:
            victim.close()
            end_children()
            self.drop()

    # --- all --------------------------------------------------------------------------------

    def run(self, name, function, *args):
        if not fnmatch.fnmatchcase(name, self.options.only):
            return
        self.codes = {}
        try:
            function(*args)
            outcome, reason = "PASS", ""
        except rig.Skipped as e:
            outcome, reason = "SKIP", str(e)
        except Failed as e:
            outcome, reason = "FAIL", str(e)
        codes = ", ".join(f"{n} x exit {code}" for code, n in sorted(self.codes.items()))
        print(f"{outcome} {name}{': ' + reason if reason else ''} [{codes}]", flush=True)
        self.outcomes[outcome] += 1
        end_children()
        self.drop()

    def run_all(self):
        for calls, error in DUMP_FAULTS.items():
            name = calls.split(",")[0]
            self.run(f"dump-{name}", self.dump, calls, error, True)
            if name in ("ptrace", "fsync", "rename", "pidfd_send_signal", "write"):
                self.run(f"dump-ending-{name}", self.dump, calls, error, False)
        for calls, error in RESTORE_FAULTS.items():
            self.run(f"restore-{calls.split(',')[0]}", self.restore, calls, error)
            self.run(f"restore-sandbox-{calls.split(',')[0]}", self.restore, calls, error, "--sandbox")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--places", type=int, default=8, help="about as many of each kind of call")
    parser.add_argument("--workload", default="threads_8")
    parser.add_argument("--only", default="*", metavar="GLOB")
    options = parser.parse_args()
    options.bin = os.path.abspath(options.bin)
    if not os.access(STRACE, os.X_OK):
        print(f"{STRACE} is not installed")
        return 77
    rig.become_subreaper()
    faults = Faults(options)
    try:
        faults.run_all()
    finally:
        faults.place.close()
    passed, failed, skipped = (faults.outcomes[o] for o in ("PASS", "FAIL", "SKIP"))
    print(rig.closing_line(passed, failed, skipped))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
