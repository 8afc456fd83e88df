# SPDX-License-Identifier: GPL-3.0-or-later
"""Collect what this boot has become."""

import os
from pathlib import Path

from tails_profiles.errors import DetectionError, SystemFailureError
from tails_profiles.paths import Paths
from tails_profiles.profile import PROFILES, Profile
from tails_profiles.status import LinkStatus, Status
from tails_profiles.system import files, nft, tor, units
from tails_profiles.system.links import has_parent


def read_status(paths: Paths) -> Status:
    """The state files of this boot, and beside them what the kernel and systemd say now."""
    recorded = files.read_json(paths.status) or {}
    selection = files.read_json(paths.selection) or {}
    failure = files.read_json(paths.failure)
    profile = _profile(selection.get("profile", Profile.NORMAL), paths)
    shown = Profile.QUARANTINE if failure else profile
    target = PROFILES[shown].target
    return Status(
        shown.value,
        selection.get("field"),
        "failed" if failure else recorded.get("stage", "-"),
        recorded.get("ruleset"),
        recorded.get("ruleset_sha256"),
        _loaded() if profile.is_guest else None,
        tuple(_links(paths)),
        tor.bootstrap() if profile is Profile.TOR_GUEST else None,
        (files.read_json(paths.lease) or {}).get("note"),
        target,
        _state(target),
        failure["message"] if failure else None,
    )


def _profile(name: object, paths: Paths) -> Profile:
    try:
        return Profile(str(name))
    except ValueError as err:
        raise DetectionError(
            f"{paths.selection} names the profile {name!r}", hint="it is damaged"
        ) from err


def _loaded() -> bool | None:
    if os.geteuid() != 0:
        return None
    return "inet tails_profiles" in nft.tables()


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
        LinkStatus(
            path.name, _read(path / "address"), int(_read(path / "flags") or "0", 16) & 1 == 1
        )
        for path in sorted(directory.iterdir() if directory.is_dir() else ())
        if has_parent(path)
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
