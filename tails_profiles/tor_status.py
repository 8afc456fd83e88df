# SPDX-License-Identifier: GPL-3.0-or-later
"""How far Tor is; apart from all other status, because each boot of tor-guest loads it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TorStatus:
    """Tor as its control socket describes it; ``percent`` is None when it cannot be asked."""

    percent: int | None
    note: str
