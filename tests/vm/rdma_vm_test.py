#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From end to end over the rdma: pool. One guest is a memory node; the other is a host with RDMA, in which `moultctl vm` starts
guests: they attach a real function from the node, once for the host, and its pages go to the node's memory and come back.

Emulated within emulated, a guest takes some three minutes to boot, on a busy machine a quarter of an hour.
"""
import argparse
import pathlib
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from machine import REPO, VmError, missing_parts, skip_all
from nested_host import InnerVm, NestedHost, host_disk
from rdma_rig import MemoryNode, stripped
from trial import Trial, TrialError, expect

NODE = "rdma://10.0.1.1/"
ASKED = ("/?seed=1", "/?seed=5")
LENT = 64  # MiB
BORROWS = 24


class Rig:
    def __init__(self, options, folder):
        self.bin, self.folder = pathlib.Path(options.bin), pathlib.Path(folder)
        self.store = self.folder / "store"
        self.answers, self.functions, self.vms = {}, {}, {}
        self.key = f"- {secrets.token_hex(32)}\n".encode()  # Of templates and VMs without a tenant.
        host, node = self.folder / "host.sock", self.folder / "node.sock"
        self.node = MemoryNode([(node, host, "10.0.1.1/24")], bin_dir=self.bin)
        self.host = NestedHost([(host, node, "10.0.1.2/24")], host_disk(self.bin, self.folder), bin_dir=self.bin)

    def boot(self, *names):
        """These VMs at the same time: each has work for one CPU."""
        errors = []

        def start(name):
            try:
                # Nothing is fetched ahead: what comes was asked for. The second CPU hears the agent while the first waits for a lost page.
                self.vms[name] = InnerVm(self.host, name, "--cpus", 2 if name == "first" else 1, "--store", f"/srv/store-{name}",
                                         "--pool", NODE, "--pool-mib", BORROWS, "--set", "pool_key=/srv/key", "--set", "prefetch_mib=0",
                                         "--set", f"fault_ms={10000 * self.host.slow}")
            except (VmError, ValueError) as e:
                errors.append(f"{name}: {e}")
        threads = [threading.Thread(target=start, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(not errors, "; ".join(errors))

    def right(self, name, path):
        answer = self.vms[name].get(self.functions[name], path)
        expect(answer == self.answers[path], f"VM {name} answers {path} with {len(answer)} other bytes: {answer[:100]!r}")

    def attach(self, name):
        """And asks; what of the pages came from where, and all that came by the wire."""
        before = self.host.received()
        told = self.vms[name].call("attach", name="python", **{"from": NODE})
        expect(told["pages"] == "in_place", str(told))
        self.functions[name] = told["function"]["id"]
        self.right(name, ASKED[0])
        remote = self.vms[name].status()["remote"]
        wire = self.host.received() - before
        print(f"    fetched {remote['fetched_bytes'] >> 10} KiB, {remote['hit_bytes'] >> 10} KiB were there; "
              f"{wire >> 10} KiB by the wire", flush=True)
        expect(remote["lost_slots"] == 0 and remote["prefetched_bytes"] == 0, str(remote))
        return remote, wire

    def close(self):
        self.host.close()
        self.node.close()


def captured_here(rig):
    """In a guest of this machine, which says what is right; the node gets it."""
    with Trial(rig.bin, rig.folder / "plain", rig.store, memory=512) as vm:
        function = vm.run("python")
        vm.control.call("capture", function=function, name="python")
        rig.answers = {path: vm.control.get(function, path) for path in ASKED}
    rig.pages = (rig.store / "python/pages").stat().st_size
    rig.node.boot()
    rig.node.push(stripped(rig.bin / "moult-poold", rig.folder), "/usr/local/bin/moult-poold")
    rig.node.push_tree({"store/python": rig.store / "python"}, "/srv", timeout=600)
    rig.node.push(rig.key, "/srv/keys", mode=0o600)
    rig.pid = rig.node.start(lend=LENT)


def vms_start_in_a_guest(rig):
    rig.host.boot()
    rig.host.push(rig.key, "/srv/key", mode=0o600)
    found = {t["name"] for t in rig.host.moultctl("pool", "ls", NODE, "--key", "/srv/key")["templates"]}
    expect(found == {"python"}, f"in the pool: {found}")
    rig.boot(*rig.names)


def attached_over_rdma(rig):
    remote, wire = rig.attach("first")
    expect(0 < remote["fetched_bytes"] < rig.pages, f"of {rig.pages} bytes: {remote}")
    expect(wire > remote["fetched_bytes"], f"{wire} bytes came by the wire, where {remote['fetched_bytes']} were read")
    rig.fetched, rig.wire = remote["fetched_bytes"], wire


def second_vm_of_the_host_reads_nothing(rig):
    remote, wire = rig.attach("second")
    expect(remote["fetched_bytes"] == 0, f"read from the pool: {remote}")
    expect(remote["hit_bytes"] > 0, str(remote))
    # What an image and a manifest are made of: not a page.
    expect(wire <= rig.wire - rig.fetched * 0.9,
           f"{wire} bytes came by the wire; at the first VM {rig.wire}, of which {rig.fetched} were pages")


def pages_go_to_the_node_and_come_back(rig):
    vm, function = rig.vms["first"], rig.functions["first"]
    rig.right("first", ASKED[1])  # By which there are pages that are its own.
    sent = rig.host.sent()
    told = vm.call("offload", function=function)
    sent = rig.host.sent() - sent
    print(f"    out: {told['offloaded_bytes'] >> 10} KiB, zeros {told['zero_bytes'] >> 10} KiB; {sent >> 10} KiB by the wire", flush=True)
    expect(told["offloaded_bytes"] >= 1 << 20 and sent > told["offloaded_bytes"], f"{sent} bytes were sent: {told}")
    shown = vm.ps(function)
    expect(shown["state"] == "frozen" and shown["offloaded_bytes"] >= told["offloaded_bytes"], f"ps: {shown}")
    before, received = vm.status()["pager"], rig.host.received()
    vm.call("thaw", function=function)
    for path in ASKED:
        rig.right("first", path)
    after, received = vm.status()["pager"], rig.host.received() - received
    came = (after["fault_pages"] - before["fault_pages"]) << 12
    print(f"    back: {after['faults'] - before['faults']} faults, {came >> 10} KiB; {received >> 10} KiB by the wire", flush=True)
    expect(after["faults"] > before["faults"] and after["lost_pages"] == 0, f"{before}, then {after}")
    expect(received >= before["pool_used_bytes"] - after["pool_used_bytes"] > 0, f"{received} bytes came: {before}, then {after}")


def node_dies_while_a_function_is_out(rig):
    """It is not hung and gives no wrong answer: it ends, and `ps` says so; the VM goes on. Or, where the guest's agent is not heard in
    time, as happens on a host without UFFDIO_POISON, the VM ends and has said why. The host's other VM is not concerned."""
    vm, function = rig.vms["first"], rig.functions["first"]
    vm.call("offload", function=function)
    rig.node.kill()
    vm.call("thaw", function=function)
    try:
        answer = vm.get(function, ASKED[0])
        raise TrialError(f"an answer of {len(answer)} bytes came of pages that are lost")
    except VmError:
        pass
    print(f"    {end_of(rig, vm, function)}", flush=True)
    log = vm.logs()
    expect("is lost" in log, f"nothing is said of it: {log}")
    rig.right("second", ASKED[0])


def end_of(rig, vm, function):
    deadline = time.monotonic() + 60 * rig.host.slow
    while time.monotonic() < deadline:
        try:
            shown = vm.ps(function)
            if shown["state"] == "ended":
                vm.call("hello")
                return f"the function has ended: {shown.get('end_reason')}; its VM answers"
        except VmError:
            if rig.host.run(["kill", "-0", str(vm.pid)]).code != 0:
                return "the emulator has ended"
        time.sleep(1)
    raise TrialError("neither the function nor the emulator has ended")


SHORT = [captured_here, vms_start_in_a_guest, attached_over_rdma]
PARTS = [*SHORT, second_vm_of_the_host_reads_nothing, pages_go_to_the_node_and_come_back, node_dies_while_a_function_is_out]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default=REPO / "build/dev/bin")
    parser.add_argument("--short", action="store_true", help="one VM, attached and asked")
    options = parser.parse_args()
    parts = SHORT if options.short else PARTS
    why = missing_parts(["full"], cpus=2) or missing_parts(["6.1"], driver=True)
    if why:
        return skip_all(len(parts), why)
    folder = tempfile.mkdtemp(prefix="moult-nested-")
    rig, passed = None, 0
    try:
        rig = Rig(options, folder)
        rig.names = ("first",) if options.short else ("first", "second")
        for part in parts:
            start = time.monotonic()
            try:
                part(rig)
            except (TrialError, VmError, KeyError, ValueError, OSError, subprocess.SubprocessError) as e:
                if not isinstance(e, (TrialError, VmError)):
                    traceback.print_exc()
                print(f"FAIL {part.__name__}: {e}", flush=True)
                for name, vm in rig.vms.items():
                    print(f"    {name}: {vm.logs()}")
                break  # Each works on what the one before has left.
            passed += 1
            print(f"PASS {part.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
    finally:
        if rig is not None:
            rig.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {len(parts) - passed} failed, 0 skipped")
    return 0 if passed == len(parts) else 1


if __name__ == "__main__":
    sys.exit(main())
