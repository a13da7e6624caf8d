#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon of the guest: holds marked pages of its own, and answers on port 9093.

/insmod?a=1&b=2   loads planter.ko with these parameters
/tables?pid=N     the page tables of process N: lines "level address"
/hash?pid=N       of all pages that process N has for itself, with their addresses; not of zeros, which the kernel may add
                  to a process that stands still (huge pages)
"""
import hashlib
import http.server
import mmap
import struct
import subprocess
import urllib.parse

PAGES, MARK = 2048, 0x6D6F756C74646D6E
PARAMETERS = "/sys/module/planter/parameters"


def plant():
    memory = mmap.mmap(-1, PAGES * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for i in range(PAGES):
        struct.pack_into("<QQ", memory, i * 4096, MARK, i)
    return memory


def load(**parameters):
    words = [f"{key}={value}" for key, value in parameters.items()]
    subprocess.run(["/sbin/insmod", "/run/moult/functions/planter.ko", *words], check=True)
    return "loaded"


def tables(pid):
    with open(f"{PARAMETERS}/pid", "w", encoding="ascii") as parameter:
        parameter.write(pid)
    with open("/proc/moult-tables", encoding="ascii") as lines:
        return lines.read()


def private_pages(pid, start, end):
    """Addresses of pages that are there, and no file's."""
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        pagemap.seek(start // 4096 * 8)
        entries = pagemap.read((end - start) // 4096 * 8)
    for i, (entry,) in enumerate(struct.iter_unpack("<Q", entries)):
        if entry >> 63 and not entry >> 61 & 1:
            yield start + i * 4096


def hash_pages(pid):
    """Reads through the kernel, as a debugger does."""
    digest, count = hashlib.sha256(), 0
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            if "[v" in line:  # the kernel's own
                continue
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            for address in private_pages(pid, start, end):
                memory.seek(address)
                page = memory.read(4096)
                if page.strip(b"\0"):
                    digest.update(struct.pack("<Q", address) + page)
                    count += 1
    return f"{count} {digest.hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        work = {"/insmod": load, "/tables": tables, "/hash": hash_pages}[url.path]
        body = work(**dict(urllib.parse.parse_qsl(url.query))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    HELD = plant()
    http.server.HTTPServer(("127.0.0.1", 9093), Handler).serve_forever()
