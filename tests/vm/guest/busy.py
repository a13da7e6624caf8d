#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A function that, asked for WORK at http://unix:/tmp/busy.sock/WORK, does something to its own memory that the kernel or several
threads have a hand in, and answers "ok" where all was as it should be:

storm   as many threads as there are parts of its data sum them up at once
read    read(2) into the middle of pages that hold something, by which the kernel is the first to touch them
write   write(2) from its data
exec    calls code that it has made itself, and executes its own program anew in a child
fork    a child sums up all of the data, and writes over it, which the parent must not see
part    touches an eighth of its data
exit    ends with status 7, without an answer
"""
import ctypes
import mmap
import os
import sys
import threading
import zlib

from serving import serve

PARTS, SIZE = 8, 2 << 20
DATA = mmap.mmap(-1, PARTS * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, len(DATA), 4096):
    DATA[i:i + 4096] = (i // 4096).to_bytes(8, "little") * 512
SUMS = [zlib.crc32(DATA[i * SIZE:(i + 1) * SIZE]) for i in range(PARTS)]
BUFFER = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
CODE = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
                 prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
CODE.write(b"\xb8" + (4711).to_bytes(4, "little") + b"\xc3")  # mov $4711, %eax; ret
CALL = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(CODE)))
VIEW = memoryview(DATA)


def part_is_right(i):
    return zlib.crc32(VIEW[i * SIZE:(i + 1) * SIZE]) == SUMS[i]  # which lets other threads run


def storm():
    right, go = [], threading.Barrier(PARTS)

    def one(i):
        go.wait()
        right.append(part_is_right(i))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(PARTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(right) == PARTS and all(right)


FILE = os.memfd_create("busy")
os.ftruncate(FILE, len(BUFFER) + 8192)


def read():
    """Each page of BUFFER has marks around what is read into it. Nobody but the kernel may touch one before it is read into."""
    word, whole, view = os.urandom(8), True, memoryview(BUFFER)
    for at in range(0, len(BUFFER), 4096):
        os.pwrite(FILE, word * 256, at)
        whole = os.preadv(FILE, [view[at + 1024:at + 3072]], at) == 2048 and whole
    return whole and all(BUFFER[at:at + 4096] == b"before__" + bytes(1016) + word * 256 + bytes(1016) + b"behind__" for at in range(0, len(BUFFER), 4096))


for i in range(0, len(BUFFER), 4096):
    BUFFER[i:i + 8], BUFFER[i + 4088:i + 4096] = b"before__", b"behind__"


def write():
    out = os.memfd_create("out")
    try:
        at = 0
        while at < len(DATA):
            at += os.write(out, VIEW[at:])
        return all(zlib.crc32(os.pread(out, SIZE, i * SIZE)) == SUMS[i] for i in range(PARTS))
    finally:
        os.close(out)


def execute():
    answers, says = os.pipe()
    child = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", f"import os; os.write({says}, b'alive')"], {},
                           file_actions=[(os.POSIX_SPAWN_DUP2, says, says)])
    os.close(says)
    said = os.read(answers, 100)
    os.close(answers)
    return CALL() == 4711 and os.waitpid(child, 0)[1] == 0 and said == b"alive"


def fork():
    child = os.fork()
    if child == 0:
        right = all(part_is_right(i) for i in range(PARTS))
        for at in range(0, len(DATA), 4096):
            DATA[at] = DATA[at] ^ 255
        os._exit(0 if right else 1)
    return os.waitpid(child, 0)[1] == 0 and all(part_is_right(i) for i in range(PARTS))


WORK = {"/storm": storm, "/read": read, "/write": write, "/exec": execute, "/fork": fork, "/part": lambda: part_is_right(3),
        "/exit": lambda: os._exit(7)}
serve("/tmp/busy.sock", lambda asked: b"ok" if WORK[asked]() else b"wrong")
