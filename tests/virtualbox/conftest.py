# SPDX-License-Identifier: GPL-3.0-or-later
"""Each test has a VirtualBox of its own."""

from collections.abc import Iterator

import pytest

from tests.virtualbox.world import VirtualBox


@pytest.fixture
def box() -> Iterator[VirtualBox]:
    with VirtualBox() as made:
        yield made
