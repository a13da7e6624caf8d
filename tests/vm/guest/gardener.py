#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon of the guest: holds marked pages of its own, and answers on port 9093.

/insmod?a=1&b=2   loads planter.ko with these parameters
/tables?pid=N     the page tables of process N: lines "level address"
/stacks?pid=N     the pages of its threads' stacks in the kernel: lines "thread address"
/hash?pid=N       {"pages": how many, "shared": of files in memory (anonymous memory that is shared, memfd, System V, tmpfs), "sha256"} of all pages
                  that process N has of its own or maps of such files, with their addresses; not of zeros, which the kernel
                  may add to a process that stands still (huge pages)
/beats?seconds=S  works for so long from now on, in small pieces over a part of its memory, and at last looks at all of it
/beaten           waits for that, and tells {"ms": how long each piece took, "wrong": marked pages that were not as they were}
/cgroup?pid=N     {field: bytes} of what the kernel holds on behalf of the cgroup of process N
/echo?word=W      W
/keep?pid=N       holds on to the files in memory (memfd) that process N has open, and tells the digest of each, as /kept does later
/log              all lines of the kernel's log
/modprobe?name=N  loads a module of the guest's
/litter?mib=N     takes, writes and gives back so much memory
/khugepaged?every_ms=N  how often the kernel looks for what may become a huge page; tells how often it was
/huge?passes=N    has the kernel look through all memory so often for what may become a huge page, as fast as it can
/hugetlb?count=N  sets so many huge pages aside for hugetlb, and tells how many there are then
"""
import hashlib
import http.server
import json
import mmap
import os
import struct
import subprocess
import threading
import time
import urllib.parse

PAGES, MARK = 10000, 0x6D6F756C74646D6E
BEAT_PAGES = 2048  # A piece of work is to be short also in an emulated guest: its length is what is measured.
PARAMETERS = "/sys/module/planter/parameters"
KERNEL_FIELDS = ("kernel", "pagetables", "kernel_stack", "slab", "percpu", "sock")  # "kernel" has all the others in it but "sock"


def plant():
    memory = mmap.mmap(-1, PAGES * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)  # Else free pages may have the marks, too.
    for i in range(PAGES):
        struct.pack_into("<QQ", memory, i * 4096, MARK, i)
    return memory


def load(**parameters):
    words = [f"{key}={value}" for key, value in parameters.items()]
    subprocess.run(["/sbin/insmod", "/run/moult/functions/planter.ko", *words], check=True)
    return "loaded"


def told_by_module(name, pid):
    with open(f"{PARAMETERS}/pid", "w", encoding="ascii") as parameter:
        parameter.write(pid)
    with open(f"/proc/{name}", encoding="ascii") as lines:
        return lines.read()


def tables(pid):
    return told_by_module("moult-tables", pid)


def stacks(pid):
    return told_by_module("moult-stacks", pid)


def memory_devices(pid):
    """Devices "major:minor" of the files in memory that process `pid` may map."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as lines:
        mounts = [line.split() for line in lines]
    devices = {words[2] for words in mounts if words[words.index("-") + 1] == "tmpfs"}
    # The mount that nobody sees, for all of them that have no name.
    nameless = os.memfd_create("nameless")
    device = os.fstat(nameless).st_dev
    os.close(nameless)
    return devices | {f"{os.major(device)}:{os.minor(device)}"}


def present_pages(pid, start, end):
    """(address, whether it is a file's or shared) of pages that are there: no look at these adds or takes any of a process
    that stands still."""
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        pagemap.seek(start // 4096 * 8)
        entries = pagemap.read((end - start) // 4096 * 8)
    for i, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
        if entry >> 63:
            yield start + i * 4096, bool(entry >> 61 & 1)


def hash_pages(pid):
    """Reads through the kernel, as a debugger does."""
    digest, count, shared, devices = hashlib.sha256(), 0, 0, memory_devices(pid)
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            if "[v" in line:  # the kernel's own
                continue
            where, _, _, device = line.split()[:4]
            start, end = (int(word, 16) for word in where.split("-"))
            in_memory = ":".join(str(int(number, 16)) for number in device.split(":")) in devices
            for address, of_file in present_pages(pid, start, end):
                if of_file and not in_memory:
                    continue
                memory.seek(address)
                page = memory.read(4096)
                if page.strip(b"\0"):
                    digest.update(struct.pack("<Q", address) + page)
                    count += 1
                    shared += of_file
    return json.dumps({"pages": count, "shared": shared, "sha256": digest.hexdigest()})


class Beats:
    def __init__(self, seconds):
        self.end, self.ms, self.wrong = time.monotonic() + float(seconds), [], 0
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def look(self, pages):
        for i in range(pages):
            self.wrong += struct.unpack_from("<QQ", HELD, i * 4096) != (MARK, i)

    def run(self):
        while (begin := time.monotonic()) < self.end:
            self.look(BEAT_PAGES)
            self.ms.append((time.monotonic() - begin) * 1000)
            time.sleep(0.005)
        self.look(PAGES)


def beat(seconds):
    global BEATS
    BEATS = Beats(seconds)
    return ""


def beaten():
    BEATS.thread.join()
    return json.dumps({"ms": BEATS.ms, "wrong": BEATS.wrong})


def keep(pid):
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if os.readlink(path).startswith("/memfd:"):
            KEPT.append(os.open(path, os.O_RDONLY))
    return kept()


def kept():
    return json.dumps([hashlib.sha256(os.pread(fd, os.fstat(fd).st_size, 0)).hexdigest() for fd in KEPT])


def cgroup(pid):
    with open(f"/proc/{pid}/cgroup", encoding="ascii") as lines:
        path = lines.read().strip().split("::")[1]
    with open(f"/sys/fs/cgroup{path}/memory.stat", encoding="ascii") as lines:
        told = dict(line.split() for line in lines)
    return json.dumps({field: int(told[field]) for field in KERNEL_FIELDS})


def echo(word):
    return word


def kernel_log():
    lines = []
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    while True:
        try:
            prefix, text = os.read(log, 8192).decode(errors="replace").split(";", 1)
            lines.append((int(prefix.split(",")[1]), text.split("\n", 1)[0]))
        except BrokenPipeError:
            continue  # some were overwritten meanwhile
        except BlockingIOError:
            os.close(log)
            return json.dumps(lines)


def modprobe(name):
    subprocess.run(["/sbin/modprobe", name], check=True)
    return ""


def litter(mib):
    memory = mmap.mmap(-1, int(mib) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, len(memory), 4096):
        memory[at] = 7
    memory.close()
    return ""


def hugetlb(count):
    with open("/proc/sys/vm/nr_hugepages", "r+", encoding="ascii") as number:
        number.write(count)
        number.flush()
        number.seek(0)
        return number.read().strip()


def set_khugepaged(name, value):
    with open(f"/sys/kernel/mm/transparent_hugepage/khugepaged/{name}", "r+", encoding="ascii") as file:
        before = file.read().strip()
        file.seek(0)
        file.write(value)
    return before


def khugepaged(every_ms):
    return set_khugepaged("scan_sleep_millisecs", every_ms)


def huge(passes):
    def scans():
        with open("/sys/kernel/mm/transparent_hugepage/khugepaged/full_scans", encoding="ascii") as file:
            return int(file.read())
    # It sleeps for a minute when it gets no memory, and wakes up for the last of these.
    before = {name: set_khugepaged(name, value) for name, value in
              (("alloc_sleep_millisecs", "1"), ("pages_to_scan", "262144"), ("scan_sleep_millisecs", "1"))}
    try:
        done = scans() + int(passes) + 1  # the one under way has begun before
        deadline = time.monotonic() + 240
        while scans() < done and time.monotonic() < deadline:
            time.sleep(0.02)
        return "done" if scans() >= done else "late"
    finally:
        for name, value in before.items():
            set_khugepaged(name, value)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        work = {"/insmod": load, "/tables": tables, "/stacks": stacks, "/hash": hash_pages, "/beats": beat, "/beaten": beaten, "/echo": echo, "/keep": keep, "/kept": kept,
                "/cgroup": cgroup, "/log": kernel_log, "/modprobe": modprobe,
                "/litter": litter, "/hugetlb": hugetlb, "/khugepaged": khugepaged, "/huge": huge}[url.path]
        body = work(**dict(urllib.parse.parse_qsl(url.query))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    HELD = plant()
    BEATS, KEPT = None, []
    http.server.HTTPServer(("127.0.0.1", 9093), Handler).serve_forever()
