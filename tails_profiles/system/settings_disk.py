# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the settings disk among the block devices, and read it.

It is read from the device and not mounted: that needs no right to mount, and the only code that
looks at its bytes is the few lines that also write them.
"""

import os
from pathlib import Path
from time import monotonic

from tails_profiles import settings_disk
from tails_profiles.command import Command
from tails_profiles.errors import SettingsError
from tails_profiles.paths import Paths
from tails_profiles.settings_disk import LABEL, SECTOR, Content
from tails_profiles.system.process import run

#: Enough to see the descriptors of any ISO 9660 image.
_START = 21 * SECTOR


def find(paths: Paths, *, promised: bool, timeout: float) -> Content | None:
    """What is on the only settings disk, or None where there is none.

    ``promised``: the chassis' asset tag says that there is one; then None is not an answer.
    ``timeout`` is in seconds: how long udev may need until every disk is there.

    Raises SettingsError when a promised disk is missing, when there are two, when it is none that
    this project wrote, and when udev is still busy after ``timeout``: a disk that appears later
    would hold bridges that Tor was started without.
    """
    begin = monotonic()
    done = run(
        Command(("/usr/bin/udevadm", "settle", f"--timeout={int(timeout)}")),
        ok=(0, 1),
        timeout=timeout + 10,
    )
    # It also fails at once where no udevd runs: nothing will appear there.
    if done.status != 0 and monotonic() - begin >= int(timeout):
        raise SettingsError(
            f"udev has not found every device within {timeout:.0f} s",
            hint="start the machine again; without its settings disk nothing may connect",
        )
    disks = [device for device in _block_devices(paths) if _is_settings_disk(device)]
    if len(disks) > 1:
        names = " and ".join(str(disk) for disk in disks)
        raise SettingsError(f"two settings disks: {names}", hint="attach one settings disk")
    if disks:
        return settings_disk.read(_read_disk(disks[0]))
    if promised:
        raise SettingsError(
            "the chassis' asset tag promises a settings disk, and there is none",
            hint=f"attach an image labelled {LABEL}, or leave the asset tag away",
        )
    return None


def _block_devices(paths: Paths) -> list[Path]:
    directory = paths.sysfs / "class/block"
    if not directory.is_dir():
        return []
    return sorted(paths.root / "dev" / entry.name for entry in directory.iterdir())


def _read_start(device: Path, count: int) -> bytes:
    try:
        with device.open("rb", buffering=0) as file:
            return file.read(count) or b""
    # An empty drive has no medium, a loop device no file: not a settings disk.
    except OSError:
        return b""


def _is_settings_disk(device: Path) -> bool:
    return settings_disk.label(_read_start(device, _START)) == LABEL


def _read_disk(device: Path) -> bytes:
    length = settings_disk.size(_read_start(device, _START))
    image = _read_start(device, length)
    if not length or len(image) != length:
        raise SettingsError(f"{device} is not a settings disk as tails-profiles writes it")
    return image


def mix_seed(seed: bytes, paths: Paths) -> None:
    """Mix the seed into the kernel's pool; random(4): writing credits nothing."""
    descriptor = os.open(paths.root / "dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, seed)
    finally:
        os.close(descriptor)
