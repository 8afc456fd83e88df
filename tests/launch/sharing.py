# SPDX-License-Identifier: GPL-3.0-or-later
"""A world whose app-guest has a share, and runs a program of the test in it.

The guest has the host's own /usr as a second, read-only share, so that the programs that the test
asks for are the real ones. Only app-guest is started.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from tails_profiles import launcher, qemu
from tails_profiles.command import Command
from tails_profiles.launch import LaunchPlan
from tails_profiles.launch_steps import Step
from tails_profiles.machine_steps import StartMachine
from tails_profiles.profile import Profile
from tails_profiles.settings import Feature
from tails_profiles.shares import FOLDERS, LIVE_UID, MOUNT_OPTIONS, Choice
from tails_profiles.system import machines
from tests.launch import tiny
from tests.launch.world import FACTOR, World

FEATURE = Feature.PERSISTENT_DIRECTORY
TAG = FOLDERS[FEATURE].tag
#: QEMU's words for the host's /usr.
USR = (
    "-fsdev", "local,id=usr,path=/usr,security_model=none,readonly=on",
    "-device", "virtio-9p-pci,fsdev=usr,mount_tag=usr",
)  # fmt: skip
Change = Callable[[tuple[str, ...]], tuple[str, ...]]


def unchanged(words: tuple[str, ...]) -> tuple[str, ...]:
    """A machine's command line as it is."""
    return words


class Sharing(World):
    """A world with a folder of a user's."""

    def __enter__(self) -> Self:
        # While there is a network.
        tiny.system(tiny.SHARE_KERNEL)
        return super().__enter__()

    @property
    def folder(self) -> Path:
        """The user's folder."""
        return self.top / "folder"

    @property
    def secret(self) -> Path:
        """A file beside the folder."""
        return self.top / "secret"

    def empty(self) -> None:
        """A new folder, the live user's, with nothing in it."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700)
        os.chown(self.folder, LIVE_UID, LIVE_UID)
        self.secret.write_text("not for a guest\n")
        # Open to everybody: only that it is elsewhere keeps a guest from it.
        self.secret.chmod(0o644)

    def put(self, name: str, text: str, mode: int = 0o600) -> Path:
        """A file in the folder, the live user's."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, LIVE_UID, LIVE_UID)
        return path

    def shared(
        self, *, writable: bool = True, options: str = MOUNT_OPTIONS, modules: str = ""
    ) -> LaunchPlan:
        """A launch that shares the folder, which the guest mounts with ``options``."""
        more = {"modules": modules} if modules else {}
        image = self.image(share=TAG, options=options, **more)
        return self.plan(image, shares=(Choice(FEATURE, self.folder, writable),))

    def begin(
        self, program: str, *, writable: bool = True, change: Change = unchanged, modules: str = ""
    ) -> machines.Process:
        """Start app-guest, which runs a Python program; ``change`` what its machine is told."""
        self.put("program", program)
        self.put("run", "exec /usr/bin/python3 -B /share/program\n")
        plan = self.shared(writable=writable, modules=modules)
        self.start(plan, steps=app_guest_alone(launcher.make_steps(plan), change))
        return self.machine(Profile.APP_GUEST)

    def wait_for(self, name: str, process: machines.Process) -> Path:
        """A file of the folder, once it is there; an error when the guest ended before."""
        path = self.folder / name
        deadline = time.monotonic() + 180 * FACTOR
        while not path.exists():
            assert time.monotonic() < deadline, f"no {name}: {self.log}"
            assert not machines.wait_until_ended(process, 0.005), f"the guest ended: {self.log}"
        return path

    @property
    def log(self) -> str:
        """What the guest's program printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else "(it said nothing)"

    def finish(self, process: machines.Process) -> str:
        """Wait until the program has ended, switch everything off; what it printed."""
        self.wait_for("done", process)
        self.stop()
        return self.log


def app_guest_alone(steps: tuple[Step, ...], change: Change) -> tuple[Step, ...]:
    """Without the gateway; app-guest's machine with /usr, and changed."""
    found: list[Step] = []
    for step in steps:
        guest = getattr(step, "guest", None)
        if guest is not None and guest.profile is not Profile.APP_GUEST:
            continue
        if isinstance(step, StartMachine):
            words = change((*step.command.argv, *USR))
            found.append(replace(step, command=Command(words)))
        else:
            found.append(step)
    return tuple(found)


def with_real_modes(words: tuple[str, ...]) -> tuple[str, ...]:
    """The anti-test: files of the guest are what it calls them."""
    return tuple(word.replace("mapped-xattr,fmode=0600,dmode=0700", "none") for word in words)


def runner(plan: LaunchPlan) -> tuple[str, ...]:
    """Everything that the launcher puts before QEMU in app-guest's machine."""
    words: Mapping[Profile, tuple[str, ...]] = {
        guest.profile: qemu.guest_command(guest, plan).argv for guest in plan.guests
    }
    argv = words[Profile.APP_GUEST]
    return argv[: argv.index(qemu.QEMU)]
