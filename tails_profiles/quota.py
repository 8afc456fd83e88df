# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a guest may add to a folder of the host's: a decision about its file system.

A project quota (ext4, XFS, f2fs) bounds what files of one project id hold together, whoever owns
them. A share's files get an id of ours, and what that may hold is what it holds already and a part
of what is free, so that all shares of a launch together leave a reserve.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_MIB = 1 << 20
#: What guests leave of a file system: a tenth of what is free, and never less than so many bytes
#: and inodes or, where that is less, a tenth of the whole.
RESERVE, RESERVE_INODES = 1024 * _MIB, 1 << 16
_TENTH = 10
#: Project ids of ours. The rest of an id is its folder's inode number, so that it is the same at
#: the next start, and another one in another launch's folder. Two folders that get the same one,
#: which is possible, are bounded together.
_FIRST, _IDS = 0x74000000, 1 << 24


@dataclass(frozen=True, slots=True)
class Space:
    """A folder, and what there is of its file system for whoever is not root.

    ``project`` is the folder's own, 0 for none. ``enforced``: a project quota would hold.
    ``size`` and ``free`` are bytes; ``inodes`` is 0 where they are not counted.
    """

    device: int
    inode: int
    project: int
    enforced: bool
    size: int
    free: int
    inodes: int
    free_inodes: int


@dataclass(frozen=True, slots=True)
class Limit:
    """What files of ``project`` may hold beyond what they hold when it is set.

    ``size`` in bytes, whole MiB; ``inodes`` is None where they are not counted.
    """

    project: int
    size: int
    inodes: int | None

    @property
    def is_nothing(self) -> bool:
        """Whether a guest cannot add a single file."""
        return self.size == 0 or self.inodes == 0


@dataclass(frozen=True, slots=True)
class Unlimited:
    """That a guest may fill a folder's file system, and why; ``free`` in bytes."""

    why: str
    free: int


def is_ours(project: int) -> bool:
    """Whether an id is one that a launch gives, and takes back."""
    return _FIRST <= project < _FIRST + _IDS


def decide(spaces: Mapping[Path, Space]) -> dict[Path, Limit | Unlimited]:
    """What each folder that a launch's guests write to may grow by."""
    decided: dict[Path, Limit | Unlimited] = {}
    for path, space in spaces.items():
        if not space.enforced:
            decided[path] = Unlimited("it has no project quota", space.free)
        elif space.project != 0 and not is_ours(space.project):
            # Somebody's own arrangement: another id would end it.
            decided[path] = Unlimited(
                f"only the limit of its project {space.project} holds, if that has one", space.free
            )
        else:
            decided[path] = _limit(space, [each.device for each in spaces.values()])
    return decided


def _limit(space: Space, devices: Sequence[int]) -> Limit:
    # Each the same part of what is free, so that all together leave the reserve.
    shares = devices.count(space.device)
    size = _room(space.size, space.free, RESERVE) // shares // _MIB * _MIB
    inodes = _room(space.inodes, space.free_inodes, RESERVE_INODES) // shares
    return Limit(_FIRST | space.inode % _IDS, size, inodes if space.inodes else None)


def _room(whole: int, free: int, reserve: int) -> int:
    return max(free - max(free // _TENTH, min(reserve, whole // _TENTH)), 0)
