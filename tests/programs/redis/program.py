# SPDX-License-Identifier: Apache-2.0
import os
import select
import socket
import time

from driver import Program

KEYS, LIST, LONG_TTL_MS = 10_000, 500, 3_600_000


class Client:
    """A connection that speaks RESP2."""

    def __init__(self, ep):
        self.socket = ep.connect()
        self.stream = self.socket.makefile("rb")

    def send(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))

    def receive(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("redis closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.receive() for _ in range(int(rest))]
        return rest.decode()

    def __call__(self, *words):
        self.send(*words)
        return self.receive()

    def pipeline(self, commands):
        for command in commands:
            self.send(*command)
        return [self.receive() for _ in commands]

    def close(self):
        self.stream.close()
        self.socket.close()


class RedisProgram(Program):
    # It does not tell the monotonic clock by which its cron runs.
    name, addressing, clock_name = "redis", "netns", "wall clock"
    needs = ("/usr/bin/redis-server",)

    def command(self):
        return ["/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", self.work,
                "--supervised", "systemd", "--save", "", "--appendonly", "no", "--loglevel", "warning",
                "--enable-debug-command", "local"]

    def environment(self):
        return {**super().environment(), "NOTIFY_SOCKET": os.path.join(self.work, "notify")}

    def start(self, seconds=60):
        # Redis knows no FIFO, but it tells a supervisor when it is ready.
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(os.path.join(self.work, "notify"))
        try:
            return super().start(seconds)
        finally:
            self.notify.close()

    def wait_ready(self, fifo, pidfd, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            readable = select.select([self.notify, pidfd], [], [], deadline - time.monotonic())[0]
            if self.notify in readable:
                if b"READY=1" in self.notify.recv(4096):
                    return
            elif pidfd in readable:
                break
        with open(os.path.join(self.work, "log"), errors="replace") as log:
            raise RuntimeError(f"redis did not become ready; its log ends: {log.read()[-600:]}")

    @staticmethod
    def one(ep, *words):
        client = Client(ep)
        try:
            return client(*words)
        finally:
            client.close()

    def warm(self, ep):
        client = Client(ep)
        client.pipeline([("SET", f"key:{i}", f"value {i * i}") for i in range(KEYS)])
        client.pipeline([("RPUSH", "list", f"item {i}") for i in range(LIST)])
        client.pipeline([("HSET", "hash", f"field{i}", i) for i in range(LIST)])
        client.pipeline([("ZADD", "sorted", i % 17, f"member{i}") for i in range(LIST)])
        client.pipeline([("XADD", "stream", f"{i + 1}-0", "n", i) for i in range(100)])
        client.pipeline([("SET", f"long:{i}", i, "PX", LONG_TTL_MS) for i in range(100)])
        client("SET", "counter", 0)
        client.close()
        self.model = {"counter": 0, "list": LIST}

    def attach(self, ep):
        self.subscriber = Client(ep)
        self.subscriber("SUBSCRIBE", "news")
        self.client = self.subscriber.socket

    def still_attached(self, ep, report):
        self.one(ep, "PUBLISH", "news", "hello")
        report.equal("the subscriber that was connected gets news", self.subscriber.receive(),
                     ["message", "news", "hello"])
        self.subscriber.close()

    def identity(self, ep):
        info = self.one(ep, "INFO", "server")
        fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return int(fields["process_id"]), int(fields["server_time_usec"]) * 1000

    def snapshot(self, ep):
        client = Client(ep)
        try:
            ids = [client("XLEN", "stream"), client("XINFO", "STREAM", "stream")[7]]
            return {"size": client("DBSIZE"), "digest": client("DEBUG", "DIGEST"), "list": client("LLEN", "list"),
                    "sorted": client("ZRANGE", "sorted", 0, 3), "stream": ids, "counter": client("GET", "counter"),
                    "persistent keys": sum(client("TTL", f"key:{i}") == -1 for i in range(0, KEYS, 100))}
        finally:
            client.close()

    def advance(self, ep, model, report):
        client = Client(ep)
        try:
            model["counter"] += 1
            report.equal("counter continues", client("INCR", "counter"), model["counter"])
            model["list"] += 1
            report.equal("list takes more", client("RPUSH", "list", "after"), model["list"])
            report.equal("values are right", client.pipeline([("GET", f"key:{i}") for i in range(KEYS)]),
                         [f"value {i * i}" for i in range(KEYS)])
            left = client("PTTL", "long:1")
            report.check("expiry counts down", 0 < left <= LONG_TTL_MS, f"{left} ms")
        finally:
            client.close()

    def live(self, ep, report):
        # The cron's active expiry must remove it: nobody touches the key, the keyspace event tells.
        client = Client(ep)
        try:
            client("CONFIG", "SET", "notify-keyspace-events", "Ex")
            client("SUBSCRIBE", "__keyevent@0__:expired")
            self.one(ep, "SET", "short", 1, "PX", 100)
            client.socket.settimeout(20)
            report.equal("server cron expires a key by itself", client.receive()[2], "short")
        finally:
            client.close()


PROGRAM = RedisProgram
