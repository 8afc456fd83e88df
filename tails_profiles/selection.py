# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn what the DMI fields say into a profile, and say why.

This is the reference; ``units/classify.sh`` is its twin for the moments in which starting Python
would slow every boot, and a test drives both over one corpus.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import UnionType
from typing import Any

from tails_profiles.errors import DamagedStateError
from tails_profiles.profile import GUESTS, SETTINGS_TAG, TOKEN_WORD, Profile, token

#: Bytes: the longest content sysfs shows, its newline included (the kernel cuts at a page less
#: one; measured on Linux 6.1 and 6.12).
MAX_CONTENT = 4095

_WORD = TOKEN_WORD.encode()
_TOKENS = {token(profile).encode(): profile for profile in GUESTS}
_TAG = SETTINGS_TAG.encode()


@dataclass(frozen=True, slots=True)
class FieldReading:
    """One DMI field as it was read.

    ``content`` is the whole file, the kernel's newline included; None with ``error`` None means
    that the machine does not have the field. ``error`` says why it could not be read.
    """

    name: str
    content: bytes | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DmiFields:
    """The three fields that are ours, by their kernel names."""

    bios_vendor: FieldReading
    product_serial: FieldReading
    chassis_asset_tag: FieldReading

    def __iter__(self) -> Iterator[FieldReading]:
        return iter((self.bios_vendor, self.product_serial, self.chassis_asset_tag))


@dataclass(frozen=True, slots=True)
class Selection:
    """The decision, the field it came from, and the reason in words."""

    profile: Profile
    field: str | None
    token: str | None
    reason: str
    settings_promised: bool = False

    def to_json(self) -> dict[str, str | bool | None]:
        """The stable keys of ``detect --json`` and of ``selection.json``."""
        return {
            "profile": self.profile.value,
            "field": self.field,
            "token": self.token,
            "reason": self.reason,
            "settings_promised": self.settings_promised,
        }


def select(fields: DmiFields, *, container: bool) -> Selection:
    """Decide the profile; never raises, and never answers with a guest on a doubt.

    ``container``: DMI in a container is its host's, and ignored.
    """
    if container:
        return Selection(Profile.NORMAL, None, None, "a container's DMI is its host's")
    for reading in fields:
        fault = _fault(reading)
        if fault is not None:
            return Selection(Profile.QUARANTINE, reading.name, None, fault)
    return _combine(fields)


def _combine(fields: DmiFields) -> Selection:
    carriers = [
        (reading.name, _value(reading))
        for reading in (fields.bios_vendor, fields.product_serial)
        if _value(reading) in _TOKENS
    ]
    promised = _value(fields.chassis_asset_tag) == _TAG
    values = {value for _, value in carriers}
    if len(values) > 1:
        names = " and ".join(f"{name} says {show(value)}" for name, value in carriers)
        return Selection(Profile.QUARANTINE, carriers[0][0], None, f"two tokens: {names}")
    if carriers:
        name, value = carriers[0]
        text = value.decode("ascii")
        return Selection(_TOKENS[value], name, text, f"{name} says {show(value)}", promised)
    if promised:
        name = fields.chassis_asset_tag.name
        return Selection(Profile.QUARANTINE, name, None, "it promises settings without a token")
    return Selection(Profile.NORMAL, None, None, "no field carries a token")


def _fault(reading: FieldReading) -> str | None:
    """What is wrong with one field by itself, or None."""
    if reading.error is not None:
        return reading.error
    content = reading.content
    if content is None:
        return None
    if len(content) > MAX_CONTENT:
        return f"it has more than {MAX_CONTENT} bytes"
    if b"\0" in content:
        return "it holds a NUL byte"
    if not content.endswith(b"\n"):
        return "it does not end in a newline"
    value = _value(reading)
    exact = (_TAG,) if reading.name == "chassis_asset_tag" else tuple(_TOKENS)
    if _WORD in value.lower() and value not in exact:
        return f"{show(value)} is none of " + ", ".join(show(good) for good in exact)
    return None


def _value(reading: FieldReading) -> bytes:
    # Exactly the one newline that the kernel adds; blanks are part of the value.
    return (reading.content or b"").removesuffix(b"\n")


def show(value: bytes, limit: int = 64) -> str:
    """A value in quotes, safe for any terminal: printable ASCII, the rest as octal escapes."""
    shown = "".join(chain.from_iterable(_escape(byte) for byte in value[:limit]))
    return f'"{shown}"' + ("..." if len(value) > limit else "")


def _escape(byte: int) -> str:
    if byte in b'"\\' or not 0x20 <= byte < 0x7F:
        return f"\\{byte:03o}"
    return chr(byte)


def selection_from_json(value: Mapping[str, Any], source: str) -> Selection:
    """The selection in a boot's ``selection.json``; raises DamagedStateError naming ``source``."""
    expected: Mapping[str, type | UnionType] = {
        "profile": str,
        "field": str | None,
        "token": str | None,
        "reason": str,
        "settings_promised": bool,
    }
    if value.keys() != expected.keys():
        raise DamagedStateError(source, f"its keys are not {', '.join(expected)}")
    for key, kind in expected.items():
        if not isinstance(value[key], kind):
            raise DamagedStateError(source, f"{key} is {value[key]!r:.60}")
    if value["profile"] not in {*Profile}:
        raise DamagedStateError(source, f"it names the profile {value['profile']!r:.60}")
    return Selection(**{**value, "profile": Profile(value["profile"])})
