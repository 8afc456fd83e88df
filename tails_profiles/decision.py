# SPDX-License-Identifier: GPL-3.0-or-later
"""What the firewall step decided, and the links step and the lease carry on with."""

from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from tails_profiles import rule_files
from tails_profiles.profile import Profile


@dataclass(frozen=True, slots=True)
class Decision:
    """What a boot's selection and settings come to."""

    profile: Profile
    variant: str
    i2p_promised: bool
    dhcp: bool
    proxy: tuple[IPv4Address, int] | None
    offline: bool
    opened: int | None = None

    def elements(self, link: str | None = None) -> str:
        """What this start adds to the rule set, or to its uplink's table."""
        text = rule_files.proxy_elements(self.proxy, link) if self.proxy else ""
        if self.opened is not None:
            text += rule_files.opened_elements(self.opened, link)
        return text

    def to_json(self) -> dict[str, Any]:
        """For the links step, which runs in a process of its own."""
        return {
            "profile": self.profile.value,
            "variant": self.variant,
            "i2p_promised": self.i2p_promised,
            "dhcp": self.dhcp,
            "proxy": [str(self.proxy[0]), self.proxy[1]] if self.proxy else None,
            "offline": self.offline,
            "opened": self.opened,
        }


def decision_from_json(value: dict[str, Any]) -> Decision:
    """The decision in the firewall step's file."""
    proxy = value["proxy"]
    return Decision(
        Profile(value["profile"]),
        value["variant"],
        value["i2p_promised"],
        value["dhcp"],
        (IPv4Address(proxy[0]), proxy[1]) if proxy else None,
        value["offline"],
        value["opened"],
    )
