# SPDX-License-Identifier: GPL-3.0-or-later
"""What tor-guest sends on its uplink while something is done, captured at the far end.

A canary is sent before and after: a call of Tor's own user to a closed port, which the rules let
pass. A link keeps the order of its frames, so what was sent between the two is seen between them,
and a capture that is dead never sees the second.
"""

import ctypes
import itertools
import pwd
import socket
from collections.abc import Callable

from scapy.all import ARP, IP, TCP, Ether, Packet

from tails_profiles import constants as c
from tests.lab.i2pnet import inside, packet_socket
from tests.lab.ports import Guests
from tests.lab.tornet import AUTHORITIES, FACTOR, RELAYS, TorNetwork

#: Where a client of the private network connects: relays' and authorities' ports.
_TOR = {(address, 5000) for address in (*AUTHORITIES, *RELAYS)} | {
    (address, 7000) for address in AUTHORITIES
}


class Uplink:
    """The capture."""

    def __init__(self, guests: Guests, network: TorNetwork) -> None:
        self._guests = guests
        self._socket = packet_socket(network.relays, guests.far_end)
        self._socket.settimeout(10 * FACTOR)
        # Closed ports, one for each canary.
        self._ports = itertools.count(20000)

    def during(self, action: Callable[[], object]) -> list[Packet]:
        """The frames that tor-guest sent while ``action`` was done."""
        self._frames_to_canary()
        action()
        return self._frames_to_canary()

    def _frames_to_canary(self) -> list[Packet]:
        port = next(self._ports)
        call(self._guests.tor, AUTHORITIES[0], port, wait=False)
        frames = []
        while True:
            data, address = self._socket.recvfrom(65536)
            if address[2] == socket.PACKET_OUTGOING:
                continue
            frame = Ether(data)
            if TCP in frame and (frame[IP].dst, frame[TCP].dport) == (AUTHORITIES[0], port):
                return frames
            frames.append(frame)

    def close(self) -> None:
        """End the capture."""
        self._socket.close()


def strays(frames: list[Packet]) -> list[str]:
    """Those that are neither Tor's calls to its network nor ARP that asks for the router."""
    return [frame.summary() for frame in frames if not _is_due(frame)]


def _is_due(frame: Packet) -> bool:
    if ARP in frame:
        return bool(frame[ARP].pdst == str(c.UPLINK_ROUTER))
    return TCP in frame and IP in frame and (frame[IP].dst, frame[TCP].dport) in _TOR


def call(namespace: str, address: str, port: int, *, wait: bool = True) -> bool:
    """Whether Tor's user in a namespace gets a TCP connection; it is closed again."""
    return bool(inside(namespace, lambda: _call(address, port, 5 * FACTOR if wait else 0)))


def _call(address: str, port: int, seconds: float) -> bool:
    # The file system's user is a thread's own, and what the kernel takes for a socket's user.
    ctypes.CDLL(None).setfsuid(pwd.getpwnam("debian-tor").pw_uid)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.settimeout(seconds)
        return made.connect_ex((address, port)) == 0
