# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of a launch that are of one hypervisor, as ``hypervisors`` has them."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

from tails_profiles import qemu, vboxmanage, virtualbox_folders
from tails_profiles.command import Command
from tails_profiles.launch import GuestPlan
from tails_profiles.vboxmanage import Call, Machine, Version


@dataclass(frozen=True, slots=True)
class StartMachine:
    """Start a guest's machine, which goes on running.

    Without systemd ``command`` becomes the machine; with it, it ends when ``unit`` runs.
    ``monitor`` is a socket that it then has, if there is one.
    """

    guest: GuestPlan
    command: Command
    unit: str | None
    monitor: Path | None

    def display(self) -> str:
        """Lines for a shell: start it, then wait for its sockets."""
        guest = self.guest
        started = self.command.display()
        if self.unit is None:
            started = f"{started} </dev/null >>{guest.log} 2>&1 &"
        lines = [started]
        if self.monitor is not None:
            lines.append(f"appears {self.monitor}")
        if guest.profile.is_gateway:
            if self.monitor is None:
                lines.append(f"appears {guest.serial}")
            lines.append(f"listen {guest.profile} {guest.serial}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Monitor:
    """One command for a running machine of QEMU (QMP)."""

    guest: GuestPlan
    command: str
    arguments: Mapping[str, Any]

    def display(self) -> str:
        """A line for a shell."""
        return qemu.monitor_line(self.guest.monitor, self.command, self.arguments)


@dataclass(frozen=True, slots=True)
class MakeMachine:
    """See that VirtualBox has a guest's machine, and that it shows of it what it was told.

    Carried out, it leaves or mends what is there; the lines for a shell make a new one.
    """

    guest: GuestPlan
    directory: Path
    machine: Machine
    version: Version

    def display(self) -> str:
        """Lines for a shell."""
        made, uuid = self.machine, str(self.machine.uuid)
        info = "\n".join(
            f"{'cpuid=' + key.removeprefix('cpuid/') + ',' if '/' in key else key + '='}{value}"
            for key, value in vboxmanage.shown(made, self.version).items()
        )
        extradata = "\n".join(
            f"Key: {key}, Value: {value}" for key, value in sorted(made.extradata.items())
        )
        calls = vboxmanage.create(made, self.version)
        return "\n".join(
            (
                *(self._line(call) for call in calls),
                f"shows {self._line(vboxmanage.look(made))} <<'END'\n{info}\nEND",
                f"shows {self._line(vboxmanage.look_at_extradata(made))} <<'END'\n{extradata}\nEND",
                *self._shows_folders(),
                f"whole {shlex.quote(str(made.settings_file))} {uuid}",
            )
        )

    def _shows_folders(self) -> Iterator[str]:
        wanted = virtualbox_folders.wanted(self.machine.shares)
        if wanted:
            lines = "\n".join(starmap(virtualbox_folders.shown_line, wanted.items()))
            line = self._line(vboxmanage.look_at_folders(self.machine))
            yield f"shows {line} <<'END'\n{lines}\nEND"

    def _line(self, call: Call) -> str:
        return vboxmanage.command(self.guest.profile, self.directory, call).display()


@dataclass(frozen=True, slots=True)
class AwaitRunning:
    """Wait until VirtualBox says that a machine runs."""

    guest: GuestPlan
    directory: Path

    def display(self) -> str:
        """A line for a shell."""
        call = (vboxmanage.VBOXMANAGE, "list", "runningvms")
        shown = vboxmanage.command(self.guest.profile, self.directory, call).display()
        return f"runs {self.guest.machine.uuid} {shown}"


@dataclass(frozen=True, slots=True)
class Manage:
    """One call about a machine of VirtualBox that runs; ``plugs`` where it plugs its uplink in."""

    guest: GuestPlan
    directory: Path
    call: Call
    plugs: bool = False

    def display(self) -> str:
        """A line for a shell."""
        return vboxmanage.command(self.guest.profile, self.directory, self.call).display()


MachineStep = Command | StartMachine | Monitor | MakeMachine | AwaitRunning | Manage
