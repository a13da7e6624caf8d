#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""AF_VSOCK, and who may connect: libmoult and agents in one guest, over its loopback (CID 1)."""
import argparse
import json
import lzma
import pathlib
import sys

from ctl import expect, run_cases
from machine import Machine, missing_parts, rootfs, skip_all

CASES = []
HERE_ALLOWED, HOST_ALONE = 2001, 2002


def case(function):
    CASES.append(function)
    return function


def load_loopback(vm, kernel):
    [module] = pathlib.Path(rootfs("kernel", kernel), "modules").resolve().rglob("vsock_loopback.ko*")
    data = module.read_bytes()
    vm.push(lzma.decompress(data) if module.suffix == ".xz" else data, "/run/vsock_loopback.ko")
    vm.run(["insmod", "/run/vsock_loopback.ko"]).check()


def start_agent(vm, port, **more):
    config = {"vsock_port": port, "state_dir": f"/run/moult-{port}", "cgroup_root": f"/sys/fs/cgroup/moult-{port}", **more}
    vm.push(json.dumps(config).encode(), f"/run/{port}.conf")
    script = (f"setsid /run/moult-agent --config /run/{port}.conf >/run/{port}.log 2>&1 </dev/null & "
              f"for i in $(seq 600); do grep -q 'moult-agent: ready' /run/{port}.log && exit 0; sleep 0.1; done; cat /run/{port}.log; exit 1")
    vm.run(["/bin/sh", "-c", script], timeout=90).check()


@case
def function_is_run_listed_and_ended(vm):
    done = vm.run(["/run/moult-vm-loopback", "1", str(HERE_ALLOWED)])
    expect(done.code == 0 and done.text().splitlines() == ["run ok", "list ok", "kill ok"], f"exit {done.code}: {done.text()}")


@case
def other_cids_are_refused_by_default(vm):
    done = vm.run(["/run/moult-vm-loopback", "1", str(HOST_ALONE)])
    expect(done.code == 1 and done.text().startswith("run: UNAVAILABLE"), f"exit {done.code}: {done.text()}")
    log = vm.pull(f"/run/{HOST_ALONE}.log").decode()
    expect("refused a connection from vsock CID 1" in log, log)
    expect(vm.run(["/run/moult-vm-loopback", "1", str(HERE_ALLOWED)]).code == 0, "the other agent serves no longer")


@case
def nobody_there_is_said_so(vm):
    done = vm.run(["/run/moult-vm-loopback", "1", "2003"])
    expect(done.code == 1 and "connect to the agent at vsock 1:2003" in done.text() and "UNAVAILABLE" in done.text(), done.text())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of moult-agent and moult-vm-loopback")
    parser.add_argument("--kernel", default="6.1")
    options = parser.parse_args()
    missing = missing_parts([options.kernel])
    if missing:
        return skip_all(len(CASES), missing)
    with Machine(options.kernel, window=0, bin_dir=options.bin) as vm:
        vm.boot()
        for program in ("moult-agent", "moult-vm-loopback"):
            vm.push(options.bin / program, f"/run/{program}")
        load_loopback(vm, options.kernel)
        start_agent(vm, HERE_ALLOWED, allowed_cids=[1])
        start_agent(vm, HOST_ALONE)
        return run_cases(CASES, vm)


if __name__ == "__main__":
    sys.exit(main())
