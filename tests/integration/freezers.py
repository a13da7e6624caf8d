# SPDX-License-Identifier: Apache-2.0
"""The cgroup freezers of this machine."""

import os

import rig
from rig import Failed


def freezers():
    """Functions that freeze and thaw a process, for each kind of freezer that can be written."""
    found = []
    for root, frozen, thaw, check in (
            ("/sys/fs/cgroup/freezer", ("freezer.state", "FROZEN"), ("freezer.state", "THAWED"),
             ("freezer.state", "FROZEN")),
            ("/sys/fs/cgroup/unified", ("cgroup.freeze", "1"), ("cgroup.freeze", "0"),
             ("cgroup.events", "frozen 1")),
            ("/sys/fs/cgroup", ("cgroup.freeze", "1"), ("cgroup.freeze", "0"),
             ("cgroup.events", "frozen 1"))):
        group = f"{root}/moult-it-{os.getpid()}"
        if not os.path.exists(f"{root}/cgroup.procs"):
            continue
        try:
            os.mkdir(group)
        except OSError:
            continue
        if os.path.exists(f"{group}/{frozen[0]}"):
            found.append(lambda pid, timeout, r=root, g=group, f=frozen, t=thaw, c=check:
                         freeze_in(pid, timeout, r, g, f, t, c))
        else:
            os.rmdir(group)
    return found


def _put(group, name, text):
    with open(f"{group}/{name}", "w", encoding="ascii") as f:
        f.write(text)


def freeze_in(pid, timeout, root, group, frozen, thaw, check):
    home = _home(pid, root)
    try:
        _put(group, "cgroup.procs", str(pid))
        for _ in range(2):
            _put(group, *frozen)

            def is_frozen():
                with open(f"{group}/{check[0]}", encoding="ascii") as f:
                    return check[1] in f.read().splitlines()

            if not rig.wait_until(is_frozen, timeout):
                raise Failed(f"{group} does not freeze {rig.describe(pid)}")
            _put(group, *thaw)
        _put(home, "cgroup.procs", str(pid))
    finally:
        _put(group, *thaw)
        rig.wait_until(lambda: _rmdir(group), 5)


def _home(pid, root):
    """The cgroup of the process in the hierarchy that is mounted at root."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as f:
        for line in f:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers == ("freezer" if root.endswith("/freezer") else ""):
                return root + path
    return root


def _rmdir(path):
    try:
        os.rmdir(path)
        return True
    except OSError:
        return False
