# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest that boots in seconds: a kernel and one shell script (``init``) that says the words.

An image is a bootable ISO, so that the launcher starts it as it starts any other. What the guest
does stands on its kernel's command line: see ``init``.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
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


def image(path: Path, **parameters: str) -> Path:
    """Write an image to ``path`` whose guest gets ``parameters``; returns ``path``.

    >>> image(path, at="firewall", do="fail:links")
    """
    words = " ".join(f"tiny.{key}={value}" for key, value in parameters.items())
    kernel = SHARE_KERNEL if "share" in parameters else KERNEL
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        (tree / "boot/grub").mkdir(parents=True)
        (tree / "boot/grub/grub.cfg").write_text(
            f"set timeout=0\nlinux /vmlinuz quiet panic=1 {words}\ninitrd /initrd\nboot\n"
        )
        (tree / "vmlinuz").hardlink_to(system(kernel) / "vmlinuz")
        (tree / "initrd").write_bytes(_initrd(kernel))
        _run("grub-mkrescue", "-d", "/usr/lib/grub/i386-pc", "-o", str(path),
             "--modules=iso9660 linux normal biosdisk", str(tree))  # fmt: skip
    path.chmod(0o644)
    return path


@cache
def system(kernel: str = KERNEL) -> Path:
    """A kernel, its modules and a static busybox, out of Debian's packages; kept."""
    kept = CACHE / ("tiny" if kernel == KERNEL else "tiny-share")
    if (kept / "vmlinuz").exists():
        return kept
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept) as name:
        work = Path(name)
        for package in (_concrete(kernel), "busybox-static"):
            _run("apt-get", "-q", "download", package, cwd=work)
        for deb in work.glob("*.deb"):
            _run("dpkg-deb", "-x", str(deb), str(work / "tree"))
        (work / "modules").mkdir()
        for module in MODULES:
            # Some are built into the kernel of one release, and modules in the next.
            for found in (work / "tree").rglob(f"{module}.ko*"):
                _unpack(found, work / "modules" / f"{module}.ko")
        _unpack(work / "tree/bin/busybox", work / "busybox")
        _unpack(next((work / "tree/boot").glob("vmlinuz-*")), work / "vmlinuz")
        for part in ("modules", "busybox", "vmlinuz"):
            (work / part).rename(kept / part)
    return kept


def _concrete(package: str) -> str:
    """The package that a meta package depends on."""
    text = _run("apt-cache", "show", "--no-all-versions", package)
    line = next(line for line in text.splitlines() if line.startswith("Depends: "))
    return line.removeprefix("Depends: ").split()[0]


def _unpack(source: Path, target: Path) -> None:
    if source.suffix == ".xz":
        target.write_bytes(subprocess.run(
            ["xz", "--decompress", "--stdout", str(source)], check=True, capture_output=True
        ).stdout)  # fmt: skip
    else:
        target.write_bytes(source.read_bytes())


@cache
def _initrd(kernel: str) -> bytes:
    """The root of the guest (cpio(5), the format that begins with 070701)."""
    files: dict[str, tuple[int, bytes]] = {
        "bin": (0o040755, b""),
        "modules": (0o040755, b""),
        "bin/busybox": (0o100755, (system(kernel) / "busybox").read_bytes()),
        "init": (0o100755, (Path(__file__).parent / "init").read_bytes()),
    }
    for module in sorted((system(kernel) / "modules").iterdir()):
        files[f"modules/{module.name}"] = (0o100644, module.read_bytes())
    return b"".join(_archive(files))


def _archive(files: Mapping[str, tuple[int, bytes]]) -> Iterator[bytes]:
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        # inode, mode, uid, gid, links, time, size, device twice, length of the name, no checksum
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        yield _padded(head + name.encode() + b"\0")
        yield _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=cwd
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
