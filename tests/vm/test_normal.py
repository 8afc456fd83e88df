# SPDX-License-Identifier: GPL-3.0-or-later
"""Without a token: the same machine with and without our layer.

It reaches its desktop with its network up, and its frames are in the capture: the anti-test of
every "no frame" in ``test_cases``. What differs stands in
``tests/data/normal-boot-differences.txt``, each line with its reason.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from scapy.all import DHCP, Packet  # type: ignore[attr-defined]

from tails_profiles.launch import GuestPlan
from tests.vm.image import TOP
from tests.vm.single import Single, Spec

pytestmark = pytest.mark.vm

EVIDENCE = TOP / ".build/failed"
DIFFERENCES = TOP / "tests/data/normal-boot-differences.txt"
MAX_DIFFERENCES = 12

#: What one boot shows, one fact a line. Numbers that differ between any two boots are left out.
FACTS = {
    "unit": "systemctl list-units --all --plain --no-legend --no-pager"
            " | awk '{print $1, $2, $3, $4}'",
    "job": "systemctl list-jobs --no-legend",
    "nft": "nft list ruleset",
    "iptables": "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null",
    "link": "ip -d -o link | sed -E 's/ (qdisc|numtxqueues) .*//; s/[0-9]+: //'",
    "etc": "cd / && find etc -type f -exec sha256sum {} +"
           " && find etc -type l -printf '%p -> %l\\n'",
    # Numbers of processes, devices and users of one boot; what holds times and identifiers; and
    # /run/live, where the image's own layers are mounted.
    "run": "cd / && find run \\( -path run/live -o -path run/udev -o -path run/user"
           " -o -path run/log -o -path run/initramfs -o -path run/systemd/journal"
           " -o -path run/systemd/sessions -o -path run/systemd/users -o -path run/lightdm"
           " -o -path run/systemd/propagate -o -path run/systemd/inaccessible"
           " -o -name '.[co]' \\) -prune -o -printf '%p %y %m %U\\n'",
    "message": "journalctl -b -o json --output-fields=MESSAGE_ID --no-pager"
               " | grep -o '\"MESSAGE_ID\":\"[0-9a-f]*\"' | sort -u",
    "warning": "journalctl -b -p warning -o cat --no-pager | sed -E 's/[0-9]+/N/g' | sort -u",
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One boot: its facts by kind, and the frames that the machine itself sent."""

    facts: frozenset[str]
    sent: list[Packet]


def ordinary(guest: GuestPlan) -> GuestPlan:
    """The machine of tor-guest without a token, and with memory for a desktop."""
    return replace(guest, token="SeaBIOS", settings_tag="",
                   machine=replace(guest.machine, memory=1024))  # fmt: skip


def boot(name: str, directory: Path, *, ours: bool) -> Seen:
    """Boot to the desktop, look, and switch off."""
    spec = Spec(name, change=ordinary, ours=ours)
    with Single(spec, directory / name) as machine:
        try:
            machine.wait_for_target("graphical.target", 600)
            machine.succeed("nm-online --timeout=120")
            machine.wait_until_succeeds("pgrep -x openbox")
            machine.execute("systemctl is-system-running --wait", 600)
            facts = {
                f"{kind} {line.strip()}"
                for kind, command in FACTS.items()
                for line in machine.execute(command)[1].splitlines()
            }
            machine.screenshot(directory / f"{name}.png")
            machine.power_off()
            machine.finish()
            own = {link.mac for link in machine.guest.links}
            sent = [frame for link in machine.links for frame in machine.frames(link)
                    if frame.src in own]  # fmt: skip
            return Seen(frozenset(facts), sent)
        except BaseException as err:
            machine.keep_evidence(EVIDENCE / name)
            err.add_note(f"kept in {EVIDENCE / name}")
            raise


@pytest.fixture(scope="module")
def boots() -> Iterator[tuple[Seen, Seen]]:
    """Both boots: with our layer, and without."""
    directory = Path(tempfile.mkdtemp(prefix="tp-vm-", dir="/var/tmp"))
    with ThreadPoolExecutor(2) as pool:
        with_us = pool.submit(boot, "ordinary-boot", directory, ours=True)
        without = pool.submit(boot, "ordinary-boot-without-us", directory, ours=False)
        yield with_us.result(), without.result()
    shutil.rmtree(directory)


def test_ordinary_boot_has_its_network_and_its_frames_are_seen(boots: tuple[Seen, Seen]) -> None:
    for seen in boots:
        # NetworkManager asks for a lease: what quarantine must never do.
        assert any(DHCP in frame for frame in seen.sent)


def test_boots_differ_only_where_the_list_says_so(boots: tuple[Seen, Seen]) -> None:
    with_us, without = (seen.facts for seen in boots)
    differences = sorted(
        {f"+ {fact}" for fact in with_us - without} | {f"- {fact}" for fact in without - with_us}
    )
    patterns = read_patterns()
    unexpected = [
        line for line in differences
        if not any(fnmatchcase(line, pattern) for pattern in patterns)
    ]  # fmt: skip
    assert unexpected == []
    stale = [
        pattern for pattern in patterns
        if not any(fnmatchcase(line, pattern) for line in differences)
    ]  # fmt: skip
    assert stale == []


def read_patterns() -> list[str]:
    """Each line is a pattern, two blanks or more, ``#``, and its reason."""
    lines = [line for line in DIFFERENCES.read_text().splitlines() if line[:1] != "#"]
    assert len(lines) <= MAX_DIFFERENCES
    parts = [re.fullmatch(r"(\S.*?)\s+# \S.*", line) for line in lines]
    assert all(parts), lines
    return [part[1] for part in parts if part]
