# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that boots in seconds: a kernel and one shell script (``init``) that says the words.

An image is a bootable ISO, so that the launcher starts it as it starts any other. What the guest
does stands on its kernel's command line: see ``init``.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

TOP = Path(__file__).parents[2]
CACHE = TOP / ".build"
#: Debian's kernel for virtual machines: smaller, and quicker to start. It has no 9p.
KERNEL = "linux-image-cloud-amd64"
#: The one of live images: where a guest is given ``share``.
SHARE_KERNEL = "linux-image-amd64"
MODULES = (
    "button", "evdev", "failover", "net_failover", "virtio", "virtio_net", "virtio_pci",
    "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_ring", "netfs", "fscache", "9pnet",
    "9pnet_virtio", "9p",
)  # fmt: skip
#: File systems with a project quota, on a file: only for guests that ask for ``modules``, in this
#: order.
QUOTA_MODULES = (
    "loop", "crc16", "crc32c_generic", "libcrc32c", "mbcache", "jbd2", "ext4", "quota_tree",
    "quota_v2", "xfs",
)  # fmt: skip


def image(path: Path, **parameters: str) -> Path:
    """Write an image to ``path`` whose guest gets ``parameters``; returns ``path``.

    >>> image(path, at="firewall", do="fail:links")
    """
    words = " ".join(f"tiny.{key}={value}" for key, value in parameters.items())
    kernel = SHARE_KERNEL if "share" in parameters else KERNEL
    more = tuple(filter(None, parameters.get("modules", "").split(",")))
    return bootable(path, system(kernel), f"quiet panic=1 {words}", _initrd(kernel, more))


def bootable(path: Path, system: Path, arguments: str, initrd: bytes) -> Path:
    """Write an image to ``path`` with the kernel of ``system``; returns ``path``."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        (tree / "boot/grub").mkdir(parents=True)
        (tree / "boot/grub/grub.cfg").write_text(
            f"set timeout=0\nlinux /vmlinuz {arguments}\ninitrd /initrd\nboot\n"
        )
        (tree / "vmlinuz").hardlink_to(system / "vmlinuz")
        (tree / "initrd").write_bytes(initrd)
        run("grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", str(path),
            "--modules=iso9660 linux normal biosdisk", str(tree))  # fmt: skip
    path.chmod(0o644)
    return path


@cache
def system(kernel: str = KERNEL) -> Path:
    """A kernel, its modules and a static busybox, out of Debian's packages; kept."""
    kept = CACHE / ("tiny" if kernel == KERNEL else "tiny-live")
    if (kept / "vmlinuz").exists():
        return kept
    with unpacked(kernel, kept) as (tree, modules):
        for module in (*MODULES, *QUOTA_MODULES):
            # Some are built into the kernel of one release, and modules in the next.
            for found in tree.rglob(f"{module}.ko*"):
                unpack(found, modules / f"{module}.ko")
    return kept


@contextmanager
def unpacked(kernel: str | Path, kept: Path) -> Iterator[tuple[Path, Path]]:
    """The files of a kernel's package, and a directory for modules out of it.

    ``kernel`` is a meta package, or the file of a package that is here. Afterwards ``kept`` holds
    the kernel (``vmlinuz``), ``modules`` and a static ``busybox``: all of them or, after an error,
    none.
    """
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as name:
        work = Path(name)
        tree, modules = work / "tree", work / "modules"
        packages = ["busybox-static"]
        if isinstance(kernel, Path):
            (work / "kernel.deb").symlink_to(kernel)
        else:
            packages.append(_concrete(kernel))
        for package in packages:
            run("apt-get", "-q", "download", package, cwd=work)
        for deb in work.glob("*.deb"):
            run("dpkg-deb", "-x", str(deb), str(tree))
        modules.mkdir()
        yield tree, modules
        unpack(tree / "bin/busybox", work / "busybox")
        unpack(next((tree / "boot").glob("vmlinuz-*")), work / "vmlinuz")
        for part in ("modules", "busybox", "vmlinuz"):
            (work / part).rename(kept / part)


def _concrete(package: str) -> str:
    """The package that a meta package depends on."""
    text = run("apt-cache", "show", "--no-all-versions", package)
    line = next(line for line in text.splitlines() if line.startswith("Depends: "))
    return line.removeprefix("Depends: ").split()[0]


def unpack(source: Path, target: Path) -> None:
    """A file out of a package, without its compression."""
    if source.suffix == ".xz":
        target.write_bytes(subprocess.run(
            ["xz", "--decompress", "--stdout", str(source)], check=True, capture_output=True
        ).stdout)  # fmt: skip
    else:
        target.write_bytes(source.read_bytes())


@cache
def _initrd(kernel: str, more: tuple[str, ...]) -> bytes:
    """The root of the guest (cpio(5), the format that begins with 070701); ``more`` modules."""
    files: dict[str, tuple[int, bytes]] = {
        "bin": (0o040755, b""),
        "modules": (0o040755, b""),
        "bin/busybox": (0o100755, (system(kernel) / "busybox").read_bytes()),
        "init": (0o100755, (Path(__file__).parent / "init").read_bytes()),
    }
    for module in sorted((system(kernel) / "modules").iterdir()):
        if module.stem in (*MODULES, *more):
            files[f"modules/{module.name}"] = (0o100644, module.read_bytes())
    return b"".join(archive(files))


def archive(files: Mapping[str, tuple[int, bytes]]) -> Iterator[bytes]:
    """The parts of an archive of these files: path to mode and content (or a link's target)."""
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        # inode, mode, uid, gid, links, time, size, device twice, length of the name, no checksum
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        yield _padded(head + name.encode() + b"\0")
        yield _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def run(*argv: str, cwd: Path | None = None) -> str:
    """A command that must succeed; its output."""
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=cwd
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
