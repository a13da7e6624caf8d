#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The rdma: pool over Soft-RoCE, from one guest to another: what is read is what lies there, who may read it, and what
becomes of a call when the memory node, the wire or the template is taken away. Prints, and does not judge, how fast.
"""
import argparse
import concurrent.futures
import os
import shutil
import sys
import tempfile
import time
import traceback

import nvdimm
import rdma_dax
from machine import REPO, missing_parts, skip_all
from rdma_pages import PAGES_CASES
from rdma_setting import AWAY, FLIP, URI, Failed, Rig, expect, not_found, well, well_again

PAGES = 16  # MiB of the template that is read most
SECOND = "10.0.2.1"
OUTAGE = 35  # seconds: longer than the node waits for a client that is silent


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


def by_moultctl(rig):
    """What is pushed is listed, counted, checked, and comes back as it was; what fails says why, by its exit code too."""
    name, pulled = "red-new", "/tmp/pulled"

    def refused(code, status, text, *words, **options):
        error = rig.ctl(*words, code=code, **options)
        expect(error["code"] == status and text in error["message"], f"{words}: expected {status} and \"{text}\", got {error}")
    rig.fill_ctl()
    others, room = rig.ctl("ls")["templates"], rig.ctl("stat")
    expect(rig.ctl("push", name, store="/srv/more") == {"uri": URI, "name": name, "done": "push"}, "push")
    refused(3, "ALREADY_EXISTS", "red-new is there already", "push", name, store="/srv/more")
    listed = {one["name"]: one for one in rig.ctl("ls")["templates"]}
    expect(set(listed) == {name, *(one["name"] for one in others)}, f"ls: {listed}, before: {others}")
    expect((listed[name]["digest"], listed[name]["tenant"]) == (rig.digests[name][0], "red"), f"ls: {listed[name]}")
    use = rig.ctl("stat")
    expect(use["uri"] == URI and use["templates"] == room["templates"] + 1 and
           use["used_bytes"] == room["used_bytes"] + listed[name]["bytes"] < use["limit_bytes"], f"stat: {use}, before: {room}")
    expect(rig.ctl("verify", name)["done"] == "verify", "verify")
    expect(rig.ctl("pull", name, store=pulled)["done"] == "pull", "pull")
    sums = rig.client.sh(f"cd {pulled}/{name} && sha256sum manifest pages | cut -d ' ' -f 1")
    expect(tuple(sums.split()) == rig.digests[name], f"what was pulled is other content: {sums}")
    refused(3, "ALREADY_EXISTS", "is there already", "pull", name, store=pulled)
    refused(5, "PERMISSION_DENIED", "read-only", "rm", name, tenant="green")
    for verb, words in (("ls", ()), ("stat", ()), ("verify", (name,)), ("rm", (name,))):
        refused(5, "PERMISSION_DENIED", "memory node 10.0.1.1:7471: the key is not the tenant's", verb, *words, key="/srv/wrong")
    refused(4, "NOT_FOUND", "no key for tenant \"nobody\"", "ls", tenant="nobody")
    refused(2, "INVALID_ARGUMENT", "asks for the tenant's key", "ls", key=None)
    rig.verified(name)  # Whoever was refused has changed nothing.
    expect(rig.ctl("rm", name)["done"] == "rm", "rm")
    for verb in ("verify", "pull", "rm"):
        refused(4, "NOT_FOUND", "no template red-new", verb, name, store=f"{pulled}-not" if verb == "pull" else None)
    expect(rig.ctl("ls")["templates"] == others, "ls after rm")
    rig.client.sh(f"rm -rf {pulled}*")


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


def right_or_away(rig, name):
    """All of a template: whether it could be had. Never is it other content."""
    result = rig.probe("verify", name)
    if result.code == 0:
        line = result.lines[0]
        expect((line["digest"], line["pages_sha256"]) == rig.digests[name], f"{name}: other content: {line}")
    expect(result.code == 0 or any(code in result.error for code in AWAY), f"verify {name}: {result.error}")
    return result.code == 0


def wire_cut(rig):
    """For a moment, for longer than a call may take, for longer than the node waits for who is silent; and often in a row. Each call
    ends in time, and all is well when the wire is back."""
    def watched(during, until=well):
        told = rig.watch("red-big", 300, during, until=until)
        codes = [line["code"] for line in told[:-1]]
        expect(codes[0] == "OK" and set(codes) <= {"OK", *AWAY} and told[-1]["last"] == "OK", f"with a wire that goes: {told}")
        return codes

    def back_after(seconds):
        rig.cut(seconds)
        rig.reads_on()
    for seconds in (1, 6):
        watched(lambda _, seconds=seconds: back_after(seconds))
    codes = watched(lambda codes: rig.cut(OUTAGE, until=lambda: not well(codes())), until=well_again)
    expect(set(codes) & AWAY, f"nothing is said of {OUTAGE} s without a wire: {codes}")
    rig.verified("red-big")
    looks = []

    def flapping(_):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            flaps = pool.submit(rig.flap)
            while not flaps.done():
                looks.append(right_or_away(rig, "red-big"))
            flaps.result()
        rig.reads_on()
    watched(flapping)
    print(f"    all was read {len(looks)} times while the wire came and went, {looks.count(True)} times without an error")
    rig.verified("red-big")


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


PARTS = [no_device, reads, tenants, attacks, pushes, by_moultctl, removed, flipped, measured, attached, restarted, wire_cut, request_lost,
         *PAGES_CASES, over_dax, ends, second_node]


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
