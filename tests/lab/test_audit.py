# SPDX-License-Identifier: GPL-3.0-or-later
"""``host audit`` beside the real libvirt: domains made only from what ``token`` prints, each row of
the recipe broken, read and written by libvirt itself (its driver that runs nothing).

The same with libvirt's driver for QEMU: tests/vm/test_audit.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tails_profiles import audit_libvirt, recipe
from tails_profiles.audit import Opens, Report
from tails_profiles.profile import GUESTS, Profile

TOP = Path(__file__).parents[2]
TIME_LIMIT = 60 * float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
TOR, I2P, APP = Profile.TOR_GUEST, Profile.I2P_GUEST, Profile.APP_GUEST

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("virsh") is None, reason="needs virsh (libvirt-clients)"),
]


def domain(profile: Profile, firmware: str = "bios") -> str:
    """The recipe, with the number that it asks for."""
    text = recipe.recipe(profile, "libvirt", profile.value, firmware)
    return text if profile is I2P else text.replace("adjustment='0'", "adjustment='-3'")


def uri(text: str, directory: Path) -> str:
    """Where libvirt has this domain, which runs there."""
    (directory / "domain.xml").write_text(text)
    (directory / "node.xml").write_text("<node><domain file='domain.xml'/></node>")
    return f"test://{directory / 'node.xml'}"


def dump(text: str, directory: Path, *options: str) -> str:
    """A domain as libvirt has understood it."""
    done = subprocess.run(
        ["virsh", "--connect", uri(text, directory), "dumpxml", *options, "1"],
        capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def audit(text: str, directory: Path) -> Report:
    return audit_libvirt.audit("vm", [dump(text, directory, "--inactive")], None)


def command(uri: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tails_profiles", "host", "audit", *words],
        capture_output=True, text=True, timeout=TIME_LIMIT, check=False, cwd=TOP,
        env={**os.environ, "LIBVIRT_DEFAULT_URI": uri},
    )  # fmt: skip


@pytest.mark.parametrize("firmware", recipe.FIRMWARES)
@pytest.mark.parametrize("profile", GUESTS)
def test_domain_made_from_the_recipe_alone_has_nothing_named(
    profile: Profile, firmware: str, tmp_path: Path
) -> None:
    assert audit(domain(profile, firmware), tmp_path).deviations == ()


def test_app_guest_may_do_without_i2p(tmp_path: Path) -> None:
    text = domain(APP)
    last = text.rindex("    <interface "), text.rindex("</interface>\n") + len("</interface>\n")
    assert audit(text[: last[0]] + text[last[1] :], tmp_path).deviations == ()


#: A device after all others.
END = "  </devices>"
#: A way to the elements before the devices.
BEGIN = "  <devices>"
NETWORK, CHANNEL, UNKNOWN, IDENTITY = Opens

ROWS: Sequence[tuple[Profile, str, str, str, Opens]] = [
    # ways past the gateways
    (TOR, r"<interface type='user'>.*?</interface>",
     ("<interface type='bridge'><source bridge='br0'/><mac address='00:55:44:33:22:21'/>"
     "<model type='virtio'/></interface>"), "devices/interface[1]@type", NETWORK),
    (APP, r"<interface type='udp'>.*?</interface>",
     "<interface type='network'><source network='default'/></interface>",
     "devices/interface[1]@type", NETWORK),
    (TOR, END, f"<interface type='user'/>{END}", "devices/interface[3]", NETWORK),
    (TOR, "<mac address='00:55:44:33:22:21'/>", "<mac address='52:54:00:12:34:56'/>",
     "devices/interface[1]/mac@address", NETWORK),
    (TOR, "<link state='down'/>", "", "devices/interface[1]/link", NETWORK),
    (TOR, "<link state='down'/>", "<link state='up'/>", "devices/interface[1]/link@state", NETWORK),
    (TOR, "address='10.0.2.0'", "address='10.9.0.0'", "devices/interface[1]/ip@address", NETWORK),
    (TOR, "<rom enabled='no'/>", "", "devices/interface[1]/rom", NETWORK),
    (TOR, "<model type='virtio'/>", "<model type='e1000'/>", "devices/interface[1]/model@type",
     NETWORK),
    (TOR, "port='17123'", "port='17133'", "devices/interface[2]/source@port", NETWORK),
    (TOR, "<source address='127.0.0.1'", "<source address='192.0.2.1'",
     "devices/interface[2]/source@address", NETWORK),
    (APP, "<local address='127.0.0.1' port='17123'/>", "<local address='0.0.0.0' port='17123'/>",
     "devices/interface[1]/source/local@address", NETWORK),
    # ways between guest and host
    (APP, END, "<filesystem type='mount'><source dir='/srv'/><target dir='t'/></filesystem>" + END,
     "devices/filesystem", CHANNEL),
    (APP, END, "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/>"
     "</channel>" + END, "devices/channel", CHANNEL),
    (APP, END, "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0'"
     " function='0'/></source></hostdev>" + END, "devices/hostdev", CHANNEL),
    (APP, END, "<vsock model='virtio'><cid auto='yes'/></vsock>" + END, "devices/vsock", CHANNEL),
    (APP, END, "<sound model='ich9'/>" + END, "devices/sound", CHANNEL),
    (APP, END, "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>" + END,
     "devices/tpm", CHANNEL),
    (APP, END, "<parallel type='pty'><target port='0'/></parallel>" + END, "devices/parallel",
     CHANNEL),
    (APP, END, "<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>" + END,
     "devices/shmem", CHANNEL),
    (APP, END, "<disk type='file' device='disk'><source file='/d.img'/><target dev='vda'"
     " bus='virtio'/></disk>" + END, "devices/disk[2]", CHANNEL),
    (APP, "device='cdrom'", "device='disk'", "devices/disk[1]@device", CHANNEL),
    (APP, "<serial>0</serial>", "", "devices/disk[1]/serial", CHANNEL),
    (APP, "model='none'/>\n    <audio", "model='qemu-xhci'/>\n    <audio",
     "devices/controller[usb]@model", CHANNEL),
    (APP, "<audio id='1' type='none'/>", "<audio id='1' type='alsa'/>", "devices/audio@type",
     CHANNEL),
    (APP, "<memballoon model='none'/>", "<memballoon model='virtio'/>", "devices/memballoon@model",
     CHANNEL),
    (APP, "bytes='1024'", "bytes='65536'", "devices/rng/rate@bytes", CHANNEL),
    (APP, "<graphics type='vnc'>.*?</graphics>", "<graphics type='spice'/>",
     "devices/graphics@type", CHANNEL),
    (APP, "<resolution x='1280' y='800'/>", "<resolution x='1920' y='800'/>",
     "devices/video/model/resolution@x", CHANNEL),
    (APP, "<bootmenu enable='no'/>", "<bootmenu enable='yes'/>", "os/bootmenu@enable", CHANNEL),
    (APP, "<on_reboot>destroy", "<on_reboot>restart", "on_reboot", CHANNEL),
    # what the guest learns
    (APP, "<cpu mode='custom'.*?</cpu>", "<cpu mode='host-passthrough'/>", "cpu@mode", IDENTITY),
    (APP, "machine='pc-q35-7.2'", "machine='pc-i440fx-7.2'", "os/type@machine", IDENTITY),
    (APP, "Nehalem", "Westmere", "cpu/model", IDENTITY),
    (APP, "<feature policy='disable' name='hypervisor'/>", "", "cpu/feature[hypervisor]", IDENTITY),
    (APP, "<hidden state='on'/>", "<hidden state='off'/>", "features/kvm/hidden@state", IDENTITY),
    (APP, "<pmu state='off'/>", "", "features/pmu", IDENTITY),
    (APP, "<vmport state='off'/>", "<vmport state='on'/>", "features/vmport@state", IDENTITY),
    (APP, "<smm state='off'/>", "<smm state='on'/>", "features/smm@state", IDENTITY),
    (APP, "<timer name='kvmclock' present='no'/>", "", "clock/timer[kvmclock]", IDENTITY),
    (APP, "name='hpet' present='no'", "name='hpet' present='yes'", "clock/timer[hpet]@present",
     IDENTITY),
    (APP, "track='guest'", "track='wall'", "clock/timer[rtc]@track", IDENTITY),
    (APP, "adjustment='-3'", "adjustment='0'", "clock@adjustment", IDENTITY),
    (APP, "adjustment='-3'", "adjustment='3600'", "clock@adjustment", IDENTITY),
    (I2P, "adjustment='0'", "adjustment='1'", "clock@adjustment", IDENTITY),
    (APP, "basis='utc'", "basis='localtime'", "clock@basis", IDENTITY),
    (APP, "dumpCore='off'>2048<", "dumpCore='off'>4096<", "memory", IDENTITY),
    (APP, " dumpCore='off'", " dumpCore='on'", "memory@dumpCore", IDENTITY),
    (APP, "<memoryBacking>.*?</memoryBacking>", "", "memoryBacking", IDENTITY),
    (APP, ">1</vcpu>", ">2</vcpu>", "vcpu", IDENTITY),
    (APP, "617070000001</uuid>", "617070000002</uuid>", "uuid", IDENTITY),
    (APP, "<entry name='serial'>tails-profile:app-guest</entry>", "<entry name='serial'>A1</entry>",
     "sysinfo/system/entry[serial]", IDENTITY),
    (APP, "<entry>guest</entry>", "<entry>theirs</entry>", "sysinfo/oemStrings/entry[2]", IDENTITY),
    (APP, "<entry name='date'>01/01/2026</entry>", "", "sysinfo/bios/entry[date]", IDENTITY),
    (APP, "<suspend-to-mem enabled='no'/>", "<suspend-to-mem enabled='yes'/>",
     "pm/suspend-to-mem@enabled", IDENTITY),
    # what nobody's recipe has
    (APP, "<bootmenu enable", ("<loader readonly='yes' type='pflash'>/firmware.fd</loader><bootmenu"
     " enable"), "os/loader", UNKNOWN),
    (APP, BEGIN, "<seclabel type='none' model='apparmor'/>" + BEGIN, "seclabel", UNKNOWN),
    (APP, "<feature policy='disable'", ("<feature policy='disable' name='sse4.2'/><feature"
     " policy='disable'"), "cpu/feature[sse4.2]", UNKNOWN),
    (APP, BEGIN, "<genid/>" + BEGIN, "genid", UNKNOWN),
    (APP, END, "<panic model='isa'/>" + END, "devices/panic", UNKNOWN),
    (APP, END, "<watchdog model='i6300esb' action='reset'/>" + END, "devices/watchdog", UNKNOWN),
    (APP, END, "<input type='tablet' bus='virtio'/>" + END, "devices/input", UNKNOWN),
    (APP, END, "<emulator>/usr/local/bin/qemu</emulator>" + END, "devices/emulator", UNKNOWN),
    (APP, "<acpi/>", "<acpi/><vmcoreinfo state='on'/>", "features/vmcoreinfo", UNKNOWN),
    (APP, "<driver name='qemu' type='raw'/>",
     "<driver name='qemu' type='raw' discard='unmap'/>", "devices/disk[1]/driver@discard", UNKNOWN),
    (APP, BEGIN, "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"
     "<qemu:arg value='-nic'/></qemu:commandline>" + BEGIN, "qemu:commandline", UNKNOWN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("profile", "old", "new", "setting", "opens"),
    ROWS, ids=[f"{number}-{row[3]}" for number, row in enumerate(ROWS)],
)  # fmt: skip
def test_broken_row_is_named_and_nothing_else(
    profile: Profile, old: str, new: str, setting: str, opens: Opens, tmp_path: Path
) -> None:
    text, changed = re.subn(old, new, domain(profile), count=1, flags=re.DOTALL)
    assert changed
    if setting == "qemu:commandline":
        # Only QEMU's driver reads it, so that the driver here would drop it.
        found = audit_libvirt.audit("vm", [text], None)
    else:
        found = audit(text, tmp_path)
    assert [(each.setting, each.opens) for each in found.deviations] == [(setting, opens)]
    assert all(each.leak for each in found.deviations)


def test_what_was_plugged_in_while_it_runs_is_named(tmp_path: Path) -> None:
    now = domain(TOR).replace("<link state='down'/>", "<link state='up'/>")
    texts = [dump(domain(TOR), tmp_path, "--inactive"), dump(now, tmp_path)]
    assert audit_libvirt.audit("vm", texts, None).deviations == ()
    now = now.replace(END, f"<interface type='user'/>{END}")
    texts[1] = dump(now, tmp_path)
    found = audit_libvirt.audit("vm", texts, None).deviations
    assert [each.setting for each in found] == ["devices/interface[3]"]


def test_serial_port_is_named_with_the_console_that_libvirt_adds(tmp_path: Path) -> None:
    text = domain(APP).replace(END, f"<serial type='pty'/>{END}")
    assert [each.setting for each in audit(text, tmp_path).deviations] == [
        "devices/serial", "devices/console"
    ]  # fmt: skip


def test_command_asks_libvirt(tmp_path: Path) -> None:
    done = command(uri(domain(APP), tmp_path), "app-guest")
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "app-guest is app-guest as the recipe has it\n", ""
    )  # fmt: skip
    broken = domain(APP).replace(END, f"<sound model='ich9'/>{END}")
    done = command(uri(broken, tmp_path), "app-guest", "--hypervisor", "libvirt", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == {
        "vm": "app-guest",
        "hypervisor": "libvirt",
        "profile": "app-guest",
        "deviations": [
            {
                "setting": "devices/sound",
                "found": "sound model='ich9'",
                "expected": "absent",
                "opens": "channel",
                "leak": "This host's microphone and loudspeaker.",
            }
        ],
    }
    # Another guest's recipe.
    done = command(uri(domain(APP), tmp_path), "app-guest", "--profile", "tor-guest")
    assert done.returncode == 1
    assert done.stdout.startswith("network: devices/interface[1]@type is udp, not user. uplink: ")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("nobody",), "there is no machine 'nobody'"),
        (("nobody", "--hypervisor", "libvirt"), "there is no machine 'nobody'"),
        (("--hypervisor", "libvirt", "--", "--all"), "there is no machine '--all'"),
    ],
)
def test_command_says_that_there_is_no_such_machine(
    words: Sequence[str], hint: str, tmp_path: Path
) -> None:
    done = command(uri(domain(APP), tmp_path), *words)
    assert (done.returncode, done.stdout) == (1, "")
    assert hint in done.stderr


def test_command_says_that_libvirt_does_not_answer(tmp_path: Path) -> None:
    done = command(f"test://{tmp_path}/missing.xml", "vm", "--hypervisor", "libvirt")
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr.startswith("tails-profiles: virsh dumpxml: failed with status 1: error: ")


def test_command_asks_the_others_and_says_who_did_not_answer(tmp_path: Path) -> None:
    done = command(f"test://{tmp_path}/missing.xml", "vm")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no machine 'vm' of this user; libvirt does not answer: virsh" in done.stderr


def test_command_says_that_libvirt_is_not_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tails_profiles", "host", "audit", "vm", "--hypervisor", "libvirt"],
        capture_output=True, text=True, timeout=TIME_LIMIT, check=False, cwd=TOP,
        env={**os.environ, "PATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (6, "")
    assert "virsh: no such program" in done.stderr


def test_domain_without_a_token_needs_a_profile(tmp_path: Path) -> None:
    text = domain(APP).replace("tails-profile:app-guest", "x")
    done = command(uri(text, tmp_path), "app-guest")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no field carries a token" in done.stderr
    done = command(uri(text, tmp_path), "app-guest", "--profile", "app-guest", "--json")
    assert [each["setting"] for each in json.loads(done.stdout)["deviations"]] == [
        "sysinfo/bios/entry[vendor]", "sysinfo/system/entry[serial]"
    ]  # fmt: skip
    # Fields that libvirt does not hand on carry nothing.
    text = domain(APP).replace("<smbios mode='sysinfo'/>", "")
    assert "no field carries a token" in command(uri(text, tmp_path), "app-guest").stderr
