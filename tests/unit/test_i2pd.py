# SPDX-License-Identifier: GPL-3.0-or-later
"""The I2P router's configuration in i2p-guest, and how far it is said to be."""

import configparser
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from tails_profiles import progress
from tails_profiles.announce import parse_line
from tails_profiles.boot import decide, write_configuration
from tails_profiles.errors import ReseedError
from tails_profiles.i2pd import ADDITIONS, BUNDLES, asks_names, i2pd_conf
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.settings import I2pSettings, defaults
from tails_profiles.status import I2pStatus
from tails_profiles.system import i2p

GOLDEN = Path(__file__).parents[1] / "golden/i2pd"
SU3, ZIP = BUNDLES


def parsed(text: str) -> dict[str, dict[str, str]]:
    """As i2pd reads it: a key in a section once, the lines before the first one apart."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string("[router]\n" + text)
    return {name: dict(parser[name]) for name in parser.sections()}


@pytest.mark.parametrize(
    ("name", "settings", "bundle"),
    [
        ("default", I2pSettings(), None),
        ("bundle-port", I2pSettings(port=23456, reseed="bundle"), SU3),
    ],
)
def test_configuration_is_the_one_that_was_reviewed(
    name: str, settings: I2pSettings, bundle: str | None
) -> None:
    assert i2pd_conf(settings, bundle) == (GOLDEN / f"{name}.conf").read_text()


def test_only_the_two_proxies_listen_and_only_on_the_inner_link() -> None:
    sections = parsed(i2pd_conf(I2pSettings(), None))
    enabled = {name for name, keys in sections.items() if keys.get("enabled") == "true"}
    assert enabled == {"httpproxy", "socksproxy", "ntcp2", "ssu2"}
    where = {(keys["address"], keys["port"]) for keys in sections.values() if "address" in keys}
    assert where == {("10.1.3.1", "4444"), ("10.1.3.1", "4447")}
    # Each of these is on unless it is switched off by name.
    for name in ("http", "sam", "bob", "i2cp", "i2pcontrol", "addressbook", "nettime", "upnp"):
        assert sections[name]["enabled"] == "false"
    assert sections["router"]["ipv6"] == "false"
    assert sections["socksproxy"]["outproxy.enabled"] == "false"
    assert sections["httpproxy"]["outproxy"] == ""


@pytest.mark.parametrize(
    ("reseed", "bundle", "key"),
    [
        (None, None, None), (None, SU3, "file"), (None, ZIP, "zipfile"), ("bundle", ZIP, "zipfile"),
        ("online", SU3, None),
    ],
)  # fmt: skip
def test_first_routers_come_from_the_image_or_from_their_servers_and_never_from_both(
    reseed: str | None, bundle: str | None, key: str | None
) -> None:
    settings = I2pSettings(reseed=reseed)
    section = parsed(i2pd_conf(settings, bundle))["reseed"]
    assert {name: value for name, value in section.items() if name in {"file", "zipfile"}} == (
        {key: bundle} if key else {}
    )
    assert section.get("urls") == ("" if key else None)
    assert section["verify"] == "true"
    assert asks_names(settings, bundle) == (key is None)


def test_bundle_that_is_wanted_and_not_there_is_refused_by_name() -> None:
    with pytest.raises(ReseedError, match="has none") as caught:
        i2pd_conf(I2pSettings(reseed="bundle"), None)
    assert SU3 in (caught.value.hint or "")
    assert caught.value.reason == "i2p"


def test_additions_of_the_image_stand_before_the_first_section() -> None:
    sections = parsed(i2pd_conf(I2pSettings(), None, "netid = 23\n"))
    assert sections["router"]["netid"] == "23"


def test_files_of_the_router_are_written_and_nobody_else_gets_names(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_configuration(defaults(Profile.I2P_GUEST), paths)
    assert paths.i2pd_conf.read_text() == (GOLDEN / "default.conf").read_text()
    assert paths.i2pd_resolv_conf.read_text() == "nameserver 9.9.9.9\nnameserver 149.112.112.112\n"
    for name, text in ((ZIP, ""), (ADDITIONS, "netid = 23\n")):
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_configuration(defaults(Profile.I2P_GUEST), paths)
    assert f"zipfile = {ZIP}\n" in paths.i2pd_conf.read_text()
    assert "netid = 23\n" in paths.i2pd_conf.read_text()
    assert "nameserver" not in paths.i2pd_resolv_conf.read_text()
    assert not paths.torrc.exists()
    assert decide(Profile.I2P_GUEST, None).dhcp


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
# 10.1.3.1:4444 and :4447 listening, as proc(5) shows them.
PROXIES = (
    "   0: 0103010A:115C 00000000:0000 0A 00000000:00000000 00:00000000 00000000   {uid} 0 1\n"
    "   1: 0103010A:115F 00000000:0000 0A 00000000:00000000 00:00000000 00000000   {uid} 0 1\n"
)
# From 10.0.2.15 to 198.18.1.2:5000; and app-guest at a proxy, who is no peer.
PEER = "   2: 0F02000A:8000 020112C6:1388 01 00000000:00000000 00:00000000 00000000   {uid} 0 1\n"
CLIENT = "   3: 0103010A:115C 0303010A:9000 01 00000000:00000000 00:00000000 00000000   {uid} 0 1\n"


@pytest.fixture
def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(i2p, "_user", lambda: 101)
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "var/lib/i2pd").mkdir(parents=True)
    return Paths(tmp_path)


def sockets(router: Paths, text: str, uid: int = 101) -> None:
    (router.procfs / "net/tcp").write_text(HEADER + text.format(uid=uid))


def know(router: Paths, number: int) -> None:
    for each in range(number):
        path = router.i2p_data / f"netDb/r{each % 10}/routerInfo-{each}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_state_is_read_from_sockets_and_stored_routers(router: Paths) -> None:
    assert i2p.read_state(router) == I2pStatus(False, 0, 0, 0)
    sockets(router, PROXIES)
    know(router, 12)
    assert i2p.read_state(router) == I2pStatus(True, 12, 0, 0)
    sockets(router, PROXIES + PEER + CLIENT)
    assert i2p.read_state(router) == I2pStatus(True, 12, 1, 0)
    sockets(router, PROXIES + PEER, uid=0)
    assert i2p.read_state(router).peers == 0
    (router.procfs / "net/snmp").write_text(
        "Tcp: InSegs OutSegs\nTcp: 7 8\nUdp: InErrors InDatagrams\nUdp: 5 101\n"
    )
    assert i2p.read_state(router).datagrams == 101
    sockets(router, PROXIES.splitlines(keepends=True)[0])
    assert not i2p.read_state(router).listening


@pytest.mark.parametrize(
    ("state", "percent"),
    [
        (I2pStatus(False, 25, 3, 900), 0),
        (I2pStatus(True, None, 3, 900), 0),
        (I2pStatus(True, 0, 0, 0), 10),
        (I2pStatus(True, 5, 0, 100), 26),
        (I2pStatus(True, 24, 1, 0), 96),
        (I2pStatus(True, 25, 0, 100), 90),
        (I2pStatus(True, 25, 1, 0), 100),
        (I2pStatus(True, 25, 0, 101), 100),
        (I2pStatus(True, 300, 9, 900), 100),
    ],
)
def test_hundred_needs_open_proxies_enough_routers_and_one_that_answers(
    state: I2pStatus, percent: int
) -> None:
    assert state.percent == percent


def said(percents: Iterator[int | None], *, failed: bool = False) -> list[str]:
    lines = [
        each.line() for each in progress.announcements(Profile.I2P_GUEST, percents, lambda: failed)
    ]
    assert all(parse_line(line.encode()) for line in lines)
    return [line.removeprefix("tails-profiles 1 i2p-guest ").strip() for line in lines]


def test_host_hears_each_change_and_ready(router: Paths) -> None:
    events = iter([
        lambda: None,
        lambda: sockets(router, PROXIES),
        lambda: None,
        lambda: know(router, 10),
        lambda: know(router, 25),
        lambda: sockets(router, PROXIES + PEER),
    ])  # fmt: skip
    percents = progress.i2p_progress(router, sleep=lambda _: next(events)())
    assert said(percents) == ["starting", "i2p 0", "i2p 10", "i2p 42", "i2p 90", "i2p 100", "ready"]


def test_host_hears_that_the_router_gave_up(router: Paths) -> None:
    assert said(progress.i2p_progress(router, sleep=lambda _: None), failed=True) == [
        "starting", "failed i2p",
    ]  # fmt: skip


def test_tors_lines_are_what_they_were() -> None:
    lines = [
        each.line()
        for each in progress.announcements(Profile.TOR_GUEST, chain([5], [100]), lambda: False)
    ]
    assert [line.removeprefix("tails-profiles 1 tor-guest ") for line in lines] == [
        "starting\n", "tor 5\n", "tor 100\n", "ready\n",
    ]  # fmt: skip
