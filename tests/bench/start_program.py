#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""start_program.py PROGRAMS NAME WORK BUILD: starts and warms up one of tests/programs, and leaves it running.

Prints {"pid": N}, or {"skip": reason}.
"""
import importlib.util
import json
import os
import sys
import time

sys.dont_write_bytecode = True
# Connections of the warm-up have to be gone on both sides, and timers to have settled, before the first dump.
SETTLE_SECONDS = 1.0


def main():
    programs, name, work, build = sys.argv[1:]
    sys.path.insert(0, programs)
    spec = importlib.util.spec_from_file_location(f"program_{name}", os.path.join(programs, name, "program.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program = module.PROGRAM(work, os.path.join(build, name))
    missing = [path for path in program.needs if not os.path.exists(path)]
    if missing:
        return {"skip": f"{', '.join(missing)} not there; see tests/programs/packages.txt"}
    program.build()
    pid = program.start()
    try:
        program.warm(program.endpoint())
    except BaseException:
        os.kill(pid, 9)
        raise
    time.sleep(SETTLE_SECONDS)
    return {"pid": pid}


print(json.dumps(main()))
