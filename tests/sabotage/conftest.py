# SPDX-License-Identifier: GPL-3.0-or-later
"""What the boots share."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory on a tmpfs; whatever is mounted below it is in the boot's own namespace."""
    made = Path(mkdtemp(dir="/dev/shm", prefix="tails-profiles-"))
    yield made
    shutil.rmtree(made)
