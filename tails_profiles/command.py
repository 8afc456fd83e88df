# SPDX-License-Identifier: GPL-3.0-or-later
"""One process to run, as a value that can be printed, compared and stored."""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """An argument vector, and the text its standard input gets.

    ``secret`` holds the positions in ``argv`` that ``display`` hides.
    """

    argv: tuple[str, ...]
    stdin: str | None = None
    secret: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("a command needs a program")

    def display(self) -> str:
        """One line that can be pasted into a shell, secrets replaced."""
        return " ".join(
            "'[hidden]'" if position in self.secret else shlex.quote(word)
            for position, word in enumerate(self.argv)
        )
