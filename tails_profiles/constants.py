# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses, ports and names that are the same in every installation on earth.

What a guest can see of its network is a constant, so that it says nothing about its machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import MappingProxyType

from tails_profiles.profile import Profile


@dataclass(frozen=True, slots=True)
class LinkConstants:
    """One link of one guest.

    ``peer`` and ``peer_mac`` are those of the only neighbour an inner link has; an uplink's
    neighbour belongs to the hypervisor's NAT engine, whose MAC differs by hypervisor and version.
    ``segment`` is the name of the internal network the launcher plugs it into.
    """

    name: str
    mac: str
    address: IPv4Interface
    peer: IPv4Address
    peer_mac: str | None
    segment: str | None

    @property
    def is_uplink(self) -> bool:
        """Whether this link leads outside."""
        return self.peer_mac is None


TOR_SEGMENT = "tails-tor"
I2P_SEGMENT = "tails-i2p"

TOR_MAC = "00:55:44:33:22:11"
I2P_MAC = "00:55:44:33:22:12"
APP_TOR_MAC = "00:11:22:33:44:55"
APP_I2P_MAC = "00:11:22:33:44:56"
TOR_UPLINK_MAC = "00:55:44:33:22:21"
I2P_UPLINK_MAC = "00:55:44:33:22:22"

TOR_INNER = IPv4Interface("10.1.2.1/29")
I2P_INNER = IPv4Interface("10.1.3.1/29")
APP_TOR = IPv4Interface("10.1.2.3/29")
APP_I2P = IPv4Interface("10.1.3.3/29")

# The NAT engines of VirtualBox and QEMU's slirp agree on this network.
UPLINK = IPv4Interface("10.0.2.15/24")
UPLINK_ROUTER = IPv4Address("10.0.2.2")
UPLINK_RESOLVER = IPv4Address("10.0.2.3")

#: Where Tor maps names it resolves by itself (``VirtualAddrNetworkIPv4``).
MAPPED = IPv4Network("10.64.0.0/10")

LINKS: Mapping[Profile, tuple[LinkConstants, ...]] = MappingProxyType(
    {
        Profile.TOR_GUEST: (
            LinkConstants("uplink", TOR_UPLINK_MAC, UPLINK, UPLINK_ROUTER, None, None),
            LinkConstants("inner", TOR_MAC, TOR_INNER, APP_TOR.ip, APP_TOR_MAC, TOR_SEGMENT),
        ),
        Profile.I2P_GUEST: (
            LinkConstants("uplink", I2P_UPLINK_MAC, UPLINK, UPLINK_ROUTER, None, None),
            LinkConstants("inner", I2P_MAC, I2P_INNER, APP_I2P.ip, APP_I2P_MAC, I2P_SEGMENT),
        ),
        Profile.APP_GUEST: (
            LinkConstants("tor", APP_TOR_MAC, APP_TOR, TOR_INNER.ip, TOR_MAC, TOR_SEGMENT),
            LinkConstants("i2p", APP_I2P_MAC, APP_I2P, I2P_INNER.ip, I2P_MAC, I2P_SEGMENT),
        ),
    }
)

#: Accounts as Debian's packages name them.
TOR_USER = "debian-tor"
I2P_USER = "i2pd"

#: Accounts of the host, made by sysusers.d(5): who virtual machines run as, and the group of the
#: sockets between them.
GATEWAY_USER = "tails-profiles-gateway"
APP_USER = "tails-profiles-app"
LINK_GROUP = "tails-profiles-link"

#: SOCKS ports of tor-guest by their isolation: Tails' numbers and flags.
SOCKS_DEFAULT = 9050
SOCKS_SYSTEM = 9062
SOCKS_UNISOLATED = 9063
SOCKS_BROWSER = 9150
SOCKS_PORTS = (SOCKS_DEFAULT, SOCKS_SYSTEM, SOCKS_UNISOLATED, SOCKS_BROWSER)
CONTROL_FILTER_PORT = 951
TRANS_PORT = 9040
DNS_PORTS = (53, 5353)

I2P_HTTP_PORT = 4444
I2P_SOCKS_PORT = 4447
I2P_PROXY_PORTS = (I2P_HTTP_PORT, I2P_SOCKS_PORT)
#: A call to it is the request for a new client destination; nothing is read from it.
I2P_RENEW_PORT = 4448
I2P_PORTS = (*I2P_PROXY_PORTS, I2P_RENEW_PORT)

#: Whom i2p-guest's router asks for the names of I2P's reseed servers, and for nothing else, where
#: the settings say that it may: Quad9. The NAT's own resolver would be the host's.
I2P_RESOLVERS = (IPv4Address("9.9.9.9"), IPv4Address("149.112.112.112"))

#: What is never reached over an uplink, one list for every rule set. RFC 1918, RFC 1122 (this
#: network, loopback), RFC 6598 (carrier NAT), RFC 3927 (link-local), RFC 5771 and RFC 1112
#: (multicast, reserved, broadcast). Documentation ranges (RFC 5737) are not in it.
PRIVATE_RANGES = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
    )
)

#: What every guest shows in DMI, by the kernel's names (/sys/class/dmi/id): versions and dates too,
#: so that none of them is the host's or its hypervisor's. The token and the settings tag come on
#: top. One table for every hypervisor; an empty string stands for an empty field.
DMI: Mapping[str, str] = MappingProxyType(
    {
        "bios_version": "1",
        "bios_date": "01/01/2026",
        "bios_release": "1.0",
        "sys_vendor": "tails-profiles",
        "product_name": "guest",
        "product_version": "1",
        "product_sku": "",
        "product_family": "",
        "board_vendor": "tails-profiles",
        "board_name": "guest",
        "board_version": "1",
        "board_serial": "0",
        "board_asset_tag": "",
        "chassis_vendor": "tails-profiles",
        "chassis_version": "1",
        "chassis_serial": "0",
    }
)
#: The two strings of SMBIOS type 11; VirtualBox always has two, which name its version otherwise.
DMI_OEM_STRINGS = ("tails-profiles", "guest")

#: Owner of the ACPI tables (6 and 8 characters), who made them (4), and their revision.
ACPI_OEM_ID = "TAILSP"
ACPI_TABLE_ID = "PROFILES"
ACPI_CREATOR_ID = "TAIL"
ACPI_CREATOR_REVISION = 1

#: The processor's name, at most 47 characters (CPUID leaves 0x80000002 to 0x80000004).
CPU_NAME = "tails-profiles virtual CPU"

#: The drive with the image, as the guest sees it: model, version, serial number.
MEDIUM_MODEL = "medium"
MEDIUM_VERSION = "1"
MEDIUM_SERIAL = "0"
