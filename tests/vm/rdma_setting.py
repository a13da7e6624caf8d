# SPDX-License-Identifier: Apache-2.0
"""What the cases of rdma_test.py work on: a client and a memory node with templates of some tenants, and the program that asks."""
import json
import pathlib
import secrets
import subprocess
import threading
import time

from machine import VmError
from nested_host import libraries
from rdma_rig import MemoryNode, RdmaMachine, stripped

URI = "rdma://10.0.1.1/"
CTL = "/run/ctl"  # on the client: moultctl, with what it is linked with
AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}  # what a call says of a node that is out of reach
# Flips a bit of memory that begins with some content, in another process.
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


def not_found(codes):
    """Of those that moult-pool-probe has told of a template that it watches: it is gone."""
    return "NOT_FOUND" in codes


def well(codes):
    return codes[-1:] == ["OK"]


def well_again(codes):
    return len(codes) > 1 and well(codes)


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

    def fill_ctl(self):
        """In memory: templates to push have filled the client's disk."""
        files = {"moultctl": stripped(self.bin / "moultctl", self.folder)}
        files.update((name, pathlib.Path(path).resolve()) for name, path in libraries(self.bin / "moultctl").items())
        self.client.push_tree(files, CTL)

    def ctl(self, verb, *words, code=0, store=None, tenant="red", key="/srv/keys"):
        """What `moultctl pool` tells on the client; where it is to fail, with this exit code, its error."""
        argv = ["env", f"LD_LIBRARY_PATH={CTL}", f"{CTL}/moultctl", "--json", "--tenant", tenant, *(["--store", store] if store else []),
                "pool", verb, *(["--key", key] if key else []), URI, *words]
        done = self.client.run(argv, timeout=300)
        error = done.err.decode(errors="replace").strip()
        expect(done.code == code, f"moultctl pool {verb} {' '.join(words)}: exit {done.code}, not {code}: {error} {done.text()}")
        return json.loads(error.splitlines()[-1])["error"] if code else json.loads(done.out)

    def probe(self, *args, tenant="red", keys="/srv/keys", uri=URI, timeout=120):
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

    def cut(self, seconds, until=None):
        """The client's first wire is away for so long, and on until that is true."""
        self.client.qmp("set_link", name="nic0", up=False)
        try:
            time.sleep(seconds)  # It is no wait: so long an outage is what is tried.
            deadline = time.monotonic() + 120
            while until and not until():
                expect(time.monotonic() < deadline, "what is to come of a cut wire does not")
                time.sleep(0.05)
        finally:
            self.client.qmp("set_link", name="nic0", up=True)

    def flap(self, times=6, seconds=0.5):
        for _ in range(times):
            self.cut(seconds)
            time.sleep(seconds)

    def reads_on(self, packets=1000):
        """Until so many more have come by that wire: more than a call takes, so whoever reads is at another than before."""
        count = "cat /sys/class/net/eth0/statistics/rx_packets"
        self.client.sh(f"end=$(($({count}) + {packets})); until [ $({count}) -ge $end ]; do sleep 0.05; done", timeout=120)

    def watch(self, name, seconds, during, until=None, timeout_ms=3000, command="watch", **options):
        """What `watch` (or watch-pages, without a name) tells while `during` happens, from when it reads: for so long, or at most so
        long where it ends when `during` has, and `until`(the codes that it has told) is true."""
        lines, started = [], threading.Event()
        argv = ["moult-pool-probe", "--uri", options.get("uri", URI), "--keys", "/srv/keys", "--tenant", "red",
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
