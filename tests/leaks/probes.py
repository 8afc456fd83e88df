# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes as data, and the one procedure that verifies them.

A *probe* names what is sent (an action), where it would be seen (a view), and the layers of the
laboratory that stop it. It is verified in this order:

1. everything in place: nothing is seen;
2. every named layer removed: it is seen (the anti-test; else the row is *unproven*);
3. each named layer restored alone: nothing is seen;
4. every other layer removed, and the named ones in place: nothing is seen.

Of a batch with thousands of frames all are sent in 1 and 2, about a thousand in 3 and 4.

A *flow* is what must work: it passes with everything in place, and its packets are what hits the
accept rules.
"""

import errno
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol

from tests.leaks.laboratory import Laboratory, acting_as, drain, inside, run

#: Frames sent before the captures are emptied: a capture's buffer holds far more.
_CHUNK = 4096


class Action:
    """Something that is sent."""

    def perform(self, lab: Laboratory, view: "View") -> list[bytes]:
        """Do it, and return what the view saw of it when the guest has handled everything."""
        raise NotImplementedError

    def thinned(self) -> "Action":
        """A sample of a large batch, about a thousand; everything else as it is."""
        return self


# ---- views: where a packet would be seen


class View(Protocol):
    """A place that is looked at from outside of the rules."""

    def clear(self, lab: Laboratory) -> None:
        """Forget what is there."""
        ...

    def seen(self, lab: Laboratory) -> list[bytes]:
        """What came since; all packets on their way have arrived."""
        ...


@dataclass(frozen=True)
class Wire:
    """Frames that the guest put on one of its links, by a capture at the far end."""

    link: str

    def clear(self, lab: Laboratory) -> None:
        """Forget what is in the capture."""
        drain(lab.ends[self.link].capture)

    def seen(self, lab: Laboratory) -> list[bytes]:
        """All but the ARP that is due on an uplink."""
        lab.settle()
        return lab.ends[self.link].captured()


@dataclass(frozen=True)
class Daemon:
    """Frames of these ethertypes that a program in the guest with a packet socket would get.

    They have passed the link's ``netdev`` table, and nothing else was asked yet. 802.3 frames:
    ethertype 4 with an LLC header, 1 without.
    """

    link: str
    ethertypes: tuple[int, ...] = (0x0800,)

    def clear(self, lab: Laboratory) -> None:
        """Open the sockets; forget what is in them."""
        for ethertype in self.ethertypes:
            drain(lab.witness_frames(self.link, ethertype))

    def seen(self, lab: Laboratory) -> list[bytes]:
        """Incoming frames; the guest's own are not meant."""
        lab.settle()
        return [
            frame
            for ethertype in self.ethertypes
            for frame, kind in drain(lab.witness_frames(self.link, ethertype))
            if kind != socket.PACKET_OUTGOING
        ]


@dataclass(frozen=True)
class Delivered:
    """IPv4 packets of these protocols that the guest's stack took as its own, past every rule."""

    protocols: tuple[int, ...]

    def clear(self, lab: Laboratory) -> None:
        """Open the sockets; forget what is in them."""
        for protocol in self.protocols:
            drain(lab.witness_packets(protocol))

    def seen(self, lab: Laboratory) -> list[bytes]:
        """The packets, IP header first."""
        lab.settle()
        return [
            packet
            for protocol in self.protocols
            for packet, _ in drain(lab.witness_packets(protocol))
        ]


@dataclass(frozen=True)
class Entered:
    """Frames of any kind that passed the ingress table of a link; counted, not kept."""

    link: str

    def clear(self, lab: Laboratory) -> None:
        """Count from here."""
        lab.entered[self.link] = lab.frames_past_ingress(self.link)

    def seen(self, lab: Laboratory) -> list[bytes]:
        """As many empty frames as came in since."""
        lab.settle()
        before = lab.entered[self.link]
        self.clear(lab)
        return [b""] * (lab.entered[self.link] - before)


# ---- actions: what is sent


@dataclass(frozen=True)
class Frames(Action):
    """Frames that the far end of a link sends; one is a batch of one."""

    link: str
    frames: Sequence[bytes]

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """In order; large batches in parts, each looked for before the next."""
        return _send_all(lab.ends[self.link].sender, self.frames, lab, view)

    def thinned(self) -> Action:
        """Every so many, an odd number: a sample of ports has even and odd ones."""
        return replace(self, frames=self.frames[:: len(self.frames) // 1000 | 1])


@dataclass(frozen=True)
class Served(Frames):
    """Frames of a far end for programs of the guest that answer each datagram."""

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """Nothing is seen before the programs have answered."""
        view.clear(lab)
        for frame in self.frames:
            lab.ends[self.link].sender.send(frame)
        lab.settle()
        lab.answer_datagrams()
        return view.seen(lab)


@dataclass(frozen=True)
class RootFrames(Action):
    """Frames that root in the guest puts on a link with a packet socket."""

    link: str
    frames: Sequence[bytes]

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """The socket's own frames pass the egress table as any other do."""
        return _send_all(lab.witness_frames(self.link, 0), self.frames, lab, view)


@dataclass(frozen=True)
class Call(Action):
    """What programs of these users in the guest send, each to every address.

    ``kind``: ``tcp`` (a SYN), ``udp`` (a datagram), or ``ip N`` with a protocol number (root's own
    privilege is kept for it: only the socket's owner is another).
    """

    uids: tuple[int, ...]
    kind: str
    addresses: tuple[str, ...]
    port: int = 0
    source: tuple[str, int] | None = None

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """Each user in turn; what the kernel refuses is as good as dropped."""
        view.clear(lab)
        with inside(lab.guest):
            for uid in self.uids:
                for address in self.addresses:
                    self._send(uid, address)
        return view.seen(lab)

    def thinned(self) -> Action:
        """A sample of many users, root among them."""
        return replace(self, uids=self.uids[:: len(self.uids) // 50 | 1])

    def _send(self, uid: int, address: str) -> None:
        kind, _, protocol = self.kind.partition(" ")
        types = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "ip": socket.SOCK_RAW}
        with acting_as(uid), socket.socket(socket.AF_INET, types[kind], int(protocol or 0)) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if self.source:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(self.source)
            with suppress(OSError):
                if kind == "tcp":
                    sock.connect((address, self.port))
                else:
                    payload = b"\x08\x00\xf7\xff\x00\x00\x00\x00" if self.kind == "ip 1" else b"x"
                    sock.sendto(payload, (address, self.port))


@dataclass(frozen=True)
class Tool(Action):
    """A program with its arguments. ``where``: ``guest``, ``lan``, or the far end of a link.

    It must end by itself, whatever it finds; its exit status is not looked at.
    """

    where: str
    argv: tuple[str, ...]

    def perform(self, lab: Laboratory, view: View) -> list[bytes]:
        """Run it to its end."""
        view.clear(lab)
        namespace = (
            lab.ends[self.where].namespace if self.where in lab.ends else getattr(lab, self.where)
        )
        run("sh", "-c", '"$@" >/dev/null 2>&1; true', "sh", *self.argv, namespace=namespace)
        return view.seen(lab)


def _send_all(
    sender: socket.socket, frames: Sequence[bytes], lab: Laboratory, view: View
) -> list[bytes]:
    view.clear(lab)
    seen: list[bytes] = []
    for start in range(0, len(frames), _CHUNK):
        for frame in frames[start : start + _CHUNK]:
            try:
                sender.send(frame)
            except OSError as err:
                # An egress table that drops a frame tells its sender so.
                if err.errno != errno.ENOBUFS:
                    raise
        seen += view.seen(lab)
    return seen


# ---- a probe, a flow, and their results


@dataclass(frozen=True)
class Probe:
    """One attempt that must end in nothing.

    ``ref`` is the row of the list of attacks in docs/leaks.md. ``least``: how many packets the
    anti-test must see, for a batch. ``unprovable``: why no anti-test can be shown; then it is never
    counted as passed.
    """

    name: str
    ref: str
    action: Action
    view: View
    layers: tuple[str, ...]
    least: int = 1
    unprovable: str = ""

    @property
    def id(self) -> str:
        """For pytest."""
        return f"{self.ref} {self.name}"


@dataclass(frozen=True)
class Flow:
    """Something that must work, with everything in place."""

    name: str
    action: Action
    view: View
    least: int = 1


def passes(lab: Laboratory, flow: Flow) -> None:
    """Fail the test unless it works."""
    assert not (why := shortfall(lab, flow)), why


def shortfall(lab: Laboratory, flow: Flow) -> str:
    """Empty, or why it does not work; what rules handle meanwhile counts as passed."""
    lab.without()
    with lab.passing():
        seen = len(flow.action.perform(lab, flow.view))
    return "" if seen >= flow.least else f"{flow.name}: {seen} of {flow.least} passed"


@dataclass
class Result:
    """What was found about one probe; ``faults`` is empty when everything held."""

    probe: Probe
    faults: list[str] = field(default_factory=list)
    antitest: int = 0
    rules: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``FAILED``, ``unproven`` or ``stopped``."""
        if self.faults:
            return "FAILED"
        return "unproven" if self.probe.unprovable else "stopped"

    def check(self) -> None:
        """Fail the test with everything that did not hold."""
        assert not self.faults, "\n".join(self.faults)


@dataclass(frozen=True, order=True)
class Row:
    """A line of the table at the end, but for the laboratories it holds in."""

    profile: str
    ref: str
    name: str
    verdict: str
    antitest: str = field(compare=False)
    layers: str
    rules: str

    def line(self, where: str) -> str:
        """The whole line; ``where``: in which variants of the guest."""
        return (
            f"{self.verdict:8}  {self.profile + ' ' + where:26}  {self.ref:4} {self.name:58}  "
            f"{self.antitest:10}  {self.layers}{'; ' if self.rules else ''}{self.rules}"
        )


#: Attacks of docs/leaks.md that need more than packets: where they are, if anywhere.
ELSEWHERE = (
    "not here  P34-P38, P55: requests to Tor and to I2P's proxies need Tor and i2pd",
    "not here  P44, P48, P49: app-guest's own devices; root there sends all of the above",
    "not here  P50-P52: boots and failures, tests/sabotage and tests/vm",
)


class Report:
    """The table that is printed when all tests are through, and what else was counted."""

    def __init__(self) -> None:
        self.rows: dict[Row, list[str]] = {}
        self.mutants = 0
        self.untested: dict[str, str] = {}

    def add(self, lab: Laboratory, results: Iterable[Result]) -> None:
        """Add each result; variants in which everything is the same share a line."""
        for result in results:
            probe = result.probe
            row = Row(
                str(lab.profile),
                probe.ref,
                probe.name,
                result.verdict,
                f"seen {result.antitest}" if result.antitest else "not seen",
                probe.unprovable or " + ".join(probe.layers),
                ", ".join(result.rules),
            )
            self.rows.setdefault(row, []).append(lab.variant_name)

    def merge(self, other: "Report") -> None:
        """Add what another process has found."""
        for row, where in other.rows.items():
            self.rows.setdefault(row, []).extend(where)
        self.mutants += other.mutants
        self.untested.update(other.untested)

    def lines(self) -> list[str]:
        """The table, and sums that keep what is unproven apart."""
        every: dict[str, list[str]] = {}
        for row, where in self.rows.items():
            every.setdefault(row.profile, []).extend(
                one for one in where if one not in every.get(row.profile, ())
            )
        verdicts = Counter(row.verdict for row, where in self.rows.items() for _ in where)
        sums = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))
        return [
            *(row.line(_where(where, every[row.profile])) for row, where in self.rows.items()),
            *ELSEWHERE,
            *(f"untested  {rule}: {why}" for rule, why in self.untested.items()),
            f"rules that no packet hit: {len(self.untested)}",
            f"seeded mistakes tried: {self.mutants}",
            f"probes, counted in each variant: {sums or 'none'}",
        ]


def _where(variants: list[str], every: list[str]) -> str:
    if len(variants) == len(every) > 1:
        return f"(all {len(every)})"
    if len(variants) > 2:
        return "not " + ",".join(one for one in every if one not in variants)
    return ",".join(variants)


# ---- the procedure


def verify(lab: Laboratory, probes: Sequence[Probe]) -> dict[str, Result]:
    """Verify every probe against a laboratory; results by the probe's id, in the given order.

    Probes with the same layers share the states of the laboratory. Everything is in place again
    when it returns.
    """
    results = {probe.id: Result(probe) for probe in probes}
    assert len(results) == len(probes), "two probes have one name"
    lab.without()
    lab.canary()
    lab.tally()
    configuration = lab.configuration()
    for result in results.values():
        _expect_nothing(lab, result, "with everything in place", thin=False)
        result.rules = [_short(*rule) for rule in lab.tally()]
    ordered = sorted(results.values(), key=lambda result: result.probe.layers)
    for layers, members in groupby(ordered, key=lambda result: result.probe.layers):
        _attack_layers(lab, layers, list(members))
    lab.without()
    lab.canary()
    now = lab.configuration()
    assert now == configuration, f"the laboratory is not what it was:\n{configuration}\n{now}"
    return results


def _short(table: str, chain: str, comment: str) -> str:
    layer = table.removeprefix("netdev tails_profiles_").removesuffix(" tails_profiles")
    return f"{layer} {chain}: {comment}"


def _attack_layers(lab: Laboratory, layers: tuple[str, ...], results: list[Result]) -> None:
    lab.without(layers)
    for result in results:
        _expect_something(lab, result)
    for layer in layers:
        lab.without(set(layers) - {layer})
        for result in results:
            _expect_nothing(lab, result, f"with {layer} alone")
        lab.tally()
    others = {name for name in lab.layers if name not in layers}
    lab.without(others)
    for result in results:
        _expect_nothing(lab, result, "without every other layer")
    lab.tally()


def _expect_nothing(lab: Laboratory, result: Result, state: str, *, thin: bool = True) -> None:
    action = result.probe.action.thinned() if thin else result.probe.action
    seen = action.perform(lab, result.probe.view)
    if seen:
        result.faults.append(f"{state}: seen {len(seen)}, first {seen[0][:80].hex()}")


def _expect_something(lab: Laboratory, result: Result) -> None:
    probe = result.probe
    seen = probe.action.perform(lab, probe.view)
    result.antitest = len(seen)
    if probe.unprovable and seen:
        result.faults.append("listed as unprovable, but its anti-test sees it")
    if not probe.unprovable and len(seen) < probe.least:
        result.faults.append(
            f"unproven: without {', '.join(probe.layers)} {len(seen)} of {probe.least} are seen"
        )


# ---- everything about one laboratory


@dataclass
class Case:
    """A laboratory and all that is asked of it, done once: tests look at what was found.

    ``tcp`` and ``udp``: ports on which programs in the guest wait.
    """

    name: str
    make: Callable[[], Laboratory]
    probes: tuple[Probe, ...] = ()
    flows: tuple[Flow, ...] = ()
    mutants: tuple["Mutant", ...] = ()
    tcp: tuple[int, ...] = ()
    udp: tuple[int, ...] = ()


@dataclass
class Outcome:
    """What was found. Rules are texts as they stand in the rule set."""

    results: dict[str, Result]
    flows: dict[str, str]
    survivors: dict[str, str]
    hit: set[str]
    rules: set[str]


def carry_out(case: Case, report: "Report") -> Outcome:
    """Build the laboratory, ask everything, end it."""
    lab = case.make()
    try:
        lab.listen(*case.tcp)
        lab.listen(*case.udp, kind=socket.SOCK_DGRAM)
        results = verify(lab, case.probes)
        report.add(lab, results.values())
        flows = {flow.name: shortfall(lab, flow) for flow in case.flows}
        hit, rules = hit_rules(lab)
        survivors = {mutant.name: survival(lab, mutant, case.probes) for mutant in case.mutants}
        report.mutants += len(case.mutants)
        return Outcome(results, flows, survivors, hit, rules)
    finally:
        lab.close()


# ---- seeded mistakes


@dataclass(frozen=True)
class Mutant:
    """A mistake in one rule set. ``probe``: the id of a probe that must notice it.

    ``old`` must be there; ``new`` replaces its first occurrence after ``after``.
    """

    name: str
    table: str
    old: str
    new: str
    probe: str
    after: str = ""

    def apply(self, text: str) -> str:
        """The altered text."""
        start = text.index(self.after)
        place = text.index(self.old, start)
        return text[:place] + self.new + text[place + len(self.old) :]


def survival(lab: Laboratory, mutant: Mutant, probes: Sequence[Probe]) -> str:
    """Empty, or why a mistake goes unnoticed by its probe with the altered layer alone."""
    probe = next((each for each in probes if each.id == mutant.probe), None)
    if probe is None or mutant.table not in probe.layers:
        return f"no probe {mutant.probe!r} that depends on {mutant.table}"
    with lab.altered(mutant.table, mutant.apply(lab.texts[mutant.table])):
        lab.without(set(probe.layers) - {mutant.table})
        noticed = probe.action.perform(lab, probe.view)
    lab.without()
    return "" if noticed else f"{mutant.probe} does not notice: {mutant.name}"


# ---- rules that no packet has hit


def hit_rules(lab: Laboratory) -> tuple[set[str], set[str]]:
    """Rules that were hit as they should be, and all rules with a counter; by their text.

    An accept rule must be hit by a flow that passed, every other one by what was stopped.
    """
    texts = {key: text for source in lab.texts.values() for key, text in rule_texts(source)}
    hit, every = set(), set()
    for key, verdict, _ in lab.rules():
        every.add(texts[key])
        if (lab.passed if verdict == "accept" else lab.others)[key]:
            hit.add(texts[key])
    return hit, every


def untested(lab: Laboratory) -> set[str]:
    """Rules of one laboratory that were not hit as they should be; by their text."""
    hit, every = hit_rules(lab)
    return every - hit


def rule_texts(source: str) -> Iterator[tuple[tuple[str, str, str], str]]:
    """(table, chain, comment) of each rule with a counter, and "TABLE CHAIN: RULE"."""
    table = chain = ""
    for line in map(str.strip, source.splitlines()):
        words = line.split()
        if line.startswith("table ") and line.endswith("{"):
            table = " ".join(words[1:3])
        elif line.startswith("chain "):
            chain = words[1]
        elif " comment " in line and "counter" in words:
            rule, _, comment = line.rpartition(" comment ")
            yield (table, chain, comment.strip('"')), f"{table} {chain}: {rule}"
