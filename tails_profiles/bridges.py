# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridge lines: one closed grammar for each pluggable transport.

A line ends up in torrc, so nothing that torrc or the transport could read as more than one value
passes. Addresses that are contacted must be public IPv4; transports that contact something else
(webtunnel, meek_lite, snowflake) carry a placeholder, which is not looked at beyond its shape.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from types import MappingProxyType

from tails_profiles.constants import PRIVATE_RANGES
from tails_profiles.errors import InvalidSettingError


class Transport(StrEnum):
    """The transports this project carries; ``vanilla`` is Tor's own protocol."""

    VANILLA = "vanilla"
    OBFS4 = "obfs4"
    WEBTUNNEL = "webtunnel"
    MEEK_LITE = "meek_lite"
    SNOWFLAKE = "snowflake"


@dataclass(frozen=True, slots=True)
class Bridge:
    """A validated line, in its canonical form, and the transport it uses."""

    line: str
    transport: Transport


MAX_LINE = 2048

_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{40}", re.ASCII)
_HOST = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
_HOSTS = rf"{_HOST}(,{_HOST}){{0,15}}"
_URL = rf"https://{_HOST}(:[0-9]{{1,5}})?(/[A-Za-z0-9._~/-]{{0,200}})?"
_STUN = rf"stun:{_HOST}(:[0-9]{{1,5}})?"


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


# transport -> argument -> its grammar; sources: obfs4proxy, webtunnel and snowflake client manuals.
_ARGUMENTS: Mapping[Transport, Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        Transport.VANILLA: {},
        Transport.OBFS4: {
            "cert": _pattern(r"[A-Za-z0-9+/]{70}"),
            "iat-mode": _pattern(r"[012]"),
        },
        Transport.WEBTUNNEL: {
            "url": _pattern(_URL),
            "ver": _pattern(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}"),
            "servername": _pattern(_HOST),
            "utls": _pattern(r"[a-z0-9_]{1,32}"),
        },
        Transport.MEEK_LITE: {
            "url": _pattern(_URL),
            "front": _pattern(_HOST),
            "utls": _pattern(r"[A-Za-z0-9_]{1,32}"),
        },
        Transport.SNOWFLAKE: {
            "fingerprint": _FINGERPRINT,
            "url": _pattern(_URL),
            "front": _pattern(_HOST),
            "fronts": _pattern(_HOSTS),
            "ice": _pattern(rf"{_STUN}(,{_STUN}){{0,31}}"),
            "utls-imitate": _pattern(r"[a-z0-9_]{1,32}"),
            "utls-nosni": _pattern(r"true|false"),
            "ampcache": _pattern(_URL),
        },
    }
)
_REQUIRED = MappingProxyType(
    {
        Transport.VANILLA: frozenset[str](),
        Transport.OBFS4: frozenset({"cert"}),
        Transport.WEBTUNNEL: frozenset({"url"}),
        Transport.MEEK_LITE: frozenset({"url"}),
        Transport.SNOWFLAKE: frozenset({"url"}),
    }
)
_CONTACTED = frozenset({Transport.VANILLA, Transport.OBFS4})
_ENDPOINT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,3}){3}):([1-9][0-9]{0,4})", re.ASCII)
_ENDPOINT_6 = re.compile(r"\[([0-9a-f:]{2,39})\]:([1-9][0-9]{0,4})", re.ASCII)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}", re.ASCII)


def parse_bridge(value: object, key: str) -> Bridge:
    """Validate one line, with or without the leading word ``Bridge``'s transport.

    ``key`` names the setting in errors. Raises InvalidSettingError.
    """
    if not isinstance(value, str) or len(value) > MAX_LINE:
        raise InvalidSettingError(key, value, f"a bridge line of at most {MAX_LINE} characters")
    words = value.split(" ")
    if not all(word and word.isascii() and word.isprintable() for word in words):
        raise InvalidSettingError(key, value, "words of ASCII with single blanks between them")
    transport = _transport(words[0], key)
    rest = words if transport is Transport.VANILLA else words[1:]
    if not rest:
        raise InvalidSettingError(key, value, "a line with an address")
    _check_endpoint(rest[0], key, contacted=transport in _CONTACTED)
    rest = rest[1:]
    if rest and _FINGERPRINT.fullmatch(rest[0]):
        rest = rest[1:]
    _check_arguments(rest, transport, key)
    return Bridge(value, transport)


def _transport(word: str, key: str) -> Transport:
    if not _NAME.fullmatch(word):
        return Transport.VANILLA
    try:
        transport = Transport(word)
    except ValueError:
        transport = Transport.VANILLA
    if transport is Transport.VANILLA:
        names = ", ".join(name for name in Transport if name is not Transport.VANILLA)
        raise InvalidSettingError(key, word, f"a transport carried here ({names})")
    return transport


def _check_endpoint(word: str, key: str, *, contacted: bool) -> None:
    match = _ENDPOINT.fullmatch(word)
    if match is None:
        if _ENDPOINT_6.fullmatch(word) and not contacted:
            return
        expected = "an IPv4 address and port (IPv6 never leaves a gateway)"
        raise InvalidSettingError(key, word, expected)
    try:
        address = IPv4Address(match[1])
    except ValueError as err:
        raise InvalidSettingError(key, word, "an IPv4 address and port") from err
    if int(match[2]) > 65535:
        raise InvalidSettingError(key, word, "a port from 1 to 65535")
    if contacted and any(address in network for network in PRIVATE_RANGES):
        raise InvalidSettingError(key, word, "an address outside the private ranges")


def _check_arguments(words: list[str], transport: Transport, key: str) -> None:
    grammar = _ARGUMENTS[transport]
    seen = set()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in grammar or name in seen:
            known = ", ".join(grammar) or "none"
            raise InvalidSettingError(key, word, f"an argument of {transport}, once each ({known})")
        if not grammar[name].fullmatch(value):
            raise InvalidSettingError(f"{key} {name}", value, f"a value of {transport}'s {name}")
        seen.add(name)
    absent = _REQUIRED[transport] - seen
    if absent:
        raise InvalidSettingError(key, transport.value, f"a line with {', '.join(absent)}=")
