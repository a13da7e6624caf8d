#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A function with memory of several kinds, of which each request touches some: parts.py PARTS

PARTS is {name: [kind, bytes, every]} as JSON; kind is private, shared, memfd, tmpfs, sysv or hugetlb; of its pages each request touches one
in `every`, none where that is 0. Mappings that are shared are never joined to others, and small pages are not what the kernel would make huge.
At http://unix:/tmp/parts.sock:

/        touches what each request does, and answers "ok" where all of that was as it should be
/all     the same of all of it
/where   tells where each part lies: {name: address}
"""
import ctypes
import json
import mmap
import os
import sys

from serving import serve

MAP_HUGETLB = 0x40000
FLAGS = {"private": mmap.MAP_PRIVATE, "shared": mmap.MAP_SHARED, "hugetlb": mmap.MAP_PRIVATE | MAP_HUGETLB}
KINDS = json.loads(sys.argv[1])


def sysv(size):
    """A segment of System V's shared memory; it goes with the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype, libc.shmat.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    segment = libc.shmget(0, ctypes.c_size_t(size), 0o600)
    at = libc.shmat(segment, None, 0)
    libc.shmctl(segment, 0, None)  # IPC_RMID
    if segment < 0 or at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "shmget, shmat")
    return memoryview((ctypes.c_char * size).from_address(at)).cast("B")


def made(kind, size):
    if kind in ("memfd", "tmpfs"):
        file = os.memfd_create("part") if kind == "memfd" else os.open("/dev/shm/part", os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(file, size)
        part = mmap.mmap(file, size)
    elif kind == "sysv":
        part = sysv(size)
    else:
        part = mmap.mmap(-1, size, flags=FLAGS[kind] | mmap.MAP_ANONYMOUS)
    if kind not in ("hugetlb", "sysv"):
        part.madvise(mmap.MADV_NOHUGEPAGE)
    for i in range(0, size, 4096):
        part[i:i + 8] = (i + 1).to_bytes(8, "little")
    return part


PARTS = {name: made(kind, size) for name, (kind, size, _) in KINDS.items()}
WHERE = {name: ctypes.addressof(ctypes.c_char.from_buffer(part)) for name, part in PARTS.items()}


def right(name, every):
    part = PARTS[name]
    return all(part[i:i + 8] == (i + 1).to_bytes(8, "little") for i in range(0, len(part), 4096 * every))


def answer(asked):
    if asked == "/where":
        return json.dumps(WHERE).encode()
    touched = {name: 1 if asked == "/all" else every for name, (_, _, every) in KINDS.items()}
    return b"ok" if all(right(name, every) for name, every in touched.items() if every) else b"damaged"


serve("/tmp/parts.sock", answer)
