# SPDX-License-Identifier: GPL-3.0-or-later
"""``units/shares``: what it asks PID 1 to mount, in QEMU and in VirtualBox.

The program itself, with four paths of its own replaced: the state, the PCI devices, the mounts, and
the directory of the programs that it asks, which say here what they were asked. A real PID 1 and
real shares are in tests/vm and tests/virtualbox.
"""

import json
import subprocess
from pathlib import Path

import pytest

from tails_profiles.settings import Feature
from tails_profiles.shares import FOLDERS, MOUNT_OPTIONS, VBOXSF_OPTIONS

STEP = Path(__file__).parents[2] / "units/shares"
PROGRAMS = {
    "busctl": 'printf "%s\\n" "$*" >>"$0.asked"',
    "getent": 'grep -E "^$2:|^[^:]*:[^:]*:$2:" "$0.accounts"',
    "install": 'mkdir "$8"',
    "systemctl": "true",
    "systemd-escape": 'printf "%s.mount\\n" "$3" | tr / -',
}
#: By the addresses of their devices, vendor and device.
QEMU = {"0000:00:02.0": ("0x1af4", "0x1009"), "0000:00:1f.0": ("0x8086", "0x2918")}
VIRTUALBOX = {"0000:00:02.0": ("0x15ad", "0x0405"), "0000:00:04.0": ("0x80ee", "0xcafe")}
#: VirtualBox's own graphics card: the same maker.
CARD = {"0000:00:02.0": ("0x80ee", "0xbeef")}


class Step:
    """A run of it: ``owner`` is whom the one share is for, ``kind`` what is mounted afterwards."""

    def __init__(
        self, top: Path, feature: Feature, devices: dict[str, tuple[str, str]], kind: str
    ) -> None:
        folder = FOLDERS[feature]
        self._top = top
        (top / "home").mkdir()
        self.place = folder.destination.replace("~", str(top / "home"))
        (top / "state").mkdir()
        (top / "state/shares").write_text(
            f"{folder.tag} {folder.owner or '-'} {folder.destination} {MOUNT_OPTIONS}"
            f" {VBOXSF_OPTIONS}\n"
        )
        for address, (vendor, device) in devices.items():
            (top / "devices" / address).mkdir(parents=True)
            (top / "devices" / address / "vendor").write_text(f"{vendor}\n")
            (top / "devices" / address / "device").write_text(f"{device}\n")
        (top / "mounts").write_text(
            f"36 35 0:32 / {self.place} rw,nosuid,nodev - {kind} {folder.tag} rw\n"
        )
        (top / "bin").mkdir()
        for name, text in PROGRAMS.items():
            (top / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (top / "bin" / name).chmod(0o755)
        self.accounts = f"live:x:1000:1001::{top}/home:/bin/sh\ndebian-tor:x:105:106::/:/bin/sh\n"

    def run(self) -> "subprocess.CompletedProcess[str]":
        (self._top / "bin/getent.accounts").write_text(self.accounts)
        text = STEP.read_text()
        for was, now in {
            "state=/run/tails-profiles": f"state={self._top}/state",
            "/sys/bus/pci/devices/": f"{self._top}/devices/",
            "/proc/self/mountinfo": f"{self._top}/mounts",
            "PATH=/usr/sbin:/usr/bin": f"PATH={self._top}/bin:/usr/bin:/bin",
        }.items():
            assert text.count(was) == 1, was
            text = text.replace(was, now)
        return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)

    @property
    def asked(self) -> str:
        path = self._top / "bin/busctl.asked"
        return path.read_text() if path.exists() else ""

    @property
    def failure(self) -> str:
        return str(json.loads((self._top / "state/failure.json").read_text())["message"])


@pytest.mark.parametrize("devices", [QEMU, CARD, {}])
def test_without_virtualboxs_device_it_is_9p(
    tmp_path: Path, devices: dict[str, tuple[str, str]]
) -> None:
    step = Step(tmp_path, Feature.SSH_CLIENT, devices, "9p")
    done = step.run()
    assert done.returncode == 0, done.stderr
    wanted = f"What s ssh-client Where s {step.place} Type s 9p Options s {MOUNT_OPTIONS} 0\n"
    assert step.asked.endswith(wanted)


@pytest.mark.parametrize(
    ("feature", "owner"),
    [(Feature.SSH_CLIENT, "uid=1000,gid=1001"), (Feature.TOR_DATA, "uid=105,gid=106")],
)
def test_with_virtualboxs_device_it_is_vboxsf_and_everything_in_it_is_its_users(
    tmp_path: Path, feature: Feature, owner: str
) -> None:
    step = Step(tmp_path, feature, VIRTUALBOX, "vboxsf")
    done = step.run()
    assert done.returncode == 0, done.stderr
    assert step.asked.endswith(f" Type s vboxsf Options s {owner},{VBOXSF_OPTIONS} 0\n")


def test_share_of_an_account_that_is_not_there_is_refused(tmp_path: Path) -> None:
    step = Step(tmp_path, Feature.TOR_DATA, VIRTUALBOX, "vboxsf")
    step.accounts = step.accounts.splitlines(keepends=True)[0]
    assert step.run().returncode == 1
    assert (step.asked, step.failure) == ("", "the share tor-data has no user")


@pytest.mark.parametrize(("devices", "kind"), [(VIRTUALBOX, "9p"), (QEMU, "vboxsf")])
def test_what_the_kernel_shows_as_another_kind_is_refused(
    tmp_path: Path, devices: dict[str, tuple[str, str]], kind: str
) -> None:
    step = Step(tmp_path, Feature.SSH_CLIENT, devices, kind)
    assert step.run().returncode == 1
    assert step.failure == f"the share ssh-client is not mounted on {step.place}"
