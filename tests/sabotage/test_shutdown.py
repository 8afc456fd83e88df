# SPDX-License-Identifier: GPL-3.0-or-later
"""At shutdown the firewall is the last thing standing, in every guest; and they end in time."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.sabotage.boot import APP_LINKS, FACTOR, I2P_LINKS, TOR_LINKS, Boot, Machine
from tests.sabotage.expect import APP, BAD, I2P, I2P_BUNDLE, TOR, quarantined

pytestmark = [pytest.mark.lab, pytest.mark.boots]

#: Seconds within which every guest answers the power button.
PATIENCE = 10.0

# Nobody ends it before the last step of a shutdown kills what is left: it hears no SIGTERM, and
# its unit's stop ends nothing. It sends as DHCP clients do, by a packet socket, all the time.
TALKER = """\
#!/usr/bin/python3 -I
import signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sender.bind(("tor", 0))
print("talking", flush=True)
while True:
    try:
        sender.send(bytes.fromhex("ffffffffffff 020000000002 0800") + bytes(300))
    except OSError:
        pass
    time.sleep(0.002)
"""
TALKING = {
    "usr/sbin/talker": TALKER,
    "etc/systemd/system/talker.service": (
        "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/sbin/talker\nKillMode=none\n"
    ),
    # What the very last step waits before it kills what did not hear SIGTERM.
    "etc/systemd/system.conf.d/lab.conf": "[Manager]\nDefaultTimeoutStopSec=1s\n",
}
# What Debian's nftables.service does when it is stopped.
OPENING = {
    "etc/systemd/system/tails-profiles-links.service.d/open.conf": (
        "[Service]\nExecStop=/usr/sbin/nft flush ruleset\n"
    )
}


def power_off(boot: Boot) -> float:
    """Power the machine off; returns the seconds until PID 1 was gone."""
    begin = time.monotonic()
    boot.execute("systemctl poweroff --no-block")
    boot.process.wait(timeout=60 * FACTOR)
    return time.monotonic() - begin


def talk(boot: Boot) -> None:
    boot.wait_until_settled()
    assert boot.links_up() == ["tor"]
    boot.succeed("systemctl start talker")
    while "talking" not in boot.succeed("journalctl --unit=talker --output=cat"):
        pass


def rules(network: int) -> str:
    """The rule set of an open network namespace, without its counters."""
    return subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{network}", "nft", "--stateless", "list", "ruleset"],
        capture_output=True, text=True, check=True, pass_fds=[network],
    ).stdout  # fmt: skip


def test_rules_outlive_everything_that_could_send(work: Path) -> None:
    with Boot(Machine(dmi=APP, links=APP_LINKS, files=TALKING), work) as boot:
        talk(boot)
        # Held open here, the network is still there when whoever was in it is not.
        network = os.open(f"/proc/{boot.pid}/ns/net", os.O_RDONLY)
        before = rules(network)
        assert "netdev tails_profiles_tor" in before
        power_off(boot)
        assert rules(network) == before
        os.close(network)
        assert boot.frames() == []


def test_rules_that_are_flushed_when_their_unit_stops_let_it_send(work: Path) -> None:
    machine = Machine(dmi=APP, links=APP_LINKS, files={**TALKING, **OPENING})
    with Boot(machine, work) as boot:
        talk(boot)
        assert boot.frames() == []
        power_off(boot)
        assert boot.frames() != []


@pytest.mark.parametrize(
    ("dmi", "links"),
    [
        pytest.param(TOR, TOR_LINKS, id="tor-guest"),
        pytest.param(I2P, I2P_LINKS, id="i2p-guest", marks=pytest.mark.broad),
        pytest.param(BAD, TOR_LINKS, id="quarantine", marks=pytest.mark.broad),
    ],
)
def test_power_button_is_answered_in_time(
    dmi: dict[str, bytes], links: dict[str, str], work: Path
) -> None:
    with Boot(Machine(dmi=dmi, links=links, files=I2P_BUNDLE), work) as boot:
        if dmi is BAD:
            quarantined(boot, reason="token")
        boot.wait_until_settled()
        assert boot.is_active("systemd-logind.service")
        key = boot.succeed(
            "busctl get-property org.freedesktop.login1 /org/freedesktop/login1"
            " org.freedesktop.login1.Manager HandlePowerKey"
        )
        assert "poweroff" in key
        assert power_off(boot) < PATIENCE * FACTOR
