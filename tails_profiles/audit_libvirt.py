# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare a libvirt domain with the recipe's own XML, whose comments are the leaks.

What libvirt adds to a domain by itself (addresses, PCI bridges, PS/2 devices; read in what 9.0
answers) is in ``_ADDED`` and ``_ADDED_ELEMENTS``; whatever else a domain has and the recipe has not
is a deviation.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from xml.etree import ElementTree

from tails_profiles import libvirt
from tails_profiles.audit import Deviation, Opens, Report, parse_xml, profile_of, report, unknown
from tails_profiles.constants import LINKS
from tails_profiles.errors import AuditError
from tails_profiles.launch import CLOCK_RANGE, MACHINES
from tails_profiles.profile import PROFILES, Profile

#: What tells elements of one name and one parent apart; others are told apart by their order.
_KEYS = {"entry": "name", "timer": "name", "feature": "name", "controller": "type"}
#: An element in which one of these differs is another thing altogether: its details say no more.
_KINDS = ("type", "device", "mode", "model")
#: In KiB.
_UNITS = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20}

#: Paths of what libvirt adds, and of what the guest does not see.
_ADDED = re.compile(
    r"""
    @id | title | description | metadata | currentMemory | on_poweroff | resource
    | iothreads | cputune | numatune | blkiotune | memtune
    | cpu@(check|migratable) | vcpu@cpuset | (.*/)?(address|alias|backingStore)
    | devices/.*/source@(index|startupPolicy) | devices/controller\[usb\]@index
    | devices/interface\[\d+\]/target
    | devices/video/model@(vram|ram|vgamem|vram64|primary) | devices/audio@id
    """,
    re.VERBOSE,
)
#: Whole elements that libvirt adds, as ``_Node.shown`` writes them.
_ADDED_ELEMENTS = re.compile(
    r"""
    controller\ .*model='(pcie-root|pcie-root-port|pcie-to-pci-bridge)'.*
    | controller\ .*type='(sata|virtio-serial)'.*
    | input\ .*bus='ps2'.* | watchdog\ .*model='itco'.*
    | emulator:\ /usr/(bin|libexec)/(qemu-system-x86_64|qemu-kvm|kvm)
    | seclabel\ .*type='dynamic'.*
    """,
    re.VERBOSE,
)
#: What it adds where the firmware is UEFI.
_ADDED_BY_EFI = frozenset(("os/firmware", "os/loader", "os/nvram"))
#: Characters of an element that a deviation shows.
_SHOWN = 160


@dataclass(frozen=True, slots=True)
class _Node:
    """An element; in the recipe ``why`` is the comment before it, or before what it is in."""

    tag: str
    attributes: Mapping[str, str]
    text: str
    children: tuple["_Node", ...]
    why: str

    def shown(self) -> str:
        """In one line."""
        words = [self.tag, *(f"{name}='{value}'" for name, value in self.attributes.items())]
        inner = [self.text] if self.text else [child.shown() for child in self.children]
        text = " ".join(words) + (f": {', '.join(inner)}" if inner else "")
        return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def audit(vm: str, texts: Sequence[str], wanted: Profile | None) -> Report:
    """Everything that differs from the recipe.

    ``texts`` are the domain as it will start next and as it is now; of the second only the devices
    count, which can be plugged while it runs. ``wanted`` is the guest, where no token says it.
    Raises AuditError where neither does, and for XML that is no domain.
    """
    stored, *now = (_parse(text) for text in texts)
    profile = profile_of(
        {
            "bios_vendor": _entry(stored, "bios", "vendor"),
            "product_serial": _entry(stored, "system", "serial"),
            "chassis_asset_tag": _entry(stored, "chassis", "asset"),
        },
        wanted,
    )
    firmware = "efi" if stored.find("os[@firmware='efi']") is not None else "bios"
    recipe = _recipe(profile, firmware)
    comparison = _Comparison(profile, firmware, running=False)
    found = list(comparison.compare(recipe, _node(stored), ""))
    for domain in now:
        for expected, devices in zip(
            (node for node in recipe.children if node.tag == "devices"),
            (node for node in _node(domain).children if node.tag == "devices"),
            strict=False,
        ):
            comparison = _Comparison(profile, firmware, running=True)
            found += comparison.compare(expected, devices, "devices")
    return report(vm, "libvirt", profile, found)


def _parse(text: str) -> ElementTree.Element:
    domain = parse_xml(text, "libvirt's description of it")
    if domain.tag != "domain":
        raise AuditError(f"libvirt's description of it is no domain but <{domain.tag}>")
    return domain


def _entry(domain: ElementTree.Element, structure: str, name: str) -> str | None:
    if domain.find("os/smbios[@mode='sysinfo']") is None:
        # Nobody would read them.
        return None
    return domain.findtext(f"sysinfo[@type='smbios']/{structure}/entry[@name='{name}']")


def _recipe(profile: Profile, firmware: str) -> _Node:
    lines = libvirt.domain(profile, "", firmware, MACHINES[profile], round(CLOCK_RANGE[profile]))
    comments = ElementTree.TreeBuilder(insert_comments=True)
    parser = ElementTree.XMLParser(target=comments)  # noqa: S314 - our own text
    return _node(parse_xml("\n".join(lines), "the recipe", parser))


def _node(element: ElementTree.Element, why: str = "") -> _Node:
    children = []
    inner = why
    for child in element:
        tag: object = child.tag
        if not isinstance(tag, str):  # a comment
            inner = " ".join((child.text or "").split())
        else:
            children.append(_node(child, inner))
    attributes, text = dict(element.attrib), (element.text or "").strip()
    if element.tag == "memory" and attributes.get("unit", "KiB") in _UNITS and text.isdecimal():
        text = str(int(text) * _UNITS[attributes.get("unit", "KiB")])
        attributes["unit"] = "KiB"
    name = element.tag
    for uri, prefix in libvirt.PREFIXES.items():
        name = name.replace(f"{{{uri}}}", f"{prefix}:")
    return _Node(name, attributes, text, tuple(children), why)


class _Comparison:
    """``running``: of the domain as it is now, in which a gateway's uplink may be plugged in."""

    def __init__(self, profile: Profile, firmware: str, *, running: bool) -> None:
        self._added = _ADDED_BY_EFI if firmware == "efi" else frozenset()
        reach = round(CLOCK_RANGE[profile])
        offsets = {str(offset) for offset in range(-reach, reach + 1)} - ({"0"} if reach else set())
        #: Values that may be others than the recipe's, by path.
        self._free = {
            "name": re.compile(".*", re.DOTALL),
            "@type": re.compile("kvm|qemu"),
            "clock@adjustment": re.compile("|".join(sorted(offsets))),
            "devices/disk[1]/source@file": re.compile(".+", re.DOTALL),
            "devices/rng/backend": re.compile("/dev/u?random"),
        }
        #: What the recipe has in their place, where it is only an example.
        self._words = {
            "clock@adjustment": f"a number from -{reach} to {reach}, not 0" if reach else "0"
        }
        #: Elements that may be missing.
        self._optional = {
            f"devices/interface[{number}]"
            for number, link in enumerate(LINKS[profile], start=1)
            if link.name in PROFILES[profile].optional_links
        }
        if running:
            uplinks = (number for number, link in enumerate(LINKS[profile], start=1)
                       if link.is_uplink)  # fmt: skip
            for number in uplinks:
                self._optional.add(f"devices/interface[{number}]/link")
                self._free[f"devices/interface[{number}]/link@state"] = re.compile("up|down")

    def compare(self, expected: _Node, found: _Node, path: str) -> Iterator[Deviation]:
        """Every way in which ``found`` is not ``expected``."""
        values = list(self._attributes(expected, found, path))
        kinds = [each for each in values if each.setting.rpartition("@")[2] in _KINDS]
        if path and kinds:
            yield from kinds
            return
        yield from values
        if expected.text or found.text:
            yield from self._value(path, expected.text, found.text, expected.why)
        ours, theirs = _by_key(expected.children), _by_key(found.children)
        for key in {**ours, **theirs}:
            for number, (mine, other) in enumerate(
                zip_longest(ours.get(key, ()), theirs.get(key, ())), start=1
            ):
                yield from self._child(mine, other, _path(path, key, number))

    def _attributes(self, expected: _Node, found: _Node, path: str) -> Iterator[Deviation]:
        for name, value in expected.attributes.items():
            yield from self._value(
                f"{path}@{name}", value, found.attributes.get(name), expected.why
            )
        for name, value in found.attributes.items():
            if name not in expected.attributes and not _ADDED.fullmatch(f"{path}@{name}"):
                yield unknown(f"{path}@{name}", value)

    def _child(self, expected: _Node | None, found: _Node | None, path: str) -> Iterator[Deviation]:
        if expected is not None and found is not None:
            yield from self.compare(expected, found, path)
        elif expected is not None and path not in self._optional:
            yield Deviation(path, "absent", expected.shown(), _opens(path), expected.why)
        elif found is not None and not (
            path in self._added
            or _ADDED.fullmatch(path)
            or _ADDED_ELEMENTS.fullmatch(found.shown())
        ):
            if found.tag in libvirt.NEVER:
                yield Deviation(path, found.shown(), "absent", _opens(path),
                                libvirt.NEVER[found.tag])  # fmt: skip
            else:
                yield unknown(path, found.shown())

    def _value(self, path: str, expected: str, found: str | None, why: str) -> Iterator[Deviation]:
        free = self._free.get(path)
        good = found == expected if free is None else free.fullmatch(found or "") is not None
        if not good:
            yield Deviation(
                path,
                found or "absent",
                self._words.get(path, expected or "empty"),
                _opens(path),
                why,
            )


def _by_key(nodes: Sequence[_Node]) -> dict[tuple[str, str], list[_Node]]:
    found: dict[tuple[str, str], list[_Node]] = defaultdict(list)
    for node in nodes:
        found[node.tag, node.attributes.get(_KEYS.get(node.tag, ""), "")].append(node)
    return found


def _path(parent: str, key: tuple[str, str], number: int) -> str:
    tag, name = key
    if name:
        tag += f"[{name}]"
    elif tag in {"disk", "interface"} or number > 1:
        tag += f"[{number}]"
    return f"{parent}/{tag}".lstrip("/")


def _opens(path: str) -> Opens:
    if path.startswith("devices/interface"):
        return Opens.NETWORK
    return Opens.CHANNEL if path.startswith(("devices/", "os/bootmenu", "on_")) else Opens.IDENTITY
