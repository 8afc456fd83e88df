# SPDX-License-Identifier: GPL-3.0-or-later
"""Find a virtual machine, have its hypervisor describe it, and compare it with its recipe."""

from collections.abc import Callable, Collection, Mapping, Sequence

from tails_profiles import (
    audit_libvirt,
    audit_qemu,
    audit_virtualbox,
    vboxmanage,
    virtualbox_machine,
)
from tails_profiles.audit import Report
from tails_profiles.errors import AuditError, CommandError, CommandNotFoundError
from tails_profiles.profile import Profile
from tails_profiles.system import hypervisors


def audit(vm: str, hypervisor: str | None, profile: Profile | None) -> Report:
    """Compare the machine ``vm``, by name or UUID (QEMU: or process id), with its recipe.

    Without ``hypervisor`` all that are installed and answer are asked. Raises AuditError where
    there is no such machine or more than one, CommandNotFoundError, CommandError.
    """
    found, silent = _ask(_ASK if hypervisor is None else [hypervisor], vm, profile)
    if len(found) > 1:
        raise AuditError(
            f"{vm!r} is a machine of {' and of '.join(each.hypervisor for each in found)}",
            hint="say which: --hypervisor",
        )
    if not found:
        raise AuditError(
            f"there is no machine {vm!r} of this user" + "".join(f"; {words}" for words in silent),
            hint="each user has machines of their own; one of QEMU is found while it runs",
        )
    return found[0]


def _ask(
    names: Collection[str], vm: str, profile: Profile | None
) -> tuple[list[Report], list[str]]:
    """What each hypervisor says of it and, of several, why others say nothing."""
    found: list[Report] = []
    silent: list[str] = []
    for name in names:
        if name == "qemu" and any(each.hypervisor == "libvirt" for each in found):
            # That process is libvirt's.
            continue
        try:
            report = _ASK[name](vm, profile)
        except (CommandError, CommandNotFoundError) as err:
            if len(names) == 1:
                raise
            if isinstance(err, CommandError):
                silent.append(f"{name} does not answer: {err}")
        else:
            found += [] if report is None else [report]
    return found, silent


def _virtualbox(vm: str, profile: Profile | None) -> Report | None:
    program = hypervisors.vboxmanage()
    listed = vboxmanage.parse_list(hypervisors.list_virtualbox(program))
    uuid = _one(vm, [str(uuid) for uuid, name in listed.items() if vm in {name, str(uuid)}])
    if uuid is None:
        return None
    answers = hypervisors.ask_virtualbox(program, uuid)
    info = vboxmanage.parse_info(answers.info)
    if "CfgFile" not in info:
        raise AuditError(f"VirtualBox does not say where the settings of {vm!r} are")
    machine = virtualbox_machine.parse(
        info, hypervisors.read_settings_file(info["CfgFile"]), answers.extradata, answers.properties
    )
    return audit_virtualbox.audit(vm, machine, profile)


def _libvirt(vm: str, profile: Profile | None) -> Report | None:
    texts = hypervisors.ask_libvirt(vm)
    return None if texts is None else audit_libvirt.audit(vm, texts, profile)


def _qemu(vm: str, profile: Profile | None) -> Report | None:
    processes = {
        str(process.pid): process
        for process in hypervisors.list_qemu()
        if vm in {str(process.pid), *audit_qemu.names(process.argv)}
    }
    pid = _one(vm, [*processes])
    if pid is None:
        return None
    process = processes[pid]
    return audit_qemu.audit(
        vm, audit_qemu.Process(process.argv, process.user == 0, process.shares_network), profile
    )


#: How each hypervisor is asked; None: it has no such machine.
_ASK: Mapping[str, Callable[[str, Profile | None], Report | None]] = {
    "virtualbox": _virtualbox,
    "libvirt": _libvirt,
    "qemu": _qemu,
}


def _one(vm: str, found: Sequence[str]) -> str | None:
    """The identifier of the one machine; raises AuditError where a name is ambiguous."""
    if len(found) > 1:
        raise AuditError(
            f"{len(found)} machines are named {vm!r}", hint=f"say which: {' or '.join(found)}"
        )
    return found[0] if found else None
