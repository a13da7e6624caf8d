# SPDX-License-Identifier: Apache-2.0
import os
import random
import sqlite3

from driver import Program


class PythonProgram(Program):
    name, addressing = "python", "reuseport"
    needs = ("/usr/lib/python3/dist-packages/numpy", "/usr/lib/python3/dist-packages/PIL")

    def command(self):
        # Clones that share one database file would each hold the same write lock: they get one in memory.
        self.db = ":memory:" if self.many else os.path.join(self.work, "notes.db")
        return ["/usr/bin/python3", os.path.join(self.here, "app.py"), "--port", str(self.port), "--db", self.db,
                "--ready", self.ready_fifo]

    def warm(self, ep):
        self.thumbs = ep.http("/thumbs?from=0&to=8")
        self.matrix = ep.http("/matrix")
        self.model = {"counter": 0, "random": random.Random(42), "line": 0, "rows": 1}
        for _ in range(100):
            ep.http("/count")
            self.model["counter"] += 1
        for _ in range(10):
            ep.http("/draw")
            self.model["random"].getrandbits(64)
            ep.http("/line")
            self.model["line"] += 1
        ep.http("/begin")
        self.model["rows"] = ep.json("/insert?n=500&text=before")

    def snapshot(self, ep):
        return ep.json("/snapshot")

    def advance(self, ep, model, report):
        report.check("thumbnails are the same bytes", ep.http("/thumbs?from=0&to=8") == self.thumbs)
        report.check("matrix product is the same bytes", ep.http("/matrix") == self.matrix)
        model["counter"] += 1
        report.equal("counter continues", ep.json("/count"), model["counter"])
        report.equal("random continues", ep.json("/draw"),
                     {"random": model["random"].getrandbits(64), "numpy_continues": True})
        report.equal("unlinked file goes on at its position", ep.json("/line"), f"line {model['line']:06d}")
        model["line"] += 1
        model["rows"] += 20
        report.equal("sqlite transaction takes more rows", ep.json("/insert?n=20&text=after"), model["rows"])

    def live(self, ep, report):
        report.check("timer thread goes on", ep.json("/ticks?more=5"))
        if not self.many:
            report.equal("sqlite: others see only what is committed", self.outside("SELECT count(*) FROM notes"), 1)
            report.check("sqlite: the write lock is still held", self.locked())

    def finish(self, ep, report):
        rows = ep.json("/snapshot")["rows"]
        report.equal("sqlite commits", ep.json("/commit"), [len(rows), "ok"])
        if not self.many:
            report.equal("sqlite: others see all rows", self.outside("SELECT count(*) FROM notes"), len(rows))
            report.equal("sqlite: integrity", self.outside("PRAGMA integrity_check"), "ok")
            report.check("sqlite: the write lock is gone", not self.locked())

    def outside(self, query):
        with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True) as database:
            return database.execute(query).fetchone()[0]

    def locked(self):
        database = sqlite3.connect(self.db, timeout=0, isolation_level=None)
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
            return False
        except sqlite3.OperationalError:
            return True
        finally:
            database.close()


PROGRAM = PythonProgram
