# SPDX-License-Identifier: GPL-3.0-or-later
"""Whenever a launch fails or is interrupted, all of it is taken back, and it can be started again.

The fixture ``world`` compares what there is before and after each test.
"""

import os
import signal

import pytest

from tails_profiles import launch_steps
from tails_profiles.errors import LaunchError
from tails_profiles.launch_steps import Step
from tails_profiles.profile import GUESTS
from tests.launch.world import World
from tests.unit.test_launch import plan

pytestmark = pytest.mark.vm

#: The steps of a launch without I2P; numbered here, so that a new one gets its tests.
STEPS = launch_steps.steps(plan(), {profile: bytes(64) for profile in GUESTS})
NAMES = [f"{number:02}-{type(step).__name__}" for number, step in enumerate(STEPS)]
#: Everything that the two guests make the launcher say.
WORDS = (
    "tor-guest: starting", "tor-guest: selected", "tor-guest: firewall", "tor-guest: tor 10 %",
    "tor-guest: tor 100 %", "tor-guest: ready", "app-guest: starting",
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(STEPS)), ids=NAMES)
def test_failure_after_any_step_leaves_nothing(world: World, number: int) -> None:
    def fail(now: int, step: Step) -> None:
        assert type(step) is type(STEPS[now])
        if now == number:
            raise LaunchError("injected")

    with pytest.raises(LaunchError, match="injected"):
        world.start(world.plan(), after=fail)


@pytest.mark.parametrize("number", range(len(STEPS)), ids=NAMES)
def test_signal_after_any_step_leaves_nothing(world: World, number: int) -> None:
    # Each of the three in turn, and a second one as from somebody who is impatient.
    number_of_signal = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[number % 3]

    def interrupt(now: int, step: Step) -> None:
        if now == number:
            os.kill(os.getpid(), number_of_signal)

    with pytest.raises(KeyboardInterrupt):
        world.start(world.plan(), after=interrupt)


@pytest.mark.parametrize("word", WORDS)
def test_signal_at_any_word_leaves_nothing(world: World, word: str) -> None:
    def interrupt(words: str) -> None:
        if words == word:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        world.start(world.plan(), at=interrupt)
    assert world.said[-1] == word


def test_start_again_and_stop_twice(world: World) -> None:
    for _ in range(2):
        world.start(world.plan())
        assert len(world.processes()) == 2
        world.stop()
        assert "app-guest: powering off" in world.said
        assert not [words for words in world.said if "did not power off" in words]
        world.stop()
        assert world.said == []
