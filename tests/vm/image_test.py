#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The process image engine on Debian's stock kernels: tests/integration/matrix.py, and real programs, inside a guest.

The default is a chosen set that takes minutes under emulation; --long runs everything. One machine for each kernel, in
parallel. Prints one line a case and closes with "N passed, N failed, N skipped".
"""

import argparse
import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading

import machine
from machine import REPO, Machine
from vsock import VmError

KERNELS = ("6.1", "6.12")
MODES = ("leave", "restore", "sandbox", "twice")
# One of each kind of resource, and what older kernels do in another way: pagemap, timers, signals, restarts.
CHOSEN = ("anon_pattern", "altstack_active", "file_private_cow", "file_deleted", "memfd_seals", "pipe_64k",
          "eventfd_count", "epoll_nested", "timerfd_states", "posix_timers", "alarm_pending", "itimers", "itimer_fires",
          "signal_rt_queue", "signalfd_pending", "seccomp_filters", "unix_pair_queued", "unix_listen_path",
          "tcp_listen_v4", "udp_bound", "inotify_watches", "locks_posix", "swapped_pages", "threads_100", "futex_mutex",
          "nanosleep_relative", "fpu_avx", "madvise_*", "vmas_1000", "fd_1000", "reserve_64g", "shared_anon_dup",
          "main_stack_grows", "rseq_registered", "vdso_call", "refuse_child", "refuse_io_uring", "refuse_timer_alarm")
CHOSEN_PROGRAMS = {"python": ("restore",), "node": ("sandbox",), "redis": ("leave",), "java": ("restore",)}
LONG_PROGRAMS = {name: ("leave", "restore", "sandbox") for name in ("python", "node", "redis", "java")}
CLOSING = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$", re.MULTILINE)
IN_GUEST = "/opt/moult"


class Tally:
    """Counts and prints, for several machines at once."""

    def __init__(self):
        self.counts, self.lock = [0, 0, 0], threading.Lock()

    def show(self, text):
        with self.lock:
            print(text, flush=True)

    def add(self, outcome, name, reason=""):
        with self.lock:
            self.counts[("PASS", "FAIL", "SKIP").index(outcome)] += 1
        self.show(f"{outcome} {name}" + (f": {reason}" if reason else ""))


class Lines:
    """Splits the output of a command into lines as it comes."""

    def __init__(self, take):
        self.take, self.rest, self.all = take, b"", []

    def __call__(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.all.append(line.decode(errors="replace"))
            self.take(self.all[-1])


def install(vm, options, stripped):
    """What the tests need, at the same places relative to each other as in the repository."""
    tests = REPO / "tests"
    files = {"bin/workloads": os.path.join(options.bin, "workloads"), "bin/moult-image": stripped,
             "tests/integration": tests / "integration", "tests/programs": tests / "programs",
             **{f"tests/workloads/{p.name}": p for p in (tests / "workloads").glob("*.txt")}}
    if os.path.isdir(options.programs):
        files["programs"] = options.programs
    vm.push_tree(files, IN_GUEST)


def matrix(vm, kernel, options, tally):
    argv = ["/usr/bin/python3", f"{IN_GUEST}/tests/integration/matrix.py", "--bin", f"{IN_GUEST}/bin", "--jobs", "2",
            "--slow", "--timeout", "120", "--modes", ",".join(options.modes)]
    for glob in options.only:
        argv += ["--only", glob]

    def take(line):
        outcome, _, rest = line.partition(" ")
        if outcome in ("PASS", "FAIL", "SKIP"):
            name, _, reason = rest.partition(": ")
            tally.add(outcome, f"{kernel} {name}", reason)

    lines = Lines(take)
    result = vm.run(argv, timeout=options.timeout, on_output=lines)
    if result.code not in (0, 1) or not CLOSING.search("\n".join(lines.all)):
        tally.add("FAIL", f"{kernel} matrix", f"exit {result.code}: {result.err.decode(errors='replace')[-600:]}")


def program(vm, kernel, name, mode, tally):
    argv = ["/usr/bin/python3", f"{IN_GUEST}/tests/programs/run.py", name, "--mode", mode, "--moult-image",
            f"{IN_GUEST}/bin/moult-image", "--workdir", "/tmp/programs", "--builddir", f"{IN_GUEST}/programs"]
    result = vm.run(argv, timeout=600)
    text, where = result.text(), f"{kernel} programs.{name}.{mode}"
    closing = CLOSING.findall(text)
    passed, failed, skipped = map(int, closing[-1]) if closing else (0, 1, 0)
    if failed or (not passed and not skipped):
        bad = [l for l in text.splitlines() if l.startswith("FAIL")] or [result.err.decode(errors="replace")[-600:]]
        tally.add("FAIL", where, "; ".join(bad)[:1500])
    elif not passed:
        tally.add("SKIP", where, text.strip().splitlines()[0])
    else:
        tally.add("PASS", where, f"{passed} checks")


def one_kernel(kernel, options, stripped, tally):
    try:
        with Machine(kernel, memory=options.memory, window=0, bin_dir=options.bin) as vm:
            vm.boot()
            # Few hosts of tests have swap.
            vm.run(["/bin/sh", "-ec", "fallocate -l 64M /swap; chmod 600 /swap; mkswap -q /swap; swapon /swap"]).check()
            install(vm, options, stripped)
            if options.only:
                matrix(vm, kernel, options, tally)
            for name, modes in options.run_programs.items():
                for mode in modes:
                    program(vm, kernel, name, mode, tally)
            vm.shutdown()
    except VmError as e:
        tally.add("FAIL", f"{kernel} machine", str(e))


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=str(REPO / "build" / "dev" / "bin"))
    parser.add_argument("--programs", help="where compiled programs are; default: BIN/../programs/build")
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="default: both")
    parser.add_argument("--only", action="append", metavar="GLOB", help="workloads to run; no programs then")
    parser.add_argument("--program", action="append", metavar="NAME[:MODE]", help="programs to run; no workloads then")
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--long", action="store_true", help="every workload, every program, `many` too")
    parser.add_argument("--memory", type=int, default=2048, help="of each guest, MiB")
    parser.add_argument("--timeout", type=int, default=3600, help="seconds for the matrix as a whole")
    options = parser.parse_args()
    options.programs = options.programs or os.path.join(options.bin, "..", "programs", "build")
    options.modes = options.modes.split(",") + (["many"] if options.long else [])
    options.run_programs = LONG_PROGRAMS if options.long else CHOSEN_PROGRAMS
    if options.only:
        options.run_programs = {}
    elif options.program:
        pairs = [p.partition(":") for p in options.program]
        options.run_programs = {n: (m,) if m else LONG_PROGRAMS[n] for n, _, m in pairs}
        options.only = []
    else:
        options.only = ["*"] if options.long else list(CHOSEN)
    return options


def main():
    options, tally = parse(), Tally()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    missing = machine.missing_parts(options.kernel or KERNELS)
    if missing:
        return machine.skip_all(len(options.only) + len(options.run_programs), missing)
    machine.rootfs("build")  # once, before several machines ask for it
    with tempfile.TemporaryDirectory(prefix="moult-vm-test-") as folder:
        stripped = os.path.join(folder, "moult-image")  # symbols are nine tenths of the file
        subprocess.run(["strip", "-o", stripped, os.path.join(options.bin, "moult-image")], check=True, timeout=60)
        if "java" in options.run_programs:  # the guest has no compiler
            subprocess.run(["/usr/bin/python3", REPO / "tests/programs/run.py", "java", "--build", "--workdir", folder,
                            "--builddir", options.programs], check=True, timeout=120, stdout=subprocess.DEVNULL)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            runs = [pool.submit(one_kernel, k, options, stripped, tally) for k in options.kernel or KERNELS]
            for run in runs:
                run.result()
    passed, failed, skipped = tally.counts
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
