# SPDX-License-Identifier: GPL-3.0-or-later
"""Without a token: the same machine with and without our layer.

It reaches its desktop with its network up, and its frames are in the capture: the anti-test of
every "no frame" in ``test_cases``. What differs stands in
``tests/data/normal-boot-differences.txt``, each line with its reason.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from scapy.all import DHCP, Packet

from tails_profiles.launch import GuestPlan
from tests.sabotage.test_normal import BY_NATURE, LIFE, stated
from tests.vm.fixtures import EVIDENCE, kept_when_raised, work_directory
from tests.vm.machine import Machine
from tests.vm.single import Single, Spec

pytestmark = pytest.mark.vm

#: Where a real machine's files differ between any two boots, beside those of ``BY_NATURE``.
ALSO_BY_NATURE = {
    r"/run/live(/.*)?": "where the image's layers are mounted: one more with ours",
    r"/run/udev/.*": "times",
    r"/run/user(/.*)?": "process numbers",
    r"/run/systemd/(sessions|users|seats|propagate|inaccessible)(/.*)?": "process numbers",
    r"/run/(lightdm|log|initramfs)(/.*)?": "names made of numbers; the journal; the initrd's log",
    r"/run/NetworkManager(/.*)?": "random ids, and the times of a lease",
    r"/run/mount(/.*)?": "the order of mounts",
    r"/run/\.[co]": "the door of the test layer",
    r"/run/blkid(/.*)?": "the layers' devices, and times",
}
#: systemd's message about what a unit has consumed (sd-messages.h, SD_MESSAGE_UNIT_RESOURCES),
#: where that was much, by whatever else the machine had to do.
CONSUMED = "ae8f7b866b0347b9af31fe1c80b127c0"
#: Layers of the image are loop devices and mounts.
LAYERS = re.compile(r"\S*(rootfs|loop\d|x2dloop|diskseq)\S*")
RULES = (
    "nft list ruleset; cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null; true"
)
LINKS = "ip -details -oneline link | sed -E 's/^[0-9]+: //'"
#: Without a word about files that end while they are listed.
FILES = (
    "{ find /etc /run -xdev -type f -exec sha256sum {} + ; find /etc /run -xdev -printf"
    " '%y %m %u %g %l  %p\\n'; } 2>/dev/null; true"
)


@dataclass(frozen=True)
class Seen:
    """One boot, by everything that could show a difference; ``sent`` is what the machine sent."""

    units: frozenset[str]
    journal: frozenset[str]
    messages: frozenset[str]
    rules: str
    links: str
    files: frozenset[str]
    sent: list[Packet]


def look(machine: Machine) -> Seen:
    """What a boot has become; without its frames, which are complete only afterwards."""
    listed = machine.succeed("systemctl list-units --all --plain --no-legend --no-pager --full")
    life, messages = defaultdict(set), set()
    for line in machine.succeed("journalctl -b --output=json --no-pager", 300).splitlines():
        entry = json.loads(line)
        number = entry.get("MESSAGE_ID")
        if number in LIFE and (unit := entry.get("UNIT")):
            life[unit].add(LIFE[number])
        elif number is not None and number != CONSUMED:
            messages.add(number)
    by_nature = re.compile("|".join((*BY_NATURE, *ALSO_BY_NATURE)))
    return Seen(
        frozenset(" ".join(["unit", *line.split()[:4]]) for line in listed.splitlines()),
        frozenset(
            " ".join(["journal", unit, *(word for word in LIFE.values() if word in words)])
            for unit, words in life.items()
        ),
        frozenset(messages),
        machine.succeed(RULES),
        machine.succeed(LINKS),
        frozenset(
            line for line in machine.succeed(FILES, 300).splitlines()
            if not by_nature.fullmatch(line.split("  ", 1)[1].strip())
        ),
        [],
    )  # fmt: skip


def ordinary(guest: GuestPlan) -> GuestPlan:
    """The machine of tor-guest without a token, and with memory for a desktop."""
    return replace(guest, token="SeaBIOS", settings_tag="",
                   machine=replace(guest.machine, memory=1024))  # fmt: skip


def boot(name: str, directory: Path, *, ours: bool) -> Seen:
    """Boot to the desktop, look, and switch off."""
    spec = Spec(name, change=ordinary, ours=ours)
    with (
        Single(spec, directory / name) as machine,
        kept_when_raised(machine.keep_evidence, EVIDENCE / name),
    ):
        machine.wait_for_target("graphical.target", 600)
        machine.succeed("nm-online --timeout=120")
        machine.wait_until_succeeds("pgrep -x lxpanel", 300)
        machine.execute("systemctl is-system-running --wait", 600)
        seen = look(machine)
        machine.screenshot(directory / f"{name}.png")
        machine.power_off()
        machine.finish()
        own = {link.mac for link in machine.guest.links}
        sent = [frame for link in machine.links for frame in machine.frames(link)
                if frame.src in own]  # fmt: skip
        return replace(seen, sent=sent)


@pytest.fixture(scope="module")
def boots() -> Iterator[tuple[Seen, Seen]]:
    """Both boots: with our layer, and without."""
    with work_directory() as directory, ThreadPoolExecutor(2) as pool:
        with_us = pool.submit(boot, "ordinary-boot", directory, ours=True)
        without = pool.submit(boot, "ordinary-boot-without-us", directory, ours=False)
        yield with_us.result(), without.result()


def test_ordinary_boot_has_its_network_and_its_frames_are_seen(boots: tuple[Seen, Seen]) -> None:
    for seen in boots:
        # NetworkManager asks for a lease: what quarantine must never do.
        assert any(DHCP in frame for frame in seen.sent)


def test_boots_differ_only_where_the_list_says_so(boots: tuple[Seen, Seen]) -> None:
    ours, stock = boots
    stated_units = {line for line in stated() if line.startswith("unit ")}
    spoken_of = {line.split()[1] for line in stated() if line.startswith("journal ")}
    assert stated_units <= ours.units
    differences = {
        # A unit's line stands in both where only its state differs.
        "units": {line.split()[1] for line in ours.units ^ stock.units if not of_layers(line)}
        ^ {line.split()[1] for line in stated_units},
        # Of units that both know one journal has now and then a line less: from before its start.
        "journal": {
            line.split()[1] for line in ours.journal - stock.journal
            if not of_layers(line) and line.split()[1] not in names(stock)
        } ^ (spoken_of - names(stock)),
        "messages": ours.messages ^ stock.messages,
        "rules": {ours.rules} ^ {stock.rules},
        "links": {ours.links} ^ {stock.links},
        "files": ours.files ^ stock.files,
    }  # fmt: skip
    found = [f"{kind}: {line}" for kind, lines in differences.items() for line in sorted(lines)]
    assert not found, "\n".join(found)


def of_layers(line: str) -> bool:
    """Whether a unit is a layer of the image: one more is mounted with ours."""
    return LAYERS.fullmatch(line.split()[1]) is not None


def names(seen: Seen) -> set[str]:
    """The units that a boot knew, whatever became of them."""
    return {line.split()[1] for line in seen.units}
