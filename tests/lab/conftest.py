# SPDX-License-Identifier: GPL-3.0-or-later
"""The private Tor network, started once for every file here that asks for it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.tornet import TorNetwork


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    # Not pytest's: Tor's account must be able to enter it.
    made = Path(tempfile.mkdtemp(prefix="tp-lab-", dir="/dev/shm"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def network(directory: Path) -> Iterator[TorNetwork]:
    made = TorNetwork(directory / "network", f"tpn{directory.name[-4:]}")
    try:
        made.start()
        yield made
    finally:
        made.close()
