# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets against the real rule sets of tor-guest, in each of its variants."""

import pwd
from ipaddress import IPv4Address

import pytest
from scapy.all import IP, TCP, UDP, Ether

from tails_profiles import constants as c
from tails_profiles.profile import Profile
from tests.leaks import tor_guest_mutants as mutants
from tests.leaks.attacks import (
    BACK,
    ELSEWHERE,
    LEFT,
    MARK,
    N1,
    Gateway,
    from_app,
    inner,
    sweeps,
    syn,
    uplink,
)
from tests.leaks.cases import Find, each
from tests.leaks.laboratory import BROADCAST_MAC, INET, ROUTER_MAC, Laboratory
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
    Call,
    Case,
    Daemon,
    Delivered,
    Flow,
    Mutant,
    Probe,
    Report,
    RootFrames,
    Served,
)

pytestmark = pytest.mark.lab

#: By hand: what tor-guest serves.
TOR_PORTS = (9050, 9062, 9063, 9150, 951)
TOR = Gateway(Profile.TOR_GUEST, TOR_PORTS, (53, 5353))
TRANSPARENT = Gateway(Profile.TOR_GUEST, TOR_PORTS, (53, 5353), transparent=True)
UID = pwd.getpwnam(c.TOR_USER).pw_uid
RESOLVER = "10.0.2.3"
PROXY = "192.168.0.9"

# Programs of the guest wait on Tor's ports, on TransPort, and on two that nobody may reach.
LISTENING = {"tcp": (*TOR_PORTS, 9040, 22), "udp": (53, 5353)}


# ---- what must work

SERVES = (
    Flow(
        "app-guest calls each of Tor's ports",
        inner(*(TOR.ip(TOR.own) / syn(port, sport=48000) for port in TOR_PORTS)),
        BACK,
        least=5,
    ),
    Flow(
        "app-guest asks DNSPort",
        Served(
            "inner",
            tuple(
                bytes(TOR.ip(TOR.own) / UDP(sport=48000, dport=port) / MARK) for port in (53, 5353)
            ),
        ),
        BACK,
        least=2,
    ),
    Flow("app-guest calls a mapped name", inner(TOR.ip("10.64.0.5") / syn(80, sport=48000)), BACK),
)
CALLS = (
    Flow("Tor calls the internet", Exchange(UID, "tcp", N1, 443), LEFT),
    Flow("Tor talks to itself", Call((UID,), "tcp", ("127.0.0.1",), 9050), Delivered((6,))),
    Flow("Tor calls, and the router's MAC is unknown", Resolve(UID, "tcp", N1, 443), LEFT),
)


# ---- what the variants add

DNS_PROBES = (
    Probe(
        "other users to the resolver",
        "P53",
        Call((0, 1000), "udp", (RESOLVER,), 53),
        LEFT,
        (INET,),
        least=2,
    ),
    Probe(
        "Tor to other resolvers",
        "P53",
        Call((UID,), "udp", ("10.0.2.2", "10.0.2.77", "192.168.0.1"), 53),
        LEFT,
        NETWORK,
        least=3,
    ),
    Probe(
        "Tor to other ports of the resolver",
        "P53",
        Call((UID,), "udp", (RESOLVER,), 123),
        LEFT,
        NETWORK,
    ),
    Probe("Tor to the resolver by TCP", "P53", Call((UID,), "tcp", (RESOLVER,), 53), LEFT, NETWORK),
    Probe(
        "the resolver's answers to no question",
        "P54",
        uplink(TOR.outside(RESOLVER) / UDP(sport=53, dport=4000) / MARK),
        Delivered((17,)),
        (INET,),
    ),
)
DNS_FLOWS = (Flow("Tor asks the resolver", Exchange(UID, "udp", RESOLVER, 53), LEFT),)

PROXY_PROBES = (
    Probe(
        "other users to the proxy",
        "P53",
        Call((0, 1000), "tcp", (PROXY,), 8080),
        LEFT,
        (INET,),
        least=2,
    ),
    Probe(
        "Tor to another port of the proxy",
        "P53",
        Call((UID,), "tcp", (PROXY,), 8081),
        LEFT,
        NETWORK,
    ),
    Probe(
        "Tor to the proxy's port elsewhere",
        "P53",
        Call((UID,), "tcp", ("192.168.0.10", "10.0.2.2", "172.16.0.9"), 8080),
        LEFT,
        NETWORK,
        least=3,
    ),
    Probe("Tor to the proxy by UDP", "P53", Call((UID,), "udp", (PROXY,), 8080), LEFT, NETWORK),
    Probe(
        "calls of the proxy",
        "P54",
        uplink(
            TOR.outside(PROXY) / syn(22, sport=8080), TOR.outside(PROXY) / syn(9050, sport=8080)
        ),
        LEFT,
        NETWORK,
        least=2,
    ),
    Probe(
        "other ports of the proxy's address",
        "P54",
        uplink(TOR.outside(PROXY) / TCP(sport=80, dport=50006, flags="A")),
        Daemon("uplink"),
        ("uplink",),
    ),
)
PROXY_FLOWS = (Flow("Tor calls its proxy", Exchange(UID, "tcp", PROXY, 8080), LEFT),)

UDP_PROBES = (
    Probe(
        "datagrams nobody asked for",
        "P54",
        uplink(TOR.outside() / UDP(sport=3478, dport=4001) / MARK),
        Delivered((17,)),
        (INET,),
    ),
)
UDP_FLOWS = (Flow("Tor's transport sends UDP", Exchange(UID, "udp", N1, 3478), LEFT),)

_LEASE = Ether(src=TOR.inner.mac, dst=TOR.inner.peer_mac)
TRANSPARENT_PROBES = (
    Probe(
        "almost a DHCP request",
        "P40",
        inner(
            TRANSPARENT.ether(dst=BROADCAST_MAC)
            / IP(src=TOR.client, dst="255.255.255.255")
            / UDP(sport=68, dport=67)
            / MARK,
            TRANSPARENT.ether(dst=BROADCAST_MAC)
            / IP(src="0.0.0.0", dst="10.1.2.7")
            / UDP(sport=68, dport=67)
            / MARK,
            TRANSPARENT.ether(dst=BROADCAST_MAC)
            / IP(src="0.0.0.0", dst="255.255.255.255")
            / UDP(sport=68, dport=53)
            / MARK,
        ),
        Daemon("inner"),
        ("inner",),
        least=3,
    ),
    Probe(
        "a lease for somebody else",
        "P40",
        RootFrames(
            "inner",
            (
                bytes(_LEASE / IP(src="10.1.2.2", dst=TOR.client) / UDP(sport=67, dport=68) / MARK),
                bytes(_LEASE / IP(src=TOR.own, dst="10.1.2.4") / UDP(sport=67, dport=53) / MARK),
            ),
        ),
        BACK,
        ("inner",),
        least=2,
    ),
)
TRANSPARENT_FLOWS = (
    Flow(
        "any address is Tor's",
        inner(*(TOR.ip(address) / syn(80, sport=48001) for address in (N1, ELSEWHERE, "9.9.9.9"))),
        BACK,
        least=3,
    ),
    Flow(
        "any resolver is Tor's",
        Served(
            "inner",
            tuple(
                bytes(TOR.ip(address) / UDP(sport=48001, dport=53) / MARK)
                for address in (N1, "9.9.9.9")
            ),
        ),
        BACK,
        least=2,
    ),
    Flow(
        "a request of DHCP",
        inner(
            TRANSPARENT.ether(dst=BROADCAST_MAC)
            / IP(src="0.0.0.0", dst="255.255.255.255")
            / UDP(sport=68, dport=67)
            / MARK
        ),
        Delivered((17,)),
    ),
    Flow(
        "a lease, by a packet socket",
        RootFrames(
            "inner",
            (bytes(_LEASE / IP(src=TOR.own, dst=TOR.client) / UDP(sport=67, dport=68) / MARK),),
        ),
        BACK,
    ),
)

_UP = Ether(src=TOR.uplink.mac, dst=BROADCAST_MAC)
DHCP_FLOWS = (
    Flow(
        "a request of DHCP",
        RootFrames(
            "uplink",
            (
                bytes(
                    _UP / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / MARK
                ),
            ),
        ),
        LEFT,
    ),
    Flow(
        "answers of DHCP, for a packet socket",
        uplink(
            *(
                Ether(src=ROUTER_MAC, dst=mac)
                / IP(src="10.0.2.2", dst=to)
                / UDP(sport=67, dport=68)
                / MARK
                for mac, to in ((TOR.uplink.mac, "10.0.2.15"), (BROADCAST_MAC, "255.255.255.255"))
            )
        ),
        Daemon("uplink"),
        least=2,
    ),
)


# ---- the cases


def case(
    variant: str,
    gateway: Gateway = TOR,
    *,
    udp: bool = False,
    dhcp: bool = False,
    proxy: tuple[IPv4Address, int] | None = None,
    probes: tuple[Probe, ...] = (),
    flows: tuple[Flow, ...] = (),
    seeded: tuple[Mutant, ...] = (),
) -> Case:
    """A variant with what is asked of every one, and what is asked of it alone."""
    return Case(
        f"{variant}{'-dhcp' if dhcp else ''}{'-proxy' if proxy else ''}",
        lambda: Laboratory(Profile.TOR_GUEST, variant, dhcp=dhcp, proxy=proxy),
        probes=(
            *from_app(gateway),
            *from_network(gateway, dhcp=dhcp),
            *by_root(gateway, udp=udp, dhcp=dhcp),
            *users(gateway, UID, udp=udp),
            *probes,
        ),
        flows=(*SERVES, *CALLS, *flows),
        mutants=seeded,
        **LISTENING,
    )


CASES = {
    made.name: made
    for made in (
        case("tcp", probes=(*sweeps(TOR), every_ethertype(TOR)),
             seeded=mutants.INET + mutants.INNER + mutants.UPLINK),
        case("tcp", proxy=(IPv4Address(PROXY), 8080), probes=PROXY_PROBES, flows=PROXY_FLOWS,
             seeded=mutants.PROXY),
        case("tcp", dhcp=True, flows=DHCP_FLOWS),
        case("tcp-dns", probes=DNS_PROBES, flows=DNS_FLOWS, seeded=mutants.DNS),
        case("tcp-udp", udp=True, probes=DNS_PROBES[:1] + UDP_PROBES, flows=DNS_FLOWS + UDP_FLOWS,
             seeded=mutants.UDP),
        case("tcp-transparent", TRANSPARENT, probes=TRANSPARENT_PROBES, flows=TRANSPARENT_FLOWS,
             seeded=mutants.TRANSPARENT),
    )
}  # fmt: skip

#: Rules that no packet here can hit, each with its reason, by the rule's text.
UNTESTED: dict[str, str] = {}


@each(CASES, "probes")
def test_probe_is_stopped_by_each_of_its_layers(name: str, item: Probe, outcome: Find) -> None:
    outcome(name).results[item.id].check()


@each(CASES, "flows")
def test_what_must_work_works(name: str, item: Flow, outcome: Find) -> None:
    assert not outcome(name).flows[item.name]


@each(CASES, "mutants")
def test_seeded_mistake_is_noticed(name: str, item: Mutant, outcome: Find) -> None:
    assert not outcome(name).survivors[item.name]


def test_every_rule_is_hit_or_listed_with_its_reason(outcome: Find, report: Report) -> None:
    found = [outcome(name) for name in CASES]
    missed = set().union(*(one.rules for one in found)) - set().union(*(one.hit for one in found))
    report.untested.update({rule: UNTESTED.get(rule, "FAILED: no reason") for rule in missed})
    assert missed == set(UNTESTED)
