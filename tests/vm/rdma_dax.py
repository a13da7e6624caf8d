# SPDX-License-Identifier: Apache-2.0
"""A memory node whose templates lie in a dax: pool: their pages are read where they lie, by the device alone."""
import json
import pathlib
import time

import nvdimm
from nested_host import libraries
from nvdimm import DEVICE, FILE
from rdma_rig import stripped
from rdma_setting import not_found

ADDRESS = "10.0.2.1"
URI = f"rdma://{ADDRESS}/"


class DaxNode:
    def __init__(self, rig, node, expect):
        self.rig, self.node, self.expect, self.pid = rig, node, expect, None
        node.boot()
        rig.fill(node)
        node.push(stripped(rig.bin / "moultctl", rig.folder), "/usr/local/bin/moultctl")
        node.push_tree({name: pathlib.Path(path).resolve() for name, path in libraries(rig.bin / "moultctl").items()}, "/usr/local/lib")
        node.sh("ldconfig")
        nvdimm.attach(node.sh, first=True)
        for pool, more in ((DEVICE, ""), (FILE, "--size 160")):
            node.sh(f"moultctl pool format {pool} {more}", timeout=300)
            for name in ("red-big", "blue-one"):
                node.sh(f"moultctl --store /srv/store pool push {pool} {name}", timeout=300)

    def start(self, pool, **options):
        if self.pid is not None:
            self.node.sh(f"kill -TERM {self.pid}; while kill -0 {self.pid} 2>/dev/null; do sleep 0.1; done")
        self.pid = self.node.start(store=pool, **options)

    def locally(self, *words):
        return json.loads(self.node.sh(f"moultctl --store /srv/store pool {' '.join(words)} --json", timeout=300))

    def memory(self):
        """KiB of poold's that are anonymous, and that are the device's."""
        smaps, anonymous, device, ours = self.node.sh(f"cat /proc/{self.pid}/smaps"), 0, 0, False
        for line in smaps.splitlines():
            word, *rest = line.split()
            if not word.endswith(":"):
                ours = line.endswith(DEVICE.removeprefix("dax:"))
                if ours:
                    start, end = (int(x, 16) for x in word.split("-"))
                    device += (end - start) >> 10
            elif word == "Anonymous:":
                anonymous += int(rest[0])
        return anonymous, device

    def freed(self, before):
        deadline = time.monotonic() + 30
        while (use := self.locally("stat", DEVICE))["used_bytes"] >= before["used_bytes"] or use["held_bytes"] != 0:
            self.expect(time.monotonic() < deadline, f"blocks of a removed template are still held: {use}")
            time.sleep(0.2)


def where_they_lie(dax, mib):
    """With less memory allowed than the pages take."""
    rig, expect = dax.rig, dax.expect
    dax.start(DEVICE, limit=mib - 4)
    idle, _ = dax.memory()
    rig.verified("red-big", uri=URI)
    anonymous, device = dax.memory()
    print(f"    {mib} MiB of pages: {device} KiB of the device are mapped, {anonymous - idle} KiB of memory were taken", flush=True)
    expect(device >= mib << 10, f"{device} KiB of the device are mapped")
    expect(anonymous - idle < mib << 9, f"{anonymous - idle} KiB more of its own")
    rig.verified("blue-one", tenant="blue", uri=URI)
    rig.bad("NOT_FOUND", "no template red-big", "verify", "red-big", tenant="blue", uri=URI)
    use = rig.good("stat", uri=URI)[0]
    expect(use["templates"] == 1 and use["limit_bytes"] > mib << 20, f"stat: {use}")
    # What its pages take when they are copied is more than it may have.
    dax.start(FILE, limit=mib - 4)
    rig.bad("RESOURCE_EXHAUSTED", "--limit-mib", "verify", "red-big", uri=URI)
    dax.start(FILE, limit=4 * mib)
    rig.verified("red-big", uri=URI)


def changed(dax, mib):
    """By clients, and by who has the device as well."""
    rig, expect = dax.rig, dax.expect
    dax.start(DEVICE, limit=4 * mib, lend=8)
    rig.good("push", "red-new", "--store", "/srv/more", uri=URI)
    rig.verified("red-new", uri=URI)
    expect({one["name"] for one in dax.locally("ls", DEVICE)["templates"]} == {"red-big", "red-new", "blue-one"}, "a push is not there")
    dax.node.sh(f"moultctl pool verify {DEVICE} red-new")
    rig.bad("ALREADY_EXISTS", "red-new is there already", "push", "red-new", "--store", "/srv/more", uri=URI)
    rig.bad("RESOURCE_EXHAUSTED", "larger device", "push", "red-huge", "--store", "/srv/more", uri=URI)
    before = dax.locally("stat", DEVICE)
    told = rig.watch("red-new", 120, lambda _: rig.good("rm", "red-new", uri=URI), until=not_found, uri=URI)
    expect(told[0]["code"] == "OK" and told[-1]["last"] == "NOT_FOUND", f"after rm: {told}")
    dax.freed(before)
    before = dax.locally("stat", DEVICE)
    told = rig.watch("red-big", 120, lambda _: dax.node.sh(f"moultctl pool rm {DEVICE} red-big"), until=not_found, uri=URI)
    expect(told[0]["code"] == "OK" and told[-1]["last"] == "NOT_FOUND", f"after a removal on the device: {told}")
    dax.freed(before)
    dax.locally("push", DEVICE, "red-big")
    rig.verified("red-big", uri=URI)
    done = rig.client.run(["moult-vm-rdma-attacker", ADDRESS, "/srv/keys", "red", "red-big", "blue", "blue-one"], timeout=300)
    expect(done.code == 0, f"attacker: exit {done.code}: {done.text()[-1500:]}")
    rig.verified("red-big", uri=URI)
    expect({one["name"] for one in dax.locally("ls", DEVICE)["templates"]} == {"red-big", "blue-one"}, "an attacker has left something")
