#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Functions of a live VM leave its RAM and come back: every byte, from inside; under load; whatever they do first; what they do not use; when the pool
is full, damaged, slow or does not answer, or there is no userfaultfd, no descriptor or no mapping; when they are captured,
detached or killed meanwhile; beside a balloon."""
import argparse
import concurrent.futures
import json
import socket
import sys
import time

import open_metrics
from ctl import Ctl, run_cases
from machine import missing_parts, skip_all
from offload_attach import ATTACHES
from offload_cold import COLD
from offload_faults import FAULTS
from offload_load import LOAD, PREFETCH
from offload_pools import POOLS
from offload_setting import case_of, CPUS, qemu_with, Setting, SHARED_PAGES, SUBJECTS
from offload_work import WORK
from stubborn_folder import why_not
from trial import expect, host_memory, scratch

CASES = []
ILL_POOLS = POOLS + ATTACHES  # what needs a file system of our own
case = case_of(CASES)
MOST_LEFT = 0.1  # of what was offloaded may still be in RAM: what the guest touched as it was frozen and looked at
LEFT_IN_GUEST = 2 << 20  # of a function that is out
LEAST_DISCARDED = 4 << 20  # of any of SUBJECTS
PASSES = 3  # over all memory, for huge pages
MOST_BACK = 1 << 18  # bytes of a function that stands still may come back by themselves

PART_SIZES = {"runtime": 4 << 20, "init": 8 << 20, "exec": 3 << 20}
# Writes to most of what the guest has free, so that the host has all that the guest takes next.
TOUCH = """
import socket
free = next(int(line.split()[1]) for line in open('/proc/meminfo') if line.startswith('MemFree:'))
touched = b'x' * (free * 9 // 10 << 10)
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/touch.sock')
s.listen()
while True:
    s.accept()
"""
# Holds so much more in each part of its life. The agent looks while it runs on, hence the pause. Pages that the guest's kernel
# makes a huge one of come back for that.
PARTS = f"""
import mmap, socket, time
def hold(size):
    part = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    part.madvise(mmap.MADV_NOHUGEPAGE)
    part[::4096] = b'7' * (size // 4096)
    return part
parts = [hold({PART_SIZES["runtime"]})]
print('up', flush=True)
time.sleep(6)
parts.append(hold({PART_SIZES["init"]}))
s = socket.socket(socket.AF_UNIX)
s.bind('/tmp/parts.sock')
s.listen(8)
while True:
    c, _ = s.accept()
    if c.recv(65536):
        if len(parts) == 2:
            parts.append(hold({PART_SIZES["exec"]}))
        whole = all(p[::4096] == b'7' * (len(p) // 4096) for p in parts)
        body = b'ok' if whole else b'damaged'
        c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s' % (len(body), body))
    c.close()
"""


@case
def every_byte_comes_back(s):
    for name in SUBJECTS:
        function = s.run(name)
        answer = s.answer(name, function)
        for prefetch in PREFETCH:
            s.control.call("freeze", function=function)
            before = s.hash(function)
            expect(before["shared"] >= (SHARED_PAGES if name == "sharer" else 0), f"{name}: of what it shares only so much was looked at: {before}")
            result = s.control.call("offload", function=function)
            moved = result["offloaded_bytes"] + result["zero_bytes"] + result["already_bytes"]
            expect(moved > 4 << 20, f"{name}: {result}")
            expect(s.info(function)["state"] == "frozen", f"{name} runs after an offload")
            after = s.hash(function)  # by which every page is fetched
            expect(before == after, f"{name}: {before!r} became {after!r}")
            s.control.call("offload", function=function)
            s.control.call("recall", function=function, prefetch=prefetch)
            expect(s.answer(name, function) == answer, f"{name}: another answer after recall {prefetch}")
        s.end(function)


def ram_before_a_move(s, function):
    """What the guest's RAM takes of the host, which has by then all that the guest and its agent take for the move itself."""
    s.end(s.vm.start_at("toucher", "unix:/tmp/touch.sock", ["/usr/bin/python3", "-S", "-c", TOUCH], "--ready", "connect"))
    s.control.call("pages", function=function)  # so that the agent has what it takes to look at it
    return host_memory(s.vm.qemu, s.folder)["ram"]


@case
def memory_goes_back_to_the_host(s):
    with s.no_new_huge_pages():
        for name in SUBJECTS:
            goes_back_to_the_host(s, name)


def goes_back_to_the_host(s, name):
    function = s.run(name)
    answer = s.answer(name, function)
    before = ram_before_a_move(s, function)
    result = s.control.call("offload", function=function)
    fell = before - host_memory(s.vm.qemu, s.folder)["ram"]
    moved = result["offloaded_bytes"] + result["zero_bytes"]
    expect(fell > moved * (1 - MOST_LEFT), f"{name}: {moved} bytes were offloaded, the host has {fell} back")
    told = s.control.call("pages", function=function)["functions"][0]
    known = told["user_private"] + told["user_shared"] - told["offloaded"]
    info = s.info(function)
    # What the guest's kernel charges to its cgroup, where the sandbox's init is, too, and what the ledger takes for nobody's: of what is out
    # that kernel does not know. Page cache is not counted: it is there for all, and goes when memory is short.
    charged = info["anon_bytes"] + info["shmem_bytes"]
    own, kernel = max(charged - info["offloaded_bytes"], known), info["kernel_bytes"]
    part = json.loads(s.control.get(s.gardener, f"/cgroup?pid={info['pid']}"))
    # The kernel charges whole pages for slab, of which it counts the objects, and so may tell more parts than a whole.
    other = max(part["kernel"] - part["pagetables"] - part["kernel_stack"] - part["slab"], 0)
    print(f"  {name}: {moved >> 10} KiB out, the host has {fell >> 10} KiB back; left in the guest: {(own + kernel) >> 10} KiB: {own >> 10} KiB of its own "
          f"({known >> 10} KiB by the ledger), {part['pagetables'] >> 10} KiB of page tables, {part['kernel_stack'] >> 10} KiB of stacks, "
          f"{part['slab'] >> 10} KiB of slab, {part['sock'] >> 10} KiB of sockets, {other >> 10} KiB of the kernel's else; "
          f"beside that {info['file_bytes'] >> 10} KiB of page cache")
    # Else more is out than was ever charged to it, and what is left would seem less than it is.
    expect(charged >= moved - (1 << 20), f"{name}: {moved} bytes have moved, the guest's kernel tells of {info}")
    expect(told["user_private"] + told["user_shared"] >= moved - (1 << 20), f"{name}: the guest sees {told}")
    expect(own + kernel < LEFT_IN_GUEST, f"{name}: {own} bytes of its own and {kernel} of the kernel's are left of it")
    s.control.call("recall", function=function)
    expect(s.answer(name, function) == answer, f"{name}: its answer after a recall")
    s.end(function)

    function = s.run(name)
    before = ram_before_a_move(s, function)
    result = s.control.call("detach", function=function)
    fell = before - host_memory(s.vm.qemu, s.folder)["ram"]
    discarded = result["discarded_bytes"]
    print(f"  {name}: of {discarded >> 10} KiB that a detach has discarded the host has {fell >> 10} KiB back")
    expect(result["detached"] and discarded > LEAST_DISCARDED, f"{name}: a detach that discards little: {result}")
    # What is free is taken by the next who wants some, first by what the host itself asks of the guest.
    expect(fell > discarded * (1 - MOST_LEFT) - (2 << 20), f"{name}: {discarded} bytes were discarded, the host has {fell} back")


@case
def nothing_comes_back_by_itself(s):
    """The guest's kernel, left as it is, looks for what may become a huge page, for which all of it would come back."""
    for name in SUBJECTS:
        function = s.run(name)
        answer = s.answer(name, function)
        s.control.call("offload", function=function)
        before = s.info(function)["offloaded_bytes"]
        looked = s.control.get(s.gardener, f"/huge?passes={PASSES}", seconds=300)
        expect(looked == b"done", f"the guest's kernel looked through its memory less than {PASSES} times")
        after = s.info(function)["offloaded_bytes"]
        print(f"  {name}: {before >> 10} KiB were out, {after >> 10} after {PASSES} passes over all memory")
        expect(after > before - MOST_BACK, f"{name}: of {before} bytes that were out {before - after} have come back by themselves")
        s.control.call("recall", function=function)
        expect(s.answer(name, function) == answer, f"{name}: its answer after a recall")
        s.end(function)


@case
def segments_go_by_themselves(s):
    function = s.vm.start_at("parts", "unix:/tmp/parts.sock", ["/usr/bin/python3", "-S", "-c", PARTS], "--ready", "connect",
                             "--runtime-up", "line:up")
    expect(s.control.get(function, "/") == b"ok", "its answer")

    def segments():
        told = s.control.call("pages", function=function)["functions"][0]
        expect(told["offloaded"] >= sum(one["offloaded_bytes"] for one in told["segments"].values()), str(told))
        return told["segments"]

    before = segments()
    for segment, size in PART_SIZES.items():
        at_least, slack = size, 6 << 20  # python itself is a runtime, and needs a little for all that it does
        expect(at_least <= before[segment]["bytes"] < at_least + slack, f"{segment}: {before}")
        expect(before[segment]["offloaded_bytes"] == 0, f"{segment}: {before}")
    result = s.control.call("offload", function=function, segment="exec")
    after = segments()
    expect(result["offloaded_bytes"] + result["zero_bytes"] >= PART_SIZES["exec"], str(result))
    expect(after["exec"]["offloaded_bytes"] >= PART_SIZES["exec"], str(after))
    expect(after["runtime"]["offloaded_bytes"] == after["init"]["offloaded_bytes"] == 0, str(after))
    for step in range(3):  # What the guest's kernel makes huge pages of meanwhile comes back: so not the sum.
        result = s.control.call("offload", function=function, segment="init", most_bytes=1 << 20)
        # The guest's kernel may be at a page or two at that moment; these stay.
        moved = result["offloaded_bytes"] + result["zero_bytes"]
        expect(moved + result["stayed_bytes"] == 1 << 20 and moved >= 15 << 16, f"step {step}: {result}")
    expect(segments()["runtime"]["offloaded_bytes"] == 0, str(segments()))
    s.control.call("recall", function=function)
    expect(s.control.get(function, "/") == b"ok", "its answer after a recall")
    s.end(function)


@case
def three_functions_at_once(s):
    functions = [s.run("redis"), s.run("node"), s.server("web")]
    for function in functions:
        s.control.call("freeze", function=function)
    before = [s.hash(function) for function in functions]
    for prefetch in PREFETCH:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            moved = list(pool.map(lambda function: s.control.call("offload", function=function), functions))
        expect(all(one["offloaded_bytes"] > 1 << 20 for one in moved), f"{prefetch}: {moved}")
        expect([s.hash(function) for function in functions] == before, f"{prefetch}: others than before")
        for function in functions:
            s.control.call("offload", function=function)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda function: s.control.call("recall", function=function, prefetch=prefetch), functions))
        expect(all(s.info(function)["state"] == "running" for function in functions), f"{prefetch}: not all run")
        for function in functions:
            s.control.call("freeze", function=function)
        before = [s.hash(function) for function in functions]  # they ran on
    s.end(*functions)


@case
def detach_fetches_nothing(s):
    with s.no_new_huge_pages():
        function = s.vm.run("python")
        used = s.pager()["pool_used_bytes"]
        s.control.call("offload", function=function)
        before = s.pager()
        result = s.control.call("detach", function=function)
        after = s.pager()
    expect(result["detached"] and after["pool_used_bytes"] <= used, f"{used} -> {after['pool_used_bytes']}, {result}, {after}")
    fetched = after["prefetched_pages"] - before["prefetched_pages"] + after["fault_pages"] - before["fault_pages"]
    # The end of a process writes a few words into its memory.
    expect(fetched < 128, f"{fetched} pages were fetched for a detach")


@case
def map_shows_what_is_out(s):
    """Of two functions that show one template."""
    s.control.call("capture", function=s.server("web"), name="twins", end=True)
    out, twin = (s.control.call("attach", name="twins")["function"]["id"] for _ in range(2))
    expect(s.control.get(out, "/count") == b"1", "the first answer")
    offloaded = s.control.call("offload", function=out)["offloaded_bytes"]
    picture = s.folder / "map.svg"
    told = Ctl(f"{s.options.bin}/moultctl", "--control", s.control.path).json("map", "--svg", picture)
    expect("<svg" in picture.read_text(encoding="utf-8"), "no picture")
    legend = told["legend"]
    expect(sum(e["bytes"] for e in legend) == told["ram_bytes"] + told["template_bytes"], f"its sums: {told}")
    pale = sum(e["bytes"] for e in legend if e["offloaded"])
    expect(0.8 * offloaded <= pale <= offloaded, f"{offloaded} bytes of function {out} are out: {legend}")
    expect(all(e["function"] == out for e in legend if e["offloaded"]), f"only {out} is out: {legend}")
    for one in (out, twin):
        expect(any(e["class"] == "template" and e["function"] == one and e["bytes"] for e in legend), f"the template as {one} sees it: {legend}")
    s.end(out, twin)
    s.control.call("templates.remove", name="twins")


@case
def captured_while_it_is_out(s):
    function = s.vm.run("python")
    answer = s.control.get(function, "/?seed=3")
    used = s.pager()["pool_used_bytes"]
    s.control.call("offload", function=function)
    s.control.call("capture", function=function, name="out", end=True)
    s.swept()
    expect(s.pager()["pool_used_bytes"] <= used, f"{used} before, after its end: {s.pager()}")
    attached = s.control.call("attach", name="out")["function"]["id"]
    expect(s.control.get(attached, "/?seed=3") == answer, "another answer of the template")
    # What a function writes on top of a template leaves RAM, the template's own pages have never been there.
    result = s.control.call("offload", function=attached)
    template = s.control.call("templates.show", name="out")["template"]["user_state_bytes"]
    expect(result["offloaded_bytes"] < template, f"{result['offloaded_bytes']} bytes of a template of {template}")
    s.control.call("recall", function=attached)
    expect(s.control.get(attached, "/?seed=3") == answer, "another answer after its recall")
    s.end(attached)
    s.control.call("templates.remove", name="out")


@case
def killed_while_it_is_out(s):
    function = s.server("web")
    s.control.call("offload", function=function)
    expect(s.pager()["pool_used_bytes"] > 1 << 20, str(s.pager()))
    s.end(function)
    expect(s.pager()["pool_used_bytes"] < 256 << 10, f"after its end: {s.pager()}")


@case
def beside_a_balloon(s):
    """The guest gives free pages back by itself, and others when the balloon grows: neither takes anything of a function, nor
    brings back what is out."""
    one = Setting(s.options, s.folder, "balloon", qemu_with(s, "balloon", "-device virtio-balloon-pci,id=balloon,free-page-reporting=on"))
    try:
        one.control.get(one.gardener, "/modprobe?name=virtio_balloon")
        names = ("python", "redis")
        functions = {name: one.run(name) for name in names}
        answers = {name: one.answer(name, function) for name, function in functions.items()}
        held = host_memory(one.vm.qemu, one.folder)["ram"]
        # What was free and had been used comes back without a balloon that grows.
        one.control.get(one.gardener, "/litter?mib=200")
        littered = lowest_ram(one, lambda ram: ram < held + (50 << 20))
        for number, mib in enumerate((1024, 700, 1024, 700)):
            balloon(one, mib)
            for name, function in functions.items():
                one.control.call("freeze", function=function)
                before = one.hash(function)
                ram = host_memory(one.vm.qemu, one.folder)["ram"]
                result = one.control.call("offload", function=function)
                moved = result["offloaded_bytes"] + result["zero_bytes"]
                if number == 0:
                    fell = ram - host_memory(one.vm.qemu, one.folder)["ram"]
                    # What the agent needs to look at the function it takes from pages that the guest had given back.
                    expect(fell > moved * (1 - MOST_LEFT) - (4 << 20), f"{name}: {moved} bytes were offloaded, the host has {fell} back")
                one.control.get(one.gardener, "/litter?mib=100")
                expect(one.hash(function) == before, f"round {number}: {name} is another than before")
                one.control.call("offload", function=function)
                one.control.call("recall", function=function, prefetch=PREFETCH[number % 3])
                expect(one.answer(name, function) == answers[name], f"round {number}: another answer of {name}")
        for function in functions.values():
            one.control.call("offload", function=function)
            expect(one.control.call("detach", function=function)["detached"], "a detach beside a balloon")
        one.swept()
        expect(one.pager()["lost_pages"] == 0 and one.pager()["pool_used_bytes"] < 1 << 20, str(one.pager()))
        after = one.run("python")
        expect(one.answer("python", after) == answers["python"], "a function that starts in what was given back")
        print(f"  {held >> 20} MiB of RAM with both, {littered >> 20} MiB once the guest has reported what it no longer uses")
    finally:
        one.vm.close()


def lowest_ram(one, enough, seconds=30):
    """What the guest's RAM takes of the host once that is `enough`: the guest reports after seconds."""
    deadline = time.monotonic() + seconds
    while not enough(ram := host_memory(one.vm.qemu, one.folder)["ram"]):
        expect(time.monotonic() < deadline, f"after {seconds} s the guest's RAM still takes {ram >> 20} MiB")
        time.sleep(0.5)
    return ram


def balloon(one, mib):
    """Grows or shrinks it until the guest has `mib` MiB."""
    with socket.socket(socket.AF_UNIX) as qmp:
        qmp.settimeout(60)
        qmp.connect(str(one.folder / "balloon" / "qmp.sock"))
        with qmp.makefile("rw", encoding="utf-8") as lines:
            def ask(command, **arguments):
                lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                lines.flush()
                while "return" not in (answer := json.loads(lines.readline())):
                    expect("error" not in answer, f"{command}: {answer}")
                return answer["return"]

            json.loads(lines.readline())
            ask("qmp_capabilities")
            ask("balloon", value=mib << 20)
            deadline = time.monotonic() + 60
            while abs((now := ask("query-balloon")["actual"]) - (mib << 20)) > 1 << 20:
                expect(time.monotonic() < deadline, f"the balloon leaves {now >> 20} MiB, not {mib}")
                time.sleep(0.2)


@case
def policy_moves_an_idle_function_out_and_back(s):
    spec = "semi-warm:settle_s=0.2:init_unknown_s=0.5:step_every_s=0.1:step_share=0.5"
    function = s.vm.run("python")
    answer = s.control.get(function, "/?seed=1")
    s.control.call("policy", function=function, policy=spec)

    def kept():
        return next(p for p in s.control.call("status")["policies"] if p["function"] == function)

    def until(what, seconds=60):
        deadline = time.monotonic() + seconds
        while not what(kept()):
            expect(time.monotonic() < deadline, f"after {seconds} s: {kept()}")
            time.sleep(0.05)

    def is_out(one):
        parts = one["segments"].values()
        return one["state"] == "frozen" and sum(p["offloaded_bytes"] for p in parts) > 4 << 20 and not sum(p["resident_bytes"] for p in parts)

    for number in range(6):
        # All of it, in the end: nothing is asked of it, and the policy goes on step by step. Or a request meets it at work.
        until(is_out if number % 2 == 0 else lambda one: one["state"] == "frozen")
        if number % 2 == 0:
            expect(s.info(function)["offloaded_bytes"] > 4 << 20, f"{s.info(function)}, but {kept()}")
        expect(s.control.get(function, "/?seed=1") == answer, "another answer than before")
    # By hand, whatever the policy is at.
    for verb in ("freeze", "offload", "recall", "thaw"):
        s.control.call(verb, function=function)
    expect(s.control.get(function, "/?seed=1") == answer, "another answer than before")
    s.control.call("policy", function=function, policy="off")
    expect(not s.control.call("status")["policies"], "a policy that is off is still told")
    expect(s.info(function)["state"] == "running", f"as its policy is off it is {s.info(function)['state']}")
    expect(s.control.get(function, "/?seed=1") == answer, "another answer than before")
    time.sleep(1)
    metrics = open_metrics.samples(s.control.call("metrics")["text"])
    counted = {step: metrics["moult_keeper_steps_total", (("step", step),)] for step in ("freeze", "offload", "recall", "end")}
    expect(counted["freeze"] >= 6 and counted["offload"] >= 1 and counted["recall"] >= 1 and not counted["end"], f"what the keeper did: {counted}")
    expect(s.info(function)["state"] == "running", f"with its policy off it is {s.info(function)['state']}")
    # One that ends a function which nobody asks anything.
    s.control.call("policy", function=function, policy="fixed:keep_alive_s=0.5")
    deadline = time.monotonic() + 30
    while s.info(function)["state"] != "ended":
        expect(time.monotonic() < deadline, f"it lives on: {s.info(function)}")
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--cycles", type=int, default=30, help="cycles of three small functions under load")
    parser.add_argument("--real-cycles", type=int, default=5, help="cycles of real functions under load, three of five at once in each")
    parser.add_argument("--only", help="one case")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True, cpus=CPUS)
    if missing:
        return skip_all(len(CASES + LOAD + WORK + COLD + FAULTS + ILL_POOLS), missing)
    with scratch() as folder:
        setting = Setting(options, folder)
        try:
            why = why_not(setting.folder / "probe")
            if why:
                print(f"SKIP {', '.join(case.__name__ for case in ILL_POOLS)}: {why}", flush=True)
            cases = CASES + LOAD + WORK + COLD + FAULTS + ([] if why else ILL_POOLS)
            return run_cases([c for c in cases if options.only in (None, c.__name__)], setting, skipped=len(ILL_POOLS) if why else 0,
                             close=setting.vm.close)
        finally:
            setting.vm.close()


if __name__ == "__main__":
    sys.exit(main())
