# SPDX-License-Identifier: GPL-3.0-or-later
"""What a boot has become, as a value that is printed or written as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link as the kernel has it now."""

    name: str
    mac: str
    up: bool


@dataclass(frozen=True, slots=True)
class TorStatus:
    """Tor as its control socket describes it; ``percent`` is None when it cannot be asked."""

    percent: int | None
    note: str


@dataclass(frozen=True, slots=True)
class Status:
    """Everything ``status`` knows.

    ``loaded`` is None where it needs root to look, ``lease`` where no lease is asked for.
    """

    profile: str
    field: str | None
    stage: str
    ruleset: str | None
    ruleset_sha256: str | None
    loaded: bool | None
    links: tuple[LinkStatus, ...]
    tor: TorStatus | None
    lease: str | None
    target: str | None
    target_state: str
    failure: str | None

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``status --json``."""
        return {
            "profile": self.profile,
            "field": self.field,
            "stage": self.stage,
            "ruleset": self.ruleset,
            "ruleset_sha256": self.ruleset_sha256,
            "loaded": self.loaded,
            "links": [{"name": link.name, "mac": link.mac, "up": link.up} for link in self.links],
            "tor": {"percent": self.tor.percent, "note": self.tor.note} if self.tor else None,
            "lease": self.lease,
            "target": self.target,
            "target_state": self.target_state,
            "failure": self.failure,
        }

    def lines(self) -> Sequence[tuple[str, object]]:
        """The same for people."""
        loaded = {True: "in force", False: "NOT in force", None: "run as root to see"}[self.loaded]
        links = ", ".join(f"{link.name} {'up' if link.up else 'down'}" for link in self.links)
        return [
            ("profile", self.profile),
            ("from field", self.field or "-"),
            ("stage", self.stage),
            ("rule set", f"{self.ruleset} ({loaded})" if self.ruleset else "-"),
            ("links", links or "-"),
            *([("lease", self.lease)] if self.lease else []),
            *([("tor", self.tor.note)] if self.tor else []),
            ("target", f"{self.target} ({self.target_state})" if self.target else "-"),
            *([("failure", self.failure)] if self.failure else []),
        ]
