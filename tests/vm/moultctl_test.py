#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""moultctl on a VM of its own: `vm --detach`, and every verb against the VM's control socket."""
import argparse
import json
import os
import pathlib
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import zlib

from ctl import Ctl, expect, run_cases
from machine import missing_parts, skip_all

CASES = []
COLUMNS = 80  # of a terminal


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
    head, *lines = s.ctl.ok("top", "--count", "1").out.decode().splitlines()
    expect(head.split()[:5] == ["ID", "NAME", "STATE", "USER", "RESIDENT"], f"top: {head}")
    web = [line.split() for line in lines if line.split()[1] == "web"]
    expect([line[:3] for line in web] == [[str(function), "web", "running"]], f"top: {lines}")
    # Of one round there are no rates; all else is known.
    expect(web[0].count("-") == 2, f"top: {web}")


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
def page_is_explained(s):
    s.ctl.ok("freeze", "web")
    function = next(f for f in s.ctl.json("ps")["functions"] if f["name"] == "web")
    told = s.ctl.json("pages", "web", "--runs")
    runs = [dict(zip(told["run_fields"], run)) for run in told["runs"]]
    own = [run for run in runs if (told["class_names"][run["class"]], told["kind_names"][run["kind"]]) == ("user_private", "anonymous")]
    # Its stack: the guest's kernel, which moves what it can make huge pages of, leaves that where it is.
    run = max(own, key=lambda run: run["va"])
    at = run["gpa"] + run["length"] - 4096 + 8
    why = s.ctl.json("why", hex(at))
    expect(why["gpa"] == at and why["va"] == run["va"] + run["length"] - 4096 and why["pid"] == run["pid"], f"{run}: {why}")
    expect((why["class"], why["kind"], why["function"], why["function_name"]) == ("user_private", "anonymous", function["id"], "web"), f"why: {why}")
    expect(f"function {function['id']} (web)" in why["reason"] and f"process {why['pid']} ({why['comm']})" in why["reason"], f"why: {why}")
    for words in ((str(at),), ("--hva", hex(why["hva"]))):
        again = s.ctl.json("why", *words)
        expect(all(again[name] == why[name] for name in ("gpa", "hva", "va", "class", "function", "reason")), f"why {words}: {again}, not {why}")
        text = s.ctl.ok("why", *words).out.decode()
        expect(text.startswith(f"{why['reason']}\n\n") and hex(at) in text and hex(why["hva"]) in text, f"why {words}: {text}")
    s.ctl.fails(4, "neither RAM of this VM nor a template's page", "why", hex(1 << 50))
    s.ctl.fails(4, "not in a region of the guest's RAM", "why", "--hva", "0x1000")
    s.ctl.ok("thaw", "web")


def png_size(path):
    """Of a PNG of three bytes a pixel that is whole."""
    data = path.read_bytes()
    expect(data[:8] == b"\x89PNG\r\n\x1a\n", f"{path} is no PNG: {data[:16]!r}")
    at, chunks = 8, []
    while at < len(data):
        length, kind = int.from_bytes(data[at:at + 4], "big"), data[at + 4:at + 8]
        expect(at + 12 + length <= len(data), f"{path} ends within its chunk {kind}")
        body, (checksum,) = data[at + 8:at + 8 + length], struct.unpack_from(">I", data, at + 8 + length)
        expect(checksum == zlib.crc32(kind + body), f"{path}: chunk {kind} is damaged")
        chunks.append((kind, body))
        at += 12 + length
    expect(chunks[0][0] == b"IHDR" and chunks[-1] == (b"IEND", b""), f"{path}: its chunks are {[kind for kind, _ in chunks]}")
    width, height, *how = struct.unpack(">IIBBBBB", chunks[0][1])
    expect(how == [8, 2, 0, 0, 0], f"{path}: depth, colours, and so on are {how}")
    pixels = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
    expect(len(pixels) == height * (1 + 3 * width), f"{path}: {len(pixels)} bytes of {width} x {height} pixels")
    return width, height


def is_of_this_vm(s, told, what):
    ram = s.ctl.json("status")["vm"]["ram_bytes"]
    shown = sum(one["bytes"] for one in told["legend"])
    expect(told["ram_bytes"] == ram and shown == ram + told["template_bytes"], f"{what}: {shown} bytes of {ram}: {told['legend']}")
    expect(any(one["function_name"] == "web" and one["class"] == "user_private" and one["bytes"] for one in told["legend"]), f"{what}: {told['legend']}")


@case
def map_is_drawn_into_a_file(s):
    picture = s.folder / "ram.png"
    told = s.ctl.json("map", "--png", picture, "--width", "64")
    is_of_this_vm(s, told, "map --png")
    expect(told["png"] == str(picture) and png_size(picture) == (told["width"], told["height"]), f"map --png: {png_size(picture)}, {told}")
    expect(told["width"] > told["columns"] == 64 and told["height"] > told["rows"], f"there is more than RAM in it: {told}")
    out = s.ctl.ok("map", "--png", picture, "--width", "64").out.decode()
    expect("{}: {} x {} pixels; ".format(picture, *png_size(picture)) in out, f"map --png: {out}")
    s.ctl.fails(4, str(s.folder / "none"), "map", "--png", s.folder / "none" / "ram.png")


@case
def map_is_drawn_on_a_terminal(s):
    shown, code = s.ctl.on_terminal("map", stream="stdout", columns=COLUMNS)
    expect(code == 0 and "\x1b[38;2;" in shown, f"map on a terminal: exit {code}: {shown[:300]!r}")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    rows = [line for line in lines if set(line) <= set("▀▄ ") and line.strip()]
    expect(rows and {len(row) for row in rows} == {COLUMNS}, f"map on a terminal: {lines}")
    expect(any(line.startswith("██ ") and " web " in line for line in lines), f"the legend: {lines}")
    # Letters, where there is none.
    told = s.ctl.json("map", "--width", "32")
    is_of_this_vm(s, told, "map")
    letters = {one["letter"] for one in told["legend"]} | {" "}
    expect(len(told["ram"]) == told["rows"] and all(set(row) <= letters and len(row) <= told["columns"] for row in told["ram"]), f"map: {told}")
    expect(told["columns"] * told["rows"] * told["pages_per_cell"] * 4096 >= told["ram_bytes"], f"map: {told}")
    out = s.ctl.ok("map", "--width", "32").out.decode()
    expect(out.count("\n") > told["rows"] and "\x1b" not in out and " web " in out, f"map: {out}")


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
