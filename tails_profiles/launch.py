# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide what to launch: guests, links and storage, in no hypervisor's words.

A ``LaunchPlan`` is complete: translating it (``qemu``) adds options, never a decision. Nothing here
looks at the machine; what must be known of it arrives as ``HostFacts``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from tails_profiles import settings as guest_settings
from tails_profiles.constants import APP_USER, GATEWAY_USER, LINKS, LinkConstants
from tails_profiles.errors import LaunchError, SettingsError
from tails_profiles.profile import SETTINGS_TAG, Profile, token
from tails_profiles.quota import Limit, Space, Unlimited, decide
from tails_profiles.settings import Settings, Share
from tails_profiles.shares import FOLDERS, Choice, SharedFolder


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
    """One guest. ``clock`` is the time of its clock at power-on, UTC; ``clock_offset`` is how much
    that is ahead of the host's.

    ``directory`` holds its sockets and its settings disk. Uplinks start unplugged: the link gate
    opens once the guest has said ``firewall``. ``bundle``: the first routers of an i2p-guest.
    """

    profile: Profile
    machine: Machine
    token: str
    settings_tag: str
    links: tuple[LinkConstants, ...]
    settings: Settings
    clock: datetime
    clock_offset: timedelta
    user: str
    directory: Path
    bundle: bytes = field(default=b"", repr=False)
    shares: tuple[SharedFolder, ...] = ()

    @property
    def log(self) -> Path:
        """What the hypervisor itself says; in a directory that no guest's user may write to."""
        return self.directory.with_name(f"{self.profile}.log")

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
class ImageFacts:
    """What tells one state of the image's file from another: stat(2); ``changed`` in ns."""

    device: int
    inode: int
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Display:
    """An X screen: DISPLAY, and the file of XAUTHORITY if that is set."""

    name: str
    authority: Path | None


@dataclass(frozen=True, slots=True)
class VirtualBoxFacts:
    """VirtualBox's version, major and minor, and the screen that app-guest fills, if any."""

    version: tuple[int, int]
    display: Display | None


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """Everything one launch does, in the order it starts its guests.

    ``resolver`` and ``udp`` are what the gateways need beyond TCP: the one address that names are
    asked of, if any. ``proxy`` is a proxy in a private range that they may reach all the same.
    ``sysusers`` is the file of accounts. ``exclusive``: while the guests run, nothing else of this
    machine has a network.
    """

    image: Path
    image_facts: ImageFacts
    directory: Path
    sysusers: Path
    guests: tuple[GuestPlan, ...]
    resolver: IPv4Address | None
    udp: bool
    proxy: tuple[IPv4Address, int] | None
    kvm: bool
    systemd: bool
    exclusive: bool = False
    virtualbox: VirtualBoxFacts | None = None

    @property
    def link_directory(self) -> Path:
        """The sockets of the inner links."""
        return self.directory / "links"

    @property
    def share_directory(self) -> Path:
        """Below it a directory for each guest, and in that a mount for each of its shares."""
        return self.directory / "shares"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the machine told us. ``available_memory`` is in MiB; ``now`` is its time, UTC.

    ``image`` is None where there is no such file. ``kvm``: a probe ran a virtual machine with it.
    ``systemd``: it can make transient units. ``resolver`` is the one that user-mode networking
    asks: the first IPv4 server of resolv.conf(5). ``sysusers`` is the file of accounts.
    ``virtualbox`` is None where QEMU is to be used.
    """

    available_memory: int
    image: ImageFacts | None
    kvm: bool
    systemd: bool
    now: datetime
    resolver: IPv4Address | None = None
    sysusers: Path = Path("/usr/lib/sysusers.d/tails-profiles.conf")
    virtualbox: VirtualBoxFacts | None = None


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
    the image is missing, a path cannot be used, the memory does not suffice, or bridges need names
    and nobody here answers for them; SettingsError for what no guest carries out yet.
    """
    if facts.image is None:
        raise LaunchError(f"{image}: no such image", hint="name a live image with --image FILE")
    _require_usable_paths(image, directory)
    profiles = _profiles(i2p=i2p)
    _require_memory(profiles, facts)
    tor = settings[Profile.TOR_GUEST]
    for each in settings.values():
        guest_settings.refuse_unbuilt(each)
        if each.shares:
            raise SettingsError(
                "shares: a settings file names no folder of this machine",
                hint="leave it out, and use --share FEATURE=DIRECTORY",
            )
    variant = guest_settings.variant(tor)
    return LaunchPlan(
        image,
        facts.image,
        directory,
        facts.sysusers,
        tuple(
            _guest(profile, directory, facts, settings[profile], clock_offsets[profile], i2p=i2p)
            for profile in profiles
        ),
        resolver=_resolver(variant, facts),
        udp=i2p or variant.startswith("tcp-udp"),
        proxy=guest_settings.private_proxy(tor),
        kvm=facts.kvm,
        systemd=facts.systemd,
        virtualbox=facts.virtualbox,
    )


def exclusively(plan: LaunchPlan) -> LaunchPlan:
    """The same launch on a machine whose network is for its guests alone.

    Raises LaunchError where the one who answers for names is among those who may ask nobody.
    """
    if plan.resolver is not None and plan.resolver.is_loopback:
        raise LaunchError(
            f"these bridges are found by name, and {plan.resolver}, which answers for them on this"
            " machine, may ask nobody with --exclusive",
            hint="name the network's own resolver in /etc/resolv.conf, or leave --exclusive out",
        )
    return replace(plan, exclusive=True)


def warnings(plan: LaunchPlan) -> tuple[str, ...]:
    """What was asked for and this launch cannot give, or not without a danger; for a person."""
    return (*_warnings_of_shares(plan), *_warnings_of_calls(plan))


def _warnings_of_shares(plan: LaunchPlan) -> Iterator[str]:
    for guest in plan.guests:
        for share in guest.shares:
            growth, about = share.growth, f"{share.feature}: {guest.profile} can"
            if isinstance(growth, Unlimited):
                yield (
                    f"{about} fill the file system of {share.source}, of which"
                    f" {growth.free >> 20} MiB are free: {growth.why}; see docs/shares.md"
                )
            elif growth is not None and growth.is_nothing:
                yield (
                    f"{about} add nothing to {share.source}, whose file system has no more free"
                    " than what guests leave; see docs/shares.md"
                )


def _warnings_of_calls(plan: LaunchPlan) -> tuple[str, ...]:
    i2p = next(
        (each.settings.i2p for each in plan.guests if each.profile is Profile.I2P_GUEST), None
    )
    if i2p is None or i2p.port is None:
        return ()
    reasons = {
        "--exclusive closes this machine to every caller": plan.exclusive,
        "VirtualBox's NAT is not told to hand anything on": plan.virtualbox is not None,
    }
    return tuple(
        f"i2p.port {i2p.port}: nobody can call i2p-guest, {why}; routers hear of it all the same"
        for why, holds in reasons.items()
        if holds
    )


def with_bundle(made: LaunchPlan, bundle: bytes) -> LaunchPlan:
    """The plan with first routers on i2p-guest's settings disk; the same where there are none."""
    if not bundle:
        return made
    guests = tuple(
        replace(
            guest,
            bundle=bundle,
            settings=replace(guest.settings, i2p=replace(guest.settings.i2p, reseed="bundle")),
        )
        if guest.profile is Profile.I2P_GUEST and guest.settings.i2p is not None
        else guest
        for guest in made.guests
    )
    return replace(made, guests=guests)


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
    ahead = timedelta(seconds=round(offset * CLOCK_RANGE[profile]))
    return GuestPlan(
        profile,
        MACHINES[profile],
        token(profile),
        SETTINGS_TAG,
        tuple(link for link in LINKS[profile] if i2p or link.name != "i2p"),
        settings,
        facts.now.astimezone(UTC) + ahead,
        ahead,
        GATEWAY_USER if profile.is_gateway else APP_USER,
        directory / profile,
    )


def sharing(
    plan: LaunchPlan, choices: Sequence[Choice], spaces: Mapping[Path, Space]
) -> LaunchPlan:
    """The same launch with folders of the user's; their ``source`` is absolute and no link.

    ``spaces`` has that of each one that is written to. Raises LaunchError for folders that could
    not be kept apart from each other, from the image or from the launch's own files, and for what
    VirtualBox's folders cannot hold.
    """
    for choice in choices:
        needs_links = FOLDERS[choice.feature].needs_links
        if needs_links is not None and plan.virtualbox is not None:
            raise LaunchError(
                f"{choice.feature} cannot be shared by VirtualBox: {needs_links}",
                hint="leave it out, or use --hypervisor qemu; see docs/shares.md",
            )
        _require_shareable(choice.source, plan)
        for other in choices:
            if other is not choice and choice.source in (other.source, *other.source.parents):
                raise LaunchError(
                    f"{other.source} ({other.feature}) is in {choice.source} ({choice.feature})",
                    hint="no folder goes to two guests, or twice to one",
                )
    written = {choice.source: spaces[choice.source] for choice in choices if choice.writable}
    growths = decide(written)
    guests = (_with_shares(guest, plan, choices, growths) for guest in plan.guests)
    return replace(plan, guests=tuple(guests))


def _require_shareable(source: Path, plan: LaunchPlan) -> None:
    if not source.is_absolute() or _UNUSABLE.search(str(source)):
        raise LaunchError(
            f"the folder's path {str(source)!r} holds a character that cannot be passed on",
            hint='give it a path without control characters and without " $ % : and backslash',
        )
    for path, what in ((plan.image, "the image"), (plan.directory, "the launch's own directory")):
        if source in (path, *path.parents):
            raise LaunchError(
                f"{source} holds {what}", hint="share a folder that holds nothing else"
            )
    if plan.directory in source.parents:
        raise LaunchError(f"{source} is in the launch's own directory")


def _with_shares(
    guest: GuestPlan,
    plan: LaunchPlan,
    choices: Sequence[Choice],
    growths: Mapping[Path, Limit | Unlimited],
) -> GuestPlan:
    shares = tuple(
        SharedFolder(
            FOLDERS[choice.feature].tag,
            choice.feature,
            choice.source,
            plan.share_directory / guest.profile / FOLDERS[choice.feature].tag,
            choice.writable,
            growths.get(choice.source),
        )
        for choice in choices
        if FOLDERS[choice.feature].guest is guest.profile
    )
    promised = tuple(Share(share.tag, share.feature) for share in shares)
    return replace(guest, shares=shares, settings=replace(guest.settings, shares=promised))


def _resolver(variant: str, facts: HostFacts) -> IPv4Address | None:
    if not variant.startswith(("tcp-dns", "tcp-udp")):
        return None
    if facts.resolver is None:
        raise LaunchError(
            "these bridges are found by name, and this machine has no IPv4 resolver",
            hint="/etc/resolv.conf names none; or use bridges that need no names (obfs4)",
        )
    return facts.resolver


#: sockaddr_un(7) has room for 107 bytes; this is the longest name below the directory.
_LONGEST_SOCKET = "/links/tails-tor.gateway"
#: What a shell, QEMU's options, socat's addresses and systemd's properties all take as it is.
_PLAIN = re.compile(r"[A-Za-z0-9_./+=@-]+")
#: Characters of an image's path that would have to be escaped in four languages at once.
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\\"$%:]")


def _require_usable_paths(image: Path, directory: Path) -> None:
    if not directory.is_absolute() or not _PLAIN.fullmatch(str(directory)):
        raise LaunchError(
            f"{str(directory)!r} cannot hold the sockets of the guests",
            hint="an absolute path of letters, digits and _ . / + = @ -",
        )
    if len(f"{directory}{_LONGEST_SOCKET}".encode()) > 107:
        raise LaunchError(
            f"{directory}: too long for the path of a socket", hint="at most 83 bytes"
        )
    if _UNUSABLE.search(str(image)):
        raise LaunchError(
            f"the image's path {str(image)!r} holds a character that cannot be passed on",
            hint='give it a path without control characters and without " $ % : and backslash',
        )


def _require_memory(profiles: Sequence[Profile], facts: HostFacts) -> None:
    needed = HOST_RESERVE + sum(MACHINES[profile].memory for profile in profiles)
    if facts.available_memory < needed:
        raise LaunchError(
            f"{facts.available_memory} MiB of memory are available and the guests need {needed}",
            hint="close other programs, or start without I2P",
        )
