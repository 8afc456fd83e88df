# SPDX-License-Identifier: GPL-3.0-or-later
"""Translate a ``LaunchPlan`` to QEMU 7.2 and newer, and to who runs it.

Options: qemu-system-x86_64(1). Each one that is not plain hardware carries the leak it closes.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from tails_profiles import runner
from tails_profiles.command import Command
from tails_profiles.constants import (
    ACPI_OEM_ID,
    ACPI_TABLE_ID,
    CPU_NAME,
    DMI,
    DMI_OEM_STRINGS,
    LINK_GROUP,
    LINKS,
    MEDIUM_MODEL,
    MEDIUM_SERIAL,
    MEDIUM_VERSION,
    UPLINK,
    LinkConstants,
)
from tails_profiles.launch import CLOCK_RANGE, GuestPlan, LaunchPlan, Machine
from tails_profiles.profile import Profile, token
from tails_profiles.shares import LIVE_UID, SharedFolder

QEMU = "/usr/bin/qemu-system-x86_64"
#: What stands for the path of the live image in a recipe, and where its sockets are.
IMAGE = "IMAGE.iso"
LINK_DIRECTORY = "links"
#: A bare q35 is another machine in each release of QEMU. This one is in all from 7.2 on, until it
#: is old enough to be dropped (six years; docs/about/deprecated.rst of QEMU).
MACHINE_TYPE = "pc-q35-7.2"
MACHINE = (
    f"{MACHINE_TYPE},vmport=off,smbus=off,smm=off,usb=off,hpet=off,dump-guest-core=off,"
    f"mem-merge=off,x-oem-id={ACPI_OEM_ID},x-oem-table-id={ACPI_TABLE_ID}"
)
#: One processor for everybody: old enough for every host, with the instructions that Debian's
#: programs and the kernel's random numbers ask for.
CPU_MODEL = "Nehalem"
CPU = f"{CPU_MODEL},+rdrand,-hypervisor,kvm=off,tcg-cpuid=off,pmu=off,model-id={CPU_NAME}"
#: Closed in addition where KVM is used: clocks that tell the guest the host's time.
CPU_KVM = ",-kvmclock,-kvmclock-stable-bit,-kvm-steal-time,-kvm-asyncpf,-kvm-pv-eoi"


@dataclass(frozen=True, slots=True)
class Options:
    """Options of QEMU, and in words the leak that they close."""

    why: str
    words: tuple[str, ...]


UNIT_PREFIX = "tails-profiles-vm-"


def guest_command(guest: GuestPlan, plan: LaunchPlan) -> Command:
    """The command that runs one guest: its user and namespace, then QEMU with every option.

    Under systemd it ends once the unit runs; without, it becomes QEMU.
    """
    before = _systemd(guest, plan) if plan.systemd else _setpriv(guest, plan)
    return Command((*before, *_identity_of_shares(guest), *qemu_argv(guest, plan)))


def _identity_of_shares(guest: GuestPlan) -> tuple[str, ...]:
    """What has a machine see its own files as the live user's: the guest shows the same owner.

    A user namespace of one user and one group, without a capability in it either. Only where there
    are shares: it is more of the kernel for somebody who escaped.
    """
    if not guest.shares:
        return ()
    return (
        "/usr/bin/unshare", "--user", f"--map-user={LIVE_UID}", f"--map-group={LIVE_UID}",
        "--keep-caps", "--",
        "/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", "--",
    )  # fmt: skip


def unit_name(profile: Profile) -> str:
    """The transient unit of a guest's machine."""
    return f"{UNIT_PREFIX}{profile}.service"


def _setpriv(guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
    # Sockets of the inner links are for the group; nothing is for others.
    return runner.machine(guest.profile, "007", groups=_groups(plan))


def _groups(plan: LaunchPlan) -> str:
    return ",".join((LINK_GROUP, "kvm")) if plan.kvm else LINK_GROUP


def _systemd(guest: GuestPlan, plan: LaunchPlan) -> Iterator[str]:
    yield from (
        "/usr/bin/systemd-run",
        "--collect",
        "--quiet",
        f"--unit={unit_name(guest.profile)}",
    )
    for key, value in _properties(guest, plan).items():
        yield f"--property={key}={value}"
    if plan.kvm:
        yield "--property=DeviceAllow=/dev/kvm rw"
    yield "--"


def _properties(guest: GuestPlan, plan: LaunchPlan) -> dict[str, str]:
    """systemd.exec(5), systemd.resource-control(5), systemd.kill(5)."""
    gateway = guest.profile.is_gateway
    own = " ".join(
        str(path)
        for path in (guest.directory, plan.link_directory, *(each.target for each in guest.shares))
    )
    return {
        "Description": f"tails-profiles: the virtual machine of {guest.profile}",
        # Running means that QEMU's own program is: one that cannot be run fails the start.
        "Type": "exec",
        "User": guest.user,
        "Group": guest.user,
        "SupplementaryGroups": _groups(plan).replace(",", " "),
        # An empty namespace for app-guest; gateways stay under the host's rule set.
        "PrivateNetwork": "no" if gateway else "yes",
        "RestrictAddressFamilies": "AF_UNIX AF_INET" if gateway else "AF_UNIX",
        "UMask": "0007",
        "CapabilityBoundingSet": "",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "read-only",
        "PrivateTmp": "yes",
        # Wherever these are, homes and /tmp included: what it may write to, and the image.
        "ReadWritePaths": own,
        "BindPaths": own,
        "BindReadOnlyPaths": f'"{plan.image}"',
        "DevicePolicy": "closed",
        "ProtectProc": "invisible",
        "ProtectClock": "yes",
        "ProtectControlGroups": "yes",
        "ProtectHostname": "yes",
        "ProtectKernelLogs": "yes",
        "ProtectKernelModules": "yes",
        "ProtectKernelTunables": "yes",
        "RestrictNamespaces": "user" if guest.shares else "yes",
        "RestrictRealtime": "yes",
        "RestrictSUIDSGID": "yes",
        "SystemCallArchitectures": "native",
        "LockPersonality": "yes",
        # Guest memory never reaches the host's disk.
        "MemorySwapMax": "0",
        "LimitCORE": "0",
        "StandardOutput": f"append:{guest.log}",
        "StandardError": f"append:{guest.log}",
        # What did not power off when it was asked to has had its time.
        "TimeoutStopSec": "5",
    }


def qemu_argv(guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
    """QEMU and its options."""
    parts = (
        # Paused until its uplink is unplugged: the link gate.
        (QEMU, "-S", "-name", f"tails-profiles-{guest.profile}"),
        *(options.words for options in machine(kvm=plan.kvm)),
        _size(guest),
        ("-rtc", f"base={_clock(guest)},clock=vm"),
        identity(guest.token, guest.settings_tag, guest.machine.uuid).words,
        medium(str(plan.image)).words,
        settings_disk(str(guest.settings_disk)).words,
        *(_nic(guest, plan, link) for link in guest.links),
        *(shared_folder(share).words for share in guest.shares),
        _screen(guest),
        _channels(guest),
    )
    return tuple(word for part in parts for word in part)


def machine(*, kvm: bool) -> tuple[Options, ...]:
    """The machine itself: the same for every guest, launched here or by hand."""
    return (
        Options(
            "Nothing that this host configured, or that QEMU would add by itself.",
            ("-nodefaults", "-no-user-config"),
        ),
        Options(
            "VMware's port, spare buses, SMM, USB and HPET; guest memory in core files and in"
            " shared pages; the ACPI tables' owner, which names QEMU.",
            ("-machine", MACHINE),
        ),
        Options(
            "The real processor's name, counters and feature leaves, and those that say TCG or KVM"
            + (", and clocks that tell the guest this host's time." if kvm else "."),
            (
                "-accel", "kvm" if kvm else "tcg,thread=multi,tb-size=128",
                "-cpu", CPU + (CPU_KVM if kvm else ""),
            ),
        ),
        Options(
            "QEMU's age, and a program that names KVM: a register of the chipset for a mode that is"
            " off, and a ROM that 64-bit guests have no use for.",
            ("-global", "mch.extended-tseg-mbytes=0", "-global", "apic-common.vapic=off"),
        ),
        Options(
            "Sleep states, and boot from anything but the medium; a second boot, which would begin"
            " with the uplink plugged in.",
            (
                "-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1",
                "-boot", "strict=on,menu=off", "-action", "panic=shutdown,reboot=shutdown",
            ),
        ),
        Options(
            "What an escape could call: other programs, other users.",
            (
                "-sandbox",
                "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            ),
        ),
        Options(
            "Entropy, at a pace.", ("-device", "virtio-rng-pci,max-bytes=1024,period=1000")
        ),
    )  # fmt: skip


def _size(guest: GuestPlan) -> tuple[str, ...]:
    return size(guest.machine.memory, guest.machine.processors).words


def size(memory: int, processors: int) -> Options:
    """Memory in MiB, and processors: how much of them this host has is no guest's business."""
    return Options(
        "How much memory and how many processors this host has.",
        (
            "-smp", f"{processors},sockets=1,cores={processors},threads=1",
            "-m", str(memory), "-overcommit", "mem-lock=off",
        ),
    )  # fmt: skip


def identity(token: str, asset_tag: str, uuid: UUID) -> Options:
    """Every SMBIOS string: the token, and constants in place of what QEMU would fill in."""
    vendor, version = DMI["sys_vendor"], DMI["product_version"]
    types = (
        _smbios(0, vendor=token, version=DMI["bios_version"], date=DMI["bios_date"],
                release=DMI["bios_release"]),
        _smbios(1, manufacturer=vendor, product=DMI["product_name"], version=version, serial=token,
                sku=DMI["product_sku"], family=DMI["product_family"]),
        _smbios(2, manufacturer=DMI["board_vendor"], product=DMI["board_name"],
                version=DMI["board_version"], serial=DMI["board_serial"],
                asset=DMI["board_asset_tag"], location=""),
        _smbios(3, manufacturer=DMI["chassis_vendor"], version=DMI["chassis_version"],
                serial=DMI["chassis_serial"], asset=asset_tag, sku=""),
        _smbios(4, sock_pfx="CPU", manufacturer=vendor, version=version, serial="0", asset="",
                part=""),
        "type=11," + ",".join(f"value={text}" for text in DMI_OEM_STRINGS),
        _smbios(17, loc_pfx="RAM", bank="0", manufacturer=vendor, serial="0", asset="", part=""),
    )  # fmt: skip
    return Options(
        "Serial numbers, versions and dates of hypervisor and host.",
        ("-uuid", str(uuid), *(word for text in types for word in ("-smbios", text))),
    )


def _smbios(number: int, **fields: str) -> str:
    return f"type={number}," + ",".join(f"{key}={value}" for key, value in fields.items())


def medium(image: str) -> Options:
    """The drive with the image."""
    device = (
        f"ide-cd,drive=medium,bootindex=0,serial={MEDIUM_SERIAL},model={MEDIUM_MODEL},"
        f"ver={MEDIUM_VERSION}"
    )
    return Options(
        "Read-only twice, and no discard: no guest changes what the others boot. Model, version"
        " and serial number would name QEMU, its version and the medium.",
        ("-blockdev", _drive("medium", image), "-device", device),
    )


def settings_disk(path: str) -> Options:
    """The drive with a guest's settings."""
    return Options(
        "Read-only: what a guest is told, and nothing that it could leave behind. Old and new QEMU"
        " have another default for the length of its queue.",
        (
            "-blockdev", _drive("settings", path),
            "-device", "virtio-blk-pci,drive=settings,serial=settings,queue-size=1024",
        ),
    )  # fmt: skip


def escape_option_value(text: str) -> str:
    """A value of one of QEMU's comma-separated options; qemu-system-x86_64(1)."""
    return text.replace(",", ",,")


def _drive(node: str, path: str) -> str:
    return (
        f"driver=raw,node-name={node},read-only=on,auto-read-only=off,discard=ignore,"
        f"file.driver=file,file.filename={escape_option_value(path)}"
    )


def _clock(guest: GuestPlan) -> str:
    """Where a guest's clock starts, which then goes at the guest's own pace.

    Exact: the host's when the machine starts, and not when it was planned: another gateway may have
    booted in between, and I2P's routers refuse who is a minute off.
    """
    exact = not CLOCK_RANGE[guest.profile]
    return "utc" if exact else f"{guest.clock:%Y-%m-%dT%H:%M:%S}"


def _nic(guest: GuestPlan, plan: LaunchPlan, link: LinkConstants) -> tuple[str, ...]:
    if link.is_uplink:
        i2p = guest.settings.i2p
        return uplink(link, i2p.port if i2p else None).words
    return inner_link(guest.profile, link, str(plan.link_directory)).words


def _network_device(link: LinkConstants) -> tuple[str, ...]:
    # No option ROM: nothing boots from a network.
    return (
        "-device",
        f"virtio-net-pci,netdev={link.name},id=nic-{link.name},mac={link.mac},romfile=",
    )


def uplink(link: LinkConstants, opened: int | None = None) -> Options:
    """The uplink: QEMU's user-mode NAT. ``opened``: a port of this host that leads to the guest."""
    forward = "".join(
        f",hostfwd={kind}::{opened}-{UPLINK.ip}:{opened}" for kind in ("tcp", "udp") if opened
    )
    return Options(
        "The uplink, without IPv6 and without a forward. No option closes that 10.0.2.2 is this"
        " host's loopback and 10.0.2.3 its resolver: the rules of its user or namespace do.",
        (
            "-netdev", f"user,id={link.name},ipv6=off,net={UPLINK.network},hostname=host{forward}",
            *_network_device(link),
        ),
    )  # fmt: skip


def inner_link(profile: Profile, link: LinkConstants, directory: str) -> Options:
    """One end of an inner link; ``directory`` holds the sockets of both.

    Datagrams: either side may start first.
    """
    ours, theirs = ("app", "gateway") if profile is Profile.APP_GUEST else ("gateway", "app")
    base = f"{escape_option_value(directory)}/{link.segment}"
    backend = (
        f"dgram,id={link.name},local.type=unix,local.path={base}.{ours},"
        f"remote.type=unix,remote.path={base}.{theirs}"
    )
    return Options(
        "An inner link: sockets, and no bridge, tap or port of this host, which its own network"
        " stack, or any of its users, could reach.",
        ("-netdev", backend, *_network_device(link)),
    )


def shared_folder(share: SharedFolder) -> Options:
    """A folder of the user's, by 9p; docs/shares.md says why by 9p."""
    access = "" if share.writable else ",readonly=on"
    path = escape_option_value(str(share.target))
    return Options(
        "What a guest calls a link, a device, an owner or set-user-id is an attribute of a plain"
        " file, and nothing else of the host is in that file system.",
        (
            "-fsdev",
            (
                f"local,id={share.tag},path={path},security_model=mapped-xattr,fmode=0600,"
                f"dmode=0700,multidevs=forbid{access}"
            ),
            "-device", f"virtio-9p-pci,fsdev={share.tag},mount_tag={share.tag}",
        ),
    )  # fmt: skip


def _screen(guest: GuestPlan) -> tuple[str, ...]:
    if guest.machine.screen is None:
        # A text screen for pictures of tty1; nobody is connected to it.
        return ("-vga", "std", "-display", "none")
    return (
        *graphics(guest.machine.screen).words,
        "-display", "none", "-vnc", f"unix:{guest.screen},share=ignore",
    )  # fmt: skip


def picture(path: Path) -> tuple[str, dict[str, Any]]:
    """Have a running machine's screen written to a PNG file: a command of QMP."""
    return "screendump", {"filename": str(path), "format": "png"}


def monitor_line(monitor: Path, command: str, arguments: Mapping[str, Any]) -> str:
    """A command of QMP as a line for a shell; ``monitor`` is its socket."""
    text = json.dumps({"execute": command, "arguments": dict(arguments)})
    return f"monitor {shlex.quote(str(monitor))} {shlex.quote(text)}"


def graphics(screen: tuple[int, int]) -> Options:
    """A screen of a constant size in pixels."""
    width, height = screen
    return Options(
        "This host's own screen size and its data.",
        (
            "-vga", "none",
            "-device", f"virtio-vga,edid=on,xres={width},yres={height},max_outputs=1",
        ),
    )  # fmt: skip


def _channels(guest: GuestPlan) -> tuple[str, ...]:
    serial: tuple[str, ...] = ("-serial", "none")
    if guest.profile.is_gateway:
        # A socket and no file: the guest can fill nothing.
        serial = (
            "-chardev", f"socket,id=serial,path={guest.serial},server=on,wait=off",
            "-serial", "chardev:serial",
        )  # fmt: skip
    return (
        *NO_CHANNELS.words, *serial,
        "-qmp", f"unix:{guest.monitor},server=on,wait=off",
    )  # fmt: skip


NO_CHANNELS = Options(
    "No monitor within a guest's or another user's reach, no port, no sound.",
    ("-monitor", "none", "-parallel", "none"),
)

CLOCK = "This host's time: a start of its own, and then its own pace."

#: Who runs a machine that somebody starts by hand.
OWN_USER = (
    "As a user of its own, whose packets to this host's own addresses are dropped; the guest itself"
    " refuses private ranges."
)
NO_NETWORK = (
    "In an empty network namespace: whoever breaks out of the machine has no network there either."
)


def by_hand(profile: Profile, hardware: Machine, firmware: Options | None) -> Iterator[Options]:
    """Every option but the name and the clock, for a machine that somebody starts by hand."""
    yield identity(token(profile), "", hardware.uuid)
    if firmware is not None:
        yield firmware
    yield from machine(kvm=True)
    yield size(hardware.memory, hardware.processors)
    yield medium(IMAGE)
    for link in LINKS[profile]:
        yield uplink(link) if link.is_uplink else inner_link(profile, link, LINK_DIRECTORY)
    if hardware.screen:
        yield graphics(hardware.screen)
    yield Options(
        "The screen, for a VNC viewer that takes a socket; no clipboard, no files.",
        (
            *(() if hardware.screen else ("-vga", "std")),
            "-display", "none", "-vnc", f"unix:{LINK_DIRECTORY}/{profile}.screen,share=ignore",
        ),
    )  # fmt: skip
    yield Options(
        NO_CHANNELS.why,
        (
            *NO_CHANNELS.words, "-serial", "none",
            "-qmp", f"unix:{LINK_DIRECTORY}/{profile}.qmp,server=on,wait=off",
        ),
    )  # fmt: skip
