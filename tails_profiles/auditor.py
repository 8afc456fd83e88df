# SPDX-License-Identifier: GPL-3.0-or-later
"""Find a virtual machine, have its hypervisor describe it, and compare it with its recipe."""

from collections.abc import Iterator, Sequence

from tails_profiles import (
    audit_libvirt,
    audit_qemu,
    audit_virtualbox,
    vboxmanage,
    virtualbox_machine,
)
from tails_profiles.audit import Report
from tails_profiles.errors import AuditError, CommandNotFoundError
from tails_profiles.profile import Profile
from tails_profiles.recipe import HYPERVISORS
from tails_profiles.system import hypervisors


def audit(vm: str, hypervisor: str | None, profile: Profile | None) -> Report:
    """Compare the machine ``vm``, by name or UUID (QEMU: or process id), with its recipe.

    Without ``hypervisor`` all that are installed are asked. Raises AuditError where there is no
    such machine or more than one, CommandNotFoundError, CommandError.
    """
    asked = HYPERVISORS if hypervisor is None else (hypervisor,)
    found = list(_find(vm, asked, profile, required=hypervisor is not None))
    if len(found) > 1:
        raise AuditError(
            f"{vm!r} is a machine of {' and of '.join(each.hypervisor for each in found)}",
            hint="say which: --hypervisor",
        )
    if not found:
        raise AuditError(
            f"there is no machine {vm!r}",
            hint=f"asked {', '.join(asked)}, as the user who runs this; QEMU by its -name,"
            " while it runs",
        )
    return found[0]


def _find(
    vm: str, asked: Sequence[str], profile: Profile | None, *, required: bool
) -> Iterator[Report]:
    if "virtualbox" in asked:
        yield from _virtualbox(vm, profile, required=required)
    if "libvirt" in asked:
        libvirt = list(_libvirt(vm, profile, required=required))
        yield from libvirt
        if libvirt:
            # Its process is a QEMU, and is not somebody's own.
            return
    if "qemu" in asked:
        yield from _qemu(vm, profile)


def _virtualbox(vm: str, profile: Profile | None, *, required: bool) -> Iterator[Report]:
    program = hypervisors.vboxmanage()
    if program is None:
        if required:
            raise CommandNotFoundError("VBoxManage")
        return
    listed = vboxmanage.parse_list(hypervisors.list_virtualbox(program))
    uuid = _one(vm, [str(uuid) for uuid, name in listed.items() if vm in {name, str(uuid)}])
    if uuid is None:
        return
    answers = hypervisors.ask_virtualbox(program, uuid)
    info = virtualbox_machine.parse_info(answers.info)
    if "CfgFile" not in info:
        raise AuditError(f"VirtualBox does not show {vm!r}", hint="its files may be missing")
    machine = virtualbox_machine.parse(
        info, hypervisors.read_settings_file(info["CfgFile"]), answers.extradata, answers.properties
    )
    yield audit_virtualbox.audit(vm, machine, profile)


def _libvirt(vm: str, profile: Profile | None, *, required: bool) -> Iterator[Report]:
    program = hypervisors.virsh()
    if program is None:
        if required:
            raise CommandNotFoundError(hypervisors.VIRSH)
        return
    texts = hypervisors.ask_libvirt(program, vm)
    if texts is not None:
        yield audit_libvirt.audit(vm, texts, profile)


def _qemu(vm: str, profile: Profile | None) -> Iterator[Report]:
    processes = {
        str(process.pid): process
        for process in hypervisors.list_qemu()
        if vm in {str(process.pid), *audit_qemu.names(process.argv)}
    }
    pid = _one(vm, [*processes])
    if pid is not None:
        process = processes[pid]
        yield audit_qemu.audit(
            vm,
            audit_qemu.Process(process.argv, process.user == 0, process.shares_network),
            profile,
        )


def _one(vm: str, found: Sequence[str]) -> str | None:
    """The identifier of the one machine; raises AuditError where a name is ambiguous."""
    if len(found) > 1:
        raise AuditError(
            f"{len(found)} machines are named {vm!r}", hint=f"say which: {' or '.join(found)}"
        )
    return found[0] if found else None
