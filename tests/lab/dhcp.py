# SPDX-License-Identifier: GPL-3.0-or-later
"""A gateway's uplink without a settings disk, in a namespace, and who answers DHCP there.

``Gateway`` runs what ``tails-profiles-lease.service`` runs, with its client's waits shortened, in a
root directory of its own for state files, and hears what it says to systemd and to the host.
"""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scapy.all import (
    BOOTP,
    DHCP,
    IP,
    UDP,
    Ether,
    Raw,
    raw,
)

from tails_profiles import constants as c
from tails_profiles import firewall_step
from tails_profiles.profile import Profile
from tails_profiles.ruleset import render_named
from tests.lab.tornet import FACTOR, run

TOP = Path(__file__).parents[2]
ROUTER_MAC = "02:00:00:00:00:02"
CANARY = raw(Ether(dst=c.TOR_UPLINK_MAC, src=ROUTER_MAC, type=0x88B5) / Raw(b"CANARY"))
_NUMBERS = itertools.count()

# What runs: the module itself, with shorter waits and its root directory replaced.
_PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tails_profiles import dhcp, lease
from tails_profiles.paths import Paths
lease.TRIES, lease.PAUSE, lease.RETRY, lease.MIN_LEASE = 1, 1, 0.2, 2
sys.exit(dhcp.main([sys.argv[3]], Paths(Path(sys.argv[2]))))
"""


class Gateway:
    """tor-guest's uplink with its real table, raised as the links step does; ``net`` is outside."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        number = next(_NUMBERS)
        self.name, self.net = (f"tpd{os.getpid()}{number}{end}" for end in ("gw", "net"))
        for name in (self.name, self.net):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.name, "link", "add", "uplink", "address", c.TOR_UPLINK_MAC,
            "type", "veth", "peer", "name", "net", "netns", self.net)  # fmt: skip
        run("ip", "-n", self.net, "link", "set", "dev", "net", "address", ROUTER_MAC)
        for name, link in ((self.name, "uplink"), (self.net, "net")):
            run(
                "ip", "netns", "exec", name, "sysctl", "-qw", f"net.ipv6.conf.{link}.disable_ipv6=1"
            )
            run("ip", "-n", name, "link", "set", link, "up")
        for link_table in (None, "uplink-dhcp"):
            self.nft(render_named(Profile.TOR_GUEST, "tcp", link_table))
        self._make_root()
        self.capture = self.packet_socket(self.net, "net")
        self.processes: list[subprocess.Popen[bytes]] = []

    def _make_root(self) -> None:
        state, library = self.root / "run/tails-profiles", self.root / "usr/lib/tails-profiles"
        state.mkdir(parents=True)
        library.mkdir(parents=True)
        shutil.copy(TOP / "units/lease-hook", library)
        # What the firewall step writes where there is no settings disk.
        decision = firewall_step.decide(Profile.TOR_GUEST, None).to_json()
        (state / "decision.json").write_text(json.dumps(decision))
        (self.root / "dev").mkdir()
        os.mkfifo(self.root / "dev/ttyS0")
        self.serial = os.open(self.root / "dev/ttyS0", os.O_RDWR | os.O_NONBLOCK)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(self.root / "notify"))
        self.notified.settimeout(20 * FACTOR)

    def packet_socket(self, name: str, link: str) -> socket.socket:
        """A packet socket on one end of the uplink."""
        made: list[socket.socket] = []

        def open_there() -> None:
            # A thread of its own changes namespace and ends; its socket stays there.
            descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
            os_setns(descriptor)
            os.close(descriptor)
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sock.bind((link, 0))
            made.append(sock)

        thread = threading.Thread(target=open_there)
        thread.start()
        thread.join()
        return made[0]

    def nft(self, text: str) -> None:
        """Load a rule set, or statements, in the gateway."""
        run("ip", "netns", "exec", self.name, "nft", "-f", "-", stdin=text)

    def start(self, action: str = "keep", **environment: str) -> subprocess.Popen[bytes]:
        """``tails_profiles.dhcp ACTION`` in the gateway."""
        made = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "/usr/bin/python3", "-c", _PROGRAM, str(TOP),
             str(self.root), action],
            env={**os.environ, "NOTIFY_SOCKET": str(self.root / "notify"), **environment},
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.processes.append(made)
        return made

    def run_server(self, answer: Callable[[Any], Sequence[bytes]]) -> None:
        """Answer each request outside by ``answer``, which gets the frame as scapy reads it."""
        self.server = self.packet_socket(self.net, "net")
        answer_requests(self.server, answer)

    def next_status(self) -> str:
        """What the service says next to systemd, one text with a line for each variable."""
        return self.notified.recv(4096).decode()

    def said(self) -> list[str]:
        """What was said on the serial port."""
        try:
            return os.read(self.serial, 65536).decode().splitlines()
        except BlockingIOError:
            return []

    def state(self) -> Any:
        """The state file."""
        return json.loads((self.root / "run/tails-profiles/lease.json").read_text())

    def opened(self) -> dict[str, list[str]]:
        """Everything that a lease could open: elements, addresses, routes."""
        elements = []
        for name in ("address", "router", "proxy"):
            listed = run("ip", "netns", "exec", self.name, "nft", "-j", "list", "set", "netdev",
                         "tails_profiles_uplink", name)  # fmt: skip
            entry = next(each["set"] for each in json.loads(listed)["nftables"] if "set" in each)
            elements += [f"{name} {element}" for element in entry.get("elem", [])]
        addresses = json.loads(run("ip", "-n", self.name, "-j", "-4", "address", "show", "uplink"))
        routes = json.loads(run("ip", "-n", self.name, "-j", "route", "show") or "[]")
        return {
            "elements": elements,
            "addresses": [
                f"{info['local']}/{info['prefixlen']}"
                for each in addresses
                for info in each.get("addr_info", [])
            ],
            "routes": [f"{each['dst']} {each.get('gateway', '')}".strip() for each in routes],
        }

    def is_up(self) -> bool:
        """Whether the uplink is up."""
        return (
            "UP"
            in json.loads(run("ip", "-n", self.name, "-j", "link", "show", "uplink"))[0]["flags"]
        )

    def frames(self) -> list[bytes]:
        """Every frame that left so far; a canary of the capture itself ends them."""
        canary = self.packet_socket(self.net, "net")
        canary.send(CANARY)
        canary.close()
        self.capture.settimeout(5 * FACTOR)
        seen = []
        while True:
            frame, address = self.capture.recvfrom(65536)
            if frame == CANARY:
                return seen
            if address[2] != 4:
                seen.append(frame)

    def close(self) -> None:
        """End everything."""
        for process in self.processes:
            process.kill()
            process.wait()
        if hasattr(self, "server"):
            self.server.close()
        self.capture.close()
        self.notified.close()
        os.close(self.serial)
        for name in (self.name, self.net):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def os_setns(descriptor: int) -> None:
    """setns(2) for network namespaces, of this thread."""
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def answer_requests(sock: socket.socket, answer: Callable[[Any], Sequence[bytes]]) -> None:
    """Answer, until a packet socket is closed, each request that comes in there."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                frame, address = sock.recvfrom(65536)
                # 4: what this machine itself sends (packet(7), PACKET_OUTGOING).
                if address[2] != 4 and is_request(frame):
                    for each in answer(Ether(frame)):
                        sock.send(each)

    threading.Thread(target=serve, daemon=True).start()


def is_request(frame: bytes) -> bool:
    """Whether a frame is a DHCP client's."""
    packet = Ether(frame)
    return UDP in packet and packet[UDP].sport == 68 and packet[UDP].dport == 67


def kind(packet: Any) -> int:
    """The DHCP message type of a packet (RFC 2132, 9.6)."""
    return next(value for name, value in packet[DHCP].options if name == "message-type")


GOOD = {"yiaddr": "10.0.2.15", "mask": "255.255.255.0", "router": "10.0.2.2", "seconds": 86400}


def reply(request: Any, message: int | None = None, **over: Any) -> bytes:
    """The frame with which a server answers: an offer, then its confirmation.

    ``mask``, ``router`` and ``seconds`` may be None; ``more`` are further options; what else there
    is goes into the BOOTP header.
    """
    values = {**GOOD, "more": [], **over}
    options: list[Any] = [
        ("message-type", message or {1: 2, 3: 5}[kind(request)]),
        ("server_id", "10.0.2.2"),
    ]
    for name, key in (("lease_time", "seconds"), ("subnet_mask", "mask"), ("router", "router")):
        if values[key] is not None:
            options.append((name, values[key]))
    header = {
        key: value
        for key, value in values.items()
        if key not in {"mask", "router", "seconds", "more", "sport", "dst"}
    }
    fields = {"op": 2, "xid": request[BOOTP].xid, "chaddr": request[BOOTP].chaddr, **header}
    return raw(
        Ether(src=ROUTER_MAC, dst=values.get("dst", request[Ether].src))
        / IP(src="10.0.2.2", dst="255.255.255.255")
        / UDP(sport=values.get("sport", 67), dport=68)
        / BOOTP(**fields)
        / DHCP(options=[*options, *values["more"], "end"])
    )
