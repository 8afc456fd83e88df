# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on one host: launch one guest as ``host start`` does, and keep what it sees.

``python3 -m tests.same.inside IMAGE PROFILE OUTPUT [OLD NEW]...``: the dump as OUTPUT.tar.gz, what
sets this host apart as OUTPUT.json. Each OLD text of QEMU's options is NEW: planted differences.
"""

import grp
import json
import os
import platform
import pwd
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tails_profiles import launcher, qemu, settings
from tails_profiles.command import Command
from tails_profiles.constants import LINK_GROUP, TOR_SEGMENT
from tails_profiles.launch import GuestPlan, LaunchPlan
from tails_profiles.launch_steps import Await, Step
from tails_profiles.machine_steps import Monitor, StartMachine
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.running import Limits
from tests.same.peer import Peer

FACTOR = float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
DIRECTORY = Path("/run/tails-profiles-host")


class Watched(launcher.Launcher):
    """The launcher, with this process at the other end of the guest's inner link."""

    peer: Peer | None = None

    def __init__(self, plan: LaunchPlan, say: Callable[[str], None]) -> None:
        super().__init__(plan, say)
        self._links = plan.link_directory

    def carry_out(self, step: Step) -> None:
        """One step."""
        if isinstance(step, StartMachine):
            ends = [self._links / f"{TOR_SEGMENT}.{end}" for end in ("gateway", "app")]
            if step.guest.profile.is_gateway:
                ends.reverse()
            self.peer = Peer(ends[0], ends[1], grp.getgrnam(LINK_GROUP).gr_gid)
        super().carry_out(step)


def _belongs(step: Step, profile: Profile) -> bool:
    """Whether a step is done here: no other guest's, and no waiting for a gateway's words."""
    if isinstance(step, Await):
        return False
    if isinstance(step, Monitor) and step.arguments.get("up"):
        return False
    guest: GuestPlan | None = getattr(step, "guest", None)
    return guest is None or guest.profile is profile


def _planted(step: Step, planted: tuple[str, ...]) -> Step:
    if not isinstance(step, StartMachine):
        return step
    argv = step.command.argv
    for old, new in zip(planted[::2], planted[1::2], strict=True):
        assert any(old in word for word in argv), f"{old!r} is in no option"
        argv = tuple(word.replace(old, new) for word in argv)
    return replace(step, command=Command(argv))


def _facts(plan: LaunchPlan, profile: Profile) -> dict[str, str]:
    user = next(guest.user for guest in plan.guests if guest.profile is profile)
    version = subprocess.run(
        [qemu.QEMU, "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    return {
        "hypervisor": version,
        "time zone": f"{datetime.now().astimezone():%z}",
        "locale": os.environ.get("LC_ALL", ""),
        "host name": platform.node(),
        "user": os.environ.get("SUDO_USER", ""),
        "account": str(pwd.getpwnam(user).pw_uid),
        "link": Path("/sys/class/net/eth0/address").read_text().strip(),
        "machine": Path("/sys/class/dmi/id/product_serial").read_text().strip(),
        "clock": str(int(time.time())),
    }  # fmt: skip


def main(image: str, profile_name: str, output: str, *planted: str) -> None:
    """See the module."""
    profile = Profile(profile_name)
    chosen = {each: settings.defaults(each) for each in GUESTS}
    plan = launcher.make_plan(Path(image), DIRECTORY, chosen, i2p=False)
    steps = tuple(step for step in launcher.make_steps(plan) if _belongs(step, profile))
    steps = tuple(_planted(step, planted) for step in steps)
    watched = Watched(plan, lambda words: print(words, file=sys.stderr))
    watched.start(steps)
    try:
        assert watched.peer is not None
        Path(f"{output}.tar.gz").write_bytes(watched.peer.receive(120 * FACTOR))
    finally:
        launcher.stop(DIRECTORY, lambda _: None, Limits(0, 0))
    Path(f"{output}.json").write_text(json.dumps(_facts(plan, profile)))


if __name__ == "__main__":
    main(*sys.argv[1:])
