#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The page ledger of a live VM against what is in its RAM: pages whose content says what they are are looked for by the
host itself, and each must be in the ledger as that, at the right address of the right owner."""
import argparse
import bisect
import collections
import contextlib
import json
import os
import pathlib
import struct
import sys

from canary_test import guest_ram, guest_ram_file
from ctl import run_cases
from guest.gardener import MARK as DAEMON, PAGES as DAEMON_PAGES
from machine import missing_parts, skip_all
from trial import CallError, Trial, build_module, expect, scratch

HERE = pathlib.Path(__file__).resolve().parent
PAGE = 4096
MEMORY = 1024
MASK = (1 << 64) - 1
# Class and kind of what planter.c makes.
KINDS = {
    "anonymous": ("user_private", "anonymous"), "file_copy": ("user_private", "file_copy"), "shared": ("user_shared", "shmem"),
    "tmpfs": ("user_shared", "shmem"), "file": ("user_file", "file"), "cache": ("page_cache", "file"),
}
KERNEL = {"kmalloc_mark": ("system", "slab"), "vmalloc_mark": ("system", "kernel"), "large_mark": ("system", None)}
KERNEL_STACK = 16384  # of a thread on x86-64, without KASAN
Place = collections.namedtuple("Place", "gpa number")


def mark(seed, kind):
    value = 0xCBF29CE484222325 ^ (seed * 0x9E3779B97F4A7C15 & MASK)
    for byte in kind.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def data(pid, size):
    """[start, end) of what is there: to read a hole would fill it."""
    with open(guest_ram_file(pid), "rb") as ram:
        at = 0
        while at < size:
            try:
                start = os.lseek(ram.fileno(), at, os.SEEK_DATA)
            except OSError:  # There is none any more.
                return
            at = os.lseek(ram.fileno(), start, os.SEEK_HOLE)
            yield start, at


class Ledger:
    """A report of moultctl's, by page."""

    def __init__(self, result):
        self.result = result
        self.fields = {name: i for i, name in enumerate(result["run_fields"])}
        self.ram = [run for run in result["runs"] if self.value(run, "class") != "template"]
        self.template = [run for run in result["runs"] if self.value(run, "class") == "template"]
        for before, run in zip(self.ram, self.ram[1:]):
            expect(before[0] + before[1] <= run[0], f"{run} begins within {before}")
        self.starts = [run[0] for run in self.ram]

    def value(self, run, field):
        value = run[self.fields[field]]
        return self.result[f"{field}_names"][value] if field in ("class", "kind") else value

    def run_of(self, gpa):
        """None: it is not told of."""
        run = self.ram[max(bisect.bisect_right(self.starts, gpa) - 1, 0)]
        return run if run[0] <= gpa < run[0] + run[1] else None

    def at(self, gpa):
        run = self.run_of(gpa)
        expect(run is not None, f"page {gpa:#x} is not told of")
        found = {field: self.value(run, field) for field in self.fields}
        inside = gpa - run[0]
        found["va"] += inside if found["pid"] else 0
        file = found["file"]
        found["path"] = self.result["files"][file] if file >= 0 else None
        found["file_offset"] += inside if file >= 0 else 0
        found["flags"] = {name for i, name in enumerate(self.result["flag_names"]) if found["flags"] >> i & 1}
        return found


class Garden:
    def __init__(self, options, folder):
        self.options, self.folder = options, pathlib.Path(folder)
        more = ["--payload", f"functions/planter={pathlib.Path(options.bin) / 'moult-vm-planter'}",
                "--payload", f"functions/planter.ko={build_module('planter', options.kernel, folder)}",
                "--payload", f"init.d/60-gardener={HERE / 'guest' / 'gardener.py'}"]
        self.vm = Trial(options.bin, self.folder / "vm", self.folder / "store", options.kernel, memory=MEMORY, more=more)
        self.control = self.vm.control
        self.ram = guest_ram(self.vm.qemu)
        self.gardener = self.vm.start("gardener", ["/usr/bin/sleep", "100000"], port=9093)
        # Of what the guest's kernel makes a huge page later, free pages would keep the marks.
        self.control.get(self.gardener, "/khugepaged?every_ms=4000000000")

    def ledger(self, **more):
        return Ledger(self.control.call("pages", runs=True, **more))

    @contextlib.contextmanager
    def planted(self, seed, *kinds, pages=None, port=8080):
        """A function with such pages, and where they are in it. One beside it wants another port, and is planted within; in the
        end all functions end, also what was made of this one, since it has the port."""
        command = ["/run/moult/functions/planter", str(seed), str(pages or self.options.pages), *kinds]
        function = self.vm.start("planter", command, "--ready", "http:/", "--ready-timeout", "120000", "--env", f"PORT={port}", port=port)
        try:
            yield function, json.loads(self.control.get(function, "/"))
        finally:
            for other in self.control.call("ps")["functions"]:
                if other["state"] != "ended" and other["id"] != self.gardener:
                    self.control.call("kill", function=other["id"])

    def find(self, *marks):
        """{mark: [Place]} of the pages that begin with one, as the host sees RAM."""
        wanted = {value: [] for value in marks}
        for start, end in data(self.vm.qemu, len(self.ram)):
            for gpa in range(start, end, PAGE):
                first, number = struct.unpack_from("<QQ", self.ram, gpa)
                if first in wanted:
                    wanted[first].append(Place(gpa, number))
        return wanted


def expect_all(garden, places, ledger, of):
    """Each of `places` is in the ledger as `of(place, entry)`, which says what is wrong, has it."""
    expect(len(places) >= garden.options.pages, f"{len(places)} pages were found in RAM, {garden.options.pages} were made")
    expect({p.number for p in places} >= set(range(garden.options.pages)), "some page is not in RAM")
    wrong = [(hex(p.gpa), fault) for p in places if (fault := of(p, ledger.at(p.gpa)))]
    expect(not wrong, f"{len(wrong)} of {len(places)} pages are told wrong, such as {wrong[:1]}")


def differs(entry, **wanted):
    return {key: (entry[key], value) for key, value in wanted.items() if value is not None and entry[key] != value}


def pages_of_one(garden, function, at, found, whole):
    """`found` is {kind: [Place]} of a frozen function's. Its own report."""
    own = garden.ledger(function=function)
    expect([f["exact"] for f in own.result["functions"]] == [True], f"of a frozen function: {own.result['functions']}")
    for kind, places in found.items():
        page_class, page_kind = KINDS[kind]

        def of(place, entry, kind=kind, page_class=page_class, page_kind=page_kind):
            mapped = {"va": at[kind] + place.number * PAGE} if at[kind] else {}
            # A file's page that nobody maps is nobody's.
            owner = {"function": 0 if kind == "cache" else function}
            offset = {"file_offset": place.number * PAGE} if kind in ("file", "file_copy") else {}
            return differs(entry, **{"class": page_class}, kind=page_kind, **owner, **mapped, **offset)

        expect_all(garden, places, whole, of)
        if kind == "cache":
            continue
        expect_all(garden, places, own, of)
        sampled = [p for p in places if "sample" in own.at(p.gpa)["flags"]]
        expect(not sampled, f"{kind}: pages of a frozen function are called a sample")
    expect(all(own.value(run, "function") == function for run in own.result["runs"]), "another's pages in its report")
    return own


def function_pages(garden, seeds, *kinds):
    """Of functions side by side, one with each of the seeds."""
    with contextlib.ExitStack() as stack:
        planted = {seed: stack.enter_context(garden.planted(seed, *kinds, port=8080 + number)) for number, seed in enumerate(seeds)}
        for function, _ in planted.values():
            garden.control.call("freeze", function=function)
        whole = garden.ledger()
        marked = garden.find(*(mark(seed, kind) for seed in seeds for kind in kinds))
        found = {seed: {kind: marked[mark(seed, kind)] for kind in kinds} for seed in seeds}
        for seed, (function, at) in planted.items():
            own = pages_of_one(garden, function, at, found[seed], whole)
            for other in set(seeds) - {seed}:
                told = [(kind, hex(p.gpa)) for kind, places in found[other].items() for p in places if own.run_of(p.gpa)]
                expect(not told, f"{len(told)} pages of the other function are in the report of function {function}, such as {told[:1]}")


def classes_add_up_to_ram(garden):
    for _ in range(3):
        result = garden.control.call("pages")
        total = sum(result["classes"].values())
        expect(total == result["ram_bytes"] == MEMORY << 20, f"{result['classes']} add up to {total} of {MEMORY} MiB")


def memory_of_a_function(garden):
    function_pages(garden, [11], "anonymous", "shared", "tmpfs")


def private_copies_of_a_file(garden):
    function_pages(garden, [12], "file_copy")


def pages_of_files(garden):
    function_pages(garden, [13], "file", "cache")


def two_functions_side_by_side(garden):
    """Before memory_of_the_kernel, which keeps what it takes: of 10000 pages of each kind this is half of the guest's RAM."""
    function_pages(garden, [14, 15], "anonymous", "shared", "tmpfs", "file_copy", "file")


def template_pages_are_told_of_who_shows_them(garden):
    marked = mark(21, "anonymous")
    with garden.planted(21, "anonymous") as (first, at):
        found = garden.find(marked)[marked]
        garden.control.call("capture", function=first, name="first")
        second = garden.control.call("repurpose", function=first, name="first")["function"]["id"]
        garden.control.settle()
        ledger = garden.ledger()
        gone = [p for p in found if ledger.at(p.gpa)["function"] == first]
        expect(not gone, f"{len(gone)} pages are told of a function that has ended")
        expect(not garden.find(marked)[marked], "what a function had is still in RAM")
        shown = {}
        for run in ledger.template:
            entry = {field: ledger.value(run, field) for field in ledger.fields}
            expect(entry["function"] == second and entry["kind"] == "window", str(entry))
            shown.update({entry["va"] + i: entry["gpa"] + i for i in range(0, entry["length"], PAGE)})
        missing = [i for i in range(garden.options.pages) if at["anonymous"] + i * PAGE not in shown]
        expect(not missing, f"{len(missing)} template pages are not told of")
        told = garden.control.call("why", gpa=shown[at["anonymous"]])
        expect(told["class"] == "template" and told["va"] == at["anonymous"] and "template's page" in told["reason"], str(told))
    garden.control.call("templates.remove", name="first")


def memory_of_the_kernel(garden):
    marks = {key: mark(31, key) for key in KERNEL}
    words = "&".join(f"{key}={value}" for key, value in marks.items())
    garden.control.get(garden.gardener, f"/insmod?pages={garden.options.pages}&{words}")
    ledger, found = garden.ledger(), garden.find(*marks.values())
    for key, (page_class, kind) in KERNEL.items():
        expect_all(garden, found[marks[key]], ledger, lambda p, e, c=page_class, k=kind: differs(e, **{"class": c}, kind=k))


def page_tables(garden):
    """After memory_of_the_kernel, which loads the module that finds them."""
    with garden.planted(41, "tables") as (function, _):
        pid = next(f["pid"] for f in garden.control.call("ps")["functions"] if f["id"] == function)
        garden.control.call("freeze", function=function)
        ledger = garden.ledger()
        lines = garden.control.get(garden.gardener, f"/tables?pid={pid}").decode().split("\n")[:-1]
        tables = [tuple(map(int, line.split())) for line in lines]
        expect(sum(level == 1 for level, _ in tables) >= garden.options.pages, f"{len(tables)} page tables")
        # The kernel marks tables of the lower two levels as such on every version.
        wrong = [(level, hex(at), entry) for level, at in tables
                 if differs(entry := ledger.at(at), **{"class": "system"}, kind="page_table" if level <= 2 else None)
                 or (level == 1 and entry["function"] != function)]
        expect(not wrong, f"{len(wrong)} of {len(tables)} page tables are told wrong, such as {wrong[:1]}")
        told = next(f for f in ledger.result["functions"] if f["id"] == function)
        expect(told["on_behalf"] >= garden.options.pages * PAGE, f"on behalf of it: {told}")


def kernel_stacks(garden):
    """After memory_of_the_kernel, which loads the module that finds them: of each thread of a function all pages."""
    threads = 200
    with garden.planted(42, f"threads-{threads}") as (function, _):
        pid = next(f["pid"] for f in garden.control.call("ps")["functions"] if f["id"] == function)
        garden.control.call("freeze", function=function)
        ledger = garden.ledger()
        stacks = collections.defaultdict(list)
        for line in garden.control.get(garden.gardener, f"/stacks?pid={pid}").decode().splitlines():
            thread, gpa = map(int, line.split())
            stacks[thread].append(gpa)
        pages = {gpa for of_one in stacks.values() for gpa in of_one}
        expect(len(stacks) == threads + 1, f"stacks of {len(stacks)} threads, there are {threads + 1}")
        expect({len(of_one) for of_one in stacks.values()} == {KERNEL_STACK // PAGE} and len(pages) == len(stacks) * KERNEL_STACK // PAGE,
               f"pages of the stacks: {sorted(map(len, stacks.values()))}")
        wrong = [(hex(gpa), entry) for gpa in pages
                 if differs(entry := ledger.at(gpa), **{"class": "system"}, function=function)]
        expect(not wrong, f"{len(wrong)} of {len(pages)} pages of kernel stacks are told wrong, such as {wrong[:1]}")
        for gpa in sorted(pages)[::97]:
            told = garden.control.call("why", gpa=gpa + 8)
            expect(told["class"] == "system" and told["function"] == function and f"function {function} (planter)" in told["reason"], str(told))
        told = next(f for f in ledger.result["functions"] if f["id"] == function)
        expect(told["on_behalf"] >= len(pages) * PAGE, f"on behalf of it: {told}")


def memory_of_a_daemon(garden):
    places, ledger = garden.find(DAEMON)[DAEMON], garden.ledger()
    expect(len(places) >= DAEMON_PAGES, f"{len(places)} pages of the daemon are in RAM")
    wrong = [e for p in places if differs(e := ledger.at(p.gpa), **{"class": "system"}, kind="anonymous", function=0)]
    expect(not wrong, f"{len(wrong)} pages of a daemon are told wrong, such as {wrong[:1]}")


def why_says_the_same(garden):
    seed = 51
    with garden.planted(seed, "anonymous", pages=64) as (function, at):
        place = garden.find(mark(seed, "anonymous"))[mark(seed, "anonymous")][7]
        told = garden.control.call("why", gpa=place.gpa + 100)
        expect(told["va"] == at["anonymous"] + place.number * PAGE and told["function"] == function, str(told))
        expect(told["class"] == "user_private" and told["function_name"] == "planter", str(told))
        for word in ("anonymous memory", f"process {told['pid']} (planter)", f"function {function} (planter)"):
            expect(word in told["reason"], f"{word!r} is not in {told['reason']!r}")
        again = garden.control.call("why", hva=told["hva"])
        expect(again["gpa"] == told["gpa"] and again["va"] == told["va"], f"by HVA: {again}")
    for beyond in (MEMORY << 20, 1 << 50):
        try:
            garden.control.call("why", gpa=beyond)
        except CallError as e:
            expect(e.name == "NOT_FOUND" and hex(beyond) in str(e), str(e))
        else:
            expect(False, f"no error for {beyond:#x}")


# Has always children that come, write to some of what they were given, and go, some at once and some later.
BREEDER = """
import os, socket, time
x = [bytearray(5000) for _ in range(4000)]
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/breeder.sock')
born = 0
while True:
    x[id(x) % 7] = bytearray(9000)
    if os.fork() == 0:
        for part in x[::4]:
            part[0] = 1
        time.sleep(born % 4 * 0.4)
        os._exit(0)
    born += 1
    if born == 4:
        s.listen(8)
    if born >= 6:
        os.wait()
"""


def who(ledger, run, frozen, running):
    """Whose pages these are, of those that report_while_functions_come_and_go looks at."""
    page_class, kind, function = (ledger.value(run, field) for field in ("class", "kind", "function"))
    if page_class in ("user_private", "user_shared", "user_file"):
        return {frozen: "frozen", running: "running"}.get(function, "other")
    if page_class == "system" and function == 0:
        return "daemon" if kind == "anonymous" else "kernel"
    return page_class


def report_while_functions_come_and_go(garden):
    """A frozen function's pages are exact, whatever goes on beside it; all others are a sample, and are told as such."""
    marked, processes = mark(61, "anonymous"), set()
    with garden.planted(61, "anonymous", pages=512) as (function, at):
        garden.control.call("freeze", function=function)
        for _ in range(4):
            other = garden.vm.start_at("other", "unix:/tmp/breeder.sock", ["/usr/bin/python3", "-S", "-c", BREEDER], "--ready", "connect")
            ledger = garden.ledger()
            told = {f["id"]: f["exact"] for f in ledger.result["functions"]}
            expect(told[function] and told[other] is False, f"exact: {told}")
            total = sum(ledger.result["classes"].values())
            expect(total == MEMORY << 20, f"{total} bytes in all")
            sample = 1 << ledger.result["flag_names"].index("sample")
            pages = collections.Counter()
            for run in ledger.result["runs"]:
                whose = who(ledger, run, function, other)
                pages[whose] += ledger.value(run, "length") // PAGE
                # What the guest does not count as RAM the host fills in, which does not change.
                expect(whose == "reserved" or bool(ledger.value(run, "flags") & sample) == (whose != "frozen"),
                       f"whether pages of the {whose} are a sample: {run}")
                if whose == "running":
                    processes.add(ledger.value(run, "pid"))
            few = {whose: pages[whose] for whose, least in (("frozen", 512), ("running", 256), ("daemon", DAEMON_PAGES), ("kernel", 1)) if pages[whose] < least}
            expect(not few, f"pages of which too few were told: {few} of {pages}")
            places = garden.find(marked)[marked]
            expect({p.number for p in places} == set(range(512)), f"{len(places)} of its 512 pages are in RAM")
            for place in places:
                wrong = differs(ledger.at(place.gpa), function=function, va=at["anonymous"] + place.number * PAGE)
                expect(not wrong, f"{place}: {wrong}")
            garden.control.call("kill", function=other)
    expect(len(processes) > 4, f"no child of the running function was seen in four reports: {processes}")


CASES = [classes_add_up_to_ram, memory_of_a_daemon, why_says_the_same, report_while_functions_come_and_go, memory_of_a_function,
         private_copies_of_a_file, pages_of_files, two_functions_side_by_side, template_pages_are_told_of_who_shows_them,
         memory_of_the_kernel, page_tables, kernel_stacks]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--pages", type=int, default=10000, help="of each kind")
    parser.add_argument("--only", help="one case")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    with scratch() as folder:
        garden = Garden(options, folder)
        try:
            return run_cases([c for c in CASES if options.only in (None, c.__name__)], garden, close=garden.vm.close)
        finally:
            garden.ram.close()
            garden.vm.close()


if __name__ == "__main__":
    sys.exit(main())
