# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of VirtualBox's interpreter that has shares (``sharing-init``), and its image.

Debian's kernel for real machines: the one for virtual machines has no vboxsf.
"""

import subprocess
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from tails_profiles import settings, shares
from tails_profiles.profile import Profile
from tails_profiles.settings import Feature, Share
from tails_profiles.shares import FOLDERS
from tests.launch import tiny
from tests.virtualbox.guest import KERNEL_LINE

HERE = Path(__file__).parent
TOP = Path(__file__).parents[2]
KEPT = TOP / ".build/tiny-vboxsf"
#: What ``image/build`` has downloaded.
ARCHIVES = TOP / ".build/image/cache/archives"
MODULES = ("vboxguest", "vboxsf")
#: The second one is lent read-only; in the third one the test allows links.
FEATURES = (Feature.PERSISTENT_DIRECTORY, Feature.BROWSER_BOOKMARKS, Feature.PIDGIN)
_DIRECTORIES = (
    "bin", "etc", "modules", "usr", "usr/lib", "usr/lib/tails-profiles",
)  # fmt: skip


def image(path: Path, end: str) -> Path:
    """Write the image to ``path``; ``end`` is ``power-off``, or ``never``."""
    kept = system()
    files: dict[str, tuple[int, bytes]] = dict.fromkeys(_DIRECTORIES, (0o040755, b""))
    files["bin/busybox"] = (0o100755, (kept / "busybox").read_bytes())
    files["init"] = (0o100755, (HERE / "sharing-init").read_bytes())
    files["manager"] = (0o100755, (HERE / "sharing-manager").read_bytes())
    files["etc/passwd"] = (
        0o100644,
        b"root:x:0:0::/root:/bin/sh\nlive:x:1000:1000::/home/live:/bin/sh\n",
    )
    files["table"] = (0o100644, table().encode())
    files["usr/lib/tails-profiles/shares"] = (0o100755, (TOP / "units/shares").read_bytes())
    for module in MODULES:
        files[f"modules/{module}.ko"] = (0o100644, (kept / f"{module}.ko").read_bytes())
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        (tree / "boot/grub").mkdir(parents=True)
        (tree / "boot/grub/grub.cfg").write_text(
            f"set timeout=0\nlinux /vmlinuz {KERNEL_LINE} end={end}\ninitrd /initrd\nboot\n"
        )
        (tree / "vmlinuz").hardlink_to(kept / "vmlinuz")
        (tree / "initrd").write_bytes(b"".join(tiny._archive(files)))
        subprocess.run(
            ["grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", str(path),
             "--modules=iso9660 linux normal biosdisk", str(tree)],
            check=True, capture_output=True,
        )  # fmt: skip
    path.chmod(0o644)
    return path


def table() -> str:
    """What our own code writes for the guest's step."""
    promised = tuple(Share(FOLDERS[each].tag, each) for each in FEATURES)
    return shares.mount_table(replace(settings.defaults(Profile.APP_GUEST), shares=promised))


@cache
def system() -> Path:
    """The kernel, the two modules and a static busybox, out of Debian's packages; kept.

    The kernel of our image, where that was built, or else this machine's release's.
    """
    if (KEPT / "vmlinuz").exists():
        return KEPT
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as name:
        work = Path(name)
        built = sorted(ARCHIVES.glob("linux-image-[0-9]*.deb"))
        if built:
            (work / "kernel.deb").symlink_to(built[-1])
        packages = ("busybox-static", *([] if built else [tiny._concrete(tiny.SHARE_KERNEL)]))
        for package in packages:
            tiny._run("apt-get", "-q", "download", package, cwd=work)
        for deb in work.glob("*.deb"):
            tiny._run("dpkg-deb", "-x", str(deb), str(work / "tree"))
        for module in MODULES:
            tiny._unpack(next((work / "tree").rglob(f"{module}.ko*")), work / f"{module}.ko")
        tiny._unpack(work / "tree/bin/busybox", work / "busybox")
        tiny._unpack(next((work / "tree/boot").glob("vmlinuz-*")), work / "vmlinuz")
        for part in (*(f"{module}.ko" for module in MODULES), "busybox", "vmlinuz"):
            (work / part).rename(KEPT / part)
    return KEPT
