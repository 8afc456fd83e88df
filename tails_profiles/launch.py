# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide what to launch: guests, links and storage, in no hypervisor's words.

A ``LaunchPlan`` is complete: translating it (``qemu``) adds options, never a decision. Nothing here
looks at the machine; what must be known of it arrives as ``HostFacts``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from tails_profiles import settings as guest_settings
from tails_profiles.constants import APP_USER, GATEWAY_USER, LINKS, LinkConstants
from tails_profiles.errors import LaunchError
from tails_profiles.profile import SETTINGS_TAG, Profile, token
from tails_profiles.settings import Settings


@dataclass(frozen=True, slots=True)
class Machine:
    """What a guest's virtual hardware is: a constant, the same on every host on earth.

    ``memory`` is in MiB. ``screen`` is its size in pixels, or None where nobody looks.
    """

    memory: int
    processors: int
    uuid: UUID
    screen: tuple[int, int] | None


#: The gateways' memory is what they were measured to work in, with room for the real network's
#: consensus; app-guest's is what a desktop asks for.
MACHINES: Mapping[Profile, Machine] = {
    Profile.TOR_GUEST: Machine(320, 1, UUID("7461696c-732d-4000-8000-746f72000001"), None),
    Profile.I2P_GUEST: Machine(320, 1, UUID("7461696c-732d-4000-8000-693270000001"), None),
    Profile.APP_GUEST: Machine(2048, 1, UUID("7461696c-732d-4000-8000-617070000001"), (1280, 800)),
}


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """One guest. ``clock`` is the time of its clock at power-on, UTC.

    ``directory`` holds its sockets and its settings disk. Uplinks start unplugged: the link gate
    opens once the guest has said ``firewall``.
    """

    profile: Profile
    machine: Machine
    token: str
    settings_tag: str
    links: tuple[LinkConstants, ...]
    settings: Settings
    clock: datetime
    user: str
    directory: Path

    @property
    def settings_disk(self) -> Path:
        """The image that carries the settings."""
        return self.directory / "settings.iso"

    @property
    def serial(self) -> Path:
        """Where the guest's words can be read."""
        return self.directory / "serial"

    @property
    def monitor(self) -> Path:
        """The hypervisor's control socket."""
        return self.directory / "qmp"

    @property
    def screen(self) -> Path:
        """Where a viewer finds the guest's screen (VNC over a unix socket)."""
        return self.directory / "screen"


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything one launch does, in the order it starts its guests.

    ``resolver`` and ``udp`` are what the gateways need beyond TCP; ``proxy`` is a proxy in a
    private range that they may reach all the same.
    """

    image: Path
    directory: Path
    guests: tuple[GuestPlan, ...]
    resolver: bool
    udp: bool
    proxy: tuple[IPv4Address, int] | None
    kvm: bool
    systemd: bool

    @property
    def link_directory(self) -> Path:
        """The sockets of the inner links."""
        return self.directory / "links"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the machine told us. ``available_memory`` is in MiB; ``now`` is its time, UTC.

    ``kvm``: a probe ran a virtual machine with it. ``systemd``: it can make transient units.
    """

    available_memory: int
    image_exists: bool
    kvm: bool
    systemd: bool
    now: datetime


#: MiB beside the guests' own memory: the hypervisor's processes and what the host keeps.
HOST_RESERVE = 512
#: Seconds by which a guest's clock may differ from the host's, either way (design: 5 s, exact
#: because I2P refuses skewed peers, 10 min).
CLOCK_RANGE: Mapping[Profile, float] = {
    Profile.TOR_GUEST: 5.0,
    Profile.I2P_GUEST: 0.0,
    Profile.APP_GUEST: 600.0,
}


def plan(
    image: Path,
    directory: Path,
    facts: HostFacts,
    settings: Mapping[Profile, Settings],
    clock_offsets: Mapping[Profile, float],
    *,
    i2p: bool,
) -> LaunchPlan:
    """Decide one launch.

    ``clock_offsets`` holds one random number from -1 to 1 for each guest. Raises LaunchError when
    the image is missing or the memory does not suffice.
    """
    if not facts.image_exists:
        raise LaunchError(f"{image}: no such image", hint="name a live image with --image FILE")
    profiles = _profiles(i2p=i2p)
    _require_memory(profiles, facts)
    tor = settings[Profile.TOR_GUEST]
    variant = guest_settings.variant(tor)
    return LaunchPlan(
        image,
        directory,
        tuple(
            _guest(profile, directory, facts, settings[profile], clock_offsets[profile], i2p=i2p)
            for profile in profiles
        ),
        resolver=variant.startswith(("tcp-dns", "tcp-udp")),
        udp=i2p or variant.startswith("tcp-udp"),
        proxy=guest_settings.private_proxy(tor),
        kvm=facts.kvm,
        systemd=facts.systemd,
    )


def _profiles(*, i2p: bool) -> tuple[Profile, ...]:
    gateways = (Profile.TOR_GUEST, Profile.I2P_GUEST) if i2p else (Profile.TOR_GUEST,)
    return (*gateways, Profile.APP_GUEST)


def _guest(
    profile: Profile,
    directory: Path,
    facts: HostFacts,
    settings: Settings,
    offset: float,
    *,
    i2p: bool,
) -> GuestPlan:
    return GuestPlan(
        profile,
        MACHINES[profile],
        token(profile),
        SETTINGS_TAG,
        tuple(link for link in LINKS[profile] if i2p or link.name != "i2p"),
        settings,
        facts.now.astimezone(UTC) + timedelta(seconds=round(offset * CLOCK_RANGE[profile])),
        GATEWAY_USER if profile.is_gateway else APP_USER,
        directory / profile,
    )


def _require_memory(profiles: Sequence[Profile], facts: HostFacts) -> None:
    needed = HOST_RESERVE + sum(MACHINES[profile].memory for profile in profiles)
    if facts.available_memory < needed:
        raise LaunchError(
            f"{facts.available_memory} MiB of memory are available and the guests need {needed}",
            hint="close other programs, or start without I2P",
        )
