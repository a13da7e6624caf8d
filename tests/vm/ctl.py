# SPDX-License-Identifier: Apache-2.0
"""moultctl as a test runs it, and a function for it to work on."""
import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
import threading

from trial import TrialError
from vsock import VmError

# An HTTP server on a unix socket. /bytes: all 256 of them; /slow: an answer after 2.5 s; /count: a number that rises;
# /split: prints a character of two bytes in two pieces; /raw: prints what is no UTF-8; /fail: status 500.
SERVER = r"""
import os, socket, time
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/ctl.sock')
s.listen(8)
print('listening, caf\u00e9', flush=True)
count = 0
while True:
    c, _ = s.accept()
    request = c.recv(65536)
    if not request:  # It was asked whether it listens.
        c.close()
        continue
    words = request.split(b' ', 2)
    path = words[1] if len(words) > 2 else b''
    status, body = b'200 OK', words[0] + b' ' + path
    if path == b'/bytes':
        body = bytes(range(256))
    elif path == b'/slow':
        time.sleep(2.5)
    elif path == b'/count':
        count += 1
        body = b'%d' % count
    elif path == b'/split':
        os.write(1, b'<\xc3')
        time.sleep(0.3)
        os.write(1, b'\xa9>\n')
    elif path == b'/raw':
        os.write(1, b'\xff\xfe\n')
    elif path == b'/fail':
        status = b'500 No'
    c.sendall(b'HTTP/1.1 ' + status + b'\r\nConnection: close\r\nContent-Length: %d\r\n\r\n' % len(body) + body)
    c.close()
"""


class Failure(Exception):
    """What moultctl did not do."""


def expect(condition, text):
    if not condition:
        raise Failure(text)


class Result:
    def __init__(self, argv, done):
        self.argv, self.code, self.out, self.err = argv, done.returncode, done.stdout, done.stderr

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError:
            raise Failure(f"{self.argv}: no JSON on stdout: {self.out[:300]!r}") from None

    def error(self):
        """The error that --json puts on stderr."""
        try:
            error = json.loads(self.err)["error"]
            expect(set(error) == {"code", "exit", "message"}, f"{self.argv}: members of the error: {sorted(error)}")
        except (ValueError, KeyError, TypeError):
            raise Failure(f"{self.argv}: no JSON error on stderr: {self.err[:300]!r}") from None
        expect(error["exit"] == self.code, f"{self.argv}: error says exit {error['exit']}, it is {self.code}")
        return error


class Ctl:
    """moultctl with `options` that say which VM."""

    def __init__(self, program, *options, env=None):
        self.program, self.options = str(program), [str(o) for o in options]
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("MOULT_")} | (env or {})

    def start(self, *words, **more):
        return subprocess.Popen([self.program, *self.options, *map(str, words)], stdin=subprocess.DEVNULL, env=self.env, **more)

    def run(self, *words, stdin=b"", seconds=120):
        argv = [self.program, *self.options, *map(str, words)]
        return Result(list(words), subprocess.run(argv, input=stdin, capture_output=True, env=self.env, timeout=seconds, check=False))

    def ok(self, *words, **more):
        result = self.run(*words, **more)
        expect(result.code == 0, f"{words}: exit {result.code}: {result.err!r}")
        expect(not result.err, f"{words}: stderr of a success that is no terminal: {result.err!r}")
        return result

    def json(self, *words, **more):
        return self.ok("--json", *words, **more).json()

    def fails(self, code, text, *words, **more):
        """Fails so, in words and as JSON, with nothing on stdout."""
        plain = self.run(*words, **more)
        expect(plain.code == code, f"{words}: exit {plain.code}, not {code}: {plain.err!r}")
        expect(text.encode() in plain.err, f"{words}: stderr lacks {text!r}: {plain.err!r}")
        expect(not plain.out, f"{words}: stdout of a failure: {plain.out[:200]!r}")
        told = self.run("--json", *words, **more)
        expect(told.code == code, f"{words} --json: exit {told.code}, not {code}")
        expect(text in told.error()["message"], f"{words} --json: {told.err!r} lacks {text!r}")

    def on_terminal(self, *words, stream="stderr", columns=80, seconds=120, until=None, stop=None):
        """What a run with a terminal as this stream shows there, and its exit code. Once `until` has been shown, it gets the signal `stop`."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = self.start(*words, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: theirs})
        os.close(theirs)
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
                if until is not None and until in shown:
                    process.send_signal(stop)
                    until = None
        except OSError:  # The last descriptor of the other side is closed.
            pass
        os.close(ours)
        code = process.wait(seconds)
        killer.cancel()
        return shown.decode(), code

    def run_server(self, name="web", *options):
        """Starts the server above; its id."""
        told = self.json("run", "--name", name, "--endpoint", "unix:/tmp/ctl.sock", *options, "--", "/usr/bin/python3", "-S", "-c", SERVER)
        return told["function"]["id"]


def run_cases(cases, *arguments, skipped=0, close=None):
    """Runs each; the exit code of the test. `close`, of a Trial: the last case."""
    failed = 0

    def kernel_has_nothing_to_say(*_):
        close()

    if close is not None:
        cases = [*cases, kernel_has_nothing_to_say]
    for case in cases:
        try:
            case(*arguments)
            print(f"ok {case.__name__}", flush=True)
        except (Failure, TrialError, VmError, KeyError, TypeError, ValueError, OSError, subprocess.SubprocessError) as e:
            failed += 1
            print(f"FAIL {case.__name__}: {type(e).__name__}: {e}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0
