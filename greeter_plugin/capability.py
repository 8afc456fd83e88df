# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide whether this machine can isolate, from facts about it. Pure: reads nothing."""

from enum import Enum
from typing import NamedTuple

# MiB. The first four are the launcher's (tails_profiles.launch: MACHINES, HOST_RESERVE), held
# equal by a test, and not imported: the greeter would wait for that import at every start.
TOR_GUEST = 320
I2P_GUEST = 320
APP_GUEST = 2048
#: Hypervisor processes, and what the host keeps free.
HOST_RESERVE = 512
#: What the host's own system occupies when the guests start. An estimate, not measured: the
#: launcher counts the memory that is available then, and has the last word.
HOST_SYSTEM = 768


class Obstacle(Enum):
    """Why isolation cannot work here."""

    NO_HYPERVISOR = "no-hypervisor"
    NO_SESSION = "no-session"
    NO_VIRTUALIZATION = "no-virtualization"
    INSIDE_VM = "inside-vm"
    PROCESSOR_HELD = "processor-held"
    TOO_LITTLE_MEMORY = "too-little-memory"


class I2p(Enum):
    """Whether I2P can be offered."""

    ABSENT = "absent"
    TOO_LITTLE_MEMORY = "too-little-memory"
    POSSIBLE = "possible"


class HostFacts(NamedTuple):
    """What a machine told us; ``memory`` is the kernel's MemTotal in MiB.

    ``kvm`` and ``vboxdrv``: that driver is in the kernel and has taken the processor for usable.
    ``kvm_holds``: KVM switches virtualization on when it is loaded rather than with its first
    machine (Linux 6.12 and later), which VirtualBox cannot share.
    """

    processor_flags: frozenset[str]
    memory: int
    qemu: bool
    virtualbox: bool
    kvm: bool
    vboxdrv: bool
    kvm_holds: bool
    host_session: bool
    i2pd: bool


class Verdict(NamedTuple):
    """``needs`` and ``has`` are MiB of memory; ``i2p_needs`` with I2P as well."""

    obstacle: Obstacle | None
    i2p: I2p
    needs: int
    i2p_needs: int
    has: int

    @property
    def possible(self) -> bool:
        """Whether the user may choose isolation."""
        return self.obstacle is None


def judge(facts: HostFacts) -> Verdict:
    """Decide from facts alone."""
    needs = TOR_GUEST + APP_GUEST + HOST_RESERVE + HOST_SYSTEM
    return Verdict(
        _image_obstacle(facts) or _processor_obstacle(facts) or _memory_obstacle(facts, needs),
        _i2p(facts, needs + I2P_GUEST),
        needs,
        needs + I2P_GUEST,
        facts.memory,
    )


def _image_obstacle(facts: HostFacts) -> Obstacle | None:
    if not (facts.qemu or facts.virtualbox):
        return Obstacle.NO_HYPERVISOR
    return None if facts.host_session else Obstacle.NO_SESSION


def _processor_obstacle(facts: HostFacts) -> Obstacle | None:
    # Linux clears vmx where the firmware has locked it off; svm stays, and kvm_amd does not load.
    missing = (
        Obstacle.INSIDE_VM if "hypervisor" in facts.processor_flags else Obstacle.NO_VIRTUALIZATION
    )
    if not facts.processor_flags & {"vmx", "svm"}:
        return missing
    kvm_held = facts.kvm and facts.kvm_holds
    if (facts.qemu and facts.kvm) or (facts.virtualbox and facts.vboxdrv and not kvm_held):
        return None
    if (facts.qemu and facts.vboxdrv) or (facts.virtualbox and kvm_held):
        return Obstacle.PROCESSOR_HELD
    # VirtualBox without its driver is no hypervisor; QEMU without KVM is the firmware's doing.
    return missing if facts.qemu else Obstacle.NO_HYPERVISOR


def _memory_obstacle(facts: HostFacts, needs: int) -> Obstacle | None:
    return Obstacle.TOO_LITTLE_MEMORY if facts.memory < needs else None


def _i2p(facts: HostFacts, needs: int) -> I2p:
    if not facts.i2pd:
        return I2p.ABSENT
    return I2p.POSSIBLE if facts.memory >= needs else I2p.TOO_LITTLE_MEMORY
