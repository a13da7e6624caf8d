#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the rdma: pool takes over Soft-RoCE, from one guest to another: a fault, a pull, the memory node's CPU, each beside its
peer in the same guests and the same run. Prints ratios, and judges none.
"""
import argparse
import json
import pathlib
import re
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile

from machine import REPO, VmError, missing_parts, skip_all
from rdma_rig import MemoryNode, RdmaMachine, stripped

NODE = "10.0.1.1"
KEYS = "/srv/keys"
NAME = "bench"  # of the template
MESSAGE = 64 << 10  # bytes of each read of a pull
TICK_US = 10000
PATIENCE = 600  # seconds: who measures can wait for a machine that others use
READ_BW = "ib_read_bw -d rxe0 -F -e -x 1 -n {reads} -s {size} -q 1"
GOALS = {"fault": 1.2, "pull": 0.8}


class Patient:
    def sh(self, script, timeout=PATIENCE):
        return super().sh(script, timeout)

    def push(self, source, target, mode=0o755, timeout=PATIENCE):
        super().push(source, target, mode, timeout)


class Node(Patient, MemoryNode):
    pass


class Client(Patient, RdmaMachine):
    pass


class Guests:
    """A memory node that has one template, and a client."""

    def __init__(self, bin_dir, folder, mib, lend):
        self.bin, self.folder, self.mib, self.lend = pathlib.Path(bin_dir), pathlib.Path(folder), mib, lend
        node, client = self.folder / "node.sock", self.folder / "client.sock"
        self.node = Node([(node, client, f"{NODE}/24")], bin_dir=bin_dir)
        self.client = Client([(client, node, "10.0.1.2/24")], bin_dir=bin_dir)

    def boot(self):
        self.node.boot(PATIENCE)
        self.client.boot(PATIENCE)
        self.client.add_devices()
        template = self.folder / "store" / NAME
        template.parent.mkdir()
        subprocess.run([self.bin / "moult-vm-template", template, "", str(self.mib), "1"], check=True, capture_output=True)
        self.node.push(stripped(self.bin / "moult-poold", self.folder), "/usr/local/bin/moult-poold")
        self.node.push_tree({"store": template.parent}, "/srv", timeout=PATIENCE)
        self.client.push(stripped(self.bin / "moult-pool-probe", self.folder), "/usr/local/bin/moult-pool-probe")
        key = f"- {secrets.token_hex(32)}\n".encode()
        for machine in (self.node, self.client):
            machine.push(key, KEYS, mode=0o600)
        self.pid = self.node.start(lend=self.lend)

    def probe(self, *words, timeout=3 * PATIENCE):
        done = self.client.run(["moult-pool-probe", "--uri", f"rdma://{NODE}/", "--keys", KEYS, *words], timeout=timeout)
        if done.code != 0:
            raise VmError(f"moult-pool-probe {' '.join(words)}: {done.err.decode(errors='replace').strip()}")
        return json.loads(done.text().splitlines()[-1])

    def close(self):
        self.client.close()
        self.node.close()


def read_bw(guests, size, reads):
    """MB/s by ib_read_bw, the client reading from the node."""
    command = READ_BW.format(size=size, reads=reads)
    guests.node.sh(f"{command} >/run/read_bw.log 2>&1 </dev/null & for i in $(seq 600); do ss -Hltn sport = :18515 | grep -q . && exit; "
                   "sleep 0.1; done; cat /run/read_bw.log; exit 1")
    text = guests.client.sh(f"{command} {NODE} 2>&1", timeout=PATIENCE)
    # "#bytes #iterations BW peak[MB/sec] BW average[MB/sec] MsgRate[Mpps]", in MiB.
    row = re.search(rf"^ *{size} +\d+ +([\d.]+) +([\d.]+) ", text, re.MULTILINE)
    if row is None:
        raise VmError(f"{command}: {text}")
    return float(row.group(2)) * (1 << 20) / 1e6


def faults(guests, options):
    result = guests.probe("faults", NAME, "--rounds", str(options.rounds))
    for what, title in (("offloaded_page", "an offloaded page"), ("template_page", "a template's page"),
                        ("template_page_first", "a template's page, with the digests of its chunk's pages")):
        row = result[what]
        print(f"a fault of {title}, {row['faults']} of them: served in {row['served_us']:.0f} us; a bare READ of as much "
              f"{row['bare_read_us']:.0f} us + a bare UFFDIO_COPY {row['bare_copy_us']:.0f} us: {row['served_ratio']:.2f} times\n"
              f"  as who touches sees it: {row['seen_us']:.0f} us, a bare loop {row['bare_seen_us']:.0f} us: {row['seen_ratio']:.2f} times")
    print(f"  goal: {GOALS['fault']} times a READ of 4 KiB + UFFDIO_COPY")
    return result


def pull(guests, options):
    """In turns with ib_read_bw, which is asked for as many bytes."""
    reads = (guests.mib << 20) // MESSAGE
    rows = []
    for _ in range(options.rounds):
        before = read_bw(guests, MESSAGE, reads)
        ticks = guests.node.cpu_ticks(guests.pid)
        guests.probe("stat")
        connected = guests.node.cpu_ticks(guests.pid)
        row = guests.probe("measure", NAME, "--reads", "300")
        row["node_ticks"], row["connecting_ticks"] = guests.node.cpu_ticks(guests.pid) - connected, connected - ticks
        row["read_bw_mb_s"] = (before + read_bw(guests, MESSAGE, reads)) / 2
        row["of_read_bw"] = row["pull_gb_s"] * 1000 / row["read_bw_mb_s"]
        rows.append(row)

    def middle(name):
        return statistics.median(row[name] for row in rows)
    result = {"message_bytes": MESSAGE, "pull_mb_s": middle("pull_gb_s") * 1000, "bare_mb_s": middle("raw_pull_gb_s") * 1000,
              "read_bw_mb_s": middle("read_bw_mb_s"), "of_read_bw": middle("of_read_bw"), "of_bare": middle("pull_ratio"),
              "page_us": middle("page_us"), "bare_page_us": middle("raw_page_us"), "page_ratio": middle("page_ratio"),
              "node_us_per_page": sum(row["node_ticks"] for row in rows) * TICK_US / sum(row["pages_read"] for row in rows),
              "pages_read": sum(row["pages_read"] for row in rows), "rounds": rows}
    print(f"a pull of {guests.mib} MiB, in reads of {MESSAGE >> 10} KiB: {result['pull_mb_s']:.1f} MB/s, ib_read_bw of that size "
          f"{result['read_bw_mb_s']:.1f} MB/s: {result['of_read_bw']:.2f} of it (goal {GOALS['pull']}); {result['of_bare']:.2f} of bare verbs")
    print(f"one page read without a fault: {result['page_us']:.0f} us, bare verbs {result['bare_page_us']:.0f} us: {result['page_ratio']:.2f} times")
    print(f"CPU of the moult-poold process: {result['node_us_per_page']:.3f} us a page, of {result['pages_read']} pages, two connections a round included; "
          f"to connect and ask once took {middle('connecting_ticks') * TICK_US / 1000:.0f} ms")
    return result


def attach(guests, options):
    result = guests.probe("attach", NAME, "--store", "/srv/mine", "--rounds", str(options.rounds), "--prefetch-mib", str(options.prefetch_mib))
    print(f"attached in plain memory, {guests.mib} MiB; x: of the same mapped from a store; KiB from the pool by then")
    for way in result["ways"]:
        cells = [f"{name.replace('_', ' ')} {way[name + '_us'] / 1000:.1f} ms {way['of_plain'][name]:.2f} x {way['bytes_from_pool'][name] / 1024:.0f} KiB"
                 for name in ("first_answer", "working_set", "all_pages")]
        print(f"  {way['pool']} {way['mode']}: {', '.join(cells)}")
    return result


PARTS = [faults, pull, attach]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=REPO / "build/dev/bin")
    parser.add_argument("--mib", type=int, default=16, help="of the template")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefetch-mib", type=int, default=16, help="a second, behind what is touched")
    parser.add_argument("--only", action="append", choices=[part.__name__ for part in PARTS])
    parser.add_argument("--json", help="also write everything to this file")
    options = parser.parse_args()
    parts = [part for part in PARTS if not options.only or part.__name__ in options.only]
    why = missing_parts(["full"], cpus=2)
    if why:
        return skip_all(len(parts), why)
    folder = tempfile.mkdtemp(prefix="moult-rdma-")
    guests = Guests(options.bin, folder, options.mib, lend=16)
    try:
        guests.boot()
        print(f"Soft-RoCE, from one guest to another, {guests.client.accel}; medians of {options.rounds} rounds in which all took turns")
        report = {"accel": guests.client.accel, "mib": options.mib, "rounds": options.rounds}
        for part in parts:
            report[part.__name__] = part(guests, options)
            sys.stdout.flush()
    finally:
        guests.close()
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
