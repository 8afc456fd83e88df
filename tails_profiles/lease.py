# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide about an uplink's DHCP lease: how it is asked for, what of it is taken, how it is held.

A guest without a settings disk was not started by our launcher, so nobody said which network its
uplink is in. Whoever answers DHCP there may be hostile: only four values are looked at, each is
checked, and none of them opens more than the link table's rules do for one address and one router.
No resolver is taken from a lease, nor a host name, a route or a time.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from tails_profiles import constants
from tails_profiles.command import Command
from tails_profiles.errors import LeaseError
from tails_profiles.links import EVERYTHING, IP

#: busybox's udhcpc: Debian's initial RAM disks have it anyway. Without these options it would send
#: a client id, its version, and a list of every option it knows.
#: tests/lab/test_lease.py holds every byte of its packets (1.35; 1.37 runs in tests/sabotage).
CLIENT = ("/usr/bin/busybox", "udhcpc")
TRIES, PAUSE = 4, 3
#: Seconds that one call of the client may take; it ends by itself after TRIES times PAUSE.
CLIENT_TIMEOUT = 60.0

#: Seconds: no server makes us ask more often, or trust a lease for longer.
MIN_LEASE, MAX_LEASE = 120, 86400
#: Seconds until the next question where nobody has answered.
RETRY = 10.0

_UPLINK = "uplink"
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
#: Prefix lengths of a network with room for us, a router, and the two addresses nobody has.
_PREFIXES = range(8, 31)
#: Where no machine's own address can be (RFC 1122, RFC 5771, RFC 3927, RFC 1112).
_NO_HOST = tuple(
    IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
)
_OURS = (
    ("tor-guest's inner link", constants.TOR_INNER.network),
    ("i2p-guest's inner link", constants.I2P_INNER.network),
    ("Tor's mapped names", constants.MAPPED),
)


@dataclass(frozen=True, slots=True)
class Lease:
    """An address with its network, the way out of it, and for how many seconds they hold."""

    address: IPv4Interface
    router: IPv4Address
    seconds: int

    def describe(self) -> str:
        """Words for a person."""
        return f"{self.address} via {self.router} for {self.seconds} s"

    def same_network(self, other: "Lease | None") -> bool:
        """Whether nothing changes but the time."""
        return other is not None and (self.address, self.router) == (other.address, other.router)

    @property
    def renew_after(self) -> float:
        """Seconds after which to ask again (RFC 2131's T1: half of the time)."""
        return self.seconds / 2


def request(hook: str) -> Command:
    """Ask once: prints what ``hook`` prints, status 1 where nobody has answered.

    A lease is renewed by asking anew. That needs no socket beside the packet socket, and no rule
    beside the one for requests without an address.
    """
    return Command(
        (*CLIENT, "-i", _UPLINK, "-f", "-q", "-n", "-t", str(TRIES), "-T", str(PAUSE),
         "-C", "-V", "", "-o", "-O", "subnet", "-O", "router", "-s", hook)
    )  # fmt: skip


def parse(answer: str) -> Lease:
    """The lease in the hook's lines, ``NAME=VALUE`` with the names ip, subnet, router and lease.

    Raises LeaseError naming what is missing, malformed, or would stand in our own networks' way.
    """
    values: dict[str, str] = {}
    for line in answer.splitlines():
        name, _, value = line.partition("=")
        if name in values:
            raise LeaseError(f"the lease names {name} twice")
        values[name] = value
    network = _network(_value(values, "ip"), _value(values, "subnet"))
    # More than one router may be named; the first is the preferred one (RFC 2132, 3.5).
    router = _address(_value(values, "router").split(" ")[0], "router")
    _require_host(network, network.ip, "the address")
    _require_host(network, router, "the router")
    if router == network.ip:
        raise LeaseError(f"the lease gives {router} to us and to the router")
    refuse_overlap(network)
    return Lease(network, router, _seconds(_value(values, "lease")))


def _value(values: Mapping[str, str], name: str) -> str:
    if not values.get(name):
        raise LeaseError(f"the lease has no {name}")
    return values[name]


def _address(text: str, name: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError as err:
        raise LeaseError(f"the lease's {name} is {text[:40]!r}, no address") from err


def _network(address: str, mask: str) -> IPv4Interface:
    own = _address(address, "ip")
    bits = int(_address(mask, "subnet"))
    prefix = bits.bit_count()
    if bits != (0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF or prefix not in _PREFIXES:
        raise LeaseError(f"the lease's subnet {mask} is no mask of 8 to 30 bits")
    return IPv4Interface((own, prefix))


def _require_host(where: IPv4Interface, host: IPv4Address, what: str) -> None:
    network = where.network
    if host not in network:
        raise LeaseError(f"{what} {host} is not in the lease's network {network}")
    if host in (network.network_address, network.broadcast_address) or any(
        host in each for each in _NO_HOST
    ):
        raise LeaseError(f"{what} {host} is none that a machine can have")


def refuse_overlap(lease: IPv4Interface) -> None:
    """Refuse a lease that overlaps our own networks; raises LeaseError naming both."""
    for name, network in _OURS:
        if lease.network.overlaps(network):
            raise LeaseError(
                f"the lease {lease} overlaps {network}, {name}",
                hint="give the machine's uplink another network, such as NAT's usual one",
            )


def _seconds(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise LeaseError(f"the lease's time is {text[:40]!r}, no number of seconds")
    return min(max(int(text), MIN_LEASE), MAX_LEASE)


def take_steps(lease: Lease) -> tuple[Command, ...]:
    """Give the uplink its address and way out; its table has them already."""
    return (
        Command((IP, "address", "replace", str(lease.address), "dev", _UPLINK)),
        Command(
            (IP, "route", "replace", str(EVERYTHING), "via", str(lease.router), "dev", _UPLINK)
        ),
    )


def drop_steps() -> tuple[Command, ...]:
    """Take every address from the uplink, and with them every route."""
    return (Command((IP, "-4", "address", "flush", "dev", _UPLINK)),)


def up_step() -> Command:
    """Raise the uplink, whose table lets out nothing but requests yet."""
    return Command((IP, "link", "set", "dev", _UPLINK, "up"))


def down_step() -> Command:
    """Put the uplink down."""
    return Command((IP, "link", "set", "dev", _UPLINK, "down"))


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What ``lease.json`` holds: the lease or None, and why there is none."""

    lease: Lease | None
    note: str

    def to_json(self) -> dict[str, Any]:
        """For other programs."""
        lease = self.lease
        return {
            "address": str(lease.address) if lease else None,
            "router": str(lease.router) if lease else None,
            "seconds": lease.seconds if lease else None,
            "note": self.note,
        }
