# SPDX-License-Identifier: GPL-3.0-or-later
"""app-guest's local ports in a namespace, with the units' own command lines.

``Guests`` stands for app-guest and tor-guest with their real rule sets and link tables; what
systemd's socket units do is done by systemd-socket-activate, with the addresses and the command
that the unit files hold.
"""

import itertools
import json
import os
import re
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tails_profiles import constants as c
from tails_profiles.profile import Profile
from tails_profiles.ruleset import render_named
from tails_profiles.settings import TorSettings
from tails_profiles.torrc import torrc
from tests.lab.tornet import OBFS4, TOR, TorNetwork, run, wait_for

TOP = Path(__file__).parents[2]
UNITS = TOP / "units"
DEFAULT = TorSettings()
_NUMBERS = itertools.count()


def unit_lines(name: str, key: str, instance: str = "") -> list[str]:
    """Every value of a key in a unit file, the instance filled in."""
    text = (UNITS / name).read_text()
    return [value.replace("%i", instance) for value in re.findall(rf"^{key}=(.*)$", text, re.M)]


class Guests:
    """Two namespaces and the link between them; ``tor_log`` is what Tor said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.app, self.tor = (f"tpp{os.getpid()}{next(_NUMBERS)}{name}" for name in ("app", "tor"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.far_end = ""
        for name in (self.app, self.tor):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.app, "link", "add", "tor", "type", "veth", "peer", "name", "inner",
            "netns", self.tor)  # fmt: skip
        self._inner(
            self.app, "tor", c.APP_TOR_MAC, str(c.APP_TOR), (str(c.TOR_INNER.ip), c.TOR_MAC)
        )
        self._inner(
            self.tor, "inner", c.TOR_MAC, str(c.TOR_INNER), (str(c.APP_TOR.ip), c.APP_TOR_MAC)
        )
        self.execute(self.tor, "sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=53")

    def _inner(self, name: str, link: str, mac: str, address: str, peer: tuple[str, str]) -> None:
        run("ip", "-n", name, "link", "set", link, "address", mac, "arp", "off")
        run("ip", "-n", name, "address", "add", address, "dev", link)
        run("ip", "-n", name, "neighbour", "replace", peer[0], "lladdr", peer[1], "nud",
            "permanent", "dev", link)  # fmt: skip
        run("ip", "-n", name, "link", "set", link, "up")

    def load_rules(self) -> None:
        """The real rule sets of both, and of the links that are there."""
        self.nft(
            self.app, render_named(Profile.APP_GUEST), render_named(Profile.APP_GUEST, "", "tor")
        )
        self.nft(self.tor, render_named(Profile.TOR_GUEST, "tcp"),
                 render_named(Profile.TOR_GUEST, "tcp", "inner"))  # fmt: skip

    def nft(self, name: str, *texts: str) -> None:
        """Load rule sets in a namespace."""
        for text in texts:
            run("ip", "netns", "exec", name, "nft", "-f", "-", stdin=text)

    def connect(self, network: TorNetwork) -> None:
        """tor-guest's uplink, guarded by its table, leads to the relays."""
        self.far_end = network.attach(
            self.tor, "uplink", c.TOR_UPLINK_MAC, str(c.UPLINK), str(c.UPLINK_ROUTER)
        )
        self._load_uplink_rules()

    def _load_uplink_rules(self) -> None:
        self.nft(self.tor, render_named(Profile.TOR_GUEST, "tcp", "uplink"))

    @contextmanager
    def without_rules(self) -> Iterator[None]:
        """Every filter of both guests accepts all; connections are tracked on, and live on."""
        for name in (self.app, self.tor):
            listed = json.loads(run("ip", "netns", "exec", name, "nft", "-j", "list", "chains"))
            chains = [entry["chain"] for entry in listed["nftables"] if "chain" in entry]
            hooks = [chain for chain in chains if chain.get("type") == "filter"]
            assert hooks
            self.nft(name, "".join(f"insert rule {chain['family']} {chain['table']}"
                                   f" {chain['name']} accept\n" for chain in hooks))  # fmt: skip
        try:
            yield
        finally:
            self.load_rules()
            self._load_uplink_rules()

    @contextmanager
    def options(self, **values: str) -> Iterator[None]:
        """Options of the running Tor are others."""
        before = {name: self._control(f"GETCONF {name}").split("=", 1)[1] for name in values}
        self._control("SETCONF " + " ".join(f"{name}={values[name]}" for name in values))
        try:
            yield
        finally:
            self._control("SETCONF " + " ".join(f"{name}={before[name]}" for name in before))

    def _control(self, command: str) -> str:
        """One command of Tor's control protocol that has one line of answer, "250" before it."""
        home = self.directory / "tor"
        with socket.socket(socket.AF_UNIX) as made, made.makefile("rw", newline="\r\n") as lines:
            made.connect(str(home / "control"))
            for text in (f"AUTHENTICATE {(home / 'cookie').read_bytes().hex()}", command):
                lines.write(f"{text}\r\n")
                lines.flush()
                answer = lines.readline().strip()
                assert answer.startswith("250 "), answer
        return answer

    def start_tor(self, network: TorNetwork, settings: TorSettings = DEFAULT) -> None:
        """tor-guest's Tor: its real configuration, and the private network's authorities."""
        home = self.directory / "tor"
        home.mkdir(mode=0o700)
        file = self.directory / "torrc"
        file.write_text(torrc(settings, frozenset({OBFS4})) + network.client_torrc())
        shutil.chown(home, "debian-tor", "debian-tor")
        log = (self.directory / "tor.log").open("wb")
        tor = self.start(
            self.tor, "setpriv", "--reuid=debian-tor", "--regid=debian-tor", "--clear-groups",
            TOR, "-f", str(file), "--defaults-torrc", "/dev/null", "--DataDirectory", str(home),
            "--ControlSocket", str(home / "control"), "--CookieAuthFile", str(home / "cookie"),
            stdout=log,
        )  # fmt: skip

        def has_circuits() -> bool:
            if tor.poll() is not None:
                raise RuntimeError(f"Tor has ended: {self.tor_log[-500:]}")
            return "Bootstrapped 100%" in self.tor_log

        wait_for("Tor's circuits", has_circuits, 120)

    @property
    def tor_log(self) -> str:
        """What Tor printed so far."""
        return (self.directory / "tor.log").read_text()

    def open_port(self, port: int) -> subprocess.Popen[bytes]:
        """What ``tails-profiles-tor-port@PORT.socket`` and its service do; returns the process."""
        name = "tails-profiles-tor-port@"
        (address,) = unit_lines(f"{name}.socket", "ListenStream", str(port))
        (command,) = unit_lines(f"{name}.service", "ExecStart", str(port))
        made = self.start(
            self.app, "prlimit", f"--nofile={self._files()}", "systemd-socket-activate",
            f"--listen={address}", *command.split(),
        )  # fmt: skip
        wait_for(f"port {port}", lambda: self._listens(address, "-t"), 10)
        return made

    def _files(self) -> int:
        """The unit's limit of open files, or the most that this machine allows."""
        (wanted,) = unit_lines("tails-profiles-tor-port@.service", "LimitNOFILE")
        return min(int(wanted), resource.getrlimit(resource.RLIMIT_NOFILE)[1])

    def open_dns(self) -> None:
        """What ``tails-profiles-dns.socket`` and its service do."""
        addresses = unit_lines("tails-profiles-dns.socket", "ListenDatagram")
        self.start(self.app, "systemd-socket-activate", "--datagram", "-E", f"PYTHONPATH={TOP}",
                   *(f"--listen={address}" for address in addresses),
                   "/usr/bin/python3", "-m", "tails_profiles.dns_relay")  # fmt: skip
        for address in addresses:
            wait_for(address, lambda address=address: self._listens(address, "-u"), 10)

    def _listens(self, address: str, kind: str) -> bool:
        return address in run("ip", "netns", "exec", self.app, "ss", "-Hnla", kind)

    def start(self, name: str, *argv: str, **options: object) -> subprocess.Popen[bytes]:
        """A process in a namespace, ended with the laboratory."""
        made = subprocess.Popen(  # type: ignore[call-overload]
            ["ip", "netns", "exec", name, *argv],
            stdin=subprocess.DEVNULL, **{"stdout": subprocess.DEVNULL, **options},
        )  # fmt: skip
        self.processes.append(made)
        return made

    def execute(
        self, name: str, *argv: str, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command in a namespace, to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", name, *argv],
            capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip

    def close(self) -> None:
        """End every process and namespace."""
        for process in self.processes:
            process.kill()
            process.wait()
        # At once, not when the kernel gets to the namespace: the next guests have the same address.
        if self.far_end:
            run("ip", "-n", self.tor, "link", "delete", "uplink")
        for name in (self.app, self.tor):
            run("ip", "netns", "delete", name)
