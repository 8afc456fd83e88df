# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask hypervisors what they know of a virtual machine. Nothing is changed."""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tails_profiles.command import Command
from tails_profiles.errors import AuditError, CommandError, CommandNotFoundError
from tails_profiles.system.process import Completed, read
from tails_profiles.vboxmanage import VBOXMANAGE, complaint

#: Bytes; a machine with every setting there is has a hundredth.
LIMIT = 4 << 20
VIRSH = "virsh"
#: The second, where the first is not, may be a script that prints warnings before each answer.
VBOXMANAGES = (VBOXMANAGE, "VBoxManage")


# ---- VirtualBox


def vboxmanage() -> str:
    """The program; raises CommandNotFoundError where VirtualBox is not installed."""
    found = next((path for name in VBOXMANAGES if (path := shutil.which(name))), None)
    if found is None:
        raise CommandNotFoundError("VBoxManage")
    return found


def list_virtualbox(program: str) -> str:
    """The machines of whoever runs this, as VBoxManage lists them; names are not unique."""
    return _asked(program, "list", "vms").stdout


#: VirtualBox's service ends five seconds after its last client. A call that meets it then is told
#: so; it has done nothing, and the next one starts another service.
_ENDED = "the VirtualBox COM server is not running"


def _asked(program: str, *words: str, ok: Collection[int] = (0,)) -> Completed:
    """One call of VBoxManage; where its service was just ending, the same once more."""
    command = Command((program, *words))
    try:
        done = read(command, limit=LIMIT, ok=ok)
        if _ENDED not in done.stderr:
            return done
    except CommandError as err:
        if _ENDED not in err.stderr:
            raise
    return read(command, limit=LIMIT, ok=ok)


@dataclass(frozen=True, slots=True)
class VirtualBoxAnswers:
    """What VirtualBox printed of a machine, and its settings file."""

    info: str
    extradata: str
    properties: str


def ask_virtualbox(program: str, uuid: str) -> VirtualBoxAnswers:
    """Every answer of VBoxManage that an audit needs; ``extradata`` is the global one.

    Raises AuditError where VirtualBox has the machine in its list and cannot show it, CommandError.
    """

    info = _asked(program, "showvminfo", uuid, "--machinereadable", ok=range(256))
    if info.status != 0:
        raise AuditError(
            f"VirtualBox cannot show {uuid}: {complaint(info.stderr)}",
            hint="its files may be gone or damaged, or it is just starting",
        )
    return VirtualBoxAnswers(
        info.stdout,
        _asked(program, "getextradata", "global", "enumerate").stdout,
        _asked(program, "guestproperty", "enumerate", uuid).stdout,
    )


def read_settings_file(path: str) -> str:
    """A machine's settings file; raises AuditError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LIMIT + 1)
    except OSError as err:
        raise AuditError(f"{path} cannot be read: {err.strerror}") from err
    if len(content) > LIMIT:
        raise AuditError(f"{path} has more than {LIMIT} bytes")
    return content.decode(errors="replace")


# ---- libvirt


def ask_libvirt(vm: str) -> tuple[str, ...] | None:
    """A domain's XML: what it will start with and, if it runs, what it is now; None if unknown.

    Raises CommandNotFoundError, and CommandError where libvirt itself does not answer.
    """
    stored = _virsh("--inactive", vm)
    if stored.status == 0:
        return stored.stdout, _virsh("", vm).stdout
    if "failed to get domain" in stored.stderr:
        return None
    raise CommandError(f"{VIRSH} dumpxml", stored.status, stored.stderr)


def _virsh(option: str, vm: str) -> Completed:
    words = ("--readonly", "--quiet", "dumpxml", *filter(None, [option]), "--domain", vm)
    return read(Command((VIRSH, *words)), limit=LIMIT, ok=range(256))


# ---- QEMU


@dataclass(frozen=True, slots=True)
class QemuProcess:
    """A running QEMU: its words, the user it runs as, and whether this network is its own too."""

    pid: int
    argv: tuple[str, ...]
    user: int
    shares_network: bool


def list_qemu() -> Iterator[QemuProcess]:
    """Every running QEMU that this user may look at."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            # Whatever ended meanwhile, or is another user's.
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()[:LIMIT].split(b"\0")[:-1]
                if words and Path(os.fsdecode(words[0])).name.startswith("qemu-system-"):
                    yield QemuProcess(
                        int(entry.name),
                        tuple(map(os.fsdecode, words)),
                        entry.stat().st_uid,
                        (entry / "ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino,
                    )
