# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole plan, carried out by the real VBoxManage and read back; and everything in its way.

Our code runs inside, as root, beside the real program (``inside``).
"""

import json
import os
import re
import secrets
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tails_profiles import vboxmanage
from tails_profiles.profile import GUESTS, Profile
from tests.virtualbox import driverless, launch
from tests.virtualbox.inside import DIRECTORY, IMAGE, plan
from tests.virtualbox.world import CALL, TOP, VirtualBox

pytestmark = pytest.mark.virtualbox

SERIAL = "VBoxInternal/Devices/pcbios/0/Config/DmiSystemSerial"
TOR, APP = Profile.TOR_GUEST, Profile.APP_GUEST
UUID = {guest.profile: str(guest.machine.uuid) for guest in plan(0).guests}
#: Of one machine that is not there: list, seven to make it, two to read it back.
CALLS = 10


class Host:
    """Our code inside, and VBoxManage as the guests' users have it."""

    def __init__(self, box: VirtualBox) -> None:
        self.box = box

    def ensure(self, *options: str, died: bool = False) -> dict[str, Any]:
        done = self.box.run(
            "python3", "-m", "tests.virtualbox.inside", *options, PYTHONPATH=str(TOP),
            PYTHONDONTWRITEBYTECODE="1",
        )  # fmt: skip
        if died:
            assert done.returncode in {-9, 137}, done
            return {}
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def call(self, profile: Profile, *words: str) -> tuple[int, str, str]:
        done = self.box.run(*vboxmanage.manager(profile, DIRECTORY), vboxmanage.VBOXMANAGE, *words)
        return done.returncode, done.stdout, done.stderr

    def manage(self, profile: Profile, *words: str) -> str:
        status, stdout, stderr = self.call(profile, *words)
        assert status == 0, stderr
        return stdout

    def info(self, profile: Profile) -> dict[str, str]:
        text = self.manage(profile, "showvminfo", UUID[profile], "--machinereadable")
        return vboxmanage.parse_info(text)

    def end(self, program: str) -> None:
        for pid in self.box.processes(program):
            descriptor = os.pidfd_open(pid)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            assert select.select([descriptor], [], [], CALL)[0]
            os.close(descriptor)

    def file(self, profile: Profile) -> str:
        machine = vboxmanage.home(profile, DIRECTORY) / "machines" / profile / f"{profile}.vbox"
        return self.box.path(machine).read_text()


@pytest.fixture
def host() -> Iterator[Host]:
    with VirtualBox([TOP]) as box:
        yield Host(box)


def verbs(found: dict[str, Any], profile: Profile) -> list[str]:
    return [call.rpartition("/")[2] for call in found["guests"][profile]["calls"]]


def test_whole_plan_is_carried_out_and_read_back(
    host: Host, record_property: Callable[[str, object], None]
) -> None:
    serial = f"serial-{secrets.token_hex(8)}"
    found = host.ensure("--extradata", f"{SERIAL}={serial}")
    assert list(found["guests"]) == [*GUESTS]
    for profile, guest in found["guests"].items():
        assert guest["differences"] == []
        assert len(guest["calls"]) == CALLS
        # By another process, in the file that VirtualBox reads at the start, and of this run.
        assert host.manage(Profile(profile), "getextradata", guest["uuid"], SERIAL) == (
            f"Value: {serial}\n"
        )
        assert f'value="{serial}"' in host.file(Profile(profile))
    version = host.box.manage("--version").strip()
    assert version.startswith(found["version"])
    record_property("VBoxManage --version", version)
    record_property("serial", serial)
    print(f"VBoxManage --version: {version}; serial of this run: {serial}")


def test_what_matters_most_in_virtualboxs_own_words(host: Host) -> None:
    host.ensure()
    tor, app = host.info(TOR), host.info(APP)
    assert (tor["nic1"], tor["cableconnected1"]) == ("nat", "off")
    assert (tor["nic2"], tor["intnet2"]) == ("intnet", "tails-tor")
    assert (app["nic1"], app["intnet1"]) == ("intnet", "tails-tor")
    assert {app[f"nic{number}"] for number in range(3, 9)} == {"none"}
    assert tor["uartmode1"] == f"server,{DIRECTORY}/tor-guest/serial"
    assert app["uart1"] == "off"
    assert app["biossystemtimeoffset"] == "600000"
    extradata = vboxmanage.parse_extradata(host.manage(TOR, "getextradata", UUID[TOR], "enumerate"))
    assert extradata[SERIAL] == "tails-profile:tor-guest"
    # No menu, dialog or tool bar through which somebody could attach NAT or a folder.
    kiosk = vboxmanage.parse_extradata(host.manage(APP, "getextradata", UUID[APP], "enumerate"))
    assert kiosk["GUI/RestrictedRuntimeMenus"] == "All"
    assert (kiosk["GUI/MenuBar/Enabled"], kiosk["GUI/ShowMiniToolBar"]) == ("false", "false")
    assert kiosk["GUI/PreventReconfiguration"] == "true"
    # Not shown, but in the file.
    for text in (host.file(TOR), host.file(APP)):
        assert "promiscuousModePolicy" not in text  # the default: deny
    assert 'nat-localhost-reachable="true"' not in host.file(TOR)


def test_each_user_has_a_list_of_its_own_and_app_guests_service_has_no_network(host: Host) -> None:
    host.ensure()
    assert UUID[APP] not in host.manage(TOR, "list", "vms")
    assert UUID[TOR] not in host.manage(APP, "list", "vms")
    outside = Path(f"/proc/{host.box.pid}/ns/net").readlink()
    seen = {}
    for pid in host.box.processes("VBoxSVC"):
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        uid = int(status["Uid"].split()[0])
        seen[uid] = (
            status["NoNewPrivs"], int(status["CapBnd"], 16),
            Path(f"/proc/{pid}/ns/net").readlink() == outside,
        )  # fmt: skip
    users = {
        int(host.box.run("id", "-u", guest.user).stdout): guest.profile for guest in plan(0).guests
    }
    assert {users[uid]: facts for uid, facts in seen.items() if uid in users} == {
        Profile.I2P_GUEST: ("1", 0, True), APP: ("1", 0, False),
    }  # fmt: skip


def test_nothing_else_is_forgotten_when_virtualboxs_service_starts_anew(host: Host) -> None:
    host.ensure("--guest", TOR)
    before = host.file(TOR)
    host.end("VBoxSVC")
    host.manage(TOR, "setextradata", UUID[TOR], "x", "y")
    host.manage(TOR, "setextradata", UUID[TOR], "x")
    after = host.file(TOR)
    # 7.2 writes no "off" into a file of this version, and reads that as "on".
    assert without_times(before).count(FORGOTTEN) < without_times(after).count(FORGOTTEN)
    assert host.info(TOR)["localhostReachable"] == "1"
    assert without_times(after).replace(FORGOTTEN, "") == without_times(before).replace(
        FORGOTTEN, ""
    )


FORGOTTEN = ' localhost-reachable="true"'


# ---- again


def test_second_time_only_sets_what_changes_with_each_start(host: Host) -> None:
    first = host.ensure()
    assert verbs(first, TOR)[1:4] == ["VBoxManage createvm", "sed -i", "VBoxManage registervm"]
    uuids = host.manage(TOR, "list", "vms")
    second = host.ensure("--offset", "-1")
    assert verbs(second, TOR) == [
        f"VBoxManage {verb}"
        for verb in (
            "list", "showvminfo", "getextradata", "modifyvm", "showvminfo", "getextradata",
        )
    ]  # fmt: skip
    assert host.manage(TOR, "list", "vms") == uuids
    assert host.info(APP)["biossystemtimeoffset"] == "-600000"


SPOILT = {
    "a cable pulled out": ("modifyvm", "--cable-connected1", "off"),
    "NAT in app-guest": ("modifyvm", "--nic1", "nat"),
    "another MAC": ("modifyvm", "--mac-address1", "080027000001"),
    "promiscuous": ("modifyvm", "--nic-promisc1", "allow-all"),
    "a forward": ("modifyvm", "--nic5", "nat", "--nat-pf5", "ssh,tcp,,2222,,22"),
    "clipboard": ("modifyvm", "--clipboard-mode", "bidirectional"),
    "sound": ("modifyvm", "--audio-driver", "default", "--audio-enabled", "on"),
    "USB": ("modifyvm", "--usb-ohci", "on"),
    "remote display": ("modifyvm", "--vrde", "on"),
    "memory": ("modifyvm", "--memory", "1024"),
    "kvmclock": ("modifyvm", "--paravirt-provider", "kvm"),
    "clock in local time": ("modifyvm", "--rtc-use-utc", "off"),
    "another firmware": ("modifyvm", "--firmware", "efi"),
    "a processor's profile": ("modifyvm", "--cpu-profile", "Intel Core i5-3570"),
    "another token": ("setextradata", SERIAL, "tails-profile:i2p-guest"),
    "no token": ("setextradata", SERIAL),
    "a key of our own machine's": ("setextradata", "VBoxInternal2/SharedFolders/x", "1"),
    "menus": ("setextradata", "GUI/RestrictedRuntimeMenus"),
    "a settings dialog": ("setextradata", "GUI/PreventReconfiguration", "false"),
    "another medium": (
        "storageattach", "--storagectl", "IDE", "--port", "0", "--device", "0", "--type",
        "dvddrive", "--medium", "emptydrive",
    ),
    "a further drive": (
        "storageattach", "--storagectl", "IDE", "--port", "1", "--device", "0", "--type",
        "dvddrive", "--medium", "emptydrive",
    ),
    "no controller": ("storagectl", "--name", "IDE", "--remove"),
    "a further controller": ("storagectl", "--name", "SATA", "--add", "sata"),
    "another name": ("modifyvm", "--name", "other"),
}  # fmt: skip


def test_whatever_somebody_changed_is_mended(host: Host) -> None:
    host.ensure()
    good = host.file(APP)
    for what, (verb, *words) in SPOILT.items():
        host.manage(APP, verb, UUID[APP], *words)
        if what != "another name":  # whose file is another one
            assert host.file(APP) != good, f"{what}: changes nothing"
        found = host.ensure("--guest", APP)
        assert found["guests"][APP]["differences"] == [], what
        # The file is all that VirtualBox knows of a machine: what is not shown is in it too.
        assert without_times(host.file(APP)) == without_times(good), what


def without_times(text: str) -> str:
    """A settings file without when it was written and in which order its drives were filled.

    UUIDs of media are drawn by each VBoxSVC.
    """
    # What a remote display would have if it were on stays where one was switched off.
    text = re.sub(
        r'lastStateChange="[^"]*"|uuid="\{[^}]*\}"|\s*<RemoteDisplay>.*</RemoteDisplay>', "", text,
        flags=re.DOTALL,
    )  # fmt: skip
    return "\n".join(sorted(text.splitlines()))


def test_medium_that_is_not_ours_is_never_deleted(host: Host) -> None:
    host.ensure("--guest", APP)
    disk = vboxmanage.home(APP, DIRECTORY) / "machines/app-guest/mine.vdi"
    host.manage(APP, "createmedium", "disk", "--filename", str(disk), "--size", "8")
    host.manage(APP, "storagectl", UUID[APP], "--name", "SATA", "--add", "sata")
    host.manage(
        APP, "storageattach", UUID[APP], "--storagectl", "SATA", "--port", "0", "--device", "0",
        "--type", "hdd", "--medium", str(disk),
    )  # fmt: skip
    found = host.ensure("--guest", APP)
    assert "VBoxManage unregistervm" in verbs(found, APP)
    assert host.box.path(disk).exists()
    # unregistervm --delete would have.
    host.manage(APP, "storagectl", UUID[APP], "--name", "SATA", "--add", "sata")
    host.manage(
        APP, "storageattach", UUID[APP], "--storagectl", "SATA", "--port", "0", "--device", "0",
        "--type", "hdd", "--medium", str(disk),
    )  # fmt: skip
    host.manage(APP, "unregistervm", UUID[APP], "--delete")
    assert not host.box.path(disk).exists()


# ---- in the way


def test_killed_between_any_two_calls_it_is_made_the_next_time(host: Host) -> None:
    for last in range(1, CALLS + 1):
        host.ensure("--guest", TOR, "--last", str(last), died=True)
        found = host.ensure("--guest", TOR)
        assert found["guests"][TOR]["differences"] == [], last
        host.manage(TOR, "unregistervm", UUID[TOR], "--delete")


def test_killed_while_it_is_made_anew_it_is_made_the_next_time(host: Host) -> None:
    host.ensure("--guest", TOR)
    # unregistervm and rm come before those that make it.
    for last in range(4, 4 + 9):
        host.manage(TOR, "storagectl", UUID[TOR], "--name", "SATA", "--add", "sata")
        host.ensure("--guest", TOR, "--last", str(last), died=True)
        found = host.ensure("--guest", TOR)
        assert found["guests"][TOR]["differences"] == [], last


def test_virtualboxs_own_service_killed_before_any_call(host: Host) -> None:
    for last in range(1, CALLS + 1):
        found = host.ensure("--guest", TOR, "--last", str(last), "--then", "service")
        if "error" in found:
            assert found["hint"], found
            found = host.ensure("--guest", TOR)
        assert found["guests"][TOR]["differences"] == [], last
        host.manage(TOR, "unregistervm", UUID[TOR], "--delete")


def test_machine_of_that_name_that_is_not_ours_is_not_touched(host: Host) -> None:
    host.ensure("--guest", APP)  # makes the directories
    host.manage(TOR, "createvm", "--name", "tor-guest", "--ostype", "Debian_64", "--register",
                "--basefolder", f"{DIRECTORY}/virtualbox-gateway/machines")  # fmt: skip
    before = host.file(TOR), host.manage(TOR, "list", "vms")
    found = host.ensure("--guest", TOR)
    assert "another machine of that name" in found["error"]
    assert (host.file(TOR), host.manage(TOR, "list", "vms")) == before


@pytest.mark.parametrize("registered", [True, False])
def test_machine_of_that_uuid_or_file_that_is_not_ours_is_not_touched(
    host: Host, registered: bool
) -> None:
    host.ensure("--guest", APP)
    uuid = ["--uuid", UUID[TOR], "--register"] if registered else []
    host.manage(TOR, "createvm", "--name", "tor-guest", "--ostype", "Debian_64", *uuid,
                "--basefolder", f"{DIRECTORY}/virtualbox-gateway/machines")  # fmt: skip
    before = host.file(TOR)
    found = host.ensure("--guest", TOR)
    assert ("none that this program made" if registered else "of another machine") in (
        found["error"]
    )
    assert host.file(TOR) == before


def test_machine_that_somebody_runs_is_not_touched(host: Host) -> None:
    host.ensure("--guest", TOR)
    host.box.path(IMAGE).write_bytes(driverless.bootable(b"\xf4\xeb\xfd"))  # hlt, for ever
    host.manage(TOR, "modifyvm", UUID[TOR], "--nic2", "null")
    key = "VBoxInternal/Devices/virtio-net/1/LUN#0/Config/RestrictAccess"
    for pair in ((key,), *driverless.EXTRADATA.items()):
        host.manage(TOR, "setextradata", UUID[TOR], *pair)
    guest = plan(0).guests[0]
    runner = vboxmanage.start_command(guest, plan(0), None).argv
    runner = runner[: runner.index("/usr/bin/env")]
    log = vboxmanage.home(TOR, DIRECTORY) / "machines/tor-guest/Logs/VBox.log"
    with (
        driverless.screen(host.box),
        subprocess.Popen(
            [*host.box.enter, *runner, *launch.front_end(guest, DIRECTORY, None)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process,
    ):  # fmt: skip
        driverless.wait_for(
            "a machine that runs",
            lambda: "to 'RUNNING'" in driverless.states(host.box.path(log)), 60,
        )  # fmt: skip
        before = host.file(TOR)
        found = host.ensure("--guest", TOR)
        assert "its machine is in use: running" in found["error"]
        assert "stop the guests" in found["hint"]
        assert host.file(TOR) == before
        # What VirtualBox itself says of it, if asked all the same.
        status, _, stderr = host.call(TOR, "modifyvm", UUID[TOR], "--memory", "64")
        assert (status, "is already locked" in stderr) == (1, True)
        host.end("VirtualBoxVM")
        process.wait(CALL)
    # Its service notices.
    driverless.wait_for("aborted", lambda: host.info(TOR)["VMState"] == "aborted", 30)
    found = host.ensure("--guest", TOR)
    assert found["guests"][TOR]["differences"] == []


def test_medium_that_is_missing_is_said_before_anything_is_made(host: Host) -> None:
    host.ensure("--guest", TOR)
    host.box.path(IMAGE).unlink()
    host.box.path(IMAGE).mkdir()
    found = host.ensure("--guest", APP)
    assert f"{IMAGE} is missing" in found["error"]
    assert UUID[APP] not in host.manage(APP, "list", "vms")


def test_medium_that_its_user_may_not_read_is_refused_in_words(host: Host) -> None:
    host.ensure("--guest", TOR)
    host.box.path(IMAGE).chmod(0o600)
    found = host.ensure("--guest", APP)
    assert "VERR_ACCESS_DENIED" in found["error"]
    assert "do not run as root" in found["hint"]


def test_disk_that_is_full_before_any_call_is_noticed_where_virtualbox_says_done(
    host: Host,
) -> None:
    host.ensure("--guest", APP)
    place = DIRECTORY / "virtualbox-gateway"
    host.box.run("mkdir", str(place))
    host.box.run("mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(place))
    silent = []
    for last in range(1, CALLS + 1):
        found = host.ensure("--guest", TOR, "--last", str(last), "--then", "fill")
        assert "full" in str(found.get("hint")), (last, found)
        silent.append("says that it is done" in found["error"])
        host.box.path(place / "full").unlink()
        found = host.ensure("--guest", TOR)
        assert found["guests"][TOR]["differences"] == [], last
        host.call(TOR, "unregistervm", UUID[TOR], "--delete")
    # This is what the reading back is for.
    assert any(silent)


def test_recorded_versions_line_is_what_the_real_one_prints(host: Host) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+_Debianr\d+\n", host.box.manage("--version"))
    # Debian's script before it, without a kernel driver.
    done = host.box.run("/usr/bin/VBoxManage", "--version")
    assert done.stdout.startswith("WARNING: ")
    assert vboxmanage.parse_version(done.stdout) == (7, 2)
