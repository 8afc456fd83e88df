# SPDX-License-Identifier: GPL-3.0-or-later
"""What becomes of the links that are there, and in which order."""

import os
from pathlib import Path

import pytest

from tails_profiles import constants as c
from tails_profiles.command import Command
from tails_profiles.errors import LinkError
from tails_profiles.links import (
    MACHINE_SYSCTLS,
    FoundLink,
    LoadTable,
    RequireTables,
    Step,
    plan,
    steps,
    tables,
)
from tails_profiles.paths import Paths
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.system import links as edge
from tails_profiles.system import nft

FOUND = {
    Profile.TOR_GUEST: (FoundLink("eth0", c.TOR_UPLINK_MAC), FoundLink("eth1", c.TOR_MAC)),
    Profile.I2P_GUEST: (FoundLink("eth0", c.I2P_UPLINK_MAC), FoundLink("eth1", c.I2P_MAC)),
    Profile.APP_GUEST: (FoundLink("eth0", c.APP_TOR_MAC), FoundLink("eth1", c.APP_I2P_MAC)),
}


def ordered(profile: Profile, *, dhcp: bool = False, offline: bool = False) -> tuple[Step, ...]:
    made = plan(profile, FOUND[profile], i2p_promised=False, dhcp=dhcp, offline=offline)
    return steps(made)


def raised(ordered_steps: tuple[Step, ...]) -> list[str]:
    """The links that these steps put up, in their order."""
    return [
        step.argv[-2]
        for step in ordered_steps
        if isinstance(step, Command) and step.argv[-1] == "up"
    ]


@pytest.mark.parametrize("profile", GUESTS)
@pytest.mark.parametrize("dhcp", [False, True])
def test_everything_of_a_link_stands_before_any_link_is_up(profile: Profile, dhcp: bool) -> None:
    made = ordered(profile, dhcp=dhcp and profile.is_gateway)
    first = next(number for number, step in enumerate(made) if raised((step,)))
    before, after = made[:first], made[first:]
    loaded = {step.table.removesuffix("-dhcp") for step in before if isinstance(step, LoadTable)}
    assert loaded == {*raised(made)} == {facts.name for facts in c.LINKS[profile]}
    assert isinstance(before[-1], RequireTables)
    # After that nothing but links that rise, and their routes.
    assert {step.argv[1] for step in after if isinstance(step, Command)} <= {"link", "route"}
    assert all(isinstance(step, Command) for step in after)


@pytest.mark.parametrize(
    ("profile", "up"),
    [(Profile.TOR_GUEST, ["inner"]), (Profile.I2P_GUEST, ["inner"]), (Profile.APP_GUEST, [])],
)
def test_offline_leaves_down_what_leads_outside(profile: Profile, up: list[str]) -> None:
    made = ordered(profile, offline=True)
    assert raised(made) == up
    text = "\n".join(step.display() for step in made)
    assert "uplink" not in text
    assert "default" not in text.replace("conf/default", "")
    # The same links without it: what stays down would rise.
    assert raised(ordered(profile)) != up


def test_inner_link_rises_before_the_uplink() -> None:
    assert raised(ordered(Profile.TOR_GUEST)) == ["inner", "uplink"]


@pytest.mark.parametrize(
    ("profile", "found", "word"),
    [
        (Profile.APP_GUEST, (*FOUND[Profile.APP_GUEST], FoundLink("eth2", c.TOR_UPLINK_MAC)),
         "eth2"),
        (Profile.APP_GUEST, (FoundLink("eth0", c.TOR_MAC),), c.TOR_MAC),
        (Profile.TOR_GUEST, (*FOUND[Profile.TOR_GUEST], FoundLink("eth2", c.TOR_UPLINK_MAC)),
         "same MAC"),
        (Profile.TOR_GUEST, FOUND[Profile.I2P_GUEST], c.I2P_UPLINK_MAC),
        (Profile.TOR_GUEST, FOUND[Profile.TOR_GUEST][:1], "inner"),
        (Profile.TOR_GUEST, FOUND[Profile.TOR_GUEST][1:], "uplink"),
        (Profile.APP_GUEST, FOUND[Profile.APP_GUEST][1:], "tor"),
        (Profile.APP_GUEST, (FoundLink("eth0", ""),), "MAC"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("offline", [False, True])
def test_links_that_are_not_the_profiles_are_refused_by_name(
    profile: Profile, found: tuple[FoundLink, ...], word: str, offline: bool
) -> None:
    with pytest.raises(LinkError, match=word):
        plan(profile, found, i2p_promised=False, dhcp=False, offline=offline)


def test_second_link_of_app_guest_may_be_absent_unless_it_is_promised() -> None:
    found = FOUND[Profile.APP_GUEST][:1]
    made = plan(Profile.APP_GUEST, found, i2p_promised=False, dhcp=False)
    assert [link.name for link in made.links] == ["tor"]
    with pytest.raises(LinkError, match="i2p"):
        plan(Profile.APP_GUEST, found, i2p_promised=True, dhcp=False)


def test_link_is_not_raised_without_every_table_in_the_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = plan(Profile.TOR_GUEST, FOUND[Profile.TOR_GUEST], i2p_promised=False, dhcp=False)
    wanted = tables(made)
    assert wanted == {
        "inet tails_profiles", "netdev tails_profiles_inner", "netdev tails_profiles_uplink",
    }  # fmt: skip
    there = {*wanted, "inet filter"}
    monkeypatch.setattr(nft, "tables", lambda: frozenset(there))
    edge._require_tables(wanted)
    for table in wanted:
        there = {*wanted, "inet filter"} - {table}
        with pytest.raises(LinkError, match=table):
            edge._require_tables(wanted)


def test_setting_of_the_whole_machine_is_left_alone_where_it_is_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: the kernel shows it, and takes nothing."""
    limit = next(each for each in MACHINE_SYSCTLS if each.machine_wide)
    files = {}
    for setting in (limit, MACHINE_SYSCTLS[0]):
        files[setting] = tmp_path / "proc/sys" / setting.path
        files[setting].parent.mkdir(parents=True)
        files[setting].write_text("7\n")
    monkeypatch.setattr(os, "access", lambda *_: False)
    for setting in files:
        edge._write_sysctl(setting, Paths(tmp_path))
    assert [path.read_text() for path in files.values()] == ["7\n", "0\n"]
    monkeypatch.undo()
    edge._write_sysctl(limit, Paths(tmp_path))
    assert files[limit].read_text() == f"{limit.value}\n"


@pytest.mark.parametrize("profile", GUESTS)
def test_batches_are_the_same_words_in_the_same_order(profile: Profile) -> None:
    planned = steps(plan(profile, FOUND[profile], i2p_promised=True, dhcp=False))
    unfolded: list[Step] = []
    for step in edge.batched(planned):
        if isinstance(step, Command) and step.stdin is not None:
            assert step.argv == ("/usr/sbin/ip", "-batch", "-")
            lines = step.stdin.splitlines()
            unfolded += [Command(("/usr/sbin/ip", *line.split())) for line in lines]
        else:
            unfolded.append(step)
    assert tuple(unfolded) == planned
    # Nothing of others is passed over: rules are loaded before a link rises, as they were.
    assert len(list(edge.batched(planned))) < len(planned)


@pytest.mark.parametrize("name", ["a b", 'a"b', "#a", "a\nlink set dev x up", "a\\"])
def test_name_that_a_batch_would_read_otherwise_is_in_none(name: str) -> None:
    odd = Command(("/usr/sbin/ip", "link", "set", "dev", name, "down"))
    plain = Command(("/usr/sbin/ip", "link", "set", "dev", "eth0", "down"))
    assert list(edge.batched((plain, odd, plain))) == [plain, odd, plain]
