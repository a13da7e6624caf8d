# SPDX-License-Identifier: Apache-2.0
import os
import socket

from driver import Program

WORKERS = 3
MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1


def mulberry32(seed):
    """(next seed, number), both unsigned."""
    seed = (seed + 0x6D2B79F5) & MASK32
    t = (seed ^ seed >> 15) * (1 | seed) & MASK32
    t = ((t + ((t ^ t >> 7) * (61 | t) & MASK32)) ^ t) & MASK32
    return seed, t ^ t >> 14


class NodeProgram(Program):
    name, addressing = "node", "reuseport"
    needs = ("/usr/bin/node",)

    def command(self):
        self.watched = os.path.join(self.work, "watched")
        os.mkdir(self.watched)
        port = str(self.port)
        if self.many:
            port = "0"
        return ["/usr/bin/node", os.path.join(self.here, "app.js"), port, self.ready_fifo, self.watched]

    def inherited(self):
        if not self.many:
            return None
        listener = socket.socket()
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        return listener

    def warm(self, ep):
        self.model = {"counter": 0, "seed": 12345, "own": list(range(WORKERS)), "jobs": 0, "files": 0}
        ep.json("/fill?n=100000")
        self.filled(self.model, 100_000)
        for n in range(5):
            ep.json(f"/work?n={n}")
            self.worked(self.model, n)
        for _ in range(20):
            self.model["counter"] = ep.json("/count")
        self.pool = ep.http("/pool")
        ep.json("/timers")

    @staticmethod
    def filled(model, n):
        for _ in range(n):
            model["seed"], last = mulberry32(model["seed"])
        return last

    @staticmethod
    def worked(model, n):
        for i in range(1000):
            model["own"] = [(own * 31 + n + i) & MASK64 for own in model["own"]]
        model["jobs"] += WORKERS
        own = [str(x) for x in model["own"]]
        return {"answers": own, "shared": own + [str(model["jobs"])]}

    def snapshot(self, ep):
        return ep.json("/snapshot")

    def advance(self, ep, model, report):
        model["counter"] += 1
        report.equal("counter continues", ep.json("/count"), model["counter"])
        report.equal("optimised code goes on with the generator", ep.json("/fill?n=3000"), self.filled(model, 3000))
        report.equal("workers answer, shared memory agrees", ep.json("/work?n=9"), self.worked(model, 9))
        report.check("libuv's thread pool gives the same bytes", ep.http("/pool") == self.pool)

    def live(self, ep, report):
        report.check("setInterval and setTimeout go on", ep.json("/timers"))
        self.model["files"] += 1
        name = f"made{self.model['files']}"
        with open(os.path.join(self.watched, name), "w") as f:
            f.write("x")
        report.check("fs.watch reports a file made now", ep.json(f"/watch?name={name}"))


PROGRAM = NodeProgram
