#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""From end to end over the rdma: pool. One guest is a memory node; the other is a host with RDMA, in which `moultctl vm` starts
guests: they attach a real function from the node, once for the host, and its pages go to the node's memory and come back; one
forks to the node, for the other to attach.

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
from remote_test import HOLDER
from trial import Trial, TrialError, expect

ADDRESS = "10.0.1.1"
NODE = f"rdma://{ADDRESS}/"
ASKED = ("/?seed=1", "/?seed=5")
HELD = 8 << 20  # bytes of HOLDER's that it looks at when it is asked for their sum
LENT = 96  # MiB
BORROWS = 40


class Rig:
    def __init__(self, options, folder):
        self.bin, self.folder = pathlib.Path(options.bin), pathlib.Path(folder)
        self.store = self.folder / "store"
        self.answers, self.functions, self.vms = {}, {}, {}
        self.key = f"- {secrets.token_hex(32)}\n".encode()  # Of templates and VMs without a tenant.
        host, node = self.folder / "host.sock", self.folder / "node.sock"
        self.node = MemoryNode([(node, host, f"{ADDRESS}/24")], bin_dir=self.bin)
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

    def counts(self, name, function, *turns):
        """A HOLDER, asked so often, goes on from where it was."""
        for turn in turns:
            answer = self.vms[name].get(function, "/count")
            expect(answer == b"%d" % turn, f"function {function} of VM {name} counts {answer!r}, not {turn}")

    def lives(self, name):
        return self.host.run(["kill", "-0", str(self.vms[name].pid)]).code == 0

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


def forked_over_rdma(rig):
    """To the node, whence the host's other VM has it at once. Each goes on by itself, with all that the function held."""
    first, second = rig.vms["first"], rig.vms["second"]
    spec = {"name": "counter", "argv": ["/usr/bin/python3", "-S", "-c", HOLDER], "endpoint": {"kind": "unix", "path": "/tmp/ctl.sock"},
            "readiness": {"kind": "connect", "timeout_ms": 60000 * rig.host.slow}}
    rig.counter = first.call("run", seconds=60, function=spec)["function"]["id"]
    rig.counts("first", rig.counter, 1)
    rig.total = first.get(rig.counter, "/sum")
    told = first.call("fork", seconds=60, function=rig.counter, name="counter", to=NODE)
    print(f"    forked in {told['total_us'] / 1e6:.1f} s, stopped for {told['stopped_us'] / 1e6:.1f} s", flush=True)
    expect(told["pushed"] and not told["kept"], str(told))
    found = {t["name"]: t["digest"] for t in rig.host.moultctl("pool", "ls", NODE, "--key", "/srv/key")["templates"]}
    expect(set(found) == {"python", "counter"} and found["counter"] == told["template"]["digest"], f"in the pool: {found}")
    before = second.status()["remote"]["fetched_bytes"]
    told = second.call("attach", name="counter", **{"from": NODE})
    expect(told["pages"] == "in_place", str(told))
    rig.forked = told["function"]["id"]
    rig.counts("second", rig.forked, 2, 3, 4)
    rig.counts("first", rig.counter, 2)
    rig.counts("second", rig.forked, 5)
    expect(first.get(rig.counter, "/sum") == rig.total == second.get(rig.forked, "/sum"), "another sum")
    rig.counts("first", rig.counter, 3)
    fetched = second.status()["remote"]["fetched_bytes"] - before
    expect(fetched > HELD * 0.9, f"{fetched} bytes were fetched of a template of which more was looked at")


def repurposed_over_rdma(rig):
    """To what was forked, and back, by the VM that has a fork running already."""
    vm = rig.vms["second"]
    told = vm.call("repurpose", function=rig.functions["second"], name="counter", settled=True, **{"from": NODE})
    expect(told["pages"] == "in_place" and told["detached"], str(told))
    again = told["function"]["id"]
    rig.counts("second", again, 2)
    rig.counts("second", rig.forked, 6)
    rig.counts("second", again, 3)
    told = vm.call("repurpose", function=again, name="python", settled=True, **{"from": NODE})
    expect(told["pages"] == "in_place" and told["detached"], str(told))
    rig.functions["second"] = told["function"]["id"]
    for path in ASKED:
        rig.right("second", path)
    rig.counts("second", rig.forked, 7)
    vm.call("detach", function=rig.forked)
    remote = vm.status()["remote"]
    expect(remote["lost_slots"] == 0, str(remote))


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


def recalled_in_each_way(rig):
    """What is fetched ahead is what was asked for; what is not comes as it is touched; it is the same in the end."""
    vm, function = rig.vms["first"], rig.counter
    turn = 3
    for prefetch in ("none", "working-set", "all"):
        out = vm.call("offload", function=function)
        # Some of it may be back at any time: the guest's kernel makes huge pages of it.
        expect(out["offloaded_bytes"] > HELD // 2, f"offload: {out}")
        before = vm.status()["pager"]
        told = vm.call("recall", function=function, prefetch=prefetch)
        print(f"    out: {out['offloaded_bytes'] >> 10} KiB; {prefetch}: {told['prefetched_bytes'] >> 10} KiB ahead, "
              f"{told['left_bytes'] >> 10} KiB left", flush=True)
        expect(prefetch != "none" or (told["prefetched_bytes"] == 0 and told["left_bytes"] > 0), f"none: {told}")
        expect(prefetch != "all" or (told["prefetched_bytes"] > 0 and told["left_bytes"] == 0), f"all: {told}")
        expect(vm.get(function, "/sum") == rig.total, f"another sum after a recall with {prefetch}")
        turn += 1
        rig.counts("first", function, turn)
        after = vm.status()["pager"]
        expect(after["lost_pages"] == 0 and after["pool_used_bytes"] < before["pool_used_bytes"], f"{before}, then {after}")
    rig.turn = turn


def removed_under_a_function(rig):
    """Of a template that the node has no more what was not touched before never comes. Who touches it ends, or its VM does, as when the
    node dies; others do not: neither in that VM, if it lives, nor in the other."""
    vm = rig.vms["first"]
    told = vm.call("fork", seconds=60, function=rig.counter, name="doomed", to=NODE)
    expect(told["pushed"], str(told))
    told = vm.call("attach", name="doomed", **{"from": NODE})
    expect(told["pages"] == "in_place", str(told))
    function = told["function"]["id"]
    rig.counts("first", function, rig.turn + 1)
    rig.host.moultctl("pool", "rm", NODE, "doomed", "--key", "/srv/key")
    ends_of_a_lost_page(rig, "first", function, "/sum")
    rig.right("second", ASKED[1])
    if rig.lives("first"):
        rig.counts("first", rig.counter, rig.turn + 1)
        expect(vm.get(rig.counter, "/sum") == rig.total, "another sum of a function that was not concerned")
        rig.right("first", ASKED[1])


def node_dies_while_a_function_is_out(rig):
    """It is not hung and gives no wrong answer: it ends, and `ps` says so; the VM goes on. Or, where the guest's agent is not heard in
    time, as happens on a host without UFFDIO_POISON, the VM ends and has said why. The host's other VM is not concerned."""
    name = "first" if rig.lives("first") else "second"  # It may have ended in the part before.
    vm, function = rig.vms[name], rig.functions[name]
    vm.call("offload", function=function)
    rig.node.kill()
    vm.call("thaw", function=function)
    ends_of_a_lost_page(rig, name, function, ASKED[0])
    if name == "first":
        rig.right("second", ASKED[0])


def ends_of_a_lost_page(rig, name, function, path):
    """Asked for what its pool does not give it has no answer."""
    vm = rig.vms[name]
    try:
        answer = vm.get(function, path)
        raise TrialError(f"an answer of {len(answer)} bytes came of pages that are lost")
    except VmError:
        pass
    print(f"    VM {name}: {end_of(rig, name, function)}", flush=True)
    log = vm.logs()
    expect("is lost" in log and ADDRESS in log, f"nothing is said of it: {log}")


def end_of(rig, name, function):
    """Of the function, which `ps` gives a reason for that names the node; or of the emulator."""
    vm = rig.vms[name]
    deadline = time.monotonic() + 60 * rig.host.slow
    while time.monotonic() < deadline:
        try:
            shown = vm.ps(function)
            if shown["state"] == "ended":
                reason = shown["end_reason"]
                expect("is lost" in reason and ADDRESS in reason, f"that the node did not give a page is not why it has ended: {reason}")
                vm.call("hello")
                return f"the function has ended: {reason}; its VM answers"
        except VmError:
            if not rig.lives(name):
                return "the emulator has ended"
        time.sleep(1)
    raise TrialError("neither the function nor the emulator has ended")


SHORT = [captured_here, vms_start_in_a_guest, attached_over_rdma]
PARTS = [*SHORT, second_vm_of_the_host_reads_nothing, forked_over_rdma, repurposed_over_rdma, pages_go_to_the_node_and_come_back,
         recalled_in_each_way, removed_under_a_function, node_dies_while_a_function_is_out]


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
