# SPDX-License-Identifier: GPL-3.0-or-later
"""I2P that cannot work: words on i2p-guest's screen and for the host, and nothing leaves.

Whatever the router sends gets beyond the uplink here, to who gives leases and answers ARP: the one
with routers to call is seen calling them, and them alone. A bundle that is missing is in
``test_gateways``; the same on real machines, in ``tests/vm``.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from scapy.all import ARP, IP, Ether, raw

from tails_profiles import constants as c
from tests.lab.dhcp import ROUTER_MAC, answer_requests, is_request, reply
from tests.lab.i2pnet import ROUTERS, I2pNetwork
from tests.sabotage.boot import FACTOR, I2P_LINKS, Boot, Machine
from tests.sabotage.expect import I2P, I2P_BUNDLE, quarantined

pytestmark = [pytest.mark.lab, pytest.mark.boots, pytest.mark.broad]

UNIT, MONITOR = "tails-profiles-i2p.service", "tails-profiles-i2p-monitor.service"
BUNDLES = "usr/share/i2pd/tails-profiles"
#: The number of the network of ``I2pNetwork``, and that its range, for benchmarks, has routers.
ADDITIONS = {f"{BUNDLES}/i2pd.conf": "netid = 23\nreservedrange = false\n"}


def answer_arp(sock: socket.socket) -> None:
    """Say, until a packet socket is closed, where the uplink's router is."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                frame, address = sock.recvfrom(65536)
                asked = Ether(frame)
                if address[2] == socket.PACKET_OUTGOING or ARP not in asked or asked[ARP].op != 1:
                    continue
                if asked[ARP].pdst == str(c.UPLINK_ROUTER):
                    answer = ARP(op=2, hwsrc=ROUTER_MAC, psrc=asked[ARP].pdst,
                                 hwdst=asked[ARP].hwsrc, pdst=asked[ARP].psrc)  # fmt: skip
                    sock.send(raw(Ether(src=ROUTER_MAC, dst=asked[Ether].src) / answer))

    threading.Thread(target=serve, daemon=True).start()


@contextlib.contextmanager
def booted(files: Mapping[str, str | bytes | None], work: Path) -> Iterator[Boot]:
    """i2p-guest, with a lease and a router that is found."""
    with Boot(Machine(dmi=I2P, links=I2P_LINKS, files=files), work) as boot:
        both = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) for _ in range(2)]
        for each in both:
            each.bind(("out-eth0", 0))
        answer_requests(both[0], lambda ask: [reply(ask)])
        answer_arp(both[1])
        try:
            yield boot
        finally:
            for each in both:
                each.close()


def wait_until(boot: Boot, condition: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds * FACTOR
    while boot.execute(condition)[0] != 0:
        assert time.monotonic() < deadline, f"{condition}\n{boot.journal()}"
        time.sleep(0.2)


def wait_until_said(boot: Boot, terminal: str, words: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds * FACTOR
    while words not in boot.said(terminal):
        assert time.monotonic() < deadline, f"{boot.said(terminal)!r}\n{boot.journal()}"
        time.sleep(0.2)


def called(boot: Boot) -> set[str]:
    """Whom the machine has sent anything to, beside who gives it its lease and its router."""
    found = set()
    for frame in boot.frames():
        packet = Ether(frame)
        if is_request(frame) or (ARP in packet and packet[ARP].pdst == str(c.UPLINK_ROUTER)):
            continue
        found.add(packet[IP].dst if IP in packet else packet.summary())
    return found


@pytest.fixture(scope="module")
def gone() -> Iterator[dict[str, bytes]]:
    """First routers that were there once: they are known, and none answers."""
    # Not pytest's directory: the routers' account must be able to enter it.
    directory = Path(tempfile.mkdtemp(prefix="tp-i2p-", dir="/dev/shm"))
    directory.chmod(0o755)
    network = I2pNetwork(directory / "network", f"tpg{os.getpid()}")
    try:
        network.make()
        network.bundle(directory / "reseed.zip")
        yield {f"{BUNDLES}/reseed.zip": (directory / "reseed.zip").read_bytes()}
    finally:
        network.close()
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    "bundle",
    [
        {f"{BUNDLES}/reseed.su3": b"I2Psu3" + bytes(1000)},
        {f"{BUNDLES}/reseed.zip": b"PK\3\4" + bytes(1000)},
    ],
    ids=["signed by nobody", "no archive"],
)
def test_wrong_bundle(bundle: Mapping[str, bytes], work: Path) -> None:
    with booted({**bundle, **ADDITIONS}, work) as boot:
        wait_until_said(boot, "ttyS0", "tails-profiles 1 i2p-guest failed i2p")
        wait_until_said(boot, "tty1", "no first routers: Reseed: ")
        # By then it would have looked elsewhere.
        wait_until(boot, "ss -Hnlt | grep -q 10.1.3.1:4447")
        assert boot.is_active(MONITOR)
        assert called(boot) == set()


@pytest.mark.parametrize(
    "files",
    [
        {f"{BUNDLES}/i2pd.conf": "addressbook.defaulturl = https://example.org/hosts.txt\n"},
        {"var/lib/i2pd/subscriptions.txt": b"http://reg.i2p/hosts.txt\n\xff\x1b[2J\0\n"},
    ],
    ids=["of another network", "no address"],
)
def test_wrong_list_of_names(files: Mapping[str, str | bytes], work: Path) -> None:
    """One that is there and holds none, or whose site is not: tests/lab/test_i2p.py."""
    with booted({**I2P_BUNDLE, **files}, work) as boot:
        place = f"/{next(iter(files))}, line {len(next(iter(files.values())).splitlines())}: "
        quarantined(boot, place, "is no list of I2P names", "http://SITE.i2p/PATH", reason="i2p")


def test_router_that_crashes_again_and_again(gone: dict[str, bytes], work: Path) -> None:
    process = f"systemctl show -P MainPID {UNIT}"
    with booted({**gone, **ADDITIONS}, work) as boot:
        for times in range(4):
            started = f"[ $(systemctl show -P NRestarts {UNIT}) = {times} ]"
            wait_until(boot, f"{started} && systemctl is-active --quiet {UNIT}")
            boot.succeed(f"kill -SEGV $({process})")
        wait_until(boot, f"systemctl is-failed --quiet {UNIT}")
        wait_until_said(boot, "ttyS0", "tails-profiles 1 i2p-guest failed i2p")
        wait_until_said(boot, "tty1", f"{UNIT} has given up")
        # What is on a screen stays there as long as somebody writes to it.
        assert boot.is_active(MONITOR)
        assert "ready" not in boot.said("ttyS0")
        assert called(boot) <= set(ROUTERS)


def test_router_without_its_user(work: Path) -> None:
    passwd = "root:x:0:0::/root:/bin/sh\nmessagebus:x:100:100::/:/usr/sbin/nologin\n"
    with booted({"etc/passwd": passwd, **I2P_BUNDLE}, work) as boot:
        quarantined(boot, "nft refused i2p-guest.nft", reason="ruleset")


def test_nobody_answers(gone: dict[str, bytes], work: Path) -> None:
    with booted({**gone, **ADDITIONS}, work) as boot:
        wait_until_said(boot, "tty1", "5 routers known, none answers yet, 0 tunnels in", 60)
        wait_until_said(boot, "ttyS0", "tails-profiles 1 i2p-guest i2p 18", 60)
        deadline = time.monotonic() + 90 * FACTOR
        while not called(boot):
            assert time.monotonic() < deadline, boot.journal()
            time.sleep(0.5)
        # The host hears that it lives, and that it is no further.
        while boot.said("ttyS0").count("i2p-guest i2p 18") < 2:
            assert time.monotonic() < deadline, boot.said("ttyS0")
            time.sleep(0.5)
        assert "ready" not in boot.said("ttyS0")
        assert boot.is_active(MONITOR)
        assert called(boot) <= set(ROUTERS)
