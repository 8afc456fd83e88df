# SPDX-License-Identifier: GPL-3.0-or-later
"""Where systemd runs, each guest's machine is a transient unit: the same launch, by systemd 257.

A Debian root directory with QEMU is booted in namespaces (tests/sabotage/boot.py), and the command
is run in it, from this source tree, with tiny guests.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch import tiny
from tests.launch.world import run
from tests.sabotage.boot import Boot, Machine

pytestmark = [pytest.mark.slow, pytest.mark.vm]

TOP = Path(__file__).parents[2]
MACHINE = Machine(ours=False, extra=("qemu-system-x86", "seabios"))
#: Under /tmp, which is another one for a unit with PrivateTmp=.
IMAGE, FAILING = "/tmp/a, image.iso", "/tmp/failing.iso"
USERS = {
    "tails-profiles-vm-tor-guest.service": "tails-profiles-gateway",
    "tails-profiles-vm-app-guest.service": "tails-profiles-app",
}
UNITS = tuple(USERS)
ENVIRONMENT = "PYTHONPATH=/srv/source:/srv/source/.build/python"
STATE = "/run/tails-profiles-host"


class Host:
    """The booted machine, and the command in it."""

    def __init__(self, boot: Boot) -> None:
        self.boot = boot

    def tails_profiles(self, words: str) -> tuple[int, str]:
        return self.boot.execute(f"env {ENVIRONMENT} python3 -m tails_profiles host {words}", 400)

    def pid(self, unit: str) -> str:
        return self.boot.succeed(f"systemctl show --property=MainPID --value {unit}").strip()

    def status(self) -> dict[str, Any]:
        return json.loads(self.boot.succeed(
            f"env {ENVIRONMENT} python3 -m tails_profiles host status --json"
        ))  # fmt: skip

    def nothing_is_left(self) -> None:
        listed = self.boot.succeed("systemctl list-units --all --no-legend 'tails-profiles-vm-*'")
        assert listed.strip() == ""
        assert self.boot.execute("pgrep qemu")[0] == 1
        assert "tails_profiles_host" not in self.boot.succeed("nft list tables")
        assert self.boot.succeed("ls -A /run | grep tails || true") == ""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="tp-systemd-", dir="/var/tmp") as name:
        work = Path(name)
        run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", name)
        try:
            source = work / "upper/srv/source"
            for part in ("tails_profiles", "nft", "sysusers", ".build/python"):
                shutil.copytree(TOP / part, source / part)
            with Boot(MACHINE, work) as boot:
                boot.wait_until_settled()
                inside = Path(f"/proc/{boot.pid}/root/tmp")
                tiny.image(inside / Path(IMAGE).name)
                tiny.image(inside / Path(FAILING).name, at="firewall", do="fail:links")
                yield Host(boot)
        finally:
            run("umount", name)


@pytest.fixture
def running(host: Host) -> Iterator[Host]:
    status, text = host.tails_profiles(f"start --image '{IMAGE}'")
    assert status == 0, text + host.boot.journal()
    yield host
    assert host.tails_profiles("stop")[0] == 0
    host.nothing_is_left()


def test_each_machine_is_a_unit_with_its_user_and_no_privilege(running: Host) -> None:
    boot = running.boot
    for unit, user in USERS.items():
        pid = running.pid(unit)
        assert boot.succeed(f"cat /proc/{pid}/comm").strip() == "qemu-system-x86"
        number = boot.succeed(f"id -u {user}").strip()
        facts = dict(
            line.split(":\t", 1)
            for line in boot.succeed(f"cat /proc/{pid}/status").splitlines() if ":\t" in line
        )  # fmt: skip
        assert facts["Uid"].split() == [number] * 4
        group = boot.succeed("getent group tails-profiles-link").split(":")[2]
        # systemd names the user's own group among them.
        assert set(facts["Groups"].split()) == {facts["Gid"].split()[0], group}
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(facts[name], 16) == 0
        assert (facts["NoNewPrivs"].strip(), facts["Seccomp"].strip()) == ("1", "2")


def test_app_guest_s_unit_has_no_link_but_lo(running: Host) -> None:
    app, tor = (running.pid(unit) for unit in reversed(UNITS))
    inside = running.boot.succeed(f"nsenter --net --target={app} ip -oneline link show")
    assert [line.split(": ")[1] for line in inside.splitlines()] == ["lo"]
    own = running.boot.succeed("readlink /proc/self/ns/net")
    assert running.boot.succeed(f"readlink /proc/{tor}/ns/net") == own
    assert running.boot.succeed(f"readlink /proc/{app}/ns/net") != own


def test_a_unit_may_write_to_its_own_directories_alone(running: Host) -> None:
    boot = running.boot
    for unit, profile in zip(UNITS, ("tor-guest", "app-guest"), strict=True):
        enter = f"nsenter --mount --root --target={running.pid(unit)}"
        for path in (f"{STATE}/{profile}", f"{STATE}/links"):
            assert boot.execute(f"{enter} touch {path}/x") == (0, ""), path
        boot.succeed(f"rm {STATE}/links/x")
        # Not even root could write in there.
        for path in ("/etc", "/var", "/root", "/usr", f"'{IMAGE}'"):
            assert boot.execute(f"{enter} test -w {path}")[0] == 1, path
        user = f"setpriv --reuid={USERS[unit]}"
        assert boot.execute(f"{enter} {user} --clear-groups test -w {STATE}")[0] == 1


def test_status_knows_the_units_and_stop_removes_them(running: Host) -> None:
    guests = running.status()["guests"]
    assert [str(guest["pid"]) for guest in guests] == [running.pid(unit) for unit in UNITS]
    assert [guest["running"] for guest in guests] == [True, True]
    status, text = running.tails_profiles("stop")
    assert (status, "did not power off" in text) == (0, False)
    assert running.tails_profiles("stop")[0] == 0


def test_guest_that_fails_leaves_no_unit_and_start_works_again(host: Host) -> None:
    status, text = host.tails_profiles(f"start --image {FAILING}")
    assert status == 7
    assert "tor-guest: failed: links" in text
    host.nothing_is_left()
    assert host.tails_profiles(f"start --image '{IMAGE}'")[0] == 0
    assert host.tails_profiles("stop")[0] == 0
    host.nothing_is_left()


def test_stop_by_systemctl_is_seen_and_a_failed_unit_is_not_in_the_way(host: Host) -> None:
    assert host.tails_profiles(f"start --image '{IMAGE}'")[0] == 0
    host.boot.succeed(f"systemctl kill --signal=KILL {UNITS[1]}")
    host.boot.succeed(f"systemctl stop {UNITS[0]}")
    assert "tor-guest: ended" in host.tails_profiles("status")[1]
    assert host.tails_profiles(f"start --image '{IMAGE}'")[0] == 0
    assert host.tails_profiles("stop")[0] == 0
    host.nothing_is_left()


def test_killed_launcher_and_its_stop(host: Host) -> None:
    command = f"env {ENVIRONMENT} python3 -m tails_profiles host start --image '{IMAGE}'"
    host.boot.succeed(
        f"{command} 2>/run/said &"
        " while ! grep -q selected /run/said; do sleep 0.1; done; kill -9 $!"
    )
    host.boot.succeed("rm /run/said")
    assert host.pid(UNITS[0]) != "0"
    assert host.tails_profiles("stop")[0] == 0
    host.nothing_is_left()
