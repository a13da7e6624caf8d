# SPDX-License-Identifier: Apache-2.0
"""Cases of offload_test.py: an attach from a pool that does not answer, by the threads that serve faults."""
import concurrent.futures
import subprocess
import time

from offload_setting import case_of, Setting
from stubborn_folder import StubbornFolder
from trial import CallError, TrialError, expect

ATTACHES = []
case = case_of(ATTACHES)
BYTES = bytes(range(256))
ENDS_WITHIN = 60  # seconds: what host-lib/README.md promises of the beginning of an attach


def refusal(one, uri):
    """Of an attach from there, and how long it took."""
    begin = time.monotonic()
    try:
        attached = one.control.call("attach", name="web", seconds=2 * ENDS_WITHIN, **{"from": uri})
        raise TrialError(f"an attach from a pool that does not answer has ended well: {attached}")
    except CallError as e:
        return e, time.monotonic() - begin


def attach_in_the_end(one, uri, seconds=20):
    """A look that took too long may still be about to end."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return one.control.call("attach", name="web", **{"from": uri})["function"]["id"]
        except CallError as e:
            expect(e.name == "UNAVAILABLE" and time.monotonic() < deadline, f"attach from a pool that answers again: {e}")
            time.sleep(0.1)


def goes_on(one, neighbour, count):
    """All that has nothing to do with that pool."""
    expect(one.control.get(neighbour, "/count", seconds=20) == b"%d" % count, "a neighbour's count")
    expect(one.control.get(neighbour, "/bytes", seconds=20) == BYTES, "a neighbour's answer")
    one.control.call("status", seconds=20)
    one.control.call("offload", function=neighbour, seconds=30)
    expect(one.info(neighbour)["offloaded_bytes"] > 1 << 20, "a neighbour is not out")
    one.control.call("recall", function=neighbour, prefetch="none", seconds=30)
    expect(one.control.get(neighbour, "/bytes", seconds=20) == BYTES, "a neighbour's answer after its recall")


@case
def attach_from_a_pool_that_does_not_answer(s):
    """With as many threads as there are where nothing is said: it fails in time, and says why; whatever else is asked meanwhile is
    answered. When the pool answers, so does an attach."""
    pool = s.folder / "attach-templates"
    pool.mkdir()
    one = Setting(s.options, s.folder, "attach", ["--set", "cache=none"])
    try:
        function, neighbour = one.server("web"), one.server("neighbour")
        expect(one.control.get(function, "/count") == b"1", "the first answer")
        one.control.call("capture", function=function, name="web", end=True)
        subprocess.run([one.vm.bin / "moultctl", "--store", s.folder / "store", "pool", "push", f"file:{pool}", "web"], check=True,
                       capture_output=True, timeout=120)
        # What is attached comes from the pool, not from the store.
        one.control.call("templates.remove", name="web")
        with StubbornFolder(s.folder / "attach-pool", shows=pool) as folder, concurrent.futures.ThreadPoolExecutor() as others:
            uri = f"file:{folder.path}"
            before = {f["id"] for f in one.control.call("ps")["functions"]}
            folder.hold()
            asked = others.submit(refusal, one, uri)
            count = 0
            while not asked.done():
                goes_on(one, neighbour, count := count + 1)
            expect(folder.held() > 0, "nobody waits for the pool")
            error, took = asked.result()
            expect(took < ENDS_WITHIN, f"the attach takes {took:.0f} s")
            for text in ("template web", uri, "does not answer", "look at its file system"):
                expect(text in str(error), f"{text!r} is not in: {error}")
            expect(error.name == "UNAVAILABLE", str(error))
            error, took = refusal(one, uri)
            expect(error.name == "UNAVAILABLE" and uri in str(error) and "does not answer" in str(error), str(error))
            expect(took < ENDS_WITHIN, f"the next attach takes {took:.0f} s")
            goes_on(one, neighbour, count := count + 1)
            expect({f["id"] for f in one.control.call("ps")["functions"]} == before, "a function is half-made")
            expect(all(not window["slots"] for window in one.control.call("status")["vm"]["windows"]), "a slot is half-made")

            folder.let_go()
            attached = attach_in_the_end(one, uri)
            expect(one.control.get(attached, "/count") == b"2", "it counts on")
            expect(one.control.get(attached, "/bytes") == BYTES, "its bytes")
            goes_on(one, neighbour, count + 1)
            expect(one.pager()["lost_pages"] == 0, str(one.pager()))
            print(f"  its neighbour was asked, moved out and back {count} times meanwhile")
            one.end(attached)
    finally:
        one.vm.close()
