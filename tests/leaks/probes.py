# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes as data, and the one procedure that verifies them.

A *probe* names what is sent (an action), where it would be seen (a view), and the layers of the
laboratory that stop it. It is verified in this order:

1. everything in place: nothing is seen;
2. every named layer removed: it is seen (the anti-test; else the row is *unproven*);
3. each named layer restored alone: nothing is seen;
4. as many other layers removed, or all others where there are fewer: nothing is seen.

Of a batch with thousands of frames all are sent in 1 and 2, about a thousand in 3 and 4.

A *flow* is what must work: it passes with everything in place, and its packets are what hits the
accept rules.
"""

import socket
from collections.abc import Iterable, Sequence
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
            sender.send(frame)
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
    """Fail unless it works; what rules handle meanwhile counts as passed."""
    lab.without()
    with lab.passing():
        seen = flow.action.perform(lab, flow.view)
    assert len(seen) >= flow.least, f"{flow.name}: {len(seen)} of {flow.least} passed"


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


@dataclass(frozen=True)
class Row:
    """A line of the table at the end."""

    guest: str
    ref: str
    name: str
    verdict: str
    antitest: str
    layers: str
    rules: str

    def __str__(self) -> str:
        return (
            f"{self.verdict:8} {self.guest:22} {self.ref:7} {self.name:52} {self.antitest:13} "
            f"{self.layers}{'; ' if self.rules else ''}{self.rules}"
        )


class Report:
    """The table that is printed when all tests are through, and what else was counted."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def add(self, lab: Laboratory, results: Iterable[Result]) -> None:
        """Add a line for each result."""
        for result in results:
            probe = result.probe
            seen = f"seen {result.antitest}" if result.antitest else "not seen"
            self.rows.append(
                Row(
                    lab.name,
                    probe.ref,
                    probe.name,
                    result.verdict,
                    seen,
                    " + ".join(probe.layers) if not probe.unprovable else probe.unprovable,
                    ", ".join(result.rules),
                )
            )

    def lines(self) -> list[str]:
        """The table, and sums that keep what is unproven apart."""
        verdicts = [row.verdict for row in self.rows]
        sums = ", ".join(f"{verdicts.count(each)} {each}" for each in sorted(set(verdicts)))
        return [*(str(row) for row in self.rows), *self.notes, f"probes: {sums or 'none'}"]


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
    for result in results.values():
        _expect_nothing(lab, result, "with everything in place", thin=False)
        result.rules = [f"{chain}: {comment}" for _, chain, comment in lab.tally()]
    ordered = sorted(results.values(), key=lambda result: result.probe.layers)
    for layers, members in groupby(ordered, key=lambda result: result.probe.layers):
        _attack_layers(lab, layers, list(members))
    lab.without()
    lab.canary()
    return results


def _attack_layers(lab: Laboratory, layers: tuple[str, ...], results: list[Result]) -> None:
    lab.without(layers)
    for result in results:
        _expect_something(lab, result)
    for layer in layers:
        lab.without(set(layers) - {layer})
        for result in results:
            _expect_nothing(lab, result, f"with {layer} alone")
        lab.tally()
    others = [name for name in lab.layers if name not in layers]
    lab.without(others[: len(layers)])
    for result in results:
        _expect_nothing(lab, result, f"without {', '.join(others[: len(layers)])}")
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


def survives(lab: Laboratory, mutant: Mutant, probes: Sequence[Probe]) -> bool:
    """Whether a mistake stays unnoticed by its probe when the altered layer stands alone."""
    probe = next(each for each in probes if each.id == mutant.probe)
    assert mutant.table in probe.layers, f"{probe.id} does not depend on {mutant.table}"
    with lab.altered(mutant.table, mutant.apply(lab.texts[mutant.table])):
        lab.without(set(probe.layers) - {mutant.table})
        noticed = probe.action.perform(lab, probe.view)
    lab.without()
    return not noticed


# ---- rules that no packet has hit


def untested(lab: Laboratory) -> set[str]:
    """Accept rules never hit by a flow that passed, and others never hit by what was stopped."""
    return {
        f"{table} {chain}: {comment}"
        for (table, chain, comment), verdict, _ in lab.rules()
        if not (lab.passed if verdict == "accept" else lab.others)[(table, chain, comment)]
    }
