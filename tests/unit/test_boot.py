# SPDX-License-Identifier: GPL-3.0-or-later
"""What the boot steps decide, and what they write for others."""

import configparser
import json
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tails_profiles import boot, constants, firewall_step, links_step, settings
from tails_profiles.decision import Decision, decision_from_json
from tails_profiles.errors import (
    CommandError,
    CommandNotFoundError,
    DetectionError,
    LinkError,
    MissingAccountError,
    MissingLibraryError,
    RulesetError,
    SettingsError,
)
from tails_profiles.firewall_step import decide
from tails_profiles.links import FoundLink
from tails_profiles.paths import Paths
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import I2pSettings, Proxy, ProxyType, TorSettings
from tails_profiles.system import links as link_edge

PROXY = Proxy(ProxyType.SOCKS5, IPv4Address("192.168.1.9"), 1080)


@pytest.mark.parametrize(
    "decision",
    [
        *(decide(profile, None) for profile in GUESTS),
        Decision(
            Profile.TOR_GUEST, "tcp-dns", i2p_promised=False, dhcp=False,
            proxy=(IPv4Address("192.168.1.9"), 1080), offline=True,
        ),
        replace(decide(Profile.I2P_GUEST, None), opened=23456),
    ],
)  # fmt: skip
def test_links_step_reads_what_the_firewall_step_decided(decision: Decision) -> None:
    assert decision_from_json(json.loads(json.dumps(decision.to_json()))) == decision


def test_settings_disk_decides_who_gives_the_uplink_its_address() -> None:
    for profile in GUESTS:
        assert decide(profile, None).dhcp is profile.is_gateway
        assert not decide(profile, settings.defaults(profile)).dhcp


def test_settings_become_a_decision() -> None:
    tor = replace(settings.defaults(Profile.TOR_GUEST), tor=TorSettings(proxy=PROXY), offline=True)
    assert decide(Profile.TOR_GUEST, tor).proxy == (IPv4Address("192.168.1.9"), 1080)
    assert decide(Profile.TOR_GUEST, tor).offline
    app = replace(settings.defaults(Profile.APP_GUEST), i2p=I2pSettings())
    assert decide(Profile.APP_GUEST, app).i2p_promised
    assert not decide(Profile.APP_GUEST, None).i2p_promised
    opened = replace(settings.defaults(Profile.I2P_GUEST), i2p=I2pSettings(port=23456))
    made = decide(Profile.I2P_GUEST, opened)
    assert made.elements() == "add element inet tails_profiles opened { 23456 }\n"
    assert made.elements("uplink").startswith("add element netdev tails_profiles_uplink ")
    # App-guest's file promises a link, and opens nothing.
    assert decide(Profile.APP_GUEST, app).opened is None


@pytest.mark.parametrize(("offline", "connect"), [(False, True), (True, True), (True, False)])
def test_tor_is_told_not_to_connect_where_the_settings_say_offline(
    offline: bool, connect: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The account exists in a gateway alone.
    monkeypatch.setattr(constants, "TOR_USER", None)
    values = replace(
        settings.defaults(Profile.TOR_GUEST), tor=TorSettings(connect=connect), offline=offline
    )
    firewall_step.write_configuration(values, Paths(tmp_path))
    text = (tmp_path / "run/tails-profiles/torrc").read_text()
    assert f"DisableNetwork {int(offline or not connect)}\n" in text


def test_network_manager_in_app_guest_sees_our_links_and_manages_nothing(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    firewall_step.write_network_files(decide(Profile.APP_GUEST, None), paths)
    written = configparser.ConfigParser()
    written.read(paths.network_manager)
    # A link that appears later has no rules: everything but the two that are configured already.
    unmanaged = "*,except:interface-name:tor,except:interface-name:i2p"
    assert written["keyfile"]["unmanaged-devices"] == unmanaged
    assert dict(written["device-90-tails-profiles"]) == {"match-device": unmanaged, "managed": "0"}
    assert written["main"]["dns"] == "none"
    assert paths.resolv_conf.read_text() == "nameserver 127.0.0.1\n"


def test_gateways_write_nothing_for_network_manager(tmp_path: Path) -> None:
    firewall_step.write_network_files(decide(Profile.TOR_GUEST, None), Paths(tmp_path))
    assert not Paths(tmp_path).network_manager.exists()


@pytest.mark.parametrize(
    ("step", "err", "reason", "status"),
    [
        # A mistake of ours, and a machine that fails, are not the settings' fault.
        ("firewall", RuntimeError("broken"), "ruleset", 1),
        ("links", RuntimeError("broken"), "links", 1),
        ("links", CommandError("ip link", 2, "RTNETLINK answers: No such device"), "links", 6),
        ("firewall", CommandNotFoundError("/usr/sbin/nft"), "ruleset", 6),
        ("links", MissingLibraryError("pyudev", "python3-pyudev"), "links", 6),
        # What an error says about itself counts, wherever it happens.
        ("firewall", SettingsError("no JSON"), "settings", 4),
        ("links", RulesetError("refused"), "ruleset", 5),
        ("firewall", MissingAccountError("debian-tor"), "tor", 6),
        ("firewall", DetectionError("no target"), "token", 3),
    ],
)
def test_host_is_told_what_to_look_at(
    step: str,
    err: Exception,
    reason: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(boot, "announce", lambda each, _paths: said.append(each.line()))
    assert boot.fail(step, err, Paths(tmp_path)) == status
    assert json.loads((tmp_path / "run/tails-profiles/failure.json").read_text())["step"] == step
    assert said == [f"tails-profiles 1 quarantine failed {reason}\n"]


def test_settings_that_nothing_carries_out_are_not_ignored() -> None:
    for profile in GUESTS:
        settings.refuse_unbuilt(settings.defaults(profile))
    asked = replace(settings.defaults(Profile.TOR_GUEST), tor=TorSettings(transparent=True))
    with pytest.raises(SettingsError, match=r"tor\.transparent"):
        settings.refuse_unbuilt(asked)


def test_links_of_an_earlier_run_go_down_when_the_next_one_finds_a_card_of_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path)
    paths.state.mkdir(parents=True)
    paths.decision.write_text(json.dumps(decide(Profile.APP_GUEST, None).to_json()))
    stray = FoundLink("eth9", "02:00:00:00:00:09")
    monkeypatch.setattr(link_edge, "wait_for_links", lambda *_: [stray])
    put_down = []
    monkeypatch.setattr(link_edge, "put_down", put_down.append)
    with pytest.raises(LinkError, match="eth9"):
        links_step.run(paths)
    assert put_down == [paths]
