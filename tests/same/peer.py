# SPDX-License-Identifier: GPL-3.0-or-later
"""The other end of a guest's inner link: takes one file by TFTP (RFC 1350, RFC 2348)."""

import os
import socket
import struct
from pathlib import Path

_WRITE, _DATA, _ACK, _OPTIONS = 2, 3, 4, 6
_HEADERS = 14 + 20 + 8


class Peer:
    """A datagram socket on the link's path, one Ethernet frame each."""

    def __init__(self, path: Path, other: Path, group: int) -> None:
        self._other = other
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        # The guest's machine writes to it as a user of its own.
        os.chown(path, 0, group)
        path.chmod(0o660)

    def receive(self, seconds: float) -> bytes:
        """The file; raises TimeoutError when nothing comes for ``seconds``."""
        self._socket.settimeout(seconds)
        blocks: list[bytes] = []
        size = 512
        while True:
            frame = self._socket.recv(65536)
            message = _message(frame)
            if message is None:
                continue
            code, number = struct.unpack(">HH", message[:4])
            if code == _WRITE:
                words = message[2:].split(b"\0")
                size = int(words[words.index(b"blksize") + 1])
                self._answer(frame, struct.pack(">H", _OPTIONS) + b"blksize\0%d\0" % size)
            elif code == _DATA:
                # 16 bits: the number begins anew in a long file.
                if number == (len(blocks) + 1) % 65536:
                    blocks.append(message[4:])
                self._answer(frame, struct.pack(">HH", _ACK, number))
                if len(message) - 4 < size:
                    return b"".join(blocks)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _answer(self, frame: bytes, message: bytes) -> None:
        """To the sender of ``frame``, from where it was sent to."""
        ethernet = frame[6:12] + frame[:6] + frame[12:14]
        source, target = frame[26:30], frame[30:34]
        length = 20 + 8 + len(message)
        head = struct.pack(">BBHHHBBH", 0x45, 0, length, 0, 0, 64, 17, 0) + target + source
        total = sum(struct.unpack(">10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        head = head[:10] + struct.pack(">H", ~total & 0xFFFF) + head[12:]
        # Without a checksum, which IPv4 allows (RFC 768). The port of a transfer may be that of
        # its request.
        udp = frame[36:38] + frame[34:36] + struct.pack(">HH", 8 + len(message), 0)
        self._socket.sendto(ethernet + head + udp + message, str(self._other))


def _message(frame: bytes) -> bytes | None:
    """What a UDP packet to TFTP's port holds."""
    if frame[12:14] != b"\x08\x00" or frame[14] != 0x45 or frame[23] != 17:
        return None
    if frame[36:38] != struct.pack(">H", 69):
        return None
    length: int = struct.unpack(">H", frame[38:40])[0]
    return frame[_HEADERS : _HEADERS + length - 8]
