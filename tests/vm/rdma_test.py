#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The rdma: pool over Soft-RoCE, from one guest to another: what is read is what lies there, who may read it, and what
becomes of a call when the memory node, the wire or the template is taken away. Prints, and does not judge, how fast.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import nvdimm
import rdma_dax
from machine import REPO, VmError, missing_parts, skip_all
from rdma_rig import MemoryNode, RdmaMachine, not_found, stripped

PAGES = 16  # MiB of the template that is read most
SECOND = "10.0.2.1"
FLIP = r"""
import re, sys
pid, size, at = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with open(f"/proc/{pid}/maps") as maps:
    # Neighbours of the same kind are one line: the content says where the template begins.
    for line in maps:
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if end - start < size or line.split()[1][0] != "r": continue
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as mem:
            head = bytes.fromhex(sys.argv[4])
            for place in range(start, end - size + 1, 4096):
                mem.seek(place)
                if mem.read(len(head)) == head:
                    mem.seek(place + at)
                    byte = mem.read(1)[0]
                    mem.seek(place + at)
                    mem.write(bytes([byte ^ 1]))
                    print("flipped")
                    sys.exit(0)
sys.exit(1)
"""


class Failed(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failed(text)


class Result:
    def __init__(self, done):
        self.code, self.text = done.code, done.text()
        self.error = done.err.decode(errors="replace").strip()
        self.lines = [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]


class Rig:
    def __init__(self, bin_dir, folder):
        self.folder, self.bin = pathlib.Path(folder), pathlib.Path(bin_dir)
        self.keys = {name: secrets.token_hex(32) for name in ("red", "blue", "green")}
        self.digests = {}
        self.client = RdmaMachine([(self.wire("c1"), self.wire("a"), "10.0.1.2/24"), (self.wire("c2"), self.wire("b"), "10.0.2.2/24")],
                                  bin_dir=bin_dir)
        self.node = self.new_node("a", "c1", "10.0.1.1/24")

    def wire(self, name):
        return self.folder / f"{name}.sock"

    def new_node(self, here, there, address, **options):
        return MemoryNode([(self.wire(here), self.wire(there), address)], bin_dir=self.bin, **options)

    def template(self, store, name, tenant, mib, seed):
        folder = self.folder / store / name
        folder.parent.mkdir(exist_ok=True)
        done = subprocess.run([self.bin / "moult-vm-template", folder, tenant, str(mib), str(seed)], check=True,
                              capture_output=True, text=True)
        self.digests[name] = tuple(done.stdout.split())
        return folder

    def key_lines(self, *names, end=""):
        return "".join(f"{name} {self.keys[name]}{end}\n" for name in names).encode()

    def fill(self, node):
        node.push(stripped(self.bin / "moult-poold", self.folder), "/usr/local/bin/moult-poold")
        node.push_tree({"store": self.folder / "store"}, "/srv")
        node.push(self.key_lines("red", "blue") + self.key_lines("green", end=" read-only"), "/srv/keys", mode=0o600)

    def fill_client(self):
        for program in ("moult-pool-probe", "moult-vm-rdma-attacker"):
            self.client.push(stripped(self.bin / program, self.folder), f"/usr/local/bin/{program}")
        self.client.push(self.key_lines("red", "blue", "green"), "/srv/keys", mode=0o600)
        wrong = f"red {self.keys['blue']}\nnobody {self.keys['red']}\n".encode()
        self.client.push(wrong, "/srv/wrong", mode=0o600)
        self.client.push_tree({"more": self.folder / "more"}, "/srv", timeout=600)

    def probe(self, *args, tenant="red", keys="/srv/keys", uri="rdma://10.0.1.1/", timeout=120):
        return Result(self.client.run(["moult-pool-probe", "--uri", uri, "--keys", keys, "--tenant", tenant, "--timeout-ms", "60000", *args], timeout=timeout))

    def good(self, *args, **options):
        result = self.probe(*args, **options)
        expect(result.code == 0, f"{' '.join(args)}: {result.error}")
        return result.lines

    def bad(self, code, text, *args, **options):
        result = self.probe(*args, **options)
        expect(result.code == 1 and code in result.error and text in result.error,
               f"{' '.join(args)}: expected {code} and \"{text}\", got {result.code}: {result.error} {result.text}")

    def verified(self, name, **options):
        line = self.good("verify", name, **options)[0]
        expect((line["digest"], line["pages_sha256"]) == self.digests[name], f"{name}: other content: {line}")

    def watch(self, name, seconds, during, until=None, timeout_ms=3000, command="watch", **options):
        """What `watch` (or watch-pages, without a name) tells while `during` happens, from when it reads: for so long, or at most so
        long where it ends when `during` has, and `until`(the codes that it has told) is true."""
        lines, started = [], threading.Event()
        argv = ["moult-pool-probe", "--uri", options.get("uri", "rdma://10.0.1.1/"), "--keys", "/srv/keys", "--tenant", "red",
                "--timeout-ms", str(timeout_ms), command, *name.split(), "--seconds", str(seconds)]
        output = []

        def take(data):
            output.append(data)
            if b"\n" in data:
                started.set()

        def codes():
            return [json.loads(line).get("code") for line in b"".join(output).decode().split("\n")[:-1]]

        def run():
            try:
                lines.append(Result(self.client.run(argv, timeout=seconds + 120, on_output=take)))
            except VmError as e:
                lines.append(e)
            started.set()
        thread = threading.Thread(target=run)
        thread.start()
        expect(started.wait(120), "watch says nothing")
        try:
            if codes():  # else it has ended without a look
                during(codes)
            while until and not until(codes()) and thread.is_alive():
                time.sleep(0.05)
        finally:
            try:
                if until:
                    self.client.sh("kill -INT $(pidof moult-pool-probe) || true")  # It may have ended by itself.
            finally:
                thread.join()
        result = lines[0]
        if isinstance(result, Exception):
            raise result
        text = b"".join(output).decode() or result.text
        told = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        expect(result.code == 0 and told, f"watch {name}: {result.error}")
        expect(told[-1]["slowest_ms"] < timeout_ms + 3000, f"a call of {timeout_ms} ms took {told[-1]['slowest_ms']}")
        print(f"    {[line.get('code', 'end') for line in told]}, slowest {told[-1]['slowest_ms']:.0f} ms of {timeout_ms}")
        return told

    def close(self):
        self.client.close()
        self.node.close()


def no_device(rig):
    rig.bad("FAILED_PRECONDITION", "this host has no RDMA device, and TCP is no substitute", "ls")
    rig.client.add_devices()


def reads(rig):
    rig.pid = rig.node.start(lend=8)
    listed = rig.good("ls")
    expect([(e["name"], e["digest"], e["tenant"]) for e in listed] == [(n, rig.digests[n][0], "red") for n in ("red-big", "red-gone")],
           f"ls: {listed}")
    use = rig.good("stat")[0]
    expect(use["templates"] == 2 and use["used_bytes"] == sum(e["bytes"] for e in listed), f"stat: {use}")
    for name in ("red-big", "red-gone"):
        rig.verified(name)
    rig.verified("blue-one", tenant="blue")
    rig.bad("NOT_FOUND", "no template red-none", "verify", "red-none")


def tenants(rig):
    expect([e["name"] for e in rig.good("ls", tenant="blue")] == ["blue-one"], "blue sees what is not its own")
    rig.bad("NOT_FOUND", "no template red-big", "verify", "red-big", tenant="blue")
    rig.bad("NOT_FOUND", "no template red-big", "rm", "red-big", tenant="blue")
    for tenant in ("red", "nobody"):  # What is wrong is not told.
        rig.bad("PERMISSION_DENIED", "the key is not the tenant's", "ls", tenant=tenant, keys="/srv/wrong")
    rig.bad("PERMISSION_DENIED", "read-only", "rm", "x", tenant="green")


def attacks(rig):
    done = rig.client.run(["moult-vm-rdma-attacker", "10.0.1.1", "/srv/keys", "red", "red-big", "blue", "blue-one"], timeout=300)
    expect(done.code == 0, f"attacker: exit {done.code}: {done.text()[-1500:]} {done.err.decode()[-500:]}; "
                           f"{rig.node.run(['tail', '-5', '/run/poold.log']).text()}")
    rig.node.sh(f"kill -0 {rig.pid}")
    rig.verified("red-big")
    left = rig.node.sh("ls -A /srv/store")
    expect(set(left.split()) - {".lock"} == {"red-big", "red-gone", "blue-one"}, f"left in the store: {left}")


def pushes(rig):
    rig.good("push", "red-new", "--store", "/srv/more")
    rig.verified("red-new")
    rig.bad("ALREADY_EXISTS", "red-new is there already", "push", "red-new", "--store", "/srv/more")
    rig.bad("PERMISSION_DENIED", "of another tenant", "push", "blue-new", "--store", "/srv/more")
    rig.bad("RESOURCE_EXHAUSTED", "limit", "push", "red-huge", "--store", "/srv/more")
    rig.good("rm", "red-new")
    rig.bad("NOT_FOUND", "no template red-new", "verify", "red-new")


def well_again(codes):
    return len(codes) > 1 and codes[-1] == "OK"


def removed(rig):
    """Under a reader: by another client, then by hand in the folder."""
    told = rig.watch("red-gone", 120, lambda _: rig.good("rm", "red-gone"), until=not_found)
    expect(told[0]["code"] == "OK" and told[-1]["last"] == "NOT_FOUND", f"after rm: {told}")
    told = rig.watch("red-big", 120, lambda _: rig.node.sh("mv /srv/store/red-big /srv/red-big"), until=not_found)
    expect(told[0]["code"] == "OK" and told[-1]["last"] == "NOT_FOUND", f"after a removal in the folder: {told}")
    rig.node.sh("mv /srv/red-big /srv/store/red-big")
    rig.verified("red-big")


def flipped(rig):
    """In the memory of the memory node: RDMA says nothing of it, whoever reads finds it. On its disk: not even opened."""
    pages = (rig.folder / "store/red-big/pages").read_bytes()
    size = sum(os.path.getsize(rig.folder / "store/red-big" / f) for f in ("pages", "image", "manifest"))
    at = 5 * 256 * 1024 + 77
    rig.node.push(FLIP.encode(), "/srv/flip.py")
    rig.node.sh(f"python3 /srv/flip.py {rig.pid} {size} {at} {pages[:64].hex()}")
    rig.bad("DATA_LOSS", "chunk 5 does not match", "verify", "red-big")
    rig.node.sh(f"python3 /srv/flip.py {rig.pid} {size} {at} {pages[:64].hex()}")
    rig.verified("red-big")
    digest = sum(-(-os.path.getsize(rig.folder / "store/red-big" / f) // 4096) * 4096 for f in ("pages", "image", "manifest")) + (5 * 64 + 9) * 32 + 3
    rig.node.sh(f"python3 /srv/flip.py {rig.pid} {size} {digest} {pages[:64].hex()}")
    rig.bad("DATA_LOSS", "the digests of the pages of chunk 5 do not match", "verify", "red-big")
    rig.node.sh(f"python3 /srv/flip.py {rig.pid} {size} {digest} {pages[:64].hex()}")
    rig.verified("red-big")
    rig.node.sh("cp -r /srv/store/blue-one /srv/blue-one && chmod -R u+w /srv/store/blue-one && printf x | "
                "dd of=/srv/store/blue-one/pages bs=1 seek=300000 conv=notrunc status=none && touch /srv/store/blue-one/manifest")
    rig.bad("DATA_LOSS", "pages", "verify", "blue-one", tenant="blue")
    rig.node.sh("rm -rf /srv/store/blue-one && mv /srv/blue-one /srv/store/blue-one")
    rig.verified("blue-one", tenant="blue")


def measured(rig):
    before = rig.node.cpu_ticks(rig.pid)
    line = rig.good("measure", "red-big", "--reads", "300", timeout=300)[0]
    ticks = rig.node.cpu_ticks(rig.pid) - before
    per_page = ticks * 10000 / line["pages_read"]
    print(f"    a page: {line['page_us']:.0f} us, bare verbs {line['raw_page_us']:.0f} us, ratio {line['page_ratio']:.2f}")
    print(f"    a pull: {line['pull_gb_s'] * 1000:.1f} MB/s, bare verbs {line['raw_pull_gb_s'] * 1000:.1f} MB/s, ratio {line['pull_ratio']:.2f}")
    print(f"    the memory node's process: {ticks} ticks for {line['pages_read']} pages, {per_page:.3f} us a page")
    # Reads that went by the process would cost it no less than what the client waits for.
    expect(ticks <= 20 or per_page < line["raw_page_us"] / 100, f"{ticks} ticks of CPU time in the memory node for {line['pages_read']} reads that are not its own")
    for what, row in rig.good("faults", "red-big", timeout=300)[0].items():
        print(f"    a fault, {what}: {row['served_us']:.0f} us, bare READ {row['bare_read_us']:.0f} us + UFFDIO_COPY {row['bare_copy_us']:.0f} us, "
              f"ratio {row['served_ratio']:.2f}")


def attached(rig):
    """By the pager that shows templates in windows, in plain memory: what each way fetches, and that it is the template."""
    result = rig.good("attach", "red-big", "--store", "/tmp/mine", "--rounds", "1", timeout=300)[0]
    size = result["pages_bytes"]
    ways = {way["mode"]: way for way in result["ways"]}
    for way in result["ways"]:
        ratios = ", ".join(f"{what.replace('_', ' ')} {ratio:.1f}" for what, ratio in way["of_plain"].items())
        print(f"    {way['pool']} {way['mode']}, times one from a store: {ratios}")
    for mode in ("cold", "cold_set"):
        moved = ways[mode]["bytes_from_pool"]
        # A page that is touched while the rest of its chunk is on its way does not wait for that, and so may come twice.
        expect(0 < moved["first_answer"] <= moved["working_set"] <= moved["all_pages"] and
               size <= moved["all_pages"] <= size + result["touched_bytes"], f"{mode}: {moved} of {size} bytes")
    expect(ways["warm"]["bytes_from_pool"]["all_pages"] == 0, f"fetched what the host has: {ways['warm']}")
    expect(ways["warm"]["bytes_from_cache"] > 0, f"nothing came from the cache: {ways['warm']}")


def restarted(rig):
    """moult-poold is killed under a reader, and comes back: with the same, and with another template of that name."""
    def same(_):
        rig.node.sh(f"kill -9 {rig.pid}")
        time.sleep(1.5)
        rig.pid = rig.node.start()
    told = rig.watch("red-big", 120, same, until=well_again)
    expect(told[0]["code"] == "OK" and told[-1]["last"] == "OK", f"after a restart: {told}")
    expect(all(line["code"] in ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED") for line in told[:-1]), f"meanwhile: {told}")

    def other(_):
        rig.node.sh(f"kill -9 {rig.pid}; mv /srv/store/red-big /srv/red-big")
        rig.template("other", "red-big", "red", 2, 99)
        rig.node.push_tree({"red-big": rig.folder / "other/red-big"}, "/srv/store")
        rig.pid = rig.node.start()
    mine = rig.digests["red-big"]
    told = rig.watch("red-big", 120, other, until=not_found)
    expect(told[-1]["last"] == "NOT_FOUND" and "another template of this name" in told[-2]["message"], f"after other content: {told}")
    rig.node.sh("rm -rf /srv/store/red-big && mv /srv/red-big /srv/store/red-big")
    rig.digests["red-big"] = mine
    rig.verified("red-big")


def wire_cut(rig):
    def flap(seconds):
        rig.client.qmp("set_link", name="nic0", up=False)
        time.sleep(seconds)
        rig.client.qmp("set_link", name="nic0", up=True)
    told = rig.watch("red-big", 8, lambda _: flap(1))
    expect(told[-1]["last"] == "OK", f"after 1 s without a wire: {told}")
    told = rig.watch("red-big", 20, lambda _: flap(6))
    expect(told[-1]["last"] == "OK", f"after 6 s without a wire: {told}")


def request_lost(rig):
    """The wire loses a connection's request: another one is made."""
    def requests():
        told = rig.client.sh("cd /sys/class/infiniband/rxe0/ports/1 && cat cm_tx_msgs/req cm_tx_retries/req")
        sent, again = (int(word) for word in told.split())
        return sent - again
    sent = "cat /sys/class/net/eth0/statistics/tx_packets"
    rig.good("ls")  # So that both know each other's address.
    before, packets = requests(), int(rig.client.sh(sent))
    rig.node.qmp("set_link", name="nic0", up=False)
    try:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            listed = pool.submit(rig.good, "ls")
            rig.client.sh(f"until rdma resource show cm_id | grep -q 'state CONNECT ' && [ $({sent}) -gt {packets} ]; do sleep 0.05; done")
            rig.node.qmp("set_link", name="nic0", up=True)
            listed.result()
    finally:
        rig.node.qmp("set_link", name="nic0", up=True)
    made = requests() - before
    expect(made >= 2, f"{made} requests were made for a connection whose first was lost")


PAGE = b"moult-pool-probe page 0 of 1".hex()  # how the first lent page begins


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
    """The node's process dies, and comes back without them; the wire is cut; the node forgets who is gone too long."""
    lend(rig, lend=32)

    def restart(_):
        rig.node.sh(f"kill -9 {rig.pid}")
        time.sleep(3)
        rig.pid = rig.node.start(lend=32)
    told = rig.watch("--mib 4", 120, restart, until=lambda codes: "DATA_LOSS" in codes, command="watch-pages")
    log = rig.node.sh(f"kill -0 {rig.pid}; cat /run/poold.log")
    expect(log == "", f"after a restart, moult-poold says: {log}")
    codes = [line.get("code") for line in told[:-1]]
    expect(codes[0] == "OK" and codes[-1] == "DATA_LOSS" and set(codes[1:-1]) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED"} and codes[1:-1],
           f"after a restart: {told}")
    expect("what was written is lost" in told[-2]["message"] and "moult-poold was restarted" in told[-2]["message"], f"after a restart: {told}")
    expect(told[-1]["again"] == "OK", f"pages after a restart: {told}")

    def flap(_):
        rig.client.qmp("set_link", name="nic0", up=False)
        time.sleep(6)
        rig.client.qmp("set_link", name="nic0", up=True)
    told = rig.watch("--mib 4", 20, flap, command="watch-pages")
    expect(told[-1]["last"] == "OK" and told[-1]["again"] == "OK", f"after 6 s without a wire: {told}")

    lend(rig, lend=32, grace=20)
    gone = "moult-pool-probe --uri rdma://10.0.1.1/ --keys /srv/keys --tenant red watch-pages --mib 32 --seconds 600"
    rig.client.sh(f"{gone} >/tmp/gone 2>&1 & pid=$!; until grep -q OK /tmp/gone; do sleep 0.1; done; kill -9 $pid")
    rig.bad("RESOURCE_EXHAUSTED", "beside what is lent", "pages", "--mib", "32")
    deadline = time.monotonic() + 90
    while rig.probe("pages", "--mib", "32").code != 0:
        expect(time.monotonic() < deadline, "the memory of a killed borrower does not come back")
        time.sleep(1)


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


def over_dax(rig):
    """A second node, with its templates in byte-addressable memory."""
    with rig.new_node("b", "c2", f"{rdma_dax.ADDRESS}/24", qemu_args=nvdimm.qemu_args(rig.folder)) as node:
        dax = rdma_dax.DaxNode(rig, node, expect)
        rdma_dax.where_they_lie(dax, PAGES)
        rdma_dax.changed(dax, PAGES)


def ends(rig):
    done = rig.node.sh(f"kill -TERM {rig.pid}; for i in $(seq 100); do kill -0 {rig.pid} 2>/dev/null || break; sleep 0.1; done; "
                       f"kill -0 {rig.pid} 2>/dev/null && echo alive; cat /run/poold.log")
    expect(done == "", f"after SIGTERM: {done}")
    rig.bad("UNAVAILABLE", "is moult-poold running", "ls")
    rig.pid = rig.node.start()


def second_node(rig):
    """The whole first node dies; a second one has the same template."""
    with rig.new_node("b", "c2", f"{SECOND}/24") as second:
        second.boot()
        rig.fill(second)
        second.start()
        both = f"rdma://10.0.1.1,{SECOND}/"
        for uri in (both, f"rdma://{SECOND}/"):  # each has it in its memory from then on
            rig.verified("red-big", uri=uri)
        told = rig.watch("red-big", 15, lambda _: rig.node.kill(), timeout_ms=8000, uri=both)
        expect({line["code"] for line in told[:-1]} == {"OK"} and told[-1]["last"] == "OK", f"with a second node: {told}")
        rig.verified("red-big", uri=both)
        told = rig.watch("red-big", 10, lambda _: second.kill(), timeout_ms=2000, uri=f"rdma://{SECOND}/")
        expect(told[-1]["last"] in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), f"without any node: {told}")


PARTS = [no_device, reads, tenants, attacks, pushes, removed, flipped, measured, attached, restarted, wire_cut, request_lost, pages, pages_flipped,
         pages_lost, loan_forsaken, over_dax, ends, second_node]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=REPO / "build/dev/bin")
    parser.add_argument("--only", action="append", help="these parts, besides the first two")
    options = parser.parse_args()
    parts = [p for p in PARTS if not options.only or p in PARTS[:2] or p.__name__ in options.only]
    why = missing_parts(["full"], cpus=2)
    if why:
        return skip_all(len(parts), why)
    folder = tempfile.mkdtemp(prefix="moult-rdma-")
    rig = Rig(options.bin, folder)
    failed = 0
    try:
        rig.template("store", "red-big", "red", PAGES, 1)
        rig.template("store", "red-gone", "red", 1, 2)
        rig.template("store", "blue-one", "blue", 1, 3)
        rig.template("more", "red-new", "red", 3, 4)
        rig.template("more", "blue-new", "blue", 1, 5)
        rig.template("more", "red-huge", "red", 256, 6)
        rig.node.boot()
        rig.client.boot()
        rig.fill(rig.node)
        rig.fill_client()
        for part in parts:
            start = time.monotonic()
            try:
                part(rig)
                print(f"PASS {part.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
            except Exception as e:  # One part's failure says nothing of the next.
                failed += 1
                if not isinstance(e, Failed):
                    traceback.print_exc()
                print(f"FAIL {part.__name__}: {e}", flush=True)
    finally:
        rig.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(parts) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
