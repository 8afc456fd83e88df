# SPDX-License-Identifier: GPL-3.0-or-later
"""The profiles and, for each, its target, links and what it holds back, as one table."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Profile(StrEnum):
    """What one boot of the image is."""

    NORMAL = "normal"
    TOR_GUEST = "tor-guest"
    I2P_GUEST = "i2p-guest"
    APP_GUEST = "app-guest"
    HOST = "host"
    QUARANTINE = "quarantine"

    @property
    def is_guest(self) -> bool:
        """Whether a token selects this profile."""
        return self in GUESTS

    @property
    def is_gateway(self) -> bool:
        """Whether this guest has an uplink."""
        return self in GATEWAYS


GATEWAYS = (Profile.TOR_GUEST, Profile.I2P_GUEST)
GUESTS = (*GATEWAYS, Profile.APP_GUEST)

TOKEN_PREFIX = "tails-profile:"  # noqa: S105 - the project's word for a public DMI string
#: The word that makes a DMI value ours; a value that contains it in any case is never ignored.
TOKEN_WORD = "tails-profile"  # noqa: S105
SETTINGS_TAG = "tails-profiles-settings:1"


def token(profile: Profile) -> str:
    """The DMI string that selects a guest profile."""
    if not profile.is_guest:
        raise ValueError(f"no token selects {profile}")
    return TOKEN_PREFIX + profile


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """One row of the profile table.

    ``held`` names the units of the image that this profile replaces or must not have; lockdown
    writes one file for each before they could start.
    """

    profile: Profile
    summary: str
    chosen_by: str
    target: str | None = None
    links: tuple[str, ...] = ()
    optional_links: tuple[str, ...] = ()
    held: tuple[str, ...] = ()


# What no guest may run, whatever the image is: programs that talk to a network by themselves, or
# that would load rules of their own beside ours.
_HELD_BY_ALL = (
    "avahi-daemon.service",
    "avahi-daemon.socket",
    "chrony.service",
    "ferm.service",
    "firewalld.service",
    "i2p.service",
    "i2pd.service",
    "netfilter-persistent.service",
    "nftables.service",
    "ntpsec.service",
    "openntpd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
    "tor.service",
    "tor@.service",
    "tor@default.service",
    "ufw.service",
)

#: What could bring a link up, in Debian 12 and 13: each has a drop-in that requires all three
#: steps.
RAISERS = (
    "ModemManager.service",
    "NetworkManager.service",
    "cloud-init-local.service",
    "cloud-init-main.service",
    "cloud-init-network.service",
    "cloud-init.service",
    "connman.service",
    "dhcpcd.service",
    "dhcpcd@.service",
    "hostapd.service",
    "hostapd@.service",
    "ifplugd.service",
    "ifup@.service",
    "iwd.service",
    "netctl-auto@.service",
    "netctl-ifplugd@.service",
    "netctl.service",
    "netctl@.service",
    "netplug.service",
    "networking.service",
    "systemd-networkd.service",
    "wpa_supplicant-nl80211@.service",
    "wpa_supplicant-wired@.service",
    "wpa_supplicant.service",
    "wpa_supplicant@.service",
)

# A gateway's only link users are its own units; whoever else configures links has no work there,
# nor have the network namespaces of Tails.
_HELD_BY_GATEWAYS = (*_HELD_BY_ALL, *RAISERS, "tails-create-netns.service")

# Nobody logs in to a machine that did not become what it was meant to be; whatever starts a getty
# (systemd-logind does, when the user changes the terminal) meets these.
_HELD_BY_QUARANTINE = (
    *_HELD_BY_GATEWAYS,
    "console-getty.service",
    "getty@.service",
    "serial-getty@.service",
)


PROFILES: Mapping[Profile, ProfileFacts] = MappingProxyType(
    {
        row.profile: row
        for row in (
            ProfileFacts(Profile.NORMAL, "the image as it is, nothing of ours acts", "no token"),
            ProfileFacts(
                Profile.TOR_GUEST,
                "gateway: Tor for the app-guest, nothing else leaves",
                "token",
                target="tails-profiles-tor-guest.target",
                links=("uplink", "inner"),
                held=_HELD_BY_GATEWAYS,
            ),
            ProfileFacts(
                Profile.I2P_GUEST,
                "gateway: I2P for the app-guest, nothing else leaves",
                "token",
                target="tails-profiles-i2p-guest.target",
                links=("uplink", "inner"),
                held=_HELD_BY_GATEWAYS,
            ),
            ProfileFacts(
                Profile.APP_GUEST,
                "the image's desktop, reaching tor-guest and i2p-guest alone",
                "token",
                target="tails-profiles-app-guest.target",
                links=("tor",),
                optional_links=("i2p",),
                held=_HELD_BY_ALL,
            ),
            ProfileFacts(
                Profile.HOST,
                "runs the guests in virtual machines, no desktop",
                "the greeter's checkbox",
                target="tails-profiles-host.target",
            ),
            ProfileFacts(
                Profile.QUARANTINE,
                "no network at all, and it says why",
                "a bad token, or any error on the way to a profile",
                target="tails-profiles-quarantine.target",
                held=_HELD_BY_QUARANTINE,
            ),
        )
    }
)
