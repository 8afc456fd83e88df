# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings disk: an ISO 9660 image (ECMA-119) of two or three files, its bytes their content.

It is written here and not by a tool, because every ISO writer stores its own name, version or
the time in the image, and a guest could tell hosts apart by that. The layout is fixed; the reader
accepts this layout alone. The kernel's isofs mounts it like any other.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tails_profiles.errors import SettingsError

LABEL = "TAILSPROF"
SECTOR = 2048
SEED_BYTES = 64
#: A bundle of first I2P routers: a hundred of them come to about 100 KiB.
MAX_BUNDLE = 512 << 10
#: Settings of 64 KiB, the seed, a bundle, and the descriptors.
MAX_SECTORS = 64 + MAX_BUNDLE // SECTOR
#: Where a volume's label is, in any ISO 9660 image: the primary descriptor's volume identifier.
LABEL_OFFSET = 16 * SECTOR + 40

_PRIMARY, _TERMINATOR, _PATHS_L, _PATHS_M, _ROOT, _FILES = 16, 17, 18, 19, 20, 21
_SETTINGS_NAME = b"SETTINGS.JSON;1"
_SEED_NAME = b"SEED.;1"
_BUNDLE_NAME = b"RESEED.;1"
# Years since 1900, month, day, hour, minute, second, quarters of an hour from UTC (9.1.5).
_RECORD_DATE = bytes((100, 1, 1, 0, 0, 0, 0))
_VOLUME_DATE = b"2000010100000000\0"
_NO_DATE = b"0" * 16 + b"\0"


@dataclass(frozen=True, slots=True)
class Content:
    """What a settings disk holds. ``bundle``: I2P's first routers, empty where it has none."""

    settings: bytes
    seed: bytes = field(repr=False)
    bundle: bytes = field(default=b"", repr=False)


def build(settings: bytes, seed: bytes, bundle: bytes = b"") -> bytes:
    """The image that holds ``settings`` (a settings file) and ``seed`` (64 random bytes).

    ``bundle``: the first routers of an i2p-guest, a third file unless it is empty.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a seed has {SEED_BYTES} bytes")
    if len(bundle) > MAX_BUNDLE:
        raise ValueError(f"a bundle has at most {MAX_BUNDLE} bytes")
    seed_sector = _FILES + _sectors(len(settings))
    total = seed_sector + 1 + _sectors(len(bundle))
    root = _record(b"\0", _ROOT, SECTOR, directory=True) + _record(
        b"\1", _ROOT, SECTOR, directory=True
    )
    # Records are sorted by name (9.3).
    if bundle:
        root += _record(_BUNDLE_NAME, seed_sector + 1, len(bundle))
    root += _record(_SEED_NAME, seed_sector, len(seed))
    root += _record(_SETTINGS_NAME, _FILES, len(settings))
    sectors = (
        bytes(_PRIMARY * SECTOR),
        _primary(total),
        b"\xffCD001\x01",
        _path_table("<"),
        _path_table(">"),
        root,
        settings,
        seed,
        bundle,
    )
    return b"".join(_padded(sector) for sector in sectors)


def _sectors(length: int) -> int:
    return -(-length // SECTOR)


def _padded(data: bytes) -> bytes:
    return data.ljust(_sectors(len(data)) * SECTOR, b"\0")


def _both(number: int, size: str) -> bytes:
    """A number in both byte orders (7.2.3, 7.3.3)."""
    return struct.pack("<" + size, number) + struct.pack(">" + size, number)


def _record(name: bytes, sector: int, length: int, *, directory: bool = False) -> bytes:
    size = 33 + len(name)
    size += size % 2
    record = struct.pack("BB", size, 0) + _both(sector, "I") + _both(length, "I") + _RECORD_DATE
    record += struct.pack("BBB", 2 if directory else 0, 0, 0) + _both(1, "H")
    return (record + bytes((len(name),)) + name).ljust(size, b"\0")


def _path_table(order: str) -> bytes:
    return struct.pack("BB", 1, 0) + struct.pack(order + "IH", _ROOT, 1) + b"\0\0"


def _primary(total: int) -> bytes:
    """The primary volume descriptor (8.4): identifiers empty but for the label, dates fixed."""
    return b"".join(
        (
            b"\x01CD001\x01\0",
            b" " * 32,
            LABEL.encode("ascii").ljust(32),
            bytes(8),
            _both(total, "I"),
            bytes(32),
            _both(1, "H"),
            _both(1, "H"),
            _both(SECTOR, "H"),
            _both(10, "I"),
            struct.pack("<II", _PATHS_L, 0),
            struct.pack(">II", _PATHS_M, 0),
            _record(b"\0", _ROOT, SECTOR, directory=True),
            b" " * (128 * 4 + 37 * 3),
            _VOLUME_DATE * 2,
            _NO_DATE * 2,
            b"\x01\0",
        )
    )


def label(start: bytes) -> str:
    """The volume label in the first sectors of a disk, or nothing if it is no ISO 9660 image."""
    if start[_PRIMARY * SECTOR + 1 : _PRIMARY * SECTOR + 6] != b"CD001":
        return ""
    return start[LABEL_OFFSET : LABEL_OFFSET + 32].rstrip(b" \0").decode("ascii", "replace")


def read(image: bytes) -> Content:
    """The files of an image; raises SettingsError unless ``build`` made it."""
    root = image[_ROOT * SECTOR : (_ROOT + 1) * SECTOR]
    files = dict(_entries(root, image))
    known = {_SETTINGS_NAME, _SEED_NAME}
    if set(files) - {_BUNDLE_NAME} != known or len(files[_SEED_NAME]) != SEED_BYTES:
        raise SettingsError("the settings disk does not hold settings.json and seed alone")
    content = Content(
        files[_SETTINGS_NAME], files[_SEED_NAME], files.get(_BUNDLE_NAME, b"")[:MAX_BUNDLE]
    )
    if build(content.settings, content.seed, content.bundle) != image:
        raise SettingsError("the settings disk is not as tails-profiles writes it")
    return content


def _entries(root: bytes, image: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + 33 <= len(root) and root[position] >= 34:
        record = root[position : position + root[position]]
        position += root[position]
        name = record[33 : 33 + record[32]]
        sector, length = (
            struct.unpack_from("<I", record, 2)[0],
            struct.unpack_from("<I", record, 10)[0],
        )
        if not record[25] & 2:
            yield name, image[sector * SECTOR : sector * SECTOR + length]


def size(image_start: bytes) -> int:
    """The bytes of the image whose first sectors these are (8.4.8); 0 if it cannot be ours."""
    total: int = struct.unpack_from("<I", image_start, _PRIMARY * SECTOR + 80)[0]
    return total * SECTOR if total <= MAX_SECTORS else 0
