# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide the whole configuration of i2p-guest's router, as one text.

Option names and their meaning: i2pd's documentation of its configuration file. Nothing of the
image's own i2pd.conf or tunnels is read: they would open a console and other people's tunnels.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from tails_profiles import constants as c
from tails_profiles.errors import ReseedError
from tails_profiles.settings import I2pSettings

#: Routers that i2pd wants to know before it stops looking for more in a bundle or online.
ROUTERS_WANTED = 25
#: First routers that the makers of an image ship, the signed kind first; AppArmor's profile of
#: Debian's i2pd lets it read below here.
BUNDLES = (
    "/usr/share/i2pd/tails-profiles/reseed.su3",
    "/usr/share/i2pd/tails-profiles/reseed.zip",
)
#: What the makers of an image add: lines for the part before the first section.
ADDITIONS = "/usr/share/i2pd/tails-profiles/i2pd.conf"

#: What app-guest, or a program that got into this guest, could steer the router with.
_INTERFACES = ("http", "sam", "bob", "i2cp", "i2pcontrol")
#: What would contact others on its own: names, clocks, routers at home.
_HABITS = ("addressbook", "nettime", "upnp")


def i2pd_conf(i2p: I2pSettings, bundle: str | None, additions: str = "") -> str:
    """The configuration that these settings come to.

    ``bundle`` is the path of the image's first routers, None without one. Raises ReseedError where
    the settings want one that is not there.
    """
    first = _first_routers(i2p, bundle)
    lines = (*_router(i2p, additions), *_transports(), *_proxies(), *_off(), *first)
    return "\n".join(lines) + "\n"


def asks_names(i2p: I2pSettings, bundle: str | None) -> bool:
    """Whether the router must look up the names of I2P's reseed servers."""
    return _chosen(i2p, bundle) is None


def _router(i2p: I2pSettings, additions: str) -> Iterator[str]:
    yield "# Written by tails-profiles at each boot; nothing else configures this router."
    if additions:
        yield additions.rstrip("\n")
    yield "log = stdout"
    yield "loglevel = warn"
    yield "ipv4 = true"
    yield "ipv6 = false"
    # Nobody can call us, whatever an address says; it still carries others' traffic, as every
    # router does: who only takes stands out.
    yield "nat = true"
    yield "bandwidth = L"
    if i2p.port is not None:
        yield f"port = {i2p.port}"


def _transports() -> Iterator[str]:
    for name in ("ntcp2", "ssu2"):
        yield from _section(name, "enabled = true", "published = false")
    yield from _section("meshnets", "yggdrasil = false")


def _proxies() -> Iterator[str]:
    inner = f"address = {c.I2P_INNER.ip}"
    # No way out of I2P, and no page that plants a name.
    yield from _section(
        "httpproxy", "enabled = true", inner, f"port = {c.I2P_HTTP_PORT}", "addresshelper = false",
        "outproxy =",
    )  # fmt: skip
    yield from _section(
        "socksproxy", "enabled = true", inner, f"port = {c.I2P_SOCKS_PORT}",
        "outproxy.enabled = false",
    )  # fmt: skip


def _off() -> Iterator[str]:
    for name in (*_INTERFACES, *_HABITS):
        yield from _section(name, "enabled = false")
    yield from _section("persist", "profiles = false", "addressbook = false")


def _first_routers(i2p: I2pSettings, bundle: str | None) -> Iterator[str]:
    chosen = _chosen(i2p, bundle)
    lines = ["verify = true", f"threshold = {ROUTERS_WANTED}", "yggurls ="]
    if chosen is not None:
        key = "file" if PurePosixPath(chosen).suffix == ".su3" else "zipfile"
        lines += [f"{key} = {chosen}", "urls ="]
    yield from _section("reseed", *lines)


def _chosen(i2p: I2pSettings, bundle: str | None) -> str | None:
    if i2p.reseed == "bundle" and bundle is None:
        raise ReseedError(BUNDLES)
    return None if i2p.reseed == "online" else bundle


def _section(name: str, *lines: str) -> Iterator[str]:
    yield f"[{name}]"
    yield from lines
