# SPDX-License-Identifier: GPL-3.0-or-later
"""Gateways of a stock virtual machine: a real boot with nothing but the DMI string."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from scapy.all import ARP, Ether

from tests.lab.dhcp import answer_requests, is_request, reply
from tests.sabotage.boot import FACTOR, I2P_LINKS, LEASE, TOR_LINKS, Boot, Machine
from tests.sabotage.expect import I2P_BUNDLE

pytestmark = [pytest.mark.lab, pytest.mark.boots]

TOP = Path(__file__).parents[2]
TOR = {"bios_vendor": b"tails-profile:tor-guest"}
I2P = {"bios_vendor": b"tails-profile:i2p-guest"}
# The same program with its waits shortened.
IMPATIENT = {
    "etc/systemd/system/tails-profiles-lease.service.d/lab.conf": (
        "[Service]\nExecStart=\nExecStart=/usr/bin/python3 -I -c 'from tails_profiles import dhcp,"
        ' lease; lease.TRIES = lease.PAUSE = 1; lease.RETRY = 0.2; dhcp.main(["keep"])\'\n'
    )
}


@contextlib.contextmanager
def server(answer: Callable[[Any], Sequence[bytes]]) -> Iterator[None]:
    """Answer DHCP outside of the machine's uplink."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.bind(("out-eth0", 0))
    answer_requests(sock, answer)
    try:
        yield
    finally:
        sock.close()


def wait_until(boot: Boot, condition: str) -> None:
    deadline = time.monotonic() + 30 * FACTOR
    while boot.execute(condition)[0] != 0:
        assert time.monotonic() < deadline, f"{condition}\n{boot.journal()}"
        time.sleep(0.1)


def wait_until_said(boot: Boot, terminal: str, words: str) -> None:
    deadline = time.monotonic() + 30 * FACTOR
    while words not in boot.said(terminal):
        assert time.monotonic() < deadline, f"{boot.said(terminal)!r}\n{boot.journal()}"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("dmi", "links"),
    [
        pytest.param(TOR, TOR_LINKS, id="tor-guest"),
        pytest.param(I2P, I2P_LINKS, id="i2p-guest", marks=pytest.mark.broad),
    ],
)
def test_gateway_without_a_settings_disk_gets_its_network_from_a_lease(
    dmi: dict[str, bytes], links: dict[str, str], work: Path
) -> None:
    machine = Machine(dmi=dmi, links=links, files=I2P_BUNDLE if dmi is I2P else {})
    with Boot(machine, work) as boot, server(lambda ask: [reply(ask)]):
        wait_until(boot, f"systemctl is-active --quiet {LEASE}")
        (route,) = json.loads(boot.succeed("ip -json route show default"))
        assert (route["gateway"], route["dev"]) == ("10.0.2.2", "uplink")
        assert "10.0.2.15/24 via 10.0.2.2" in boot.succeed("tails-profiles status")
        assert boot.succeed("cat /etc/resolv.conf").startswith("# no names")
        table = boot.succeed("nft list table netdev tails_profiles_uplink")
        assert "elements = { 10.0.2.15 }" in table
        if dmi is TOR:
            wait_until(boot, "systemctl is-active --quiet tails-profiles-tor.service")
        profile = dmi["bios_vendor"].decode().removeprefix("tails-profile:")
        wait_until(boot, f"systemctl is-active --quiet tails-profiles-{profile}.target")
        for frame in boot.frames():
            packet = Ether(frame)
            assert is_request(frame) or packet[ARP].pdst == "10.0.2.2", packet.summary()


def test_tor_does_not_start_before_there_is_a_lease(work: Path) -> None:
    late = threading.Event()
    with (
        Boot(Machine(dmi=TOR, links=TOR_LINKS, files=IMPATIENT), work) as boot,
        server(lambda ask: [reply(ask)] if late.is_set() else []),
    ):
        boot.wait_until_settled()
        wait_until(boot, "grep -q 'nobody answers' /run/tails-profiles/lease.json")
        assert not boot.is_active("tails-profiles-tor.service")
        assert "nobody answers" in boot.succeed("tails-profiles status")
        assert all(is_request(frame) for frame in boot.frames())
        late.set()
        wait_until(boot, "systemctl is-active --quiet tails-profiles-tor.service")


def test_lease_over_our_own_networks_ends_with_the_uplink_down(work: Path) -> None:
    def answer(ask: Any) -> Sequence[bytes]:
        return [reply(ask, yiaddr="10.1.2.100", router="10.1.2.99")]

    with Boot(Machine(dmi=TOR, links=TOR_LINKS), work) as boot, server(answer):
        wait_until(boot, f"systemctl is-failed --quiet {LEASE}")
        boot.wait_until_settled()
        assert boot.links_up() == ["inner"]
        assert not boot.is_active("tails-profiles-tor.service")
        assert "tor-guest failed network" in boot.said("ttyS0")
        assert "10.1.2.0/29" in boot.succeed("tails-profiles status")
        assert all(is_request(frame) for frame in boot.frames())


# What the image's own router would do, and whom it would call.
IMAGES_OWN = {
    "etc/i2pd/i2pd.conf": "[http]\nenabled = true\nport = 7070\n",
    "etc/i2pd/tunnels.conf": "[evil]\ntype = client\nport = 6668\ndestination = irc.i2p\n",
}


def test_i2p_guest_runs_a_router_with_our_configuration_alone(work: Path) -> None:
    machine = Machine(dmi=I2P, links=I2P_LINKS, files={**IMAGES_OWN, **I2P_BUNDLE})
    with Boot(machine, work) as boot, server(lambda ask: [reply(ask)]):
        wait_until(boot, "systemctl is-active --quiet tails-profiles-i2p.service")
        assert not boot.is_active("i2pd.service")
        process = boot.succeed("systemctl show -P MainPID tails-profiles-i2p.service").strip()
        assert boot.succeed(f"ps -o user:20= -p {process}").strip() == "i2pd"
        root = f"/proc/{process}/root"
        assert boot.succeed(f"ls {root}/etc/i2pd").split() == ["i2pd.conf"]
        assert (
            boot.succeed(f"cat {root}/etc/i2pd/i2pd.conf")
            == (TOP / "tests/golden/i2pd/default.conf").read_text()
        )
        # Names are for who was told to look online.
        assert "nameserver" not in boot.succeed(f"cat {root}/etc/resolv.conf")
        assert "nameserver" not in boot.succeed("cat /etc/resolv.conf")
        for frame in boot.frames():
            packet = Ether(frame)
            assert is_request(frame) or packet[ARP].pdst == "10.0.2.2", packet.summary()


@pytest.mark.broad
def test_i2p_guest_opens_two_ports_and_says_how_far_it_is(work: Path) -> None:
    machine = Machine(dmi=I2P, links=I2P_LINKS, files={**IMAGES_OWN, **I2P_BUNDLE})
    with Boot(machine, work) as boot, server(lambda ask: [reply(ask)]):
        wait_until_said(boot, "ttyS0", "tails-profiles 1 i2p-guest starting")
        listens = "ss -Hnlt | grep -q 10.1.3.1:4447"
        wait_until(boot, listens)
        listening = {line.split()[3] for line in boot.succeed("ss -Hnlt").splitlines()}
        assert listening == {"10.1.3.1:4444", "10.1.3.1:4447", "10.1.3.1:4448"}
        assert json.loads(boot.succeed("tails-profiles status --json"))["i2p"]["percent"] == 10
        # The bundle is empty: the host and whoever sits before the screen are told.
        wait_until_said(boot, "ttyS0", "tails-profiles 1 i2p-guest failed i2p")
        wait_until_said(boot, "tty1", "no first routers: Reseed: ")
        assert "no first routers: Reseed: " in boot.succeed("tails-profiles status")


@pytest.mark.broad
def test_request_for_new_destinations_starts_the_router_anew(work: Path) -> None:
    machine = Machine(dmi=I2P, links=I2P_LINKS, files=I2P_BUNDLE)
    ask = (
        'python3 -c \'import socket; made = socket.create_connection(("10.1.3.1", 4448), 20);'
        " print(made.makefile().readline())'"
    )
    with Boot(machine, work) as boot, server(lambda asked: [reply(asked)]):
        wait_until(boot, "ss -Hnlt | grep -q 10.1.3.1:4447")
        # From app-guest calls come by the inner link; here there is but its own.
        boot.succeed("nft delete table inet tails_profiles")
        process = boot.succeed("systemctl show -P MainPID tails-profiles-i2p.service")
        assert boot.succeed(ask).strip() == "renewed"
        # Who is answered meets no old destination any more.
        assert boot.execute(f"kill -0 {process}")[0] != 0
        assert boot.succeed(ask).strip() == "too soon"
        # Two proxies, two destinations at each start.
        wait_until(boot, "journalctl -u tails-profiles-i2p | grep -c 'transient keys' | grep -qx 4")
        wait_until(boot, "ss -Hnlt | grep -q 10.1.3.1:4447")
        assert boot.succeed("systemctl show -P MainPID tails-profiles-i2p.service") != process
        assert (
            boot.succeed("systemctl show -P ActiveState tails-profiles-i2p.service") == "active\n"
        )


def test_i2p_guest_that_would_know_nobody_ends_in_quarantine(work: Path) -> None:
    with Boot(Machine(dmi=I2P, links=I2P_LINKS), work) as boot:
        boot.wait_until_settled()
        assert "tails-profiles 1 quarantine failed i2p" in boot.said("ttyS0")
        assert boot.links_up() == []
        status = boot.succeed("tails-profiles status")
        assert "nothing says where the first I2P routers come from" in status
        assert "--reseed FILE" in status


@pytest.mark.broad
def test_router_that_gives_up_is_told_to_the_host(work: Path) -> None:
    broken = {
        "etc/systemd/system/tails-profiles-i2p.service.d/lab.conf": (
            "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=0\n"
        ),
    }
    machine = Machine(dmi=I2P, links=I2P_LINKS, files={**broken, **I2P_BUNDLE})
    with Boot(machine, work) as boot, server(lambda ask: [reply(ask)]):
        wait_until_said(boot, "ttyS0", "tails-profiles 1 i2p-guest failed i2p")


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(f"systemctl stop {LEASE}", id="stopped", marks=pytest.mark.broad),
        pytest.param(f"kill -KILL $(systemctl show -P MainPID {LEASE})", id="killed"),
    ],
)
def test_ended_client_leaves_the_uplink_down(how: str, work: Path) -> None:
    with Boot(Machine(dmi=TOR, links=TOR_LINKS), work) as boot, server(lambda ask: [reply(ask)]):
        wait_until(boot, f"systemctl is-active --quiet {LEASE}")
        boot.succeed(how)
        wait_until(boot, f"systemctl show -P ActiveState {LEASE} | grep -qxE 'failed|inactive'")
        assert boot.links_up() == ["inner"]
        assert "elements" not in boot.succeed("nft list set netdev tails_profiles_uplink address")
