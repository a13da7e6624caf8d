# SPDX-License-Identifier: Apache-2.0
"""Cases of offload_test.py: a pool that is slow, answers with errors, or not at all, on a file system that does so."""
import concurrent.futures
import json
import socket
import time

from ctl import SERVER
from offload_faults import refuses
from offload_load import PREFETCH
from offload_setting import answer_or_none, Bystander, case_of, ended_by_a_lost_page, insist, Setting, thaw_and_ask
from stubborn_folder import StubbornFolder
from trial import CallError, TrialError, expect

POOLS = []
case = case_of(POOLS)
BYTES = bytes(range(256))
LOST_AFTER = 8  # seconds, as the VMM is told
# What is asked of the guest while one of its CPUs waits for a page can need that CPU: then it waits as long, and a moment more.
ANSWERS_WITHIN = LOST_AFTER + 12
SOON = 6  # sooner than a call that waits for the pool
HELD_BYTES = 4 << 20
# Has a file in memory, which it does not map.
HOLDER = f"""
import os
held = os.memfd_create('held')
os.write(held, bytes(range(256)) * ({HELD_BYTES} // 256))
""" + SERVER
# Has memory of its own that it does not touch.
FAT_BYTES = 48 << 20
FAT = f"""
held = bytearray(range(256)) * ({FAT_BYTES} // 256)
""" + SERVER
# For guest/parts.py: memory that takes half a minute to come back, a piece of 1 MiB in so many seconds.
STILL, PIECE_SECONDS = {"data": ("private", 32 << 20, 0)}, 1
# So that nothing of a function changes that runs, and is asked nothing: not the number of its CPU, either, which the kernel would write.
WITHOUT_RSEQ = ("--env", "GLIBC_TUNABLES=glibc.pthread.rseq=0")
# Takes page frames and gives them back, from when it says so until it is told that it is enough: those that were given back
# last come first.
EATER = """
import mmap, select, socket
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/ctl.sock')
s.listen(8)
while True:
    c, _ = s.accept()
    if c.recv(64):
        c.sendall(b'eats')
        rounds = 0
        while not select.select([c], [], [], 0)[0]:
            part = mmap.mmap(-1, 64 << 20)
            for i in range(0, len(part), 4096):
                part[i] = 1
            part.close()
            rounds += 1
        c.sendall(b'%d' % rounds)
    c.close()
"""


def timed(what, seconds, work):
    begin = time.monotonic()
    result = work()
    took = time.monotonic() - begin
    expect(took < seconds, f"{what} takes {took:.1f} s")
    return result


def fails(one, method, names, seconds, **parameters):
    """With one of these errors, in time."""
    def call():
        try:
            one.control.call(method, **parameters)
        except CallError as e:
            return e
        raise TrialError(f"{method}: no error from a pool that does not answer")
    error = timed(method, seconds, call)
    expect(error.name in names and "does not answer" in str(error), f"{method}: {error}")


def in_the_end(what, work):
    """While a CPU of the guest waits, a call to the agent may end without an answer; it ends, and soon one has its answer."""
    deadline = time.monotonic() + 2 * ANSWERS_WITHIN
    while True:
        try:
            return timed(what, ANSWERS_WITHIN, work)
        except CallError as e:
            expect(e.name in ("DEADLINE_EXCEEDED", "UNAVAILABLE") and time.monotonic() < deadline, f"{what}: {e}")


def ended(one, function):
    try:
        return one.info(function)["state"] == "ended"
    except CallError:
        return False  # The agent has looked at what waits.


def until(what, holds, seconds=120):
    deadline = time.monotonic() + seconds
    while not holds():
        expect(time.monotonic() < deadline, what)
        time.sleep(0.02)


def calls_fail(one, folder, other, neighbour):
    """Those that need the pool, which does not answer; they leave all as it was."""
    folder.hold()
    fails(one, "recall", ("DEADLINE_EXCEEDED",), ANSWERS_WITHIN, function=other, prefetch="all")
    fails(one, "offload", ("UNAVAILABLE",), 30, function=neighbour)
    states = {f["id"]: f["state"] for f in timed("ps", 10, lambda: one.control.call("ps"))["functions"]}
    expect(states[other] == "frozen" and states[neighbour] == "running", f"as both calls have failed: {states}")
    expect(timed("its answer", 10, lambda: one.control.get(neighbour, "/count")) == b"1", "it counts")
    folder.let_go()
    one.control.call("recall", function=other, prefetch="all")
    expect(one.control.get(other, "/bytes") == BYTES, "its answer after it was out all the time")


def waits(one, folder, pool, function, breaks):
    """A thread that has its answer, if there is one: the function, which is out, has begun to wait for a page of a pool that `breaks`."""
    failed = folder.failed
    breaks()
    asked = pool.submit(thaw_and_ask, one, function)
    until("nothing is asked of the pool", lambda: folder.held() or folder.failed > failed)
    return asked


def in_time(one, folder, pool, victim, breaks):
    """The victim, which is out, waits for pages of a pool that `breaks`, and is well again in time: nothing is lost, and no VM ends."""
    asked = waits(one, folder, pool, victim, breaks)
    expect(not asked.done(), f"an answer of pages that could not be read: {asked}")
    folder.let_go()
    expect(asked.result() == BYTES, "its answer, though the pool was well again in time")
    expect(one.pager()["lost_pages"] == 0, str(one.pager()))
    one.control.call("offload", function=victim)


def ends(one, beside, folder, victim, neighbour, because):
    """The victim waits for pages that are lost in the end; whatever else is asked meanwhile is answered."""
    insist(in_the_end("a neighbour's answer", lambda: one.control.get(neighbour, "/bytes")) == BYTES, "a neighbour's answer is another")
    timed("status", SOON, lambda: one.control.call("status"))
    timed("metrics", SOON, lambda: one.control.call("metrics"))
    in_the_end("the guest's daemon", one.kernel_log)
    beside.works_on()
    deadline = time.monotonic() + ANSWERS_WITHIN
    while not ended(one, victim):
        expect(time.monotonic() < deadline, f"it does not end: {one.vm.logs()}")
        time.sleep(0.2)
    reason = one.info(victim)["end_reason"]
    insist(because in reason and str(folder.path) in reason, f"it says that it ended because of: {reason}")


def too_late(one, beside, folder, pool, victim, neighbour, breaks, because):
    """The victim, which is out, waits for pages of a pool that `breaks`, until they are lost: it ends `because` of that, and all else goes
    on. Or the VM ends instead, and says why. Whether it goes on."""
    asked = waits(one, folder, pool, victim, breaks)
    try:
        ends(one, beside, folder, victim, neighbour, because)
        goes_on = True
    except (TrialError, OSError):
        if not ended_by_a_lost_page(one):
            raise
        goes_on = False
    print("  a page was lost: its function has ended, the VM goes on" if goes_on else
          "  a page was lost: the CPU that waited was needed to end its function, so the emulator has ended, and has said so")
    expect(answer_or_none(asked) is None, "an answer of pages that never came")
    log = one.log()
    expect("is lost" in log and because in log, f"the log does not say so: {log}")
    if not goes_on:
        beside.works_on()  # which may be what failed
        return False
    expect(timed("its answer then", 10, lambda: one.control.get(neighbour, "/count")) == b"2", "it counts on")
    folder.let_go()
    one.control.call("offload", function=neighbour)
    expect(one.info(neighbour)["offloaded_bytes"] > 1 << 20, "the pool is not used again")
    one.control.call("recall", function=neighbour, prefetch="none")
    expect(one.control.get(neighbour, "/bytes") == BYTES and one.control.get(neighbour, "/count") == b"3", "its answers")
    return True


def vm_of_pool(s, name, folder):
    return Setting(s.options, s.folder, name, ["--pool", folder.path, "--set", f"fault_ms={LOST_AFTER * 1000}"])


@case
def pool_does_not_answer(s):
    """Who waits for a page gets it when the pool answers in time; else its function ends, and says why. All others answer, no call
    hangs, and what is out still comes back right. Only where a page is lost may the VM end, when the guest needs the CPU that waits."""
    with StubbornFolder(s.folder / "stubborn-pool") as folder, concurrent.futures.ThreadPoolExecutor() as pool:
        one = vm_of_pool(s, "stubborn", folder)
        try:
            victim, other, neighbour = (one.server(name) for name in ("victim", "other", "neighbour"))
            # So that it has a working set, which a recall fetches before the function runs.
            one.control.call("offload", function=other)
            one.control.call("recall", function=other, prefetch="none")
            expect(one.control.get(other, "/bytes") == BYTES, "its answer after its first recall")
            for function in (victim, other):
                expect(one.control.call("offload", function=function)["offloaded_bytes"] > 1 << 20, f"function {function} is not out")
            beside = Bystander(s)
            calls_fail(one, folder, other, neighbour)
            in_time(one, folder, pool, victim, folder.hold)
            if not too_late(one, beside, folder, pool, victim, neighbour, folder.hold, "does not answer"):
                folder.let_go()
                one.vm.close()
                one = vm_of_pool(s, "stubborn-again", folder)
                other = one.server("other")

            # The VM ends when it is told to, whatever waits.
            one.control.call("offload", function=other)
            waits(one, folder, pool, other, folder.hold)
            timed("the end of the VM", 30, one.vm.close)
        finally:
            one.vm.close()


@case
def pool_answers_with_errors(s):
    """An offload says so, and leaves all as it was. Who waits for a page gets it when the pool is well again in time; else its function
    ends and says why, or, when the guest needs the CPU that waits, the emulator does."""
    with StubbornFolder(s.folder / "failing-pool") as folder, concurrent.futures.ThreadPoolExecutor() as pool:
        one = vm_of_pool(s, "failing", folder)
        try:
            victim, neighbour = one.server("victim"), one.server("neighbour")
            beside = Bystander(s)
            folder.fail()
            refuses(one, neighbour, "INTERNAL", f"pool file:{folder.path}", "write: EIO (Input/output error)")
            expect(folder.failed > 0, "no write was asked of the pool")
            folder.let_go()
            expect(one.control.get(neighbour, "/count") == b"1", "it counts")

            expect(one.control.call("offload", function=victim)["offloaded_bytes"] > 1 << 20, "it is not out")
            in_time(one, folder, pool, victim, folder.fail)
            too_late(one, beside, folder, pool, victim, neighbour, folder.fail, "read: EIO")
        finally:
            one.vm.close()


@case
def room_of_the_ended_is_given_back_behind_all_else(s):
    """What others have of it comes back when the pool answers, and not before, which is told; whatever else is asked meanwhile is
    answered as ever."""
    beside = Bystander(s)
    with StubbornFolder(s.folder / "sweep-pool") as folder:
        one = Setting(s.options, s.folder, "sweep", ["--pool", folder.path, "--set", f"fault_ms={LOST_AFTER * 1000}"])
        try:
            neighbour, other = (one.server(name) for name in ("neighbour", "other"))
            victim = one.vm.start_at("victim", "unix:/tmp/ctl.sock", ["/usr/bin/python3", "-S", "-c", HOLDER], "--ready", "connect")
            kept = json.loads(one.control.get(one.gardener, f"/keep?pid={one.info(victim)['pid']}"))
            expect(len(kept) == 1, f"memory files that the daemon holds on to: {kept}")
            one.control.call("offload", function=victim)
            one.hash(victim)  # by which all that it maps comes back
            out = one.info(victim)["offloaded_bytes"]
            expect(HELD_BYTES <= out < HELD_BYTES + (1 << 20), f"{out} bytes are out")
            folder.seconds = 0.2
            one.control.call("kill", function=victim)
            folder.hold()
            seen = 0
            deadline = time.monotonic() + LOST_AFTER + 30
            while "error" not in (sweep := one.control.call("status")["sweep"]):
                expect(sweep["functions"] == 1 and time.monotonic() < deadline, f"it neither waits nor fails: {sweep}")
                seen += sweep["running"] and folder.held() > 0
                timed("ps", SOON, lambda: one.control.call("ps"))
                expect(timed("a neighbour's answer", SOON, lambda: one.control.get(neighbour, "/bytes")) == BYTES, "its answer")
                for verb in ("freeze", "thaw"):
                    timed(verb, SOON, lambda verb=verb: one.control.call(verb, function=other))
            expect(seen, "no sweep was seen that waits for the pool")
            message = sweep["error"]["message"]
            for word in (f"room of function {victim}, which has ended", str(folder.path), "does not answer", "look at its file system"):
                expect(word in message and word in one.vm.logs(), f"{word!r} is not in {message!r}, or not in the log")
            beside.works_on()
            held = one.info(victim)
            expect(held["state"] == "ended" and held["offloaded_bytes"] >= HELD_BYTES, f"what is still to be given back: {held}")
            folder.let_go()
            folder.seconds = 0.0
            one.swept()
            expect(one.pager()["pool_used_bytes"] == 0 and one.pager()["lost_pages"] == 0, str(one.pager()))
            expect(json.loads(one.control.get(one.gardener, "/kept")) == kept, "what the daemon holds is another than before")
        finally:
            one.vm.close()


@case
def frames_of_the_killed_are_used_while_the_pool_does_not_answer(s):
    """Who gets them does not wait until they would be lost, which is never here: they are zeros after a second."""
    beside = Bystander(s)
    with StubbornFolder(s.folder / "killed-pool") as folder:
        one = Setting(s.options, s.folder, "killed", ["--pool", folder.path, "--set", "fault_ms=600000"])
        try:
            eater = one.vm.start_at("eater", "unix:/tmp/ctl.sock", ["/usr/bin/python3", "-S", "-c", EATER], "--ready", "connect")
            used = 0
            for number in range(3):
                victim = one.vm.start_at(f"fat{number}", "unix:/tmp/ctl.sock", ["/usr/bin/python3", "-S", "-c", FAT], "--ready", "connect")
                expect(one.control.call("offload", function=victim)["offloaded_bytes"] > FAT_BYTES, "it is not out")
                before = one.pager()["faults"]
                folder.hold()
                with one.control.stream(eater, seconds=120) as told:
                    told.sendall(b"eat")
                    expect(told.recv(4, socket.MSG_WAITALL) == b"eats", "it does not eat")
                    timed("kill", 15, lambda victim=victim: one.control.call("kill", function=victim))
                    deadline = time.monotonic() + 60
                    while one.pager()["faults"] - before < 100:
                        expect(time.monotonic() < deadline, "no page frame that was out is used again: nothing is tried")
                        time.sleep(0.05)
                    if number == 0:
                        beside.works_on()
                    told.sendall(b"enough")
                    expect(int(timed("its neighbour's answer", 60, lambda told=told: told.recv(64)) or 0) > 0, "it has eaten nothing")
                used += one.pager()["faults"] - before
                folder.let_go()
                one.swept()
            print(f"  {used} page frames that were out have been used by another")
            expect(one.pager()["lost_pages"] == 0, str(one.pager()))
            expect(one.control.call("status")["vm"]["pager"]["pool_used_bytes"] == 0, str(one.pager()))
        finally:
            one.vm.close()


@case
def pool_is_slow(s):
    """Then all takes longer, and that is all."""
    beside = Bystander(s)
    with StubbornFolder(s.folder / "slow-pool") as folder, concurrent.futures.ThreadPoolExecutor() as pool:
        one = Setting(s.options, s.folder, "slow", ["--pool", folder.path, "--set", f"fault_ms={LOST_AFTER * 1000}"])
        try:
            function, neighbour = one.server("web"), one.server("neighbour")
            one.control.call("freeze", function=function)
            before = one.hash(function)
            folder.seconds = 0.05
            one.control.call("offload", function=function)
            asked = timed("a neighbour's answer", 10, lambda: one.control.get(neighbour, "/bytes"))
            expect(asked == BYTES, "its answer")
            expect(one.hash(function) == before, "it is another than before")  # by which every page is fetched
            one.control.call("offload", function=function)
            one.control.call("recall", function=function, prefetch="none")
            expect(one.control.get(function, "/count") == b"1" and one.control.get(function, "/bytes") == BYTES, "its answers")
            one.control.call("offload", function=neighbour)
            one.control.call("recall", function=neighbour, prefetch="all")
            expect(one.control.get(neighbour, "/bytes") == BYTES, "its answer after a recall of all")
            # Longer than anybody waits for a read: those that are late are not made again.
            folder.seconds = 0.3
            one.control.call("offload", function=neighbour)
            recalled = pool.submit(one.control.call, "recall", function=neighbour, prefetch="all")
            beside.works_on()
            recalled.result()
            expect(one.control.get(neighbour, "/count") == b"1", "its answer after one that is slower still")
            pager = one.pager()
            expect(pager["lost_pages"] == 0 and pager["faults"] > 0, str(pager))
        finally:
            one.vm.close()


def hash_at_rest(one, function):
    """Of a function that runs, and has come to rest: what it did last it has done within the time of a look."""
    before, now = None, one.hash(function)
    deadline = time.monotonic() + 300
    while now != before:
        expect(time.monotonic() < deadline, f"nobody asks function {function}, and it goes on changing: {before}, then {now}")
        before, now = now, one.hash(function)
    return now


def goes_out_again(one, folder, pool, function):
    """While a recall of all, which has let it run, fetches what is left, which that recall says."""
    out = one.info(function)["offloaded_bytes"]
    folder.seconds = PIECE_SECONDS
    recalled = pool.submit(one.control.call, "recall", seconds=600, timeout_ms=600000, function=function, prefetch="all")
    until("it does not run", lambda: one.info(function)["state"] == "running")
    fetched = one.pager()["prefetched_pages"]
    until("nothing is fetched while it runs", lambda: one.pager()["prefetched_pages"] > fetched)
    # The fetch cannot end before the offload is there.
    folder.hold()
    expect(not recalled.done(), f"all is back already: {recalled}")
    again = pool.submit(one.control.call, "offload", seconds=600, timeout_ms=600000, function=function)
    until("no offload begins", lambda: again.done() or any(call["method"] == "offload" for call in one.control.call("status")["running"]))
    if again.done():
        again.result()  # says why
    folder.let_go()
    try:
        expect(False, f"a recall that an offload has stopped went well: {recalled.result()}")
    except CallError as e:
        expect(e.name == "ABORTED" and "an offload of it has begun" in str(e), f"a recall that an offload has stopped: {e.name}: {e}")
    folder.seconds = 0.0
    result = again.result()
    # Some had come back, and some had not.
    expect(result["offloaded_bytes"] > 0 and result["already_bytes"] > 0, f"the second offload: {result}")
    info = one.info(function)
    expect(info["state"] == "frozen" and info["offloaded_bytes"] > out - (1 << 20), f"{out} bytes were out, then, out again: {info}")


@case
def goes_out_again_while_all_comes_back(s):
    """An offload stops what a recall of all fetches while the function runs, and goes on: every byte is there after the next recall."""
    with StubbornFolder(s.folder / "again-pool") as folder, concurrent.futures.ThreadPoolExecutor() as pool:
        one = Setting(s.options, s.folder, "again", ["--pool", folder.path, "--set", "fault_ms=600000"])
        try:
            for prefetch in PREFETCH:
                # Each time another one: of this one nothing is known that it needs first, so all is fetched while it runs.
                function = one.parts("still", STILL, *WITHOUT_RSEQ)
                before = hash_at_rest(one, function)
                one.control.call("offload", function=function)
                goes_out_again(one, folder, pool, function)
                one.control.call("recall", function=function, prefetch=prefetch)
                one.control.call("freeze", function=function)
                after = one.hash(function)
                expect(after == before, f"recall {prefetch}: {before!r} became {after!r}")
                one.control.call("thaw", function=function)
                expect(one.control.get(function, "/all") == b"ok", f"recall {prefetch}: its answer of all that it has")
                one.end(function)
            expect(one.pager()["lost_pages"] == 0, str(one.pager()))
        finally:
            one.vm.close()
