# SPDX-License-Identifier: Apache-2.0
"""What the integration tests share: victims, the tool, and looking at processes without races.

A victim is a workload binary, `prog SCRATCH`; see ../workloads/README.md for the protocol.
Everything here names a process by pidfd where it may be signalled, because a pid can be reused
the moment that its process is reaped, which is just what these tests do all day.
"""

import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
LISTS = HERE.parent / "workloads"
POLL_SECONDS = 0.004

EXIT_OK, EXIT_INTERNAL, EXIT_USAGE, EXIT_REFUSED, EXIT_NOT_FOUND = 0, 1, 2, 3, 4
EXIT_PERMISSION, EXIT_DAMAGED, EXIT_RESOURCES, EXIT_AGAIN = 5, 6, 7, 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p] * 3 + [ctypes.c_ulong, ctypes.c_void_p]
PR_SET_CHILD_SUBREAPER = 36


class Failed(Exception):
    """The case failed; the text says why."""


class Skipped(Exception):
    """The case cannot run here; the text says why."""


def become_subreaper():
    """Orphans below this process come to it, so that it can wait for what `restore` detaches."""
    if _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def own_mount_namespace():
    """What is mounted from here on is seen by this process and its children only."""
    clone_newns, ms_rec_private = 0x20000, (1 << 14) | (1 << 18)
    if _libc.unshare(clone_newns) != 0 or _libc.mount(b"none", b"/", None, ms_rec_private, None) != 0:
        raise OSError(ctypes.get_errno(), "private mount namespace")


def wait_until(predicate, seconds):
    """The first true value of predicate(), or its last false one when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = predicate()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(POLL_SECONDS)


# --- processes ------------------------------------------------------------------------------


def stat_fields(pid, tid=None):
    """Fields of /proc/PID/stat from the state on, or None when the process is gone."""
    path = f"/proc/{pid}/stat" if tid is None else f"/proc/{pid}/task/{tid}/stat"
    try:
        with open(path, "rb") as f:
            return f.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def state(pid, tid=None):
    fields = stat_fields(pid, tid)
    return fields[0].decode() if fields else None


def tids(pid):
    try:
        return sorted(int(t) for t in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid):
    """Running in some way: neither gone nor a zombie. A leader may end before its threads do."""
    seen = set()
    # Whom a thread made after the list was read and before it ended is in the next list.
    while new := [t for t in tids(pid) if t not in seen]:
        if any(state(pid, t) not in (None, "Z", "X") for t in new):
            return True
        seen.update(new)
    return False


def status_field(pid, name, tid=None):
    base = f"/proc/{pid}" if tid is None else f"/proc/{pid}/task/{tid}"
    try:
        with open(f"{base}/status", encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.startswith(name + ":"):
                    return line.partition(":")[2].strip()
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


def inner_pid(pid):
    """The pid as the process itself sees it."""
    ns = status_field(pid, "NSpid")
    return int(ns.split()[-1]) if ns else None


def children(of=None):
    of = of or os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = stat_fields(name)
            if fields and int(fields[1]) == of:
                found.append(int(name))
    return found


def describe(pid):
    """One line about a process for an error message."""
    try:
        comm = pathlib.Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        comm = "?"
    return f"pid {pid} ({comm}, state {state(pid)}, tracer {status_field(pid, 'TracerPid')})"


def all_in_state(pid, wanted):
    states = [s for t in tids(pid) if (s := state(pid, t)) not in (None, "Z", "X")]
    return bool(states) and all(s in wanted for s in states)


def stop(pid, seconds=10):
    """SIGSTOP and wait until every thread has stopped: only then is memory at rest."""
    os.kill(pid, signal.SIGSTOP)
    if not wait_until(lambda: all_in_state(pid, "Tt") or not alive(pid), seconds) or not alive(pid):
        raise Failed(f"SIGSTOP does not stop {describe(pid)}")


def resume(pid):
    os.kill(pid, signal.SIGCONT)


class Handle:
    """A process that this test started or restored. Kills and reaps exactly that process."""

    def __init__(self, pid):
        self.pid = pid
        self.fd = os.pidfd_open(pid)
        self.status = None  # wait status, once reaped by us

    def kill(self):
        try:
            signal.pidfd_send_signal(self.fd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def reap(self, seconds):
        """Waits for the end of the process and reaps it when it is our child. False: still there."""

        def ended():
            if self.status is not None:
                return True
            try:
                done, status = os.waitpid(self.pid, os.WNOHANG)
                if done:
                    self.status = status
                return bool(done)
            except ChildProcessError:  # somebody else's child: he reaps it
                return not self.exists()

        return wait_until(ended, seconds)

    def exists(self):
        """The pid still names this very process, be it a zombie."""
        try:
            signal.pidfd_send_signal(self.fd, 0)
            return True
        except ProcessLookupError:
            return False

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


# --- victims --------------------------------------------------------------------------------


def _child_exec(argv, log, cwd, leads="session"):
    if leads == "session":
        os.setsid()
    elif leads == "group":
        os.setpgid(0, 0)
    null = os.open("/dev/null", os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.closerange(3, 4096)
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(cwd)
    os.execve(argv[0], argv, {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8"})


def spawn_child(argv, log, cwd, leads="session"):
    pid = os.fork()
    if pid == 0:
        try:
            _child_exec(argv, log, cwd, leads)
        finally:
            os._exit(127)
    return pid


class Orphanage:
    """A parent that takes in a double-forked victim and, like init, leaves no zombie of it."""

    def __init__(self, argv, log, cwd):
        report_r, report_w = os.pipe()
        hold_r, self.hold = os.pipe()
        self.keeper = os.fork()
        if self.keeper == 0:
            try:
                os.close(self.hold)
                become_subreaper()
                keeper = os.getpid()
                middle = os.fork()
                if middle == 0:
                    pid = os.fork()
                    if pid == 0:
                        wait_until(lambda: os.getppid() == keeper, 30)  # whoever asks for a parent-death signal means him
                        _child_exec(argv, log, cwd)
                    os.write(report_w, str(pid).encode())
                    os._exit(0)
                os.waitpid(middle, 0)
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps from here on
                os.close(report_w)
                os.read(hold_r, 1)
            finally:
                os._exit(0)
        os.close(report_w)
        os.close(hold_r)
        self.pid = int(os.read(report_r, 32))
        os.close(report_r)

    def close(self):
        if self.hold >= 0:
            os.close(self.hold)
            self.hold = -1
            os.waitpid(self.keeper, 0)


class Victim:
    """One run of a workload: its scratch directory and the process or processes that use it."""

    def __init__(self, program, root, orphan=False, timeout=60, args=(), leads="session"):
        self.name = os.path.basename(program)
        self.timeout = timeout
        self.scratch = os.path.join(root, "scratch")
        os.mkdir(self.scratch, 0o755)
        self.log = os.path.join(self.scratch, "log")
        argv = [os.fspath(program), self.scratch, *args]
        self.orphanage = Orphanage(argv, self.log, self.scratch) if orphan else None
        pid = self.orphanage.pid if orphan else spawn_child(argv, self.log, self.scratch, leads)
        try:
            self.launched = Handle(pid)
        except ProcessLookupError:  # An orphan that has ended at once is reaped by then.
            text = self._read("ready").strip()
            if text.startswith("skip"):
                raise Skipped(text.partition(":")[2].strip()) from None
            raise Failed(f"ended before it was ready; log: {self.log_tail()}") from None
        self.handles = [self.launched]
        self.pid = pid

    def path(self, name):
        return os.path.join(self.scratch, name)

    def _read(self, name):
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def log_tail(self):
        lines = self._read("log").strip().splitlines()[-3:]
        return " | ".join(lines)

    def wait_ready(self):
        def ready():
            return self._read("ready") or (not alive(self.pid) and "ended")

        text = (wait_until(ready, self.timeout) or "not ready in time").strip()
        if text == "ended":
            text = (self._read("ready") or "ended before it was ready").strip()
        if text.startswith("skip"):
            raise Skipped(text.partition(":")[2].strip())
        if not text.split()[0].isdigit():
            raise Failed(f"{' '.join(self.results()) or text}; log: {self.log_tail()}")
        if int(text.split()[0]) != inner_pid(self.pid):
            raise Failed(f"ready says {text}, but {describe(self.pid)} was started")
        return self.pid

    def adopt(self, pid):
        """Takes over a restored process."""
        try:
            handle = Handle(pid)
        except ProcessLookupError:
            raise Failed(f"restored pid {pid} is not there; log: {self.log_tail()}") from None
        self.handles.append(handle)
        self.pid = pid
        return handle

    def touch(self, name):
        with open(self.path(name), "w", encoding="utf-8"):
            pass

    def results(self):
        return [line.strip() for line in self._read("result").splitlines() if line.strip()]

    def go(self, count=1, watch=None):
        """Lets the victim check itself; `count` results must come, and all must be "pass"."""
        watch = [self.handles[-1]] if watch is None else watch
        self.touch("go")

        def finished():
            if len(self.results()) >= count:
                return True
            # Reaping is what makes the end of a child visible; the result may be a moment older.
            return all([h.reap(0) or not alive(h.pid) for h in watch]) and "ended"

        outcome = wait_until(finished, self.timeout)
        lines = self.results()
        bad = [l for l in lines if l != "pass" and not l.startswith("skip")]
        if bad:
            raise Failed(f"{bad[0]}" + (f" (and {len(bad) - 1} more)" if len(bad) > 1 else "")
                         + f"; log: {self.log_tail()}")
        if len(lines) < count:
            ends = {_end(h.status) for h in watch}
            why = f"ended without a result ({', '.join(sorted(ends))})" if outcome else "no result in time"
            if not outcome:
                why += ": " + describe(watch[0].pid) + _where(watch[0].pid)
            raise Failed(f"{why}: {len(lines)} of {count}; log: {self.log_tail()}")
        if lines and lines[0].startswith("skip"):
            raise Skipped(lines[0].partition(":")[2].strip())
        if len(lines) > count:
            raise Failed(f"{len(lines)} results where {count} were due")

    def close(self):
        for handle in self.handles:
            handle.kill()
        for handle in self.handles:
            handle.reap(10)
            handle.close()
        self.handles = []  # closing twice is fine
        if self.orphanage:
            self.orphanage.close()


def _end(status):
    if status is None:
        return "status unknown"
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit {os.WEXITSTATUS(status)}"


def _where(pid):
    """Where each thread sits, so that a hang says something."""
    out = []
    for tid in tids(pid)[:8]:
        try:
            with open(f"/proc/{pid}/task/{tid}/syscall", encoding="ascii") as f:
                out.append(f"{tid}: {state(pid, tid)} syscall {' '.join(f.read().split()[:2])}")
        except OSError:
            pass
    return " [" + "; ".join(out) + "]" if out else ""


# --- the tool -------------------------------------------------------------------------------


class Outcome:
    def __init__(self, argv, code, out, err, seconds):
        self.argv, self.code, self.out, self.err, self.seconds = argv, code, out, err, seconds

    def json(self):
        return json.loads(self.out)

    def text(self):
        return f"exit {self.code}: {(self.err or self.out).strip()[-600:]}"


class Tool:
    """moult-image, run to its end. Its output goes through pipes on purpose: a restored process
    that keeps a descriptor of the tool would hold them open, and that shows as a timeout."""

    def __init__(self, bin_dir, timeout=60):
        self.path = os.path.join(os.path.abspath(bin_dir), "moult-image")
        self.timeout = timeout

    def run(self, *args, timeout=None, **kwargs):
        argv = [self.path, *map(str, args)]
        start = time.monotonic()
        proc = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, errors="replace", **kwargs)
        try:
            out, err = proc.communicate(timeout=timeout or self.timeout)
        except subprocess.TimeoutExpired:
            ended = proc.poll() is not None
            proc.kill()
            for stream in (proc.stdout, proc.stderr):
                stream.close()
            proc.wait()
            raise Failed(f"{args[0]}: " + ("ended, but something holds its output open" if ended
                         else f"did not end in {timeout or self.timeout} s")) from None
        return Outcome(argv, proc.returncode, out, err, time.monotonic() - start)

    def must(self, *args, **kwargs):
        outcome = self.run(*args, **kwargs)
        if outcome.code != 0:
            raise Failed(f"{args[0]}: {outcome.text()}")
        return outcome


class Workplace:
    """A private directory for one case, with the template's parent kept apart from the scratch."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="moult-it-")
        os.chmod(self.root, 0o755)
        self.templates = os.path.join(self.root, "templates")
        os.mkdir(self.templates)

    def template(self, name="t"):
        return os.path.join(self.templates, name)

    def expect_only(self, *names):
        """Nothing but these templates: a tool that fails or is killed leaves no litter."""
        found = sorted(os.listdir(self.templates))
        if found != sorted(names):
            raise Failed(f"beside the template: {found}, expected {sorted(names)}")

    def close(self):
        shutil.rmtree(self.root, ignore_errors=True)


def read_list(name):
    """{workload: rest of the line} of a list beside the workloads; missing list: empty."""
    entries = {}
    try:
        text = (LISTS / name).read_text(encoding="utf-8")
    except FileNotFoundError:
        return entries
    for line in text.splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            key, _, rest = line.partition(" ") if " " in line else line.partition("\t")
            entries[key] = rest.strip()
    return entries


def workloads(bin_dir):
    directory = os.path.join(bin_dir, "workloads")
    if not os.path.isdir(directory):
        return []
    return sorted(n for n in os.listdir(directory)
                  if re.fullmatch(r"\w+", n) and os.access(os.path.join(directory, n), os.X_OK)
                  and os.path.isfile(os.path.join(directory, n)))


def closing_line(passed, failed, skipped):
    return f"{passed} passed, {failed} failed, {skipped} skipped"
