# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/shares.md's matrix for QEMU: real programs on a real share, and again at the next start."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tails_profiles import launcher
from tails_profiles.profile import Profile
from tails_profiles.shares import MOUNT_OPTIONS
from tests.launch import programs_in_a_share as programs
from tests.launch.sharing import Sharing, app_guest_alone, unchanged

pytestmark = [pytest.mark.vm, pytest.mark.slow]

CHECKS = [check.__name__ for check in (*programs.FIRST, *programs.SECOND)]


def run_in_guest(world: Sharing, start: str, options: str = MOUNT_OPTIONS) -> dict[str, str]:
    """One start of a guest; what each of its checks found."""
    (world.folder / "done").unlink(missing_ok=True)
    world.put("program", Path(programs.__file__).read_text())
    world.put("run", f"exec /usr/bin/python3 -B /share/program {start}\n")
    plan = world.shared(options=options)
    # Each start draws a clock, up to ten minutes off: keys of the first start could be of the
    # second one's future, where gpg does not use them.
    now = datetime.now(UTC)
    plan = replace(plan, guests=tuple(replace(guest, clock=now) for guest in plan.guests))
    world.start(plan, steps=app_guest_alone(launcher.make_steps(plan), unchanged))
    found: dict[str, str] = json.loads(world.finish(world.machine(Profile.APP_GUEST)))
    return found


@pytest.fixture(scope="module")
def world() -> Iterator[Sharing]:
    with Sharing() as made:
        yield made


@pytest.fixture(scope="module")
def found(world: Sharing) -> dict[str, str]:
    world.empty()
    return run_in_guest(world, "first") | run_in_guest(world, "second")


@pytest.mark.parametrize("check", CHECKS)
def test_real_program_works_on_a_share(check: str, found: dict[str, str]) -> None:
    assert found[check] == "works"


def test_a_share_that_cannot_be_mapped_is_noticed(world: Sharing) -> None:
    world.empty()
    found = run_in_guest(world, "without-maps", MOUNT_OPTIONS.replace("cache=mmap", "cache=none"))
    assert found["record_locks"] == "works"
    assert found["sqlite_wal"] != "works"
