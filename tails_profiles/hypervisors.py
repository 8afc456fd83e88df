# SPDX-License-Identifier: GPL-3.0-or-later
"""What a launch needs of a hypervisor, and the two that there are.

``launch_steps`` puts the parts in order and never asks which of the two it is.
"""

from collections.abc import Iterator
from typing import Protocol

from tails_profiles import qemu, vboxmanage, virtualbox
from tails_profiles.command import Command
from tails_profiles.constants import LINK_GROUP
from tails_profiles.launch import GuestPlan, LaunchPlan, VirtualBoxFacts
from tails_profiles.machine_steps import (
    AwaitRunning,
    MachineStep,
    MakeMachine,
    Manage,
    Monitor,
    StartMachine,
)
from tails_profiles.vboxmanage import Version


class Hypervisor(Protocol):
    """The parts of a launch that are its hypervisor's."""

    #: As ``--hypervisor`` has it.
    name: str
    #: Functions of bash that its lines use.
    prelude: str

    def prepare(self, plan: LaunchPlan) -> Iterator[MachineStep]:
        """What all its machines need."""

    def start(self, guest: GuestPlan, plan: LaunchPlan) -> Iterator[MachineStep]:
        """Start a guest's machine; its settings disk is there, its uplink is unplugged."""

    def go(self, guest: GuestPlan) -> Iterator[MachineStep]:
        """See that its uplink is unplugged, and let it go on, if it waits."""

    def plug(self, guest: GuestPlan, plan: LaunchPlan) -> Iterator[MachineStep]:
        """Plug its uplink in."""

    def accelerator(self, plan: LaunchPlan) -> str:
        """What runs the guests' instructions."""

    def words(self, guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
        """The program and its options, as ``host plan --format json`` has them."""


class Qemu:
    """QEMU: a machine is its command line."""

    name = "qemu"
    prelude = """\
monitor() {
    local line status=1
    coproc asker { exec socat - "UNIX-CONNECT:$1"; }
    exec {answers}<&"${asker[0]}"
    printf '%s\\n' '{"execute": "qmp_capabilities"}' "$2" >&"${asker[1]}"
    read -r line <&"$answers" && read -r line <&"$answers" &&
        while read -r line <&"$answers"; do
            case $line in
                *'"error"'*) printf '%s\\n' "$line" >&2; break ;;
                *'"return"'*) status=0; break ;;
            esac
        done
    exec {answers}<&-
    kill "$asker_PID" && wait "$asker_PID" || :
    return "$status"
}
"""

    def prepare(self, plan: LaunchPlan) -> Iterator[MachineStep]:
        """The directory of the inner links' sockets."""
        # Set-group-id: the sockets belong to the group that both users share.
        yield Command(
            ("/usr/bin/install", "-d", "-m", "2770", "-g", LINK_GROUP, str(plan.link_directory))
        )

    def start(self, guest: GuestPlan, plan: LaunchPlan) -> Iterator[MachineStep]:
        """Paused."""
        unit = qemu.unit_name(guest.profile) if plan.systemd else None
        yield StartMachine(guest, qemu.guest_command(guest, plan), unit, guest.monitor)

    def go(self, guest: GuestPlan) -> Iterator[MachineStep]:
        """Unplug, then go."""
        yield from self._links(guest, up=False)
        yield Monitor(guest, "cont", {})

    def plug(self, guest: GuestPlan, plan: LaunchPlan) -> Iterator[MachineStep]:  # noqa: ARG002
        """By its monitor."""
        yield from self._links(guest, up=True)

    def _links(self, guest: GuestPlan, *, up: bool) -> Iterator[MachineStep]:
        for link in guest.links:
            if link.is_uplink:
                yield Monitor(guest, "set_link", {"name": f"nic-{link.name}", "up": up})

    def accelerator(self, plan: LaunchPlan) -> str:
        """KVM, or QEMU itself."""
        return "kvm" if plan.kvm else "tcg"

    def words(self, guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
        """QEMU's."""
        return qemu.qemu_argv(guest, plan)


class VirtualBox:
    """VirtualBox: a machine is made, read back, and then started by its own front end."""

    name = "virtualbox"
    prelude = """\
shows() {
    local line output
    output=$'\\n'$("$@" | tr -d '"')$'\\n'
    while IFS= read -r line; do
        case $line in cpuid=*) ;; *) line=$'\\n'$line$'\\n' ;; esac
        case $output in *"$line"*) ;; *) echo "it is not so: $line" >&2; return 1 ;; esac
    done
}
whole() {
    grep -q "$2" "$1" && [ "$(tail -n 1 "$1")" = '</VirtualBox>' ] ||
        { echo "$1 is not whole: is the disk full?" >&2; return 1; }
}
runs() {
    until "${@:2}" | grep -q "$1"; do kill -0 "${!:-$$}"; sleep 0.5; done
}
"""

    def __init__(self, facts: VirtualBoxFacts) -> None:
        self._version = Version(*facts.version)
        self._facts = facts

    def prepare(self, plan: LaunchPlan) -> Iterator[MachineStep]:
        """A place for each user's list of machines."""
        for guest in {guest.user: guest for guest in plan.guests}.values():
            place = vboxmanage.home(guest.profile, plan.directory)
            owner = ("-m", "0700", "-o", guest.user, "-g", guest.user)
            yield Command(
                ("/usr/bin/install", "-d", *owner, str(place), str(vboxmanage.config(place)),
                 str(place / "machines"))
            )  # fmt: skip

    def start(self, guest: GuestPlan, plan: LaunchPlan) -> Iterator[MachineStep]:
        """Made and read back, then started; its uplink is unplugged in what it was made of."""
        machine = vboxmanage.machine(guest, plan, self._version)
        yield MakeMachine(guest, plan.directory, machine, self._version)
        display = None if guest.profile.is_gateway else self._facts.display
        if display is not None and display.authority is not None:
            owner = ("-m", "0400", "-o", guest.user, "-g", guest.user)
            copy = vboxmanage.authority(guest)
            yield Command(("/usr/bin/install", *owner, str(display.authority), str(copy)))
        unit = qemu.unit_name(guest.profile) if plan.systemd else None
        yield StartMachine(guest, vboxmanage.start_command(guest, plan, display), unit, None)
        yield AwaitRunning(guest, plan.directory)
        for path in virtualbox.HOST_VERSIONS:
            # What the front end tells it of this host, at each start; the language is always C.
            yield Manage(
                guest, plan.directory, vboxmanage.delete_property(guest.machine.uuid, path)
            )

    def go(self, guest: GuestPlan) -> Iterator[MachineStep]:  # noqa: ARG002
        """It runs."""
        yield from ()

    def plug(self, guest: GuestPlan, plan: LaunchPlan) -> Iterator[MachineStep]:
        """By VBoxManage."""
        for number, link in enumerate(guest.links, start=1):
            if link.is_uplink:
                call = vboxmanage.plug(guest.machine.uuid, number)
                yield Manage(guest, plan.directory, call, plugs=True)

    def accelerator(self, plan: LaunchPlan) -> str:  # noqa: ARG002
        """Its kernel driver; without it nothing starts."""
        return "vboxdrv"

    def words(self, guest: GuestPlan, plan: LaunchPlan) -> tuple[str, ...]:
        """The front end's; what the machine is stands in the steps."""
        display = None if guest.profile.is_gateway else self._facts.display
        return vboxmanage.front_end(guest, plan.directory, display)


_QEMU = Qemu()


def of(plan: LaunchPlan) -> Hypervisor:
    """The hypervisor that a plan is for."""
    return _QEMU if plan.virtualbox is None else VirtualBox(plan.virtualbox)


NAMES = (Qemu.name, VirtualBox.name)
