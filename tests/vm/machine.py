#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A virtual machine for tests: Debian's stock kernel and root image under stock QEMU, with a vsock.

    with Machine(kernel="6.1") as vm:
        vm.boot()
        vm.push("build/dev/bin/moult-image", "/usr/local/bin/moult-image")
        print(vm.run(["moult-image", "check"]).check().text())

Everything that a Machine starts dies with the thread that started it (PR_SET_PDEATHSIG), and with close().
As a program: boots a guest, runs a command there and prints its output; see --help.
"""

import argparse
import ctypes
import io
import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile

import vsock
from vsock import Deadline, VmError

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent.parent
ROOTFS = REPO / "guest-agent" / "rootfs"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def cache_dir():
    return pathlib.Path(os.environ.get("MOULT_CACHE") or pathlib.Path.home() / ".cache" / "moult")


class Unreachable(VmError):
    """A part is not in the cache, and where it comes from cannot be reached."""


# What guest-agent/rootfs/lib.sh says then. Any other failure of a script is one.
UNREACHABLE = re.compile(r"^\S+: (cannot download: |apt-get update failed for: )", re.MULTILINE)

_made = {}


def rootfs(script, *args):
    """What guest-agent/rootfs/SCRIPT prints: the path of what it has made. Quick when there is nothing to do."""
    key = (script, *args)
    if key not in _made:
        done = subprocess.run([ROOTFS / script, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, text=True, timeout=1800, check=False)
        if done.returncode:
            error = Unreachable if UNREACHABLE.search(done.stderr) else VmError
            raise error(f"guest-agent/rootfs/{' '.join(key)}: exit {done.returncode}: {done.stderr.strip()[-800:]}")
        _made[key] = done.stdout.strip()
    return _made[key]


def kernel_folder(kernel):
    return rootfs("kernel-full") if kernel == "full" else rootfs("kernel", kernel)


def missing_parts(kernels, driver=False, qemu="7.2", cpus=1):
    """Why a machine cannot be had here, where its parts are neither in the cache nor to be fetched; else None. A part that
    cannot be made of what was fetched is an error."""
    try:
        for kernel in kernels:
            kernel_folder(kernel)
            if driver:
                rootfs("driver", kernel)
        rootfs("build")
        rootfs("vsock-device")
        rootfs("qemu", qemu)
        for kernel in kernels:
            rootfs("qemu", qemu_for(kernel, cpus))
    except Unreachable as e:
        return str(e)
    return None


def skip_all(count, why):
    """The closing lines of a test none of whose parts can run; its exit code. ../../check sets MOULT_REQUIRE_VM: what it
    could not test it must not call good."""
    if os.environ.get("MOULT_REQUIRE_VM", "0") != "0":
        print(f"FAIL: no parts of a virtual machine: {why}\n0 passed, {count} failed, 0 skipped")
        return 1
    print(f"SKIP: no parts of a virtual machine: {why}\n0 passed, 0 failed, {count} skipped")
    return 77


def die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def spawn(argv, log, env=None):
    with open(log, "ab") as out:
        return subprocess.Popen([os.fspath(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                env=env, preexec_fn=die_with_parent)


def kvm_boots(qemu, kernel):
    """KVM is used only where it boots a stock kernel; that /dev/kvm can be opened says little."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot_id = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    known = cache_dir() / f"kvm-probe-{boot_id}"
    if known.exists():
        return known.read_text(encoding="ascii") == "yes"
    argv = [qemu, "-M", "q35,accel=kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config", "-display",
            "none", "-no-reboot", "-kernel", f"{kernel}/vmlinuz", "-append", "console=ttyS0 panic=-1", "-serial", "stdio"]
    try:
        # With no root disk a kernel that comes so far panics, which ends QEMU.
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=30, check=False, preexec_fn=die_with_parent)
        boots = b"Unable to mount root fs" in done.stdout
    except subprocess.TimeoutExpired:
        boots = False
    temp = known.with_suffix(f".{os.getpid()}")
    temp.write_text("yes" if boots else "no", encoding="ascii")
    temp.rename(known)
    return boots


def accel_for(kernel):
    """KVM where Debian's own QEMU boots this kernel with it."""
    return "kvm" if kvm_boots(rootfs("qemu", "7.2"), kernel_folder(kernel)) else "tcg"


def qemu_for(kernel, cpus, accel=None):
    """Which QEMU is to run a guest with so many CPUs: Debian's own, but the one of backports where several are emulated.

    Before 8.1 QEMU reads the code that it translates before it watches for writes there: of what another CPU changes
    meanwhile it goes on with the old translation. A kernel that patches itself, as when cgroup controllers are enabled, then
    runs into a breakpoint for ever that is no longer there ("soft lockup"), or panics ("int3")."""
    return "backports" if cpus > 1 and (accel or accel_for(kernel)) == "tcg" else "7.2"


def qemu_program(version):
    """(path, {environment})."""
    path, *needs = rootfs("qemu", version).splitlines()
    return path, dict(line.split("=", 1) for line in needs)


class Machine:
    """One guest. Paths of payload files are relative to /run/moult; those in init.d/ are started at boot.

    kernel       "6.1" or "6.12": Debian's cloud kernels; "full": its kernel for all machines, which has rdma_rxe
    memory       of the guest, MiB; one memfd that is shared, the object `ram`
    window       MiB of an ivshmem-plain device's memory, the object `window`; 0: no such device
    window_kind  "ram" (anonymous) or "memfd" (shared)
    payload      {path: bytes or a host file's path}
    image        another root disk than rootfs/build's
    preload      LD_PRELOAD of the QEMU process; `env` adds to its environment
    qemu         "7.2", "backports" (rootfs/qemu), or a path; None: see qemu_for
    qemu_args    more arguments; append: more kernel command line
    accel        "tcg", "kvm", or None: KVM where it works
    """

    def __init__(self, kernel="6.1", memory=512, cpus=1, window=2048, window_kind="ram", payload=None, image=None,
                 preload=None, env=None, qemu=None, qemu_args=(), append="", accel=None, bin_dir=None, keep=False):
        self.folder = tempfile.mkdtemp(prefix="moult-vm-")
        self.keep, self.memory, self.cpus = keep, memory, cpus
        self.window, self.window_kind = window, window_kind
        self.kernel, self.image = kernel_folder(kernel), image or rootfs("build")
        qemu = qemu or qemu_for(kernel, cpus, accel)
        self.qemu, needs = (qemu, {}) if "/" in qemu else qemu_program(qemu)
        self.qemu_args, self.append = list(qemu_args), append
        self.accel = accel or ("kvm" if kvm_boots(self.qemu, self.kernel) else "tcg")
        self.env = {**os.environ, "TMPDIR": self.folder, **needs, **(env or {})}
        if preload:
            self.env["LD_PRELOAD"] = os.fspath(preload)
        self.bin = pathlib.Path(bin_dir or os.environ.get("MOULT_BIN") or REPO / "build" / "dev" / "bin")
        self.payload = {"init.d/50-vm-exec": self.bin / "moult-vm-exec", **(payload or {})}
        self.serial_log, self.qmp_path = self.path("serial.log"), self.path("qmp.sock")
        self.process, self._children, self._qmp = None, [], None
        # Unique on this host for KernelVsock; with a device of its own each machine could be 3.
        cid = 3 + (os.getpid() * 16 + int.from_bytes(os.urandom(1), "little")) % 0x7fff0000
        self.vsock = vsock.dial(rootfs("vsock-device"), cid, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- start and end ----------------------------------------------------------------------

    def arguments(self):
        # Under emulation: zeroing by `rep stosb` takes twice the time; and QEMU 7.2's cmpxchg16b corrupts the free
        # lists of the 6.12 kernel, which crashes in one boot of two.
        cpu = "host" if self.accel == "kvm" else "max,-erms,-fsrm,-cx16"
        argv = [self.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-M", f"q35,accel={self.accel},memory-backend=ram",
                "-cpu", cpu, "-smp", str(self.cpus),
                "-m", str(self.memory), "-object", f"memory-backend-memfd,id=ram,size={self.memory}M,share=on",
                "-kernel", f"{self.kernel}/vmlinuz", "-append", self.command_line(),
                "-drive", f"file={self.image},format=raw,if=none,id=root,snapshot=on",
                "-drive", f"file={self.path('payload.tar')},format=raw,if=none,id=payload,readonly=on",
                # The only NVMe disk: which of two comes first is not certain. The kernel itself has no virtio.
                "-device", "nvme,drive=root,serial=moult", "-device", "virtio-blk-pci,drive=payload",
                "-chardev", f"file,id=serial,path={self.serial_log}", "-serial", "chardev:serial",
                "-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
        if os.path.exists(f"{self.kernel}/initrd"):
            argv += ["-initrd", f"{self.kernel}/initrd"]
        if self.window:
            kind = {"memfd": "memory-backend-memfd,share=on", "ram": "memory-backend-ram,reserve=off"}[self.window_kind]
            argv += ["-object", f"{kind},id=window,size={self.window}M", "-device", "ivshmem-plain,memdev=window"]
        return argv + self.vsock.qemu_options() + self.qemu_args

    def command_line(self):
        # A guest that is emulated on a busy host may wait for so long for its timer that it takes it for broken, and panics.
        return ("console=ttyS0 quiet root=/dev/nvme0n1 rw init=/sbin/moult-init panic=-1 reboot=t no_timer_check "
                f"moult.payload=/dev/vda {self.append}").strip()

    def write_payload(self):
        with tarfile.open(self.path("payload.tar"), "w") as tar:
            for name, source in self.payload.items():
                data = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), 0o755
                tar.addfile(info, io.BytesIO(data))

    def boot(self, timeout=60):
        """Returns when the guest runs commands. The guest's own connection says so: nothing is polled."""
        deadline = Deadline(timeout, "boot")
        self.write_payload()
        self.vsock.start(self._spawn, deadline)
        with self.vsock.listen(vsock.EXEC_PORT) as listener:
            self.process = spawn(self.arguments(), self.path("qemu.log"), self.env)
            self._children.append(self.process)
            try:
                _wait_for(listener, self.process, deadline)
                with listener.accept()[0] as ready:
                    if vsock.read_line(ready, deadline) != "ready":
                        raise VmError("boot: the guest's first word is not `ready`")
            except (OSError, VmError) as e:
                raise VmError(f"boot: {e}; in {self.folder}: {self.logs()}") from None
        return self

    def _spawn(self, argv, log):
        child = spawn(argv, log)
        self._children.append(child)
        return child

    def logs(self, size=1500):
        """The ends of QEMU's and the guest's own logs, for error messages."""
        out = ""
        for name in ("qemu.log", "serial.log"):
            try:
                with open(self.path(name), encoding="utf-8", errors="replace") as f:
                    out += f"[{name}] {f.read()[-size:].strip()} "
            except FileNotFoundError:
                pass
        return out.strip() or "no logs"

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def shutdown(self, timeout=20):
        """Powers the guest off from inside."""
        try:
            self.run(["/bin/sh", "-c", "echo o >/proc/sysrq-trigger; sleep 60"], timeout=timeout)
        except VmError:
            pass  # its connection ends with the guest
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise VmError(f"shutdown: QEMU still runs after {timeout} s: {self.logs()}") from None

    def kill(self):
        for child in self._children:
            if child.poll() is None:
                child.kill()
            child.wait()

    def close(self):
        if self._qmp:
            self._qmp.close()
        self.kill()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- in the guest -----------------------------------------------------------------------

    def run(self, argv, stdin=b"", timeout=60, on_output=None):
        """Runs a command as root in /; see vsock.Result. Raises VmError when it does not end in time."""
        if not self.alive():
            raise VmError(f"run {argv[0]}: the machine does not run: {self.logs()}")
        return vsock.execute(self.vsock, [os.fspath(a) for a in argv], stdin, timeout, on_output)

    def push(self, source, target, mode=0o755, timeout=60):
        """Copies a file (a path, or bytes) to the path `target` in the guest."""
        data = source if isinstance(source, bytes) else pathlib.Path(source).read_bytes()
        script = 'mkdir -p "${1%/*}/" && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        self.run(["/bin/sh", "-c", script, "push", target, f"{mode:o}"], data, timeout).check()

    def push_tree(self, files, target, timeout=120):
        """Copies {path under target: host path}, folders with all below them, in one go."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            for name, source in files.items():
                tar.add(source, name, filter=_as_root)
        script = 'mkdir -p "$1" && tar -xf - -C "$1"'
        self.run(["/bin/sh", "-c", script, "push", target], data.getvalue(), timeout).check()

    def pull(self, source, timeout=60):
        """The content of a file of the guest."""
        return self.run(["/bin/cat", source], timeout=timeout).check().out

    # --- QEMU's monitor ---------------------------------------------------------------------

    def qmp(self, command, timeout=10, **arguments):
        deadline = Deadline(timeout, f"QMP {command}")
        if not self._qmp:
            self._qmp = socket.socket(socket.AF_UNIX)
            self._qmp.settimeout(deadline.left())
            self._qmp.connect(self.qmp_path)
            self._qmp_answer(deadline, "QMP")
            self._qmp.sendall(b'{"execute": "qmp_capabilities"}\n')
            self._qmp_answer(deadline, "return")
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        self._qmp.sendall(json.dumps(request).encode() + b"\n")
        return self._qmp_answer(deadline, "return")

    def _qmp_answer(self, deadline, key):
        while True:
            message = json.loads(vsock.read_line(self._qmp, deadline))
            if "error" in message:
                raise VmError(f"{deadline.what}: {message['error'].get('desc')}")
            if key in message:
                return message[key]  # events come between; nobody asked for them


def _as_root(info):
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


def _wait_for(listener, process, deadline):
    """Returns when the listener has a connection; raises when the process ends first."""
    fd = os.pidfd_open(process.pid)
    try:
        ready = select.select([listener, fd], [], [], deadline.left())[0]
    finally:
        os.close(fd)
    if fd in ready:
        raise VmError(f"QEMU ended with {process.wait()}")
    deadline.left()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--qemu", help='"7.2", "backports", or a path; the default depends on --cpus')
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--memory", type=int, default=512)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--bin", help="the folder with moult-vm-exec; default: build/dev/bin")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the logs")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Machine(options.kernel, memory=options.memory, window=options.window, bin_dir=options.bin,
                 qemu=options.qemu, cpus=options.cpus, keep=options.keep) as vm:
        vm.boot()
        result = vm.run(options.command, timeout=3600)
        sys.stdout.buffer.write(result.out)
        sys.stderr.buffer.write(result.err)
        return result.code if result.code >= 0 else 128 - result.code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except VmError as error:
        print(f"machine: {error}", file=sys.stderr)
        sys.exit(125)
