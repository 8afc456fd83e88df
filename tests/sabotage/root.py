# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian root directory to boot in namespaces, with our packages installed; kept by content.

``python3 -m tests.sabotage.root`` builds it, for each suite. What it mounts lives in private
namespaces.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).parents[2]
BUILD = TOP / ".build"
SUITES = ("trixie", "bookworm")
MODULES = "usr/lib/python3/dist-packages"
PACKAGES = (
    "busybox", "dbus", "i2pd", "ifupdown", "iproute2", "kmod", "network-manager", "nftables",
    "procps", "python3-dmidecode", "python3-jinja2", "python3-pyudev", "python3-stem",
    "python3-systemd", "systemd-sysv", "tor", "udev",
)  # fmt: skip


def base(suite: str = SUITES[0], extra: Sequence[str] = ()) -> Path:
    """The Debian system without our packages, and with ``extra`` ones; built when missing."""
    return debian("root", suite, (*PACKAGES, *extra))


def debian(
    name: str,
    suite: str,
    packages: Sequence[str],
    components: str = "main",
    options: Sequence[str] = (),
) -> Path:
    """A root directory of Debian below ``.build``, built when missing.

    It is called ``name`` and a hash of suite and packages. ``options`` are more of mmdebstrap's.
    """
    key = hashlib.sha256(" ".join((suite, *packages)).encode()).hexdigest()[:16]
    tree = BUILD / f"{name}-{key}"
    if tree.is_dir():
        return tree
    part = BUILD / f"{name}-{key}.part"
    if part.exists():
        _run("rm", "-rf", "--one-file-system", str(part))
    print(f"making a Debian {suite} root directory, about a minute", flush=True)
    # In its own mount namespace: whatever mmdebstrap mounts ends with it.
    _run(
        "unshare", "--mount", "--propagation", "private", "mmdebstrap", "--mode=root", "--quiet",
        "--variant=apt", f"--components={components}", *options,
        '--aptopt=Apt::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", f"--include={','.join(packages)}",
        suite, str(part),
    )  # fmt: skip
    # Caches that systemd would rebuild at every start of a fresh overlay.
    for stamp in ("etc/.updated", "var/.updated"):
        (part / stamp).touch()
        os.utime(part / stamp, (2**31 - 1, 2**31 - 1))
    part.rename(tree)
    return tree


def layer(suite: str = SUITES[0]) -> Path:
    """What our two packages leave on a suite, as a directory to be laid over its base."""
    debs = sorted((BUILD / "debs").glob("tails-profiles_*.deb"))
    debs += sorted((BUILD / "debs").glob("tails-profiles-boot_*.deb"))
    if len(debs) != 2:
        raise FileNotFoundError("no packages in .build/debs: run './check packages'")
    key = hashlib.sha256(b"".join(deb.read_bytes() for deb in debs)).hexdigest()[:16]
    tree = BUILD / f"layer-{suite}-{key}"
    if not tree.is_dir():
        for old in BUILD.glob(f"layer-{suite}-*"):
            shutil.rmtree(old)
        part = BUILD / f"layer-{suite}.part"
        shutil.rmtree(part, ignore_errors=True)
        for deb in debs:
            _run("dpkg-deb", "-x", str(deb), str(part))
        _compile(suite, part)
        part.rename(tree)
    return tree


def _compile(suite: str, tree: Path) -> None:
    # As the package does when it is configured, by the suite's own Python: without it every step
    # of every boot would compile the sources again.
    modules, debian = tree / MODULES, base(suite)
    _run(
        "unshare", "--mount", "--propagation", "private", "sh", "-euc",
        f'mount --bind "$1/{MODULES}" "$2/mnt"; exec chroot "$2" '
        f"python3 -m compileall -q -s /mnt -p /{MODULES} /mnt",
        "compile", str(tree), str(debian),
    )  # fmt: skip
    assert any(modules.glob("tails_profiles/__pycache__/*.pyc")), f"nothing compiled in {modules}"


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    for each in SUITES:
        base(each)
        layer(each)
    sys.exit(0)
