# SPDX-License-Identifier: GPL-3.0-or-later
"""A bridge of the settings, by Tor's own protocol and by obfs4, is all that tor-guest contacts.

The line goes the way of a settings file: through its grammar, into torrc, to the real programs.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.all import ARP, IP, TCP, Packet, Raw

from tails_profiles import constants as c
from tails_profiles import settings
from tails_profiles.profile import Profile
from tails_profiles.settings import Settings, TorSettings
from tests.lab.ports import Guests
from tests.lab.tornet import AUTHORITIES, BRIDGE, BRIDGE_PORT, OBFS4_PORT, PAGE, WEB, TorNetwork
from tests.lab.uplink import Uplink

pytestmark = pytest.mark.lab

_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def lines(network: TorNetwork) -> dict[str, str]:
    """The bridge's two lines, by their transport."""
    obfs4 = network.start_bridge(obfs4=True)
    return {"obfs4": obfs4, "vanilla": f"{BRIDGE}:{BRIDGE_PORT} {obfs4.split()[2]}"}


@pytest.fixture
def guests(directory: Path, network: TorNetwork) -> Iterator[Guests]:
    # A socket's path has to fit into 108 bytes (unix(7)).
    made = Guests(directory / f"bridge{next(_NUMBERS)}")
    try:
        made.load_rules()
        made.connect(network)
        yield made
    finally:
        made.close()


def read(bridges: tuple[str, ...]) -> Settings:
    """What tor-guest makes of a settings disk with these bridges."""
    wanted = replace(settings.defaults(Profile.TOR_GUEST), tor=TorSettings(bridges=bridges))
    return settings.parse(settings.serialize(wanted), profile=Profile.TOR_GUEST)


def fetch_with(bridges: tuple[str, ...], guests: Guests, network: TorNetwork) -> list[Packet]:
    """Start Tor with these, fetch the page; everything that left, from before Tor's start."""
    found = read(bridges)
    # These guests' rule sets are of this variant.
    assert settings.variant(found) == "tcp"
    assert found.tor is not None
    uplink = Uplink(guests, network)
    pages = []

    def fetch() -> None:
        guests.start_tor(network, found.tor or TorSettings())
        pages.append(guests.execute(
            guests.app, "curl", "--silent", "--show-error", "--max-time", "60",
            "--socks5-hostname", f"{c.TOR_INNER.ip}:{c.SOCKS_DEFAULT}", f"http://{WEB}/",
        ))  # fmt: skip

    try:
        frames = uplink.during(fetch)
    finally:
        uplink.close()
    assert pages[0].stdout == PAGE, pages[0].stderr
    return frames


def contacted(frames: list[Packet]) -> set[tuple[str, int]]:
    """Addresses and ports; anything but TCP and ARP for the router fails."""
    others = [frame for frame in frames if ARP not in frame]
    assert {frame[ARP].pdst for frame in frames if ARP in frame} <= {str(c.UPLINK_ROUTER)}
    assert all(TCP in frame for frame in others)
    return {(frame[IP].dst, frame[TCP].dport) for frame in others}


def speaks_tls(frames: list[Packet]) -> bool:
    """Whether the first bytes of the first stream are a ClientHello: what Tor says in the open."""
    first = next(bytes(frame[Raw].load) for frame in frames if Raw in frame)
    return first.startswith(b"\x16\x03")


@pytest.mark.parametrize(("transport", "port"), [("vanilla", BRIDGE_PORT), ("obfs4", OBFS4_PORT)])
def test_page_comes_by_the_bridge_and_nothing_else_is_contacted(
    transport: str, port: int, guests: Guests, network: TorNetwork, lines: dict[str, str]
) -> None:
    frames = fetch_with((lines[transport],), guests, network)
    assert contacted(frames) == {(BRIDGE, port)}
    assert speaks_tls(frames) == (transport == "vanilla")


def test_without_a_bridge_others_are_contacted(guests: Guests, network: TorNetwork) -> None:
    """The anti-test: the same capture sees authorities and relays."""
    addresses = {address for address, _ in contacted(fetch_with((), guests, network))}
    assert BRIDGE not in addresses
    assert addresses & set(AUTHORITIES)
