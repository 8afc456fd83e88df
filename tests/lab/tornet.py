# SPDX-License-Identifier: GPL-3.0-or-later
"""A private Tor network in namespaces, of real tor processes, and a web server behind its exits.

Three authorities and four exits live in one namespace, all addresses on its loopback; the web
server in another, which only a process of the first can reach: nothing is forwarded there. So the
page can only be fetched through an exit. Exits resolve names at a server of their own namespace,
which writes down what it is asked. Addresses are documentation ranges (RFC 5737), which Tor
takes for public ones.

``python3 -m tests.lab.tornet DIRECTORY`` runs one until interrupted, and says how to use it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

AUTHORITIES = tuple(f"192.0.2.1{number}" for number in (1, 2, 3))
RELAYS = tuple(f"198.51.100.1{number}" for number in (1, 2, 3, 4))
BRIDGE, BRIDGE_PORT = "198.51.100.20", 5000
#: The same bridge by obfs4, at another port.
OBFS4_PORT = 6000
OBFS4 = "/usr/bin/obfs4proxy"
RESOLVER = "192.0.2.53"
#: Every name below it is the web server's; ``INSIDE`` is an exit's lie, a private address.
NAMES, INSIDE = "names.example", "inside.example"
PRIVATE_NAME, WEB_NAME = "router.inside.example", "web.names.example"
WEB = "203.0.113.80"
PAGE = "This page came through Tor.\n"
FACTOR = float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
TOR = "/usr/sbin/tor" if Path("/usr/sbin/tor").exists() else "/usr/bin/tor"

_COMMON = """\
TestingTorNetwork 1
AssumeReachable 1
SocksPort 0
PathsNeededToBuildCircuits 0.67
User debian-tor
Log notice file {directory}/notice.log
DataDirectory {directory}
"""
_AUTHORITY = """\
Nickname auth{number}
Address {address}
ORPort {address}:5000
DirPort {address}:7000
OutboundBindAddress {address}
ContactInfo auth{number}@example.org
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ExitPolicy reject *:*
TestingV3AuthInitialVotingInterval 10
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
V3AuthVotingInterval 10
V3AuthNIntervalsValid 120
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingAuthDirTimeToLearnReachability 0
TestingMinExitFlagThreshold 0
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
"""
_RELAY = """\
Nickname relay{number}
Address {address}
ORPort {address}:5000
OutboundBindAddress {address}
ContactInfo relay{number}@example.org
ExitRelay 1
ExitPolicy accept *:*
ServerDNSResolvConfFile {resolv}
"""
_BRIDGE = f"""\
Nickname bridge
Address {BRIDGE}
ORPort {BRIDGE}:{BRIDGE_PORT}
OutboundBindAddress {BRIDGE}
BridgeRelay 1
PublishServerDescriptor 0
ExitPolicy reject *:*
"""
_OBFS4 = f"""\
ExtORPort auto
ServerTransportPlugin obfs4 exec {OBFS4}
ServerTransportListenAddr obfs4 {BRIDGE}:{OBFS4_PORT}
"""
#: What the exits' name server knows; nothing else is, whatever is asked.
_NAMES = (
    f"--address=/{NAMES}/{WEB}",
    f"--address=/{INSIDE}/10.0.2.2",
    f"--ptr-record={ip_address(WEB).reverse_pointer},{WEB_NAME}",
    f"--ptr-record=15.2.0.10.in-addr.arpa,{PRIVATE_NAME}",
    f"--ptr-record=1.0.168.192.in-addr.arpa,{PRIVATE_NAME}",
    "--address=/localhost/127.0.0.1",
    "--address=/local/10.0.2.2",
    "--address=/#/",
)


def run(*argv: str, stdin: str = "") -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Until ``condition`` holds; TimeoutError after ``seconds`` times the machine's factor."""
    deadline = time.monotonic() + seconds * FACTOR
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds * FACTOR:.0f} s")
        time.sleep(0.05)


class TorNetwork:
    """The network; ``prefix`` begins the names of its namespaces."""

    def __init__(self, directory: Path, prefix: str) -> None:
        self.directory = directory
        self.relays, self.web = f"{prefix}relays", f"{prefix}web"
        self.authorities: list[str] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir(parents=True, exist_ok=True)
        # Tor's account must reach its directories.
        directory.chmod(0o755)

    def start(self) -> None:
        """Everything; returns when relays have a consensus, in about 20 s."""
        self.begin()
        self.wait()

    def begin(self) -> None:
        """Start everything, and return at once."""
        self._wire()
        self._serve_page()
        self._serve_names()
        for number, address in enumerate(AUTHORITIES, 1):
            self.authorities.append(self._authority(number, address))
        lines = self.client_torrc()
        for number, address in enumerate(AUTHORITIES, 1):
            self._start_tor(
                "auth", number, _AUTHORITY.format(number=number, address=address), lines
            )
        for number, address in enumerate(RELAYS, 1):
            own = _RELAY.format(
                number=number, address=address, resolv=self.directory / "resolv.conf"
            )
            self._start_tor("relay", number, own, lines)

    def wait(self) -> None:
        """Until relays have a consensus."""
        consensus = [
            self.directory / f"relay{number}/cached-microdesc-consensus"
            for number in range(1, len(RELAYS) + 1)
        ]
        wait_for("a consensus", lambda: all(map(self._lists_every_relay, consensus)), 90)

    def _lists_every_relay(self, consensus: Path) -> bool:
        try:
            text = consensus.read_text()
        except FileNotFoundError:
            return False
        return len(re.findall(r"^s .*\bExit\b", text, re.M)) >= len(RELAYS)

    def client_torrc(self) -> str:
        """What a client's configuration needs beyond its own."""
        return "TestingTorNetwork 1\n" + "\n".join(self.authorities) + "\n"

    def attach(self, namespace: str, link: str, mac: str, address: str, router: str) -> str:
        """Give a namespace a link to the relays: its address with prefix, and its default route.

        Returns the name of the relays' end.
        """
        end = f"up{os.getpid() % 10000}{len(run('ip', '-n', self.relays, 'link')) % 1000}"
        run("ip", "-n", self.relays, "link", "add", end, "type", "veth", "peer", "name", link,
            "netns", namespace)  # fmt: skip
        run(
            "ip",
            "-n",
            self.relays,
            "address",
            "add",
            f"{router}/{address.split('/')[1]}",
            "dev",
            end,
        )
        run("ip", "-n", self.relays, "link", "set", end, "up")
        run("ip", "-n", namespace, "link", "set", link, "address", mac)
        run("ip", "-n", namespace, "address", "add", address, "dev", link)
        run("ip", "-n", namespace, "link", "set", link, "up")
        run("ip", "-n", namespace, "route", "add", "default", "via", router)
        return end

    def start_bridge(self, *, obfs4: bool = False) -> str:
        """A relay that stands in no consensus; returns the line by which a client finds it.

        With ``obfs4`` the line is that of its transport, which needs the program ``OBFS4``.
        """
        run("ip", "-n", self.relays, "address", "add", f"{BRIDGE}/32", "dev", "lo")
        own = _BRIDGE + (_OBFS4 if obfs4 else "")
        self._start_tor("bridge", 1, own, self.client_torrc())
        log = self.directory / "bridge1/notice.log"
        # It can serve clients once it has the network's descriptors itself.
        wait_for("the bridge", lambda: log.exists() and "Bootstrapped 100%" in log.read_text(), 90)
        fingerprint = (self.directory / "bridge1/fingerprint").read_text().split()[1]
        if not obfs4:
            return f"{BRIDGE}:{BRIDGE_PORT} {fingerprint}"
        # obfs4proxy writes the line with blanks to fill in, below comments.
        written = (self.directory / "bridge1/pt_state/obfs4_bridgeline.txt").read_text()
        arguments = re.search(r"cert=\S+ iat-mode=\d", written)
        assert arguments, written
        return f"obfs4 {BRIDGE}:{OBFS4_PORT} {fingerprint} {arguments[0]}"

    def asked_names(self) -> list[str]:
        """What the exits' name server was asked, in order: names, in lower case."""
        log = (self.directory / "names.log").read_text()
        return [name.lower() for name in re.findall(r" query\[\S+\] (\S+) from ", log)]

    def visitors(self) -> list[str]:
        """The addresses that fetched the page, as the web server saw them."""
        log = (self.directory / "web.log").read_text()
        return re.findall(r"^(\S+) - - \[", log, re.M)

    def close(self) -> None:
        """End every process and namespace."""
        for process in self._processes:
            process.send_signal(signal.SIGKILL)
        for process in self._processes:
            process.wait()
        for name in (self.relays, self.web):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def _wire(self) -> None:
        for name in (self.relays, self.web):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for address in (*AUTHORITIES, *RELAYS):
            run("ip", "-n", self.relays, "address", "add", f"{address}/32", "dev", "lo")
        run("ip", "-n", self.relays, "link", "add", "web", "type", "veth", "peer", "name", "relays",
            "netns", self.web)  # fmt: skip
        run("ip", "-n", self.relays, "address", "add", "203.0.113.1/24", "dev", "web")
        run("ip", "-n", self.web, "address", "add", f"{WEB}/24", "dev", "relays")
        run("ip", "-n", self.relays, "link", "set", "web", "up")
        run("ip", "-n", self.web, "link", "set", "relays", "up")
        run("ip", "-n", self.web, "route", "add", "default", "via", "203.0.113.1")

    def _serve_page(self) -> None:
        root = self.directory / "page"
        root.mkdir(exist_ok=True)
        (root / "index.html").write_text(PAGE)
        log = (self.directory / "web.log").open("wb")
        self._processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", self.web, "/usr/bin/python3", "-u", "-m", "http.server",
                 "80", "--bind", WEB, "--directory", str(root)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )
        )  # fmt: skip

    def _serve_names(self) -> None:
        run("ip", "-n", self.relays, "address", "add", f"{RESOLVER}/32", "dev", "lo")
        (self.directory / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        log = (self.directory / "names.log").open("wb")
        self._processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", self.relays, "/usr/sbin/dnsmasq", "--keep-in-foreground",
                 "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file",
                 "--bind-interfaces", f"--listen-address={RESOLVER}", "--log-queries",
                 "--log-facility=-", *_NAMES],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        )  # fmt: skip

    def _authority(self, number: int, address: str) -> str:
        """Make an authority's keys; returns the line by which everybody knows it."""
        home = self.directory / f"auth{number}"
        keys = home / "keys"
        keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        subprocess.run(
            ["tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12",
             "-a", f"{address}:7000"],
            input=b"pass\n", cwd=keys, check=True, capture_output=True,
        )  # fmt: skip
        nothing = home / "empty"
        nothing.touch()
        printed = run(
            TOR, "--quiet", "--list-fingerprint", "-f", str(nothing), "--defaults-torrc",
            "/dev/null", "--DataDirectory", str(home), "--Nickname", f"auth{number}",
            "--ORPort", "5000", "--Address", address,
            "--DirAuthority", f"x 127.0.0.1:1 {'f' * 40}",
        )  # fmt: skip
        fingerprint = printed.strip().split("\n")[-1].split(" ", 1)[1].replace(" ", "")
        certificate = (keys / "authority_certificate").read_text()
        identity = re.search(r"^fingerprint (\S+)", certificate, re.M)
        assert identity
        return (
            f"DirAuthority auth{number} orport=5000 v3ident={identity[1]} {address}:7000"
            f" {fingerprint}"
        )

    def _start_tor(self, kind: str, number: int, own: str, authorities: str) -> None:
        home = self.directory / f"{kind}{number}"
        home.mkdir(mode=0o700, exist_ok=True)
        (home / "torrc").write_text(_COMMON.format(directory=home) + authorities + own)
        run("chown", "-R", "debian-tor:", str(home))
        self._processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", self.relays, TOR, "--quiet", "-f", str(home / "torrc"),
                 "--defaults-torrc", "/dev/null"],
                stdin=subprocess.DEVNULL,
            )
        )  # fmt: skip


def main(directory: Path) -> None:
    """Run a network until interrupted."""
    network = TorNetwork(directory, "tp-")
    try:
        network.start()
        print(
            network.client_torrc(), f"\nnamespace {network.relays}, page http://{WEB}/", flush=True
        )
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        network.close()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
