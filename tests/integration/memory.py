# SPDX-License-Identifier: Apache-2.0
"""Content of a stopped process's memory, page by page, read without making it grow.

Only pages that are there are read: reading an untouched page of a 64 GiB reservation would build
page tables for it and change the very thing that is being looked at.
"""

import ctypes
import fcntl
import os
import re
import struct

PAGE = 4096
_AT_ONCE = 256 * PAGE
# Python's own hash: content is compared within one process alone, and it takes half the time of any of hashlib's.
_digest = hash
ZERO = _digest(bytes(PAGE))
_libc = ctypes.CDLL(None, use_errno=True)
_GET_ROBUST_LIST = 274
_PAGEMAP_SCAN = 0xC0606610
_PRESENT, _SWAPPED = 1 << 3, 1 << 4
_MAP = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) (\S+) (\S+) (\d+)\s*(.*)")
# The kernel writes these by itself; the vdso is its code, the same for everybody.
_KERNELS_OWN = ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]")


def mappings(pid):
    """[(start, end, perms, offset, inode, name)] of /proc/PID/maps."""
    out = []
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as f:
        for line in f:
            m = _MAP.match(line)
            out.append((int(m[1], 16), int(m[2], 16), m[3], int(m[4], 16), int(m[6]), m[7]))
    return out


def _scan(fd, start, end):
    """Ranges present or swapped, by PAGEMAP_SCAN (Linux 6.7)."""
    vec = (ctypes.c_uint64 * (3 * 512))()
    while start < end:
        arg = bytearray(struct.pack("=12Q", 96, 0, start, end, 0, ctypes.addressof(vec), 512, 0,
                                    0, 0, _PRESENT | _SWAPPED, _PRESENT | _SWAPPED))
        count = fcntl.ioctl(fd, _PAGEMAP_SCAN, arg)
        for i in range(count):
            yield vec[3 * i], vec[3 * i + 1]
        walked = struct.unpack("=12Q", arg)[4]
        if walked <= start:
            return
        start = walked


def _read_pagemap(fd, start, end):
    """The same for older kernels; slow for huge reservations."""
    step = 1 << 30
    for base in range(start, end, step):
        count = (min(base + step, end) - base) // PAGE
        raw = os.pread(fd, count * 8, base // PAGE * 8)
        for i, (entry,) in enumerate(struct.iter_unpack("=Q", raw)):
            if entry >> 62:
                yield base + i * PAGE, base + (i + 1) * PAGE


def present(pid):
    """{page address: anonymous mapping?} of all pages that are in memory or swapped out."""
    pages = {}
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for start, end, _, _, inode, name in mappings(pid):
            if name in _KERNELS_OWN:
                continue
            try:
                ranges = list(_scan(fd, start, end))
            except OSError:
                ranges = list(_read_pagemap(fd, start, end))
            for low, high in ranges:
                for address in range(low, high, PAGE):
                    pages[address] = inode == 0
    finally:
        os.close(fd)
    return pages


def _robust_head(tid):
    head, length = ctypes.c_uint64(), ctypes.c_uint64()
    failed = _libc.syscall(_GET_ROBUST_LIST, tid, ctypes.byref(head), ctypes.byref(length))
    return 0 if failed else head.value


def _rseq_distance():
    """From the robust list head to the rseq area, both in libc's thread structure; None: libc has no rseq area."""
    try:
        offset = ctypes.c_ssize_t.in_dll(_libc, "__rseq_offset").value
    except ValueError:
        return None
    arch_prctl, arch_get_fs, pointer = 158, 0x1003, ctypes.c_uint64()
    if _libc.syscall(arch_prctl, arch_get_fs, ctypes.byref(pointer)) != 0:
        return None
    return pointer.value + offset - _robust_head(0)


def _rseq_areas(pid):
    """{page: [offsets in it]} of the threads' rseq areas."""
    areas, distance = {}, _rseq_distance()
    for tid in os.listdir(f"/proc/{pid}/task") if distance is not None else ():
        head = _robust_head(int(tid))
        if head:
            address = head + distance
            areas.setdefault(address // PAGE * PAGE, []).append(address % PAGE)
    return areas


def content(pid, extra=()):
    """Memory as (digests, kinds, raw): {address: digest, None where the kernel will not read},
    {address: anonymous?} of the pages present, {address: (bytes, offsets)} of those that hold rseq areas."""
    pages = present(pid)
    keep, digests, raw = _rseq_areas(pid), {}, {}
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for start, end in _runs(sorted(set(pages) | set(extra))):
            for address, data in _read(fd, start, end):
                digests[address] = _digest(data) if data is not None else None
                if address in keep and data is not None:
                    raw[address] = data, keep[address]
    finally:
        os.close(fd)
    return digests, pages, raw


def _runs(addresses):
    """[start, end) of pages that follow each other, up to what is read at once."""
    start = end = None
    for address in addresses:
        if address != end or end - start >= _AT_ONCE:
            if end is not None:
                yield start, end
            start = address
        end = address + PAGE
    if end is not None:
        yield start, end


def _read(fd, start, end):
    """(address, content) of each page; None where the kernel will not read, which ends a longer read as well."""
    try:
        data = os.pread(fd, end - start, start)
    except OSError:
        data = b""
    for address in range(start, end, PAGE):
        at = address - start
        if at + PAGE <= len(data):
            yield address, data[at:at + PAGE]
            continue
        try:
            yield address, os.pread(fd, PAGE, address)
        except OSError:
            yield address, None


def differences(before, after):
    """Addresses whose content differs. Pages that came up since must read as if untouched."""
    old, _, old_raw = before
    new, kinds, new_raw = after
    changed = [a for a in old if new.get(a) != old[a] and not _only_rseq(old_raw.get(a), new_raw.get(a))]
    # A page of a file that came in is the file's; an anonymous one must still be zero.
    changed += [a for a in new if a not in old and kinds.get(a) and new[a] not in (ZERO, None)]
    return sorted(changed)


def _only_rseq(old, new):
    """The kernel writes the CPU's number into the rseq area (32 bytes, aligned) whenever a thread
    has moved, even for a thread that only went through a trap of ptrace."""
    if old is None or new is None:
        return False
    (before, areas), (after, _) = old, new
    return all(any(area <= i < area + 32 for area in areas) for i in range(PAGE) if before[i] != after[i])


def explain(pid, address, before, after):
    """`where`, and what differs, as far as the bytes were kept."""
    text, old, new = where(pid, address), before[2].get(address), after[2].get(address)
    if old is None or new is None:
        known = f"before: {old is not None}, after: {new is not None}"
        return f"{text}, page of an rseq area {known}, digest {before[0].get(address)} -> {after[0].get(address)}"
    bytes_at = [i for i in range(PAGE) if old[0][i] != new[0][i]]
    shown = ", ".join(f"+{i:#x} {old[0][i]:02x}->{new[0][i]:02x}" for i in bytes_at[:16])
    return f"{text}, rseq areas at {old[1]} and {new[1]}, {len(bytes_at)} bytes: {shown}"


def where(pid, address):
    for start, end, perms, _, _, name in mappings(pid):
        if start <= address < end:
            return f"{address:#x} ({perms} {name or 'anonymous'} +{address - start:#x})"
    return f"{address:#x} (not mapped)"
