# SPDX-License-Identifier: GPL-3.0-or-later
"""Mount a user's directory for a machine, under one identity, and take it away again.

``python3 -m tails_profiles.system.mounts SOURCE TARGET USER rw|ro`` is the same for a shell.

The mount is an ID-mapped one (mount_setattr(2), Linux 5.12): what belongs to the directory's owner
on disk belongs to USER through it, and what USER writes belongs to the owner on disk. No other
identity exists in it, so that nobody through it can make a file of root's, or of anybody's.
mount(8) can do the same since util-linux 2.39, which Debian 12 does not have.
"""

import ctypes
import errno
import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tails_profiles.errors import LaunchError
from tails_profiles.system.syscall import call

# Numbers of system calls added since Linux 5.1 are the same on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
_AT_EMPTY_PATH, _AT_FDCWD = 0x1000, -100
_MOVE_MOUNT_F_EMPTY_PATH = 4
_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_IDMAP, _NOSYMFOLLOW = 0x00100000, 0x00200000
_CLONE_NEWUSER = 0x10000000
_UMOUNT_NOFOLLOW = 8


class _MountAttributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "namespace")]


def bind(source: Path, target: Path, user: str, *, writable: bool) -> None:
    """Mount ``source`` on ``target`` as ``user``'s; raises LaunchError, OSError."""
    with ExitStack() as stack:
        directory = _opened(
            stack, os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        )
        owner, account = os.fstat(directory), pwd.getpwnam(user)
        if owner.st_uid == 0:
            raise LaunchError(
                f"{source} belongs to root: what a guest writes there would be root's"
            )
        if not _takes_attributes(directory):
            raise LaunchError(f"{source}: its file system keeps no extended attributes of users")
        flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH
        tree = _opened(stack, call(_OPEN_TREE, directory, b"", flags))
        namespace = stack.enter_context(
            _identity((owner.st_uid, account.pw_uid), (owner.st_gid, account.pw_gid))
        )
        _restrict(tree, namespace, source, writable=writable)
        call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)


def _opened(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def _restrict(tree: int, namespace: int, source: Path, *, writable: bool) -> None:
    flags = _IDMAP | _NOSUID | _NODEV | _NOEXEC | _NOSYMFOLLOW | (0 if writable else _RDONLY)
    attributes = _MountAttributes(flags, 0, 0, namespace)
    try:
        call(
            _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes),
            ctypes.c_size_t(ctypes.sizeof(attributes)),
        )  # fmt: skip
    except OSError as err:
        if err.errno not in {errno.EINVAL, errno.EPERM}:
            raise
        raise LaunchError(f"{source}: its file system, or this kernel, maps no owners") from err


def _takes_attributes(directory: int) -> bool:
    # By the path of its descriptor: one that is only a path takes no call of its own.
    try:
        os.getxattr(f"/proc/self/fd/{directory}", "user.virtfs.uid")
    except OSError as err:
        return err.errno == errno.ENODATA
    return True


@contextmanager
def _identity(uid: tuple[int, int], gid: tuple[int, int]) -> Iterator[int]:
    """A user namespace that maps the first of each pair, on disk, to the second, in the mount."""
    ready, tell_ready = os.pipe()
    done, tell_done = os.pipe()
    child = os.fork()
    if child == 0:
        # Only what is safe in a child of any process: it ends without cleaning up.
        made = ctypes.CDLL(None).unshare(_CLONE_NEWUSER) == 0
        os.write(tell_ready, b"y" if made else b"n")
        os.close(tell_done)
        os.read(done, 1)
        os._exit(0)
    try:
        if os.read(ready, 1) != b"y":
            raise LaunchError(
                "user namespaces cannot be made here: the kernel forbids it, or a chroot"
            )
        for name, (inside, outside) in (("uid_map", uid), ("gid_map", gid)):
            Path(f"/proc/{child}/{name}").write_text(f"{inside} {outside} 1", encoding="ascii")
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield namespace
        finally:
            os.close(namespace)
    finally:
        for end in (ready, tell_ready, done, tell_done):
            os.close(end)
        os.waitpid(child, 0)


def below(directory: Path) -> list[Path]:
    """What is mounted below a directory, in this mount namespace; the last one first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        # proc(5): the fifth field, blanks and the like as octal escapes.
        path = Path(line.split(" ")[4].encode().decode("unicode_escape"))
        if directory in path.parents:
            found.append(path)
    return found[::-1]


def unmount(path: Path) -> None:
    """Take a mount away; raises OSError while somebody uses it."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.umount2(os.fsencode(path), _UMOUNT_NOFOLLOW) != 0:
        found = ctypes.get_errno()
        raise OSError(found, os.strerror(found), str(path))


def main(argv: list[str]) -> int:
    """Run ``bind`` by words; returns the exit status."""
    source, target, user, access = argv
    try:
        bind(Path(source), Path(target), user, writable=access == "rw")
    except (LaunchError, OSError) as err:
        sys.stderr.write(f"{err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
