# SPDX-License-Identifier: Apache-2.0
"""A guest that is a host: RDMA devices, and all that `moultctl vm` needs to start guests of its own in it, emulated.

Its guests' vsock is the kernel's, vhost-vsock. Its first spare disk is the root image of such guests, used as it is; the second,
mounted at HOST, has QEMU, the host's half of Moult, a guest kernel with the driver, and in rootfs/ what stands for
guest-agent/rootfs there.
"""
import json
import pathlib
import subprocess

from machine import HERE, rootfs
from rdma_rig import RdmaMachine, stripped
from vsock import VmError

HOST = "/srv/host"
MEMORY = 2560  # of two guests, the cache, what is translated
INNER = 320  # of a guest in it
# What a boot can do without; and it is no news that it is slow.
LESS = ("nokaslr mitigations=off apparmor=0 audit=0 cryptomgr.notests noreplace-smp "
        "nowatchdog rcupdate.rcu_cpu_stall_suppress=1 rcupdate.rcu_cpu_stall_suppress_at_boot=1")
BIN, LIB, FIRMWARE = "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/share/qemu"
FIRMWARES = ("kvmvapic.bin", "linuxboot_dma.bin", "bios-256k.bin")
# One call of a control socket, by trial.py's Control: what can take its time is given it, which moultctl does not.
CALL = """
import json, sys
sys.path.insert(0, "/srv/tests/vm")
from trial import CallError, Control, TrialError
path, seconds, method, params = sys.argv[1], float(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
try:
    if method == "get":
        sys.stdout.buffer.write(Control(path).get(params["function"], params["path"], seconds))
    else:
        print(json.dumps(Control(path).call(method, seconds, **params)))
except (TrialError, OSError) as e:
    sys.exit(f"{method}: {e}")
"""
# A libc comes with the image, rdma-core with rdma-tools: libraries and their drivers must be of one kind.
THEIRS = ("libc.so", "ld-linux", "linux-vdso", "libibverbs", "librdmacm", "libnl-")


def libraries(*programs):
    """The files that these are linked with, beside those that the guest has."""
    found = {}
    for program in programs:
        told = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
        for line in told.splitlines():
            name, _, rest = line.strip().partition(" => ")
            if rest and not name.startswith(THEIRS):
                found[name] = rest.split(" (")[0]
    return found


def host_disk(bin_dir, folder, kernel="6.1"):
    """An ext4 image of all that; in `folder`."""
    bin_dir, tree = pathlib.Path(bin_dir), pathlib.Path(folder) / "host"
    qemu = rootfs("qemu", "7.2")
    files = {f"{BIN}/qemu-system-x86_64": qemu, "kernel/vmlinuz": f"{rootfs('kernel', kernel)}/vmlinuz",
             "driver/moult.ko": f"{rootfs('driver', kernel)}/moult.ko",
             f"{LIB}/qemu/accel-tcg-x86_64.so": f"/{LIB}/qemu/accel-tcg-x86_64.so"}
    adapter = bin_dir.parent / "lib/libmoult-qemu.so"
    for name, path in libraries(qemu, bin_dir / "moultctl", adapter).items():
        files[f"{LIB}/{name}"] = path
    for name in FIRMWARES:
        files[f"{FIRMWARE}/{name}"] = next(p for p in (f"/usr/share/{d}/{name}" for d in ("qemu", "seabios")) if pathlib.Path(p).exists())
    for name, path in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(pathlib.Path(path).read_bytes())
        (tree / name).chmod(0o755)
    for program in (bin_dir / "moultctl", bin_dir / "moult-agent"):
        stripped(program, tree / BIN)
    (tree / "usr/lib").mkdir(exist_ok=True)
    stripped(adapter, tree / "usr/lib")
    (tree / "rootfs").mkdir()
    # The image is a disk of that guest's: nothing needs room for a second of it.
    for script, path in {"kernel": f"{HOST}/kernel", "build": "/dev/vdb", "driver": f"{HOST}/driver"}.items():
        (tree / "rootfs" / script).write_text(f"#!/bin/sh\necho {path}\n", encoding="ascii")
        (tree / "rootfs" / script).chmod(0o755)
    image = pathlib.Path(folder) / "host.ext4"
    with open(image, "wb") as file:  # Some more, for tables, and files that fill no block.
        file.truncate(sum(f.stat().st_size for f in tree.rglob("*") if f.is_file()) + (32 << 20) & ~4095)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-b", "4096", "-m", "0", "-d", tree, image],
                   check=True)
    return image


class NestedHost(RdmaMachine):
    """slow: how many times longer than elsewhere what is asked of its guests may take."""

    def __init__(self, wires, disk, **options):
        args = []
        for name, file in (("inner", rootfs("build")), ("host", disk)):
            args += ["-drive", f"file={file},format=raw,if=none,id={name},readonly=on", "-device", f"virtio-blk-pci,drive={name}"]
        super().__init__(wires, qemu_args=args, memory=MEMORY, cpus=2, **options)
        self.slow = 1 if self.accel == "kvm" else 10

    def boot(self, timeout=120):
        super().boot(timeout)
        self.add_devices()
        self.sh(f"mkdir -p {HOST} && mount -o ro /dev/vdc {HOST} && echo {HOST}/{LIB} >/etc/ld.so.conf.d/host.conf && ldconfig && "
                "modprobe vhost_vsock && test -c /dev/vhost-vsock")
        self.push_tree({name: HERE / name for name in ("trial.py", "complaints.py", "machine.py", "vsock.py")}, "/srv/tests/vm")
        return self

    def moultctl(self, *words, seconds=30):
        """Its result with --json."""
        argv = ["env", f"MOULT_ROOTFS={HOST}/rootfs", "HOME=/root", f"PATH={HOST}/{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
                f"{HOST}/{BIN}/moultctl", "--json"]
        return json.loads(self.run([*argv, *map(str, words)], timeout=seconds * self.slow).check().out)

    def received(self):
        """Bytes that have come by the wire, RDMA's among them."""
        return int(self.sh("cat /sys/class/net/eth0/statistics/rx_bytes"))

    def sent(self):
        return int(self.sh("cat /sys/class/net/eth0/statistics/tx_bytes"))


class InnerVm:
    """A VM of `moultctl vm` in a NestedHost."""

    def __init__(self, host, name, *options):
        self.host, self.folder = host, f"/srv/{name}"
        try:
            told = host.moultctl("vm", "--detach", "--accel", "tcg", "--append", LESS, "--memory", INNER, "--dir", self.folder,
                                 "--timeout", 60000 * host.slow, *options, seconds=90)
        except VmError as e:
            raise VmError(f"{e}: {self.logs()}") from None
        self.control, self.pid = told["control"], told["pid"]

    def _call(self, method, params, seconds):
        seconds *= self.host.slow
        argv = ["python3", "-c", CALL, self.control, str(seconds), method, json.dumps(params)]
        return self.host.run(argv, timeout=seconds + 30).check().out

    def call(self, method, seconds=30, **params):
        if method not in ("status", "metrics"):
            params["timeout_ms"] = 1000 * seconds * self.host.slow
        return json.loads(self._call(method, params, seconds))

    def get(self, function, path, seconds=30):
        return self._call("get", {"function": function, "path": path}, seconds)

    def status(self):
        return self.call("status")["vm"]

    def ps(self, function):
        """What `moultctl ps` says of one."""
        return next(f for f in self.host.moultctl("--control", self.control, "ps")["functions"] if f["id"] == function)

    def logs(self):
        return self.host.sh(f"cd {self.folder} && for log in vm.log console.log; do test ! -e $log || tail -c 1500 $log; done")
