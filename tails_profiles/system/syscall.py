# SPDX-License-Identifier: GPL-3.0-or-later
"""System calls that Python has no function for."""

import ctypes
import os


def call(number: int, *arguments: object) -> int:
    """syscall(2); raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    result: int = library.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        found = ctypes.get_errno()
        raise OSError(found, os.strerror(found))
    return result
