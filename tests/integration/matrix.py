#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Every workload through every mode: plain, freeze, leave, restore, sandbox, twice, many.

Each case is a process of its own (a child subreaper), so a case that hangs or dies takes nothing
with it, and whatever is still a child of it at the end is a process that leaked.
"""

import argparse
import fnmatch
import json
import os
import signal
import sys
import time

import huge_pages
import rig
from matrix_case import COUNT, Case
from rig import Failed, Skipped

MODES = ["plain", "freeze", "leave", "restore", "sandbox", "twice", "twice-sandbox", "many"]
# With --slow (an emulated machine): what is over before it has been looked at.
SLOW = {
    "nanosleep_relative": "its sleep ends meanwhile",
    "cond_timedwait": "its timed waits end meanwhile",
    "poll_timeout": "its timed waits end meanwhile",
    "tcp_reader_closed": "its reader ends as soon as it runs again",
    "itimer_fires": "its signal handlers write to the stack all the time",
}


def case_main(options, mode, workload, report):
    """In the child: runs one case and writes (outcome, reason, notes) to the pipe."""
    os.setpgid(0, 0)
    rig.become_subreaper()
    signal.signal(signal.SIGTERM, _timed_out)
    notes = {}
    try:
        Case(options, mode, workload, notes).run()
        verdict = ("PASS", "")
    except Skipped as e:
        verdict = ("SKIP", str(e))
    except Failed as e:
        verdict = ("FAIL", str(e))
    except Exception as e:  # the runner's own fault, or a process that vanished under it
        import traceback
        frame = traceback.extract_tb(e.__traceback__)[-1]
        verdict = ("FAIL", f"{type(e).__name__}: {e} ({os.path.basename(frame.filename)}:{frame.lineno})")
    with os.fdopen(report, "w") as f:
        json.dump([*verdict, notes], f)
    os._exit(0)


def _timed_out(*_):
    raise Failed("the case as a whole took too long")


class Running:
    def __init__(self, options, mode, workload):
        self.mode, self.workload, self.start = mode, workload, time.monotonic()
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            case_main(options, mode, workload, write)
        os.close(write)
        self.report = os.fdopen(read)
        self.deadline = self.start + options.timeout * (6 if "twice" in mode else 4)

    def poll(self):
        """The verdict when the case has ended, else None."""
        late = time.monotonic() - self.deadline
        if late > 0:
            os.kill(self.pid, signal.SIGTERM if late < 30 else signal.SIGKILL)
            self.deadline += 1 if late < 30 else 0
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        text = self.report.read()
        self.report.close()
        verdict = json.loads(text) if text else ["FAIL", f"runner: {rig._end(status)}", {}]
        return dict(zip(("outcome", "reason", "notes"), verdict), mode=self.mode, workload=self.workload,
                    seconds=round(time.monotonic() - self.start, 3))


def plan(options):
    """[(mode, workload)] to run, and [(mode, workload, why)] that are skipped from the start."""
    todo, skipped = [], []
    have_tool = os.access(os.path.join(options.bin, "moult-image"), os.X_OK)
    for mode in options.modes:
        for workload in rig.workloads(options.bin):
            if not any(fnmatch.fnmatchcase(workload, g) for g in options.only):
                continue
            if mode not in ("plain", "freeze") and not have_tool:
                skipped.append((mode, workload, "no moult-image in " + options.bin))
            elif workload in options.refuse and mode not in ("plain", "freeze", "leave", "restore"):
                continue  # there is no template to restore
            elif options.slow and workload in SLOW and mode not in ("plain", "freeze"):
                skipped.append((mode, workload, "slow machine: " + SLOW[workload]))
            elif mode == "many" and workload in options.single:
                skipped.append((mode, workload, "single.txt: " + (options.single[workload] or "cannot be twice")))
            else:
                todo.append((mode, workload))
    return todo, skipped


def reserve_huge_pages(todo, skipped):
    """For those of `todo` that need some; without enough of them they become skipped."""
    users = [(mode, workload) for mode, workload in todo if workload in huge_pages.WORKLOADS]
    pages = huge_pages.HugePages(len(huge_pages.WORKLOADS) + COUNT if users else 0)
    if pages.missing:
        skipped += [(*user, pages.missing) for user in users]
        todo[:] = [case for case in todo if case not in users]
    return pages


def show(result):
    tail = f": {result['reason']}" if result["reason"] else ""
    print(f"{result['outcome']} {result['mode']} {result['workload']}{tail}", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="directory with moult-image and workloads/")
    parser.add_argument("--only", action="append", metavar="GLOB", help="workloads to run; may be repeated")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=60, help="seconds for each single wait")
    parser.add_argument("--slow", action="store_true", help="skip what needs a machine that is not emulated")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    options.bin = os.path.abspath(options.bin)
    options.only = options.only or ["*"]
    names = rig.workloads(options.bin)
    if idle := [g for g in options.only if not fnmatch.filter(names, g)]:
        parser.error(f"no workload in {options.bin}/workloads is called {', '.join(idle)}")
    wanted = options.modes.split(",")
    if unknown := [m for m in wanted if m not in MODES]:
        parser.error(f"no such mode: {', '.join(unknown)}")
    options.modes = [m for m in MODES if m in wanted or m == "twice-sandbox" and "twice" in wanted]
    options.single, options.refuse, options.may_refuse, options.changed = map(
        rig.read_list, ("single.txt", "refuse.txt", "may_refuse.txt", "changed.txt"))
    return options


def main():
    options = parse()
    rig.become_subreaper()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends its cases as ^C does
    todo, skipped = plan(options)
    pages = reserve_huge_pages(todo, skipped)
    try:
        return run_all(options, todo, skipped)
    finally:
        pages.close()


def run_all(options, todo, skipped):
    results = [{"outcome": "SKIP", "mode": m, "workload": w, "reason": why} for m, w, why in skipped]
    active, todo = [], list(reversed(todo))
    try:
        while todo or active:
            while todo and len(active) < options.jobs:
                active.append(Running(options, *todo.pop()))
            finished = [(r, v) for r in active if (v := r.poll())]
            for case, verdict in finished:
                active.remove(case)
                results.append(verdict)
                show(verdict)
            if not finished:
                time.sleep(rig.POLL_SECONDS)
    except KeyboardInterrupt:
        for case in active:
            os.kill(case.pid, signal.SIGTERM)
        for case in active:
            os.waitpid(case.pid, 0)
        raise
    for result in results[:len(skipped)]:
        show(result)
    for pid in rig.children():  # of a case that had to be killed itself
        results.append({"outcome": "FAIL", "mode": "any", "workload": "any",
                        "reason": "left behind: " + rig.describe(pid)})
        show(results[-1])
        handle = rig.Handle(pid)
        handle.kill()
        handle.reap(5)
    count = {o: sum(r["outcome"] == o for r in results) for o in ("PASS", "FAIL", "SKIP")}
    if options.json:
        with open(options.json, "w", encoding="utf-8") as f:
            json.dump({"results": results, "counts": count}, f, indent=1)
    print(rig.closing_line(count["PASS"], count["FAIL"], count["SKIP"]))
    return 1 if count["FAIL"] or not count["PASS"] else 0


if __name__ == "__main__":
    sys.exit(main())
