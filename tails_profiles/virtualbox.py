# SPDX-License-Identifier: GPL-3.0-or-later
"""What VirtualBox must be told so that a machine of it is a guest of this project.

Spellings that VirtualBox 7.0, 7.1 and 7.2 all take. 6.1 has no way to close the host's 127.0.0.1
to a guest. Two settings are left out on purpose: ``--page-fusion off`` fails in builds without page
sharing and takes its whole ``modifyvm`` call down with it, and ``--x2apic off`` switches the APIC
off as well; both are off, or harmless, by default.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from tails_profiles.constants import (
    ACPI_CREATOR_ID,
    ACPI_CREATOR_REVISION,
    ACPI_OEM_ID,
    CPU_NAME,
    DMI,
    DMI_OEM_STRINGS,
    LINKS,
    MEDIUM_MODEL,
    MEDIUM_SERIAL,
    MEDIUM_VERSION,
    UPLINK,
    LinkConstants,
)
from tails_profiles.profile import Profile
from tails_profiles.shares import SharedFolder

#: The name of the drive controller with the image: PIIX4, whose driver every Debian kernel has.
CONTROLLER = "IDE"
#: The clock's offset at power-on, in milliseconds, signed; every version takes this spelling.
CLOCK_OFFSET = "--bios-system-time-offset"
#: VirtualBox has so many network adapters in the chipset that is the default.
ADAPTERS = 8
#: The device whose configuration the DMI strings are, by firmware. A key of the other one stops
#: the machine.
FIRMWARE_DEVICES = {"bios": "pcbios", "efi": "efi"}
#: What the front end writes into the guest properties at each start: the host's language and
#: VirtualBox's version. They can be deleted only while the machine runs.
HOST_VERSIONS = tuple(
    f"/VirtualBox/HostInfo/{name}" for name in ("VBoxVer", "VBoxVerExt", "VBoxRev")
)
#: A window writes the language only seconds after its machine runs.
HOST_PROPERTIES = ("/VirtualBox/HostInfo/GUI/LanguageID", *HOST_VERSIONS)
HOST_PROPERTIES_WHY = (
    "What the front end told it about this host: its language and VirtualBox's version."
)

NO_OTHER_ADAPTER = "No other way out; any other card ends in quarantine."
#: Why a machine has one drive, with the image, and no shared folder.
STORAGE = "A disk would hold what the guest wrote, for whoever looks and for its next start."
SHARES = "A shared folder shows this host's clock and disk."

_DEVICES = "VBoxInternal/Devices/"
_DMI_KEYS: Mapping[str, str] = {
    "bios_vendor": "DmiBIOSVendor",
    "bios_version": "DmiBIOSVersion",
    "bios_date": "DmiBIOSReleaseDate",
    "sys_vendor": "DmiSystemVendor",
    "product_name": "DmiSystemProduct",
    "product_version": "DmiSystemVersion",
    "product_serial": "DmiSystemSerial",
    "product_sku": "DmiSystemSKU",
    "product_family": "DmiSystemFamily",
    "board_vendor": "DmiBoardVendor",
    "board_name": "DmiBoardProduct",
    "board_version": "DmiBoardVersion",
    "board_serial": "DmiBoardSerial",
    "board_asset_tag": "DmiBoardAssetTag",
    "chassis_vendor": "DmiChassisVendor",
    "chassis_version": "DmiChassisVersion",
    "chassis_serial": "DmiChassisSerial",
    "chassis_asset_tag": "DmiChassisAssetTag",
}
_NUMBER = re.compile(r"(0[xX])?[0-9a-fA-F]+")


def dmi_base(firmware: str) -> str:
    """What the keys of the firmware's DMI strings begin with."""
    return f"{_DEVICES}{FIRMWARE_DEVICES[firmware]}/0/Config/"


@dataclass(frozen=True, slots=True)
class Group:
    """Flags of one ``modifyvm`` call and pairs for ``setextradata``, and the leak they close.

    ``left`` are flags that are right by default and that some version refuses: nobody sets them,
    but a machine in which they differ has the leak.
    """

    why: str
    flags: tuple[str, ...] = ()
    extradata: tuple[tuple[str, str], ...] = ()
    left: tuple[str, ...] = ()


def text(value: str) -> str:
    """A string as the firmware takes it: digits alone would be a number, nothing the default."""
    if not value:
        return "<EMPTY>"
    return f"string:{value}" if _NUMBER.fullmatch(value) else value


def identity(token: str, asset_tag: str, uuid: UUID, firmware: str) -> tuple[Group, ...]:
    """The token, and constants in place of every string that VirtualBox would fill in."""
    base = dmi_base(firmware)
    carriers = {"bios_vendor": token, "product_serial": token}
    rest = {name: value for name, value in DMI.items() if name in _DMI_KEYS}
    rest["chassis_asset_tag"] = asset_tag
    major, minor = DMI["bios_release"].split(".")
    return (
        Group(
            "The token, in both fields: one would do, and the other would then name VirtualBox or"
            " the machine.",
            ("--firmware", firmware),
            tuple((base + _DMI_KEYS[name], text(value)) for name, value in carriers.items()),
        ),
        Group(
            "Names, versions and dates in DMI, the same on every host.",
            extradata=(
                *((base + _DMI_KEYS[name], text(value)) for name, value in rest.items()),
                (base + "DmiBIOSReleaseMajor", major),
                (base + "DmiBIOSReleaseMinor", minor),
            ),
        ),
        Group(
            "VirtualBox's version and revision, in SMBIOS type 11.",
            extradata=tuple(
                (base + key, text(value))
                for key, value in zip(
                    ("DmiOEMVBoxVer", "DmiOEMVBoxRev"), DMI_OEM_STRINGS, strict=True
                )
            ),
        ),
        Group(
            "The machine's own UUID, which is drawn at random.",
            ("--hardware-uuid", str(uuid)),
            ((base + "DmiSystemUuid", str(uuid)),),
        ),
        Group(
            "Owner of the ACPI tables. DSDT and SSDT keep VirtualBox's revision: no key for those.",
            extradata=tuple(
                (f"{_DEVICES}acpi/0/Config/{key}", value)
                for key, value in (
                    ("AcpiOemId", ACPI_OEM_ID),
                    ("AcpiCreatorId", ACPI_CREATOR_ID),
                    ("AcpiCreatorRev", str(ACPI_CREATOR_REVISION)),
                )
            ),
        ),
        drive_identity("PrimaryMaster"),
    )


def drive_identity(place: str) -> Group:
    """What one drive of the IDE controller says of itself, such as ``PrimaryMaster``."""
    return Group(
        "The drive: its serial number is made of the medium's UUID, which is drawn at random.",
        extradata=tuple(
            (f"{_DEVICES}piix3ide/0/Config/{place}/{key}", text(value))
            for key, value in (
                ("SerialNumber", MEDIUM_SERIAL),
                ("FirmwareRevision", MEDIUM_VERSION),
                ("ModelNumber", MEDIUM_MODEL),
                ("ATAPIVendorId", "guest"),
                ("ATAPIProductId", MEDIUM_MODEL),
                ("ATAPIRevision", MEDIUM_VERSION),
            )
        ),
    )


def hardware(
    profile: Profile, memory: int, processors: int, screen: tuple[int, int] | None
) -> tuple[Group, ...]:
    """Processor, memory (MiB) and screen."""
    groups = [
        Group(
            "How much memory and how many processors this host has, and its screens.",
            (
                "--memory", str(memory), "--cpus", str(processors), "--cpu-hotplug", "off",
                "--chipset", "piix3", "--graphicscontroller", "vmsvga", "--vram", "16",
                "--monitor-count", "1", "--accelerate-3d", "off",
            ),
            (("GUI/MaxGuestResolution", "{},{}".format(*screen)),) if screen else (),
        ),
        Group(
            "Clocks and leaves of the hypervisor: kvmclock would give the guest this host's time.",
            ("--paravirt-provider", "none", "--hpet", "off", "--nested-hw-virt", "off"),
            left=("--iommu", "none"),
        ),
        Group(
            "The processor's name; its features stay this host's.",
            _cpuid(CPU_NAME),
            # Another maker's profile was never seen to boot.
            left=("--cpu-profile", "host", "--cpuid-portability-level", "0"),
        ),
        Group(
            "Its clock rate, which DMI type 128 shows too. The guest's time stamp counter is then"
            " emulated: leave this out where speed matters more.",
            extradata=(("VBoxInternal/TM/TSCTicksPerSecond", "2000000000"),),
        ),
        Group(
            "Memory that this host could take back or share between machines.",
            ("--guest-memory-balloon", "0"),
            left=("--page-fusion", "off"),
        ),
    ]  # fmt: skip
    if profile is Profile.APP_GUEST:
        groups.append(
            Group(
                "What a hostile guest could read of this host and of the others in the processor's"
                " caches and buffers. Costs speed.",
                (
                    "--ibpb-on-vm-entry", "on", "--ibpb-on-vm-exit", "on",
                    "--l1d-flush-on-vm-entry", "on", "--l1d-flush-on-sched", "on",
                    "--mds-clear-on-vm-entry", "on", "--mds-clear-on-sched", "on",
                    "--spec-ctrl", "on",
                ),
            )
        )  # fmt: skip
    return tuple(groups)


def _cpuid(name: str) -> tuple[str, ...]:
    """Leaves 0x80000002 to 0x80000004: 16 bytes of the name each, as little-endian words."""
    padded = name.encode("ascii").ljust(48, b"\0")
    flags: list[str] = []
    for number in range(3):
        part = padded[16 * number : 16 * number + 16]
        words = (part[start : start + 4][::-1].hex() for start in range(0, 16, 4))
        flags += ["--cpuid-set", f"{0x80000002 + number:x}", *words]
    return tuple(flags)


def network(profile: Profile) -> tuple[Group, ...]:
    """Every link of the guest, and no other adapter."""
    return adapters(LINKS[profile])


def adapters(links: Sequence[LinkConstants]) -> tuple[Group, ...]:
    """These links, and no other adapter."""
    return (
        *(_adapter(number, link) for number, link in enumerate(links, start=1)),
        Group(
            NO_OTHER_ADAPTER,
            tuple(
                word
                for number in range(len(links) + 1, ADAPTERS + 1)
                for word in (f"--nic{number}", "none")
            ),
        ),
    )


def _adapter(number: int, link: LinkConstants) -> Group:
    def flags(*pairs: tuple[str, str]) -> tuple[str, ...]:
        return tuple(word for name, value in pairs for word in (f"--{name}{number}", value))

    common = flags(
        ("nic-type", "virtio"),
        # A MAC that VirtualBox draws would be this machine's alone.
        ("mac-address", link.mac.replace(":", "").upper()),
        ("nic-promisc", "deny"),
    )
    # A file on this host with every frame.
    traced = (("nic-trace", "off"),)
    if link.is_uplink:
        return Group(
            f"{link.name}: NAT with constant addresses, without a way to this host's 127.0.0.1, a"
            " way in, or its search domain. Unplugged until the guest's rules are in force: see"
            " below. 10.0.2.3 answers DNS whatever these say; the guest's rules close it.",
            (
                *flags(("nic", "nat"), ("nat-net", str(UPLINK.network))),
                *common,
                *flags(
                    ("cable-connected", "off"),
                    ("nat-localhostreachable", "off"),
                    ("nat-dns-pass-domain", "off"),
                    ("nat-dns-proxy", "off"),
                    ("nat-dns-host-resolver", "off"),
                ),
            ),
            # VirtualBox 7.2 forgets "nat-localhostreachable off" when its service starts anew, five
            # seconds after the last program that used it: its settings file holds no "off".
            ((localhost_key(number), "0"),),
            left=flags(
                *traced,
                ("nat-forward-broadcast", "off"),
                ("nat-enable-tftp", "off"),
                ("nat-pf", "none"),
                ("nat-tftp-prefix", "none"),
                ("nat-tftp-file", "none"),
                ("nat-tftp-server", "none"),
                ("nat-bind-ip", "none"),
            ),
        )
    return Group(
        f"{link.name}: an internal network, which this host's own network never sees; nobody on it"
        " may listen to others." + (" Without i2p-guest: none." if link.name == "i2p" else ""),
        (
            *flags(("nic", "intnet"), ("intnet", str(link.segment))),
            *common,
            *flags(("cable-connected", "on")),
        ),
        left=flags(*traced),
    )


def localhost_key(number: int) -> str:
    """Extradata that decide whether the guest reaches this host's 127.0.0.1; 7.0 and newer."""
    return f"{_DEVICES}virtio-net/{number - 1}/LUN#0/Config/LocalhostReachable"


def clock(*, exact: bool) -> Group:
    """The clock; its offset (``CLOCK_OFFSET``) is drawn anew for each start, if not ``exact``."""
    return Group(
        "The clock: UTC, and exact; I2P refuses what differs."
        if exact
        else "The clock: UTC, and not quite this host's time.",
        ("--rtc-use-utc", "on"),
    )


def shared_network(links: Sequence[LinkConstants]) -> Group:
    """What the inner links need where the guests belong to different users of the host."""
    return Group(
        "Where tor-guest or i2p-guest and app-guest run as different users of this host, each needs"
        " this too; any user who may start machines can then join these networks.",
        extradata=tuple(
            (f"{_DEVICES}virtio-net/{number}/LUN#0/Config/RestrictAccess", "0")
            for number, link in enumerate(links)
            if not link.is_uplink
        ),
    )


CHANNELS = (
    Group(
        "Clipboard and files, either way.",
        (
            "--clipboard-mode", "disabled", "--clipboard-file-transfers", "disabled",
            "--drag-and-drop", "disabled",
        ),
    ),
    Group("Microphone and loudspeaker.", ("--audio-driver", "none", "--audio-enabled", "off")),
    Group(
        "USB devices and card readers of this host.",
        (
            "--usb-ohci", "off", "--usb-ehci", "off", "--usb-xhci", "off", "--usb-card-reader",
            "off", "--mouse", "ps2", "--keyboard", "ps2",
        ),
    ),
    Group(
        "Listeners, recordings and doors for debuggers on this host; ports that lead to it.",
        (
            "--vrde", "off", "--teleporter", "off", "--recording", "off", "--autostart-enabled",
            "off", "--tracing-enabled", "off", "--tracing-allow-vm-access", "off", "--uart1", "off",
            "--lpt1", "off",
        ),
        left=(
            "--uart2", "off", "--uart3", "off", "--uart4", "off", "--lpt2", "off",
            "--guest-debug-provider", "none", "--testing-enabled", "off",
        ),
    ),
    Group(
        "Calls of the guest additions' device: this host's time, and lines without limit in its"
        " log.",
        extradata=(
            (f"{_DEVICES}VMMDev/0/Config/GetHostTimeDisabled", "1"),
            (f"{_DEVICES}VMMDev/0/Config/BackdoorLogDisabled", "1"),
        ),
    ),
    Group(
        "Boot from the image, and nothing else.",
        (
            "--boot1", "dvd", "--boot2", "none", "--boot3", "none", "--boot4", "none",
            "--bios-boot-menu", "disabled", "--bios-pxe-debug", "off",
        ),
    ),
)  # fmt: skip

#: A machine that begins again would do so with its uplink plugged in.
ONE_BOOT = Group(
    "A second boot, which would begin with the uplink plugged in: power-off instead.",
    extradata=(("VBoxInternal/PowerOffInsteadOfReset", "1"),),
)


def shared_folder(share: SharedFolder) -> tuple[str, ...]:
    """Flags of ``sharedfolder add VM``, from 6.1 on; nothing here tells the guest where it goes.

    ``VBoxInternal2/SharedFoldersEnableSymlinksCreate`` is never set: with it a guest's link is a
    real one in the host's directory. A directory that is missing when the machine starts is left
    out without a word, so that whoever starts it looks.
    """
    access = () if share.writable else ("--readonly",)
    return ("--name", share.tag, "--hostpath", str(share.target), *access)


def serial(path: str) -> Group:
    """The port on which a gateway says how far it is: a socket, in which a guest fills nothing."""
    return Group(
        "What the guest says to its host, and nothing that it could fill.",
        ("--uart1", "0x3f8", "4", "--uart-mode1", "server", path),
    )


#: For the guest that somebody looks at. VirtualBox's own words; no list of the menus' entries ends
#: with the version.
KIOSK = Group(
    "Menus, tool bars and dialogs by which somebody could plug in NAT, a folder, a device.",
    extradata=(
        ("GUI/Fullscreen", "true"),
        ("GUI/MenuBar/Enabled", "false"),
        ("GUI/StatusBar/Enabled", "false"),
        ("GUI/ShowMiniToolBar", "false"),
        ("GUI/RestrictedRuntimeMenus", "All"),
        ("GUI/RestrictedVisualStates", "Seamless,Scale"),
        ("GUI/RestrictedCloseActions", "SaveState,PowerOffRestoringSnapshot,Detach"),
        ("GUI/PreventReconfiguration", "true"),
        # A crash ends the machine; nobody is asked.
        ("GUI/GuruMeditationHandler", "PowerOff"),
        ("GUI/SuppressMessages", "all"),
        ("GUI/AutoresizeGuest", "off"),
    ),
)
