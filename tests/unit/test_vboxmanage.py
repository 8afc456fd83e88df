# SPDX-License-Identifier: GPL-3.0-or-later
"""The same plan in VirtualBox's words, and what must be read back.

``python3 -m tests.unit.test_vboxmanage`` writes the golden command lines anew; read their
difference. What the real program makes of all this is in tests/virtualbox.
"""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tails_profiles import launch, vboxmanage, virtualbox_folders
from tails_profiles.errors import LaunchError
from tails_profiles.launch import GuestPlan
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.quota import Space
from tails_profiles.settings import Feature
from tails_profiles.shares import Choice
from tails_profiles.vboxmanage import Machine, Shown, Version
from tests.data import vboxmanage as facts
from tests.unit.test_launch import FACTS, plan

GOLDEN = Path(__file__).parents[1] / "golden/argv"
VERSIONS = (Version(6, 1), Version(7, 0), Version(7, 1), Version(7, 2))
CASES = [*product(GUESTS, VERSIONS)]


def guest(profile: Profile, *, i2p: bool = True) -> GuestPlan:
    return next(each for each in plan(i2p=i2p).guests if each.profile is profile)


def machine(profile: Profile, version: Version = vboxmanage.NEWEST, *, i2p: bool = True) -> Machine:
    return vboxmanage.machine(guest(profile, i2p=i2p), plan(i2p=i2p), version)


def golden(profile: Profile, version: Version) -> str:
    lines = []
    for words in vboxmanage.create(machine(profile, version), version):
        # A flag and its value, and each key of sed's script, on a line of its own.
        text = re.sub(r"\n(?!--|/usr/bin/sed)", " ", "\n".join(words))
        lines.append(text.replace("<ExtraDataItem", "\n<ExtraDataItem"))
    return "\n\n".join(lines) + "\n"


def golden_file(profile: Profile, version: Version) -> Path:
    return GOLDEN / f"virtualbox-{profile}-{version.major}.{version.minor}.txt"


@pytest.mark.parametrize(("profile", "version"), CASES)
def test_command_lines_are_the_golden_file(profile: Profile, version: Version) -> None:
    assert golden(profile, version) == golden_file(profile, version).read_text()


def test_there_is_no_golden_file_that_no_command_line_writes() -> None:
    assert {*GOLDEN.glob("virtualbox-*")} == {golden_file(*case) for case in CASES}


@pytest.mark.parametrize("profile", GUESTS)
def test_as_few_calls_as_it_takes(profile: Profile) -> None:
    made = machine(profile)
    calls = vboxmanage.create(made, Version(7, 2))
    assert len(calls) == 7
    assert len(made.options) + len(made.extradata) > 80


# ---- versions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7.2.22_Debianr175245\n", (7, 2)),
        ("7.0.18r162988\n", (7, 0)),
        ("6.1.38_Debianr153438", (6, 1)),
        # Debian's script where there is no kernel driver.
        ("WARNING: The character device /dev/vboxdrv does not exist.\n\n7.1.12r1\n", (7, 1)),
        # Spoken to as the newest that was run.
        ("8.0.0r1\n", (7, 2)),
    ],
)
def test_version_is_the_last_line(text: str, expected: tuple[int, int]) -> None:
    assert vboxmanage.parse_version(text) == expected


@pytest.mark.parametrize("text", ["", "\n", "WARNING: 7\n", "7.2\n", "5.2.44r1\n", "6.0.24r1\n"])
def test_what_is_no_version_or_too_old_is_refused(text: str) -> None:
    with pytest.raises(LaunchError):
        vboxmanage.parse_version(text)


@pytest.mark.parametrize(("profile", "version"), CASES)
def test_every_flag_is_one_that_this_version_takes(profile: Profile, version: Version) -> None:
    known = facts.FLAGS_61 if version == (6, 1) else facts.FLAGS | facts.FLAGS_BY_VERSION[version]
    names = {
        re.sub(r"(?<=[a-z])\d$", "N", word.split("=")[0].removeprefix("--"))
        if word.split("=")[0].removeprefix("--") not in {"uart1", "uart-mode1", "uartmode1"}
        and not re.match("--(boot|lpt)", word)
        else word.split("=")[0].removeprefix("--")
        for word in vboxmanage.modify(machine(profile), version)
        if word.startswith("--")
    }
    assert names - known == set()
    assert not names & facts.REFUSED


# ---- what is in a machine


def test_gateway_starts_unplugged_and_app_guest_has_no_nat() -> None:
    tor, app = machine(Profile.TOR_GUEST), machine(Profile.APP_GUEST)
    assert tor.options[("nic1",)] == ("nat",)
    assert tor.options[("cable-connected1",)] == ("off",)
    assert app.options[("nic1",)] == ("intnet",)
    assert all(value != ("nat",) for value in app.options.values())


def test_without_i2p_app_guest_has_one_adapter_and_no_word_about_a_second() -> None:
    app = machine(Profile.APP_GUEST, i2p=False)
    assert app.options[("nic2",)] == ("none",)
    # A key of a device that is not there would make one.
    assert not any("virtio-net/1/" in key for key in app.extradata)
    assert any("virtio-net/0/" in key for key in app.extradata)


def test_clock_is_ahead_or_behind_as_planned() -> None:
    assert machine(Profile.TOR_GUEST).options[("bios-system-time-offset",)] == ("5000",)
    assert machine(Profile.APP_GUEST).options[("bios-system-time-offset",)] == ("-600000",)
    # As one word: it would be taken for a flag.
    assert "--bios-system-time-offset=-600000" in vboxmanage.modify(
        machine(Profile.APP_GUEST), Version(7, 2)
    )


def test_dmi_text_fits_the_firmwares_table() -> None:
    for profile in GUESTS:
        texts = {
            key.rpartition("/")[2]: value.removeprefix("string:").replace("<EMPTY>", "")
            for key, value in machine(profile).extradata.items()
            if "/Dmi" in key
        }
        assert texts["DmiBIOSVendor"] == texts["DmiSystemSerial"] == f"tails-profile:{profile}"
        assert texts["DmiChassisAssetTag"] == "tails-profiles-settings:1"
        strings = {key: text for key, text in texts.items() if key in facts.DMI_STRINGS}
        assert set(texts) <= facts.DMI_STRINGS | facts.DMI_NUMBERS
        assert len("".join(strings.values())) + len(texts["DmiSystemVendor"]) <= facts.DMI_BYTES


@pytest.mark.parametrize("profile", GUESTS)
def test_virtualbox_runs_as_the_guests_user_and_can_gain_nothing(profile: Profile) -> None:
    words = vboxmanage.manager(profile, Path("/run/x"))
    assert f"--reuid={guest(profile).user}" in words
    assert {"--no-new-privs", "--bounding-set=-all", "--reset-env"} <= set(words)
    assert (words[:2] == ("/usr/bin/unshare", "--net")) == (profile is Profile.APP_GUEST)


def test_each_level_of_trust_has_a_virtualbox_of_its_own() -> None:
    places = {
        each.profile: vboxmanage.home(each.profile, Path("/run/x"))
        for each in plan(i2p=True).guests
    }
    assert places[Profile.TOR_GUEST] == places[Profile.I2P_GUEST] != places[Profile.APP_GUEST]
    longest = vboxmanage.socket_id(Path("/run/" + "x" * 78) / vboxmanage.HOMES[0])
    assert len(f"/tmp/.vbox-{longest}-ipc/ipcd") <= 107


@pytest.mark.parametrize("version", VERSIONS)
def test_hosts_loopback_is_closed_by_what_virtualbox_does_not_forget(version: Version) -> None:
    tor = machine(Profile.TOR_GUEST, version)
    keys = {key: value for key, value in tor.extradata.items() if "LocalhostReachable" in key}
    expected = {"VBoxInternal/Devices/virtio-net/0/LUN#0/Config/LocalhostReachable": "0"}
    # 6.1 does not know the key, and would not start.
    assert keys == (expected if version >= (7, 0) else {})


# ---- reading back


def info(made: Machine, version: Version = vboxmanage.NEWEST) -> dict[str, str]:
    return {**vboxmanage.shown(made, version), "VMState": "poweroff"}


def seen(made: Machine, found: dict[str, str] | None = None, **extradata: str) -> list[str]:
    folders = virtualbox_folders.wanted(made.shares)
    return [
        str(each)
        for each in vboxmanage.differences(
            made,
            Shown(info(made) if found is None else found, {**made.extradata, **extradata}, folders),
            Version(7, 2),
        )
    ]


@pytest.mark.parametrize("profile", GUESTS)
def test_every_flag_is_read_back_or_named_as_not_shown(profile: Profile) -> None:
    made = machine(profile)
    assert seen(made) == []
    wanted = vboxmanage.shown(made, Version(7, 2))
    hidden = [name for name, *_ in made.options if re.sub(r"\d$", "N", name) in vboxmanage.UNSHOWN]
    # Beside them: name, UUID, file, controller (2), drives (4), defaults (3).
    assert len(wanted) == len(made.options) - len(hidden) + 12


@pytest.mark.parametrize("profile", GUESTS)
def test_every_single_value_that_is_not_as_set_is_seen(profile: Profile) -> None:
    made = machine(profile)
    for key in vboxmanage.shown(made, Version(7, 2)):
        broken = info(made)
        broken[key] = "something else"
        assert [line.split()[0] for line in seen(made, broken)] == [key.split()[0]]
        del broken[key]
        assert len(seen(made, broken)) == 1
    for key in made.extradata:
        assert len(seen(made, None, **{key: "something else"})) == 1


def test_what_an_older_one_may_not_show_is_compared_where_it_does() -> None:
    made = machine(Profile.TOR_GUEST)
    older = Version(7, 0)
    found = info(made, older)
    del found["hpet"]
    assert [*vboxmanage.info_differences(made, found, older)] == []
    found["hpet"] = "on"
    assert len([*vboxmanage.info_differences(made, found, older)]) == 1
    # The links are shown by all of them.
    del found["nic1"]
    assert len([*vboxmanage.info_differences(made, found, older)]) == 2


@pytest.mark.parametrize(
    "key",
    [
        "Forwarding(0)", "USBFilterActive1", "CurrentSnapshotName", "SnapshotName",
        "storagecontrollername1",
    ],
)  # fmt: skip
def test_doors_that_somebody_else_made_are_seen(key: str) -> None:
    made = machine(Profile.APP_GUEST)
    text = "\n".join(f'{name}="{value}"' for name, value in {**info(made), key: "x"}.items())
    found = vboxmanage.parse_info(text)
    assert f"{key} is 'x', which nobody asked for" in seen(made, found)


def test_key_of_the_machine_itself_that_nobody_set_is_seen_and_the_front_ends_are_not() -> None:
    made = machine(Profile.APP_GUEST)
    assert seen(made, None, **{"GUI/LastNormalWindowPosition": "1,2,3,4"}) == []
    (line,) = seen(made, None, **{"VBoxInternal2/SharedFoldersEnableSymlinksCreate/x": "1"})
    assert "nobody asked for" in line


@pytest.mark.parametrize("state", ["running", "saved", "paused", "starting", None])
def test_machine_that_does_not_rest_is_seen(state: str | None) -> None:
    made = machine(Profile.TOR_GUEST)
    found: dict[str, Any] = {**info(made), "VMState": state}
    assert seen(made, {key: value for key, value in found.items() if value is not None})


def test_lines_of_showvminfo_in_all_their_forms() -> None:
    text = (
        "WARNING: The character device /dev/vboxdrv does not exist.\n"
        "\t Please install the virtualbox-dkms package\n\n"
        'name="a \\"b\\" \\\\c"\nmemory=320\n"IDE-0-0"="/my images/a, b.iso"\n rec_screen0\n'
        "cpuid=80000002,00000000,6c696174,72702d73,6c69666f,76207365"
        "cpuid=80000003,00000000,00000000,00000000,00000000,00000001"
        'hwvirtex="on"\n'
        'Forwarding(0)="ssh,tcp,,22,,22"\n'
        'VideoMode="720,400,0"@0,0 1\n'
    )
    assert vboxmanage.parse_info(text) == {
        "name": 'a "b" \\c',
        "memory": "320",
        "IDE-0-0": "/my images/a, b.iso",
        "cpuid/80000002": "00000000,6c696174,72702d73,6c69666f,76207365",
        "cpuid/80000003": "00000000,00000000,00000000,00000000,00000001",
        "hwvirtex": "on",
        "Forwarding(0)": "ssh,tcp,,22,,22",
        "VideoMode": "720,400,0",
    }


def test_value_that_pretends_to_be_another_line_is_no_value_at_all() -> None:
    made = machine(Profile.APP_GUEST)
    text = "".join(f'{key}="{value}"\n' for key, value in info(made).items())
    lied = text.replace('nic2="intnet"', 'nic2="nat"') + 'description="\nnic2="intnet"\n"\n'
    assert len(seen(made, vboxmanage.parse_info(lied))) == 1
    extradata = vboxmanage.parse_extradata(
        "Key: a, Value: x\nKey: VBoxInternal/x, Value: 1\nKey: b, Value: \nKey: a, Value: y\nmore\n"
    )
    assert extradata == {"a": "x\ny\nmore", "VBoxInternal/x": "1", "b": ""}


# ---- shared folders

SSH = Choice(Feature.SSH_CLIENT, Path("/home/u/ssh"), writable=True)
SPACE = Space(1, 2, 0, enforced=False, size=1 << 40, free=1 << 39, inodes=0, free_inodes=0)
READ_ONLY = Choice(Feature.PIDGIN, Path("/home/u/purple"), writable=False)
#: As 7.2.22 shows them, in the midst of its answer; recorded in November 2026.
FOLDERS = """\
Shared folders:

Name: 'ssh-client', Host path: '/run/x/shares/app-guest/ssh-client' (machine mapping), writable
Name: 'pidgin', Host path: '/run/x/shares/app-guest/pidgin' (machine mapping), readonly

Recording status:            stopped
"""


def lending(version: Version = vboxmanage.NEWEST) -> Machine:
    made = launch.sharing(plan(), [SSH, READ_ONLY], {SSH.source: SPACE})
    return vboxmanage.machine(made.guests[-1], made, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_folders_are_shared_after_everything_else_and_not_mounted_by_anybody(
    version: Version,
) -> None:
    made = lending(version)
    *before, ssh, pidgin = vboxmanage.create(made, version)
    assert tuple(before) == vboxmanage.create(replace(made, shares=()), version)
    path = "/run/x/shares/app-guest"
    add = (vboxmanage.VBOXMANAGE, "sharedfolder", "add", str(made.uuid))
    assert ssh == (*add, "--name", "ssh-client", "--hostpath", f"{path}/ssh-client")
    assert pidgin == (*add, "--name", "pidgin", "--hostpath", f"{path}/pidgin", "--readonly")
    assert not any("Symlinks" in key for key in made.extradata)


def folder_calls(shown: str) -> list[tuple[str, ...]]:
    """What mends it: the words after ``sharedfolder``."""
    made = lending()
    found = [*vboxmanage.folder_differences(made, virtualbox_folders.parse(shown))]
    calls = vboxmanage.repair(made, found, vboxmanage.NEWEST)
    assert calls is not None
    return [call[2:] for call in calls if call[1] == "sharedfolder"]


def test_what_is_shown_as_it_was_shared_is_left() -> None:
    assert folder_calls(FOLDERS) == []
    # And not because nothing is compared.
    assert len(folder_calls("")) == 2


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ("ssh-client' (machine mapping), writable", "ssh-client' (machine mapping), readonly"),
        ("pidgin' (machine mapping), readonly", "pidgin' (machine mapping), writable"),
        ("/run/x/shares/app-guest/ssh-client'", "/etc'"),
        (", writable", ", writable, auto-mount"),
        (", writable", ", writable, auto-mount, mount-point: '/x'"),
        (", writable", ", writable, symlink-policy: any"),
        # A warning that nobody knows yet.
        (", readonly", ", readonly, more"),
    ],
)
def test_folder_that_is_another_is_removed_and_shared_again(was: str, now: str) -> None:
    assert FOLDERS.count(was) == 1
    calls = folder_calls(FOLDERS.replace(was, now))
    name = calls[0][3]
    assert [call[0] for call in calls] == ["remove", "add"]
    assert [call[3] for call in calls] == [name, name]
    assert calls[0][1] == calls[1][1] != "global"


def test_folder_that_is_gone_is_shared_again() -> None:
    line = FOLDERS.splitlines(keepends=True)[2]
    (call,) = folder_calls(FOLDERS.replace(line, ""))
    assert call[0] == "add"


@pytest.mark.parametrize(
    ("kind", "where", "more"),
    [("machine", None, ()), ("global", "global", ()), ("transient", None, ("--transient",))],
)
def test_folder_that_nobody_asked_for_is_named_and_removed(
    kind: str, where: str | None, more: tuple[str, ...]
) -> None:
    made = lending()
    line = f"Name: 'x', Host path: '/etc' ({kind} mapping), writable\n"
    shown = FOLDERS.replace("\n\nName", f"\n\n{line}Name")
    (found,) = vboxmanage.folder_differences(made, virtualbox_folders.parse(shown))
    assert "shared folder x" in str(found)
    assert "/etc" in str(found)
    assert "nobody asked for" in str(found)
    assert vboxmanage.foreign_folders([found]) == (found,)
    assert folder_calls(shown) == [("remove", where or str(made.uuid), "--name", "x", *more)]


def test_second_folder_of_one_name_hides_nothing() -> None:
    line = "Name: 'ssh-client', Host path: '/etc' (global mapping), writable\n"
    shown = FOLDERS.replace("\n\nName", f"\n\n{line}Name")
    calls = folder_calls(shown)
    assert [call[:2] for call in calls] == [
        ("remove", "global"), ("remove", str(lending().uuid)), ("add", str(lending().uuid)),
    ]  # fmt: skip


def test_links_in_a_folder_switched_on_by_its_key_are_seen() -> None:
    key = "VBoxInternal2/SharedFoldersEnableSymlinksCreate/ssh-client"
    (line,) = seen(lending(), None, **{key: "1"})
    assert key in line


def test_unit_may_write_where_the_guest_may() -> None:
    made = launch.sharing(plan(replace(FACTS, systemd=True)), [SSH, READ_ONLY], {SSH.source: SPACE})
    words = vboxmanage.start_command(made.guests[-1], made, None).argv
    (paths,) = [word for word in words if word.startswith("--property=ReadWritePaths=")]
    assert paths.endswith(" /tmp /run/x/shares/app-guest/ssh-client")


def test_lists_of_machines() -> None:
    text = (
        '"tor-guest" {7461696c-732d-4000-8000-746f72000001}\n'
        '"<inaccessible>" {7461696c-732d-4000-8000-617070000001}\n'
        '"a\nb" {7461696c-732d-4000-8000-693270000001}\n'
        "no machine\n"
    )
    assert vboxmanage.parse_list(text) == {
        UUID("7461696c-732d-4000-8000-746f72000001"): "tor-guest",
        UUID("7461696c-732d-4000-8000-617070000001"): vboxmanage.INACCESSIBLE,
    }


def test_script_for_sed_takes_every_character() -> None:
    made = replace(machine(Profile.TOR_GUEST), extradata={"a|b": "<EMPTY>&'\"\\x"})
    script = vboxmanage.create(made, Version(7, 2))[1][2]
    _, what, into, end = re.split(r"(?<!\\)\|", script)
    assert (what, end) == ("<Hardware>", "")
    plain = re.sub(r"\\(.)", r"\1", into)
    assert plain.startswith('<ExtraData><ExtraDataItem name="a|b" value=')
    assert "&lt;EMPTY&gt;&amp;" in plain


def test_facts_of_the_plan_reach_the_machine() -> None:
    assert FACTS.kvm
    assert machine(Profile.TOR_GUEST).media[0].path == Path("/image.iso")


if __name__ == "__main__":
    for each in CASES:
        golden_file(*each).write_text(golden(*each))
