# SPDX-License-Identifier: Apache-2.0
"""Cases of rdma_test.py: pages of guest RAM in memory that the node lends."""
import time

from rdma_setting import AWAY, FLIP, expect, well, well_again

PAGE = b"moult-pool-probe page 0 of 1".hex()  # how the first lent page begins
OUTAGE = 35  # seconds: longer than the node waits for a client that is silent
CALL = 256  # packets of 4 KiB, of a call that reads 1 MiB


def lend(rig, **options):
    """Another moult-poold, which lends memory."""
    rig.node.sh(f"kill -TERM {rig.pid}; while kill -0 {rig.pid} 2>/dev/null; do sleep 0.1; done")
    rig.pid = rig.node.start(**options)


def pages(rig):
    """Of guest RAM, in memory that the node lends: the same comes back, room too; who may not have it, and how much."""
    lend(rig)
    rig.bad("FAILED_PRECONDITION", "lends no memory for offloaded pages; start moult-poold with --lend-mib", "pages")
    lend(rig, lend=32)

    def cost(rounds):
        ticks = rig.node.cpu_ticks(rig.pid)
        line = rig.good("pages", "--mib", "16", "--rounds", str(rounds), timeout=300)[0]
        expect(line["pages"] == 4096 * rounds and line["used_bytes"] == 16 << 20 and line["left_bytes"] == 0, f"pages: {line}")
        return rig.node.cpu_ticks(rig.pid) - ticks
    once, often = cost(1), cost(9)  # The loan itself costs the same in both.
    print(f"    the memory node's process: {once} ticks for 4096 pages written and read, {often} for 36864")
    expect(often - once <= 30, f"{often - once} ticks of CPU time in the memory node for pages that it does not move")
    rig.good("pages", "--mib", "32")  # All of it: the 16 MiB have come back.
    rig.bad("RESOURCE_EXHAUSTED", "higher --lend-mib", "pages", "--mib", "33")
    rig.bad("PERMISSION_DENIED", "read-only", "pages", tenant="green")

    def beside(_):
        rig.bad("RESOURCE_EXHAUSTED", "beside what is lent", "pages", "--mib", "17", tenant="blue")
        for tenant, lent in (("red", 16 << 20), ("blue", 0)):
            use = rig.good("stat", tenant=tenant)[0]
            expect((use["lent_bytes"], use["lend_limit_bytes"]) == (lent, 32 << 20), f"{tenant}: {use}")

    told = rig.watch("--mib 16", 300, beside, until=any, command="watch-pages")
    expect(told[-1]["last"] == "OK", f"pages: {told}")
    rig.good("pages", "--mib", "32", tenant="blue")


def pages_flipped(rig):
    lend(rig, lend=32)
    rig.node.push(FLIP.encode(), "/srv/flip.py")

    def flip(codes):
        flipper = f"python3 /srv/flip.py {rig.pid} {16 << 20} {3 * 4096 + 77} {PAGE}"
        rig.node.sh(flipper)
        deadline = time.monotonic() + 120
        while "DATA_LOSS" not in codes():
            expect(time.monotonic() < deadline, "a flipped bit is not found")
            time.sleep(0.05)
        rig.node.sh(flipper)
    told = rig.watch("--mib 16", 300, flip, until=well_again, command="watch-pages")
    expect([line.get("code") for line in told] == ["OK", "DATA_LOSS", "OK", None], f"with a flipped bit: {told}")
    expect("slot 3 does not match its checksum" in told[1]["message"], f"with a flipped bit: {told}")


def pages_lost(rig):
    """The node's process dies, and comes back without them; the node forgets who is gone too long."""
    lend(rig, lend=32)

    def restart(_):
        rig.node.sh(f"kill -9 {rig.pid}")
        time.sleep(3)
        rig.pid = rig.node.start(lend=32)
    told = rig.watch("--mib 4", 120, restart, until=lambda codes: "DATA_LOSS" in codes, command="watch-pages")
    log = rig.node.sh(f"kill -0 {rig.pid}; cat /run/poold.log")
    expect(log == "", f"after a restart, moult-poold says: {log}")
    codes = [line.get("code") for line in told[:-1]]
    expect(codes[0] == "OK" and codes[-1] == "DATA_LOSS" and set(codes[1:-1]) <= AWAY and codes[1:-1],
           f"after a restart: {told}")
    expect("what was written is lost" in told[-2]["message"] and "moult-poold was restarted" in told[-2]["message"], f"after a restart: {told}")
    expect(told[-1]["again"] == "OK", f"pages after a restart: {told}")

    lend(rig, lend=32, grace=20)
    gone = "moult-pool-probe --uri rdma://10.0.1.1/ --keys /srv/keys --tenant red watch-pages --mib 32 --seconds 600"
    rig.client.sh(f"{gone} >/tmp/gone 2>&1 & pid=$!; until grep -q OK /tmp/gone; do sleep 0.1; done; kill -9 $pid")
    rig.bad("RESOURCE_EXHAUSTED", "beside what is lent", "pages", "--mib", "32")
    deadline = time.monotonic() + 90
    while rig.probe("pages", "--mib", "32").code != 0:
        expect(time.monotonic() < deadline, "the memory of a killed borrower does not come back")
        time.sleep(1)


def pages_cut_off(rig):
    """The wire is away for longer than a call may take, for longer than the node waits for who is silent, and often in a row: each call
    ends in time, and what lay there is there when the wire is back. Away for longer than the grace period, it is lost, and said to be."""
    lend(rig, lend=32)

    def watched(during, until=well):
        told = rig.watch("--mib 1", 300, during, until=until, command="watch-pages")
        codes = [line["code"] for line in told[:-1]]
        # Other bytes than were written are neither.
        expect(codes[0] == "OK" and set(codes) <= {"OK", *AWAY} and told[-1]["last"] == told[-1]["again"] == "OK", f"with a wire that goes: {told}")
        return codes

    def back_after(cut):
        cut()
        rig.reads_on(8 * CALL)
    watched(lambda _: back_after(lambda: rig.cut(6)))
    codes = watched(lambda codes: rig.cut(OUTAGE, until=lambda: not well(codes())), until=well_again)
    expect(set(codes) & AWAY, f"nothing is said of {OUTAGE} s without a wire: {codes}")
    watched(lambda _: back_after(rig.flap))

    lend(rig, lend=32, grace=1)

    def lent():
        """The node's memory that a device may reach: a loan of 4 MiB, and little beside it."""
        return int(rig.node.sh(f"grep VmPin: /proc/{rig.pid}/status").split()[1]) >= 4096

    def forgotten(codes):
        expect(lent(), "a loan is not among the memory of moult-poold that is pinned")
        rig.cut(0, until=lambda: not lent() and not well(codes()))
    told = rig.watch("--mib 4", 300, forgotten, until=lambda codes: "DATA_LOSS" in codes, command="watch-pages")
    codes = [line["code"] for line in told[:-1]]
    expect(codes[0] == "OK" and codes[-1] == "DATA_LOSS" and set(codes[1:-1]) <= AWAY, f"after the grace period: {told}")
    expect("what was written is lost" in told[-2]["message"] and "for 1 s (--lend-grace-s)" in told[-2]["message"], f"after the grace period: {told}")
    expect(told[-1]["again"] == "OK", f"pages after the grace period: {told}")


def loan_forsaken(rig):
    """Who leaves before he is told of his loan does not keep it from others for the grace period."""
    lend(rig, lend=32)
    rig.client.sh("rm -f /tmp/go; moult-vm-rdma-attacker --forsake 10.0.1.1 /srv/keys red 32 /tmp/go >/tmp/forsake 2>&1 & "
                  "until grep -q . /tmp/forsake; do sleep 0.1; done")
    rig.node.sh(f"kill -STOP {rig.pid}")  # It gets the question, and answers when nobody is there.
    try:
        rig.client.sh("touch /tmp/go; until grep -q attacker: /tmp/forsake; do sleep 0.1; done")
    finally:
        rig.node.sh(f"kill -CONT {rig.pid}")
    said = rig.client.sh("cat /tmp/forsake")
    expect("attacker: OK" in said, f"who was to leave says {said}")
    deadline = time.monotonic() + 60
    while (asked := rig.probe("pages", "--mib", "32")).code != 0:
        expect(time.monotonic() < deadline, f"the memory of a loan that nobody was told of does not come back: {asked.error}")
        time.sleep(1)


PAGES_CASES = [pages, pages_flipped, pages_lost, pages_cut_off, loan_forsaken]
