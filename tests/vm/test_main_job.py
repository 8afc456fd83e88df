# SPDX-License-Identifier: GPL-3.0-or-later
"""One image boots into both roles, by the launcher, and a page comes through Tor.

One launch serves every test here, in this order: what breaks a guest comes last. Captures of all
links run outside the guests, from before power-on to after power-off.
"""

import base64
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from scapy.all import ARP, IP, TCP, Ether

from tails_profiles import constants as c
from tails_profiles import settings
from tails_profiles.profile import Profile
from tails_profiles.settings import Keyboard
from tests.lab.tornet import AUTHORITIES, PAGE, RELAYS, WEB, run
from tests.vm import fixtures
from tests.vm.fixtures import kept_when_failed, prepared_guests
from tests.vm.guests import Guests
from tests.vm.machine import Machine

pytestmark = pytest.mark.vm

EVIDENCE = fixtures.EVIDENCE / "main-job"
#: For a terminal: what is typed into it, a line each.
READ_LINES = 'while read -r line; do echo "$line" >>/tmp/typed; done'
FETCH = f"curl --silent --show-error --max-time 90 --socks5-hostname 127.0.0.1:9050 http://{WEB}/"


@pytest.fixture(scope="module")
def guests() -> Iterator[Guests]:
    german = replace(
        settings.defaults(Profile.APP_GUEST),
        language="de_DE", formats="de_DE", keyboard=Keyboard(layout="de"),
    )  # fmt: skip
    with prepared_guests(EVIDENCE) as made:
        made.start({Profile.APP_GUEST: german})
        yield made


@pytest.fixture(autouse=True)
def evidence(request: pytest.FixtureRequest, guests: Guests) -> Iterator[None]:
    with kept_when_failed(request, guests.keep_evidence, EVIDENCE / request.node.name):
        yield


@pytest.fixture(scope="module")
def tor(guests: Guests) -> Machine:
    return guests.tor


@pytest.fixture(scope="module")
def app(guests: Guests) -> Machine:
    guests.app.wait_for_target("tails-profiles-app-guest.target", 600)
    guests.app.wait_for_unit("display-manager.service")
    return guests.app


def test_uplink_was_plugged_in_only_after_the_rules_were_in_force(guests: Guests) -> None:
    words = [words for words in guests.said if words.startswith("tor-guest: ")]
    assert words[:3] == ["tor-guest: starting", "tor-guest: selected", "tor-guest: firewall"]
    assert words[-1] == "tor-guest: ready"


def test_page_comes_through_tor(guests: Guests, app: Machine) -> None:
    assert app.succeed(FETCH) == PAGE.strip()
    assert guests.network.visitors()[-1] in RELAYS


#: Each says hello to Tor in SOCKS and is answered, and all are held until the last one is.
MANY = """
import asyncio, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
async def one():
    reader, writer = await asyncio.open_connection("127.0.0.1", 9050)
    writer.write(bytes((5, 1, 0)))
    return await asyncio.wait_for(reader.readexactly(2), 300), writer
async def main():
    held = []
    while len(held) < 4096:
        held += await asyncio.gather(*(one() for _ in range(64)))
    print(len(held), {answer for answer, _ in held})
asyncio.run(main())
"""


def test_local_port_carries_4096_connections_at_once(app: Machine) -> None:
    script = base64.b64encode(MANY.encode()).decode()
    told = app.succeed(f"echo {script} | base64 -d | python3 -", 400)
    assert told == f"4096 {{{bytes((5, 0))!r}}}"
    # And the one after them.
    assert app.succeed(FETCH) == PAGE.strip()


def test_page_does_not_come_directly(guests: Guests, app: Machine) -> None:
    before = len(guests.network.visitors())
    for options in ("", "--interface tor", "--noproxy '*'"):
        app.fail(f"curl --silent --max-time 5 {options} http://{WEB}/")
    assert len(guests.network.visitors()) == before


def test_names_are_answered_by_tor_and_nobody_else(app: Machine) -> None:
    assert app.succeed("cat /etc/resolv.conf") == "nameserver 127.0.0.1"
    onion = "a" * 56 + ".onion"
    # The relay is started by the first question, which may get its answer too late.
    answer = app.wait_until_succeeds(f"getent ahostsv4 {onion}", 60)
    assert IPv4Address(answer.split()[0]) in c.MAPPED
    app.fail("echo >/etc/resolv.conf")


def test_app_guest_is_the_desktop_with_its_language_and_keyboard(app: Machine) -> None:
    assert app.succeed("pgrep -c Xorg") == "1"
    openbox = app.wait_until_succeeds("tr '\\0' '\\n' </proc/$(pgrep -xo openbox)/environ")
    assert "LANG=de_DE.UTF-8" in openbox.splitlines()
    # The key between T and U (key code 21), which a German keyboard calls z.
    app.succeed(
        "setsid runuser -u live -- env DISPLAY=:0 XAUTHORITY=/home/live/.Xauthority"
        f" xterm -e sh -c '{READ_LINES}' >/dev/null 2>&1 &"
    )

    def something_typed() -> bool:
        # Until the window has the focus keys go nowhere.
        app.type_keys("y ret")
        return app.execute("grep . /tmp/typed")[0] == 0

    app.wait_until("keys to arrive", something_typed, 120)
    assert app.succeed("grep . /tmp/typed").splitlines()[0] == "z"


def test_gateway_has_no_display_server_and_the_image_s_tor_never_ran(tor: Machine) -> None:
    tor.fail("pgrep Xorg")
    assert tor.succeed("pgrep -xc tor") == "1"
    journal = tor.succeed(
        "journalctl -b --no-pager -u tor -u tor@default -o cat | grep -c notice || true"
    )
    assert journal == "0"
    assert "Tor 0.4" in tor.succeed(
        "journalctl -b -u tails-profiles-tor -o cat --no-pager | head -3"
    )


def test_gateway_does_without_timers_and_parts_of_the_kernel_that_app_guest_has(
    app: Machine, tor: Machine
) -> None:
    kinds = {"configfs", "debugfs", "fusectl", "hugetlbfs", "mqueue", "tracefs"}
    mounted, timers = "findmnt --noheadings --output FSTYPE", "systemctl list-timers --no-legend"
    assert kinds <= set(app.succeed(mounted).split())
    assert kinds.isdisjoint(tor.succeed(mounted).split())
    assert app.succeed(timers) != ""
    assert tor.succeed(timers) == ""


def test_tor_s_state_is_on_the_gateway_s_first_screen(tor: Machine) -> None:
    # nyx's list of what Tor says: its threads draw over each other's lines, most often the first.
    tor.wait_until_succeeds("grep -aq 'Events (TOR' /dev/vcs1")


def test_root_without_rules_in_app_guest_finds_the_gateway_in_its_way(
    guests: Guests, app: Machine
) -> None:
    before = len(guests.network.visitors())
    app.succeed("nft flush ruleset")
    for option in ("", "--interface tor"):
        app.fail(f"curl --silent --max-time 10 {option} http://{WEB}/")
    assert len(guests.network.visitors()) == before
    # Through Tor it does come, so that it was the gateway that stopped the rest.
    assert app.succeed(FETCH) == PAGE.strip()


def test_without_tor_the_page_does_not_come(app: Machine, tor: Machine) -> None:
    tor.succeed("systemctl stop tails-profiles-tor")
    app.fail(FETCH.replace("--max-time 90", "--max-time 10"))


def test_both_answer_the_power_button(guests: Guests) -> None:
    guests.switch_off()


def test_uplink_carried_nothing_but_tor(guests: Guests, tor: Machine) -> None:
    own = [frame for frame in tor.frames("uplink") if frame[Ether].src == c.TOR_UPLINK_MAC]
    assert own
    known = {*AUTHORITIES, *RELAYS}
    for frame in own:
        if ARP in frame:
            assert (frame[ARP].psrc, frame[ARP].pdst) == ("10.0.2.15", "10.0.2.2")
        else:
            assert TCP in frame, frame.summary()
            assert frame[IP].dst in known, frame.summary()


def test_tor_guest_answered_app_guest_and_said_nothing_else_on_the_inner_link(
    app: Machine, tor: Machine
) -> None:
    for machine, link in ((app, "tor"), (tor, "inner")):
        said = [frame for frame in machine.frames(link) if frame[Ether].src != c.APP_TOR_MAC]
        assert said
        for frame in said:
            assert frame[Ether].src == c.TOR_MAC
            assert IP in frame, frame.summary()
            assert (frame[IP].src, frame[IP].dst) == ("10.1.2.1", "10.1.2.3"), frame.summary()
            assert frame.sport in {*c.SOCKS_PORTS, *c.DNS_PORTS}, frame.summary()


def test_stop_leaves_nothing(guests: Guests) -> None:
    guests.stop()
    assert not guests.state.exists()
    assert "tails_profiles_host" not in run(
        "ip", "netns", "exec", guests.world.namespace, "nft", "list", "tables"
    )
