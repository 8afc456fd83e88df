# SPDX-License-Identifier: GPL-3.0-or-later
"""i2p-guest with nobody to talk to: words on its screen and for the host, and nothing leaves.

What ends in quarantine (no first routers, no account) is among the cases of ``test_cases``; a
router that does not start at all in ``tests/sabotage/test_gateways.py``.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.all import ARP, IP, Ether

from tails_profiles import constants as c
from tails_profiles import settings, settings_disk
from tails_profiles.profile import Profile
from tails_profiles.settings import I2pSettings
from tests.lab.i2pnet import ROUTERS, I2pNetwork
from tests.vm import image
from tests.vm.fixtures import EVIDENCE, kept_when_failed, work_directory
from tests.vm.image import I2P_ADDITIONS, File
from tests.vm.single import SEED, Single, Spec

pytestmark = [pytest.mark.vm, pytest.mark.slow]


def disk(bundle: bytes) -> bytes:
    """A settings disk with these first routers."""
    asked = replace(settings.defaults(Profile.I2P_GUEST), i2p=I2pSettings(reseed="bundle"))
    return settings_disk.build(settings.serialize(asked), SEED, bundle)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with work_directory() as made:
        yield made


@pytest.fixture(scope="module")
def machines(directory: Path) -> Iterator[dict[str, Single]]:
    """Both at once: a signed bundle whose signature is wrong, and routers that are gone."""
    network = I2pNetwork(directory / "i2p", f"tpf{os.getpid()}", image.program("usr/bin/i2pd"))
    try:
        network.start()
        network.bundle(directory / "reseed.zip")
    finally:
        network.close()
    good = (directory / "reseed.zip").read_bytes()
    # Magic, and a header of zeros: nobody's signature.
    wrong = Spec("i2p-wrong-bundle", Profile.I2P_GUEST, disk=disk(b"I2Psu3" + bytes(1000)))
    alone = Spec("i2p-no-peers", Profile.I2P_GUEST, disk=disk(good),
                 layer={I2P_ADDITIONS: File(network.additions)})  # fmt: skip
    with Single(wrong, directory / wrong.name) as one, Single(alone, directory / alone.name) as two:
        yield {wrong.name: one, alone.name: two}


@pytest.fixture(autouse=True)
def evidence(request: pytest.FixtureRequest, machines: dict[str, Single]) -> Iterator[None]:
    def keep(folder: Path) -> None:
        for name, machine in machines.items():
            machine.keep_evidence(folder / name)

    with kept_when_failed(request, keep, EVIDENCE):
        yield


def test_wrong_bundle_is_told_and_nothing_leaves(machines: dict[str, Single]) -> None:
    machine = machines["i2p-wrong-bundle"]
    machine.wait_for_words("i2p-guest failed i2p")
    machine.wait_until_succeeds("grep -aq 'no first routers: Reseed: ' /dev/vcs1")
    assert "no first routers: Reseed: " in machine.succeed("tails-profiles status")
    machine.finish()
    for link in machine.links:
        assert all(ARP in frame for frame in machine.frames(link))


def test_routers_that_do_not_answer_are_told_and_nobody_else_is_asked(
    machines: dict[str, Single],
) -> None:
    machine = machines["i2p-no-peers"]
    machine.wait_until_succeeds(
        "grep -aq '5 routers known, none answers yet, 0 tunnels in' /dev/vcs1", 600
    )
    assert machine.serial is not None
    words = machine.serial.words()
    assert words[-1].startswith("i2p-guest i2p "), words
    assert "i2p-guest ready" not in words

    def tries() -> bool:
        frames = machine.frames_so_far("uplink")
        return any(IP in frame and frame[IP].dst in ROUTERS for frame in frames)

    machine.wait_until("the router to call somebody", tries, 300)
    machine.finish()
    for frame in machine.frames("uplink"):
        if frame[Ether].src == c.I2P_UPLINK_MAC and ARP not in frame:
            assert frame[IP].dst in ROUTERS, frame.summary()
