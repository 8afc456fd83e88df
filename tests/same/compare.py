# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare what a guest saw on two hosts, byte by byte, against the list of what may differ.

``tests/data/residue.txt`` has a row for each exception: file, what of it, how often, and its name
in ``docs/residue.md``.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from tarfile import TarFile
from tarfile import open as open_tar

TOP = Path(__file__).parents[2]
LIST = TOP / "tests/data/residue.txt"

#: By the rows of the list of what a guest may look at: what must have been looked at, or the
#: comparison says nothing. A name may be a pattern.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "DMI": ("dmi.DMI", "dmi.smbios_entry_point", "dmi.id"),
    "links": ("net-counters", "links", "attributes"),
    "disks": ("ata-identity", "inquiry", "proc.partitions", "settings-disk"),
    "processor": ("cpuid", "msr", "proc.cpuinfo", "proc.mtrr"),
    "ACPI": ("acpi.DSDT", "acpi.FACP", "acpi.APIC", "acpi.FACS", "acpi.MCFG", "acpi.WAET"),
    "battery, sensors, USB, sound, TPM": ("power",),
    "PCI": ("pci.0000:00:00.0.config", "pci.0000:00:1f.0.config", "proc.bus-pci-devices"),
    "screen": ("edid", "proc.fb"),
    "clock": ("rtc", "cmos"),
    "fw_cfg and ports": ("fw-cfg", "fw-cfg.etc-acpi-tables", "fw-cfg.etc-e820", "ports", "vmport"),
    "memory": ("memory-total", "proc.iomem", "proc.ioports", "proc.dma"),
    "firmware": ("firmware", "option-roms"),
    "kernel": ("kernel-log", "proc.cmdline", "proc.consoles", "proc.devices", "proc.misc"),
    "counters": ("interrupts",),
    "keyboard and pointer": ("input-devices",),
}
#: New at every start: equal ones would be a seed that everybody shares.
FRESH = ("boot-id", "random", "seed", "clock")


#: What is no text: compared by position.
_BYTES = (
    "acpi.*", "dmi.DMI", "dmi.smbios_entry_point", "edid", "firmware", "fw-cfg.*", "inquiry",
    "option-roms", "pci.*", "settings-disk",
)  # fmt: skip
#: What a probe leaves that did not work, and one that found no such thing.
_NOTHING = (b"", b"(none)")


@dataclass(frozen=True, order=True)
class Difference:
    """One line of a text, or one run of bytes, that is another on the other host."""

    file: str
    what: str


@dataclass(frozen=True)
class Row:
    """``what``: ``all``, ``bytes A-B`` (hexadecimal, inclusive) or ``line REGEX``.

    ``always``: a difference that must be there, or the row is a lie; else one that comes and goes.
    """

    file: str
    what: str
    always: bool
    name: str

    def allows(self, difference: Difference) -> bool:
        """Whether it speaks of this difference."""
        if not fnmatchcase(difference.file, self.file):
            return False
        kind, _, rest = self.what.partition(" ")
        found, _, text = difference.what.partition(" ")
        if kind == "all":
            return True
        if kind != found:
            return False
        if kind == "line":
            return re.fullmatch(rest, text) is not None
        (first, last), (begin, end) = _range(rest), _range(text)
        return first <= begin and end <= last


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first, 16), int(last or first, 16)


def rows(text: str) -> tuple[Row, ...]:
    """The list: ``FILE | WHAT | always or sometimes | NAME``; what begins with # is for readers."""
    found = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        file, what, often, name = (part.strip() for part in line.split(" | "))
        assert often in {"always", "sometimes"}, line
        assert what.split(" ")[0] in {"all", "bytes", "line"}, line
        found.append(Row(file, what, often == "always", name))
    return tuple(found)


def unpack(archive: bytes) -> dict[str, bytes]:
    """The files of a dump."""
    with open_tar(fileobj=BytesIO(archive)) as tar:
        return dict(_files(tar))


def _files(tar: TarFile) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        if member.isfile():
            file = tar.extractfile(member)
            assert file is not None
            yield member.name, file.read()


def require_complete(dump: Mapping[str, bytes], *, screen: bool = True) -> None:
    """Fail where a probe did not run, or saw nothing.

    ``screen``: the guest has one that a program can ask. No battery, sensor, USB or sound is what
    it has to be: "power" lists what there is instead.
    """
    wanted = [
        f"same/{name}"
        for row, names in REQUIRED.items()
        for name in names
        if screen or row != "screen"
    ]
    wanted += [f"fresh/{name}" for name in FRESH]
    missing = [name for name in wanted if dump.get(name, b"").strip(b"\0\n ") in _NOTHING]
    assert not missing, f"no dump of {', '.join(missing)}"
    refused = [
        name
        for name in ("same/cpuid", "same/ports", "same/cmos", "same/msr")
        if dump[name].count(b"refused") * 2 > dump[name].count(b"\n")
    ]
    assert not refused, f"nothing could be read by {', '.join(refused)}"


def differences(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> set[Difference]:
    """Everything below ``same/`` that is not equal."""
    found = set()
    for path in one.keys() | other.keys():
        directory, _, name = path.partition("/")
        if directory != "same" or one.get(path) == other.get(path):
            continue
        if path not in one or path not in other:
            found.add(Difference(name, "all: one host has none"))
        else:
            found.update(Difference(name, what) for what in _changes(name, one[path], other[path]))
    return found


def equal_where_fresh(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    """What should have been new at each start, and was not."""
    return [name for name in FRESH if one[f"fresh/{name}"] == other[f"fresh/{name}"]]


def unexplained(found: set[Difference], known: tuple[Row, ...]) -> list[Difference]:
    """The differences that no row allows."""
    return sorted(each for each in found if not any(row.allows(each) for row in known))


def unneeded(found: set[Difference], known: tuple[Row, ...]) -> list[Row]:
    """The rows that say "always" and were not needed."""
    return [row for row in known if row.always and not any(map(row.allows, found))]


def _changes(name: str, one: bytes, other: bytes) -> Iterator[str]:
    if not any(fnmatchcase(name, pattern) for pattern in _BYTES):
        left, right = (Counter(each.decode("latin-1").split("\n")) for each in (one, other))
        lines = (left - right) + (right - left)
        # The same lines in another order are a difference as well.
        yield from (f"line {line}" for line in lines or ("(another order)",))
    elif len(one) != len(other):
        yield f"all: {len(one)} and {len(other)} bytes"
    else:
        yield from _runs(one, other)


def _runs(one: bytes, other: bytes) -> Iterator[str]:
    unequal = [number for number in range(len(one)) if one[number] != other[number]]
    begin = previous = unequal[0]
    for number in [*unequal[1:], len(one) + 1]:
        if number != previous + 1:
            yield f"bytes {begin:#x}-{previous:#x}"
            begin = number
        previous = number
