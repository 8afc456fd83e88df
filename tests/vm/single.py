# SPDX-License-Identifier: GPL-3.0-or-later
"""One machine by itself, with the very options that the launcher gives to QEMU.

A case changes the plan, the options, or the image's top layer. Nobody is at the other end of the
inner link; the uplink is QEMU's NAT with nothing behind it. There is no link gate: every cable is
plugged in from power-on, so that only the guest's own layers keep frames from leaving.
"""

import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Self

from tails_profiles import launch, qemu, settings, settings_disk
from tails_profiles.launch import GuestPlan, HostFacts, ImageFacts, LaunchPlan
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import Settings
from tails_profiles.system import machines
from tests.lab.tornet import wait_for
from tests.vm import image
from tests.vm.image import Layer
from tests.vm.machine import POWER_ON, Machine, Serial, doors, watched

Argv = tuple[str, ...]
SEED = bytes(64)


@cache
def kvm_works() -> bool:
    """Asked once: it runs a machine."""
    return machines.accelerator_works("kvm", qemu.QEMU, qemu.CPU_MODEL)


def same_plan(guest: GuestPlan) -> GuestPlan:
    """A plan as the launcher has it."""
    return guest


def same_argv(argv: Argv, directory: Path) -> Argv:
    """The options as the launcher has them."""
    return argv


def disk(values: Settings) -> bytes:
    """A settings disk."""
    return settings_disk.build(settings.serialize(values), SEED)


@dataclass(frozen=True)
class Spec:
    """One machine to start.

    ``profile`` is whose hardware it is; ``ours`` whether its image has our packages. ``disk`` is
    the content of its settings disk, None for what belongs to the profile. ``layer`` and
    ``arguments`` go into its copy of the image. ``namespace`` is the network that its NAT leads to,
    None for one with nothing in it.
    """

    name: str
    profile: Profile = Profile.TOR_GUEST
    change: Callable[[GuestPlan], GuestPlan] = same_plan
    argv: Callable[[Argv, Path], Argv] = same_argv
    disk: bytes | None = None
    layer: Layer = field(default_factory=dict)
    arguments: str = ""
    ours: bool = True
    namespace: str | None = None
    given: Mapping[Profile, Settings] = field(default_factory=dict)


def plan_of(spec: Spec, directory: Path) -> tuple[GuestPlan, LaunchPlan]:
    """What the launcher would start, with the case's change."""
    chosen = {profile: settings.defaults(profile) for profile in GUESTS} | dict(spec.given)
    image_facts = ImageFacts(0, 0, 0, 0)
    facts = HostFacts(1 << 20, image_facts, kvm_works(), systemd=False, now=datetime.now(UTC))
    plan = launch.plan(
        directory / "test.iso", directory, facts, chosen, dict.fromkeys(GUESTS, 0.0),
        i2p=spec.profile is Profile.I2P_GUEST,
    )  # fmt: skip
    (guest,) = (guest for guest in plan.guests if guest.profile is spec.profile)
    return spec.change(replace(guest, directory=directory)), plan


class Single(Machine):
    """One machine, as a context manager: started, and gone at the end, whatever happens."""

    def __init__(self, spec: Spec, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.guest, self.plan = plan_of(spec, directory)
        self._argv = spec.argv(qemu.qemu_argv(self.guest, self.plan), directory)
        self._network = (
            ("ip", "netns", "exec", spec.namespace) if spec.namespace else ("unshare", "--net")
        )
        names = [word.split("id=", 1)[1].split(",")[0]
                 for option, word in zip(self._argv, self._argv[1:], strict=False)
                 if option == "-netdev"]  # fmt: skip
        super().__init__(spec.name, directory, tuple(names))
        self._process: subprocess.Popen[bytes] | None = None
        image.make(directory / "test.iso", spec.layer, spec.arguments, ours=spec.ours)
        self.guest.settings_disk.write_bytes(
            disk(self.guest.settings) if spec.disk is None else spec.disk
        )
        self.plan.link_directory.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()
        (self.directory / "test.iso").unlink(missing_ok=True)

    def start(self) -> None:
        """Power on, captures first."""
        argv = (*watched(self._argv, self.directory), *doors(self.directory))
        with (self.directory / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._network, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(f"{self.name}: QEMU", self._is_listening, 60)
        if self.guest.profile.is_gateway:
            self.serial = Serial(self.guest.serial)
        self.open_door()
        self.mark(POWER_ON)
        self.monitor("cont")

    def _is_listening(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "qemu.log").read_text()
        return all(
            (self.directory / name).exists()
            for name in ("qmp", "shell", *(f"{link}.tap" for link in self.links))
        )

    def cpu_seconds(self) -> float:
        """Processor time of the machine so far."""
        assert self._process is not None
        text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        words = text.rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def finish(self) -> None:
        """The last canary, then the end of QEMU: captures are complete."""
        assert self._process is not None
        if self.status() != "shutdown":
            self.monitor("stop")
        self.end()
        self._process.wait(60)

    def cut_power(self) -> None:
        """What happens to a machine whose plug is pulled."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.shut_door()
        for path in (
            *self.directory.glob("*.tap"),
            self.directory / "qmp",
            self.directory / "shell",
        ):
            path.unlink(missing_ok=True)
