# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of a guest that looks at its machine (``init``): Debian's kernel for real machines.

Its modules are the drivers of the virtual hardware, and those that show registers to programs.
"""

import re
import tempfile
from functools import cache
from pathlib import Path

from tests.launch import tiny

TOP = Path(__file__).parents[2]
CACHE = TOP / ".build/same"
KERNEL = "linux-image-amd64"
#: What the hardware has drivers for, and cpuid, msr and fw_cfg to look with.
MODULES = (
    "cpuid", "msr", "qemu_fw_cfg", "virtio_pci", "virtio_net", "virtio_blk",
    "virtio_rng", "virtio_gpu", "ahci", "sr_mod", "psmouse", "evdev", "button", "ac", "battery",
    "lpc_ich", "iTCO_wdt", "i2c_i801", "edd", "pcspkr", "usbcore", "intel_agp",
)  # fmt: skip


def image(path: Path) -> Path:
    """Write the image to ``path``; returns it."""
    return tiny.bootable(path, _system(), "panic=1 nokaslr log_buf_len=4M", _initrd())


@cache
def _system() -> Path:
    """Kernel, its modules in the order they need each other, and a static busybox; kept."""
    if (CACHE / "vmlinuz").exists():
        return CACHE
    with tiny.unpacked(KERNEL, CACHE) as (tree, modules):
        order = _unpack_modules(tree, modules)
        (modules / "order").write_text("\n".join(order) + "\n")
    return CACHE


def _unpack_modules(tree: Path, target: Path) -> list[str]:
    """The modules and all that they need; their names, each after those that it needs."""
    known = {_key(path.name.partition(".")[0]): path for path in tree.rglob("*.ko*")}
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in known:
            return  # the second is built into this kernel
        module = target / f"{name}.ko"
        tiny.unpack(known[name], module)
        # Its section .modinfo: module.h of the kernel.
        needs = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
        for need in filter(None, needs[1].decode().split(",") if needs else ()):
            add(_key(need))
        order.append(name)

    for each in MODULES:
        add(_key(each))
    return order


def _key(name: str) -> str:
    return name.replace("-", "_")


def _initrd() -> bytes:
    files: dict[str, tuple[int, bytes]] = {
        "bin": (0o040755, b""),
        "modules": (0o040755, b""),
        "bin/busybox": (0o100755, (_system() / "busybox").read_bytes()),
        "bin/vmport": (0o100755, _compiled("vmport.c")),
        "init": (0o100755, (Path(__file__).parent / "init").read_bytes()),
    }
    for module in sorted((_system() / "modules").iterdir()):
        files[f"modules/{module.name}"] = (0o100644, module.read_bytes())
    return b"".join(tiny.archive(files))


def _compiled(source: str) -> bytes:
    with tempfile.NamedTemporaryFile() as output:
        tiny.run("gcc", "-static", "-Os", "-s", "-o", output.name,
                 str(Path(__file__).parent / source))  # fmt: skip
        return Path(output.name).read_bytes()
