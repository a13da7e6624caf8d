#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon of the guest: holds marked pages of its own, and answers on port 9093.

/insmod?a=1&b=2   loads planter.ko with these parameters
/tables?pid=N     the page tables of process N: lines "level address"
"""
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


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        work = {"/insmod": load, "/tables": tables}[url.path]
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
