# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe for VirtualBox, pasted into bash: VBoxManage gets every word as it is meant."""

import pytest

from tails_profiles import recipe, vboxmanage
from tails_profiles.profile import GUESTS, Profile
from tests.virtualbox.world import VirtualBox

pytestmark = pytest.mark.virtualbox

NAME = """it's "a" $HOME `id` <b>"""
REACH = {Profile.TOR_GUEST: 5_000, Profile.I2P_GUEST: 0, Profile.APP_GUEST: 600_000}


@pytest.mark.parametrize("profile", GUESTS)
def test_bash_hands_virtualbox_every_word_as_it_is_meant(box: VirtualBox, profile: Profile) -> None:
    work = box.path("/srv/work")
    work.mkdir()
    (work / "IMAGE.iso").write_bytes(bytes(2048 * 100))
    text = recipe.recipe(profile, "virtualbox", NAME)
    done = box.run("env", "-C", "/srv/work", "bash", "-eu", stdin=text)
    assert done.returncode == 0, done.stderr
    (listed,) = vboxmanage.parse_list(box.manage("list", "vms")).items()
    uuid, name = listed
    assert name == NAME
    info = vboxmanage.parse_info(box.manage("showvminfo", str(uuid), "--machinereadable"))
    assert info["name"] == NAME
    assert abs(int(info["biossystemtimeoffset"])) <= REACH[profile]
    assert info["IDE-0-0"] == "/srv/work/IMAGE.iso"
    extradata = vboxmanage.parse_extradata(box.manage("getextradata", str(uuid), "enumerate"))
    # Every key that is printed, with its value: quotes, "#" and "<" included.
    printed = text.count("\nVBoxManage setextradata ")
    assert len([key for key in extradata if key.startswith(("VBoxInternal", "GUI/"))]) == printed
    assert extradata["VBoxInternal/Devices/pcbios/0/Config/DmiSystemSKU"] == "<EMPTY>"
    # Nothing else was run, and nothing was written by a name that came apart.
    assert {path.name for path in work.iterdir()} == {"IMAGE.iso"}
