# SPDX-License-Identifier: GPL-3.0-or-later
"""Why VirtualBox cannot run a machine here, in words with what to do.

Sources: VirtualBox's ``VBox/err.h`` and manual, Debian's packages.
"""

import re
from dataclasses import dataclass

from tails_profiles.errors import LaunchError


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What the machine told us.

    ``program``: VirtualBox is installed. ``device``: its kernel driver is loaded. ``module``: there
    is one for this kernel. ``secure_boot``: the firmware lets no unsigned one in.
    """

    program: bool
    device: bool
    module: bool
    secure_boot: bool


def require_driver(facts: DriverFacts) -> None:
    """Raises LaunchError where no machine could start."""
    if not facts.program:
        raise LaunchError(
            "VirtualBox is not installed",
            hint="install it: Debian's package virtualbox (unstable, contrib), or Oracle's",
        )
    if not facts.device:
        raise LaunchError("VirtualBox's kernel driver is not loaded", hint=_not_loaded(facts))


def _not_loaded(facts: DriverFacts) -> str:
    if not facts.module:
        return (
            "there is none for this kernel: install virtualbox-dkms and the linux-headers of it,"
            " or run /sbin/vboxconfig"
        )
    if facts.secure_boot:
        return (
            "load it: modprobe vboxdrv. With Secure Boot the kernel refuses a module that nobody"
            " signed ('Key was rejected'): sign it and enroll the key (mokutil --import), or switch"
            " Secure Boot off in the firmware"
        )
    return "load it: modprobe vboxdrv"


#: What keeps it from the processor, and how it says so. KVM holds the processor while a machine of
#: it runs, and in Linux 6.12 and newer as long as its module is loaded; whether this VirtualBox can
#: share it only a start tells.
_REASONS = (
    (
        re.compile("VERR_VMX_IN_VMX_ROOT_MODE|VERR_SVM_IN_USE"),
        "KVM holds the processor: stop every machine of QEMU, then modprobe -r kvm_intel kvm_amd",
    ),
    (
        re.compile("VERR_VMX_MSR_ALL_VMX_DISABLED|VERR_SVM_DISABLED|VERR_VMX_NO_VMX|VERR_SVM_NO"),
        "no hardware virtualization: switch it on in the firmware (VT-x, AMD-V)",
    ),
    (
        re.compile("rc=-1908|VERR_VM_DRIVER_(NOT_INSTALLED|LOAD_ERROR|OPEN_ERROR)"),
        "its kernel driver is not there, or cannot be used: modprobe vboxdrv, and see dmesg",
    ),
    (
        re.compile("VERR_VM_DRIVER_VERSION_MISMATCH"),
        "its kernel driver is of another version: modprobe -r vboxdrv, then modprobe vboxdrv",
    ),
    (
        re.compile("VERR_SUPLIB_|SUP_E_NOT_SETUID|effective UID is not root"),
        "its front end is not set-user-id root, or may not gain that: see the package's files",
    ),
)
_TEXT = re.compile(r"aText=\{(.*?)\}(?:,|$)", re.MULTILINE | re.DOTALL)


def last_words(log: str) -> str | None:
    """The reason why a machine ended, from VBox.log or what the front end printed; 200 characters.

    None where it says nothing.
    """
    for pattern, words in _REASONS:
        if pattern.search(log):
            return words
    reasons = _TEXT.findall(log)
    lines = [line for line in log.splitlines() if line.strip()]
    said = reasons[-1] if reasons else lines[-1] if lines else ""
    return " ".join(said.split())[:200] or None
