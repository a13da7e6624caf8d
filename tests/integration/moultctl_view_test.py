#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What moultctl shows of a VM whose answers are made up, and what it asks for: pages, why, map, top, ps, freeze, thaw, offload,
recall, detach, repurpose, status, metrics."""
import argparse
import json
import pathlib
import signal
import struct
import sys
import tempfile
import types
import xml.dom.minidom
import zlib

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "vm"))
import fake_vm  # noqa: E402
from ctl import Ctl, expect, run_cases  # noqa: E402

CASES = []


def case(function):
    CASES.append(function)
    return function


# A guest of 64 pages, and two of a template.
RUNS = [(0, 8, "reserved", "reserved", 0), (8 << 12, 16, "system", "kernel", 0), (24 << 12, 8, "user_private", "anonymous", 4),
        (1 << 32, 16, "page_cache", "file", 0), ((1 << 32) + (16 << 12), 16, "free", "free", 0), (1 << 33, 2, "template", "anonymous", 4)]
THUMB = {"id": 4, "name": "thumb", "state": "running", "exact": True, "user_private": 8 << 12, "user_shared": 0, "user_file": 0, "template": 2 << 12,
         "offloaded": 0, "on_behalf": 4096, "segments": {"runtime": {"bytes": 5 << 12, "offloaded_bytes": 0}, "init": {"bytes": 3 << 12, "offloaded_bytes": 4096},
                                                         "exec": {"bytes": 0, "offloaded_bytes": 0}}}


class FakeSetting:
    """moultctl before a VM whose answers are made up."""

    def __init__(self, s, name, **answers):
        report = fake_vm.ledger(RUNS, [THUMB])
        functions = [{"id": 4, "name": "thumb", "state": "running", "memory_bytes": 65536}]
        self.vm = fake_vm.FakeVm(s.folder / name, {
            "pages": lambda params: report if params.get("runs") else fake_vm.without_runs(report), "ps": {"functions": functions}} | answers)
        self.ctl = Ctl(s.program, "--control", self.vm.path)
        self.report = report

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.vm.close()


@case
def pages_are_shown_by_class_kind_and_function(s):
    with FakeSetting(s, "pages") as fake:
        out = fake.ctl.ok("pages").out.decode()
        for text in ("256.0 KiB of guest RAM", "user_private", "KIND", "anonymous", "thumb", "RUNTIME  OUT      INIT     OUT", "20.0 KiB  0 B  12.0 KiB  4096 B"):
            expect(text in out, f"pages lacks {text!r}: {out}")
        expect("GPA" not in out and fake.vm.calls[-1] == ("pages", {}), f"pages: {fake.vm.calls}")
        runs = fake.ctl.ok("pages", "--runs").out.decode()
        expect("GPA" in runs and "0x100000000" in runs and "/usr/bin/python3.11+0x100000000" in runs, f"pages --runs: {runs}")
        expect(fake.ctl.json("pages", "--runs") == fake.report, "--json changes the answer")
        fake.ctl.ok("pages", "thumb")
        expect(fake.vm.calls[-2:] == [("ps", {}), ("pages", {"function": 4})], f"pages thumb: {fake.vm.calls[-2:]}")
        fake.ctl.fails(4, "none of this name lives", "pages", "nobody")
    with FakeSetting(s, "pages2", pages=fake_vm.Refusal(5, "NOT_FOUND", "function 99: there is none")) as fake:
        fake.ctl.fails(4, "function 99", "pages", "99")
        fake.ctl.fails(4, "function 99", "map")
    with FakeSetting(s, "pages3", pages={"ram_bytes": "much"}) as fake:
        expect(fake.ctl.run("pages").code == 6 and fake.ctl.json("pages") == {"ram_bytes": "much"}, "an odd answer")
        fake.ctl.fails(6, "ram_bytes", "map")


@case
def pages_are_compared_with_an_earlier_report(s):
    earlier = s.folder / "earlier.json"
    with FakeSetting(s, "against") as fake:
        earlier.write_bytes(fake.ctl.ok("--json", "pages", "--runs").out)
        fake.vm.calls.clear()
        same = fake.ctl.json("pages", "--against", earlier)
        expect(same["changed_bytes"] == 0 and same["changes"] == [] and "runs" not in same and same["against"] == str(earlier), f"nothing changed: {same}")
        expect(fake.vm.calls == [("pages", {"runs": True})], f"pages --against: {fake.vm.calls}")
        expect(fake.ctl.ok("pages", "--against", earlier).out.startswith(b"0 B of 256.0 KiB of guest RAM have changed\n"), "nothing changed")
        expect(fake.ctl.json("pages", "--against", "-", stdin=earlier.read_bytes())["changed_bytes"] == 0, "the report on stdin")
    # Two pages of thumb are free now, four free ones are web's.
    runs = [*RUNS[:2], (24 << 12, 6, "user_private", "anonymous", 4), (30 << 12, 2, "free", "free", 0), RUNS[3],
            ((1 << 32) + (16 << 12), 12, "free", "free", 0), ((1 << 32) + (28 << 12), 4, "user_private", "anonymous", 9), RUNS[5]]
    later = fake_vm.ledger(runs, [THUMB | {"user_private": 6 << 12}, {"id": 9, "name": "web", "state": "running", "user_private": 4 << 12}])
    with FakeSetting(s, "against2", pages=later) as fake:
        told = fake.ctl.json("pages", "--against", earlier, "--runs")
        expect(told["changed_bytes"] == 6 << 12 and told["classes"]["free"] == {"before_bytes": 16 << 12, "bytes": 14 << 12}, f"pages --against: {told}")
        expect([(run["gpa"], run["length"] >> 12, run["before"]["class"], run["now"]["class"], run["now"]["function_name"]) for run in told["runs"]] ==
               [(30 << 12, 2, "user_private", "free", ""), ((1 << 32) + (28 << 12), 4, "free", "user_private", "web")], f"its runs: {told['runs']}")
        out = fake.ctl.ok("pages", "--against", earlier).out.decode()
        for text in ("24.0 KiB of 256.0 KiB of guest RAM have changed", "free      ", "user_private (anonymous) of 9 web", "user_private (anonymous) of 4 thumb", "-8192 B"):
            expect(text in out, f"pages --against lacks {text!r}: {out}")
        expect("0x1001c000" not in out and "0x10001c000" in fake.ctl.ok("pages", "--against", earlier, "--runs").out.decode(), "each change by itself")
        fake.vm.calls.clear()
        told = fake.ctl.json("pages", "thumb", "--against", earlier)
        expect(told["changed_bytes"] == 2 << 12 and [f["id"] for f in told["functions"]] == [4], f"pages thumb --against: {told}")
        expect(fake.vm.calls == [("ps", {}), ("pages", {"runs": True})], f"pages thumb --against: {fake.vm.calls}")
        fake.ctl.fails(4, "function 99: neither", "pages", "99", "--against", earlier)


@case
def pages_are_not_compared_with_what_is_no_report(s):
    bad = s.folder / "bad.json"
    with FakeSetting(s, "against3") as fake:
        for text, why in (("", "is empty"), ("web 12 MiB\n", "is no JSON"), ('{"pid": 4}', "ram_bytes is no whole number"),
                          (json.dumps(fake_vm.without_runs(fake.report)), "has no runs"), (json.dumps(fake.report)[:-9], "is no JSON")):
            bad.write_text(text, encoding="utf-8")
            fake.ctl.fails(2, f"--against {bad}: no report of pages: {why}; store one by moultctl pages --json --runs", "pages", "--against", bad)
        fake.ctl.fails(4, f"--against {s.folder}/none.json: open", "pages", "--against", s.folder / "none.json")
        expect(not fake.vm.calls, f"the VM is asked all the same: {fake.vm.calls}")
        bad.write_text(json.dumps(fake_vm.ledger(RUNS[:3])), encoding="utf-8")
        fake.ctl.fails(3, "give the FUNCTION, or a report of all", "pages", "--against", bad)


@case
def why_says_its_sentence_first(s):
    answer = {"op": "why", "ok": True, "gpa": 0x8000, "class": "system", "kind": "slab", "reason": "The kernel's slab has it.", "flags": []}
    with FakeSetting(s, "why", why=lambda params: answer if params.get("gpa", 0) < 1 << 40 else fake_vm.Refusal(5, "NOT_FOUND", "0x10000000000 is no RAM")) as fake:
        expect(fake.ctl.ok("why", "0x8000").out.decode().splitlines()[0] == "The kernel's slab has it.", "why")
        expect(fake.ctl.json("why", "32768") == answer, "why --json")
        fake.ctl.ok("why", "--hva", "0X7fffdeadb000")
        expect(fake.vm.calls == [("why", {"gpa": 0x8000}), ("why", {"gpa": 0x8000}), ("why", {"hva": 0x7FFFDEADB000})], f"{fake.vm.calls}")
        fake.ctl.fails(4, "is no RAM", "why", "0x10000000000")
        for bad in ("8000x", "0x", "", "0x10000000000000000", "18446744073709551616", "-1", "+1", " 1", "0x-1", "1e3"):
            fake.ctl.fails(2, "ADDRESS", "why", *([bad] if not bad.startswith("-") else ["--", bad]))


def png_size(path):
    data = path.read_bytes()
    expect(data[:8] == b"\x89PNG\r\n\x1a\n" and data[-8:-4] == b"IEND", f"{path} is no whole PNG")
    at, packed = 8, b""
    while at < len(data):
        length = int.from_bytes(data[at:at + 4], "big")
        if data[at + 4:at + 8] == b"IDAT":
            packed += data[at + 8:at + 8 + length]
        at += 12 + length
    width, height = struct.unpack(">II", data[16:24])
    expect(len(zlib.decompress(packed)) == height * (width * 3 + 1), f"{path}: its pixels")
    return width, height


@case
def map_is_letters_where_no_terminal_is(s):
    with FakeSetting(s, "map") as fake:
        out = fake.ctl.ok("map", "--width", "16").out.decode().splitlines()
        expect(out[1:5] == ["########KKKKKKKK", "KKKKKKKKPPPPPPPP", "C" * 16, "." * 16], f"map: {out}")
        expect(out[5:7] == ["8192 B of templates, beside it", "TT"], f"map: {out}")
        told = fake.ctl.json("map", "--width", "16")
        expect(told["ram"] == out[1:5] and told["templates"] == ["TT"] and told["pages_per_cell"] == 1, f"map --json: {told}")
        expect(sum(e["bytes"] for e in told["legend"]) == told["ram_bytes"] + told["template_bytes"], f"its legend: {told}")
        curve = fake.ctl.json("map", "--hilbert", "--width", "64")
        expect(curve["columns"] == curve["rows"] == 8 and "".join(curve["ram"]).count("P") == 8, f"--hilbert: {curve}")
        for env, colours in (({}, True), ({"NO_COLOR": "1"}, False)):
            shown, code = Ctl(s.program, *fake.ctl.options, env=env).on_terminal("map", stream="stdout")
            expect(code == 0 and ("\x1b[38;2;" in shown) == colours and ("▀" in shown) == colours, f"map on a terminal, {env}: {shown[:300]!r}")
    with FakeSetting(s, "map2", pages=fake_vm.without_runs(fake_vm.ledger(RUNS))) as fake:
        fake.ctl.fails(3, "no runs", "map")


@case
def map_is_written_whole_or_not_at_all(s):
    folder = s.folder / "pictures"
    folder.mkdir()
    png, svg = folder / "ram.png", folder / "ram.svg"
    with FakeSetting(s, "map3") as fake:
        told = fake.ctl.json("map", "--png", png, "--svg", svg, "--width", "32")
        expect(png_size(png) == (told["width"], told["height"]) and told["png"] == str(png), f"{told}")
        text = xml.dom.minidom.parse(str(svg)).documentElement
        expect(text.getAttribute("width") == str(told["width"]) and "thumb" in svg.read_text(encoding="utf-8"), "the SVG")
        expect(str(png).encode() in fake.ctl.ok("map", "--png", png).out, "map does not name the file")
        fake.ctl.fails(4, str(folder / "none" / "a.png"), "map", "--png", folder / "none" / "a.png")
        fake.ctl.fails(3, "/dev/null: is no regular file", "map", "--svg", "/dev/null")
    expect(sorted(p.name for p in folder.iterdir()) == ["ram.png", "ram.svg"], f"left over: {list(folder.iterdir())}")


def counting():
    """`ps` of a function that has 1000 more page faults each time, and of one that is larger and tells less."""
    rounds = iter(range(10**6))

    def ps(_):
        return {"functions": [{"id": 1, "name": "small", "state": "running", "anon_bytes": 4096, "shmem_bytes": 4096, "faults": 1000 * next(rounds),
                               "recall_faults": 0}, {"id": 2, "name": "large", "state": "frozen", "anon_bytes": 1 << 20, "memory_bytes": 2 << 20}]}
    return ps


@case
def top_shows_rates_the_largest_first(s):
    with FakeSetting(s, "top", ps=counting()) as fake:
        lines = fake.ctl.ok("top", "--count", "2", "--interval", "0.2").out.decode().splitlines()
        expect(len(lines) == 7 and lines[3] == "" and lines[0] == lines[4] and lines[0].split()[0] == "ID", f"top: {lines}")
        expect(lines[1].split()[1] == "large" and lines[2].split()[1] == "small", f"top's order: {lines}")
        expect(lines[2].split()[-2:] == ["-", "-"] and float(lines[6].split()[-2]) > 0 and lines[6].split()[-1] == "0.0", f"top's rates: {lines}")
        expect(lines[5].split()[-4:] == ["-", "-", "-", "-"], f"what is not told: {lines}")
        expect("pages" in [method for method, _ in fake.vm.calls], f"top's look at the pages: {fake.vm.calls}")
        rounds = [json.loads(line)["functions"] for line in fake.ctl.ok("--json", "top", "--count", "3", "--interval", "0.1").out.splitlines()]
        expect([len(r) for r in rounds] == [2, 2, 2] and rounds[0][1]["faults_per_second"] is None, f"top --json: {rounds}")
        expect(all(r[1]["faults_per_second"] > 0 and r[1]["user_bytes"] == 8192 for r in rounds[1:]), f"top --json: {rounds}")
        shown, code = fake.ctl.on_terminal("top", "--interval", "0.1", "--count", "2", stream="stdout")
        expect(code == 0 and shown.count("\x1b[H\x1b[2J") == 2, f"top on a terminal: {shown!r}")


@case
def top_shows_what_only_the_ledger_tells(s):
    functions = [{"id": 4, "name": "thumb", "state": "running", "anon_bytes": 8 << 12, "template_bytes": 1 << 20}]
    wanted = {"runtime": {"bytes": 5 << 12, "offloaded_bytes": 0}, "init": {"bytes": 3 << 12, "offloaded_bytes": 4096},
              "exec": {"bytes": 0, "offloaded_bytes": 0}}
    nothing = dict.fromkeys(wanted)
    with FakeSetting(s, "top4", ps={"functions": functions}) as fake:
        thumb = fake.ctl.json("top", "--count", "1")["functions"][0]
        expect(thumb["segments"] == wanted and thumb["template_bytes"] == 8192, f"top --json: {thumb}")
        line = fake.ctl.ok("top", "--count", "1").out.decode().splitlines()[1].split()
        expect(line[-11:] == ["-", "8192", "B", "20.0", "KiB", "12.0", "KiB", "0", "B", "-", "-"], f"top: {line}")
        fake.vm.calls.clear()
        thumb = fake.ctl.json("top", "--count", "1", "--no-pages")["functions"][0]
        expect(thumb["segments"] == nothing and thumb["template_bytes"] is None and fake.vm.calls == [("ps", {})], f"top --no-pages: {thumb}")
    for code, name in ((12, "UNIMPLEMENTED"), (7, "PERMISSION_DENIED")):
        with FakeSetting(s, f"top-{name}", ps={"functions": functions}, pages=fake_vm.Refusal(code, name, "no page ledger")) as fake:
            out = fake.ctl.ok("--json", "top", "--count", "2", "--interval", "0.1").out
            rounds = [json.loads(line)["functions"][0] for line in out.splitlines()]
            expect([one["segments"] for one in rounds] == [nothing] * 2, f"{name}: {rounds}")
            expect([method for method, _ in fake.vm.calls] == ["ps", "pages", "ps"], f"{name}: {fake.vm.calls}")


@case
def top_counts_as_resident_what_is_not_out(s):
    out = iter((0, 24 << 12, 80 << 12))  # The last one: some of it the guest has freed since.

    def ps(_):
        return {"functions": [{"id": 4, "name": "thumb", "state": "frozen", "memory_bytes": 64 << 12, "anon_bytes": 30 << 12, "shmem_bytes": 2 << 12,
                               "offloaded_bytes": next(out)}]}

    with FakeSetting(s, "top5", ps=ps) as fake:
        told = fake.ctl.ok("--json", "top", "--no-pages", "--count", "3", "--interval", "0.1").out.splitlines()
        rounds = [json.loads(line)["functions"][0] for line in told]
        expect([(r["user_bytes"] >> 12, r["resident_bytes"] >> 12, r["offloaded_bytes"] >> 12) for r in rounds] == [(32, 64, 0), (32, 40, 24), (32, 0, 80)],
               f"top --json: {rounds}")


@case
def top_ends_by_sigint_as_asked(s):
    with FakeSetting(s, "top2", ps=counting()) as fake:
        shown, code = fake.ctl.on_terminal("top", "--interval", "3600", until=b"small", stop=signal.SIGINT, stream="stdout")
        expect(code == 0 and "small" in shown, f"exit {code}: {shown!r}")
    with FakeSetting(s, "top3", ps=fake_vm.Refusal(14, "UNAVAILABLE", "the agent is away")) as fake:
        fake.ctl.fails(8, "the agent is away", "top")


@case
def ps_shows_what_functions_have_where_it_is_told(s):
    functions = [{"id": 4, "name": "thumb", "state": "running", "memory_bytes": 65536, "anon_bytes": 12288, "shmem_bytes": 4096, "offloaded_bytes": 8192,
                  "template": "py", "template_bytes": 3 << 20},
                 {"id": 5, "name": "old", "state": "running", "memory_bytes": 65536}]
    with FakeSetting(s, "ps", ps={"functions": functions}) as fake:
        head, thumb, old = fake.ctl.ok("ps").out.decode().splitlines()
        at = head.index("USER")
        expect(thumb[at:].split()[:4] == ["16.0", "KiB", "8192", "B"] and "py        3072.0 KiB" in thumb and old[at:].split()[:2] == ["-", "-"], f"ps: {head}\n{thumb}\n{old}")


FAILS = {"FAILED_PRECONDITION": (9, 3), "NOT_FOUND": (5, 4), "UNAVAILABLE": (14, 8), "DATA_LOSS": (15, 6)}


def exits_as_errors_say(s, method, *words):
    """Each error's exit code, its text in words and as JSON."""
    for name, (code, leaves) in FAILS.items():
        with FakeSetting(s, f"{method}-{name}", **{method: fake_vm.Refusal(code, name, f"{method} did not go: {name}")}) as fake:
            fake.ctl.fails(leaves, f"{method} did not go", *words)


@case
def freeze_and_thaw_ask_for_the_function(s):
    for method, becomes in (("freeze", "frozen"), ("thaw", "running")):
        answer = {"op": method, "ok": True, "total_us": 900, "phases": []}
        with FakeSetting(s, method, **{method: answer}) as fake:
            expect(fake.ctl.ok(method, "thumb").out == f"4 {becomes}\n".encode(), f"{method} thumb")
            expect(fake.vm.calls == [("ps", {}), (method, {"function": 4})], f"{method} thumb: {fake.vm.calls}")
            expect(fake.ctl.json(method, "17") == answer, f"--json {method}")
            expect(fake.vm.calls[2:] == [(method, {"function": 17})], f"{method} 17: {fake.vm.calls}")
            fake.ctl.fails(4, "none of this name lives", method, "nobody")
            fake.ctl.fails(2, "FUNCTION", method)
        exits_as_errors_say(s, method, method, "4")


DETACHED = {"op": "detach", "ok": True, "total_us": 12340, "phases": [], "detached": True, "discarded_bytes": 3 << 20, "notes": []}


@case
def detach_says_what_was_given_back(s):
    with FakeSetting(s, "detach", detach=DETACHED) as fake:
        out = fake.ctl.ok("detach", "thumb").out.decode()
        expect(out == "4 detached in 12.34 ms, 3072.0 KiB given back\n", f"detach: {out!r}")
        expect(fake.vm.calls == [("ps", {}), ("detach", {"function": 4})], f"detach: {fake.vm.calls}")
        expect(fake.ctl.json("detach", "4") == DETACHED, "--json detach")
    exits_as_errors_say(s, "detach", "detach", "4")


@case
def offload_sends_its_options(s):
    answer = {"op": "offload", "ok": True, "total_us": 4500, "phases": [{"name": "host.pool", "us": 1200}], "offloaded_bytes": 3 << 20, "zero_bytes": 1 << 20,
              "stayed_bytes": 0, "already_bytes": 0}
    defaults = {"function": 4, "cold_only": False, "run_on": False, "segment": "all"}
    with FakeSetting(s, "offload", offload=answer) as fake:
        out = fake.ctl.ok("offload", "thumb").out.decode()
        expect(out == "4 offloaded in 4.50 ms: 4096.0 KiB out of the guest, 3072.0 KiB of it in the pool (host.pool 1.20 ms)\n", f"offload: {out!r}")
        expect(fake.vm.calls == [("ps", {}), ("offload", defaults)], f"offload: {fake.vm.calls}")
        for words, given in ((["--segment", "init", "--cold-only", "--run-on"], {"segment": "init", "cold_only": True, "run_on": True}),
                             (["--segment", "runtime"], {"segment": "runtime"}), (["--segment", "exec"], {"segment": "exec"}),
                             (["--segment", "all"], {}), (["--cold-only"], {"cold_only": True}), (["--run-on"], {"run_on": True})):
            fake.vm.calls.clear()
            fake.ctl.ok("offload", "thumb", *words)
            expect(fake.vm.calls == [("ps", {}), ("offload", defaults | given)], f"offload {words}: {fake.vm.calls}")
        fake.vm.calls.clear()
        expect(fake.ctl.json("offload", "17") == answer and fake.vm.calls == [("offload", defaults | {"function": 17})], f"--json offload: {fake.vm.calls}")
        fake.vm.calls.clear()
        fake.ctl.fails(2, "--segment", "offload", "thumb", "--segment", "heap")
        fake.ctl.fails(2, "FUNCTION", "offload", "--cold-only")
        expect(not fake.vm.calls, f"a line that is refused asks for something: {fake.vm.calls}")
        fake.ctl.fails(4, "none of this name lives", "offload", "nobody")
    exits_as_errors_say(s, "offload", "offload", "4")


@case
def recall_sends_what_is_fetched_ahead(s):
    answer = {"op": "recall", "ok": True, "total_us": 2500, "phases": [{"name": "agent.thaw", "us": 700}], "prefetched_bytes": 2 << 20, "left_bytes": 1 << 20}
    with FakeSetting(s, "recall", recall=answer) as fake:
        out = fake.ctl.ok("recall", "thumb").out.decode()
        expect(out == "4 recalled in 2.50 ms: 2048.0 KiB fetched, 1024.0 KiB come when touched (agent.thaw 0.70 ms)\n", f"recall: {out!r}")
        expect(fake.vm.calls == [("ps", {}), ("recall", {"function": 4, "prefetch": "working-set"})], f"recall: {fake.vm.calls}")
        for prefetch in ("all", "none", "working-set"):
            fake.vm.calls.clear()
            expect(fake.ctl.json("recall", "17", "--prefetch", prefetch) == answer, f"--json recall --prefetch {prefetch}")
            expect(fake.vm.calls == [("recall", {"function": 17, "prefetch": prefetch})], f"recall --prefetch {prefetch}: {fake.vm.calls}")
        fake.vm.calls.clear()
        fake.ctl.fails(2, "--prefetch", "recall", "17", "--prefetch", "some")
        fake.ctl.fails(2, "FUNCTION", "recall")
        expect(not fake.vm.calls, f"a line that is refused asks for something: {fake.vm.calls}")
        fake.ctl.fails(4, "none of this name lives", "recall", "nobody")
    exits_as_errors_say(s, "recall", "recall", "4")


@case
def recall_all_wants_no_function(s):
    answer = {"op": "recall_all", "ok": True, "total_us": 2500, "phases": [], "recalled_bytes": 3 << 20}
    with FakeSetting(s, "recall_all", recall_all=answer) as fake:
        out = fake.ctl.ok("recall-all").out.decode()
        expect(out == "3072.0 KiB recalled in 2.50 ms\n", f"recall-all: {out!r}")
        expect(fake.ctl.json("recall-all") == answer, "--json recall-all")
        expect(fake.vm.calls == [("recall_all", {})] * 2, f"recall-all: {fake.vm.calls}")
        fake.ctl.fails(2, "thumb", "recall-all", "thumb")
    exits_as_errors_say(s, "recall_all", "recall-all")


@case
def repurpose_sends_its_options(s):
    answer = {"op": "repurpose", "ok": True, "total_us": 8200, "phases": [{"name": "host.end_function", "us": 3100}, {"name": "agent.freeze", "us": 900}],
              "function": {"id": 9, "name": "web"}, "pages": "in_place", "detached": True, "settled": False, "discarded_bytes": 0,
              "notes": ["copied, because: the window is small"]}
    settled = answer | {"settled": True, "discarded_bytes": 5 << 20, "bytes_by_source": {"pool": 2 << 20, "cache": 1 << 20}}
    with FakeSetting(s, "repurpose", repurpose=lambda params: settled if params["settled"] else answer) as fake:
        out = fake.ctl.ok("repurpose", "thumb", "web-template").out.decode()
        expect(out.endswith("\nnote: copied, because: the window is small\n"), f"repurpose: {out!r}")
        expect(out.startswith("4 is now 9 web-template in 8.20 ms (") and "given back" not in out and "end_function" in out, f"repurpose: {out!r}")
        defaults = {"function": 4, "name": "web-template", "pages": "auto", "settled": False}
        expect(fake.vm.calls == [("ps", {}), ("repurpose", defaults)], f"repurpose: {fake.vm.calls}")
        out = fake.ctl.ok("repurpose", "4", "web-template", "--settled", "--pages", "copy", "--from", "file:/pool", "--digest", "ab" * 32).out.decode()
        expect("5120.0 KiB given back" in out and "2048.0 KiB from the pool, 1024.0 KiB from the cache" in out, f"repurpose --settled: {out!r}")
        given = defaults | {"pages": "copy", "settled": True, "from": "file:/pool", "digest": "ab" * 32}
        expect(fake.vm.calls[2:] == [("repurpose", given)], f"repurpose --settled: {fake.vm.calls[2:]}")
        expect(fake.ctl.json("repurpose", "4", "web-template") == answer, "--json repurpose")
        fake.ctl.fails(2, "NAME", "repurpose", "4")
        fake.ctl.fails(2, "--pages", "repurpose", "4", "web-template", "--pages", "by_mail")
    exits_as_errors_say(s, "repurpose", "repurpose", "4", "web-template")


@case
def status_is_shown_as_it_is(s):
    status = {"version": "0.1.0", "embedder": "fake", "vm": {"name": "v\u00e9m", "ram_bytes": 1 << 30}, "clients": 1, "running": [], "recent": []}
    with FakeSetting(s, "status", status=status) as fake:
        out = fake.ctl.ok("status").out.decode()
        expect(json.loads(out) == status and out.count("\n") > 5, f"status: {out}")
        told = fake.ctl.ok("--json", "status").out
        expect(json.loads(told) == status and told.count(b"\n") == 1, f"status --json: {told}")
        expect(fake.vm.calls == [("status", {})] * 2, f"{fake.vm.calls}")
    exits_as_errors_say(s, "status", "status")


@case
def metrics_are_text_for_a_collector(s):
    text = "# TYPE moult_ram_bytes gauge\nmoult_ram_bytes 1073741824\n# EOF\n"
    with FakeSetting(s, "metrics", metrics={"text": text}) as fake:
        shown = fake.ctl.ok("metrics").out.decode()
        expect(shown == text, f"metrics: {shown!r}")
        expect(fake.ctl.json("metrics") == {"text": text} and fake.vm.calls == [("metrics", {})] * 2, f"metrics --json: {fake.vm.calls}")
    exits_as_errors_say(s, "metrics", "metrics")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of moultctl")
    parser.add_argument("--only", default="", help="cases with this in their names")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="moultctl-") as folder:
        setting = types.SimpleNamespace(program=options.bin.resolve() / "moultctl", folder=pathlib.Path(folder))
        return run_cases([c for c in CASES if options.only in c.__name__], setting)


if __name__ == "__main__":
    sys.exit(main())
