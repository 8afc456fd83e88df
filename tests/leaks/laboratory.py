# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces around one guest with its real rule sets, sysctls, addresses and neighbours.

``Laboratory(profile, variant)`` brings the links of a guest up by the steps of
``tails_profiles.links``, as the boot unit does. Behind each link is its *far end*: a hostile
machine that puts any frame on the wire and captures what comes. Behind an uplink it is a small
network: a router that answers ARP as the hypervisor's NAT does, and another machine of the LAN.

A *layer* is one thing that stops packets: ``inet`` (the table with users and conntrack), the
``netdev`` table of a link by the link's name, or a setting of the kernel. ``without`` removes any
set of them; everything else stays in place.

Everything runs on one CPU: the frames between namespaces are then handled in the order in which
they were queued, and a *fence* frame that has come back says that all before it are through.
"""

import ctypes
import itertools
import json
import os
import select
import socket
import struct
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from scapy.all import Ether, Raw, raw

from tails_profiles import constants as c
from tails_profiles.command import Command
from tails_profiles.constants import LinkConstants
from tails_profiles.links import (
    IP,
    FoundLink,
    RequireTables,
    Step,
    Sysctl,
    plan,
    prepare_steps,
    steps,
)
from tails_profiles.profile import Profile
from tails_profiles.rule_files import DHCP_LINK, lease_elements, opened_elements, proxy_elements
from tails_profiles.ruleset import render_named

ROUTER_MAC = "02:00:00:00:00:02"
LAN_MAC = "02:00:00:00:00:77"
LAN_MACHINE = IPv4Interface("10.0.2.77/24")
BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"
ETH_P_ALL = 3
_NUMBERS = itertools.count()
#: Experimental ethertype (IEEE 802): nothing but our canary has it.
CANARY_TYPE = 0x88B5
CANARY = raw(Ether(dst=BROADCAST_MAC, src="02:ca:fe:ca:fe:00", type=CANARY_TYPE) / Raw(b"CANARY"))
#: The name of the table with users and conntrack among the layers.
INET = "inet"

_CLONE_NEWNET = 0x40000000
_SO_RCVBUFFORCE = 33
# Hops a packet may take through queues before it is in a capture: into the guest, over its lo and
# back, out.
_FENCES = 4
_LIBC = ctypes.CDLL(None, use_errno=True)


def _own(cpus: set[int]) -> int:
    """One of them; another one for each of the processes that share the modules (pytest-xdist)."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return sorted(cpus)[worker % len(cpus)]


def patience() -> float:
    """Seconds to wait for what comes at once unless something is broken."""
    return 5 * float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread in a namespace; sockets opened and programs started here belong to it."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert _LIBC.setns(there, _CLONE_NEWNET) == 0
        yield
    finally:
        assert _LIBC.setns(here, _CLONE_NEWNET) == 0
        os.close(here)
        os.close(there)


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Sockets opened here belong to a user: ``meta skuid`` is the file system user of who opened.

    Of this thread alone, and without any other privilege lost.
    """
    _LIBC.setfsuid(uid)
    try:
        assert _LIBC.setfsuid(-1) == uid
        yield
    finally:
        _LIBC.setfsuid(0)


def run(*argv: str, namespace: str | None = None, stdin: str = "") -> str:
    """What a program prints; anything but success fails the test with its own words."""
    if namespace is not None:
        with inside(namespace):
            return run(*argv, stdin=stdin)
    done = subprocess.run(
        argv, input=stdin, capture_output=True, text=True, check=False, timeout=12 * patience()
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


def packet_socket(namespace: str, link: str, protocol: int = ETH_P_ALL) -> socket.socket:
    """A packet socket; with ETH_P_ALL a capture, with one ethertype what a daemon would get.

    The kernel hands frames to the first kind before the ingress hook, to the second after it.
    """
    with inside(namespace):
        # Protocol 0 until it is bound: no frame of another link gets in.
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        made.bind((link, protocol))
        made.setblocking(False)
        return made


def drain(sock: socket.socket) -> list[tuple[bytes, int]]:
    """Every frame that waits in a packet socket, with its kind (PACKET_OUTGOING is 4)."""
    got = []
    with suppress(BlockingIOError):
        while True:
            frame, address = sock.recvfrom(65536)
            got.append((frame, address[2] if len(address) > 2 else 0))
    return got


class Nft:
    """libnftables(3) in a namespace: what nft(8) does, without a process for each of hundreds."""

    _JSON = 1 << 4

    def __init__(self, namespace: str) -> None:
        self._library = ctypes.CDLL("libnftables.so.1")
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        for answer in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(self._library, answer).restype = ctypes.c_char_p
        with inside(namespace):
            self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def load(self, script: str) -> None:
        """In one transaction; what is refused fails the test with nft's words."""
        self._run(script)

    def listed(self) -> list[dict[str, Any]]:
        """Everything in the kernel, as libnftables-json(5) describes it."""
        self._library.nft_ctx_output_set_flags(self._context, self._JSON)
        answer = self._run("list ruleset")
        self._library.nft_ctx_output_set_flags(self._context, 0)
        found: list[dict[str, Any]] = json.loads(answer)["nftables"]
        return found

    def _run(self, script: str) -> bytes:
        status = self._library.nft_run_cmd_from_buffer(self._context, script.encode())
        answer: bytes = self._library.nft_ctx_get_output_buffer(self._context)
        error: bytes = self._library.nft_ctx_get_error_buffer(self._context)
        assert status == 0, error.decode()
        return answer

    def close(self) -> None:
        """Give everything back."""
        self._library.nft_ctx_free(self._context)


@dataclass
class FarEnd:
    """The other end of a link, in a namespace of its own."""

    namespace: str
    device: str
    facts: LinkConstants
    sender: socket.socket = field(init=False)
    capture: socket.socket = field(init=False)

    def open(self) -> None:
        """Once the device is up. Frames of ``sender`` are outgoing ones in ``capture``."""
        self.sender = packet_socket(self.namespace, self.device)
        self.capture = packet_socket(self.namespace, self.device)

    def captured(self) -> list[bytes]:
        """What came out of the guest, but for the ARP it may send."""
        return [
            frame
            for frame, kind in drain(self.capture)
            if kind != socket.PACKET_OUTGOING and not self.is_due_arp(frame)
        ]

    def is_due_arp(self, _frame: bytes) -> bool:
        """Whether this is ARP that the guest may send; an inner link has none."""
        return False

    def close(self) -> None:
        self.sender.close()
        self.capture.close()


@dataclass
class UplinkEnd(FarEnd):
    """The port of a small network that the guest is plugged into."""

    own: IPv4Address = c.UPLINK.ip
    neighbours: tuple[IPv4Address, ...] = (c.UPLINK_ROUTER,)

    def is_due_arp(self, frame: bytes) -> bool:
        """Written by hand: the guest's own MAC and address, asking for or answering its router."""
        # RFC 826, and by no library: one that reads a frame differently would hide it or accuse it.
        if frame[12:14] != b"\x08\x06" or len(frame) < 42:
            return False
        kind = struct.unpack_from("!HHBBH", frame, 14)
        mac = bytes.fromhex(self.facts.mac.replace(":", ""))
        router = bytes.fromhex(ROUTER_MAC.replace(":", ""))
        return (
            kind[:4] == (1, 0x800, 6, 4)
            and kind[4] in {1, 2}
            and frame[6:12] == frame[22:28] == mac
            and frame[28:32] == self.own.packed
            and frame[38:42] in {each.packed for each in self.neighbours}
            and frame[:6] in {b"\xff" * 6, router}
        )


@dataclass(frozen=True)
class Layer:
    """One thing that stops packets. ``table``: None, INET or a link; ``sysctls``: path to the
    value it has when the layer is removed; ``commands``: what removes it, then what restores it."""

    table: str | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[tuple[Command, ...], tuple[Command, ...]] = ((), ())


def _links_settings(links: Iterable[str], value: str, *keys: str) -> dict[str, str]:
    return {f"net/ipv4/conf/{link}/{key}": value for link in links for key in keys}


#: Settings of the laboratory alone: they make an anti-test answer at once and once, and are no
#: layer. SYN/ACKs are not repeated, and ICMP errors are not rationed.
_LABORATORY_SETTINGS = {
    "net/ipv4/tcp_synack_retries": "0",
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv4/icmp_msgs_per_sec": "10000000",
    "net/ipv4/icmp_msgs_burst": "10000000",
    "net/ipv4/tcp_invalid_ratelimit": "0",
    "net/ipv4/igmp_max_memberships": "20",
}


class Laboratory:
    """One guest under test. ``ends`` maps each of its links to the link's far end.

    ``dhcp``: the uplink's table is the one for a lease, opened by ``lease_elements`` for the
    constant address. ``proxy``: a proxy in a private range, named in both tables. ``opened``: a
    port of i2p-guest that is opened to the internet.
    """

    def __init__(
        self,
        profile: Profile,
        variant: str = "",
        *,
        dhcp: bool = False,
        proxy: tuple[IPv4Address, int] | None = None,
        opened: int | None = None,
    ) -> None:
        self.profile, self.variant, self.dhcp, self.proxy = profile, variant, dhcp, proxy
        self.opened = opened
        marks = (variant, "dhcp" if dhcp else "", "proxy" if proxy else "")
        self.variant_name = "-".join(filter(None, marks))
        self._base = f"tp{os.getpid()}n{next(_NUMBERS)}"
        self._port = 30000
        self._namespaces: list[str] = []
        self._witnesses: dict[tuple[str, int], socket.socket] = {}
        self._listeners: list[socket.socket] = []
        self._cpus = os.sched_getaffinity(0)
        self._counted: dict[tuple[str, str, str], int] = {}
        #: For the view of the same name: frames past the ingress table when it was last asked.
        self.entered: dict[str, int] = {}
        #: Packets each rule has handled, by (table, chain, comment): of flows that passed, others.
        self.passed: dict[tuple[str, str, str], int] = defaultdict(int)
        self.others: dict[tuple[str, str, str], int] = defaultdict(int)
        os.sched_setaffinity(0, {_own(self._cpus)})
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    # ---- building

    def _build(self) -> None:
        self.guest = self._namespace("guest")
        self._libnftables = Nft(self.guest)
        self._fence = self._make_fence()
        known = c.LINKS[self.profile]
        self.ends = {facts.name: self._wire(facts) for facts in known}
        for end in self.ends.values():
            end.open()
        self.texts = {
            INET: self._text(None),
            **{
                facts.name: self._text(
                    DHCP_LINK if facts.is_uplink and self.dhcp else facts.name, facts.name
                )
                for facts in known
            },
        }
        self.plan = plan(
            self.profile,
            [FoundLink(f"raw{number}", facts.mac) for number, facts in enumerate(known)],
            i2p_promised=True,
            dhcp=self.dhcp,
        )
        run("ip", "link", "set", "lo", "up", namespace=self.guest)
        self._rise()
        self.wait_for_queues()
        if self.dhcp:
            run("ip", "address", "add", str(c.UPLINK), "dev", "uplink", namespace=self.guest)
            run("ip", "route", "add", "default", "via", str(c.UPLINK_ROUTER), namespace=self.guest)
        for link in self.ends:
            _ask_once(self.guest, link)
        for path, value in _LABORATORY_SETTINGS.items():
            with suppress(FileNotFoundError):  # not every kernel has each of them in a namespace
                self.sysctl(path, value)
        self.nft("table netdev witness {\n" + "".join(map(_witness_chain, self.ends)) + "}\n")
        self.layers = self._make_layers()
        self._restored = {
            path: self.read_sysctl(path) for layer in self.layers.values() for path in layer.sysctls
        }
        self.removed: frozenset[str] = frozenset()

    def _text(self, table: str | None, link: str | None = None) -> str:
        text = render_named(self.profile, self.variant, table)
        if self.proxy and (link is None or c.LINKS[self.profile][0].name == link):
            text += proxy_elements(self.proxy, link)
        if self.opened and (link is None or c.LINKS[self.profile][0].name == link):
            text += opened_elements(self.opened, link)
        if table == DHCP_LINK:
            text += lease_elements((c.UPLINK.ip, c.UPLINK_ROUTER))
        return text

    def _namespace(self, name: str) -> str:
        full = self._base + name
        run("ip", "netns", "add", full)
        self._namespaces.append(full)
        return full

    def _make_fence(self) -> tuple[socket.socket, socket.socket]:
        namespace = self._namespace("fence")
        _pair(namespace, "left", "02:fe:00:00:00:01", namespace, "right", "02:fe:00:00:00:02")
        for link in ("left", "right"):
            _quiet_up(namespace, link)
        one, two = packet_socket(namespace, "left"), packet_socket(namespace, "right")
        two.setblocking(True)
        two.settimeout(patience())
        return one, two

    def _wire(self, facts: LinkConstants) -> FarEnd:
        number = [each.name for each in c.LINKS[self.profile]].index(facts.name)
        namespace = self._namespace(facts.name)
        mac = facts.peer_mac or "02:00:00:00:00:01"
        device = "port" if facts.is_uplink else "wire"
        _pair(namespace, device, mac, self.guest, f"raw{number}", facts.mac)
        if not facts.is_uplink:
            _quiet_up(namespace, device)
            return FarEnd(namespace, device, facts)
        self.lan = self._namespace("lan")
        _pair(self.lan, "lan", LAN_MAC, namespace, "lanport", "02:00:00:00:00:78")
        run("ip", "link", "add", "router", "address", ROUTER_MAC, "type", "bridge",
            namespace=namespace)  # fmt: skip
        for port in (device, "lanport"):
            run("ip", "link", "set", port, "master", "router", namespace=namespace)
            _quiet_up(namespace, port)
        _quiet_up(namespace, "router")
        _quiet_up(self.lan, "lan")
        _ask_once(self.lan, "lan")
        for address in (c.UPLINK_ROUTER, c.UPLINK_RESOLVER):
            run("ip", "address", "add", f"{address}/24", "dev", "router", namespace=namespace)
        run("ip", "address", "add", str(LAN_MACHINE), "dev", "lan", namespace=self.lan)
        resolver = () if self.variant in {"", "tcp"} or self.dhcp else (c.UPLINK_RESOLVER,)
        return UplinkEnd(namespace, device, facts, neighbours=(c.UPLINK_ROUTER, *resolver))

    def _rise(self) -> None:
        """Load the rules and bring the links up; the captures run already."""
        self.nft(self.texts[INET])
        for step in steps(self.plan):
            self.carry_out(step)

    def carry_out(self, step: Step) -> None:
        """One step of the plan, in the guest."""
        if isinstance(step, Command):
            run(*step.argv, namespace=self.guest)
            if step.argv[-1] == "up":
                self.wait_for_queues()
        elif isinstance(step, Sysctl):
            if step.machine_wide:
                return  # the machine's own, which a namespace may only read
            with suppress(FileNotFoundError) if step.optional else nullcontext():
                self.sysctl(step.path, step.value)
        elif isinstance(step, RequireTables):
            listed = run("nft", "list", "tables", namespace=self.guest).splitlines()
            assert step.tables <= {line.removeprefix("table ") for line in listed}
        else:
            self.nft(self.texts["uplink" if step.table == DHCP_LINK else step.table])

    def wait_for_queues(self) -> None:
        """Return when every link that has a carrier passes frames, at both of its ends."""
        for namespace in self._namespaces:
            wait_until(lambda where=namespace: _queues_pass(where), f"links pass in {namespace}")

    def _make_layers(self) -> dict[str, Layer]:
        """Every layer there is, by name."""
        links = ("all", *self.ends)
        layers = {
            INET: Layer(INET),
            **{link: Layer(link) for link in self.ends},
            "ip_forward": Layer(
                sysctls={
                    "net/ipv4/ip_forward": "1",
                    # The kernel takes redirects again when forwarding ends.
                    "net/ipv4/conf/all/accept_redirects": "0",
                    **_links_settings(self.ends, "1", "forwarding"),
                }
            ),
            "rp_filter": Layer(sysctls=_links_settings(links, "0", "rp_filter")),
            "echo_ignore": Layer(sysctls={"net/ipv4/icmp_echo_ignore_all": "0"}),
            # Not set by us: what Linux does with packets that claim to come from itself.
            "accept_local": Layer(sysctls=_links_settings(links, "1", "accept_local")),
            "route_localnet": Layer(sysctls=_links_settings(links, "1", "route_localnet")),
            "source_route": Layer(sysctls=_links_settings(links, "1", "accept_source_route")),
            # Conntrack takes a packet in the middle of a connection for a new one.
            "tcp_loose": Layer(sysctls={"net/netfilter/nf_conntrack_tcp_loose": "1"}),
            "arp_ignore": Layer(
                sysctls=_links_settings(self.ends, "0", "arp_ignore", "arp_filter")
            ),
        }
        for link in self.plan.links:
            if not link.facts.is_uplink:
                # The kernel forgets a link's neighbours when its ARP flag changes: what restores
                # it are all commands of the plan, in order.
                layers[f"arp_flag_{link.name}"] = Layer(
                    commands=(
                        (Command((IP, "link", "set", "dev", link.name, "arp", "on")),),
                        tuple(s for s in prepare_steps(link) if isinstance(s, Command)),
                    )
                )
        return layers

    def close(self) -> None:
        """End everything that was made, whatever state it is in."""
        sockets = [*self._witnesses.values(), *self._listeners, *getattr(self, "_fence", ())]
        for each in sockets:
            each.close()
        for end in getattr(self, "ends", {}).values():
            with suppress(AttributeError):
                end.close()
        if hasattr(self, "_libnftables"):
            self._libnftables.close()
        for name in self._namespaces:
            run("ip", "netns", "delete", name)
        os.sched_setaffinity(0, self._cpus)

    # ---- layers

    def without(self, layers: Iterable[str] = ()) -> None:
        """Exactly these layers are removed; every other one is in place."""
        wanted = frozenset(layers)
        script = ""
        for name in sorted(wanted ^ self.removed):
            script += self._switch(self.layers[name], away=name in wanted)
        if script:
            self.nft(script)
        self.removed = wanted
        # What a deleted table held, conntrack's reassembly too, is let go by a work queue; the end
        # of a netlink socket waits for it (nft_rcv_nl_event in net/netfilter/nf_tables_api.c).
        with inside(self.guest), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as waiter:
            waiter.bind((0, 0))

    def _switch(self, layer: Layer, *, away: bool) -> str:
        for path, removed in layer.sysctls.items():
            self.sysctl(path, removed if away else self._restored[path])
        for command in layer.commands[0 if away else 1]:
            run(*command.argv, namespace=self.guest)
        if layer.table is None:
            return ""
        name = _table_name(layer.table)
        # A rule set that is loaded anew counts from nothing.
        self._counted = {key: count for key, count in self._counted.items() if key[0] != name}
        return f"delete table {name}\n" if away else self.texts[layer.table]

    @contextmanager
    def passing(self) -> Iterator[None]:
        """What rules handle meanwhile counts as packets of a flow that passes."""
        self.tally()
        yield
        self.settle()
        self.tally(passing=True)

    @contextmanager
    def altered(self, table: str, text: str) -> Iterator[None]:
        """Another text in place of one table's; for seeded mistakes."""
        original = self.texts[table]
        self.texts[table] = text
        before = self.removed
        try:
            self.without(before | {table})
            self.without(before - {table})
            yield
        finally:
            self.texts[table] = original
            self.without(before | {table})
            self.without(before)

    def nft(self, script: str) -> None:
        """Load a rule set in the guest, in one transaction."""
        self._libnftables.load(script)

    def sysctl(self, path: str, value: str) -> None:
        """Set a kernel setting of the guest, by its path below /proc/sys."""
        with inside(self.guest):
            Path("/proc/sys", path).write_text(value + "\n", encoding="ascii")

    def read_sysctl(self, path: str) -> str:
        """A kernel setting of the guest."""
        with inside(self.guest):
            return Path("/proc/sys", path).read_text(encoding="ascii").strip()

    # ---- packets

    def settle_everywhere(self) -> None:
        """The same as ``settle`` for what others have sent from any processor."""
        mine = os.sched_getaffinity(0)
        for cpu in self._cpus:
            os.sched_setaffinity(0, {cpu})
            self.settle()
        os.sched_setaffinity(0, mine)

    def settle(self) -> None:
        """Return when everything that was sent so far has been handled."""
        one, two = self._fence
        for number in range(_FENCES):
            mark = CANARY + bytes([number])
            one.send(mark)
            while two.recv(2048) != mark:
                pass

    def canary(self) -> None:
        """Both captures are alive: each sees a frame that somebody else puts on its wire."""
        for name, end in self.ends.items():
            end.captured()
            end.sender.send(CANARY)
            self.settle()
            assert CANARY in [frame for frame, _ in drain(end.capture)], f"{name} captures nothing"

    def captures(self) -> dict[str, list[bytes]]:
        """What came out of the guest since the last call, by link."""
        self.settle()
        return {name: end.captured() for name, end in self.ends.items()}

    def witness_frames(self, link: str, ethertype: int) -> socket.socket:
        """What a daemon in the guest would get: frames past the link's table, before the stack."""
        key = (f"frames {link}", ethertype)
        if key not in self._witnesses:
            self._witnesses[key] = packet_socket(self.guest, link, ethertype)
        return self._witnesses[key]

    def witness_packets(self, protocol: int) -> socket.socket:
        """IPv4 packets of a protocol that were delivered to the guest, past all of its rules."""
        key = ("packets", protocol)
        if key not in self._witnesses:
            with inside(self.guest):
                made = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
            made.setblocking(False)
            self._witnesses[key] = made
        return self._witnesses[key]

    def frames_past_ingress(self, link: str) -> int:
        """How many frames of any kind the link's table has let in, ever."""
        return next(
            count for key, _, count in self._listed() if key == ("netdev witness", link, "in")
        )

    def listen(self, *ports: int, kind: int = socket.SOCK_STREAM, address: str = "") -> None:
        """Sockets in the guest that wait for calls, so that an open port answers."""
        for port in ports:
            with inside(self.guest):
                made = socket.socket(socket.AF_INET, kind)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((address, port))
            made.setblocking(False)
            if kind == socket.SOCK_STREAM:
                made.listen(128)
            self._listeners.append(made)

    def fresh_port(self) -> int:
        """A source port that no probe has used: conntrack and sockets know nothing of it."""
        self._port += 1
        return self._port

    def answer_datagrams(self) -> None:
        """Whoever listens for datagrams in the guest sends each one back."""
        for listener in self._listeners:
            if listener.type == socket.SOCK_DGRAM:
                with suppress(BlockingIOError):
                    while True:
                        data, caller = listener.recvfrom(2048)
                        listener.sendto(data, caller)

    def forget_neighbours(self) -> None:
        """All but the permanent ones of the inner links."""
        run("ip", "neighbour", "flush", "dev", "uplink", namespace=self.guest)

    def neighbours(self) -> str:
        """All neighbours of the guest, permanent ones and others."""
        return run("ip", "neighbour", "show", "nud", "all", namespace=self.guest)

    def addresses6(self) -> str:
        """The guest's IPv6 addresses that may be used."""
        return run("ip", "-6", "address", "show", "-tentative", namespace=self.guest)

    def configuration(self) -> str:
        """Addresses, routes, flags and permanent neighbours, to compare.

        Without the operational state, which the kernel works out some time after a link rose.
        """
        with inside(self.guest):
            links = json.loads(run("ip", "-json", "link", "show"))
            flags = [f"{link['ifname']} {link['address']} {link['flags']}\n" for link in links]
            listed = [
                run("ip", *what) for what in (("-oneline", "address", "show"), ("route", "show"))
            ]
            # In no order that lasts: the table belongs to all namespaces, and grows with them.
            neighbours = run("ip", "neighbour", "show", "nud", "permanent").splitlines()
            return "".join((*flags, *listed)) + "\n".join(sorted(neighbours))

    # ---- counters

    def tally(self, *, passing: bool = False) -> list[tuple[str, str, str]]:
        """Read every counter; the rules that were hit since the last call.

        ``passing``: by packets of a flow that was seen to pass.
        """
        into = self.passed if passing else self.others
        hit = []
        for key, _, count in self.rules():
            new = count - self._counted.get(key, 0)
            self._counted[key] = count
            if new:
                into[key] += new
                hit.append(key)
        return hit

    def rules(self) -> list[tuple[tuple[str, str, str], str, int]]:
        """Every rule of ours that is loaded: (table, chain, comment), its verdict, its packets."""
        return [each for each in self._listed() if each[0][0] != "netdev witness"]

    def _listed(self) -> list[tuple[tuple[str, str, str], str, int]]:
        found = []
        for each in self._libnftables.listed():
            rule: dict[str, Any] = each.get("rule", {})
            counter = [part["counter"] for part in rule.get("expr", ()) if "counter" in part]
            if counter:
                key = (f"{rule['family']} {rule['table']}", rule["chain"], rule.get("comment", ""))
                found.append((key, _verdict(rule["expr"]), counter[0]["packets"]))
        return found


def _witness_chain(link: str) -> str:
    """Counts what every table before it has let in."""
    hook = f'type filter hook ingress device "{link}" priority 100; policy accept;'
    return f'chain {link} {{ {hook} counter accept comment "in"; }}\n'


def _verdict(expressions: list[Any]) -> str:
    last = expressions[-1]
    name = next(iter(last))
    return "accept" if name in {"accept", "redirect"} else name


def _table_name(layer: str) -> str:
    return "inet tails_profiles" if layer == INET else f"netdev tails_profiles_{layer}"


def _pair(one: str, name: str, mac: str, two: str, peer: str, peer_mac: str) -> None:
    run("ip", "link", "add", name, "netns", one, "address", mac, "type", "veth",
        "peer", "name", peer, "netns", two, "address", peer_mac)  # fmt: skip


def _quiet_up(namespace: str, link: str) -> None:
    """Up, and the kernel says nothing on it by itself."""
    with inside(namespace):
        Path(f"/proc/sys/net/ipv6/conf/{link}/disable_ipv6").write_text("1", encoding="ascii")
    run("ip", "link", "set", link, "up", namespace=namespace)


def _queues_pass(namespace: str) -> bool:
    """Whether no link with a carrier still drops what it is to send.

    The kernel's link watch gives a device its queue and its operational state some time after the
    carrier, up to a second where many links of the machine change (net/core/link_watch.c).
    """
    return not any(
        link["qdisc"] == "noop" or link["operstate"] not in {"UP", "UNKNOWN"}
        for link in json.loads(run("ip", "-json", "link", "show", namespace=namespace))
        if {"UP", "LOWER_UP"} <= set(link["flags"])
    )


def _ask_once(namespace: str, link: str) -> None:
    """Neighbours are asked for when they are needed, and never again.

    No frame that one probe has brought about comes in the middle of the next.
    """
    with inside(namespace):
        for key, value in (("delay_first_probe_time", "3600"), ("mcast_solicit", "1")):
            Path(f"/proc/sys/net/ipv4/neigh/{link}/{key}").write_text(value, encoding="ascii")


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Ask until it holds; fails with ``what`` when it never does."""
    poller = select.poll()
    for _ in range(int(patience() * 100)):
        if true():
            return
        poller.poll(10)
    raise AssertionError(f"never: {what}")
