# SPDX-License-Identifier: GPL-3.0-or-later
"""``tails-profiles host`` with the real VirtualBox, as far as it goes without its kernel driver."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tails_profiles import launch, settings, vboxmanage
from tails_profiles.launch import HostFacts, VirtualBoxFacts
from tails_profiles.profile import GUESTS
from tests.virtualbox.inside import FACTS
from tests.virtualbox.test_plan import TOR, UUID, Host
from tests.virtualbox.world import CALL, ENVIRONMENT, TOP, VirtualBox

pytestmark = pytest.mark.virtualbox

IMAGE = "/srv/image.iso"
DIRECTORY = Path("/run/tails-profiles-host")
START = ("start", "--hypervisor", "virtualbox", "--image", IMAGE)
PLAN = ("plan", *START[1:])
PYTHON = {"PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def host() -> Iterator[Host]:
    with VirtualBox([TOP]) as box:
        box.path(IMAGE).write_bytes(bytes(2048 * 100))
        yield Host(box)


def command(host: Host, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return host.box.run("python3", "-m", "tails_profiles", "host", *words, **PYTHON, **environment)


def driver(host: Host) -> None:
    """A device that is there and does nothing: past the first look, to the machines."""
    assert host.box.run("mknod", "-m", "600", "/dev/vboxdrv", "c", "10", "250").returncode == 0


def owner(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except FileNotFoundError:
        return 0  # it ended meanwhile


def left(host: Host) -> tuple[str, ...]:
    """What there is of a launch: files, processes, rules."""
    paths = host.box.run("find", "/run", "/tmp", "/var/tmp", "/dev/shm").stdout.split()
    return (
        *(path for path in paths if "vbox-test-ipc" not in path and "/run/systemd" not in path),
        # The tests' own VBoxSVC, which comes and goes, is root's.
        *(words for pid, words in host.box.processes().items() if owner(pid) != 0),
        *host.box.run("nft", "list", "ruleset").stdout.splitlines(),
    )


def test_without_the_driver_it_is_said_before_anything_is_made(host: Host) -> None:
    before = left(host)
    done = command(host, *START)
    assert done.returncode == 7
    assert done.stderr == (
        "tails-profiles: VirtualBox's kernel driver is not loaded\n"
        "  there is none for this kernel: install virtualbox-dkms and the linux-headers of it, or"
        " run /sbin/vboxconfig\n"
    )
    assert left(host) == before


def test_with_a_driver_that_fails_everything_is_made_said_and_taken_back(host: Host) -> None:
    driver(host)
    command(host, "stop")
    before = left(host)
    done = command(host, *START)
    assert done.returncode == 7
    assert "tor-guest: starting" in done.stderr
    assert "tor-guest: the virtual machine ended, before it said a word" in done.stderr
    # In the real one's own words or ours for them.
    assert "VirtualBox said: its kernel driver is not there, or cannot be used" in done.stderr
    assert left(host) == before


def test_plan_changes_nothing_and_names_no_caller(host: Host) -> None:
    before = left(host)
    done = command(host, *PLAN, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["hypervisor"] == "virtualbox"
    assert left(host) == before
    shown = command(host, *PLAN).stdout
    assert "/usr/lib/virtualbox/VBoxManage createvm" in shown
    assert ENVIRONMENT["VBOX_USER_HOME"] not in shown


def test_printed_plan_is_carried_out_by_bash_and_its_reading_back_is_real(host: Host) -> None:
    shown = command(host, *PLAN).stdout
    done = host.box.run("bash", stdin=shown)
    # As far as the driver: the machine's process ends.
    assert done.returncode != 0
    assert "No such process" in done.stderr
    made = host.manage(TOR, "list", "vms")
    assert UUID[TOR] in made
    assert host.info(TOR)["cableconnected1"] == "off"
    assert command(host, "stop").returncode == 0
    # What VirtualBox does not say ends it there.
    wrong = shown.replace("\ncableconnected1=off\n", "\ncableconnected1=on\n", 1)
    done = host.box.run("bash", stdin=wrong)
    assert done.returncode != 0
    assert "it is not so: \ncableconnected1=on" in done.stderr
    assert "No such process" not in done.stderr
    command(host, "stop")
    wrong = shown.replace("Value: tails-profile:tor-guest\n", "Value: tails-profile:app-guest\n", 1)
    assert "it is not so" in host.box.run("bash", stdin=wrong).stderr


@contextmanager
def hanging_start(host: Host) -> Iterator["subprocess.Popen[str]"]:
    """A start whose first machine runs and says nothing; it goes on behind the caller."""
    process = subprocess.Popen(
        [*host.box.enter, "python3", "-m", "tails_profiles", "host", *START],
        env={**ENVIRONMENT, **PYTHON}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said: list[str] = []
    while not said or (said[-1] and said[-1] != "tor-guest: starting\n"):
        said.append(process.stderr.readline())
    assert said[-1], said
    yield process
    process.wait(CALL)
    process.stderr.close()


def launcher_of(host: Host) -> int:
    return next(
        pid for pid, words in host.box.processes("python3").items() if "host start" in words
    )


def test_start_that_is_killed_is_taken_up_by_the_next_and_an_interrupted_one_taken_back(
    host: Host,
) -> None:
    driver(host)
    command(host, "stop")
    before = left(host)
    front_end = host.box.path("/usr/lib/virtualbox/VBoxHeadless")
    front_end.unlink()
    front_end.write_text("#!/bin/sh\nexec sleep 1000000\n")
    front_end.chmod(0o755)
    with hanging_start(host):
        os.kill(launcher_of(host), signal.SIGKILL)
    assert UUID[TOR] in host.manage(TOR, "list", "vms")
    host.end("sleep")
    # Whatever else is in a machine's folder shows that it is the same one.
    folder = vboxmanage.home(TOR, DIRECTORY) / "machines/tor-guest"
    host.box.path(folder / "witness").touch()
    with hanging_start(host):
        assert host.box.path(folder / "witness").exists()
        os.kill(launcher_of(host), signal.SIGINT)
    assert left(host) == before


def test_stop_leaves_nothing(host: Host) -> None:
    before = left(host)
    host.box.run("bash", stdin=command(host, *PLAN).stdout)
    assert left(host) != before
    done = command(host, "stop")
    assert (done.returncode, done.stderr) == (0, "")
    assert left(host) == before


def test_systemd_knows_every_property_of_the_units(host: Host) -> None:
    facts = HostFacts(
        8192, FACTS.image, kvm=False, systemd=True, now=FACTS.now,
        virtualbox=VirtualBoxFacts((7, 2), None),
    )  # fmt: skip
    made = launch.plan(
        Path(IMAGE), DIRECTORY, facts,
        {profile: settings.defaults(profile) for profile in GUESTS}, dict.fromkeys(GUESTS, 0.0),
        i2p=True,
    )  # fmt: skip
    for guest in made.guests:
        words = vboxmanage.start_command(guest, made, None).argv
        assert words[0] == "/usr/bin/systemd-run"
        lines = [
            word.removeprefix("--property=") for word in words if word.startswith("--property")
        ]
        assert len(lines) > 15
        # The one that belongs to the other section.
        description, *service = sorted(lines, key=lambda line: not line.startswith("Description="))
        text = ["[Service]", "ExecStart=/bin/true", *service]
        path = f"/run/systemd/system/{guest.profile}-checked.service"
        host.box.path(path).parent.mkdir(parents=True, exist_ok=True)
        host.box.path(path).write_text("\n".join(["[Unit]", description, *text, ""]))
        done = host.box.run("systemd-analyze", "verify", "--man=no", path)
        assert "checked.service" not in done.stderr, done.stderr
        # It would have said so.
        host.box.path(path).write_text("\n".join(["[Unit]", description, *text, "Wrong=yes", ""]))
        assert "checked.service" in host.box.run("systemd-analyze", "verify", path).stderr
