# SPDX-License-Identifier: GPL-3.0-or-later
"""What the host tells a guest: parse once, at the border, against a closed grammar.

A settings file is JSON, at most 64 KiB. Every key must be there, no other may be, no key twice;
each value has one small parser below. A file that breaks any rule is refused whole. The format is
documented in docs/settings.md.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Any

from tails_profiles.bridges import Transport, parse_bridge
from tails_profiles.constants import I2P_INNER, I2P_PORTS, MAPPED, PRIVATE_RANGES, TOR_INNER, UPLINK
from tails_profiles.errors import InvalidSettingError, SettingsError
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.rule_files import TRANSPARENT

VERSION = 1
MAX_BYTES = 64 * 1024
MAX_BRIDGES = 64


class ProxyType(StrEnum):
    """The proxies that Tor can use (tor(1): Socks4Proxy, Socks5Proxy, HTTPSProxy)."""

    SOCKS4 = "socks4"
    SOCKS5 = "socks5"
    HTTPS = "https"


class Feature(StrEnum):
    """Persistent folders that may be shared with a guest, by Tails' names."""

    PERSISTENT_DIRECTORY = "PersistentDirectory"
    BROWSER_BOOKMARKS = "BrowserBookmarks"
    TOR_CONFIGURATION = "TorConfiguration"
    TOR_DATA = "TorData"
    ADDITIONAL_SOFTWARE = "AdditionalSoftware"
    PRINTERS = "Printers"
    THUNDERBIRD = "Thunderbird"
    GNUPG = "GnuPG"
    ELECTRUM = "Electrum"
    PIDGIN = "Pidgin"
    SSH_CLIENT = "SSHClient"
    DOTFILES = "Dotfiles"


#: Tor's state goes to tor-guest, everything else to app-guest; nothing goes to two guests.
#: Greeter settings and network connections stay on the host and have no name here.
TOR_FEATURES = frozenset({Feature.TOR_CONFIGURATION, Feature.TOR_DATA})


@dataclass(frozen=True, slots=True)
class Keyboard:
    """An XKB keyboard, xkeyboard-config(7)'s names."""

    model: str = "pc105"
    layout: str = "us"
    variant: str = ""
    options: str = ""


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy through which Tor reaches the internet; the address may be private."""

    kind: ProxyType
    address: IPv4Address
    port: int
    username: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class TorSettings:
    """tor-guest's part. ``bridges`` are validated lines without the word ``Bridge``."""

    connect: bool = True
    bridges: tuple[str, ...] = ()
    proxy: Proxy | None = None
    transparent: bool = False


@dataclass(frozen=True, slots=True)
class I2pSettings:
    """i2p-guest's part; in app-guest's file it has no keys and promises the second link."""

    port: int | None = None
    reseed: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """One persistent folder: the hypervisor's tag, and what it holds."""

    tag: str
    feature: Feature


@dataclass(frozen=True, slots=True)
class Settings:
    """One guest's settings, every value already checked."""

    profile: Profile
    language: str = "en_US"
    formats: str = "en_US"
    keyboard: Keyboard = Keyboard()
    admin_password_hash: str | None = None
    offline: bool = False
    tor: TorSettings | None = None
    i2p: I2pSettings | None = None
    shares: tuple[Share, ...] = ()


def defaults(profile: Profile) -> Settings:
    """What holds for a guest without a settings disk: connect, no bridges, en_US, us keyboard."""
    return Settings(
        profile,
        tor=TorSettings() if profile is Profile.TOR_GUEST else None,
        i2p=I2pSettings() if profile is Profile.I2P_GUEST else None,
    )


def transports_of(tor: TorSettings) -> frozenset[Transport]:
    """The transports that these bridges use."""
    return frozenset(parse_bridge(line, "bridges").transport for line in tor.bridges)


def variant(settings: Settings) -> str:
    """The rule set variant that these settings need: the widest of their transports."""
    if settings.profile is not Profile.TOR_GUEST or settings.tor is None:
        return ""
    used = transports_of(settings.tor)
    if Transport.SNOWFLAKE in used:
        name = "tcp-udp"
    elif used & {Transport.WEBTUNNEL, Transport.MEEK_LITE}:
        name = "tcp-dns"
    else:
        name = "tcp"
    return name + (TRANSPARENT if settings.tor.transparent else "")


def refuse_unbuilt(settings: Settings) -> None:
    """Refuse what the grammar knows and no guest carries out yet, instead of ignoring it.

    Raises SettingsError naming the key.
    """
    unbuilt = {
        "tor.transparent": settings.tor is not None and settings.tor.transparent,
        "admin_password_hash": settings.admin_password_hash is not None,
    }
    asked = [key for key, is_asked in unbuilt.items() if is_asked]
    if asked:
        raise SettingsError(
            f"{' and '.join(asked)}: no guest of this version carries it out",
            hint="leave it out: false for transparent, null for the password",
        )


def private_proxy(settings: Settings) -> tuple[IPv4Address, int] | None:
    """The proxy that the rule set must let through although its address is private, if any."""
    proxy = settings.tor.proxy if settings.tor else None
    if proxy is None or not any(proxy.address in network for network in PRIVATE_RANGES):
        return None
    return (proxy.address, proxy.port)


def serialize(settings: Settings) -> bytes:
    """The one canonical file of these settings; ``parse`` gives the same settings back."""
    return (json.dumps(_to_json(settings), indent=1, ensure_ascii=True) + "\n").encode("ascii")


def parse(data: bytes, *, profile: Profile | None = None) -> Settings:
    """Validate a whole settings file.

    ``profile``: the guest that reads it; a file for another one is refused. Raises SettingsError,
    and nothing else, whatever ``data`` holds.
    """
    raw = _load(data)
    keys = _object(raw, "", _KEYS)
    if _integer(keys["version"], "version", 0, 2**31) != VERSION:
        raise InvalidSettingError("version", keys["version"], f"{VERSION}")
    found = _guest(keys["profile"], profile)
    return Settings(
        found,
        _locale(keys["language"], "language"),
        _locale(keys["formats"], "formats"),
        _keyboard(keys["keyboard"]),
        _optional(keys["admin_password_hash"], "admin_password_hash", _password_hash),
        _boolean(keys["offline"], "offline"),
        _tor(keys["tor"], found),
        _i2p(keys["i2p"], found),
        _shares(keys["shares"], found),
    )


def for_guests(data: bytes) -> Mapping[Profile, Settings]:
    """The settings of every guest, from one file about all of them.

    Such a file has the keys of a settings file without ``profile``, each of them optional:
    ``tor`` goes to tor-guest, ``i2p`` to i2p-guest, where it also promises app-guest its second
    link, and the rest to all. Raises SettingsError.
    """
    raw = _load(data)
    known = [key for key in _KEYS if key != "profile"]
    if not isinstance(raw, dict) or not set(raw) <= set(known):
        unknown = sorted(set(raw) - set(known)) if isinstance(raw, dict) else raw
        raise InvalidSettingError("(all)", unknown, f"an object of {', '.join(known)}")
    return {profile: _for_guest(raw, profile) for profile in GUESTS}


def _for_guest(raw: Mapping[str, Any], profile: Profile) -> Settings:
    values = {**_to_json(defaults(profile)), **raw, "profile": profile.value}
    if profile is Profile.APP_GUEST:
        values["i2p"] = {} if raw.get("i2p") is not None else None
    elif profile is not Profile.I2P_GUEST:
        values["i2p"] = None
    if profile is not Profile.TOR_GUEST:
        values["tor"] = None
    for key, own in (("tor", Profile.TOR_GUEST), ("i2p", Profile.I2P_GUEST)):
        if profile is own and values[key] is None:
            values[key] = _to_json(defaults(profile))[key]
    features = {feature.value for feature in TOR_FEATURES}
    if isinstance(values["shares"], list):
        values["shares"] = [
            share
            for share in values["shares"]
            if not isinstance(share, dict)
            or (share.get("feature") in features) == (profile is Profile.TOR_GUEST)
        ]
        if profile is Profile.I2P_GUEST:
            values["shares"] = []
    return parse(_encode(values), profile=profile)


def _encode(values: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(values).encode()
    except RecursionError as err:
        raise SettingsError("the settings are nested too deeply") from err


_KEYS = (
    "version",
    "profile",
    "language",
    "formats",
    "keyboard",
    "admin_password_hash",
    "offline",
    "tor",
    "i2p",
    "shares",
)
_TOR_KEYS = (
    "connect",
    "bridges",
    "proxy_type",
    "proxy_address",
    "proxy_port",
    "proxy_username",
    "proxy_password",
    "transparent",
)


def _load(data: bytes) -> object:
    if len(data) > MAX_BYTES:
        raise SettingsError(f"the settings have {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except SettingsError:
        raise
    # ValueError: not UTF-8, not JSON, or an integer of thousands of digits.
    except (ValueError, RecursionError) as err:
        raise SettingsError(f"the settings are not JSON: {str(err)[:100]}") from err


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys: dict[str, object] = {}
    for key, value in pairs:
        if key in keys:
            raise SettingsError(f"the settings have the key {key[:60]!r} twice")
        keys[key] = value
    return keys


def _no_constant(name: str) -> object:
    raise SettingsError(f"the settings hold {name}, which is not JSON")


def _object(value: object, where: str, names: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidSettingError(where or "(all)", value, "an object")
    prefix = f"{where}." if where else ""
    for key in value:
        if key not in names:
            raise InvalidSettingError(f"{prefix}{key[:60]}", key, f"known ({', '.join(names)})")
    for name in names:
        if name not in value:
            raise SettingsError(f"setting {prefix}{name} is missing")
    return value


def _text(value: object, key: str, pattern: re.Pattern[str], expected: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise InvalidSettingError(key, value, expected)
    return value


def _boolean(value: object, key: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidSettingError(key, value, "true or false")
    return value


def _integer(value: object, key: str, low: int, high: int) -> int:
    # bool is an int in Python, and no number here.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidSettingError(key, value, f"a whole number from {low} to {high}")
    return value


def _optional(value: object, key: str, parser: Callable[[object, str], str]) -> str | None:
    return None if value is None else parser(value, key)


def _list(value: object, key: str, limit: int) -> list[object]:
    if not isinstance(value, list) or len(value) > limit:
        raise InvalidSettingError(key, value, f"a list of at most {limit}")
    return value


def _guest(value: object, wanted: Profile | None) -> Profile:
    if value not in [guest.value for guest in GUESTS]:
        raise InvalidSettingError("profile", value, "a guest (" + ", ".join(GUESTS) + ")")
    found = Profile(str(value))
    if wanted is not None and found is not wanted:
        raise InvalidSettingError("profile", value, f"{wanted.value!r}, which this machine is")
    return found


# glibc's names without encoding, as the greeter writes them: ll_CC, with a modifier at most.
_LOCALE = re.compile(r"[a-z]{2,3}_[A-Z]{2}(@[a-z]{3,10})?", re.ASCII)


def _locale(value: object, key: str) -> str:
    return _text(value, key, _LOCALE, "a locale such as 'pt_BR'")


# xkeyboard-config(7); a layout may be a list, options are a list of group:option.
_XKB_NAME = re.compile(r"[a-z0-9_+-]{1,32}", re.ASCII)
_XKB_LAYOUT = re.compile(r"[a-z0-9_-]{1,16}(,[a-z0-9_-]{1,16}){0,3}", re.ASCII)
_XKB_VARIANT = re.compile(r"[A-Za-z0-9_-]{0,32}(,[A-Za-z0-9_-]{0,32}){0,3}", re.ASCII)
_XKB_OPTION = r"[A-Za-z0-9_]{1,24}:[A-Za-z0-9_+()-]{1,40}"
_XKB_OPTIONS = re.compile(rf"({_XKB_OPTION}(,{_XKB_OPTION}){{0,7}})?", re.ASCII)


def _keyboard(value: object) -> Keyboard:
    keys = _object(value, "keyboard", ("model", "layout", "variant", "options"))
    return Keyboard(
        _text(keys["model"], "keyboard.model", _XKB_NAME, "an XKB model such as 'pc105'"),
        _text(keys["layout"], "keyboard.layout", _XKB_LAYOUT, "an XKB layout such as 'br'"),
        _text(keys["variant"], "keyboard.variant", _XKB_VARIANT, "an XKB variant, or ''"),
        _text(keys["options"], "keyboard.options", _XKB_OPTIONS, "XKB options, or ''"),
    )


# crypt(5): sha256crypt, sha512crypt with at most a rounds parameter, and yescrypt.
_HASH = re.compile(
    r"\$5\$(rounds=[1-9][0-9]{3,8}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{43}"
    r"|\$6\$(rounds=[1-9][0-9]{3,8}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}"
    r"|\$y\$[./0-9A-Za-z]{1,32}\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}",
    re.ASCII,
)


def _password_hash(value: object, key: str) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        # Never shown, not even when it is wrong: it may be the password itself.
        raise InvalidSettingError(key, "[hidden]", "a crypt(5) hash ($6$, $5$ or $y$), or null")
    return value


def _tor(value: object, profile: Profile) -> TorSettings | None:
    if profile is not Profile.TOR_GUEST:
        if value is not None:
            raise InvalidSettingError("tor", value, f"null, as it must be for {profile}")
        return None
    keys = _object(value, "tor", _TOR_KEYS)
    lines = _list(keys["bridges"], "tor.bridges", MAX_BRIDGES)
    bridges = tuple(
        parse_bridge(line, f"tor.bridges[{number}]").line for number, line in enumerate(lines)
    )
    if len(set(bridges)) != len(bridges):
        raise InvalidSettingError("tor.bridges", "the same line twice", "a list without repeats")
    return TorSettings(
        _boolean(keys["connect"], "tor.connect"),
        bridges,
        _proxy(keys),
        _boolean(keys["transparent"], "tor.transparent"),
    )


def _proxy(keys: Mapping[str, Any]) -> Proxy | None:
    names = ("proxy_type", "proxy_address", "proxy_port", "proxy_username", "proxy_password")
    kind = keys["proxy_type"]
    if kind is None:
        for name in names:
            if keys[name] is not None:
                raise InvalidSettingError(f"tor.{name}", "[hidden]", "null without a proxy_type")
        return None
    if kind not in list(ProxyType):
        raise InvalidSettingError("tor.proxy_type", kind, "socks4, socks5, https or null")
    proxy = Proxy(
        ProxyType(kind),
        _address(keys["proxy_address"], "tor.proxy_address"),
        _integer(keys["proxy_port"], "tor.proxy_port", 1, 65535),
    )
    return _with_login(proxy, keys["proxy_username"], keys["proxy_password"])


# Printable ASCII without what torrc gives a meaning (blank, quote, backslash, comment); a colon
# would move the border between the two in HTTPSProxyAuthenticator (tor(1)).
_CREDENTIAL = re.compile(r"[!$-&(-9;-\[\]-~]{1,255}", re.ASCII)


def _with_login(proxy: Proxy, username: object, password: object) -> Proxy:
    if username is None and password is None:
        return proxy
    if proxy.kind is ProxyType.SOCKS4:
        raise InvalidSettingError("tor.proxy_username", "[hidden]", "null for a SOCKS 4 proxy")
    for key, value in (("proxy_username", username), ("proxy_password", password)):
        if not isinstance(value, str) or not _CREDENTIAL.fullmatch(value):
            raise InvalidSettingError(
                f"tor.{key}",
                "[hidden]",
                "1 to 255 printable ASCII characters without blank, quotes, backslash, # or colon",
            )
    return replace(proxy, username=str(username), password=str(password))


_DOTTED = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}", re.ASCII)


#: The inner links, what Tor maps names to, and the NAT's network, where the rules allow nobody.
_OWN_NETWORKS = (TOR_INNER.network, I2P_INNER.network, UPLINK.network, MAPPED)


def _address(value: object, key: str) -> IPv4Address:
    expected = "an IPv4 address (names would need DNS before Tor)"
    text = _text(value, key, _DOTTED, expected)
    try:
        address = IPv4Address(text)
    except ValueError as err:
        raise InvalidSettingError(key, value, expected) from err
    if address.is_unspecified or address.is_loopback or address.is_multicast:
        raise InvalidSettingError(key, value, "the address of another machine")
    if address.is_reserved:
        raise InvalidSettingError(key, value, "an address that can be reached")
    if any(address in network for network in _OWN_NETWORKS):
        raise InvalidSettingError(key, value, "an address outside of the guests' own networks")
    return address


def _i2p(value: object, profile: Profile) -> I2pSettings | None:
    if profile is Profile.TOR_GUEST:
        if value is not None:
            raise InvalidSettingError("i2p", value, "null, as it must be for tor-guest")
        return None
    if profile is Profile.APP_GUEST:
        if value is None:
            return None
        _object(value, "i2p", ())
        return I2pSettings()
    keys = _object(value, "i2p", ("port", "reseed"))
    port = keys["port"]
    reseed = keys["reseed"]
    if reseed not in {None, "online", "bundle"} if isinstance(reseed, str | None) else True:
        raise InvalidSettingError("i2p.reseed", reseed, "null, 'online' or 'bundle'")
    if port in I2P_PORTS:
        # The router would take it on every address: app-guest would call the router's own port
        # where it means the proxy, which then does not start.
        raise InvalidSettingError("i2p.port", port, "a port that i2p-guest does not use itself")
    return I2pSettings(
        None if port is None else _integer(port, "i2p.port", 1024, 65535),
        reseed,
    )


_TAG = re.compile(r"[a-z0-9-]{1,36}", re.ASCII)


def _shares(value: object, profile: Profile) -> tuple[Share, ...]:
    shares = tuple(
        _share(item, f"shares[{number}]", profile)
        for number, item in enumerate(_list(value, "shares", len(Feature)))
    )
    for name in ("tag", "feature"):
        if len({getattr(share, name) for share in shares}) != len(shares):
            raise InvalidSettingError("shares", f"the same {name} twice", "a list without repeats")
    return shares


def _share(value: object, where: str, profile: Profile) -> Share:
    keys = _object(value, where, ("tag", "feature"))
    tag = _text(keys["tag"], f"{where}.tag", _TAG, "a tag of 1 to 36 of a-z, 0-9 and -")
    feature = keys["feature"]
    if feature not in list(Feature):
        raise InvalidSettingError(f"{where}.feature", feature, "a folder that may be shared")
    wanted = Profile.TOR_GUEST if feature in TOR_FEATURES else Profile.APP_GUEST
    if profile is not wanted:
        raise InvalidSettingError(f"{where}.feature", feature, f"for {profile}: it is {wanted}'s")
    return Share(tag, Feature(feature))


def _to_json(settings: Settings) -> dict[str, Any]:
    return {
        "version": VERSION,
        "profile": settings.profile.value,
        "language": settings.language,
        "formats": settings.formats,
        "keyboard": {
            "model": settings.keyboard.model,
            "layout": settings.keyboard.layout,
            "variant": settings.keyboard.variant,
            "options": settings.keyboard.options,
        },
        "admin_password_hash": settings.admin_password_hash,
        "offline": settings.offline,
        "tor": _tor_to_json(settings.tor),
        "i2p": _i2p_to_json(settings),
        "shares": [{"tag": share.tag, "feature": share.feature.value} for share in settings.shares],
    }


def _tor_to_json(tor: TorSettings | None) -> dict[str, Any] | None:
    if tor is None:
        return None
    proxy = tor.proxy
    return {
        "connect": tor.connect,
        "bridges": list(tor.bridges),
        "proxy_type": proxy.kind.value if proxy else None,
        "proxy_address": str(proxy.address) if proxy else None,
        "proxy_port": proxy.port if proxy else None,
        "proxy_username": proxy.username if proxy else None,
        "proxy_password": proxy.password if proxy else None,
        "transparent": tor.transparent,
    }


def _i2p_to_json(settings: Settings) -> dict[str, Any] | None:
    if settings.i2p is None:
        return None
    if settings.profile is Profile.APP_GUEST:
        return {}
    return {"port": settings.i2p.port, "reseed": settings.i2p.reseed}
