#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""One VM is repurposed many hundred times. No answer is wrong, and nothing grows: in the guest, its memory, descriptors,
namespaces, mounts, cgroups; on the host, QEMU's own memory and its descriptors."""
import argparse
import json
import os
import pathlib
import sys
import time

from chaos_setting import STRIKER
from machine import missing_parts, skip_all
from trial import COMMANDS, expect, host_memory, scratch, Trial, TrialError

# What may differ between two looks at a guest that does the same: the page allocator's and slab's own caches.
SLACK = {"available": 12 << 20, "slab": 6 << 20, "page_tables": 1 << 20, "files": 96, "dying_cgroups": 4}
HOST_SLACK = {"ram": 32 << 20, "rest": 16 << 20, "fds": 4}
WARM_UP = 75  # repurposes: more than the ended functions that the agent remembers


class Soak:
    def __init__(self, vm, store):
        self.vm, self.store, self.control = vm, store, vm.control
        self.cold, self.current = {}, None
        self.teller = vm.start("teller", ["/usr/bin/sleep", "1000000"], "--ready", "connect", port=9091)
        for name in COMMANDS:
            function = vm.run(name)
            self.cold[name] = self.control.get(function, "/?seed=1")
            self.control.call("capture", function=function, name=name, end=True)

    def go(self, count):
        names = list(COMMANDS)
        for i in range(count):
            name = names[i % len(names)]
            if self.current is None:
                result = self.control.call("attach", name=name)
            else:
                result = self.control.call("repurpose", function=self.current, name=name)
            self.current = result["function"]["id"]
            expect(self.control.get(self.current, "/?seed=1") == self.cold[name], f"repurpose {i} to {name}: a wrong answer")

    def at_rest(self, seconds=60):
        """What the guest says when the agent has made its shells and workers anew, and ended what has ended: five times the same."""
        self.control.settle()
        deadline, seen = time.monotonic() + seconds, []
        while len(seen) < 5 or len({(s["agent_fds"], s["namespaces"], s["cgroups"]) for s in seen[-5:]}) > 1:
            expect(time.monotonic() < deadline, f"the guest's agent does not come to rest: {seen[-5:]}")
            time.sleep(0.5)
            seen.append(json.loads(self.control.get(self.teller, "/state")))
        return seen[-1]

    def look(self):
        guest = self.at_rest()
        host = {**host_memory(self.vm.qemu, self.store), "fds": len(os.listdir(f"/proc/{self.vm.qemu}/fd"))}
        return guest, host


def compare(what, before, after, slack):
    for key, value in before.items():
        grown = value - after[key] if key == "available" else after[key] - value
        print(f"  {what} {key}: {value} -> {after[key]}")
        expect(grown <= slack.get(key, 0), f"{what}: {key} went from {value} to {after[key]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of moultctl")
    parser.add_argument("--kernel", default="6.1")
    parser.add_argument("--count", type=int, default=500, help="repurposes")
    options = parser.parse_args()
    missing = missing_parts([options.kernel], driver=True)
    if missing:
        return skip_all(1, missing)
    with scratch() as name:
        folder = pathlib.Path(name)
        with Trial(options.bin, folder / "vm", folder / "store", options.kernel,
                   more=["--payload", f"init.d/60-striker={STRIKER}"]) as vm:
            try:
                soak = Soak(vm, folder / "store")
                soak.control.get(soak.teller, "/cap-namespaces")
                soak.go(WARM_UP)
                guest, host = soak.look()
                soak.go(options.count)
                guest_after, host_after = soak.look()
                compare("guest", guest, guest_after, SLACK)
                compare("host", host, host_after, HOST_SLACK)
            except (TrialError, OSError) as e:
                print(f"FAIL {options.count} repurposes: {e}\n{vm.logs()}\n0 passed, 1 failed, 0 skipped")
                return 1
    print(f"ok {options.count} repurposes\n1 passed, 0 failed, 0 skipped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
