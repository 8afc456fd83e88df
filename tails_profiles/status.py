# SPDX-License-Identifier: GPL-3.0-or-later
"""What a boot has become, as a value that is printed or written as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tails_profiles.errors import DamagedStateError
from tails_profiles.i2pd import OWN_TUNNELS, ROUTERS_WANTED, SILENCE, Heard
from tails_profiles.tor_status import TorStatus

#: More than the answers to all questions for the names of ten reseed servers, repeated: beyond it
#: datagrams are routers'.
DATAGRAMS_OF_A_RESEED = 100

#: The last step of the boot that was done, in words.
STAGES = {
    "firewall": "rule set loaded, links not up yet",
    "links": "done, links are up",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link as the kernel has it now."""

    name: str
    mac: str
    up: bool


@dataclass(frozen=True, slots=True)
class I2pStatus:
    """i2p-guest's router, seen from outside.

    ``listening``: both proxies are open. ``known``: routers it knows of, None to whoever may not
    look. ``peers``: routers it has a TCP connection with; ``datagrams``: UDP ones that came in.
    ``heard``: what it has said.
    """

    listening: bool
    known: int | None
    peers: int
    datagrams: int
    heard: Heard = SILENCE

    @property
    def is_answered(self) -> bool:
        """Whether routers answer it, by either transport: tunnels are made of them."""
        made = self.heard.inbound + self.heard.outbound > 0
        return made or self.peers > 0 or self.datagrams > DATAGRAMS_OF_A_RESEED

    @property
    def percent(self) -> int:
        """How far it is: 10 for open proxies, up to 40 for enough routers, 10 for one that answers,
        up to 39 for tunnels; 100 when a client tunnel stands, whatever the rest is.
        """
        if not self.listening or self.known is None:
            return 0
        if self.heard.has_client_tunnel:
            return 100
        known = min(self.known, ROUTERS_WANTED) * 40 // ROUTERS_WANTED
        tunnels = min(self.heard.inbound, self.heard.outbound) * 39 // OWN_TUNNELS
        return 10 + known + (10 if self.is_answered else 0) + tunnels

    @property
    def note(self) -> str:
        """Words for a person."""
        if not self.listening:
            return "the I2P router has not opened its proxies"
        if self.is_refused:
            return f"no first routers: {self.heard.refused}"
        known = "?" if self.known is None else self.known
        answered = "some answer" if self.is_answered else "none answers yet"
        made = f"{self.heard.inbound} tunnels in and {self.heard.outbound} out were made"
        names = self.heard.names_note
        return f"{known} routers known, {answered}, {made}" + (f"; {names}" if names else "")

    @property
    def is_refused(self) -> bool:
        """Whether it knows nobody, and has found nobody where it was told to look."""
        return self.known == 0 and self.heard.refused is not None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the boot steps wrote down: how far they came, with which rule set, and a failure."""

    stage: str | None = None
    ruleset: str | None = None
    ruleset_sha256: str | None = None
    failure: str | None = None
    hint: str | None = None
    lease: str | None = None


def recorded(
    status: Mapping[str, Any] | None,
    failure: Mapping[str, Any] | None,
    lease: Mapping[str, Any] | None,
    source: str,
) -> Recorded:
    """The values of ``status.json``, ``failure.json`` and ``lease.json``, where they are.

    Raises DamagedStateError naming ``source``, their directory, for values of another type.
    """
    for file, values, names in (
        ("status.json", status or {}, ("stage", "ruleset", "ruleset_sha256")),
        ("failure.json", failure or {}, ("message", "hint")),
        ("lease.json", lease or {}, ("note",)),
    ):
        for name in names:
            if not isinstance(values.get(name), str | None):
                raise DamagedStateError(f"{source}/{file}", f"{name} is {values[name]!r:.60}")
    if failure is not None and failure.get("message") is None:
        raise DamagedStateError(f"{source}/failure.json", "it has no message")
    status, failure = status or {}, failure or {}
    return Recorded(
        status.get("stage"),
        status.get("ruleset"),
        status.get("ruleset_sha256"),
        failure.get("message"),
        failure.get("hint"),
        (lease or {}).get("note"),
    )


@dataclass(frozen=True, slots=True)
class Status:
    """Everything ``status`` knows.

    ``loaded`` is None where it cannot be seen, ``lease`` where no lease is asked for.
    """

    profile: str
    field: str | None
    reason: str
    stage: str | None
    ruleset: str | None
    ruleset_sha256: str | None
    loaded: bool | None
    links: tuple[LinkStatus, ...]
    tor: TorStatus | None
    i2p: I2pStatus | None
    lease: str | None
    target: str | None
    target_state: str
    failure: str | None
    hint: str | None

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``status --json``."""
        return {
            "profile": self.profile,
            "field": self.field,
            "reason": self.reason,
            "stage": self.stage,
            "ruleset": self.ruleset,
            "ruleset_sha256": self.ruleset_sha256,
            "loaded": self.loaded,
            "links": [{"name": link.name, "mac": link.mac, "up": link.up} for link in self.links],
            "tor": {"percent": self.tor.percent, "note": self.tor.note} if self.tor else None,
            "i2p": {"percent": self.i2p.percent, "note": self.i2p.note} if self.i2p else None,
            "lease": self.lease,
            "target": self.target,
            "target_state": self.target_state,
            "failure": self.failure,
            "hint": self.hint,
        }

    def lines(self) -> Sequence[tuple[str, str]]:
        """The same for people: what went wrong first, and nothing that has no value."""
        loaded = {
            True: "in force",
            False: "NOT in force",
            None: "only root can see it in the kernel",
        }
        links = ", ".join(
            f"{link.name} ({link.mac}) {'up' if link.up else 'down'}" for link in self.links
        )
        shown = [
            ("failure", self.failure),
            ("to do", self.hint),
            ("profile", self.profile),
            ("because", f"{self.field}: {self.reason}" if self.field else self.reason),
            ("boot steps", STAGES.get(self.stage or "", self.stage)),
            ("rule set", self.ruleset and f"{self.ruleset}, {loaded[self.loaded]}"),
            ("sha256", self.ruleset_sha256),
            ("links", links or "none"),
            ("lease", self.lease),
            ("tor", self.tor and self.tor.note),
            ("i2p", self.i2p and self.i2p.note),
            ("target", self.target and f"{self.target}, {self.target_state}"),
        ]
        return [(name, value) for name, value in shown if value]
