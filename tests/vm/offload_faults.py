# SPDX-License-Identifier: Apache-2.0
"""Cases of offload_test.py: what an offload lacks, and what becomes of pages that cannot come back."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import resource
import socket
import time

from chaos_setting import expect_clear, STRIKER
from end_thread import end_thread, threads
from offload_setting import answer_or_none, Bystander, case_of, ended_by_a_lost_page, HERE, qemu_with, Setting, thaw_and_ask
from trial import CallError, Control, TrialError, expect

FAULTS = []
case = case_of(FAULTS)


@case
def pool_is_full(s):
    beside = Bystander(s)
    with_little = Setting(s.options, s.folder, "little", ["--pool-mib", "2"])
    try:
        function = with_little.vm.run("python")
        answer = with_little.control.get(function, "/?seed=1")
        try:
            with_little.control.call("offload", function=function)
            raise TrialError("no error where RESOURCE_EXHAUSTED is due")
        except CallError as e:
            expect(e.name == "RESOURCE_EXHAUSTED", str(e))
        beside.works_on()
        expect(with_little.info(function)["state"] == "running", "it does not run on")
        expect(with_little.control.get(function, "/?seed=1") == answer, "another answer")
        expect(with_little.pager()["pool_used_bytes"] == 0, str(with_little.pager()))
    finally:
        with_little.vm.close()


def refuses(one, function, name, *texts, **more):
    """An offload that fails so, and leaves the function as it was."""
    before = one.control.get(function, "/bytes")
    try:
        one.control.call("offload", function=function, **more)
        raise TrialError(f"no error where {name} is due")
    except CallError as e:
        expect(e.name == name and all(text in str(e) for text in texts), str(e))
    expect(one.info(function)["state"] == "running", "it does not run on")
    expect(one.control.get(function, "/bytes") == before, "another answer")
    expect(one.pager()["pool_used_bytes"] == 0, str(one.pager()))


@case
def there_is_no_userfaultfd(s):
    for error, name, texts in (("EPERM", "FAILED_PRECONDITION", ("/dev/userfaultfd", "CAP_SYS_PTRACE", "vm.unprivileged_userfaultfd=1")),
                               ("ENOSYS", "UNIMPLEMENTED", ("CONFIG_USERFAULTFD",))):
        without = Setting(s.options, s.folder, error, under=[HERE / "forbid.py", error])
        try:
            function = without.server("web")
            refuses(without, function, name, "userfaultfd", error, *texts)
            expect(without.control.call("detach", function=function)["detached"], "a detach needs none")
        finally:
            without.vm.close()


def accepted(one):
    """A connection to the control socket that has been taken."""
    connection = one.control.connect()
    connection.sendall(b'{"id": 0, "method": "status"}\n')
    answer = b""
    while not answer.endswith(b"\n"):
        answer += connection.recv(1 << 16)
    return connection


class Ahead(Control):
    """A call, and a question to a function, over connections that were made before: neither takes a descriptor of the VMM, and
    the call gives none back."""

    def __init__(self, one, function):
        super().__init__(one.control.path)
        self.for_call, self.to_function = accepted(one), super().stream(function)

    def call(self, method, seconds=60, over=None, **params):
        return self._open(method, params, seconds, self.for_call)[1]

    def stream(self, function, seconds=60):
        return self.to_function


@contextlib.contextmanager
def no_descriptors(one):
    """The VMM has all descriptors that it may have."""
    held = f"/proc/{one.vm.qemu}/fd"
    limits = resource.prlimit(one.vm.qemu, resource.RLIMIT_NOFILE)
    most = max(int(fd) for fd in os.listdir(held)) + 1
    clients = []
    try:
        # Clients take the numbers that are free below others: what the process has is to be all that it may have.
        while set(range(most)) - {int(fd) for fd in os.listdir(held)}:
            clients.append(accepted(one))
        resource.prlimit(one.vm.qemu, resource.RLIMIT_NOFILE, (most, limits[1]))
        yield
    finally:
        resource.prlimit(one.vm.qemu, resource.RLIMIT_NOFILE, limits)
        for client in clients:
            client.close()


@case
def there_are_no_descriptors(s):
    """An offload that needs one fails; what is out comes back without."""
    few = Setting(s.options, s.folder, "few")
    try:
        function = few.server("web")
        few.control.call("hello")
        over = accepted(few)
        with no_descriptors(few):
            try:
                few.control.call("offload", function=function, over=over)
                raise TrialError("no error where RESOURCE_EXHAUSTED is due")
            except CallError as e:
                expect(e.name == "RESOURCE_EXHAUSTED" and "EMFILE" in str(e) and "ulimit -n" in str(e), str(e))
        expect(few.info(function)["state"] == "running", "it does not run on")
        expect(few.control.get(function, "/bytes") == bytes(range(256)), "another answer")

        ahead = Ahead(few, function)  # while it runs: a question to it may wait for its thaw
        expect(few.control.call("offload", function=function)["offloaded_bytes"] > 1 << 20, "it is not out")
        before = few.pager()["faults"]
        with no_descriptors(few):
            ahead.call("recall", function=function, prefetch="none")
            expect(ahead.get(function, "/bytes") == bytes(range(256)), "another answer after a recall without descriptors")
        pager = few.pager()
        expect(pager["faults"] > before and pager["lost_pages"] == 0, str(pager))
        expect(few.control.get(function, "/bytes") == bytes(range(256)), "another answer after a recall")
    finally:
        few.vm.close()


class FewMaps:
    """The VMM of a Setting, with all mappings taken that it may have but for a few."""

    def __init__(self, s, name):
        self.socket = s.folder / f"{name}-maps.sock"
        library = pathlib.Path(s.options.bin).resolve().parent / "lib" / "moult-vm-few-maps.so"
        self.options = qemu_with(s, f"{name}-maps", under=f'MOULT_TEST_MAPS={self.socket} LD_PRELOAD="$LD_PRELOAD:{library}"')

    @contextlib.contextmanager
    def left(self, count):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(120)
            connection.connect(str(self.socket))
            for line, inside in ((f"few {count}\n", True), ("all\n", False)):
                connection.sendall(line.encode())
                expect(connection.recv(64) == b"done\n", f"the VMM's mappings: {line!r}")
                if inside:
                    yield


def refused_for_maps(one, method, **parameters):
    try:
        one.control.call(method, **parameters)
        raise TrialError(f"{method}: no error where RESOURCE_EXHAUSTED is due")
    except CallError as e:
        expect(e.name == "RESOURCE_EXHAUSTED" and "raise vm.max_map_count" in str(e), str(e))


@case
def there_are_no_mappings(s):
    """Of a process at vm.max_map_count, as many as a busy VMM would leave: what needs more of them is refused, the rest goes on."""
    maps = FewMaps(s, "mapless")
    one = Setting(s.options, s.folder, "mapless", maps.options)
    try:
        function = one.server("web")
        one.control.call("capture", function=function, name="of-web")
        expect(one.control.get(function, "/count") == b"1", "the first answer")
        for count in (0, 1):
            with maps.left(count):
                refuses(one, function, "RESOURCE_EXHAUSTED", f"offload of function {function}", "raise vm.max_map_count")
        with maps.left(0):
            refused_for_maps(one, "capture", function=function, name="not-made")
            refused_for_maps(one, "attach", name="of-web", pages="in_place")
            expect([t["name"] for t in one.control.call("templates.list")["templates"]] == ["of-web"], "a template is half-made")
            expect(not one.control.call("status")["vm"]["windows"][0]["slots"], "a slot is half-made")
            attached = one.control.call("attach", name="of-web")
            expect(attached["pages"] == "copy" and "raise vm.max_map_count" in str(attached["notes"]), str(attached))
            copied = attached["function"]["id"]
            expect(one.control.get(copied, "/bytes") == bytes(range(256)), "an answer of what was copied")
        # What is out comes back, and what is over goes.
        for out in (function, copied):
            expect(one.control.call("offload", function=out)["offloaded_bytes"] > 1 << 20, f"function {out} is not out")
        with maps.left(0):
            one.control.call("recall", function=function, prefetch="none")
            expect(one.control.get(function, "/count") == b"2", "it counts on")
            expect(one.control.get(function, "/bytes") == bytes(range(256)), "its bytes")
            expect(one.control.call("detach", function=copied)["detached"], "a detach of what is out")
            one.control.call("recall", function=function, prefetch="all")
        one.swept()
        pager = one.pager()
        expect(pager["lost_pages"] == 0 and pager["pool_used_bytes"] < 256 << 10, str(pager))
        one.control.call("offload", function=function)
        one.control.call("recall", function=function, prefetch="all")
        expect(one.control.get(function, "/count") == b"3", "it counts on, with mappings again")
    finally:
        one.vm.close()


BACK_WITHIN = 120  # seconds: an agent that is started anew, in a guest on a busy host
PARTS_OF_AN_OFFLOAD = (0.2, 0.5, 0.8)
MOST_STRIKES = 12  # until one hits


class Struck:
    """A Setting with somebody in it who kills its agent, which is started anew."""

    def __init__(self, s, name):
        self.one = Setting(s.options, s.folder, name, ["--payload", f"init.d/61-striker={STRIKER}"])
        self.control, self.strikes = self.one.control, 0
        try:
            self.striker = self.one.vm.start("striker", ["/usr/bin/sleep", "1000000"], "--ready", "connect", port=9091)
        except BaseException:
            self.one.vm.close()
            raise

    def strike(self, after_ms):
        self.strikes += 1
        with contextlib.suppress(TrialError, OSError):  # An agent that dies takes the way of the answer with it.
            self.control.get(self.striker, f"/strike?what=agent&after_ms={round(after_ms)}")

    def way_ms(self):
        """What an answer of the striker takes to come here, about."""
        begin = time.monotonic()
        self.control.get(self.striker, "/idle")
        return (time.monotonic() - begin) * 1000 / 2

    def until_back(self, function, *states):
        """Until the agent is struck and there again, and the function in one of these states; in which."""
        deadline, told = time.monotonic() + BACK_WITHIN, None
        while True:
            try:
                struck = json.loads(self.control.get(self.striker, "/idle"))
                told = self.one.info(function)["state"]
                if struck["idle"] and struck["hit"] and struck["strikes"] == self.strikes and told in states:
                    return told
            except (TrialError, OSError, StopIteration) as e:  # The last: the function is not told of yet.
                told = e
            expect(time.monotonic() < deadline, f"the agent does not come back with its function in {BACK_WITHIN} s: {told}")
            time.sleep(0.1)


@case
def agent_ends_while_a_function_is_out(s):
    """It is started anew, and finds the function; what is out is the host's to know."""
    struck = Struck(s, "struck")
    one = struck.one
    try:
        function = one.server("web")
        expect(one.control.get(function, "/count") == b"1", "the first answer")
        moved = one.control.call("offload", function=function)["offloaded_bytes"]
        struck.strike(0)
        struck.until_back(function, "frozen")
        expect(one.info(function)["offloaded_bytes"] >= moved * 0.9, f"{moved} bytes were out: {one.info(function)}")
        one.control.call("recall", function=function)
        expect(one.control.get(function, "/count") == b"2", "it counts on")
        expect(one.control.get(function, "/bytes") == bytes(range(256)), "its bytes")
        expect(one.pager()["lost_pages"] == 0, str(one.pager()))
    finally:
        one.vm.close()


def answer_of(one, method, **parameters):
    """The control socket's whole answer: with an error, its "detail" has what was done until then."""
    with one.control.connect(120) as connection, connection.makefile("rw", encoding="utf-8") as lines:
        lines.write(json.dumps({"id": 1, "method": method, "params": parameters}) + "\n")
        lines.flush()
        for line in lines:
            if "progress" not in (answer := json.loads(line)):
                return answer
    raise TrialError(f"{method}: the control socket was closed; {one.vm.logs()}")


@case
def agent_ends_within_an_offload(s):
    """Whatever it is at: the function runs on, or stands still and can be thawed, with all that it has."""
    struck = Struck(s, "struck-within")
    one = struck.one
    try:
        function = one.server("web")
        count = 0

        def is_whole(when):
            nonlocal count
            count += 1
            expect(one.control.get(function, "/count") == b"%d" % count, f"{when}: it counts wrong")
            expect(one.control.get(function, "/bytes") == bytes(range(256)), f"{when}: its bytes")
            expect(one.pager()["lost_pages"] == 0, f"{when}: {one.pager()}")

        for _ in range(2):  # what is done first takes longer
            took = one.control.call("offload", function=function, run_on=True)["total_us"] / 1000
            one.control.call("recall", function=function, prefetch="all")
            is_whole("undisturbed")
        over_another, failed, strikes = 0, [], 0
        # Whether a strike hits is a matter of time.
        while strikes < len(PARTS_OF_AN_OFFLOAD) or (strikes < MOST_STRIKES and not over_another and not failed):
            part = PARTS_OF_AN_OFFLOAD[strikes % len(PARTS_OF_AN_OFFLOAD)]
            when = f"struck after {part} of {took:.0f} ms"
            strikes += 1
            struck.strike(took * part + struck.way_ms())
            answer = answer_of(one, "offload", function=function, run_on=True)
            result = answer.get("result")
            if result:
                hit = sum(phase["name"] == "host.connect" for phase in result["phases"]) > 1  # to thaw it
                over_another += hit
                took = took if hit else result["total_us"] / 1000
            else:
                error = CallError(answer["error"])
                expect_clear(f"offload, {when}", error)
                # A strike that came sooner was not within it: nothing had been done to the function.
                if any(phase["name"] == "host.freeze" for phase in answer.get("detail", {}).get("phases", [])):
                    failed.append(error.name)
            state = struck.until_back(function, "running", "frozen")
            expect(state == "running" or not result, f"{when}: the offload went well, the function is {state}")
            if state == "frozen":
                one.control.call("recall", function=function, prefetch="none")
            is_whole(when)
            # And again, to the end.
            one.control.call("offload", function=function)
            info = one.info(function)
            expect(info["state"] == "frozen" and info["offloaded_bytes"] > 1 << 20, f"{when}, then out again: {info}")
            one.control.call("recall", function=function, prefetch="all")
            is_whole(f"{when}, then out and back")
        hits = over_another + len(failed)
        print(f"  an offload of {took:.0f} ms, struck {strikes} times: {hits} hit, of these {over_another} went well over another connection, "
              f"failed: {', '.join(failed) or 'none'}")
        expect(hits, f"none of {strikes} strikes hit an offload of {took:.0f} ms")
    finally:
        one.vm.close()


PAGERS = 4  # threads that serve faults where nothing else is said
WELL_AFTER = 30  # seconds: a thread that ends earlier has lived for a moment only, and the next ones wait for longer and longer
PAUSES = (2, 4, 8, 8)  # seconds, at least: between threads that each end at once


class Pagers:
    """The threads of a Setting's VMM that serve faults, and what is said of them."""

    def __init__(self, one):
        self.one = one

    def alive(self):
        return threads(self.one.vm.qemu, "moult-pager")

    def told(self):
        return self.one.control.call("status")["embedder"]["pager_threads"]

    def said(self, text):
        return self.one.log().count(text)

    def end(self, *some):
        for thread in some:
            end_thread(self.one.vm.qemu, thread)

    def until_complete(self, seconds):
        deadline = time.monotonic() + seconds
        while (told := self.told()) != PAGERS or len(self.alive()) != PAGERS:
            expect(time.monotonic() < deadline, f"{told} threads serve faults after {seconds} s: {self.one.vm.logs()}")
            time.sleep(0.1)

    def next_after(self, known, seconds):
        """The one that is started in the stead of another, and when."""
        deadline = time.monotonic() + seconds
        while not (new := {thread: at for thread, at in self.alive().items() if thread not in known}):
            expect(time.monotonic() < deadline, f"no other thread is started in {seconds} s: {self.one.vm.logs()}")
            time.sleep(0.02)
        expect(len(new) == 1, f"one thread is missing, {len(new)} are started")
        return new.popitem()


@case
def threads_that_serve_faults_end(s):
    """All of them, with a function out that is asked something: others are started, and it answers. Where one ends again and again,
    the next comes later each time, up to a bound, and those that are left serve."""
    one = Setting(s.options, s.folder, "pagerless")
    try:
        pagers = Pagers(one)
        function = one.server("web")
        pagers.until_complete(10)
        first = pagers.alive()
        expect(one.control.get(function, "/count") == b"1", "the first answer")
        while float(pathlib.Path("/proc/uptime").read_text().split()[0]) < max(first.values()) + WELL_AFTER + 1:
            time.sleep(0.5)
        expect(one.control.call("offload", function=function)["offloaded_bytes"] > 1 << 20, "it is not out")
        expect(not pagers.said("pager:"), f"of threads that live: {one.vm.logs()}")
        pagers.end(*first)
        one.control.call("thaw", function=function)
        expect(one.control.get(function, "/count") == b"2", "it counts on")
        expect(one.control.get(function, "/bytes") == bytes(range(256)), "its bytes")
        pagers.until_complete(60)
        expect(not set(first) & set(pagers.alive()), "a thread that was ended is still there")
        expect(pagers.said("in moult_pager_run() ended without returning from it") > 0, f"nothing is said of those that ended: {one.vm.logs()}")
        expect(pagers.said("pager: another thread is started") == PAGERS, f"what is said of it: {one.vm.logs()}")

        # One that ends at once, and so do those in its stead.
        again = "pager: threads that serve faults end again and again"
        expect(not pagers.said(again), f"too early: {one.vm.logs()}")
        left = pagers.alive()
        victim, started = left.popitem()
        gaps = []
        while len(gaps) < len(PAUSES) + 1:
            pagers.end(victim)
            if not gaps:  # What takes long here would count as a thread that has lived.
                one.control.call("offload", function=function)
                one.control.call("recall", function=function, prefetch="none")
                expect(one.control.get(function, "/bytes") == bytes(range(256)), "its bytes, while others serve")
            victim, now = pagers.next_after(left, PAUSES[-1] + 22)
            gaps.append(now - started)
            started = now
        # A pause is counted from when somebody wanted to start a thread, which may take a moment.
        expect(all(gap > pause * 0.75 for gap, pause in zip(gaps[1:], PAUSES)), f"seconds between threads that end at once: {gaps}")
        expect(pagers.said(again) == 1, f"it is not said, or more than once: {one.vm.logs()}")
        print(f"  seconds between threads that end at once: {', '.join(f'{gap:.1f}' for gap in gaps[1:])}")

        # The last one lives.
        pagers.until_complete(30)
        one.control.call("offload", function=function)
        one.control.call("recall", function=function, prefetch="all")
        expect(one.control.get(function, "/bytes") == bytes(range(256)), "its bytes, with all of them there")
        expect(one.pager()["lost_pages"] == 0, str(one.pager()))
    finally:
        one.vm.close()


def damage(pid, folder):
    """Overwrites all of the pool, which is a file without a name in `folder`."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{fd}"
        target = os.readlink(path)
        # Not the changes to the root disk, which QEMU keeps in one that it has unlinked.
        if target.startswith(f"{folder}/#"):
            with open(path, "r+b") as pool:
                pool.write(b"\xee" * os.fstat(pool.fileno()).st_size)
                return
    raise TrialError("no pool is open in QEMU")


THE_FUNCTION, THE_EMULATOR = "the function has ended", "the emulator has ended"


def end_of_victim(broken, victim):
    """What has ended."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if broken.info(victim)["state"] == "ended":
                return THE_FUNCTION
        except (TrialError, OSError):
            if not os.path.exists(f"/proc/{broken.vm.qemu}") or broken.vm.process.poll() is not None:
                return THE_EMULATOR
        time.sleep(0.5)
    raise TrialError("after a minute neither the function nor the emulator has ended")


@case
def pool_is_damaged(s):
    """Never an answer of wrong bytes. The function ends, and its neighbour answers; or, when the guest needs the CPU that waits, and so
    is not heard, the emulator ends, and has said why."""
    beside = Bystander(s)
    broken = Setting(s.options, s.folder, "broken")
    try:
        victim, neighbour = broken.server("victim"), broken.server("neighbour")
        broken.control.call("offload", function=victim)
        damage(broken.vm.qemu, s.folder / "broken")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asked = pool.submit(thaw_and_ask, broken, victim)
            beside.works_on()
            body = answer_or_none(asked)
        expect(body is None, f"an answer of {len(body or b'')} bytes came of damaged pages")
        outcome = end_of_victim(broken, victim)
        print(f"  {outcome}")
        if outcome == THE_FUNCTION:
            # From now on what it had is zeros at once: nothing of it ends the VM any more.
            expect(broken.control.get(neighbour, "/count") == b"1", "its neighbour's answer")
        else:
            expect(ended_by_a_lost_page(broken), f"the emulator has ended, not because of a lost page: {broken.vm.logs()}")
        expect("is lost" in broken.log(), f"nothing is said of it: {broken.log()}")
    finally:
        broken.vm.close()
