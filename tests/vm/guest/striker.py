#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""In the guest: breaks things on request, and tells what there is. GET on port 9091:
/strike?what=WHAT&after_ms=N  answers, then kills: agent (which is started anew), worker (its forks), standby (those that wait),
                              both (agent and forks at once), function (all), oom (all functions, by a memory limit below
                              what they have)
/scribble                     a module writes over the window of templates, past the driver
/idle                         whether no strike is under way, how much the last one has hit, and how many there were
/limits?function=ID           of its cgroup
/throttled?function=ID        how often it was kept from the CPU
/identity?pid=PID             its namespaces and its cgroup; without a pid, the agent's
/fifo?path=PATH               makes one, and holds it open
/drain                        reads all of it
/cap-namespaces               no more than two dozen of a kind from now on
/state                        how much there is of what could leak"""
import http.server
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
from urllib.parse import parse_qs, urlsplit

SCRIBBLE = "/run/moult/functions/scribble.ko"
CGROUPS = pathlib.Path("/sys/fs/cgroup")
# Of a thread that runs a program of the engine: all signals that can be blocked, but SIGTRAP.
PROGRAM_MASK = (1 << 64) - 1
for number in (signal.SIGTRAP, signal.SIGKILL, signal.SIGSTOP):
    PROGRAM_MASK &= ~(1 << number - 1)
PENDING, HITS, HELD_FIFOS = [], [], []


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


def signal_all(pids, number):
    """How many were there."""
    hit = 0
    for pid in pids:
        try:
            os.kill(pid, number)
            hit += 1
        except ProcessLookupError:
            pass
    return hit


def functions():
    """Pids of processes in pid namespaces of their own, but for the agent's inits."""
    ours = os.readlink("/proc/self/ns/pid")
    for pid, _, name in processes():
        try:
            if name in ("python3", "node", "java", "canary", "moult-vm-canary") and os.readlink(f"/proc/{pid}/ns/pid") != ours:
                yield pid
        except OSError:
            pass


def cgroup(pid):
    text = pathlib.Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
    return CGROUPS / text.strip().split("::/")[1]


def run_out_of_memory():
    hit = 0
    for group in {cgroup(pid) for pid in functions()}:
        try:
            # Less than any function has. The kernel kills before the write returns.
            (group / "memory.max").write_text("1048576", encoding="ascii")
            hit += 1
        except OSError:
            pass  # gone meanwhile
    return hit


def answers_questions():
    """Whether a worker has some function's thread run a program inside it. Who kills the worker then harms the function,
    which is known and told; all other moments are ours."""
    for pid in functions():
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            try:
                status = (task / "status").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            if int(status.split("SigBlk:")[1].split()[0], 16) == PROGRAM_MASK:
                return True
    return False


def kill_workers_of(pids):
    """All at once, in a moment in which they may die."""
    for _ in range(1000):
        signal_all(pids, signal.SIGSTOP)
        if not answers_questions():
            break
        signal_all(pids, signal.SIGCONT)
        time.sleep(0.001)
    return signal_all(pids, signal.SIGKILL)


def kill_agent(with_workers):
    found = list(processes())
    agents = {pid for pid, _, name in found if name == "moult-agent"}
    main = {pid for pid, parent, name in found if name == "moult-agent" and parent not in agents}
    if with_workers:
        for pid in main:
            os.kill(pid, signal.SIGSTOP)  # It is not to see its workers' ends.
        kill_workers_of(agents - main)
    return signal_all(main, signal.SIGKILL)  # moult-init starts it anew


def kill_waiting():
    return signal_all([pid for pid, _, name in processes() if name == "moult-standby"], signal.SIGKILL)


def kill_workers():
    found = list(processes())
    agents = {pid for pid, _, name in found if name == "moult-agent"}
    return kill_workers_of([pid for pid, parent, name in found if name == "moult-agent" and parent in agents])


STRIKES = {"agent": lambda: kill_agent(False), "both": lambda: kill_agent(True), "worker": kill_workers, "standby": kill_waiting,
           "function": lambda: signal_all(functions(), signal.SIGKILL), "oom": run_out_of_memory}


def strike(what, after):
    time.sleep(after)
    try:
        HITS.append(STRIKES[what]())
    finally:
        PENDING.pop()


def scribble():
    for device in pathlib.Path("/sys/bus/pci/devices").iterdir():
        if (device / "vendor").read_text() != "0x1af4\n" or (device / "device").read_text() != "0x1110\n":
            continue
        start, end, _ = (int(word, 16) for word in (device / "resource").read_text().splitlines()[2].split())
        subprocess.run(["insmod", SCRIBBLE, f"start={start}", f"length={end + 1 - start}"], check=True)
        written = int(pathlib.Path("/sys/module/scribble/parameters/written").read_text(encoding="ascii"))
        subprocess.run(["rmmod", "scribble"], check=True)
        return {"bytes": written, "length": end + 1 - start}
    raise OSError("there is no window")


def limits(function):
    group = CGROUPS / "moult" / str(function)
    return {name: (group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "cpu.max", "pids.max")}


def throttled(function):
    text = (CGROUPS / "moult" / str(function) / "cpu.stat").read_text(encoding="ascii")
    return {"times": int(text.split("nr_throttled")[1].split()[0])}


def main_agent():
    found = list(processes())
    agents = {pid for pid, _, name in found if name == "moult-agent"}
    return next(pid for pid, parent, name in found if name == "moult-agent" and parent not in agents)


def identity(pid):
    folder = pathlib.Path(f"/proc/{pid or main_agent()}")
    return {**{kind.name: os.readlink(kind) for kind in (folder / "ns").iterdir()},
            "cgroup": (folder / "cgroup").read_text(encoding="ascii").strip().split("::")[1]}


def hold_fifo(path):
    os.mkfifo(path, 0o666)
    os.chmod(path, 0o666)
    HELD_FIFOS.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
    return {}


def drain():
    data = b""
    try:
        while piece := os.read(HELD_FIFOS[-1], 1 << 20):
            data += piece
    except BlockingIOError:
        pass
    os.close(HELD_FIFOS.pop())
    return {"bytes": len(data), "first": data[:4096].hex()}


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
            "dying_cgroups": int((CGROUPS / "cgroup.stat").read_text(encoding="ascii").split()[3]),
            "cgroups": sum(1 for _ in pathlib.Path("/sys/fs/cgroup").glob("**/")),
            "folders": sum(1 for _ in pathlib.Path("/run/moult/functions").glob("**/*"))}


def cap_namespaces():
    """From now on there can be few more than there are: also one that nothing but a descriptor or the kernel holds counts."""
    for kind in ("pid", "mnt", "ipc", "time", "cgroup"):
        pathlib.Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("24", encoding="ascii")
    return {}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/strike":
            PENDING.append(1)
            threading.Thread(target=strike, args=(query["what"][0], int(query["after_ms"][0]) / 1000)).start()
            answer = {}
        else:
            answer = {"/scribble": scribble, "/idle": lambda: {"idle": not PENDING, "hit": HITS[-1] if HITS else 0, "strikes": len(HITS)},
                      "/cap-namespaces": cap_namespaces, "/limits": lambda: limits(query["function"][0]), "/state": state,
                      "/throttled": lambda: throttled(query["function"][0]), "/identity": lambda: identity(query.get("pid", [0])[0]),
                      "/fifo": lambda: hold_fifo(query["path"][0]), "/drain": drain}[url.path]()
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# A strike comes when it is due, also where one CPU has other work.
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
http.server.ThreadingHTTPServer(("127.0.0.1", 9091), Handler).serve_forever()
