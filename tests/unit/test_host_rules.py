# SPDX-License-Identifier: GPL-3.0-or-later
"""The host's rule sets, whole: ``python3 -m tests.unit.test_host_rules`` writes them anew."""

import re
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tails_profiles import launch, launch_steps
from tails_profiles.errors import LaunchError
from tails_profiles.launch import LaunchPlan
from tails_profiles.profile import Profile
from tails_profiles.settings import TorSettings
from tests.unit.test_launch import DEFAULTS, FACTS, OFFSETS, SNOWFLAKE

GOLDEN = Path(__file__).parents[1] / "golden/host"
#: What the network hands out: an address of its own, and no service of this machine.
NETWORKS_RESOLVER = replace(FACTS, resolver=IPv4Address("192.168.7.1"))


def plan(
    *, names: bool, exclusive: bool, facts: launch.HostFacts = NETWORKS_RESOLVER
) -> LaunchPlan:
    tor = TorSettings(bridges=(SNOWFLAKE,)) if names else TorSettings()
    given = {**DEFAULTS, Profile.TOR_GUEST: replace(DEFAULTS[Profile.TOR_GUEST], tor=tor)}
    made = launch.plan(Path("/image.iso"), Path("/run/x"), facts, given, OFFSETS, i2p=False)
    return launch.exclusively(made) if exclusive else made


CASES = {
    "default.nft": plan(names=False, exclusive=False),
    "default-names.nft": plan(names=True, exclusive=False),
    "exclusive.nft": plan(names=False, exclusive=True),
    "exclusive-names.nft": plan(names=True, exclusive=True),
}


@pytest.mark.parametrize("name", CASES)
def test_rule_set_is_the_one_that_was_read(name: str) -> None:
    assert launch_steps.host_rules(CASES[name]) == (GOLDEN / name).read_text()


@pytest.mark.parametrize("name", CASES)
def test_every_rule_counts_and_says_what_it_is(name: str) -> None:
    rules = re.findall(
        r"^ {8}(?!type |flags |elements |#|\})(.*)$", (GOLDEN / name).read_text(), re.M
    )
    assert len(rules) > 5
    for rule in rules:
        if not rule.endswith("goto gateway"):
            assert re.search(r'counter (accept|drop) comment "[^"]+"$', rule), rule


def test_only_the_exclusive_ones_touch_others() -> None:
    for name in CASES:
        text = (GOLDEN / name).read_text()
        assert text.count("policy drop") == (3 if name.startswith("exclusive") else 0), name


def test_a_resolver_that_could_ask_nobody_is_refused_in_words() -> None:
    with pytest.raises(LaunchError, match=r"127\.0\.0\.53, which answers .* --exclusive"):
        plan(names=True, exclusive=True, facts=FACTS)
    plan(names=True, exclusive=False, facts=FACTS)
    plan(names=False, exclusive=True, facts=FACTS)


if __name__ == "__main__":
    for case, made in CASES.items():
        (GOLDEN / case).write_text(launch_steps.host_rules(made))
