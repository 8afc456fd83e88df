# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts: this machine's Debian, and the other release with its own QEMU and Python.

Each has namespaces of its own, and differs in what tells real hosts apart: QEMU, time zone, locale,
names, accounts, MAC addresses, DMI. Not in its processor, which is this machine's.
"""

import json
import platform
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from tails_profiles.profile import Profile
from tests.sabotage import root

TOP = Path(__file__).parents[2]
PACKAGES = ("qemu-system-x86", "seabios")


@dataclass(frozen=True)
class Host:
    """``release``: a root directory of that Debian release, or None for this machine's own."""

    release: str | None
    time_zone: str
    locale: str
    name: str
    user: str
    mac: str
    vendor: str
    serial: str


@dataclass(frozen=True)
class Seen:
    """What a guest saw on a host; ``facts`` are of the host itself."""

    facts: dict[str, str]
    archive: bytes = field(repr=False)


def other_release() -> str:
    """The Debian release that this machine does not have."""
    own = platform.freedesktop_os_release().get("VERSION_CODENAME")
    return next(suite for suite in root.SUITES if suite != own)


def two() -> tuple[Host, Host]:
    """The two hosts."""
    return (
        Host(None, "America/Caracas", "de_DE.UTF-8", "rosa-laptop", "rosa", "a4:bb:6d:11:22:33",
             "LENOVO", "PF-3X0Y1Z"),
        Host(other_release(), "Asia/Kathmandu", "fa_IR.UTF-8", "newsroom-7", "amir",
             "3c:52:82:44:55:66", "Dell Inc.", "8HK2LM3"),
    )  # fmt: skip


def prepare(host: Host) -> str:
    """Its root directory, made when missing; empty for this machine's own."""
    return str(root.base(host.release, PACKAGES)) if host.release else ""


def look(host: Host, image: Path, profile: Profile, planted: tuple[str, ...] = ()) -> Seen:
    """Launch a guest there, and return what it saw.

    ``planted``: texts of QEMU's options, each followed by the one to put in its place.
    """
    lower = prepare(host)
    with tempfile.TemporaryDirectory(prefix="tp-same-", dir="/var/tmp") as name:
        shared = Path(name)
        shared.chmod(0o755)
        (shared / "image.iso").hardlink_to(image)
        (shared / "work").mkdir()
        done = subprocess.run(
            ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
             "--propagation", "private", "bash", str(Path(__file__).parent / "enter"), lower,
             str(TOP), str(shared), host.time_zone, host.locale, host.name, host.user, host.mac,
             host.vendor, host.serial, "image.iso", profile.value, "out", *planted],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, f"{host.name}: {done.stdout}{done.stderr}"
        facts = json.loads((shared / "out.json").read_text())
        return Seen(facts, (shared / "out.tar.gz").read_bytes())
