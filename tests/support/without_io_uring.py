#!/usr/bin/env python3
"""Runs a command that may not use io_uring, as a container's seccomp profile does.

    without_io_uring.py COMMAND ARGUMENT...
"""

import ctypes
import os
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # EPERM
# io_uring_setup, io_uring_enter, io_uring_register: the same numbers everywhere.
CALLS = (425, 426, 427)


def instruction(code, true, false, value):
    return struct.pack("HBBI", code, true, false, value)


program = instruction(LOAD, 0, 0, 0)
for place, call in enumerate(CALLS):
    program += instruction(JUMP_IF_EQUAL, len(CALLS) - place, 0, call)
program += instruction(RETURN, 0, 0, ALLOW) + instruction(RETURN, 0, 0, REFUSE)

libc = ctypes.CDLL(None, use_errno=True)
filter_bytes = ctypes.create_string_buffer(program, len(program))
header = ctypes.create_string_buffer(
    struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(filter_bytes))
)
for arguments in (
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header), 0, 0),
):
    if libc.prctl(*(ctypes.c_ulong(number) for number in arguments)) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[1], sys.argv[1:])
