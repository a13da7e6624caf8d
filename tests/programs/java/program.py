# SPDX-License-Identifier: Apache-2.0
import os

from driver import Program, compile_once

WORKERS, ENTRIES, HOT = 16, 60_000, 3_000_000
MASK48, MASK64 = (1 << 48) - 1, (1 << 64) - 1


def signed(x, bits):
    return x - (1 << bits) if x >> (bits - 1) else x


class JavaRandom:
    """java.util.Random: a linear congruential generator of 48 bits."""

    def __init__(self, seed):
        self.seed = (seed ^ 0x5DEECE66D) & MASK48

    def next_int(self):
        self.seed = (self.seed * 0x5DEECE66D + 0xB) & MASK48
        return signed(self.seed >> 16, 32)

    def skip(self, draws):
        """Applies the step `draws` times by squaring: the heap's bytes took millions of them."""
        factor, summand, f, s = 1, 0, 0x5DEECE66D, 0xB
        while draws:
            if draws & 1:
                factor, summand = factor * f & MASK48, (summand * f + s) & MASK48
            f, s, draws = f * f & MASK48, s * (f + 1) & MASK48, draws >> 1
        self.seed = (self.seed * factor + summand) & MASK48


class JavaProgram(Program):
    # The JDK's server cannot share a port.
    name, addressing = "java", "netns"

    @property
    def needs(self):
        compiled = os.path.exists(os.path.join(self.build_dir, "classes", "App.class"))
        return ("/usr/bin/java",) if compiled else ("/usr/bin/java", "/usr/bin/javac")

    def build(self):
        self.classes = os.path.join(self.build_dir, "classes")
        source = os.path.join(self.here, "App.java")
        compile_once(os.path.join(self.classes, "App.class"), [source],
                     ["/usr/bin/javac", "-Xlint:all", "-Werror", "-d", self.classes, source])

    def command(self):
        return ["/usr/bin/java", "-cp", self.classes, "App", str(self.port), self.ready_fifo]

    def warm(self, ep):
        self.model = {"counter": 0, "random": JavaRandom(42), "sums": [0] * WORKERS, "size": 0}
        self.filled(self.model, ENTRIES)
        ep.json(f"/fill?n={ENTRIES}")
        for _ in range(5):
            self.hot = ep.http(f"/hot?n={HOT}")
        for n in range(5):
            ep.json(f"/work?n={n}")
            self.worked(self.model, n)
        for _ in range(20):
            self.model["counter"] = ep.json("/count")
        ep.json("/ticks")

    @staticmethod
    def filled(model, n):
        model["random"].skip(n * 1024 // 4)
        model["size"] += n
        return model["size"]

    @staticmethod
    def worked(model, n):
        model["sums"] = [(s * 31 + n + i) & MASK64 for i, s in enumerate(model["sums"])]
        return [str(signed(s, 64)) for s in model["sums"]]

    def snapshot(self, ep):
        return ep.json("/snapshot")

    def advance(self, ep, model, report):
        model["counter"] += 1
        report.equal("counter continues", ep.json("/count"), model["counter"])
        report.equal("compiled code gives the same bytes", ep.http(f"/hot?n={HOT}"), self.hot)
        report.equal("heap takes more", ep.json("/fill?n=20000"), self.filled(model, 20_000))
        report.equal("random continues", ep.json("/draw"), model["random"].next_int())
        report.equal("16 threads go on with their ThreadLocals", ep.json("/work?n=9"), self.worked(model, 9))

    def live(self, ep, report):
        digest = self.snapshot(ep)["digest"]
        report.equal("a full collection keeps the heap", ep.json("/collect"), digest)
        report.check("scheduled executors go on", ep.json("/ticks"))


PROGRAM = JavaProgram
