# SPDX-License-Identifier: GPL-3.0-or-later
"""I2P's browser as a user starts it: a real Firefox, with a way to i2p-guest and no other.

The program, the profile and the namespace are those that ship; only the socket that leads to
i2p-guest is at another path, because nothing of the machine's own may be used.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path

import pytest

from tails_profiles import constants as c
from tails_profiles.session import BROWSER, IDENTITY
from tests.lab.i2pnet import NAME, PAGE, TOP, Guests, I2pNetwork
from tests.lab.tornet import run, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.broad]

PICTURE = TOP / ".build/pictures/i2p-browser.png"
SIZE = (1000, 640)
#: A colour that no browser has of itself: the page, once it is drawn.
COLOUR = (32, 74, 135)
WELCOME = """\
<!DOCTYPE html><meta charset="utf-8"><title>A site of I2P</title>
<body style="background: rgb{colour}; color: white; font: 28px sans-serif; margin: 3em">
<h1>{name}</h1><p>This page came through I2P, and nothing else is in reach.</p>
<script>document.title += " *"; fetch("/seen-by-a-browser")</script>
"""
SNAPSHOT = """
import sys, gi
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk
root = Gdk.get_default_root_window()
picture = Gdk.pixbuf_get_from_window(root, 0, 0, root.get_width(), root.get_height())
picture.savev(sys.argv[1], "png", [], [])
at = picture.get_height() * 3 // 4 * picture.get_rowstride() + picture.get_width() // 2 * 3
print(*picture.get_pixels()[at : at + 3])
"""


@dataclass
class Desktop:
    """app-guest's session: its user, who is nobody, and a screen."""

    guests: Guests
    home: Path
    display: str
    socket: Path

    def argv(self, *command: str) -> list[str]:
        """A command of that user in app-guest."""
        return ["ip", "netns", "exec", self.guests.app, "setpriv", "--reuid=65534",
                "--regid=65534", "--clear-groups", "env", "-i", "PATH=/usr/bin:/bin",
                f"HOME={self.home}", f"XDG_RUNTIME_DIR={self.home}", f"DISPLAY={self.display}",
                f"TAILS_PROFILES_I2P_HTTP={self.socket}", *command]  # fmt: skip

    def curl(self, url: str, *options: str, inside: bool = True) -> int:
        """How curl ends, in the browser's namespace or beside it."""
        namespace = [str(TOP / "units/i2p-namespace")] if inside else []
        done = subprocess.run(
            self.argv(*namespace, "curl", "--silent", "--output", "/dev/null", "--max-time", "8",
                      *options, url),
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode

    def snapshot(self, path: Path) -> tuple[int, ...]:
        """A picture of the screen; the colour below its middle."""
        done = subprocess.run(
            ["/usr/bin/python3", "-c", SNAPSHOT, str(path)], capture_output=True, text=True,
            check=True, env={**os.environ, "DISPLAY": self.display},
        )  # fmt: skip
        return tuple(map(int, done.stdout.split()))


@pytest.fixture(scope="module")
def desktop() -> Iterator[Desktop]:
    directory = Path(tempfile.mkdtemp(prefix="tp-i2p-", dir="/dev/shm"))
    directory.chmod(0o755)
    prefix = f"tpb{os.getpid()}"
    network = I2pNetwork(directory / "network", prefix)
    processes: list[subprocess.Popen[bytes]] = []
    guests = None
    try:
        network.start()
        (network.directory / "page/welcome.html").write_text(
            WELCOME.format(colour=COLOUR, name=NAME)
        )
        guests = Guests(directory, network, prefix)
        guests.start_router()
        home, socket = directory / "home", directory / "i2p-http"
        home.mkdir(mode=0o700)
        os.chown(home, 65534, 65534)
        processes.append(start_proxy(guests, str(socket), str(c.I2P_INNER.ip), 4444))
        wait_for("the socket", socket.exists, 30)
        socket.chmod(0o666)
        screen, display = start_screen()
        processes.append(screen)
        wait_for("the site", lambda: PAGE in guests.fetch(f"http://{NAME}/").stdout, 180)
        yield Desktop(guests, home, display, socket)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        if guests:
            guests.close()
        network.close()
        shutil.rmtree(directory, ignore_errors=True)


def start_proxy(guests: Guests, listen: str, address: str, port: int) -> subprocess.Popen[bytes]:
    """A socket unit and its systemd-socket-proxyd, in app-guest."""
    return subprocess.Popen(
        ["ip", "netns", "exec", guests.app, "systemd-socket-activate", f"--listen={listen}",
         "/usr/lib/systemd/systemd-socket-proxyd", f"{address}:{port}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def start_screen() -> tuple[subprocess.Popen[bytes], str]:
    """An X server of its own, on a display that nobody else has."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "{}x{}x24".format(*SIZE),
         "-nolisten", "tcp", "-ac"],
        pass_fds=(writing,), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as told:
        return process, f":{told.readline().strip()}"


def test_site_is_seen_where_a_user_clicks(desktop: Desktop) -> None:
    entry = ConfigParser(interpolation=None)
    entry.optionxform = str  # type: ignore[assignment,method-assign]
    entry.read_string(BROWSER)
    command = entry["Desktop Entry"]["Exec"].split()
    assert command.pop() == "%u"
    program = TOP / "units" / Path(command[0]).name
    assert f"usr/lib/tails-profiles/{program.name}" == command[0].lstrip("/")
    log = (desktop.home.parent / "browser.log").open("wb")
    browser = subprocess.Popen(
        desktop.argv(str(program), f"http://{NAME}/welcome.html"),
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    seen = desktop.guests.network.directory / "site.log"
    PICTURE.parent.mkdir(exist_ok=True)
    try:
        wait_for("a browser at the site", lambda: " /seen-by-a-browser" in seen.read_text(), 120)
        wait_for("the page to be drawn", lambda: desktop.snapshot(PICTURE) == COLOUR, 60)
        # The browser's user knows of one link, and of one port on it.
        process = run("pgrep", "-u", "65534", "-n", "-f", "welcome.html").strip()
        there = run("nsenter", "--target", process, "--net", "ip", "-brief", "link")
        assert [line.split()[0] for line in there.splitlines()] == ["lo"]
        listening = run("nsenter", "--target", process, "--net", "ss", "-Hnlt")
        assert [line.split()[3] for line in listening.splitlines()] == ["127.0.0.1:4444"]
    finally:
        os.killpg(browser.pid, 15)
        browser.wait(30)
    wait_for("the profile to be gone", lambda: not list(desktop.home.glob("i2p-browser.*")), 30)


def test_browsers_namespace_reaches_the_site_and_nothing_else(desktop: Desktop) -> None:
    """The anti-tests: beside the namespace the same calls are answered.

    Here a local port stands for Tor's, a listener in i2p-guest for tor-guest, and another at an
    address of the internet for clearnet.
    """
    proxy = ("--proxy", "http://127.0.0.1:4444", "--fail")
    assert desktop.curl(f"http://{NAME}/", *proxy) == 0
    app = desktop.guests.app
    targets = {"127.0.0.1": 9050, str(c.TOR_INNER.ip): 9050, "198.51.100.7": 80}
    for address in list(targets)[1:]:
        run("ip", "-n", app, "address", "add", f"{address}/32", "dev", "lo")
    servers = [
        subprocess.Popen(
            ["ip", "netns", "exec", app, sys.executable, "-m", "http.server", "--bind", address,
             str(port)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            cwd=desktop.home,
        )
        for address, port in targets.items()
    ]  # fmt: skip
    try:
        for address, port in targets.items():
            url = f"http://{address}:{port}/"
            wait_for(f"{url} to answer", lambda url=url: desktop.curl(url, inside=False) == 0, 30)
            # 7: cannot connect.
            assert desktop.curl(url) == 7, url
            # Nor does i2p-guest fetch it for whoever asks.
            assert desktop.curl(url, *proxy) != 0, url
        # A name is not even asked for: 6, cannot resolve.
        assert desktop.curl("http://example.org/") == 6
    finally:
        for server in servers:
            server.kill()
            server.wait()


#: Runs a command beside sockets, in a /run of its own: what stands before "--" are their paths.
_BESIDE = """
import os, socket, subprocess, sys, threading
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
end = sys.argv.index("--")

def answer(listener): # and hang up: the C library asks one of them for users' names
    while True:
        listener.accept()[0].close()

for path in sys.argv[1:end]:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    os.chmod(path, 0o666)
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
sys.exit(subprocess.run(sys.argv[end + 1:]).returncode)
"""
_CALL = """
import socket, sys
for path in sys.argv[1:]:
    if socket.socket(socket.AF_UNIX).connect_ex(path) == 0:
        print(path)
"""
_SCREEN = "/run/user/65534/wayland-0"
#: Who starts programs, asks for names, or hands a call on, for whoever calls.
_HELPERS = (
    "/run/dbus/system_bus_socket", "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket", "/run/avahi-daemon/socket", "/run/user/65534/bus",
    "/run/user/65534/systemd/private",
)  # fmt: skip


def test_nobody_outside_acts_for_what_is_in_the_browsers_namespace(desktop: Desktop) -> None:
    """The anti-test: beside the namespace all of them answer; a screen does in it as well."""
    paths = [*_HELPERS, _SCREEN]
    enter = ["ip", "netns", "exec", desktop.guests.app, "unshare", "--mount", sys.executable, "-c",
             _BESIDE, *paths, "--"]  # fmt: skip
    user = desktop.argv()[4:]
    call = ["/usr/bin/python3", "-c", _CALL, *paths]

    def answered(*namespace: str) -> list[str]:
        return run(*enter, *user, *namespace, *call).split()

    assert answered() == paths
    assert answered(str(TOP / "units/i2p-namespace")) == [_SCREEN]
    # Nor can it be undone there, not even by who is root in a namespace below it.
    undo = "umount /run/dbus || unshare --user --map-root-user --mount umount /run/dbus"
    tried = ["sh", "-c", f'{undo} || exec "$@"', "sh", *call]
    assert run(*enter, *user, str(TOP / "units/i2p-namespace"), *tried).split() == [_SCREEN]


#: i2p-guest's own answers to requests; what is asked of the router is a line for the test.
_RENEWS = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from tails_profiles import renew
listener = socket.create_server(renew.ADDRESS)
listener.setblocking(False)
renew.serve(listener, lambda: print("asked", flush=True))
"""


def test_click_on_a_new_identity_is_answered_and_sites_see_somebody_else(desktop: Desktop) -> None:
    """As the menu has it, over app-guest's local port and the link, to words on the screen."""
    guests = desktop.guests
    command = next(line for line in IDENTITY.splitlines() if line.startswith("Exec=")).split()
    program = str(TOP / "units" / Path(command[0]).name)
    url = f"http://{NAME}/"

    def click(words: str) -> None:
        clicked = subprocess.Popen(
            desktop.argv(program, *command[1:]), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            shows = ["pgrep", "-u", "65534", "-f", f"^(xmessage|zenity .*) {words}"]
            wait_for("words", lambda: subprocess.run(shows, capture_output=True, check=False)
                     .returncode == 0, 60)  # fmt: skip
        finally:
            os.killpg(clicked.pid, 15)
            clicked.wait(30)

    click("No new identity: i2p-guest does not answer")
    answering = subprocess.Popen(
        ["ip", "netns", "exec", guests.gateway, "setpriv", "--reuid=i2pd", "--regid=i2pd",
         "--clear-groups", "/usr/bin/python3", "-c", _RENEWS, str(TOP)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    port = start_proxy(guests, "127.0.0.1:4448", str(c.I2P_INNER.ip), c.I2P_RENEW_PORT)
    try:
        for name, address in ((guests.gateway, str(c.I2P_INNER.ip)), (guests.app, "127.0.0.1")):
            listens = f"{address}:{c.I2P_RENEW_PORT}"
            wait_for(listens, lambda name=name, listens=listens: listens in run(
                "ip", "netns", "exec", name, "ss", "-Hnlt"), 30)  # fmt: skip
        assert guests.fetch(url).stdout.startswith(PAGE)
        before = guests.network.visitors()[-1]
        click("Sites of I2P see somebody else from now on")
        assert answering.stdout
        assert answering.stdout.readline() == b"asked\n"
        click("No new identity: this one is less than forty seconds old")
        guests.renew()
        wait_for("the site", lambda: PAGE in guests.fetch(url).stdout, 180)
        assert guests.network.visitors()[-1] != before
    finally:
        for each in (answering, port):
            each.kill()
            each.wait()


def test_without_i2p_guest_the_program_says_so(desktop: Desktop) -> None:
    absent = [word.replace(str(desktop.socket), "/nonexistent") for word in desktop.argv()]
    done = subprocess.run(
        [*absent, str(TOP / "units/i2p-namespace"), "true"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no /nonexistent: this is no app-guest with an i2p-guest" in done.stderr
