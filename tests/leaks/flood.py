# SPDX-License-Identifier: GPL-3.0-or-later
"""Somebody who never stops sending: in the guest, and on each of its links.

Nothing of it is allowed by any profile, whatever the state of the guest, so that nothing may ever
be seen of it. Sockets are bound to links by number: they outlive a link's renaming.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from scapy.all import (
    ARP,
    ICMP,
    IP,
    LLC,
    STP,
    TCP,
    UDP,
    Dot1Q,
    Dot3,
    Ether,
    ICMPv6MLReport2,
    ICMPv6ND_RS,
    IPv6,
    Packet,
    raw,
)

from tails_profiles.constants import LinkConstants
from tests.leaks.attacks import N1
from tests.leaks.laboratory import (
    BROADCAST_MAC,
    LAN_MAC,
    LAN_MACHINE,
    ROUTER_MAC,
    Laboratory,
    inside,
    packet_socket,
)

#: What each kind of sender marks its packets with.
BY_PACKET_SOCKET = b"flood by a packet socket"
BY_IP_SOCKET = b"flood by an IP socket"
FROM_OUTSIDE = b"flood from outside"

#: LLDP: no rule set lets it in, and no kernel answers it.
LLDP = 0x88CC
_BROADCAST = "255.255.255.255"
#: In private ranges, and none that tor-guest maps names to.
_PRIVATE = ("10.9.0.1", "100.64.0.78", "127.0.0.78", "169.254.169.254", "172.16.0.78",
            "192.168.0.1", "240.0.0.78")  # fmt: skip


class Flood:
    """All senders against one laboratory; ``links`` maps the names its links have now to facts."""

    def __init__(self, lab: Laboratory, links: dict[str, LinkConstants]) -> None:
        self._sockets: list[socket.socket] = []
        self._sends: list[Callable[[], object]] = []
        self._cpus = os.cpu_count() or 1
        for name, facts in links.items():
            by_packet = self._keep(packet_socket(lab.guest, name, 0))
            self._frames(by_packet, _from_inside(facts))
            self._datagrams(lab, name)
            self._frames(lab.ends[facts.name].sender, _from_outside(facts))
        self._datagrams(lab, None)

    def _keep(self, made: socket.socket) -> socket.socket:
        self._sockets.append(made)
        return made

    def _frames(self, sender: socket.socket, packets: list[Packet]) -> None:
        self._sends += [partial(sender.send, raw(packet)) for packet in packets]

    def _datagrams(self, lab: Laboratory, link: str | None) -> None:
        """Of root, with and without a route: where a link is named, the datagram takes it."""
        for kind, protocol in ((socket.SOCK_DGRAM, 0), (socket.SOCK_RAW, socket.IPPROTO_ICMP)):
            with inside(lab.guest):
                made = self._keep(socket.socket(socket.AF_INET, kind, protocol))
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if link:
                with inside(lab.guest):
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
            payload = b"" if kind == socket.SOCK_DGRAM else b"\x08\x00\xf7\xff" + bytes(4)
            for address in (N1, "10.0.2.77", "10.1.2.1", "10.1.3.1", "224.0.0.251", _BROADCAST):
                self._sends.append(partial(made.sendto, payload + BY_IP_SOCKET, (address, 999)))

    def burst(self) -> None:
        """Everything once; what cannot be sent at the moment is not."""
        for send in self._sends:
            with suppress(OSError):
                send()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Without pause, from any processor, until the end of the block."""
        stop = threading.Event()

        def loop() -> None:
            os.sched_setaffinity(0, range(self._cpus))
            while not stop.is_set():
                self.burst()

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def close(self) -> None:
        """Close every socket that was opened."""
        for each in self._sockets:
            each.close()


def _from_inside(facts: LinkConstants) -> list[Packet]:
    """What root, a DHCP client, an LLDP daemon and others put on a link by packet sockets."""
    mac, own = facts.mac, str(facts.address.ip)
    to = facts.peer_mac or ROUTER_MAC
    mark = BY_PACKET_SOCKET
    return [
        Ether(src=mac, dst="01:80:c2:00:00:0e", type=LLDP) / mark,
        Ether(src=mac, dst="01:80:c2:00:00:03", type=0x888E) / mark,
        Ether(src=mac, dst=BROADCAST_MAC) / IP(src="0.0.0.0", dst=_BROADCAST)
        / UDP(sport=68, dport=1067) / mark,
        Ether(src=mac, dst=BROADCAST_MAC) / ARP(hwsrc=mac, psrc=own, pdst="10.0.2.77") / mark,
        Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(dst="ff02::2") / ICMPv6ND_RS() / mark,
        Ether(src=mac, dst="33:33:00:00:00:16") / IPv6(dst="ff02::16") / ICMPv6MLReport2() / mark,
        Dot3(src=mac, dst="01:80:c2:00:00:00") / LLC() / STP() / mark,
        Ether(src=mac, dst=to) / Dot1Q(vlan=1) / IP(src=own, dst=N1) / TCP(dport=443) / mark,
        Ether(src=mac, dst=to) / IP(src="10.9.9.9", dst=N1) / TCP(dport=443) / mark,
        *(Ether(src=mac, dst=to) / IP(src=own, dst=private) / TCP(dport=443) / mark
          for private in _PRIVATE),
        Ether(src=mac, dst=to) / IP(src=own, dst=N1, proto=2) / mark,
    ]  # fmt: skip


def _from_outside(facts: LinkConstants) -> list[Packet]:
    """Calls and questions that an open guest would answer, forward, or show to a daemon."""
    own = str(facts.address.ip)
    peer = str(LAN_MACHINE.ip) if facts.is_uplink else str(facts.peer)
    mac = LAN_MAC if facts.is_uplink else facts.peer_mac
    frame = Ether(src=mac, dst=facts.mac)
    mark = FROM_OUTSIDE
    return [
        frame / IP(src=peer, dst=own) / TCP(sport=4000, dport=22) / mark,
        frame / IP(src=peer, dst=own) / UDP(sport=4000, dport=999) / mark,
        frame / IP(src=peer, dst=own) / ICMP() / mark,
        frame / IP(src=peer, dst=N1) / UDP(sport=4000, dport=999) / mark,
        Ether(src=mac, dst=BROADCAST_MAC) / ARP(hwsrc=mac, psrc=peer, pdst=own),
        Ether(src=mac, dst="33:33:00:00:00:02") / IPv6(src="fe80::1", dst="ff02::2")
        / ICMPv6ND_RS(),
        Ether(src=mac, dst="01:80:c2:00:00:0e", type=LLDP) / mark,
    ]  # fmt: skip
