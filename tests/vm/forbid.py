#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""forbid.py ERROR PROGRAM...: runs a program to which the kernel gives no userfaultfd, neither by the system call nor by the
device: both fail with ERROR, as under a container's filter of system calls (EPERM) or without CONFIG_USERFAULTFD (ENOSYS)."""
import ctypes
import errno
import os
import struct
import sys

SYS_IOCTL, SYS_USERFAULTFD = 16, 323  # x86-64
USERFAULTFD_IOC_NEW = 0xAA00
LD_NR, LD_ARG1 = (0x20, 0, 0, 0), (0x20, 0, 0, 24)  # of struct seccomp_data
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def jump_unless(value, steps):
    return (0x15, 0, steps, value)


def give(value):
    return (0x06, 0, 0, value)


def forbid(error):
    program = [LD_NR, jump_unless(SYS_USERFAULTFD, 1), give(RET_ERRNO | error), jump_unless(SYS_IOCTL, 3), LD_ARG1,
               jump_unless(USERFAULTFD_IOC_NEW, 1), give(RET_ERRNO | error), give(RET_ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    filter_ = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    forbid(getattr(errno, sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
