# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets against the real rule sets of i2p-guest, with a constant uplink and a leased one.

It differs from tor-guest in what makes it easier to get wrong: UDP leaves, from any port to any
port, so that only users and the direction of a connection tell what may pass.
"""

import pwd
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
from scapy.all import IP, TCP, UDP, Ether, Packet, raw

from tails_profiles import constants as c
from tails_profiles.profile import Profile
from tests.leaks.attacks import (
    ANSWERED,
    BACK,
    ELSEWHERE,
    INGRESS,
    LEFT,
    MARK,
    N1,
    Gateway,
    batch,
    from_app,
    inner,
    sweeps,
    syn,
    uplink,
)
from tests.leaks.cases import Find, each
from tests.leaks.laboratory import (
    BROADCAST_MAC,
    INET,
    LAN_MAC,
    LAN_MACHINE,
    ROUTER_MAC,
    Laboratory,
)  # fmt: skip
from tests.leaks.outside import (
    NETWORK,
    Exchange,
    Resolve,
    by_root,
    every_ethertype,
    from_network,
    users,
)
from tests.leaks.probes import (
    Action,
    Call,
    Case,
    Daemon,
    Delivered,
    Flow,
    Frames,
    Mutant,
    Probe,
    RootFrames,
    View,
)

pytestmark = pytest.mark.lab

#: By hand: the proxies and the request for a new destination, and what else a router listens on
#: and nobody may reach: console, I2CP, SAM, BOB, I2PControl, and another of the console's.
PORTS = (4444, 4447, 4448)
NEVER = (7657, 7654, 7656, 2827, 7650, 8998)
I2P = Gateway(Profile.I2P_GUEST, PORTS, ())
UID = pwd.getpwnam(c.I2P_USER).pw_uid
TOR_UID = pwd.getpwnam(c.TOR_USER).pw_uid
TOR_GUEST = "10.1.2.1"
TOR_GUESTS_PORTS = (9050, 9062, 9063, 9150, 951, 9040, 53)


@dataclass(frozen=True)
class AfterCall(Action):
    """The router calls somebody, and then a frame comes that does not belong to that call.

    ``fields`` are what differs from the answer: of IP, and of UDP or TCP.
    """

    kind: str
    fields: tuple[dict[str, object], dict[str, object]]

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """The answer itself has come before, and does not count."""
        sock, answer = Exchange(UID, self.kind, N1, 6000).answered(lab)
        with sock:
            # Its end is one RST, and no FIN that is repeated into later probes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            view.clear(lab)
            stray = Ether(src=answer.src, dst=answer.dst) / IP(
                **{"src": answer[IP].src, "dst": answer[IP].dst, **self.fields[0]}
            )
            ports = {"sport": answer.payload.payload.sport, "dport": answer.payload.payload.dport}
            layer = UDP if self.kind == "udp" else TCP
            lab.ends["uplink"].sender.send(raw(stray / layer(**{**ports, **self.fields[1]}) / MARK))
            return view.seen(lab)


def _sampled(probe: Probe) -> Probe:
    """About a thousand of a probe that tor-guest's tests send whole."""
    action = probe.action.thinned()
    assert isinstance(action, Frames)
    return replace(probe, name=f"{probe.name}, a sample", action=action, least=len(action.frames))


def _scans() -> Iterable[Probe]:
    """P33: all ports of the gateway, and samples of the other sweeps."""
    for probe in sweeps(I2P):
        yield replace(probe, ref="P33") if probe.ref == "P31" else _sampled(probe)


PROBES = (
    *from_app(I2P),
    *_scans(),
    _sampled(every_ethertype(I2P)),
    *users(I2P, UID, udp=True),
    batch("console, SAM, BOB, I2CP, I2PControl: answered", "P33",
          (I2P.ip(I2P.own) / syn(port) for port in NEVER), ANSWERED, BACK),
    batch("console, SAM, BOB, I2CP, I2PControl: delivered", "P33",
          (I2P.ip(I2P.own) / syn(port, sport=41000) for port in NEVER), ANSWERED,
          Delivered((6,))),
    batch("the first fragment of a call to a proxy", "P28",
          [I2P.ip(I2P.own, proto=6, flags="MF", id=7) / raw(syn(PORTS[0]) / b"part")],
          INGRESS, Daemon("inner")),
    Probe("the router's own user to tor-guest, TCP", "P47",
          Call((UID,), "tcp", (TOR_GUEST, "10.1.2.3"), 9050), LEFT, NETWORK, least=2),
    Probe("the router's own user to tor-guest, UDP", "P47",
          Call((UID,), "udp", (TOR_GUEST, "10.1.2.3"), 53), LEFT, NETWORK, least=2),
    Probe("root to tor-guest", "P47", RootFrames("uplink", tuple(
        raw(Ether(src=I2P.uplink.mac, dst=ROUTER_MAC) / IP(src=src, dst=TOR_GUEST) / syn(port))
        for src in (I2P.own, "10.0.2.15") for port in TOR_GUESTS_PORTS)), LEFT, ("uplink",),
          least=2 * len(TOR_GUESTS_PORTS)),
    batch("tor-guest, on the inner link", "P47",
          (I2P.ether(src=mac) / IP(src=TOR_GUEST, dst=I2P.own) / syn(port)
           for mac in (c.TOR_MAC, I2P.inner.peer_mac) for port in PORTS),
          INGRESS, Daemon("inner")),
    Probe("UDP of strangers", "P54", uplink(*(
        I2P.outside(src) / UDP(sport=sport, dport=dport) / MARK
        for src in (N1, ELSEWHERE) for sport, dport in ((4000, 4001), (53, 4447), (6000, 6000)))),
          Delivered((17,)), (INET,), least=6),
    Probe("UDP from another address than the router called", "P54",
          AfterCall("udp", ({"src": ELSEWHERE}, {})), Delivered((17,)), (INET,)),
    Probe("UDP from another port than the router called", "P54",
          AfterCall("udp", ({}, {"sport": 6001})), Delivered((17,)), (INET,)),
    Probe("UDP to another port than the router called from", "P54",
          AfterCall("udp", ({}, {"dport": 6001})), Delivered((17,)), (INET,)),
    Probe("TCP from another address than the router called", "P54",
          AfterCall("tcp", ({"src": ELSEWHERE}, {"flags": "A", "seq": 101})),
          Delivered((6,)), (INET,)),
    Probe("a call from the address the router called", "P54",
          AfterCall("tcp", ({}, {"flags": "S", "sport": 6001, "dport": 4447})),
          Delivered((6,)), NETWORK),
)  # fmt: skip
#: P47 the other way round: what tor-guest may not ask i2p-guest.
FROM_TOR = (
    *(
        Probe(f"Tor's own user to i2p-guest, {kind}", "P47",
              Call((TOR_UID,), kind, (I2P.own, I2P.client), 4444), LEFT, NETWORK, least=2)
        for kind in ("tcp", "udp", "ip 1")
    ),
    Probe("root of tor-guest to i2p-guest", "P47", RootFrames("uplink", tuple(
        raw(Ether(src=c.TOR_UPLINK_MAC, dst=ROUTER_MAC) / IP(src=src, dst=I2P.own) / syn(port))
        for src in (TOR_GUEST, "10.0.2.15") for port in PORTS + NEVER)), LEFT, ("uplink",),
          least=2 * len(PORTS + NEVER)),
)  # fmt: skip
OUTSIDE = (*from_network(I2P), *by_root(I2P, udp=True))
LEASED = (*from_network(I2P, dhcp=True), *by_root(I2P, udp=True, dhcp=True))

FLOWS = (
    Flow("app-guest calls each port",
         inner(*(I2P.ip(I2P.own) / syn(port, sport=48000) for port in PORTS)), BACK, least=3),
    Flow("the router calls a peer", Exchange(UID, "tcp", N1, 12345), LEFT),
    Flow("the router sends a peer UDP", Exchange(UID, "udp", N1, 23456), LEFT),
    Flow("the router talks to itself", Call((UID,), "tcp", ("127.0.0.1",), 4447), Delivered((6,))),
    Flow("the router calls, and the MAC is unknown", Resolve(UID, "tcp", N1, 443), LEFT),
)  # fmt: skip


OPENED = 23456
_LAN = Ether(src=LAN_MAC, dst=I2P.uplink.mac) / IP(src=str(LAN_MACHINE.ip), dst="10.0.2.15")
#: One port that the settings open: what still may not pass.
OPENED_PROBES = (
    Probe("SYN from the internet to other ports", "P54",
          uplink(*(I2P.outside() / syn(port) for port in (*PORTS, 22, OPENED + 1))), LEFT, NETWORK,
          least=len(PORTS) + 2),
    Probe("SYN from the LAN to the opened port", "P54", uplink(_LAN / syn(OPENED)),
          Delivered((6,)), NETWORK),
    Probe("UDP from the LAN to the opened port", "P54",
          uplink(_LAN / UDP(sport=4000, dport=OPENED) / MARK), Delivered((17,)), NETWORK),
    Probe("UDP of strangers to other ports", "P54", uplink(*(
        I2P.outside() / UDP(sport=4000, dport=port) / MARK for port in (4447, OPENED + 1))),
          Delivered((17,)), (INET,), least=2),
    Probe("root from the opened port", "P53",
          Call((0,), "udp", (N1,), 6000, source=("10.0.2.15", OPENED)), LEFT, (INET,)),
    Probe("app-guest at the opened port", "P33",
          inner(I2P.ip(I2P.own) / syn(OPENED)), BACK, ANSWERED),
)  # fmt: skip
OPENED_FLOWS = (
    Flow("a peer calls the opened port", uplink(I2P.outside() / syn(OPENED)), LEFT),
    Flow("a peer sends UDP to the opened port",
         uplink(I2P.outside() / UDP(sport=4000, dport=OPENED) / MARK), Delivered((17,))),
)  # fmt: skip


def _dhcp(sport: int, dport: int) -> Packet:
    return IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=sport, dport=dport) / MARK


LEASE_FLOWS = (
    Flow("a request of DHCP", RootFrames("uplink", (
        raw(Ether(src=I2P.uplink.mac, dst=BROADCAST_MAC) / _dhcp(68, 67)),)), LEFT),
    Flow("an answer of DHCP", uplink(
        Ether(src=ROUTER_MAC, dst=BROADCAST_MAC) / _dhcp(67, 68)), Daemon("uplink")),
)  # fmt: skip


# ---- seeded mistakes

_I2P_OUT = 'oifname "uplink" meta skuid "i2pd" ct direction original ct state new,established '
_ANSWERS = 'iifname "uplink" ct direction reply ct state established '
_LO_OUT = 'oif "lo" ip saddr 127.0.0.0/8 ip daddr 127.0.0.0/8 meta skuid "i2pd"'
_AFTERWARDS = "P30 what the kernel says after a connection"
_PRIVATE_UDP = "P53 UDP of its own user to private ranges and groups"
_STRANGERS = "P54 UDP of strangers"
_INWARDS = "P53 root's frames inwards: "
_ROOT = "P53 root's frames: "


def _drops(table: str, chain: str, caught: dict[str, str]) -> tuple[Mutant, ...]:
    """Each of these drop rules, by its comment, counts and lets pass to the next one."""
    return tuple(
        Mutant(f"{table} {chain}: no rule {comment!r}", table,
               f'counter drop comment "{comment}"', f'counter comment "{comment}"', probe,
               after=f"chain {chain} ")
        for comment, probe in caught.items()
    )  # fmt: skip


INET_MUTANTS = (
    Mutant("output accepts established", INET, _LO_OUT,
           "ct state established accept\n        " + _LO_OUT, _AFTERWARDS),
    Mutant("input accepts what is new or established", INET, _ANSWERS,
           'iifname "uplink" ct state new,established ', _STRANGERS),
    Mutant("input accepts any UDP", INET, _ANSWERS, 'iifname "uplink" ', _STRANGERS),
    Mutant("any user out", INET, 'meta skuid "i2pd" ct direction', "ct direction",
           "P53 UDP of every other user"),
    Mutant("any user out, TCP", INET, 'meta skuid "i2pd" ct direction', "ct direction",
           "P53 SYN of every other user"),
    Mutant("I2P to private ranges, UDP", INET, "ip daddr @public counter", "counter", _PRIVATE_UDP),
    Mutant("I2P to private ranges, TCP", INET, "ip daddr @public counter", "counter",
           "P47 the router's own user to tor-guest, TCP"),
    Mutant("10/8 is public", INET, "1.0.0.0-9.255.255.255, 11.0.0.0-", "1.0.0.0-",
           "P47 the router's own user to tor-guest, UDP"),
    Mutant("multicast is public", INET, "-223.255.255.255", "-255.255.255.255", _PRIVATE_UDP),
    Mutant("I2P sends anything", INET, "meta l4proto { tcp, udp } ip daddr", "ip daddr",
           "P53 echo of its own user"),
    Mutant("any port of i2p-guest", INET, "tcp dport { 4444, 4447, 4448 } counter",
           "meta l4proto tcp counter", "P33 console, SAM, BOB, I2CP, I2PControl: answered"),
    Mutant("the console too", INET, "{ 4444, 4447, 4448 }", "{ 4444, 4447, 4448, 7657 }",
           "P33 console, SAM, BOB, I2CP, I2PControl: answered"),
    Mutant("proxies on any link", INET, 'iifname "inner" ip saddr', "ip saddr",
           "P26 app-guest's address, from outside", after="chain input"),
    Mutant("proxies for any source", INET, 'iifname "inner" ip saddr 10.1.3.3 ip daddr',
           'iifname "inner" ip daddr', "P26 source on the internet, to an open port",
           after="chain input"),
    Mutant("i2p-guest calls app-guest", INET,
           "ct direction reply ct state established meta l4proto tcp", "meta l4proto tcp",
           "P53 calls to app-guest", after="chain output"),
    Mutant("anybody over lo", INET, _LO_OUT, _LO_OUT.partition(" meta")[0],
           "P53 SYN of other users over lo"),
    Mutant("output lets the rest pass", INET, 'counter drop comment "out"', "accept",
           "P53 echo of every other user"),
    Mutant("input lets the rest pass", INET, 'counter drop comment "in"', "accept", _STRANGERS),
    Mutant("forward lets the rest pass", INET, 'counter drop comment "forward"', "accept",
           "P1 SYN to the internet"),
)  # fmt: skip

LINK_MUTANTS = (
    *_drops("inner", "ingress", {
        "source MAC": "P43 another source MAC, to an open port",
        "destination MAC": "P42 SYN to other destination MACs",
        "IP options": "P27 IP options to an open port",
        "fragment": "P28 the first fragment of a call to a proxy",
        "source address": "P26 source on the internet, to an open port",
    }),
    *_drops("inner", "egress", {
        "source MAC": _INWARDS + "other MACs",
        "destination MAC": _INWARDS + "other MACs",
        "destination address": _INWARDS + "to another address",
        "call from the gateway": _INWARDS + "a call",
    }),
    Mutant("inner: the console too", "inner", "{ 4444, 4447, 4448 }", "{ 4444, 4447, 4448, 7657 }",
           "P33 console, SAM, BOB, I2CP, I2PControl: delivered"),
    Mutant("inner: the rest comes in", "inner", 'counter drop comment "in"', "accept",
           "P9 every other IP protocol to the gateway"),
    Mutant("inner: the rest goes out", "inner", 'counter drop comment "out"', "accept",
           _INWARDS + "answers of closed ports"),
    *_drops("uplink", "ingress", {
        "destination MAC": "P54 TCP to other destination MACs",
        "IP options": "P54 IP options from the internet",
        "fragment": "P54 fragments from the internet",
        "destination address": "P54 packets for other addresses",
        "call from outside": "P54 SYN from the internet",
        "private ranges": "P54 packets of private sources",
    }),
    *_drops("uplink", "egress", {
        "source MAC": _ROOT + "another source MAC",
        "group MAC": _ROOT + "TCP to a group MAC",
        "IP options": _ROOT + "IP options",
        "fragment": _ROOT + "fragments",
        "source address": _ROOT + "sources of inner links, and others",
        "private ranges": "P47 root to tor-guest",
    }),
    Mutant("uplink: the rest goes out", "uplink", 'counter drop comment "out"', "accept",
           _ROOT + "ICMP, SCTP, GRE"),
    Mutant("uplink: ARP with anybody", "uplink", "arp saddr ip 10.0.2.2 ", "", "P54 odd ARP"),
)  # fmt: skip
LEASE_MUTANTS = (
    Mutant("leased: any port by broadcast", "uplink", "udp sport 68 udp dport 67 counter",
           "meta l4proto udp counter", _ROOT + "almost a DHCP DISCOVER"),
    Mutant("leased: ARP with anybody", "uplink", "arp saddr ip @router ", "", "P54 odd ARP"),
    Mutant("leased: any address of ours", "uplink", "ip saddr != @address counter drop",
           "ip saddr != @address counter", _ROOT + "sources of inner links, and others"),
)  # fmt: skip

_CALLS = "ct state new,established meta l4proto { tcp, udp } th dport @opened counter"
_ANSWER = "ct direction reply ct state established meta l4proto { tcp, udp } th sport @opened"
OPENED_MUTANTS = (
    Mutant("opened: every port", INET, _CALLS, _CALLS.replace(" th dport @opened", ""),
           "P54 UDP of strangers to other ports"),
    Mutant("opened: for private ranges too", INET,
           'iifname "uplink" ip saddr @public ct direction original',
           'iifname "uplink" ct direction original',
           "P54 UDP from the LAN to the opened port"),
    Mutant("opened: on any link", INET, 'iifname "uplink" ip saddr @public', "",
           "P33 app-guest at the opened port"),
    Mutant("opened: its answers may be calls", INET, _ANSWER, "udp sport @opened",
           "P53 root from the opened port"),
    Mutant("opened: every port, on the link", "uplink", "tcp dport @opened tcp flags", "tcp flags",
           "P54 SYN from the internet to other ports"),
    Mutant("opened: for private ranges too, on the link", "uplink",
           "ip saddr @public tcp dport @opened", "tcp dport @opened",
           "P54 SYN from the LAN to the opened port"),
)  # fmt: skip

_LISTENING = (*PORTS, *NEVER, 22)
CASES = {
    made.name: made
    for made in (
        Case("static", lambda: Laboratory(Profile.I2P_GUEST), (*PROBES, *OUTSIDE), FLOWS,
             INET_MUTANTS + LINK_MUTANTS, _LISTENING),
        Case("leased", lambda: Laboratory(Profile.I2P_GUEST, dhcp=True), LEASED,
             FLOWS + LEASE_FLOWS, LEASE_MUTANTS, _LISTENING),
        Case("opened", lambda: Laboratory(Profile.I2P_GUEST, opened=OPENED), OPENED_PROBES,
             OPENED_FLOWS, OPENED_MUTANTS, (*_LISTENING, OPENED, OPENED + 1)),
        Case("from tor-guest", lambda: Laboratory(Profile.TOR_GUEST, "tcp"), FROM_TOR),
    )
}  # fmt: skip


@each(CASES, "probes")
def test_probe_is_stopped_by_each_of_its_layers(name: str, item: Probe, outcome: Find) -> None:
    outcome(name).results[item.id].check()


@each(CASES, "flows")
def test_what_must_work_works(name: str, item: Flow, outcome: Find) -> None:
    assert not outcome(name).flows[item.name]


@each(CASES, "mutants")
def test_seeded_mistake_is_noticed(name: str, item: Mutant, outcome: Find) -> None:
    assert not outcome(name).survivors[item.name]


def test_every_rule_is_hit(outcome: Find) -> None:
    """Accept rules by a flow that passed, the others by what was stopped."""
    found = [outcome(name) for name in ("static", "leased", "opened")]
    assert set().union(*(one.rules for one in found)) == set().union(*(one.hit for one in found))
