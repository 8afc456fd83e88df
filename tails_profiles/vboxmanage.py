# SPDX-License-Identifier: GPL-3.0-or-later
"""Translate a ``LaunchPlan`` to VirtualBox 6.1 to 7.2: what VBoxManage is told, and must then say.

Its exit status 0 does not mean done: a full disk and some refused flags end in 0. So a machine is a
``Machine``, a value with everything that must be so; ``create`` makes it, and ``differences`` says
where what VBoxManage shows of a machine is not that.

Machines are addressed by UUIDs of our own, since names are not unique, and carry our own mark.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from xml.sax.saxutils import quoteattr

from tails_profiles import runner, virtualbox, virtualbox_folders
from tails_profiles.command import Command
from tails_profiles.errors import LaunchError
from tails_profiles.launch import Display, GuestPlan, LaunchPlan
from tails_profiles.profile import Profile
from tails_profiles.qemu import unit_name
from tails_profiles.shares import SharedFolder

#: Oracle's packages and Debian's have everything here. ``/usr/bin/VBoxManage`` is a script before
#: it, which prints warnings to standard output.
PROGRAMS = Path("/usr/lib/virtualbox")
VBOXMANAGE = str(PROGRAMS / "VBoxManage")
#: Extradata of machines that this project made; its value is the profile.
MARK = "tails-profiles/guest"
#: 6.1 to 7.2 know it; it decides nothing that is not set below.
OS_TYPE = "Debian_64"


class Version(NamedTuple):
    """VirtualBox's, as far as its flags depend on it."""

    major: int
    minor: int


OLDEST = Version(6, 1)
#: The newest that was run; newer ones are spoken to as this one, and read back like every other.
NEWEST = Version(7, 2)


def parse_version(text: str) -> Version:
    """What ``--version`` printed (``7.2.22_Debianr175245``), warnings before it included.

    Raises LaunchError for what is none, or is too old.
    """
    lines = text.strip().splitlines()
    found = re.match(r"(\d+)\.(\d+)\.\d", lines[-1]) if lines else None
    if found is None:
        raise LaunchError(f"VBoxManage says no version: {text.strip()[:80]!r}")
    version = Version(int(found[1]), int(found[2]))
    if version < OLDEST:
        raise LaunchError(
            f"VirtualBox {lines[-1]} is too old", hint="6.1 or newer is needed; 7.0 knows more"
        )
    return min(version, NEWEST)


# ---- spellings


#: Where 6.1 has another word for a flag, or None where it has no such setting. 7.0 to 7.2 take the
#: spellings of ``virtualbox``. ``N`` stands for an adapter's number.
_SPELLINGS_61: Mapping[str, str | None] = {
    "accelerate-3d": "accelerate3d",
    "audio-driver": "audio",
    "audio-enabled": None,
    "bios-boot-menu": "biosbootmenu",
    "bios-pxe-debug": "biospxedebug",
    "bios-system-time-offset": "biossystemtimeoffset",
    "cable-connectedN": "cableconnectedN",
    # Not built into it.
    "clipboard-file-transfers": None,
    "cpu-hotplug": "cpuhotplug",
    "drag-and-drop": "draganddrop",
    "guest-memory-balloon": "guestmemoryballoon",
    "hardware-uuid": "hardwareuuid",
    "mac-addressN": "macaddressN",
    "monitor-count": "monitorcount",
    "nat-dns-host-resolverN": "natdnshostresolverN",
    "nat-dns-pass-domainN": "natdnspassdomainN",
    "nat-dns-proxyN": "natdnsproxyN",
    # Always reachable there: the rules of the guest and of its user on the host close it.
    "nat-localhostreachableN": None,
    "nat-netN": "natnetN",
    "nic-promiscN": "nicpromiscN",
    "nic-typeN": "nictypeN",
    "paravirt-provider": "paravirtprovider",
    "rtc-use-utc": "rtcuseutc",
    "uart-mode1": "uartmode1",
    "usb-card-reader": "usbcardreader",
    "usb-ehci": "usbehci",
    "usb-ohci": "usb",
    "usb-xhci": "usbxhci",
}
#: Flags that an older VirtualBox does not know; what they close is off by default.
_SINCE: Mapping[str, Version] = {
    "nat-forward-broadcastN": Version(7, 1),
    "nat-enable-tftpN": Version(7, 2),
}
_ADAPTER = re.compile(r"(nic|intnet|nat-[a-z-]+|nic-[a-z]+|mac-address|cable-connected)(\d)")


def _numberless(name: str) -> tuple[str, str]:
    found = _ADAPTER.fullmatch(name)
    return (f"{found[1]}N", found[2]) if found else (name, "")


def spelling(name: str, version: Version) -> str | None:
    """How ``version`` writes the flag ``name``; None where it has none."""
    general, number = _numberless(name)
    if version < _SINCE.get(general, OLDEST):
        return None
    word = _SPELLINGS_61.get(general, general) if version < Version(7, 0) else general
    return None if word is None else re.sub("N$", number, word)


def flags(options: "Options", version: Version) -> Iterator[str]:
    """The words of ``modifyvm``."""
    for (name, *_), values in options.items():
        word = spelling(name, version)
        if word is None:
            continue
        if len(values) == 1 and values[0].startswith("-"):
            yield f"--{word}={values[0]}"
        else:
            yield from (f"--{word}", *values)


# ---- a machine


#: By name; ``cpuid-set`` is there once for each leaf, which is then the second part of the key.
Options = Mapping[tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Medium:
    """What lies in a drive of the IDE controller."""

    port: int
    device: int
    path: Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything that one guest's machine must be.

    ``folder`` holds its settings file. ``options`` are those of ``modifyvm`` without dashes, in
    ``virtualbox``'s spelling.
    """

    profile: Profile
    uuid: UUID
    folder: Path
    options: Options
    extradata: Mapping[str, str]
    media: tuple[Medium, ...]
    shares: tuple[SharedFolder, ...] = ()

    @property
    def settings_file(self) -> Path:
        """What VirtualBox keeps of it."""
        return self.folder / self.profile / f"{self.profile}.vbox"


def machine(guest: GuestPlan, plan: LaunchPlan, version: Version) -> Machine:
    """Everything that the machine of ``guest`` must be."""
    groups = (
        *virtualbox.identity(guest.token, guest.settings_tag, guest.machine.uuid, "bios"),
        virtualbox.drive_identity("PrimarySlave"),
        *virtualbox.adapters(guest.links),
        virtualbox.shared_network(guest.links),
        *virtualbox.CHANNELS,
        *virtualbox.hardware(
            guest.profile, guest.machine.memory, guest.machine.processors, guest.machine.screen
        ),
        virtualbox.ONE_BOOT,
        *(
            [virtualbox.serial(str(guest.serial))]
            if guest.profile.is_gateway
            else [virtualbox.KIOSK]
        ),
        virtualbox.clock(exact=not guest.clock_offset),
    )
    offset = round(guest.clock_offset / timedelta(milliseconds=1))
    set_where_known = {
        key: value
        for key, value in _options(word for group in groups for word in group.left).items()
        if _numberless(key[0])[0] in _SINCE
    }
    extradata = dict(pair for group in groups for pair in group.extradata)
    if version < Version(7, 0):
        # A key that its NAT engine does not know stops the machine.
        extradata = {key: value for key, value in extradata.items() if key not in _LOCALHOST}
    return Machine(
        guest.profile,
        guest.machine.uuid,
        home(guest.profile, plan.directory) / "machines",
        {
            **_options(word for group in groups for word in group.flags),
            **set_where_known,
            **_options([f"{virtualbox.CLOCK_OFFSET}={offset}"]),
        },
        {**extradata, MARK: guest.profile.value},
        (Medium(0, 0, plan.image), Medium(0, 1, guest.settings_disk)),
        guest.shares,
    )


_LOCALHOST = frozenset(map(virtualbox.localhost_key, range(1, virtualbox.ADAPTERS + 1)))


def _options(words: Iterable[str]) -> Options:
    """Flags by their names; a later one replaces an earlier one."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    key: tuple[str, ...] = ()
    for word in words:
        if word.startswith("--"):
            name, *value = word.removeprefix("--").split("=", 1)
            key = (name,)
            found[key] = tuple(value)
        elif key == ("cpuid-set",):
            del found[key]
            key = ("cpuid-set", word)
            found[key] = (word,)
        else:
            found[key] += (word,)
    return found


# ---- who runs it, and where


#: Below a launch's directory: VirtualBox's of gateways, and of app-guest.
HOMES = ("virtualbox-gateway", "virtualbox-app")


def home(profile: Profile, directory: Path) -> Path:
    """Where VirtualBox keeps what belongs to the guest's user: a list of machines of its own.

    One to each level of trust: a machine's process may ask its VBoxSVC for anything.
    """
    return directory / HOMES[not profile.is_gateway]


def environment(profile: Profile, directory: Path) -> tuple[str, ...]:
    """Assignments for env(1)."""
    place = home(profile, directory)
    return (
        f"HOME={place}",
        f"VBOX_USER_HOME={config(place)}",
        # The name of its socket below /tmp: two instances of one user would share a VBoxSVC.
        f"VBOX_IPC_SOCKETID={socket_id(place)}",
        # Machines' processes are set-user-id root, and would keep this capability.
        "VBOX_HARD_CAP_NET_RAW=0",
        # A window tells its guest the language of this host: this one, everywhere.
        "LANG=C.UTF-8",
    )


def config(place: Path) -> Path:
    """The list of machines, and VBoxSVC's log, of a home."""
    return place / "config"


def socket_id(place: Path) -> str:
    """The name of a VBoxSVC's socket below /tmp, by its home: short, whatever that is called."""
    return f"tails-profiles-{hashlib.sha256(bytes(place)).hexdigest()[:16]}"


def manager(profile: Profile, directory: Path) -> tuple[str, ...]:
    """What stands before VBoxManage's words: the guest's user, and nothing that it could gain.

    The first call starts VBoxSVC, which inherits all of it: asked by a machine's process to run
    another machine, it cannot, since that needs a set-user-id program; and app-guest's has no
    network.
    """
    return (*runner.as_user(profile), "/usr/bin/env", *environment(profile, directory))


def command(profile: Profile, directory: Path, words: Iterable[str]) -> Command:
    """A program and its words, run as whom the guest's machine belongs to."""
    return Command((*manager(profile, directory), *words))


# ---- running it


#: Of the front ends' processes, none of which needs these: they are set-user-id root for as long
#: as they open the kernel driver.
_DROPPED = "-net_raw,-net_admin,-sys_module,-sys_boot,-sys_time,-mknod"
#: What a front end's command line carries, so that its machine is found again: VirtualBox ignores
#: it.
COMMENT = "tails-profiles:"


def authority(guest: GuestPlan) -> Path:
    """A copy of the screen's Xauthority file for the guest's user."""
    return guest.directory / "xauthority"


def front_end(guest: GuestPlan, directory: Path, display: Display | None) -> tuple[str, ...]:
    """What runs a machine: its own process, and not one that VBoxSVC starts.

    app-guest's is full screen where there is a screen; headless, it can be looked at later.
    """
    words = ("--comment", f"{COMMENT}{guest.directory}", "--startvm", str(guest.machine.uuid))
    if display is None:
        program = (str(PROGRAMS / "VBoxHeadless"), *words, "--vrde", "off")
        assignments: tuple[str, ...] = ()
    else:
        program = (
            str(PROGRAMS / "VirtualBoxVM"), *words, "--fullscreen", "--no-startvm-errormsgbox",
        )  # fmt: skip
        assignments = (f"DISPLAY={display.name}", "QT_QPA_PLATFORM=xcb")
        if display.authority is not None:
            assignments += (f"XAUTHORITY={authority(guest)}",)
    return ("/usr/bin/env", *environment(guest.profile, directory), *assignments, *program)


def start_command(guest: GuestPlan, plan: LaunchPlan, display: Display | None) -> Command:
    """The command that runs one guest's machine, as its user and in its namespace."""
    before = (
        _systemd(guest, plan)
        if plan.systemd
        # Not all, and with new privileges: the program opens the driver as root, then drops them.
        else runner.machine(guest.profile, "077", dropped=_DROPPED)
    )
    return Command((*before, *front_end(guest, plan.directory, display)))


def _systemd(guest: GuestPlan, plan: LaunchPlan) -> Iterator[str]:
    """systemd.exec(5), systemd.resource-control(5).

    Nothing that filters system calls: it would mean NoNewPrivileges=, with which the set-user-id
    program does not start. /tmp is the machine's: the socket of VBoxSVC is in it, and X's.
    """
    place = home(guest.profile, plan.directory)
    properties = {
        "Description": f"tails-profiles: the virtual machine of {guest.profile}",
        "Type": "exec",
        "User": guest.user,
        "Group": guest.user,
        "PrivateNetwork": "no" if guest.profile.is_gateway else "yes",
        "UMask": "0077",
        "CapabilityBoundingSet": "~"
        + " ".join(f"CAP_{name.removeprefix('-').upper()}" for name in _DROPPED.split(",")),
        "ProtectSystem": "strict",
        "ProtectHome": "read-only",
        "ReadWritePaths": " ".join(
            (
                f"{guest.directory} {place} /tmp",
                *(str(share.target) for share in guest.shares if share.writable),
            )
        ),
        "DevicePolicy": "closed",
        "ProtectControlGroups": "yes",
        # Guest memory never reaches the host's disk.
        "MemorySwapMax": "0",
        "LimitCORE": "0",
        "StandardOutput": f"append:{guest.log}",
        "StandardError": f"append:{guest.log}",
        "TimeoutStopSec": "5",
    }
    yield from (
        "/usr/bin/systemd-run", "--collect", "--quiet", f"--unit={unit_name(guest.profile)}",
    )  # fmt: skip
    yield from (f"--property={key}={value}" for key, value in properties.items())
    yield from (f"--property=DeviceAllow={device} rw" for device in DEVICES)
    yield "--"


#: Of VirtualBox's kernel driver.
DEVICES = ("/dev/vboxdrv", "/dev/vboxdrvu", "/dev/vboxnetctl")


# ---- making it


#: A program and its words, to be run by ``command``.
Call = tuple[str, ...]


def create(made: Machine, version: Version) -> tuple[Call, ...]:
    """Programs and their words, in order, that make a machine which is not there.

    Extradata are a call each; so they are written into the file that ``createvm`` wrote, before
    VirtualBox reads it. ``differences`` says whether it took them.
    """
    return (
        (
            VBOXMANAGE, "createvm", "--name", made.profile.value, "--uuid", str(made.uuid),
            "--ostype", OS_TYPE, "--basefolder", str(made.folder),
        ),
        ("/usr/bin/sed", "-i", _insertion(made.extradata), str(made.settings_file)),
        (VBOXMANAGE, "registervm", str(made.settings_file)),
        modify(made, version),
        add_controller(made),
        *(attach(made, medium) for medium in made.media),
        *(share_folder(made, share) for share in made.shares),
    )  # fmt: skip


def forget(made: Machine) -> Call:
    """Take a machine out of the list. Media stay: there is no ``--delete``."""
    return (VBOXMANAGE, "unregistervm", str(made.uuid))


def remove_files(made: Machine) -> Call:
    """Remove its settings files, which would be in the way of a new one; nothing else."""
    file = str(made.settings_file)
    return ("/usr/bin/rm", "-f", file, f"{file}-prev", f"{file}-tmp")


def look(made: Machine) -> Call:
    """Show what it is."""
    return (VBOXMANAGE, "showvminfo", str(made.uuid), "--machinereadable")


def look_at_folders(made: Machine) -> Call:
    """Show all of its shared folders, in the midst of much else; ``look`` shows half of it."""
    return (VBOXMANAGE, "showvminfo", str(made.uuid))


def look_at_extradata(made: Machine) -> Call:
    """Show its extradata, its DMI strings among them."""
    return (VBOXMANAGE, "getextradata", str(made.uuid), "enumerate")


def plug(uuid: UUID, adapter: int) -> Call:
    """Plug a cable in while the machine runs; it starts without."""
    return (VBOXMANAGE, "controlvm", str(uuid), f"setlinkstate{adapter}", "on")


def press_power_button(uuid: UUID) -> Call:
    """ACPI's."""
    return (VBOXMANAGE, "controlvm", str(uuid), "acpipowerbutton")


def picture(uuid: UUID, path: Path) -> Call:
    """Have a running machine's screen written to a PNG file."""
    return (VBOXMANAGE, "controlvm", str(uuid), "screenshotpng", str(path))


def delete_property(uuid: UUID, path: str) -> Call:
    """Delete a guest property; that there is none is no failure."""
    return (VBOXMANAGE, "guestproperty", "delete", str(uuid), path)


def modify(made: Machine, version: Version) -> Call:
    """The one call that sets every option: all of them, or none."""
    return (VBOXMANAGE, "modifyvm", str(made.uuid), *flags(made.options, version))


def add_controller(made: Machine) -> Call:
    """The one controller of drives."""
    name = virtualbox.CONTROLLER
    return (VBOXMANAGE, "storagectl", str(made.uuid), "--name", name, "--add", "ide")


def attach(made: Machine, medium: Medium) -> Call:
    """Lay a medium into its drive, read-only by its kind."""
    return (
        VBOXMANAGE, "storageattach", str(made.uuid), "--storagectl", virtualbox.CONTROLLER,
        "--port", str(medium.port), "--device", str(medium.device), "--type", "dvddrive",
        "--medium", str(medium.path),
    )  # fmt: skip


def share_folder(made: Machine, share: SharedFolder) -> Call:
    """Share a folder, which must be there by then."""
    return (VBOXMANAGE, *virtualbox_folders.add(made.uuid, share))


def set_extradata(made: Machine, key: str, value: str) -> Call:
    """Set one key; an empty value deletes it."""
    return (VBOXMANAGE, "setextradata", str(made.uuid), key, *([value] if value else []))


def _insertion(extradata: Mapping[str, str]) -> str:
    """A script for sed(1) that puts the keys where a settings file has them."""
    items = "".join(
        f"<ExtraDataItem name={quoteattr(key)} value={quoteattr(value)}/>"
        for key, value in sorted(extradata.items())
    )
    text = re.sub(r"[&|\\]", r"\\\g<0>", f"<ExtraData>{items}</ExtraData>")
    return f"s|<Hardware>|{text}&|"


# ---- reading it back


_LINE = re.compile(
    r'^(?:"(?P<quoted>[^"\n]+)"|(?P<key>[A-Za-z][\w()\[\]/-]*))='
    r'(?:"(?P<text>(?:[^"\\]|\\.)*)"[^\n]*|(?P<word>[^"\n][^\n]*|))$',
    re.MULTILINE,
)
_CPUID = re.compile(r"cpuid=[0-9a-f]{8}(?:,[0-9a-f]{8}){5}")


def parse_info(text: str) -> dict[str, str]:
    """``showvminfo --machinereadable``, by key.

    Values in quotes may hold line breaks; quotes and backslashes in them are escaped. Keys may be
    in quotes. After a CPUID leaf the end of the line is missing: leaves are ``cpuid/LEAF``. A key
    that is there twice has both values, in two lines: no value that is looked for has two. Whatever
    else stands there (a warning of Debian's script before it) is ignored.
    """
    found: dict[str, str] = {}
    for match in _LINE.finditer(_CPUID.sub(lambda leaf: f"{leaf[0]}\n", text)):
        key, value = match["quoted"] or match["key"], match["word"]
        if value is None:
            value = re.sub(r"\\(.)", r"\1", match["text"])
        elif key == "cpuid":
            leaf, _, value = value.partition(",")
            key = f"cpuid/{leaf}"
        found[key] = f"{found[key]}\n{value}" if key in found else value
    return found


def parse_extradata(text: str) -> dict[str, str]:
    """``getextradata enumerate``; it escapes nothing, so that a value may go on in further lines.

    A key that is there twice has both values, as in ``parse_info``.
    """
    found: dict[str, str] = {}
    key = None
    for line in text.splitlines():
        match = re.fullmatch(r"Key: (.+?), Value: (.*)", line)
        if match is not None:
            key = match[1]
            found[key] = f"{found[key]}\n{match[2]}" if key in found else match[2]
        elif key is not None:
            found[key] += f"\n{line}"
    return found


def complaint(text: str) -> str:
    """The first thing that VBoxManage complains of in what it printed, in a line."""
    found = re.search(r"^VBoxManage: error: (.+)$", text, re.MULTILINE)
    lines = text.strip().splitlines()
    return (found[1] if found else lines[-1] if lines else "it said nothing")[:300]


def parse_list(text: str) -> dict[UUID, str]:
    """``list vms`` and ``list runningvms``: names by UUID.

    A machine whose file cannot be read is called ``<inaccessible>``.
    """
    lines = re.finditer(r'^"(.*)" \{([0-9a-f-]{36})\}$', text, re.MULTILINE)
    return {UUID(match[2]): match[1] for match in lines}


INACCESSIBLE = "<inaccessible>"

#: By flag, the key that ``showvminfo`` shows it under; ``N`` stands for an adapter's number.
SHOWN: Mapping[str, str] = {
    "accelerate-3d": "accelerate3d",
    "audio-driver": "audio",
    "autostart-enabled": "autostart-enabled",
    "bios-boot-menu": "bootmenu",
    "bios-system-time-offset": "biossystemtimeoffset",
    "boot1": "boot1",
    "boot2": "boot2",
    "boot3": "boot3",
    "boot4": "boot4",
    "cable-connectedN": "cableconnectedN",
    "chipset": "chipset",
    "clipboard-file-transfers": "clipboard_file_transfers",
    "clipboard-mode": "clipboard",
    "cpus": "cpus",
    "drag-and-drop": "draganddrop",
    "firmware": "firmware",
    "graphicscontroller": "graphicscontroller",
    "guest-memory-balloon": "GuestMemoryBalloon",
    "hardware-uuid": "hardwareuuid",
    "hpet": "hpet",
    "intnetN": "intnetN",
    "keyboard": "hidkeyboard",
    "lpt1": "lpt1",
    "mac-addressN": "macaddressN",
    "memory": "memory",
    "monitor-count": "monitorcount",
    "mouse": "hidpointing",
    "nat-enable-tftpN": "enableTFTP",
    "nat-forward-broadcastN": "forwardBroadcast",
    "nat-netN": "natnetN",
    "nested-hw-virt": "nested-hw-virt",
    "nicN": "nicN",
    "nic-typeN": "nictypeN",
    "paravirt-provider": "paravirtprovider",
    "recording": "recording_enabled",
    "rtc-use-utc": "rtcuseutc",
    "teleporter": "teleporterenabled",
    "tracing-allow-vm-access": "tracing-allow-vm-access",
    "tracing-enabled": "tracing-enabled",
    "uart1": "uart1",
    "uart-mode1": "uartmode1",
    "usb-ehci": "ehci",
    "usb-ohci": "usb",
    "usb-xhci": "xhci",
    "vram": "vram",
    "vrde": "vrde",
}
#: Flags that it does not show, or (``nat-localhostreachableN``) that its service forgets and
#: extradata decide. They go with all others in one call, which is done whole or not at
#: all, before each start.
UNSHOWN = frozenset(
    (
        "audio-enabled", "bios-pxe-debug", "cpu-hotplug", "ibpb-on-vm-entry", "ibpb-on-vm-exit",
        "l1d-flush-on-sched", "l1d-flush-on-vm-entry", "mds-clear-on-sched",
        "mds-clear-on-vm-entry", "nat-dns-host-resolverN", "nat-dns-pass-domainN", "nat-dns-proxyN",
        "nat-localhostreachableN", "nic-promiscN", "spec-ctrl", "usb-card-reader",
    )
)  # fmt: skip
#: Values that are shown in other words.
_OTHER_WORDS: Mapping[tuple[str, str], str] = {
    ("clipboard_file_transfers", "disabled"): "off",
    ("enableTFTP", "off"): "0",
    ("firmware", "bios"): "BIOS",
    ("forwardBroadcast", "off"): "0",
    ("hidkeyboard", "ps2"): "ps2kbd",
    ("hidpointing", "ps2"): "ps2mouse",
    ("uart1", "0x3f8,4"): "0x03f8,4",
}
#: Read in what 7.2 shows. An older VirtualBox may not show them; what it shows is compared.
_SHOWN_BY_72 = frozenset(
    (
        "accelerate3d", "audio", "autostart-enabled", "bootmenu", "clipboard_file_transfers",
        "enableTFTP", "forwardBroadcast", "hpet", "nested-hw-virt", "recording_enabled",
        "tracing-allow-vm-access", "tracing-enabled",
    )
)  # fmt: skip


def shown(made: Machine, version: Version) -> dict[str, str]:
    """What ``showvminfo`` must say of the machine, as ``parse_info`` has it."""
    wanted = {
        "UUID": str(made.uuid),
        "name": made.profile.value,
        "CfgFile": str(made.settings_file),
        "storagecontrollername0": virtualbox.CONTROLLER,
        "storagecontrollertype0": "PIIX4",
        # Nobody sets these: some version refuses the flag, and they are right by default.
        "uart2": "off",
        "cpu-profile": "host",
        "pagefusion": "off",
    }
    for (name, *leaf), values in made.options.items():
        key = _shown_key(name, *leaf)
        if leaf:
            # Of its first sub-leaf.
            wanted[f"cpuid/{leaf[0]}"] = ",".join(("00000000", *(v.zfill(8) for v in values[1:])))
        elif key is not None and spelling(name, version) is not None:
            value = ",".join(values)
            wanted[key] = _OTHER_WORDS.get((key, value), value)
    wanted |= dict.fromkeys(_DRIVES, "none")
    wanted |= {_drive(medium.port, medium.device): str(medium.path) for medium in made.media}
    return wanted


def _shown_key(name: str, leaf: str = "") -> str | None:
    """The key that shows an option, if one does."""
    if leaf:
        return f"cpuid/{leaf}"
    general, number = _numberless(name)
    key = SHOWN.get(general)
    return key and re.sub("N$", number, key)


def _drive(port: int, device: int) -> str:
    return f"{virtualbox.CONTROLLER}-{port}-{device}"


_DRIVES = tuple(_drive(port, device) for port in (0, 1) for device in (0, 1))


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which a machine is not as it must be; ``found`` is None for what is missing."""

    key: str
    wanted: str | None
    found: str | None

    def __str__(self) -> str:
        """In words."""
        found = "is missing" if self.found is None else f"is {self.found!r}"
        return f"{self.key} {found}" + (
            ", which nobody asked for" if self.wanted is None else f", not {self.wanted!r}"
        )


#: What no machine of ours has: doors that somebody else made.
_FOREIGN = re.compile(
    r"Forwarding\(.*|USBFilter.*|(Current)?SnapshotName.*|AttachedHostPCI.*"
    r"|storagecontrollername[1-9]|nic9|videocapture.*"
)
#: States in which a machine's settings are its own.
_AT_REST = frozenset({"poweroff", "aborted"})


@dataclass(frozen=True, slots=True)
class Shown:
    """What VBoxManage shows of a machine: as ``parse_info``, ``parse_extradata`` and
    ``virtualbox_folders.parse`` have it.
    """

    info: Mapping[str, str]
    extradata: Mapping[str, str]
    folders: Mapping[str, str]


def differences(made: Machine, shown: Shown, version: Version) -> tuple[Difference, ...]:
    """Where a machine is not ``made``."""
    return (
        *info_differences(made, shown.info, version),
        *extradata_differences(made, shown.extradata),
        *folder_differences(made, shown.folders),
    )


def info_differences(
    made: Machine, info: Mapping[str, str], version: Version
) -> Iterator[Difference]:
    """The same of ``showvminfo`` alone."""
    for key, value in shown(made, version).items():
        if key not in info and key in _SHOWN_BY_72 and version < NEWEST:
            continue
        if info.get(key) != value:
            yield Difference(key, value, info.get(key))
    for key, value in info.items():
        if _FOREIGN.fullmatch(key):
            yield Difference(key, None, value)
    state = info.get("VMState")
    if state not in _AT_REST:
        yield Difference("VMState", "poweroff", state)


def extradata_differences(made: Machine, extradata: Mapping[str, str]) -> Iterator[Difference]:
    """The same of ``getextradata enumerate``. The front end adds keys of its own below ``GUI/``."""
    for key, value in made.extradata.items():
        if extradata.get(key) != value:
            yield Difference(key, value, extradata.get(key))
    for key, value in extradata.items():
        if key.startswith("VBoxInternal") and key not in made.extradata:
            yield Difference(key, None, value)


#: What the key of a folder's difference begins with.
_FOLDER = "shared folder "


def folder_differences(made: Machine, folders: Mapping[str, str]) -> Iterator[Difference]:
    """The same of its shared folders; those that nobody asked for come first."""
    wanted = virtualbox_folders.wanted(made.shares)
    for name, text in folders.items():
        if name not in wanted:
            yield Difference(f"{_FOLDER}{name}", None, text)
    for name, text in wanted.items():
        if folders.get(name) != text:
            yield Difference(f"{_FOLDER}{name}", text, folders.get(name))


def foreign_folders(found: Iterable[Difference]) -> tuple[Difference, ...]:
    """Those of the differences that are folders nobody asked for."""
    return tuple(each for each in found if each.key.startswith(_FOLDER) and each.wanted is None)


def _repair_folder(made: Machine, found: Difference) -> Iterator[Call]:
    """Removed and shared again: 6.1 to 7.1 cannot change one."""
    name = found.key.removeprefix(_FOLDER)
    for words in virtualbox_folders.remove(made.uuid, name, found.found or ""):
        yield (VBOXMANAGE, *words)
    yield from (share_folder(made, share) for share in made.shares if share.tag == name)


def repair(made: Machine, found: Iterable[Difference], version: Version) -> tuple[Call, ...] | None:
    """The calls after which nothing of ``found`` is left; None where only a new machine helps.

    Options are set whatever is found: some are not shown, and the clock's offset is a new one.
    """
    drives = {_drive(medium.port, medium.device): medium for medium in made.media}
    settable = {_shown_key(*key) for key in made.options}
    calls: list[Call] = []
    for each in found:
        if each.key in made.extradata or each.key.startswith("VBoxInternal"):
            calls.append(set_extradata(made, each.key, each.wanted or ""))
        elif each.key == "storagecontrollername0" and each.found is None:
            # Before its drives, which are missing too.
            calls.insert(0, add_controller(made))
        elif each.key in drives:
            calls.append(attach(made, drives[each.key]))
        elif each.key.startswith(_FOLDER):
            calls.extend(_repair_folder(made, each))
        elif each.found is None and (each.key in _DRIVES or each.key == "storagecontrollertype0"):
            continue  # of the same controller
        elif each.key not in settable:
            return None
    return (modify(made, version), *calls)
