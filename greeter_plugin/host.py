# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the facts of this machine. Looks, changes nothing; no process is started."""

import re
from pathlib import Path

from greeter_plugin.capability import HostFacts

#: The name by which GDM knows the host session, and its entry.
SESSION = "tails-profiles-host"

_SESSION_ENTRY = f"usr/share/wayland-sessions/{SESSION}.desktop"
# /dev/kvm is no evidence: a static node of that name stands there before the driver is loaded.
_KVM = "sys/class/misc/kvm"
_VBOXDRV = "sys/class/misc/vboxdrv"
_KVM_HOLDS = "sys/module/kvm/parameters/enable_virt_at_load"


def read_facts(root: Path = Path("/")) -> HostFacts:
    """The facts under ``root``; OSError or ValueError where /proc is not as proc(5) says."""
    return HostFacts(
        processor_flags=_processor_flags(root / "proc/cpuinfo"),
        memory=_memory(root / "proc/meminfo"),
        qemu=(root / "usr/bin/qemu-system-x86_64").exists(),
        virtualbox=(root / "usr/bin/VBoxManage").exists(),
        kvm=(root / _KVM).exists(),
        vboxdrv=(root / _VBOXDRV).exists(),
        kvm_holds=_word(root / _KVM_HOLDS) in {"Y", "1"},
        host_session=(root / _SESSION_ENTRY).is_file(),
        i2pd=any((root / name).exists() for name in ("usr/sbin/i2pd", "usr/bin/i2pd")),
    )


def is_guest(root: Path = Path("/")) -> bool:
    """Whether this boot is already one of the guests, so that there is nothing to choose."""
    text = _word(root / "run/tails-profiles/selection.json")
    found = re.search(r'"profile":\s*"([a-z0-9-]+)"', text)
    return found is not None and found[1] != "normal"


def _processor_flags(path: Path) -> frozenset[str]:
    # The first processor speaks for all: the file has a block of some 1.5 kB for each.
    with path.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == "flags":
                return frozenset(value.split())
    return frozenset()


def _memory(path: Path) -> int:
    with path.open(encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) // 1024
    raise ValueError(f"{path} has no MemTotal")


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""
