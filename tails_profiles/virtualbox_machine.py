# SPDX-License-Identifier: GPL-3.0-or-later
"""What VirtualBox says of one machine, and each flag of ``modifyvm`` read back from that.

What is read: ``VBoxManage showvminfo --machinereadable`` for the state of now, the settings file
(``CfgFile``) for what that does not show (promiscuity, DNS of the NAT, side channels, read-only
shares), and VirtualBox's global extradata, which reach every machine. The settings file leaves out
whatever has its default; the defaults here are those of 7.0 to 7.2 (read in 7.2.22's own files).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from tails_profiles import virtualbox
from tails_profiles.audit import parse_xml
from tails_profiles.errors import AuditError
from tails_profiles.vboxmanage import SHOWN, parse_extradata

_NAMESPACE = "{http://www.virtualbox.org/}"
#: Elements of the settings file that only group others, by version differently.
_WRAPPERS = {"Hardware", "Platform", "x86"}
#: What tells elements of one name apart.
_KEYS = {
    "Adapter": ("slot",), "Order": ("position",), "Port": ("slot",), "Controller": ("type",),
    "CpuIdLeaf": ("id", "subleaf"), "StorageController": ("name",), "Forwarding": ("name",),
    "AttachedDevice": ("port", "device"), "SharedFolder": ("name",),
}  # fmt: skip
#: Elements that are read elsewhere, or that no running machine has.
_SKIPPED = {
    "DisabledModes", "ExtraData", "GuestProperties", "MediaRegistry", "SharedFolders", "Snapshot",
    "StorageControllers",
}  # fmt: skip
#: Paths in the settings file that open nothing: bookkeeping, speed, what belongs to something that
#: is off or that another path switches on.
HARMLESS = re.compile(
    r"""
    @(uuid|name|nameSync|OSType|snapshotFolder|currentSnapshot|lastStateChange|aborted|icon
        |currentStateModified|executionEngine) | Description | Platform@architecture
    | Hardware@version
    | CPU | CPU@executionCap | CPU/(?!CpuIdTree)(HardwareVirtEx\w*|PAE|LongMode|X2APIC|APIC|CpuTree
        |NestedPaging|VPID|UX|VirtVmsaveVmload|TripleFaultReset) (/.*|@.*)?
    | CPU/CpuTree/Cpu(\[\d+\])?@id
    | Display | Display@(?!accelerate2D)\w+
    | Firmware | Firmware/(ACPI|IOAPIC|Logo|APIC|NVRAM|SmbiosUuidLittleEndian|AutoSerialNumGen)@\w+
    | RemoteDisplay(@(?!enabled).* | /.*) | (Teleporter|Autostart|Recording)(@(?!enabled).* | /.*)
    | USB/DeviceFilters/.*
    | Network/Adapter\[\d+\](@(speed|bootPriority|bandwidthGroup) | /BandwidthGroup@\w+)
    | Network/Adapter\[\d+\]/NAT | Network/Adapter\[\d+\]@tracefile
    | (UART|LPT)/Port\[\d+\]@.*
    | AudioAdapter(@(codec|controller|enabledIn|enabledOut|useDefault))?
    | Clipboard | DragAndDrop | HID | Frontend/.* | IO/.* | Debugging/GuestDebug@(io|address|port)
    | Debugging/Tracing@config | VideoCapture(@(?!enabled).* | /.*)?
    | TrustedPlatformModule@location
    """,
    re.VERBOSE,
)
TESTING = "VBoxInternal/Devices/VMMDev/0/Config/TestingEnabled"


@dataclass(frozen=True, slots=True)
class Machine:
    """What VirtualBox says of one machine.

    ``settings`` are the values of its settings file by path (``CPU@count``), ``extradata`` those of
    the machine over the global ones, ``properties`` the names of its guest properties.
    """

    info: Mapping[str, str]
    settings: Mapping[str, str]
    storage: tuple[ElementTree.Element, ...]
    shares: tuple[ElementTree.Element, ...]
    extradata: Mapping[str, str]
    properties: frozenset[str]


def parse_properties(text: str) -> frozenset[str]:
    """The names in the answer of ``guestproperty enumerate``, in the forms of 7.0 and 7.1."""
    return frozenset(re.findall(r"^(?:Name: )?(/[^\s,]+)", text, re.MULTILINE))


def parse(info: Mapping[str, str], settings: str, extradata: str, properties: str) -> Machine:
    """A machine from what was printed; ``settings`` is the settings file, ``extradata`` global.

    Raises AuditError for a settings file that cannot be understood.
    """
    top = parse_xml(settings, f"the settings file {info.get('CfgFile')!r}")
    machine = top.find(f"{_NAMESPACE}Machine")
    if machine is None:
        raise AuditError(
            f"the settings file {info.get('CfgFile')!r} holds no machine",
            hint="an encrypted machine cannot be read",
        )
    for each in machine.iter():
        each.tag = each.tag.removeprefix(_NAMESPACE)
    own = {
        item.get("name", ""): item.get("value", "")
        for item in machine.findall("ExtraData/ExtraDataItem")
    }
    return Machine(
        info,
        dict(_flatten(machine, "")),
        # Older settings have them beside the hardware.
        (
            *machine.findall("Hardware/StorageControllers/*"),
            *machine.findall("StorageControllers/*"),
        ),
        tuple(machine.findall("Hardware/SharedFolders/*")),
        {**parse_extradata(extradata), **own},
        parse_properties(properties),
    )


def _flatten(element: ElementTree.Element, path: str) -> Iterator[tuple[str, str]]:
    """Every attribute and text as a path; an element with nothing in it is a path too."""
    for name, value in element.attrib.items():
        yield f"{path}@{name}", value
    text = (element.text or "").strip()
    if text or (path and not len(element) and not element.attrib):
        yield path, text
    for child in element:
        if child.tag in _SKIPPED:
            continue
        if child.tag in _WRAPPERS:
            # The identifier of the hardware is not the machine's.
            attributes = {f"{child.tag}@{name}": value for name, value in child.attrib.items()}
            yield from attributes.items()
            child.attrib.clear()
            yield from _flatten(child, path)
            continue
        # Before settings 1.20 a part of the firmware's settings is named BIOS.
        tag = "Firmware" if child.tag == "BIOS" else child.tag
        key = "-".join(child.get(name, "") for name in _KEYS.get(child.tag, ())).strip("-")
        yield from _flatten(child, f"{path}/{tag}".lstrip("/") + (f"[{key}]" if key else ""))


# ---- reading a flag back

#: Reads the value of a flag as modifyvm would take it; None where VirtualBox does not say.
Reader = Callable[[Machine, str], str | None]
#: Words of showvminfo and of the settings file that modifyvm spells in another way.
_WORDS = {"ps2mouse": "ps2", "ps2kbd": "ps2", "true": "on", "false": "off"}


def _info(key: str, words: Mapping[str, str] = _WORDS) -> Reader:
    def read(machine: Machine, number: str) -> str | None:
        value = machine.info.get(key + number)
        return None if value is None else words.get(value, value)

    return read


def _setting(
    path: str, default: str, words: Mapping[str, str] = _WORDS, *, adapter: bool = False
) -> Reader:
    def read(machine: Machine, number: str) -> str:
        where = f"Network/Adapter[{int(number) - 1}]{path}" if adapter else path
        value = machine.settings.get(where)
        return default if value is None else words.get(value, value)

    return read


def _network_of_nat(machine: Machine, number: str) -> str | None:
    value = machine.info.get(f"natnet{number}")
    return f"10.0.{int(number) + 1}.0/24" if value == "nat" else value


def _localhost(machine: Machine, number: str) -> str | None:
    """Whether 127.0.0.1 of the host can be reached; the NAT engine's key decides, then the flag.

    Not from the settings file, which holds no "off"; showvminfo gives no number of the adapter, and
    a machine with two NATs is another anyway.
    """
    if machine.extradata.get(virtualbox.localhost_key(int(number))) == "0":
        return "off"
    return {"0": "off", "1": "on"}.get(machine.info.get("localhostReachable", ""))


def _below(element: str, attributes: Sequence[str]) -> Reader:
    """Whatever stands in the NAT of an adapter below ``element``, or "none"."""

    def read(machine: Machine, number: str) -> str:
        start = f"Network/Adapter[{int(number) - 1}]/NAT/{element}"
        values = [
            value
            for path, value in machine.settings.items()
            if path.startswith(start) and path.rpartition("@")[2] in attributes
        ]
        return ",".join(values) or "none"

    return read


def _cpuid(machine: Machine, _: str) -> str:
    leaves: dict[str, dict[str, int]] = {}
    for path, value in machine.settings.items():
        leaf = re.fullmatch(r"CPU/CpuIdTree/CpuIdLeaf\[([\d-]+)\]@(e[abcd]x)", path)
        if leaf:
            leaves.setdefault(leaf[1], {})[leaf[2]] = int(value)
    return " ".join(
        f"{':'.join(f'{int(part):x}' for part in leaf.split('-'))}"
        + "".join(f" {words.get(register, 0):08x}" for register in ("eax", "ebx", "ecx", "edx"))
        for leaf, words in sorted(leaves.items(), key=lambda item: int(item[0].split("-")[0]))
    )


def _audio_driver(machine: Machine, _: str) -> str:
    if machine.settings.get("AudioAdapter@useDefault") == "true":
        return "default"
    driver = machine.settings.get("AudioAdapter@driver", "none")
    return "none" if driver == "Null" else driver.lower()


def _testing(machine: Machine, _: str) -> str:
    return "on" if machine.extradata.get(TESTING, "0") != "0" else "off"


_PROMISCUITY = {"Deny": "deny", "AllowNetwork": "allow-vms", "AllowAll": "allow-all"}
#: Flags that showvminfo shows; the number of an adapter, port or place is left out.
_SHOWN = {flag.rstrip("N0123456789"): key.rstrip("N0123456789") for flag, key in SHOWN.items()}
#: By flag, without its number; after those what it does not show, or not as the flag has it.
READERS: Mapping[str, Reader] = {
    **{flag: _info(key) for flag, key in _SHOWN.items()},
    "firmware": lambda machine, _: machine.info.get("firmware", "").lower(),
    "cpu-hotplug": _setting("CPU@hotplug", "off"),
    "cpu-profile": _info("cpu-profile"),
    "cpuid-portability-level": _info("cpuid-portability-level"),
    "cpuid-set": _cpuid,
    "iommu": _info("iommu"),
    "page-fusion": _info("pagefusion"),
    "ibpb-on-vm-entry": _setting("CPU/IBPBOn@vmentry", "off"),
    "ibpb-on-vm-exit": _setting("CPU/IBPBOn@vmexit", "off"),
    "l1d-flush-on-vm-entry": _setting("CPU/L1DFlushOn@vmentry", "off"),
    "l1d-flush-on-sched": _setting("CPU/L1DFlushOn@scheduling", "on"),
    "mds-clear-on-vm-entry": _setting("CPU/MDSClearOn@vmentry", "off"),
    "mds-clear-on-sched": _setting("CPU/MDSClearOn@scheduling", "on"),
    "spec-ctrl": _setting("CPU/SpecCtrl@enabled", "off"),
    "clipboard-file-transfers": _info(
        "clipboard_file_transfers", {"on": "enabled", "off": "disabled"}
    ),
    "audio-driver": _audio_driver,
    "audio-enabled": _setting("AudioAdapter@enabled", "off"),
    "usb-card-reader": _setting("EmulatedUSB/CardReader@enabled", "off"),
    "guest-debug-provider": lambda machine, _: machine.settings.get(
        "Debugging/GuestDebug@provider", "none"
    ).lower(),
    "testing-enabled": _testing,
    "bios-pxe-debug": _setting("Firmware/PXEDebug@enabled", "off"),
    "nic-promisc": _setting("@promiscuousModePolicy", "deny", _PROMISCUITY, adapter=True),
    "nic-trace": _setting("@trace", "off", adapter=True),
    "nat-net": _network_of_nat,
    "nat-localhostreachable": _localhost,
    "nat-dns-pass-domain": _setting("/NAT/DNS@pass-domain", "on", adapter=True),
    "nat-dns-proxy": _setting("/NAT/DNS@use-proxy", "off", adapter=True),
    "nat-dns-host-resolver": _setting("/NAT/DNS@use-host-resolver", "off", adapter=True),
    "nat-forward-broadcast": _setting("/NAT@forward-broadcast", "off", adapter=True),
    "nat-enable-tftp": _setting("/NAT@enable-tftp", "off", adapter=True),
    "nat-bind-ip": _setting("/NAT@hostip", "none", adapter=True),
    "nat-pf": _below("Forwarding", ("hostip", "hostport", "guestip", "guestport")),
    "nat-tftp-prefix": _below("TFTP", ("prefix",)),
    "nat-tftp-file": _below("TFTP", ("boot-file",)),
    "nat-tftp-server": _below("TFTP", ("next-server",)),
}
#: Paths in the settings file that a reader, or showvminfo, speaks for.
READ = re.compile(
    r"""
    Hardware@uuid | Memory@(RAMSize|PageFusion) | Chipset@type | Iommu@type | Paravirt@provider
    | HPET@enabled | RTC@localOrUTC | Guest@memoryBalloonSize
    | CPU@(count|hotplug|CpuProfile|CpuIdPortabilityLevel)
    | CPU/(IBPBOn|L1DFlushOn|MDSClearOn|SpecCtrl|NestedHWVirt)@\w+ | CPU/CpuIdTree/.*
    | Boot/Order.* | Firmware@type | Firmware/(BootMenu|TimeOffset|PXEDebug)@\w+
    | HID@(Pointing|Keyboard) | (RemoteDisplay|Teleporter|Autostart|Recording)@enabled
    | USB/Controllers/Controller\[(OHCI|EHCI|XHCI)\]@.* | EmulatedUSB/CardReader@enabled
    | AudioAdapter@(driver|enabled) | Clipboard@(mode|fileTransfersEnabled) | DragAndDrop@mode
    | Debugging/Tracing@(enabled|allowTracingToAccessVM) | Debugging/GuestDebug@provider
    | Network/Adapter\[\d+\](@(slot|enabled|MACAddress|cable|type|promiscuousModePolicy|trace)
        | /NAT@(network|hostip|localhost-reachable|forward-broadcast|enable-tftp)
        | /NAT/DNS@(pass-domain|use-proxy|use-host-resolver) | /InternalNetwork@name
        | /NAT/Forwarding.* | /NAT/TFTP@(prefix|boot-file|next-server))
    """,
    re.VERBOSE,
)
