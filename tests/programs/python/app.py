# SPDX-License-Identifier: Apache-2.0
"""An HTTP application that keeps state in many places: threads, a native library, a database, random generators."""
import argparse
import hashlib
import io
import json
import os
import random
import sqlite3
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.pool import ThreadPool
from urllib.parse import parse_qs, urlsplit

import numpy
from PIL import Image


class State:
    def __init__(self, options):
        self.tag, self.counter, self.draws = None, 0, 0
        self.lock = threading.RLock()
        self.random = random.Random(42)
        self.numpy_random = numpy.random.default_rng(42)
        self.pool = ThreadPool(4)
        self.ticks, self.ticked = 0, threading.Condition()
        self.database = sqlite3.connect(options.db, check_same_thread=False, isolation_level=None)
        self.database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        self.database.execute("INSERT INTO notes (text) VALUES ('committed')")
        # Unlinked and half read: its position and content are found nowhere but in the process.
        self.scratch = tempfile.TemporaryFile(buffering=0)
        self.scratch.write(b"".join(b"line %06d\n" % i for i in range(5000)))
        self.scratch.seek(0)
        self.matrix = numpy.random.default_rng(7).random((512, 512))
        threading.Thread(target=self.tick, daemon=True).start()

    def tick(self):
        while True:
            time.sleep(0.02)
            with self.ticked:
                self.ticks += 1
                self.ticked.notify_all()


def thumbnail(seed):
    pixels = numpy.random.default_rng(seed).integers(0, 256, (480, 640, 3), dtype=numpy.uint8)
    image = Image.fromarray(pixels)
    image.thumbnail((128, 128), Image.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return hashlib.sha256(out.getvalue()).hexdigest()


class Verbs:
    """Each method is a path; the argument is the query."""

    def __init__(self, state):
        self.s = state

    def identity(self, _):
        return {"pid": os.getpid(), "clock": time.monotonic_ns()}

    def tag(self, q):
        with self.s.lock:
            self.s.tag = self.s.tag or q["set"]
            return self.s.tag

    def thumbs(self, q):
        return self.s.pool.map(thumbnail, range(int(q["from"]), int(q["to"])))

    def matrix(self, _):
        # OpenBLAS runs this on threads of its own.
        product = self.s.matrix @ self.s.matrix
        return hashlib.sha256(product.tobytes()).hexdigest()

    def snapshot(self, _):
        with self.s.lock:
            return {"counter": self.s.counter, "random": hashlib.sha256(repr(self.s.random.getstate()).encode()).hexdigest(),
                    "numpy": str(self.s.numpy_random.bit_generator.state), "position": self.s.scratch.tell(),
                    "transaction": self.s.database.in_transaction,
                    "rows": self.s.database.execute("SELECT * FROM notes ORDER BY id").fetchall(),
                    # Without those that serve a request, this one and a client's that hangs.
                    "threads": sum("request" not in t.name for t in threading.enumerate())}

    def count(self, _):
        with self.s.lock:
            self.s.counter += 1
            return self.s.counter

    def draw(self, _):
        with self.s.lock:
            self.s.draws += 1
            mine = int(self.s.numpy_random.integers(1 << 62))
            fresh = numpy.random.default_rng(42).integers(1 << 62, size=self.s.draws)
            return {"random": self.s.random.getrandbits(64), "numpy_continues": mine == int(fresh[-1])}

    def line(self, _):
        with self.s.lock:
            return self.s.scratch.read(12).decode().strip()

    def begin(self, _):
        with self.s.lock:
            self.s.database.execute("BEGIN IMMEDIATE")
        return True

    def insert(self, q):
        with self.s.lock:
            for i in range(int(q["n"])):
                self.s.database.execute("INSERT INTO notes (text) VALUES (?)", (f"{q['text']} {i}",))
            return self.s.database.execute("SELECT count(*) FROM notes").fetchone()[0]

    def commit(self, _):
        with self.s.lock:
            self.s.database.execute("COMMIT")
            return [self.s.database.execute("SELECT count(*) FROM notes").fetchone()[0],
                    self.s.database.execute("PRAGMA integrity_check").fetchone()[0]]

    def ticks(self, q):
        with self.s.ticked:
            want = self.s.ticks + int(q["more"])
            self.s.ticked.wait_for(lambda: self.s.ticks >= want, 30)
            return self.s.ticks >= want


class Server(ThreadingHTTPServer):
    allow_reuse_address = allow_reuse_port = True
    daemon_threads = True
    request_queue_size = 64


def handler(verbs):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            threading.current_thread().name = "request"
            if self.headers.get("X-Tag", verbs.s.tag) != verbs.s.tag:
                return self.answer(421, b"")
            url = urlsplit(self.path)
            query = {k: v[0] for k, v in parse_qs(url.query).items()}
            try:
                self.answer(200, json.dumps(getattr(verbs, url.path[1:])(query), sort_keys=True).encode())
            except Exception as error:  # The driver shows it.
                self.answer(500, repr(error).encode())

        def answer(self, status, body):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass
    return Handler


def main():
    parser = argparse.ArgumentParser()
    for option in ("--port", "--db", "--ready"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    server = Server(("127.0.0.1", int(options.port)), handler(Verbs(State(options))))
    with open(options.ready, "w") as fifo:
        fifo.write("ready\n")
    server.serve_forever()


main()
