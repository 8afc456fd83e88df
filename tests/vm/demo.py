# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``./demo`` shows, once packages and image are there."""

import argparse
import sys
import tempfile
from pathlib import Path

from scapy.all import ARP, IP, TCP, Ether, rdpcap  # type: ignore[attr-defined]

from tails_profiles import constants as c
from tails_profiles.profile import Profile
from tests.lab.tornet import AUTHORITIES, PAGE, RELAYS, WEB
from tests.vm.guests import TOP, Guests, Shell

BUILD = TOP / ".build"
ATTEMPTS = (
    ("the page, directly", f"curl --silent --max-time 5 http://{WEB}/"),
    ("the host's loopback, 10.0.2.2", "curl --silent --max-time 5 http://10.0.2.2/"),
    ("a machine of the LAN, 192.168.1.1", "curl --silent --max-time 5 http://192.168.1.1/"),
    ("the page, as root without any rule",
     f"nft flush ruleset; curl --silent --max-time 10 http://{WEB}/"),
)  # fmt: skip


class Show:
    """Prints what happens, and remembers whether all of it was as it should be."""

    def __init__(self) -> None:
        self.good = True

    def heading(self, words: str) -> None:
        """A new part."""
        print(f"\n== {words}", flush=True)

    def fact(self, words: str, *, good: bool) -> None:
        """One observation."""
        self.good = self.good and good
        print(f"   {'ok ' if good else 'BAD'} {words}", flush=True)


def roles(show: Show, tor: Shell, app: Shell) -> None:
    """Each guest's profile, by its own words."""
    show.heading("one image, two roles")
    for name, shell in (("tor-guest", tor), ("app-guest", app)):
        said = shell.output("tails-profiles status | head -1").split()[-1]
        xorg = shell.execute("pgrep Xorg")[0] == 0
        show.fact(f"{name} says that it is {said}; Xorg runs: {'yes' if xorg else 'no'}",
                  good=said == name and xorg == (name == "app-guest"))  # fmt: skip


def page(show: Show, guests: Guests, app: Shell) -> None:
    """The page, and who fetched it."""
    show.heading(f"http://{WEB}/, fetched in app-guest through its local port 9050")
    text = app.output(f"curl --silent --max-time 90 --socks5-hostname 127.0.0.1:9050 http://{WEB}/")
    show.fact(f"app-guest received: {text}", good=text == PAGE.strip())
    visitor = guests.network.visitors()[-1]
    show.fact(f"the web server saw {visitor}, an exit of the Tor network", good=visitor in RELAYS)


def attempts(show: Show, guests: Guests, app: Shell) -> None:
    """What goes nowhere."""
    show.heading("attempts to get out another way, as root in app-guest")
    before = len(guests.network.visitors())
    for name, command in ATTEMPTS:
        show.fact(f"{name}: no answer", good=app.execute(command)[0] != 0)
    show.fact("the web server saw none of them", good=len(guests.network.visitors()) == before)


def uplink(show: Show, guests: Guests) -> None:
    """The capture of tor-guest's uplink, from power-on."""
    show.heading("everything that tor-guest sent on its uplink since power-on")
    frames = rdpcap(str(guests.capture(Profile.TOR_GUEST, "uplink")))
    sent = [frame for frame in frames if frame[Ether].src == c.TOR_UPLINK_MAC]
    tor = [f for f in sent if TCP in f and f[IP].dst in {*AUTHORITIES, *RELAYS}]
    arp = [f for f in sent if ARP in f]
    show.fact(f"{len(tor)} frames to Tor relays, {len(arp)} of ARP with the router",
              good=bool(tor))  # fmt: skip
    show.fact(f"{len(sent) - len(tor) - len(arp)} of anything else",
              good=len(sent) == len(tor) + len(arp))  # fmt: skip


def main() -> int:
    """Show it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="demo")
    parser.add_argument("--interactive", action="store_true")
    interactive = parser.parse_args().interactive
    directory = Path(tempfile.mkdtemp(prefix="tails-profiles-demo-", dir="/var/tmp"))
    guests, show = Guests(directory), Show()
    try:
        show.heading("a private Tor network and a web server, in network namespaces")
        guests.prepare()
        show.heading('tor-guest, then app-guest; the uplink is plugged in after "firewall"')
        guests.start()
        tor, app = guests.shell(Profile.TOR_GUEST), guests.shell(Profile.APP_GUEST)
        app.execute("systemctl is-system-running --wait", 600)
        roles(show, tor, app)
        page(show, guests, app)
        attempts(show, guests, app)
        uplink(show, guests)
        keep_pictures(guests)
        if interactive:
            wait_for_enter(guests)
    finally:
        guests.close()
    print("\ndemo: everything was as it should be" if show.good else "\ndemo: FAILED")
    return 0 if show.good else 1


def keep_pictures(guests: Guests) -> None:
    """Both screens, for whoever wants to look."""
    for profile in (Profile.TOR_GUEST, Profile.APP_GUEST):
        guests.picture(profile, BUILD / f"demo-{profile}.png")
        print(f"   picture: {BUILD / f'demo-{profile}.png'}")


def wait_for_enter(guests: Guests) -> None:
    """Leave everything running."""
    print("\nroot shells, and app-guest's screen:")
    for profile in (Profile.TOR_GUEST, Profile.APP_GUEST):
        print(f"   socat - UNIX-CONNECT:{guests.state / profile / 'shell'}")
    print(f"   a VNC viewer at unix:{guests.state / 'app-guest/screen'}")
    input("Enter ends it. ")


if __name__ == "__main__":
    sys.exit(main())
