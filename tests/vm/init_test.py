#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The agent as a service of the guest: under systemd, by the unit that is installed, and under moult-init. It starts, answers,
is started again whenever it is killed, and finds its function again."""
import argparse
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from ctl import Ctl, expect, run_cases
from machine import Machine, missing_parts, rootfs, skip_all

PORT = 1075
KILLS = 6  # in a row: more than systemd puts up with unless told to
PATIENCE = 90
# One that cannot start, and one that ends at once: each notes that it was started.
BROKEN = b"#!/bin/sh\necho >>/run/moult/broken\nexit 1\n"
SHORT = b"#!/bin/sh\necho >>/run/moult/short\n"
# Started as any service of an image: here to run commands.
EXEC_UNIT = b"""[Unit]
After=systemd-modules-load.service
[Service]
ExecStart=/usr/sbin/moult-vm-exec
[Install]
WantedBy=multi-user.target
"""
WANTS = "/etc/systemd/system/multi-user.target.wants"
UNITS = "/usr/lib/systemd/system"  # of which /lib is a link
# Nobody logs in, and Debian's redis is for others.
MASKED = ("redis-server.service", "serial-getty@ttyS0.service", "getty@tty1.service", "systemd-journal-flush.service")


def install_into(image, folder, files, links):
    """Puts {path: (bytes or a host file, mode)} and {path: target} into an ext4 image that has the folders."""
    script = []
    for number, (path, (source, mode)) in enumerate(files.items()):
        if isinstance(source, bytes):
            (folder / f"file-{number}").write_bytes(source)
            source = folder / f"file-{number}"
        script += [f"write {source} {path}", f"set_inode_field {path} mode 0{0o100000 | mode:o}"]
    script += [f"symlink {path} {target}" for path, target in links.items()]
    (folder / "script").write_text("\n".join(script) + "\n", encoding="ascii")
    done = subprocess.run(["/sbin/debugfs", "-w", "-f", folder / "script", image], capture_output=True, text=True, timeout=120, check=True)
    # It exits with 0 whatever went wrong.
    wrong = [line for line in done.stderr.splitlines() if line and not line.startswith("debugfs ")]
    expect(not wrong, f"debugfs: {wrong}")


class MoultInit:
    """The payload disk has what is started."""

    def __init__(self, options, _):
        self.bin = options.bin

    def machine(self, kernel):
        return Machine(kernel, bin_dir=self.bin, window=0, payload={
            "respawn.d/moult-agent": self.bin / "moult-agent", "respawn.d/broken": BROKEN, "respawn.d/short": SHORT})

    def main_pid(self, vm):
        done = vm.run(["/bin/sh", "-c", "pgrep -o -x moult-agent || :"]).check()
        return int(done.text() or 0)


class Systemd:
    """An image in which the installed files are, and systemd is pid 1."""

    def __init__(self, options, folder):
        self.bin, self.image = options.bin, folder / "root.ext4"
        tree = folder / "tree"
        subprocess.run(["cmake", "--install", options.bin.parent, "--component", "guest-agent", "--prefix", "/usr"], check=True,
                       stdout=subprocess.DEVNULL, timeout=120, env={**os.environ, "DESTDIR": str(tree)})
        subprocess.run(["cp", "--sparse=always", rootfs("build"), self.image], check=True, timeout=120)
        install_into(self.image, folder, {
            "/usr/sbin/moult-agent": (tree / "usr/sbin/moult-agent", 0o755),
            "/usr/sbin/moult-vm-exec": (self.bin / "moult-vm-exec", 0o755),
            f"{UNITS}/moult-agent.service": (tree / "usr/lib/systemd/system/moult-agent.service", 0o644),
            f"{UNITS}/moult-vm-exec.service": (EXEC_UNIT, 0o644),
            "/etc/moult/agent.conf": (tree / "etc/moult/agent.conf", 0o644),
            "/etc/modules-load.d/moult.conf": (b"virtio_pci\nvmw_vsock_virtio_transport\n", 0o644),
        }, {f"{WANTS}/{name}": f"{UNITS}/{name}" for name in ("moult-agent.service", "moult-vm-exec.service")})
        shutil.rmtree(tree)

    def machine(self, kernel):
        masks = " ".join(f"systemd.mask={name}" for name in MASKED)
        return Machine(kernel, bin_dir=self.bin, window=0, image=self.image, append=f"init=/lib/systemd/systemd {masks}")

    def main_pid(self, vm):
        done = vm.run(["systemctl", "show", "-P", "MainPID", "moult-agent"]).check()
        return int(done.text())


class Setting:
    def __init__(self, options, init, vm):
        self.init, self.vm = init, vm
        self.ctl = Ctl(options.bin / "moultctl", "--agent", vm.vsock.address(PORT))
        self.function = None

    def await_agent(self, but=0):
        """Another one than `but`, that answers; its pid."""
        deadline = time.monotonic() + PATIENCE
        while True:
            pid = self.init.main_pid(self.vm)
            if pid not in (0, but) and self.ctl.run("hello").code == 0:
                return pid
            expect(time.monotonic() < deadline, f"no agent but {but} answers: {self.vm.logs()}")
            time.sleep(0.2)

    def states(self):
        return {info["id"]: info["state"] for info in self.ctl.json("ps")["functions"]}

    def count(self):
        return int(self.ctl.ok("invoke", self.function, "/count").out)


def boots(s):
    s.vm.boot(240)


def agent_answers(s):
    s.await_agent()
    told = s.ctl.json("hello")["hello"]
    expect("freeze" in told["features"], f"cgroups: {told}")


def function_runs(s):
    s.function = s.ctl.run_server("web", "--ready", "connect", "--memory", "100000000")
    expect(s.count() == 1, "the first call")
    limit = s.vm.run(["cat", f"/sys/fs/cgroup/moult/{s.function}/memory.max"]).check().text().strip()
    expect(limit == "99999744", f"memory.max is {limit}")


def agent_is_started_again_and_finds_its_function(s):
    count, pid = s.count(), s.await_agent()
    for _ in range(KILLS):
        s.vm.run(["kill", "-KILL", str(pid)]).check()
        pid = s.await_agent(but=pid)
        count += 1
        expect(s.states() == {s.function: "running"}, f"functions: {s.states()}")
        expect(s.count() == count, "the function is another")
    # Each had shells ready, which end with it; what is left of them is looked after every few seconds.
    deadline = time.monotonic() + PATIENCE
    while (groups := int(s.vm.run(["/bin/sh", "-c", "ls -d /sys/fs/cgroup/moult/*/ | wc -l"]).check().text())) != 3:
        expect(time.monotonic() < deadline, f"{groups} cgroups of one function and two shells")
        time.sleep(1)


def limits_hold_after_all_that(s):
    limit = s.vm.run(["cat", f"/sys/fs/cgroup/moult/{s.function}/memory.max"]).check().text().strip()
    expect(limit == "99999744", f"memory.max is {limit}")


def service_that_cannot_start_is_left(s):
    started = int(s.vm.run(["/bin/sh", "-c", "wc -l </run/moult/broken"]).check().text())
    expect(started == 5, f"it was started {started} times")
    first = int(s.vm.run(["/bin/sh", "-c", "wc -l </run/moult/short"]).check().text())
    expect(first > KILLS, f"one that ends was started {first} times")


def unit_is_stopped_and_started(s):
    count = s.count()
    restarts = int(s.vm.run(["systemctl", "show", "-P", "NRestarts", "moult-agent"]).check().text())
    expect(restarts == KILLS, f"systemd has restarted it {restarts} times")
    s.vm.run(["systemctl", "stop", "moult-agent"]).check()
    expect(s.init.main_pid(s.vm) == 0, "the agent runs after a stop")
    s.vm.run(["systemctl", "start", "moult-agent"]).check()
    s.await_agent()
    expect(s.states() == {s.function: "running"} and s.count() == count + 1, f"functions: {s.states()}")
    failed = s.vm.run(["systemctl", "--failed", "--plain", "--no-legend"]).check().text()
    expect("moult" not in failed, f"failed units: {failed}")
    log = s.vm.run(["journalctl", "-u", "moult-agent", "-o", "cat"]).check().text()
    expect("moult-agent: found function" in log, f"the journal: {log[-800:]}")


COMMON = [boots, agent_answers, function_runs, agent_is_started_again_and_finds_its_function, limits_hold_after_all_that]
CASES = {MoultInit: [*COMMON, service_that_cannot_start_is_left], Systemd: [*COMMON, unit_is_stopped_and_started]}


def of(setting, case):
    """The case, as run_cases has it."""
    def bound():
        case(setting)
    bound.__name__ = f"{type(setting.init).__name__}: {case.__name__}"
    return bound


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--only", choices=[init.__name__ for init in CASES], help="one of the inits")
    options = parser.parse_args()
    inits = [init for init in CASES if options.only in (None, init.__name__)]
    missing = missing_parts([options.kernel])
    if missing:
        return skip_all(sum(len(CASES[init]) for init in inits), missing)
    with tempfile.TemporaryDirectory(prefix="moult-init-") as folder, contextlib.ExitStack() as stack:
        cases = []
        for make in inits:
            init = make(options, pathlib.Path(folder))
            vm = stack.enter_context(init.machine(options.kernel))
            setting = Setting(options, init, vm)
            cases += [of(setting, case) for case in CASES[make]]
        return run_cases(cases)


if __name__ == "__main__":
    sys.exit(main())
