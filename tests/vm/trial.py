# SPDX-License-Identifier: Apache-2.0
"""A trial VM of `moultctl vm`, its control socket, and the functions of tests/demo."""
import http.client
import json
import os
import pathlib
import select
import shutil
import socket
import subprocess
import tempfile
import time

from complaints import PANICS, complaints
from machine import die_with_parent, qemu_for, qemu_program

REPO = pathlib.Path(__file__).resolve().parents[2]
FUNCTIONS = REPO / "tests/demo/functions"
JAVA = ["/usr/bin/java", "-cp", "/run/moult/functions", "Primes"]
COMMANDS = {
    "python": ["/usr/bin/python3", "/run/moult/functions/thumbnail.py"],
    "node": ["/usr/bin/node", "/run/moult/functions/api.js"],
    "java": JAVA,
}


class TrialError(Exception):
    """What a VM, or Moult in it, did not do."""


class CallError(TrialError):
    def __init__(self, error):
        super().__init__(f"{error['name']}: {error['message']}")
        self.name = error["name"]


def expect(condition, text):
    if not condition:
        raise TrialError(text)


def ends_of_logs(folder):
    """What moultctl, QEMU, and the guest's console said last."""
    texts = [path.read_text(errors="replace")[-2000:] for name in ("trial.log", "console.log") if (path := folder / name).exists()]
    return "\n".join(text for text in texts if text)


class Control:
    """One call a connection, as host-lib/adapters/control/control.md describes."""

    def __init__(self, path):
        self.path = path

    def connect(self, seconds=60):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        connection.connect(self.path)
        return connection

    def _open(self, method, params, seconds, over=None):
        connection = over or self.connect(seconds)
        connection.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
        line = bytearray()
        while True:
            # To the end of the line and no further: what follows the answer may be a stream's.
            ahead = connection.recv(1 << 16, socket.MSG_PEEK)
            if not ahead:
                raise TrialError(f"{method}: the control socket was closed; {ends_of_logs(pathlib.Path(self.path).parent)}")
            end = ahead.find(b"\n") + 1
            line += connection.recv(end or len(ahead))
            if not end:
                continue
            answer = json.loads(line)
            line.clear()
            if "error" in answer:
                connection.close()
                raise CallError(answer["error"])
            if "result" in answer:
                return connection, answer["result"]

    def call(self, method, seconds=120, over=None, **params):
        """`over`: a connection that is there; it is used up."""
        connection, result = self._open(method, params, seconds, over)
        connection.close()
        return result

    def settle(self, seconds=30):
        """Until the memory of functions that were repurposed has been given back."""
        deadline = time.monotonic() + seconds
        while left := self.call("status")["vm"]["reclaiming"]:
            if time.monotonic() > deadline:
                raise TrialError(f"the memory of functions {left} is not given back after {seconds} s")
            time.sleep(0.02)

    def stream(self, function, seconds=60):
        """To the function's endpoint, through the agent's tunnel."""
        return self._open("invoke", {"function": function}, seconds)[0]

    def get(self, function, path, seconds=60):
        """The body of a function's answer to GET `path`, through the agent's tunnel."""
        connection = self.stream(function, seconds)
        client = http.client.HTTPConnection("function")
        client.sock = connection
        try:
            client.request("GET", path, headers={"Connection": "close"})
            answer = client.getresponse()
            body = answer.read()
        except http.client.HTTPException as e:
            raise TrialError(f"GET {path} of function {function}: the connection ended: {e}") from None
        finally:
            client.close()
        if answer.status != 200:
            raise TrialError(f"GET {path} of function {function}: status {answer.status}")
        return body


def build_module(name, kernel, folder):
    """guest/NAME as a module for this guest's kernel."""
    folder = pathlib.Path(folder) / name
    shutil.copytree(REPO / "tests/vm/guest" / name, folder)
    done = subprocess.run([REPO / "guest-agent/rootfs/kernel", kernel], capture_output=True, text=True, check=True)
    subprocess.run(["make", "-sC", f"{done.stdout.strip()}/build", f"M={folder}", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"],
                   check=True, stdout=subprocess.DEVNULL)
    return folder / f"{name}.ko"


def compile_java(folder):
    subprocess.run(["/usr/bin/javac", "-Xlint:all", "-Werror", "-d", folder, FUNCTIONS / "Primes.java"], check=True)
    return pathlib.Path(folder) / "Primes.class"


class Trial:
    """Ends with everything in it, at the latest with the thread that made it. A kernel that complains fails the test: a warning
    ends the VM at once, and close() looks at all that its console has shown.

    under   a command that runs the command after it, in a way of its own
    """

    def __init__(self, bin_dir, folder, store, kernel="6.1", memory=1024, more=(), append="", under=(), cpus=1):
        self.bin = pathlib.Path(bin_dir)
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        payload = {f"functions/{f.name}": f for f in FUNCTIONS.iterdir() if f.suffix in (".py", ".js")}
        payload["functions/Primes.class"] = compile_java(self.folder)
        argv = [*under, self.bin / "moultctl", "vm", "--json", "--dir", self.folder, "--kernel", kernel, "--memory", str(memory),
                "--cpus", str(cpus), "--timeout", "600000", "--store", store, "--append", f"{PANICS} {append}".strip(), *more]
        qemu, needs = qemu_program(qemu_for(kernel, cpus))
        if "--qemu" not in more:
            argv += ["--qemu", qemu]
        for name, path in payload.items():
            argv += ["--payload", f"{name}={path}"]
        self.log = open(self.folder / "trial.log", "w+b")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log,
                                        env={**os.environ, **needs}, preexec_fn=die_with_parent)
        told = self._first_line(900)
        if not told:
            self.close()
            raise TrialError("moultctl vm: " + self.logs())
        told = json.loads(told)
        self.accel, self.qemu = told["accel"], told["pid"]
        self.control = Control(told["control"])

    def _first_line(self, seconds):
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            return None
        return self.process.stdout.readline()

    def logs(self):
        return ends_of_logs(self.folder)

    def _log(self, name):
        path = self.folder / name
        return path.read_text(errors="replace") if path.exists() else ""

    def run(self, name, *options, port=8080):
        """Cold start of one of COMMANDS, until it is ready; its id. At another port: it wants PORT=, too."""
        return self.start(name, COMMANDS[name], "--ready", "http:/", "--ready-timeout", "120000", *options, port=port)

    def start(self, name, command, *options, port=8080):
        return self.start_at(name, f"tcp:{port}", command, *options)

    def start_at(self, name, endpoint, command, *options):
        argv = [self.bin / "moultctl", "--control", self.control.path, "run", "--json", "--name", name,
                "--endpoint", endpoint, *options]
        done = subprocess.run([*argv, "--", *command], capture_output=True, text=True, timeout=180, check=False)
        if done.returncode:
            raise TrialError(f"run {name}: {done.stderr.strip()}")
        return json.loads(done.stdout)["function"]["id"]

    def has_ended(self, seconds):
        """Whether the VM ends within these seconds."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self):
        """Raises where the guest's kernel has complained; the second time it does nothing."""
        if self.log.closed:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log.close()
        found = complaints(self._log("console.log"))
        expect(not found, f"the kernel of the guest in {self.folder.name} complains: {'; '.join(found[:5])}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.close()
        except TrialError as e:
            if kind is None:
                raise
            print(f"  {e}", flush=True)  # Beside what is being raised.


def close_all(trials):
    """Each of them, also when one raises; then the first of the errors."""
    errors = []
    for trial in trials:
        try:
            trial.close()
        except TrialError as e:
            errors.append(e)
    if errors:
        raise errors[0]


# Template pages are in shared memory that counts as private while one VM alone maps it: what a VM has of its own there
# are anonymous copies.
COUNTED = {"ram": ("Private_Clean:", "Private_Dirty:"), "slots": ("Anonymous:",), "rest": ("Private_Dirty:",), "code": ()}


def host_memory(pid, store):
    """What QEMU's process alone holds, in bytes: {"ram": of guest RAM, "slots": copies of template pages, "rest": its own
    memory}; what the emulator has translated is not among it.
    Template pages themselves, of which a host has one copy, count for nobody."""
    held = {"ram": 0, "slots": 0, "rest": 0, "code": 0}
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as smaps:
        for line in smaps:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                kind = "ram" if "memory-backend" in line else "slots" if "moult-template" in line or str(store) in line else "rest"
                kind = "code" if kind == "rest" and "x" in words[1] else kind
            elif words[0] in COUNTED[kind]:
                held[kind] += int(words[1]) * 1024
    del held["code"]
    return held


def private_bytes(pid, store):
    """What a VM takes for itself of guest RAM and of template pages."""
    held = host_memory(pid, store)
    return held["ram"] + held["slots"]


def template_copies(pid):
    """{(device, inode): a path to read it by} of the files in memory with template pages that QEMU's process has mapped."""
    found = {}
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            if "/memfd:moult-template" not in line:
                continue
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            path = f"/proc/{pid}/map_files/{start:x}-{end:x}"
            info = os.stat(path)
            found[info.st_dev, info.st_ino] = path
    return found


def scratch():
    return tempfile.TemporaryDirectory(prefix="moult-trial-")
