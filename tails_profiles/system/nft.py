# SPDX-License-Identifier: GPL-3.0-or-later
"""Load rule set text into the kernel, and ask what is there."""

import json

from tails_profiles.command import Command
from tails_profiles.errors import (
    CommandError,
    RulesetError,
    RulesetRejectedError,
    SystemFailureError,
)
from tails_profiles.paths import Paths
from tails_profiles.system.process import run

NFT = "/usr/sbin/nft"


def read(name: str, paths: Paths) -> str:
    """A rendered rule set, by its file's name; raises RulesetError where it is not there."""
    path = paths.rulesets / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as err:
        raise RulesetError(
            f"{path} cannot be read: {err.strerror}", hint="reinstall tails-profiles-boot"
        ) from err


def load(text: str, source: str) -> None:
    """Load ``text`` in one transaction; ``source`` names it in errors.

    Raises RulesetRejectedError when nft or the kernel refuses it: what was loaded before stays.
    """
    _feed((NFT, "-f", "-"), text, source)


def check(text: str, source: str) -> None:
    """Have nft and the kernel look at ``text`` without loading it; raises as ``load`` does."""
    _feed((NFT, "-c", "-f", "-"), text, source)


def _feed(argv: tuple[str, ...], text: str, source: str) -> None:
    try:
        run(Command(argv, stdin=text))
    except CommandError as err:
        raise RulesetRejectedError(source, err.stderr) from err


def tables() -> frozenset[str]:
    """The tables in the kernel, as "FAMILY NAME"; raises SystemFailureError."""
    answer = run(Command((NFT, "-j", "list", "tables"))).stdout
    try:
        listed = json.loads(answer)
    except ValueError as err:
        raise SystemFailureError(f"nft answers {answer[:60]!r}, which is no JSON") from err
    return frozenset(
        f"{entry['table']['family']} {entry['table']['name']}"
        for entry in listed["nftables"]
        if "table" in entry
    )
