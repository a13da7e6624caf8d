# SPDX-License-Identifier: Apache-2.0
"""The two ways to give a guest a vsock, behind one interface, and the command channel of moult-vm-exec.

KernelVsock   /dev/vhost-vsock: the host's side is AF_VSOCK.
DeviceVsock   vhost-device-vsock, a process: the host's side is a unix socket on which `CONNECT port` is said, as with
              Firecracker and Cloud Hypervisor. A guest that connects to port P of the host reaches `<socket>_P`.
"""

import os
import select
import socket
import struct
import time

HOST_CID = 2
EXEC_PORT = 7000
INPUT, OUTPUT, ERROR, EXIT = range(4)
CHUNK = 1 << 16


class VmError(Exception):
    """The machine or what talks to it failed; the text says what and why."""


class Deadline:
    def __init__(self, seconds, what):
        self.end, self.what, self.seconds = time.monotonic() + seconds, what, seconds

    def left(self):
        """Seconds left; raises when there are none."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise VmError(f"{self.what}: not done in {self.seconds:g} s")
        return left


def read_exactly(sock, size, deadline):
    parts = []
    while size:
        sock.settimeout(deadline.left())
        try:
            part = sock.recv(min(size, 1 << 20))
        except (TimeoutError, socket.timeout):
            continue  # deadline.left() says it better
        except OSError as e:
            raise VmError(f"{deadline.what}: the guest's connection broke: {e}") from None
        if not part:
            raise VmError(f"{deadline.what}: the guest closed the connection")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def read_line(sock, deadline):
    line = b""
    while not line.endswith(b"\n"):
        line += read_exactly(sock, 1, deadline)
    return line.decode(errors="replace").strip()


class KernelVsock:
    def __init__(self, cid):
        self.cid = cid

    def qemu_options(self):
        return ["-device", f"vhost-vsock-pci,guest-cid={self.cid}"]

    def start(self, spawn, deadline):
        pass

    def address(self, port):
        """How others name this port of the guest: "vsock:CID:PORT"."""
        return f"vsock:{self.cid}:{port}"

    def listen(self, port):
        """A listening socket for connections of the guest to the host's port."""
        listener = socket.socket(socket.AF_VSOCK)
        listener.bind((HOST_CID, port))
        listener.listen(8)
        return listener

    def connect(self, port, deadline):
        sock = socket.socket(socket.AF_VSOCK)
        sock.settimeout(deadline.left())
        sock.connect((self.cid, port))
        return sock


class DeviceVsock:
    def __init__(self, program, cid, folder):
        self.program, self.cid = program, cid
        self.back, self.front = os.path.join(folder, "vhost.sock"), os.path.join(folder, "vsock.sock")
        self.log = os.path.join(folder, "vsock-device.log")

    def qemu_options(self):
        return ["-chardev", f"socket,id=vsock,path={self.back}", "-device", "vhost-user-vsock-pci,chardev=vsock"]

    def start(self, spawn, deadline):
        device = spawn([self.program, "--guest-cid", str(self.cid), "--socket", self.back, "--uds-path", self.front],
                       self.log)
        # The kernel has no event for listen(), and the device says nothing when it is ready.
        while not _listens(self.back):
            if device.poll() is not None:
                with open(self.log, encoding="utf-8", errors="replace") as f:
                    raise VmError(f"{self.program} ended at once: {f.read()[-400:]}")
            deadline.left()
            time.sleep(0.002)

    def address(self, port):
        """How others name this port of the guest: "uds:PATH:PORT", to be opened with `CONNECT PORT`."""
        return f"uds:{self.front}:{port}"

    def listen(self, port):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{self.front}_{port}")
        listener.listen(8)
        return listener

    def connect(self, port, deadline):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(deadline.left())
            sock.connect(self.front)
            sock.sendall(f"CONNECT {port}\n".encode())
            answer = read_line(sock, deadline)
        except OSError as e:
            raise VmError(f"{deadline.what}: {self.front}: {e}") from None
        if not answer.startswith("OK "):
            raise VmError(f"{deadline.what}: CONNECT {port}: {answer}")
        return sock


def _listens(path):
    accepting = "00010000"
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as f:
        return any(line.rstrip().endswith(" " + path) and line.split()[3] == accepting for line in f)


# --- the command channel --------------------------------------------------------------------


class Result:
    """What a command left: code is its exit code, or minus the signal that ended it."""

    def __init__(self, argv, code, out, err):
        self.argv, self.code, self.out, self.err = argv, code, out, err

    def text(self):
        return self.out.decode(errors="replace")

    def check(self):
        if self.code != 0:
            raise VmError(f"in the guest, {' '.join(self.argv)[:200]}: exit {self.code}: "
                          + (self.err or self.out).decode(errors="replace").strip()[-1000:])
        return self


def execute(vsock, argv, stdin, timeout, on_output=None):
    """Runs argv in the guest. on_output(bytes), if given, gets stdout as it comes, and the result has none."""
    deadline = Deadline(timeout, "in the guest, " + " ".join(argv)[:200])
    request = struct.pack("<I", len(argv))
    for word in argv:
        data = os.fsencode(word)
        request += struct.pack("<I", len(data)) + data
    sock = vsock.connect(EXEC_PORT, deadline)
    try:
        return _exchange(sock, argv, request, stdin, deadline, on_output)
    finally:
        sock.close()


def _exchange(sock, argv, request, stdin, deadline, on_output):
    to_send = memoryview(request + b"".join(_input_frames(stdin)))
    got, streams = bytearray(), {OUTPUT: bytearray(), ERROR: bytearray()}
    sock.setblocking(False)
    poll = select.poll()
    while True:
        poll.register(sock, select.POLLIN | (select.POLLOUT if to_send else 0))
        poll.poll(deadline.left() * 1000)
        try:
            if to_send:
                to_send = to_send[sock.send(to_send[:CHUNK]):]
        except BlockingIOError:
            pass
        except OSError:
            to_send = b""  # it ended without reading: what it said is still to be read
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            continue
        except OSError as e:
            raise VmError(f"{deadline.what}: the guest's connection broke: {e}") from None
        if not data:
            raise VmError(f"{deadline.what}: the guest closed the connection")
        got += data
        while len(got) >= 5 and len(got) >= 5 + (size := struct.unpack_from("<I", got, 1)[0]):
            kind, body = got[0], bytes(got[5:5 + size])
            del got[:5 + size]
            if kind == EXIT:
                code = struct.unpack("<i", body)[0]
                return Result(argv, code, bytes(streams[OUTPUT]), bytes(streams[ERROR]))
            if kind == OUTPUT and on_output:
                on_output(body)
            else:
                streams[kind] += body


def _input_frames(stdin):
    for start in range(0, len(stdin), CHUNK):
        part = stdin[start:start + CHUNK]
        yield struct.pack("<BI", INPUT, len(part)) + part
    yield struct.pack("<BI", INPUT, 0)


def dial(program, cid, folder):
    """The vsock for a new machine: `program` is what rootfs/vsock-device printed."""
    return KernelVsock(cid) if program == "/dev/vhost-vsock" else DeviceVsock(program, cid, folder)


