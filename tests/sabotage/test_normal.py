# SPDX-License-Identifier: GPL-3.0-or-later
"""A boot without a token, with our packages and without them: every difference is in a file."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.sabotage.boot import Boot, Machine
from tests.sabotage.expect import APP, OTHER_LINK, TOR
from tests.sabotage.root import TOP

pytestmark = [pytest.mark.lab, pytest.mark.boots]

DIFFERENCES = TOP / "tests/data/normal-boot-differences.txt"
#: systemd's messages about the life of any unit (sd-messages.h).
LIFE = {
    "7d4958e842da4a758f6c1cdc7b36dcc5": "starting",
    "39f53479d3a045ac8e11786248231fbf": "started",
    "7ad2d189f7e94e70a38c781354912448": "succeeded",
}
WARNING = 4
#: Nobody answers Tor here: it says so of each relay that it tried, at random, while it runs.
NOBODY = re.compile(r"Problem bootstrapping\. Stuck at ")
FILES = {
    # What belongs to the laboratory: a terminal that is no terminal, and messages from before the
    # journal, which get lost now and then.
    "etc/systemd/system/console-getty.service": "[Service]\nExecStart=/usr/bin/sleep infinity\n",
    "etc/systemd/system/tails-profiles-lockdown.service.d/journal.conf": (
        "[Unit]\nAfter=systemd-journald.service\n"
    ),
}
#: Files of /etc and /run whose names or bytes differ between any two boots, and why.
BY_NATURE = {
    r"/run/systemd/journal/.*": "the journal itself: numbers of sockets and of messages",
    r"/run/systemd/units/.*": "an id for each unit that has been started: list-units shows those",
    r"/run/systemd/inhibit/.*": "process numbers",
    r"/run/NetworkManager/devices/.*": "a random id for each connection",
    r"/run/NetworkManager/system-connections/lo\.nmconnection": "the same",
    r"/run/.*\.pid": "process numbers",
    r"/run/tor/control\.authcookie": "random",
    r"/run/tor/(control|socks)": "there a moment after Tor is active, which list-units shows",
    r"/run/dbus/.*": "process numbers",
}


@dataclass(frozen=True)
class Seen:
    """What one boot became, by everything that could show a difference."""

    units: frozenset[str]
    journal: frozenset[str]
    unusual: frozenset[str]
    rules: str
    links: str
    files: frozenset[str]


def look(boot: Boot) -> Seen:
    boot.wait_until_settled()
    boot.succeed("nm-online --quiet --timeout=30")
    boot.wait_until_settled()
    listed = boot.succeed("systemctl list-units --all --plain --no-legend --no-pager --full")
    lines = boot.succeed("journalctl --output=json --no-pager").splitlines()
    entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
    life = defaultdict(set)
    unusual = set()
    for entry in entries:
        number = entry.get("MESSAGE_ID")
        if number in LIFE and (unit := entry.get("UNIT")):
            life[unit].add(LIFE[number])
        elif number is not None:
            unusual.add(number)
        if int(entry.get("PRIORITY", 9)) <= WARNING and not NOBODY.match(str(entry["MESSAGE"])):
            unusual.add(re.sub(r"\d+", "N", str(entry["MESSAGE"])))
    files = boot.succeed(
        "find /etc /run -xdev -type f -exec sha256sum {} + ; find /etc /run -xdev -printf"
        " '%y %m %u %g %l  %p\\n'"
    )
    masked = re.compile("|".join(BY_NATURE))
    return Seen(
        frozenset(" ".join(["unit", *line.split()[:4]]) for line in listed.splitlines()),
        frozenset(
            " ".join(["journal", unit, *(word for word in LIFE.values() if word in words)])
            for unit, words in life.items()
        ),
        frozenset(unusual),
        boot.succeed("nft list ruleset"),
        boot.succeed("ip -details link"),
        frozenset(
            line
            for line in files.splitlines()
            if not masked.fullmatch(line.split("  ", 1)[1].strip())
        ),
    )


def differences(ours: Seen, stock: Seen) -> set[str]:
    """What the boot with our packages has and the stock one has not, as the file's lines."""
    # Of other units the journal says the same or, right after its own start, a little less.
    journal = {
        line for line in ours.journal - stock.journal
        if "tails-profiles" in line or f"unit {line.split()[1]}" not in {
            " ".join(unit.split()[:2]) for unit in ours.units & stock.units
        }
    }  # fmt: skip
    return set(ours.units - stock.units) | journal


def stated() -> set[str]:
    lines = [line.partition("#")[0] for line in DIFFERENCES.read_text().splitlines()]
    return {" ".join(line.split()) for line in lines if line.strip()}


def machine(**facts: Any) -> Machine:
    # A container in truth: nothing at all stands in for anything of ours.
    return Machine(
        **{"links": OTHER_LINK, "dmi": {"bios_vendor": b"SeaBIOS"}, "files": FILES,
           "container": True, **facts}
    )  # fmt: skip


def test_a_boot_without_a_token_differs_by_what_is_stated_and_nothing_else(work: Path) -> None:
    assert len(stated()) <= 12
    (work / "stock").mkdir()
    (work / "ours").mkdir()
    with Boot(machine(ours=False), work / "stock") as boot:
        stock = look(boot)
    with Boot(machine(), work / "ours") as boot:
        ours = look(boot)
    assert differences(ours, stock) == stated()
    gone = {unit for unit in stock.units - ours.units if "network-pre.target" not in unit}
    assert gone == set()
    assert ours.unusual == stock.unusual
    assert ours.rules == stock.rules == ""
    assert ours.links == stock.links
    assert ours.files == stock.files


# One of our steps as it must not be: in each of the ways that are compared, a little different.
MEDDLING = {
    "etc/systemd/system/meddling.service": (
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '"
        "nft add table inet extra; ip link set lo mtu 1400; echo extra >/run/extra; "
        'echo "<4>extra" >&2\'\n'
    ),
    "etc/systemd/system/tails-profiles-links.service.d/meddling.conf": (
        "[Unit]\nWants=meddling.service\n"
    ),
}


def test_the_comparison_sees_every_kind_of_difference(work: Path) -> None:
    (work / "stock").mkdir()
    (work / "ours").mkdir()
    with Boot(machine(ours=False), work / "stock") as boot:
        stock = look(boot)
    with Boot(machine(files={**FILES, **MEDDLING}), work / "ours") as boot:
        ours = look(boot)
    assert differences(ours, stock) - stated() == {
        "unit meddling.service loaded active exited",
        "journal meddling.service starting started",
    }
    assert "extra" in ours.unusual - stock.unusual
    assert "extra" in ours.rules
    assert ours.links != stock.links
    assert any("/run/extra" in line for line in ours.files - stock.files)


@pytest.mark.parametrize(
    "dmi", [TOR, pytest.param(APP, marks=pytest.mark.broad)], ids=["tor", "app"]
)
def test_in_a_container_the_token_of_its_host_is_ignored(dmi: dict[str, bytes], work: Path) -> None:
    with Boot(machine(dmi=dmi), work) as boot:
        boot.wait_until_settled()
        boot.succeed("nm-online --quiet --timeout=30")
        assert boot.links_up() == ["eth0"]
        assert boot.tables() == set()
        assert boot.is_active("display-manager.service")
        # Nor is a profile to be had by hand: its services need what no token has prepared.
        boot.fail("systemctl start tails-profiles-tor.service")
