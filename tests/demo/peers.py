# SPDX-License-Identifier: Apache-2.0
"""What a repurpose is compared with: CRIU in the same guest, and a whole VM whose saved RAM is mapped copy-on-write."""
import http.client
import io
import json
import lzma
import os
import pathlib
import shutil
import socket
import subprocess
import tarfile
import time
from urllib.parse import urlencode

from machine import qemu_program, rootfs, spawn
from trial import COMMANDS, TrialError

HERE = pathlib.Path(__file__).resolve().parent
GUEST = HERE / "guest" / "peer.py"
# What a virtio disk needs that Debian's kernel has as modules.
DISK_MODULES = ["virtio_pci", "virtio_blk"]


class Criu:
    """CRIU in the guest of `vm`, which has peer.py in its payload. The images are in the guest's tmpfs."""

    def __init__(self, vm):
        self.vm = vm
        # They only stand for the network of the guest, which functions share.
        self.control = vm.start("criu-control", ["/usr/bin/sleep", "1000000"], "--ready", "started", port=9092)
        self.endpoint = vm.start("criu-endpoint", ["/usr/bin/sleep", "1000000"], "--ready", "started", port=8080)

    def ask(self, verb, **query):
        return json.loads(self.vm.control.get(self.control, f"/{verb}?{urlencode(query, doseq=True)}", seconds=180))

    def get(self, seed):
        return self.vm.control.get(self.endpoint, f"/?seed={seed}")

    def prepare(self, name, seeds):
        """Starts it cold, has it answer `seeds`, and dumps it."""
        self.ask("start", name=name, argv=COMMANDS[name])
        deadline = time.monotonic() + 60
        while True:
            try:
                self.get(seeds[0])
                break
            except (OSError, TrialError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        for seed in seeds:
            self.get(seed)
        return self.ask("dump", name=name)["bytes"]

    def restore(self, name, seed):
        """Milliseconds until its first answer, and that answer. CRIU's part is timed in the guest: how it is told to
        begin costs it nothing."""
        took = self.ask("restore", name=name)["ms"]
        start = time.monotonic()
        answer = self.get(seed)
        return took + (time.monotonic() - start) * 1000, answer

    def end(self, name):
        self.ask("end", name=name)

    def close(self):
        for function in (self.control, self.endpoint):
            self.vm.control.call("kill", function=function)


def _plain(module):
    """Its bytes; 6.12's modules are compressed, which the call that loads them takes from files alone that say so."""
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def _in_order(kernel_dir, release, modules):
    """Files of the modules and of what they depend on, in the order in which they can be loaded."""
    done = subprocess.run(["modprobe", "-d", kernel_dir, "-S", release, "-a", "--show-depends", *modules],
                          stdout=subprocess.PIPE, text=True, check=True)
    files = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("insmod ")]
    return [pathlib.Path(f) for f in dict.fromkeys(files)]


def _cpio(files):
    """An initramfs of {path: bytes}, in the kernel's `newc` format."""
    out = b""
    for i, (path, data) in enumerate([*files.items(), ("TRAILER!!!", b"")]):
        mode = 0o40755 if data is None else 0o100755
        data = data or b""
        name = path.encode() + b"\0"
        fields = [i + 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return out


class Monitor:
    """QMP."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self.lines = self.socket.makefile("rb")
        self.events = set()
        self.ask("qmp_capabilities")

    def wait(self, event):
        while event not in self.events:
            self._read()

    def _read(self):
        line = self.lines.readline()
        if not line:
            raise TrialError("QEMU has closed its monitor")
        told = json.loads(line)
        if "event" in told:
            self.events.add(told["event"])
        return told

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            told = self._read()
            if "error" in told:
                raise TrialError(f"QMP {command}: {told['error']['desc']}")
            if "return" in told:
                return told["return"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lines.close()
        self.socket.close()


class SavedVm:
    """One VM with one function that has answered, saved: device state in a file, RAM in another."""

    def __init__(self, bin_dir, folder, kernel, memory, name, payload):
        self.folder, self.memory = pathlib.Path(folder), memory
        self.folder.mkdir()
        # RAM on a tmpfs where there is one with room, as who does this for speed would have it.
        shm = pathlib.Path("/dev/shm")
        roomy = shm.is_dir() and shutil.disk_usage(shm).free > (memory << 20) * 2
        self.ram = (shm if roomy else self.folder) / f"moult-demo-{os.getpid()}-{name}.ram"
        kernel_dir = pathlib.Path(rootfs("kernel", kernel))
        release = (kernel_dir / "release").read_text(encoding="ascii").strip()
        initrd = {"init": (pathlib.Path(bin_dir) / "moult-demo-initrd").read_bytes(), "modules": None}
        for i, module in enumerate(_in_order(kernel_dir, release, DISK_MODULES)):
            initrd[f"modules/{i}.ko"] = _plain(module)
        (self.folder / "initrd").write_bytes(_cpio(initrd))
        with tarfile.open(self.folder / "payload.tar", "w") as tar:
            for path, data in {**payload, "init.d/60-peer": GUEST.read_bytes(),
                               "alone": json.dumps(COMMANDS[name]).encode()}.items():
                info = tarfile.TarInfo(path)
                info.size, info.mode = len(data), 0o755
                tar.addfile(info, io.BytesIO(data))
        self.qemu = qemu_program("7.2")[0]
        self.vmlinuz, self.image = kernel_dir / "vmlinuz", rootfs("build")
        self.process, self.port = None, None

    def _start(self, accel, share, *more):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        cpu = "host" if accel == "kvm" else "max,-erms,-fsrm,-cx16"
        argv = [self.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-M", f"q35,accel={accel},memory-backend=ram", "-cpu", cpu, "-m", str(self.memory),
                "-object", f"memory-backend-file,id=ram,size={self.memory}M,mem-path={self.ram},share={share}",
                "-kernel", self.vmlinuz, "-initrd", self.folder / "initrd", "-append",
                "console=ttyS0 quiet panic=-1 reboot=t no_timer_check moult.payload=/dev/vdb",
                "-drive", f"file={self.image},format=raw,if=none,id=root,snapshot=on",
                "-drive", f"file={self.folder / 'payload.tar'},format=raw,if=none,id=payload,readonly=on",
                "-device", "virtio-blk-pci,drive=root", "-device", "virtio-blk-pci,drive=payload",
                "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:8080",
                "-device", "virtio-net-pci,netdev=net,romfile=",
                "-chardev", f"file,id=serial,append=on,path={self.folder / 'serial.log'}", "-serial", "chardev:serial",
                "-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off", *more]
        (self.folder / "qmp").unlink(missing_ok=True)
        self.process = spawn(argv, self.folder / "qemu.log")

    def _monitor(self):
        """QEMU's, told that RAM is in its file. It listens a moment after QEMU has started."""
        deadline = time.monotonic() + 30
        while True:
            try:
                monitor = Monitor(self.folder / "qmp")
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise TrialError("QEMU: " + (self.folder / "qemu.log").read_text(errors="replace")[-800:]) from None
                time.sleep(0.001)
        monitor.ask("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        return monitor

    def _get(self, seed, seconds):
        """Waits for whoever listens on the port, then for the answer. QEMU takes the connection before the guest does."""
        deadline = time.monotonic() + seconds
        while True:
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
            try:
                client.request("GET", f"/?seed={seed}", headers={"Connection": "close"})
                return client.getresponse().read()
            except (OSError, http.client.HTTPException):
                if self.process.poll() is not None or time.monotonic() > deadline:
                    logs = [(self.folder / n).read_text(errors="replace")[-800:] for n in ("qemu.log", "serial.log")
                            if (self.folder / n).exists()]
                    raise TrialError(f"the VM to save does not answer: {' '.join(logs)}") from None
                time.sleep(0.001)
            finally:
                client.close()

    def save(self, accel, seeds):
        self._start(accel, "on")
        self._get(seeds[0], 120)
        answers = [self._get(seed, 30) for seed in seeds]
        with self._monitor() as monitor:
            # It stops by itself at the end; one that was stopped before would be restored stopped.
            monitor.ask("migrate", uri=f"exec:cat > {self.folder / 'state'}")
            while (status := monitor.ask("query-migrate"))["status"] != "completed":
                if status["status"] in ("failed", "cancelled"):
                    raise TrialError(f"saving the VM: {status}")
                time.sleep(0.02)
        self.end()
        return answers

    def restore(self, accel, seed):
        """Milliseconds from QEMU's start to the first answer, and that answer."""
        start = time.monotonic()
        self._start(accel, "off", "-incoming", "defer")
        with self._monitor() as monitor:
            monitor.ask("migrate-incoming", uri=f"exec:cat {self.folder / 'state'}")
            # QEMU would take a connection earlier, lose its first packet, and try again seconds later.
            monitor.wait("RESUME")
        answer = self._get(seed, 30)
        return (time.monotonic() - start) * 1000, answer

    def end(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def close(self):
        self.end()
        self.ram.unlink(missing_ok=True)
