# SPDX-License-Identifier: GPL-3.0-or-later
"""What real guests cost: the boot of tor-guest, the gateways' memory, a page through both guests.

``python3 -m tests.bench.bench_guests`` prints every figure and fails where one is beyond its limit;
words after it (boot, memory, i2p, throughput) choose.
Without hardware virtualization a boot takes a minute of one processor: figures are processor time
of the machine's process, which other work on the host changes least.
"""

import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from scapy.all import Ether

from tails_profiles import constants as c
from tails_profiles import settings, settings_disk
from tails_profiles.launch import GuestPlan
from tails_profiles.profile import Profile
from tests.lab import i2pnet
from tests.lab.tornet import PAGE, WEB
from tests.vm import image
from tests.vm.guests import Guests
from tests.vm.image import I2P_ADDITIONS, TOR_ADDITIONS, File
from tests.vm.machine import Machine, read_capture
from tests.vm.single import SEED, Single, Spec
from tests.vm.world import World

BOOT_LIMIT = 0.7
MEMORY_LIMIT = 320
THROUGHPUT_LIMIT = 0.95
#: MiB, from the largest; the first that fails ends the row.
MEMORY_STEPS = (320, 288, 256, 224, 192)
#: MiB that a process holds while a gateway works: what the real network's consensus and
#: descriptors take in Tor, or its routers in i2pd, beyond those of a private network of a few.
BALLAST = 100
FILE_MIB = 4
ROUNDS = 5
#: The last part of the desktop is drawn. Nothing is asked of a server that is not there yet.
PANEL = (
    "pgrep -x lxpanel && DISPLAY=:0 XAUTHORITY=/home/live/.Xauthority xwininfo -name panel"
    " | grep IsViewable"
)
#: For Tor's own measure, by its own user, whom alone the rules let talk over lo.
DIRECT = "HTTPTunnelPort 127.0.0.1:8118\n"
#: SocksPolicy refuses whoever is not app-guest, and is the first line of its kind that counts.
PERMIT = """
from stem.control import Controller
with Controller.from_socket_file("/run/tor/control") as tor:
    tor.authenticate()
    tor.set_conf("SocksPolicy", "accept *")
"""

HOLD = f"""
import pathlib, time
data = bytearray({BALLAST} << 20)
for at in range(0, len(data), 4096):
    data[at] = 1
pathlib.Path("/run/held").touch()
time.sleep(100000)
"""


def with_memory(size: int) -> Callable[[GuestPlan], GuestPlan]:
    """tor-guest with other memory, in MiB."""
    return lambda guest: replace(guest, machine=replace(guest.machine, memory=size))


def ordinary(guest: GuestPlan) -> GuestPlan:
    """The same machine without a token, and with memory for the desktop."""
    return replace(
        guest, token="SeaBIOS", settings_tag="", machine=replace(guest.machine, memory=1024)
    )


class Measure:
    """Machines before one private Tor network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.world = World(directory, "m", i2p=True)

    def machine(self, name: str, change: Callable[[GuestPlan], GuestPlan]) -> Single:
        layer = {TOR_ADDITIONS: File(self.world.network.client_torrc() + DIRECT)}
        return Single(
            Spec(name, change=change, layer=layer, namespace=self.world.namespace),
            self.directory / name,
        )

    def gateway(self) -> float:
        """Processor seconds from power-on to ``ready``."""
        with self.machine("boot-tor-guest", with_memory(MEMORY_LIMIT)) as machine:
            machine.wait_for_words("tor-guest ready")
            return machine.cpu_seconds()

    def i2p_machine(self, size: int) -> Single:
        """i2p-guest with this memory, knowing the private network's routers."""
        network = self.world.i2p
        assert network is not None
        bundle = self.directory / "reseed.zip"
        network.bundle(bundle)
        asked = replace(
            settings.defaults(Profile.I2P_GUEST), i2p=settings.I2pSettings(reseed="bundle")
        )
        spec = Spec(
            f"memory-i2p-{size}",
            Profile.I2P_GUEST,
            change=with_memory(size),
            disk=settings_disk.build(settings.serialize(asked), SEED, bundle.read_bytes()),
            layer={I2P_ADDITIONS: File(network.additions)},
            namespace=self.world.namespace,
        )
        return Single(spec, self.directory / spec.name)

    def desktop(self) -> float:
        """Processor seconds from power-on to the desktop of an ordinary boot."""
        with self.machine("boot-ordinary", ordinary) as machine:
            # One question for the whole boot: many would be counted as the boot's own time.
            machine.succeed(f"until {PANEL}; do sleep 2; done", 600)
            return machine.cpu_seconds()

    def i2p_works_in(self, size: int) -> bool:
        """Whether i2p-guest fetches a page in this memory, with the ballast held beside i2pd."""
        network = self.world.i2p
        assert network is not None
        with self.i2p_machine(size) as machine:

            def fetch() -> str:
                # The proxies are for app-guest: this gateway's own rules are in the way.
                machine.execute("nft delete table inet tails_profiles")
                proxy = f"http://{c.I2P_INNER.ip}:{c.I2P_HTTP_PORT}"
                return machine.wait_until_succeeds(
                    f"curl --silent --fail --max-time 60 --proxy {proxy} http://{network.site}/"
                )

            return holds(machine, "i2p-guest ready", size, fetch) == i2pnet.PAGE.strip()

    def works_in(self, size: int) -> bool:
        """Whether tor-guest fetches a page in this memory, with the ballast held beside Tor."""
        with self.machine(f"memory-{size}", with_memory(size)) as machine:

            def fetch() -> str:
                permit(machine)
                return machine.succeed(direct(f"http://{WEB}/"))

            return holds(machine, "tor-guest ready", size, fetch) == PAGE.strip()


def holds(machine: Single, ready: str, size: int, fetch: Callable[[], str]) -> str | None:
    """What a gateway fetches with the ballast held; None where its memory did not suffice."""
    try:
        machine.wait_for_words(ready, 300)
        available = machine.succeed("awk '/^MemAvailable/ {print int($2/1024)}' /proc/meminfo")
        print(f"   {size} MiB: ready, {available} MiB available", flush=True)
        machine.succeed(f"echo '{HOLD}' >/run/hold.py; setsid python3 /run/hold.py >/dev/null &")
        machine.wait_until_succeeds("test -e /run/held", 60)
        fetched = fetch()
        killed = machine.execute("journalctl -b -k | grep -c 'Out of memory'")[1]
    except (AssertionError, TimeoutError, OSError) as err:
        print(f"   {size} MiB: {err}", flush=True)
        return None
    return fetched if killed == "0" else None


def permit(machine: Machine) -> None:
    """Let tor-guest use its own Tor."""
    machine.succeed(f"python3 -c '{PERMIT}'")


def direct(url: str) -> str:
    """A fetch in tor-guest itself, by its own Tor."""
    return (
        "runuser -u debian-tor -- curl --silent --show-error --max-time 120 --proxytunnel"
        f" --proxy http://127.0.0.1:8118 {url}"
    )


def boots(measure: Measure) -> bool:
    """Both boots at once, side by side."""
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(measure.gateway), pool.submit(measure.desktop)
        gateway, desktop = first.result(), second.result()
    ratio = gateway / desktop
    print(f"power-on to ready: {gateway:.0f} s of processor time; the same image's ordinary boot:"
          f" {desktop:.0f} s; ratio {ratio:.2f}, at most {BOOT_LIMIT}")  # fmt: skip
    return ratio <= BOOT_LIMIT


def memory(name: str, works_in: Callable[[int], bool]) -> bool:
    """The least memory of the steps in which a gateway works."""
    least = None
    for size in MEMORY_STEPS:
        if not works_in(size):
            break
        least = size
    print(f"least memory in which {name} works with {BALLAST} MiB held beside: {least} MiB,"
          f" at most {MEMORY_LIMIT}")  # fmt: skip
    return least is not None


def speed(machine: Machine, command: str) -> float:
    """Bytes a second of one file."""
    return float(machine.succeed(f"{command} --output /dev/null --write-out '%{{speed_download}}'",
                                 600))  # fmt: skip


def throughput(directory: Path) -> bool:
    """A file in app-guest through tor-guest, beside the same Tor used in tor-guest itself."""
    guests = Guests(directory)
    try:
        guests.prepare()
        image.make(guests.image, torrc=guests.network.client_torrc() + DIRECT)
        with (guests.network.directory / "page/file").open("wb") as file:
            file.truncate(FILE_MIB << 20)
        guests.start()
        guests.app.wait_for_unit("display-manager.service", 600)
        guests.app.execute("systemctl is-system-running --wait", 600)
        url = f"http://{WEB}/file"
        over = f"curl --silent --max-time 300 --socks5-hostname 127.0.0.1:9050 {url}"
        permit(guests.tor)
        rounds = [(speed(guests.app, over), speed(guests.tor, direct(url))) for _ in range(ROUNDS)]
        first_packet(guests.tor)
    finally:
        guests.close()
    app, tor = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"a file of {FILE_MIB} MiB: {app / 1e3:.0f} kB/s in app-guest, {tor / 1e3:.0f} kB/s in"
          f" tor-guest by the same Tor: {app / tor:.2f}, at least {THROUGHPUT_LIMIT}")  # fmt: skip
    return app / tor >= THROUGHPUT_LIMIT


def first_packet(tor: Machine) -> None:
    """From power-on, where the first canary is, to the first frame on the uplink."""
    frames = read_capture(tor.directory / "uplink.pcap")
    own = next(frame for frame in frames if frame[Ether].src == c.TOR_UPLINK_MAC)
    print(f"tor-guest's power-on to its first frame: {float(own.time - frames[0].time):.0f} s")


def main() -> int:
    """Measure, print, judge."""
    directory = Path(tempfile.mkdtemp(prefix="tp-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    measure = Measure(directory)
    verdicts = {}
    measures: dict[str, Callable[[], bool]] = {
        "boot": lambda: boots(measure),
        "memory": lambda: memory("tor-guest", measure.works_in),
        "i2p": lambda: memory("i2p-guest", measure.i2p_works_in),
        "throughput": lambda: throughput(directory / "both"),
    }
    try:
        measure.world.start()
        for name in sys.argv[1:] or measures:
            verdicts[name] = measures[name]()
    finally:
        measure.world.close()
        shutil.rmtree(directory)
    failed = [name for name, good in verdicts.items() if not good]
    print(f"FAILED: {', '.join(failed)}" if failed else "passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
