#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The dax: pool on emulated NVDIMMs in a guest: as a devdax device, and as a file of ext4 with -o dax. What is shown in a
window is mapped from the device, and is nowhere else; removed templates stay where they are mapped; a machine that is killed
while it writes leaves what is whole."""
import argparse
import json
import pathlib
import subprocess
import sys
import time

import nvdimm
from ctl import expect, run_cases
from machine import Machine, missing_parts, skip_all
from nvdimm import DEVICE, FILE
from rdma_rig import stripped
from trial import scratch

MIB = 24  # of a template
PROGRAMS = ("moultctl", "moult-vm-dax")
CASES = []


def case(function):
    CASES.append(function)
    return function


class Setting:
    def __init__(self, options, folder):
        self.folder, self.bin = pathlib.Path(folder), options.bin
        self.digests = {}
        for seed, name in enumerate(("web", "other")):
            path = self.folder / "store" / name
            path.parent.mkdir(exist_ok=True)
            done = subprocess.run([self.bin / "moult-vm-template", path, "red", str(MIB), str(seed)], check=True,
                                  capture_output=True, text=True)
            self.digests[name] = done.stdout.split()[1]
        self.vm = None
        self.boot()

    def libraries(self):
        said = subprocess.run(["ldd", *(self.bin / program for program in PROGRAMS)], check=True, capture_output=True, text=True).stdout
        return {line.split()[2] for line in said.splitlines() if " => /" in line and "/libc.so" not in line}

    def boot(self):
        """Again with the same NVDIMMs: what was in them before is there."""
        first = self.vm is None
        self.vm = Machine(kernel="full", memory=640, window=0, qemu_args=nvdimm.qemu_args(self.folder), bin_dir=self.bin)
        self.vm.boot(180)
        for program in PROGRAMS:
            self.vm.push(stripped(self.bin / program, self.folder), f"/usr/local/bin/{program}")
        # The guest is of the same Debian release, without all the libraries.
        self.vm.push_tree({pathlib.Path(path).name: pathlib.Path(path).resolve() for path in self.libraries()}, "/usr/local/lib")
        self.sh("ldconfig")
        self.vm.push_tree({"store": self.folder / "store"}, "/srv")
        nvdimm.attach(self.sh, first)

    def sh(self, script, timeout=120):
        return self.vm.run(["/bin/sh", "-c", script], timeout=timeout).check().text().strip()

    def moultctl(self, *words):
        return self.vm.run(["moultctl", "--store", "/srv/store", *words], timeout=300)

    def ctl(self, *words):
        return self.moultctl(*words).check().text()

    def stat(self, uri):
        return json.loads(self.ctl("pool", "stat", uri, "--json"))

    def show(self, uri, name="web"):
        return json.loads(self.vm.run(["moult-vm-dax", uri, name, "/srv/store"], timeout=300).check().text().splitlines()[0])

    def close(self):
        if self.vm:
            self.vm.close()


@case
def formatted_by_an_act_of_its_own(s):
    for uri, kind, more in ((DEVICE, "devdax", ()), (FILE, "fsdax", ("--size", "160"))):
        refused = s.moultctl("pool", "ls", uri)
        expect(refused.code != 0, f"{uri} was a pool before it was formatted")
        s.ctl("pool", "format", uri, *more)
        expect(s.stat(uri)["medium"] == kind, str(s.stat(uri)))
        s.ctl("pool", "push", uri, "web")
        again = s.moultctl("pool", "format", uri)
        expect(again.code == 3 and b"holds a pool of 1 templates" in again.err, f"{again.code}: {again.err}")
        s.ctl("pool", "verify", uri, "web")
    block = s.moultctl("pool", "ls", "dax:/dev/pmem0")
    expect(block.code != 0 and b"is a block device" in block.err, str(block.err))


@case
def shown_from_the_device_and_nowhere_else(s):
    for uri, line, written in ((DEVICE, "/dev/dax1.0", "signal 11"), (FILE, "/mnt/pmem/pool", "copied")):
        shown = s.show(uri)
        smaps = shown["smaps"]
        print(f"  {uri}: opened and shown in {shown['first_us']} us, again in {shown['again_us']} us; from a store in "
              f"{shown['store_first_us']} us, again in {shown['store_again_us']} us")
        expect(shown["direct"] and shown["digest"] == s.digests["web"], str(shown))
        expect(line in smaps["line"] and smaps["Anonymous"] == 0, str(smaps))
        expect(shown["write"] == written, shown["write"])
        s.ctl("pool", "verify", uri, "web")  # Nobody's write came through.
    cached = s.sh("fincore --bytes --noheadings --output RES /mnt/pmem/pool")
    expect(cached == "0", f"{cached} bytes of the pool are in the page cache")
    expect(int(s.sh("cat /srv/store/web/pages >/dev/null; fincore --bytes --noheadings --output RES /srv/store/web/pages")) == MIB << 20,
           "fincore does not see what is in the page cache")


@case
def removed_template_stays_where_it_is_mapped(s):
    for uri in (DEVICE, FILE):
        s.ctl("pool", "push", uri, "other")
        s.sh(f"mkfifo /run/in; (moult-vm-dax {uri} other /srv/store hold </run/in >/run/out 2>&1 &) ; exec 3>/run/in; "
             "i=0; until grep -q digest /run/out; do sleep 0.1; i=$((i+1)); test $i -lt 600 || exit 1; done; "
             f"moultctl pool rm {uri} other && moultctl pool stat {uri} --json >/run/stat; moultctl --store /srv/store pool push {uri} other; "
             "exec 3>&-; i=0; until test $(wc -l </run/out) = 2; do sleep 0.1; i=$((i+1)); test $i -lt 600 || exit 1; done; rm /run/in",
             timeout=300)
        held = json.loads(s.sh("cat /run/stat"))["held_bytes"]
        expect(held >= MIB << 20, f"{held} bytes were held")
        expect(s.sh("tail -n 1 /run/out") == s.digests["other"], "what was mapped has changed")
        for _ in range(100):
            if s.stat(uri)["held_bytes"] == 0:
                break
            time.sleep(0.1)
        expect(s.stat(uri)["held_bytes"] == 0, str(s.stat(uri)))
        s.ctl("pool", "rm", uri, "other")


@case
def killed_machine_leaves_what_is_whole(s):
    used = {uri: s.stat(uri)["used_bytes"] for uri in (DEVICE, FILE)}
    s.sh("for uri in " + f"{DEVICE} {FILE}" + "; do (while moultctl --store /srv/store pool push $uri other && "
         "moultctl pool rm $uri other; do :; done >/dev/null 2>&1 &); done; sleep 3")
    s.vm.kill()
    s.vm.close()
    s.boot()
    for uri in (DEVICE, FILE):
        names = {one["name"] for one in json.loads(s.ctl("pool", "ls", uri, "--json"))["templates"]}
        expect(names in ({"web"}, {"web", "other"}), str(names))
        for name in names:
            s.ctl("pool", "verify", uri, name)
        if "other" in names:
            s.ctl("pool", "rm", uri, "other")
        expect(s.stat(uri)["used_bytes"] == used[uri], f"{s.stat(uri)}, before {used[uri]}")
        expect(s.show(uri)["digest"] == s.digests["web"], "another content")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, type=pathlib.Path)
    options = parser.parse_args()
    why = missing_parts(["full"])
    if why:
        return skip_all(len(CASES), why)
    with scratch() as folder:
        setting = Setting(options, folder)
        try:
            return run_cases(CASES, setting)
        finally:
            setting.close()


if __name__ == "__main__":
    sys.exit(main())
