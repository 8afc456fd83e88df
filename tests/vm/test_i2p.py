# SPDX-License-Identifier: GPL-3.0-or-later
"""Three guests from one image: a site of I2P is reached from app-guest through i2p-guest alone.

One launch with ``--i2p --reseed`` serves every test here, in this order. What takes rules away has
targets of its own, so that the captures, which run from power-on to power-off, are judged whole at
the end.
"""

import base64
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

import pytest
from scapy.all import ARP, IP, TCP, UDP, Ether, Packet

from tails_profiles import constants as c
from tails_profiles.profile import Profile
from tails_profiles.rule_files import file_name
from tests.lab.i2pnet import NAME, PAGE, PORT, ROUTERS, I2pNetwork
from tests.lab.tornet import AUTHORITIES, RELAYS, WEB
from tests.lab.tornet import PAGE as TOR_PAGE
from tests.vm import fixtures
from tests.vm.fixtures import kept_when_failed, prepared_guests
from tests.vm.guests import Guests
from tests.vm.machine import Machine

# Three guests need eight minutes on two busy cores.
pytestmark = [pytest.mark.vm, pytest.mark.slow]

EVIDENCE = fixtures.EVIDENCE / "i2p"
CURL = "curl --silent --show-error --max-time 60"
HTTP, SOCKS = "--proxy http://127.0.0.1:4444", "--socks5-hostname 127.0.0.1:4447"
TOR = "--socks5-hostname 127.0.0.1:9050"
#: As the user of the desktop, in the namespace of I2P's browser.
BROWSER = "runuser -u live -- /usr/lib/tails-profiles/i2p-namespace"
GATEWAY = str(c.I2P_INNER.ip)
#: A router's other interfaces (console, SAM, BOB, I2CP, I2PControl, Java's console), and others.
NEVER = (7070, 7656, 2827, 7654, 7650, 7657, 22, 53, 4445, 6668, 8998)
#: What blocked probes aim at, and what their anti-tests do, which must be seen.
BLOCKED, FREED = "198.51.100.7", "203.0.113.99"
BLOCKED_PORT, FREED_PORT = 9050, 9062


@pytest.fixture(scope="module")
def guests() -> Iterator[Guests]:
    with prepared_guests(EVIDENCE, i2p=True) as made:
        made.start()
        made.app.wait_for_target("tails-profiles-app-guest.target", 600)
        yield made


@pytest.fixture(autouse=True)
def evidence(request: pytest.FixtureRequest, guests: Guests) -> Iterator[None]:
    with kept_when_failed(request, guests.keep_evidence, EVIDENCE / request.node.name):
        yield


@pytest.fixture(scope="module")
def network(guests: Guests) -> I2pNetwork:
    assert guests.world.i2p is not None
    return guests.world.i2p


def python(machine: Machine, code: str, *words: str, who: str = "root") -> tuple[int, str]:
    """A few lines of Python in a guest."""
    text = base64.b64encode(code.encode()).decode()
    return machine.execute(
        f"echo {text} | base64 -d >/tmp/probe.py; runuser -u {who} -- /usr/bin/python3 -I"
        f" /tmp/probe.py {shlex.join(words)}"
    )


@contextmanager
def without_rules(machine: Machine, profile: Profile, links: Sequence[str]) -> Iterator[None]:
    """None of our tables in a guest; afterwards all of them, as they were at its boot."""
    tables = [None, *links]
    for link in tables:
        machine.succeed(
            f"nft delete table {f'netdev tails_profiles_{link}' if link else 'inet tails_profiles'}"
        )
    try:
        yield
    finally:
        variant = "tcp" if profile is Profile.TOR_GUEST else ""
        for link in tables:
            name = file_name(profile, variant, link)
            machine.succeed(f"nft -f /usr/lib/tails-profiles/rulesets/{name}")


@contextmanager
def everything_open(guests: Guests) -> Iterator[None]:
    """No rule between app-guest and i2p-guest."""
    with (
        without_rules(guests.i2p, Profile.I2P_GUEST, ("inner", "uplink")),
        without_rules(guests.app, Profile.APP_GUEST, ("tor", "i2p")),
    ):
        yield


def fetched(machine: Machine, url: str, options: str, prefix: str = "") -> str:
    """What curl gets, in words of its own where it gets nothing."""
    return machine.execute(f"{prefix} {CURL} {options} {url}")[1]


# ---- what must work


def test_host_hears_of_each_step_until_a_client_tunnel_stands(guests: Guests) -> None:
    words = [words for words in guests.said if words.startswith("i2p-guest: ")]
    assert words[:3] == ["i2p-guest: starting", "i2p-guest: selected", "i2p-guest: firewall"]
    assert words[-1] == "i2p-guest: ready"
    assert any(each.startswith("i2p-guest: i2p ") for each in words)


@pytest.mark.parametrize("options", [HTTP, SOCKS], ids=["http", "socks"])
def test_site_comes_through_both_local_ports(
    options: str, guests: Guests, network: I2pNetwork
) -> None:
    # A proxy's first page may need tunnels that are not yet built.
    address = f"http://{network.site}/"
    assert guests.app.wait_until_succeeds(f"{CURL} --fail {options} {address}") == PAGE.strip()
    assert fetched(guests.app, f"http://{NAME}/", options) == PAGE.strip()


def test_site_comes_by_its_name_in_the_browsers_namespace(guests: Guests) -> None:
    assert fetched(guests.app, f"http://{NAME}/", HTTP, BROWSER) == PAGE.strip()


@pytest.mark.parametrize("name", ["browser", "identity"])
def test_menu_has_it_where_a_user_would_click(name: str, guests: Guests) -> None:
    entry = f"/usr/local/share/applications/tails-profiles-i2p-{name}.desktop"
    program = guests.app.succeed(f"sed -n 's/^Exec=//p' {entry}").split()[0]
    guests.app.succeed(f"test -x {program}")
    # What the panel's menu shows: the list that it has libmenu-cache make.
    listed = f"grep -qx -- '-{PurePosixPath(entry).name}' /home/live/.cache/menus/*"
    guests.app.wait_until_succeeds(listed, 300)
    guests.app.fail(listed.replace(f"i2p-{name}", "i2p-nothing"))


OUTSIDE = {
    "clearnet": (f"http://{WEB}/", "--noproxy '*'"),
    "clearnet-by-tor": (f"http://{WEB}/", TOR),
    "tor-guest": (f"http://{c.TOR_INNER.ip}:9050/", "--noproxy '*'"),
    "i2p-guest-itself": (f"http://{GATEWAY}:4444/", "--noproxy '*'"),
}


@pytest.mark.parametrize("target", OUTSIDE)
def test_browsers_namespace_reaches_nothing_else(target: str, guests: Guests) -> None:
    """The anti-test: the same call beside the namespace gets there, but to the internet."""
    url, options = OUTSIDE[target]
    call = f"{CURL} --max-time 10 -o /dev/null {options} {url}"
    assert guests.app.execute(f"{BROWSER} {call}")[0] == 7  # cannot connect
    if target == "clearnet":
        # Where no rule and no namespace is in the way it is tor-guest that stops it.
        guests.app.fail(call)
    else:
        status = guests.app.execute(call)[0]
        # Tor's SOCKS port hangs up on HTTP, which is an answer (52), or says what it is (0).
        assert status in ({0} if target != "tor-guest" else {0, 1, 52, 56}), status


@pytest.mark.parametrize(
    "url", [f"http://{NAME}/", f"http://{GATEWAY}:4444/", "http://127.0.0.1:4444/"]
)
def test_tor_side_does_not_reach_i2p(url: str, guests: Guests) -> None:
    """The anti-tests: Tor fetches its own page, and I2P's proxy answers at both addresses."""
    guests.app.fail(f"{CURL} --fail {TOR} {url}")
    assert fetched(guests.app, f"http://{WEB}/", TOR) == TOR_PAGE.strip()
    for address in ("127.0.0.1", GATEWAY):
        assert (
            fetched(guests.app, f"http://{NAME}/", f"--proxy http://{address}:4444") == PAGE.strip()
        )


RENEW = """
import socket
with socket.create_connection(("127.0.0.1", 4448), 60) as made:
    print(made.makefile().readline().strip())
"""


def test_state_is_on_i2p_guests_first_screen_and_in_its_status(guests: Guests) -> None:
    guests.i2p.wait_until_succeeds("grep -aq '5 routers known, some answer' /dev/vcs1")
    assert "5 routers known" in guests.i2p.succeed("tails-profiles status")
    guests.i2p.fail("pgrep Xorg")


def test_image_s_own_router_never_ran(guests: Guests) -> None:
    # Its first thread has another name.
    assert guests.i2p.succeed("pgrep -fc ^/usr/bin/i2pd") == "1"
    for unit, times in (("i2pd", "0"), ("tails-profiles-i2p", "1")):
        said = f"journalctl -b --no-pager -u {unit} -o cat"
        assert guests.i2p.succeed(f"{said} | grep -c 'i2pd v.*starting' || true") == times
    # Nothing here asks for names: the first routers came with the settings disk.
    process = guests.i2p.succeed("systemctl show -P MainPID tails-profiles-i2p.service")
    resolv = guests.i2p.succeed(f"cat /proc/{process}/root/etc/resolv.conf")
    assert "nameserver" not in resolv


# After what the router has said since its first start: this starts it anew.
def test_new_destination_on_request(guests: Guests, network: I2pNetwork) -> None:
    """What a site sees of who comes. The anti-test: without the request it is the same."""

    def visit() -> str:
        guests.app.wait_until_succeeds(f"{CURL} --fail {HTTP} http://{network.site}/")
        return network.visitors()[-1]

    first = visit()
    assert first.endswith(".b32.i2p")
    assert visit() == first
    assert python(guests.app, RENEW, who="live") == (0, "renewed")
    assert python(guests.app, RENEW, who="live") == (0, "too soon")
    second = visit()
    assert second != first
    assert visit() == second


# ---- what must not


CALL = """
import socket, sys
address, *ports = sys.argv[1:]
print(*(port for port in ports if not socket.socket().connect_ex((address, int(port)))))
"""
TIMED = CALL.replace("import socket, sys\n", "import socket, sys\nsocket.setdefaulttimeout(2)\n")
LISTEN = """
import select, socket, sys
held = [socket.create_server(("", int(port))) for port in sys.argv[1:]]
open("/run/i2pd/listens", "w").close()
while True:
    for each in select.select(held, [], [])[0]:
        each.accept()
        open("/run/i2pd/called", "w").close()
"""


@contextmanager
def listeners(machine: Machine, ports: Sequence[int]) -> Iterator[None]:
    """Services of the router's account in i2p-guest, on every address."""
    text = base64.b64encode(LISTEN.encode()).decode()
    machine.succeed(
        f"echo {text} | base64 -d >/run/listen.py; rm -f /run/i2pd/listens /run/i2pd/called;"
        " setsid setpriv --reuid=i2pd --regid=i2pd --clear-groups --inh-caps=+net_bind_service"
        " --ambient-caps=+net_bind_service python3 /run/listen.py"
        f" {' '.join(map(str, ports))} >/dev/null 2>&1 & echo $! >/run/listen.pid"
    )
    machine.wait_until_succeeds("test -e /run/i2pd/listens", 60)
    try:
        yield
    finally:
        machine.succeed("kill $(cat /run/listen.pid)")


def test_app_guest_reaches_the_proxies_and_no_other_port(guests: Guests) -> None:
    """P33 and C8 (one of them is SAM), without rules in app-guest; the anti-test: anywhere."""
    ports = tuple(map(str, (*c.I2P_PORTS, *NEVER)))
    with listeners(guests.i2p, NEVER):
        with without_rules(guests.app, Profile.APP_GUEST, ("tor", "i2p")):
            reached = python(guests.app, TIMED, GATEWAY, *ports)[1].split()
        assert reached == [str(port) for port in c.I2P_PORTS]
        with everything_open(guests):
            assert python(guests.app, TIMED, GATEWAY, *ports)[1].split() == list(ports)


#: P1 to P10, in short: TCP, UDP, ICMP and another protocol by the gateway's MAC as next hop.
HOP = """
import socket, struct, sys
source, target = map(socket.inet_aton, sys.argv[1:3])
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def packet(protocol, payload):
    def header(check):
        return struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, check,
                           source, target)
    return header(checksum(header(0))) + payload
def tcp(port):
    def segment(check):
        return struct.pack(">HHIIBBHHH", 40000, port, 1, 0, 0x50, 2, 1024, check, 0)
    pseudo = source + target + struct.pack(">BBH", 0, 6, 20)
    return segment(checksum(pseudo + segment(0)))
def udp(port):
    return struct.pack(">HHHH", 40000, port, 12, 0) + b"HOP!"
echo = struct.pack(">BBHHH", 8, 0, 0xf7fd, 1, 1)
packets = [packet(6, tcp(port)) for port in (22, 25, 80, 443, 853, 9001, 65535)]
packets += [packet(17, udp(port)) for port in (53, 123, 443, 3478)]
packets += [packet(1, echo), packet(47, bytes(8))]
frame = bytes.fromhex("005544332212" "001122334456" "0800")
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as made:
    made.bind(("i2p", 0))
    for each in packets:
        made.send(frame + each)
print(len(packets))
"""


def uplink_of(machine: Machine, mac: str) -> list[Packet]:
    """What a gateway has sent so far."""
    return [frame for frame in machine.frames_so_far("uplink") if frame[Ether].src == mac]


def to(frames: Sequence[Packet], address: str) -> list[Packet]:
    return [frame for frame in frames if IP in frame and frame[IP].dst == address]


def test_i2p_guest_is_no_next_hop(guests: Guests) -> None:
    """P46. The anti-test takes the tables away and switches forwarding on: then all arrive."""
    source = str(c.APP_I2P.ip)
    with without_rules(guests.app, Profile.APP_GUEST, ("tor", "i2p")):
        count = int(python(guests.app, HOP, source, BLOCKED)[1])
    with everything_open(guests):
        guests.i2p.succeed("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0")
        assert python(guests.app, HOP, source, FREED)[1] == str(count)

        def arrived() -> bool:
            return len(to(uplink_of(guests.i2p, c.I2P_UPLINK_MAC), FREED)) >= count

        guests.i2p.wait_until("the packets to leave", arrived, 60)
        guests.i2p.succeed("sysctl -qw net.ipv4.ip_forward=0")
    # What was sent later has long arrived.
    assert to(uplink_of(guests.i2p, c.I2P_UPLINK_MAC), BLOCKED) == []


@dataclass(frozen=True)
class Cross:
    """One gateway, its account, and what the other has: P47."""

    profile: Profile
    account: str
    mac: str
    others: tuple[str, str]


CROSSES = {
    "i2p-to-tor": Cross(Profile.I2P_GUEST, c.I2P_USER, c.I2P_UPLINK_MAC, ("10.1.2.1", "10.1.2.3")),
    "tor-to-i2p": Cross(Profile.TOR_GUEST, c.TOR_USER, c.TOR_UPLINK_MAC, ("10.1.3.1", "10.1.3.3")),
}


@pytest.mark.parametrize("name", CROSSES)
def test_gateways_do_not_reach_each_other(name: str, guests: Guests) -> None:
    """P47: as root and as the gateway's account. The anti-test: without rules calls leave."""
    cross = CROSSES[name]
    machine = guests.machines[cross.profile]
    for who in ("root", cross.account):
        for address in cross.others:
            assert python(machine, TIMED, address, str(BLOCKED_PORT), who=who)[1] == ""
    with without_rules(machine, cross.profile, ("inner", "uplink")):
        for address in cross.others:
            python(machine, TIMED, address, str(FREED_PORT), who=cross.account)

        def left() -> bool:
            frames = uplink_of(machine, cross.mac)
            return all(to(frames, address) for address in cross.others)

        machine.wait_until("calls to leave", left, 60)
    for frame in uplink_of(machine, cross.mac):
        assert TCP not in frame or frame[TCP].dport != BLOCKED_PORT, frame.summary()


P55 = (
    "http://127.0.0.1:7657/", "http://localhost:7657/", f"http://{GATEWAY}:7657/",
    f"http://{GATEWAY}:4444/", "http://10.0.2.2/", f"http://{BLOCKED}/", "http://example.org/",
    "http://proxy.i2p:7657/", "http://console.i2p:7657/",
)  # fmt: skip


def test_proxies_lead_nowhere_but_into_i2p(guests: Guests) -> None:
    """P55, by HTTP, CONNECT and SOCKS. The anti-test: a call of its own guest is heard."""
    status = "-o /dev/null --max-time 20 --write-out '%{http_code}'"
    with listeners(guests.i2p, (7657,)):
        for url in P55:
            for options in (HTTP, f"--proxytunnel {HTTP}", SOCKS):
                code = fetched(guests.app, url, f"{status} {options}").splitlines()[-1]
                assert not code.endswith("200"), (url, options)
        guests.i2p.fail("test -e /run/i2pd/called")
        assert python(guests.i2p, CALL, "127.0.0.1", "7657", who=c.I2P_USER) == (0, "7657")
        guests.i2p.wait_until_succeeds("test -e /run/i2pd/called", 60)


def test_router_that_is_killed_comes_back_and_nothing_else_leaves(guests: Guests) -> None:
    killed = guests.i2p.succeed("pgrep -f ^/usr/bin/i2pd")
    guests.i2p.succeed(f"kill -KILL {killed}")
    guests.i2p.wait_until_succeeds(f"pgrep -f ^/usr/bin/i2pd | grep -vx {killed}")
    answer = guests.app.wait_until_succeeds(f"{CURL} --fail {HTTP} http://{NAME}/", 600)
    assert answer == PAGE.strip()


def test_without_the_router_the_site_does_not_come(guests: Guests) -> None:
    guests.i2p.succeed("systemctl stop tails-profiles-i2p")
    guests.app.fail(f"{CURL} --fail --max-time 10 {HTTP} http://{NAME}/")


# ---- what was on the wires, from power-on to power-off


def test_all_answer_the_power_button(guests: Guests) -> None:
    guests.switch_off()


def test_uplink_carried_nothing_but_i2p(guests: Guests) -> None:
    freed = {FREED, *CROSSES["i2p-to-tor"].others}
    own = [frame for frame in guests.i2p.frames("uplink") if frame[Ether].src == c.I2P_UPLINK_MAC]
    assert sum(1 for frame in own if IP in frame and frame[IP].dst in ROUTERS) > 100
    for frame in own:
        if ARP in frame:
            assert (frame[ARP].psrc, frame[ARP].pdst) == ("10.0.2.15", "10.0.2.2")
        elif frame[IP].dst not in freed:
            assert frame[IP].src == "10.0.2.15", frame.summary()
            assert frame[IP].dst in ROUTERS, frame.summary()
            layer = frame[TCP] if TCP in frame else frame[UDP]
            assert layer.dport == PORT, frame.summary()


def test_tor_guest_s_uplink_knew_nothing_of_i2p(guests: Guests) -> None:
    own = [frame for frame in guests.tor.frames("uplink") if frame[Ether].src == c.TOR_UPLINK_MAC]
    freed = set(CROSSES["tor-to-i2p"].others)
    for frame in own:
        if IP in frame and frame[IP].dst not in freed:
            assert frame[IP].dst in {*AUTHORITIES, *RELAYS}, frame.summary()


def test_inner_links_are_disjoint(guests: Guests) -> None:
    """No MAC, no address and no frame of one is on the other, at either end."""
    tor_side = {c.TOR_MAC, c.APP_TOR_MAC}
    i2p_side = {c.I2P_MAC, c.APP_I2P_MAC}
    seen: dict[str, set[bytes]] = {}
    for machine, link, macs in (
        (guests.tor, "inner", tor_side),
        (guests.app, "tor", tor_side),
        (guests.i2p, "inner", i2p_side),
        (guests.app, "i2p", i2p_side),
    ):
        frames = machine.frames(link)
        assert frames
        assert {frame[Ether].src for frame in frames} <= macs, (machine.name, link)
        addresses = {frame[IP].src for frame in frames if IP in frame}
        network = c.TOR_INNER.network if macs is tor_side else c.I2P_INNER.network
        assert all(address.startswith(str(network)[:7]) for address in addresses), addresses
        seen.setdefault("tor" if macs is tor_side else "i2p", set()).update(map(bytes, frames))
    assert not seen["tor"] & seen["i2p"]


def test_stop_leaves_nothing(guests: Guests) -> None:
    guests.stop()
    assert not guests.state.exists()
