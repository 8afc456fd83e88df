# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of VirtualBox's interpreter that has shares (``sharing-init``), and its image.

Debian's kernel for real machines: the one for virtual machines has no vboxsf.
"""

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
        files[f"modules/{module}.ko"] = (0o100644, (kept / f"modules/{module}.ko").read_bytes())
    return tiny.bootable(path, kept, f"{KERNEL_LINE} end={end}", b"".join(tiny.archive(files)))


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
    built = sorted(ARCHIVES.glob("linux-image-[0-9]*.deb"))
    with tiny.unpacked(built[-1] if built else tiny.SHARE_KERNEL, KEPT) as (tree, modules):
        for module in MODULES:
            tiny.unpack(next(tree.rglob(f"{module}.ko*")), modules / f"{module}.ko")
    return KEPT
