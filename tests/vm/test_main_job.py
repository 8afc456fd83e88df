# SPDX-License-Identifier: GPL-3.0-or-later
"""One image boots into both roles, by the launcher, and a page comes through Tor.

One launch serves every test here. Captures of all links run outside the guests from power-on.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.all import ARP, IP, TCP, Ether, rdpcap  # type: ignore[attr-defined]

from tails_profiles import constants as c
from tails_profiles import settings
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import Keyboard
from tests.lab.tornet import AUTHORITIES, PAGE, RELAYS, WEB, run
from tests.vm.guests import Guests, Shell

pytestmark = pytest.mark.vm

FETCH = f"curl --silent --show-error --max-time 90 --socks5-hostname 127.0.0.1:9050 http://{WEB}/"


@pytest.fixture(scope="module")
def guests() -> Iterator[Guests]:
    # On a path that another user may enter: machines do not run as root.
    made = Guests(Path(tempfile.mkdtemp(prefix="tp-vm-", dir="/var/tmp")))
    given = {profile: settings.defaults(profile) for profile in GUESTS}
    given[Profile.APP_GUEST] = replace(
        given[Profile.APP_GUEST], language="de_DE", formats="de_DE", keyboard=Keyboard(layout="de")
    )
    try:
        made.prepare()
        made.start(given)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def tor(guests: Guests) -> Shell:
    return guests.shell(Profile.TOR_GUEST)


@pytest.fixture(scope="module")
def app(guests: Guests) -> Shell:
    made = guests.shell(Profile.APP_GUEST)
    made.output(
        "systemctl is-system-running --wait >/dev/null; "
        "systemctl is-active tails-profiles-app-guest.target display-manager.service", 600
    )  # fmt: skip
    return made


def test_uplink_was_plugged_in_only_after_the_rules_were_in_force(guests: Guests) -> None:
    words = [words for words in guests.said if words.startswith("tor-guest: ")]
    assert words[:3] == ["tor-guest: starting", "tor-guest: selected", "tor-guest: firewall"]
    assert words[-1] == "tor-guest: ready"


def test_page_comes_through_tor(guests: Guests, app: Shell) -> None:
    assert app.output(FETCH) == PAGE.strip()
    assert guests.network.visitors()[-1] in RELAYS


def test_page_does_not_come_directly(guests: Guests, app: Shell) -> None:
    before = len(guests.network.visitors())
    for options in ("", "--interface tor", "--noproxy '*'"):
        status, _ = app.execute(f"curl --silent --max-time 5 {options} http://{WEB}/")
        assert status != 0
    assert len(guests.network.visitors()) == before


def test_names_are_answered_by_tor_and_nobody_else(app: Shell) -> None:
    assert app.output("cat /etc/resolv.conf") == "nameserver 127.0.0.1"
    onion = "a" * 56 + ".onion"
    address = app.output(f"getent ahostsv4 {onion} | head -1 | cut -d' ' -f1")
    assert IPv4Address(address) in c.MAPPED
    assert app.execute("echo >/etc/resolv.conf")[0] != 0


def test_app_guest_is_the_desktop_with_its_language_and_keyboard(app: Shell) -> None:
    assert app.output("pgrep -c Xorg") == "1"
    openbox = app.output("tr '\\0' '\\n' </proc/$(pgrep -o openbox)/environ")
    assert "LANG=de_DE.UTF-8" in openbox.splitlines()
    # Key code 21 is the key between T and U: y, and z on a German keyboard.
    keys = app.output(
        "XAUTHORITY=$(ls /var/run/lightdm/root/:0) DISPLAY=:0 xkbcomp -xkb :0 - 2>/dev/null"
        " | tr -d '\\n ' | grep -o 'key<AD06>[^;]*'"
    )
    assert "[z,Z" in keys, keys


def test_gateway_has_no_display_server_and_the_image_s_tor_never_ran(tor: Shell) -> None:
    assert tor.execute("pgrep Xorg")[0] != 0
    assert tor.output("pgrep -xc tor") == "1"
    journal = tor.output(
        "journalctl -b --no-pager -u tor -u tor@default -o cat | grep -c notice || true"
    )
    assert journal == "0"
    assert "Tor 0.4" in tor.output(
        "journalctl -b -u tails-profiles-tor -o cat --no-pager | head -3"
    )


def test_uplink_carries_nothing_but_tor_from_power_on(guests: Guests) -> None:
    frames = rdpcap(str(guests.capture(Profile.TOR_GUEST, "uplink")))
    own = [frame for frame in frames if frame[Ether].src == c.TOR_UPLINK_MAC]
    assert own
    known = {*AUTHORITIES, *RELAYS}
    for frame in own:
        if ARP in frame:
            assert (frame[ARP].psrc, frame[ARP].pdst) == ("10.0.2.15", "10.0.2.2")
        else:
            assert TCP in frame, frame.summary()
            assert frame[IP].dst in known, frame.summary()


def test_tor_guest_answers_app_guest_and_says_nothing_else_on_the_inner_link(
    guests: Guests,
) -> None:
    frames = rdpcap(str(guests.capture(Profile.APP_GUEST, "tor")))
    said = [frame for frame in frames if frame[Ether].src != c.APP_TOR_MAC]
    assert said
    for frame in said:
        assert frame[Ether].src == c.TOR_MAC
        assert IP in frame, frame.summary()
        assert (frame[IP].src, frame[IP].dst) == ("10.1.2.1", "10.1.2.3"), frame.summary()
        assert frame.sport in {*c.SOCKS_PORTS, *c.DNS_PORTS}, frame.summary()


def test_root_without_rules_in_app_guest_finds_the_gateway_in_its_way(
    guests: Guests, app: Shell
) -> None:
    before = len(guests.network.visitors())
    app.output("nft flush ruleset")
    for option in ("", "--interface tor"):
        assert app.execute(f"curl --silent --max-time 10 {option} http://{WEB}/")[0] != 0
    assert len(guests.network.visitors()) == before
    # Through Tor it does come, so that it was the gateway that stopped the rest.
    assert app.output(FETCH) == PAGE.strip()


def test_without_tor_the_page_does_not_come(app: Shell, tor: Shell) -> None:
    tor.output("systemctl stop tails-profiles-tor")
    assert app.execute(FETCH.replace("90", "10"))[0] != 0


def test_stop_leaves_nothing(guests: Guests) -> None:
    guests.stop()
    assert not guests.state.exists()
    assert "tails_profiles_host" not in run(
        "ip", "netns", "exec", guests.uplink, "nft", "list", "tables"
    )
