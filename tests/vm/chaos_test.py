#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Things go wrong in the midst of captures, attaches and detaches of a live VM. Each time: a clear error or success, the
VM serves the next request with the right answer, and no template has changed."""
import argparse
import hashlib
import json
import os
import pathlib
import shutil
import socket
import sys
import time

from machine import missing_parts, skip_all
from trial import CallError, Trial, TrialError, scratch

HERE = pathlib.Path(__file__).resolve().parent
STRIKER = HERE / "guest" / "striker.py"
NAMES = ("python", "node")
SEEDS = range(2)
# Shares of what an operation takes when nothing happens. Before it, in it, just after it.
WHEN = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.1)
RECOVERS = 60  # seconds
CASES = []


def case(function):
    CASES.append(function)
    return function


def expect(condition, text):
    if not condition:
        raise TrialError(text)


class Setting:
    """A VM with a template of each function, and what each answers."""

    def __init__(self, options, folder):
        self.options, self.folder = options, pathlib.Path(folder)
        self.store = self.folder / "store"
        self.vm = Trial(options.bin, self.folder / "vm", self.store, options.kernel,
                        more=["--payload", f"init.d/60-striker={STRIKER}",
                              # So that root may write to the window past the driver that has it.
                              "--append", "iomem=relaxed"])
        self.control = self.vm.control
        self.cold, self.sums, self.took, self.errors = {}, {}, {}, []
        for name in NAMES:
            function = self.vm.run(name)
            self.cold[name] = self.answers(function)
            self.control.call("capture", function=function, name=name, end=True)
            self.sums[name] = self.digest(name)
        self.current = None
        self.fresh("python")

    def answers(self, function):
        return [self.control.get(function, f"/?seed={seed}") for seed in SEEDS]

    def digest(self, name):
        folder = self.store / name
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}

    def fresh(self, name):
        """The one function of the VM is of template `name`, and answers right."""
        for info in self.control.call("ps")["functions"]:
            if info["state"] != "ended" and info["name"] != "striker":
                try:
                    self.control.call("kill", function=info["id"])
                except CallError as e:
                    expect("has ended" in str(e), str(e))  # meanwhile
        self.current = self.control.call("attach", name=name)["function"]["id"]
        expect(self.answers(self.current) == self.cold[name], f"{name}: a wrong answer")

    def striker(self):
        """A way to the guest's striker, which a restarted agent has still."""
        for info in self.control.call("ps")["functions"]:
            if info["name"] == "striker" and info["state"] == "running":
                return info["id"]
        return self.vm.start("striker", ["/usr/bin/sleep", "1000000"], "--ready", "started", port=9091)

    def strike(self, what, after_ms):
        self.control.get(self.striker(), f"/strike?what={what}&after_ms={round(after_ms)}")

    def settle(self):
        """Until the agent answers and nothing is under way."""
        deadline = time.monotonic() + RECOVERS
        while True:
            try:
                if not self.control.call("status")["running"] and \
                        json.loads(self.control.get(self.striker(), "/idle"))["idle"]:
                    return
            except (TrialError, OSError):
                if time.monotonic() > deadline:
                    raise
            expect(time.monotonic() < deadline, f"not settled after {RECOVERS} s: {self.control.call('status')}")
            time.sleep(0.05)

    def do(self, operation, **more):
        """One operation on the current function: its result, None when it failed with a clear error."""
        params = {"capture": {"function": self.current, "name": "chaos"}, "detach": {"function": self.current},
                  "repurpose": {"function": self.current, "name": "node"}}[operation]
        try:
            result = self.control.call(operation, seconds=RECOVERS, **params, **more)
        except CallError as e:
            expect(len(str(e)) > 20 and e.name not in ("INTERNAL", "UNKNOWN"), f"{operation}: no clear error: {e}")
            self.errors.append(str(e))
            return None
        return result

    def went_well(self, operation, result):
        """What must be so after an operation that did, when all is quiet again."""
        if operation == "capture":
            self.control.call("templates.verify", name="chaos")
            expect(self.answers(self.current) == self.cold["python"], "a wrong answer after capture")
        if operation == "repurpose":
            expect(self.answers(result["function"]["id"]) == self.cold["node"], "a wrong answer after repurpose")

    def duration(self, operation):
        """Milliseconds that it takes undisturbed, of the second time."""
        if operation not in self.took:
            for _ in range(2):
                self.fresh("python")
                start = time.monotonic()
                expect(self.do(operation), f"{operation}: {self.errors[-1:]}")
                self.took[operation] = (time.monotonic() - start) * 1000
                self.forget()
        return self.took[operation]

    def forget(self):
        if (self.store / "chaos").exists():
            self.control.call("templates.remove", name="chaos")

    def unchanged(self):
        for name in NAMES:
            expect(self.digest(name) == self.sums[name], f"template {name} has changed")


def strikes(s, what):
    for operation in ("capture", "detach", "repurpose"):
        took, outcomes = s.duration(operation), []
        for share in WHEN:
            s.fresh("python")
            s.strike(what, took * share)
            result = s.do(operation)
            s.settle()
            outcomes.append(result is not None)
            # A function that was killed cannot be asked.
            if result is not None and what != "function":
                s.went_well(operation, result)
            s.forget()
            s.fresh("node")
            s.unchanged()
        print(f"  {operation}, {took:.0f} ms, struck at {len(WHEN)} points: {sum(outcomes)} went well", flush=True)


@case
def agent_is_killed(s):
    strikes(s, "agent")


@case
def worker_is_killed(s):
    strikes(s, "worker")


@case
def function_is_killed(s):
    strikes(s, "function")


@case
def control_client_goes(s):
    for operation in ("capture", "detach", "repurpose"):
        for share in (0.0, 0.3, 0.7):
            s.fresh("python")
            params = {"function": s.current, **({"name": "chaos"} if operation == "capture" else {}),
                      **({"name": "node"} if operation == "repurpose" else {})}
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(s.control.path)
                client.sendall(json.dumps({"id": 1, "method": operation, "params": params}).encode() + b"\n")
                time.sleep(s.duration(operation) * share / 1000) if operation in s.took else None
            s.settle()
            # It goes on to its end.
            states = {f["id"]: f["state"] for f in s.control.call("ps")["functions"]}
            if operation == "capture":
                expect(states.get(s.current) == "running", f"the captured function: {states}")
                s.control.call("templates.verify", name="chaos")
            else:
                expect(states.get(s.current, "ended") == "ended", f"the function after {operation}: {states}")
            s.forget()
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
    s.fresh("python")
    written = json.loads(s.control.get(s.striker(), "/scribble"))["bytes"]
    expect(written > 0, "nothing was written")
    s.unchanged()
    with Trial(s.options.bin, s.folder / "other", s.store, s.options.kernel) as vm:
        for name in NAMES:
            function = vm.control.call("attach", name=name)["function"]["id"]
            expect([vm.control.get(function, f"/?seed={i}") for i in SEEDS] == s.cold[name], f"{name}: a wrong answer")
            vm.control.call("kill", function=function)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--only", help="one case")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    counts = {"passed": 0, "failed": 0}
    with scratch() as folder:
        setting = Setting(options, folder)
        try:
            for function in CASES:
                if options.only not in (None, function.__name__):
                    continue
                try:
                    function(setting)
                    counts["passed"] += 1
                    print(f"ok {function.__name__}", flush=True)
                except (TrialError, OSError, KeyError) as e:
                    counts["failed"] += 1
                    print(f"FAIL {function.__name__}: {type(e).__name__}: {e}", flush=True)
        finally:
            setting.vm.close()
        for error in sorted(set(setting.errors)):
            print(f"  error seen: {error[:200]}")
        if counts["failed"]:
            print(setting.vm.logs())
    print(f"{counts['passed']} passed, {counts['failed']} failed, 0 skipped")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
