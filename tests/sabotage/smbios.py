# SPDX-License-Identifier: GPL-3.0-or-later
"""SMBIOS tables as firmware has them (DMTF DSP0134, version 2.8), for who parses them by itself."""

import struct

#: Where firmware without EFI has the two, in the memory that ``/dev/mem`` shows.
_ENTRY_ADDRESS = 0xF0000
_TABLES_ADDRESS = 0xF1000


def _structure(number: int, handle: int, formatted: bytes, strings: tuple[bytes, ...]) -> bytes:
    head = struct.pack("<BBH", number, 4 + len(formatted), handle)
    return head + formatted + b"".join(each + b"\0" for each in strings) + b"\0" * (
        1 if strings else 2
    )  # fmt: skip


def _sum(data: bytes) -> int:
    """The byte that makes the sum of all zero."""
    return -sum(data) & 0xFF


def tables(vendor: bytes, serial: bytes) -> tuple[bytes, bytes]:
    """An entry point and its structures: types 0 and 1 with these strings, and the end."""
    # Vendor, version, segment, date, size; 8 + 2 + 4 bytes of what the firmware can do.
    bios = struct.pack("<BBHBB", 1, 2, 0xE800, 3, 0) + bytes(8 + 2) + b"\1\0\xff\xff"
    # Maker, product, version, serial number, UUID, what woke it, SKU, family.
    system = struct.pack("<BBBB", 1, 2, 0, 3) + bytes(range(16)) + b"\6\0\0"
    structures = (
        _structure(0, 0, bios, (vendor, b"1.0", b"01/01/2020")),
        _structure(1, 1, system, (b"maker", b"product", serial)),
        _structure(127, 2, b"", ()),
    )
    data = b"".join(structures)
    largest = max(map(len, structures))
    inner = (
        b"_DMI_" + b"\0" + struct.pack("<HIHB", len(data), _TABLES_ADDRESS, len(structures), 0x28)
    )
    inner = inner[:5] + bytes([_sum(inner)]) + inner[6:]
    entry = b"_SM_" + b"\0" + struct.pack("<BBBHB", 31, 2, 8, largest, 0) + bytes(5) + inner
    return entry[:4] + bytes([_sum(entry)]) + entry[5:], data


def memory(entry: bytes, structures: bytes) -> bytes:
    """The first MiB: python-dmidecode of Debian 12 looks there, and not at the kernel's files."""
    made = bytearray(1 << 20)
    made[_ENTRY_ADDRESS : _ENTRY_ADDRESS + len(entry)] = entry
    made[_TABLES_ADDRESS : _TABLES_ADDRESS + len(structures)] = structures
    return bytes(made)
