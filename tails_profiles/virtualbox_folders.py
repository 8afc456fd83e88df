# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared folders of a VirtualBox machine: how VBoxManage is told of them, and how it shows them.

``showvminfo --machinereadable`` names a folder and its path and nothing else of it; without, there
is a line for each that says everything, written the same way by 6.1 to 7.2
(``showSharedFolder`` of VBoxManageInfo.cpp):

    Name: 'ssh-client', Host path: '/p' (machine mapping), writable

Behind that follow ``, auto-mount``, ``, mount-point: '/p'`` and, from 7.2 on, ``, symlink-policy:
any``: none of ours has any of these.
"""

import re
from collections.abc import Iterable, Mapping
from uuid import UUID

from tails_profiles import virtualbox
from tails_profiles.shares import SharedFolder

_LINE = re.compile(r"^Name: '([^']*)', Host path: (.*)$", re.MULTILINE)
#: A folder of every machine of that user, and one that is gone after the next power-off.
_OPTIONS = {"global": (), "transient": ("--transient",), "machine": ()}
_KIND = re.compile(r"' \((global|machine|transient) mapping\), ")


def wanted(shares: Iterable[SharedFolder]) -> dict[str, str]:
    """By name, what must be shown."""
    return {
        share.tag: f"'{share.target}' (machine mapping), "
        + ("writable" if share.writable else "readonly")
        for share in shares
    }


def parse(text: str) -> dict[str, str]:
    """By name, what ``showvminfo`` shows of each; two of one name have two lines."""
    found: dict[str, str] = {}
    for name, rest in _LINE.findall(text):
        found[name] = f"{found[name]}\n{rest}" if name in found else rest
    return found


def shown_line(name: str, rest: str) -> str:
    """The whole line of one folder, as it is shown."""
    return f"Name: '{name}', Host path: {rest}"


def any_in(info: Mapping[str, str]) -> bool:
    """Whether ``showvminfo --machinereadable`` names one."""
    return any(key.startswith("SharedFolder") for key in info)


def add(uuid: UUID, share: SharedFolder) -> tuple[str, ...]:
    """The words that share a folder."""
    return ("sharedfolder", "add", str(uuid), *virtualbox.shared_folder(share))


def remove(uuid: UUID, name: str, shown: str) -> tuple[tuple[str, ...], ...]:
    """The words that take a folder away, whoever shared it; ``shown`` is as ``parse`` has it."""
    return tuple(
        (
            "sharedfolder", "remove", "global" if kind == "global" else str(uuid),
            "--name", name, *_OPTIONS[kind],
        )
        for kind in _KIND.findall(shown)
    )  # fmt: skip
