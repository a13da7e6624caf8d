#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tally.py [--sum] REPORT...: counts what ctest wrote with --output-junit.

A test that ends with "N passed, N failed, N skipped" of its own counts as those; any other as one.
"""

import argparse
import os
import re
import sys
import xml.etree.ElementTree

CLOSING = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
FAILED_LINE = re.compile(r"^(?:FAIL\b|ERROR:).*", re.MULTILINE)


def count(case):
    """(passed, failed, skipped) of one <testcase>."""
    status = case.get("status")
    own = CLOSING.findall(case.findtext("system-out") or "")
    passed, failed, skipped = map(int, own[-1]) if own else (0, 0, 0)
    if case.find("skipped") is not None or status in ("notrun", "disabled"):
        return 0, 0, max(skipped, 1)
    if status == "run":
        return (passed, failed, skipped) if passed else (1, 0, skipped)
    return passed, max(failed, 1), skipped


def read(path):
    if not os.path.exists(path):  # ctest found nothing to run, or died.
        return [("ctest", (0, 1, 0), f"no {path}")]
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
    except xml.etree.ElementTree.ParseError as e:
        return [("ctest", (0, 1, 0), f"{path}: {e}")]
    return [(c.get("name"), count(c), c.findtext("system-out") or "") for c in root.iter("testcase")]


def total(cases):
    return tuple(sum(c[1][i] for c in cases) for i in range(3)) if cases else (0, 0, 0)


def line(counts):
    return "{} passed, {} failed, {} skipped".format(*counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sum", action="store_true", help="print the sum alone, and exit 1 unless all is well")
    parser.add_argument("--broken", type=int, default=0, help="failures to add: steps before the tests")
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("reports", nargs="*")
    options = parser.parse_args()
    cases = [case for path in options.reports for case in read(path)]
    passed, failed, skipped = total(cases)
    failed += options.broken
    if options.sum:
        print(line((passed, failed, skipped)))
        return 1 if failed or not passed else 0
    print(f"{line((passed, failed, skipped))}, {options.seconds} s")
    for name, counts, output in cases:
        if counts[1]:
            print(f"    FAIL {name}: {line(counts)}")
            for text in FAILED_LINE.findall(output)[:20]:
                print(f"        {text[:800]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
