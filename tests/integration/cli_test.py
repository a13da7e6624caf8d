#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The command line of moult-image: exit codes, messages, and what a failure leaves behind (nothing).

`cli_test.py --bin DIR [unittest arguments]`. Needs root; victims come from DIR/workloads. The tests are in cli/.
"""

import argparse
import os
import sys
import unittest

import rig
from cli.case import CliCase
from cli.dump import DumpTest
from cli.durable import DurableTest
from cli.files import FilesTest
from cli.output import OutputTest
from cli.place import PlaceTest
from cli.restore import RestoreTest

__all__ = ["DumpTest", "DurableTest", "FilesTest", "OutputTest", "PlaceTest", "RestoreTest"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True)
    options, rest = parser.parse_known_args()
    CliCase.bin = os.path.abspath(options.bin)
    rig.become_subreaper()
    rig.own_mount_namespace()
    program = unittest.main(argv=[sys.argv[0], *rest], exit=False, verbosity=1)
    result = program.result
    failed = len({str(t).split(" ")[0] for t, _ in result.failures + result.errors})
    skipped = len(result.skipped)
    passed = result.testsRun - failed - skipped
    print(rig.closing_line(passed, failed, skipped))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
