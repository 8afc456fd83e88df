# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the image for tests: a further squashfs layer on top, or another kernel line.

The production image holds no door. The layer ``90-test`` opens a root shell on a virtio port and
carries what a test sabotages; every byte of the image's own session stays as it is.
"""

import contextlib
import platform
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pycdlib

from tails_profiles.i2pd import ADDITIONS
from tests.lab.tornet import run

TOP = Path(__file__).parents[2]
IMAGE = TOP / ".build/image/tails-profiles.iso"
PORT = "test.shell"
_SECTOR = 2048
#: SOURCE_DATE_EPOCH of image/build.
_TIME = "1767225600"
#: Of the production image, the top one first.
_LAYERS = ("50-profiles", "10-base")


@dataclass(frozen=True)
class File:
    """A file of the layer, in place of the image's own."""

    text: str
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """A symbolic link; one to /dev/null masks a unit or a generator."""

    target: str


@dataclass(frozen=True)
class Absent:
    """A whiteout: the image's own file or directory is gone."""


@dataclass(frozen=True)
class Edited:
    """The image's own file, changed when the layer is made, or only with another mode."""

    change: Callable[[str], str]
    mode: int = 0o644


Layer = Mapping[str, File | Link | Absent | Edited]
MASKED = Link("/dev/null")

_DOOR: Layer = {
    "etc/udev/rules.d/99-test-shell.rules": File(
        f'SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{PORT}", TAG+="systemd",'
        ' ENV{SYSTEMD_WANTS}+="test-shell.service"\n'
    ),
    # In quarantine too, which stops whatever it does not need.
    "etc/systemd/system/test-shell.service": File(
        "[Unit]\nDefaultDependencies=no\nIgnoreOnIsolate=yes\nStartLimitIntervalSec=0\n"
        "Conflicts=shutdown.target\nBefore=shutdown.target\n"
        "[Service]\nExecStart=/bin/bash --norc --noprofile\n"
        f"StandardInput=file:/dev/virtio-ports/{PORT}\n"
        f"StandardOutput=file:/dev/virtio-ports/{PORT}\n"
        # Behind a closed door it ends at once: once a second, not without a pause.
        "StandardError=inherit\nRestart=always\nRestartSec=1\n"
    ),
}
#: Where the image's makers add to Tor's configuration: see tails_profiles/torrc.py.
I2P_ADDITIONS = ADDITIONS.lstrip("/")
TOR_ADDITIONS = "usr/share/tor/tails-profiles.d/private-network.conf"


def make(
    output: Path,
    layer: Layer | None = None,
    arguments: str = "",
    torrc: str = "",
    *,
    ours: bool = True,
) -> None:
    """A copy of the image with the door, ``layer``, and ``arguments`` added to the kernel line.

    Without ``ours`` the layer with our packages is left out.
    """
    everything = {**_DOOR, **(layer or {})}
    if torrc:
        everything[TOR_ADDITIONS] = File(torrc)
    with tempfile.TemporaryDirectory() as name:
        added = [(_squash(everything, Path(name)), "/live/90-test.squashfs")]
        if arguments:
            menu = Path(name) / "grub.cfg"
            text = (TOP / "image/grub.cfg").read_text()
            menu.write_text(re.sub(r"(?m)^(\s+linux .*)$", rf"\1 {arguments}", text))
            added.append((menu, "/boot/grub/grub.cfg"))
        run("cp", "--reflink=auto", str(IMAGE), str(output))
        maps = [word for here, there in added for word in ("-update", str(here), there)]
        if not ours:
            maps += ["-rm", f"/live/{_LAYERS[0]}.squashfs", "--"]
        # An appended session: the image's own bytes stay where they are.
        run("xorriso", "-dev", f"stdio:{output}", "-boot_image", "any", "keep", *maps)
    output.chmod(0o644)


def program(name: str) -> tuple[str, ...]:
    """The command that runs a program of the image here, with the image's own libraries."""
    tree = Path(Path(f"{IMAGE}.trees").read_text().splitlines()[0])
    (loader,) = (tree / "usr/lib64").glob("ld-linux-*")
    libraries = tree / f"usr/lib/{platform.machine()}-linux-gnu"
    return (str(loader), "--library-path", str(libraries), str(tree / name))


def _squash(layer: Layer, directory: Path) -> Path:
    tree, output = directory / "layer", directory / "90-test.squashfs"
    whiteouts = []
    for name, entry in layer.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(entry, File):
            path.write_text(entry.text)
            path.chmod(entry.mode)
        elif isinstance(entry, Edited):
            path.write_text(entry.change(original(name)))
            path.chmod(entry.mode)
        elif isinstance(entry, Link):
            path.symlink_to(entry.target)
        else:
            # Overlayfs: a character device 0/0 hides what is below.
            whiteouts += ["-p", f"{name} c 0 0 0 0 0"]
    for path in (tree, *(path for path in tree.rglob("*") if path.is_dir())):
        path.chmod(0o755)
    # Not newer than the image's own: /usr would look updated, and caches would be built anew.
    run("mksquashfs", str(tree), str(output), "-comp", "zstd", "-all-root", "-no-progress",
        "-all-time", _TIME, *whiteouts)  # fmt: skip
    return output


def original(name: str) -> str:
    """A file as the image has it, out of the topmost layer that holds it."""
    iso = pycdlib.PyCdlib()
    iso.open(str(IMAGE))
    try:
        starts = [iso.get_record(rr_path=f"/live/{layer}.squashfs").extent_location() * _SECTOR
                  for layer in _LAYERS]  # fmt: skip
    finally:
        iso.close()
    for start in starts:
        with contextlib.suppress(RuntimeError):
            return run("unsquashfs", "-offset", str(start), "-cat", str(IMAGE), name)
    raise FileNotFoundError(name)
