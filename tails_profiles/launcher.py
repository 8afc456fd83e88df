# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry a launch out, and take everything back when it fails or is interrupted."""

import contextlib
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tails_profiles import hypervisors, launch, launch_steps, qemu, settings_disk, vboxmanage
from tails_profiles.announce import Announcement, rank
from tails_profiles.command import Command
from tails_profiles.errors import CommandError, LaunchError
from tails_profiles.launch import GuestPlan, HostFacts, ImageFacts, LaunchPlan, VirtualBoxFacts
from tails_profiles.launch_steps import (
    Await,
    BindFolder,
    CheckClosed,
    CheckImage,
    CheckReadable,
    LimitFolder,
    LoadRules,
    Step,
    WriteDisk,
)
from tails_profiles.machine_steps import AwaitRunning, MakeMachine, Manage, Monitor, StartMachine
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.quota import Space
from tails_profiles.running import (
    Guest,
    Limits,
    Say,
    limits,
    never_failing,
    require_nothing_runs,
    require_ours,
    state_path,
    status,
    stop,
    take_back,
)
from tails_profiles.settings import Settings
from tails_profiles.shares import Choice
from tails_profiles.system import files, machines, mounts, nft, qmp, quota, vbox
from tails_profiles.system.control import Control, control
from tails_profiles.system.interrupts import Interrupts
from tails_profiles.system.lock import locked
from tails_profiles.system.machines import Words
from tails_profiles.system.process import run
from tails_profiles.system.vbox import Tool
from tails_profiles.vboxdrv import require_driver

__all__ = ["DIRECTORY", "Launcher", "Limits", "make_plan", "make_steps", "status", "stop"]

DIRECTORY = Path("/run/tails-profiles-host")
#: Beside the package in a source tree.
_SYSUSERS = Path(__file__).resolve().parents[1] / "sysusers/tails-profiles.conf"
_SYSUSERS_INSTALLED = Path("/usr/lib/sysusers.d/tails-profiles.conf")


def image_facts(image: Path) -> ImageFacts | None:
    """The state of the image's file, or None where there is no such file."""
    try:
        found = image.stat()
    except OSError:
        return None
    if not image.is_file():
        return None
    return ImageFacts(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def host_facts(image: Path, hypervisor: str = hypervisors.Qemu.name) -> HostFacts:
    """Look at this machine. Raises LaunchError where VirtualBox is to be used and is not there."""
    virtualbox = hypervisor == hypervisors.VirtualBox.name
    return HostFacts(
        machines.available_memory(),
        image_facts(image),
        not virtualbox and machines.accelerator_works("kvm", qemu.QEMU, qemu.CPU_MODEL),
        Path("/run/systemd/system").is_dir(),
        datetime.now(UTC),
        machines.resolver(),
        _SYSUSERS if _SYSUSERS.is_file() else _SYSUSERS_INSTALLED,
        VirtualBoxFacts(vbox.version(), vbox.display()) if virtualbox else None,
    )


def make_plan(
    image: Path,
    directory: Path,
    settings: Mapping[Profile, Settings],
    *,
    i2p: bool,
    exclusive: bool = False,
    hypervisor: str = hypervisors.Qemu.name,
) -> LaunchPlan:
    """The plan for this machine, with fresh clock offsets. Raises LaunchError."""
    draw = random.SystemRandom()
    offsets = {profile: draw.uniform(-1, 1) for profile in GUESTS}
    made = launch.plan(
        image.resolve(),
        directory.absolute(),
        host_facts(image, hypervisor),
        settings,
        offsets,
        i2p=i2p,
    )
    return launch.exclusively(made) if exclusive else made


def with_shares(plan: LaunchPlan, choices: Sequence[Choice]) -> LaunchPlan:
    """The same with folders of this machine; raises LaunchError."""
    found = [_found(choice) for choice in choices]
    spaces = {each.source: _space(each) for each in found if each.writable}
    return launch.sharing(plan, found, spaces)


def _space(choice: Choice) -> Space:
    try:
        return quota.space(choice.source)
    except OSError as err:
        raise LaunchError(f"{choice.source} ({choice.feature}): {err.strerror}") from err


def _found(choice: Choice) -> Choice:
    source = choice.source.resolve()
    if not source.is_dir():
        raise LaunchError(f"{choice.source} ({choice.feature}) is no directory")
    return replace(choice, source=source)


def make_steps(plan: LaunchPlan) -> tuple[Step, ...]:
    """The steps of a plan, with fresh random bytes for each guest."""
    return launch_steps.steps(
        plan, {guest.profile: os.urandom(settings_disk.SEED_BYTES) for guest in plan.guests}
    )


class Launcher:
    """One launch under way. ``say`` is told, in words, what happens; ``progress`` what passes.

    ``within`` replaces the time limits of the plan's accelerator.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        say: Say,
        progress: Say | None = None,
        within: Limits | None = None,
    ) -> None:
        self._plan = plan
        self._say = never_failing(say)
        self._progress = never_failing(progress or say)
        self._limits = within or limits(accelerated=hypervisors.of(plan).accelerator(plan) != "tcg")
        self._guests: dict[Profile, Guest] = {}
        self._words: dict[Profile, Words] = {}
        self._interrupts = Interrupts()

    def start(self, steps: tuple[Step, ...]) -> None:
        """Carry out all steps, or none: whatever raises here has been taken back."""
        directory = self._plan.directory
        with self._interrupts, locked(directory, "start"):
            require_nothing_runs(directory)
            require_ours(directory)
            _require_programs(self._plan)
            if hypervisors.of(self._plan).accelerator(self._plan) == "tcg":
                self._say(
                    "no hardware virtualization that works: emulating, about ten times slower"
                )
            try:
                # What an earlier launch left behind, if it was killed; but machines of VirtualBox
                # are mended.
                kept = () if self._plan.virtualbox is None else vboxmanage.HOMES
                take_back(directory, self._say, kept)
                for step in steps:
                    self._carry_out_named(step)
            # Ctrl-C too: everything that was started is stopped.
            except BaseException:
                take_back(directory, self._say)
                raise
            finally:
                for words in self._words.values():
                    words.close()

    def _carry_out_named(self, step: Step) -> None:
        try:
            self.carry_out(step)
            self._require_alive()
        except OSError as err:
            where = f"{err.filename}: " if err.filename else ""
            raise LaunchError(
                f"{where}{err.strerror or err}", hint=f"in {self._plan.directory}"
            ) from err

    def carry_out(self, step: Step) -> None:
        """One step."""
        if isinstance(step, Command):
            run(step)
        elif isinstance(step, LoadRules):
            nft.load(step.text, "the host's rules")
        elif isinstance(step, CheckReadable | CheckImage | CheckClosed):
            _check(step)
        elif isinstance(step, BindFolder | LimitFolder):
            self._lend(step)
        elif isinstance(step, WriteDisk):
            _write_disk(step)
        elif isinstance(step, StartMachine):
            self._start_machine(step)
        elif isinstance(step, Await):
            self._await(step)
        else:
            self._ask_hypervisor(step)

    def _ask_hypervisor(self, step: Monitor | MakeMachine | AwaitRunning | Manage) -> None:
        if isinstance(step, Monitor):
            self._monitor(step)
        elif isinstance(step, MakeMachine):
            tool = Tool(step.guest.profile, step.directory)
            for folder in vbox.ensure(step.machine, tool, step.version):
                self._say(f"{step.guest.profile}: {folder}: removed")
        elif isinstance(step, AwaitRunning):
            known = self._guests[step.guest.profile]
            with self._named(step.guest):
                self._control(step.guest).await_running(known.process, self._limits.answer)
        else:
            self._manage(step)

    def _manage(self, step: Manage) -> None:
        with self._named(step.guest):
            Tool(step.guest.profile, step.directory).call(step.call)
        if step.plugs:
            self._guests[step.guest.profile].plugged = True
            self._write_state()

    def _control(self, guest: GuestPlan) -> Control:
        return control(guest.profile, self._plan.directory, hypervisors.of(self._plan).name)

    def _lend(self, step: BindFolder | LimitFolder) -> None:
        share = step.share
        try:
            if isinstance(step, BindFolder):
                mounts.bind(share.source, share.target, step.user, writable=share.writable)
            else:
                quota.limit(share.target, step.limit)
        except (LaunchError, OSError) as err:
            hint = err.hint if isinstance(err, LaunchError) else None
            raise LaunchError(
                f"{share.feature} cannot be shared: {err}", hint=hint or "see docs/shares.md"
            ) from err
        if isinstance(step, LimitFolder):
            added = step.limit.size >> 20
            self._say(f"{share.feature}: its guest can add {added} MiB to {share.source}")

    def _start_machine(self, step: StartMachine) -> None:
        guest = step.guest
        self._say(f"{guest.profile}: starting")
        with self._named(guest):
            # Nothing is started that nobody has written down.
            with self._interrupts.held():
                process = (
                    machines.start(step.command, guest.log)
                    if step.unit is None
                    else machines.start_unit(step.command, step.unit)
                )
                self._guests[guest.profile] = Guest(process)
                self._write_state()
            self._control(guest).await_started(process, self._limits.answer)
            if guest.profile.is_gateway:
                serial = machines.connect(guest.serial, process, self._limits.answer)
                self._words[guest.profile] = Words(serial)

    def _monitor(self, step: Monitor) -> None:
        with self._named(step.guest):
            qmp.execute(step.guest.monitor, step.command, step.arguments, self._limits.answer)
        if step.command == "set_link":
            self._guests[step.guest.profile].plugged = bool(step.arguments["up"])
            self._write_state()

    def _await(self, step: Await) -> None:
        guest, known = step.guest, self._guests[step.guest.profile]
        words = self._words[guest.profile]
        wanted = rank(step.word)
        with self._named(guest, f", before it said {step.word!r}"):
            while known.rank < wanted:
                self._hear(guest, known, words)
        if known.rank > wanted:
            raise LaunchError(f"{guest.profile}: said {known.word!r} without {step.word!r}")

    def _hear(self, guest: GuestPlan, known: Guest, words: Words) -> None:
        # Until it has come further. Saying the same is a sign of life: where it waits for others it
        # gets their time by it, and nowhere time without end.
        silence = self._limits.silence
        waits = known.rank >= rank("starting")
        limit = max(silence, self._limits.network) if waits else silence
        end = time.monotonic() + limit
        while True:
            said = words.next(min(end, time.monotonic() + silence), self._require_alive)
            if said is None and time.monotonic() < end:
                raise LaunchError(f"said nothing for {silence:.0f} s")
            if said is None:
                raise LaunchError(f"came no further for {limit:.0f} s", hint=_hint(known))
            _refuse_failure(guest, said)
            reached = rank(said.word, said.percent)
            if reached > known.rank:
                break
        known.word, known.percent, known.rank = said.word, said.percent, reached
        self._write_state()
        if said.percent is None:
            self._say(f"{guest.profile}: {said.word}")
        else:
            self._progress(f"{guest.profile}: {said.word} {said.percent} %")

    @contextlib.contextmanager
    def _named(self, guest: GuestPlan, when: str = "") -> Iterator[None]:
        # Words of what has no name of its own get the guest's, and what QEMU printed last.
        try:
            yield
        except LaunchError as err:
            if err.message.startswith(tuple(f"{profile}: " for profile in GUESTS)):
                raise
            known = self._guests.get(guest.profile)
            # Whatever was asked of it: that it is gone says more. A moment, since its sockets go
            # before it does.
            if known is not None and machines.wait_until_ended(known.process, 1.0):
                self._require_alive()
            raise LaunchError(
                f"{guest.profile}: {err}{when}",
                hint=self._control(guest).last_words() or err.hint,
            ) from err

    def _require_alive(self) -> None:
        for profile, guest in self._guests.items():
            if not machines.is_running(guest.process):
                plan = next(each for each in self._plan.guests if each.profile is profile)
                said = f"after it said {guest.word!r}" if guest.word else "before it said a word"
                raise LaunchError(
                    f"{profile}: the virtual machine ended"
                    + (f", {said}" if profile.is_gateway else ""),
                    hint=self._control(plan).last_words(),
                )

    def _write_state(self) -> None:
        value = {
            "hypervisor": hypervisors.of(self._plan).name,
            "image": str(self._plan.image),
            "kvm": self._plan.kvm,
            "guests": {name: guest.to_json() for name, guest in self._guests.items()},
        }
        files.write_json(state_path(self._plan.directory), value, mode=0o600)


def _require_programs(plan: LaunchPlan) -> None:
    if plan.virtualbox is not None:
        require_driver(vbox.driver_facts())
        return
    if not Path(qemu.QEMU).exists():
        raise LaunchError(f"{qemu.QEMU}: no such program", hint="install qemu-system-x86")
    qmp.library()


def _check(step: CheckReadable | CheckImage | CheckClosed) -> None:
    if isinstance(step, CheckReadable):
        _check_readable(step)
    elif isinstance(step, CheckClosed):
        _check_closed(step)
    else:
        _check_image(step)


def _check_readable(step: CheckReadable) -> None:
    try:
        run(step.command)
    except CommandError as err:
        why = err.stderr.strip().splitlines()
        raise LaunchError(
            f"{step.image}: {step.user} may not read it" + (f": {why[-1]}" if why else ""),
            hint="machines do not run as root: the file and its directories must be open to others",
        ) from err


def _check_closed(step: CheckClosed) -> None:
    try:
        run(step.command)
    except CommandError as err:
        raise LaunchError(
            f"{step.share.source} ({step.share.feature}) is open to every user of this machine,"
            f" {step.user} included",
            hint=f"close it: chmod o= {step.share.source}",
        ) from err


def _check_image(step: CheckImage) -> None:
    if image_facts(step.image) != step.facts:
        raise LaunchError(
            f"{step.image} changed while it was being used",
            hint="guests read from it as long as they run: let it be complete, then start again",
        )


def _write_disk(step: WriteDisk) -> None:
    # The directory is the guest's user's, and the file is root's: what lies there is not followed.
    path = step.guest.settings_disk
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "wb") as file:
        file.write(step.image)
        os.fchown(file.fileno(), 0, path.parent.stat().st_gid)
        os.fchmod(file.fileno(), 0o440)


def _refuse_failure(guest: GuestPlan, said: Announcement) -> None:
    if said.profile is not guest.profile:
        words = f"{said.profile}: {said.word} {said.reason or ''}".rstrip()
        raise LaunchError(
            f"{guest.profile}: says that it is {words}",
            hint="its medium does not know its token, or refused it; see its screen",
        )
    if said.word == "failed":
        raise LaunchError(
            f"{guest.profile}: failed: {said.reason}", hint=_REASONS.get(said.reason or "")
        )


def _hint(known: Guest) -> str | None:
    """What to do about a guest that came no further."""
    return _STUCK.get(known.word or "")


_STUCK: Mapping[str, str] = {
    "tor": "Tor gets no answer; check this machine's network, and whether it needs bridges",
    "i2p": "no router of I2P answers, or no tunnel can be made; check this machine's network and"
    " its clock, or give newer first routers with --reseed",
}
_REASONS: Mapping[str, str] = {
    "token": "it has no valid token; is the image built with tails-profiles-boot?",
    "settings": "it refused its settings; see --settings and docs/settings.md",
    "ruleset": "its rule set could not be loaded; the image is damaged or was built wrongly",
    "links": "its network links are not those of its profile",
    "clock": "its clock is too far off; check this machine's",
    "network": "it has no network; check this machine's",
    "bridge": "no bridge can be used; check them",
    "tor": "Tor gave up; check this machine's network, and whether it needs bridges",
    "i2p": "I2P gave up, or knows no first routers: give some with --reseed; see docs/i2p.md",
}
