# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver itself, without a machine: a capture that proves nothing is an error."""

from pathlib import Path

import pytest
from scapy.all import Ether, Packet, wrpcap

from tests.vm.machine import POWER_OFF, POWER_ON, Machine, canary, watched

pytestmark = pytest.mark.vm

FRAME = Ether(src="00:55:44:33:22:21", dst="ff:ff:ff:ff:ff:ff", type=0x0806) / bytes(28)


def captured(directory: Path, *frames: Packet) -> Machine:
    wrpcap(str(directory / "uplink.pcap"), list(frames))
    return Machine("guest", directory, ("uplink",))


def test_frames_between_the_canaries_are_seen(tmp_path: Path) -> None:
    machine = captured(tmp_path, canary(POWER_ON), FRAME, canary(POWER_OFF))
    assert [bytes(frame) for frame in machine.frames("uplink")] == [bytes(FRAME)]


@pytest.mark.parametrize(
    ("frames", "what"),
    [
        ((), "before power-on"),
        ((canary(POWER_ON), FRAME), "after power-off"),
        ((FRAME, canary(POWER_OFF)), "before power-on"),
        ((FRAME, canary(POWER_ON), canary(POWER_OFF)), "before the first canary"),
        ((canary(POWER_ON), canary(POWER_OFF), FRAME), "after the last canary"),
    ],
)
def test_a_capture_that_misses_an_end_is_an_error(
    frames: tuple[Packet, ...], what: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=what):
        captured(tmp_path, *frames).frames("uplink")


def test_every_link_gets_a_capture_and_a_tap(tmp_path: Path) -> None:
    argv = ("qemu", "-netdev", "user,id=uplink,ipv6=off", "-device", "virtio-net-pci,netdev=uplink",
            "-netdev", "dgram,id=inner,local.type=unix", "-action", "panic=shutdown")  # fmt: skip
    words = watched(argv, tmp_path)
    assert sum(word.startswith("filter-dump") for word in words) == 2
    assert [word for word in words if word.endswith("id=uplink,hubid=1")] == [
        "hubport,id=uplink,hubid=1"
    ]
    assert "user,id=uplink-wire,ipv6=off" in words
    assert "panic=pause,shutdown=pause" in words
