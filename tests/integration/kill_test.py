#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Death at random moments: of the tool while it dumps or restores, of the process while it is dumped.

`kill_test.py --bin DIR [--rounds N] [--only GLOB] [--seed N]`. Whatever dies, the rest must be whole:
the victim runs as before, a template is complete or not there, a restored process likewise.
"""

import argparse
import fnmatch
import os
import sys
import time

import rig
from kill.dump import kill_dump, kill_dump_ending, kill_tracer
from kill.restore import kill_new, kill_restore
from kill.scenario import Scenario
from kill.victim import restless
from rig import Failed

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
