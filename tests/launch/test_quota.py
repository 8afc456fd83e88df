# SPDX-License-Identifier: GPL-3.0-or-later
"""What a guest can fill where the file system has a project quota, and where it has none.

A tiny guest is the host here: Debian's kernel, since that of a machine of the tests may have no
quota. In it the launcher's own code lends folders of real file systems, and whoever writes to one
is what a machine's process is: a user without capabilities, through the mount.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch import tiny
from tests.launch.sharing import Sharing
from tests.launch.world import TOP

pytestmark = pytest.mark.vm

MIB = 1 << 20


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Any]]:
    """What ``within_quota`` has seen in the guest, by file system: one boot."""
    with Sharing() as world:
        world.empty()
        for part in ("tails_profiles", "nft"):
            shutil.copytree(TOP / part, world.folder / "code" / part)
        program = Path(__file__).with_name("within_quota.py").read_text()
        said = world.finish(world.begin(program, modules=",".join(tiny.QUOTA_MODULES)))
        try:
            found = json.loads(said.splitlines()[-1])
        except (IndexError, ValueError):
            pytest.fail(said)
        yield found


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, seen: dict[str, Any]) -> dict[str, Any]:
    """One file system with a project quota."""
    found: dict[str, Any] = seen[request.param]
    return found


def reserve(free: int) -> int:
    """The least that is to stay free, by hand: a tenth; the rest are blocks that files need."""
    return free // 10 - 2 * MIB


def test_guest_that_fills_its_folder_leaves_the_host_a_tenth(disk: dict[str, Any]) -> None:
    assert disk["start"] == ""
    assert disk["warnings"] == []
    size, *ends = disk["filled"]
    # XFS says the one, ext4 the other.
    assert set(ends) <= {"EDQUOT", "ENOSPC"}
    # All that was promised, but for what directories need.
    assert disk["growth"] - MIB <= size <= disk["growth"]
    assert disk["free when filled"] >= reserve(disk["free"])


def test_the_same_writer_fills_it_without_the_limit_which_stop_has_ended(
    disk: dict[str, Any],
) -> None:
    """The anti-test of the one above; also that nothing is left of an earlier launch's."""
    assert disk["start without"] == disk["stop"] == ""
    assert disk["filled without"][1:] == ["ENOSPC", "ENOSPC"]
    assert disk["filled without"][0] > disk["growth"] + 100 * MIB
    assert disk["free without"] < MIB


def test_everything_that_a_guest_could_write_to_is_marked_and_no_link_is_followed(
    disk: dict[str, Any],
) -> None:
    marked = {name: number for name, number in disk["projects"].items() if not name.endswith("/..")}
    # Not outside, where links lead, and not what root has in the folder.
    assert set(marked) == {"folder", "folder/below", "folder/below/old", "folder/roots/users"}
    assert {*marked.values(), disk["deepest"]} == {disk["project"]}
    assert disk["link of another file"] == "EXDEV"


def test_what_is_not_marked_cannot_be_written_to_or_is_refused(disk: dict[str, Any]) -> None:
    assert "folder/of-another-group" not in disk["projects"]
    assert "Permission denied" in disk["write to another group's"]
    assert "not even root can read it there" in disk["unreadable"]


def test_whoever_has_a_machine_s_process_cannot_leave_the_project(disk: dict[str, Any]) -> None:
    assert "Invalid argument" in disk["own project"]
    assert "Invalid argument" in disk["own flag"]
    # The anti-test: without its user namespace the same user can.
    assert disk["own project without it"] == 0


def test_failure_after_the_limit_and_an_end_take_it_back(disk: dict[str, Any]) -> None:
    assert "/usr/bin/false" in disk["failed"]
    assert disk["projects after failure"] == disk["projects after stop"] == {}
    assert disk["limited"]
    assert not disk["limited after failure"]
    assert not disk["limited after stop"]


def test_start_after_one_that_was_killed_gives_nothing_of_the_reserve(
    disk: dict[str, Any],
) -> None:
    assert disk["start again"] == ""
    assert disk["growth again"] == [0]
    assert "can add nothing" in disk["warnings again"][0]
    # XFS has nothing for the file's own name either.
    assert disk["filled again"] == [0, "EDQUOT", "EDQUOT"] or "No space" in disk["filled again"]
    assert disk["free when filled again"] >= reserve(disk["free"])


def test_guest_leaves_inodes_too(seen: dict[str, Any]) -> None:
    made, ended = seen["ext4"]["files"]
    assert ended == "EDQUOT"
    assert made > 5000
    assert seen["ext4"]["free inodes"] >= 600


def test_both_guests_together_leave_the_host_a_tenth(disk: dict[str, Any]) -> None:
    said, *ends = disk["both"]
    assert said == ""
    assert {word for end in ends for word in end} <= {"EDQUOT", "ENOSPC"}
    assert reserve(disk["free for both"]) <= disk["free when both filled"]
    assert disk["free when both filled"] < disk["free for both"] // 10 + 16 * MIB


def test_folder_with_a_project_of_the_user_s_is_left_as_it_is(disk: dict[str, Any]) -> None:
    (words,), limits = disk["own"]
    assert "only the limit of its project 7 holds" in words
    assert limits == []
    assert disk["start own"] == disk["stop own"] == ""
    assert set(disk["projects of their own"].values()) == {7}


def test_project_of_the_user_s_within_a_folder_is_refused(disk: dict[str, Any]) -> None:
    assert "belongs to the project 7, and would not be bounded" in disk["foreign below"]


def test_read_only_folder_has_no_limit_and_no_warning(disk: dict[str, Any]) -> None:
    assert disk["read-only"] == [[], []]


def test_guest_sees_the_size_of_its_part_and_not_the_host_s(disk: dict[str, Any]) -> None:
    assert disk["growth"] <= disk["size to the guest"] < disk["growth"] + 4 * MIB


def test_file_system_without_a_project_quota_is_lent_with_a_warning(seen: dict[str, Any]) -> None:
    found = seen["ext4-without"]
    (words,) = found["warnings"]
    assert "app-guest can fill the file system of" in words
    assert "it has no project quota; see docs/shares.md" in words
    assert (found["limits"], found["start"], found["stop"]) == ([], "", "")
