# SPDX-License-Identifier: GPL-3.0-or-later
"""What the fixtures of several files here are made of."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.vm.guests import Guests
from tests.vm.image import TOP

#: Where the evidence of what failed is kept.
EVIDENCE = TOP / ".build/failed"


@contextmanager
def work_directory() -> Iterator[Path]:
    """A directory, on a path that another user may enter: machines do not run as root."""
    made = Path(tempfile.mkdtemp(prefix="tp-vm-", dir="/var/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def kept_when_raised(keep: Callable[[Path], None], folder: Path) -> Iterator[None]:
    """``keep`` is called with ``folder`` when what is inside raises, which says so."""
    try:
        yield
    except BaseException as err:
        keep(folder)
        err.add_note(f"kept in {folder}")
        raise


@contextmanager
def kept_when_failed(
    request: pytest.FixtureRequest, keep: Callable[[Path], None], folder: Path
) -> Iterator[None]:
    """For a fixture around one test: ``keep`` is called with ``folder`` when the test failed."""
    before = request.session.testsfailed
    yield
    if request.session.testsfailed > before:
        keep(folder)
        print(f"kept in {folder}")


@contextmanager
def prepared_guests(evidence: Path, *, i2p: bool = False) -> Iterator[Guests]:
    """Guests that are not started, with their networks and image; afterwards all of it is gone."""
    # Its directory is its own to make enterable, and to remove.
    made = Guests(Path(tempfile.mkdtemp(prefix="tp-vm-", dir="/var/tmp")), i2p=i2p)
    try:
        with kept_when_raised(made.keep_evidence, evidence):
            made.prepare()
            yield made
    finally:
        made.close()
