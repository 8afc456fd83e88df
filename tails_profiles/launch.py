# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide what to launch: guests, links and storage, in no hypervisor's words.

A ``LaunchPlan`` is complete: translating it (``qemu``, ``virtualbox``) adds options, never a
decision. Nothing here looks at the machine; what it must know arrives as ``HostFacts``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from tails_profiles.constants import LINKS, LinkConstants
from tails_profiles.errors import LaunchError
from tails_profiles.profile import SETTINGS_TAG, Profile, token


class Display(StrEnum):
    """Where a guest's screen goes."""

    NONE = "none"
    FULL_SCREEN = "full-screen"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a guest's virtual hardware is: a constant, the same on every host on earth.

    ``memory`` is in MiB.
    """

    memory: int
    processors: int
    uuid: UUID
    display: Display


#: The gateways' memory is the least in which they were measured to work, with room for the real
#: network's consensus; app-guest's is what the image's desktop asks for.
MACHINES = {
    Profile.TOR_GUEST: Machine(320, 1, UUID("7461696c-732d-4000-8000-746f72000001"), Display.NONE),
    Profile.I2P_GUEST: Machine(320, 1, UUID("7461696c-732d-4000-8000-693270000001"), Display.NONE),
    Profile.APP_GUEST: Machine(
        2048, 1, UUID("7461696c-732d-4000-8000-617070000001"), Display.FULL_SCREEN
    ),
}

#: DMI strings every guest shows; versions and dates too, so that none of them is the host's.
DMI_VENDOR = "tails-profiles"
DMI_VERSION = "1"
DMI_DATE = "01/01/2026"


@dataclass(frozen=True, slots=True)
class Nic:
    """One network card. An uplink leads to the hypervisor's NAT, an inner link to a segment."""

    link: LinkConstants
    connected: bool


@dataclass(frozen=True, slots=True)
class GuestPlan:
    """One guest. ``clock_offset`` is in milliseconds, added to the host's UTC at power-on."""

    profile: Profile
    machine: Machine
    token: str
    settings_tag: str
    nics: tuple[Nic, ...]
    settings_disk: Path
    clock_offset: int
    dns: bool

    @property
    def name(self) -> str:
        """The guest's name, the profile's."""
        return self.profile


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything one launch does. ``directory`` holds sockets, disks and state, mode 0700."""

    image: Path
    directory: Path
    guests: tuple[GuestPlan, ...]


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the machine told us. ``available_memory`` is in MiB; ``clock_offsets`` are the random
    offsets drawn for this start, in milliseconds, by profile.
    """

    available_memory: int
    image_exists: bool


#: MiB beside the guests' own memory: the hypervisor's processes and what the host keeps.
HOST_RESERVE = 512


def plan(
    image: Path,
    directory: Path,
    facts: HostFacts,
    *,
    i2p: bool,
    dns: bool,
    clock_offsets: Sequence[int],
) -> LaunchPlan:
    """Decide the guests of one launch.

    ``dns`` says that tor-guest's transport needs the NAT's resolver. ``clock_offsets`` holds one
    offset per guest in the order tor-guest, i2p-guest, app-guest, in milliseconds: at most 5 s
    for tor-guest, zero for i2p-guest (I2P refuses skewed peers), at most 10 min for app-guest.

    Raises LaunchError when the image is missing or the memory does not suffice.
    """
    if not facts.image_exists:
        raise LaunchError(f"{image}: no such image", hint="name a live image with --image FILE")
    profiles = (
        (Profile.TOR_GUEST, Profile.I2P_GUEST, Profile.APP_GUEST)
        if i2p
        else (Profile.TOR_GUEST, Profile.APP_GUEST)
    )
    _require_memory(profiles, facts)
    offsets = dict(
        zip((Profile.TOR_GUEST, Profile.I2P_GUEST, Profile.APP_GUEST), clock_offsets, strict=True)
    )
    return LaunchPlan(
        image,
        directory,
        tuple(
            GuestPlan(
                profile,
                MACHINES[profile],
                token(profile),
                SETTINGS_TAG,
                _nics(profile, i2p=i2p),
                directory / f"{profile}.iso",
                offsets[profile],
                dns and profile is Profile.TOR_GUEST,
            )
            for profile in profiles
        ),
    )


def _nics(profile: Profile, *, i2p: bool) -> tuple[Nic, ...]:
    return tuple(
        # The link gate: an uplink is plugged in only once its guest has said "firewall".
        Nic(link, connected=not link.is_uplink)
        for link in LINKS[profile]
        if i2p or link.name != "i2p"
    )


def _require_memory(profiles: Sequence[Profile], facts: HostFacts) -> None:
    needed = HOST_RESERVE + sum(MACHINES[profile].memory for profile in profiles)
    if facts.available_memory < needed:
        raise LaunchError(
            f"{facts.available_memory} MiB of memory are available and the guests need {needed}",
            hint="close other programs, or start without I2P",
        )
