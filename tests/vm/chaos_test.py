#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Things go wrong in the midst of captures, attaches and detaches of a live VM. Each time: a clear error or success, the
VM serves the next request with the right answer, and no template has changed."""
import argparse
import collections
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

from canary_test import guest_ram, marker, places
from chaos_setting import RECLAIMS, SEEDS, STRIKER, Setting, Skip, end
from machine import missing_parts, skip_all
from trial import CallError, Trial, TrialError, build_module, expect, host_memory, scratch

HERE = pathlib.Path(__file__).resolve().parent
WIPES = 5  # seconds
LIVES = 0.25  # the part of a detach in which the function still lives
# Shares of what an operation takes when nothing happens. Before it, in it, just after it.
WHEN = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.1)
QUICK = (0.3, 0.75)
OPERATIONS = ("capture", "detach", "repurpose", "attach")
CUTS = (("host", 10), ("host", 30), ("host", 20000), ("host", 3 << 20), ("guest", 0), ("guest", 10), ("guest", 1000), ("guest", 3 << 20))
CASES = []


def case(function):
    CASES.append(function)
    return function


def moments(s, operation, shares):
    """Milliseconds after an operation began: at these shares of it, and while memory is given back."""
    took = s.duration(operation)
    reclaims = RECLAIMS[:1] if s.options.quick else RECLAIMS
    return [took * share for share in shares] + [took + ms for ms in reclaims if operation == "repurpose"]


def strikes(s, what):
    everything = 0
    for operation in OPERATIONS:
        well, hits, phases = 0, 0, collections.Counter()
        shares = QUICK if s.options.quick else WHEN
        if operation == "detach" and what in ("function", "oom"):
            shares = [share * LIVES for share in shares]  # afterwards there is nothing to strike
        whens = moments(s, operation, shares)
        for when in whens:
            s.ready_for(operation)
            s.strike(what, when)
            result = s.do(operation)
            hit = s.settle()
            s.control.settle()
            hits += hit > 0
            well += result is not None
            phases[s.phase(operation, when)] += 1
            s.check(operation, result, killed=hit > 0 and what in ("function", "oom"))
            s.forget()
            s.fresh("node")
            s.unchanged()
        where = ", ".join(f"{count} in {phase}" for phase, count in phases.items())
        print(f"  {operation}, {s.duration(operation):.0f} ms, struck at {len(whens)} points ({where}): {hits} hit, {well} went well", flush=True)
        everything += hits
        # Two moments of an operation can both find nothing there.
        least = len(whens) if what in ("agent", "both") else 0 if s.options.quick else 1
        expect(hits >= least, f"{operation}: only {hits} strikes hit anything")
    expect(everything >= 3, f"only {everything} strikes hit anything")


@case
def agent_is_killed(s):
    strikes(s, "agent")


@case
def worker_is_killed(s):
    strikes(s, "worker")


@case
def waiting_workers_are_killed(s):
    """Those that were made ahead, and that keep templates: others do what they would have done."""
    strikes(s, "standby")


@case
def agent_and_worker_are_killed(s):
    strikes(s, "both")


@case
def function_is_killed(s):
    strikes(s, "function")


@case
def function_runs_out_of_memory(s):
    strikes(s, "oom")
    expect(any("out of memory" in (info.get("end_reason") or "") for info in s.control.call("ps")["functions"]),
           "no function's end says that it was out of memory")


class Canary:
    """Functions whose marks the host finds in guest RAM. Each has its own: one that is killed, since it ran on, leaves them."""

    def __init__(self, s):
        self.s, self.ram, self.seed, self.mark = s, guest_ram(s.vm.qemu), 0, b""

    def plant(self):
        self.s.clear()
        self.seed += 1
        self.mark = marker(self.seed)
        self.s.current = self.s.vm.start("canary", ["/run/moult/functions/canary", str(self.seed), ""], "--ready", "http:/")
        expect(len(places(self.ram, self.mark)) > 1000, "the canary has left no marks")

    def left(self, result):
        """How many there are after an operation, when all is quiet."""
        self.s.settle()
        self.s.control.settle()
        # A killed worker's connection closes first, then the driver wipes what it held.
        deadline = time.monotonic() + WIPES
        while (left := len(places(self.ram, self.mark))) and result is not None and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


@case
def nothing_is_left_after_strikes(s):
    canary = Canary(s)
    for operation in ("detach", "repurpose"):
        canary.plant()
        start = time.monotonic()
        expect(s.do(operation), f"{operation}: {s.errors[-1:]}")
        took = (time.monotonic() - start) * 1000
        s.control.settle()
        whens = [took * share for share in (0.2, 0.5, 0.8)] + [took + ms for ms in RECLAIMS if operation == "repurpose"]
        for what in ("agent", "worker", "both"):
            for when in whens:
                canary.plant()
                s.strike(what, when)
                result = s.do(operation)
                left = canary.left(result)
                # An error has said that something may be left, or the function is there.
                expect(left == 0 or (result is None and ("running" in s.states().values() or "discarded" in s.errors[-1])),
                       f"{operation}, {what} struck after {when:.0f} of {took:.0f} ms: {left} marks are left: {s.errors[-1:]}")
    canary.ram.close()


@case
def control_client_goes(s):
    for operation in OPERATIONS:
        took = s.duration(operation)
        for share in (0.0, 0.3, 0.7):
            s.ready_for(operation)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(s.control.path)
                client.sendall(json.dumps({"id": 1, "method": operation, "params": s.params(operation)}).encode() + b"\n")
                time.sleep(took * share / 1000)
            s.settle()
            # It goes on to its end.
            made = [function for function, state in s.states().items() if state != "ended"]
            expect(len(made) == (0 if operation == "detach" else 1), f"after {operation}: {s.states()}")
            s.check(operation, {"function": {"id": made[0] if made else 0}})
            s.forget()
            s.fresh("node")
    s.unchanged()


@case
def connection_is_cut(s):
    cutter = s.cutter()
    operations = (("capture", {}), ("capture", {"pages": "copy"}), ("detach", {}), ("repurpose", {}),
                  ("repurpose", {"pages": "copy"}), ("attach", {"pages": "copy"}))
    for operation, more in operations if not s.options.quick else operations[3:4]:
        cuts, well = 0, 0
        for side, after in CUTS if not s.options.quick else CUTS[::4]:
            s.ready_for(operation)
            cutter.arm(side, after)
            result = s.do(operation, **more)
            s.control.settle()
            cuts += cutter.disarm()
            well += result is not None
            s.settle()
            s.check(operation, result)
            s.forget()
        print(f"  {operation} {more.get('pages', '')}: {cuts} cuts, {well} went well", flush=True)
        expect(cuts >= (3 if not s.options.quick else 1), f"{operation}: only {cuts} cuts")
    s.fresh("node")
    s.unchanged()


@case
def reclaim_is_cut(s):
    """In the question for what the function had, in the answer, in the word that all is discarded."""
    cutter, canary = s.cutter(), Canary(s)
    for side, after in (("host", 0), ("guest", 0), ("guest", 100), ("host", 80)):
        canary.plant()
        expect(s.do("repurpose"), f"repurpose: {s.errors[-1:]}")
        cutter.arm(side, after)
        s.control.settle()
        expect(cutter.disarm(), f"no cut after {after} bytes of the {side}: they were fewer, or sent before")
        left = canary.left(True)
        expect(left == 0, f"cut after {after} bytes of the {side}: {left} marks are left")
    canary.ram.close()
    s.fresh("node")
    s.unchanged()


@case
def template_is_damaged(s):
    s.fresh("python")

    def damaged(how, expected):
        s.control.call("capture", function=s.current, name="chaos")
        how(s.store / "chaos")
        try:
            s.control.call("repurpose", function=s.current, name="chaos")
            raise TrialError(f"{how.__name__}: no error")
        except CallError as e:
            expect(e.name in expected and "chaos" in str(e), f"{how.__name__}: {e}")
        expect(s.answers(s.current) == s.cold["python"], f"{how.__name__}: the function has gone")
        shutil.rmtree(s.store / "chaos", ignore_errors=True)

    def change(path, action):
        os.chmod(path, 0o600)
        with open(path, "r+b") as f:
            action(f)

    def flip(f):
        f.seek(os.fstat(f.fileno()).st_size // 2)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))

    def pages_flipped(folder):
        change(folder / "pages", flip)

    def pages_truncated(folder):
        change(folder / "pages", lambda f: f.truncate(4096))

    def image_flipped(folder):
        change(folder / "image", flip)

    def manifest_emptied(folder):
        change(folder / "manifest", lambda f: f.truncate(0))

    def removed(folder):
        shutil.rmtree(folder)

    files = sorted(f.name for f in (s.store / "python").iterdir())
    expect(all(any(f.startswith(n) for f in files) for n in ("pages", "image", "manifest")), f"a template has {files}")
    for how in (pages_flipped, pages_truncated, image_flipped, manifest_emptied):
        damaged(how, ("DATA_LOSS",))
    damaged(removed, ("NOT_FOUND",))
    # The same to one that a function runs from.
    for how in (pages_flipped, pages_truncated, removed):
        s.control.call("capture", function=s.current, name="chaos", end=True)
        s.current = s.control.call("attach", name="chaos", pages="in_place")["function"]["id"]
        how(s.store / "chaos")
        expect(s.answers(s.current) == s.cold["python"], f"{how.__name__} while attached: a wrong answer")
        shutil.rmtree(s.store / "chaos", ignore_errors=True)
        s.fresh("node")
        s.fresh("python")


@case
def window_is_too_small(s):
    with Trial(s.options.bin, s.folder / "small", s.store, s.options.kernel, more=["--window", "4"]) as vm:
        try:
            vm.control.call("attach", name="python", pages="in_place")
            raise TrialError("28 MB went into a window of 4")
        except CallError as e:
            expect(e.name == "RESOURCE_EXHAUSTED", str(e))
        result = vm.control.call("attach", name="python")
        expect(result["pages"] == "copy", f"pages: {result['pages']}")
        expect([vm.control.get(result["function"]["id"], f"/?seed={i}") for i in SEEDS] == s.cold["python"],
               "a wrong answer")


@case
def driver_is_missing(s):
    with Trial(s.options.bin, s.folder / "bare", s.store, s.options.kernel, more=["--window", "0"]) as vm:
        current = vm.control.call("attach", name="python")["function"]["id"]
        for name in ("node", "python"):
            result = vm.control.call("repurpose", function=current, name=name)
            current = result["function"]["id"]
            expect(result["pages"] == "copy", f"pages: {result['pages']}")
            expect([vm.control.get(current, f"/?seed={i}") for i in SEEDS] == s.cold[name], f"{name}: a wrong answer")


@case
def guest_writes_over_the_window(s):
    more = ["--payload", f"init.d/60-striker={STRIKER}", "--payload", f"functions/scribble.ko={build_module('scribble', s.options.kernel, s.folder)}",
            "--window", "64"]
    with Trial(s.options.bin, s.folder / "other", s.store, s.options.kernel, more=more) as vm:
        function = vm.control.call("attach", name="python", pages="in_place")["function"]["id"]
        expect([vm.control.get(function, f"/?seed={i}") for i in SEEDS] == s.cold["python"], "a wrong answer")
        striker = vm.start("striker", ["/usr/bin/sleep", "1000000"], "--ready", "connect", port=9091)
        written = json.loads(vm.control.get(striker, "/scribble"))
        expect(written["bytes"] == written["length"] == 64 << 20, f"written: {written}")
        # They have landed where the template is shown, in copies that are this VM's.
        own = host_memory(vm.qemu, s.store)["slots"]
        expect(own >= (s.store / "python" / "pages").stat().st_size, f"only {own} bytes of the template were written over")
        s.unchanged()
        s.shown_unchanged("python", vm=vm)
        s.fresh("python")
        s.shown_unchanged("python")
        # Its slot is mapped anew once the host knows that nobody uses it any more, so this VM recovers, too.
        end(vm.control, function)
        vm.control.call("ps")
        function = vm.control.call("attach", name="python", pages="in_place")["function"]["id"]
        expect([vm.control.get(function, f"/?seed={i}") for i in SEEDS] == s.cold["python"], "a wrong answer after it")


@case
def template_does_not_fit(s):
    """Another kernel, or a CPU that lacks something: refused by name, and the VM serves."""
    other = "6.12" if s.options.kernel == "6.1" else "6.1"
    for kernel, more, words in ((other, [], ("kernel", "vdso")), (s.options.kernel, ["--cpu", "max,-erms,-fsrm,-cx16,-avx2"],
                                                                  ("CPU", "avx2"))):
        with Trial(s.options.bin, s.folder / f"misfit-{kernel}", s.store, kernel, more=more) as vm:
            for pages in ("in_place", "copy"):
                try:
                    vm.control.call("attach", name="python", pages=pages)
                    raise TrialError(f"{kernel} {more}: a template that does not fit was attached")
                except CallError as e:
                    expect(e.name == "FAILED_PRECONDITION" and any(word in str(e) for word in words), str(e))
            live = [info for info in vm.control.call("ps")["functions"] if info["state"] != "ended"]
            expect(not live, f"half-made: {live}")
            function = vm.run("node")
            expect([vm.control.get(function, f"/?seed={i}") for i in SEEDS] == s.cold["node"], "a wrong answer")


@case
def store_is_full(s):
    store = s.folder / "full"
    store.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "none", store], capture_output=True, check=False).returncode:
        raise Skip("this machine lets nobody mount a tmpfs")
    try:
        with Trial(s.options.bin, s.folder / "full-vm", store, s.options.kernel) as vm:
            function = vm.run("python")
            for more in ({}, {"pages": "copy"}, {"end": True}):
                error = None
                while error is None or "Capture goes on" in str(error):  # until the one before is undone
                    try:
                        vm.control.call("capture", function=function, name="big", **more)
                        raise TrialError("28 MB went into a store of 8")
                    except CallError as e:
                        error = e
                expect(error.name == "RESOURCE_EXHAUSTED" and "big" in str(error), str(error))
                expect([vm.control.get(function, f"/?seed={i}") for i in SEEDS] == s.cold["python"], "a wrong answer")
                left = [f.name for f in store.iterdir() if f.is_dir()]
                expect(not left, f"left in the store: {left}")
            subprocess.run(["mount", "-o", "remount,size=64M", store], check=True)
            vm.control.call("capture", function=function, name="big")
            vm.control.call("templates.verify", name="big")
    finally:
        subprocess.run(["umount", store], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--only", help="one case")
    parser.add_argument("--quick", action="store_true", help="few cases, at few moments")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    quick = (agent_is_killed, worker_is_killed, function_is_killed, connection_is_cut, driver_is_missing, guest_writes_over_the_window)
    with scratch() as folder:
        setting = Setting(options, folder)
        try:
            for function in quick if options.quick else CASES:
                if options.only not in (None, function.__name__):
                    continue
                start = time.monotonic()
                try:
                    function(setting)
                    counts["passed"] += 1
                    print(f"ok {function.__name__}, {time.monotonic() - start:.0f} s", flush=True)
                except Skip as e:
                    counts["skipped"] += 1
                    print(f"SKIP {function.__name__}: {e}", flush=True)
                except (TrialError, OSError, KeyError, subprocess.CalledProcessError) as e:
                    counts["failed"] += 1
                    print(f"FAIL {function.__name__}: {type(e).__name__}: {e}", flush=True)
            setting.unchanged()
            setting.fresh("python")
            setting.shown_unchanged("python")
            setting.vm.close()
        except TrialError as e:
            counts["failed"] += 1
            print(f"FAIL at the end: {e}", flush=True)
        finally:
            setting.vm.close()
        for error in sorted(set(setting.errors)):
            print(f"  error seen: {error[:200]}")
        if counts["failed"]:
            print(setting.vm.logs())
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
