# SPDX-License-Identifier: Apache-2.0
"""Cases of repurpose_test.py: functions side by side in one VM, and what each has for itself."""
import contextlib
import json
import time

from ctl import SERVER, Ctl
from trial import TrialError, expect

FIFO = "/run/moult/functions/pins"
PINNED = 16  # pages, as many as a pipe takes
# The kinds of namespaces that a function has for itself.
OWN = ("pid", "mnt", "ipc", "time")
LIMITS = {"memory.max": str(48 << 20), "cpu.max": "50000 100000", "pids.max": "65"}
# /sum: of 8 MiB that it looks at for that alone; /grow: takes more memory than it may have; /spin: more of the CPU;
# /pin: gives pages of the 8 MiB to a FIFO without copying them.
PATHS = f"""
    elif path == b'/sum':
        body = b'%d' % sum(held[::1024])
    elif path == b'/grow':
        body = b'%d' % len(b'x' * (64 << 20))
    elif path == b'/spin':
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            pass
    elif path == b'/pin':
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        start = (id(held) + (4 << 20)) // 4096 * 4096
        vector = (ctypes.c_size_t * 2)(start, {PINNED * 4096})
        fd = os.open('{FIFO}', os.O_WRONLY)
        done = libc.vmsplice(fd, ctypes.byref(vector), ctypes.c_size_t(1), 0)
        body = b'%d' % (done if done >= 0 else -ctypes.get_errno())
        os.close(fd)
"""


def holder(number):
    """A program that answers as SERVER does; no two numbers have one content."""
    program = SERVER.replace("count = 0\n", f"count = 0\nheld = bytes(range({number}, 256)) * 32896\n")
    return program.replace("\n    elif path == b'/slow':", PATHS + "    elif path == b'/slow':")


def held(number):
    return bytes(range(number, 256)) * 32896


def start(s, number, *options):
    """At a socket of its own sandbox: there may be many."""
    command = ["/usr/bin/python3", "-S", "-c", holder(number)]
    return s.vm.start_at(f"holder{number}", "unix:/tmp/ctl.sock", command, "--ready", "connect", *options)


def template(s, number, *options):
    """A template of such a function; its name."""
    function, name = start(s, number, *options), f"holder{number}"
    s.control.call("capture", function=function, name=name, end=True)
    return name


def attach(s, name):
    result = s.control.call("attach", name=name, pages="in_place")
    return result["function"]["id"]


def info(s, function):
    return next(f for f in s.control.call("ps")["functions"] if f["id"] == function)


def slots(s):
    """Templates that the window shows."""
    return [slot["template"] for window in s.control.call("status")["vm"]["windows"] for slot in window["slots"]]


@contextlib.contextmanager
def daemon(s):
    """Asks the guest's striker. In the end no function is left but the one that there was."""
    before = {f["id"] for f in s.control.call("ps")["functions"]}
    way = s.vm.start("striker", ["/usr/bin/sleep", "1000000"], "--ready", "connect", port=9091)
    try:
        yield lambda path: json.loads(s.control.get(way, path))
    finally:
        for function in s.control.call("ps")["functions"]:
            if function["state"] != "ended" and function["id"] not in before:
                s.control.call("kill", function=function["id"])
        for one in s.control.call("templates.list")["templates"]:
            if one["name"].startswith("holder"):
                s.control.call("templates.remove", name=one["name"])


def two_templates_run_side_by_side(s):
    with daemon(s):
        names = {number: template(s, number) for number in (1, 2)}
        functions = {number: attach(s, name) for number, name in names.items()}
        expect(set(names.values()) <= set(slots(s)), f"shown: {slots(s)}")
        counts = dict.fromkeys(functions, 0)

        def right(number):
            counts[number] += 1
            expect(s.control.get(functions[number], "/count") == b"%d" % counts[number], f"{number}: its count")
            expect(s.control.get(functions[number], "/sum") == b"%d" % sum(held(number)[::1024]), f"{number}: its sum")

        for _ in range(4):
            right(1)
            right(2)
        s.control.call("detach", function=functions[1])
        right(2)
        functions[1], counts[1] = attach(s, names[1]), 0
        for _ in range(2):
            right(2)
            right(1)


def each_has_namespaces_and_a_cgroup_of_its_own(s):
    with daemon(s) as ask:
        started = start(s, 1)
        name = template(s, 2)
        functions = {"run": started, "attached": attach(s, name), "attached again": attach(s, name)}
        seen = {"agent": ask("/identity")}
        for way, function in functions.items():
            seen[way] = ask(f"/identity?pid={info(s, function)['pid']}")
            expect(seen[way]["cgroup"].endswith(f"/moult/{function}"), f"{way}: cgroup {seen[way]['cgroup']}")
        for kind in (*OWN, "cgroup"):
            values = {way: identity[kind] for way, identity in seen.items()}
            expect(len(set(values.values())) == len(values), f"{kind}: {values}")


def limits_are_in_force_after_attach(s):
    with daemon(s) as ask:
        function = start(s, 1, "--memory", "48M", "--cpu", "0.5", "--pids", "64")
        expect(ask(f"/limits?function={function}") == LIMITS, f"limits: {ask(f'/limits?function={function}')}")
        s.control.call("capture", function=function, name="holder1", end=True)
        function = attach(s, "holder1")
        expect(ask(f"/limits?function={function}") == LIMITS, f"limits after attach: {ask(f'/limits?function={function}')}")
        s.control.get(function, "/spin")
        expect(ask(f"/throttled?function={function}")["times"] > 0, "it has had all of the CPU")
        try:
            raise TrialError(f"{s.control.get(function, '/grow', seconds=60)} bytes in 48 MiB")
        except (TrialError, OSError) as e:
            expect("bytes in" not in str(e), str(e))
        deadline = time.monotonic() + 60
        while (ended := info(s, function))["state"] != "ended":
            expect(time.monotonic() < deadline, f"it is {ended['state']} without memory")
            time.sleep(0.05)
        expect("out of memory" in ended["end_reason"], f"its end: {ended['end_reason']}")


def pages_that_a_pipe_holds_keep_their_slot(s):
    with daemon(s) as ask:
        names = [template(s, number) for number in (1, 2)]
        function = attach(s, names[0])
        ask(f"/fifo?path={FIFO}")
        try:
            got = int(s.control.get(function, "/pin"))
            expect(got == PINNED * 4096, f"vmsplice: {got}")
            result = s.control.call("detach", function=function)
            notes = " ".join(result.get("notes", []))
            expect("a template stays mapped" in notes and f"{PINNED} held by something else" in notes, f"notes: {notes!r}")
            expect(names[0] in slots(s), f"shown: {slots(s)}")
        finally:
            drained = ask("/drain")
        whole = held(1)
        piece = bytes.fromhex(drained["first"])
        expect(drained["bytes"] == PINNED * 4096 and piece in whole, f"the pipe held {drained}")
        # With the next detach, whose slot goes as well.
        notes = s.control.call("detach", function=attach(s, names[1])).get("notes", [])
        expect(not notes and not set(names) & set(slots(s)), f"shown still: {slots(s)}; {notes}")
        expect(int(s.control.get(attach(s, names[0]), "/sum")) == sum(whole[::1024]), "its sum, attached again")


def moultctl_reaches_the_agent_itself(s):
    told = s.control.call("status")["vm"]["agent"]
    path, _, port = told.rpartition(" port ")
    address = f"uds:{path}:{port}" if path else told.replace("vsock ", "vsock:")
    ctl = Ctl(s.vm.bin / "moultctl", "--agent", address)
    with daemon(s):
        hello = ctl.json("hello")["hello"]
        expect(hello["boot_id"] == s.control.call("hello")["hello"]["boot_id"], f"hello: {hello}")
        function = ctl.run_server("straight")
        expect({f["id"] for f in ctl.json("ps")["functions"]} == {f["id"] for f in s.control.call("ps")["functions"]}, "ps")
        expect(ctl.ok("invoke", function, "/bytes").out == bytes(range(256)), "invoke changes bytes")
        expect(s.control.get(function, "/count") == b"1", "asked by the other way")


CASES = [two_templates_run_side_by_side, each_has_namespaces_and_a_cgroup_of_its_own, limits_are_in_force_after_attach,
         pages_that_a_pipe_holds_keep_their_slot, moultctl_reaches_the_agent_itself]
