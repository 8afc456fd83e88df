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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that ask for the network come last: meanwhile its authorities vote."""
    asking = {item.path for item in items if asks(item)}
    items.sort(key=lambda item: item.path in asking)


def asks(item: pytest.Item) -> bool:
    """Whether a test needs the network."""
    return isinstance(item, pytest.Function) and "network" in item.fixturenames


@pytest.fixture(scope="session")
def begun(directory: Path) -> Iterator[TorNetwork]:
    """The network as soon as it is started."""
    made = TorNetwork(directory / "network", f"tpn{directory.name[-4:]}")
    try:
        made.begin()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session", autouse=True)
def _early(request: pytest.FixtureRequest) -> None:
    if any(map(asks, request.session.items)):
        request.getfixturevalue("begun")


@pytest.fixture(scope="session")
def network(begun: TorNetwork) -> TorNetwork:
    """The network when it is ready."""
    begun.wait()
    return begun
