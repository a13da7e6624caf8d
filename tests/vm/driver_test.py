#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The guest driver in real guests: driver_test.py [--kernel 6.1] [--only GLOB] [--bench]

For each kernel one machine is booted, whose window the host has filled with a pattern. In it the driver is loaded with
and without struct pages, from a PCI device, a module parameter and a virtio-pmem device, and the programs of
kernel-patch/selftests run against it. In the end the window must hold what it held, and the kernel's log no complaint:
a warning makes the guest panic.
"""

import argparse
import fnmatch
import os
import pathlib
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time

from complaints import PANICS, complaints
from machine import Machine, VmError, missing_parts, skip_all

REPO = pathlib.Path(__file__).resolve().parent.parent.parent
KERNEL_PATCH = REPO / "kernel-patch"
PAGE = 4096
PATTERN = 0x4D6F756C74000000
CODE = bytes.fromhex("b82a000000c3")  # mov eax, 42; ret
GUEST = "/root/driver"
SPARE = "/dev/vdb"  # the payload is vda
NOISE = 4 << 10  # KiB that others take meanwhile
RESULT = re.compile(r"^(ok|not ok) \d+ (.*?)(?: # SKIP (.*))?$")
# What each program is to be called with, and those that run with struct pages alone, and why.
ARGUMENTS = {"direct_io_test": [SPARE]}


class Window:
    """The host's side of a window: a memfd with the pattern, which QEMU maps shared."""

    def __init__(self, mib, salt=0):
        self.size, self.salt = mib << 20, salt
        self.fd = os.memfd_create("moult-window", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, self.size)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        for first in range(0, self.size // PAGE, 4096):
            os.pwrite(self.fd, self.content(first), first * PAGE)

    def content(self, first):
        """4096 pages from `first` on, as they must be."""
        count = min(4096, self.size // PAGE - first)
        data = b"".join(struct.pack("<Q", PATTERN | i) * (PAGE // 8) for i in range(first, first + count))
        if first + count == self.size // PAGE:
            data = data[:-PAGE] + CODE + data[len(data) - PAGE + len(CODE):]
        return data

    def differing_page(self):
        """The number of the first page that is not as it must be, or None."""
        for first in range(0, self.size // PAGE, 4096):
            want = self.content(first)
            if os.pread(self.fd, len(want), first * PAGE) != want:
                got = os.pread(self.fd, len(want), first * PAGE)
                return first + next(i for i in range(len(want)) if want[i] != got[i]) // PAGE
        return None

    def close(self):
        os.close(self.fd)


class Score:
    def __init__(self):
        self.passed, self.failed, self.skipped = 0, 0, 0

    def check(self, name, good, detail=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAIL {name}: {detail}", flush=True)

    def skip(self, name, why):
        self.skipped += 1
        print(f"SKIP {name}: {why}", flush=True)

    def take_tap(self, name, result):
        """Every line of a program's TAP output is one test; so is that it ran to its end."""
        text, planned, seen = result.text(), None, 0
        for line in text.splitlines():
            match = RESULT.match(line)
            if match and match[3] is not None:
                self.skip(f"{name}: {match[2]}", match[3])
            elif match:
                self.check(f"{name}: {match[2]}", match[1] == "ok", text[-400:])
            elif line.startswith("1.."):
                planned = int(line[3:])
            seen += bool(match)
        if planned is None or seen != planned or result.code not in (0, 1):
            self.check(name, False, f"exit {result.code}, {seen} results of {planned}: "
                       f"{text[-600:]} {result.err.decode(errors='replace')[-400:]}")


def build(series, out):
    """moult.ko for the kernel, and the selftests. Returns {name: path}."""
    module = subprocess.run([KERNEL_PATCH / "scripts" / "build-module", series, out / series], check=True,
                            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, timeout=1200).stdout.strip()
    programs = out / "selftests"
    programs.mkdir(exist_ok=True)
    subprocess.run(["make", "-s", "-j2", "-C", KERNEL_PATCH / "selftests", f"OUT={programs}"], check=True,
                   stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=600)
    return {"moult.ko": module, **{p.name: p for p in sorted(programs.iterdir())}}


class Guest:
    def __init__(self, vm, score, only):
        self.vm, self.score, self.only = vm, score, only

    def sh(self, script, timeout=60):
        return self.vm.run(["/bin/sh", "-c", script], timeout=timeout)

    def load(self, *parameters):
        quoted = " ".join(f"'{p}'" for p in parameters)
        return self.sh(f"modprobe -q virtio; dmesg -C; insmod {GUEST}/moult.ko {quoted} && dmesg | grep moult:")

    def load_and_weigh(self, *parameters):
        """What load() returns, and how many KiB less of the guest's memory are free: the median of three times, to and fro.
        Not MemAvailable: what the kernel holds in reserve is taken off that, and it works it out anew when memory is added. And with
        what CPUs keep for themselves of what is free, which MemFree does not count: more than 10 MiB at times."""
        script = ("sync; echo 3 >/proc/sys/vm/drop_caches; echo 1 >/proc/sys/vm/compact_memory; cat /proc/meminfo /proc/zoneinfo | "
                  "awk '/^MemFree/ {free += $2} /^ +count:/ {free += 4 * $2} END {print free}'")

        def free():
            return int(self.sh(script).check().text())

        before = free()
        loaded = self.load(*parameters)
        if loaded.code != 0:
            return loaded, 0
        first = free()
        self.sh("rmmod moult").check()
        between = free()
        loaded = self.load(*parameters)
        return loaded, statistics.median((before - first, between - first, between - free()))

    def unload(self, name):
        """Only after a detach of each whole window, which is what detach_test ends with."""
        done = self.sh("rmmod moult")
        self.score.check(f"{name}: the unused driver unloads", done.code == 0, done.err.decode(errors="replace"))

    def run(self, label, names):
        for name in names:
            if self.only and not fnmatch.fnmatch(name, self.only):
                continue
            start = time.monotonic()
            result = self.vm.run([f"{GUEST}/{name}", *ARGUMENTS.get(name, [])], timeout=300)
            self.score.take_tap(f"{label} {name}", result)
            print(f"{label} {name}: {time.monotonic() - start:.1f} s", flush=True)


def test_struct_pages(guest, label, tests):
    score = guest.score
    loaded, cost = guest.load_and_weigh()
    score.check(f"{label}: the driver loads", loaded.code == 0 and "with struct pages" in loaded.text(),
                loaded.text() + loaded.err.decode())
    wanted = window_place(guest)[1] >> 16
    score.check(f"{label}: struct pages cost 1/64 of the window", wanted * 0.9 < cost < wanted + NOISE, f"{cost} KiB, not {wanted}")
    guest.run(f"{label} pages", [t for t in tests if t != "detach_test"])
    # Other tests have attached since the last detach of all.
    refused = guest.sh("rmmod moult")
    if not guest.only:
        score.check(f"{label}: a driver whose window was not detached stays", refused.code != 0, "rmmod succeeded")
    guest.run(f"{label} pages", ["detach_test"])


def test_no_struct_pages(guest, label, tests):
    loaded, cost = guest.load_and_weigh("struct_pages=0")
    guest.score.check(f"{label}: the driver loads", loaded.code == 0 and "without struct pages" in loaded.text(),
                      loaded.text() + loaded.err.decode())
    guest.score.check(f"{label}: without struct pages the window costs no memory", cost < NOISE, f"{cost} KiB")
    guest.run(f"{label} no-pages", [t for t in tests if t != "detach_test"] + ["detach_test"])


def window_place(guest):
    """(gpa, bytes) of the ivshmem device's BAR 2."""
    text = guest.sh("for d in /sys/bus/pci/devices/*; do [ $(cat $d/vendor)$(cat $d/device) = 0x1af40x1110 ] && "
                    "sed -n 3p $d/resource; done; true").check().text().split()
    first, last = int(text[0], 16), int(text[1], 16)
    return first, last - first + 1


def test_sources(guest, label):
    """The other places where a window may come from, and ranges that are none."""
    score = guest.score
    gpa, size = window_place(guest)
    loaded = guest.load("pci=0", f"window={gpa:#x},{size >> 20}M")
    score.check(f"{label}: a window from a parameter", loaded.code == 0, loaded.err.decode())
    guest.run(f"{label} parameter", ["read_test", "cow_test", "detach_test"])
    guest.unload(f"{label} parameter")

    half = size // 2
    loaded = guest.load("pci=0", f"window={gpa:#x},{half};{gpa + half:#x},{half}")
    score.check(f"{label}: two windows from a parameter", loaded.text().count("struct pages") == 2,
                loaded.text() + loaded.err.decode())
    guest.unload(f"{label} two windows")

    loaded = guest.load("pci=0", "virtio_pmem=1")
    score.check(f"{label}: a window from virtio-pmem", "struct pages" in loaded.text(), loaded.err.decode())
    guest.run(f"{label} virtio-pmem", ["read_test", "cow_test", "access_test", "detach_test"])
    guest.unload(f"{label} virtio-pmem")

    bad = {"window=0x100000,2M": "RAM", f"window={gpa:#x},{size * 64}": "a device's other memory, or too long",
           "window=0,0": "nothing", f"window={gpa + 4096:#x},2M": "unaligned", f"window={gpa:#x},4096": "too small",
           "window=0xffffffffffe00000,4M": "overflow", "window=0x10000000000000,2M": "beyond what the CPU has",
           "window=hello": "no number", f"window={gpa:#x}": "no size", f"window={gpa:#x},2Mx": "trailing text",
           f"window={gpa:#x},2M;{gpa:#x},2M": "twice the same", "window=;": "empty"}
    for parameter, why in bad.items():
        refused = guest.load("pci=0", parameter)
        score.check(f"{label}: {parameter} ({why}) is refused", refused.code != 0, "it loaded")
        if refused.code == 0:
            guest.sh("rmmod moult")
    left = guest.sh("grep -c moult /proc/iomem || true").check().text().strip()
    score.check(f"{label}: no refused window keeps addresses", left == "0", left)


def bench(guest, label):
    guest.load()
    print(f"{label} bench:\n" + guest.vm.run([f"{GUEST}/attach_bench"], timeout=600).check().text(), flush=True)
    guest.run(label, ["detach_test"])
    guest.unload(f"{label} bench")


def machine_for(series, window, pmem, folder):
    spare = folder / f"spare-{series}"
    with open(spare, "wb") as f:
        f.truncate(16 << 20)
    return Machine(kernel=series, memory=768, cpus=2, window=0, append=PANICS, qemu_args=[
        "-m", "768,slots=2,maxmem=16G",
        "-object", f"memory-backend-file,id=window,share=on,size={window.size},mem-path={window.path}",
        "-device", "ivshmem-plain,memdev=window",
        "-object", f"memory-backend-file,id=pmem,share=on,size={pmem.size},mem-path={pmem.path}",
        "-device", "virtio-pmem-pci,memdev=pmem,id=pmem0",
        "-drive", f"file={spare},format=raw,if=none,id=spare", "-device", "virtio-blk-pci,drive=spare"])


def run_kernel(series, options, score, folder):
    files = build(series, folder)
    tests = [n for n in files if n.endswith("_test")]
    window, pmem = Window(1024), Window(64)
    try:
        with machine_for(series, window, pmem, folder) as vm:
            try:
                vm.boot()
                vm.push_tree(files, GUEST)
                guest = Guest(vm, score, options.only)
                test_struct_pages(guest, series, tests)
                if not options.only:
                    guest.unload(f"{series} pages")
                    test_no_struct_pages(guest, series, tests)
                    guest.unload(f"{series} no-pages")
                    test_sources(guest, series)
                if options.bench:
                    bench(guest, series)
                log = vm.run(["dmesg"]).check().text()
            except VmError as e:
                score.check(f"{series}: the machine", False, f"{e}; {vm.logs(4000)}")
                log = ""
            serial = pathlib.Path(vm.serial_log).read_text(encoding="utf-8", errors="replace")
        found = complaints(log + serial)
        score.check(f"{series}: the kernel does not complain", not found, "; ".join(found[:5]))
        for name, place in (("window", window), ("virtio-pmem window", pmem)):
            page = place.differing_page()
            score.check(f"{series}: the {name} is as before", page is None, f"page {page} differs")
    finally:
        window.close()
        pmem.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", action="append", choices=["6.1", "6.12"], help="default: both")
    parser.add_argument("--only", help="selftests that match, with struct pages")
    parser.add_argument("--bench", action="store_true", help="print what a template page costs")
    options = parser.parse_args()
    kernels = options.kernel or ["6.1", "6.12"]
    missing = missing_parts(kernels, cpus=2)
    if missing:
        return skip_all(len(kernels), missing)
    score = Score()
    with tempfile.TemporaryDirectory(prefix="moult-driver-") as folder:
        for series in kernels:
            try:
                run_kernel(series, options, score, pathlib.Path(folder))
            except (VmError, subprocess.SubprocessError) as e:
                score.check(f"{series}: set up", False, str(e))
    print(f"{score.passed} passed, {score.failed} failed, {score.skipped} skipped")
    return 1 if score.failed or not score.passed else 0


if __name__ == "__main__":
    sys.exit(main())
