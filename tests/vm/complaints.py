# SPDX-License-Identifier: Apache-2.0
"""What a guest's kernel says when something is wrong in it."""
import re

# A kernel that is `quiet` shows no warning: so they make it panic, and that it shows.
PANICS = "panic_on_warn=1 oops=panic"
# That it ends a process because memory is short is no complaint: tests provoke that.
COMPLAINT = re.compile(r"WARNING:|BUG[: ]|Oops|general protection|[Bb]ad page|soft lockup|hung task|blocked for more than|"
                       r"use-after-free|refcount_t|Kernel panic")


def complaints(text):
    """The lines of a console or a log that are one."""
    return [line.strip() for line in text.splitlines() if COMPLAINT.search(line)]
