# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit's decisions: whatever is changed in a machine of the recipe is named, wherever it is.

What the real programs say of machines is in tests/virtualbox, tests/lab and tests/vm.
"""

import contextlib
import copy
import string
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tails_profiles import (
    audit,
    audit_libvirt,
    audit_qemu,
    audit_virtualbox,
    auditor,
    libvirt,
    qemu,
    recipe,
    vboxmanage,
    virtualbox,
    virtualbox_machine,
)
from tails_profiles.audit import Deviation, Opens
from tails_profiles.errors import AuditError
from tails_profiles.launch import CLOCK_RANGE, MACHINES
from tails_profiles.profile import GUESTS, SETTINGS_TAG, Profile, token
from tests.unit.test_launch import FACTS, plan

TOR, APP = Profile.TOR_GUEST, Profile.APP_GUEST
BANNER = """\
WARNING: The character device /dev/vboxdrv does not exist.
\t Please install the virtualbox-dkms package and the appropriate
\t headers, most likely linux-headers-generic.

\t You will not be able to start VMs until this problem is fixed.
"""


# ---- the report


def test_report_has_the_worst_first_and_each_once() -> None:
    rows = [Deviation(each.value, "a", "b", each, "c.") for each in reversed(Opens)]
    report = audit.report("vm", "qemu", TOR, [*rows, *rows])
    assert [each.opens for each in report.deviations] == [*Opens]
    assert next(iter(report.lines())) == "network: network is a, not b. c."


def test_report_without_a_deviation_says_so() -> None:
    assert [*audit.report("vm", "qemu", TOR, []).lines()] == [
        "vm is tor-guest as the recipe has it"
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no field carries a token"),
        ({"bios_vendor": "tails-profile:tor-gest"}, "bios_vendor: "),
        ({"bios_vendor": token(TOR), "product_serial": token(APP)}, "two tokens"),
        ({"chassis_asset_tag": SETTINGS_TAG}, "it promises settings without a token"),
    ],
)
def test_machine_whose_guest_is_not_clear_needs_a_profile(
    fields: Mapping[str, str], reason: str
) -> None:
    every = dict.fromkeys(("bios_vendor", "product_serial", "chassis_asset_tag"), "") | dict(fields)
    with pytest.raises(AuditError, match=reason):
        audit.profile_of(every, None)
    assert audit.profile_of(every, APP) is APP


def test_xml_with_a_document_type_is_refused() -> None:
    with pytest.raises(AuditError, match="document type"):
        audit.parse_xml('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "it")
    with pytest.raises(AuditError, match="it is no XML"):
        audit.parse_xml("<a>", "it")


# ---- libvirt


def domain(profile: Profile, firmware: str = "bios") -> ElementTree.Element:
    """The recipe with the number that it asks for."""
    lines = libvirt.domain(profile, "vm", firmware, MACHINES[profile], round(CLOCK_RANGE[profile]))
    made = ElementTree.fromstring("\n".join(lines))
    if CLOCK_RANGE[profile]:
        made.find("clock").set("adjustment", "2")  # type: ignore[union-attr]
    return made


def libvirt_settings(made: ElementTree.Element, profile: Profile) -> list[str]:
    text = ElementTree.tostring(made, encoding="unicode")
    return [each.setting for each in audit_libvirt.audit("vm", [text], profile).deviations]


#: What may be another, and what nobody sees.
FREE = {"name", "source", "type"}


def changes(made: ElementTree.Element) -> Iterator[tuple[str, ElementTree.Element]]:
    """A copy with each attribute and text of the domain changed, and with each element gone."""
    for number, element in enumerate(made.iter()):
        for name in element.attrib:
            changed = copy.deepcopy(made)
            [*changed.iter()][number].set(name, "another")
            yield f"{element.tag}@{name}", changed
        if (element.text or "").strip():
            changed = copy.deepcopy(made)
            [*changed.iter()][number].text = "another"
            yield element.tag, changed
        for position in range(len(element)):
            changed = copy.deepcopy(made)
            parent = [*changed.iter()][number]
            gone = parent[position]
            parent.remove(gone)
            yield f"without {gone.tag}", changed


@pytest.mark.parametrize("profile", GUESTS)
def test_whatever_is_changed_in_a_domain_is_named(profile: Profile) -> None:
    made = domain(profile)
    assert libvirt_settings(made, profile) == []
    tried = 0
    for what, changed in changes(made):
        named = libvirt_settings(changed, profile)
        if what in {"name", "source@file", "without name"}:
            continue
        if what == "without interface" and profile is APP and named == []:
            # The second one, which app-guest may do without.
            assert len(changed.findall("devices/interface")) == 1
            continue
        assert named, what
        tried += 1
    assert tried > 100


@pytest.mark.parametrize("profile", GUESTS)
def test_whatever_is_added_to_a_domain_is_named(profile: Profile) -> None:
    made = domain(profile)
    places = [*made.iter()]
    for number, place in enumerate(places):
        for tag in ("interface", "unheardof"):
            changed = copy.deepcopy(made)
            ElementTree.SubElement([*changed.iter()][number], tag, {"type": "user"})
            assert len(libvirt_settings(changed, profile)) == 1, (place.tag, tag)
        changed = copy.deepcopy(made)
        [*changed.iter()][number].set("unheardof", "1")
        assert [name.rpartition("@")[2] for name in libvirt_settings(changed, profile)] == [
            "unheardof"
        ]


@pytest.mark.parametrize("tag", libvirt.NEVER)
def test_device_that_no_guest_has_is_named_with_its_own_words(tag: str) -> None:
    made = domain(APP)
    ElementTree.SubElement(made.find("devices"), tag)
    text = ElementTree.tostring(made, encoding="unicode")
    (found,) = audit_libvirt.audit("vm", [text], None).deviations
    assert found.leak == libvirt.NEVER[tag]
    assert found.opens is (Opens.NETWORK if tag == "interface" else Opens.CHANNEL)


@pytest.mark.parametrize(("unit", "amount"), [("KiB", 2 << 20), ("MiB", 2048), ("GiB", 2)])
def test_memory_is_compared_in_any_unit(unit: str, amount: int) -> None:
    made = domain(APP)
    memory = made.find("memory")
    assert memory is not None
    memory.set("unit", unit)
    memory.text = str(amount)
    assert libvirt_settings(made, APP) == []
    memory.text = str(amount + 1)
    assert libvirt_settings(made, APP) == ["memory"]


@pytest.mark.parametrize("text", ["<network/>", "no XML", ""])
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(AuditError):
        audit_libvirt.audit("vm", [text], APP)


# ---- QEMU


def argv(profile: Profile, firmware: str = "bios") -> list[str]:
    """The recipe's words."""
    options = qemu.by_hand(profile, MACHINES[profile], recipe.qemu_firmware(firmware))
    return [
        "/usr/bin/qemu-system-x86_64", "-name", "vm",
        *(word for each in options for word in each.words),
        "-rtc", "base=2026-01-01T00:00:00,clock=vm",
    ]  # fmt: skip


def qemu_audit(words: list[str], *, root: bool = False, shared: bool = False) -> audit.Report:
    return audit_qemu.audit("vm", audit_qemu.Process(tuple(words), root, shared), None)


def qemu_settings(words: list[str]) -> list[str]:
    return [each.setting for each in qemu_audit(words).deviations]


@pytest.mark.parametrize("firmware", recipe.FIRMWARES)
@pytest.mark.parametrize("profile", GUESTS)
def test_process_of_the_recipe_has_nothing_named(profile: Profile, firmware: str) -> None:
    assert qemu_settings(argv(profile, firmware)) == []
    # With and without this host's paths.
    moved = [word.replace("links/", "/srv/a,,b/").replace("IMAGE.iso", "/live.iso")
             for word in argv(profile, firmware)]  # fmt: skip
    assert qemu_settings(moved) == []


@pytest.mark.parametrize("kvm", [True, False])
@pytest.mark.parametrize("profile", GUESTS)
def test_machine_that_host_start_runs_has_nothing_named(profile: Profile, kvm: bool) -> None:
    made = plan(replace(FACTS, kvm=kvm), i2p=True)
    guest = next(each for each in made.guests if each.profile is profile)
    assert qemu_settings([*qemu.qemu_argv(guest, made)]) == []


def words_of(option: str) -> Iterator[str]:
    """Each part of an option's value changed, gone, or with one more."""
    parts = option.split(",")
    for number, part in enumerate(parts):
        name, sign, _ = part.partition("=")
        yield ",".join([*parts[:number], f"{name}{sign}another", *parts[number + 1 :]])
        if len(parts) > 1:
            yield ",".join([*parts[:number], *parts[number + 1 :]])
    yield f"{option},unheardof=1"


@pytest.mark.parametrize("profile", GUESTS)
def test_whatever_is_changed_in_the_words_of_a_process_is_named(profile: Profile) -> None:
    words = argv(profile)
    tried = 0
    for number, word in enumerate(words):
        if number < 3 or word.startswith("-") or "path=" in word or "filename=" in word:
            continue
        if words[number - 1] in {"-accel", "-qmp", "-vnc", "-rtc"}:
            continue
        for other in words_of(word):
            named = qemu_settings([*words[:number], other, *words[number + 1 :]])
            assert named, f"{words[number - 1]} {other}"
            tried += 1
    assert tried > 150


@pytest.mark.parametrize("profile", GUESTS)
def test_whatever_option_is_gone_is_named(profile: Profile) -> None:
    words = argv(profile)
    for number, word in enumerate(words):
        if not word.startswith("-") or word in {"-name", "-vnc"}:
            continue
        end = number + (1 if number + 1 < len(words) and words[number + 1].startswith("-") else 2)
        if profile is APP and "i2p" in words[number + 1]:
            continue
        assert qemu_settings([*words[:number], *words[end:]]), word


MORE = [
    (["-nic", "user"], "network", "interface"),
    (["-netdev", "tap,id=x"], "network", "interface"),
    (["-device", "e1000,netdev=x"], "network", "interface"),
    (["-virtfs", "local,path=/srv,mount_tag=t,security_model=none"], "channel", "filesystem"),
    (["-device", "virtio-9p-pci,fsdev=f,mount_tag=t"], "channel", "filesystem"),
    (["-device", "vhost-user-fs-pci,chardev=c,tag=t"], "channel", "filesystem"),
    (["-device", "usb-host,vendorid=1"], "channel", "hostdev"),
    (["-device", "vfio-pci,host=01:00.0"], "channel", "hostdev"),
    (["-device", "usb-redir,chardev=c"], "channel", "redirdev"),
    (["-device", "vhost-vsock-pci,guest-cid=3"], "channel", "vsock"),
    (["-device", "virtserialport,chardev=c"], "channel", "channel"),
    (["-spice", "port=5900"], "channel", "channel"),
    (["-device", "ivshmem-plain,memdev=m"], "channel", "shmem"),
    (["-audiodev", "pa,id=a"], "channel", "sound"),
    (["-device", "intel-hda"], "channel", "sound"),
    (["-device", "isa-serial,chardev=c"], "channel", "serial"),
    (["-device", "tpm-crb,tpmdev=t"], "channel", "tpm"),
    (["-drive", "file=/d.img"], "channel", "disk"),
    (["/d.img"], "channel", "disk"),
    (["-device", "virtio-balloon-pci"], "unknown", ""),
    (["-device", "pvpanic"], "unknown", ""),
    (["-nographic"], "unknown", ""),
    (["--s"], "unknown", ""),
    (["-unheardof", "1"], "unknown", ""),
]


@pytest.mark.parametrize(("more", "opens", "never"), MORE, ids=[" ".join(row[0]) for row in MORE])
def test_one_option_too_many_is_named_alone(more: list[str], opens: str, never: str) -> None:
    (found,) = qemu_audit([*argv(APP), *more]).deviations
    assert found.opens == opens
    assert found.leak == (libvirt.NEVER[never] if never else audit.UNKNOWN)


@pytest.mark.parametrize(
    ("old", "new", "setting"),
    [
        ("user,id=uplink", "user,hostfwd=tcp::22-:22,id=uplink", "-netdev hostfwd"),
        ("user,id=uplink", "user,guestfwd=tcp:10.0.2.9:1-cmd:sh,id=uplink", "-netdev guestfwd"),
        ("user,id=uplink", "user,smb=/srv,id=uplink", "-netdev smb"),
        ("user,id=uplink", "user,tftp=/srv,id=uplink", "-netdev tftp"),
        ("user,id=uplink,ipv6=off", "bridge,id=uplink,br=br0", "-netdev"),
        ("tails-tor.gateway", "tails-i2p.gateway", "-netdev local.path"),
        ("virtio-net-pci,netdev=uplink", "e1000,netdev=uplink", "-device"),
        ("base=2026-01-01T00:00:00,clock=vm", "base=utc,clock=vm", "-rtc base"),
        ("base=2026-01-01T00:00:00,clock=vm", "base=2026-01-01T00:00:00,clock=host", "-rtc clock"),
        ("Nehalem,", "host,", "-cpu"),
        ("kvm=off", "kvm=on", "-cpu kvm"),
        ("read-only=on", "read-only=off", "-blockdev read-only"),
        ("unix:links/tor-guest.screen,share=ignore", ":1,share=ignore", "-vnc"),
        ("unix:links/tor-guest.qmp,server=on", "tcp::4444,server=on", "-qmp"),
    ],
)
def test_changed_word_is_named_alone(old: str, new: str, setting: str) -> None:
    words = [word.replace(old, new) for word in argv(TOR)]
    assert words != argv(TOR)
    assert qemu_settings(words) == [setting]


def test_what_is_kvms_alone_means_nothing_without_it() -> None:
    bare = [word.replace(qemu.CPU_KVM, "") for word in argv(APP)]
    assert len(qemu_settings(bare)) == 5
    assert qemu_settings(["tcg" if word == "kvm" else word for word in bare]) == []


def test_who_runs_it_counts() -> None:
    for profile, named in ((APP, ["network namespace", "user"]), (TOR, ["user"])):
        found = qemu_audit(argv(profile), root=True, shared=True).deviations
        assert [each.setting for each in found] == named


def test_settings_disk_is_taken_exactly_where_it_is_promised() -> None:
    disk = [*qemu.settings_disk("/s.iso").words]
    assert qemu_settings([*argv(APP), *disk]) == [
        f"-blockdev {disk[1]}", f"-device {disk[3]}"
    ]  # fmt: skip
    promised = [word.replace(",asset=,sku=", f",asset={SETTINGS_TAG},sku=") for word in argv(APP)]
    assert qemu_settings([*promised, *disk]) == []
    assert len(qemu_settings(promised)) == 2
    writable = [word.replace("read-only=on", "read-only=off") for word in disk]
    assert qemu_settings([*promised, *writable]) == ["-blockdev read-only"]


def test_gateway_says_how_far_it_is_on_a_socket_alone() -> None:
    def words(profile: Profile, backend: str) -> list[str]:
        plain = argv(profile)
        plain[plain.index("-serial") + 1] = "chardev:serial"
        return [*plain, "-chardev", f"{backend},id=serial"]

    assert qemu_settings(words(TOR, "socket,path=/run/s,server=on")) == []
    for backend in ("file,path=/s", "socket,host=0.0.0.0,port=4444", "pty"):
        assert qemu_settings(words(TOR, backend)) == [f"-chardev {backend},id=serial"]
    assert len(qemu_settings(words(APP, "socket,path=/run/s,server=on"))) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-name", "a"], {"a"}),
        (["-name", "guest=a,,b,debug-threads=on", "-uuid", "u"], {"a,b", "u"}),
        (["-name", "a,process=b"], {"a"}),
        ([], set()),
    ],
)
def test_names_of_a_process(words: list[str], expected: set[str]) -> None:
    assert audit_qemu.names(["qemu-system-x86_64", *words]) == expected


ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(
            ["-device", "-netdev", "-smbios", "-S", "-m", "--s", "-nic", "type=1,serial="]
        ),
        st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])),
    )
)


@given(ARGUMENTS)
def test_no_command_line_breaks_the_audit_or_hides_in_it(more: list[str]) -> None:
    audit_qemu.names(["qemu-system-x86_64", *more])
    audit_qemu.audit("vm", audit_qemu.Process(("qemu", *more), False, False), TOR)
    # Behind a whole machine, whatever is there is named, but for what is harmless and nothing.
    harmless = {
        "-S",
        "-name",
        "-daemonize",
        "-enable-kvm",
        "-no-reboot",
        "-no-shutdown",
        "-pidfile",
    }
    if more and not harmless & {each.replace("--", "-", 1) for each in more}:
        words = [*argv(APP), *more]
        found = audit_qemu.audit("vm", audit_qemu.Process(tuple(words), False, False), APP)
        assert found.deviations


@given(st.text())
def test_no_text_breaks_the_audit_of_a_domain(text: str) -> None:
    for whole in (text, f"<domain>{text}</domain>", f"<domain><devices>{text}</devices></domain>"):
        with contextlib.suppress(AuditError):
            assert audit_libvirt.audit("vm", [whole, whole], TOR).deviations


# ---- VirtualBox

WORDS = st.text(st.characters(blacklist_characters="\0\r", blacklist_categories=["Cs"]))
KEYS = st.one_of(
    st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,20}", fullmatch=True),
    st.from_regex(r'"[A-Za-z][A-Za-z0-9 _-]{0,20}"', fullmatch=True),
)


@given(st.dictionaries(KEYS, WORDS), st.booleans())
def test_showvminfo_is_read_back_as_it_was_written(values: dict[str, str], banner: bool) -> None:
    lines = [
        '{}="{}"'.format(key, value.replace("\\", "\\\\").replace('"', '\\"'))
        for key, value in values.items()
    ]
    text = (BANNER if banner else "") + "".join(f"{line}\n" for line in lines)
    expected: dict[str, str] = {}
    for key, value in values.items():
        name = key.strip('"')
        # Both values of a key that is there twice.
        expected[name] = f"{expected[name]}\n{value}" if name in expected else value
    assert vboxmanage.parse_info(text) == expected


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    vboxmanage.parse_info(text)
    virtualbox_machine.parse_properties(text)


def test_showvminfo_as_7_2_22_writes_it() -> None:
    # Recorded in November 2026: a CPUID leaf takes the line's end away, one line is no setting, and
    # a description may go on.
    text = """\
name="vm"
memory=320
cpuid=80000002,00000000,6c696174,72702d73,6c69666f,76207365hwvirtex="on"
nic1="nat"
description="x\\"
nic3="none"
"
nic3="nat"
 rec_screen0
"IDE-0-0"="/tmp/a b.iso"
SharedFolderNameMachineMapping1="t"
vrdeproperty[TCP/Address]=<not set>
VideoMode="720,400,0"@0,0 1
"""
    found = vboxmanage.parse_info(BANNER + text)
    assert found["nic3"] == "nat"
    assert found["memory"] == "320"
    assert found["IDE-0-0"] == "/tmp/a b.iso"
    assert found["vrdeproperty[TCP/Address]"] == "<not set>"
    assert found["VideoMode"] == "720,400,0"
    assert "rec_screen0" not in found


@pytest.mark.parametrize(
    "text",
    [
        "/VirtualBox/HostInfo/VBoxVer = '7.2.22' @ 2026-11-25T07:00:00\n",
        "Name: /VirtualBox/HostInfo/VBoxVer, value: 7.2.22, timestamp: 1, flags: \n",
    ],
)
def test_guest_properties_of_both_forms(text: str) -> None:
    assert virtualbox_machine.parse_properties(text) == {"/VirtualBox/HostInfo/VBoxVer"}


def settings_file(hardware: str, extradata: Mapping[str, str] | None = None) -> str:
    items = "".join(
        f'<ExtraDataItem name="{key}" value="{value}"/>' for key, value in (extradata or {}).items()
    ).replace("<EMPTY>", "&lt;EMPTY&gt;")
    return (
        '<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux"><Machine name="vm">'
        f"<ExtraData>{items}</ExtraData><Hardware>{hardware}</Hardware></Machine></VirtualBox>"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<a/>",
        "<VirtualBox/>",
        '<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19"/>',
    ],
)
def test_settings_file_that_holds_no_machine_is_refused(text: str) -> None:
    with pytest.raises(AuditError, match=r"settings file '/vm\.vbox'"):
        virtualbox_machine.parse({"CfgFile": "/vm.vbox"}, text, "", "")


@pytest.mark.parametrize("profile", GUESTS)
def test_every_flag_of_the_recipe_can_be_read_back(profile: Profile) -> None:
    machine = virtualbox_machine.parse({}, settings_file(""), "", "")
    groups = audit_virtualbox._groups(profile, "bios", promised=True)
    for _, group in groups:
        for flag, _ in (
            *audit_virtualbox._pairs(group.flags),
            *audit_virtualbox._pairs(group.left),
        ):
            name, number = audit_virtualbox._numbered(flag)
            virtualbox_machine.READERS[name](machine, number)


def test_nothing_but_the_recipe_is_in_the_table_of_readers() -> None:
    used = {
        audit_virtualbox._numbered(flag)[0]
        for profile in GUESTS
        for _, group in audit_virtualbox._groups(profile, "bios", promised=True)
        for flags in (group.flags, group.left)
        for flag, _ in audit_virtualbox._pairs(flags)
    }
    # The launcher reads these two back as well; the audit looks at both in its own way.
    assert used | {"bios-system-time-offset", "uart-mode"} == virtualbox_machine.READERS.keys()


def unknown_of(hardware: str, extradata: Mapping[str, str] | None = None) -> list[str]:
    """The settings of a machine with NAT that the audit says it does not know."""
    keys = {virtualbox.dmi_base("bios") + "DmiBIOSVendor": token(TOR)} | dict(extradata or {})
    machine = virtualbox_machine.parse({"nic1": "nat"}, settings_file(hardware, keys), "", "")
    return [
        each.setting
        for each in audit_virtualbox.audit("vm", machine, None).deviations
        if each.opens is Opens.UNKNOWN
    ]


@given(
    st.text(string.ascii_letters, min_size=1, max_size=12).map(lambda name: f"X{name}"),
    st.text(string.ascii_letters, min_size=1, max_size=12),
)
def test_element_or_attribute_that_nobody_knows_is_named(element: str, name: str) -> None:
    assert unknown_of("") == []
    assert unknown_of(f"<{element}/>") == [f"{element} in the settings file"]
    assert unknown_of(f'<{element} {name}="1"/>') == [f"{element}@{name} in the settings file"]
    adapter = '<Network><Adapter slot="0" enabled="true">{}</Adapter></Network>'
    assert unknown_of(adapter.format(f"<{element}/>")) == [
        f"Network/Adapter[0]/{element} in the settings file"
    ]


@pytest.mark.parametrize(
    "key",
    ["VBoxInternal/Devices/x/0/Config/y", "VBoxInternal2/x", "VBoxInternal/PDM/Devices/x/Path"],
)
def test_key_that_nobody_knows_is_named_whoever_has_it(key: str) -> None:
    assert unknown_of("", {key: "1"}) == [key]
    assert unknown_of("", {"GUI/Fullscreen": "true", "tails-profiles/guest": "x"}) == []
    machine = virtualbox_machine.parse({}, settings_file(""), f"Key: {key}, Value: 1\n", "")
    named = [each.setting for each in audit_virtualbox.audit("vm", machine, TOR).deviations]
    assert key in named


RECORDS = Path(__file__).parents[1] / "data/virtualbox"


def recorded(
    profile: Profile, *, info: Mapping[str, str] | None = None, properties: str = "",
    extradata: str = "", old: str = "", new: str = "", wanted: Profile | None = None,
) -> list[str]:  # fmt: skip
    """What is named of a machine that the real VirtualBox made from the recipe.

    ``info`` replaces values of showvminfo, ``new`` replaces ``old`` in the settings file.
    """
    said = vboxmanage.parse_info(BANNER + (RECORDS / f"{profile}.info").read_text())
    text = (RECORDS / f"{profile}.vbox").read_text()
    assert old in text
    machine = virtualbox_machine.parse(
        {**said, **(info or {})}, text.replace(old, new, 1), extradata, properties
    )
    return [each.setting for each in audit_virtualbox.audit("vm", machine, wanted).deviations]


LENT = {
    "name": "ssh-client", "hostPath": "/run/x/shares/app-guest/ssh-client", "writable": "true",
    "autoMount": "false",
}  # fmt: skip


def with_folder(profile: Profile, wanted: Profile | None, mark: str, **change: str) -> list[str]:
    attributes = " ".join(f'{key}="{value}"' for key, value in {**LENT, **change}.items())
    text = f"<SharedFolders><SharedFolder {attributes}/></SharedFolders>"
    extradata = f"Key: tails-profiles/guest, Value: {mark}\n" if mark else ""
    return recorded(profile, extradata=extradata, wanted=wanted, old="<RTC ", new=f"{text}<RTC ")


@pytest.mark.parametrize("access", ["true", "false"])
def test_folder_that_the_launcher_lends_is_not_named_in_its_machine(access: str) -> None:
    assert with_folder(APP, None, "app-guest", writable=access) == []
    # Nor in another one, once somebody has said that it is to be this guest.
    assert with_folder(APP, APP, "", hostPath="/home/u/keys", writable=access) == []


@pytest.mark.parametrize(
    ("profile", "wanted", "mark", "change"),
    [
        (APP, None, "", {}),
        (APP, None, "tor-guest", {}),
        (APP, None, "app-guest", {"hostPath": "/home/u/keys"}),
        (APP, None, "app-guest", {"hostPath": "/run/x/shares/tor-guest/ssh-client"}),
        (APP, APP, "app-guest", {"name": "x"}),
        (APP, APP, "app-guest", {"name": "tor-data"}),
        # Of a feature that is refused, everywhere or here.
        (APP, APP, "app-guest", {"name": "dotfiles"}),
        (APP, APP, "app-guest", {"name": "gnupg"}),
        (APP, APP, "app-guest", {"autoMount": "true"}),
        (APP, APP, "app-guest", {"symlinkPolicy": "any"}),
        (TOR, TOR, "tor-guest", {}),
        (TOR, TOR, "tor-guest", {"name": "tor-data", "writable": "false"}),
    ],
)
def test_every_other_folder_is_named(
    profile: Profile, wanted: Profile | None, mark: str, change: dict[str, str]
) -> None:
    name = change.get("name", "ssh-client")
    assert with_folder(profile, wanted, mark, **change) == [f"shared folder {name!r}"]


@pytest.mark.parametrize("profile", GUESTS)
def test_recorded_machine_has_nothing_named(profile: Profile) -> None:
    assert recorded(profile) == []


@pytest.mark.parametrize(
    ("key", "value", "setting"),
    [
        ("nic1", "bridged", "--nic1"),
        ("nic3", "nat", "--nic3"),
        ("nic17", "nat", "--nic17"),
        ("cableconnected1", "on", "--cable-connected1"),
        ("clipboard", "bidirectional", "--clipboard-mode"),
        ("usb", "on", "--usb-ohci"),
        ("vrde", "on", "--vrde"),
        ("uart1", "0x03f8,4", "--uart1"),
        ("uart3", "0x03f8,4", "--uart3"),
        ("lpt2", "0x0378,7", "--lpt2"),
        # These this VirtualBox has no way to switch on.
        ("pagefusion", "on", "--page-fusion"),
        ("tracing-enabled", "on", "--tracing-enabled"),
        ("tracing-allow-vm-access", "on", "--tracing-allow-vm-access"),
        ("autostart-enabled", "on", "--autostart-enabled"),
        ("iommu", "intel", "--iommu"),
    ],
)
def test_setting_of_now_is_named(key: str, value: str, setting: str) -> None:
    assert recorded(TOR, info={key: value}) == [setting]


def test_keys_of_the_other_firmware_carry_nothing() -> None:
    with pytest.raises(AuditError, match="no field carries a token"):
        recorded(TOR, info={"firmware": "EFI"})


def test_what_an_answer_leaves_out_is_named() -> None:
    said = vboxmanage.parse_info((RECORDS / "tor-guest.info").read_text())
    text = (RECORDS / "tor-guest.vbox").read_text()
    for key in ("vrde", "nic1", "boot2", "hpet", "rtcuseutc", "biossystemtimeoffset"):
        less = {name: value for name, value in said.items() if name != key}
        machine = virtualbox_machine.parse(less, text, "", "")
        (found,) = audit_virtualbox.audit("vm", machine, None).deviations
        assert found.found == "not shown"


def test_gateway_that_runs_may_be_plugged_in() -> None:
    now = {"VMState": "running", "cableconnected1": "on"}
    assert recorded(TOR, info=now) == []
    assert recorded(TOR, info=now | {"VMState": "saved"}) == ["--cable-connected1"]
    # Its other link stays plugged in.
    assert recorded(TOR, info=now | {"cableconnected2": "off"}) == ["--cable-connected2"]


def test_gateway_says_how_far_it_is_on_a_socket_of_virtualbox() -> None:
    for mode, named in (
        ("server,/run/s", []),
        ("file,/s", ["--uart1"]),
        ("tcpserver,1", ["--uart1"]),
    ):
        port = {"uart1": "0x03f8,4", "uartmode1": mode}
        assert recorded(TOR, info=port) == named
        assert recorded(APP, info=port) == ["--uart1"]


def test_folder_until_power_off_is_named() -> None:
    now = {
        "SharedFolderNameTransientMapping1": "t",
        "SharedFolderPathTransientMapping1": "/srv",
    }
    assert recorded(APP, info=now) == ["shared folder 't'"]


@pytest.mark.parametrize(
    ("old", "new", "settings"),
    [
        ('type="PIIX4"', 'type="AHCI"', ["storage", "storage controller 'IDE'"]),
        ('type="DVD"', 'type="Floppy"', ["IDE port 0 device 0"]),
        ("<RTC ", "<HostPci><Devices/></HostPci><RTC ", ["HostPci/Devices in the settings file"]),
        (
            "<RTC ",
            "<EmulatedUSB><CardReader enabled='true'/></EmulatedUSB><RTC ",
            ["--usb-card-reader"],
        ),
        (
            "<RTC ",
            "<EmulatedUSB><Webcam/></EmulatedUSB><RTC ",
            ["EmulatedUSB/Webcam in the settings file"],
        ),
        ("</CPU>", "<IBPBOn vmentry='true'/></CPU>", []),
    ],
)
def test_settings_file_is_read_whole(old: str, new: str, settings: list[str]) -> None:
    assert recorded(TOR, old=old, new=new) == settings


def test_drives_of_older_settings_are_looked_at() -> None:
    text = (RECORDS / "tor-guest.vbox").read_text()
    start, end = text.index("<StorageControllers>"), text.index("</StorageControllers>") + 21
    moved = text[:start] + text[end:].replace("</Hardware>", f"</Hardware>{text[start:end]}")
    said = vboxmanage.parse_info((RECORDS / "tor-guest.info").read_text())

    def named(settings: str) -> list[str]:
        machine = virtualbox_machine.parse(said, settings, "", "")
        return [each.setting for each in audit_virtualbox.audit("vm", machine, None).deviations]

    assert named(moved) == []
    assert named(moved.replace('type="DVD"', 'type="HardDisk"')) == ["IDE port 0 device 0"]


def test_properties_that_the_front_end_left_are_named() -> None:
    left = "/VirtualBox/HostInfo/VBoxVer = '7.2.22' @ 2026-11-25\n/VirtualBox/x = 'y' @ 2026\n"
    assert recorded(TOR, properties=left) == ["guest property /VirtualBox/HostInfo/VBoxVer"]


def test_loopback_of_the_host_is_what_the_engine_is_told() -> None:
    item = f'<ExtraDataItem name="{virtualbox.localhost_key(1)}" value="0"/>'
    on = {"localhostReachable": "1"}
    assert recorded(TOR, info=on) == []
    flag, key = "--nat-localhostreachable1", virtualbox.localhost_key(1)
    assert recorded(TOR, info=on, old=item) == [flag, key]
    assert recorded(TOR, info={"localhostReachable": "0"}, old=item) == [key]
    assert recorded(TOR, info=on, old=item, extradata=f"Key: {key}, Value: 1\n") == [flag, key]


# ---- finding a machine


@pytest.mark.parametrize(("found", "expected"), [([], None), (["a"], "a")])
def test_one_machine_or_none(found: list[str], expected: str | None) -> None:
    assert auditor._one("vm", found) == expected


def test_ambiguous_name_is_refused_with_what_to_say() -> None:
    with pytest.raises(AuditError, match="2 machines are named 'vm'") as caught:
        auditor._one("vm", ["a", "b"])
    assert caught.value.hint == "say which: a or b"
