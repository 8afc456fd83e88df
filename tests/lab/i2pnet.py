# SPDX-License-Identifier: GPL-3.0-or-later
"""A private I2P network in namespaces, of real i2pd routers, with one site in it.

Five routers, all floodfill, live in one namespace, their addresses on its loopback; the site is
behind the fifth. ``Guests`` are app-guest and i2p-guest with their real rule sets and link tables,
and i2p-guest's router with the configuration and the command line that ship.
"""

import base64
import contextlib
import ctypes
import hashlib
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from tails_profiles import constants as c
from tails_profiles.i2pd import given_path, i2pd_conf
from tails_profiles.profile import Profile
from tails_profiles.ruleset import render_named
from tails_profiles.settings import I2pSettings
from tests.lab.tornet import run, wait_for

TOP = Path(__file__).parents[2]
ROUTERS = tuple(f"198.18.1.{number}" for number in range(1, 6))
PORT = 5000
PAGE = "This page came through I2P.\n"
I2PD = "/usr/bin/i2pd"
#: The site's name, in whoever's address book has it.
NAME = "site.i2p"
#: Lists of names that are none: bytes that are no HTTP, and a page about something else.
GARBAGE, OTHER_PAGE = "/garbage", "/page.html"
#: Serves the page and the list of names, and writes down who comes: what i2pd tells a site.
_SERVER = f"""
import http.server, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_request(self, code="-", size="-"):
        print(self.headers.get("X-I2P-DestB32", "-"), self.path, flush=True)
    def do_GET(self):
        if self.path != {GARBAGE!r}:
            return super().do_GET()
        self.wfile.write(bytes(range(256)) * 8 + b"\\r\\n\\r\\n" + bytes(range(256)) * 8)
        self.close_connection = True
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
"""

_ROUTER = """\
netid = 23
loglevel = {level}
ipv4 = true
ipv6 = false
nat = false
host = {address}
address4 = {address}
port = 5000
reservedrange = false
bandwidth = X
share = 100
floodfill = true
tunconf = {directory}/tunnels.conf
[ntcp2]
enabled = true
published = true
port = 5000
[ssu2]
enabled = true
published = true
port = 5000
[reseed]
threshold = 0
verify = false
urls =
yggurls =
[persist]
profiles = false
[exploratory]
inbound.length = 1
outbound.length = 1
[http]
enabled = false
[httpproxy]
enabled = false
[socksproxy]
enabled = false
[sam]
enabled = false
[upnp]
enabled = false
[addressbook]
enabled = false
[nettime]
enabled = false
"""
_SITE = """\
[{key}]
type = http
host = 127.0.0.1
port = 8080
keys = {key}
inbound.length = 1
outbound.length = 1
inbound.quantity = 2
outbound.quantity = 2
"""


_STARTS = 5
#: Destinations that lead to the site: one is enough.
_KEYS = tuple(f"site{number}.dat" for number in range(1, 7))
#: What the site's router says at the level "debug" when it announces one.
_PUBLISHED = re.compile(rb"Destination: Publish LeaseSet of ([a-z2-7]{52})")


def _rest(file: Path, begin: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(begin)
        return opened.read()


_NAT = """\
table ip nat {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "wan" masquerade
    }
}
"""


def identity(path: Path) -> bytes:
    """The hash of the identity that a router's or a destination's file begins with.

    387 bytes of keys and certificate header, then a certificate as long as that says (I2P's common
    structures, KeysAndCert).
    """
    data = path.read_bytes()
    (length,) = struct.unpack(">H", data[385:387])
    return hashlib.sha256(data[: 387 + length]).digest()


class I2pNetwork:
    """The network; ``prefix`` begins the name of its namespace.

    ``program`` is what runs a router: one of another age than its clients' takes minutes.
    """

    def __init__(self, directory: Path, prefix: str, program: tuple[str, ...] = (I2PD,)) -> None:
        self.directory = directory
        self._program = program
        self._key: Path | None = None
        self.namespace = f"{prefix}net"
        self._processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir(parents=True)
        directory.chmod(0o755)

    def make(self) -> None:
        """Routers with identities that anybody may be told of; none runs when this returns."""
        run("ip", "netns", "add", self.namespace)
        run("ip", "-n", self.namespace, "link", "set", "lo", "up")
        for address in ROUTERS:
            run("ip", "-n", self.namespace, "address", "add", f"{address}/32", "dev", "lo")
        self._serve_page()
        for number, address in enumerate(ROUTERS, 1):
            home = self._home(number)
            home.mkdir(mode=0o700)
            level = "debug" if number == len(ROUTERS) else "warn"
            (home / "i2pd.conf").write_text(
                _ROUTER.format(address=address, directory=home, level=level)
            )
            (home / "tunnels.conf").write_text(
                "".join(_SITE.format(key=key) for key in _KEYS) if number == len(ROUTERS) else ""
            )
            run("chown", "-R", "i2pd:", str(home))
        first = [self._start_router(number) for number in range(1, len(ROUTERS) + 1)]
        files = [self._home(number) / "router.info" for number in range(1, len(ROUTERS) + 1)]
        keys = [self._home(len(ROUTERS)) / key for key in _KEYS]
        wait_for("identities", lambda: all(path.exists() for path in (*files, *keys)), 30)
        for process in first:
            process.terminate()
            process.wait()
        self.routers = {self._name(path): path.read_bytes() for path in files}

    def start(self) -> None:
        """All routers, each knowing the others; a client can join when this returns."""
        self.make()
        for number in range(1, len(ROUTERS) + 1):
            for name, data in self.routers.items():
                path = self._home(number) / f"netDb/r{name[len('routerInfo-')]}/{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            run("chown", "-R", "i2pd:", str(self._home(number)))
        self._processes += [self._start_router(number) for number in range(1, len(ROUTERS))]
        self._publish()
        (self.directory / "page/hosts.txt").write_text(self.names)

    def _publish(self) -> None:
        """Start the site's router, and take the first of its destinations that it announces.

        i2pd announces one whose tunnels were not ready at that moment ten minutes later: of several
        one is ready. This is no part of what is tested.
        """
        home = self._home(len(ROUTERS))
        log = home / "log"
        known = {self._address(key): key for key in sorted(home.glob("site*.dat"))}

        def announced() -> bool:
            for found in _PUBLISHED.findall(_rest(log, begin)):
                self._key = known.get(found.decode() + ".b32.i2p", self._key)
            return self._key is not None

        for _ in range(_STARTS):
            begin = log.stat().st_size
            process = self._start_router(len(ROUTERS))
            with contextlib.suppress(TimeoutError):
                wait_for("word of the site", announced, 40)
                self._processes.append(process)
                return
            process.kill()
            process.wait()
        raise TimeoutError(f"the site was not announced in {_STARTS} starts: {log}")

    def bundle(self, path: Path) -> None:
        """Write what an image would ship: every router's description, as i2pd reads it."""
        with zipfile.ZipFile(path, "w") as file:
            for name, data in self.routers.items():
                file.writestr(name, data)

    @property
    def additions(self) -> str:
        """What a guest of this network needs beyond its own configuration: the network's number,
        that a range reserved for benchmarks holds routers, where names come from, and short
        tunnels: among five routers few of three hops can be found, and on a busy machine none.
        """
        return (
            "netid = 23\nreservedrange = false\n"
            f"addressbook.defaulturl = http://{self.site}/hosts.txt\n"
        ) + "".join(
            f"{what}.{way}bound.length = 1\n"
            for what in ("exploratory", "httpproxy", "socksproxy")
            for way in ("in", "out")
        )

    @property
    def names(self) -> str:
        """The list of names, as sites of I2P publish it: one, with its whole destination."""
        assert self._key is not None
        data = self._key.read_bytes()
        (length,) = struct.unpack(">H", data[385:387])
        return f"{NAME}={base64.b64encode(data[: 387 + length], b'-~').decode()}\n"

    def visitors(self) -> list[str]:
        """The destinations that fetched the page, as the site saw them."""
        lines = (self.directory / "site.log").read_text().splitlines()
        return [line.split()[0] for line in lines if line.endswith(" /")]

    def attach(self, namespace: str, address: str, router: str) -> None:
        """Give a namespace a link to the routers."""
        run("ip", "-n", self.namespace, "link", "add", "nat", "type", "veth", "peer", "name", "i2p",
            "netns", namespace)  # fmt: skip
        for where, link, own in (
            (self.namespace, "nat", router),
            (namespace, "i2p", address),
        ):
            run("ip", "netns", "exec", where, "sysctl", "-qw",
                f"net.ipv6.conf.{link}.disable_ipv6=1")  # fmt: skip
            run("ip", "-n", where, "address", "add", f"{own}/24", "dev", link)
            run("ip", "-n", where, "link", "set", link, "up")
        run("ip", "-n", namespace, "route", "add", "198.18.1.0/24", "via", router)

    @property
    def site(self) -> str:
        """The site's address: the hash of its destination."""
        assert self._key is not None
        return self._address(self._key)

    @staticmethod
    def _address(key: Path) -> str:
        digest = identity(key)
        return base64.b32encode(digest).decode().lower().rstrip("=") + ".b32.i2p"

    def _home(self, number: int) -> Path:
        return self.directory / f"router{number}"

    @staticmethod
    def _name(path: Path) -> str:
        return f"routerInfo-{base64.b64encode(identity(path), b'-~').decode()}.dat"

    def _start_router(self, number: int) -> subprocess.Popen[bytes]:
        home = self._home(number)
        log = (home / "log").open("ab")
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, "setpriv", "--reuid=i2pd", "--regid=i2pd",
             "--clear-groups", *self._program, f"--datadir={home}",
             f"--conf={home}/i2pd.conf"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home,
        )  # fmt: skip

    def _serve_page(self) -> None:
        root = self.directory / "page"
        root.mkdir()
        (root / "index.html").write_text(PAGE)
        (root / OTHER_PAGE.lstrip("/")).write_text('<html lang="en">\n\x1b[2Jx.i2p=none\n')
        self._processes.append(
            subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, "/usr/bin/python3", "-c", _SERVER],
                stdin=subprocess.DEVNULL, stdout=(self.directory / "site.log").open("wb"),
                stderr=subprocess.DEVNULL, cwd=root,
            )
        )  # fmt: skip

    def close(self) -> None:
        """End every process and the namespace."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        subprocess.run(["ip", "netns", "delete", self.namespace], capture_output=True, check=False)


class Guests:
    """app-guest, i2p-guest, the link between them, and a NAT between the uplink and the routers.

    Routers refuse a private address, which is what i2p-guest has: as with a hypervisor, they see
    its NAT's. ``number`` tells several of one network apart.
    """

    def __init__(self, directory: Path, network: I2pNetwork, prefix: str, number: int = 0) -> None:
        self.network = network
        self._number = number
        self.root = directory / "root"
        self.app, self.gateway, self.nat = f"{prefix}app", f"{prefix}i2p", f"{prefix}nat"
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in (self.app, self.gateway, self.nat):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.app, "link", "add", "i2p", "type", "veth", "peer", "name", "inner",
            "netns", self.gateway)  # fmt: skip
        app, gateway = (str(c.APP_I2P.ip), c.APP_I2P_MAC), (str(c.I2P_INNER.ip), c.I2P_MAC)
        self._inner(self.app, "i2p", c.APP_I2P_MAC, str(c.APP_I2P), gateway)
        self._inner(self.gateway, "inner", c.I2P_MAC, str(c.I2P_INNER), app)
        self._uplink()
        for name, profile, link in (
            (self.app, Profile.APP_GUEST, "i2p"),
            (self.gateway, Profile.I2P_GUEST, "inner"),
            (self.gateway, Profile.I2P_GUEST, "uplink"),
        ):
            self._load(name, render_named(profile))
            self._load(name, render_named(profile, "", link))
        self.capture = packet_socket(self.nat, "lan")

    @staticmethod
    def _inner(name: str, link: str, mac: str, address: str, peer: tuple[str, str]) -> None:
        run("ip", "-n", name, "link", "set", "dev", link, "address", mac, "arp", "off")
        run("ip", "-n", name, "address", "add", address, "dev", link)
        run("ip", "-n", name, "neighbour", "replace", peer[0], "lladdr", peer[1], "nud",
            "permanent", "dev", link)  # fmt: skip
        run("ip", "-n", name, "link", "set", link, "up")

    def _uplink(self) -> None:
        outside, inside = self.network.namespace, self.gateway
        here, wan = f"nat{self._number}", f"198.18.{2 + self._number}"
        for name, link, other, peer in (
            (self.nat, "lan", inside, "uplink"),
            (self.nat, "wan", outside, here),
        ):
            run("ip", "-n", name, "link", "add", link, "type", "veth", "peer", "name", peer,
                "netns", other)  # fmt: skip
            for where, which in ((name, link), (other, peer)):
                run("ip", "netns", "exec", where, "sysctl", "-qw",
                    f"net.ipv6.conf.{which}.disable_ipv6=1")  # fmt: skip
        run("ip", "-n", inside, "link", "set", "dev", "uplink", "address", c.I2P_UPLINK_MAC)
        for name, link, address in (
            (self.nat, "lan", f"{c.UPLINK_ROUTER}/24"),
            (self.nat, "wan", f"{wan}.2/24"),
            (outside, here, f"{wan}.1/24"),
            (inside, "uplink", str(c.UPLINK)),
        ):
            run("ip", "-n", name, "address", "add", address, "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
        run("ip", "-n", inside, "route", "add", "default", "via", str(c.UPLINK_ROUTER))
        run("ip", "-n", self.nat, "route", "add", "198.18.1.0/24", "via", f"{wan}.1")
        run("ip", "netns", "exec", self.nat, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self._load(self.nat, _NAT)

    @staticmethod
    def _load(name: str, text: str) -> None:
        run("ip", "netns", "exec", name, "nft", "-f", "-", stdin=text)

    def start_router(
        self,
        bundle: bytes | None = None,
        names: str | None = None,
        change: Callable[[str], str] = lambda text: text,
    ) -> None:
        """i2p-guest's router: the unit's command line, and what the firewall step writes.

        ``bundle`` replaces the network's; ``names`` is an address book that it begins with;
        ``change`` is what an anti-test does to the configuration.
        """
        shutil.rmtree(self.root, ignore_errors=True)
        path = self._prepare(self.root, bundle)
        (self.root / "var/lib/i2pd/hosts.txt").write_text(
            names if names is not None else self.network.names
        )
        self._run(self.root, change(i2pd_conf(I2pSettings(), str(path), self.network.additions)))

    def start_beside(self, name: str, url: str) -> Path:
        """A router that knows no names and has no proxies, and asks for its list of names there.

        Returns the file of what it says. Nobody calls it: without SSU2 it has no address.
        """
        root = self.root.with_name(f"{self.root.name}-{name}")
        path = self._prepare(root, None)
        text = i2pd_conf(I2pSettings(), str(path), self.network.additions)
        # The address is one that no configuration of ours would take.
        (line,) = (each for each in text.splitlines() if "addressbook.defaulturl" in each)
        text = text.replace(line, f"addressbook.defaulturl = {url}")
        self._run(
            root,
            text,
            "--httpproxy.enabled=false",
            "--socksproxy.enabled=false",
            "--ssu2.enabled=false",
        )
        return root / "log"

    def _prepare(self, root: Path, bundle: bytes | None) -> Path:
        for made in ("var/lib/i2pd", "etc/i2pd", "run/i2pd"):
            (root / made).mkdir(parents=True)
        # State is looked for below one root: the kernel's sockets are these namespaces' own.
        (root / "proc").symlink_to("/proc")
        path = root / "reseed.zip"
        self.network.bundle(path)
        if bundle is not None:
            path.unlink()
            path = root / PurePosixPath(given_path(bundle)).name
            path.write_bytes(bundle)
        return path

    def _run(self, root: Path, configuration: str, *options: str) -> None:
        (root / "etc/i2pd/i2pd.conf").write_text(configuration)
        run("chown", "-R", "i2pd:", str(root))
        unit = (TOP / "units/tails-profiles-i2p.service").read_text().replace("\\\n", "")
        (command,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
        words = command.removeprefix("ExecStart=").split()
        for here in ("/etc/i2pd", "/var/lib/i2pd", "/run/i2pd"):
            words = [word.replace(f"={here}", f"={root}{here}") for word in words]
        words = ["ip", "netns", "exec", self.gateway, "setpriv", "--reuid=i2pd", "--regid=i2pd",
                 "--clear-groups", *words, *options]  # fmt: skip
        (root / "log").touch()
        self._processes.append(self._popen(words, root))

    @staticmethod
    def _popen(words: Sequence[str], root: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=(root / "log").open("ab"),
            stderr=subprocess.STDOUT, cwd=root / "var/lib/i2pd",
        )  # fmt: skip

    def stop_router(self) -> None:
        """The end of i2p-guest's router."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def renew(self) -> None:
        """What i2p-guest does when app-guest asks for new destinations: a new start."""
        (old,) = self._processes
        old.terminate()
        old.wait()
        assert isinstance(old.args, list)
        self._processes[:] = [self._popen(old.args, self.root)]

    @property
    def log(self) -> str:
        """What the router printed."""
        return (self.root / "log").read_text(errors="replace")

    def execute(
        self, name: str, *argv: str, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """A command in a namespace, to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", name, *argv],
            capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip

    def fetch(self, url: str, *options: str) -> subprocess.CompletedProcess[str]:
        """curl in app-guest; by default through i2p-guest's HTTP proxy."""
        proxy = options or ("--proxy", f"http://{c.I2P_INNER.ip}:{c.I2P_HTTP_PORT}")
        return self.execute(
            self.app, "curl", "--silent", "--show-error", "--max-time", "20", "--write-out",
            "\n%{http_code}", *proxy, url,
        )  # fmt: skip

    def frames(self) -> Iterator[bytes]:
        """What i2p-guest has put on its uplink so far."""
        self.capture.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, address = self.capture.recvfrom(65536)
                if address[2] != socket.PACKET_OUTGOING:
                    yield frame

    def close(self) -> None:
        """End every process and namespace."""
        self.stop_router()
        self.capture.close()
        for name in (self.app, self.gateway, self.nat):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        shutil.rmtree(self.root, ignore_errors=True)


def inside(namespace: str, action: Callable[[], object]) -> object:
    """The result of a call in a network namespace; a thread of its own goes there and ends."""
    answer: list[object] = []

    def call() -> None:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)
        answer.append(action())

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return answer[0]


def packet_socket(namespace: str, link: str) -> socket.socket:
    """A packet socket on a link of a namespace, with room for a whole test."""
    made = inside(
        namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    )
    assert isinstance(made, socket.socket)
    made.bind((link, 0))
    made.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    return made
