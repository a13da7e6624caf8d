#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""In the guest: breaks things on request, and tells what there is. GET on port 9091:
/strike?what=agent|worker|function&after_ms=N   answers, then kills the agent (and starts it anew), a fork of it, or all functions
/scribble                                       writes over the window of templates, past the driver
/idle                                           whether no strike is under way
/state                                          how much there is of what could leak"""
import http.server
import json
import mmap
import os
import pathlib
import signal
import subprocess
import threading
import time
from urllib.parse import parse_qs, urlsplit

AGENT = "/run/moult/init.d/50-moult-agent"
SCRIBBLED = 256 << 20  # bytes, from the window's start: more than the templates have
PENDING = []


def processes():
    """(pid, parent, name) of all."""
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        name, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
        yield int(entry.name), int(rest[1]), name


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def strike(what, after):
    time.sleep(after)
    found = list(processes())
    agents = {pid for pid, _, name in found if name == "moult-agent"}
    main = {pid for pid, parent, name in found if name == "moult-agent" and parent not in agents}
    if what == "agent":
        kill(main)
        time.sleep(0.2)
        subprocess.Popen([AGENT], stdin=subprocess.DEVNULL, start_new_session=True)
    elif what == "worker":
        kill(agents - main)
    else:
        kill(pid for pid, _, name in found if name in ("python3", "node", "java") and pid != os.getpid()
             and os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid"))
    PENDING.pop()


def scribble():
    for device in pathlib.Path("/sys/bus/pci/devices").iterdir():
        if (device / "vendor").read_text() != "0x1af4\n" or (device / "device").read_text() != "0x1110\n":
            continue
        start, end, _ = (int(word, 16) for word in (device / "resource").read_text().splitlines()[2].split())
        # Not by the device's own file: that would map it uncached, which does not go with the driver's way.
        with open("/dev/mem", "r+b") as memory, mmap.mmap(memory.fileno(), SCRIBBLED, offset=start) as window:
            for at in range(0, SCRIBBLED, 4096):
                window[at:at + 8] = b"scribble"
        return end + 1 - start
    raise OSError("there is no window")


def state():
    """After the kernel has let go of what it keeps at hand: caches, and free pages of its CPUs' lists."""
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    pathlib.Path("/proc/sys/vm/compact_memory").write_text("1\n", encoding="ascii")
    time.sleep(0.3)
    memory = {}
    for line in pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, value = line.split(":")
        memory[name] = int(value.split()[0]) * 1024
    namespaces, fds = set(), 0
    for process in pathlib.Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            namespaces.update(os.readlink(n) for n in (process / "ns").iterdir())
            if "moult-agent" in (process / "comm").read_text(encoding="ascii"):
                fds += len(list((process / "fd").iterdir()))
        except OSError:
            pass  # a kernel thread, or gone
    return {"available": memory["MemAvailable"], "slab": memory["Slab"], "page_tables": memory["PageTables"],
            "files": int(pathlib.Path("/proc/sys/fs/file-nr").read_text(encoding="ascii").split()[0]),
            "agent_fds": fds, "namespaces": len(namespaces), "mounts": len(open("/proc/self/mounts").readlines()),
            "cgroups": sum(1 for _ in pathlib.Path("/sys/fs/cgroup").glob("**/")),
            "folders": sum(1 for _ in pathlib.Path("/run/moult/functions").glob("**/*"))}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/strike":
            PENDING.append(1)
            threading.Thread(target=strike, args=(query["what"][0], int(query["after_ms"][0]) / 1000)).start()
            answer = {}
        else:
            answer = {"/scribble": lambda: {"bytes": scribble()}, "/idle": lambda: {"idle": not PENDING},
                      "/state": state}[url.path]()
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", 9091), Handler).serve_forever()
