# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``./demo`` shows, once packages and image are there."""

import argparse
import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scapy.all import ARP, IP, TCP, Ether

from tails_profiles import constants as c
from tails_profiles.errors import ProfilesError
from tails_profiles.profile import Profile
from tails_profiles.system.interrupts import SIGNALS, Interrupts
from tests.lab import i2pnet
from tests.lab.tornet import AUTHORITIES, PAGE, RELAYS, WEB
from tests.vm.guests import Guests
from tests.vm.image import TOP
from tests.vm.machine import Machine, read_capture

KEPT = TOP / ".build/demo"
SOCKS = "curl --silent --show-error --max-time 90 --socks5-hostname 127.0.0.1:9050"
EEPSITE = "curl --silent --show-error --max-time 90 --fail --proxy http://127.0.0.1:4444"
#: On the real network: a page that says whether it was reached through Tor.
CHECK = "http://check.torproject.org/api/ip"
#: Some of Tor's directory authorities (its src/app/config/auth_dirs.inc). Where none of them can
#: be reached, waiting for a bootstrap would only take longer to say the same.
REAL_AUTHORITIES = (
    ("128.31.0.39", 9201), ("45.66.35.11", 443), ("131.188.40.189", 443),
    ("193.23.244.244", 443), ("199.58.81.140", 443), ("204.13.164.118", 443),
)  # fmt: skip


#: Bytes of a picture with nothing on it, and some.
BLACK = 4000
#: What app-guest's user types, and sees.
TERMINAL = """\
say() {{ printf '\\n$ %s\\n' "$*"; "$@"; }}
say curl --socks5-hostname 127.0.0.1:9050 --no-progress-meter {url}
say curl --max-time 5 --no-progress-meter {url}
say ip -brief link
touch /tmp/terminal.done
read -r end
"""


class Show:
    """Prints what happens, and remembers what was not as it should be."""

    def __init__(self) -> None:
        self.bad: list[str] = []
        self._begin = time.monotonic()

    def heading(self, words: str) -> None:
        """A new part, with the time since the beginning."""
        print(f"\n== {words}   [{time.monotonic() - self._begin:.0f} s]", flush=True)

    def word(self, words: str) -> None:
        """Progress."""
        print(f"   {words}", flush=True)

    def fact(self, words: str, *, good: bool) -> None:
        """One observation."""
        if not good:
            self.bad.append(words)
        print(f"   {'ok ' if good else 'BAD'} {words}", flush=True)


class Demo:
    """One run. ``internet``: the real Tor network in place of the private one."""

    def __init__(self, guests: Guests, show: Show, *, internet: bool, pictures: bool) -> None:
        self._guests = guests
        self._show = show
        self._internet = internet
        self._wants_pictures = pictures

    @property
    def _target(self) -> str:
        return CHECK if self._internet else f"http://{WEB}/"

    def run(self) -> None:
        """Everything, in order."""
        if not self._internet:
            self._show.heading("a private Tor network and a web server, in network namespaces")
            self._show.word("three authorities, four exits; nothing but an exit reaches the server")
        if self._guests.world.i2p is not None:
            self._show.word("and a private I2P network: five routers, a site behind one of them")
        self._guests.prepare()
        self._show.heading(
            "tails-profiles host start: tor-guest, "
            f"{'i2p-guest, ' if self._guests.world.i2p else ''}then app-guest"
        )
        self._guests.start()
        self._gate()
        self._show.word("app-guest: booting to its desktop, which no serial port tells of")
        self._guests.app.wait_for_unit("display-manager.service", 600)
        self._roles()
        self._page()
        if self._guests.world.i2p is not None:
            self._site(self._guests.world.i2p)
        if self._wants_pictures:
            self._pictures()
        self._attempts()
        self._uplink()
        if self._guests.world.i2p is not None:
            self._uplink_of_i2p()
        self._without_tor()

    def _gate(self) -> None:
        self._show.heading("the link gate")
        for name in (name for name in self._guests.machines if name.is_gateway):
            self._show.fact(
                f'{name}\'s uplink was unplugged until it said "firewall"',
                good=f"{name}: firewall" in self._guests.said,
            )

    def _roles(self) -> None:
        machines = self._guests.machines
        self._show.heading(f"one image, {len(machines)} profiles")
        for machine in machines.values():
            said = machine.succeed("tails-profiles status | head -1").split()[-1]
            xorg = machine.execute("pgrep Xorg")[0] == 0
            self._show.fact(
                f"{machine.name} says that it is {said}; Xorg runs: {'yes' if xorg else 'no'}",
                good=said == machine.name and xorg == (machine.name == Profile.APP_GUEST),
            )

    def _page(self) -> None:
        self._show.heading(f"{self._target}, fetched in app-guest through its local port 9050")
        status, text = self._guests.app.execute(f"{SOCKS} {self._target}")
        if status != 0:
            tor = self._guests.tor.execute("systemctl is-active tails-profiles-tor")[1]
            self._show.fact(f"the page did not come: {text}; tor-guest's Tor is {tor}", good=False)
            return
        if self._internet:
            self._show.fact(f"it answers: {text}", good='"IsTor":true' in text)
            return
        self._show.fact(f"app-guest received: {text}", good=text == PAGE.strip())
        visitor = self._guests.network.visitors()[-1]
        self._show.fact(
            f"the web server's log: {visitor}, an exit of the Tor network", good=visitor in RELAYS
        )

    def _site(self, network: i2pnet.I2pNetwork) -> None:
        self._show.heading(f"http://{i2pnet.NAME}/, a site of I2P, through i2p-guest")
        # The first page waits for its tunnels.
        text = self._guests.app.wait_until_succeeds(f"{EEPSITE} http://{i2pnet.NAME}/")
        self._show.fact(f"app-guest received: {text}", good=text == i2pnet.PAGE.strip())
        visitor = network.visitors()[-1]
        self._show.fact(
            f"the site's log: {visitor[:16]}….b32.i2p, a destination of this start alone",
            good=visitor.endswith(".b32.i2p"),
        )
        through_tor = self._guests.app.execute(
            f"{SOCKS.replace('--max-time 90', '--max-time 20')} --fail http://{i2pnet.NAME}/"
        )[0]
        self._show.fact("through tor-guest it does not come", good=through_tor != 0)

    def _uplink_of_i2p(self) -> None:
        self._show.heading("everything that i2p-guest sent on its uplink since power-on")
        frames = self._guests.i2p.frames_so_far("uplink")
        sent = [frame for frame in frames if frame[Ether].src == c.I2P_UPLINK_MAC]
        routers = [f for f in sent if IP in f and f[IP].dst in i2pnet.ROUTERS]
        arp = [f for f in sent if ARP in f]
        self._show.fact(
            f"{len(routers)} frames to I2P routers, {len(arp)} of ARP with the router",
            good=bool(routers),
        )
        rest = len(sent) - len(routers) - len(arp)
        self._show.fact(f"{rest} of anything else", good=rest == 0)

    def _pictures(self) -> None:
        """Both screens while all is well: the page in a terminal, and Tor's monitor."""
        self._guests.app.wait_until_succeeds("pgrep -x openbox", 300)
        script = TERMINAL.format(url=self._target)
        self._guests.app.succeed(
            f"echo {base64.b64encode(script.encode()).decode()} | base64 -d >/tmp/terminal;"
            " setsid runuser -u live -- env DISPLAY=:0 XAUTHORITY=/home/live/.Xauthority"
            " xterm -geometry 100x24+60+60 -e sh /tmp/terminal >/dev/null 2>&1 &"
        )
        self._guests.app.wait_until_succeeds("test -e /tmp/terminal.done")
        KEPT.mkdir(parents=True, exist_ok=True)
        for machine in (self._guests.tor, self._guests.app):
            picture = KEPT / f"{machine.name}-at-work.png"

            def drawn(machine: Machine = machine, picture: Path = picture) -> bool:
                machine.screenshot(picture)
                return picture.stat().st_size > BLACK

            machine.wait_until("something on the screen", drawn, 120)

    def _attempts(self) -> None:
        self._show.heading("attempts to get out another way, as root in app-guest")
        before = self._visits()
        direct = f"curl --silent --max-time 5 {self._target}"
        for name, command in (
            ("the page, directly", direct),
            ("the host's loopback, 10.0.2.2", "curl --silent --max-time 5 http://10.0.2.2/"),
            ("a machine of the LAN, 192.168.1.1", "curl --silent --max-time 5 http://192.168.1.1/"),
            ("the page, without any rule", f"nft flush ruleset; {direct} --interface tor"),
        ):
            self._show.fact(f"{name}: no answer", good=self._guests.app.execute(command)[0] != 0)
        if not self._internet:
            self._show.fact("the web server saw none of them", good=self._visits() == before)

    def _visits(self) -> int:
        return 0 if self._internet else len(self._guests.network.visitors())

    def _uplink(self) -> None:
        self._show.heading("everything that tor-guest sent on its uplink since power-on")
        frames = read_capture(self._guests.tor.directory / "uplink.pcap")
        sent = [frame for frame in frames if frame[Ether].src == c.TOR_UPLINK_MAC]
        relays = {*AUTHORITIES, *RELAYS}
        if self._internet:
            relays = self._peers_of_tor(self._guests.tor)
        tor = [f for f in sent if TCP in f and f[IP].dst in relays]
        arp = [f for f in sent if ARP in f]
        self._show.fact(
            f"{len(tor)} frames to Tor relays, {len(arp)} of ARP with the router", good=bool(tor)
        )
        rest = len(sent) - len(tor) - len(arp)
        self._show.fact(f"{rest} of anything else", good=rest == 0)

    def _peers_of_tor(self, tor: Machine) -> set[str]:
        listed = tor.succeed("cat /var/lib/tor/cached-microdesc-consensus || true", 300)
        return set(re.findall(r"^r \S+ \S+ \S+ \S+ (\S+)", listed, re.M))

    def _without_tor(self) -> None:
        self._show.heading("the same fetch with tor-guest's Tor stopped")
        self._guests.tor.succeed("systemctl stop tails-profiles-tor")
        status, text = self._guests.app.execute(
            f"{SOCKS.replace('--max-time 90', '--max-time 10')} {self._target}"
        )
        self._show.fact(f"fails, as it must: {text or 'no answer'}", good=status != 0)


def internet_is_there() -> bool:
    """Whether any of Tor's authorities can be reached from here."""
    for address in REAL_AUTHORITIES:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=5):
            return True
    return False


def keep(guests: Guests) -> None:
    """Pictures, captures, what the guests said: to ``.build/demo``."""
    guests.keep_evidence(KEPT)
    print(f"\nkept in {KEPT}: pictures of both screens, captures of every link, journals")


def wait_for_enter(guests: Guests) -> None:
    """Leave everything running."""
    print("\nroot shells (of the demo's own layer; the image has none), and app-guest's screen:")
    for machine in guests.machines.values():
        print(f"   socat READLINE UNIX-CONNECT:{machine.directory / 'shell'}")
    screen = guests.app.directory / "screen"
    viewer = shutil.which("xtigervncviewer") or shutil.which("vncviewer")
    if os.environ.get("DISPLAY") and viewer:
        subprocess.Popen([viewer, str(screen)], stderr=subprocess.DEVNULL)
    else:
        print(f"   a VNC viewer at the socket {screen}")
    guests.tor.execute("systemctl start tails-profiles-tor")
    # A door lets one in at a time.
    for machine in guests.machines.values():
        machine.shut_door()
    # The end of its input is an end as well.
    with contextlib.suppress(EOFError):
        input("Enter ends it. ")


def carry_out(demo: Demo, guests: Guests, show: Show, chosen: argparse.Namespace) -> bool:
    """Show everything, then take everything back; returns whether it was interrupted."""
    with Interrupts():
        try:
            demo.run()
            if chosen.interactive:
                if chosen.keep:
                    # Journals come through the doors, which are the user's from here on.
                    guests.keep_evidence(KEPT)
                wait_for_enter(guests)
        except KeyboardInterrupt:
            print("\n== interrupted: taking everything back", flush=True)
            return True
        except (ProfilesError, TimeoutError, AssertionError, OSError, RuntimeError) as err:
            show.bad.append(str(err))
        finally:
            # Taking everything back is not interrupted.
            for each in SIGNALS:
                signal.signal(each, signal.SIG_IGN)
            if chosen.keep and guests.machines:
                keep(guests)
            guests.close()
    return False


def main() -> int:
    """Show it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="demo")
    for option in ("internet", "i2p", "interactive", "keep"):
        parser.add_argument(f"--{option}", action="store_true")
    chosen = parser.parse_args()
    if chosen.internet and chosen.i2p:
        parser.error("--i2p needs first routers, which the real network has: see docs/i2p.md")
    if chosen.internet and not internet_is_there():
        print("demo: FAILED: none of Tor's directory authorities can be reached from here; is"
              " there an internet connection, and is Tor allowed on it?")  # fmt: skip
        return 1
    show = Show()
    guests = Guests(
        Path(tempfile.mkdtemp(prefix="tails-profiles-demo-", dir="/var/tmp")),
        show.word, private=not chosen.internet, i2p=chosen.i2p,
    )  # fmt: skip
    shutil.rmtree(KEPT, ignore_errors=True)
    demo = Demo(guests, show, internet=chosen.internet, pictures=chosen.keep)
    if carry_out(demo, guests, show, chosen):
        print("demo: interrupted; nothing is left")
        return 130
    for words in show.bad:
        print(f"\ndemo: not as it should be: {words}")
    print("\ndemo: FAILED" if show.bad else "\ndemo: everything was as it should be")
    return 1 if show.bad else 0


if __name__ == "__main__":
    sys.exit(main())
