# SPDX-License-Identifier: GPL-3.0-or-later
"""A missing library or program: clear words, and never a reason to open anything."""

import time
from pathlib import Path

import pytest

from tests.lab.dhcp import is_request, reply
from tests.sabotage.boot import APP_LINKS, FACTOR, TOR_LINKS, Boot, Machine
from tests.sabotage.expect import APP, BAD, QUARANTINE, TOR, quarantined
from tests.sabotage.test_gateways import server, wait_until

pytestmark = [pytest.mark.lab, pytest.mark.boots]

PYTHON = "usr/lib/python3/dist-packages"
APP_TABLES = {"inet tails_profiles", "netdev tails_profiles_tor"}


def test_without_pyudev_there_are_no_links_and_the_console_names_its_package(work: Path) -> None:
    machine = Machine(dmi=APP, links=APP_LINKS, files={f"{PYTHON}/pyudev": None})
    with Boot(machine, work) as boot:
        quarantined(boot, "pyudev cannot be imported", "install python3-pyudev")


@pytest.mark.broad
def test_without_systemd_python_the_journal_has_no_fields_and_all_else_is_the_same(
    work: Path,
) -> None:
    machine = Machine(dmi=APP, links=APP_LINKS, files={f"{PYTHON}/systemd": None})
    with Boot(machine, work) as boot:
        boot.wait_until_settled()
        assert "python3-systemd is not installed" in boot.succeed("journalctl --output=cat")
        assert boot.links_up() == ["tor"]
        assert boot.tables() == APP_TABLES
        # The relay gets its socket through it: names are not answered, and it says why.
        boot.succeed("systemctl start --no-block tails-profiles-dns.service")
        wait_until(boot, "systemctl is-failed --quiet tails-profiles-dns.service")
        said = boot.succeed("journalctl --output=cat --unit=tails-profiles-dns.service")
        assert "systemd cannot be imported" in said
        assert boot.frames() == []


@pytest.mark.broad
def test_without_jinja2_a_boot_is_the_same_and_render_names_its_package(work: Path) -> None:
    machine = Machine(dmi=APP, links=APP_LINKS, files={f"{PYTHON}/jinja2": None})
    with Boot(machine, work) as boot:
        boot.wait_until_settled()
        assert boot.links_up() == ["tor"]
        assert boot.tables() == APP_TABLES
        said = boot.fail("tails-profiles render app-guest")
        assert "jinja2 cannot be imported" in said
        assert "install python3-jinja2" in said
        assert boot.frames() == []


def wait_for(boot: Boot, terminal: str, word: str) -> None:
    deadline = time.monotonic() + 30 * FACTOR
    while word not in boot.said(terminal):
        assert time.monotonic() < deadline, f"{boot.said(terminal)}\n{boot.journal()}"
        time.sleep(0.1)


def test_without_stem_tor_runs_and_the_journal_says_why_the_host_hears_nothing(
    work: Path,
) -> None:
    machine = Machine(dmi=TOR, links=TOR_LINKS, files={f"{PYTHON}/stem": None})
    with Boot(machine, work) as boot, server(lambda ask: [reply(ask)]):
        wait_for(boot, "ttyS0", "tor-guest firewall")
        boot.fail("python3 -I -m tails_profiles.progress")
        assert "stem cannot be imported" in boot.succeed("journalctl --output=cat")
        assert "ready" not in boot.said("ttyS0")
        assert sorted(boot.links_up()) == ["inner", "uplink"]


def test_without_tor_the_host_is_told_and_nothing_else_leaves(work: Path) -> None:
    machine = Machine(dmi=TOR, links=TOR_LINKS, files={"usr/bin/tor": None})
    with Boot(machine, work) as boot, server(lambda ask: [reply(ask)]):
        wait_for(boot, "ttyS0", "tails-profiles 1 tor-guest failed tor")
        wait_for(boot, "tty1", "tails-profiles-tor.service has given up")
        assert not boot.is_active("tails-profiles-tor.service")
        assert "netdev tails_profiles_uplink" in boot.tables()
        # A lease, and who asks for the router's MAC: nothing of Tor.
        ours = [frame for frame in boot.frames() if not is_request(frame)]
        assert {frame[12:14].hex() for frame in ours} <= {"0806"}


# What the image starts early, before anything could be isolated away.
EARLY = {
    f"etc/systemd/system/{name}.service": (
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        f"ExecStart=/bin/mkdir -p /run/lab/{name}\n"
    )
    for name in ("avahi-daemon", "tor", "chrony")
}
WANTED = {
    "etc/systemd/system/sysinit.target.d/early.conf": (
        "[Unit]\nWants=avahi-daemon.service tor.service chrony.service\n"
    )
}
# What is loaded can then only be quarantine's own.
NO_LOCKDOWN = {"usr/lib/tails-profiles/rulesets/lockdown.nft": None}


def test_bad_token_with_a_working_generator_holds_what_the_image_starts_early(work: Path) -> None:
    files = {**EARLY, **WANTED, **NO_LOCKDOWN}
    with Boot(Machine(dmi=BAD, links=TOR_LINKS, files=files), work) as boot:
        quarantined(boot, "bios_vendor", reason="token")
        assert boot.succeed("systemctl get-default").strip() == QUARANTINE
        assert boot.succeed("ls /run/lab") == ""
        # Lockdown did not run at all: quarantine is the first transaction.
        assert "tails-profiles-lockdown" not in boot.succeed("journalctl --output=cat _PID=1")
        chains = boot.succeed("nft list table inet tails_profiles")
        assert chains.count("policy drop") == 3


def test_without_the_drop_ins_what_the_image_starts_early_does_start(work: Path) -> None:
    without = {
        f"usr/lib/systemd/system/{name}.service.d/50-tails-profiles.conf": None
        for name in ("avahi-daemon", "tor", "chrony")
    }
    files = {**EARLY, **WANTED, **without}
    with Boot(Machine(dmi=BAD, links=TOR_LINKS, files=files), work) as boot:
        boot.wait_until_settled()
        assert boot.succeed("ls /run/lab").split() == ["avahi-daemon", "chrony", "tor"]
