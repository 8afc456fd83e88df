# SPDX-License-Identifier: GPL-3.0-or-later
"""The image itself: built twice it is the same but for a list, and it boots by UEFI as well."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.vm.image import IMAGE, TOP
from tests.vm.single import Argv, Single, Spec

pytestmark = [pytest.mark.vm, pytest.mark.slow]

CACHE = TOP / ".build/image/cache"
DIFFERENCES = TOP / "image/build-differences"
#: Bytes: a date, and numbers of the disk, its partitions, its file systems.
IDENTIFIERS = 128
OVMF = Path("/usr/share/OVMF")


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="tp-image-", dir="/var/tmp"))
    yield made
    # The builds mount nothing here that outlives them; one file system all the same.
    subprocess.run(["rm", "-rf", "--one-file-system", str(made)], check=True)


def test_two_builds_differ_only_where_the_list_says_so(directory: Path) -> None:
    cache = directory / "cache"
    (cache / "archives").mkdir(parents=True)
    # The same packages: what Debian changes between two builds is not the recipe's.
    for package in (CACHE / "archives").glob("*.deb"):
        os.link(package, cache / "archives" / package.name)
    again = directory / "again.iso"
    command = [TOP / "image/build", "--cache", cache, "--output", again]
    subprocess.run(command, check=True)
    one, two = listing(IMAGE), listing(again)
    different = sorted(path for path in one.keys() | two.keys() if one.get(path) != two.get(path))
    patterns = read_patterns()
    assert [
        path for path in different if not any(fnmatchcase(path, pattern) for pattern in patterns)
    ] == []
    compared = subprocess.run(["cmp", "-l", IMAGE, again], capture_output=True, check=False)
    assert len(compared.stdout.splitlines()) <= IDENTIFIERS


def listing(image: Path) -> dict[str, str]:
    """The image, its parts, and every file of its layers with all that squashfs stores of it."""
    found = {"image": digest(image)}
    for root in map(Path, Path(f"{image}.trees").read_text().splitlines()):
        # Kernel, initrd and squashfs.
        found |= {part.name: digest(part) for part in root.parent.iterdir() if part.is_file()}
        for where, names, files in os.walk(root):
            for name in (*names, *files):
                path = Path(where, name)
                relative = path.relative_to(root)
                if not left_out(relative):
                    found[f"{root.name}/{relative}"] = facts(path)
    return found


def digest(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def left_out(path: Path) -> bool:
    """What image/build leaves out of the layers."""
    return len(path.parts) > 1 and path.parts[0] in {"boot", "dev", "proc", "sys", "run", "tmp"}


def facts(path: Path) -> str:
    """Mode, owner, time and content."""
    found = path.lstat()
    content = ""
    if stat.S_ISLNK(found.st_mode):
        content = str(path.readlink())
    elif stat.S_ISREG(found.st_mode):
        content = digest(path)
    # squashfs clamps times that are newer than SOURCE_DATE_EPOCH.
    time = min(int(found.st_mtime), 1767225600)
    return f"{found.st_mode:o} {found.st_uid}:{found.st_gid} {time} {content}"


def read_patterns() -> list[str]:
    """Each line is a pattern, ``#``, and its reason."""
    lines = [line for line in DIFFERENCES.read_text().splitlines() if line[:1] != "#"]
    parts = [re.fullmatch(r"(\S+)\s+# \S.*", line) for line in lines]
    assert all(parts), lines
    return [part[1] for part in parts if part]


def with_uefi(argv: Argv, directory: Path) -> Argv:
    """Firmware of UEFI in place of a BIOS."""
    variables = directory / "variables"
    shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
    code = f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd"
    return (*argv, "-drive", code, "-drive", f"if=pflash,format=raw,file={variables}")


def test_image_boots_by_uefi(directory: Path) -> None:
    with Single(Spec("uefi", argv=with_uefi), directory / "uefi") as machine:
        machine.wait_for_words("tor-guest firewall", 900)
        machine.succeed("test -d /sys/firmware/efi")
        assert machine.succeed("cat /sys/class/dmi/id/bios_vendor") == machine.guest.token
