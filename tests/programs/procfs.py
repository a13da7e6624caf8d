# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about a process: states, memory content, freezing. Standard library only."""
import ctypes
import hashlib
import os
import select
import signal
import struct
import time

PAGE = os.sysconf("SC_PAGESIZE")
_ZERO = bytes(PAGE)
_CHUNK = 1024 * PAGE
_PRESENT_OR_SWAPPED = 3 << 62
# Pages that belong to the kernel or change by themselves.
_SKIPPED = ("[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]")
_libc = ctypes.CDLL(None, use_errno=True)
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper():
    """Restored processes are orphans; without this their zombies would go to whatever pid 1 is and keep the pid taken."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def setns(fd):
    if _libc.setns(fd, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def threads(pid):
    return sorted(int(t) for t in os.listdir(f"/proc/{pid}/task"))


def state(pid, tid=None):
    """One letter, or None where the process is gone."""
    try:
        with open(f"/proc/{pid}/task/{tid or pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _until(what, condition, seconds):
    # The kernel has no event for "all threads are stopped"; a short poll with a deadline is all there is.
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.002)


def stop(pid, seconds=20):
    os.kill(pid, signal.SIGSTOP)
    _until(f"pid {pid}: threads not all stopped", lambda: all_in_state(pid, "T"), seconds)


def cont(pid):
    os.kill(pid, signal.SIGCONT)


def all_in_state(pid, letter):
    return all(state(pid, t) in (letter, None) for t in threads(pid))


def wait_gone(pid, seconds=30):
    """Blocks until pid has exited, and reaps it where it is a child of ours."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        gone = bool(select.select([fd], [], [], seconds)[0])
    finally:
        os.close(fd)
    if gone:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            # Somebody else's child: its parent reaps it.
            try:
                _until(f"pid {pid}: zombie stays", lambda: state(pid) is None, 10)
            except TimeoutError:
                return False
    return gone


def kill(pid):
    """Ends exactly this process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_gone(pid)


def namespace_init(pid):
    """Pid 1 of pid's own pid namespace, as seen from here; None where pid has no such namespace."""
    with open(f"/proc/{pid}/stat", "rb") as f:
        parent = int(f.read().rpartition(b")")[2].split()[1])
    with open(f"/proc/{parent}/status") as f:
        numbers = next(line.split()[1:] for line in f if line.startswith("NSpid:"))
    # The last number is the innermost namespace's: only an init is 1 there, and only ours is more in the others.
    return parent if len(numbers) > 1 and numbers[-1] == "1" else None


def maps(pid):
    """(start, end, permissions, name) of each mapping."""
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            fields = line.rstrip("\n").split(None, 5)
            start, end = (int(x, 16) for x in fields[0].split("-"))
            yield start, end, fields[1], int(fields[4]), fields[5] if len(fields) > 5 else ""


def rseq_areas(pid):
    """Addresses of the 32 bytes per thread where the kernel itself writes the number of the CPU (rseq(2))."""
    seize, interrupt, detach, get_rseq = 0x4206, 0x4207, 17, 0x420F
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    areas = set()
    for tid in threads(pid):
        if libc.ptrace(seize, tid, None, None) < 0:
            continue
        libc.ptrace(interrupt, tid, None, None)
        os.waitpid(tid, 0x40000000)  # __WALL
        buffer = ctypes.create_string_buffer(24)
        if libc.ptrace(get_rseq, tid, ctypes.c_void_p(24), ctypes.cast(buffer, ctypes.c_void_p)) > 0:
            areas.add(struct.unpack_from("Q", buffer.raw)[0])
        libc.ptrace(detach, tid, None, None)
    return areas


def _hash_range(mem, pagemap, start, end, anonymous, own):
    """Zero pages do not count, so that a page which was never touched and one that was only read are the same;
    nor do the bytes at the addresses `own`, which are the kernel's."""
    digest = hashlib.blake2b(digest_size=16)
    for base in range(start, end, _CHUNK):
        size = min(_CHUNK, end - base)
        entries = struct.unpack(f"{size // PAGE}Q", os.pread(pagemap, size // PAGE * 8, base // PAGE * 8))
        if anonymous and not any(e & _PRESENT_OR_SWAPPED for e in entries):
            continue
        try:
            data = os.pread(mem, size, base)
        except OSError:
            # Past the end of the file that is mapped there.
            data = b""
        for i in range(0, len(data), PAGE):
            page = data[i:i + PAGE]
            for address in own.get(base + i, ()):
                at = address % PAGE
                page = page[:at] + bytes(32) + page[at + 32:]
            if page != _ZERO:
                digest.update(struct.pack("Q", base + i))
                digest.update(page)
    return digest.hexdigest()


def hash_memory(pid):
    """{"start-end perm name": digest} of all readable private memory; the process must be stopped or frozen."""
    result = {}
    own = {}
    for address in rseq_areas(pid):
        own.setdefault(address - address % PAGE, []).append(address)
    mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for start, end, perms, inode, name in maps(pid):
            if perms[0] != "r" or perms[3] != "p" or name in _SKIPPED or name.startswith("/dev/"):
                continue
            key = f"{start:x}-{end:x} {perms} {name}"
            result[key] = _hash_range(mem, pagemap, start, end, inode == 0, own)
    finally:
        os.close(mem)
        os.close(pagemap)
    return result


def thread_positions(pid):
    """{tid: (sp, pc)}; of stopped threads only, a running one has none."""
    result = {}
    for tid in threads(pid):
        with open(f"/proc/{pid}/task/{tid}/syscall") as f:
            result[tid] = tuple(f.read().split()[-2:])
    return result


class Freezer:
    """A cgroup of its own (v2 or v1) that freezes one process. Unavailable: __init__ raises OSError."""

    def __init__(self, pid):
        self.pid, errors = pid, []
        for root, self.v2 in (("/sys/fs/cgroup", True), ("/sys/fs/cgroup/unified", True),
                              ("/sys/fs/cgroup/freezer", False)):
            marker = "cgroup.controllers" if self.v2 else "cgroup.procs"
            if not os.path.exists(f"{root}/{marker}"):
                continue
            self.path = f"{root}/moult-test-{pid}"
            try:
                os.mkdir(self.path)
                self._control = f"{self.path}/{'cgroup.freeze' if self.v2 else 'freezer.state'}"
                if os.path.exists(self._control):
                    self._home = root
                    self._write(f"{self.path}/cgroup.procs", str(pid))
                    return
                os.rmdir(self.path)
            except OSError as error:
                errors.append(f"{self.path}: {error}")
                if os.path.isdir(self.path):
                    os.rmdir(self.path)
        raise OSError("no cgroup freezer can be used here: " + ("; ".join(errors) or "no hierarchy"))

    @staticmethod
    def _write(path, text):
        with open(path, "w") as f:
            f.write(text)

    def _frozen(self):
        with open(f"{self.path}/cgroup.events" if self.v2 else self._control) as f:
            text = f.read()
        return "frozen 1" in text if self.v2 else text.strip() == "FROZEN"

    def freeze(self):
        self._write(self._control, "1" if self.v2 else "FROZEN")
        _until(f"{self.path} does not freeze", self._frozen, 20)

    def thaw(self):
        self._write(self._control, "0" if self.v2 else "THAWED")
        _until(f"{self.path} does not thaw", lambda: not self._frozen(), 20)

    def close(self):
        """Moves the process back, so that the cgroup can go while it lives."""
        try:
            self._write(f"{self._home}/cgroup.procs", str(self.pid))
        except OSError:
            pass
        _until(f"{self.path} stays busy", self._remove, 10)

    def _remove(self):
        try:
            os.rmdir(self.path)
        except OSError:
            return False
        return True
