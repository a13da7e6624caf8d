#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""run.py NAME --mode MODE --moult-image PATH --workdir DIR: one real program, one mode. See README.md."""
import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import traceback

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import modes  # noqa: E402
import procfs  # noqa: E402
from driver import Report, Tool, ToolError  # noqa: E402

NAMES = ("python", "node", "java", "go", "redis", "c")
NEEDS_NO_TOOL = ("plain", "freeze")


def load(name):
    spec = importlib.util.spec_from_file_location(f"program_{name}", os.path.join(HERE, name, "program.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PROGRAM


def execute(report, options, work):
    build = os.path.abspath(options.builddir or os.path.join(options.workdir, "build"))
    program = load(options.name)(work, os.path.join(build, options.name), many=options.mode == "many")
    missing = [path for path in program.needs if not os.path.exists(path)]
    if missing:
        return report.skip("everything", f"{', '.join(missing)} not there; see packages.txt")
    if options.build:
        program.build()
        return report.check("builds", True)
    run = modes.Run(program, Tool(options.moult_image), report, work, options.count, not options.no_client)
    try:
        run.start()
        modes.MODES[options.mode](run)
    finally:
        run.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--mode", choices=modes.MODES, default="plain")
    parser.add_argument("--moult-image", help="the tool; modes plain and freeze do without")
    parser.add_argument("--workdir", required=True, help="a directory of its own is made in it for the run")
    parser.add_argument("--builddir", help="where programs are compiled (default: WORKDIR/build)")
    parser.add_argument("--build", action="store_true", help="only compile the program")
    parser.add_argument("--count", type=int, default=5, help="clones in mode many")
    parser.add_argument("--no-client", action="store_true", help="dump with no connected client")
    parser.add_argument("--keep", action="store_true", help="keep the run's directory, with images and log")
    options = parser.parse_args()
    if options.mode not in NEEDS_NO_TOOL and not options.build and not options.moult_image:
        parser.error(f"mode {options.mode} needs --moult-image")
    if options.moult_image:
        options.moult_image = os.path.abspath(options.moult_image)
    report = Report(f"{options.name} {options.mode}")
    procfs.become_subreaper()
    os.makedirs(options.workdir, exist_ok=True)
    work = tempfile.mkdtemp(prefix=f"{options.name}-{options.mode}-", dir=os.path.abspath(options.workdir))
    try:
        execute(report, options, work)
    except ToolError as error:
        report.check(f"moult-image {error}", False)
    except Exception as error:  # One line that says what; the stack says where.
        report.check(f"runs to the end: {type(error).__name__}: {error}", False)
        traceback.print_exc()
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
