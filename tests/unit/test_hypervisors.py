# SPDX-License-Identifier: GPL-3.0-or-later
"""The same launch under VirtualBox: order, users, the link gate, and words for what goes wrong."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tails_profiles import hypervisors, launch_steps, vboxdrv, vboxmanage
from tails_profiles.command import Command
from tails_profiles.errors import LaunchError
from tails_profiles.launch import Display, LaunchPlan, VirtualBoxFacts
from tails_profiles.launch_steps import Await, CheckImage, Step
from tails_profiles.machine_steps import AwaitRunning, MakeMachine, Manage, Monitor, StartMachine
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.system import vbox
from tails_profiles.system.control import control
from tails_profiles.vboxdrv import DriverFacts
from tests.unit.test_launch import FACTS, SEEDS
from tests.unit.test_launch import plan as launch_plan

SCREEN = Display(":7", Path("/home/user/.Xauthority"))


def plan(display: Display | None = None, *, systemd: bool = False, i2p: bool = True) -> LaunchPlan:
    facts = replace(FACTS, virtualbox=VirtualBoxFacts((7, 2), display), systemd=systemd)
    return launch_plan(facts, i2p=i2p)


def steps(made: LaunchPlan) -> tuple[Step, ...]:
    return launch_steps.steps(made, SEEDS)


def started(made: LaunchPlan, profile: Profile) -> tuple[str, ...]:
    return next(
        step.command.argv
        for step in steps(made)
        if isinstance(step, StartMachine) and step.guest.profile is profile
    )


def test_plan_says_which_hypervisor_it_is_for() -> None:
    assert hypervisors.of(launch_plan()).name == "qemu"
    assert hypervisors.of(plan()).name == "virtualbox"
    assert hypervisors.of(plan()).accelerator(plan()) == "vboxdrv"
    found = launch_steps.to_json(plan(), steps(plan()))
    assert found["hypervisor"] == "virtualbox"
    assert {step["kind"] for step in found["steps"]} >= {"make", "manage", "await-running"}
    assert all(guest["argv"][-1] == "off" for guest in found["guests"])


def test_gateway_is_plugged_in_only_after_the_word() -> None:
    shown = [
        step.word if isinstance(step, Await) else step.call[3:] if isinstance(step, Manage) else ""
        for step in steps(plan())
        if isinstance(step, Await | StartMachine)
        or (isinstance(step, Manage) and "controlvm" in step.call)
    ]
    gateway = ["", "firewall", ("setlinkstate1", "on"), "ready"]
    assert shown == [*gateway, *gateway, ""]
    assert not any(isinstance(step, Monitor) for step in steps(plan()))


def test_machine_is_made_and_read_back_before_it_starts_and_the_image_compared_after() -> None:
    order = [
        type(step)
        for step in steps(plan(i2p=False))
        if isinstance(step, MakeMachine | StartMachine | AwaitRunning | CheckImage)
    ]
    each = [MakeMachine, StartMachine, AwaitRunning, CheckImage]
    assert order == [*each, *each, CheckImage]
    text = launch_steps.display(plan(), steps(plan()))
    for step in steps(plan()):
        assert step.display() in text
    made = next(step for step in steps(plan()) if isinstance(step, MakeMachine))
    assert "\nnic1=nat\n" in made.display()
    assert f"\nwhole {made.machine.settings_file}" in made.display()


@pytest.mark.parametrize("systemd", [False, True])
@pytest.mark.parametrize("profile", GUESTS)
def test_machines_process_is_its_own_and_has_its_users_rights(
    profile: Profile, systemd: bool
) -> None:
    words = started(plan(systemd=systemd), profile)
    assert words[-1] == "off"
    assert words[-2] == "--vrde"
    assert "/usr/lib/virtualbox/VBoxHeadless" in words
    assert "VBOX_HARD_CAP_NET_RAW=0" in words
    assert f"tails-profiles:/run/x/{profile}" in words
    home = "virtualbox-gateway" if profile.is_gateway else "virtualbox-app"
    assert f"VBOX_USER_HOME=/run/x/{home}/config" in words
    app = profile is Profile.APP_GUEST
    if systemd:
        assert f"--property=PrivateNetwork={'yes' if app else 'no'}" in words
        # Each of these would mean NoNewPrivileges=, with which the front end does not start.
        for key in ("NoNewPrivileges", "SystemCall", "RestrictNamespaces", "LockPersonality"):
            assert not any(word.startswith(f"--property={key}") for word in words)
    else:
        assert ("/usr/bin/unshare" in words) == app
        assert "--no-new-privs" not in words
        assert any("-net_raw,-net_admin" in word for word in words)


def test_app_guest_fills_a_screen_if_there_is_one_and_gateways_never_do() -> None:
    made = plan(SCREEN)
    app = started(made, Profile.APP_GUEST)
    assert {"DISPLAY=:7", "XAUTHORITY=/run/x/app-guest/xauthority"} <= set(app)
    assert app[-2:] == ("--fullscreen", "--no-startvm-errormsgbox")
    copies = [
        step.argv for step in steps(made) if isinstance(step, Command) and "/home/user" in str(step)
    ]
    assert [words[-1] for words in copies] == ["/run/x/app-guest/xauthority"]
    assert not any("DISPLAY" in word for word in started(made, Profile.TOR_GUEST))


def test_what_the_front_end_tells_of_the_host_is_deleted_while_the_machine_runs() -> None:
    found = [
        step.call[-1]
        for step in steps(plan(i2p=False))
        if isinstance(step, Manage) and "guestproperty" in step.call
    ]
    versions = [f"/VirtualBox/HostInfo/{name}" for name in ("VBoxVer", "VBoxVerExt", "VBoxRev")]
    assert found == 2 * versions
    # The language may be written later: it is the same everywhere.
    assert "LANG=C.UTF-8" in started(plan(SCREEN), Profile.APP_GUEST)


# ---- what keeps it from running

GOOD = DriverFacts(program=True, device=True, module=True, secure_boot=False)


@pytest.mark.parametrize(
    ("facts", "message", "hint"),
    [
        (replace(GOOD, program=False), "not installed", "package virtualbox"),
        (replace(GOOD, device=False, module=False), "not loaded", "virtualbox-dkms"),
        (replace(GOOD, device=False), "not loaded", "modprobe vboxdrv"),
        (replace(GOOD, device=False, secure_boot=True), "not loaded", "mokutil"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    facts: DriverFacts, message: str, hint: str
) -> None:
    vboxdrv.require_driver(GOOD)
    with pytest.raises(LaunchError, match=message) as raised:
        vboxdrv.require_driver(facts)
    assert hint in str(raised.value.hint)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("... rc=VERR_VMX_IN_VMX_ROOT_MODE ...", "KVM holds"),
        ("00:00 AMD-V is in use (VERR_SVM_IN_USE)", "KVM holds"),
        ("VERR_VMX_MSR_ALL_VMX_DISABLED", "VT-x"),
        ("Error -1908 in suplib!\nrc=-1908\n", "modprobe vboxdrv"),
        ("VERR_VM_DRIVER_VERSION_MISMATCH", "another version"),
        (
            "00:00:01 ERROR [COM]: aRC=E aText={One of the DMI strings\nis too long}, p=0\n00:02 x",
            "One of the DMI strings is too long",
        ),
        ("first\n\nlast line\n", "last line"),
    ],
)
def test_reason_is_found_in_what_virtualbox_says(log: str, words: str) -> None:
    assert words in str(vboxdrv.last_words(log))


def test_nothing_said_is_no_reason() -> None:
    assert vboxdrv.last_words("\n \n") is None


@pytest.mark.parametrize("value", [b"\x06\0\0\0\x01", b"\x06\0\0\0\0", b""])
def test_machine_is_looked_at(
    tmp_path: Path, value: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vbox.driver_facts(tmp_path) == DriverFacts(False, False, False, False)
    variables = tmp_path / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True)
    (variables / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(value)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vboxdrv").touch()
    modules = tmp_path / "lib/modules" / os.uname().release / "updates/dkms"
    modules.mkdir(parents=True)
    (modules / "vboxdrv.ko.xz").touch()
    found = vbox.driver_facts(tmp_path)
    assert (found.device, found.module, found.secure_boot) == (True, True, value[4:] == b"\x01")


def test_screen_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("XAUTHORITY", raising=False)
    assert vbox.display() is None
    monkeypatch.setenv("DISPLAY", ":7")
    assert vbox.display() == Display(":7", None)
    monkeypatch.setenv("XAUTHORITY", "/home/user/.Xauthority")
    assert vbox.display() == SCREEN


def test_reason_is_of_this_start_and_not_of_an_earlier_one(tmp_path: Path) -> None:
    old = vboxmanage.home(Profile.TOR_GUEST, tmp_path) / "machines/tor-guest/Logs/VBox.log"
    old.parent.mkdir(parents=True)
    asked = control(Profile.TOR_GUEST, tmp_path, "virtualbox")
    assert asked.last_words() is None
    old.write_text("earlier\n")
    os.utime(old, (1, 1))
    assert asked.last_words() == "VirtualBox said: earlier"
    (tmp_path / "tor-guest.log").write_text("rc=-1908\n")
    assert "modprobe vboxdrv" in str(asked.last_words())
    os.utime(tmp_path / "tor-guest.log", (0, 0))
    assert asked.last_words() == "VirtualBox said: earlier"
