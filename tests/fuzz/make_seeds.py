#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""make_seeds.py TARGET DIR: writes the inputs that a fuzz target starts from.

They come from what the target reads in earnest: this process's own /proc, or the golden templates.
The first byte chooses the parser, as in TARGET.cc.
"""

import pathlib
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "protocol" / "golden"
PROC_FILES = [  # In the order of kParsers in proc_fuzz.cc.
    "self/maps", "self/smaps", "self/status", "self/stat", "self/fdinfo/0", "self/mountinfo", "self/limits",
    "self/timers", "locks", "net/unix", "net/tcp", "self/auxv", "self/timens_offsets", "cpuinfo",
]
MAX_LENGTH = 16384
MANIFEST_HEADER = 64


def proc_fuzz():
    for parser, name in enumerate(PROC_FILES):
        try:
            yield parser, (pathlib.Path("/proc") / name).read_bytes()[:MAX_LENGTH]
        except OSError:  # This kernel does not have it.
            yield parser, b""


def template_fuzz():
    for version in sorted(path for path in GOLDEN.iterdir() if path.is_dir()):
        manifest = (version / "manifest").read_bytes()
        yield 0, manifest
        yield 1, manifest[MANIFEST_HEADER:]
        yield 2, (version / "image").read_bytes()


def main():
    target, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for number, (parser, content) in enumerate({"proc_fuzz": proc_fuzz, "template_fuzz": template_fuzz}[target]()):
        (folder / f"seed-{number}").write_bytes(bytes([parser]) + content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
