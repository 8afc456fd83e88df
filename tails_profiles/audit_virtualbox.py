# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a VirtualBox machine with the recipe."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from xml.etree import ElementTree

from tails_profiles import virtualbox
from tails_profiles.audit import Deviation, Opens, Report, profile_of, report, unknown
from tails_profiles.constants import LINKS
from tails_profiles.launch import CLOCK_RANGE, MACHINES
from tails_profiles.profile import PROFILES, SETTINGS_TAG, Profile, token
from tails_profiles.shares import FOLDERS
from tails_profiles.vboxmanage import MARK
from tails_profiles.virtualbox import Group
from tails_profiles.virtualbox_machine import HARMLESS, READ, READERS, TESTING, Machine

#: Keys of extradata that change a machine at all; others are the front end's.
_POWERFUL = re.compile(r"VBoxInternal2?/")
#: Of these, what opens nothing: engines for hosts without the driver.
_ENGINE = {"VBoxInternal/HM/FallbackToIEM", "VBoxInternal/EM/IemExecutesAll"}


def audit(vm: str, machine: Machine, wanted: Profile | None) -> Report:
    """Everything that differs from the recipe; ``wanted`` is the guest, where no token says it.

    Raises AuditError where neither says which guest it is.
    """
    firmware = "efi" if machine.info.get("firmware", "").lower().startswith("efi") else "bios"
    fields = _dmi_fields(machine, firmware)
    profile = profile_of(fields, wanted)
    found = (
        *_deviations(machine, profile, firmware, fields),
        *_shares(machine, profile, asked=wanted is not None),
    )
    return report(vm, "virtualbox", profile, found)


def _dmi_fields(machine: Machine, firmware: str) -> dict[str, str | None]:
    base = virtualbox.dmi_base(firmware)
    return {
        name: None if found is None else found.removeprefix("string:").replace("<EMPTY>", "")
        for name, key in (
            ("bios_vendor", "DmiBIOSVendor"),
            ("product_serial", "DmiSystemSerial"),
            ("chassis_asset_tag", "DmiChassisAssetTag"),
        )
        for found in [machine.extradata.get(base + key)]
    }


def _deviations(
    machine: Machine, profile: Profile, firmware: str, fields: Mapping[str, str | None]
) -> Iterator[Deviation]:
    promised = fields["chassis_asset_tag"] == SETTINGS_TAG
    groups = _groups(profile, firmware, promised=promised)
    silent = _silent_adapters(machine, profile)
    for opens, group in groups:
        yield from _flags(machine, profile, opens, group, silent)
        yield from _keys(machine, opens, group)
    yield from _adapters_beyond(machine)
    yield from _clock(machine, profile)
    yield from _storage(machine, promised=promised)
    yield from _properties(machine)
    yield from _unknown_keys(machine, profile, [group for _, group in groups])
    yield from _unknown_settings(machine, silent)


def _silent_adapters(machine: Machine, profile: Profile) -> frozenset[str]:
    """Numbers of adapters whose details say no more: of another kind, or rightly not there."""
    kinds = {
        number: value
        for group in virtualbox.network(profile)
        for flag, value in _pairs(group.flags)
        for name, number in [_numbered(flag)]
        if name == "nic"
    }
    return frozenset(
        number for number, kind in kinds.items() if machine.info.get(f"nic{number}") != kind
    )


def _groups(profile: Profile, firmware: str, *, promised: bool) -> list[tuple[Opens, Group]]:
    """Every group of the recipe, and what it closes."""
    hardware = MACHINES[profile]
    tag = SETTINGS_TAG if promised else ""
    rest = (
        *virtualbox.identity(token(profile), tag, hardware.uuid, firmware),
        # The second drive is the settings disk's.
        *([virtualbox.drive_identity("PrimarySlave")] if promised else []),
        *virtualbox.hardware(profile, hardware.memory, hardware.processors, hardware.screen),
        virtualbox.clock(exact=not CLOCK_RANGE[profile]),
    )
    return [
        *((Opens.NETWORK, group) for group in virtualbox.network(profile)),
        *((Opens.CHANNEL, group) for group in (*virtualbox.CHANNELS, virtualbox.ONE_BOOT)),
        *((Opens.IDENTITY, group) for group in rest),
    ]


def _flags(
    machine: Machine, profile: Profile, opens: Opens, group: Group, silent: frozenset[str]
) -> Iterator[Deviation]:
    set_or_left = [(pair, False) for pair in _pairs(group.flags)]
    set_or_left += [(pair, True) for pair in _pairs(group.left)]
    for (flag, expected), left in set_or_left:
        name, number = _numbered(flag)
        if number in silent and name.startswith(("nic-", "nat-", "mac-", "cable-", "intnet")):
            continue
        found = READERS[name](machine, number)
        # A version without a flag that nobody sets, or what may be so.
        fine = left if found is None else _may_be(machine, profile, flag, found)
        if found != expected and not fine:
            yield Deviation(
                f"--{flag}", "not shown" if found is None else found, expected, opens, group.why
            )


def _keys(machine: Machine, opens: Opens, group: Group) -> Iterator[Deviation]:
    for key, value in group.extradata:
        found = machine.extradata.get(key)
        if found not in {value, f"string:{value}"}:
            yield Deviation(key, "unset" if found is None else found, value, opens, group.why)


def _may_be(machine: Machine, profile: Profile, flag: str, found: str) -> bool:
    """Whether a flag may have another value than the recipe's."""
    links = {str(number): link for number, link in enumerate(LINKS[profile], start=1)}
    name, number = _numbered(flag)
    link = links.get(number)
    if name == "nic":
        return (
            link is not None and found == "none" and link.name in PROFILES[profile].optional_links
        )
    if name == "cable-connected":
        # The link gate: a gateway that runs may have said by now that its rules are in force.
        running = machine.info.get("VMState") in {"running", "paused"}
        return link is not None and link.is_uplink and running
    # The port on which a gateway says how far it is: a socket, in which it fills nothing.
    return (
        flag == "uart1"
        and profile.is_gateway
        and machine.info.get("uartmode1", "").startswith("server,")
    )


def _pairs(flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags and their values, in words; what ``--cpuid-set`` is told of leaves is one value."""
    values: dict[str, list[str]] = {}
    for word in flags:
        if word.startswith("--"):
            name = word[2:]
            values.setdefault(name, [])
        else:
            values[name].append(word)
    return ((name, " ".join(found)) for name, found in values.items())


def _numbered(flag: str) -> tuple[str, str]:
    """A flag's name and the number of its adapter, port or place, if it has one."""
    name = flag.rstrip("0123456789")
    return name, flag[len(name) :]


def _adapters_beyond(machine: Machine) -> Iterator[Deviation]:
    """Adapters that only another chipset has."""
    for key, value in machine.info.items():
        number = re.fullmatch(r"nic(\d+)", key)
        if number and int(number[1]) > virtualbox.ADAPTERS and value != "none":
            yield Deviation(f"--{key}", value, "none", Opens.NETWORK, virtualbox.NO_OTHER_ADAPTER)


def _clock(machine: Machine, profile: Profile) -> Iterator[Deviation]:
    reach = round(CLOCK_RANGE[profile] * 1000)
    found = machine.info.get("biossystemtimeoffset", "not shown")
    good = re.fullmatch(r"-?\d+", found) and (
        0 < abs(int(found)) <= reach if reach else int(found) == 0
    )
    if not good:
        yield Deviation(
            virtualbox.CLOCK_OFFSET,
            found,
            f"a random number, not 0, from -{reach} to {reach}" if reach else "0",
            Opens.IDENTITY,
            virtualbox.clock(exact=not reach).why,
        )


def _storage(machine: Machine, *, promised: bool) -> Iterator[Deviation]:
    """One controller with the image in its first drive, and what the asset tag promises."""

    def deviation(setting: str, found: str, expected: str) -> Deviation:
        return Deviation(setting, found, expected, Opens.CHANNEL, virtualbox.STORAGE)

    ours = next((each for each in machine.storage if each.get("type") == "PIIX4"), None)
    if ours is None:
        yield deviation("storage", "no controller of type PIIX4", "one, with the image")
    for controller in machine.storage:
        if controller is not ours:
            yield deviation(
                f"storage controller {controller.get('name')!r}", _contents(controller), "absent"
            )
    if ours is None:
        return
    expected = {("0", "0"): _DRIVE} | ({("0", "1"): _DRIVE} if promised else {})
    found = dict(_drives(ours))
    for place in sorted({*expected, *found}):
        if found.get(place) != expected.get(place):
            yield deviation(
                f"{ours.get('name')} port {place[0]} device {place[1]}",
                found.get(place, "absent"),
                expected.get(place, "absent"),
            )


#: The one kind of drive that a guest has, as ``_drive`` describes it.
_DRIVE = "a DVD drive with a medium"


def _drives(controller: ElementTree.Element) -> Iterator[tuple[tuple[str, str], str]]:
    for device in controller.findall("AttachedDevice"):
        yield (device.get("port", ""), device.get("device", "")), _drive(device)


def _drive(device: ElementTree.Element) -> str:
    kind = {"DVD": "a DVD drive", "HardDisk": "a hard disk", "Floppy": "a floppy drive"}.get(
        device.get("type", ""), f"a device of type {device.get('type')!r}"
    )
    if device.get("passthrough") == "true":
        return f"{kind} of this host, passed through"
    if device.find("HostDrive") is not None:
        return f"{kind} of this host"
    return f"{kind} with a medium" if device.find("Image") is not None else f"{kind}, empty"


def _contents(controller: ElementTree.Element) -> str:
    drives = [drive for _, drive in _drives(controller)]
    return f"of type {controller.get('type')} with " + (", ".join(drives) or "nothing attached")


def _shares(machine: Machine, profile: Profile, *, asked: bool) -> Iterator[Deviation]:
    """Folders, but those that the launcher lends; ``asked``: somebody said which guest it is."""
    found = {
        share.get("name", ""): share.get("hostPath", "")
        + (", read-only" if share.get("writable") == "false" else ", writable")
        for share in machine.shares
        if not _is_lent(share, machine, profile, asked=asked)
    }
    for key, name in machine.info.items():
        # Those of a running machine are in no file.
        transient = re.fullmatch(r"SharedFolderNameTransientMapping(\d+)", key)
        if transient:
            path = machine.info.get(f"SharedFolderPathTransientMapping{transient[1]}", "")
            found[name] = f"{path}, until it is powered off"
    for name, what in found.items():
        yield Deviation(f"shared folder {name!r}", what, "absent", Opens.CHANNEL,
                        virtualbox.SHARES)  # fmt: skip


def _is_lent(
    share: ElementTree.Element, machine: Machine, profile: Profile, *, asked: bool
) -> bool:
    """Whether a folder is one that this guest may have, and nothing about it is the guest's to use.

    In a machine of the launcher's its path is the launcher's too; in another one it may be any,
    once somebody has said that the machine is to be this guest.
    """
    row = next((row for row in FOLDERS.values() if row.tag == share.get("name")), None)
    if row is None or row.guest is not profile or row.refused or row.needs_links:
        return False
    ours = machine.extradata.get(MARK) == profile and share.get("hostPath", "").endswith(
        f"/shares/{profile}/{row.tag}"
    )
    return (
        (ours or asked)
        and not (row.must_write and share.get("writable") == "false")
        # Where it is mounted is the guest's own table's affair.
        and share.get("autoMount", "false") == "false"
        and share.get("symlinkPolicy", "forbidden") in {"none", "forbidden"}
    )


def _properties(machine: Machine) -> Iterator[Deviation]:
    for name in virtualbox.HOST_PROPERTIES:
        if name in machine.properties:
            yield Deviation(f"guest property {name}", "there", "deleted", Opens.IDENTITY,
                            virtualbox.HOST_PROPERTIES_WHY)  # fmt: skip


def _unknown_keys(
    machine: Machine, profile: Profile, groups: Iterable[Group]
) -> Iterator[Deviation]:
    known = {key for group in groups for key, _ in group.extradata} | _ENGINE | {TESTING}
    optional = {*virtualbox.shared_network(LINKS[profile]).extradata}
    for key, value in machine.extradata.items():
        if _POWERFUL.match(key) and key not in known and (key, value) not in optional:
            yield unknown(key, value)


def _unknown_settings(machine: Machine, silent: frozenset[str]) -> Iterator[Deviation]:
    for path, value in machine.settings.items():
        adapter = re.match(r"Network/Adapter\[(\d+)\]", path)
        if adapter and (
            str(int(adapter[1]) + 1) in silent
            or machine.settings.get(f"{adapter[0]}@enabled", "false") != "true"
        ):
            continue
        if not READ.fullmatch(path) and not HARMLESS.fullmatch(path):
            yield unknown(f"{path} in the settings file", value or "there")
