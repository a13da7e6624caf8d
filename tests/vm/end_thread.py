# SPDX-License-Identifier: Apache-2.0
"""Ends one thread of another process as a filter of system calls that kills threads does: by SYS_exit, with nothing of it unwound."""
import ctypes
import os
import pathlib
import time

GETREGS, SETREGS, DETACH, SEIZE, INTERRUPT = 12, 13, 17, 0x4206, 0x4207
WALL = 0x40000000
RAX, RDI, ORIG_RAX, RIP, REGISTERS = 10, 14, 15, 16, 27  # of struct user_regs_struct, x86-64
SYS_POLL, SYS_EXIT, SYSCALL = 7, 60, b"\x0f\x05"
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def threads(pid, name):
    """When each thread of this name was started, in seconds since the host's boot, by its number."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            if (task / "comm").read_text().strip() == name:
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                found[int(task.name)] = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass  # it has ended
    return found


def _ptrace(request, tid, data=None):
    if libc.ptrace(request, tid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of thread {tid}")


def _exit_from_poll(pid, tid):
    """Whether it was in poll(2), holding nothing, from where it goes on to its end."""
    _ptrace(SEIZE, tid)
    try:
        _ptrace(INTERRUPT, tid)
        os.waitpid(tid, WALL)
        registers = (ctypes.c_ulong * REGISTERS)()
        _ptrace(GETREGS, tid, registers)
        at = registers[RIP] - len(SYSCALL)
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(at)
            if registers[ORIG_RAX] != SYS_POLL or memory.read(len(SYSCALL)) != SYSCALL:
                return False
        registers[RIP], registers[RAX], registers[RDI] = at, SYS_EXIT, 0
        registers[ORIG_RAX] = ctypes.c_ulong(-1).value  # nothing is to be made again
        _ptrace(SETREGS, tid, registers)
        return True
    finally:
        _ptrace(DETACH, tid)


def end_thread(pid, tid, seconds=20):
    """Once it waits in poll(2)."""
    deadline = time.monotonic() + seconds
    ends = False
    while os.path.exists(f"/proc/{pid}/task/{tid}"):
        ends = ends or _exit_from_poll(pid, tid)
        if time.monotonic() > deadline:
            raise OSError(f"thread {tid} of process {pid} does not end after {seconds} s")
        time.sleep(0.002)
