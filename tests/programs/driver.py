# SPDX-License-Identifier: Apache-2.0
"""Starts a real program, talks to it, and calls moult-image on it. Standard library only."""
import contextlib
import fcntl
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import tempfile

import procfs
from procfs import hash_memory  # noqa: F401  (part of this module's interface)

HERE = os.path.dirname(os.path.abspath(__file__))
REQUEST_SECONDS = 60
SKIPPED = 77  # What ctest's SKIP_RETURN_CODE is set to.


class Report:
    """Prints one line per check, counts."""

    def __init__(self, prefix):
        self.prefix, self.passed, self.failed, self.skipped = prefix, 0, 0, 0

    def check(self, name, ok, detail=""):
        self.passed, self.failed = self.passed + bool(ok), self.failed + (not ok)
        tail = f": {detail}" if detail and not ok else ""
        print(f"{'ok  ' if ok else 'FAIL'} {self.prefix} {name}{tail}", flush=True)
        return bool(ok)

    def equal(self, name, got, want):
        return self.check(name, got == want, difference(got, want))

    def skip(self, name, reason):
        self.skipped += 1
        print(f"skip {self.prefix} {name}: {reason}", flush=True)

    def close(self):
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped", flush=True)
        if self.skipped and not self.passed + self.failed:
            return SKIPPED
        return 1 if self.failed or not self.passed else 0


def difference(got, want):
    """Short: of two dicts, only what differs."""
    if isinstance(got, dict) and isinstance(want, dict):
        keys = [k for k in {**got, **want} if got.get(k) != want.get(k)]
        got, want = {k: got.get(k) for k in keys[:4]}, {k: want.get(k) for k in keys[:4]}
    return f"got {str(got)[:300]}, want {str(want)[:300]}"


class Endpoint:
    """Where a process answers. netns_pid: in that process's network namespace. tag: which of several on one port."""

    def __init__(self, port=None, path=None, netns_pid=None, tag=None):
        self.port, self.path, self.netns_pid, self.tag = port, path, netns_pid, tag

    def connect(self, seconds=REQUEST_SECONDS):
        family = socket.AF_UNIX if self.path else socket.AF_INET
        sock = self._socket(family)
        try:
            sock.settimeout(seconds)
            sock.connect(self.path or ("127.0.0.1", self.port))
        except OSError:
            sock.close()
            raise
        return sock

    def _socket(self, family):
        if not self.netns_pid:
            return socket.socket(family, socket.SOCK_STREAM)
        # A socket stays in the namespace in which it was made, so this thread need not stay there.
        with open("/proc/self/ns/net") as ours, open(f"/proc/{self.netns_pid}/ns/net") as theirs:
            procfs.setns(theirs.fileno())
            try:
                return socket.socket(family, socket.SOCK_STREAM)
            finally:
                procfs.setns(ours.fileno())

    def http(self, target, body=None, seconds=REQUEST_SECONDS):
        """The answer's bytes. With a tag, connects again until the right clone has taken the connection."""
        for _ in range(2000):
            connection = http.client.HTTPConnection("127.0.0.1", timeout=seconds)
            connection.sock = self.connect(seconds)
            headers = {"Connection": "close"}
            if self.tag:
                headers["X-Tag"] = self.tag
            try:
                connection.request("POST" if body is not None else "GET", target, body, headers)
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            if answer.status == 421:
                continue
            if answer.status != 200:
                raise RuntimeError(f"{target}: HTTP {answer.status}: {data[:300]!r}")
            return data
        raise RuntimeError(f"{target}: no clone with tag {self.tag} answers")

    def json(self, target, body=None):
        return json.loads(self.http(target, body))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Tool:
    """moult-image. Its output goes to files: a restored process that kept a pipe of it must not hang the test."""

    def __init__(self, path):
        self.path = path

    def run(self, *arguments, prefix=(), seconds=300):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            result = subprocess.run([*prefix, self.path, *arguments], stdin=subprocess.DEVNULL, stdout=out,
                                    stderr=err, timeout=seconds, check=False)
            out.seek(0)
            err.seek(0)
            return result.returncode, out.read().decode(), err.read().decode().strip()

    def dump(self, pid, directory, leave_running=False):
        code, _, err = self.run("dump", str(pid), directory, *(["--leave-running"] if leave_running else []))
        if code:
            raise ToolError("dump", code, err)

    def restore(self, directory, sandbox=False, count=None, new_net=False):
        """The pids, as seen from here."""
        arguments = ["restore", directory] + (["--sandbox"] if sandbox else [])
        arguments += ["--count", str(count)] if count else []
        # lo is down in a new network namespace, and nothing can be bound to its address until it is up.
        prefix = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"] if new_net else []
        code, out, err = self.run(*arguments, prefix=prefix)
        if code:
            raise ToolError("restore", code, err)
        return [int(line) for line in out.split()]


class ToolError(RuntimeError):
    def __init__(self, operation, code, text):
        super().__init__(f"{operation}: exit {code}: {text}")
        self.code = code


class Program:
    """One program under test. A subclass says how to build, start, talk to and check it.

    addressing: how clones that run at the same time are told apart (see README.md): reuseport, netns or rename.
    """
    name, addressing, socket_path, clock_name = "", "reuseport", None, "monotonic clock"
    needs = ()  # Files without which there is nothing to test.

    def __init__(self, work, build, many=False):
        self.work, self.build_dir, self.many = work, build, many
        self.here = os.path.join(HERE, self.name)
        self.port = free_port()
        self.ready_fifo = os.path.join(work, "ready")
        self.model = {}

    # What a subclass gives.
    def build(self):
        """Compiles into self.build_dir; nothing to do for scripts."""

    def command(self):
        raise NotImplementedError

    def warm(self, ep):
        """Requests before the dump."""

    def snapshot(self, ep):
        """State that must be the same until somebody changes it."""
        raise NotImplementedError

    def advance(self, ep, model, report):
        """Changes state, and checks each answer against the model."""

    def live(self, ep, report):
        """Timers, watches, workers: what has to go on by itself."""

    def finish(self, ep, report):
        """Checked once, at the very end, on one process."""

    def identity(self, ep):
        """(pid as the program sees it, its monotonic clock in ns)."""
        answer = ep.json("/identity")
        return answer["pid"], answer["clock"]

    # A client that is connected, in the middle of a request, while the program is dumped.
    def attach(self, ep):
        self.client = ep.connect()
        self.client.sendall(b"GET /identity HT")
        # Connections are accepted in order: once this is answered, the client's has been accepted as well.
        self.identity(ep)

    def still_attached(self, ep, report):
        """The program was left running."""
        with self.client:
            self.client.sendall(b"TP/1.0\r\n\r\n")
            report.check("the client that was connected gets its answer", self.client.recv(12).endswith(b" 200"))

    def detached(self, report):
        """The program has been ended: an end or a reset, nothing else."""
        with self.client:
            self.client.settimeout(10)
            try:
                got = self.client.recv(100)
            except ConnectionError:
                got = b""
            except TimeoutError:
                got = "nothing happens"
            report.equal("the client that was connected is closed", got, b"")

    # What all share.
    def inherited(self):
        """A socket that the program gets as fd 3, or None."""

    def endpoint(self):
        return Endpoint(port=self.port, path=self.socket_path)

    def environment(self):
        return {"PATH": "/usr/bin:/bin", "HOME": self.work, "LANG": "C.UTF-8", "TMPDIR": self.work}

    def start(self, seconds=60):
        """Starts it in a session of its own, off any terminal, and blocks until it says that it is ready."""
        os.mkfifo(self.ready_fifo)
        fifo = os.open(self.ready_fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with open(os.path.join(self.work, "log"), "ab") as log:
                pid = self._spawn(log.fileno())
            pidfd = os.pidfd_open(pid)
            try:
                self.wait_ready(fifo, pidfd, seconds)
            except BaseException:
                procfs.kill(pid)
                raise
            finally:
                os.close(pidfd)
        finally:
            os.close(fifo)
        return pid

    def _spawn(self, log):
        """A plain spawn with setsid; no Popen object, which would want to reap what procfs reaps."""
        inherited, command = self.inherited(), self.command()
        for fd in [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]:
            # What the caller left open is not part of the program. The listing's own fd is closed by now.
            with contextlib.suppress(OSError):
                os.set_inheritable(fd, False)
        null = os.open("/dev/null", os.O_RDONLY)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        if inherited:
            # From a high number: duplicated onto itself, fd 3 would keep close-on-exec.
            source = fcntl.fcntl(inherited, fcntl.F_DUPFD_CLOEXEC, 100)
            actions.append((os.POSIX_SPAWN_DUP2, source, 3))
        here = os.getcwd()
        os.chdir(self.work)
        try:
            return os.posix_spawn(command[0], command, self.environment(), file_actions=actions, setsid=True,
                                  setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
        finally:
            os.chdir(here)
            os.close(null)
            if inherited:
                os.close(source)
                inherited.close()

    def wait_ready(self, fifo, pidfd, seconds):
        readable = select.select([fifo, pidfd], [], [], seconds)[0]
        if fifo not in readable or not os.read(fifo, 100).startswith(b"ready"):
            with open(os.path.join(self.work, "log"), errors="replace") as log:
                raise RuntimeError(f"{self.name} did not become ready; its log ends: {log.read()[-600:]}")


def compile_once(target, sources, command, cwd=None, env=None):
    """Runs command where target is older than its sources."""
    if os.path.exists(target) and all(os.path.getmtime(s) <= os.path.getmtime(target) for s in sources):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
