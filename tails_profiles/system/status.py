# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect what this boot has become."""

import os
from pathlib import Path

from tails_profiles.errors import SystemFailureError
from tails_profiles.paths import Paths
from tails_profiles.profile import PROFILES, Profile
from tails_profiles.selection import Selection, select, selection_from_json
from tails_profiles.status import LinkStatus, Status, recorded
from tails_profiles.system import dmi, files, i2p, nft, tor, units
from tails_profiles.system.links import has_parent


def read_status(paths: Paths) -> Status:
    """The state files of this boot, and beside them what the kernel and systemd say now.

    Raises DamagedStateError for a state file that is not as the boot steps write it.
    """
    selection = _selection(paths)
    said = recorded(
        files.load_json(paths.status),
        files.load_json(paths.failure),
        files.load_json(paths.lease),
        str(paths.state),
    )
    quarantine = PROFILES[Profile.QUARANTINE].target
    # Without a word in a file where it was lockdown, in sh, that failed.
    failed = said.failure is not None or _state(quarantine) == "active"
    profile = selection.profile
    shown = Profile.QUARANTINE if failed else profile
    target = PROFILES[shown].target
    return Status(
        shown.value,
        selection.field,
        selection.reason,
        "failed" if failed else said.stage,
        said.ruleset,
        said.ruleset_sha256,
        _loaded(failed=failed) if profile.is_guest else None,
        tuple(_links(paths)),
        tor.bootstrap() if profile is Profile.TOR_GUEST else None,
        i2p.Watch(paths).state() if profile is Profile.I2P_GUEST else None,
        said.lease,
        target,
        _state(target),
        said.failure,
        said.hint,
    )


def _selection(paths: Paths) -> Selection:
    """What this boot recorded, else what the fields say to root."""
    value = files.load_json(paths.selection)
    if value is not None:
        return selection_from_json(value, str(paths.selection))
    if os.geteuid() == 0:
        return select(dmi.read_fields(paths.sysfs), container=dmi.in_container())
    return Selection(Profile.NORMAL, None, None, "no boot step recorded a selection")


def _loaded(*, failed: bool) -> bool | None:
    if failed:
        # Lockdown's table, which then replaced it, has the same name.
        return False
    if os.geteuid() != 0:
        return None
    try:
        return "inet tails_profiles" in nft.tables()
    except SystemFailureError:
        return None


def _state(target: str | None) -> str:
    if target is None:
        return "-"
    try:
        return units.properties(target, "ActiveState").get("ActiveState", "unknown")
    except SystemFailureError:
        return "systemd does not answer"


def _links(paths: Paths) -> list[LinkStatus]:
    directory = paths.sysfs / "class/net"
    return [
        LinkStatus(path.name, _read(path / "address"), _is_up(_read(path / "flags")))
        for path in sorted(directory.iterdir() if directory.is_dir() else ())
        # Drivers put plain files there too.
        if path.is_dir() and has_parent(path)
    ]


def _is_up(flags: str) -> bool:
    """IFF_UP, netdevice(7), in the kernel's hexadecimal; a link that has just gone has none."""
    try:
        return int(flags, 16) & 1 == 1
    except ValueError:
        return False


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return ""
