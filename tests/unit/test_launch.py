# SPDX-License-Identifier: GPL-3.0-or-later
"""The launch plan and its translation: who runs, with what, behind which gate.

``python3 -m tests.unit.test_launch`` writes the golden command lines anew; read their difference.
"""

import re
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

from tails_profiles import launch, launch_steps, settings, settings_disk
from tails_profiles.errors import InvalidSettingError, LaunchError, SettingsError
from tails_profiles.launch import HostFacts, ImageFacts, LaunchPlan
from tails_profiles.launch_steps import Await, CheckImage, LoadRules
from tails_profiles.machine_steps import Monitor, StartMachine
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import (
    Feature,
    I2pSettings,
    Proxy,
    ProxyType,
    Settings,
    Share,
    TorSettings,
)  # fmt: skip

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
IMAGE = ImageFacts(device=1, inode=2, size=3, changed=4_000_000_005)
RESOLVER = IPv4Address("127.0.0.53")
FACTS = HostFacts(8192, IMAGE, kvm=True, systemd=False, now=NOW, resolver=RESOLVER)
DEFAULTS = {profile: settings.defaults(profile) for profile in GUESTS}
OFFSETS = {Profile.TOR_GUEST: 1.0, Profile.I2P_GUEST: 1.0, Profile.APP_GUEST: -1.0}
SEEDS = {profile: bytes(64) for profile in GUESTS}
SNOWFLAKE = "snowflake 192.0.2.3:80 url=https://example.org/"


def plan(
    facts: HostFacts = FACTS, tor: TorSettings | None = None, *, i2p: bool = False
) -> LaunchPlan:
    given: dict[Profile, Settings] = dict(DEFAULTS)
    if tor is not None:
        given[Profile.TOR_GUEST] = replace(given[Profile.TOR_GUEST], tor=tor)
    return launch.plan(Path("/image.iso"), Path("/run/x"), facts, given, OFFSETS, i2p=i2p)


def argv(profile: Profile, made: LaunchPlan) -> tuple[str, ...]:
    return next(
        step.command.argv
        for step in launch_steps.steps(made, SEEDS)
        if isinstance(step, StartMachine) and step.guest.profile is profile
    )


def option(words: tuple[str, ...], name: str) -> list[str]:
    return [words[i + 1] for i, word in enumerate(words) if word == name]


def test_gateways_start_before_app_guest() -> None:
    assert [guest.profile for guest in plan(i2p=True).guests] == [*GUESTS]
    assert Profile.I2P_GUEST not in [guest.profile for guest in plan().guests]


def test_clocks_differ_from_the_hosts_by_what_the_design_allows() -> None:
    clocks = {guest.profile: (guest.clock - NOW).total_seconds() for guest in plan(i2p=True).guests}
    assert clocks == {Profile.TOR_GUEST: 5, Profile.I2P_GUEST: 0, Profile.APP_GUEST: -600}


@pytest.mark.parametrize("profile", GUESTS)
def test_no_default_of_a_release_of_qemu_is_left_to_it(profile: Profile) -> None:
    words = argv(profile, plan(i2p=True))
    assert re.match(r"pc-q35-\d+\.\d+,", option(words, "-machine")[0])
    assert "tcg-cpuid=off" in option(words, "-cpu")[0].split(",")
    assert {"mch.extended-tseg-mbytes=0", "apic-common.vapic=off"} <= {*option(words, "-global")}
    (disk,) = (word for word in option(words, "-device") if "drive=settings" in word)
    assert "queue-size=1024" in disk.split(",")


def test_missing_image_and_too_little_memory_are_refused_in_words() -> None:
    with pytest.raises(LaunchError, match=r"/image\.iso: no such image"):
        plan(replace(FACTS, image=None))
    with pytest.raises(LaunchError, match=r"1000 MiB .* need 2880"):
        plan(replace(FACTS, available_memory=1000))


@pytest.mark.parametrize(
    ("tor", "i2p", "resolver", "udp"),
    [
        (TorSettings(), False, None, False),
        (TorSettings(), True, None, True),
        (TorSettings(bridges=(SNOWFLAKE,)), False, RESOLVER, True),
    ],
)
def test_host_opens_what_the_transport_needs(
    tor: TorSettings, i2p: bool, resolver: IPv4Address | None, udp: bool
) -> None:
    made = plan(tor=tor, i2p=i2p)
    assert (made.resolver, made.udp) == (resolver, udp)
    rules = launch_steps.host_rules(made)
    assert ("dport 53" in rules) == (resolver is not None)
    assert (f"ip daddr {RESOLVER} udp dport 53 counter accept" in rules) == (resolver is not None)
    assert ("meta l4proto udp" in rules) == udp


def test_private_proxy_is_the_only_private_address_of_the_hosts_rules() -> None:
    proxy = Proxy(ProxyType.SOCKS5, IPv4Address("192.168.7.9"), 1080)
    rules = launch_steps.host_rules(plan(tor=TorSettings(proxy=proxy)))
    assert "proxy { 192.168.7.9 . 1080 }" in rules
    assert "add element" not in launch_steps.host_rules(plan())


def test_uplink_is_unplugged_before_the_first_instruction_and_plugged_after_the_word() -> None:
    order = [
        step
        for step in launch_steps.steps(plan(), SEEDS)
        if isinstance(step, StartMachine | Monitor | Await)
        and step.guest.profile is Profile.TOR_GUEST
    ]
    assert isinstance(order[0], StartMachine)
    assert "-S" in order[0].command.argv
    shown = [
        (step.command, step.arguments.get("up")) if isinstance(step, Monitor) else step.word
        for step in order[1:]
        if not isinstance(step, StartMachine)
    ]
    assert shown == [
        ("set_link", False), ("cont", None), "firewall", ("set_link", True), "ready",
    ]  # fmt: skip


def test_rules_of_the_host_are_loaded_before_any_machine_starts() -> None:
    steps = launch_steps.steps(plan(), SEEDS)
    rules = next(i for i, step in enumerate(steps) if isinstance(step, LoadRules))
    first = next(i for i, step in enumerate(steps) if isinstance(step, StartMachine))
    assert rules < first


def test_app_guest_runs_without_any_network_and_has_no_uplink() -> None:
    words = argv(Profile.APP_GUEST, plan())
    assert words[words.index("/usr/bin/unshare") + 1] == "--net"
    assert "--reuid=tails-profiles-app" in words
    assert "--bounding-set=-all" in words
    assert all(netdev.startswith("dgram,") for netdev in option(words, "-netdev"))
    assert option(words, "-serial") == ["none"]


def test_under_systemd_the_same_is_a_transient_unit() -> None:
    made = plan(replace(FACTS, systemd=True))
    app, tor = argv(Profile.APP_GUEST, made), argv(Profile.TOR_GUEST, made)
    assert "--property=PrivateNetwork=yes" in app
    assert "--property=PrivateNetwork=no" in tor
    assert "--property=User=tails-profiles-gateway" in tor
    assert "--property=NoNewPrivileges=yes" in app


def test_both_ends_of_the_inner_link_name_each_others_socket() -> None:
    made = plan()
    (gateway,) = [n for n in option(argv(Profile.TOR_GUEST, made), "-netdev") if "dgram" in n]
    (app,) = option(argv(Profile.APP_GUEST, made), "-netdev")
    ends = {}
    for name, text in (("gateway", gateway), ("app", app)):
        ends[name] = dict(word.split("=", 1) for word in text.split(",") if "=" in word)
    assert ends["gateway"]["local.path"] == ends["app"]["remote.path"]
    assert ends["app"]["local.path"] == ends["gateway"]["remote.path"]


@pytest.mark.parametrize("profile", GUESTS)
def test_identity_is_constant_and_every_table_that_qemu_fills_is_given(profile: Profile) -> None:
    words = argv(profile, plan(i2p=True))
    types = [text.split(",")[0] for text in option(words, "-smbios")]
    assert types == [f"type={number}" for number in (0, 1, 2, 3, 4, 11, 17)]
    assert f"tails-profile:{profile}" in option(words, "-smbios")[0]
    assert "asset=tails-profiles-settings:1" in option(words, "-smbios")[3]
    for needed in ("-nodefaults", "-no-user-config", "-sandbox"):
        assert needed in words
    assert "host" not in option(words, "-cpu")[0]
    assert all("read-only=on" in drive for drive in option(words, "-blockdev"))
    assert not any("hostfwd" in word or "guestfwd" in word for word in words)


def test_plan_is_what_start_runs_line_by_line() -> None:
    steps = launch_steps.steps(plan(), SEEDS)
    text = launch_steps.display(plan(), steps)
    for step in steps:
        assert step.display() in text


@pytest.mark.parametrize(
    ("profile", "key", "asked"),
    [
        (Profile.TOR_GUEST, "tor.transparent", {"tor": TorSettings(transparent=True)}),
        (Profile.APP_GUEST, "shares", {"shares": (Share("data", Feature.GNUPG),)}),
        (Profile.APP_GUEST, "admin_password_hash", {"admin_password_hash": "$6$salt$hash"}),
    ],
)
def test_what_no_guest_carries_out_is_refused_and_not_ignored(
    profile: Profile, key: str, asked: dict[str, Any]
) -> None:
    given = {**DEFAULTS, profile: replace(DEFAULTS[profile], **asked)}
    with pytest.raises(SettingsError, match=key):
        launch.plan(Path("/image.iso"), Path("/run/x"), FACTS, given, OFFSETS, i2p=False)


def test_host_file_is_divided_among_the_guests() -> None:
    data = (
        b'{"language": "de_DE", "tor": {"connect": false, "bridges": [], "proxy_type": null,'
        b'"proxy_address": null, "proxy_port": null, "proxy_username": null,'
        b'"proxy_password": null, "transparent": false}}'
    )
    found = settings.for_guests(data)
    assert {each.language for each in found.values()} == {"de_DE"}
    tor = found[Profile.TOR_GUEST].tor
    assert tor is not None
    assert not tor.connect
    assert found[Profile.APP_GUEST].tor is None
    assert found[Profile.APP_GUEST].i2p is None


@pytest.mark.parametrize("data", [b"[]", b'{"profile": "tor-guest"}', b'{"x": 1}'])
def test_host_file_with_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidSettingError, match="language"):
        settings.for_guests(data)


@pytest.mark.parametrize("depth", range(900, 1100, 4))
def test_host_file_nested_however_deeply_is_refused_with_words(depth: int) -> None:
    with pytest.raises(SettingsError):
        settings.for_guests(b'{"shares": ' + b"[" * depth + b"]" * depth + b"}")


def test_host_json_names_what_the_steps_do() -> None:
    made = plan(i2p=True)
    found = launch_steps.to_json(made, launch_steps.steps(made, SEEDS))
    assert set(found) == {
        "version", "hypervisor", "image", "directory", "accelerator", "runner", "warnings",
        "guests", "prelude", "steps",
    }  # fmt: skip
    assert [guest["profile"] for guest in found["guests"]] == [*GUESTS]
    assert {step["kind"] for step in found["steps"]} == {
        "command", "rules", "check-readable", "check-image", "settings-disk", "machine", "monitor",
        "await",
    }  # fmt: skip


def test_first_routers_are_on_i2p_guests_disk_alone_and_its_settings_ask_for_them() -> None:
    made = launch.with_bundle(plan(i2p=True), b"PK\3\4...")
    for step in launch_steps.steps(made, SEEDS):
        if isinstance(step, launch_steps.WriteDisk):
            content = settings_disk.read(step.image)
            found = settings.parse(content.settings, profile=step.guest.profile)
            mine = step.guest.profile is Profile.I2P_GUEST
            assert content.bundle == (b"PK\3\4..." if mine else b"")
            assert (found.i2p is not None and found.i2p.reseed == "bundle") == mine


def test_port_that_the_settings_open_leads_from_this_host_to_i2p_guest_alone() -> None:
    opened = replace(DEFAULTS[Profile.I2P_GUEST], i2p=I2pSettings(port=23456, reseed="online"))
    given = DEFAULTS | {Profile.I2P_GUEST: opened}
    made = launch.plan(Path("/image.iso"), Path("/run/x"), FACTS, given, OFFSETS, i2p=True)
    for profile in GUESTS:
        text = " ".join(argv(profile, made))
        forward = "hostfwd=tcp::23456-10.0.2.15:23456,hostfwd=udp::23456-10.0.2.15:23456"
        assert text.count("hostfwd") == (2 if profile is Profile.I2P_GUEST else 0)
        assert (forward in text) == (profile is Profile.I2P_GUEST)
    assert "hostfwd" not in str([argv(profile, plan(i2p=True)) for profile in GUESTS])


def test_port_that_nobody_can_call_is_warned_of_with_every_reason() -> None:
    def warned(port: int | None, *, exclusive: bool, virtualbox: bool) -> list[str]:
        opened = replace(DEFAULTS[Profile.I2P_GUEST], i2p=I2pSettings(port=port, reseed="online"))
        given = DEFAULTS | {Profile.I2P_GUEST: opened}
        facts = replace(
            FACTS, virtualbox=launch.VirtualBoxFacts((7, 2), None) if virtualbox else None
        )
        made = launch.plan(Path("/image.iso"), Path("/run/x"), facts, given, OFFSETS, i2p=True)
        if exclusive:
            made = launch.exclusively(made)
        words: list[str] = launch_steps.to_json(made, ())["warnings"]
        script = launch_steps.display(made, ())
        assert words == list(launch.warnings(made))
        comments = [line for line in script.splitlines() if line.startswith("# warning: ")]
        assert comments == [f"# warning: {each}" for each in words]
        return words

    for exclusive, virtualbox in product((False, True), repeat=2):
        assert warned(None, exclusive=exclusive, virtualbox=virtualbox) == []
        found = warned(23456, exclusive=exclusive, virtualbox=virtualbox)
        assert len(found) == exclusive + virtualbox
        assert all(words.startswith("i2p.port 23456: nobody can call") for words in found)
        assert any("--exclusive" in words for words in found) == exclusive
        assert any("VirtualBox" in words for words in found) == virtualbox
    # Nor where there is no i2p-guest.
    assert launch.warnings(launch.exclusively(plan())) == ()


def test_names_are_asked_of_the_host_s_resolver_alone_or_the_launch_is_refused() -> None:
    tor = TorSettings(bridges=(SNOWFLAKE,))
    assert plan(tor=tor).resolver == RESOLVER
    with pytest.raises(LaunchError, match="no IPv4 resolver"):
        plan(replace(FACTS, resolver=None), tor=tor)
    assert plan(replace(FACTS, resolver=None)).resolver is None


@pytest.mark.parametrize(
    "directory", ["relative", "/run/a b", "/run/a,b", "/run/$x", "/run/" + "x" * 79, "/run/ü"]
)
def test_directory_that_sockets_cannot_be_in_is_refused(directory: str) -> None:
    with pytest.raises(LaunchError):
        launch.plan(Path("/i"), Path(directory), FACTS, DEFAULTS, OFFSETS, i2p=False)


def test_longest_directory_still_holds_every_socket() -> None:
    longest = Path("/run/" + "x" * 78)
    made = launch.plan(Path("/i"), longest, FACTS, DEFAULTS, OFFSETS, i2p=True)
    paths = [path for guest in made.guests for path in (guest.serial, guest.monitor, guest.screen)]
    paths += [made.link_directory / "tails-tor.gateway"]
    assert max(len(str(path)) for path in paths) <= 107


@pytest.mark.parametrize("image", ["/a\nb", '/a"b', "/a$b", "/a%b", "/a:b", "/a\\b"])
def test_image_whose_path_would_need_escapes_is_refused(image: str) -> None:
    with pytest.raises(LaunchError, match="cannot be passed on"):
        launch.plan(Path(image), Path("/run/x"), FACTS, DEFAULTS, OFFSETS, i2p=False)


def test_image_with_blanks_and_commas_is_passed_on_whole() -> None:
    made = launch.plan(
        Path("/my images/a, b.iso"), Path("/run/x"), replace(FACTS, systemd=True), DEFAULTS,
        OFFSETS, i2p=False,
    )  # fmt: skip
    words = argv(Profile.TOR_GUEST, made)
    assert any(word.endswith("file.filename=/my images/a,, b.iso") for word in words)
    assert '--property=BindReadOnlyPaths="/my images/a, b.iso"' in words


def test_image_is_compared_after_every_start_and_at_the_end() -> None:
    steps = launch_steps.steps(plan(i2p=True), SEEDS)
    for now, then in pairwise(steps):
        if isinstance(now, StartMachine):
            assert then == CheckImage(Path("/image.iso"), IMAGE)
    assert isinstance(steps[-1], CheckImage)
    assert steps[-1].display() == "unchanged /image.iso '1 2 3 4.000000005'"


GOLDEN = Path(__file__).parents[1] / "golden/argv"
RUNNERS = {"setpriv-tcg": (False, False), "systemd-kvm": (True, True)}
CASES = [*product(GUESTS, RUNNERS)]


def golden_argv(profile: Profile, runner: str) -> str:
    systemd, kvm = RUNNERS[runner]
    words = argv(profile, plan(replace(FACTS, systemd=systemd, kvm=kvm), i2p=True))
    # An option and its value on one line.
    return re.sub(r"\n(?!-|/)", " ", "\n".join(words)) + "\n"


@pytest.mark.parametrize(("profile", "runner"), CASES)
def test_command_line_is_the_golden_file(profile: Profile, runner: str) -> None:
    assert golden_argv(profile, runner) == (GOLDEN / f"qemu-{profile}-{runner}.txt").read_text()


def test_there_is_no_golden_file_that_no_command_line_writes() -> None:
    assert {path.name for path in GOLDEN.glob("qemu-*")} == {
        f"qemu-{profile}-{runner}.txt" for profile, runner in CASES
    }


if __name__ == "__main__":
    for each in CASES:
        (GOLDEN / f"qemu-{each[0]}-{each[1]}.txt").write_text(golden_argv(*each))
