# SPDX-License-Identifier: GPL-3.0-or-later
"""app-guest reaches I2P through i2p-guest's router, and nothing else through it."""

import json
import os
import re
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.all import ARP, IP, TCP, UDP, Ether

from tails_profiles import constants as c
from tails_profiles.i2pd import SILENCE, Heard, hear
from tails_profiles.profile import Profile
from tails_profiles.ruleset import render_named
from tails_profiles.status import I2pStatus
from tests.lab.i2pnet import (
    GARBAGE,
    NAME,
    OTHER_PAGE,
    PAGE,
    PORT,
    ROUTERS,
    TOP,
    Guests,
    I2pNetwork,
    packet_socket,
)
from tests.lab.tornet import run, wait_for

# The network and the router's tunnels need half a minute.
pytestmark = [pytest.mark.lab, pytest.mark.broad]

ROUTERS_USER = ("setpriv", "--reuid=i2pd", "--regid=i2pd", "--clear-groups")
SOCKS = ("--socks5-hostname", f"{c.I2P_INNER.ip}:{c.I2P_SOCKS_PORT}")
#: Ports of a router's other interfaces, as i2pd has them by default (console, SAM, BOB, I2CP,
#: I2PControl), and Java I2P's console.
INTERFACES = (7070, 7656, 2827, 7654, 7650, 7657)


@pytest.fixture(scope="module")
def guests() -> Iterator[Guests]:
    # Not pytest's directory: the router's account must be able to enter it.
    directory = Path(tempfile.mkdtemp(prefix="tp-i2p-", dir="/dev/shm"))
    directory.chmod(0o755)
    prefix = f"tpi{os.getpid()}"
    network = I2pNetwork(directory / "network", prefix)
    made = None
    try:
        network.start()
        made = Guests(directory, network, prefix)
        made.start_router()
        wait_until_it_comes(made)
        yield made
    finally:
        if made:
            made.close()
        network.close()
        shutil.rmtree(directory, ignore_errors=True)


#: Lists of names that are not there, with what i2pd says of them; the last one is.
LISTS = {
    "clearnet-address": ("http://198.51.100.7/hosts.txt", "Can't resolve 198.51.100.7"),
    "clearnet-name": ("http://example.org/hosts.txt", "Can't resolve example.org"),
    "no-http": ("https://example.org/hosts.txt", "Can't resolve example.org"),
    "nobody's": (f"http://{'a2' * 26}.b32.i2p/", "LeaseSet for address"),
    "missing": ("http://{site}/nothing", "Can't get updates"),
    "garbage": (f"http://{{site}}{GARBAGE}", "http response from"),
    "page": (f"http://{{site}}{OTHER_PAGE}", "no list of names"),
    "list": ("http://{site}/hosts.txt", None),
}


class Askers:
    """Routers of another i2p-guest, their logs, and what left: i2pd asks after three minutes."""

    def __init__(self, guests: Guests) -> None:
        self.guests = Guests(
            guests.root.with_name("askers"), guests.network, f"tpj{os.getpid()}", 1
        )
        self._logs = {
            name: self.guests.start_beside(name, url.format(site=guests.network.site))
            for name, (url, _) in LISTS.items()
        }
        self._frames: list[bytes] = []

    def heard(self, name: str) -> Heard:
        """What a router has said."""
        return hear(SILENCE, self._logs[name].read_text(errors="replace").splitlines())

    def called(self) -> set[str]:
        """Whom any of them has sent anything to."""
        self._frames += self.guests.frames()
        frames = map(Ether, self._frames)
        return {frame[IP].dst if IP in frame else frame[ARP].pdst for frame in frames}


@pytest.fixture(scope="module")
def askers(guests: Guests) -> Iterator[Askers]:
    made = Askers(guests)
    yield made
    made.guests.close()


@pytest.fixture(scope="module", autouse=True)
def _early(askers: object) -> None:
    """They wait while everything else is tried."""


def wait_until_it_comes(guests: Guests) -> None:
    url = f"http://{guests.network.site}/"
    wait_for("the site", lambda: PAGE in guests.fetch(url).stdout, 180)


def test_site_comes_by_its_name(guests: Guests) -> None:
    assert guests.fetch(f"http://{NAME}/").stdout == PAGE + "\n200"
    assert guests.fetch("http://unknown.i2p/").stdout.rsplit("\n", 1)[1] != "200"


def seen(guests: Guests, *options: str) -> str:
    """The destination that the site sees of a visitor, once it comes."""
    url = f"http://{guests.network.site}/"
    wait_for("the site", lambda: PAGE in guests.fetch(url, *options).stdout, 180)
    return guests.network.visitors()[-1]


def test_sites_see_two_destinations_and_new_ones_only_after_a_request(guests: Guests) -> None:
    """What ends the router is in tests/unit/test_renew.py and tests/sabotage/test_gateways.py."""
    first = [seen(guests), seen(guests, *SOCKS)]
    assert all(each.endswith(".b32.i2p") for each in first)
    assert first[0] != first[1]
    assert [seen(guests), seen(guests, *SOCKS)] == first
    guests.renew()
    second = [seen(guests), seen(guests, *SOCKS)]
    assert len({*first, *second}) == 4
    assert [seen(guests), seen(guests, *SOCKS)] == second


def test_site_comes_through_both_proxies(guests: Guests) -> None:
    url = f"http://{guests.network.site}/"
    assert guests.fetch(url).stdout == PAGE + "\n200"
    assert guests.fetch(url, *SOCKS).stdout == PAGE + "\n200"


def test_uplink_carries_nothing_but_the_routers_own_traffic(guests: Guests) -> None:
    assert guests.fetch(f"http://{guests.network.site}/").stdout.startswith(PAGE)
    frames = [Ether(frame) for frame in guests.frames()]
    assert any(TCP in frame or UDP in frame for frame in frames)
    for frame in frames:
        assert frame.src == c.I2P_UPLINK_MAC
        if ARP in frame:
            assert (frame[ARP].psrc, frame[ARP].pdst) == ("10.0.2.15", "10.0.2.2")
            continue
        assert frame[IP].src == "10.0.2.15", frame.summary()
        assert frame[IP].dst in ROUTERS, frame.summary()
        layer = frame[TCP] if TCP in frame else frame[UDP]
        assert layer.dport == PORT, frame.summary()


def test_router_listens_on_the_proxies_alone(guests: Guests) -> None:
    listed = run("ip", "netns", "exec", guests.gateway, "ss", "-Hnltp")
    assert {line.split()[3] for line in listed.splitlines()} == {
        f"{c.I2P_INNER.ip}:{port}" for port in c.I2P_PROXY_PORTS
    }


@pytest.mark.parametrize("port", [*INTERFACES, 22])
def test_app_guest_reaches_no_other_port(port: int, guests: Guests) -> None:
    """P33, C8. The anti-test takes every table away, and the listener answers."""
    listener = start_listener(guests, port)
    call = f"import socket; socket.create_connection(('{c.I2P_INNER.ip}', {port}), 1)"
    tables: tuple[tuple[str, Profile, str | None], ...] = (
        (guests.gateway, Profile.I2P_GUEST, None),
        (guests.gateway, Profile.I2P_GUEST, "inner"),
        (guests.app, Profile.APP_GUEST, None),
        (guests.app, Profile.APP_GUEST, "i2p"),
    )
    try:
        assert guests.execute(guests.app, "/usr/bin/python3", "-c", call).returncode != 0
        for name, _, link in tables:
            table = f"netdev tails_profiles_{link}" if link else "inet tails_profiles"
            run("ip", "netns", "exec", name, "nft", "delete", "table", *table.split())
        try:
            assert guests.execute(guests.app, "/usr/bin/python3", "-c", call).returncode == 0
        finally:
            for name, profile, link in tables:
                text = render_named(profile, "", link)
                run("ip", "netns", "exec", name, "nft", "-f", "-", stdin=text)
    finally:
        listener.kill()
        listener.wait()


LISTENER = """
import socket, sys
listener = socket.create_server(("", int(sys.argv[1])))
print("listens", flush=True)
while True:
    listener.accept()
    print("called", flush=True)
"""


def start_listener(guests: Guests, port: int) -> subprocess.Popen[bytes]:
    """A service in i2p-guest on every address, where it may the router's own; says when called."""
    who = ROUTERS_USER if port >= 1024 else ()
    made = subprocess.Popen(
        ["ip", "netns", "exec", guests.gateway, *who, "/usr/bin/python3", "-c", LISTENER,
         str(port)],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert made.stdout
    assert made.stdout.readline() == b"listens\n"
    return made


P55 = (
    "http://127.0.0.1:7657/",
    "http://localhost:7657/",
    "http://10.1.3.1:7657/",
    "http://10.1.3.1:4444/",
    "http://[::1]:7657/",
    "http://10.0.2.2/",
    "http://198.51.100.7/",
    "http://example.org/",
    "http://127.0.0.1.i2p:7657/",
)


@pytest.mark.parametrize("url", P55)
@pytest.mark.parametrize("how", ["http", "connect", "socks"])
def test_proxy_leads_nowhere_but_into_i2p(how: str, url: str, guests: Guests) -> None:
    """P55: a service on this guest's loopback, the guest itself, its router, the internet."""
    listener = start_listener(guests, 7657)
    assert listener.stdout
    list(guests.frames())
    try:
        options = {
            "http": (),
            "connect": ("--proxytunnel", "--proxy", f"http://{c.I2P_INNER.ip}:{c.I2P_HTTP_PORT}"),
            "socks": SOCKS,
        }[how]
        done = guests.fetch(url, *options)
        assert done.stdout.rsplit("\n", 1)[1] != "200"
        assert done.returncode != 0 or not done.stdout.endswith("\n200")
        for frame in map(Ether, guests.frames()):
            assert ARP in frame or frame[IP].dst in ROUTERS, frame.summary()
        # The first call that it hears is the test's own, from where it is.
        call = "import socket; s = socket.create_connection(('127.0.0.1', 7657), 2)"
        assert not select.select([listener.stdout], [], [], 0)[0], "the service was called"
        run("ip", "netns", "exec", guests.gateway, *ROUTERS_USER, "/usr/bin/python3", "-c", call)
        assert listener.stdout.readline() == b"called\n"
    finally:
        listener.kill()
        listener.wait()


def test_link_plants_no_name(guests: Guests) -> None:
    """Sites could otherwise tell by a name of their making who comes again."""
    destination = guests.network.names.partition("=")[2].strip()
    for query in ("", "&update=true"):
        link = f"http://planted.i2p/?i2paddresshelper={destination}{query}"
        assert "addresshelper is not supported" in guests.fetch(link).stdout
        assert guests.fetch("http://planted.i2p/").stdout.rsplit("\n", 1)[1] != "200"
    # The same destination by the name that it has.
    assert guests.fetch(f"http://{NAME}/").stdout.startswith(PAGE)


def test_only_the_routers_user_leaves_and_never_to_a_private_range(guests: Guests) -> None:
    code = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(b'PROBE', (sys.argv[1], 5000))"
    )
    outside = packet_socket(guests.nat, "lan")

    def leaves(address: str, *who: str) -> bool:
        guests.execute(guests.gateway, *who, "/usr/bin/python3", "-c", code, address)
        # What comes after it on the same link was sent later.
        guests.execute(guests.gateway, *ROUTERS_USER, "/usr/bin/python3", "-c",
                       code.replace("PROBE", "CANARY"), ROUTERS[0])  # fmt: skip
        outside.settimeout(10)
        seen = False
        while b"CANARY" not in (frame := outside.recv(65536)):
            seen = seen or b"PROBE" in frame
        return seen

    try:
        assert leaves(ROUTERS[0], *ROUTERS_USER)
        assert not leaves(ROUTERS[0])
        assert not leaves("10.0.2.2", *ROUTERS_USER)
        assert not leaves("192.168.1.1", *ROUTERS_USER)
    finally:
        outside.close()


def test_state_counts_what_the_router_knows_and_who_answers(guests: Guests) -> None:
    code = (
        "import sys, json, dataclasses; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom tails_profiles.paths import Paths\n"
        "from tails_profiles.i2pd import SILENCE\n"
        "from tails_profiles.system.i2p import read_state\n"
        "state = read_state(Paths(Path(sys.argv[2])), SILENCE)\n"
        "print(json.dumps(dataclasses.asdict(state)))\n"
    )

    def state() -> dict[str, Any]:
        done = guests.execute(
            guests.gateway, "/usr/bin/python3", "-c", code, str(TOP), str(guests.root)
        )
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    wait_for("stored routers", lambda: state()["known"] >= len(ROUTERS), 90)
    found = state()
    assert found["listening"]
    # It may have heard of those of the other i2p-guest.
    assert len(ROUTERS) <= found["known"] <= len(ROUTERS) + len(LISTS)
    # By NTCP2 or by SSU2: a router chooses. Since a page has come, tunnels stand.
    status = I2pStatus(**{**found, "heard": hear(SILENCE, guests.log.splitlines())})
    assert status.is_answered
    assert status.percent == 100


def test_without_the_router_no_page_comes(guests: Guests) -> None:
    """From here on tests end the router, and some start it another way."""
    url = f"http://{guests.network.site}/"
    assert guests.fetch(url).stdout.startswith(PAGE)
    guests.stop_router()
    assert guests.fetch(url).returncode != 0


@pytest.mark.parametrize(
    "bundle", [b"I2Psu3" + bytes(400), b"PK\3\4" + bytes(400)], ids=["su3", "zip"]
)
def test_bundle_that_is_none_leaves_the_router_alone_and_it_says_so(
    bundle: bytes, guests: Guests
) -> None:
    guests.stop_router()
    list(guests.frames())
    guests.start_router(bundle)
    wait_for("its refusal", lambda: hear(SILENCE, guests.log.splitlines()).refused is not None, 60)
    # The proxies come later: by then it would have looked elsewhere.
    wait_for("the proxies", lambda: "Starting SOCKS Proxy" in guests.log, 60)
    assert all(ARP in Ether(frame) for frame in guests.frames())


def test_names_of_a_wrong_subscription_lead_nowhere_and_the_rest_works(guests: Guests) -> None:
    guests.stop_router()
    guests.start_router(names=f"{NAME}=no destination\n<html>\n\0\xff=\n")
    wait_until_it_comes(guests)
    answer = guests.fetch(f"http://{NAME}/").stdout
    assert answer.rsplit("\n", 1)[1] != "200"
    for frame in map(Ether, guests.frames()):
        assert ARP in frame or frame[IP].dst in ROUTERS, frame.summary()


def test_with_i2pds_own_keys_both_proxies_have_one_destination(guests: Guests) -> None:
    """The anti-test of two destinations."""

    def without_keys(text: str) -> str:
        return "".join(
            line for line in text.splitlines(keepends=True) if not line.startswith("keys = ")
        )

    guests.stop_router()
    guests.start_router(change=without_keys)
    assert seen(guests) == seen(guests, *SOCKS)


@pytest.mark.parametrize("name", LISTS)
def test_wrong_list_of_names_is_told_and_no_other_network_asked(name: str, askers: Askers) -> None:
    """Even if no configuration of ours takes it. The anti-test, the last, is a list that comes."""
    expected = LISTS[name][1]
    # On a busy machine the site is not found at first: i2pd asks again five minutes later, and ten.
    note = expected or "1 names known"
    wait_for(f"word of {name}", lambda: note in (askers.heard(name).names_note or ""), 1200)
    assert (askers.heard(name).names is None) == (expected is not None)
    # Routers were called, and nobody else but who hands on.
    assert askers.called() & set(ROUTERS)
    assert askers.called() <= {*ROUTERS, str(c.UPLINK_ROUTER)}


def test_screen_shows_what_is_news_and_nothing_that_draws(tmp_path: Path) -> None:
    """The real script and the real sed; journalctl stands in, and its pattern is tried as PCRE."""
    script = TOP / "units/i2p-monitor"
    (pattern,) = re.findall(r"--grep='(.*)'", script.read_text())
    line, made = "07:11:30@355/\x1b[1;31merror\x1b[0m - {}", "bound tunnel 7 has been created"
    shown = [
        "no names, Can't resolve example.org: sites are reached by their .b32.i2p addresses",
        line.format("Addressbook: Can't find domain for \x1b[2J\x1b]0;x\a\xe9.i2p"),
        line.format("Addressbook: Can't find domain for info.i2p"),
        "a" * 5000,
    ]
    hidden = [
        line.format(f"Tunnel: In{made}"),
        line.format(f"I2NP: Out{made}"),
        line.format("Addressbook: Malformed domain: <html>"),
        "07:11:30@355/info - Addressbook: Added new host: a.i2p",
        "07:11:30@355/\x1b[1;36minfo\x1b[0m - NetDb: x",
    ]
    assert [each for each in (*shown, *hidden) if re.match(pattern, each)] == shown
    fake = tmp_path / "journalctl"
    (tmp_path / "words").write_text("\n".join(shown) + "\n")
    fake.write_text(f"#!/bin/sh\ncat {tmp_path}/words\n")
    fake.chmod(0o755)
    text = script.read_text().replace("PATH=/usr/sbin", f"PATH={tmp_path}:/usr/sbin")
    done = subprocess.run(["sh", "-c", text], capture_output=True, check=True)
    lines = done.stdout.decode("ascii").splitlines()
    assert lines[0] == shown[0]
    assert lines[1].endswith("error - Addressbook: Can't find domain for ?[2J?]0;x???.i2p")
    assert lines[3] == "a" * 240 + "..."
    assert not set(done.stdout) & set(range(32)) - {10}
