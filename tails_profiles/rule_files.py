# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of the rendered rule sets, and the statements that one start adds to them.

All that a guest's boot needs of the packet policy. The policy itself, ``firewall``, is what they
are rendered from when the package is built, and takes longer to load than all that is here.
"""

from ipaddress import IPv4Address

from tails_profiles.profile import Profile

TRANSPARENT = "-transparent"
#: The link table of an uplink whose address comes from a lease.
DHCP_LINK = "uplink-dhcp"


def proxy_elements(proxy: tuple[IPv4Address, int], link: str | None = None) -> str:
    """The statement that lets Tor reach one proxy in a private range, for one of the tables."""
    address, port = proxy
    return f"add element {_table(link)} proxy {{ {address} . {port} }}\n"


def opened_elements(port: int, link: str | None = None) -> str:
    """The statement that opens one port of i2p-guest to the internet, for one of the tables."""
    return f"add element {_table(link)} opened {{ {port} }}\n"


def lease_elements(lease: tuple[IPv4Address, IPv4Address] | None) -> str:
    """The statements that make an uplink's table that of one lease: our address, and the router.

    None closes it for all but the next request. What was there before goes in the same transaction.
    """
    table = _table("uplink")
    text = f"flush set {table} address\nflush set {table} router\n"
    if lease is not None:
        address, router = lease
        text += f"add element {table} address {{ {address} }}\n"
        text += f"add element {table} router {{ {router} }}\n"
    return text


def _table(link: str | None) -> str:
    return "inet tails_profiles" if link is None else f"netdev tails_profiles_{link}"


def file_name(profile: Profile, variant: str = "", link: str | None = None) -> str:
    """The name of a rendered file, e.g. ``tor-guest-tcp.nft`` and ``tor-guest-tcp.uplink.nft``."""
    stem = f"{profile}-{variant}" if variant else profile.value
    return f"{stem}.{link}.nft" if link else f"{stem}.nft"
