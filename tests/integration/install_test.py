#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install --component guest-agent` puts into an image: static programs, the configuration, and a systemd
unit that systemd finds nothing wrong with; and what `--component host-tools` puts on a host."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vm"))
from ctl import expect, run_cases  # noqa: E402

UNIT = "lib/systemd/system/moult-agent.service"
CASES = []


def case(function):
    CASES.append(function)
    return function


def run(*argv):
    return subprocess.run([os.fspath(a) for a in argv], capture_output=True, text=True, timeout=120, check=False)


def complaints(root):
    """Of systemd, about the unit in `root`; its exit code says nothing of most."""
    done = run("systemd-analyze", "verify", "--man=no", f"--root={root}", pathlib.Path(root, UNIT))
    return (done.stdout + done.stderr).strip()


@case
def everything_is_in_its_place(root):
    for path, mode in (("usr/sbin/moult-agent", 0o755), ("usr/bin/moult-image", 0o755), (UNIT, 0o644), ("etc/moult/agent.conf", 0o644)):
        expect((root / path).is_file(), f"{path} is not there")
        got = (root / path).stat().st_mode & 0o777
        expect(got == mode, f"{path} has mode {got:o}")


@case
def programs_depend_on_nothing(root):
    for path in ("usr/sbin/moult-agent", "usr/bin/moult-image"):
        expect("no dynamic section" in run("readelf", "-d", root / path).stdout, f"{path} is not static")
        done = run(root / path, "--help")
        expect(done.returncode == 0 and done.stdout, f"{path} --help: exit {done.returncode}: {done.stderr}")


@case
def host_has_its_tools(root):
    for name in ("moultctl", "moult-poold"):
        done = run(root / "usr/bin" / name, "--help")
        expect(done.returncode == 0 and done.stdout, f"{name} --help: exit {done.returncode}: {done.stderr}")
    # moultctl looks for it there.
    expect((root / "usr/lib/libmoult-qemu.so").is_file(), "libmoult-qemu.so is not there")


@case
def systemd_finds_the_unit_good(root):
    # What every system has, and the unit is ordered by.
    for target in pathlib.Path("/lib/systemd/system").glob("*.target"):
        shutil.copy(target, (root / UNIT).parent)
    expect(not complaints(root), complaints(root))
    # It would find something, if there was something.
    unit = root / UNIT
    good = unit.read_text(encoding="utf-8")
    for wrong in (good.replace("KillMode=process", "KillMode=proces"), good.replace("RestartSec=", "RestartSecs="),
                  good.replace("=moult-agent", "=no-agent")):
        unit.write_text(wrong, encoding="utf-8")
        expect(wrong != good and complaints(root), "a wrong unit is called good")
    unit.write_text(good, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, type=pathlib.Path, help="the build folder")
    options = parser.parse_args()
    cases = CASES
    if shutil.which("systemd-analyze") is None:
        print("SKIP systemd_finds_the_unit_good: no systemd-analyze here")
        cases = [c for c in CASES if c is not systemd_finds_the_unit_good]
    with tempfile.TemporaryDirectory(prefix="moult-install-") as root:
        for component in ("guest-agent", "host-tools"):
            done = subprocess.run(["cmake", "--install", options.build, "--component", component, "--prefix", "/usr"], capture_output=True,
                                  text=True, timeout=120, check=False, env={**os.environ, "DESTDIR": root})
            expect(done.returncode == 0, done.stderr)
        # Relative to the prefix, where systemd of a merged /usr looks as well.
        merged = pathlib.Path(root, "usr/lib/systemd")
        if merged.is_dir():
            pathlib.Path(root, "lib").symlink_to("usr/lib")
        return run_cases(cases, pathlib.Path(root), skipped=len(CASES) - len(cases))


if __name__ == "__main__":
    sys.exit(main())
