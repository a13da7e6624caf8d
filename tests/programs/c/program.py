# SPDX-License-Identifier: Apache-2.0
import json
import os

from driver import Program, compile_once

THREADS, MASK = 500, (1 << 64) - 1


class CProgram(Program):
    name, addressing, needs = "c", "rename", ("/usr/bin/gcc",)

    def build(self):
        source, self.binary = os.path.join(self.here, "threads500.c"), os.path.join(self.build_dir, "threads500")
        compile_once(self.binary, [source],
                     ["/usr/bin/gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", self.binary, source])

    def command(self):
        self.socket_path = os.path.join(self.work, "threads.sock")
        return [self.binary, self.socket_path, self.ready_fifo]

    @staticmethod
    def ask(ep, line):
        with ep.connect() as sock, sock.makefile("rw") as stream:
            stream.write(line + "\n")
            stream.flush()
            # To the end: the connection must be gone on both sides before a dump.
            return json.loads(stream.read())

    def identity(self, ep):
        answer = self.ask(ep, "identity")
        return answer["pid"], answer["clock"]

    # Whether a connected unix stream can come back is not this program's question.
    def attach(self, ep):
        pass

    def still_attached(self, ep, report):
        pass

    def detached(self, report):
        pass

    def warm(self, ep):
        self.model = {"round": 0, "stack": list(range(THREADS)), "tls": [i * 1000003 for i in range(THREADS)]}
        for _ in range(3):
            self.ask(ep, "round")
            self.step(self.model)

    @staticmethod
    def step(model):
        """What 'round' must answer."""
        model["round"] = n = model["round"] + 1
        model["stack"] = [(s * 31 + n) & MASK for s in model["stack"]]
        model["tls"] = [(t + (s ^ n)) & MASK for s, t in zip(model["stack"], model["tls"])]
        sums = {}
        for key in ("stack", "tls"):
            total = 0
            for value in model[key]:
                total = (total * 1000003 + value) & MASK
            sums[key] = str(total)
        return {"round": n, **sums, "tids": THREADS, "names": THREADS, "masks": THREADS}

    def snapshot(self, ep):
        return self.ask(ep, "snapshot")

    def advance(self, ep, model, report):
        for _ in range(3):
            report.equal("500 threads answer with what they held", self.ask(ep, "round"), self.step(model))


PROGRAM = CProgram
