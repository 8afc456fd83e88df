# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own code beside the real VirtualBox: ``python3 -m tests.virtualbox.inside ACTION …``.

Runs in the root directory of ``world``, with this source tree in it, so that users, paths and
processes are what they are on a machine. Prints one JSON object.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tails_profiles import launch, launch_steps, settings, settings_disk, shares, vboxmanage
from tails_profiles.command import Command
from tails_profiles.errors import ProfilesError
from tails_profiles.launch import GuestPlan, HostFacts, ImageFacts, LaunchPlan
from tails_profiles.launch_steps import BindFolder
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.quota import Space
from tails_profiles.system import mounts, vbox
from tails_profiles.system.process import Completed, run
from tails_profiles.system.vbox import Tool

DIRECTORY = Path("/run/tails-profiles-host")
IMAGE = Path("/srv/image.iso")
FACTS = HostFacts(
    8192, ImageFacts(1, 2, 3, 4), kvm=True, systemd=False, now=datetime(2026, 1, 1, tzinfo=UTC)
)
#: Of each folder: no project quota.
SPACE = Space(1, 2, 0, enforced=False, size=1 << 40, free=1 << 39, inodes=0, free_inodes=0)
SYSUSERS = Path(__file__).parents[2] / "sysusers/tails-profiles.conf"


def plan(
    offset: float, directory: Path = DIRECTORY, choices: Sequence[shares.Choice] = ()
) -> LaunchPlan:
    made = launch.plan(
        IMAGE, directory, FACTS, {profile: settings.defaults(profile) for profile in GUESTS},
        dict.fromkeys(GUESTS, offset), i2p=True,
    )  # fmt: skip
    return launch.sharing(made, choices, {choice.source: SPACE for choice in choices})


def prepare(made: LaunchPlan) -> None:
    """What a launch has done before it makes a machine."""
    run(Command(("/usr/bin/systemd-sysusers", str(SYSUSERS))))
    IMAGE.parent.mkdir(exist_ok=True)
    if not IMAGE.exists():
        IMAGE.write_bytes(bytes(2048 * 100))
    made.directory.mkdir(mode=0o711, exist_ok=True)
    for guest in made.guests:
        own = vboxmanage.home(guest.profile, made.directory)
        for path in (guest.directory, own, vboxmanage.config(own), own / "machines"):
            run(Command(("/usr/bin/install", "-d", "-m", "0700", "-o", guest.user, "-g", guest.user,
                         str(path))))  # fmt: skip
        if not guest.settings_disk.exists():
            data = settings.serialize(guest.settings)
            guest.settings_disk.write_bytes(
                settings_disk.build(data, bytes(settings_disk.SEED_BYTES))
            )
            run(Command(("/usr/bin/chgrp", guest.user, str(guest.settings_disk))))
            guest.settings_disk.chmod(0o440)


def bind(made: LaunchPlan) -> None:
    """The user's folders where the machines find them, by the launch's own steps.

    What an earlier start left is taken away first, as ``host start`` does.
    """
    for path in mounts.below(made.share_directory):
        mounts.unmount(path)
    for step in launch_steps.steps(made, dict.fromkeys(GUESTS, bytes(settings_disk.SEED_BYTES))):
        words = step.argv if isinstance(step, Command) else ()
        if words[:2] == ("/usr/bin/install", "-d") and str(made.share_directory) in words[-1]:
            run(Command(words))
        if isinstance(step, BindFolder):
            mounts.bind(
                step.share.source, step.share.target, step.user, writable=step.share.writable
            )


class Counted:
    """Every command that is run. Before the one numbered ``last`` (from 0) something happens:

    ``die``: this program is killed. ``service``: VBoxSVC is. ``fill``: the disk is full.
    """

    def __init__(self, last: int | None, then: str) -> None:
        self.calls: list[tuple[str, ...]] = []
        self._last = last
        self._then = then

    def __call__(self, command: Command, **options: Any) -> Completed:
        if len(self.calls) == self._last:
            self._meddle()
        self.calls.append(command.argv)
        return run(command, **options)

    def _meddle(self) -> None:
        if self._then == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._then == "fill":
            fill(DIRECTORY / vboxmanage.HOMES[0])
            return
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and b"VBoxSVC" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def fill(directory: Path) -> None:
    """Leave not a byte to others."""
    for size in (1 << 16, 1 << 12, 1):
        with (directory / "full").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(size)):
                pass
    assert os.statvfs(directory).f_bavail == 0


def changed(guest: GuestPlan, made: LaunchPlan, extradata: Mapping[str, str]) -> vboxmanage.Machine:
    machine = vboxmanage.machine(guest, made, vboxmanage.NEWEST)
    return dataclasses.replace(machine, extradata={**machine.extradata, **extradata})


def ensure(arguments: argparse.Namespace) -> dict[str, Any]:
    made = plan(arguments.offset, choices=shares.choices(arguments.share))
    prepare(made)
    if not arguments.unbound:
        bind(made)
    counted = Counted(arguments.last, arguments.then)
    vbox.run = counted  # type: ignore[attr-defined]
    found: dict[str, Any] = {"version": None, "guests": {}}
    for guest in made.guests:
        if arguments.guest and guest.profile != arguments.guest:
            continue
        tool = Tool(guest.profile, made.directory)
        version = vboxmanage.Version(*vbox.version())
        machine = changed(guest, made, dict(each.split("=", 1) for each in arguments.extradata))
        before = len(counted.calls)
        removed = vbox.ensure(machine, tool, version)
        found["guests"][guest.profile] = {
            "uuid": str(machine.uuid),
            "calls": [_shown(argv) for argv in counted.calls[before:]],
            "removed": [str(each) for each in removed],
            "settings": str(machine.settings_file),
            "differences": [str(each) for each in tool.differences(machine, version)],
        }
        found["version"] = ".".join(map(str, version))
    return found


def _shown(argv: tuple[str, ...]) -> str:
    """The program, and VBoxManage's verb."""
    start = next(number for number, word in enumerate(argv) if word.startswith("LANG=")) + 1
    return " ".join(argv[start : start + 2])


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--guest", type=Profile)
    parser.add_argument("--offset", type=float, default=1.0)
    parser.add_argument("--last", type=int)
    parser.add_argument("--then", default="die")
    parser.add_argument("--extradata", action="append", default=[])
    parser.add_argument("--share", action="append", default=[])
    parser.add_argument("--unbound", action="store_true")
    try:
        found = ensure(parser.parse_args())
    except ProfilesError as err:
        found = {"error": str(err), "hint": err.hint}
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
