# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong is said in clear words, with the exit status of its kind, and nothing is left.

The fixture ``world`` compares what there is before and after each test.
"""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tails_profiles import qemu
from tails_profiles.errors import LaunchError, ProfilesError
from tails_profiles.launch_steps import Await, Step
from tails_profiles.machine_steps import Monitor, StartMachine
from tails_profiles.profile import Profile
from tails_profiles.system import machines, nft
from tests.launch.world import FACTOR, LIMITS, World, run

pytestmark = pytest.mark.vm

#: Enough for a tiny guest to boot, and little to wait for.
SHORT = replace(LIMITS, silence=20 * FACTOR)


def refused(world: World, words: str, **options: object) -> ProfilesError:
    """Start must fail with these words; returns what it failed with."""
    with pytest.raises(ProfilesError, match=words) as caught:
        world.start(**{"plan": world.plan(), **options})
    return caught.value


@pytest.mark.parametrize(
    ("parameters", "words", "hint"),
    [
        ({"at": "firewall", "do": "fail:links"}, r"tor-guest: failed: links", "network links"),
        ({"at": "tor", "do": "fail:tor"}, r"tor-guest: failed: tor", "Tor gave up"),
        ({"at": "selected", "do": "be:quarantine"},
         r"tor-guest: says that it is quarantine", "token"),
        ({"at": "selected", "do": "be:i2p-guest"},
         r"tor-guest: says that it is i2p-guest", "token"),
        ({"at": "firewall", "do": "die"}, r"tor-guest: the virtual machine ended", ""),
        ({"at": "ready", "do": "crash"}, r"tor-guest: the virtual machine ended", ""),
        ({"at": "firewall", "do": "skip"}, r"tor-guest: said 'starting' without 'firewall'", ""),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)  # fmt: skip
def test_what_a_guest_does_instead_of_a_word(
    world: World, parameters: dict[str, str], words: str, hint: str
) -> None:
    given = world.plan(world.image(**parameters))
    err = refused(world, words, plan=given)
    assert (err.exit_status, hint in (err.hint or "")) == (7, True)
    assert not [said for said in world.said if "app-guest" in said]


@pytest.mark.parametrize("what", ["hang", "flood", "repeat"])
def test_guest_that_comes_no_further_is_given_up(world: World, what: str) -> None:
    given = world.plan(world.image(at="firewall", do=what))
    refused(
        world, r"tor-guest: came no further for .* s, before it said 'firewall'",
        plan=given, within=SHORT,
    )  # fmt: skip


def test_gateway_that_waits_for_others_gets_their_time_as_long_as_it_says_so(world: World) -> None:
    last = f"repeat:{int(SHORT.silence) + 10}"
    image = world.image(at="ready", do=last, only="i2p-guest")
    within = replace(SHORT, network=SHORT.silence + 60 * FACTOR)
    world.start(world.plan(image, i2p=True), within=within)
    assert "i2p-guest: ready" in world.said
    # What is said again is no news.
    assert world.said.count("i2p-guest: i2p 50 %") == 1
    world.stop()


@pytest.mark.parametrize(
    ("what", "words", "hint"),
    [("hang", "said nothing for 20 s", None), ("repeat", "came no further for 25 s", "--reseed")],
)
def test_gateway_that_waits_for_ever_or_says_no_more_is_given_up(
    world: World, what: str, words: str, hint: str | None
) -> None:
    image = world.image(at="ready", do=what, only="i2p-guest")
    within = replace(SHORT, silence=20 * FACTOR, network=25 * FACTOR)
    words = words.replace("20", f"{within.silence:.0f}").replace("25", f"{within.network:.0f}")
    err = refused(
        world, f"i2p-guest: {words}, before it said 'ready'",
        plan=world.plan(image, i2p=True), within=within,
    )  # fmt: skip
    assert hint is None or hint in str(err.hint)


def test_noise_on_the_port_is_skipped_and_no_word_of_a_guest(world: World) -> None:
    world.start(world.plan(world.image(at="firewall", do="noise")))
    said = [words.removeprefix("tor-guest: ") for words in world.said if "tor-guest" in words]
    assert said == [
        "starting", "selected", "firewall", "starting", "tor 10 %", "tor 55 %", "tor 100 %",
        "ready",
    ]  # fmt: skip
    world.stop()


def test_uplink_is_plugged_in_only_after_the_word_firewall(world: World) -> None:
    given = world.plan(world.image(at="firewall", do="hang"))
    seen: list[Step] = []
    refused(world, "no further", plan=given, within=SHORT, after=lambda _, step: seen.append(step))
    assert isinstance(seen[-1], Monitor)
    assert seen[-1].command == "cont"


@pytest.mark.parametrize("profile", [Profile.TOR_GUEST, Profile.APP_GUEST], ids=str)
def test_machine_that_is_killed_while_app_guest_starts_is_noticed(
    world: World, profile: Profile
) -> None:
    def kill(_: int, step: Step) -> None:
        if isinstance(step, StartMachine) and step.guest.profile is Profile.APP_GUEST:
            machines.kill(world.machine(profile), qemu.UNIT_PREFIX)

    refused(world, f"{profile}: the virtual machine ended", after=kill)


def test_guest_that_boots_again_is_ended_since_its_uplink_is_plugged_in(world: World) -> None:
    given = world.plan(world.image(at="starting", do="reboot"))
    refused(world, "tor-guest: the virtual machine ended, after it said 'firewall'", plan=given)


def test_hung_qemu_is_given_up_and_ended(world: World) -> None:
    def hang(_: int, step: Step) -> None:
        if isinstance(step, StartMachine):
            os.kill(world.machine(Profile.TOR_GUEST).pid, signal.SIGSTOP)

    within = replace(LIMITS, answer=3.0)
    err = refused(world, r"tor-guest: QEMU does not answer within 3 s", after=hang, within=within)
    assert err.exit_status == 7


def test_hung_qemu_does_not_hold_up_stop(world: World) -> None:
    world.start(world.plan())
    for profile in (Profile.TOR_GUEST, Profile.APP_GUEST):
        os.kill(world.machine(profile).pid, signal.SIGSTOP)
    world.stop(replace(LIMITS, answer=2.0))
    assert sum("does not answer" in words for words in world.said) == 2


def test_guest_that_hears_no_button_is_ended_after_its_time(world: World) -> None:
    world.start(world.plan(world.image(at="deaf", do="skip")))
    world.stop(replace(LIMITS, power_off=6.0))
    assert "tor-guest: did not power off within 6 s" in world.said


@pytest.mark.parametrize("when", ["between", "while tor-guest boots"])
@pytest.mark.parametrize("how", ["written to", "replaced"])
def test_image_that_changes_is_noticed(world: World, when: str, how: str) -> None:
    image = world.top / "changing.iso"
    shutil.copy(world.image(), image)
    given = world.plan(image)

    def change() -> None:
        if how == "written to":
            with image.open("ab") as file:
                file.write(b"x")
        else:
            other = world.top / "other.iso"
            shutil.copy(image, other)
            other.rename(image)

    def after(_: int, step: Step) -> None:
        if when != "between" and isinstance(step, Await) and step.word == "firewall":
            change()

    if when == "between":
        change()
    err = refused(world, f"{image} changed while it was being used", plan=given, after=after)
    assert (err.exit_status, "start again" in str(err.hint)) == (7, True)
    image.unlink()


def test_image_that_machines_may_not_read(world: World) -> None:
    image = world.top / "closed.iso"
    shutil.copy(world.image(), image)
    image.chmod(0o600)
    err = refused(world, r"closed\.iso: tails-profiles-\w+ may not read it", plan=world.plan(image))
    assert (err.exit_status, "open to others" in str(err.hint)) == (7, True)
    image.unlink()


def test_missing_image_and_too_little_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchError, match=r"nothing\.iso: no such image"):
        world.plan(world.top / "nothing.iso")
    monkeypatch.setattr(machines, "available_memory", lambda: 1000)
    with pytest.raises(LaunchError, match=r"1000 MiB of memory are available and the guests need"):
        world.plan()


@pytest.mark.parametrize("size", ["12k", "60k"])
def test_disk_full(world: World, size: str) -> None:
    # For the directory alone: not even a settings disk fits, or one and nothing after it.
    room = world.top / "room"
    room.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes=64,mode=755", "tmpfs", str(room))
    try:
        given = replace(world.plan(), directory=room / "host")
        guests = tuple(
            replace(guest, directory=given.directory / guest.profile) for guest in given.guests
        )
        err = refused(world, "No space left on device", plan=replace(given, guests=guests))
        assert err.exit_status in {6, 7}
        assert sorted(room.iterdir()) == []
    finally:
        run("umount", str(room))
        room.rmdir()


def test_no_qemu(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "QEMU", "/nonexistent/qemu")
    err = refused(world, "/nonexistent/qemu: no such program")
    assert (err.exit_status, err.hint) == (7, "install qemu-system-x86")


def test_no_qmp_library(world: World) -> None:
    done = world.cli_without_library("start", image=world.image())
    assert done.returncode == 6
    assert "the Python library qemu.qmp cannot be imported\n  install" in done.stderr
    assert "tor-guest: starting" not in done.stderr


def test_nft_refuses(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = world.top / "nft"
    fake.write_text(
        "#!/bin/sh\n[ $1 = -f ] && { echo 'Error: no' >&2; exit 1; }\nexec nft \"$@\"\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(nft, "NFT", str(fake))
    err = refused(world, "nft refused the host's rules: Error: no")
    assert err.exit_status == 5
    fake.unlink()


def test_no_accounts(world: World) -> None:
    given = replace(world.plan(), sysusers=Path("/nonexistent/accounts.conf"))
    err = refused(world, r"systemd-sysusers .*failed.*No such file", plan=given)
    assert err.exit_status == 6


def test_kvm_that_opens_and_hangs_is_not_used(world: World) -> None:
    fake = world.top / "qemu"
    pid = world.top / "pid"
    fake.write_text(f"#!/bin/sh\necho $$ >{pid}\nexec sleep 1000000\n")
    fake.chmod(0o755)
    assert machines.accelerator_works("kvm", str(fake), "any", seconds=1.0) is False
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
    # The very same question with an accelerator that works.
    assert machines.accelerator_works("tcg", qemu.QEMU, qemu.CPU_MODEL, seconds=30 * FACTOR)
    fake.unlink()
    pid.unlink()


def test_directory_of_somebody_else_is_left_alone(world: World) -> None:
    world.directory.mkdir()
    (world.directory / "thesis.txt").write_text("years")
    refused(world, r"holds 'thesis\.txt', which is none of a launch")
    with pytest.raises(LaunchError, match="none of a launch"):
        world.stop()
    assert (world.directory / "thesis.txt").read_text() == "years"
    shutil.rmtree(world.directory)
