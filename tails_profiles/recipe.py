# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe for a virtual machine of somebody's own: what to set so that it becomes a guest.

Complete and minimal: the token, the links with their constant MACs, and what must be off because
it would lead past the gateways or tell the guest about its host. Each line says which leak it
closes. The user's own disks and memory are left alone.
"""

import re
import shlex
from collections.abc import Iterable

from tails_profiles.constants import LINKS, UPLINK, LinkConstants
from tails_profiles.errors import ProfilesError
from tails_profiles.profile import Profile, token

HYPERVISORS = ("virtualbox", "qemu", "libvirt")
FIRMWARES = ("bios", "efi")

_NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,80}")


def recipe(profile: Profile, hypervisor: str, vm: str, firmware: str = "bios") -> str:
    """The text for one machine; ``vm`` is its name in the hypervisor.

    Raises ProfilesError for a name that no hypervisor takes.
    """
    if not _NAME.fullmatch(vm) or vm.startswith("-"):
        raise ProfilesError(
            f"{vm!r} is no name of a virtual machine",
            hint="1 to 80 characters, not starting with a dash, no slash or control character",
        )
    make = {"virtualbox": _virtualbox, "qemu": _qemu, "libvirt": _libvirt}[hypervisor]
    return make(profile, vm, firmware)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"


def _virtualbox(profile: Profile, vm: str, firmware: str) -> str:
    name = shlex.quote(vm)
    device = "efi" if firmware == "efi" else "pcbios"
    lines = [
        f"# {profile} in VirtualBox. The machine must be powered off.",
        "",
        "# The token. Both fields are read; one would do.",
        *(
            f"VBoxManage setextradata {name} VBoxInternal/Devices/{device}/0/Config/{key}"
            f" {token(profile)}"
            for key in ("DmiBIOSVendor", "DmiSystemSerial")
        ),
        f"VBoxManage modifyvm {name} --firmware {firmware}",
        "",
        "# Links. Their MACs are the same everywhere; any other link ends in quarantine.",
    ]
    for number, link in enumerate(LINKS[profile], start=1):
        lines += _virtualbox_nic(name, number, link)
    lines += [
        f"VBoxManage modifyvm {name} "
        + " ".join(f"--nic{number} none" for number in range(len(LINKS[profile]) + 1, 9)),
        "",
        "# Channels between the guest and this host, its clipboard, files, devices and screen.",
        (
            f"VBoxManage modifyvm {name} --clipboard-mode disabled --drag-and-drop disabled"
            " --vrde off --usb-ohci off --usb-ehci off --usb-xhci off --mouse ps2 --keyboard ps2"
        ),
        (
            f"VBoxManage modifyvm {name} --audio-driver none --accelerate-3d off --teleporter off"
            " --recording off"
        ),
        "",
        "# The clock: UTC, and no call by which the guest could ask for this host's.",
        f"VBoxManage modifyvm {name} --rtc-use-utc on",
        (
            f"VBoxManage setextradata {name}"
            " VBoxInternal/Devices/VMMDev/0/Config/GetHostTimeDisabled 1"
        ),
        "",
        "# Boot the live image from a read-only drive, and nothing else.",
        f"VBoxManage modifyvm {name} --boot1 dvd --boot2 none --boot3 none --boot4 none",
        "",
        "# Remove shared folders, and never add the guest additions' file transfer.",
    ]
    return _text(lines)


def _virtualbox_nic(name: str, number: int, link: LinkConstants) -> list[str]:
    mac = link.mac.replace(":", "").upper()
    n = number
    common = (
        f"--nic-type{n} virtio --mac-address{n} {mac} --nic-promisc{n} deny --cable-connected{n} on"
    )
    if link.is_uplink:
        return [
            f"# {n}: the uplink, VirtualBox's NAT without a way to this host's own services.",
            f"VBoxManage modifyvm {name} --nic{n} nat --nat-net{n} {UPLINK.network} {common}",
            (
                f"VBoxManage modifyvm {name} --nat-localhostreachable{n} off"
                f" --nat-dns-pass-domain{n} off"
            ),
        ]
    return [
        f"# {n}: {link.name}, the internal network {link.segment}.",
        f"VBoxManage modifyvm {name} --nic{n} intnet --intnet{n} {link.segment} {common}",
    ]


def _qemu(profile: Profile, vm: str, firmware: str) -> str:
    words = [
        "-nodefaults",
        "-no-user-config",
        f"-name {shlex.quote(vm.replace(',', ',,'))}",
        "-machine q35,vmport=off,smbus=off,usb=off,hpet=off,dump-guest-core=off,mem-merge=off",
        f"-smbios type=0,vendor={token(profile)},version=1,date=01/01/2026",
        f"-smbios type=1,manufacturer=tails-profiles,product=guest,serial={token(profile)}",
        "-rtc base=utc,clock=vm",
        "-boot strict=on,menu=off",
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-audiodev none,id=none",
    ]
    if firmware == "efi":
        words.append("-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd")
    for link in LINKS[profile]:
        words += _qemu_nic(profile, link)
    display = "-display none -vga none" if profile.is_gateway else "-vga std -display gtk"
    words += [
        display,
        "-device virtio-rng-pci,max-bytes=1024,period=1000",
        "-drive file=IMAGE.iso,format=raw,readonly=on,if=none,id=medium,media=cdrom",
        "-device ide-cd,drive=medium,bootindex=0",
        "-accel kvm -cpu Nehalem,-hypervisor,kvm=off -smp 1 -m "
        + ("320" if profile.is_gateway else "2048"),
    ]
    return _text(
        [
            f"# {profile} in QEMU 7.2 or newer. Replace IMAGE.iso. Without KVM: -accel tcg.",
            "# The inner link is a pair of unix sockets in a directory that only you may enter:",
            "#   mkdir -m 700 links",
            "# The user-mode NAT maps 10.0.2.2 to this host's loopback: run a gateway's QEMU in a",
            "# network namespace, or as a user whose packets to 127.0.0.0/8 are dropped."
            if profile.is_gateway
            else "# There is no uplink here: run this QEMU in an empty network namespace.",
            "qemu-system-x86_64 \\",
            *(f"    {word} \\" for word in words[:-1]),
            f"    {words[-1]}",
        ]
    )


def _qemu_nic(profile: Profile, link: LinkConstants) -> list[str]:
    device = f"-device virtio-net-pci,netdev={link.name},mac={link.mac},romfile="
    if link.is_uplink:
        return [f"-netdev user,id={link.name},ipv6=off,net={UPLINK.network}", device]
    local, remote = ("app", profile) if not profile.is_gateway else (profile, "app")
    ours = f"links/{link.segment}-{'app' if local == 'app' else 'gateway'}"
    theirs = f"links/{link.segment}-{'gateway' if remote != 'app' else 'app'}"
    return [
        (
            f"-netdev dgram,id={link.name},local.type=unix,local.path={ours},"
            f"remote.type=unix,remote.path={theirs}"
        ),
        device,
    ]


def _libvirt(profile: Profile, vm: str, firmware: str) -> str:
    interfaces: list[str] = []
    for link in LINKS[profile]:
        if link.is_uplink:
            source = ["    <interface type='user'>", "      <backend type='passt'/>"]
        else:
            source = [
                "    <interface type='network'>",
                f"      <source network='{link.segment}'/>",
            ]
        interfaces += [
            *source,
            f"      <mac address='{link.mac}'/>",
            "      <model type='virtio'/>",
            "      <rom enabled='no'/>",
            "    </interface>",
        ]
    loader = ["  <os firmware='efi'>"] if firmware == "efi" else ["  <os>"]
    networks = [link.segment for link in LINKS[profile] if link.segment]
    return _text(
        [
            f"<!-- {profile} in libvirt: merge this into the domain with",
            f"       virsh edit {_xml_comment(shlex.quote(vm))}",
            "     Inner networks are isolated, without DHCP, DNS or an address of this host;",
            "     define each once with virsh net-define:",
            *(
                f"       <network><name>{segment}</name><bridge stp='off'/></network>"
                for segment in networks
            ),
            "     Remove: filesystem, channel, redirdev, sound, watchdog, memballoon, vsock, tpm,",
            "     clipboard and file transfer of the graphics device, every other interface. -->",
            "<domain type='kvm'>",
            "  <sysinfo type='smbios'>",
            f"    <bios><entry name='vendor'>{token(profile)}</entry></bios>",
            f"    <system><entry name='serial'>{token(profile)}</entry></system>",
            "  </sysinfo>",
            *loader,
            "    <smbios mode='sysinfo'/>",
            "  </os>",
            "  <clock offset='utc'><timer name='kvmclock' present='no'/></clock>",
            "  <devices>",
            *interfaces,
            "    <memballoon model='none'/>",
            "  </devices>",
            "</domain>",
        ]
    )


def _xml_comment(text: str) -> str:
    # Two dashes would end the comment.
    return text.replace("--", "-\u200b-")
