# SPDX-License-Identifier: GPL-3.0-or-later
"""What the settings disk says really reaches Tor; a Tor that dies, and a plug that is pulled.

Two machines of tor-guest by themselves, before the private Tor network: one with a bridge, one that
may not connect.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.all import ARP, IP, TCP, Ether, Packet

from tails_profiles import constants as c
from tails_profiles import settings
from tails_profiles.profile import Profile
from tails_profiles.settings import Settings, TorSettings
from tests.lab.tornet import BRIDGE
from tests.vm.fixtures import EVIDENCE, kept_when_failed, work_directory
from tests.vm.image import TOR_ADDITIONS, File
from tests.vm.machine import label_of, read_capture
from tests.vm.single import Single, Spec, disk
from tests.vm.world import World

pytestmark = pytest.mark.vm


def prepare(name: str, world: World, directory: Path, tor: TorSettings) -> Single:
    """tor-guest with these settings, before the private network."""
    given: dict[Profile, Settings] = {
        Profile.TOR_GUEST: replace(settings.defaults(Profile.TOR_GUEST), tor=tor)
    }
    layer = {TOR_ADDITIONS: File(world.network.client_torrc())}
    return Single(Spec(name, layer=layer, given=given, namespace=world.namespace), directory / name)


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Single, Single]]:
    """With a bridge, and without consent; both are booting."""
    defaults = settings.defaults(Profile.TOR_GUEST).tor
    assert defaults is not None
    with ExitStack() as stack:
        directory = stack.enter_context(work_directory())
        world = World(directory, "b")
        stack.callback(world.close)
        world.start()
        bridge = world.network.start_bridge()
        both = (
            prepare("with-a-bridge", world, directory, replace(defaults, bridges=(bridge,))),
            prepare("without-consent", world, directory, replace(defaults, connect=False)),
        )
        with ThreadPoolExecutor(2) as pool:
            yield tuple(pool.map(stack.enter_context, both))


@pytest.fixture(autouse=True)
def evidence(request: pytest.FixtureRequest, machines: tuple[Single, Single]) -> Iterator[None]:
    def keep(folder: Path) -> None:
        for machine in machines:
            machine.keep_evidence(folder)

    with kept_when_failed(request, keep, EVIDENCE / request.node.name):
        yield


def sent(frames: list[Packet]) -> list[Packet]:
    """What the machine itself sent on its uplink."""
    return [frame for frame in frames if frame[Ether].src == c.TOR_UPLINK_MAC]


def contacted(frames: list[Packet]) -> set[str]:
    """Addresses beyond the router; ARP asks for the router alone."""
    for frame in sent(frames):
        assert ARP not in frame or frame[ARP].pdst == "10.0.2.2", frame.summary()
        assert ARP in frame or TCP in frame, frame.summary()
    return {frame[IP].dst for frame in sent(frames) if IP in frame}


def test_without_consent_it_is_ready_and_says_nothing_outside(
    machines: tuple[Single, Single],
) -> None:
    _, machine = machines
    machine.wait_for_words("tor-guest ready")
    assert "DisableNetwork 1" in machine.succeed("cat /run/tails-profiles/torrc")
    machine.wait_for_target("tails-profiles-tor-guest.target")
    assert sorted(machine.links_up()) == ["inner", "uplink"]
    assert sent(read_capture(machine.directory / "uplink.pcap")) == []


def test_power_cut_leaves_nothing_and_the_next_start_works(
    machines: tuple[Single, Single],
) -> None:
    _, machine = machines
    machine.cut_power()
    frames = read_capture(machine.directory / "uplink.pcap")
    assert label_of(frames[0]) is not None
    assert sent(frames) == []
    machine.start()
    machine.wait_for_words("tor-guest ready")
    machine.finish()
    assert sent(machine.frames("uplink")) == []


def test_offline_in_the_settings_leaves_the_uplink_down(
    machines: tuple[Single, Single],
) -> None:
    _, machine = machines
    machine.cut_power()
    offline = replace(machine.guest.settings, offline=True)
    machine.guest.settings_disk.write_bytes(disk(offline))
    machine.start()
    machine.wait_for_words("tor-guest ready")
    assert machine.links_up() == ["inner"]
    machine.finish()
    assert sent(machine.frames("uplink")) == []


def test_with_a_bridge_it_contacts_the_bridge_alone(machines: tuple[Single, Single]) -> None:
    machine, _ = machines
    machine.wait_for_words("tor-guest ready")
    assert contacted(read_capture(machine.directory / "uplink.pcap")) == {BRIDGE}


def test_tor_killed_again_and_again_opens_nothing(machines: tuple[Single, Single]) -> None:
    machine, _ = machines
    tables = machine.succeed("nft list tables")
    while (found := tor_process(machine))[1] != "failed":
        if found[0] != "0":
            machine.execute(f"kill -KILL {found[0]}")
        machine.wait_until("Tor to go on", lambda old=found[0]: went_on(machine, old), 60)
    machine.wait_for_words("tor-guest failed tor")
    machine.wait_until_succeeds("grep -aq 'tails-profiles-tor.service has given up' /dev/vcs1")
    assert machine.succeed("nft list tables") == tables
    machine.power_off()
    machine.finish()
    assert contacted(machine.frames("uplink")) == {BRIDGE}


def tor_process(machine: Single) -> tuple[str, str]:
    """Tor's process, 0 while there is none, and its unit's state."""
    shown = machine.succeed(
        "systemctl show --value -p MainPID -p ActiveState tails-profiles-tor.service"
    ).split()
    return shown[0], shown[1]


def went_on(machine: Single, old: str) -> bool:
    """Whether Tor runs as another process, or was given up."""
    pid, state = tor_process(machine)
    return state == "failed" or pid not in {"0", old}
