# SPDX-License-Identifier: Apache-2.0
"""Functions that are asked while one of them moves, and a daemon beside them: cases of offload_test.py, and what offload_bench.py
measures."""
import collections
import concurrent.futures
import contextlib
import json
import threading
import time

from offload_setting import case_of, SUBJECTS
from trial import expect

LOAD = []
case = case_of(LOAD)
PREFETCH = ("working-set", "all", "none")
AT_ONCE = 3  # functions that move in one cycle of real ones
BEAT_SECONDS = 1  # that the daemon works before its pages are looked at, again and again as long as functions move
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


@contextlib.contextmanager
def beside(work):
    """Meanwhile a thread does `work`, which ends soon after the event it is given is set. The future of what it returns."""
    over = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        future = pool.submit(work, over)
        try:
            yield future
        finally:
            over.set()


def at_once(work, *of):
    """As map, in a thread each."""
    with concurrent.futures.ThreadPoolExecutor(len(of[0])) as pool:
        return list(pool.map(work, *of))


class RealLoad:
    """Functions with data, each at a port of its own, asked all the while but for those that are moved."""

    def __init__(self, s):
        self.s = s
        self.functions = {name: s.run(name, port=8081 + i) for i, name in enumerate(SUBJECTS)}
        self.answers = {name: s.answer(name, function) for name, function in self.functions.items()}
        self.pieces = 0  # of the daemon's work

    def ask(self, name):
        expect(self.s.answer(name, self.functions[name]) == self.answers[name], f"another answer of {name}")

    def ask_others(self, moved, over):
        """How often."""
        names = [name for name in self.functions if name not in moved]
        asked = 0
        while not over.is_set():
            self.ask(names[asked % len(names)])
            asked += 1
            over.wait(0.02)
        return asked

    def daemon_works(self, over):
        """How many pieces."""
        pieces = 0
        while True:
            self.s.control.get(self.s.gardener, f"/beats?seconds={BEAT_SECONDS}")
            beaten = json.loads(self.s.control.get(self.s.gardener, "/beaten"))
            expect(not beaten["wrong"], f"{beaten['wrong']} pages of the daemon are not as they were")
            pieces += len(beaten["ms"])
            if over.is_set():
                return pieces

    @contextlib.contextmanager
    def daemon_at_work(self):
        """Not while it hashes: its threads take turns, and each page that one of them reads would wait for the other."""
        with beside(self.daemon_works) as working:
            yield
        self.pieces += working.result()

    def hashes(self, names):
        return {name: self.s.hash(self.functions[name]) for name in names}

    def offload(self, name):
        return self.s.control.call("offload", function=self.functions[name])

    def comes_back(self, name, prefetch):
        self.offload(name)
        self.s.control.call("recall", function=self.functions[name], prefetch=prefetch)
        self.ask(name)

    def cycle(self, number):
        """All of some is out at once, and back: by faults, or by one call for all. Then they come back each in its own way."""
        # Each is moved in three cycles of five, in each of them with another prefetch.
        names = [SUBJECTS[(number + i) % len(SUBJECTS)] for i in range(AT_ONCE)]
        with beside(lambda over: self.ask_others(names, over)) as asking:
            self.move(number, names)
        expect(asking.result() > 0, f"cycle {number}: nobody else was asked")

    def move(self, number, names):
        for name in names:
            self.s.control.call("freeze", function=self.functions[name])
        before = self.hashes(names)
        with self.daemon_at_work():
            moved = dict(zip(names, at_once(self.offload, names)))
            for name, result in moved.items():
                expect(result["offloaded_bytes"] > 4 << 20, f"cycle {number}, {name}: {result}")
            if number % 2:
                back = self.s.control.call("recall_all")["recalled_bytes"]
                out = sum(result["offloaded_bytes"] for result in moved.values())
                expect(back > out // 2, f"cycle {number}, {names}: {back} bytes came back of {moved}")
                for name in names:
                    info = self.s.info(self.functions[name])
                    expect(info["offloaded_bytes"] == 0, f"cycle {number}, {name}: {info}")
        after = self.hashes(names)  # by which every page is fetched that is still out
        for name in names:
            expect(before[name] == after[name], f"cycle {number}, {name}: {before[name]!r} became {after[name]!r}")
        with self.daemon_at_work():
            at_once(self.comes_back, names, PREFETCH)


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
    """Every byte of three at once, while the others and a daemon work. A cycle takes as long as thirty of the small functions."""
    load = RealLoad(s)
    begin = time.monotonic()
    for number in range(s.options.real_cycles):
        load.cycle(number)
    print(f"  {s.options.real_cycles} cycles of {AT_ONCE} functions, {(time.monotonic() - begin) / s.options.real_cycles:.1f} s each")
    expect(load.pieces > 0, "the daemon has done nothing")
    pager = s.pager()
    expect(pager["faults"] > 0 and pager["lost_pages"] == 0, str(pager))
    s.end(*load.functions.values())


@case
def daemon_beside_it_works_on(s):
    """All it has is as it was, all its answers are right; how long they take offload_bench.py tells."""
    load = Load(s)
    daemon_beside(s, load, turns=4, seconds=3)
    s.end(*load.functions)
