# SPDX-License-Identifier: GPL-3.0-or-later
"""Write state files so that a reader sees the old content or the new, and never half of one."""

import errno
import grp
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tails_profiles.errors import DamagedStateError, MissingAccountError

#: Bytes; what we write has a few hundred.
MAX_STATE = 1 << 20


def write_atomic(
    path: Path, content: str | bytes, mode: int = 0o644, group: str | None = None
) -> None:
    """Replace ``path``: written beside it, given mode and group, then renamed; makes the directory.

    Raises MissingAccountError where ``group`` does not exist.
    """
    number = None if group is None else _group(group)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile, whose import is a tenth of what a boot step loads.
    beside = path.parent / f".{path.name}.{os.urandom(8).hex()}"
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if number is not None:
                os.fchown(file.fileno(), -1, number)
            os.fchmod(file.fileno(), mode)
            file.write(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read_foreign(path: Path, limit: int) -> bytes:
    """A file that somebody else may have put there: no link, pipe or device, at most ``limit``.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"no regular file of at most {limit} bytes", str(path))
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit)


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError as err:
        raise MissingAccountError(name) from err


def write_json(path: Path, value: Mapping[str, Any], mode: int = 0o644) -> None:
    """Replace ``path`` by one JSON object, keys sorted."""
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n", mode)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a state file of ours, or None where there is none that can be read."""
    try:
        return load_json(path)
    except DamagedStateError:
        return None


def load_json(path: Path) -> dict[str, Any] | None:
    """The object in a state file of ours, or None where there is no such file.

    Raises DamagedStateError for anything else than one JSON object of at most MAX_STATE bytes.
    """
    try:
        # Non-blocking: a pipe in the file's place is refused, and not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamagedStateError(path, "it is no regular file")
            data = file.read(MAX_STATE + 1)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise DamagedStateError(path, f"it cannot be read: {err.strerror}") from err
    if len(data) > MAX_STATE:
        raise DamagedStateError(path, f"it has more than {MAX_STATE} bytes")
    try:
        value = json.loads(data)
    # RecursionError: brackets within brackets without end.
    except (ValueError, RecursionError) as err:
        raise DamagedStateError(path, "it is no JSON") from err
    if not isinstance(value, dict):
        raise DamagedStateError(path, "it is no JSON object")
    return value
