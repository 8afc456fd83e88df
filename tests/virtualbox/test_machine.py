# SPDX-License-Identifier: GPL-3.0-or-later
"""What a machine of the plan really is once it runs: its own list of everything, at its start.

In seconds: no guest is booted, the firmware and a boot sector are enough.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tails_profiles import picture, vboxmanage
from tails_profiles.profile import GUESTS, Profile
from tests.launch.screens import has_something
from tests.virtualbox import driverless
from tests.virtualbox.driverless import configuration, states, wait_for
from tests.virtualbox.inside import IMAGE, plan
from tests.virtualbox.world import TOP, VirtualBox

pytestmark = pytest.mark.virtualbox

#: Our machine, as VirtualBox's list of root has it here.
MACHINES = Path("/home/vbox/machines")
Change = Callable[[vboxmanage.Machine], vboxmanage.Machine]


@pytest.fixture
def box() -> Iterator[VirtualBox]:
    with VirtualBox([TOP]) as made:
        made.path(IMAGE).write_bytes(driverless.bootable(driverless.RESET))
        with driverless.screen(made):
            yield made


def make(box: VirtualBox, profile: Profile, *, without: str = "") -> Path:
    """The machine of the plan, without internal networks and some extradata; its log."""
    guest = next(each for each in plan(0).guests if each.profile is profile)
    box.path(guest.directory).mkdir(parents=True)
    box.path(guest.settings_disk).write_bytes(bytes(2048 * 20))
    made = vboxmanage.machine(guest, plan(0), vboxmanage.NEWEST)
    box.path(made.folder).mkdir(parents=True)
    for call in vboxmanage.create(made, vboxmanage.NEWEST):
        done = box.run(*call)
        assert done.returncode == 0, done.stderr
    uuid = str(made.uuid)
    for number in range(1, 3):
        if made.options[(f"nic{number}",)] == ("intnet",):
            box.manage("modifyvm", uuid, f"--nic{number}", "null")
            key = f"VBoxInternal/Devices/virtio-net/{number - 1}/LUN#0/Config/RestrictAccess"
            box.manage("setextradata", uuid, key)
    for key, value in driverless.EXTRADATA.items():
        box.manage("setextradata", uuid, key, value)
    if without:
        assert without in made.extradata
        box.manage("setextradata", uuid, without)
    # As after the five seconds without a user: what is not in the file is forgotten.
    for pid in box.processes("VBoxSVC"):
        os.kill(pid, 9)
    return box.path(made.folder / profile / "Logs/VBox.log")


#: A boot sector: prints X on the screen (BIOS interrupt 10h), then does nothing.
PRINT = bytes.fromhex("b8580e cd10 f4 ebfd".replace(" ", ""))


def test_screen_of_a_machine_without_a_window_is_drawn(box: VirtualBox) -> None:
    """By the call of ``host show``; with the launcher and its users in ``test_boot``."""
    box.path(IMAGE).write_bytes(driverless.bootable(PRINT))
    path = Path("/tmp/screen.png")
    log = make(box, Profile.TOR_GUEST)
    uuid = next(guest.machine.uuid for guest in plan(0).guests if guest.profile == "tor-guest")

    def has_the_letter() -> bool:
        done = box.run(*vboxmanage.picture(uuid, path))
        assert done.returncode == 0, done.stderr
        drawn = picture.read(box.path(path).read_bytes())
        # Before, its firmware shows a picture of its own in another size.
        return (drawn.width, drawn.height) == (720, 400) and has_something(drawn)

    with driverless.running(box, str(uuid), log):
        wait_for("the letter", has_the_letter, 120)


UUID = {guest.profile: str(guest.machine.uuid) for guest in plan(0).guests}
LOCALHOST = "VBoxInternal/Devices/virtio-net/0/LUN#0/Config/LocalhostReachable"
ONE_BOOT = "VBoxInternal/PowerOffInsteadOfReset"


@pytest.mark.parametrize("profile", GUESTS)
def test_machine_of_the_plan_starts_and_has_the_planned_dmi_drives_and_clocks(
    box: VirtualBox, profile: Profile
) -> None:
    log = make(box, profile)
    with driverless.running(box, UUID[profile], log) as process:
        assert process.poll() is None or "RUNNING" in states(log), log.read_text()[-3000:]
        dmi = configuration(log, "Devices/pcbios/0/Config")
        assert dmi["DmiBIOSVendor"] == dmi["DmiSystemSerial"] == f"tails-profile:{profile}"
        assert dmi["DmiChassisAssetTag"] == "tails-profiles-settings:1"
        assert dmi["DmiSystemUuid"] == UUID[profile]
        assert (dmi["DmiOEMVBoxVer"], dmi["DmiOEMVBoxRev"]) == ("tails-profiles", "guest")
        for place in ("PrimaryMaster", "PrimarySlave"):
            drive = configuration(log, f"Devices/piix3ide/0/Config/{place}")
            assert (drive["SerialNumber"], drive["ModelNumber"]) == ("0", "medium")
        assert configuration(log, "Devices/VMMDev/0/Config")["GetHostTimeDisabled"] == "1"
        assert configuration(log, "TM")["TSCTicksPerSecond"] == "2000000000"
        assert configuration(log, "GIM")["Provider"] == "None"
        cards = [configuration(log, f"Devices/virtio-net/{n}/Config") for n in range(8)]
        wanted = [link.mac for guest in plan(0).guests for link in guest.links
                  if guest.profile is profile]  # fmt: skip
        assert len([card for card in cards if card]) == len(wanted)
        for kind in ("e1000", "pcnet", "usb-ohci", "ichac97", "sb16", "hda"):
            assert configuration(log, f"Devices/{kind}/0") == {}
        assert "VRDP" not in "".join(states(log))


@pytest.mark.parametrize(("without", "expected"), [("", "0"), (LOCALHOST, "1")])
def test_hosts_loopback_is_closed_to_the_nat_engine_after_the_service_ended(
    box: VirtualBox, without: str, expected: str
) -> None:
    log = make(box, Profile.TOR_GUEST, without=without)
    with driverless.running(box, UUID[Profile.TOR_GUEST], log):
        nat = configuration(log, "Devices/virtio-net/0/LUN#0/Config")
        assert nat["LocalhostReachable"] == expected
        assert (nat["EnableTFTP"], nat["ForwardBroadcast"], nat["PassDomain"]) == ("0", "0", "0")
        assert configuration(log, "Devices/virtio-net/0/Config")["CableConnected"] == "0"


@pytest.mark.parametrize(("without", "again"), [("", False), (ONE_BOOT, True)])
def test_second_boot_is_an_end(box: VirtualBox, without: str, again: bool) -> None:
    log = make(box, Profile.TOR_GUEST, without=without)
    with driverless.running(box, UUID[Profile.TOR_GUEST], log):
        end = "to 'RESETTING'" if again else "to 'POWERING_OFF'"
        wait_for(end, lambda: end in states(log), 120)
        other = "to 'POWERING_OFF'" if again else "to 'RESETTING'"
        assert other not in states(log)
