# SPDX-License-Identifier: GPL-3.0-or-later
"""Machines that several tests boot, and the two ends that a sabotaged boot may have."""

from tests.sabotage.boot import Boot

TOR = {"bios_vendor": b"tails-profile:tor-guest", "product_serial": b"tails-profile:tor-guest"}
I2P = {"product_serial": b"tails-profile:i2p-guest"}
APP = {"bios_vendor": b"tails-profile:app-guest"}
BAD = {"bios_vendor": b"tails-profile:tor-guest "}
QUARANTINE = "tails-profiles-quarantine.target"
#: A link that no profile has: what would the image do with it?
OTHER_LINK = {"eth0": "52:54:00:12:34:56"}
DEAD_GENERATOR = {"etc/systemd/system-generators/tails-profiles-generator": "#!/bin/sh\nexit 1\n"}
#: First routers of the image's makers, none in fact: without any i2p-guest ends in quarantine.
I2P_BUNDLE = {"usr/share/i2pd/tails-profiles/reseed.zip": ""}
#: A stronger one than ours, so that the boot's target is the image's own.
MANAGERS = ("NetworkManager.service", "networking.service", "systemd-networkd.service")
#: What an image could say in /etc: what it says there replaces the list that we write in /run.
MANAGES_ALL = {
    "etc/NetworkManager/conf.d/99-image.conf": (
        "[keyfile]\nunmanaged-devices=interface-name:other\n[device-90-tails-profiles]\nmanaged=1\n"
    )
}


def quarantined(boot: Boot, *words: str, reason: str | None = None) -> None:
    """The machine is in quarantine, alone: no link, no frame, no getty, no desktop, and words.

    ``reason`` is the word that the host must have been told, once, and nothing else.
    """
    boot.wait_until_settled()
    assert boot.is_active(QUARANTINE), boot.journal()
    assert boot.links_up() == []
    assert boot.frames() == []
    for unit in ("console-getty.service", "display-manager.service", *MANAGERS):
        assert not boot.is_active(unit), unit
    assert "inet tails_profiles" in boot.tables()
    for terminal in (boot.console(), boot.said("tty1")):
        for word in ("QUARANTINE", *words):
            assert word in terminal
    if reason is not None:
        said = boot.said("ttyS0").splitlines()
        assert said[-1] == f"tails-profiles 1 quarantine failed {reason}"
        assert sum("failed" in line for line in said) == 1


def nothing_up(boot: Boot) -> None:
    """No link is up and nothing left, whatever else the machine is doing."""
    if boot.wait_until_settled() != "stopped":
        assert boot.links_up() == [], boot.journal()
    assert boot.frames() == []
