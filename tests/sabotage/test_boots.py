# SPDX-License-Identifier: GPL-3.0-or-later
"""Real boots of a real systemd: what each token becomes, and that every sabotage ends link DOWN.

The rows are those in which a link came up with other arrangements; the first test shows that here,
too, it comes up without us.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.lab.dhcp import is_request
from tests.sabotage.boot import APP_LINKS, I2P_LINKS, TOR_LINKS, Boot, Machine

pytestmark = [pytest.mark.lab, pytest.mark.boots]

TOR = {"bios_vendor": b"tails-profile:tor-guest", "product_serial": b"tails-profile:tor-guest"}
I2P = {"product_serial": b"tails-profile:i2p-guest"}
APP = {"bios_vendor": b"tails-profile:app-guest"}
BAD = {"bios_vendor": b"tails-profile:tor-guest "}
QUARANTINE = "tails-profiles-quarantine.target"
OTHER_LINK = {"eth0": "52:54:00:12:34:56"}
DEAD_GENERATOR = {"etc/systemd/system-generators/tails-profiles-generator": "#!/bin/sh\nexit 1\n"}
MANAGER = {
    # A manager that configures links by itself, as early as one can without being held.
    "etc/systemd/system/connman.service": (
        "[Unit]\nDefaultDependencies=no\nAfter=tails-profiles-firewall.service\n"
        "Before=tails-profiles-links.service\n"
        "[Service]\nType=oneshot\nExecStart=/usr/sbin/ip link set dev eth0 up\n"
    ),
}


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory on a tmpfs; whatever is mounted below it is in the boot's own namespace."""
    made = Path(mkdtemp(dir="/dev/shm", prefix="tails-profiles-"))
    yield made
    shutil.rmtree(made)


def quarantined(boot: Boot, *words: str) -> None:
    """The machine is in quarantine, alone: no link, no frame, no getty, no desktop, and words."""
    boot.wait_until_settled()
    assert boot.is_active(QUARANTINE), boot.journal()
    assert boot.links_up() == []
    assert boot.frames() == []
    for unit in ("console-getty.service", "display-manager.service", "NetworkManager.service"):
        assert not boot.is_active(unit), unit
    assert "inet tails_profiles" in boot.tables()
    for word in ("QUARANTINE", *words):
        assert word in boot.console()


def nothing_up(boot: Boot) -> None:
    """No link is up and nothing left, whatever else the machine is doing."""
    if boot.wait_until_settled() != "stopped":
        assert boot.links_up() == [], boot.journal()
    assert boot.frames() == []


def test_without_us_the_manager_raises_the_link_and_frames_leave(work: Path) -> None:
    with Boot(Machine(links=OTHER_LINK, ours=False), work) as boot:
        boot.wait_until_settled()
        boot.succeed("nm-online --quiet --timeout=30")
        assert boot.links_up() == ["eth0"]
        assert boot.frames() != []


def test_without_a_token_the_manager_raises_the_link_as_always(work: Path) -> None:
    with Boot(Machine(links=OTHER_LINK, dmi={"bios_vendor": b"SeaBIOS"}), work) as boot:
        boot.wait_until_settled()
        boot.succeed("nm-online --quiet --timeout=30")
        assert boot.links_up() == ["eth0"]
        assert boot.is_active("display-manager.service")
        assert boot.tables() == set()
        assert boot.execute("ls -A /run/systemd/generator.early /run/tails-profiles")[1].count(
            "No such file"
        ) == 2 or boot.fail("test -e /run/tails-profiles")
        for unit in ("lockdown", "firewall", "links"):
            assert boot.is_active(f"tails-profiles-{unit}.service")


@pytest.mark.parametrize(
    ("dmi", "links", "names", "tables"),
    [
        (TOR, TOR_LINKS, ["inner", "uplink"], {"inner", "uplink"}),
        (I2P, I2P_LINKS, ["inner", "uplink"], {"inner", "uplink"}),
        (APP, APP_LINKS, ["tor"], {"tor"}),
    ],
    ids=["tor-guest", "i2p-guest", "app-guest"],
)
def test_token_raises_the_links_of_its_profile_with_their_rules(
    dmi: dict[str, bytes], links: dict[str, str], names: list[str], tables: set[str], work: Path
) -> None:
    with Boot(Machine(dmi=dmi, links=links), work) as boot:
        boot.wait_until_settled()
        assert sorted(boot.links_up()) == names, boot.journal()
        assert boot.tables() == {
            "inet tails_profiles",
            *(f"netdev tails_profiles_{table}" for table in tables),
        }
        profile = next(iter(dmi.values())).decode().removeprefix("tails-profile:")
        target = f"tails-profiles-{profile}.target"
        # A gateway's target is reached when its services have started, after a lease.
        boot.succeed(f"systemctl is-active {target} || systemctl list-jobs | grep -F {target}")
        assert not boot.is_active("tor@default.service")
        assert boot.is_active("display-manager.service") == (profile == "app-guest")
        status = boot.succeed("tails-profiles status")
        assert "in force" in status
        # A gateway without a settings disk asks for a lease; nothing else was sent by itself.
        assert all(is_request(frame) for frame in boot.frames())


def test_bad_token_ends_in_quarantine_and_names_the_field(work: Path) -> None:
    with Boot(Machine(dmi=BAD, links=TOR_LINKS), work) as boot:
        quarantined(boot, "bios_vendor")


def test_bad_token_with_a_dead_generator_ends_in_quarantine_alone(work: Path) -> None:
    with Boot(Machine(dmi=BAD, links=OTHER_LINK, files=DEAD_GENERATOR), work) as boot:
        quarantined(boot, "bios_vendor")


def test_valid_token_with_a_dead_generator_ends_in_quarantine(work: Path) -> None:
    with Boot(Machine(dmi=TOR, links=TOR_LINKS, files=DEAD_GENERATOR), work) as boot:
        quarantined(boot, "tails-profiles-tor-guest.target")


def test_target_on_the_kernel_command_line_ends_in_quarantine(work: Path) -> None:
    machine = Machine(dmi=TOR, links=TOR_LINKS, arguments=["systemd.unit=multi-user.target"])
    with Boot(machine, work) as boot:
        quarantined(boot, "tails-profiles-tor-guest.target")


def test_uplink_in_app_guest_ends_in_quarantine(work: Path) -> None:
    links = {**APP_LINKS, "eth1": "00:55:44:33:22:21"}
    with Boot(Machine(dmi=APP, links=links), work) as boot:
        quarantined(boot, "00:55:44:33:22:21")


def test_second_uplink_in_tor_guest_ends_in_quarantine(work: Path) -> None:
    with Boot(Machine(dmi=TOR, links={**TOR_LINKS, "eth2": TOR_LINKS["eth0"]}), work) as boot:
        quarantined(boot, "same MAC")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("usr/lib/tails-profiles/rulesets/tor-guest-tcp.nft", None),
        ("usr/lib/tails-profiles/rulesets/tor-guest-tcp.nft", "table inet tails_profiles {\n"),
        ("usr/lib/tails-profiles/rulesets/tor-guest-tcp.inner.nft", None),
        ("usr/lib/tails-profiles/rulesets/lockdown.nft", None),
        ("usr/lib/tails-profiles/classify.sh", None),
        ("usr/lib/tails-profiles/held/tor-guest", None),
        ("usr/sbin/nft", None),
        ("usr/lib/python3/dist-packages/pyudev", None),
        ("usr/lib/python3/dist-packages/tails_profiles/boot.py", "raise RuntimeError('broken')\n"),
    ],
)
def test_missing_or_damaged_part_leaves_every_link_down(
    path: str, text: str | None, work: Path
) -> None:
    machine = Machine(dmi=TOR, links={**TOR_LINKS}, files={path: text})
    with Boot(machine, work) as boot:
        nothing_up(boot)
        assert not boot.is_active("NetworkManager.service")


def test_missing_account_leaves_lockdown_and_every_link_down(work: Path) -> None:
    passwd = "root:x:0:0::/root:/bin/sh\nmessagebus:x:100:100::/:/usr/sbin/nologin\n"
    with Boot(Machine(dmi=TOR, links=TOR_LINKS, files={"etc/passwd": passwd}), work) as boot:
        quarantined(boot, "nft refused tor-guest-tcp.nft")


@pytest.mark.parametrize("unit", ["lockdown", "firewall", "links"])
def test_masked_step_leaves_every_link_down(unit: str, work: Path) -> None:
    machine = Machine(
        dmi=APP, links={**APP_LINKS, "eth1": OTHER_LINK["eth0"]},
        masked=[f"tails-profiles-{unit}.service"],
    )  # fmt: skip
    # The target requires all three: PID 1 says which is masked and freezes (here it ends).
    with Boot(machine, work) as boot:
        nothing_up(boot)


@pytest.mark.parametrize("unit", ["lockdown", "firewall", "links"])
def test_masked_step_holds_the_managers_in_another_target(unit: str, work: Path) -> None:
    machine = Machine(
        dmi=APP, links=OTHER_LINK, files=DEAD_GENERATOR, masked=[f"tails-profiles-{unit}.service"]
    )
    with Boot(machine, work) as boot:
        nothing_up(boot)
        boot.fail("systemctl start NetworkManager.service")
        boot.execute("nmcli networking on")
        boot.execute(
            "busctl --timeout=5 call org.freedesktop.NetworkManager /org/freedesktop/NetworkManager"
            " org.freedesktop.DBus.Peer Ping"
        )
        nothing_up(boot)
        assert not boot.is_active("NetworkManager.service")


def test_failing_step_is_not_passed_by_activation_over_the_bus(work: Path) -> None:
    with Boot(Machine(dmi=BAD, links=OTHER_LINK), work) as boot:
        quarantined(boot)
        for manager in ("NetworkManager", "networking", "systemd-networkd", "ifup@eth0"):
            boot.fail(f"systemctl start {manager}")
        nothing_up(boot)


def test_manager_between_firewall_and_links_is_held_until_links(work: Path) -> None:
    links = {**APP_LINKS, "eth1": OTHER_LINK["eth0"]}
    # Ordered against our drop-in, its start is a contradiction; the unknown link is an error.
    with Boot(Machine(dmi=APP, links=links, files=MANAGER), work) as boot:
        nothing_up(boot)


def test_stopping_and_restarting_our_units_opens_nothing(work: Path) -> None:
    with Boot(Machine(dmi=TOR, links=TOR_LINKS), work) as boot:
        boot.wait_until_settled()
        before = boot.tables()
        boot.execute(
            "systemctl stop tails-profiles-links tails-profiles-firewall tails-profiles-lockdown"
        )
        boot.wait_until_settled()
        assert "inet tails_profiles" in boot.tables()
        assert before
        assert all(is_request(frame) for frame in boot.frames())


def test_leaving_quarantine_leads_back_to_it(work: Path) -> None:
    with Boot(Machine(dmi=BAD, links=TOR_LINKS), work) as boot:
        quarantined(boot)
        # What sulogin does when the user leaves an emergency shell.
        boot.execute("systemctl isolate rescue.target")
        boot.execute("systemctl default")
        quarantined(boot)
