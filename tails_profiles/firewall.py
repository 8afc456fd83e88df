# SPDX-License-Identifier: GPL-3.0-or-later
"""The packet policy of each profile as values: what a rule set is rendered from.

Two layers. ``inet tails_profiles`` knows users and conntrack; one ``netdev`` table for each link
knows everything that can be told from a single frame, before the stack sees it. Every number in
a rule set comes from ``constants``; accounts appear by name, because nft refuses a whole file
that names a missing account, and because images renumber accounts after packages are installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar

from tails_profiles import constants
from tails_profiles.constants import LINKS, LinkConstants
from tails_profiles.errors import RulesetError, known
from tails_profiles.profile import Profile
from tails_profiles.rule_files import DHCP_LINK, TRANSPARENT

TRANSPORTS = ("tcp", "tcp-dns", "tcp-udp")


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses from the first to the last, both included; written as nft does."""

    first: IPv4Address
    last: IPv4Address

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def complement(networks: Sequence[IPv4Network]) -> tuple[AddressRange, ...]:
    """Every IPv4 address that is in none of these networks, which must not overlap.

    Rule sets name what may pass and never what may not. While a table is replaced by a new one,
    nf_tables may for a moment find no element in its sets (seen with Linux 6.18, also in anonymous
    ones): "drop what is in the set" lets packets out then, "drop what is not in it" does not.
    """
    ranges = []
    first = 0
    for network in sorted(networks):
        start, end = int(network.network_address), int(network.broadcast_address)
        if start > first:
            ranges.append(AddressRange(IPv4Address(first), IPv4Address(start - 1)))
        first = end + 1
    if first < 1 << 32:
        ranges.append(AddressRange(IPv4Address(first), IPv4Address((1 << 32) - 1)))
    return tuple(ranges)


@dataclass(frozen=True, slots=True)
class QuarantineContext:
    """Nothing leaves, nothing enters; programs may talk to each other over lo."""

    template: ClassVar[str] = "quarantine.nft.j2"


@dataclass(frozen=True, slots=True)
class TorGuestContext:
    """tor-guest: serves app-guest on the inner link, lets Tor's user out on the uplink."""

    template: ClassVar[str] = "tor-guest.nft.j2"
    user: str
    own: IPv4Address
    client: IPv4Address
    tcp_ports: tuple[int, ...]
    dns_ports: tuple[int, ...]
    trans_port: int
    mapped: IPv4Network
    resolver: IPv4Address | None
    udp: bool
    transparent: bool
    public: tuple[AddressRange, ...]


@dataclass(frozen=True, slots=True)
class I2pGuestContext:
    """i2p-guest: serves app-guest on the inner link, lets the router's user out on the uplink."""

    template: ClassVar[str] = "i2p-guest.nft.j2"
    user: str
    own: IPv4Address
    client: IPv4Address
    tcp_ports: tuple[int, ...]
    public: tuple[AddressRange, ...]


@dataclass(frozen=True, slots=True)
class HostContext:
    """The host: what the users of the virtual machines may send.

    ``exclusive``: and that nobody else sends or hears anything.
    """

    template: ClassVar[str] = "host.nft.j2"
    gateway_user: str
    app_user: str
    resolver: IPv4Address | None
    udp: bool
    exclusive: bool
    public: tuple[AddressRange, ...]


@dataclass(frozen=True, slots=True)
class LocalNetwork:
    """One of Tails' network namespaces: its host end, and the local Tor ports it may use."""

    name: str
    client: IPv4Address
    own: IPv4Address
    ports: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AppGuestContext:
    """app-guest: reaches the gateways' ports and nothing else, least of all its own network."""

    template: ClassVar[str] = "app-guest.nft.j2"
    tor_own: IPv4Address
    tor: IPv4Address
    tor_tcp_ports: tuple[int, ...]
    tor_dns_ports: tuple[int, ...]
    mapped: IPv4Network
    i2p_own: IPv4Address
    i2p: IPv4Address
    i2p_tcp_ports: tuple[int, ...]
    local_networks: tuple[LocalNetwork, ...]


@dataclass(frozen=True, slots=True)
class InnerLinkContext:
    """The frames of an inner link. ``calls`` says that this end opens the connections.

    ``mapped`` are addresses of the gateway's end that stand for names or, in transparent mode,
    everything; ``dhcp_server`` lets the gateway's end answer DHCP.
    """

    template: ClassVar[str] = "inner-link.nft.j2"
    link: str
    mac: str
    peer_mac: str
    own: IPv4Address
    peer: IPv4Address
    calls: bool
    tcp_ports: tuple[int, ...]
    udp_ports: tuple[int, ...]
    mapped: IPv4Network | None
    transparent: bool
    public: tuple[AddressRange, ...]


@dataclass(frozen=True, slots=True)
class UplinkContext:
    """The frames of an uplink; ``own`` is None where a lease gives the address.

    ``proxy``: settings may name a proxy in a private range; I2P has none. ``opens``: settings may
    open a port to the internet; Tor needs none.
    """

    template: ClassVar[str] = "uplink.nft.j2"
    link: str
    mac: str
    own: IPv4Address | None
    router: IPv4Address | None
    resolver: IPv4Address | None
    udp: bool
    proxy: bool
    opens: bool
    public: tuple[AddressRange, ...]


FirewallContext = QuarantineContext | TorGuestContext | I2pGuestContext | AppGuestContext
LinkContext = InnerLinkContext | UplinkContext
Context = FirewallContext | LinkContext | HostContext

#: Tails' network namespaces (tails-create-netns, 10.200.1.0/24 in blocks of four, the host's end
#: first) and what ferm.conf lets each of them reach on that end.
TAILS_NETWORKS = (
    ("tbb", 0, (constants.SOCKS_DEFAULT, constants.CONTROL_FILTER_PORT)),
    ("onioncircs", 4, (constants.CONTROL_FILTER_PORT,)),
    ("tca", 8, (constants.CONTROL_FILTER_PORT,)),
    ("onionshare", 12, (constants.SOCKS_DEFAULT, constants.CONTROL_FILTER_PORT)),
)

_PUBLIC = complement(constants.PRIVATE_RANGES)
_TOR_TCP_PORTS = (*constants.SOCKS_PORTS, constants.CONTROL_FILTER_PORT)


def variants(profile: Profile) -> tuple[str, ...]:
    """The names ``--variant`` takes; ``("",)`` for a profile that has only one rule set."""
    if profile is Profile.TOR_GUEST:
        return tuple(t + mode for mode in ("", TRANSPARENT) for t in TRANSPORTS)
    return ("",)


def link_tables(profile: Profile) -> tuple[str, ...]:
    """The names ``--link`` takes for this profile."""
    if profile.is_gateway:
        return ("uplink", DHCP_LINK, "inner")
    return tuple(link.name for link in LINKS.get(profile, ()))


def build_context(profile: Profile, variant: str = "") -> FirewallContext:
    """What the ``inet`` rule set of a profile is rendered from.

    Raises RulesetError for a profile without rule set or an unknown variant.
    """
    variant = _known_variant(profile, variant)
    if profile is Profile.TOR_GUEST:
        return _tor_guest(variant)
    if profile is Profile.I2P_GUEST:
        return I2pGuestContext(
            constants.I2P_USER,
            constants.I2P_INNER.ip,
            constants.APP_I2P.ip,
            constants.I2P_PORTS,
            _PUBLIC,
        )
    if profile is Profile.APP_GUEST:
        return _app_guest()
    return QuarantineContext()


def build_link_context(profile: Profile, link: str, variant: str = "") -> LinkContext:
    """What the ``netdev`` rule set of one link is rendered from.

    Raises RulesetError for a link that this profile does not have.
    """
    variant = _known_variant(profile, variant)
    tables = link_tables(profile)
    if link not in tables:
        raise RulesetError(f"{profile} has no link {link!r}", hint=known(tables))
    name = "uplink" if link == DHCP_LINK else link
    facts = next(facts for facts in LINKS[profile] if facts.name == name)
    if facts.is_uplink:
        return _uplink(profile, facts, variant, dhcp=link == DHCP_LINK)
    return _inner_link(profile, facts, variant)


def build_host_context(
    *, resolver: IPv4Address | None, udp: bool, exclusive: bool = False
) -> HostContext:
    """What the host's rule set is rendered from.

    ``resolver``: whom tor-guest's transport asks for names, if it does. ``udp``: it needs UDP, or
    I2P runs. ``exclusive``: this machine's network is for its guests alone.
    """
    return HostContext(
        constants.GATEWAY_USER, constants.APP_USER, resolver, udp, exclusive, _PUBLIC
    )


def default_variant(profile: Profile) -> str:
    """The variant used where nobody named one: the narrowest."""
    return variants(profile)[0]


def _known_variant(profile: Profile, variant: str) -> str:
    if profile in {Profile.NORMAL, Profile.HOST}:
        raise RulesetError(
            f"{profile} has no rule set of its own",
            hint="known: quarantine and the guests, see 'tails-profiles list'",
        )
    variant = variant or default_variant(profile)
    if variant not in variants(profile):
        raise RulesetError(
            f"{profile} has no variant {variant!r}",
            hint=known([name for name in variants(profile) if name]) if profile.is_guest else None,
        )
    return variant


def _tor_guest(variant: str) -> TorGuestContext:
    transport = variant.removesuffix(TRANSPARENT)
    return TorGuestContext(
        constants.TOR_USER,
        constants.TOR_INNER.ip,
        constants.APP_TOR.ip,
        _TOR_TCP_PORTS,
        constants.DNS_PORTS,
        constants.TRANS_PORT,
        constants.MAPPED,
        None if transport == "tcp" else constants.UPLINK_RESOLVER,
        transport == "tcp-udp",
        variant.endswith(TRANSPARENT),
        _PUBLIC,
    )


def _app_guest() -> AppGuestContext:
    base = IPv4Address("10.200.1.0")
    return AppGuestContext(
        constants.APP_TOR.ip,
        constants.TOR_INNER.ip,
        _TOR_TCP_PORTS,
        constants.DNS_PORTS,
        constants.MAPPED,
        constants.APP_I2P.ip,
        constants.I2P_INNER.ip,
        constants.I2P_PORTS,
        tuple(
            LocalNetwork(f"veth-{name}", base + offset + 2, base + offset + 1, ports)
            for name, offset, ports in TAILS_NETWORKS
        ),
    )


def _uplink(profile: Profile, facts: LinkConstants, variant: str, *, dhcp: bool) -> UplinkContext:
    tor = profile is Profile.TOR_GUEST
    transport = variant.removesuffix(TRANSPARENT)
    return UplinkContext(
        facts.name,
        facts.mac,
        None if dhcp else facts.address.ip,
        None if dhcp else facts.peer,
        constants.UPLINK_RESOLVER if tor and transport != "tcp" else None,
        not tor or transport == "tcp-udp",
        proxy=tor,
        opens=not tor,
        public=_PUBLIC,
    )


def _inner_link(profile: Profile, facts: LinkConstants, variant: str) -> InnerLinkContext:
    if facts.peer_mac is None:
        raise ValueError(f"{facts.name} is no inner link")
    tor = facts.segment == constants.TOR_SEGMENT
    return InnerLinkContext(
        facts.name,
        facts.mac,
        facts.peer_mac,
        facts.address.ip,
        facts.peer,
        profile is Profile.APP_GUEST,
        _TOR_TCP_PORTS if tor else constants.I2P_PORTS,
        constants.DNS_PORTS if tor else (),
        constants.MAPPED if tor else None,
        variant.endswith(TRANSPARENT),
        _PUBLIC,
    )


def all_rulesets() -> Sequence[tuple[Profile, str, str | None]]:
    """Every file there is: profile, variant, and link or None, in the order they are written."""
    return [
        (profile, variant, link)
        for profile in (
            Profile.QUARANTINE,
            Profile.TOR_GUEST,
            Profile.I2P_GUEST,
            Profile.APP_GUEST,
        )
        for variant in variants(profile)
        for link in (None, *link_tables(profile))
    ]
