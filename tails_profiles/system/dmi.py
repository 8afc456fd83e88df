# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the DMI fields from the kernel, and cross-check them with python-dmidecode.

The kernel's files decide; the library, which parses the tables by itself, is a second opinion.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tails_profiles.errors import DmiContradictionError
from tails_profiles.selection import MAX_CONTENT, DmiFields, FieldReading

log = logging.getLogger(__name__)

#: kernel name -> (SMBIOS structure type, name in python-dmidecode's answer)
_LIBRARY_NAMES = {
    "bios_vendor": (0, "Vendor"),
    "product_serial": (1, "Serial Number"),
}


#: PROC_PID_INIT_INO of the kernel's linux/proc_ns.h, which no other namespace has.
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


@dataclass(frozen=True, slots=True)
class CrossCheck:
    """Whether the library answered, and in words what it said or why it could not."""

    answered: bool
    note: str


def read_fields(sysfs: Path) -> DmiFields:
    """Read the three fields below ``sysfs`` (normally ``/sys``); a fault is part of the answer."""
    directory = sysfs / "class/dmi/id"
    return DmiFields(
        *(
            _read_field(directory, name)
            for name in ("bios_vendor", "product_serial", "chassis_asset_tag")
        )
    )


def _read_field(directory: Path, name: str) -> FieldReading:
    path = directory / name
    try:
        if not os.path.lexists(path):
            if directory.exists() and not directory.is_dir():
                return FieldReading(name, error=f"{directory} is not a directory")
            return FieldReading(name)
        if not stat.S_ISREG(path.stat().st_mode):
            return FieldReading(name, error="it is not a regular file")
        # Non-blocking, in case the file is replaced by a pipe between the two calls.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            return FieldReading(name, _read_bounded(file.read))
    except OSError as err:
        return FieldReading(name, error=f"it cannot be read: {os.strerror(err.errno or errno.EIO)}")


def _read_bounded(read: Callable[[int], bytes | None]) -> bytes:
    content = b""
    while len(content) <= MAX_CONTENT:
        block = read(MAX_CONTENT + 1 - len(content))
        if not block:
            break
        content += block
    return content


def in_container() -> bool:
    """Whether this is a container: whether it has a PID namespace of its own, as all have.

    systemd's word for it may come from ``container=`` on the kernel's command line.
    """
    try:
        return Path("/proc/self/ns/pid").readlink().name != _FIRST_PID_NAMESPACE
    except OSError:
        return False


def cross_check(fields: DmiFields, query: "Query | None" = None) -> CrossCheck:
    """Compare types 0 and 1 with what python-dmidecode reads.

    No answer (library or ``/dev/mem`` missing, no DMI) is not an error: the kernel's files decide.
    Raises DmiContradictionError when it answers and differs.
    """
    if query is None:
        query = _import_query()
    if query is None:
        return CrossCheck(False, "python3-dmidecode is not installed")
    compared: list[str] = []
    for reading in (fields.bios_vendor, fields.product_serial):
        number, key = _LIBRARY_NAMES[reading.name]
        answer = _value_of(query(number), number, key)
        if answer is None or reading.content is None:
            continue
        kernel = reading.content.removesuffix(b"\n")
        if _comparable(answer) != _comparable(kernel):
            raise DmiContradictionError(reading.name, kernel, answer)
        compared.append(reading.name)
    if not compared:
        return CrossCheck(False, "dmidecode gave no answer (no /dev/mem, or no DMI)")
    return CrossCheck(True, "dmidecode agrees on " + " and ".join(compared))


Query = Callable[[int], Mapping[str, Any]]


def _import_query() -> Query | None:
    try:
        import dmidecode  # noqa: PLC0415 - reads SMBIOS on import, so only where it is needed
    except ImportError:
        return None

    def query(number: int) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = dmidecode.QueryTypeId(number)
        warnings = dmidecode.get_warnings()
        # Uncleared warnings would be printed to stderr when the process ends.
        dmidecode.clear_warnings()
        if warnings:
            log.info("dmidecode: %s", " ".join(str(warnings).split()))
        return answer

    return query


def _value_of(answer: Mapping[str, Any], number: int, key: str) -> bytes | None:
    for structure in answer.values():
        if structure.get("dmi_type") == number:
            value = structure.get("data", {}).get(key)
            if isinstance(value, bytes):
                return value
    return None


def _comparable(value: bytes) -> bytes:
    """What the library makes of bytes it does not like, and of a missing or padded string."""
    dotted = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in value).rstrip()
    return b"" if dotted in {b"Not Specified", b"None"} else dotted
