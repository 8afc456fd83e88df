# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the machines of the token corpus: as values, and as directories of files."""

import os
from pathlib import Path

from tails_profiles.selection import DmiFields, FieldReading
from tests.data.tokens import Case, Raw, Special, Value

NAMES = ("bios_vendor", "product_serial", "chassis_asset_tag")


def values_of(case: Case) -> tuple[Value, Value, Value]:
    """The three fields in the order of NAMES."""
    return (case.bios_vendor, case.product_serial, case.chassis_asset_tag)


def content_of(value: bytes | Raw) -> bytes:
    """What the field's file holds."""
    return value.content if isinstance(value, Raw) else value + b"\n"


def reading_of(name: str, value: Value) -> FieldReading:
    """The reading the edge would make of this value."""
    if isinstance(value, Special):
        if value.kind == "absent":
            return FieldReading(name)
        return FieldReading(name, error="it is not a regular file")
    return FieldReading(name, content_of(value))


def fields_of(case: Case) -> DmiFields:
    """The case as the pure core sees it."""
    return DmiFields(
        *(reading_of(name, value) for name, value in zip(NAMES, values_of(case), strict=True))
    )


def write_case(directory: Path, case: Case) -> None:
    """The case as files, the way sysfs shows them."""
    directory.mkdir(parents=True)
    for name, value in zip(NAMES, values_of(case), strict=True):
        path = directory / name
        if not isinstance(value, Special):
            path.write_bytes(content_of(value))
        elif value.kind == "directory":
            path.mkdir()
        elif value.kind == "dangling":
            path.symlink_to(directory / "nothing")
        elif value.kind == "fifo":
            os.mkfifo(path)
