#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What machine.py promises: each kernel boots and runs commands; files come through whole; a hang ends at its deadline;
disks are never written to; nothing outlives a machine, however it ends."""

import argparse
import hashlib
import os
import resource
import signal
import subprocess
import sys
import time
import traceback

from machine import Machine, REPO, ROOTFS, missing_parts, rootfs, skip_all
from vsock import VmError

CASES = []


def case(function):
    CASES.append(function)
    return function


def expect(condition, text):
    if not condition:
        raise VmError(text)


def message_of(action):
    try:
        action()
    except VmError as e:
        return str(e)
    raise VmError("no error where one is due")


@case
def release_is_the_asked_one(vm, kernel):
    release = vm.run(["uname", "-r"]).check().text().strip()
    with open(f"{rootfs('kernel', kernel)}/release", encoding="ascii") as f:
        expect(release == f.read().strip(), f"the guest runs {release}")


@case
def exit_code_and_streams_are_kept_apart(vm, _):
    done = vm.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 7"])
    expect((done.code, done.out, done.err) == (7, b"out\n", b"err\n"), f"{done.code} {done.out} {done.err}")
    expect(vm.run(["/bin/sh", "-c", "kill -9 $$"]).code == -9, "a signal is not told")
    expect(vm.run(["/no/such/program"]).code == 127, "a program that is not there")


@case
def input_comes_through_whole(vm, _):
    data = os.urandom(3_000_001)
    digest = vm.run(["sha256sum"], data).check().text().split()[0]
    expect(digest == hashlib.sha256(data).hexdigest(), "sha256 of 3 MB of input differs")
    expect(vm.run(["true"], data).code == 0, "a command that does not read its input")


@case
def push_and_pull_keep_content(vm, _):
    data = os.urandom(5_000_003)
    vm.push(data, "/tmp/folder/file", mode=0o640)
    expect(vm.pull("/tmp/folder/file") == data, "5 MB differ")
    expect(vm.run(["stat", "-c", "%a", "/tmp/folder/file"]).text().strip() == "640", "mode of a pushed file")


@case
def command_that_hangs_ends_at_the_deadline_and_in_the_guest(vm, _):
    start = time.monotonic()
    message = message_of(lambda: vm.run(["sleep", "1234"], timeout=1))
    expect("sleep 1234: not done in 1 s" in message, message)
    expect(time.monotonic() - start < 5, "the deadline is late")
    # It is killed when the guest learns that the connection is closed; `tail --pid` waits for its end. The bracket
    # keeps pgrep from finding the shell.
    script = "for p in $(pgrep -f 'sleep 123[4]'); do timeout 10 tail --pid=$p -s 0.01 -f /dev/null || exit 1; done"
    expect(vm.run(["/bin/sh", "-c", script]).code == 0, "the command runs on in the guest")


@case
def child_that_holds_the_output_does_not_hold_the_answer(vm, _):
    done = vm.run(["/bin/sh", "-c", "sleep 600 & echo $!"], timeout=10).check()
    vm.run(["kill", done.text().strip()]).check()


@case
def commands_run_at_the_same_time(vm, _):
    vm.run(["mkfifo", "/tmp/meet"]).check()
    import concurrent.futures
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reader = pool.submit(vm.run, ["cat", "/tmp/meet"], timeout=20)
        vm.run(["/bin/sh", "-c", "echo met >/tmp/meet"], timeout=20).check()
        expect(reader.result().text() == "met\n", "two commands do not meet")


@case
def runtimes_are_there(vm, _):
    for argv in (["python3", "-c", "import numpy, PIL"], ["node", "-e", "0"], ["java", "-version"],
                 ["redis-server", "--version"], ["criu", "--version"]):
        vm.run(argv, timeout=120).check()
    version = vm.run(["node", "--version"]).check().text()
    expect(version.startswith("v18."), f"node {version}: not Debian's")


@case
def modules_load(vm, _):
    vm.run(["modprobe", "-a", "overlay", "unix_diag", "inet_diag", "netlink_diag", "nf_tables", "virtio_pmem"]).check()


@case
def window_is_a_device_above_4g(vm, _):
    found = vm.run(["/bin/sh", "-c", "for d in /sys/bus/pci/devices/*; do read -r v <$d/vendor; read -r i <$d/device; "
                    '[ "$v $i" = "0x1af4 0x1110" ] && sed -n 3p $d/resource; done; :']).check().text().split()
    expect(found, "no ivshmem device")
    first, last = int(found[0], 16), int(found[1], 16)
    expect(first >= 1 << 32, f"the window is at {first:#x}")
    expect(last - first + 1 == vm.window << 20, f"the window has {last - first + 1} bytes")


@case
def qmp_answers(vm, _):
    expect(vm.qmp("query-status")["status"] == "running", "query-status")
    expect("no-such-command" in message_of(lambda: vm.qmp("no-such-command")), "error of QMP")


@case
def powers_off_and_leaves_nothing(vm, _):
    pids = [child.pid for child in vm._children]
    vm.run(["/bin/sh", "-c", "echo dirty >/dirty; sync"]).check()
    expect(vm.shutdown() == 0, "QEMU's exit code")
    expect("does not run" in message_of(lambda: vm.run(["true"])), "run after shutdown")
    vm.close()
    expect(not os.path.exists(vm.folder), "the folder is still there")
    expect(not any(os.path.exists(f"/proc/{pid}") for pid in pids), "a process is still there")


def image_is_not_written(before):
    stat = os.stat(rootfs("build"))
    expect((stat.st_mtime_ns, stat.st_size) == before, "the cached image has been written to")


def kernel_that_panics_ends_the_boot(options):
    with Machine("6.1", window=0, bin_dir=options.bin, append="init=/no/such/init") as vm:
        message = message_of(lambda: vm.boot(60))
        expect("QEMU ended with 0" in message and "init" in message, message[:300])


def dies_with_its_maker(options):
    """A machine whose maker is killed: QEMU and the vsock device end at once."""
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from machine import Machine\n"
            "vm = Machine('6.1', window=0, bin_dir=sys.argv[2]).boot()\n"
            "print(vm.folder, *[c.pid for c in vm._children], flush=True); sys.stdin.read()")
    maker = subprocess.Popen([sys.executable, "-c", code, str(REPO / "tests" / "vm"), options.bin],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        folder, *pids = maker.stdout.readline().decode().split()
        fds = [os.pidfd_open(int(p)) for p in pids]
    finally:
        maker.kill()
        maker.communicate()
    import select
    import shutil
    shutil.rmtree(folder, ignore_errors=True)
    end = time.monotonic() + 10
    alive = set(fds)
    while alive and time.monotonic() < end:
        alive -= set(select.select(list(alive), [], [], end - time.monotonic())[0])
    for fd in fds:
        os.close(fd)
    expect(len(fds) >= 1 and not alive, f"{len(alive)} of {len(fds)} processes outlive their maker")


def nothing_to_do_is_quick(_):
    def cpu_seconds():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime
    start = cpu_seconds()
    for argv in (["kernel", "6.1"], ["kernel", "6.12"], ["build"], ["vsock-device"]):
        subprocess.run([ROOTFS / argv[0], *argv[1:]], check=True, stdout=subprocess.DEVNULL, timeout=60)
    expect(cpu_seconds() - start < 5, f"{cpu_seconds() - start:.1f} s of CPU time")


class Report:
    def __init__(self):
        self.passed, self.failed = 0, 0

    def run(self, name, action):
        start = time.monotonic()
        try:
            action()
            self.passed += 1
            print(f"PASS {name} ({time.monotonic() - start:.1f} s)", flush=True)
            return True
        except Exception as e:  # the next case is still worth running
            self.failed += 1
            print(f"FAIL {name}: {e if isinstance(e, VmError) else traceback.format_exc()}", flush=True)
            return False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=str(REPO / "build" / "dev" / "bin"))
    parser.add_argument("--kernel", action="append", choices=("6.1", "6.12"), help="default: both")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kernels = options.kernel or ("6.1", "6.12")
    missing = missing_parts(kernels)
    if missing:
        return skip_all(len(kernels) * (1 + len(CASES)) + 4, missing)
    report, stat = Report(), os.stat(rootfs("build"))
    for kernel in kernels:
        with Machine(kernel, bin_dir=options.bin) as vm:
            if not report.run(f"{kernel} boots under {vm.accel}", lambda vm=vm: vm.boot(120)):
                continue
            for function in CASES:
                report.run(f"{kernel} {function.__name__}", lambda f=function, vm=vm, k=kernel: f(vm, k))
    for function in (kernel_that_panics_ends_the_boot, dies_with_its_maker, nothing_to_do_is_quick):
        report.run(function.__name__, lambda f=function: f(options))
    report.run("image_is_not_written", lambda: image_is_not_written((stat.st_mtime_ns, stat.st_size)))
    print(f"{report.passed} passed, {report.failed} failed, 0 skipped")
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
