# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the words of a running QEMU with the recipe's options (qemu-system-x86_64(1)).

Also taken, since ``host start`` does so: a machine that starts paused, a settings disk where the
asset tag promises one, and a gateway's first serial port on a socket.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tails_profiles import libvirt, qemu
from tails_profiles.audit import Deviation, Opens, Report, profile_of, report, unknown
from tails_profiles.launch import CLOCK_RANGE, MACHINES
from tails_profiles.profile import PROFILES, SETTINGS_TAG, Profile, token
from tails_profiles.recipe import qemu_firmware

#: Options that have no value.
_ALONE = frozenset(
    (
        "-S", "-daemonize", "-enable-kvm", "-full-screen", "-mem-prealloc", "-no-acpi",
        "-no-fd-bootchk", "-no-hpet", "-no-reboot", "-no-shutdown", "-no-user-config",
        "-nodefaults", "-nographic", "-only-migratable", "-preconfig", "-s", "-singlestep",
        "-snapshot", "-usb", "-win2k-hack",
    )
)  # fmt: skip
#: What the guest does not see and nobody reaches.
_HARMLESS = frozenset(
    ("-S", "-daemonize", "-enable-kvm", "-name", "-no-reboot", "-no-shutdown", "-pidfile")
)
#: What no machine has, by what ``libvirt`` calls it: its words are the leak.
_NEVER: Mapping[str, str] = {
    "disk": r"-(hd[a-d]|cdrom|fda|fdb|drive|blockdev|sd|mtdblock|pflash) .*|-device (virtio-blk"
    r"|scsi-hd|scsi-cd|ide-hd|ide-cd|nvme|floppy|sd-card).*",
    "filesystem": r"-(virtfs|fsdev) .*|-device (virtio-9p|vhost-user-fs).*",
    "hostdev": r"-device (usb-host|vfio-|usb-storage|scsi-generic).*|-usbdevice host.*",
    "redirdev": r"-device usb-redir.*",
    "vsock": r"-device (vhost-vsock|vhost-user-vsock).*",
    "channel": r"-device (virtserialport|virtconsole|virtio-serial).*|-spice .*",
    "shmem": r"-device ivshmem.*",
    "sound": r"-(audiodev|soundhw|audio) .*|-device (intel-hda|ich9-intel-hda|hda-|ac97|sb16|es1370"
    r"|virtio-sound|usb-audio).*",
    "serial": r"-device (isa-serial|pci-serial).*|-serial .*",
    "tpm": r"-tpmdev .*|-device tpm-.*",
    "smartcard": r"-device (ccid|usb-ccid).*",
    "interface": r"-(nic|net|netdev) .*|-device (virtio-net|e1000|rtl8139|pcnet|ne2k|vmxnet|igb"
    r"|i8255|usb-net|tulip).*",
}
#: Values that may be others than the recipe's, by option and name.
_FREE = {
    key: re.compile(pattern, re.DOTALL)
    for key, pattern in {
        ("-accel", ""): "kvm|tcg",
        ("-blockdev", "file.filename"): ".+",
        ("-drive", "file"): r".+\.fd",
        ("-qmp", ""): "unix:.+",
        ("-vnc", ""): "unix:.+|none",
        ("-rtc", "base"): r"\d{4}-\d\d-\d\dT[\d:]+",
    }.items()
}
#: What the recipe has in place of them, in words.
_EXPECTED = {("-rtc", "base"): "a date and time of its own"}
#: Words that mean nothing where there is no KVM.
_KVM_ONLY = {("-cpu", word) for word in qemu.CPU_KVM.strip(",").split(",")}
#: What opens a way into the guest, or one to files of this host, in an uplink's ``-netdev``.
_FORWARDS = frozenset(("bootfile", "guestfwd", "hostfwd", "smb", "smbserver", "tftp"))


@dataclass(frozen=True, slots=True)
class Process:
    """A running QEMU, and who it is on its host."""

    argv: tuple[str, ...]
    is_root: bool
    shares_network: bool


@dataclass(frozen=True, slots=True)
class _Option:
    """One option, and the parts of its value in order: words, or names with what they are set to.

    A name that is there twice has both values.
    """

    name: str
    value: str
    parts: Mapping[str, str | None]

    @property
    def kind(self) -> str:
        """The first word: which device, backend or machine it is."""
        return next((word for word, value in self.parts.items() if value is None), "")

    @property
    def key(self) -> tuple[str, str]:
        """What tells it apart from others of its name."""
        parts = self.parts
        return self.name, {
            "-device": parts.get("netdev") or parts.get("drive") or self.kind,
            "-smbios": parts.get("type"),
            "-netdev": parts.get("id"),
            "-chardev": parts.get("id"),
            "-blockdev": parts.get("node-name"),
            "-drive": parts.get("if"),
            "-global": next(iter(parts), None),
        }.get(self.name) or ""

    def shown(self) -> str:
        """As it stands on the command line."""
        return f"{self.name} {self.value}".rstrip()


def names(argv: Sequence[str]) -> set[str]:
    """What somebody could call a machine: its name and its UUID."""
    found = set()
    for option in _parse(argv):
        if option.name == "-name":
            found.add(option.parts.get("guest") or option.kind)
        elif option.name == "-uuid":
            found.add(option.value)
    return found - {""}


def audit(vm: str, process: Process, wanted: Profile | None) -> Report:
    """Everything that differs from the recipe; ``wanted`` is the guest, where no token says it.

    Raises AuditError where neither does.
    """
    options = list(_parse(process.argv))
    smbios = {each.parts.get("type"): each.parts for each in options if each.name == "-smbios"}
    fields = {
        "bios_vendor": smbios.get("0", {}).get("vendor"),
        "product_serial": smbios.get("1", {}).get("serial"),
        "chassis_asset_tag": smbios.get("3", {}).get("asset"),
    }
    profile = profile_of(fields, wanted)
    recipe = _recipe(profile, options, promised=fields["chassis_asset_tag"] == SETTINGS_TAG)
    emulated = any(each.name == "-accel" and each.kind == "tcg" for each in options)
    comparison = _Comparison(profile, emulated=emulated)
    found = [*comparison.compare(recipe, options), *_runner(profile, process)]
    return report(vm, "qemu", profile, found)


def _parse(argv: Sequence[str]) -> Iterator[_Option]:
    words = iter(argv[1:])
    for word in words:
        name = word.removeprefix("-") if word.startswith("--") else word
        if not word.startswith("-"):
            # A disk.
            yield _Option("-hda", word, {word: None})
        elif name in _ALONE:
            yield _Option(name, "", {})
        else:
            value = next(words, "")
            yield _Option(name, value, _parts(value))


def _parts(value: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    # A doubled comma is one of the text; no word of a command line holds a NUL.
    for part in value.replace(",,", "\0").split(","):
        word, sign, rest = part.replace("\0", ",").partition("=")
        before = found.get(word)
        found[word] = (rest if before is None else f"{before},{rest}") if sign else None
    return found


def _recipe(
    profile: Profile, options: Sequence[_Option], *, promised: bool
) -> list[tuple[_Option, str]]:
    """Every option that there should be, with the leak that it closes."""
    efi = any(option.parts.get("if") == "pflash" for option in options)
    groups = [*qemu.by_hand(profile, MACHINES[profile], qemu_firmware("efi" if efi else "bios"))]
    if promised:
        groups[0] = qemu.identity(token(profile), SETTINGS_TAG, MACHINES[profile].uuid)
        groups.append(qemu.settings_disk(qemu.IMAGE))
    return [
        *((option, group.why) for group in groups for option in _parse(("", *group.words))),
        (_Option("-rtc", "", {"base": "", "clock": "vm"}), qemu.CLOCK),
    ]


class _Comparison:
    """``emulated``: without KVM, so that what is KVM's alone means nothing."""

    def __init__(self, profile: Profile, *, emulated: bool) -> None:
        self._profile = profile
        self._emulated = emulated

    def compare(
        self, recipe: Sequence[tuple[_Option, str]], options: Sequence[_Option]
    ) -> Iterator[Deviation]:
        """Every option that is another, is missing, or is one too many."""
        theirs = defaultdict(list)
        for option in options:
            theirs[option.key].append(option)
        for mine, why in recipe:
            same = theirs.get(mine.key)
            if same:
                yield from self._values(mine, same.pop(0), why)
            elif not self._may_be_missing(mine):
                yield Deviation(mine.shown(), "absent", "there", _opens(mine), why)
        for option in (option for rest in theirs.values() for option in rest):
            if option.name not in _HARMLESS and not self._is_progress(option):
                yield _one_too_many(option)

    def _may_be_missing(self, option: _Option) -> bool:
        link = option.parts.get("netdev") or option.parts.get("id")
        return option.name == "-vnc" or (
            link in PROFILES[self._profile].optional_links and option.name in {"-netdev", "-device"}
        )

    def _is_progress(self, option: _Option) -> bool:
        """The socket on which a gateway says how far it is."""
        return (
            self._profile.is_gateway
            and option.key == ("-chardev", "serial")
            and option.kind == "socket"
            and not {"host", "port", "fd"} & option.parts.keys()
        )

    def _values(self, mine: _Option, found: _Option, why: str) -> Iterator[Deviation]:
        if mine.kind != found.kind and not self._is_free(mine, "", found.kind):
            # Another thing altogether: its details say no more.
            yield Deviation(mine.name, found.value, mine.value, _opens(mine), why)
            return
        for word, value in mine.parts.items():
            there, other = word in found.parts, found.parts.get(word)
            if (there and other == value) or word == mine.kind:
                continue
            if not self._is_free(mine, word, (other or "") if there else None):
                yield Deviation(
                    f"{mine.name} {word}",
                    (other or "there") if there else "absent",
                    _EXPECTED.get((mine.name, word), value or "there"),
                    _opens(mine),
                    why,
                )
        yield from self._more(mine, found, why)

    def _more(self, mine: _Option, found: _Option, why: str) -> Iterator[Deviation]:
        for word, other in found.parts.items():
            if word in mine.parts or word == found.kind or mine.name == "-accel":
                continue
            setting = f"{mine.name} {word}"
            if word in _FORWARDS:
                yield Deviation(setting, other or "there", "absent", _opens(mine), why)
            else:
                yield unknown(setting, other or "there")

    def _is_free(self, option: _Option, word: str, found: str | None) -> bool:
        """Whether a value may be another than the recipe's; None: missing."""
        if self._emulated and (option.name, word) in _KVM_ONLY:
            return True
        if found is None:
            return False
        if option.name == "-netdev" and word.endswith(".path"):
            # Any directory, but the right end of the right link.
            return found.rpartition("/")[2] == (option.parts[word] or "").rpartition("/")[2]
        if option.name == "-serial":
            return self._profile.is_gateway and found == "chardev:serial"
        if (option.name, word, found) == ("-rtc", "base", "utc"):
            return not CLOCK_RANGE[self._profile]
        pattern = _FREE.get((option.name, word))
        return pattern is not None and pattern.fullmatch(found) is not None


def _one_too_many(option: _Option) -> Deviation:
    for name, pattern in _NEVER.items():
        if re.fullmatch(pattern, option.shown(), re.DOTALL):
            return Deviation(option.shown(), "there", "absent", _opens(option), libvirt.NEVER[name])
    return unknown(option.shown(), "there")


def _opens(option: _Option) -> Opens:
    if option.name in {"-netdev", "-nic", "-net"} or "netdev" in option.parts:
        return Opens.NETWORK
    if option.name in {"-smbios", "-uuid", "-cpu", "-smp", "-m", "-rtc", "-machine", "-vga"}:
        return Opens.IDENTITY
    return Opens.CHANNEL


def _runner(profile: Profile, process: Process) -> Iterator[Deviation]:
    if process.is_root:
        yield Deviation("user", "root", "one of its own", Opens.CHANNEL, qemu.OWN_USER)
    if not profile.is_gateway and process.shares_network:
        yield Deviation("network namespace", "this host's", "an empty one", Opens.NETWORK,
                        qemu.NO_NETWORK)  # fmt: skip
