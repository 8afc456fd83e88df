# SPDX-License-Identifier: GPL-3.0-or-later
"""How much a guest may add to a folder, and where a launch says that there is no limit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tails_profiles import launch, launch_steps, quota
from tails_profiles.launch import LaunchPlan
from tails_profiles.launch_steps import BindFolder, LimitFolder
from tails_profiles.machine_steps import MakeMachine, StartMachine
from tails_profiles.quota import Limit, Space, Unlimited
from tails_profiles.settings import Feature
from tails_profiles.shares import Choice
from tests.unit.test_launch import SEEDS, plan
from tests.unit.test_shares import virtual_box

MIB, GIB = 1 << 20, 1 << 30
A, B = Path("/home/a"), Path("/home/b")
SPACE = Space(
    device=1, inode=0x12345678, project=0, enforced=True,
    size=100 * GIB, free=50 * GIB, inodes=6_000_000, free_inodes=5_000_000,
)  # fmt: skip
SSH = Choice(Feature.SSH_CLIENT, A, writable=True)
TOR = Choice(Feature.TOR_DATA, B, writable=True)


def limit(space: Space) -> Limit:
    found = quota.decide({A: space})[A]
    assert isinstance(found, Limit)
    return found


@pytest.mark.parametrize(
    ("size", "free", "growth"),
    [
        # A tenth of what is free stays so,
        (1000 * GIB, 80 * GIB, 72 * GIB),
        # or 1 GiB,
        (1000 * GIB, 5 * GIB, 4 * GIB),
        (1000 * GIB, GIB, 0),
        (1000 * GIB, 0, 0),
        # or a tenth of a small file system.
        (2000 * MIB, 1000 * MIB, 800 * MIB),
        (2000 * MIB, 200 * MIB, 0),
        (2000 * MIB, 10 * MIB, 0),
        # Whole MiB.
        (1000 * GIB, GIB + MIB - 1, 0),
        (1000 * GIB, GIB + 2 * MIB - 1, MIB),
    ],
)
def test_a_guest_gets_what_is_free_but_for_a_reserve(size: int, free: int, growth: int) -> None:
    found = limit(replace(SPACE, size=size, free=free))
    assert found.size == growth
    assert found.is_nothing == (growth == 0)


@pytest.mark.parametrize(
    ("inodes", "free", "growth"),
    [(6_000_000, 5_000_000, 4_500_000), (10_000, 5000, 4000), (10_000, 1000, 0), (0, 0, None)],
)
def test_inodes_are_given_the_same_way_where_they_are_counted(
    inodes: int, free: int, growth: int | None
) -> None:
    found = limit(replace(SPACE, inodes=inodes, free_inodes=free))
    assert found.inodes == growth
    assert found.is_nothing == (growth == 0)


@given(
    st.lists(st.tuples(st.integers(1, 2), st.integers(0, 1 << 45)), min_size=1, max_size=9),
    st.integers(1, 1 << 50), st.integers(0, 1 << 45),
)  # fmt: skip
def test_shares_of_one_file_system_together_leave_the_reserve(
    found: list[tuple[int, int]], size: int, free: int
) -> None:
    free = min(free, size)
    spaces = {
        Path(f"/{number}"): replace(SPACE, device=device, inode=inode, size=size, free=free)
        for number, (device, inode) in enumerate(found)
    }
    limits = quota.decide(spaces)
    for device in (1, 2):
        mine = [limits[path] for path, space in spaces.items() if space.device == device]
        growth = sum(each.size for each in mine if isinstance(each, Limit))
        assert growth <= max(free - max(free // 10, min(GIB, size // 10)), 0)
        assert len({each.size for each in mine if isinstance(each, Limit)}) <= 1


def test_a_folder_keeps_its_project_and_two_have_two() -> None:
    mine = limit(SPACE).project
    assert mine == 0x74345678
    assert quota.is_ours(mine)
    # As a launch that was killed leaves it, or under another inode's number.
    for left in (mine, 0x74000000, 0x74FFFFFF):
        assert limit(replace(SPACE, project=left)).project == mine
    assert limit(replace(SPACE, inode=1)).project != mine


@pytest.mark.parametrize("project", [1, 0x73FFFFFF, 0x75000000, 0xFFFFFFFF])
def test_somebody_s_own_project_is_left_to_its_own_limit(project: int) -> None:
    found = quota.decide({A: replace(SPACE, project=project)})[A]
    assert isinstance(found, Unlimited)
    assert f"its project {project}" in found.why


def sharing(base: LaunchPlan, *, enforced: bool = True, free: int = 50 * GIB) -> LaunchPlan:
    space = replace(SPACE, enforced=enforced, free=free)
    return launch.sharing(base, (SSH, TOR), {A: space, B: replace(space, inode=7)})


@pytest.mark.parametrize("base", [plan(), virtual_box(plan())])
def test_the_limit_is_set_once_the_mount_is_there_and_before_the_machine_is(
    base: LaunchPlan,
) -> None:
    steps = launch_steps.steps(sharing(base), SEEDS)
    kinds = (BindFolder, LimitFolder, MakeMachine, StartMachine)
    names = [type(step).__name__ for step in steps if isinstance(step, kinds)]
    made = ["MakeMachine"] if base.virtualbox else []
    assert names == ["BindFolder", "LimitFolder", *made, "StartMachine"] * 2


def test_the_limit_is_a_line_for_a_shell_and_a_number_in_json() -> None:
    made = sharing(plan())
    steps = launch_steps.steps(made, SEEDS)
    project, half = 0x74345678, 45 * GIB // 2
    line = (
        "/usr/bin/python3 -P -m tails_profiles.system.quota"
        f" /run/x/shares/app-guest/ssh-client {project} {half} 2250000"
    )
    assert line in launch_steps.display(made, steps).splitlines()
    value = json.loads(json.dumps(launch_steps.to_json(made, steps)))
    assert [step["shell"] for step in value["steps"] if step["kind"] == "quota"][1] == line
    assert value["guests"][-1]["shares"][0]["growth"] == half
    assert value["warnings"] == []


def test_without_a_quota_no_step_is_there_and_the_danger_is_named_for_each_folder() -> None:
    made = sharing(plan(), enforced=False)
    steps = launch_steps.steps(made, SEEDS)
    assert not any(isinstance(step, LimitFolder) for step in steps)
    tor, ssh = launch.warnings(made)
    assert tor == (
        "TorData: tor-guest can fill the file system of /home/b, of which 51200 MiB are free:"
        " it has no project quota; see docs/shares.md"
    )
    assert ssh.startswith("SSHClient: app-guest can fill the file system of /home/a,")
    assert f"# warning: {tor}" in launch_steps.display(made, steps).splitlines()
    (share,) = launch_steps.to_json(made, steps)["guests"][-1]["shares"]
    assert share["growth"] is None


def test_a_full_file_system_is_warned_of_and_bounded_all_the_same() -> None:
    made = sharing(plan(), free=0)
    assert [words for words in launch.warnings(made) if "can add nothing to" in words]
    steps = launch_steps.steps(made, SEEDS)
    assert [step.limit.size for step in steps if isinstance(step, LimitFolder)] == [0, 0]


def test_a_folder_that_is_only_read_needs_none() -> None:
    made = launch.sharing(plan(), (replace(SSH, writable=False),), {})
    assert launch.warnings(made) == ()
    assert not any(isinstance(step, LimitFolder) for step in launch_steps.steps(made, SEEDS))
