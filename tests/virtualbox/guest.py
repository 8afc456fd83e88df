# SPDX-License-Identifier: GPL-3.0-or-later
"""An image for VirtualBox's interpreter: Debian's kernel for virtual machines, and ``init``."""

from pathlib import Path

from tests.launch import tiny

TOP = Path(__file__).parents[2]
#: What is boiled down or left out of a boot that is interpreted instruction by instruction.
KERNEL_LINE = "quiet nokaslr mitigations=off tsc=reliable lpj=4000000 panic=1"
#: The generator's programs are busybox' own; it calls them by these paths.
LINKS = {"usr/bin/ln": "/bin/busybox", "usr/bin/readlink": "/bin/busybox"}
DIRECTORIES = (
    "bin", "modules", "usr", "usr/bin", "usr/lib", "usr/lib/systemd",
    "usr/lib/systemd/system-generators", "usr/lib/tails-profiles",
)  # fmt: skip


def image(path: Path) -> Path:
    """Write the image to ``path``."""
    system = tiny.system()
    files = dict.fromkeys(DIRECTORIES, (0o040755, b""))
    files["bin/busybox"] = (0o100755, (system / "busybox").read_bytes())
    files["init"] = (0o100755, (Path(__file__).parent / "init").read_bytes())
    for name, target in LINKS.items():
        files[name] = (0o120777, target.encode())
    files["usr/lib/systemd/system-generators/tails-profiles-generator"] = (
        0o100755, (TOP / "units/tails-profiles-generator").read_bytes(),
    )  # fmt: skip
    files["usr/lib/tails-profiles/classify.sh"] = (
        0o100644, (TOP / "units/classify.sh").read_bytes(),
    )  # fmt: skip
    for module in ("button", "evdev"):
        found = system / f"modules/{module}.ko"
        if found.exists():
            files[f"modules/{module}.ko"] = (0o100644, found.read_bytes())
    return tiny.bootable(path, system, KERNEL_LINE, b"".join(tiny.archive(files)))
