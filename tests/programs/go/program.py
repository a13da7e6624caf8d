# SPDX-License-Identifier: Apache-2.0
import os

from driver import Program, compile_once

WORKERS, MASK = 200, (1 << 64) - 1


def xorshift(x, steps):
    for _ in range(steps):
        x ^= x << 13 & MASK
        x ^= x >> 7
        x ^= x << 17 & MASK
    return x


class GoProgram(Program):
    name, addressing = "go", "reuseport"
    needs = ("/usr/bin/go",)

    def build(self):
        self.binary = os.path.join(self.build_dir, "app")
        source = os.path.join(self.here, "main.go")
        environment = {"PATH": "/usr/bin:/bin", "HOME": self.build_dir, "GOPROXY": "off", "GOTOOLCHAIN": "local",
                       "GOFLAGS": "-mod=mod", "GO111MODULE": "off", "GOCACHE": os.path.join(self.build_dir, "cache")}
        compile_once(self.binary, [source], ["/usr/bin/go", "build", "-o", self.binary, source], env=environment)

    def command(self):
        return [self.binary, "-port", str(self.port), "-ready", self.ready_fifo]

    def warm(self, ep):
        self.model = {"counter": 0, "seed": xorshift(88172645463325252, 100_000), "sums": list(range(WORKERS))}
        ep.json("/fill?n=100000")
        for n in range(5):
            ep.json(f"/all?n={n}")
            self.worked(self.model, n)
        for _ in range(20):
            self.model["counter"] = ep.json("/count")
        ep.json("/ticks?more=10")

    @staticmethod
    def worked(model, n):
        model["sums"] = [(s * 31 + n) & MASK for s in model["sums"]]
        return str(sum(model["sums"]) & MASK)

    def snapshot(self, ep):
        return ep.json("/snapshot")

    def advance(self, ep, model, report):
        model["counter"] += 1
        report.equal("counter continues", ep.json("/count"), model["counter"])
        report.equal("200 goroutines go on with their sums", ep.json("/all?n=9"), self.worked(model, 9))
        model["seed"] = xorshift(model["seed"], 5000)
        report.equal("generator continues, the map takes more", ep.json("/fill?n=5000"), str(model["seed"]))

    def live(self, ep, report):
        report.equal("garbage collection keeps the map", ep.json("/collect"), self.snapshot(ep)["digest"])
        report.check("ticker goes on", ep.json("/ticks?more=5"))
        report.check("new and old timers fire", ep.json("/timers"))


PROGRAM = GoProgram
