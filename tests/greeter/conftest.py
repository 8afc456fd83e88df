# SPDX-License-Identifier: GPL-3.0-or-later
"""A screen for all tests, and greeters that end with the test that started them."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .world import Greeter, Machine, Screen


@pytest.fixture(scope="session")
def screen() -> Iterator[Screen]:
    """One X server and one bus."""
    screen = Screen()
    yield screen
    screen.close()


@pytest.fixture
def start(screen: Screen) -> Iterator[Callable[..., Greeter]]:
    """Start a greeter on a machine with these facts, and wait for its window."""
    running: list[Greeter] = []

    def run(**facts: Any) -> Greeter:
        greeter = Greeter(screen, Machine(**facts))
        running.append(greeter)
        greeter.wait_for("ready")
        return greeter

    yield run
    refused = [line for greeter in running for line in greeter.refused()]
    for greeter in running:
        greeter.close()
    assert refused == []
