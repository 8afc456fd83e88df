# SPDX-License-Identifier: GPL-3.0-or-later
"""The I2P router's configuration in i2p-guest, and how far it is said to be."""

import configparser
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from tails_profiles import i2p_progress, progress
from tails_profiles.announce import REPEAT, parse_line
from tails_profiles.errors import I2pError, ReseedError, SettingsError, SubscriptionError
from tails_profiles.firewall_step import decide, find_settings, write_configuration
from tails_profiles.i2pd import (
    ADDITIONS,
    BUNDLES,
    OWN_TUNNELS,
    ROUTERS_WANTED,
    SILENCE,
    SUBSCRIPTIONS,
    Heard,
    asks_names,
    given_path,
    has_bundle,
    hear,
    i2pd_conf,
)  # fmt: skip
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.running import LIMITS_KVM, LIMITS_TCG
from tails_profiles.selection import Selection
from tails_profiles.settings import I2pSettings, defaults, serialize
from tails_profiles.settings_disk import Content
from tails_profiles.status import I2pStatus
from tails_profiles.system import i2p, units

TOP = Path(__file__).parents[2]
GOLDEN = TOP / "tests/golden/i2pd"
SU3, ZIP = BUNDLES


def parsed(text: str) -> dict[str, dict[str, str]]:
    """As i2pd reads it: a key in a section once, the lines before the first one apart."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string("[router]\n" + text)
    return {name: dict(parser[name]) for name in parser.sections()}


@pytest.mark.parametrize(
    ("name", "settings", "bundle"),
    [
        ("default", I2pSettings(), ZIP),
        ("bundle-port", I2pSettings(port=23456, reseed="bundle"), "/etc/i2pd/reseed.su3"),
        ("online", I2pSettings(reseed="online"), None),
    ],
)
def test_configuration_is_the_one_that_was_reviewed(
    name: str, settings: I2pSettings, bundle: str | None
) -> None:
    assert i2pd_conf(settings, bundle) == (GOLDEN / f"{name}.conf").read_text()


def test_only_the_two_proxies_listen_and_only_on_the_inner_link() -> None:
    sections = parsed(i2pd_conf(I2pSettings(), ZIP))
    enabled = {name for name, keys in sections.items() if keys.get("enabled") == "true"}
    # The address book listens nowhere.
    assert enabled == {"httpproxy", "socksproxy", "ntcp2", "ssu2", "addressbook"}
    where = {(keys["address"], keys["port"]) for keys in sections.values() if "address" in keys}
    assert where == {("10.1.3.1", "4444"), ("10.1.3.1", "4447")}
    # One name for both is one destination; a name that does not begin so is of a file.
    keys = [sections[name]["keys"] for name in ("httpproxy", "socksproxy")]
    assert len(set(keys)) == 2
    assert all(key.startswith("transient-") for key in keys)
    # Each of these is on unless it is switched off by name.
    for name in ("http", "sam", "bob", "i2cp", "i2pcontrol", "nettime", "upnp"):
        assert sections[name]["enabled"] == "false"
    assert sections["router"]["ipv6"] == "false"
    assert sections["socksproxy"]["outproxy.enabled"] == "false"
    assert sections["httpproxy"]["outproxy"] == ""


@pytest.mark.parametrize(
    ("reseed", "bundle", "key"),
    [
        (None, SU3, "file"), (None, ZIP, "zipfile"), ("bundle", ZIP, "zipfile"),
        ("bundle", "/etc/i2pd/reseed.su3", "file"), ("online", SU3, None), ("online", None, None),
    ],
)  # fmt: skip
def test_first_routers_come_from_a_file_or_from_their_servers_and_never_from_both(
    reseed: str | None, bundle: str | None, key: str | None
) -> None:
    settings = I2pSettings(reseed=reseed)
    section = parsed(i2pd_conf(settings, bundle))["reseed"]
    assert {name: value for name, value in section.items() if name in {"file", "zipfile"}} == (
        {key: bundle} if key else {}
    )
    assert section.get("urls") == ("" if key else None)
    assert section["verify"] == "true"
    assert asks_names(settings) == (key is None)
    assert has_bundle(i2pd_conf(settings, bundle)) == (key is not None)


@pytest.mark.parametrize("reseed", [None, "bundle"])
def test_router_that_would_know_nobody_is_refused_with_what_to_do(reseed: str | None) -> None:
    with pytest.raises(ReseedError, match="where the first I2P routers come from") as caught:
        i2pd_conf(I2pSettings(reseed=reseed), None)
    assert "--reseed" in (caught.value.hint or "")
    assert caught.value.reason == "i2p"


@pytest.mark.parametrize(
    ("bundle", "path"),
    [(b"I2Psu3\0\0", "/etc/i2pd/reseed.su3"), (b"PK\3\4.", "/etc/i2pd/reseed.zip")],
)
def test_kind_of_a_bundle_is_what_it_begins_with(bundle: bytes, path: str) -> None:
    assert given_path(bundle) == path


@pytest.mark.parametrize("bundle", [b"", b"<html>", b"PK\5\6", b"I2Psu", b"\0" * 4096])
def test_file_that_is_no_bundle_is_refused(bundle: bytes) -> None:
    with pytest.raises(ReseedError, match="first I2P routers begins with") as caught:
        given_path(bundle)
    assert caught.value.reason == "i2p"


def test_additions_of_the_image_stand_before_the_first_section() -> None:
    sections = parsed(i2pd_conf(I2pSettings(), ZIP, "netid = 23\n"))
    assert sections["router"]["netid"] == "23"


B32 = "a2" * 26 + ".b32.i2p"


@pytest.mark.parametrize(
    "lines",
    [
        f"addressbook.defaulturl = http://{B32}/hosts.txt",
        "addressbook.subscriptions=http://reg.i2p/hosts.txt,http://a.b-c.i2p:8080/",
        "[addressbook]\nsubscriptions = http://reg.i2p/hosts.txt # x\n[x]\nsubscriptions = no",
        "#addressbook.defaulturl = https://example.org/",
    ],
)  # fmt: skip
def test_list_of_names_on_a_site_of_i2p_may_be_named(lines: str) -> None:
    assert lines in i2pd_conf(I2pSettings(), ZIP, lines)


#: No list of names that i2pd could fetch, or something of another network.
NO_LISTS = [
    "", "hosts.txt", "reg.i2p/hosts.txt", "http://reg.i2p", "https://reg.i2p/hosts.txt",
    "ftp://reg.i2p/hosts.txt", "http://example.org/hosts.txt", "http://198.51.100.7/hosts.txt",
    "http://[2001:db8::1]/hosts.txt", "http://user@reg.i2p/hosts.txt", "http://reg.i2p.example.org/",
    "http://.i2p/", "http://i2p/", "http://REG.i2p/", "http://reg.i2p/a b", "http://reg.i2p:/",
    f"http://{B32[1:]}/hosts.txt", f"http://x.{B32}/", "http://x.b32.i2p.i2p/", "file:///etc/passwd",
    "http://reg.i2p/\x1b[2J", "http://reg.i2p/\ufffd", "http://reg.i2p/" + "a" * 70000, "\ufffd\0=",
]  # fmt: skip


@pytest.mark.parametrize("url", NO_LISTS)
def test_list_of_names_that_could_never_come_is_refused_with_its_place(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(SubscriptionError) as caught:
        i2pd_conf(I2pSettings(), ZIP, f"netid = 23\naddressbook.defaulturl = {url}\n")
    assert str(caught.value).startswith(f"{ADDITIONS}, line 2: {url[:20]!r}"[:-1])
    assert "http://SITE.i2p/PATH" in (caught.value.hint or "")
    assert caught.value.reason == "i2p"
    assert len(str(caught.value)) < 300
    with pytest.raises(SubscriptionError, match=r"line 2: "):
        i2pd_conf(I2pSettings(), ZIP, f"[addressbook]\nsubscriptions=http://reg.i2p/,{url}\n")
    if not url:
        return  # an empty line is none
    image, paths = tmp_path, Paths(tmp_path)
    for name, text in ((ZIP, ""), (SUBSCRIPTIONS, f"# mine\nhttp://reg.i2p/hosts.txt\n{url}\n")):
        path = image / name.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text(text)
    with pytest.raises(SubscriptionError, match=rf"^{SUBSCRIPTIONS}, line 3: "):
        write_configuration(defaults(Profile.I2P_GUEST), paths)
    assert not paths.i2pd_conf.exists()


def test_list_of_debians_package_is_not_the_routers_and_not_read(tmp_path: Path) -> None:
    """It is a link into /etc/i2pd, which the router's unit covers."""
    for name, text in ((ZIP, ""), ("/etc/i2pd/subscriptions.txt", "https://example.org/\n")):
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text(text)
    link = tmp_path / SUBSCRIPTIONS.lstrip("/")
    link.parent.mkdir(parents=True)
    link.symlink_to("../../../etc/i2pd/subscriptions.txt")
    assert link.is_file()
    write_configuration(defaults(Profile.I2P_GUEST), Paths(tmp_path))
    assert "TemporaryFileSystem=/etc/i2pd:ro" in (
        TOP / "units/tails-profiles-i2p.service"
    ).read_text().splitlines()  # fmt: skip


def test_files_of_the_router_are_written_and_nobody_gets_names(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    with pytest.raises(ReseedError):
        write_configuration(defaults(Profile.I2P_GUEST), paths)
    assert not paths.i2pd_conf.exists()
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


def test_bundle_of_the_settings_disk_comes_before_the_images(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    image = tmp_path / ZIP.lstrip("/")
    image.parent.mkdir(parents=True)
    image.touch()
    asked = replace(defaults(Profile.I2P_GUEST), i2p=I2pSettings(reseed="bundle"))
    write_configuration(asked, paths, b"I2Psu3...")
    assert "file = /etc/i2pd/reseed.su3\nurls =\n" in paths.i2pd_conf.read_text()
    assert (paths.state / "reseed.su3").read_bytes() == b"I2Psu3..."
    unit = (TOP / "units/tails-profiles-i2p.service").read_text()
    for kind in ("su3", "zip"):
        mounted = f"BindReadOnlyPaths=-/run/tails-profiles/reseed.{kind}:/etc/i2pd/reseed.{kind}\n"
        assert mounted in unit


def test_names_are_asked_only_where_the_settings_say_so_and_taken_away_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path)
    monkeypatch.setattr("tails_profiles.system.files._group", lambda _: os.getgid())
    asked = replace(defaults(Profile.I2P_GUEST), i2p=I2pSettings(reseed="online"))
    write_configuration(asked, paths)
    file = paths.i2pd_resolv_conf
    assert file.read_text() == "nameserver 9.9.9.9\nnameserver 149.112.112.112\n"
    mounted = file.stat().st_ino
    i2p.forget_names(paths)
    assert "nameserver" not in file.read_text()
    assert file.stat().st_ino == mounted


@pytest.mark.parametrize(
    ("asked", "refused"), [("bundle", False), ("online", True), (None, True)]
)  # fmt: skip
def test_bundle_that_the_settings_do_not_ask_for_is_refused(
    asked: str | None, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = replace(defaults(Profile.I2P_GUEST), i2p=I2pSettings(reseed=asked))
    disk = Content(serialize(values), bytes(64), b"PK\3\4")
    monkeypatch.setattr("tails_profiles.firewall_step.settings_disk.find", lambda *_, **__: disk)
    selection = Selection(Profile.I2P_GUEST, "bios_vendor", None, "")
    with pytest.raises(SettingsError) if refused else nullcontext():
        assert find_settings(selection, Paths(tmp_path)) == (values, disk)


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
    assert i2p.read_state(router, SILENCE) == I2pStatus(False, 0, 0, 0)
    sockets(router, PROXIES)
    know(router, 12)
    assert i2p.read_state(router, SILENCE) == I2pStatus(True, 12, 0, 0)
    sockets(router, PROXIES + PEER + CLIENT)
    assert i2p.read_state(router, SILENCE) == I2pStatus(True, 12, 1, 0)
    sockets(router, PROXIES + PEER, uid=0)
    assert i2p.read_state(router, SILENCE).peers == 0
    (router.procfs / "net/snmp").write_text(
        "Tcp: InSegs OutSegs\nTcp: 7 8\nUdp: InErrors InDatagrams\nUdp: 5 101\n"
    )
    assert i2p.read_state(router, SILENCE).datagrams == 101
    sockets(router, PROXIES.splitlines(keepends=True)[0])
    assert not i2p.read_state(router, SILENCE).listening


# As i2pd 2.45 and 2.56 print them, with and without its colours.
MADE = (
    "07:11:32@126/[1;36minfo[0m - Tunnel: Outbound tunnel 2041312344 has been created",
    "07:11:32@126/\x1b[1;36minfo\x1b[0m - Tunnel: Inbound tunnel 341192268 has been created",
    "07:09:02@592/\x1b[1;36minfo\x1b[0m - I2NP: Outbound tunnel 12 has been created",
    "07:09:02@592/\x1b[1;36minfo\x1b[0m - I2NP: Inbound tunnel 13 has been created",
)
START = "07:11:30@355/\x1b[1;32mnone\x1b[0m - i2pd v2.56.0 (0.9.65) starting..."


def test_tunnels_are_counted_from_what_the_router_says_and_a_start_begins_anew() -> None:
    noise = ("Tunnels: Can't select first hop", "TransitTunnel: gateway 7 created",
             "Tunnel: Inbound tunnel 5 has not been created in 30")  # fmt: skip
    learned = ("07:09:02@592/info - NetDb: RouterInfo added: cCzbZgEIJkvYG9ITS7AF=",) * 5
    assert hear(SILENCE, (START, *MADE, *noise, *learned)) == Heard(2, 2, routers=5)
    assert hear(hear(SILENCE, MADE), MADE[:1]) == Heard(2, 3)
    assert hear(Heard(9, 9, "x"), (START,)) == SILENCE


@pytest.mark.parametrize(
    "words",
    ["Reseed: Failed to reseed from /etc/i2pd/reseed.su3", "Reseed: SU3 verification failed",
     "Reseed: Unexpected SU3 magic number", "Reseed: Can't open /etc/i2pd/reseed.zip"],
)  # fmt: skip
def test_why_there_are_no_first_routers_is_heard(words: str) -> None:
    assert hear(SILENCE, (f"07:11:30@355/\x1b[1;31merror\x1b[0m - {words}",)).refused == words


# As i2pd 2.45 and 2.56 say it.
NO_NAMES = [
    "Addressbook: Can't resolve example.org",
    f"Addressbook: LeaseSet for address {B32} not found",
    f"Addressbook: Can't parse http response from {B32}",
    f"Addressbook: Incomplete http response from {B32}, interrupted by timeout",
    f"Adressbook: Can't get updates from {B32}, response code 404",
    f"Addressbook: Empty response from {B32}, expected 0 bytes",
    "Addressbook: Response size mismatch, expected: 5, got: 4bytes",
    "Addressbook: Can't gunzip http response",
    "Addressbook: Subscriptions request timeout expired",
]
LINE = "07:11:30@355/\x1b[1;31merror\x1b[0m - {}"


@pytest.mark.parametrize("words", NO_NAMES)
def test_why_no_list_of_names_came_is_heard_until_one_comes(words: str) -> None:
    heard = hear(SILENCE, (LINE.format(words),))
    why = words.partition(": ")[2]
    assert heard.unnamed == why
    state = I2pStatus(True, 25, 1, 0, heard)
    assert state.note.endswith(f"; no names, {why}: sites are reached by their .b32.i2p addresses")
    # It is no failure: the router serves.
    assert not state.is_refused
    heard = hear(heard, (LINE.format("Addressbook: 412 addresses processed"),))
    assert (heard.names, heard.unnamed, heard.names_note) == (412, None, "412 names known")
    assert hear(SILENCE, (LINE.format("Addressbook: 9 addresses loaded from storage"),)).names == 9
    later = hear(heard, (LINE.format(words),))
    assert later.names_note == f"412 names known, no newer ones, {why}"


def test_list_without_a_name_is_none_and_says_so() -> None:
    heard = hear(SILENCE, (LINE.format("Addressbook: 0 addresses processed"),))
    assert heard.names is None
    assert "what came is no list of names" in (heard.names_note or "")
    assert SILENCE.names_note is None


def test_what_others_put_into_a_message_is_not_the_routers_word() -> None:
    forged = "Addressbook: 9 addresses processed"
    made = MADE[0].partition(" - ")[2]
    for words in (forged, made, "i2pd v2.56.0 (0.9.65) starting..."):
        line = LINE.format(f"Addressbook: Malformed domain: x - {words}")
        assert hear(STANDS, (line, words)) == STANDS


def test_names_are_told_once_until_they_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failed, again = Heard(unnamed="Can't resolve x"), Heard(unnamed="Can't resolve y")
    heard = iter((SILENCE, failed, failed, again, Heard(names=7)))
    waited: list[float] = []
    i2p_progress.watch_names(Paths(tmp_path), waited.append, lambda: next(heard))
    assert [each.message for each in caplog.records] == [
        "no names, Can't resolve x: sites are reached by their .b32.i2p addresses",
        "no names, Can't resolve y: sites are reached by their .b32.i2p addresses",
        "7 names known",
    ]
    assert waited == [i2p_progress.NAMES_INTERVAL] * 4


def test_names_are_watched_once_the_router_is_ready_and_not_before(
    router: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    router.state.mkdir(parents=True)
    router.selection.write_text('{"profile": "i2p-guest"}')
    router.i2pd_resolv_conf.write_text("")
    sockets(router, PROXIES)
    monkeypatch.setattr(units, "properties", lambda *_: {"ActiveState": "active"})
    monkeypatch.setattr(i2p.Watch, "state", lambda _: i2p.read_state(router, STANDS))
    lines: list[str] = []
    watched: list[int] = []
    monkeypatch.setattr(i2p_progress, "watch_names", lambda _: watched.append(len(lines)))
    assert progress.main(lambda each, _: lines.append(each.line()), router) == 0
    assert lines[-1].endswith(" ready\n")
    assert watched == [len(lines)]
    # One that gave up has nothing to tell of names.
    sockets(router, "")
    states = iter(("active", "failed"))
    monkeypatch.setattr(units, "properties", lambda *_: {"ActiveState": next(states)})
    monkeypatch.setattr(i2p.Watch, "state", lambda _: i2p.read_state(router, SILENCE))
    assert progress.main(lambda each, _: lines.append(each.line()), router) == 0
    assert lines[-1].endswith(" failed i2p\n")
    assert len(watched) == 1


STANDS = Heard(OWN_TUNNELS + 1, OWN_TUNNELS + 1)


@pytest.mark.parametrize(
    ("state", "percent"),
    [
        (I2pStatus(False, 25, 3, 900, STANDS), 0),
        (I2pStatus(True, None, 3, 900, STANDS), 0),
        (I2pStatus(True, 0, 0, 0), 10),
        (I2pStatus(True, 5, 0, 100), 18),
        (I2pStatus(True, 25, 1, 0), 60),
        (I2pStatus(True, 25, 0, 101), 60),
        (I2pStatus(True, 25, 0, 0, Heard(0, 1)), 60),
        # The router's own tunnels may be all there are.
        (I2pStatus(True, 300, 9, 900, Heard(3, 9)), 79),
        (I2pStatus(True, 300, 9, 900, Heard(OWN_TUNNELS, 99)), 99),
        (I2pStatus(True, 300, 9, 900, Heard(99, OWN_TUNNELS)), 99),
        (I2pStatus(True, 5, 0, 0, STANDS), 100),
    ],
)
def test_hundred_is_a_client_tunnel_and_nothing_less(state: I2pStatus, percent: int) -> None:
    assert state.percent == percent


def said(percents: Iterator[int | None], *, failed: bool = False) -> list[str]:
    lines = [
        each.line() for each in progress.announcements(Profile.I2P_GUEST, percents, lambda: failed)
    ]
    assert all(parse_line(line.encode()) for line in lines)
    return [line.removeprefix("tails-profiles 1 i2p-guest ").strip() for line in lines]


def test_host_hears_each_change_and_ready(router: Paths) -> None:
    heard = SILENCE

    def hears(more: Heard) -> None:
        nonlocal heard
        heard = more

    events = iter([
        lambda: None,
        lambda: sockets(router, PROXIES),
        lambda: None,
        lambda: know(router, 10),
        lambda: know(router, ROUTERS_WANTED),
        lambda: sockets(router, PROXIES + PEER),
        lambda: hears(Heard(3, 3)),
        lambda: hears(STANDS),
    ])  # fmt: skip
    router.state.mkdir(parents=True)
    router.i2pd_resolv_conf.write_text("nameserver 9.9.9.9\n")
    percents = i2p_progress.progress(
        router, sleep=lambda _: next(events)(), watch=lambda: i2p.read_state(router, heard)
    )
    assert said(percents) == ["starting", "i2p 0", "i2p 10", "i2p 26", "i2p 50", "i2p 60",
                              "i2p 79", "i2p 100", "ready"]  # fmt: skip
    # Enough routers: no name is needed any more.
    assert "nameserver" not in router.i2pd_resolv_conf.read_text()


def test_router_that_found_nobody_ends_in_words_and_a_failure_for_the_host(
    router: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets(router, PROXIES)
    refused = Heard(refused="Reseed: SU3 verification failed")
    percents = i2p_progress.progress(router, watch=lambda: i2p.read_state(router, refused))
    with pytest.raises(I2pError, match="no first routers: Reseed: SU3 verification failed"):
        list(percents)
    router.state.mkdir(parents=True)
    router.selection.write_text('{"profile": "i2p-guest"}')
    monkeypatch.setattr(units, "properties", lambda *_: {"ActiveState": "active"})
    monkeypatch.setattr(i2p.Watch, "state", lambda _: i2p.read_state(router, refused))
    lines: list[str] = []
    assert progress.main(lambda each, _: lines.append(each.line()), router) == 0
    assert [line.split(" ", 3)[3] for line in lines] == ["starting\n", "failed i2p\n"]
    # It stores routers late.
    sockets(router, PROXIES)
    assert i2p.read_state(router, Heard(routers=7)).known == 7
    # One that knows routers is not given up, whatever it could not read.
    know(router, 1)
    assert not i2p.read_state(router, refused).is_refused


def test_names_are_gone_once_the_router_is_ready_however_few_it_knows(router: Paths) -> None:
    router.state.mkdir(parents=True)
    router.i2pd_resolv_conf.write_text("nameserver 9.9.9.9\n")
    sockets(router, PROXIES)
    know(router, 5)
    states = iter((SILENCE, STANDS))
    percents = i2p_progress.progress(
        router, sleep=lambda _: None, watch=lambda: i2p.read_state(router, next(states))
    )
    assert next(percents) == 18
    assert "nameserver" in router.i2pd_resolv_conf.read_text()
    assert list(percents) == [100]
    assert "nameserver" not in router.i2pd_resolv_conf.read_text()


def test_router_that_comes_no_further_says_so_again(router: Paths) -> None:
    """More often than the launcher's patience with silence: it is alive, and waits for others."""
    passed = 0.0

    def sleep(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    know(router, 5)
    sockets(router, PROXIES)
    percents = i2p_progress.progress(router, sleep, lambda: i2p.read_state(router, SILENCE))
    assert [(next(percents), passed) for _ in range(4)] == [
        (18, 0), (18, 30), (18, 60), (18, 90)
    ]  # fmt: skip
    assert min(LIMITS_KVM.silence, LIMITS_TCG.silence) > 2 * REPEAT
    assert LIMITS_KVM.network > LIMITS_KVM.silence
    # A change is told when it is seen, and half a minute begins anew.
    know(router, 10)
    assert [(next(percents), passed) for _ in range(2)] == [(26, 92), (26, 122)]


def test_host_hears_that_the_router_gave_up(router: Paths) -> None:
    assert said(i2p_progress.progress(router, sleep=lambda _: None), failed=True) == [
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
