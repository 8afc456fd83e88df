# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole libvirt domain for a guest (https://libvirt.org/formatdomain.html), for QEMU with KVM.

Its uplink is QEMU's own user-mode NAT and not passt: libvirt gives passt no router of its own, so
the guest would learn the real one's address, and the constant addresses would not hold.
"""

import textwrap
from collections.abc import Iterable, Mapping
from xml.sax.saxutils import escape

from tails_profiles.constants import (
    DMI,
    DMI_OEM_STRINGS,
    I2P_SEGMENT,
    LINKS,
    MEDIUM_SERIAL,
    TOR_SEGMENT,
    UPLINK,
    LinkConstants,
)
from tails_profiles.launch import Machine
from tails_profiles.profile import Profile, token
from tails_profiles.qemu import CPU_MODEL, MACHINE_TYPE
from tails_profiles.virtualbox import STORAGE

#: UDP ports of the host's loopback, the gateway's end and app-guest's.
PORTS = {TOR_SEGMENT: (17121, 17123), I2P_SEGMENT: (17131, 17133)}
WIDTH = 100

#: Extensions by which a domain hands words to QEMU that libvirt does not read.
PREFIXES = {"http://libvirt.org/schemas/domain/qemu/1.0": "qemu"}
#: Devices that no guest has, and what each would open.
NEVER: Mapping[str, str] = {
    "disk": STORAGE,
    "filesystem": "A folder of this host: files pass, and its clock and disk show.",
    "channel": "A way to agents and to programs of this host: clipboard, files, commands.",
    "redirdev": "USB devices of whoever looks at the screen.",
    "hostdev": "A device of this host.",
    "sound": "This host's microphone and loudspeaker.",
    "vsock": "A socket to this host, which no network's rules see.",
    "tpm": "A chip with keys of its own, which are one machine's alone.",
    "serial": "A port that leads to this host.",
    "parallel": "A port that leads to this host.",
    "console": "A port that leads to this host.",
    "smartcard": "Smart cards of this host.",
    "shmem": "Memory that other machines and programs of this host have too.",
    "interface": "Another way out; a card that the guest does not know ends in quarantine.",
}


def domain(
    profile: Profile, name: str, firmware: str, machine: Machine, clock_range: int
) -> tuple[str, ...]:
    """The lines of the XML; ``clock_range`` in seconds, either way."""
    return (
        "<domain type='kvm'>",
        f"  <name>{escape(name)}</name>",
        *_why("The machine's own UUID; how many processors this host has."),
        f"  <uuid>{machine.uuid}</uuid>",
        f"  <vcpu placement='static'>{machine.processors}</vcpu>",
        *_why("How much memory this host has; guest memory in core files and in shared pages."),
        f"  <memory unit='MiB' dumpCore='off'>{machine.memory}</memory>",
        "  <memoryBacking><nosharepages/></memoryBacking>",
        *_sysinfo(profile),
        *_firmware(firmware),
        *_why("VMware's port, SMM, performance counters, the hypervisor's leaf."),
        "  <features>",
        "    <acpi/><apic/>",
        "    <kvm><hidden state='on'/></kvm>",
        "    <pmu state='off'/><vmport state='off'/><smm state='off'/>",
        "  </features>",
        *_why("The real processor: one model for everybody."),
        "  <cpu mode='custom' match='exact'>",
        f"    <model fallback='forbid'>{CPU_MODEL}</model>",
        "    <feature policy='require' name='rdrand'/>",
        "    <feature policy='disable' name='hypervisor'/>",
        "  </cpu>",
        *_clock(clock_range),
        *_why(
            "A second boot, which would begin with the uplink plugged in, and panics without end."
        ),
        "  <on_reboot>destroy</on_reboot>",
        "  <on_crash>destroy</on_crash>",
        *_why("Sleep states."),
        "  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>",
        "  <devices>",
        *_devices(profile, machine.screen),
        "  </devices>",
        "</domain>",
    )


def _why(text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(
        f"<!-- {text} -->",
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}     ",
        break_on_hyphens=False,
    )


def _entries(element: str, values: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return (
        f"    <{element}>",
        *(f"      <entry name='{name}'>{value}</entry>" for name, value in values if value),
        f"    </{element}>",
    )


def _sysinfo(profile: Profile) -> tuple[str, ...]:
    def of(prefix: str, *names: tuple[str, str]) -> list[tuple[str, str]]:
        return [(entry, DMI[f"{prefix}_{field}"]) for entry, field in names]

    board = (("manufacturer", "vendor"), ("version", "version"), ("serial", "serial"))
    return (
        *_why(
            "The token, in the BIOS vendor and the serial number: both are read, one would do. The"
            " others: names, versions and dates of QEMU. Types 4 and 17 keep theirs."
        ),
        "  <sysinfo type='smbios'>",
        *_entries(
            "bios",
            [
                ("vendor", token(profile)),
                *of("bios", ("version", "version"), ("date", "date"), ("release", "release")),
            ],
        ),
        *_entries(
            "system",
            [
                ("manufacturer", DMI["sys_vendor"]),
                *of("product", ("product", "name"), ("version", "version")),
                ("serial", token(profile)),
                *of("product", ("sku", "sku"), ("family", "family")),
            ],
        ),
        *_entries("baseBoard", of("board", *board, ("product", "name"), ("asset", "asset_tag"))),
        *_entries("chassis", of("chassis", *board)),
        "    <oemStrings>",
        *(f"      <entry>{text}</entry>" for text in DMI_OEM_STRINGS),
        "    </oemStrings>",
        "  </sysinfo>",
    )


def _firmware(firmware: str) -> tuple[str, ...]:
    return (
        *_why("Boot from the image, and nothing else."),
        "  <os firmware='efi'>" if firmware == "efi" else "  <os>",
        f"    <type arch='x86_64' machine='{MACHINE_TYPE}'>hvm</type>",
        "    <bootmenu enable='no'/>",
        "    <smbios mode='sysinfo'/>",
        "  </os>",
    )


def _clock(clock_range: int) -> tuple[str, ...]:
    draw = (
        f"This host's time: write a number from -{clock_range} to {clock_range} in place of 0,"
        " another one before each start."
        if clock_range
        else "UTC, and exact; I2P refuses what differs."
    )
    return (
        *_why(f"{draw} Clocks that would go on telling this host's."),
        "  <clock offset='variable' adjustment='0' basis='utc'>",
        "    <timer name='rtc' track='guest'/>",
        "    <timer name='kvmclock' present='no'/>",
        "    <timer name='hypervclock' present='no'/>",
        "    <timer name='hpet' present='no'/>",
        "  </clock>",
    )


def _devices(profile: Profile, screen: tuple[int, int] | None) -> tuple[str, ...]:
    inner = "    "
    links = [line for link in LINKS[profile] for line in _interface(profile, link)]
    return (
        *_why("Read-only: no guest changes what the others boot. The medium's serial.", inner),
        "    <disk type='file' device='cdrom'>",
        "      <driver name='qemu' type='raw'/>",
        "      <source file='/IMAGE.iso'/>",
        "      <target dev='sda' bus='sata'/>",
        "      <readonly/>",
        f"      <serial>{MEDIUM_SERIAL}</serial>",
        "      <boot order='1'/>",
        "    </disk>",
        *links,
        *_why("USB devices of this host, its sound, its memory's size; entropy at a pace.", inner),
        "    <controller type='usb' model='none'/>",
        "    <audio id='1' type='none'/>",
        "    <memballoon model='none'/>",
        "    <rng model='virtio'>",
        "      <rate bytes='1024' period='1000'/>",
        "      <backend model='random'>/dev/urandom</backend>",
        "    </rng>",
        *_why("No listener on this host; VNC has neither clipboard nor files.", inner),
        "    <graphics type='vnc'><listen type='none'/></graphics>",
        *_video(screen),
    )


def _video(screen: tuple[int, int] | None) -> tuple[str, ...]:
    if screen is None:
        return ("    <video><model type='vga' heads='1'/></video>",)
    width, height = screen
    return (
        *_why("This host's own screen size.", "    "),
        "    <video>",
        f"      <model type='virtio' heads='1'><resolution x='{width}' y='{height}'/></model>",
        "    </video>",
    )


def _interface(profile: Profile, link: LinkConstants) -> tuple[str, ...]:
    device = (
        f"      <mac address='{link.mac}'/>",
        "      <model type='virtio'/>",
        "      <rom enabled='no'/>",
        "    </interface>",
    )
    if link.is_uplink:
        address = UPLINK.network.network_address
        return (
            *_why(
                f"{link.name}: NAT with constant addresses. Unplugged until the guest's rules are"
                " in force: see above. It offers IPv6 as well, and 10.0.2.2 is this host's"
                " loopback: the guest's rules close both, and so should this host's.",
                "    ",
            ),
            "    <interface type='user'>",
            "      <link state='down'/>",
            f"      <ip family='ipv4' address='{address}' prefix='{UPLINK.network.prefixlen}'/>",
            *device,
        )
    ours, theirs = PORTS[str(link.segment)]
    if profile is Profile.APP_GUEST:
        ours, theirs = theirs, ours
    optional = " Leave it out without i2p-guest." if link.name == "i2p" else ""
    return (
        *_why(
            f"{link.name}: UDP on this host's loopback, no bridge in its network. Any user of this"
            f" host could send into it.{optional}",
            "    ",
        ),
        "    <interface type='udp'>",
        f"      <source address='127.0.0.1' port='{theirs}'>",
        f"        <local address='127.0.0.1' port='{ours}'/>",
        "      </source>",
        *device,
    )
