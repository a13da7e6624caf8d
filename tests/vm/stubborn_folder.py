# SPDX-License-Identifier: Apache-2.0
"""A folder on a file system of our own (FUSE) that can be as slow as one likes, answer with errors, or not at all: what a file server
or a disk does when it is ill. It has files without a name alone (O_TMPFILE), or shows those of another folder, to be read; none is
ever in the page cache."""
import ctypes
import errno
import os
import pathlib
import stat
import struct
import threading
import time

IN, OUT = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
ENTRY, ATTR, OPENED = struct.Struct("=QQQQII"), struct.Struct("=QQQQQQIIIIIIIIII"), struct.Struct("=QIi")
INIT = struct.Struct("=IIIIHHIIHHIIH22x")
DIRENT = struct.Struct("=QQII")
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, STATFS, RELEASE, INIT_OP, INTERRUPT, BATCH_FORGET, FALLOCATE, TMPFILE = \
    1, 2, 3, 4, 14, 15, 16, 17, 18, 26, 36, 42, 43, 51
OPENDIR, READDIR, RELEASEDIR = 27, 28, 29
ROOT = 1  # the number of the folder itself
MAX_PAGES, BIG_WRITES, ATOMIC_O_TRUNC = 1 << 22, 1 << 5, 1 << 3
DIRECT_IO = 1
MOST = 1 << 20
MNT_DETACH = 2
libc = ctypes.CDLL(None, use_errno=True)


def why_not(path):
    """Why there can be no such folder here, or None."""
    try:
        with StubbornFolder(path) as folder:
            os.close(os.open(folder.path, os.O_TMPFILE | os.O_RDWR, 0o600))
    except OSError as e:
        return f"no FUSE with O_TMPFILE (root, /dev/fuse, Linux 6.2): {e}"
    return None


class StubbornFolder:
    """Raises OSError where no such file system can be mounted.

    shows   a folder whose files are here as well, to be read
    """

    def __init__(self, path, shows=None):
        self.path = pathlib.Path(path)
        self.path.mkdir()
        self.seconds = 0.0  # that a read or a write takes
        self.fails = 0  # an errno that they end with
        self.failed = 0  # reads and writes that have ended so
        self._device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"moult-test", os.fsencode(self.path), b"fuse", 0, options.encode()):
            os.close(self._device)
            raise OSError(ctypes.get_errno(), "mount fuse")
        self._files, self._lock, self._holds, self._held = {}, threading.Lock(), False, []
        self._shown = {ROOT: pathlib.Path(shows)} if shows else {}  # by number
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.let_go()
        libc.umount2(os.fsencode(self.path), MNT_DETACH)
        self._thread.join(10)
        os.close(self._device)
        for file in self._files.values():
            os.close(file)

    def hold(self):
        """From now on reads and writes do not end, unless who waits for them is killed."""
        with self._lock:
            self._holds = True

    def held(self):
        with self._lock:
            return len(self._held)

    def fail(self):
        """From now on reads and writes end with EIO."""
        self.fails = errno.EIO

    def let_go(self):
        self.fails = 0
        with self._lock:
            self._holds, held, self._held = False, self._held, []
        for request in held:
            self._answer(request)

    def _serve(self):
        while True:
            try:
                request = os.read(self._device, MOST + 65536)
            except OSError as e:
                if e.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # it is unmounted
            _, operation, unique, *_ = IN.unpack_from(request)
            if operation in (FORGET, BATCH_FORGET):
                continue
            if operation == INTERRUPT:
                self._interrupt(struct.unpack_from("=Q", request, IN.size)[0])
                continue
            if operation in (READ, WRITE, FALLOCATE):
                with self._lock:
                    if self._holds:
                        self._held.append(request)
                        continue
                if operation != FALLOCATE:
                    time.sleep(self.seconds)
                    if self.fails:
                        self.failed += 1
                        self._reply(unique, -self.fails)
                        continue
            self._answer(request)

    def _interrupt(self, unique):
        """Who waits is being killed."""
        with self._lock:
            mine = [request for request in self._held if IN.unpack_from(request)[2] == unique]
            self._held = [request for request in self._held if request not in mine]
        for _ in mine:
            self._reply(unique, -errno.EINTR)

    def _reply(self, unique, error, data=b""):
        try:
            os.write(self._device, OUT.pack(OUT.size + len(data), error, unique) + data)
        except OSError:
            pass  # who asked is gone

    def _answer(self, request):
        _, operation, unique, node, *_ = IN.unpack_from(request)
        try:
            work = {INIT_OP: self._init, GETATTR: self._attributes, SETATTR: self._attributes, OPEN: self._open, READ: self._read,
                    WRITE: self._write, STATFS: self._statfs, TMPFILE: self._make, FALLOCATE: self._fallocate,
                    LOOKUP: self._look_up, OPENDIR: self._open, READDIR: self._list, RELEASE: lambda *_: b"",
                    RELEASEDIR: lambda *_: b""}.get(operation)
            if work is None:
                self._reply(unique, -errno.ENOSYS)
            else:
                self._reply(unique, 0, work(node, request[IN.size:]))
        except OSError as e:
            self._reply(unique, -e.errno)

    def _init(self, _, body):
        _, minor, ahead, flags = struct.unpack_from("=IIII", body)
        wanted = flags & (MAX_PAGES | BIG_WRITES | ATOMIC_O_TRUNC)
        return INIT.pack(7, min(minor, 38), ahead, wanted, 16, 12, MOST, 1, MOST // 4096, 0, 0, 0, 0)

    def _attr(self, node):
        if node in self._shown:
            is_ = self._shown[node].lstat()
            times = [part for ns in (is_.st_atime_ns, is_.st_mtime_ns, is_.st_ctime_ns) for part in divmod(ns, 10**9)]
            return ATTR.pack(node, is_.st_size, is_.st_blocks, *times[::2], *times[1::2], is_.st_mode, is_.st_nlink, is_.st_uid, is_.st_gid,
                             0, 4096, 0)
        size = os.fstat(self._files[node]).st_size if node in self._files else 0
        mode = stat.S_IFREG | 0o600 if node in self._files else stat.S_IFDIR | 0o700
        return ATTR.pack(node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _attributes(self, node, _):
        return struct.pack("=QII", 0, 0, 0) + self._attr(node)

    def _look_up(self, node, body):
        if node not in self._shown:
            raise OSError(errno.ENOENT, "look up")
        path = self._shown[node] / os.fsdecode(body.rstrip(b"\0"))
        path.lstat()
        found = next((number for number, shown in self._shown.items() if shown == path), None) or self._new_number()
        self._shown[found] = path
        return ENTRY.pack(found, 0, 0, 0, 0, 0) + self._attr(found)

    def _list(self, node, body):
        _, offset, size = struct.unpack_from("=QQI", body)
        names = sorted(os.fsencode(path.name) for path in self._shown[node].iterdir()) if node in self._shown else []
        listed = b""
        for number, name in list(enumerate(names))[offset:]:
            entry = DIRENT.pack(number + 2, number + 1, len(name), 0) + name
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > size:
                break
            listed += entry
        return listed

    def _new_number(self):
        return len(self._files) + len(self._shown) + ROOT + 1

    def _make(self, *_):
        node = self._new_number()
        self._files[node] = os.memfd_create("stubborn")
        return ENTRY.pack(node, 0, 0, 0, 0, 0) + self._attr(node) + OPENED.pack(node, DIRECT_IO, 0)

    def _open(self, node, body):
        if node in self._shown and struct.unpack_from("=I", body)[0] & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "open")
        return OPENED.pack(node, DIRECT_IO, 0)

    def _read(self, node, body):
        _, offset, size = struct.unpack_from("=QQI", body)
        if node not in self._shown:
            return os.pread(self._files[node], size, offset)
        with open(self._shown[node], "rb") as file:
            return os.pread(file.fileno(), size, offset)

    def _write(self, node, body):
        _, offset, size = struct.unpack_from("=QQI", body)
        return struct.pack("=II", os.pwrite(self._files[node], body[40:40 + size], offset), 0)

    def _fallocate(self, node, body):
        _, offset, length, mode = struct.unpack_from("=QQQI", body)
        if libc.fallocate(self._files[node], mode, ctypes.c_long(offset), ctypes.c_long(length)):
            raise OSError(ctypes.get_errno(), "fallocate")
        return b""

    def _statfs(self, *_):
        blocks = 1 << 20
        return struct.pack("=QQQQQIIII24x", blocks, blocks, blocks, blocks, blocks, 4096, 255, 4096, 0)
