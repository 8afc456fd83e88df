# SPDX-License-Identifier: GPL-3.0-or-later
"""Real boots of a real systemd: what each token becomes, and that every sabotage ends link DOWN.

The rows are those in which a link came up with other arrangements; the first test shows that here,
too, it comes up without us.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.dhcp import is_request
from tests.sabotage.boot import APP_LINKS, I2P_LINKS, TOR_LINKS, Boot, Machine
from tests.sabotage.expect import (
    APP,
    BAD,
    DEAD_GENERATOR,
    I2P,
    I2P_BUNDLE,
    MANAGES_ALL,
    OTHER_LINK,
    QUARANTINE,
    TOR,
    quarantined,
)
from tests.sabotage.root import layer

pytestmark = [pytest.mark.lab, pytest.mark.boots]


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
    with Boot(Machine(dmi=dmi, links=links, files=I2P_BUNDLE), work) as boot:
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
        said = [f"tails-profiles 1 {profile} {word}" for word in ("selected", "firewall")]
        assert boot.said("ttyS0").splitlines() == (said if profile != "app-guest" else [])
        status = boot.succeed("tails-profiles status")
        assert "in force" in status
        # A gateway without a settings disk asks for a lease; nothing else was sent by itself.
        assert all(is_request(frame) for frame in boot.frames())


@pytest.mark.parametrize("files", [{}, MANAGES_ALL], ids=["ours", "anti-test"])
def test_network_manager_sees_our_link_and_leaves_a_late_card_alone(
    files: dict[str, str], work: Path
) -> None:
    with Boot(Machine(dmi=APP, links=APP_LINKS, files=files), work) as boot:
        boot.wait_until_settled()
        # "connected" is what programs ask for before they try the network at all.
        boot.succeed("nm-online --exit --quiet --timeout=30")
        assert "connected (externally)" in boot.succeed("nmcli device")
        assert "10.1.2.3/29" in boot.succeed("ip -brief address show dev tor")
        boot.succeed("ip link add late type veth peer name end && ip link set end up")
        state = "connected" if files else "unmanaged"
        boot.succeed(
            "timeout 30 sh -c 'until nmcli --get-values GENERAL.STATE device show late"
            f" | grep -q {state}; do sleep 0.1; done'"
        )
        assert ("late" in boot.links_up()) == bool(files)


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
        pytest.param(
            "usr/lib/tails-profiles/rulesets/tor-guest-tcp.nft",
            "table inet tails_profiles {\n",
            marks=pytest.mark.broad,
        ),
        ("usr/lib/tails-profiles/rulesets/tor-guest-tcp.inner.nft", None),
        pytest.param("usr/lib/tails-profiles/held/tor-guest", None, marks=pytest.mark.broad),
    ],
)
def test_missing_or_damaged_part_of_a_gateway_leaves_every_link_down(
    path: str, text: str | None, work: Path
) -> None:
    machine = Machine(dmi=TOR, links=TOR_LINKS, files={path: text})
    with Boot(machine, work) as boot:
        quarantined(boot)


def test_missing_account_leaves_lockdown_and_every_link_down(work: Path) -> None:
    passwd = "root:x:0:0::/root:/bin/sh\nmessagebus:x:100:100::/:/usr/sbin/nologin\n"
    with Boot(Machine(dmi=TOR, links=TOR_LINKS, files={"etc/passwd": passwd}), work) as boot:
        quarantined(boot, "nft refused tor-guest-tcp.nft")


@pytest.mark.parametrize("unit", ["lockdown", "firewall", "links"])
@pytest.mark.parametrize(
    ("dmi", "links"),
    [
        pytest.param(TOR, TOR_LINKS, id="tor"),
        pytest.param(APP, APP_LINKS, id="app", marks=pytest.mark.broad),
    ],
)
def test_masked_step_ends_in_quarantine_before_anything_of_the_profile(
    unit: str, dmi: dict[str, bytes], links: dict[str, str], work: Path
) -> None:
    machine = Machine(
        dmi=dmi, links={**links, "eth2": OTHER_LINK["eth0"]},
        masked=[f"tails-profiles-{unit}.service"],
    )  # fmt: skip
    with Boot(machine, work) as boot:
        quarantined(
            boot, f"tails-profiles-{unit}.service has not done its work (masked)",
            reason="links" if unit == "links" else "ruleset",
        )  # fmt: skip
        started = boot.succeed("journalctl --output=cat _PID=1 --grep='^(Started|Listening|Mount)'")
        for name in ("tor-port", "i2p-port", "tails-profiles-tor", "display", "resolv.conf"):
            assert name not in started


def test_without_the_guard_a_masked_step_leaves_half_a_profile(work: Path) -> None:
    # The target with nothing but wishes: the desktop of an app-guest that has no rules.
    target = "usr/lib/systemd/system/tails-profiles-app-guest.target"
    text = (layer() / target).read_text()
    files = {target: text.replace("BindsTo=tails-profiles-guard.service\n", "")}
    assert files[target] != text
    machine = Machine(
        dmi=APP, links=APP_LINKS, files=files, masked=["tails-profiles-lockdown.service"]
    )
    without = {
        f"usr/lib/systemd/system/{unit}": None
        for unit in ("tails-profiles-guard.service", "etc-resolv.conf.mount")
    }
    files[target] = "".join(
        line for line in files[target].splitlines(keepends=True)
        if not line.startswith(("OnFailure", "Requires=tails"))
    )  # fmt: skip
    with Boot(replace(machine, files={**files, **without}), work) as boot:
        boot.wait_until_settled()
        assert boot.is_active("tails-profiles-app-guest.target"), boot.journal()
        assert boot.is_active("display-manager.service")
        assert boot.tables() == set()


def on_the_screen(unit: str, own: str = "", end: str = "") -> dict[str, str | None]:
    """A unit that runs already when a step fails; as real ones do, it clears its screen at its end.

    ``own`` are lines of its own, ``end`` is what it does before.
    """
    return {
        f"etc/systemd/system/{unit}": (
            f"[Unit]\nDefaultDependencies=no\n{own}[Service]\nExecStart=/usr/bin/sleep infinity\n"
            f"ExecStopPost=/bin/sh -c '{end}echo CLEARED >/dev/tty1'\n"
        ),
        "etc/systemd/system/sysinit.target.d/screen.conf": f"[Unit]\nWants={unit}\n",
        "usr/lib/tails-profiles/rulesets/tor-guest-tcp.inner.nft": None,
    }


GETTY = on_the_screen("getty@tty9.service", "IgnoreOnIsolate=yes\n")
# Isolating ends it, while quarantine begins: slowly, on a machine that has much to do.
MONITOR = on_the_screen("tails-profiles-monitor.service", end="sleep 1; ")


@pytest.mark.parametrize("files", [GETTY, MONITOR], ids=["getty", "monitor"])
def test_who_has_the_screen_already_is_gone_before_there_are_words(
    files: dict[str, str | None], work: Path
) -> None:
    with Boot(Machine(dmi=TOR, links=TOR_LINKS, files=files), work) as boot:
        quarantined(boot)
        assert not boot.is_active("getty@tty9.service")
        words = boot.said("tty1")
        assert 0 <= words.find("CLEARED") < words.find("QUARANTINE")


def test_isolating_alone_leaves_a_getty(work: Path) -> None:
    program = "usr/lib/tails-profiles/quarantine"
    lines = (layer() / program).read_text().splitlines(keepends=True)
    kept = "".join(line for line in lines if "systemctl stop" not in line)
    assert kept != "".join(lines)
    machine = Machine(dmi=TOR, links=TOR_LINKS, files={**GETTY, program: kept})
    with Boot(machine, work) as boot:
        boot.wait_until_settled()
        assert boot.is_active(QUARANTINE)
        assert boot.is_active("getty@tty9.service")


def test_quarantine_writes_once_where_the_console_is_the_screen(work: Path) -> None:
    with Boot(Machine(dmi=BAD, links=TOR_LINKS, consoles="tty0"), work) as boot:
        boot.wait_until_settled()
        assert boot.is_active(QUARANTINE)
        assert boot.console().count("QUARANTINE") == 1
        assert boot.said("tty1") == ""


def test_masked_guard_starts_nothing(work: Path) -> None:
    machine = Machine(
        dmi=APP, links={**APP_LINKS, "eth2": OTHER_LINK["eth0"]},
        masked=["tails-profiles-guard.service"],
    )  # fmt: skip
    # The target requires it: PID 1 names it and freezes (here it ends).
    with Boot(machine, work) as boot:
        assert boot.wait_until_settled() == "stopped"
        assert boot.frames() == []


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
