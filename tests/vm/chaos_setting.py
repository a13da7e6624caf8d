# SPDX-License-Identifier: Apache-2.0
"""A VM in which things can be made to go wrong, and what must be so when all is quiet again."""
import hashlib
import json
import pathlib
import time

from cutter import Cutter
from trial import CallError, Trial, TrialError, expect, template_copies

STRIKER = pathlib.Path(__file__).resolve().parent / "guest" / "striker.py"
NAMES = ("python", "node")
SEEDS = range(2)
RECOVERS = 60  # seconds
# Milliseconds after a repurpose was answered: the old function's memory begins to be given back at 150.
RECLAIMS = (160, 200, 300)


class Skip(Exception):
    """Why a case cannot be tried here."""


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def expect_clear(operation, error):
    expect(len(str(error)) > 20 and error.name not in ("INTERNAL", "UNKNOWN"), f"{operation}: no clear error: {error}")


def end(control, function):
    try:
        control.call("kill", function=function)
    except CallError as e:
        expect("has ended" in str(e) or "no function" in str(e), str(e))  # meanwhile


class Setting:
    """A VM with a template of each function, and what each answers."""

    def __init__(self, options, folder):
        self.options, self.folder = options, pathlib.Path(folder)
        self.store = self.folder / "store"
        self.vm = Trial(options.bin, self.folder / "vm", self.store, options.kernel,
                        more=["--payload", f"init.d/60-striker={STRIKER}",
                              "--payload", f"functions/canary={pathlib.Path(options.bin) / 'moult-vm-canary'}"])
        self.control = self.vm.control
        self.cold, self.sums, self.took, self.phases, self.errors = {}, {}, {}, {}, []
        for name in NAMES:
            function = self.vm.run(name)
            self.cold[name] = self.answers(function)
            self.control.call("capture", function=function, name=name, end=True)
            # What is hashed here is what the manifest says.
            expect(self.control.call("templates.verify", name=name)["whole"], name)
            self.sums[name] = self.digest(name)
        self.current, self._cutter = None, None
        self.fresh("python")

    def answers(self, function):
        return [self.control.get(function, f"/?seed={seed}") for seed in SEEDS]

    def digest(self, name):
        folder = self.store / name
        return {f.name: sha256(f) for f in sorted(folder.iterdir())}

    def clear(self):
        """No function but the striker is left."""
        for info in self.control.call("ps")["functions"]:
            if info["state"] != "ended" and info["name"] != "striker":
                end(self.control, info["id"])

    def fresh(self, name):
        """The one function of the VM is of template `name`, and answers right."""
        self.clear()
        self.current = self.control.call("attach", name=name)["function"]["id"]
        expect(self.answers(self.current) == self.cold[name], f"{name}: a wrong answer")

    def states(self):
        return {info["id"]: info["state"] for info in self.control.call("ps")["functions"] if info["name"] != "striker"}

    def striker(self):
        """A way to the guest's striker, which a restarted agent has still."""
        for info in self.control.call("ps")["functions"]:
            if info["name"] == "striker" and info["state"] == "running":
                return info["id"]
        return self.vm.start("striker", ["/usr/bin/sleep", "1000000"], "--ready", "connect", port=9091)

    def strike(self, what, after_ms):
        try:
            self.control.get(self.striker(), f"/strike?what={what}&after_ms={round(after_ms)}")
        except TrialError:
            # An agent that dies takes the way of the answer with it. Who counts the hits sees whether it did.
            if what not in ("agent", "both"):
                raise

    def cutter(self):
        """Through which all connections of this VM come."""
        if self._cutter is None:
            device = self.folder / "vm" / "vsock.sock"
            if not device.exists():
                raise Skip("the kernel's vsock has no socket to stand before")
            self._cutter = Cutter(str(device))
            # Connections from before do not come through it: an agent that starts anew has none of them.
            self.strike("agent", 200)  # its answer comes through the agent, too
            self.settle()
        return self._cutter

    def settle(self):
        """Until the agent answers and nothing is under way; how much the last strike has hit."""
        deadline = time.monotonic() + RECOVERS
        while True:
            try:
                struck = json.loads(self.control.get(self.striker(), "/idle"))
                if not self.control.call("status")["running"] and struck["idle"] and \
                        not set(self.states().values()) & {"capturing", "detaching", "attaching", "starting", "lost"}:
                    return struck["hit"]
            except (TrialError, OSError):
                if time.monotonic() > deadline:
                    raise
            expect(time.monotonic() < deadline, f"not settled after {RECOVERS} s: {self.control.call('status')}")
            time.sleep(0.05)

    def do(self, operation, **more):
        """One operation on the current function: its result, None when it failed with a clear error."""
        try:
            return self.control.call(operation, seconds=RECOVERS, **self.params(operation), **more)
        except CallError as e:
            expect_clear(operation, e)
            self.errors.append(str(e))
            return None

    def params(self, operation):
        return {"capture": {"function": self.current, "name": "chaos"}, "detach": {"function": self.current},
                "repurpose": {"function": self.current, "name": "node"}, "attach": {"name": "node"}}[operation]

    def ready_for(self, operation):
        """What the operation needs is there, and nothing else."""
        if operation == "attach":
            self.clear()
            self.current = None
        else:
            self.fresh("python")

    def check(self, operation, result, killed=False):
        """What must be so after an operation that went well or failed, when all is quiet again. `killed`: somebody ended
        the function."""
        states = self.states()
        live = {function: state for function, state in states.items() if state != "ended"}
        if result and operation == "capture":
            self.control.call("templates.verify", name="chaos")
        if result and operation in ("repurpose", "attach"):
            made = result["function"]["id"]
            if not killed:
                expect(live == {made: "running"}, f"after {operation}: {states}, {made} was made")
                expect(self.answers(made) == self.cold["node"], f"a wrong answer after {operation}")
            return
        if not result and operation in ("repurpose", "attach") and set(live.values()) == {"running"} and self.current not in live:
            # It was ready, and only the answer was lost.
            expect([self.answers(function) for function in live] == [self.cold["node"]], f"half-made after {operation}: {states}")
        elif operation == "attach":
            expect(not live, f"half-made after a failed attach: {states}")
        elif operation == "capture" or not result:
            # Unharmed, or gone, which nothing but a kill or a lost detach explains.
            may_be_gone = killed or operation != "capture"
            expect(live == {self.current: "running"} or (may_be_gone and not live), f"after {operation}: {states}")
            if live:
                expect(self.answers(self.current) == self.cold["python"], f"a wrong answer after {operation}")
        else:
            expect(not live, f"after {operation}: {states}")

    def duration(self, operation):
        """Milliseconds that it takes undisturbed, of the second time."""
        if operation not in self.took:
            for _ in range(2):
                self.ready_for(operation)
                start = time.monotonic()
                result = self.do(operation)
                expect(result, f"{operation}: {self.errors[-1:]}")
                self.took[operation] = (time.monotonic() - start) * 1000
                self.phases[operation] = [(p["name"], p["us"] / 1000) for p in result["phases"] if p["name"].startswith("host.")]
                self.control.settle()
                self.forget()
        return self.took[operation]

    def phase(self, operation, at):
        """In which phase the undisturbed operation is `at` milliseconds after it began."""
        took = self.duration(operation)
        if operation == "repurpose" and at >= took + RECLAIMS[0]:
            return "reclaim"
        for name, lasts in self.phases[operation]:
            if at < lasts:
                return name.removeprefix("host.")
            at -= lasts
        return "after"

    def forget(self):
        if (self.store / "chaos").exists():
            self.control.call("templates.remove", name="chaos")

    def unchanged(self):
        for name in NAMES:
            expect(self.digest(name) == self.sums[name], f"template {name} has changed")

    def shown_unchanged(self, *shown, vm=None):
        """What the VM has mapped of its templates is what they hold; templates `shown` are among it."""
        vm = vm or self.vm
        known = {sums["pages"]: name for name, sums in self.sums.items()}
        found = [known.get(sha256(path)) for path in template_copies(vm.qemu).values()]
        windows = vm.control.call("status")["vm"]["windows"]
        others = {slot["template"] for window in windows for slot in window["slots"]} - set(NAMES)
        expect(set(shown) <= set(found) and found.count(None) <= len(others),
               f"templates {shown} are shown, and {others}; mapped is what is of {found}")
