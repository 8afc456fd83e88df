# SPDX-License-Identifier: GPL-3.0-or-later
"""Every path of the project, relative to one root that tests replace."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are. ``root`` is ``/`` on a real machine; nothing here creates anything."""

    root: Path = Path("/")

    @property
    def sysfs(self) -> Path:
        """The kernel's view of devices."""
        return self.root / "sys"

    @property
    def procfs(self) -> Path:
        """The kernel's view of processes, and the sysctls."""
        return self.root / "proc"

    @property
    def state(self) -> Path:
        """State of this boot, readable by everybody."""
        return self.root / "run/tails-profiles"

    @property
    def held(self) -> Path:
        """One empty file for each unit of the image that this profile holds back."""
        return self.state / "held"

    @property
    def selection(self) -> Path:
        """What was selected and why."""
        return self.state / "selection.json"

    @property
    def status(self) -> Path:
        """What this boot has reached."""
        return self.state / "status.json"

    @property
    def decision(self) -> Path:
        """What the firewall step decided and the links step carries on with; for root alone."""
        return self.state / "decision.json"

    @property
    def dhcp(self) -> Path:
        """An empty file where a lease is to give the uplink its address."""
        return self.state / "dhcp"

    @property
    def lease(self) -> Path:
        """The uplink's lease, or why there is none."""
        return self.state / "lease.json"

    @property
    def lease_hook(self) -> Path:
        """What the DHCP client runs; it prints the lease."""
        return self.library / "lease-hook"

    @property
    def failure(self) -> Path:
        """What went wrong, for the quarantine console."""
        return self.state / "failure.json"

    @property
    def resolv_conf(self) -> Path:
        """What a guest's /etc/resolv.conf is bind-mounted from."""
        return self.state / "resolv.conf"

    @property
    def session(self) -> Path:
        """Files of app-guest's session, below it as they will be below the root."""
        return self.state / "session"

    @property
    def shares(self) -> Path:
        """What the host promised to share: a line for each mount; only where it did."""
        return self.state / "shares"

    @property
    def torrc(self) -> Path:
        """All of tor-guest's Tor configuration; mounted over the image's in Tor's unit alone."""
        return self.state / "torrc"

    @property
    def i2pd_conf(self) -> Path:
        """All of i2p-guest's router's configuration; mounted in its unit alone."""
        return self.state / "i2pd.conf"

    @property
    def i2pd_resolv_conf(self) -> Path:
        """Who its router, and nobody else, asks for names; only where it must."""
        return self.state / "i2pd-resolv.conf"

    @property
    def i2p_data(self) -> Path:
        """What the router has stored."""
        return self.root / "var/lib/i2pd"

    @property
    def network_manager(self) -> Path:
        """Tells NetworkManager in app-guest to leave the links alone."""
        return self.root / "run/NetworkManager/conf.d/90-tails-profiles.conf"

    @property
    def library(self) -> Path:
        """Programs and rule sets of the boot package."""
        return self.root / "usr/lib/tails-profiles"

    @property
    def rulesets(self) -> Path:
        """Rule sets rendered when the package was built."""
        return self.library / "rulesets"

    @property
    def templates(self) -> Path:
        """Templates the rule sets are rendered from."""
        return self.root / "usr/share/tails-profiles/nft"
