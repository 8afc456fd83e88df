# SPDX-License-Identifier: GPL-3.0-or-later
"""The comparison itself: what is missing, empty, changed or no longer needed is noticed."""

import pytest

from tests.same import compare
from tests.same.compare import Difference

TEXT = """\
# for readers
cpuinfo | line MHz: [0-9]+ | sometimes | counter
acpi.* | bytes 0x8-0x9 | always | tables
firmware | all | sometimes | firmware
"""
KNOWN = compare.rows(TEXT)


def dump(**changed: bytes) -> dict[str, bytes]:
    files = {
        f"same/{name}": b"something\n" for names in compare.REQUIRED.values() for name in names
    }
    files |= {f"fresh/{name}": b"new" for name in compare.FRESH}
    return files | {f"same/{name}": data for name, data in changed.items()}


def unexplained(one: bytes, other: bytes, name: str) -> list[Difference]:
    found = compare.differences({f"same/{name}": one}, {f"same/{name}": other})
    return compare.unexplained(found, KNOWN)


def test_complete_dump_is_taken() -> None:
    compare.require_complete(dump())


@pytest.mark.parametrize("data", [b"", b"\n", b"(none)\n", b"\0\0"])
@pytest.mark.parametrize("name", ["cpuid", "edid", "attributes"])
def test_probe_that_saw_nothing_is_noticed(name: str, data: bytes) -> None:
    with pytest.raises(AssertionError, match=f"no dump of same/{name}"):
        compare.require_complete(dump(**{name: data}))


@pytest.mark.parametrize("path", sorted(dump()))
def test_probe_that_did_not_run_is_noticed(path: str) -> None:
    files = dump()
    del files[path]
    with pytest.raises(AssertionError, match="no dump of"):
        compare.require_complete(files)


def test_registers_that_nobody_could_read_are_noticed() -> None:
    with pytest.raises(AssertionError, match="nothing could be read by same/msr"):
        compare.require_complete(dump(msr=b"0x17 refused\n0x1b refused\n"))


@pytest.mark.parametrize(
    ("name", "one", "other", "expected"),
    [
        ("cpuinfo", b"MHz: 1\n", b"MHz: 2\n", []),
        ("cpuinfo", b"MHz: 1\nname: a\n", b"MHz: 2\nname: b\n", ["line name: a", "line name: b"]),
        ("cpuinfo", b"MHz: 1\n", b"MHz: 1\nMHz: 1\nx\n", ["line x"]),
        ("cpuinfo", b"MHz: 1\n", b"MHz: 1 GHz\n", ["line MHz: 1 GHz"]),
        ("links", b"a\nb\n", b"b\na\n", ["line (another order)"]),
        ("acpi.APIC", b"01234567AA01", b"01234567BB01", []),
        ("acpi.APIC", b"01234567AA01", b"01234567BB02", ["bytes 0xb-0xb"]),
        ("acpi.APIC", b"0123456_AA", b"01234567BB", ["bytes 0x7-0x9"]),
        ("acpi.APIC", b"01234567AA", b"01234567AAA", ["all: 10 and 11 bytes"]),
        ("firmware", b"a", b"bc", []),
        ("edid", b"a\0b", b"a\0c", ["bytes 0x2-0x2"]),
    ],
)
def test_differences_are_told_from_those_of_the_list(
    name: str, one: bytes, other: bytes, expected: list[str]
) -> None:
    assert [each.what for each in unexplained(one, other, name)] == expected


def test_file_of_one_host_alone_is_a_difference() -> None:
    found = compare.differences(dump(**{"acpi.SLIC": b"x"}), dump())
    assert compare.unexplained(found, KNOWN) == [Difference("acpi.SLIC", "all: one host has none")]


def test_row_that_nothing_needs_is_noticed() -> None:
    same = compare.differences(dump(), dump())
    assert [row.file for row in compare.unneeded(same, KNOWN)] == ["acpi.*"]
    found = compare.differences(
        {"same/acpi.APIC": b"01234567AA"}, {"same/acpi.APIC": b"01234567AB"}
    )
    assert compare.unneeded(found, KNOWN) == []


def test_seed_that_everybody_shares_is_noticed() -> None:
    other = dict.fromkeys(dump(), b"other") | {"fresh/seed": b"new"}
    assert compare.equal_where_fresh(dump(), other) == ["seed"]


@pytest.mark.parametrize("line", ["a | b | always | c", "a | all | often | c", "a | all | always"])
def test_row_outside_the_format_is_refused(line: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        compare.rows(line)


def test_every_name_of_the_list_is_explained() -> None:
    text = (compare.TOP / "docs/residue.md").read_text()
    names = {row.name for row in compare.rows(compare.LIST.read_text())}
    assert {name for name in names if f"\n| {name} |" not in text} == set()
