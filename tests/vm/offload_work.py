# SPDX-License-Identifier: Apache-2.0
"""What a function does first after it was out, while its pages are fetched: the cases of offload_test.py about that."""
import http.client
import os
import time

from offload_setting import case_of, Setting
from trial import expect, TrialError

WORK = []
case = case_of(WORK)
MANY_CPUS = 8  # as many as busy.py has threads


def busy(s):
    return s.vm.start_at("busy", "unix:/tmp/busy.sock", ["/usr/bin/python3", "-S", "/run/moult/functions/busy.py"], "--ready", "connect")


def goes_out(s, function):
    """At least its data; the bytes that are out then."""
    s.control.call("offload", function=function)
    out = s.info(function)["offloaded_bytes"]
    expect(out > 16 << 20, f"only {out} bytes are out")
    return out


def faults_first(s, *works):
    """What busy.py does first after it was out."""
    function = busy(s)
    for work in works:
        goes_out(s, function)
        before = s.pager()["faults"]
        s.control.call("recall", function=function, prefetch="none")
        expect(s.control.get(function, f"/{work}") == b"ok", f"{work} after a recall")
        expect(s.pager()["faults"] > before, f"{work} was not served by faults")
    expect(s.pager()["lost_pages"] == 0, str(s.pager()))


@case
def first_thing_it_does_faults(s):
    """From user mode and from the kernel, from several CPUs at once, in code, in a child."""
    faults_first(s, "storm", "read", "write", "exec", "fork", "storm")


@case
def many_cpus_fault_at_once(s):
    """More of them than threads that serve faults."""
    one = Setting(s.options, s.folder, "many", cpus=MANY_CPUS, append="nosoftlockup")  # where they share two of the host's
    try:
        faults_first(one, "storm", "fork", "storm")
    finally:
        one.vm.close()


@case
def goes_out_again_before_all_is_back(s):
    function = busy(s)
    for _ in range(3):
        out = goes_out(s, function)
        s.control.call("recall", function=function, prefetch="none")
        expect(s.control.get(function, "/part") == b"ok", "a part of its data")
        still = s.info(function)["offloaded_bytes"]
        expect(8 << 20 < still <= out - (2 << 20), f"{still} bytes of {out} are still out after an eighth of 16 MiB was touched")
        again = s.control.call("offload", function=function)["offloaded_bytes"]
        expect(2 << 20 <= again < 12 << 20, f"{again} bytes left RAM the second time")
        s.control.call("recall", function=function, prefetch="none")
        for work in ("storm", "read"):
            expect(s.control.get(function, f"/{work}") == b"ok", f"{work} after a second offload")


@case
def ends_by_itself_while_pages_are_out(s):
    function = busy(s)
    used = s.pager()["pool_used_bytes"]
    goes_out(s, function)
    s.control.call("recall", function=function, prefetch="none")
    try:
        s.control.get(function, "/exit")
    except (OSError, http.client.HTTPException, TrialError):
        pass  # it does not answer any more
    deadline = time.monotonic() + 60
    while s.info(function)["state"] != "ended":
        expect(time.monotonic() < deadline, f"it lives on: {s.info(function)}")
        time.sleep(0.05)
    expect("7" in s.info(function)["end_reason"], str(s.info(function)))
    s.swept()
    expect(s.pager()["pool_used_bytes"] <= used, f"{used} before, after its end: {s.pager()}")


@case
def vm_ends_while_a_function_is_out(s):
    """It does not wait for pages that nobody wants any more."""
    one = Setting(s.options, s.folder, "leaving")
    try:
        goes_out(one, busy(one))
        one.vm.process.terminate()
        expect(one.vm.has_ended(20), "after 20 s the VM has not ended")
        expect(not os.path.exists(f"/proc/{one.vm.qemu}"), "the emulator lives on")
    finally:
        one.vm.close()
