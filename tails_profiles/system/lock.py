# SPDX-License-Identifier: GPL-3.0-or-later
"""One start or stop at a time in one directory; the lock file says who does what."""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tails_profiles.errors import LaunchError


def _lock_path(directory: Path) -> Path:
    return directory.with_name(directory.name + ".lock")


def _try_lock(directory: Path, doing: str) -> IO[str] | None:
    """The lock, with who holds it and why written into it; None when another holds it."""
    path = _lock_path(directory)
    while True:
        try:
            file = path.open("a+")
        except OSError as err:
            raise LaunchError(f"{path} cannot be written: {err.strerror}") from err
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                file.write(f"{doing} {os.getpid()}\n")
                file.flush()
                return file
        # Its last holder removed it meanwhile.
        file.close()


def holder(directory: Path) -> tuple[str, int] | None:
    """What is under way and the process that does it; None if nothing is known."""
    with contextlib.suppress(OSError, ValueError):
        doing, pid = _lock_path(directory).read_text().split()
        return doing, int(pid)
    return None


@contextlib.contextmanager
def locked(
    directory: Path, doing: str, *, give_up: bool = False, say: Callable[[str], None] = print
) -> Iterator[None]:
    """One start or stop at a time.

    Raises LaunchError when another one is under way; with ``give_up`` a start is told to end, and
    that and a stop are waited for.
    """
    file = _try_lock(directory, doing)
    if file is None and give_up:
        file = _wait_for_lock(directory, doing, say)
    if file is None:
        other = holder(directory)
        raise LaunchError(
            f"another {other[0] if other else 'start or stop'} is under way",
            hint=f"process {other[1]}" if other else None,
        )
    try:
        yield
    finally:
        _lock_path(directory).unlink(missing_ok=True)
        file.close()


#: Seconds that a start has to take back what it did, and a stop to end.
_GIVE_UP = 240.0


def _wait_for_lock(directory: Path, doing: str, say: Callable[[str], None]) -> IO[str] | None:
    deadline = time.monotonic() + _GIVE_UP
    told = None
    while time.monotonic() < deadline:
        other = holder(directory)
        if other is not None and other != told:
            told = other
            say(f"a {other[0]} is under way (process {other[1]}): waiting for its end")
            if other[0] == "start":
                _end_start(directory, other)
        file = _try_lock(directory, doing)
        if file is not None:
            return file
        time.sleep(0.1)
    return None


def _end_start(directory: Path, starting: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        descriptor = os.pidfd_open(starting[1])
        try:
            # Still the one that holds the lock: not a later process of that number.
            if holder(directory) == starting:
                signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        finally:
            os.close(descriptor)
