# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's running machine, under either hypervisor: wait for it, ask it, press its button."""

import contextlib
import time
from pathlib import Path
from typing import Protocol

from tails_profiles import qemu, vboxdrv, vboxmanage
from tails_profiles.errors import LaunchError
from tails_profiles.launch import MACHINES
from tails_profiles.profile import Profile
from tails_profiles.system import machines, qmp
from tails_profiles.system.machines import Process
from tails_profiles.system.vbox import Tool

#: Seconds between two questions to VBoxManage, each a process of its own.
_INTERVAL = 0.5


class Control(Protocol):
    """One guest's machine."""

    def await_started(self, process: Process, seconds: float) -> None:
        """Wait until it can be asked; raises LaunchError."""

    def await_running(self, process: Process, seconds: float) -> None:
        """Wait until it executes instructions, where it does so by itself; raises LaunchError."""

    def is_running(self, seconds: float) -> bool:
        """Whether it hears its power button; raises LaunchError where nobody answers."""

    def press_power_button(self, seconds: float) -> None:
        """Raises LaunchError where nobody answers within ``seconds``."""

    def draw(self, path: Path, seconds: float) -> None:
        """Have its screen, a PNG file, written by its user to ``path``; raises LaunchError."""

    def last_words(self) -> str | None:
        """What the hypervisor said last, in words with its name."""


class QemuControl:
    """By its monitor; ``directory`` is the launch's."""

    def __init__(self, profile: Profile, directory: Path) -> None:
        self._monitor = directory / profile / "qmp"
        self._log = directory / f"{profile}.log"

    def await_started(self, process: Process, seconds: float) -> None:
        """Its monitor is there."""
        machines.connect(self._monitor, process, seconds).close()

    def await_running(self, process: Process, seconds: float) -> None:
        """It is paused."""

    def is_running(self, seconds: float) -> bool:
        """One that is paused, or never ran, hears no button."""
        return bool(qmp.execute(self._monitor, "query-status", seconds=seconds).get("running"))

    def press_power_button(self, seconds: float) -> None:
        """ACPI's."""
        qmp.execute(self._monitor, "system_powerdown", seconds=seconds)

    def draw(self, path: Path, seconds: float) -> None:
        """By the machine itself."""
        qmp.execute(self._monitor, *qemu.picture(path), seconds)

    def last_words(self) -> str | None:
        """The last line of its log."""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").strip().splitlines()
            if lines:
                return f"QEMU said: {lines[-1][:200]}"
        return None


class VirtualBoxControl:
    """By VBoxManage, as the guest's user."""

    def __init__(self, profile: Profile, directory: Path) -> None:
        self._tool = Tool(profile, directory)
        self._uuid = MACHINES[profile].uuid
        self._log = directory / f"{profile}.log"
        machine = vboxmanage.home(profile, directory) / "machines" / profile
        self._own_log = machine / "Logs/VBox.log"

    def await_started(self, process: Process, seconds: float) -> None:
        """There is nobody to ask but its list: see ``await_running``."""

    def await_running(self, process: Process, seconds: float) -> None:
        """It is in the list of those that run; asking for more would disturb one that starts."""
        deadline = time.monotonic() + seconds
        while self._uuid not in self._tool.running():
            if machines.wait_until_ended(process, _INTERVAL):
                raise LaunchError("the virtual machine ended at once")
            if time.monotonic() > deadline:
                raise LaunchError(f"VirtualBox does not run it within {seconds:.0f} s")

    def is_running(self, seconds: float) -> bool:  # noqa: ARG002 - a call ends by itself
        """It is in the list."""
        return self._uuid in self._tool.running()

    def press_power_button(self, seconds: float) -> None:  # noqa: ARG002
        """ACPI's."""
        self._tool.call(vboxmanage.press_power_button(self._uuid))

    def draw(self, path: Path, seconds: float) -> None:  # noqa: ARG002
        """By VBoxManage."""
        self._tool.call(vboxmanage.picture(self._uuid, path))

    def last_words(self) -> str | None:
        """The reason in its log, or the last line that the front end printed."""
        # The newer one first: a front end that fails early leaves the log of an earlier start.
        found = sorted(filter(Path.exists, (self._log, self._own_log)), key=_changed, reverse=True)
        for path in found:
            with contextlib.suppress(OSError):
                said = vboxdrv.last_words(path.read_text(errors="replace"))
                if said:
                    return f"VirtualBox said: {said}"
        return None


def _changed(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def control(profile: Profile, directory: Path, hypervisor: str) -> Control:
    """Of a guest of a launch; ``hypervisor`` is a name of ``hypervisors``."""
    return (VirtualBoxControl if hypervisor == "virtualbox" else QemuControl)(profile, directory)
