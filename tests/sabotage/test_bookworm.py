# SPDX-License-Identifier: GPL-3.0-or-later
"""The same on Debian 12: systemd 252, NetworkManager 1.42, Python 3.11, nft 1.0.6."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.dhcp import is_request
from tests.sabotage import test_managers
from tests.sabotage.boot import APP_LINKS, I2P_LINKS, TOR_LINKS, Boot, Machine
from tests.sabotage.expect import (
    APP,
    BAD,
    DEAD_GENERATOR,
    I2P,
    I2P_BUNDLE,
    OTHER_LINK,
    QUARANTINE,
    TOR,
    nothing_up,
    quarantined,
)
from tests.sabotage.smbios import tables

pytestmark = [pytest.mark.lab, pytest.mark.boots, pytest.mark.broad]

BOOKWORM = Machine(suite="bookworm")
TOKEN = b"tails-profile:tor-guest"
ROWS = (
    "a step fails, and another target",
    "container= on the kernel's command line",
    "lockdown masked",
    "all masked, and another target",
    "lockdown's rules are missing",
    "systemd.unit=",
)


def test_without_us_the_manager_raises_the_link_and_frames_leave(work: Path) -> None:
    with Boot(replace(BOOKWORM, links=OTHER_LINK, ours=False), work) as boot:
        boot.wait_until_settled()
        assert "systemd 252" in boot.succeed("systemctl --version")
        boot.succeed("nm-online --quiet --timeout=30")
        assert boot.links_up() == ["eth0"]
        assert boot.frames() != []


def test_without_a_token_the_manager_raises_the_link_as_always(work: Path) -> None:
    with Boot(replace(BOOKWORM, links=OTHER_LINK, dmi={"bios_vendor": b"SeaBIOS"}), work) as boot:
        boot.wait_until_settled()
        boot.succeed("nm-online --quiet --timeout=30")
        assert boot.links_up() == ["eth0"]
        assert boot.tables() == set()


@pytest.mark.parametrize(
    ("dmi", "links", "names"),
    [
        (TOR, TOR_LINKS, ["inner", "uplink"]),
        (I2P, I2P_LINKS, ["inner", "uplink"]),
        (APP, APP_LINKS, ["tor"]),
    ],
    ids=["tor-guest", "i2p-guest", "app-guest"],
)
def test_token_raises_the_links_of_its_profile_with_their_rules(
    dmi: dict[str, bytes], links: dict[str, str], names: list[str], work: Path
) -> None:
    with Boot(replace(BOOKWORM, dmi=dmi, links=links, files=I2P_BUNDLE), work) as boot:
        boot.wait_until_settled()
        assert sorted(boot.links_up()) == names, boot.journal()
        assert boot.tables() == {
            "inet tails_profiles",
            *(f"netdev tails_profiles_{name}" for name in names),
        }
        assert "in force" in boot.succeed("tails-profiles status")
        assert ("guest firewall" in boot.said("ttyS0")) == (dmi is not APP)
        assert all(is_request(frame) for frame in boot.frames())


@pytest.mark.parametrize("files", [{}, DEAD_GENERATOR], ids=["generator", "dead generator"])
def test_bad_token_ends_in_quarantine_alone(files: dict[str, str | None], work: Path) -> None:
    with Boot(replace(BOOKWORM, dmi=BAD, links=TOR_LINKS, files=files), work) as boot:
        quarantined(boot, "bios_vendor", reason="token")


@pytest.mark.parametrize("name", ROWS)
def test_every_link_stays_down(name: str, work: Path) -> None:
    row = test_managers.ROWS[name]
    with Boot(replace(test_managers.machine(row, {}), suite="bookworm"), work) as boot:
        nothing_up(boot)
        assert boot.is_active(QUARANTINE) == row.quarantine, boot.journal()
        boot.fail("systemctl start NetworkManager.service")
        nothing_up(boot)


@pytest.mark.parametrize("name", ROWS)
def test_with_the_weaker_arrangement_a_link_comes_up(name: str, work: Path) -> None:
    row = test_managers.ROWS[name]
    weaker = test_managers.machine(row, test_managers.WEAKER[row.weaker]())
    with Boot(replace(weaker, suite="bookworm"), work) as boot:
        boot.wait_until_settled()
        boot.succeed("nm-online --quiet --timeout=30")
        assert "eth2" in boot.links_up(), boot.journal()
        assert boot.frames() != []


def test_with_requires_alone_a_masked_step_lets_the_manager_raise_its_link(work: Path) -> None:
    row = test_managers.ROWS["all masked, and another target"]
    weaker = test_managers.machine(row, test_managers.only_required())
    with Boot(replace(weaker, suite="bookworm"), work) as boot:
        boot.wait_until_settled()
        boot.succeed("nm-online --quiet --timeout=30")
        assert "eth2" in boot.links_up(), boot.journal()
        assert boot.frames() != []


def test_dmidecode_reads_the_memory_by_itself_and_is_believed(work: Path) -> None:
    machine = replace(BOOKWORM, dmi=TOR, links=TOR_LINKS, tables=tables(TOKEN, TOKEN))
    with Boot(machine, work) as boot:
        boot.wait_until_settled()
        assert sorted(boot.links_up()) == ["inner", "uplink"], boot.journal()
        assert "dmidecode agrees" in boot.succeed("journalctl --output=cat")


def test_dmidecode_that_disagrees_ends_in_quarantine(work: Path) -> None:
    machine = replace(BOOKWORM, dmi=TOR, links=TOR_LINKS, tables=tables(TOKEN, b"0"))
    with Boot(machine, work) as boot:
        quarantined(boot, "product_serial", reason="token")
