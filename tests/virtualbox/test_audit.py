# SPDX-License-Identifier: GPL-3.0-or-later
"""``host audit`` beside the real VirtualBox.

Machines are made only from what ``token`` prints, and then each row is broken with VBoxManage.

A machine that was broken is put back from the settings file that it had.
"""

import json
import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tails_profiles import recipe, vboxmanage, virtualbox
from tails_profiles.profile import GUESTS, Profile
from tests.virtualbox import driverless
from tests.virtualbox.inside import DIRECTORY
from tests.virtualbox.record import RECORDS, make, said, settings_file
from tests.virtualbox.world import TOP, VirtualBox

TOR, APP = Profile.TOR_GUEST, Profile.APP_GUEST
_CONFIG = "VBoxInternal/Devices/{}/0/Config/{}"
_BIOS = _CONFIG.format("pcbios", "{}")
_VMMDEV = _CONFIG.format("VMMDev", "{}")
_DRIVE = _CONFIG.format("piix3ide", "PrimaryMaster/{}")

pytestmark = pytest.mark.virtualbox


class Audited:
    """A VirtualBox with a machine of each profile, as the recipe makes it."""

    def __init__(self, box: VirtualBox) -> None:
        self.box = box
        for profile in GUESTS:
            make(box, profile, profile.value)
        self._settings = {profile: self.file(profile).read_text() for profile in GUESTS}

    def file(self, profile: Profile) -> Path:
        """Its settings file, from outside."""
        return self.box.path(settings_file(profile))

    def put_back(self, profile: Profile) -> None:
        """As the recipe made it."""
        self.box.manage("unregistervm", profile)
        self.file(profile).write_text(self._settings[profile])
        self.box.manage("registervm", str(settings_file(profile)))

    def run(self, *words: str) -> tuple[int, str, str]:
        """The command itself, beside the real VBoxManage: status and both outputs."""
        done = self.box.run(
            "env", "-C", "/", f"PYTHONPATH={TOP}", "PYTHONDONTWRITEBYTECODE=1",
            "python3", "-m", "tails_profiles", "host", "audit", *words,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def deviations(self, name: str) -> list[dict[str, str]]:
        """What is named of one machine."""
        status, printed, errors = self.run(name, "--json")
        assert errors == ""
        found: list[dict[str, str]] = json.loads(printed)["deviations"]
        assert status == bool(found)
        return found


@pytest.fixture(scope="module")
def audited() -> Iterator[Audited]:
    with VirtualBox([TOP]) as box:
        yield Audited(box)


@pytest.mark.parametrize("firmware", recipe.FIRMWARES)
@pytest.mark.parametrize("profile", GUESTS)
def test_machine_made_from_the_recipe_alone_has_nothing_named(
    audited: Audited, profile: Profile, firmware: str
) -> None:
    name = f"it's {profile} {firmware} é"
    make(audited.box, profile, name, firmware)
    offset = re.search(
        r"^biossystemtimeoffset=(-?\d+)$",
        audited.box.manage("showvminfo", name, "--machinereadable"),
        re.M,
    )
    assert offset is not None
    # One draw in ten thousand is this host's own time, which would be named.
    drawn = offset[1] != "0" or profile is Profile.I2P_GUEST
    named = [each["setting"] for each in audited.deviations(name)]
    assert named == ([] if drawn else ["--bios-system-time-offset"])


@pytest.mark.parametrize("profile", GUESTS)
def test_records_are_what_virtualbox_says(audited: Audited, profile: Profile) -> None:
    # Read as its service reads it anew.
    for name, text in said(audited.box, profile).items():
        assert text == (RECORDS / f"{profile}.{name}").read_text()


def modify(words: str, *settings: str, profile: Profile = TOR) -> Any:
    """A row of modifyvm; it is named by its first flag."""
    return pytest.param(
        profile,
        (f"modifyvm {{vm}} {words}",),
        settings or (words.split(maxsplit=1)[0],),
        id=f"{profile} {words}",
    )


def key(name: str, value: str) -> Any:
    """A row of setextradata; it is named by its key."""
    call = f"setextradata {{vm}} {name} {shlex.quote(value)}"
    return pytest.param(TOR, (call,), (name,), id=f"{name.rpartition('/')[2]}={value}")


BROKEN = [
    # ways past the gateways
    modify("--nic1 bridged --bridge-adapter1 eth0"),
    modify("--nic2 natnetwork --nat-network2 theirs"),
    modify("--nic1 generic --nic-generic-drv1 UDPTunnel --nic-property1 dest=127.0.0.1"),
    modify("--nic1 nat", profile=APP),
    modify("--nic3 nat"),
    modify("--nic8 hostonly --host-only-adapter8 vboxnet0"),
    modify("--intnet2 others"),
    modify("--nic-promisc2 allow-all"),
    modify("--nic-promisc1 allow-vms"),
    modify("--mac-address1 080027AABBCC"),
    modify("--nic-type1 82540EM"),
    modify("--cable-connected1 on"),
    modify("--nic-trace2 on --nic-trace-file2 /tmp/trace"),
    modify("--nat-dns-pass-domain1 on"),
    modify("--nat-dns-proxy1 on"),
    modify("--nat-dns-host-resolver1 on"),
    modify("--nat-net1 10.9.0.0/24"),
    modify("--nat-pf1 ssh,tcp,127.0.0.1,2222,,22"),
    modify("--nat-tftp-prefix1 /srv"),
    modify("--nat-enable-tftp1 on"),
    modify("--nat-forward-broadcast1 on"),
    modify("--nat-bind-ip1 192.0.2.1"),
    modify("--chipset ich9"),
    # ways between guest and host
    modify("--clipboard-mode bidirectional"),
    modify("--clipboard-file-transfers enabled"),
    modify("--drag-and-drop hosttoguest"),
    modify("--audio-driver default", profile=APP),
    modify("--audio-enabled on"),
    modify("--usb-ohci on"),
    modify("--usb-ehci on"),
    modify("--usb-xhci on"),
    modify("--usb-card-reader on"),
    # They come with a USB controller.
    modify("--mouse usbtablet", "--usb-ohci", "--mouse"),
    modify("--keyboard usb", "--usb-ohci", "--keyboard"),
    modify("--vrde on"),
    modify("--teleporter on"),
    modify("--recording on"),
    modify("--testing-enabled on"),
    modify("--uart1 0x3f8 4 --uart-mode1 tcpserver 2222"),
    modify("--uart2 0x2f8 3 --uart-mode2 server /tmp/socket"),
    modify("--lpt1 0x378 7 --lpt-mode1 /dev/lp0"),
    modify("--boot1 net"),
    modify("--boot2 disk"),
    modify("--bios-boot-menu messageandmenu"),
    modify("--bios-pxe-debug on"),
    pytest.param(
        TOR, ("sharedfolder add {vm} --name t --hostpath /tmp --readonly",), ("shared folder 't'",),
        id="shared folder",
    ),
    pytest.param(
        APP,
        (
            "createmedium disk --filename /tmp/{vm}.vdi --size 4",
            ("storageattach {vm} --storagectl IDE --port 1 --device 0 --type hdd"
            " --medium /tmp/{vm}.vdi"),
        ),
        ("IDE port 1 device 0",),
        id="hard disk",
    ),
    pytest.param(
        TOR,
        (
            ("storageattach {vm} --storagectl IDE --port 0 --device 0 --type dvddrive --medium"
            " /tmp/IMAGE.iso --passthrough on"),
        ),
        ("IDE port 0 device 0",),
        id="passed through",
    ),
    pytest.param(
        TOR, ("storagectl {vm} --name SATA --add sata",), ("storage controller 'SATA'",),
        id="second controller",
    ),
    key(_VMMDEV.format("GetHostTimeDisabled"), ""),
    key(_VMMDEV.format("BackdoorLogDisabled"), "0"),
    key("VBoxInternal/PowerOffInsteadOfReset", ""),
    # what the guest learns
    modify("--graphicscontroller vboxsvga"),
    modify("--accelerate-3d on"),
    modify("--monitor-count 2"),
    modify("--vram 32"),
    modify("--guest-memory-balloon 64"),
    modify("--rtc-use-utc off"),
    modify("--bios-system-time-offset 0", profile=APP),
    modify("--bios-system-time-offset 3600000", profile=APP),
    modify("--bios-system-time-offset 1000", profile=Profile.I2P_GUEST),
    modify("--paravirt-provider kvm"),
    modify("--cpus 2"),
    modify("--cpu-hotplug on"),
    modify("--memory 512"),
    modify("--cpu-profile 'Intel Core i5-3570'"),
    modify("--cpuid-set 80000002 0 0 0 0"),
    modify("--cpuid-set 7 0 0 0 0"),
    modify("--cpuid-portability-level 1"),
    modify("--nested-hw-virt on"),
    modify("--hpet on"),
    modify("--hardware-uuid 7461696c-732d-4000-8000-746f72000002"),
    *(
        modify(f"--{name} off", profile=APP)
        for name in (
            "ibpb-on-vm-entry", "ibpb-on-vm-exit", "l1d-flush-on-vm-entry", "l1d-flush-on-sched",
            "mds-clear-on-vm-entry", "spec-ctrl",
        )
    ),
    pytest.param(
        TOR,
        (
            "modifyvm {vm} --nat-localhostreachable1 off",
            f"setextradata {{vm}} '{virtualbox.localhost_key(1)}' ''",
        ),
        (virtualbox.localhost_key(1),),
        id="closed until VirtualBox forgets it",
    ),
    pytest.param(
        TOR,
        (
            "modifyvm {vm} --nat-localhostreachable1 on",
            f"setextradata {{vm}} '{virtualbox.localhost_key(1)}' ''",
        ),
        ("--nat-localhostreachable1", virtualbox.localhost_key(1)),
        id="loopback of the host",
    ),
    key(_BIOS.format("DmiSystemUuid"), ""),
    key(_BIOS.format("DmiSystemSerial"), ""),
    key(_BIOS.format("DmiBoardSerial"), "string:12345"),
    key(_BIOS.format("DmiOEMVBoxVer"), ""),
    key(_DRIVE.format("SerialNumber"), ""),
    key(_CONFIG.format("acpi", "AcpiOemId"), ""),
    key("VBoxInternal/TM/TSCTicksPerSecond", ""),
    *(
        pytest.param(TOR, (f"guestproperty set {{vm}} {name} x",), (f"guest property {name}",),
                     id=name)
        for name in ("/VirtualBox/HostInfo/GUI/LanguageID", "/VirtualBox/HostInfo/VBoxVer")
    ),
    # what nobody's recipe has
    key(_BIOS.format("DmiUseHostInfo"), "1"),
    key("VBoxInternal2/SharedFoldersEnableSymlinksCreate/t", "1"),
    key("VBoxInternal/Devices/e1000/0/Config/Anything", "1"),
    modify("--tpm-type 2.0", "TrustedPlatformModule@type in the settings file"),
    modify("--paravirt-debug enabled=1", "Paravirt@debug in the settings file"),
]  # fmt: skip


@pytest.mark.parametrize(("profile", "calls", "settings"), BROKEN)
def test_broken_row_is_named_and_nothing_else(
    audited: Audited, profile: Profile, calls: tuple[str, ...], settings: tuple[str, ...]
) -> None:
    try:
        for call in calls:
            audited.box.manage(*shlex.split(call.format(vm=profile.value)))
        named = audited.deviations(profile.value)
        assert [each["setting"] for each in named] == [*settings]
        assert all(each["found"] != each["expected"] for each in named)
        assert all(each["leak"].endswith(".") for each in named)
    finally:
        audited.put_back(profile)


def test_app_guest_may_do_without_i2p(audited: Audited) -> None:
    audited.box.manage("modifyvm", APP.value, "--nic2", "none")
    try:
        assert audited.deviations(APP.value) == []
    finally:
        audited.put_back(APP)


def test_machines_of_the_launcher_have_nothing_named() -> None:
    with VirtualBox([TOP]) as box:
        made = box.run(
            "python3", "-m", "tests.virtualbox.inside", "--offset", "0.5", PYTHONPATH=str(TOP),
            PYTHONDONTWRITEBYTECODE="1",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        for profile in GUESTS:
            done = box.run(
                *vboxmanage.manager(profile, DIRECTORY), "env", f"PYTHONPATH={TOP}",
                "PYTHONDONTWRITEBYTECODE=1", "python3", "-m", "tails_profiles", "host", "audit",
                profile,
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (
                0, f"{profile} is {profile} as the recipe has it\n", ""
            )  # fmt: skip


def test_key_for_every_machine_is_named_in_each(audited: Audited) -> None:
    name = "VBoxInternal/Devices/VMMDev/0/Config/GetHostTimeDisabled"
    other = "VBoxInternal2/Whatever"
    audited.box.manage("setextradata", "global", other, "1")
    # The machine's own value stands above this one.
    audited.box.manage("setextradata", "global", name, "0")
    try:
        for profile in GUESTS:
            assert [each["setting"] for each in audited.deviations(profile.value)] == [other]
    finally:
        audited.box.manage("setextradata", "global", other)
        audited.box.manage("setextradata", "global", name)


def test_description_that_looks_like_settings_hides_nothing(audited: Audited) -> None:
    text = 'x"\nclipboard="disabled"\nnic3="none"\n'
    audited.box.manage("modifyvm", TOR.value, "--description", text)
    audited.box.manage("modifyvm", TOR.value, "--clipboard-mode", "hosttoguest", "--nic3", "nat")
    try:
        named = [each["setting"] for each in audited.deviations(TOR.value)]
        assert named == ["--nic3", "--clipboard-mode"]
    finally:
        audited.put_back(TOR)


def test_machine_without_a_token_is_compared_with_what_is_asked_for(audited: Audited) -> None:
    audited.box.manage(
        "createvm", "--name", "stock", "--ostype", "Debian_64", "--register", "--default"
    )
    status, printed, errors = audited.run("stock")
    assert (status, printed) == (1, "")
    assert "no field carries a token" in errors
    assert "--profile" in errors
    status, printed, _ = audited.run("stock", "--profile", "app-guest", "--json")
    found = json.loads(printed)
    assert status == 1
    assert (found["hypervisor"], found["profile"]) == ("virtualbox", "app-guest")
    opens = [each["opens"] for each in found["deviations"]]
    assert opens == sorted(opens, key=["network", "channel", "unknown", "identity"].index)
    settings = {each["setting"] for each in found["deviations"]}
    assert {"--nic1", "--audio-driver", "--usb-ohci", "--boot1", _BIOS.format("DmiBIOSVendor"),
            "--paravirt-provider", "storage controller 'SATA'"} <= settings  # fmt: skip
    # Against tor-guest it has its NAT, but not that MAC.
    _, printed, _ = audited.run("stock", "--profile", "tor-guest", "--json")
    settings = {each["setting"] for each in json.loads(printed)["deviations"]}
    assert "--nic1" not in settings
    assert {"--mac-address1", "--cable-connected1", "--nic2"} <= settings


def test_two_machines_of_one_name_are_told_apart_by_uuid(audited: Audited) -> None:
    box = audited.box
    box.manage("createvm", "--name", "twin", "--register")
    box.run("mkdir", "/tmp/elsewhere")
    box.manage("createvm", "--name", "twin", "--register", "--basefolder", "/tmp/elsewhere")
    status, printed, errors = audited.run("twin")
    assert (status, printed) == (1, "")
    assert "2 machines are named 'twin'" in errors
    uuids = re.findall(r'"twin" \{(.*)\}', box.manage("list", "vms"))
    assert all(uuid in errors for uuid in uuids)
    assert "no field carries a token" in audited.run(uuids[0])[2]


def test_machine_that_is_not_there(audited: Audited) -> None:
    for words in (["nobody"], ["nobody", "--hypervisor", "virtualbox"]):
        status, printed, errors = audited.run(*words)
        assert (status, printed) == (1, "")
        assert "there is no machine 'nobody'" in errors


def test_machine_is_looked_at_as_it_is_now(audited: Audited) -> None:
    box = audited.box
    # Without the kernel driver there is no internal network.
    box.manage("modifyvm", TOR.value, "--nic2", "none")
    for key, value in driverless.EXTRADATA.items():
        box.manage("setextradata", TOR.value, key, value)
    box.run("mkdir", "/tmp/shared")
    log = audited.file(TOR).parent / "Logs/VBox.log"
    try:
        assert [each["setting"] for each in audited.deviations(TOR.value)] == ["--nic2"]
        with driverless.screen(box), driverless.running(box, TOR.value, log):
            # The link gate, opened.
            box.manage("controlvm", TOR.value, "setlinkstate1", "on")
            box.manage(
                "sharedfolder", "add", TOR.value, "--name", "t", "--hostpath", "/tmp/shared",
                "--transient",
            )  # fmt: skip
            driverless.wait_for(
                "what the front end tells",
                lambda: all(
                    name in box.manage("guestproperty", "enumerate", TOR.value)
                    for name in virtualbox.HOST_PROPERTIES
                ),
                60,
            )
            told = [f"guest property {name}" for name in virtualbox.HOST_PROPERTIES]
            named = [each["setting"] for each in audited.deviations(TOR.value)]
            assert named == ["--nic2", "shared folder 't'", *told]
            box.manage("controlvm", TOR.value, "poweroff")
            driverless.wait_for(
                "its end",
                lambda: (
                    box.processes(driverless.FRONT_END) == {}
                    and "SessionName"
                    not in box.manage("showvminfo", TOR.value, "--machinereadable")
                ),
                60,
            )
        # While it runs, its front end may write them again.
        for name in virtualbox.HOST_PROPERTIES:
            box.manage("guestproperty", "delete", TOR.value, name)
        # The next start would begin with the uplink plugged in.
        named = [each["setting"] for each in audited.deviations(TOR.value)]
        assert named == ["--cable-connected1", "--nic2"]
    finally:
        audited.put_back(TOR)


def test_machine_whose_file_is_damaged_is_not_shown() -> None:
    with VirtualBox([TOP]) as box:
        audited = Audited(box)
        uuid = re.search(r'^UUID="(.*)"$', box.manage("showvminfo", APP, "--machinereadable"), re.M)
        assert uuid is not None
        audited.file(APP).write_text("")
        # Its service reads the file when it begins anew.
        for pid in box.processes("VBoxSVC"):
            os.kill(pid, signal.SIGKILL)
        driverless.wait_for("its end", lambda: box.processes("VBoxSVC") == {}, 60)
        assert "there is no machine 'app-guest'" in audited.run(APP)[2]
        status, printed, errors = audited.run(uuid[1])
        assert (status, printed) == (1, "")
        assert errors.startswith(f"tails-profiles: VirtualBox cannot show {uuid[1]}: The object ")


def test_audit_changes_nothing(audited: Audited) -> None:
    before = audited.file(TOR).read_bytes()
    stamp = audited.file(TOR).stat().st_mtime_ns
    audited.run(TOR.value)
    assert audited.file(TOR).read_bytes() == before
    assert audited.file(TOR).stat().st_mtime_ns == stamp
