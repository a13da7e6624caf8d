# SPDX-License-Identifier: Apache-2.0
"""Functions that are asked while one of them moves, and a daemon beside them: cases of offload_test.py, and what offload_bench.py
measures."""
import collections
import concurrent.futures
import json
import threading
import time

from offload_setting import case_of, SUBJECTS
from trial import expect

LOAD = []
case = case_of(LOAD)
PREFETCH = ("working-set", "all", "none")
BEAT_CYCLES, BEAT_SECONDS = 5, 5  # the daemon works in the beginning of so many
Turn = collections.namedtuple("Turn", "moves pieces_ms answers_ms")


class Load:
    """Three functions that count and are asked, one of which may be moved meanwhile."""

    def __init__(self, s):
        self.s = s
        self.functions = [s.server(f"web{i}") for i in range(3)]
        self.counts = dict.fromkeys(self.functions, 0)

    def count(self, function, number, whose):
        self.counts[function] += 1
        expect(self.s.control.get(function, "/count") == b"%d" % self.counts[function], f"cycle {number}: {whose} count")

    def cycle(self, number, moves):
        function = self.functions[number % 3]
        if moves:
            self.s.control.call("offload", function=function, run_on=number % 2 == 1, cold_only=number % 5 == 4)
        for other in self.functions:
            if other != function:
                self.count(other, number, "a neighbour's")
        if moves and number % 2 == 0:
            self.s.control.call("recall", function=function, prefetch=PREFETCH[number // 2 % 3])
        self.count(function, number, "its")
        expect(self.s.control.get(function, "/bytes") == bytes(range(256)), f"cycle {number}: its bytes")


class RealLoad:
    """Functions with data, each at a port of its own, asked all the while but for the one that is moved."""

    def __init__(self, s):
        self.s = s
        self.functions = {name: s.run(name, port=8081 + i) for i, name in enumerate(SUBJECTS)}
        self.answers = {name: s.answer(name, function) for name, function in self.functions.items()}

    def ask(self, name):
        expect(self.s.answer(name, self.functions[name]) == self.answers[name], f"another answer of {name}")

    def ask_others(self, moved, over):
        """How often."""
        names = [name for name in self.functions if name != moved]
        asked = 0
        while not over.is_set():
            self.ask(names[asked % len(names)])
            asked += 1
            over.wait(0.02)
        return asked

    def cycle(self, number):
        """All of one is out and back: by faults, or at once."""
        name = SUBJECTS[number % len(SUBJECTS)]
        function = self.functions[name]
        over = threading.Event()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asking = pool.submit(self.ask_others, name, over)
            try:
                self.s.control.call("freeze", function=function)
                before = self.s.hash(function)
                moved = self.s.control.call("offload", function=function)
                expect(moved["offloaded_bytes"] > 4 << 20, f"cycle {number}, {name}: {moved}")
                if number % 2:
                    back = self.s.control.call("recall_all")["recalled_bytes"]
                    expect(back > moved["offloaded_bytes"] // 2, f"cycle {number}, {name}: {back} bytes came back of {moved}")
                    expect(self.s.info(function)["offloaded_bytes"] == 0, f"cycle {number}, {name}: {self.s.info(function)}")
                after = self.s.hash(function)
                expect(before == after, f"cycle {number}, {name}: {before!r} became {after!r}")
                self.s.control.call("offload", function=function)
                self.s.control.call("recall", function=function, prefetch=PREFETCH[number // len(SUBJECTS) % 3])
                self.ask(name)
            finally:
                over.set()
            expect(asking.result() > 0, f"cycle {number}: nobody else was asked")


class Asker:
    """Asks the daemon all the while."""

    def __init__(self, s):
        self.s, self.ms, self.over = s, [], threading.Event()

    def run(self):
        number = 0
        while not self.over.is_set():
            begin = time.monotonic()
            answer = self.s.control.get(self.s.gardener, f"/echo?word={number}")
            self.ms.append((time.monotonic() - begin) * 1000)
            expect(answer == b"%d" % number, f"the daemon answers {answer!r} to {number}")
            number += 1
            self.over.wait(0.01)
        return self.ms


def daemon_beside(s, load, turns, seconds):
    """In turns with and without functions that move: how long the pieces of work of a daemon took, and its answers."""
    told = []
    for turn in range(turns):
        moves = turn % 2 == 1
        asker = Asker(s)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asking = pool.submit(asker.run)
            try:
                s.control.get(s.gardener, f"/beats?seconds={seconds}")
                deadline, number = time.monotonic() + seconds, 0
                while time.monotonic() < deadline:
                    load.cycle(number, moves)
                    number += 1
            finally:
                asker.over.set()
            answers = asking.result()
        beaten = json.loads(s.control.get(s.gardener, "/beaten"))
        expect(not beaten["wrong"], f"turn {turn}: {beaten['wrong']} pages of the daemon are not as they were")
        expect(len(beaten["ms"]) > 3 and len(answers) > 3, f"turn {turn}: the daemon stands still: {beaten['ms']}, {answers}")
        told.append(Turn(moves, beaten["ms"], answers))
    return told


@case
def three_functions_under_load(s):
    load = Load(s)
    for number in range(s.options.cycles):
        load.cycle(number, moves=True)
    pager = s.pager()
    expect(pager["faults"] > 0 and pager["lost_pages"] == 0, str(pager))
    s.end(*load.functions)


@case
def real_functions_under_load(s):
    """Every byte of them, while the others and a daemon work. A cycle takes as long as ten of the small functions."""
    load = RealLoad(s)
    for number in range(s.options.cycles // 2):
        if number % BEAT_CYCLES == 0:
            s.control.get(s.gardener, f"/beats?seconds={BEAT_SECONDS}")
        load.cycle(number)
        if number % BEAT_CYCLES == BEAT_CYCLES - 1:
            beaten = json.loads(s.control.get(s.gardener, "/beaten"))
            expect(not beaten["wrong"] and beaten["ms"], f"cycle {number}: pages of the daemon are not as they were: {beaten['wrong']}")
    pager = s.pager()
    expect(pager["faults"] > 0 and pager["lost_pages"] == 0, str(pager))
    s.end(*load.functions.values())


@case
def daemon_beside_it_works_on(s):
    """All it has is as it was, all its answers are right; how long they take offload_bench.py tells."""
    load = Load(s)
    daemon_beside(s, load, turns=4, seconds=3)
    s.end(*load.functions)
