# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of VirtualBox's interpreter that has shares (``sharing-init``), and its image.

Debian's kernel for real machines: the one for virtual machines has no vboxsf.
"""

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

from tails_profiles import settings, shares
from tails_profiles.profile import Profile
from tails_profiles.settings import Feature, Share
from tails_profiles.shares import FOLDERS
from tests.launch import programs_in_a_share, tiny
from tests.virtualbox.guest import KERNEL_LINE

HERE = Path(__file__).parent
TOP = Path(__file__).parents[2]
KEPT = TOP / ".build/tiny-vboxsf"
#: What ``image/build`` has downloaded.
ARCHIVES = TOP / ".build/image/cache/archives"
MODULES = ("vboxguest", "vboxsf")
#: The second one is lent read-only; in the third one the test allows links.
FEATURES = (Feature.PERSISTENT_DIRECTORY, Feature.BROWSER_BOOKMARKS, Feature.PIDGIN)
#: What ``programs_in_a_share`` calls.
_PROGRAMS = ("sh", "ssh", "ssh-add", "ssh-agent", "ssh-keygen", "tar")
_PYTHON = ("/usr/bin/python3", "-I", "-S", "-B", "-X", "utf8")
#: Every file that a program of Python's imports before it does anything.
_IMPORTED = """\
import runpy, sys
runpy.run_path(sys.argv[1])
print(*{each.__file__ for each in sys.modules.values() if getattr(each, "__file__", None)})
"""
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
    files["etc/passwd"] = (0o100644, passwd("/home/live"))
    files["table"] = (0o100644, table().encode())
    files["usr/lib/tails-profiles/shares"] = (0o100755, (TOP / "units/shares").read_bytes())
    for module in MODULES:
        files[f"modules/{module}.ko"] = (0o100644, (kept / f"modules/{module}.ko").read_bytes())
    return tiny.bootable(path, kept, f"{KERNEL_LINE} end={end}", b"".join(tiny.archive(files)))


def passwd(home: str) -> bytes:
    """Who a guest's users are."""
    return f"root:x:0:0::/root:/bin/sh\nlive:x:1000:1000::{home}:/bin/sh\n".encode()


def programs(root: Path) -> None:
    """Make ``root`` a root directory with ``programs_in_a_share`` and all that it needs.

    This machine's own programs, for a kernel that is newer or the same. ``/run`` starts it.
    """
    script = Path(programs_in_a_share.__file__)
    imported = tiny.run(*_PYTHON, "-c", _IMPORTED, str(script)).split()
    executables = (_PYTHON[0], *(f"/usr/bin/{name}" for name in _PROGRAMS))
    libraries = [path for path in imported if path.endswith(".so")]
    needed = {
        word
        for path in (*executables, *libraries)
        for word in tiny.run("ldd", path).split()
        if word.startswith("/")
    }
    for path in {*imported, *executables, *needed} - {str(script)}:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    # Scripts and shells are called by this name.
    (root / "bin").mkdir(exist_ok=True)
    shutil.copy("/usr/bin/sh", root / "bin/sh")
    for name in ("dev", "etc", "share"):
        (root / name).mkdir()
    (root / "etc/passwd").write_bytes(passwd("/share"))
    shutil.copy(script, root / "program")
    (root / "run").write_text(f"exec {' '.join(_PYTHON)} /program without-gpg\n")


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
