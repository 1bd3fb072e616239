"""Have the kernel begin no more TCP connections on a listening socket, and finish those it began.

The last process that closes a listening socket resets whoever is connected and not accepted yet.
Between a look at who waits and the close, somebody may come; so first, nobody is let in. Clients'
kernels knock again after a second (RFC 6298, section 2), and are refused by then.
"""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# linux/filter.h, asm-generic/socket.h; Python's socket module has no names for them.
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
LOAD_BYTE, AND, JUMP_IF_EQUAL, RETURN = 0x30, 0x54, 0x15, 0x06
FLAGS_AT, SYN, ACK = 13, 0x02, 0x10  # of a TCP header, RFC 9293
NOTHING, ALL = 0, 0xFFFFFFFF  # of the packet


class Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(Instruction)))


# A packet that asks for a connection is dropped; accepted sockets inherit this, and get none.
INSTRUCTIONS = (Instruction * 5)(
    Instruction(LOAD_BYTE, 0, 0, FLAGS_AT),
    Instruction(AND, 0, 0, SYN | ACK),
    Instruction(JUMP_IF_EQUAL, 0, 1, SYN),
    Instruction(RETURN, 0, 0, NOTHING),
    Instruction(RETURN, 0, 0, ALL),
)


@contextmanager
def no_newcomers(listener: int) -> Iterator[None]:
    """Let nobody connect meanwhile who has not begun to, where the system can do that.

    Afterwards everybody may again, as others may go on listening on the same socket.

    Args:
        listener: the file descriptor of a listening socket.
    """
    with socket.socket(fileno=os.dup(listener)) as sock:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            yield
            return
        program = bytes(Program(len(INSTRUCTIONS), INSTRUCTIONS))
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        try:
            yield
        finally:
            # Another worker that stops may just have done so.
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
