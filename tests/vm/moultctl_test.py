#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moultctl on a VM of its own: `vm --detach`, and every verb against the VM's control socket."""
import argparse
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile

from ctl import Ctl, expect, run_cases
from machine import missing_parts, skip_all

CASES = []


def case(function):
    CASES.append(function)
    return function


class Setting:
    """The VM is started by the first case."""

    def __init__(self, bin_dir, folder, kernel):
        self.program, self.folder, self.kernel = bin_dir / "moultctl", folder, kernel
        self.vm = {}
        self.ctl = None

    def close(self):
        """Asks the supervisor, which is QEMU's parent, to end; and waits until QEMU has."""
        if not self.vm:
            return
        qemu = os.pidfd_open(self.vm["pid"])
        stat = pathlib.Path(f"/proc/{self.vm['pid']}/stat").read_text(encoding="ascii")
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGTERM)
        expect(select.select([qemu], [], [], 30)[0], "QEMU runs on after its supervisor was told to end")
        os.close(qemu)
        self.vm = {}


@case
def vm_is_left_running_and_told_of(s):
    folder = s.folder / "vm"
    words = ["vm", "--detach", "--json", "--dir", folder, "--kernel", s.kernel, "--memory", "512", "--store", s.folder / "store"]
    shown = s.folder / "shown"
    # `script` gives it a terminal as stderr: what takes longer than a second is told there.
    done = subprocess.run(["script", "-qefc", " ".join([str(s.program), *map(str, words)]) + f" >{shown}", "/dev/null"],
                          stdin=subprocess.DEVNULL, capture_output=True, timeout=900, check=False)
    expect(done.returncode == 0, f"exit {done.returncode}: {done.stdout!r}")
    s.vm = json.loads(shown.read_bytes())
    expect(b"vm: " in done.stdout and done.stdout.endswith(b"\r\x1b[K"), f"no progress on a terminal: {done.stdout[-200:]!r}")
    expect(set(s.vm) == {"control", "dir", "accel", "pid"} and s.vm["dir"] == str(folder), f"vm --json: {s.vm}")
    s.ctl = Ctl(s.program, env={"MOULT_CONTROL": s.vm["control"]})
    expect(os.stat(s.vm["control"]).st_mode & 0o777 == 0o600, "who may connect to the control socket")


@case
def questions_are_answered(s):
    expect(s.ctl.json("hello")["hello"]["windows"], "no window")
    told = s.ctl.run("--json", "doctor")
    expect(told.code == 0, f"doctor: {[c for c in told.json()['checks'] if not c['ok']]}")
    status = s.ctl.json("status")
    metrics = s.ctl.json("metrics")["text"]
    expect(f"moult_ram_bytes {status['vm']['ram_bytes']}\n" in metrics and metrics.endswith("# EOF\n"), f"metrics: {metrics}")
    expect({"version", "embedder", "vm", "clients", "running", "recent"} <= set(status), f"status: {sorted(status)}")
    expect(s.ctl.json("ps")["functions"] == [], "a function nobody started")


@case
def function_is_run_asked_frozen_and_thawed(s):
    function = s.ctl.run_server()
    expect(s.ctl.ok("invoke", "web", "/bytes").out == bytes(range(256)), "invoke changes bytes")
    expect(s.ctl.ok("logs", "web").out == "listening, café\n".encode(), "logs")
    s.ctl.ok("freeze", "web")
    state = {f["id"]: f["state"] for f in s.ctl.json("ps")["functions"]}[function]
    expect(state == "frozen", f"it is {state}")
    s.ctl.fails(3, "is frozen; thaw it", "invoke", "web", "/")
    s.ctl.ok("thaw", "web")
    expect(s.ctl.ok("invoke", "web", "/x").out == b"GET /x", "after thaw")


def top(s, function):
    """What one round of top tells of it."""
    return next(f for f in s.ctl.json("top", "--count", "1")["functions"] if f["id"] == function)


@case
def top_tells_what_is_in_ram(s):
    function = s.ctl.json("ps")["functions"][-1]["id"]
    before = top(s, function)
    moved = s.ctl.json("offload", "web")
    out = top(s, function)
    gone = moved["offloaded_bytes"] + moved["zero_bytes"]
    expect(gone > 1 << 20 and out["offloaded_bytes"] == gone, f"offload: {moved}, top: {out}")
    # The guest's kernel counts as before, give or take what it does meanwhile.
    expect(abs(before["resident_bytes"] - gone - out["resident_bytes"]) < gone // 2, f"{gone} bytes are out: {before}, then {out}")
    expect(abs(before["user_bytes"] - out["user_bytes"]) < gone // 2, f"user state that is out is user state: {before}, then {out}")
    recalled = s.ctl.json("recall", "web", "--prefetch", "all")
    back = top(s, function)
    expect(recalled["left_bytes"] == back["offloaded_bytes"] == 0, f"recall: {recalled}, top: {back}")
    expect(back["resident_bytes"] > out["resident_bytes"] + gone // 2, f"{out}, then {back}")
    expect(s.ctl.ok("invoke", "web", "/x").out == b"GET /x", "after recall")


@case
def pages_are_compared_with_an_earlier_report(s):
    earlier = s.folder / "earlier.json"
    earlier.write_bytes(s.ctl.ok("--json", "pages", "--runs").out)
    started = s.ctl.json("run", "--name", "other", "--ready", "line:up", "--", "/usr/bin/python3", "-S", "-c",
                         "import time\nmuch = bytearray(b'x') * (4 << 20)\nprint('up', flush=True)\ntime.sleep(1e6)")
    function = started["function"]["id"]
    told = s.ctl.json("pages", "--against", earlier, "--runs")
    ours = [run for run in told["runs"] if run["now"]["function"] == function and run["now"]["class"] == "user_private"]
    expect(sum(run["length"] for run in ours) > 4 << 20, f"what a function has that was started since: {told['changes']}")
    expect(all(run["before"]["function"] != function for run in ours), f"pages that it had before it was there: {ours[:9]}")
    alone = s.ctl.json("pages", "other", "--against", earlier)
    expect([f["before_bytes"] for f in alone["functions"]] == [None] and alone["changed_bytes"] > 4 << 20, f"that function alone: {alone}")
    expect(f" of {function} other" in s.ctl.ok("pages", "--against", earlier).out.decode(), "the table")
    s.ctl.ok("detach", function)


@case
def vm_is_repurposed(s):
    s.ctl.ok("invoke", "web", "/count")
    told = s.ctl.json("capture", "web", "web-template")
    expect(told["ok"] is True and told["op"] == "capture" and told["counters"]["pages"] > 0, f"capture: {told}")
    told = s.ctl.json("repurpose", "web", "web-template", "--settled")
    expect(told["detached"] is True and told["pages"] == "in_place" and told["discarded_bytes"] > 0, f"repurpose: {told}")
    names = [p["name"] for p in told["phases"]]
    expect(any(n.startswith("host.") for n in names) and any(n.startswith("agent.") for n in names), f"phases: {names}")
    expect(s.ctl.ok("invoke", "web", "/count").out == b"2", "it does not go on where it was")
    second = s.ctl.json("attach", "web-template", "--pages", "copy")
    expect(second["pages"] == "copy", f"attach: {second}")
    expect(s.ctl.json("detach", second["function"]["id"])["discarded_bytes"] > 0, "detach gives nothing back")
    text = s.ctl.ok("repurpose", "web", "web-template", "--settled").out.decode()
    expect(" is now " in text and "given back" in text, text)


@case
def refusals_leave_the_function_running(s):
    s.ctl.fails(4, "no-such", "repurpose", "web", "no-such")
    s.ctl.fails(3, "web-template", "capture", "web", "web-template")
    s.ctl.fails(4, "none of this name lives", "detach", "nobody")
    expect(s.ctl.ok("invoke", "web", "/x").out == b"GET /x", "after refusals")


@case
def templates_are_listed_checked_and_removed(s):
    expect([t["name"] for t in s.ctl.json("templates", "list")["templates"]] == ["web-template"], "list")
    expect(s.ctl.json("templates", "verify", "web-template")["whole"] is True, "verify")
    expect(s.ctl.json("templates", "show", "web-template")["template"]["digest"], "show")
    s.ctl.ok("templates", "remove", "web-template")
    s.ctl.fails(4, "web-template", "templates", "show", "web-template")
    expect(s.ctl.ok("invoke", "web", "/x").out == b"GET /x", "after its template was removed")


@case
def function_is_ended_and_forgotten(s):
    function = s.ctl.json("ps")["functions"][-1]["id"]
    s.ctl.ok("kill", "web")
    s.ctl.ok("forget", function)
    expect(all(f["id"] != function for f in s.ctl.json("ps")["functions"]), "it is still known")


@case
def vm_ends_when_its_supervisor_is_told_to(s):
    control = s.vm["control"]
    s.close()
    expect(Ctl(s.program, "--control", control).run("hello").code in (4, 8), "hello of a VM that has ended")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(len(CASES), missing)
    with tempfile.TemporaryDirectory(prefix="moultctl-vm-") as folder:
        setting = Setting(options.bin.resolve(), pathlib.Path(folder), options.kernel)
        try:
            return run_cases(CASES, setting)
        finally:
            setting.close()
            subprocess.run(["chmod", "-R", "u+w", folder], check=False)


if __name__ == "__main__":
    sys.exit(main())
