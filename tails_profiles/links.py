# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide how the links of a guest come up: from what is there to an ordered list of steps.

Nothing here touches a link. A plan is a tuple of steps that the edge carries out one by one and
then reads back; ``apply --dry-run`` prints it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from tails_profiles import constants
from tails_profiles.command import Command
from tails_profiles.constants import LINKS, LinkConstants
from tails_profiles.errors import LinkError
from tails_profiles.profile import PROFILES, Profile
from tails_profiles.rule_files import DHCP_LINK

IP = "/usr/sbin/ip"


@dataclass(frozen=True, slots=True)
class FoundLink:
    """A network device with a parent device, as the kernel shows it; ``mac`` in lower case."""

    name: str
    mac: str


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One kernel setting, by its path below ``/proc/sys``.

    ``optional``: not every kernel has it, and where it is missing nothing is lost.
    ``machine_wide``: one for all network namespaces, so that only the first may set it; in a
    laboratory's it stays what it is.
    """

    path: str
    value: str
    optional: bool = False
    machine_wide: bool = False

    def display(self) -> str:
        """A line that can be pasted into a shell; sysctl(8) takes slashes too."""
        return f"sysctl -w {self.path}={self.value}"


@dataclass(frozen=True, slots=True)
class LoadTable:
    """Load the ``netdev`` rule set of one link, by the link table's name."""

    table: str

    def display(self) -> str:
        """The step in words."""
        return f"# load the link table {self.table!r} with nft"


@dataclass(frozen=True, slots=True)
class RequireTables:
    """Go on only if these tables are in the kernel, each as "FAMILY NAME"."""

    tables: frozenset[str]

    def display(self) -> str:
        """The step in words."""
        return f"# nft list tables: must name {', '.join(sorted(self.tables))}"


Step = Command | Sysctl | LoadTable | RequireTables


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """What one link will be. ``address`` is None where a lease is to give it."""

    found: FoundLink
    facts: LinkConstants
    table: str
    address: IPv4Interface | None
    routes: tuple[IPv4Network, ...]

    @property
    def name(self) -> str:
        """The name the link gets."""
        return self.facts.name


@dataclass(frozen=True, slots=True)
class LinksPlan:
    """All links of a guest, in the order they come up: the inner link before the uplink."""

    links: tuple[LinkPlan, ...]


EVERYTHING = IPv4Network("0.0.0.0/0")

# For the machine: what would make it forward, answer, or tell its uptime. Path MTU discovery works
# by probing, since no ICMP error is ever accepted (RFC 4821).
MACHINE_SYSCTLS = (
    Sysctl("net/ipv4/ip_forward", "0"),
    Sysctl("net/ipv4/icmp_echo_ignore_all", "1"),
    Sysctl("net/ipv4/tcp_mtu_probing", "1"),
    Sysctl("net/ipv4/tcp_timestamps", "0"),
    Sysctl("net/ipv4/conf/all/rp_filter", "1"),
    Sysctl("net/ipv4/conf/all/accept_redirects", "0"),
    Sysctl("net/ipv4/conf/all/accept_source_route", "0"),
    Sysctl("net/ipv4/conf/all/send_redirects", "0"),
    Sysctl("net/ipv4/conf/all/route_localnet", "0"),
    # Links that appear later; never lo, which programs use.
    Sysctl("net/ipv6/conf/default/disable_ipv6", "1", optional=True),
    Sysctl("net/ipv6/conf/all/forwarding", "0", optional=True),
    # A packet in the middle of a connection that we did not see begin is no connection.
    Sysctl("net/netfilter/nf_conntrack_tcp_loose", "0", optional=True),
    Sysctl("net/netfilter/nf_conntrack_helper", "0", optional=True),
    # Connections that can be followed at once. By itself a kernel takes one for each 128 KiB of
    # memory (nf_conntrack_core.c), so that 2,560 connections of app-guest filled tor-guest's table:
    # whatever came after was dropped, Tor's own calls too. One entry is about 300 bytes.
    Sysctl("net/netfilter/nf_conntrack_max", "16384", optional=True, machine_wide=True),
)

_LINK_SYSCTLS = (
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
    ("arp_announce", "2"),
    ("arp_filter", "1"),
    ("arp_ignore", "2"),
    ("drop_gratuitous_arp", "1"),
    ("forwarding", "0"),
    ("log_martians", "0"),
    ("route_localnet", "0"),
    ("rp_filter", "1"),
    ("secure_redirects", "0"),
    ("send_redirects", "0"),
    ("shared_media", "0"),
)


def plan(
    profile: Profile,
    found: Iterable[FoundLink],
    *,
    i2p_promised: bool,
    dhcp: bool,
    offline: bool = False,
) -> LinksPlan:
    """Match the links that are there with those of the profile.

    ``i2p_promised``: app-guest's settings promise its second link. ``dhcp``: a gateway's uplink
    takes its address from a lease, because no settings disk says that our launcher started it.

    ``offline``: a gateway's uplink stays as lockdown left it, down, and so does every link of
    app-guest.

    Raises LinkError for a link nobody knows, two with the same MAC, or a missing one.
    """
    known = {facts.mac: facts for facts in LINKS[profile]}
    links: dict[str, LinkPlan] = {}
    for link in found:
        facts = known.get(link.mac)
        if facts is None:
            raise LinkError(
                f"{link.name} has the MAC {link.mac}, which no link of {profile} has",
                hint=f"{profile} may have these alone: {_names(LINKS[profile])}",
            )
        if facts.name in links:
            other = links[facts.name].found.name
            raise LinkError(f"{other} and {link.name} have the same MAC {link.mac}")
        links[facts.name] = _plan_link(profile, link, facts, dhcp=dhcp)
    _require(profile, links, i2p_promised=i2p_promised)
    rising = [
        link
        for link in links.values()
        if not (offline and (link.facts.is_uplink or profile is Profile.APP_GUEST))
    ]
    # Inner links first: when the uplink rises, what it serves stands already.
    return LinksPlan(tuple(sorted(rising, key=lambda each: each.facts.is_uplink)))


def missing(profile: Profile, found: Iterable[FoundLink], *, i2p_promised: bool) -> frozenset[str]:
    """The names of the links of this profile that are not there yet."""
    macs = {link.mac for link in found}
    optional = () if i2p_promised else PROFILES[profile].optional_links
    return frozenset(
        facts.name
        for facts in LINKS[profile]
        if facts.mac not in macs and facts.name not in optional
    )


def _require(profile: Profile, links: dict[str, LinkPlan], *, i2p_promised: bool) -> None:
    absent = missing(profile, (each.found for each in links.values()), i2p_promised=i2p_promised)
    if absent:
        facts = [facts for facts in LINKS[profile] if facts.name in absent]
        raise LinkError(
            f"{profile} has no link {' and '.join(sorted(absent))}",
            hint=f"it was looked for as {_names(facts)}",
        )


def _names(facts: Sequence[LinkConstants]) -> str:
    return ", ".join(f"{each.name} ({each.mac})" for each in facts)


def _plan_link(profile: Profile, found: FoundLink, facts: LinkConstants, *, dhcp: bool) -> LinkPlan:
    leased = facts.is_uplink and dhcp
    routes: tuple[IPv4Network, ...] = ()
    if facts.is_uplink and not leased:
        routes = (EVERYTHING,)
    elif facts.name == "tor" and profile is Profile.APP_GUEST:
        # The default route exists so that programs do not believe they are offline; the rule set
        # refuses what would take it.
        routes = (EVERYTHING, constants.MAPPED)
    return LinkPlan(
        found, facts, DHCP_LINK if leased else facts.name, None if leased else facts.address, routes
    )


def link_sysctls(name: str) -> tuple[Sysctl, ...]:
    """The kernel settings of one link."""
    return (
        Sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "1", optional=True),
        *(Sysctl(f"net/ipv4/conf/{name}/{key}", value) for key, value in _LINK_SYSCTLS),
    )


def rename_steps(link: LinkPlan) -> tuple[Step, ...]:
    """Give the link its name, while it is down."""
    down = Command((IP, "link", "set", "dev", link.found.name, "down"))
    if link.found.name == link.name:
        return (down,)
    return (down, Command((IP, "link", "set", "dev", link.found.name, "name", link.name)))


def prepare_steps(link: LinkPlan) -> tuple[Step, ...]:
    """Everything that must hold before the link may be up, in order."""
    inner = not link.facts.is_uplink
    steps: list[Step] = [*link_sysctls(link.name)]
    if inner:
        steps.append(Command((IP, "link", "set", "dev", link.name, "arp", "off")))
    if link.address is not None:
        steps.append(Command((IP, "address", "replace", str(link.address), "dev", link.name)))
    if link.facts.peer_mac is not None:
        steps.append(
            Command(
                (IP, "neighbour", "replace", str(link.facts.peer), "lladdr", link.facts.peer_mac,
                 "nud", "permanent", "dev", link.name)
            )
        )  # fmt: skip
    steps.append(LoadTable(link.table))
    return tuple(steps)


def raise_steps(link: LinkPlan) -> tuple[Step, ...]:
    """Up, and its routes."""
    return (
        Command((IP, "link", "set", "dev", link.name, "up")),
        *(
            Command(
                (IP, "route", "replace", str(network), "via", str(link.facts.peer), "dev",
                 link.name)
            )
            for network in link.routes
        ),
    )  # fmt: skip


def tables(plan: LinksPlan) -> frozenset[str]:
    """The tables without which no link of this plan may be up."""
    return frozenset({"inet tails_profiles"}).union(
        f"netdev tails_profiles_{link.name}" for link in plan.links
    )


def steps(plan: LinksPlan) -> tuple[Step, ...]:
    """The whole plan in order: names, the machine's settings, then link by link."""
    ordered: list[Step] = []
    for link in plan.links:
        ordered += rename_steps(link)
    ordered += MACHINE_SYSCTLS
    for link in plan.links:
        ordered += prepare_steps(link)
    # What another program of the image did to the rules since they were loaded is seen here.
    ordered.append(RequireTables(tables(plan)))
    for link in plan.links:
        ordered += raise_steps(link)
    return tuple(ordered)
