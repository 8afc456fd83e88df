# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide the whole configuration of i2p-guest's router, as one text.

Option names and their meaning: i2pd's documentation of its configuration file. Nothing of the
image's own i2pd.conf or tunnels is read: they would open a console and other people's tunnels.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from tails_profiles import constants as c
from tails_profiles.errors import ReseedError, SubscriptionError
from tails_profiles.settings import I2pSettings

#: Routers that i2pd wants to know before it stops looking for more in a bundle or online.
ROUTERS_WANTED = 25
#: Tunnels of each direction that are no proxy's: those by which the router explores, and as many of
#: the destination that its address book uses.
OWN_TUNNELS = 6
_WAYS = ("inbound", "outbound")
#: First routers that the makers of an image ship, the signed kind first; AppArmor's profile of
#: Debian's i2pd lets it read below here.
BUNDLES = (
    "/usr/share/i2pd/tails-profiles/reseed.su3",
    "/usr/share/i2pd/tails-profiles/reseed.zip",
)
#: Where the router finds those of the settings disk, by what the file begins with: I2P's signed
#: kind (its SU3 specification), and a plain zip archive, which is trusted as the host is.
GIVEN = {b"I2Psu3": "/etc/i2pd/reseed.su3", b"PK\x03\x04": "/etc/i2pd/reseed.zip"}
#: What the makers of an image add: lines for the part before the first section.
ADDITIONS = "/usr/share/i2pd/tails-profiles/i2pd.conf"

#: Lists of names that i2pd asks for instead of those of its configuration: one a line. Debian's is
#: a link to a directory that this router does not see.
SUBSCRIPTIONS = "/var/lib/i2pd/subscriptions.txt"

#: The router's resolv.conf(5) wherever it needs no names, and once it needs them no more.
NO_NAMES = "# no names\n"

#: What app-guest, or a program that got into this guest, could steer the router with.
_INTERFACES = ("http", "sam", "bob", "i2cp", "i2pcontrol")
#: What would contact others on its own: clocks, routers at home.
_HABITS = ("nettime", "upnp")


def i2pd_conf(i2p: I2pSettings, bundle: str | None, additions: str = "") -> str:
    """The configuration that these settings come to.

    ``bundle`` is the path of the first routers, None without them. Raises ReseedError where there
    are none and the settings do not say that I2P's servers may be asked, SubscriptionError for
    ``additions`` with a list of names that could never come.
    """
    first = _first_routers(i2p, bundle)
    own = _section("exploratory", *(f"{way}.quantity = {OWN_TUNNELS // 2}" for way in _WAYS))
    check_lists(_configured_lists(additions))
    lines = (*_router(i2p, additions), *_transports(i2p), *_proxies(), *own, *_off(), *first)
    return "\n".join(lines) + "\n"


def asks_names(i2p: I2pSettings) -> bool:
    """Whether the router must look up the names of I2P's reseed servers."""
    return i2p.reseed == "online"


def has_bundle(configuration: str) -> bool:
    """Whether a configuration of ours has first routers in a file, and so has them at any start."""
    return "\nurls =\n" in configuration


def given_path(bundle: bytes) -> str:
    """Where the router finds the bundle of a settings disk; raises ReseedError if it is none."""
    for beginning, path in GIVEN.items():
        if bundle.startswith(beginning):
            return path
    raise ReseedError(
        f"the file of first I2P routers begins with {bundle[:6]!r}",
        hint="give a reseed bundle: an .su3 file, or a .zip of routerInfo-*.dat",
    )


#: A list of names: on a site of I2P, by a name in the address book or by its address, the hash of
#: its destination. i2pd looks for the site in its address book alone: others are asked for nothing.
_LIST = re.compile(
    r"http://(?:[a-z2-7]{52}\.b32\.i2p|(?!\S*\.b32\.i2p)(?:[a-z0-9-]{1,63}\.){1,8}i2p)"
    r"(?::[0-9]{1,5})?/[!-+\--~]{0,200}",
    re.ASCII,
)
#: Options that name lists: the first one that is fetched, and what comes after it.
_LISTS = ("addressbook.defaulturl", "addressbook.subscriptions")


def check_lists(lists: Iterable[tuple[str, str]]) -> None:
    """Refuse a place whose list of names could never come.

    Each is where it is written, and the list's address. Raises SubscriptionError.
    """
    for where, url in lists:
        if not _LIST.fullmatch(url):
            raise SubscriptionError(where, url)


def listed(text: str) -> Iterator[tuple[str, str]]:
    """What i2pd's file of subscriptions names: each list and where it stands."""
    for number, line in enumerate(text.splitlines(), 1):
        if line and not line.startswith("#"):
            yield f"{SUBSCRIPTIONS}, line {number}", line


def _configured_lists(additions: str) -> Iterator[tuple[str, str]]:
    # As i2pd reads it: program_options of Boost, where a section's name begins its options' names.
    section = ""
    for number, line in enumerate(additions.splitlines(), 1):
        line = line.partition("#")[0].strip()  # noqa: PLW2901
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1] + "."
        name, _, value = line.partition("=")
        if section + name.strip() in _LISTS:
            where = f"{ADDITIONS}, line {number}"
            yield from ((where, each.strip()) for each in value.split(","))


def _router(i2p: I2pSettings, additions: str) -> Iterator[str]:
    yield "# Written by tails-profiles at each boot; nothing else configures this router."
    if additions:
        yield additions.rstrip("\n")
    yield "log = stdout"
    # That a tunnel stands is said at this level alone; the journal is in memory, and bounded.
    yield "loglevel = info"
    yield "ipv4 = true"
    yield "ipv6 = false"
    # Nobody can call us, whatever an address says; it still carries others' traffic, as every
    # router does: who only takes stands out.
    yield "nat = true"
    yield "bandwidth = L"
    if i2p.port is not None:
        yield f"port = {i2p.port}"


def _transports(i2p: I2pSettings) -> Iterator[str]:
    # Who has forwarded a port may be called: others are told where.
    published = "false" if i2p.port is None else "true"
    for name in ("ntcp2", "ssu2"):
        yield from _section(name, "enabled = true", f"published = {published}")
    yield from _section("meshnets", "yggdrasil = false")


def _proxies() -> Iterator[str]:
    inner = f"address = {c.I2P_INNER.ip}"
    # No way out of I2P, and no page that plants a name. Keys that are never stored, and not by one
    # name: with that the second would take the first one's destination, and sites could tell that
    # a browser and another program are the same person's.
    yield from _section(
        "httpproxy", "enabled = true", inner, f"port = {c.I2P_HTTP_PORT}", "keys = transient-http",
        "addresshelper = false", "outproxy =",
    )  # fmt: skip
    yield from _section(
        "socksproxy", "enabled = true", inner, f"port = {c.I2P_SOCKS_PORT}",
        "keys = transient-socks", "outproxy.enabled = false",
    )  # fmt: skip


def _off() -> Iterator[str]:
    for name in (*_INTERFACES, *_HABITS):
        yield from _section(name, "enabled = false")
    # Names, name.i2p: a list that the router fetches through I2P itself at each start.
    yield from _section("addressbook", "enabled = true")
    yield from _section("persist", "profiles = false", "addressbook = false")


def _first_routers(i2p: I2pSettings, bundle: str | None) -> Iterator[str]:
    chosen = _chosen(i2p, bundle)
    lines = ["verify = true", f"threshold = {ROUTERS_WANTED}", "yggurls ="]
    if chosen is not None:
        key = "file" if PurePosixPath(chosen).suffix == ".su3" else "zipfile"
        lines += [f"{key} = {chosen}", "urls ="]
    yield from _section("reseed", *lines)


def _chosen(i2p: I2pSettings, bundle: str | None) -> str | None:
    if asks_names(i2p):
        return None
    if bundle is None:
        raise ReseedError(
            "nothing says where the first I2P routers come from",
            hint='give a bundle with --reseed FILE, or set i2p.reseed to "online"',
        )
    return bundle


def _section(name: str, *lines: str) -> Iterator[str]:
    yield f"[{name}]"
    yield from lines


@dataclass(frozen=True, slots=True)
class Heard:
    """What a router has said since it started.

    ``inbound`` and ``outbound``: tunnels that were made. ``routers``: others it has learned of.
    ``refused``: why it got no first ones. ``names``: how many the last list of names had, None
    before one has come; ``unnamed``: why none came when it was last asked for.
    """

    inbound: int = 0
    outbound: int = 0
    refused: str | None = None
    routers: int = 0
    names: int | None = None
    unnamed: str | None = None

    @property
    def has_client_tunnel(self) -> bool:
        """Whether more tunnels of each direction were made than are for the router itself."""
        return min(self.inbound, self.outbound) > OWN_TUNNELS

    @property
    def names_note(self) -> str | None:
        """Words for a person about names, once there is something to say."""
        known = f"{self.names} names known"
        if self.unnamed is None:
            return None if self.names is None else known
        if self.names is None:
            return f"no names, {self.unnamed}: sites are reached by their .b32.i2p addresses"
        return f"{known}, no newer ones, {self.unnamed}"


#: A router that has not said anything yet.
SILENCE = Heard()

# i2pd 2.45 to 2.56: libi2pd/I2NPProtocol.cpp or Tunnel.cpp, Reseed.cpp, daemon/Daemon.cpp,
# libi2pd_client/AddressBook.cpp. What somebody else has made a part of a message does not begin it.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_MADE = re.compile(r"(?:I2NP|Tunnel): (In|Out)bound tunnel \d+ has been created")
_REFUSED = re.compile(r"Reseed: (?:.* failed.*|Unexpected .*|Can't .*|Failed to reseed from .*)")
_LEARNED = re.compile(r"NetDb: RouterInfo added: ")
_STARTING = re.compile(r"i2pd v[\d.]+ .*starting")
_NAMES = re.compile(r"Addressbook: (\d+) addresses (?:processed|loaded from storage)")
_UNNAMED = re.compile(
    r"Add?ressbook: ((?:Failed to parse url|Can't resolve|LeaseSet for address|Can't parse http"
    r"|Incomplete http response|Can't get updates|Empty response|Response size mismatch"
    r"|Can't gunzip|Subscriptions request timeout)[ -~]*)"
)


def hear(heard: Heard, messages: Iterable[str]) -> Heard:
    """The same after more of its messages, oldest first; a start begins anew."""
    for each in messages:
        # After the time, the thread and the level.
        message = _COLOUR.sub("", each).partition(" - ")[2]
        if _STARTING.match(message):
            heard = SILENCE
        elif made := _MADE.match(message):
            heard = (
                replace(heard, inbound=heard.inbound + 1)
                if made[1] == "In"
                else replace(heard, outbound=heard.outbound + 1)
            )
        elif _LEARNED.match(message):
            heard = replace(heard, routers=heard.routers + 1)
        elif refused := _REFUSED.match(message):
            heard = replace(heard, refused=refused[0])
        else:
            heard = _hear_names(heard, message)
    return heard


def _hear_names(heard: Heard, message: str) -> Heard:
    if unnamed := _UNNAMED.match(message):
        return replace(heard, unnamed=unnamed[1])
    if not (found := _NAMES.match(message)):
        return heard
    if int(found[1]) == 0:
        return replace(heard, unnamed="what came is no list of names")
    return replace(heard, names=int(found[1]), unnamed=None)
