# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings grammar: what is accepted, what is refused and in which words."""

import contextlib
import copy
import json
import random
import re
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tails_profiles import bridges as bridges_module
from tails_profiles import settings as module
from tails_profiles.errors import InvalidSettingError, SettingsError
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import (
    TOR_FEATURES,
    Feature,
    I2pSettings,
    Keyboard,
    Proxy,
    ProxyType,
    Settings,
    Share,
    TorSettings,
    defaults,
    parse,
    private_proxy,
    serialize,
    variant,
)

FINGERPRINT = "0123456789ABCDEF0123456789ABCDEF01234567"
CERT = "A" * 70
OBFS4 = f"obfs4 198.51.100.9:443 {FINGERPRINT} cert={CERT} iat-mode=0"
WEBTUNNEL = f"webtunnel [2001:db8::1]:443 {FINGERPRINT} url=https://example.org/path ver=0.0.1"
MEEK = f"meek_lite 192.0.2.20:80 {FINGERPRINT} url=https://example.org front=www.example.com"
SNOWFLAKE = (
    f"snowflake 192.0.2.3:80 {FINGERPRINT} fingerprint={FINGERPRINT} url=https://example.org/"
    " fronts=a.example.com,b.example.com ice=stun:stun.example.org:3478,stun:s.example.net:19302"
    " utls-imitate=hellorandomizedalpn"
)
VANILLA = f"198.51.100.8:9001 {FINGERPRINT}"

TOR: dict[str, Any] = {
    "version": 1,
    "profile": "tor-guest",
    "language": "en_US",
    "formats": "en_US",
    "keyboard": {"model": "pc105", "layout": "us", "variant": "", "options": ""},
    "admin_password_hash": None,
    "offline": False,
    "tor": {
        "connect": True,
        "bridges": [],
        "proxy_type": None,
        "proxy_address": None,
        "proxy_port": None,
        "proxy_username": None,
        "proxy_password": None,
        "transparent": False,
    },
    "i2p": None,
    "shares": [],
}
APP = {**copy.deepcopy(TOR), "profile": "app-guest", "tor": None}
I2P = {
    **copy.deepcopy(TOR),
    "profile": "i2p-guest",
    "tor": None,
    "i2p": {"port": None, "reseed": None},
}
FILES = {"tor": TOR, "app": APP, "i2p": I2P}


def with_value(base: dict[str, Any], path: str, value: object) -> bytes:
    """A file with one value replaced, by its dotted path."""
    changed = copy.deepcopy(base)
    *parents, last = path.split(".")
    place = changed
    for name in parents:
        place = place[name]
    place[last] = value
    return json.dumps(changed).encode()


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def test_example_of_the_documentation_is_accepted() -> None:
    data = with_value(
        APP, "shares", [{"tag": "tails-persistent", "feature": "PersistentDirectory"}]
    )
    data = with_value(json.loads(data), "language", "pt_BR")
    data = with_value(
        json.loads(data),
        "keyboard",
        {"model": "pc105", "layout": "br", "variant": "", "options": ""},
    )
    settings = parse(data, profile=Profile.APP_GUEST)
    assert settings.language == "pt_BR"
    assert settings.keyboard == Keyboard("pc105", "br")
    assert settings.shares == (Share("tails-persistent", Feature.PERSISTENT_DIRECTORY),)
    assert settings.tor is None


@pytest.mark.parametrize("profile", GUESTS)
def test_defaults_survive_being_written_and_read(profile: Profile) -> None:
    assert parse(serialize(defaults(profile)), profile=profile) == defaults(profile)


ACCEPTED = [
    ("tor", "tor.bridges", [OBFS4, VANILLA]),
    ("tor", "tor.bridges", [WEBTUNNEL]),
    ("tor", "tor.bridges", [MEEK]),
    ("tor", "tor.bridges", [SNOWFLAKE]),
    ("tor", "language", "de_DE@euro"),
    ("tor", "formats", "fil_PH"),
    ("app", "keyboard.variant", "nodeadkeys"),
    ("app", "keyboard.layout", "us,ru"),
    ("app", "keyboard.options", "grp:alt_shift_toggle,ctrl:nocaps"),
    ("app", "admin_password_hash", "$6$abcdefgh$" + "x" * 86),
    ("app", "admin_password_hash", "$6$rounds=5000$abcdefgh$" + "x" * 86),
    ("app", "admin_password_hash", "$y$j9T$abc$" + "x" * 43),
    ("app", "i2p", {}),
    ("app", "offline", True),
    ("i2p", "i2p.port", 12345),
    ("i2p", "i2p.reseed", "bundle"),
    ("tor", "tor.connect", False),
    ("tor", "shares", [{"tag": "tor-data", "feature": "TorData"}]),
]


@pytest.mark.parametrize(("base", "path", "value"), ACCEPTED)
def test_value_inside_the_grammar_is_accepted(base: str, path: str, value: object) -> None:
    parse(with_value(FILES[base], path, value))


REFUSED: list[tuple[str, str, object, str]] = [
    ("tor", "version", 2, "version"),
    ("tor", "version", True, "version"),
    ("tor", "version", 1.0, "version"),
    ("tor", "version", "1", "version"),
    ("tor", "profile", "normal", "profile"),
    ("tor", "profile", "host", "profile"),
    ("tor", "profile", "quarantine", "profile"),
    ("tor", "profile", ["tor-guest"], "profile"),
    ("tor", "language", "en", "language"),
    ("tor", "language", "en_US.UTF-8", "language"),
    ("tor", "language", "en_US\n", "language"),
    ("tor", "language", "EN_us", "language"),
    ("tor", "language", "../..", "language"),
    ("tor", "language", "", "language"),
    ("tor", "language", None, "language"),
    ("tor", "formats", "en_US;reboot", "formats"),
    ("tor", "formats", "٣٣_US", "formats"),
    ("app", "keyboard", None, "keyboard"),
    ("app", "keyboard", "us", "keyboard"),
    ("app", "keyboard.model", "", "keyboard.model"),
    ("app", "keyboard.layout", "us ", "keyboard.layout"),
    ("app", "keyboard.layout", "us,us,us,us,us", "keyboard.layout"),
    ("app", "keyboard.variant", "$(id)", "keyboard.variant"),
    ("app", "keyboard.options", "ctrl", "keyboard.options"),
    ("app", "keyboard.options", "a:b,", "keyboard.options"),
    ("app", "admin_password_hash", "password", "admin_password_hash"),
    ("app", "admin_password_hash", "", "admin_password_hash"),
    ("app", "admin_password_hash", "$1$abc$" + "x" * 22, "admin_password_hash"),
    ("app", "admin_password_hash", "$6$abc$" + "x" * 85, "admin_password_hash"),
    ("app", "admin_password_hash", "$6$a:b$" + "x" * 86, "admin_password_hash"),
    ("app", "admin_password_hash", "$6$rounds=1$abc$" + "x" * 86, "admin_password_hash"),
    ("app", "admin_password_hash", "$6$abc$" + "x" * 86 + "\nroot::0:0", "admin_password_hash"),
    ("app", "offline", "false", "offline"),
    ("app", "offline", 0, "offline"),
    ("app", "offline", None, "offline"),
    ("app", "tor", {}, "tor"),
    ("i2p", "tor", TOR["tor"], "tor"),
    ("tor", "tor", None, "tor"),
    ("tor", "i2p", {}, "i2p"),
    ("app", "i2p", {"port": None, "reseed": None}, "i2p.port"),
    ("i2p", "i2p.port", 80, "i2p.port"),
    ("i2p", "i2p.port", 65536, "i2p.port"),
    ("i2p", "i2p.port", 4444, "does not use itself"),
    ("i2p", "i2p.port", 4447, "does not use itself"),
    ("i2p", "i2p.port", 4448, "does not use itself"),
    ("i2p", "i2p.port", True, "i2p.port"),
    ("i2p", "i2p.reseed", "yes", "i2p.reseed"),
    ("i2p", "i2p.reseed", ["online"], "i2p.reseed"),
    ("i2p", "i2p.reseed", {}, "i2p.reseed"),
    ("tor", "tor.connect", 1, "tor.connect"),
    ("tor", "tor.transparent", "no", "tor.transparent"),
    ("tor", "tor.bridges", "", "tor.bridges"),
    ("tor", "tor.bridges", {}, "tor.bridges"),
    ("tor", "tor.bridges", [None], "tor.bridges[0]"),
    ("tor", "tor.bridges", [""], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4, OBFS4], "tor.bridges"),
    ("tor", "tor.bridges", ["Bridge " + OBFS4], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["obfs2 198.51.100.9:443"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["obfs3 198.51.100.9:443"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["conjure 198.51.100.9:443 url=https://a.org"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["vanilla 198.51.100.9:443"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["obfs4"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["10.0.0.1:443"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["127.0.0.1:9051"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["198.51.100.9"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["198.51.100.9:0"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["198.51.100.9:65536"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["198.51.100.256:443"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["[2001:db8::1]:443"], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["example.org:443"], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4.replace("198.51.100.9", "192.168.1.1")], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4 + "\nExitPolicy accept *:*"], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4 + " "], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4.replace(" ", "  ", 1)], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4 + " #"], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4 + " iat-mode=1"], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4.replace("iat-mode=0", "iat-mode=3")], "tor.bridges[0] iat-mode"),
    ("tor", "tor.bridges", [OBFS4.replace(CERT, CERT + "A")], "tor.bridges[0] cert"),
    ("tor", "tor.bridges", [f"obfs4 198.51.100.9:443 {FINGERPRINT}"], "tor.bridges[0]"),
    ("tor", "tor.bridges", [OBFS4.replace(FINGERPRINT, FINGERPRINT[1:])], "tor.bridges[0]"),
    ("tor", "tor.bridges", [WEBTUNNEL.replace("https:", "http:")], "tor.bridges[0] url"),
    ("tor", "tor.bridges", [WEBTUNNEL.replace("example.org", "10.0.0.1:x")], "tor.bridges[0] url"),
    ("tor", "tor.bridges", [SNOWFLAKE.replace("stun:", "turn:")], "tor.bridges[0] ice"),
    ("tor", "tor.bridges", [SNOWFLAKE + ' log="x"'], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["x" * 3000], "tor.bridges[0]"),
    ("tor", "tor.bridges", ["198.51.100.9:443"] * 65, "tor.bridges"),
    ("tor", "tor.proxy_type", "http", "tor.proxy_type"),
    ("tor", "tor.proxy_type", [], "tor.proxy_type"),
    ("tor", "tor.proxy_address", "192.168.1.1", "tor.proxy_address"),
    ("tor", "tor.proxy_port", 1, "tor.proxy_port"),
    ("tor", "tor.proxy_password", "x", "tor.proxy_password"),
    ("app", "shares", {}, "shares"),
    ("app", "shares", [1], "shares[0]"),
    ("app", "shares", [{"tag": "a"}], "shares[0].feature"),
    ("app", "shares", [{"tag": "", "feature": "GnuPG"}], "shares[0].tag"),
    ("app", "shares", [{"tag": "../a", "feature": "GnuPG"}], "shares[0].tag"),
    ("app", "shares", [{"tag": "a", "feature": "WelcomeScreen"}], "shares[0].feature"),
    ("app", "shares", [{"tag": "a", "feature": "NetworkConnections"}], "shares[0].feature"),
    ("app", "shares", [{"tag": "a", "feature": []}], "shares[0].feature"),
    ("app", "shares", [{"tag": "a", "feature": "TorConfiguration"}], "shares[0].feature"),
    ("tor", "shares", [{"tag": "a", "feature": "GnuPG"}], "shares[0].feature"),
    (
        "app",
        "shares",
        [{"tag": "a", "feature": "GnuPG"}, {"tag": "b", "feature": "GnuPG"}],
        "shares",
    ),
    (
        "app",
        "shares",
        [{"tag": "a", "feature": "GnuPG"}, {"tag": "a", "feature": "Pidgin"}],
        "shares",
    ),
]


@pytest.mark.parametrize(("base", "path", "value", "key"), REFUSED)
def test_value_outside_the_grammar_is_refused_by_its_key(
    base: str, path: str, value: object, key: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(with_value(FILES[base], path, value))
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("key", [*TOR, *(f"tor.{key}" for key in TOR["tor"])])
def test_missing_key_is_refused_by_name(key: str) -> None:
    changed = copy.deepcopy(TOR)
    place = changed["tor"] if key.startswith("tor.") else changed
    del place[key.removeprefix("tor.")]
    with pytest.raises(SettingsError, match=re.escape(f"{key} is missing")):
        parse(encode(changed))


@pytest.mark.parametrize("path", ["extra", "tor.extra", "keyboard.extra"])
def test_unknown_key_is_refused_by_name(path: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(path)):
        parse(with_value(TOR, path, 1))


def proxy_file(**values: object) -> bytes:
    changed = copy.deepcopy(TOR)
    changed["tor"].update({f"proxy_{key}": value for key, value in values.items()})
    return encode(changed)


def test_proxy_in_a_private_range_is_the_one_exception_of_the_rule_set() -> None:
    inside = parse(proxy_file(type="socks5", address="192.168.1.5", port=1080))
    assert private_proxy(inside) == (IPv4Address("192.168.1.5"), 1080)
    outside = parse(proxy_file(type="https", address="198.51.100.5", port=3128))
    assert private_proxy(outside) is None


@pytest.mark.parametrize(
    "values",
    [
        {"type": "socks5", "address": "proxy.example.org", "port": 1},
        {"type": "socks5", "address": "127.0.0.1", "port": 9050},
        {"type": "socks5", "address": "0.0.0.0", "port": 9050},
        {"type": "socks5", "address": "255.255.255.255", "port": 9050},
        {"type": "socks5", "address": "224.0.0.1", "port": 9050},
        {"type": "socks5", "address": "198.51.100.1", "port": 0},
        {"type": "socks5", "address": "198.51.100.1", "port": None},
        {"type": "socks5", "address": None, "port": 1},
        {"type": "socks5", "address": "198.51.100.1\n", "port": 1},
        {"type": "socks4", "address": "198.51.100.1", "port": 1, "username": "a", "password": "b"},
        {"type": "socks5", "address": "198.51.100.1", "port": 1, "username": "a"},
        {"type": "https", "address": "198.51.100.1", "port": 1, "username": "a:", "password": "b"},
        {"type": "https", "address": "198.51.100.1", "port": 1, "username": "a", "password": "b c"},
        {"type": "https", "address": "198.51.100.1", "port": 1, "username": "a", "password": 'b"'},
        {"type": "https", "address": "198.51.100.1", "port": 1, "username": "a", "password": "b\n"},
        {"type": "https", "address": "198.51.100.1", "port": 1, "username": "", "password": "b"},
    ],
)
def test_proxy_outside_the_grammar_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidSettingError):
        parse(proxy_file(**values))


def test_secrets_are_never_part_of_an_error() -> None:
    for data in (
        with_value(APP, "admin_password_hash", "my secret"),
        proxy_file(
            type="https", address="198.51.100.1", port=1, username="u", password="my secret"
        ),
    ):
        with pytest.raises(SettingsError) as caught:
            parse(data)
        assert "my secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("bridges", "expected"),
    [
        ([], "tcp"),
        ([VANILLA], "tcp"),
        ([OBFS4], "tcp"),
        ([WEBTUNNEL], "tcp-dns"),
        ([MEEK, OBFS4], "tcp-dns"),
        ([SNOWFLAKE], "tcp-udp"),
        ([OBFS4, WEBTUNNEL, SNOWFLAKE], "tcp-udp"),
    ],
)
def test_variant_is_the_widest_that_the_bridges_need(bridges: list[str], expected: str) -> None:
    settings = parse(with_value(TOR, "tor.bridges", bridges))
    assert variant(settings) == expected
    changed = json.loads(serialize(settings))
    changed["tor"]["transparent"] = True
    assert variant(parse(encode(changed))) == expected + "-transparent"


@pytest.mark.parametrize("address", ["10.0.2.2", "10.1.2.3", "10.1.3.1", "10.64.0.1", "127.0.0.1"])
def test_proxy_that_no_rule_set_lets_tor_reach_is_refused(address: str) -> None:
    changed = json.loads(encode(TOR))
    changed["tor"] |= {"proxy_type": "socks5", "proxy_address": address, "proxy_port": 1080}
    with pytest.raises(InvalidSettingError, match=address):
        parse(encode(changed))


def test_other_guests_have_no_variant() -> None:
    assert variant(parse(encode(APP))) == ""


def test_file_for_another_guest_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="tor-guest"):
        parse(encode(TOR), profile=Profile.APP_GUEST)


NOT_JSON = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"\xff",
    b"\xef\xbb\xbf" + encode(TOR),
    encode(TOR).decode().encode("utf-16"),
    encode(TOR) + b"x",
    encode(TOR) + b"\0",
    encode(TOR).replace(b"1", b"NaN", 1),
    encode(TOR).replace(b"1", b"Infinity", 1),
    encode(TOR).replace(b"1", b"1" * 5000, 1),
    encode(TOR).replace(b'"version": 1', b'"version": 1, "version": 1'),
    encode(TOR).replace(b'"connect": true', b'"connect": true, "connect": true'),
    b"[" * 60000,
    b'{"a":' * 10000,
    b" " * (64 * 1024) + encode(TOR),
    b"{" + b",".join(b'"%d":1' % number for number in range(8000)) + b"}",
    encode(TOR).replace(b"en_US", b"\\ud800"),
]


@pytest.mark.parametrize("data", NOT_JSON, ids=range(len(NOT_JSON)))
def test_what_is_no_settings_file_is_refused(data: bytes) -> None:
    with pytest.raises(SettingsError):
        parse(data)


_WORD = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=8)
_PORT = st.integers(1, 65535)
_PROXY = st.builds(
    lambda kind, host, port, login: Proxy(
        kind,
        IPv4Address(f"198.51.100.{host}"),
        port,
        *(login if kind != "socks4" else (None, None)),
    ),
    st.sampled_from(ProxyType),
    st.integers(1, 254),
    _PORT,
    st.one_of(st.just((None, None)), st.tuples(_WORD, _WORD)),
)
_BRIDGES = st.lists(
    st.sampled_from([OBFS4, VANILLA, WEBTUNNEL, MEEK, SNOWFLAKE]), unique=True, max_size=5
).map(tuple)


def _shares(profile: Profile) -> st.SearchStrategy[tuple[Share, ...]]:
    features = [f for f in Feature if (f in TOR_FEATURES) == (profile is Profile.TOR_GUEST)]
    if profile is Profile.I2P_GUEST:
        features = []
    return st.lists(st.sampled_from(features), unique=True).map(
        lambda chosen: tuple(Share(feature.lower(), feature) for feature in chosen)
    ) if features else st.just(())  # fmt: skip


@st.composite
def _settings(draw: st.DrawFn) -> Settings:
    profile = draw(st.sampled_from(GUESTS))
    tor = draw(st.builds(TorSettings, st.booleans(), _BRIDGES, st.none() | _PROXY, st.booleans()))
    i2p = {
        Profile.TOR_GUEST: st.none(),
        Profile.APP_GUEST: st.none() | st.just(I2pSettings()),
        Profile.I2P_GUEST: st.builds(
            I2pSettings,
            st.none() | st.integers(1024, 65535),
            st.sampled_from([None, "online", "bundle"]),
        ),
    }
    return Settings(
        profile,
        draw(st.sampled_from(["en_US", "de_DE", "fil_PH", "ca_ES@valencia"])),
        draw(st.sampled_from(["en_US", "pt_BR"])),
        Keyboard("pc105", draw(_WORD), draw(st.just("") | _WORD), ""),
        draw(st.none() | st.just("$6$salt$" + "x" * 86)),
        draw(st.booleans()),
        tor if profile is Profile.TOR_GUEST else None,
        draw(i2p[profile]),
        draw(_shares(profile)),
    )


@hypothesis_settings(max_examples=300)
@given(_settings())
def test_settings_survive_being_written_and_read(settings: Settings) -> None:
    assert parse(serialize(settings), profile=settings.profile) == settings


# What a second, looser eye requires of anything accepted: written apart from the validator.
_SAFE = re.compile(r"[A-Za-z0-9_ .,:;+/=$@()\[\]<>?!&%^*{}|~'-]*")
HOSTILE = (
    None, True, False, 0, 1, -1, 1.5, 2**40, 1e308, "", " ", "\n", "\0", "\x1b[2J", "a" * 70000,
    "$(reboot)", "`id`", "'; drop", "../../etc/shadow", "en_US\nExitNodes x", "\ud800", "é",
    "\uff05",
    f"obfs4 127.0.0.1:1 {FINGERPRINT} cert={CERT}",
    [], {}, [[]], [{}], {"a": 1}, ["x"] * 100, "tor-guest", "127.0.0.1", "10.0.2.2:80",
    "obfs4 127.0.0.1:1 cert=x", "meek_lite 1.2.3.4:5 url=file:///etc/passwd", "null", "true",
    f"198.51.100.8:9001 {FINGERPRINT}\r", f"198.51.100.8:9001\t{FINGERPRINT}",
)  # fmt: skip


def _paths(value: object, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [prefix] if prefix else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _paths(item, (*prefix, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            found += _paths(item, (*prefix, number))
    return found


def _damage(source: random.Random) -> bytes:
    """One hostile file: a valid one with values replaced, or with its bytes damaged."""
    base: Any = copy.deepcopy(source.choice([TOR, APP, I2P]))
    if base["tor"]:
        base["tor"]["bridges"] = [source.choice([OBFS4, SNOWFLAKE, WEBTUNNEL, VANILLA])]
    base["shares"] = [{"tag": "a", "feature": "GnuPG" if not base["tor"] else "TorData"}]
    for _ in range(source.choice((0, 1, 1, 1, 2))):
        paths = _paths(base)
        bridges = [path for path in paths if path[:2] == ("tor", "bridges")]
        path = source.choice(paths + 8 * bridges)
        place = base
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = copy.deepcopy(source.choice(HOSTILE))
    data = bytearray(json.dumps(base).encode())
    for _ in range(source.choice((0, 0, 0, 1, 2, 8))):
        position = source.randrange(len(data))
        data[position : position + source.randrange(3)] = source.randbytes(source.randrange(3))
    return bytes(data)


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in _strings(item)]


def wrongly_accepted(parser: Callable[[bytes], Settings], count: int) -> list[bytes]:
    """Hostile files that a parser accepts although a second eye would not."""
    source = random.Random(20261124)
    wrong = []
    for _ in range(count):
        data = _damage(source)
        try:
            settings = parser(data)
        except SettingsError:
            continue
        written = json.loads(serialize(settings))
        strings = _strings(json.loads(data))
        sound = all(
            _SAFE.fullmatch(text) and len(text) <= 2048 and "127.0.0.1" not in text
            for text in strings
        )
        if not sound or written != json.loads(data):
            wrong.append(data)
    return wrong


def test_ten_thousand_hostile_files_raise_one_error_or_are_sound() -> None:
    assert wrongly_accepted(parse, 10_000) == []


@pytest.mark.parametrize(
    ("name", "where", "replacement"),
    [
        ("_LOCALE", module, re.compile(r"(?s).*")),
        ("_TAG", module, re.compile(r"(?s).*")),
        ("_XKB_NAME", module, re.compile(r"(?s).*")),
        ("_CONTACTED", bridges_module, frozenset()),
        ("_object", module, lambda value, _where, _names: value),
        ("_boolean", module, lambda value, _key: value),
    ],
)
def test_hostile_files_catch_a_loosened_grammar(
    name: str, where: object, replacement: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, replacement)
    # A mutant that lets another exception out is caught as well.
    with contextlib.suppress(TypeError, KeyError, AttributeError):
        assert wrongly_accepted(parse, 3000) != []
