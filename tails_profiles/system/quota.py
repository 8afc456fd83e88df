# SPDX-License-Identifier: GPL-3.0-or-later
"""Bound what may be written through the mount of a user's directory, and end that.

``python3 -m tails_profiles.system.quota MOUNT PROJECT BYTES INODES|-`` is the same for a shell.

A project quota counts the files that carry a project id. What is made in a directory with the flag
FS_XFLAG_PROJINHERIT gets the directory's id, and nothing is moved or linked into it that has
another one. Only root of the first user namespace may change either, and files' owners there.
"""

import array
import ctypes
import errno
import fcntl
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tails_profiles.errors import LaunchError
from tails_profiles.quota import Limit, Space, is_ours
from tails_profiles.system.syscall import call

# linux/fs.h: _IOR('X', 31, struct fsxattr), _IOW('X', 32, struct fsxattr); and that structure:
# xflags, extsize, nextents, projid, cowextsize, eight bytes of nothing.
_GET, _SET = 0x801C581F, 0x401C5820
_FSXATTR = struct.Struct("=5I8x")
_XFLAG_PROJINHERIT = 0x200
# linux/quota.h. The call is there since Linux 5.14 (quotactl(2)); its number is the same on every
# architecture.
_QUOTACTL_FD = 443
_GETQUOTA, _SETQUOTA = 0x800007, 0x800008
_PROJECTS = 2
# struct if_dqblk: hard and soft limit (KiB), bytes held; the same of inodes; two times; what of it
# counts (QIF_LIMITS: the limits).
_DQBLK = struct.Struct("=8QI4x")
_LIMITS = 5
_KIB = 1024
# linux/dqblk_xfs.h, which other file systems answer too: struct fs_quota_statv is 160 bytes and
# begins with its version, a byte of nothing, and the flags.
_XGETQSTATV = 0x5808
_STATV_VERSION, _PROJECTS_ENFORCED = 1, 0x20
_STATV_SIZE = 512

#: Whose a file is that nobody in an ID-mapped mount owns (proc(5), overflowuid and overflowgid).
_OVERFLOW_ID = 65534
_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_DIRECTORY = _NO_LINK | os.O_DIRECTORY


def space(directory: Path) -> Space:
    """A directory and its file system; raises OSError."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found, enforced = os.fstat(descriptor), _is_enforced(descriptor)
    finally:
        os.close(descriptor)
    # A directory of a project shows what that one is left, such as a launch that was killed. So the
    # topmost of the same file system is asked.
    same = [each for each in directory.parents if each.stat().st_dev == found.st_dev]
    system = os.statvfs((directory, *same)[-1])
    return Space(
        found.st_dev,
        found.st_ino,
        _project_of(directory) if enforced else 0,
        enforced,
        system.f_blocks * system.f_frsize,
        system.f_bavail * system.f_frsize,
        system.f_files,
        system.f_favail,
    )


def _project_of(directory: Path) -> int:
    try:
        with _opened(directory) as descriptor:
            return _attributes(descriptor)[3]
    except PermissionError:
        # A plan is for everybody to print. Whoever carries it out looks again.
        return 0


def limit(mount: Path, wanted: Limit) -> None:
    """Give all that can be written through a mount the project, and that its limit.

    Raises LaunchError where something there has a project of somebody else's, or cannot be looked
    into; OSError.
    """

    def mark(descriptor: int) -> None:
        found = _attributes(descriptor)[3]
        if found != 0 and not is_ours(found):
            raise LaunchError(
                f"something in it belongs to the project {found}, and would not be bounded",
                hint="see what: lsattr -Rp; then docs/shares.md",
            )
        _set_project(descriptor, wanted.project)

    with _opened(mount) as top:
        # An earlier limit, if its launch was killed, would count while files are marked.
        _set_limits(top, wanted.project, 0, 0)
        mark(top)
        _for_each_below(top, mark)
        held, inodes = _held(top, wanted.project)
        _set_limits(
            top,
            wanted.project,
            # 0 would be no limit, and XFS counts nothing for an empty folder.
            max((held + wanted.size) // _KIB, 1),
            0 if wanted.inodes is None else inodes + wanted.inodes,
        )


def release(mount: Path) -> None:
    """End what ``limit`` did, as far as it came; nothing where it did nothing.

    Raises LaunchError, OSError.
    """

    def clear(descriptor: int) -> None:
        if is_ours(_attributes(descriptor)[3]):
            _set_project(descriptor, 0)

    with _opened(mount) as top:
        project = _attributes(top)[3] if _is_enforced(top) else 0
        if is_ours(project):
            _set_limits(top, project, 0, 0)
            # The top last, as it was the first: an end that is cut short can be repeated.
            _for_each_below(top, clear)
            clear(top)


# ---- what a file system says, and is told


def _is_enforced(descriptor: int) -> bool:
    buffer = (ctypes.c_ubyte * _STATV_SIZE)(_STATV_VERSION)
    try:
        _control(descriptor, _XGETQSTATV, 0, buffer)
    except OSError:
        # No quota at all, a file system that has none, a kernel without the call.
        return False
    (flags,) = struct.unpack_from("=2xH", bytes(buffer))
    return bool(flags & _PROJECTS_ENFORCED)


def _held(descriptor: int, project: int) -> tuple[int, int]:
    """The bytes and inodes that a project holds."""
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    _control(descriptor, _GETQUOTA, project, buffer)
    fields = _DQBLK.unpack(buffer.raw)
    return fields[2], fields[5]


def _set_limits(descriptor: int, project: int, kib: int, inodes: int) -> None:
    fields = (kib, 0, 0, inodes, 0, 0, 0, 0, _LIMITS)
    _control(descriptor, _SETQUOTA, project, ctypes.create_string_buffer(_DQBLK.pack(*fields)))


def _control(descriptor: int, command: int, project: int, buffer: object) -> None:
    # The macro QCMD of linux/quota.h.
    number = ctypes.c_uint(command << 8 | _PROJECTS)
    call(_QUOTACTL_FD, ctypes.c_uint(descriptor), number, ctypes.c_uint(project), buffer)


def _attributes(descriptor: int) -> tuple[int, ...]:
    buffer = array.array("B", bytes(_FSXATTR.size))
    fcntl.ioctl(descriptor, _GET, buffer)
    return _FSXATTR.unpack(buffer)


def _set_project(descriptor: int, project: int) -> None:
    """Also for what will be made in it, if it is a directory; 0 ends that."""
    flags, extents, number, _, copied = _attributes(descriptor)
    flags &= ~_XFLAG_PROJINHERIT
    if project != 0 and stat.S_ISDIR(os.fstat(descriptor).st_mode):
        flags |= _XFLAG_PROJINHERIT
    fcntl.ioctl(descriptor, _SET, _FSXATTR.pack(flags, extents, number, project, copied))


# ---- everything below a directory


def _for_each_below(top: int, act: Callable[[int], None]) -> None:
    """Call ``act`` with a descriptor of each directory and each regular file.

    No link is followed, and nothing else is opened. Raises LaunchError, OSError.
    """
    # A guest may have made directories deeper than a path may be long, or than descriptors are
    # many: one is open at a time, and the way back is "..", which the mount's top ends.
    here = os.open(".", _DIRECTORY, dir_fd=top)
    try:
        way, pending = [_identity(here)], [_visit(here, act)]
        while pending:
            if pending[-1]:
                there = _entered(here, pending[-1].pop())
                if there is None:
                    continue
                os.close(here)
                here = there
                # Nothing can be made in a foreign one; what is in it may still be the owner's.
                if not _is_foreign(os.fstat(here)):
                    act(here)
                way.append(_identity(here))
                pending.append(_visit(here, act))
                continue
            pending.pop()
            way.pop()
            if way:
                above = os.open("..", _DIRECTORY, dir_fd=here)
                os.close(here)
                here = above
                if _identity(here) != way[-1]:
                    raise OSError(errno.ESTALE, "a directory was moved meanwhile")
    finally:
        os.close(here)


def _visit(directory: int, act: Callable[[int], None]) -> list[str]:
    """Act on the files of a directory; the names of the directories in it."""
    below = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
            elif entry.is_file(follow_symlinks=False) and not _is_foreign(
                entry.stat(follow_symlinks=False)
            ):
                descriptor = os.open(entry.name, _NO_LINK, dir_fd=directory)
                try:
                    act(descriptor)
                finally:
                    os.close(descriptor)
    return below


def _entered(directory: int, name: str) -> int | None:
    """A directory in another one; None for one that nobody can enter through the mount."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=directory)
    except PermissionError as err:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if found.st_uid == _OVERFLOW_ID and not found.st_mode & (stat.S_IXGRP | stat.S_IXOTH):
            return None
        raise LaunchError(
            "a directory in it is of another user or group, and not even root can read it there",
            hint="give it to the folder's owner and group: chown -R",
        ) from err


def _is_foreign(found: os.stat_result) -> bool:
    """Whether something is of a user or group that the mount does not have.

    The kernel lets nobody write to it through the mount, and does not let root change it.
    """
    return _OVERFLOW_ID in (found.st_uid, found.st_gid)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, _DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def main(argv: list[str]) -> int:
    """Run ``limit`` by words; returns the exit status."""
    mount, project, size, inodes = argv
    wanted = Limit(int(project), int(size), None if inodes == "-" else int(inodes))
    try:
        limit(Path(mount), wanted)
    except (LaunchError, OSError) as err:
        sys.stderr.write(f"{err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
