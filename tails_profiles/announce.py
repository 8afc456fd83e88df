# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gateway tells its host on the first serial port: one line each, known words alone."""

import re
from dataclasses import dataclass

from tails_profiles.profile import GATEWAYS, Profile

#: Bytes, newline included; the host skips anything longer.
MAX_LINE = 256
WORDS = ("selected", "firewall", "starting", "ready")
PROGRESS = ("tor", "i2p")
#: Seconds after which a gateway that has come no further says the same again: a sign of life.
REPEAT = 30.0
REASONS = ("token", "settings", "ruleset", "links", "clock", "network", "bridge", "tor", "i2p")
_SPEAKERS = (*GATEWAYS, Profile.QUARANTINE)
_LINE = re.compile(
    r"tails-profiles 1 (?P<profile>[a-z0-9-]+) (?P<word>[a-z0-9]+)( (?P<rest>[a-z0-9]+))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Announcement:
    """One line. ``percent`` is 0 to 100 with the words ``tor`` and ``i2p``."""

    profile: Profile
    word: str
    percent: int | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.profile not in _SPEAKERS:
            raise ValueError(f"{self.profile} announces nothing")
        shape = (self.percent is not None, self.reason is not None)
        expected = (
            (False, False) if self.word in WORDS
            else (True, False) if self.word in PROGRESS
            else (False, True) if self.word == "failed"
            else None
        )  # fmt: skip
        if shape != expected:
            raise ValueError(f"{self.word!r} is no announcement with {shape}")
        if self.percent is not None and not 0 <= self.percent <= 100:
            raise ValueError(f"{self.percent} is no percentage")
        if self.reason is not None and self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is no reason")

    def line(self) -> str:
        """The line, newline included."""
        rest = self.reason if self.percent is None else str(self.percent)
        return f"tails-profiles 1 {self.profile} {self.word}{f' {rest}' if rest else ''}\n"


def rank(word: str, percent: int | None = None) -> int:
    """How far a guest has come that says this; percentages lie between ``starting`` and ``ready``.

    ``failed`` has none: ValueError.
    """
    if percent is not None:
        return WORDS.index("starting") + 1 + percent
    return WORDS.index(word) if word != "ready" else len(WORDS) + 100


def parse_line(line: bytes) -> Announcement | None:
    """The announcement in one line, or None: firmware and boot loaders write there as well."""
    if len(line) > MAX_LINE or not line.isascii():
        return None
    match = _LINE.fullmatch(line.decode("ascii").rstrip("\r\n"))
    if match is None:
        return None
    rest = match["rest"]
    percent = int(rest) if rest and rest.isdecimal() and len(rest) <= 3 else None
    try:
        return Announcement(
            Profile(match["profile"]), match["word"], percent, rest if percent is None else None
        )
    except ValueError:
        return None
