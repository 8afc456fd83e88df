# SPDX-License-Identifier: GPL-3.0-or-later
"""The guests as ``tails-profiles host start`` starts them, before a private Tor network.

The launcher's steps are carried out as they are, but for QEMU's options for the root shell, and for
a hub in each link with a capture and a tap from power-on.
"""

import contextlib
import ctypes
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tails_profiles import launcher, settings
from tails_profiles.command import Command
from tails_profiles.errors import LaunchError, ProfilesError
from tails_profiles.launch import LaunchPlan, with_bundle
from tails_profiles.launch_steps import Step
from tails_profiles.machine_steps import StartMachine
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import I2pSettings, Settings
from tails_profiles.shares import Choice
from tests.lab.tornet import wait_for
from tests.vm import image
from tests.vm.image import File, Layer
from tests.vm.machine import POWER_ON, Machine, doors, watched
from tests.vm.world import World

_CLONE_NEWNET = 0x40000000


@contextmanager
def namespace(name: str) -> Iterator[None]:
    """This thread, and what it starts, in a network namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    assert library.setns(there, _CLONE_NEWNET) == 0
    try:
        yield
    finally:
        assert library.setns(here, _CLONE_NEWNET) == 0
        os.close(here)
        os.close(there)


class WatchedLauncher(launcher.Launcher):
    """The launcher; each machine's captures get their canary before it is told to go."""

    def __init__(
        self, plan: LaunchPlan, say: Callable[[str], None], machines: dict[Profile, Machine]
    ) -> None:
        super().__init__(plan, say)
        self._machines = machines

    def carry_out(self, step: Step) -> None:
        """One step."""
        super().carry_out(step)
        if isinstance(step, StartMachine):
            guest = step.guest
            machine = Machine(
                guest.profile.value, guest.directory, tuple(link.name for link in guest.links)
            )
            wait_for(
                f"{guest.profile}: taps and door",
                lambda: all(
                    (guest.directory / name).exists()
                    for name in ("shell", *(f"{link}.tap" for link in machine.links))
                ),
                60,
            )
            machine.open_door()
            machine.mark(POWER_ON)
            self._machines[guest.profile] = machine


class Guests:
    """A launch in a namespace of its own, whose uplink leads to a private Tor network.

    Without ``private``: in the network where this runs, as the launcher itself would. With ``i2p``:
    as with ``--i2p --reseed``, and a private I2P network beside Tor's.
    """

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None] | None = None,
        *,
        private: bool = True,
        i2p: bool = False,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        # Machines do not run as root.
        directory.chmod(0o755)
        self._i2p = i2p
        self.world = World(directory, "v", i2p=i2p)
        self.network = self.world.network
        self.state = directory / "host"
        self.image = directory / "test.iso"
        self.said: list[str] = []
        self._tell = say or self._print
        self._private = private
        self.machines: dict[Profile, Machine] = {}

    @property
    def tor(self) -> Machine:
        """tor-guest."""
        return self.machines[Profile.TOR_GUEST]

    @property
    def i2p(self) -> Machine:
        """i2p-guest."""
        return self.machines[Profile.I2P_GUEST]

    @property
    def app(self) -> Machine:
        """app-guest."""
        return self.machines[Profile.APP_GUEST]

    def prepare(self) -> None:
        """The Tor network, the namespace of the gateways' machines, and the test image."""
        if not self._private:
            image.make(self.image)
            return
        self.world.start()
        layer: Layer = {}
        if self.world.i2p is not None:
            # The address book would be fetched only minutes after the router's start.
            layer = {
                image.I2P_ADDITIONS: File(self.world.i2p.additions),
                "var/lib/i2pd/hosts.txt": File(self.world.i2p.names),
            }
        image.make(self.image, layer, torrc=self.network.client_torrc())

    def start(
        self, given: Mapping[Profile, Settings] | None = None, shares: Sequence[Choice] = ()
    ) -> None:
        """Everything that ``tails-profiles host start`` does."""
        chosen = {profile: settings.defaults(profile) for profile in GUESTS}
        if self._i2p:
            app = chosen[Profile.APP_GUEST]
            chosen[Profile.APP_GUEST] = replace(app, i2p=I2pSettings())
        chosen |= dict(given or {})
        with self._network():
            plan = launcher.make_plan(self.image, self.state, chosen, i2p=self._i2p)
            plan = with_bundle(plan, self._bundle())
            plan = launcher.with_shares(plan, shares)
            steps = tuple(map(_watched, launcher.make_steps(plan)))
            try:
                WatchedLauncher(plan, self._say, self.machines).start(steps)
            except ProfilesError as err:
                err.add_note(err.hint or "no hint")
                raise

    def _bundle(self) -> bytes:
        if self.world.i2p is None:
            return b""
        path = self.directory / "reseed.zip"
        self.world.i2p.bundle(path)
        return path.read_bytes()

    def _network(self) -> contextlib.AbstractContextManager[None]:
        return namespace(self.world.namespace) if self._private else contextlib.nullcontext()

    def _say(self, words: str) -> None:
        self.said.append(words)
        self._tell(words)

    def _print(self, words: str) -> None:
        print(f"{time.monotonic():8.1f} {words}", flush=True)

    def switch_off(self) -> None:
        """Press the power buttons, app-guest's first; captures are complete afterwards."""
        for profile, machine in reversed(self.machines.items()):
            machine.power_off(120)
            machine.end()
            wait_for(f"{profile} to end", lambda name=profile: not self._runs(name), 60)

    def _runs(self, profile: Profile) -> bool:
        guests = launcher.status(self.state)["guests"]
        return any(guest["running"] for guest in guests if guest["profile"] == profile)

    def stop(self) -> None:
        """``tails-profiles host stop``."""
        for machine in self.machines.values():
            # As the launcher started it: QEMU ends with its machine.
            with contextlib.suppress(LaunchError):
                machine.monitor("set-action", shutdown="poweroff")
        with self._network():
            launcher.stop(self.state, self._say)

    def keep_evidence(self, folder: Path) -> None:
        """What the guests can still show."""
        for machine in self.machines.values():
            machine.keep_evidence(folder)
        for log in self.state.glob("*.log"):
            shutil.copy(log, folder)

    def close(self) -> None:
        """Everything, the networks too."""
        if self.state.exists():
            self.stop()
        self.world.close()
        shutil.rmtree(self.directory)


def _watched(step: Step) -> Step:
    if not isinstance(step, StartMachine):
        return step
    where = step.guest.directory
    argv = (*watched(step.command.argv, where), *doors(where))
    return replace(step, command=Command(argv))
