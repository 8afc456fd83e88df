# SPDX-License-Identifier: GPL-3.0-or-later
"""Rule sets as text: golden files, and promises every file keeps.

After an intended change, write the golden files anew and read their difference:
``python3 -m tails_profiles.ruleset tests/golden/rulesets``.
"""

import re
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tails_profiles.constants import PRIVATE_RANGES
from tails_profiles.errors import RulesetError
from tails_profiles.firewall import (
    QuarantineContext,
    TorGuestContext,
    all_rulesets,
    build_context,
    build_link_context,
    complement,
    link_tables,
    variants,
)
from tails_profiles.profile import Profile
from tails_profiles.rule_files import file_name, lease_elements, proxy_elements
from tails_profiles.ruleset import LOCKDOWN, render, render_named, templates, write_all

GOLDEN = Path(__file__).parents[1] / "golden/rulesets"
NAMES = {file_name(*names): names for names in all_rulesets()}
RULE = re.compile(r"^        (?!type |flags |elements )(.+)$", re.MULTILINE)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_rule_set_is_the_one_that_was_reviewed(name: str) -> None:
    assert render_named(*NAMES[name]) == (GOLDEN / name).read_text()


def test_nothing_is_reviewed_that_is_not_shipped(tmp_path: Path) -> None:
    assert sorted(write_all(tmp_path)) == sorted(path.name for path in GOLDEN.iterdir())
    assert (tmp_path / LOCKDOWN).read_bytes() == (GOLDEN / LOCKDOWN).read_bytes()


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_every_rule_counts_and_has_a_name_of_its_own(path: Path) -> None:
    chain = ""
    seen: set[tuple[str, str]] = set()
    rules = 0
    for line in path.read_text().splitlines():
        if line.startswith("    chain "):
            chain = line.split()[1]
        rule = RULE.match(line)
        if not rule or " jump " in line:
            continue
        rules += 1
        named = re.search(r'counter .*comment "([^"]+)"$', rule[1])
        assert named, line
        assert (chain, named[1]) not in seen, line
        seen.add((chain, named[1]))
    assert rules >= 5


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_every_base_chain_drops_and_every_file_replaces_only_its_own_table(path: Path) -> None:
    text = path.read_text()
    assert "flush" not in text
    hooks = re.findall(r"type (\w+) hook \w+ .*; policy (\w+);", text)
    assert hooks
    assert {policy for kind, policy in hooks if kind == "filter"} == {"drop"}
    tables = re.findall(r"^(?:delete )?table (\S+ \S+)(?: \{)?$", text, re.MULTILINE)
    assert len(tables) == 3
    assert len(set(tables)) == 1
    assert tables[0].split()[1].startswith("tails_profiles")


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_no_rule_accepts_by_connection_state_alone(path: Path) -> None:
    for line in path.read_text().splitlines():
        if "established" in line and " accept " in line:
            assert "ct direction" in line
            assert "ifname" in line
            assert "ip saddr" in line or "ip daddr" in line or 'iifname "uplink"' in line


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_no_rule_refuses_by_what_a_set_must_be_seen_to_hold(path: Path) -> None:
    """A lookup may find nothing while the file is loaded again: that must not let a packet pass.

    The one rule that does refuse so is about tags; "not IPv4" behind it refuses the same frames.
    """
    for line in path.read_text().splitlines():
        lookups = re.findall(r"(!= )?(@\w+|\{ )", line) if RULE.match(line) else []
        if " drop " in line:
            assert all(unequal for unequal, _ in lookups) or line.endswith('"VLAN"'), line
        else:
            assert not any(unequal for unequal, _ in lookups), line


def test_public_addresses_are_all_but_the_private_ones() -> None:
    """Written by hand from the list of design: RFC 1918, 6598, 3927, 1122, multicast, reserved."""
    assert [str(each) for each in complement(PRIVATE_RANGES)] == [
        "1.0.0.0-9.255.255.255",
        "11.0.0.0-100.63.255.255",
        "100.128.0.0-126.255.255.255",
        "128.0.0.0-169.253.255.255",
        "169.255.0.0-172.15.255.255",
        "172.32.0.0-192.167.255.255",
        "192.169.0.0-223.255.255.255",
    ]
    assert [str(each) for each in complement([IPv4Network("128.0.0.0/1")])] == [
        "0.0.0.0-127.255.255.255"
    ]
    assert [str(each) for each in complement([])] == ["0.0.0.0-255.255.255.255"]


def test_rendering_twice_is_identical() -> None:
    assert [render_named(*names) for names in NAMES.values()] == [
        render_named(*names) for names in NAMES.values()
    ]


@pytest.mark.parametrize("profile", [Profile.NORMAL, Profile.HOST])
def test_profile_without_rule_set_is_refused(profile: Profile) -> None:
    with pytest.raises(RulesetError, match="has no rule set"):
        build_context(profile)


def test_unknown_variant_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(RulesetError, match="'udp'") as caught:
        build_context(Profile.TOR_GUEST, "udp")
    assert "tcp-udp" in (caught.value.hint or "")


def test_link_of_another_profile_is_refused() -> None:
    with pytest.raises(RulesetError, match="'uplink'"):
        build_link_context(Profile.APP_GUEST, "uplink")


def test_app_guest_has_no_table_for_an_uplink() -> None:
    assert link_tables(Profile.APP_GUEST) == ("tor", "i2p")


def test_template_that_needs_more_than_its_context_is_refused(tmp_path: Path) -> None:
    (tmp_path / QuarantineContext.template).write_text("{{ c.missing }}")
    with pytest.raises(RulesetError, match="missing"):
        render(QuarantineContext(), tmp_path)


def test_missing_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesetError, match="no template"):
        render(QuarantineContext(), tmp_path)


def test_context_reaches_the_text() -> None:
    context = build_context(Profile.TOR_GUEST)
    assert isinstance(context, TorGuestContext)
    assert 'skuid "somebody"' in render(replace(context, user="somebody"))


def test_only_the_udp_variant_lets_udp_out() -> None:
    for variant in variants(Profile.TOR_GUEST):
        text = render_named(Profile.TOR_GUEST, variant)
        assert ("the transport's UDP" in text) == variant.startswith("tcp-udp")


def test_elements_go_to_the_table_of_their_layer() -> None:
    from ipaddress import IPv4Address  # noqa: PLC0415

    proxy = (IPv4Address("192.168.1.5"), 3128)
    assert proxy_elements(proxy) == (
        "add element inet tails_profiles proxy { 192.168.1.5 . 3128 }\n"
    )
    assert proxy_elements(proxy, "uplink").startswith("add element netdev tails_profiles_uplink ")
    closed = lease_elements(None)
    assert closed == (
        "flush set netdev tails_profiles_uplink address\n"
        "flush set netdev tails_profiles_uplink router\n"
    )
    assert lease_elements((IPv4Address("10.9.9.9"), IPv4Address("10.9.9.1"))) == closed + (
        "add element netdev tails_profiles_uplink address { 10.9.9.9 }\n"
        "add element netdev tails_profiles_uplink router { 10.9.9.1 }\n"
    )


def test_templates_are_those_of_the_source_tree() -> None:
    assert templates() == Path(__file__).parents[2] / "nft"
