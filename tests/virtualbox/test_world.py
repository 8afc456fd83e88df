# SPDX-License-Identifier: GPL-3.0-or-later
"""That the VirtualBox of these tests is the real one, private, and gone with its test."""

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from tests.virtualbox.world import MACHINES, VirtualBox

pytestmark = pytest.mark.virtualbox

SERIAL = "VBoxInternal/Devices/pcbios/0/Config/DmiSystemSerial"


def make(box: VirtualBox, name: str) -> str:
    uuid = str(uuid4())
    box.manage("createvm", "--name", name, "--uuid", uuid, "--ostype", "Debian_64", "--register")
    return uuid


def test_serial_number_of_this_run_is_set_and_read_back(
    box: VirtualBox, record_property: Callable[[str, object], None]
) -> None:
    version = box.manage("--version").strip()
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", version)
    serial = f"serial-{secrets.token_hex(8)}"
    uuid = make(box, "a")
    box.manage("setextradata", uuid, SERIAL, serial)
    # Another process, and the file itself.
    assert box.manage("getextradata", uuid, SERIAL) == f"Value: {serial}\n"
    assert f'value="{serial}"' in box.path(MACHINES / "a/a.vbox").read_text()
    record_property("VBoxManage --version", version)
    record_property("serial", serial)
    print(f"VBoxManage --version: {version}; serial of this run: {serial}")


def test_what_was_not_set_is_not_there(box: VirtualBox) -> None:
    uuid = make(box, "a")
    assert box.manage("getextradata", uuid, SERIAL) == "No value set!\n"
    assert box.call("getextradata", str(uuid4()), SERIAL).returncode == 1


def test_two_instances_know_nothing_of_each_other(box: VirtualBox) -> None:
    make(box, "a")
    with VirtualBox() as other:
        assert other.manage("list", "vms") == ""
        make(other, "b")
        assert '"b"' in other.manage("list", "vms")
    assert '"a"' in box.manage("list", "vms")
    assert '"b"' not in box.manage("list", "vms")


def test_nothing_of_it_is_left() -> None:
    with VirtualBox() as box:
        make(box, "a")
        assert len(box.processes("VBoxSVC")) == 1
        namespace = Path(f"/proc/{box.pid}/ns/pid").readlink()
        work = Path(box._work.name)
        mounted = Path("/proc/self/mountinfo").read_text()
    assert not work.exists()
    # Nothing of it was ever mounted out here.
    assert str(work) not in mounted
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                assert (entry / "ns/pid").readlink() != namespace
            except OSError:
                continue
