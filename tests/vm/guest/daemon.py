#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A daemon of the guest: holds a marker, talks to itself over a TCP connection, watches the clocks, and answers GET on
port 9090 with how that goes."""
import array
import http.server
import json
import os
import socket
import sys
import threading
import time

MASK = (1 << 64) - 1


def mix(state):
    """splitmix64: the new state, and a number."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return state, z ^ (z >> 31)


def words(seed):
    state, first = mix(seed)
    return [first, mix(state)[1]]


class Watch:
    def __init__(self):
        self.beats, self.faults = 0, []
        listener = socket.create_server(("127.0.0.1", 0))
        self.ours = socket.create_connection(listener.getsockname())
        self.theirs, _ = listener.accept()
        self.ours.settimeout(30)

    def run(self):
        last = time.monotonic()
        offset = time.time() - last
        while True:
            try:
                self.theirs.sendall(b"x")
                if self.ours.recv(1) != b"x":
                    self.faults.append("the connection has ended")
            except OSError as e:
                self.faults.append(f"the connection: {e}")
            now, wall, later = time.monotonic(), time.time(), time.monotonic()
            if now < last:
                self.faults.append(f"the clock went from {last} to {now}")
            if later - now < 0.1 and abs(wall - now - offset) > 0.5:  # If it had no CPU meanwhile, the next beat tells.
                self.faults.append("the wall clock was stepped")
            last = now
            self.beats += 1
            time.sleep(0.01)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"beats": WATCH.beats, "faults": WATCH.faults, "pid": os.getpid(), "marks": len(HELD) // 2}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    HELD = array.array("Q", words(int(sys.argv[1]) if len(sys.argv) > 1 else 2) * 65536)
    WATCH = Watch()
    threading.Thread(target=WATCH.run, daemon=True).start()
    http.server.HTTPServer(("127.0.0.1", 9090), Handler).serve_forever()
