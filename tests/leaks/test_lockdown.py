# SPDX-License-Identifier: GPL-3.0-or-later
"""Lockdown and quarantine by packets, the order *rules before up*, and loading under traffic.

While a guest comes up, two flooders never stop: root and a daemon in the guest, and whoever is on
its links. Captures outside and a witness in the guest run from before the first rule set.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from scapy.all import ICMP, TCP, UDP

from tails_profiles import constants as c
from tails_profiles.command import Command
from tails_profiles.links import LoadTable, RequireTables, Step, steps
from tails_profiles.profile import Profile
from tails_profiles.ruleset import LOCKDOWN, render_named, templates
from tests.leaks import attacks
from tests.leaks.flood import BY_IP_SOCKET, BY_PACKET_SOCKET, LLDP, Flood
from tests.leaks.laboratory import INET, Laboratory, drain, inside, packet_socket, run, wait_until
from tests.leaks.probes import (
    Call,
    Delivered,
    Flow,
    Mutant,
    Probe,
    Report,
    Result,
    passes,
    survival,
    verify,
)

pytestmark = pytest.mark.lab

GATEWAY = attacks.Gateway(Profile.TOR_GUEST, (9050,), ())
MARK = attacks.MARK


# ---- the rule sets of lockdown and quarantine


def lockdown_text() -> str:
    """The file that ships; it is no template."""
    return (templates() / LOCKDOWN).read_text(encoding="utf-8")


class Locked(Laboratory):
    """A gateway whose links are up by mistake, with one of these rule sets in place of its own."""

    def __init__(self, name: str, text: str) -> None:
        self._locked = text
        super().__init__(Profile.TOR_GUEST, "tcp")
        self.name = name

    def _text(self, table: str | None, link: str | None = None) -> str:
        return self._locked if table is None else super()._text(table, link)


LOCKED_LAYERS = (INET, "uplink")
PROBES = (
    *(
        Probe(f"{kind} of root, users and daemons", "P53",
              Call((0, 1, 1000, 65534), kind, (attacks.N1, "10.0.2.77", "192.168.0.1"), 443),
              attacks.LEFT, LOCKED_LAYERS, least=12)
        for kind in ("udp", "ip 1", "ip 47")
    ),
    Probe("SYN of root, users and daemons", "P53",
          Call((0, 1, 1000, 65534), "tcp", (attacks.N1,), 443), attacks.LEFT, (INET,), least=4),
    Probe("datagrams to groups and a broadcast", "P39",
          Call((0, 1000), "udp", attacks.GROUPS, 5353), attacks.LEFT, LOCKED_LAYERS, least=8),
    Probe("calls to app-guest", "P53", Call((0, 1000), "tcp", (GATEWAY.client,), 80),
          attacks.BACK, (INET, "inner"), least=2),
    attacks.batch("SYN, UDP, ICMP through the guest", "P1",
                  [GATEWAY.ip() / attacks.syn(443), GATEWAY.ip() / UDP(dport=53) / MARK,
                   GATEWAY.ip() / ICMP()], attacks.FORWARDED, attacks.LEFT),
    attacks.batch("SYN to an open port, answered", "P31",
                  [GATEWAY.ip(GATEWAY.own) / attacks.syn(9050)], (INET,), attacks.BACK),
    attacks.batch("SYN to a closed port, answered", "P31",
                  [GATEWAY.ip(GATEWAY.own) / attacks.syn(22)], attacks.ANSWERED, attacks.BACK),
    attacks.batch("UDP and ICMP to the guest, delivered", "P32",
                  [GATEWAY.ip(GATEWAY.own) / UDP(dport=999) / MARK,
                   GATEWAY.ip(GATEWAY.own) / ICMP(type=13)],
                  attacks.ANSWERED, Delivered((1, 17))),
    attacks.batch("DNS to the guest, delivered", "P32",
                  [GATEWAY.ip(GATEWAY.own) / UDP(sport=4000, dport=53) / MARK],
                  (INET,), Delivered((17,))),
    Probe("an ACK from the internet: no RST", "P30",
          attacks.uplink(GATEWAY.outside() / TCP(sport=443, dport=50000, flags="A")),
          attacks.LEFT, (INET,)),
    Probe("UDP from the internet, delivered", "P54",
          attacks.uplink(GATEWAY.outside() / UDP(sport=53, dport=4000) / MARK),
          Delivered((17,)), LOCKED_LAYERS),
)  # fmt: skip
TALK = tuple(
    Flow(f"programs of root and users talk over lo: {kind}",
         Call((0, 1000), kind, ("127.0.0.1",), 9050), Delivered((protocol,)), least=2)
    for kind, protocol in (("udp", 17), ("tcp", 6))
)  # fmt: skip
TEXTS = {
    "lockdown": lockdown_text,
    "quarantine": lambda: render_named(Profile.QUARANTINE),
}


@pytest.fixture(scope="module", params=TEXTS)
def locked(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """A gateway with one of the two, and a program that listens."""
    made = Locked(request.param, TEXTS[request.param]())
    made.listen(9050)
    yield made
    made.close()


@pytest.fixture(scope="module")
def results(locked: Laboratory, report: Report) -> dict[str, Result]:
    """All probes, verified."""
    found = verify(locked, PROBES)
    report.add(locked, found.values())
    return found


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.id)
def test_nothing_passes_either_way(probe: Probe, results: dict[str, Result]) -> None:
    results[probe.id].check()


@pytest.mark.parametrize("flow", TALK, ids=lambda flow: flow.name)
def test_programs_may_talk_over_lo(flow: Flow, locked: Laboratory) -> None:
    passes(locked, flow)


_ADDRESSES = ("ip", "-6", "address", "show", "dev", "uplink", "-tentative")


def test_ipv6_is_held_too(locked: Laboratory) -> None:
    """With IPv6 back on a link: no echo leaves by lockdown alone, and one does without it."""
    locked.without({"inner", "uplink"})
    try:
        locked.sysctl("net/ipv6/conf/uplink/accept_dad", "0")
        locked.sysctl("net/ipv6/conf/uplink/disable_ipv6", "0")
        wait_until(lambda: "fe80" in run(*_ADDRESSES, namespace=locked.guest), "an address of IPv6")
        with inside(locked.guest), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"uplink")
            sock.setblocking(False)

            def datagram_left() -> bool:
                with suppress(OSError):
                    sock.sendto(MARK, ("ff02::1", 999))
                return any(MARK in frame for frame in locked.captures()["uplink"])

            with pytest.raises(PermissionError):
                sock.sendto(MARK, ("ff02::1", 999))
            assert not datagram_left()
            locked.without({"inner", "uplink", INET})
            assert datagram_left()
    finally:
        locked.sysctl("net/ipv6/conf/uplink/disable_ipv6", "1")
        locked.without()
        locked.captures()


# ---- seeded mistakes in lockdown

MUTANTS = (
    Mutant("lockdown: output accepts the rest", INET, 'counter drop comment "out"',
           'counter accept comment "out"', "P53 SYN of root, users and daemons"),
    Mutant("lockdown: any link is lo, out", INET, 'oif "lo" counter', "counter",
           "P53 udp of root, users and daemons"),
    Mutant("lockdown: any link is lo, in", INET, 'iif "lo" counter', "counter",
           "P32 UDP and ICMP to the guest, delivered"),
    Mutant("lockdown: input accepts the rest", INET, 'counter drop comment "in"',
           'counter accept comment "in"', "P54 UDP from the internet, delivered"),
    Mutant("lockdown: forwards", INET, 'counter drop comment "forward"',
           'counter accept comment "forward"', "P1 SYN, UDP, ICMP through the guest"),
    Mutant("lockdown: IPv4 is not meant", INET, 'counter drop comment "out"',
           'meta nfproto ipv4 accept', "P39 datagrams to groups and a broadcast"),
    Mutant("lockdown: no output chain", INET, "hook output priority filter; policy drop;",
           "hook output priority filter; policy accept;\n accept;",
           "P53 calls to app-guest"),
)  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_seeded_mistake_is_noticed(mutant: Mutant, locked: Laboratory, report: Report) -> None:
    report.mutants += 1
    assert not survival(locked, mutant, PROBES)


# ---- the order: rules before up

Order = Callable[[tuple[Step, ...]], tuple[Step, ...]]


@dataclass(frozen=True)
class Leak:
    """A frame where none may be, and the step after which it was found."""

    after: str
    where: str
    frame: bytes


class Rising(Laboratory):
    """A guest whose boot is watched: lockdown, its rule set, then every step of its plan.

    ``order`` rearranges the steps, for anti-tests.
    """

    def __init__(self, profile: Profile, *, dhcp: bool = False, order: Order | None = None) -> None:
        self._order: Order = order or tuple
        self.leaks: list[Leak] = []
        super().__init__(profile, dhcp=dhcp)

    def _rise(self) -> None:
        raw_names = {f"raw{number}": facts for number, facts in enumerate(c.LINKS[self.profile])}
        witnesses = {name: packet_socket(self.guest, name, LLDP) for name in raw_names}
        self.flood = Flood(self, raw_names)
        try:
            with self.flood.running():
                for what, act in self._moments():
                    act()
                    self.flood.burst()
                    self.settle()
                    self._look(what)
            self.settle_everywhere()
            self._look("the end")
            for name, witness in witnesses.items():
                # That its link was put down is no error.
                witness.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                self.leaks += [
                    Leak("an unknown step", f"in the guest, {name}", frame)
                    for frame, _ in drain(witness)
                ]
        finally:
            for witness in witnesses.values():
                witness.close()

    def _moments(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "lockdown", lambda: self.nft(lockdown_text())
        yield "the profile's rule set", lambda: self.nft(self.texts[INET])
        for step in self._order(steps(self.plan)):
            yield step.display(), lambda step=step: self.carry_out(step)

    def _look(self, after: str) -> None:
        for name, end in self.ends.items():
            self.leaks += [Leak(after, f"on {name}", frame) for frame in end.captured()]

    def close(self) -> None:
        """The flooder's sockets too."""
        if hasattr(self, "flood"):
            self.flood.close()
        super().close()


def tables_last(planned: tuple[Step, ...]) -> tuple[Step, ...]:
    """A mistake: links rise, and then get their rules."""
    return (
        *without_tables(planned),
        *(step for step in planned if isinstance(step, LoadTable | RequireTables)),
    )


def without_tables(planned: tuple[Step, ...]) -> tuple[Step, ...]:
    """A mistake: the inet rule set alone is trusted."""
    return tuple(step for step in planned if not isinstance(step, LoadTable | RequireTables))


def without_up(planned: tuple[Step, ...]) -> tuple[Step, ...]:
    """What lockdown promises: no link is up. No table, no routes."""
    return tuple(
        step
        for step in without_tables(planned)
        if not (isinstance(step, Command) and (step.argv[-1] == "up" or "route" in step.argv))
    )


RISES = {
    "tor-guest": (Profile.TOR_GUEST, False),
    "i2p-guest": (Profile.I2P_GUEST, False),
    "i2p-guest by DHCP": (Profile.I2P_GUEST, True),
    "app-guest": (Profile.APP_GUEST, False),
}


@pytest.mark.parametrize("name", RISES)
def test_not_one_frame_passes_while_a_guest_comes_up(name: str) -> None:
    profile, dhcp = RISES[name]
    lab = Rising(profile, dhcp=dhcp)
    try:
        assert lab.leaks == []
        lab.canary()
        # The flood went on until the end, against rules in force, in both directions of each link.
        with lab.flood.running():
            wait_until(lambda: _dropping(lab) == _CHAINS * len(lab.ends), "drops in every chain")
        lab.settle_everywhere()
        assert lab.captures() == {link: [] for link in lab.ends}
    finally:
        lab.close()


#: Of each link's table.
_CHAINS = len(("ingress", "egress"))


def _dropping(lab: Laboratory) -> int:
    """How many chains of link tables have dropped something."""
    return len(
        {
            (table, chain)
            for (table, chain, _), verdict, count in lab.rules()
            if verdict == "drop" and count and chain in {"ingress", "egress"}
        }
    )


@pytest.mark.parametrize("name", RISES)
def test_with_tables_after_up_frames_are_seen(name: str) -> None:
    profile, dhcp = RISES[name]
    lab = Rising(profile, dhcp=dhcp, order=tables_last)
    try:
        outside = {f"on {link}" for link in lab.ends}
        inside_guest = {f"in the guest, raw{number}" for number in range(len(lab.ends))}
        assert {leak.where for leak in lab.leaks} == outside | inside_guest
        assert lab.leaks[0].after.endswith(" up")
    finally:
        lab.close()


def test_the_inet_rule_set_alone_holds_ip_sockets_and_no_packet_socket() -> None:
    """Lockdown's limit, and why its promise is that no link is up."""
    lab = Rising(Profile.APP_GUEST, order=without_tables)
    try:
        leaked = [leak.frame for leak in lab.leaks]
        assert any(BY_PACKET_SOCKET in frame for frame in leaked)
        assert not any(BY_IP_SOCKET in frame for frame in leaked)
    finally:
        lab.close()


def test_a_link_that_is_down_needs_no_rules() -> None:
    lab = Rising(Profile.APP_GUEST, order=without_up)
    try:
        assert lab.leaks == []
        lab.nft("delete table inet tails_profiles\n")
        lab.flood.burst()
        assert lab.captures() == {"tor": [], "i2p": []}
        # Alive: the same burst is seen as soon as they are up.
        for link in lab.ends:
            run("ip", "link", "set", link, "up", namespace=lab.guest)
        lab.wait_for_queues()
        lab.flood.burst()
        assert all(lab.captures().values())
    finally:
        lab.close()


# ---- loading again, under traffic


@pytest.fixture(scope="module", params=[Profile.I2P_GUEST, Profile.APP_GUEST], ids=str)
def risen(request: pytest.FixtureRequest) -> Iterator[tuple[Laboratory, Flood]]:
    """A guest that is up, and a flood against it.

    These two show the most: i2p-guest's uplink lets UDP pass, so that its users are held by the
    inet table alone; app-guest calls by itself.
    """
    lab = Laboratory(request.param)
    flood = Flood(lab, {facts.name: facts for facts in c.LINKS[lab.profile]})
    yield lab, flood
    flood.close()
    lab.close()


def test_a_rule_set_that_is_loaded_again_lets_nothing_pass(risen: tuple[Laboratory, Flood]) -> None:
    """Each layer alone, so that no other one covers for it.

    How the rules avoid what is a race of nf_tables itself: firewall.complement.
    """
    lab, flood = risen
    try:
        for alone in lab.texts:
            _stand_alone(lab, alone)
            with flood.running():
                for _ in range(_RELOADS):
                    lab.nft(lab.texts[alone])
            lab.settle_everywhere()
            assert _of_layer(lab, alone) == [], alone
            lab.canary()
    finally:
        lab.without()


def test_a_rule_set_that_is_taken_away_first_is_noticed(risen: tuple[Laboratory, Flood]) -> None:
    """The anti-test: two transactions, and what passes between them."""
    lab, flood = risen
    try:
        for alone in lab.texts:
            _stand_alone(lab, alone)
            with flood.running():
                lab.without(lab.removed | {alone})
                flood.burst()
                lab.without(lab.removed - {alone})
            lab.settle_everywhere()
            assert _of_layer(lab, alone), alone
    finally:
        lab.without()


#: How often; each takes some milliseconds, in which the flood sends hundreds of frames.
_RELOADS = 15


def _stand_alone(lab: Laboratory, layer: str) -> None:
    lab.without({*lab.texts, "ip_forward", "echo_ignore"} - {layer})
    lab.captures()


def _of_layer(lab: Laboratory, layer: str) -> list[bytes]:
    """What was seen of that which this layer has to stop by itself.

    The inet table knows no packet sockets, and no ARP. A link's table knows no other link, and no
    users: root's datagrams may look like those of I2P.
    """
    seen = lab.captures()
    if layer != INET:
        return [frame for frame in seen[layer] if BY_IP_SOCKET not in frame]
    return [
        frame
        for frames in seen.values()
        for frame in frames
        if BY_PACKET_SOCKET not in frame and frame[12:14] == b"\x08\x00"
    ]
