# SPDX-License-Identifier: GPL-3.0-or-later
"""A real boot in the real VirtualBox, by the real launcher, without the kernel driver: minutes.

A Debian kernel reads the DMI that VirtualBox made of extradata, and our generator and classifier
decide by it. Everything of ``host start`` and ``host stop`` is there but what ``launch`` names.
"""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tails_profiles import picture
from tails_profiles.profile import Profile
from tests.launch.screens import has_something
from tests.virtualbox import driverless, guest
from tests.virtualbox.inside import DIRECTORY, IMAGE
from tests.virtualbox.world import FACTOR, TOP, VirtualBox

pytestmark = [pytest.mark.virtualbox, pytest.mark.slow]

#: Seconds; a quiet machine takes about three minutes, a busy one six.
BOOT = 1500 * FACTOR
TOR, APP = Profile.TOR_GUEST, Profile.APP_GUEST


def launched() -> dict[str, Any]:
    """What ``launch`` found."""
    with VirtualBox([TOP], size="2g") as box:
        guest.image(box.path(IMAGE))
        with driverless.screen(box):
            done = box.run(
                "python3", "-m", "tests.virtualbox.launch", timeout=BOOT, PYTHONPATH=str(TOP),
                PYTHONDONTWRITEBYTECODE="1",
            )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert not found["left"]
        assert not box.path(DIRECTORY).exists()
        assert box.processes("VirtualBoxVM") == {}
    return found


def test_token_set_by_extradata_selects_its_profile_and_the_gate_opens_after_the_word(
    record_property: Callable[[str, object], None],
) -> None:
    found = launched()
    version = re.search(r"VirtualBox VM (\S+ r\d+)", found[f"log of {TOR}"])
    assert version is not None
    record_property("version line of VBox.log", version[0])
    print(version[0])
    notes = dict(re.findall(r"^note (\w+)=(.*?)\r?$", found["heard"], re.MULTILINE))
    assert notes["bios_vendor"] == notes["product_serial"] == "tails-profile:tor-guest"
    assert notes["chassis_asset_tag"] == "tails-profiles-settings:1"
    assert notes["product_uuid"] == "7461696c-732d-4000-8000-746f72000001"
    assert (notes["sys_vendor"], notes["bios_version"]) == ("tails-profiles", "1")
    assert notes["model"] == "tails-profiles virtual CPU"
    # The real generator's answer and the real classifier's.
    assert notes["target"] == "/usr/lib/systemd/system/tails-profiles-tor-guest.target"
    assert notes["classifier"] == "tor-guest bios_vendor 1"
    said = found["said"]
    order = [
        # The launcher's own word, then the guest's.
        "tor-guest: starting",
        *(f"tor-guest: {word}" for word in ("selected", "firewall", "starting", "ready")),
        "app-guest: starting",
    ]
    assert [words for words in said if words in order] == order
    assert found["links"] == {
        TOR: ["running", "nat", "on"], APP: ["running", "null", "on"],
    }  # fmt: skip
    # tor-guest's text screen, drawn by the launcher: its init wrote a word there.
    drawn = picture.read(base64.b64decode(found["picture"]))
    assert (drawn.width, drawn.height) == (720, 400)
    assert has_something(drawn)
    status = found["status"]
    assert (status["hypervisor"], status["accelerator"], status["rules"]) == (
        "virtualbox", "vboxdrv", True,
    )  # fmt: skip
    assert [
        (each["profile"], each["running"], each["word"], each["plugged"], each["screen"])
        for each in status["guests"]
    ] == [(TOR, True, "ready", True, None), (APP, True, None, None, None)]
    # Unplugged when it began: what it was made of says so, and so did the machine.
    assert driverless.parse_configuration(found[f"log of {TOR}"], "Devices/virtio-net/0/Config")[
        "CableConnected"
    ] == ("0")
    # What a front end writes of the host was deleted, or is the same everywhere: this one has a
    # window.
    host = re.findall(r"/HostInfo/(\S+) += '(.*?)'", found[f"properties of {TOR}"])
    assert host == [("GUI/LanguageID", "C")]
    states = dict(
        re.findall(r"^(Uid|CapBnd|CapEff|NoNewPrivs):\s+(\S+)", found[f"process of {APP}"], re.M)
    )
    net_raw, net_admin = 1 << 13, 1 << 12
    assert int(states["CapBnd"], 16) & (net_raw | net_admin) == 0
    assert int(states["CapEff"], 16) & (net_raw | net_admin) == 0
    assert states["Uid"] != "0"
    assert found[f"network of {APP}"] != found["network here"] == found[f"network of {TOR}"]
    assert found["started twice"] == "guests run already: app-guest, tor-guest"
    # tor-guest heard its power button; app-guest, still booting, was ended.
    assert "tor-guest: did not power off" not in " ".join(said)
