# SPDX-License-Identifier: GPL-3.0-or-later
"""``tails-profiles check`` in app-guest's namespace: with its rules, without them, without Tor."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tails_profiles import constants as c
from tails_profiles.selftest import INTERNET
from tests.lab.ports import Guests
from tests.lab.tornet import run, wait_for

pytestmark = pytest.mark.lab

TOP = Path(__file__).parents[2]

#: Somebody out there, who answers TCP and UDP at any port that is asked for here.
ANSWERING = """
import socket, threading
def udp(port):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("198.51.100.7", port))
    while True:
        data, peer = sock.recvfrom(2048)
        sock.sendto(data, peer)
def tcp(port):
    sock = socket.create_server(("198.51.100.7", port))
    while True:
        sock.accept()
threads = [threading.Thread(target=f, args=(p,)) for f, p in ((udp, 53), (tcp, 443))]
for thread in threads:
    thread.start()
"""
SOCKS = """
import socket
sock = socket.create_server(("127.0.0.1", 9050))
while True:
    peer, _ = sock.accept()
    peer.recv(3)
    peer.sendall(b"\\x05\\x00")
"""
CHECK = """
import sys
from pathlib import Path
from tails_profiles import cli
from tails_profiles.paths import Paths
cli.Paths = lambda: Paths(Path(sys.argv[1]))
sys.exit(cli.main(["check", *sys.argv[2:]]))
"""
# Frames that somebody else sends meanwhile, more than a link's buffer holds (each takes over 2 KiB
# of it); with an argument nobody reads them as they come. In parts, each of which fits: how often a
# busy machine lets the reader run is not what is tested.
BUSY = """
import socket, sys, time
from tails_profiles.system import selftest
if sys.argv[1:]:
    selftest.Watch._read = lambda self: None
watch = selftest.Watch()
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
sender.bind(("tor", 0))
def seen():
    return sum(frame[12:14] == b"\\x88\\xb5" for frame in watch._frames)
until = time.monotonic() + 60
for total in range(1000, 6000, 1000):
    for _ in range(1000):
        sender.send(bytes(12) + b"\\x88\\xb5" + bytes(1000))
    while not sys.argv[1:] and seen() < total and time.monotonic() < until:
        time.sleep(0.01)
watch.sent()
print(seen())
"""


class App:
    """app-guest, a hostile gateway behind its link, and Tor's local port."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        # Where somebody without root can read it: a home directory may be closed to others.
        self.library = directory / "library"
        shutil.copytree(TOP / "tails_profiles", self.library / "tails_profiles")
        self.guests = Guests(directory / "guests")
        app, tor = self.guests.app, self.guests.tor
        run("ip", "-n", app, "route", "add", "default", "via", str(c.TOR_INNER.ip))
        run("ip", "-n", tor, "address", "add", f"{INTERNET}/32", "dev", "lo")
        (self.root / "run/tails-profiles").mkdir(parents=True)
        selection = {"profile": "app-guest", "field": "bios_vendor", "reason": "a test",
                     "token": "tails-profile:app-guest", "settings_promised": False}  # fmt: skip
        (self.root / "run/tails-profiles/selection.json").write_text(json.dumps(selection))
        self.guests.start(tor, sys.executable, "-c", ANSWERING)
        self.socks = self.guests.start(app, sys.executable, "-c", SOCKS)
        wait_for("somebody out there", lambda: self._listens(tor, "443"), 20)
        wait_for("Tor's port", lambda: self._listens(app, "9050"), 20)

    def _listens(self, name: str, port: str) -> bool:
        return f":{port} " in run("ip", "netns", "exec", name, "ss", "-Hltn")

    def check(self, *options: str, user: str = "") -> "subprocess.CompletedProcess[str]":
        as_user = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
        return subprocess.run(
            ["ip", "netns", "exec", self.guests.app, *as_user, sys.executable, "-c", CHECK,
             str(self.root), *options],
            capture_output=True, text=True, check=False, timeout=120,
            cwd=self.library,
        )  # fmt: skip

    def results(self, **options: str) -> tuple[int, dict[str, Any]]:
        done = self.check("--json", **options)
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module", name="app")
def _app() -> Iterator[App]:
    directory = Path(tempfile.mkdtemp(prefix="tp-check-"))
    directory.chmod(0o755)
    app = App(directory)
    try:
        yield app
    finally:
        app.guests.close()
        shutil.rmtree(directory)


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    return {f"{each['name']}, {each['what']}": each["verdict"] for each in report["attempts"]}


def test_with_its_rules_nothing_gets_out(app: App) -> None:
    app.guests.load_rules()
    status, report = app.results()
    assert {*verdicts(report).values()} == {"stopped"}
    assert (status, report["passed"], report["watched"]) == (0, True, True)
    done = app.check()
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].startswith("passed: none of ")


def test_without_root_nobody_watches_and_there_is_no_verdict(app: App) -> None:
    app.guests.load_rules()
    status, report = app.results(user="nobody")
    found = verdicts(report)
    assert {*found.values()} <= {"stopped", "silent", "not tried"}
    assert found["DHCP, frame"] == "not tried"
    assert (status, report["watched"], report["passed"]) == (1, False, False)


def test_without_tor_nothing_gets_out_and_it_fails(app: App) -> None:
    app.guests.load_rules()
    app.socks.terminate()
    app.socks.wait()
    try:
        status, report = app.results()
        assert (status, report["services"][0]["answers"]) == (1, False)
        assert {*verdicts(report).values()} == {"stopped"}
    finally:
        app.socks = app.guests.start(app.guests.app, sys.executable, "-c", SOCKS)
        wait_for("Tor's port", lambda: app._listens(app.guests.app, "9050"), 20)


@pytest.fixture(name="open_app")
def _open_app(app: App) -> Iterator[App]:
    """app-guest without any rule, on both ends of its link."""
    app.guests.load_rules()
    for name in (app.guests.app, app.guests.tor):
        run("ip", "netns", "exec", name, "nft", "flush", "ruleset")
    yield app
    app.guests.load_rules()


def test_without_rules_what_is_answered_is_out_and_the_rest_left(open_app: App) -> None:
    status, report = open_app.results()
    found = verdicts(report)
    assert (status, report["passed"]) == (1, False)
    assert found["the web, tcp 198.51.100.7:443"] == "OUT"
    assert found["another DNS server, udp 198.51.100.7:53"] == "OUT"
    assert found["ping, ping 198.51.100.7"] == "OUT"
    assert found["tor-guest's shell, tcp 10.1.2.1:22"] == "OUT"  # refused by somebody else
    assert found["DHCP, frame"] == "LEFT"
    assert found["LLDP, frame"] == "LEFT"
    assert found["a router at home, tcp 192.168.0.1:80"] == "LEFT"
    assert found["multicast DNS, udp 224.0.0.251:5353"] == "LEFT"
    done = open_app.check()
    assert done.returncode == 1
    assert "got out of app-guest" in done.stdout.splitlines()[-1]


def test_busy_link_is_watched_whole_or_the_check_says_that_it_was_not(open_app: App) -> None:
    prefix = ("ip", "netns", "exec", open_app.guests.app, sys.executable, "-c", BUSY)
    assert run(*prefix) == "5000\n"
    done = subprocess.run([*prefix, "unread"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "frames went by unseen" in done.stderr


def test_without_the_link_table_frames_of_packet_sockets_leave(app: App) -> None:
    app.guests.load_rules()
    run("ip", "netns", "exec", app.guests.app, "nft", "delete", "table", "netdev",
        "tails_profiles_tor")  # fmt: skip
    try:
        status, report = app.results()
        frames = {each["name"] for each in report["attempts"] if each["what"] == "frame"}
        left = {each["name"] for each in report["attempts"] if each["verdict"] == "LEFT"}
        assert (status, left) == (1, frames)
    finally:
        app.guests.load_rules()
