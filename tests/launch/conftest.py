# SPDX-License-Identifier: GPL-3.0-or-later
"""One world serves a module; each test begins and ends with nothing left in it."""

from collections.abc import Iterator

import pytest

from tests.launch.world import World


@pytest.fixture(scope="module")
def _world() -> Iterator[World]:
    with World() as made:
        yield made


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    before = _world.left()
    yield _world
    after = _world.left()
    try:
        assert after - before == set()
    finally:
        # One test's failure is not the next one's.
        _world.stop()
