# SPDX-License-Identifier: GPL-3.0-or-later
"""Translate a ``LaunchPlan`` to QEMU 7.2 and newer, and to who runs it.

Options: qemu-system-x86_64(1). Each one that is not plain hardware carries the leak it closes.
"""

from collections.abc import Iterator

from tails_profiles.command import Command
from tails_profiles.constants import LINK_GROUP, UPLINK, LinkConstants
from tails_profiles.launch import DMI_DATE, DMI_VENDOR, DMI_VERSION, GuestPlan, LaunchPlan
from tails_profiles.profile import Profile

QEMU = "/usr/bin/qemu-system-x86_64"
MACHINE = (
    "q35,vmport=off,smbus=off,smm=off,usb=off,hpet=off,dump-guest-core=off,mem-merge=off,"
    "x-oem-id=TAILSP,x-oem-table-id=PROFILES"
)
#: One processor for everybody: old enough for every host, with the instructions that Debian's
#: programs and the kernel's random numbers ask for.
CPU_MODEL = "Nehalem"
CPU = f"{CPU_MODEL},+rdrand,-hypervisor,kvm=off,pmu=off,model-id=tails-profiles"
#: Closed in addition where KVM is used: clocks that tell the guest the host's time.
CPU_KVM = ",-kvmclock,-kvmclock-stable-bit,-kvm-steal-time,-kvm-asyncpf,-kvm-pv-eoi"


def guest_command(guest: GuestPlan, plan: LaunchPlan) -> Command:
    """The command that runs one guest: its user and namespace, then QEMU with every option."""
    return Command((*_runner(guest, plan), *qemu_argv(guest, plan)))


def unit_name(profile: Profile) -> str:
    """The transient unit of a guest's machine."""
    return f"tails-profiles-vm-{profile}.service"


def _runner(guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
    if plan.systemd:
        return tuple(_systemd(guest, plan))
    # Sockets of the inner links are for the group; nothing is for others.
    umask = ("/bin/sh", "-c", 'umask 007; exec "$@"', guest.profile.value)
    # app-guest's machine has no network, whoever escapes into it: an empty network namespace.
    # Gateways stay in this one, under the host's rule set.
    network = () if guest.profile.is_gateway else ("/usr/bin/unshare", "--net")
    return (
        *umask, *network, "/usr/bin/setpriv", f"--reuid={guest.user}", f"--regid={guest.user}",
        f"--groups={_groups(plan)}", "--bounding-set=-all", "--inh-caps=-all",
        "--no-new-privs", "--",
    )  # fmt: skip


def _groups(plan: LaunchPlan) -> str:
    return ",".join((LINK_GROUP, "kvm")) if plan.kvm else LINK_GROUP


def _systemd(guest: GuestPlan, plan: LaunchPlan) -> Iterator[str]:
    yield from (
        "/usr/bin/systemd-run",
        "--collect",
        "--quiet",
        f"--unit={unit_name(guest.profile)}",
    )
    properties = {
        "User": guest.user,
        "Group": guest.user,
        "SupplementaryGroups": _groups(plan).replace(",", " "),
        "PrivateNetwork": "no" if guest.profile.is_gateway else "yes",
        "UMask": "0007",
        "CapabilityBoundingSet": "",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ReadWritePaths": f"{guest.directory} {plan.link_directory}",
        "ProtectHome": "read-only",
        "PrivateTmp": "yes",
        "DevicePolicy": "closed",
        "ProtectProc": "invisible",
        "RestrictNamespaces": "yes",
        "LockPersonality": "yes",
        # Guest memory never reaches the host's disk.
        "MemorySwapMax": "0",
        "LimitCORE": "0",
    }
    for key, value in properties.items():
        yield f"--property={key}={value}"
    if plan.kvm:
        yield "--property=DeviceAllow=/dev/kvm rw"
    yield "--"


def qemu_argv(guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
    """QEMU and its options."""
    parts = (
        # Paused until its uplink is unplugged: the link gate.
        (QEMU, "-S", "-name", f"tails-profiles-{guest.profile}"),
        _machine(guest, plan),
        _identity(guest),
        _storage(guest, plan),
        *(_nic(guest, plan, link) for link in guest.links),
        _screen(guest),
        _channels(guest),
    )
    return tuple(word for part in parts for word in part)


def _machine(guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
    accelerator = "kvm" if plan.kvm else "tcg,thread=multi,tb-size=256"
    return (
        # Nothing that this host configured or QEMU would add by itself.
        "-nodefaults", "-no-user-config",
        # VMware's port, spare buses, SMM, USB and HPET; guest memory in core files and shared
        # pages; the tables' owner, which names QEMU.
        "-machine", MACHINE,
        "-accel", accelerator,
        # The real processor's name, counters and feature leaves.
        "-cpu", CPU + (CPU_KVM if plan.kvm else ""),
        "-smp", f"{guest.machine.processors},sockets=1,cores={guest.machine.processors},threads=1",
        "-m", str(guest.machine.memory), "-overcommit", "mem-lock=off",
        # The host's time: a start of its own, and then the guest's own pace.
        "-rtc", f"base={guest.clock:%Y-%m-%dT%H:%M:%S},clock=vm",
        # Sleep states, and boot from anything but the medium.
        "-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1",
        "-boot", "strict=on,menu=off", "-action", "panic=shutdown",
        # What an escape could call: other programs, other users.
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    )  # fmt: skip


def _identity(guest: GuestPlan) -> tuple[str, ...]:
    common = f"manufacturer={DMI_VENDOR},version={DMI_VERSION}"
    return (
        # Serial numbers, versions and dates of hypervisor and host; every type that QEMU fills in.
        "-uuid", str(guest.machine.uuid),
        "-smbios", f"type=0,vendor={guest.token},version={DMI_VERSION},date={DMI_DATE},release=1.0",
        "-smbios", f"type=1,{common},product=guest,serial={guest.token},sku=,family=",
        "-smbios", f"type=2,{common},product=guest,serial=0,asset=,location=",
        "-smbios", f"type=3,{common},serial=0,asset={guest.settings_tag},sku=",
        "-smbios", f"type=4,sock_pfx=CPU,{common},serial=0,asset=,part=",
        "-smbios", "type=11,value=tails-profiles",
        "-smbios", f"type=17,loc_pfx=RAM,bank=0,manufacturer={DMI_VENDOR},serial=0,asset=,part=",
    )  # fmt: skip


def _storage(guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
    def drive(node: str, path: str) -> str:
        escaped = path.replace(",", ",,")
        # Read-only twice, and no discard: no guest changes what the others boot.
        return (
            f"driver=raw,node-name={node},read-only=on,auto-read-only=off,discard=ignore,"
            f"file.driver=file,file.filename={escaped}"
        )

    return (
        "-blockdev", drive("medium", str(plan.image)),
        # Model, version and serial would name QEMU, its version and the medium.
        "-device", "ide-cd,drive=medium,bootindex=0,serial=0,model=medium,ver=1",
        "-blockdev", drive("settings", str(guest.settings_disk)),
        "-device", "virtio-blk-pci,drive=settings,serial=settings",
    )  # fmt: skip


def _nic(guest: GuestPlan, plan: LaunchPlan, link: LinkConstants) -> tuple[str, ...]:
    # No option ROM: nothing boots from a network.
    device = f"virtio-net-pci,netdev={link.name},id=nic-{link.name},mac={link.mac},romfile="
    if link.is_uplink:
        # No IPv6 and no forward. That 10.0.2.2 is the host's loopback and 10.0.2.3 its resolver
        # no option closes: the host's rule set does.
        backend = f"user,id={link.name},ipv6=off,net={UPLINK.network},hostname=host"
        return ("-netdev", backend, "-device", device)
    # Not a bridge, tap or port of the host, which its own network stack, or any of its users,
    # could reach: sockets in a directory of two users. Datagrams: either side may start first.
    ours, theirs = ("app", "gateway") if guest.profile is Profile.APP_GUEST else ("gateway", "app")
    base = plan.link_directory / str(link.segment)
    backend = (
        f"dgram,id={link.name},local.type=unix,local.path={base}.{ours},"
        f"remote.type=unix,remote.path={base}.{theirs}"
    )
    return ("-netdev", backend, "-device", device)


def _screen(guest: GuestPlan) -> tuple[str, ...]:
    if guest.machine.screen is None:
        # A text screen for pictures of tty1; nobody is connected to it.
        return ("-vga", "std", "-display", "none")
    width, height = guest.machine.screen
    return (
        "-vga", "none",
        # The host's own screen size and its data.
        "-device", f"virtio-vga,edid=on,xres={width},yres={height},max_outputs=1",
        "-display", "none", "-vnc", f"unix:{guest.screen},share=ignore",
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
        # No monitor within a guest's or another user's reach.
        "-monitor", "none", "-parallel", "none", *serial,
        "-qmp", f"unix:{guest.monitor},server=on,wait=off",
        # Entropy, at a pace.
        "-device", "virtio-rng-pci,max-bytes=1024,period=1000",
    )  # fmt: skip
