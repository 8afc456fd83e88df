# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest sees the same machine on two hosts, but for what ``tests/data/residue.txt`` names.

The guest is what ``host start`` makes of a plan, with an image that looks at its machine. Nothing
is added to the machine: what the guest saw comes over its inner link.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tails_profiles.profile import Profile
from tests.same import compare, guest, hosts
from tests.same.hosts import Seen

pytestmark = pytest.mark.vm

KNOWN = compare.rows(compare.LIST.read_text())
#: Options of a plan, and what in their place must be noticed, in which files.
PLANTED = {
    "serial=0,model=medium": ("serial=1,model=medium", "ata-identity"),
    "tcg-cpuid=off": ("tcg-cpuid=on", "cpuid"),
    "loc_pfx=RAM,bank=0": ("loc_pfx=RAM,bank=1", "dmi.DMI"),
    "xres=1280": ("xres=1281", "edid"),
    "queue-size=1024": ("queue-size=256", "attributes"),
    "vapic=off": ("vapic=on", "fw-cfg.genroms-kvmvapic.bin"),
    "extended-tseg-mbytes=0": ("extended-tseg-mbytes=16", "pci.0000:00:00.0.config"),
    "pc-q35-7.2,vmport=off": ("pc-q35-7.2,vmport=on", "vmport"),
    "sku=,family=": ("sku=,family=rosa-laptop", "dmi.id"),
}


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    with TemporaryDirectory(prefix="tp-same-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield guest.image(Path(name) / "image.iso")


def look_twice(image: Path, profile: Profile) -> tuple[Seen, Seen]:
    """What a guest sees on each host; one processor for each, so both at once."""
    # Made before, and not by both.
    for host in hosts.two():
        hosts.prepare(host)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda host: hosts.look(host, image, profile), hosts.two())
    return one, other


@pytest.fixture(scope="module")
def seen(image: Path) -> tuple[Seen, Seen]:
    return look_twice(image, Profile.APP_GUEST)


def test_hosts_differ_in_everything_that_a_host_is_known_by(seen: tuple[Seen, Seen]) -> None:
    one, other = (each.facts for each in seen)
    assert one.keys() == other.keys()
    assert all(one.values())
    assert [name for name in one if one[name] == other[name]] == []


def test_guests_see_the_same_but_for_the_list(seen: tuple[Seen, Seen]) -> None:
    dumps = [compare.unpack(each.archive) for each in seen]
    for dump in dumps:
        compare.require_complete(dump)
    found = compare.differences(*dumps)
    assert compare.unexplained(found, KNOWN) == []
    assert compare.unneeded(found, KNOWN) == []


def told(seen: Seen) -> list[str]:
    """What of its host stands anywhere in what a guest saw."""
    everything = b"\n".join(compare.unpack(seen.archive).values()).lower()
    names = ("host name", "user", "link", "machine", "locale")
    return [name for name in names if seen.facts[name].lower().encode() in everything]


def test_nothing_of_a_host_is_in_its_guest(seen: tuple[Seen, Seen]) -> None:
    assert [told(each) for each in seen] == [[], []]


def test_port_of_vmware_is_silent(seen: tuple[Seen, Seen]) -> None:
    for each in seen:
        assert compare.unpack(each.archive)["same/vmport"].startswith(b"ffffffff 00000000 ")


def test_seeds_and_clocks_are_new_at_each_start(seen: tuple[Seen, Seen]) -> None:
    one, other = (compare.unpack(each.archive) for each in seen)
    assert compare.equal_where_fresh(one, other) == []


def test_clock_is_utc_within_its_offset(seen: tuple[Seen, Seen]) -> None:
    for each in seen:
        clock = int(compare.unpack(each.archive)["fresh/clock"])
        # Ten minutes, and what the guest took; every time zone of the hosts is hours away.
        assert abs(clock - int(each.facts["clock"])) < 1500
    assert {each.facts["time zone"] for each in seen} == {"-0400", "+0545"}


def test_planted_differences_are_found(image: Path, seen: tuple[Seen, Seen]) -> None:
    """On the same host: nothing but what was planted, and what time brings."""
    first, _ = hosts.two()
    words = [word for old, (new, _) in PLANTED.items() for word in (old, new)]
    changed = hosts.look(first, image, Profile.APP_GUEST, tuple(words))
    found = compare.differences(compare.unpack(seen[0].archive), compare.unpack(changed.archive))
    # Its name begins with its user's.
    assert told(changed) == ["host name", "user"]
    files = {each.file for each in compare.unexplained(found, KNOWN)}
    assert {file for _, file in PLANTED.values()} - files == set()


@pytest.mark.slow
def test_tor_guest_sees_the_same_but_for_the_list(image: Path) -> None:
    dumps = [compare.unpack(each.archive) for each in look_twice(image, Profile.TOR_GUEST)]
    for dump in dumps:
        compare.require_complete(dump, screen=False)
    found = compare.differences(*dumps)
    assert compare.unexplained(found, KNOWN) == []
    assert compare.unneeded(found, KNOWN) == []
