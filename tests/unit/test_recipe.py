# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes: equal to the golden files, and made of what each hypervisor takes.

``python3 -m tests.unit.test_recipe`` writes the golden files anew; read their difference.
"""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tails_profiles import constants, recipe, virtualbox
from tails_profiles.constants import LINKS
from tails_profiles.errors import ProfilesError
from tails_profiles.profile import GUESTS, Profile, token
from tests.data import vboxmanage

GOLDEN = Path(__file__).parents[1] / "golden/recipes"
CASES = [*itertools.product(GUESTS, recipe.HYPERVISORS, recipe.FIRMWARES)]
#: Names that a shell, a comma-separated option or XML would take apart.
NAMES = ["my vm", "it's", 'a "b" $HOME `id`', "a,b", "<a>&b -- c", "é"]


def golden(profile: Profile, hypervisor: str, firmware: str) -> Path:
    suffix = "-efi" if firmware == "efi" else ""
    return GOLDEN / f"{profile}-{hypervisor}{suffix}.txt"


@pytest.mark.parametrize(("profile", "hypervisor", "firmware"), CASES)
def test_recipe_is_the_golden_file(profile: Profile, hypervisor: str, firmware: str) -> None:
    text = recipe.recipe(profile, hypervisor, profile.value, firmware)
    assert text == golden(profile, hypervisor, firmware).read_text()


def test_there_is_no_golden_file_that_no_recipe_writes() -> None:
    assert {*GOLDEN.iterdir()} == {golden(*case) for case in CASES}


def calls(profile: Profile, firmware: str = "bios") -> Iterator[list[str]]:
    """Each VBoxManage command of the recipe, its words after the program; no comments."""
    joined = recipe.recipe(profile, "virtualbox", "vm", firmware).replace("\\\n", " ")
    for line in joined.splitlines():
        # The one expression of the shell in it; a number stands for its result.
        words = shlex.split(re.sub(r"\$\(\(.*\)\)", "7", line), comments=True)
        if words:
            assert words[0] == "VBoxManage"
            yield words[1:]


def flags(profile: Profile) -> dict[str, str]:
    """Every flag of modifyvm and its first value."""
    found: dict[str, str] = {}
    for call in calls(profile):
        if call[:2] == ["modifyvm", "vm"]:
            for position, word in enumerate(call):
                if word.startswith("--") and not word.startswith("--cpuid-set"):
                    name, _, value = word[2:].partition("=")
                    assert name not in found, f"--{name} twice"
                    found[name] = value or call[position + 1]
    return found


def extradata(profile: Profile, firmware: str = "bios") -> dict[str, str]:
    found = [
        (call[2], call[3])
        for call in calls(profile, firmware)
        if call[0] == "setextradata" and len(call) == 4
    ]
    assert len({key for key, _ in found}) == len(found)
    return dict(found)


@pytest.mark.parametrize("profile", GUESTS)
def test_virtualbox_takes_every_flag(profile: Profile) -> None:
    names = {re.sub(r"(?<!boot)(?<!uart)(?<!lpt)\d$", "N", name) for name in flags(profile)}
    assert names <= vboxmanage.FLAGS
    assert not names & vboxmanage.REFUSED


@pytest.mark.parametrize("profile", GUESTS)
@pytest.mark.parametrize("firmware", recipe.FIRMWARES)
def test_virtualbox_takes_every_dmi_key_with_a_value_of_its_type(
    profile: Profile, firmware: str
) -> None:
    base = f"VBoxInternal/Devices/{'efi' if firmware == 'efi' else 'pcbios'}/0/Config/"
    dmi = {
        key.removeprefix(base): value
        for key, value in extradata(profile, firmware).items()
        if "/Config/Dmi" in key
    }
    assert dmi.keys() <= vboxmanage.DMI_STRINGS | vboxmanage.DMI_NUMBERS
    strings = {key: value for key, value in dmi.items() if key in vboxmanage.DMI_STRINGS}
    assert all(value and not value.isdecimal() for value in strings.values())
    assert all(dmi[key].isdecimal() for key in dmi.keys() - strings.keys())
    # The vendor counts twice: it is in the memory structure too.
    texts = [*strings.values(), dmi["DmiSystemVendor"]]
    size = sum(len(value.removeprefix("string:").replace("<EMPTY>", "")) for value in texts)
    assert size <= vboxmanage.DMI_BYTES
    # Whatever names VirtualBox or the machine by default has a constant in its place.
    assert vboxmanage.DMI_STRINGS - {"DmiBoardLocInChass"} == strings.keys()


def test_virtualbox_drive_strings_fit() -> None:
    drive = {
        key.rpartition("/")[2]: value
        for key, value in extradata(Profile.APP_GUEST).items()
        if "/piix3ide/" in key
    }
    assert drive.keys() == vboxmanage.DRIVE_STRINGS.keys()
    for key, value in drive.items():
        assert len(value.removeprefix("string:")) <= vboxmanage.DRIVE_STRINGS[key]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", "<EMPTY>"), ("1", "string:1"), ("0x1f", "string:0x1f"), ("beef", "string:beef"),
     ("guest", "guest"), ("01/01/2026", "01/01/2026")],
)  # fmt: skip
def test_virtualbox_is_never_given_a_number_for_a_string(value: str, expected: str) -> None:
    assert virtualbox.text(value) == expected


#: Rows of what a guest must not have, by the flags that close it: every one in every guest.
CLOSED = {
    "paravirt-provider": "none", "hpet": "off", "nested-hw-virt": "off", "rtc-use-utc": "on",
    "clipboard-mode": "disabled", "clipboard-file-transfers": "disabled",
    "drag-and-drop": "disabled", "audio-driver": "none", "audio-enabled": "off",
    "usb-ohci": "off", "usb-ehci": "off", "usb-xhci": "off", "usb-card-reader": "off",
    "mouse": "ps2", "keyboard": "ps2", "vrde": "off", "recording": "off", "teleporter": "off",
    "tracing-enabled": "off", "tracing-allow-vm-access": "off", "autostart-enabled": "off",
    "uart1": "off", "lpt1": "off", "accelerate-3d": "off", "monitor-count": "1",
    "guest-memory-balloon": "0", "cpu-hotplug": "off", "boot1": "dvd", "boot2": "none",
    "boot3": "none", "boot4": "none", "bios-pxe-debug": "off", "bios-boot-menu": "disabled",
}  # fmt: skip


@pytest.mark.parametrize("profile", GUESTS)
def test_virtualbox_closes_every_row(profile: Profile) -> None:
    found = flags(profile)
    assert found.items() >= CLOSED.items()
    for number, link in enumerate(LINKS[profile], start=1):
        assert found[f"nic-promisc{number}"] == "deny"
        assert found[f"mac-address{number}"] == link.mac.replace(":", "").upper()
        assert found[f"nic{number}"] == ("nat" if link.is_uplink else "intnet")
        if link.is_uplink:
            # The link gate: plugged in by hand, once the rules are in force.
            assert found[f"cable-connected{number}"] == "off"
            for name in ("localhostreachable", "dns-pass-domain", "dns-proxy", "dns-host-resolver"):
                assert found[f"nat-{name}{number}"] == "off"
    assert [found[f"nic{number}"] for number in range(len(LINKS[profile]) + 1, 9)] == ["none"] * 6
    keys = extradata(profile)
    for name in ("GetHostTimeDisabled", "BackdoorLogDisabled"):
        assert keys[f"VBoxInternal/Devices/VMMDev/0/Config/{name}"] == "1"
    assert keys["VBoxInternal/TM/TSCTicksPerSecond"].isdecimal()
    side_channels = {name for name in found if name.endswith(("-on-sched", "-entry", "-exit"))}
    assert len(side_channels) == (6 if profile is Profile.APP_GUEST else 0)


def test_virtualbox_is_told_to_share_its_networks_between_users_only_on_demand() -> None:
    text = recipe.recipe(Profile.TOR_GUEST, "virtualbox", "vm")
    lines = [line for line in text.splitlines() if "RestrictAccess" in line]
    assert len(lines) == 1
    assert lines[0].startswith("# VBoxManage ")
    # The second adapter, which is device 1: the uplink is nobody's to share.
    assert "virtio-net/1/LUN#0/Config/RestrictAccess' 0" in lines[0]


def test_virtualbox_processor_name_is_the_constant() -> None:
    words = virtualbox._cpuid(constants.CPU_NAME)
    name = b"".join(
        bytes.fromhex(word)[::-1] for word in words if re.fullmatch("[0-9a-f]{8}", word)
        and not word.startswith("8000")
    )  # fmt: skip
    assert name.rstrip(b"\0").decode() == constants.CPU_NAME


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hypervisor", ["virtualbox", "qemu"])
def test_any_name_stays_one_word_in_a_shell(name: str, hypervisor: str) -> None:
    text = recipe.recipe(Profile.TOR_GUEST, hypervisor, name)
    if hypervisor == "virtualbox":
        line = next(line for line in text.splitlines() if line.startswith("VBoxManage createvm"))
        assert shlex.split(line)[3] == name
    else:
        line = next(line for line in text.splitlines() if " -name " in line)
        assert shlex.split(line)[2] == name.replace(",", ",,")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("firmware", recipe.FIRMWARES)
@pytest.mark.parametrize("profile", GUESTS)
def test_libvirt_domain_is_xml_with_name_token_and_links(
    profile: Profile, firmware: str, name: str
) -> None:
    domain = ElementTree.fromstring(recipe.recipe(profile, "libvirt", name, firmware))
    assert domain.findtext("name") == name
    assert domain.findtext("sysinfo/bios/entry[@name='vendor']") == token(profile)
    assert domain.findtext("sysinfo/system/entry[@name='serial']") == token(profile)
    macs = [mac.get("address") for mac in domain.findall("devices/interface/mac")]
    assert macs == [link.mac for link in LINKS[profile]]
    types = [each.get("type") for each in domain.findall("devices/interface")]
    assert types.count("user") == profile.is_gateway
    assert (domain.find("os").get("firmware") == "efi") == (firmware == "efi")  # type: ignore[union-attr]


def test_two_ends_of_an_inner_link_meet() -> None:
    def ends(profile: Profile, hypervisor: str) -> set[tuple[str, str]]:
        text = recipe.recipe(profile, hypervisor, "vm")
        if hypervisor == "qemu":
            return {*re.findall(r"local\.path=([^,]+),.*remote\.path=(\S+)", text)}
        pairs = re.findall(r"port='(\d+)'>\s+<local address='127.0.0.1' port='(\d+)'", text)
        return {(local, far) for far, local in pairs}

    for hypervisor in ("qemu", "libvirt"):
        gateways = ends(Profile.TOR_GUEST, hypervisor) | ends(Profile.I2P_GUEST, hypervisor)
        app = ends(Profile.APP_GUEST, hypervisor)
        assert len(app) == 2
        assert app == {(far, local) for local, far in gateways}


@pytest.mark.parametrize("profile", GUESTS)
def test_overview_has_the_token_every_mac_and_the_way_to_the_rest(profile: Profile) -> None:
    text = recipe.overview(profile)
    assert token(profile) in text
    assert all(link.mac in text for link in LINKS[profile])
    for hypervisor in recipe.HYPERVISORS:
        assert f"tails-profiles token {profile} --hypervisor {hypervisor}\n" in text
    assert max(map(len, text.splitlines())) <= recipe.WIDTH


def test_overview_carries_name_and_firmware_on() -> None:
    text = recipe.overview(Profile.TOR_GUEST, "my vm", "efi")
    assert "setextradata 'my vm' " in text
    assert "Devices/efi/0/Config/DmiBIOSVendor" in text
    assert "--hypervisor qemu --vm 'my vm' --firmware efi\n" in text


@pytest.mark.parametrize("name", ["-x", "a/b", "a\nb", "", "a\0b", "x" * 81])
def test_recipe_refuses_a_name_no_hypervisor_takes(name: str) -> None:
    with pytest.raises(ProfilesError, match="no name"):
        recipe.recipe(Profile.TOR_GUEST, "virtualbox", name)
    with pytest.raises(ProfilesError, match="no name"):
        recipe.overview(Profile.TOR_GUEST, name)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for case in CASES:
        golden(*case).write_text(recipe.recipe(case[0], case[1], case[0].value, case[2]))
