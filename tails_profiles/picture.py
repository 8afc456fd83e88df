# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of a guest's screen: nothing of it but the pixels is somebody else's.

The file comes from the machine's process, into which a hostile guest may have escaped, and goes to
a viewer on the user's desktop. So it is read by the narrowest grammar of PNG that a hypervisor
writes (ISO/IEC 15948), and written anew.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tails_profiles.errors import LaunchError

#: Bytes of a file that is looked at, and pixels of a side.
MAX_FILE = 32 << 20
MAX_SIDE = 4096
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Bytes of a pixel, by colour type: red, green, blue; the same with alpha. Eight bits each.
_PIXEL = {2: 3, 6: 4}
#: Width, height, bits, colour type, compression, filter, interlace (section 11.2.2).
_HEADER = struct.Struct(">IIBBBBB")
#: How a line is told by others: none, sub, up, average, Paeth (section 9.2).
_FILTERS = range(5)


@dataclass(frozen=True, slots=True)
class Picture:
    """``png`` is a whole file; width and height are in pixels."""

    width: int
    height: int
    png: bytes


def read(data: bytes) -> Picture:
    """A picture out of a hypervisor's file; raises LaunchError for whatever is none."""
    try:
        return _read(data)
    except (ValueError, struct.error, zlib.error) as err:
        raise LaunchError(
            f"the picture of its screen is damaged: {err}",
            hint="its machine's process wrote it: if this goes on, do not trust that guest",
        ) from err


def _read(data: bytes) -> Picture:
    if not data.startswith(_SIGNATURE):
        raise ValueError("no PNG file")
    parts = [*_chunks(data[len(_SIGNATURE) :])]
    names = [name for name, _ in parts]
    if names[:1] != [b"IHDR"] or names.count(b"IHDR") != 1 or names[-1] != b"IEND":
        raise ValueError("no header, or no end")
    header = parts[0][1]
    width, height, bits, colour, *rest = _HEADER.unpack(header)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"{width} x {height} pixels")
    if bits != 8 or colour not in _PIXEL or any(rest):
        raise ValueError("not eight bits of red, green and blue")
    lines = _unpacked(
        b"".join(content for name, content in parts if name == b"IDAT"),
        height * (1 + width * _PIXEL[colour]),
    )
    if any(line not in _FILTERS for line in lines[:: 1 + width * _PIXEL[colour]]):
        raise ValueError("an unknown filter")
    png = b"".join(
        (_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines)),
         _chunk(b"IEND", b""))
    )  # fmt: skip
    return Picture(width, height, png)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents, up to the end, behind which nothing may be (section 5.3)."""
    name = b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data)
        content = data[8 : 8 + length]
        (checksum,) = struct.unpack_from(">I", data, 8 + length)
        if checksum != zlib.crc32(name + content):
            raise ValueError("a wrong checksum")
        yield name, content
        data = data[12 + length :]
    if data:
        raise ValueError("something behind its end")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), name) + content + struct.pack(
        ">I", zlib.crc32(name + content)
    )  # fmt: skip


def _unpacked(data: bytes, size: int) -> bytes:
    """Exactly ``size`` bytes; one that unpacks to more is not unpacked."""
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(data, size + 1)
    if len(found) != size or not unpacker.eof or unpacker.unused_data:
        raise ValueError("more pixels than it says, or fewer")
    return found
