# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry a launch out, and take everything back: when it fails, when it is interrupted, on ``stop``.

What was started is written to ``launch.json`` before the next step, so that ``stop`` finds it
whatever became of ``start``.
"""

import contextlib
import fcntl
import os
import random
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tails_profiles import launch, launch_steps, qemu, settings_disk
from tails_profiles.announce import Announcement
from tails_profiles.command import Command
from tails_profiles.errors import CommandError, LaunchError, ProfilesError
from tails_profiles.launch import GuestPlan, HostFacts, LaunchPlan
from tails_profiles.launch_steps import Await, Monitor, StartMachine, Step, WriteDisk
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import Settings
from tails_profiles.system import files, machines, qmp
from tails_profiles.system.machines import Process
from tails_profiles.system.process import run

DIRECTORY = Path("/run/tails-profiles-host")
NFT = "/usr/sbin/nft"

#: Seconds: without hardware virtualization everything takes about ten times as long.
SILENCE_KVM, SILENCE_TCG = 120.0, 900.0
POWER_OFF_KVM, POWER_OFF_TCG = 30.0, 90.0

Say = Callable[[str], None]


def host_facts(image: Path) -> HostFacts:
    """Look at this machine."""
    return HostFacts(
        machines.available_memory(),
        image.is_file(),
        machines.accelerator_works("kvm", qemu.QEMU, qemu.CPU_MODEL),
        Path("/run/systemd/system").is_dir(),
        datetime.now(UTC),
    )


def make_plan(
    image: Path, directory: Path, settings: Mapping[Profile, Settings], *, i2p: bool
) -> LaunchPlan:
    """The plan for this machine, with fresh clock offsets. Raises LaunchError."""
    draw = random.SystemRandom()
    offsets = {profile: draw.uniform(-1, 1) for profile in GUESTS}
    return launch.plan(image.resolve(), directory, host_facts(image), settings, offsets, i2p=i2p)


def make_steps(plan: LaunchPlan) -> tuple[Step, ...]:
    """The steps of a plan, with fresh random bytes for each guest."""
    return launch_steps.steps(
        plan, {guest.profile: os.urandom(settings_disk.SEED_BYTES) for guest in plan.guests}
    )


class Launcher:
    """One launch under way. ``say`` is told, in words, what happens."""

    def __init__(self, plan: LaunchPlan, say: Say) -> None:
        self._plan = plan
        self._say = say
        self._processes: dict[Profile, Process] = {}
        self._serials: dict[Profile, Iterator[Announcement]] = {}
        self._silence = SILENCE_KVM if plan.kvm else SILENCE_TCG

    def start(self, steps: tuple[Step, ...]) -> None:
        """Carry out all steps, or none: whatever raises here has been taken back."""
        with _locked(self._plan.directory):
            running = read_state(self._plan.directory)
            if running and any(map(machines.is_running, running.values())):
                raise LaunchError(
                    f"guests run already: {', '.join(running)}",
                    hint="see them with 'tails-profiles host status', or stop them first",
                )
            if not self._plan.kvm:
                self._say(
                    "no hardware virtualization that works: emulating, about ten times slower"
                )
            try:
                for step in steps:
                    self.carry_out(step)
            # Ctrl-C too: everything that was started is stopped.
            except BaseException:
                _stop(self._plan.directory, self._say, patience=0.0)
                raise

    def carry_out(self, step: Step) -> None:
        """One step."""
        if isinstance(step, Command):
            run(step)
        elif isinstance(step, WriteDisk):
            self._write_disk(step)
        elif isinstance(step, StartMachine):
            self._start_machine(step)
        elif isinstance(step, Monitor):
            qmp.execute(step.guest.monitor, step.command, step.arguments)
        else:
            self._await(step)

    def _write_disk(self, step: WriteDisk) -> None:
        # The directory is the guest's user's; the file is root's, and readable for that user.
        path = step.guest.settings_disk
        try:
            path.write_bytes(step.image)
            group = path.parent.stat().st_gid
            os.chown(path, 0, group)
            path.chmod(stat.S_IRUSR | stat.S_IRGRP)
        except OSError as err:
            raise LaunchError(f"{path} cannot be written: {err.strerror}") from err

    def _start_machine(self, step: StartMachine) -> None:
        guest = step.guest
        self._say(f"{guest.profile}: starting")
        process = machines.start(step.command, self._plan.directory / f"{guest.profile}.log")
        self._processes[guest.profile] = process
        write_state(self._plan, self._processes)
        try:
            machines.connect(guest.monitor, process, 60).close()
            if guest.profile.is_gateway:
                serial = machines.connect(guest.serial, process, 60)
                self._serials[guest.profile] = machines.announcements(serial, self._silence)
        except LaunchError as err:
            raise LaunchError(f"{guest.profile}: {err}", hint=self._last_words(guest)) from err

    def _await(self, step: Await) -> None:
        guest = step.guest
        try:
            for said in self._serials[guest.profile]:
                _refuse_failure(guest, said)
                self._say(f"{guest.profile}: {_words(said.word, said.percent)}")
                if said.word == step.word:
                    return
        except LaunchError as err:
            raise LaunchError(
                f"{guest.profile}: {err}, before it said {step.word!r}",
                hint=self._last_words(guest),
            ) from err
        raise LaunchError(f"{guest.profile}: ended before it said {step.word!r}")

    def _last_words(self, guest: GuestPlan) -> str | None:
        with contextlib.suppress(OSError):
            log = self._plan.directory / f"{guest.profile}.log"
            lines = log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f"QEMU said: {lines[-1][:200]}"
        return None


def _refuse_failure(guest: GuestPlan, said: Announcement) -> None:
    if said.word == "failed" or said.profile is not guest.profile:
        raise LaunchError(
            f"says that it is {said.profile}, {said.word} {said.reason or ''}".rstrip()
        )


def _words(word: str, percent: int | None) -> str:
    return word if percent is None else f"{word} {percent} %"


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One start or stop at a time; raises LaunchError when another one is under way."""
    path = directory.with_name(directory.name + ".lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise LaunchError(
                "another start or stop is under way", hint=f"it holds {path}"
            ) from err
        try:
            yield
        finally:
            path.unlink()


def write_state(plan: LaunchPlan, processes: Mapping[Profile, Process]) -> None:
    """Remember what runs."""
    value = {
        "image": str(plan.image),
        "kvm": plan.kvm,
        "guests": {
            name: {"pid": process.pid, "started": process.started}
            for name, process in processes.items()
        },
    }
    files.write_json(plan.directory / "launch.json", value, mode=0o600)


def read_state(directory: Path) -> dict[str, Process]:
    """What was started here, by profile; empty where nothing was."""
    state = files.read_json(directory / "launch.json") or {}
    return {
        name: Process(value["pid"], value["started"])
        for name, value in state.get("guests", {}).items()
    }


def status(directory: Path) -> dict[str, str]:
    """Each guest that was started, and whether its machine runs."""
    return {
        name: "running" if machines.is_running(process) else "ended"
        for name, process in read_state(directory).items()
    }


def stop(directory: Path, say: Say) -> None:
    """Power everything off and leave nothing behind; harmless when nothing runs."""
    state = files.read_json(directory / "launch.json") or {}
    with _locked(directory):
        _stop(directory, say, POWER_OFF_KVM if state.get("kvm") else POWER_OFF_TCG)


def _stop(directory: Path, say: Say, patience: float) -> None:
    # app-guest first: it may still be writing to what the gateways serve.
    for name, process in reversed(read_state(directory).items()):
        if machines.is_running(process):
            say(f"{name}: stopping")
            _power_off(directory / name / "qmp", process, patience)
    with contextlib.suppress(CommandError):
        run(Command((NFT, "delete", "table", *launch_steps.HOST_TABLE.split())))
    shutil.rmtree(directory, ignore_errors=True)


def _power_off(monitor: Path, process: Process, patience: float) -> None:
    if patience:
        with contextlib.suppress(ProfilesError):
            qmp.execute(monitor, "system_powerdown")
        if machines.wait_until_ended(process, patience):
            return
    machines.kill(process)
    machines.wait_until_ended(process, 10)
