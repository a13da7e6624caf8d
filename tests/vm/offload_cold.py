# SPDX-License-Identifier: Apache-2.0
"""Only what a function does not use goes out: the cases of offload_test.py about --cold-only."""
import json

from offload_setting import case_of, Setting
from trial import expect

COLD = []
case = case_of(COLD)
PAGE = 4096
EVERY = 4  # of the scattered pages one in so many is used
# For guest/parts.py.
PARTS = {"unused": ("private", 24 << 20, 0), "scattered": ("private", 8 << 20, EVERY), "set_up": ("shared", 16 << 20, 0), "used": ("shared", 4 << 20, 1)}
SIZES = {name: size for name, (_, size, _) in PARTS.items()}


class Worker:
    """A function with such parts, and what of each of them is out."""

    def __init__(self, s, parts=None):
        self.control, self.parts = s.control, parts or PARTS
        self.function = s.parts("cold", self.parts)
        self.where = json.loads(self.control.get(self.function, "/where"))

    def work(self, path="/"):
        expect(self.control.get(self.function, path) == b"ok", f"its answer to {path}")

    def offload(self, **options):
        return self.control.call("offload", function=self.function, **{"cold_only": True, **options})

    def recall(self):
        self.control.call("recall", function=self.function, prefetch="none")

    def report(self):
        return self.control.call("pages", function=self.function, runs=True)

    def out(self):
        """{part: numbers of its pages}"""
        report, out = self.report(), {name: set() for name in self.parts}
        va, length, flags = (report["run_fields"].index(name) for name in ("va", "length", "flags"))
        offloaded = 1 << report["flag_names"].index("offloaded")
        for run in report["runs"]:
            if not run[flags] & offloaded:
                continue
            for name, first in self.where.items():
                pages = range(max(run[va], first), min(run[va] + run[length], first + self.parts[name][1]), PAGE)
                out[name].update((at - first) // PAGE for at in pages)
        return out

    def goes(self, name, out):
        """But for pages that the guest's kernel was at just then."""
        pages = self.parts[name][1] // PAGE
        expect(len(out[name]) >= pages * 0.97, f"of {pages} pages of {name} only {len(out[name])} are out")

    def stays(self, name, out):
        expect(not out[name], f"{len(out[name])} pages of {name} are out, such as {sorted(out[name])[:9]}")


@case
def what_no_request_touched_is_cold(s):
    worker = Worker(s)
    for _ in range(3):
        worker.work()
    result = worker.offload()
    expect(result["access"] == "page", f"how it is known: {result['access']}")
    expect(result["offloaded_bytes"] >= (SIZES["unused"] + SIZES["set_up"]) * 0.97, str(result))
    for again in (False, True):
        out = worker.out()
        worker.goes("unused", out)
        worker.goes("set_up", out)
        worker.stays("used", out)
        pages = SIZES["scattered"] // PAGE
        used = {page for page in out["scattered"] if page % EVERY == 0}
        expect(not used, f"scattered pages that are used and out: {sorted(used)[:9]}")
        expect(len(out["scattered"]) >= pages * (EVERY - 1) / EVERY * 0.97, f"{len(out['scattered'])} of {pages} scattered pages are out")
        if again:
            break
        # A look changes nothing: the next one finds no more, but for some of the interpreter's that the kernel has aged or moved meanwhile.
        result = worker.offload()
        expect(result["offloaded_bytes"] + result["zero_bytes"] < SIZES["used"] // 2, f"a second time: {result}")
    worker.recall()
    worker.work()
    out = worker.out()
    worker.goes("unused", out)
    worker.stays("used", out)

    # What it touches it needs from then on, until the next thaw.
    worker.work("/all")
    worker.offload()
    for name, pages in worker.out().items():
        expect(not pages, f"{len(pages)} pages of {name} are out, all of which was touched")
    worker.recall()
    worker.work()
    worker.offload(run_on=True)
    worker.work()
    out = worker.out()
    worker.goes("unused", out)
    worker.goes("set_up", out)
    worker.stays("used", out)
    worker.work("/all")
    s.end(worker.function)


@case
def steps_take_what_is_cold_first(s):
    worker = Worker(s)
    worker.work()
    step = 8 << 20
    for number in range(1, 5):  # 32 MiB of more than 40 that no request touched
        s.control.call("offload", function=worker.function, most_bytes=step)
        out = worker.out()
        worker.stays("used", out)
        expect(sum(map(len, out.values())) * PAGE >= step * (number - 1), f"after step {number}: {[len(pages) for pages in out.values()]}")
    worker.recall()
    worker.work("/all")
    s.end(worker.function)


@case
def hugetlb_pages_are_never_cold(s):
    """Nobody tells which of them were touched. They go with all the rest, and come back as they were."""
    count = 8
    expect(s.control.get(s.gardener, f"/hugetlb?count={count}") == b"%d" % count, "the guest has no room for huge pages")
    worker = Worker(s, {"huge": ("hugetlb", count << 21, 0), "unused": ("private", 8 << 20, 0)})
    worker.work()
    worker.offload()
    out = worker.out()
    worker.goes("unused", out)
    worker.stays("huge", out)
    worker.recall()
    worker.work("/all")
    for _ in range(2):
        worker.offload(cold_only=False)
        out = worker.out()
        worker.goes("unused", out)
        worker.goes("huge", out)
        worker.offload()
        worker.recall()
        worker.work()
        worker.offload()  # while huge pages are out
        worker.recall()
        worker.work("/all")
    worker.offload(cold_only=False)
    s.end(worker.function)
    expect(s.pager()["lost_pages"] == 0, str(s.pager()))
    expect(s.control.get(s.gardener, "/hugetlb?count=0") == b"0", "huge pages of a function that ended are not given back")


@case
def without_the_driver_whole_mappings_are_cold(s):
    plain = Setting(s.options, s.folder, "plain", ["--window", "0"])
    try:
        checks = {c["name"]: c for c in plain.control.call("doctor")["checks"]}
        expect(all(c["ok"] for c in checks.values()), f"doctor: {[c for c in checks.values() if not c['ok']]}")
        expect(all(checks[name].get("note") for name in ("host.window", "driver")), f"doctor does not say that there is none: {checks}")
        worker = Worker(plain)
        worker.work()
        result = worker.offload()
        expect(result["access"] == "mapping", f"how it is known: {result['access']}")
        out = worker.out()
        worker.goes("set_up", out)
        worker.stays("used", out)
        worker.stays("scattered", out)
        worker.recall()
        worker.work("/all")
        worker.offload()
        for name, pages in worker.out().items():
            expect(not pages, f"{len(pages)} pages of {name} are out, all of which was touched")
        worker.recall()
        worker.work("/all")
        expect(plain.pager()["lost_pages"] == 0, str(plain.pager()))
    finally:
        plain.vm.close()
