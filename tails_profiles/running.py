# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs of a launch, and its end: ``status``, ``stop``, and what a failed ``start`` takes back.

What was started is in ``launch.json``; machines are also found by their command lines, so that
they are found whatever became of ``start`` and of that file.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tails_profiles import hypervisors, launch_steps, qemu, vboxmanage
from tails_profiles.command import Command
from tails_profiles.errors import LaunchError, ProfilesError, SystemFailureError
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.system import files, machines, mounts, nft, quota, vbox
from tails_profiles.system.control import control
from tails_profiles.system.interrupts import Interrupts
from tails_profiles.system.lock import holder, locked
from tails_profiles.system.machines import Process
from tails_profiles.system.process import run

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. ``silence``: a gateway says nothing, or comes no further with its own boot;
    ``power_off``: it was asked to.

    ``answer``: QEMU itself, which needs no time, unless it hangs. ``network``: a gateway that goes
    on saying how far it is comes no further, because others do not answer: bridges and I2P's
    tunnels take minutes on any machine.
    """

    silence: float
    power_off: float
    answer: float = 60.0
    network: float = 600.0


#: Without hardware virtualization everything in a guest takes about ten times as long.
LIMITS_KVM = Limits(120.0, 30.0)
LIMITS_TCG = Limits(900.0, 90.0, network=1800.0)


def limits(*, accelerated: bool) -> Limits:
    """The time limits with hardware virtualization, or without."""
    return LIMITS_KVM if accelerated else LIMITS_TCG


@dataclass(slots=True)
class Guest:
    """What is known of a guest that was started; ``word`` is the last that it said."""

    process: Process
    word: str | None = None
    percent: int | None = None
    plugged: bool = False
    rank: int = field(default=-1, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As the state file has it."""
        return {
            "pid": self.process.pid,
            "started": self.process.started,
            "word": self.word,
            "percent": self.percent,
            "plugged": self.plugged,
        }


def never_failing(say: Say) -> Say:
    """The same, but whoever listened may be gone with its terminal: what is under way goes on."""

    def told(words: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            say(words)

    return told


def state_path(directory: Path) -> Path:
    """The file in which a launch is written down."""
    return directory / "launch.json"


def recorded(directory: Path) -> dict[str, Guest]:
    """What was started here, by profile; what the file does not say properly is left out."""
    state = files.read_json(state_path(directory)) or {}
    guests = state.get("guests")
    found = {}
    for name, value in guests.items() if isinstance(guests, dict) else ():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found[str(name)] = Guest(
                Process(int(value["pid"]), int(value["started"])),
                value["word"],
                value["percent"],
                bool(value["plugged"]),
            )
    return found


@dataclass(frozen=True, slots=True)
class Running:
    """A machine of one directory."""

    profile: str
    process: Process
    hypervisor: str


def running(directory: Path) -> list[Running]:
    """The machines of this directory, in the order in which they end: app-guest first.

    It may still be writing to what the gateways serve.
    """
    hypervisor = _hypervisor(files.read_json(state_path(directory)) or {})
    found = {
        Running(name, guest.process, hypervisor)
        for name, guest in recorded(directory).items()
        if machines.is_running(guest.process)
    } | {
        Running(machine.profile, machine.process, machine.hypervisor)
        for machine in machines.find()
        if machine.directory == directory
    }
    order = {str(profile): -number for number, profile in enumerate(GUESTS)}
    return sorted(found, key=lambda each: (order.get(each.profile, 0), each.process.pid))


def _hypervisor(state: Mapping[str, Any]) -> str:
    name = state.get("hypervisor")
    return name if name in hypervisors.NAMES else hypervisors.Qemu.name


def status(directory: Path) -> dict[str, Any]:
    """The stable keys of ``host status --json``; docs/launch.md. Raises LaunchError."""
    directory = directory.absolute()
    state = files.read_json(state_path(directory))
    if state is None and state_path(directory).exists() and os.geteuid() != 0:
        raise LaunchError(f"{state_path(directory)} is for root alone", hint="run as root")
    processes = {each.profile: each.process for each in running(directory)}
    known = recorded(directory)
    hypervisor = _hypervisor(state or {})
    guests = [
        _guest_status(directory, name, known.get(name), processes.get(name), hypervisor)
        for name in GUESTS
        if name in known or name in processes
    ]
    other = holder(directory)
    return {
        "version": 1,
        "directory": str(directory),
        "under_way": other[0] if other else None,
        "image": (state or {}).get("image"),
        "hypervisor": None if state is None else hypervisor,
        "accelerator": None if state is None else _accelerator(state),
        "rules": _rules_in_force() if guests else None,
        "guests": guests,
    }


def _accelerator(state: Mapping[str, Any]) -> str:
    if _hypervisor(state) == hypervisors.VirtualBox.name:
        return "vboxdrv"
    return "kvm" if state.get("kvm") else "tcg"


def _guest_status(
    directory: Path,
    profile: Profile,
    known: Guest | None,
    process: Process | None,
    hypervisor: str = hypervisors.Qemu.name,
) -> dict[str, Any]:
    shown = process or (known.process if known else None)
    own = directory / profile
    in_qemu = hypervisor == hypervisors.Qemu.name
    return {
        "profile": profile.value,
        "pid": shown.pid if shown else None,
        "running": process is not None,
        "word": known.word if known else None,
        "percent": known.percent if known else None,
        "plugged": known.plugged if known and profile.is_gateway else None,
        "monitor": str(own / "qmp") if in_qemu else None,
        "serial": str(own / "serial") if profile.is_gateway else None,
        "screen": str(own / "screen") if in_qemu and not profile.is_gateway else None,
    }


def _rules_in_force() -> bool | None:
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(SystemFailureError):
        return launch_steps.HOST_TABLE in nft.tables()
    return None


def stop(directory: Path, say: Say, within: Limits | None = None) -> None:
    """Power everything off and leave nothing behind; harmless when nothing runs.

    A start that is under way is told to give up first. Interrupted, it ends everything at once.
    Raises LaunchError when something is left.
    """
    directory, say = directory.absolute(), never_failing(say)
    state = files.read_json(state_path(directory)) or {}
    patience = within or limits(accelerated=_accelerator(state) != "tcg")
    with Interrupts(), locked(directory, "stop", give_up=True, say=say):
        try:
            for each in running(directory):
                say(f"{each.profile}: powering off")
                _power_off(directory, each, patience, say)
        finally:
            take_back(directory, say)


#: Seconds within which a QEMU that does not hang has answered.
_ANSWER = 10.0
#: Seconds after which the button is pressed again: a guest that is still booting did not hear it.
_AGAIN = 5.0


def _power_off(directory: Path, machine: Running, patience: Limits, say: Say) -> None:
    answer = min(patience.answer, _ANSWER)
    deadline = time.monotonic() + patience.power_off
    try:
        asked = control(Profile(machine.profile), directory, machine.hypervisor)
        # One that is paused, or never ran, hears no button.
        while asked.is_running(answer):
            left = deadline - time.monotonic()
            if left <= 0:
                say(f"{machine.profile}: did not power off within {patience.power_off:.0f} s")
                return
            asked.press_power_button(answer)
            if machines.wait_until_ended(machine.process, min(left, _AGAIN)):
                return
    except ProfilesError as err:
        if machines.is_running(machine.process):
            say(f"{machine.profile}: {err}")


#: Seconds for a killed process to be gone.
_GONE = 30.0


def take_back(directory: Path, say: Say, keep: Collection[str] = ()) -> None:
    """End at once what runs, and remove what was made; raises LaunchError when something is left.

    ``keep``: what stays in the directory, if it is there.

    Where there is no such directory, nothing was made: the rules are loaded once it is there.
    """
    _end_machines(directory)
    if not directory.exists():
        return
    require_ours(directory)
    others = _others(directory)
    if others is None:
        _remove_rules(say)
    else:
        # One table holds the rules of all, and theirs need it.
        say(f"the host's rules stay: guests of {others} run")
    if not keep:
        vbox.end_services(directory)
    _unshare(directory / "shares", say)
    try:
        _remove_all(directory, keep)
    except OSError as err:
        raise LaunchError(f"{err.filename} cannot be removed: {err.strerror}") from err


def _end_machines(directory: Path) -> None:
    found = running(directory)
    for each in found:
        machines.kill(each.process, qemu.UNIT_PREFIX)
    left = [each.profile for each in found if not machines.wait_until_ended(each.process, _GONE)]
    if left:
        raise LaunchError(f"cannot be ended: {', '.join(left)}", hint="see 'host status'")


def _remove_all(directory: Path, keep: Collection[str]) -> None:
    for path in directory.iterdir():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(directory.iterdir()):
        directory.rmdir()


def _unshare(directory: Path, say: Say) -> None:
    """Take the user's folders away before anything is removed; raises LaunchError.

    Their limits end first: nobody writes any more, and without its mount none would be found.

    Directories are removed one by one, which fails where something is in them: whatever went
    wrong, no file of the user's is.
    """
    try:
        for path in mounts.below(directory):
            _unlimit(path, say)
            mounts.unmount(path)
        for guest in directory.glob("*"):
            for share in guest.glob("*"):
                share.rmdir()
            guest.rmdir()
        if directory.exists():
            directory.rmdir()
    except OSError as err:
        raise LaunchError(
            f"{err.filename or directory}: a shared folder cannot be taken away: {err.strerror}",
            hint="see who uses it (fuser -m), then stop again",
        ) from err


def _unlimit(mount: Path, say: Say) -> None:
    try:
        quota.release(mount)
    except (LaunchError, OSError) as err:
        # It bounds the user alone now; the rest of the end goes on.
        say(f"{mount.name}: the limit of its folder may be left, see docs/shares.md: {err}")


def require_ours(directory: Path) -> None:
    """That a directory, if there is one, holds nothing but what a launch makes; LaunchError."""
    try:
        names = {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return
    except OSError as err:
        raise LaunchError(f"{directory} cannot be used: {err.strerror}") from err
    ours = {
        "links",
        "shares",
        *vboxmanage.HOMES,
        *GUESTS,
        *(f"{profile}.log" for profile in GUESTS),
    }
    foreign = sorted(
        name for name in names - ours if not name.lstrip(".").startswith("launch.json")
    )
    if foreign:
        raise LaunchError(
            f"{directory} holds {foreign[0]!r}, which is none of a launch",
            hint="a launch needs a directory of its own, which its end removes",
        )


def _remove_rules(say: Say) -> None:
    try:
        if launch_steps.HOST_TABLE in nft.tables():
            run(Command((nft.NFT, "delete", "table", *launch_steps.HOST_TABLE.split())))
    except SystemFailureError as err:
        say(f"the host's rules may be left: {err}")


def require_nothing_runs(directory: Path) -> None:
    """That no guest of this directory runs, nor others under the same rules; LaunchError."""
    here = [machine.profile for machine in running(directory)]
    if here:
        raise LaunchError(
            f"guests run already: {', '.join(here)}",
            hint="see them with 'tails-profiles host status', or stop them first",
        )
    others = _others(directory)
    if others is not None:
        # There is one table of host rules, and it is theirs.
        raise LaunchError(
            f"guests of {others} run already",
            hint=f"stop them first: tails-profiles host stop --directory {others}",
        )


def _others(directory: Path) -> Path | None:
    """Where else guests run under this network's one table of host rules, if anywhere."""
    for machine in machines.find():
        if machine.directory != directory and machines.shares_network(machine.process):
            return machine.directory
    return None
