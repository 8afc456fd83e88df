# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe for a virtual machine of somebody's own: what to set so that it becomes a guest.

Complete and minimal: the token, the links with their constant MACs, and what must be off because
it would lead past the gateways or tell the guest about its host. Each line says which leak it
closes. QEMU's options are those that the launcher runs.
"""

import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator

from tails_profiles import libvirt, qemu, virtualbox
from tails_profiles.constants import LINKS, UPLINK
from tails_profiles.errors import ProfilesError
from tails_profiles.launch import CLOCK_RANGE, MACHINES
from tails_profiles.profile import Profile, token
from tails_profiles.virtualbox import Group

HYPERVISORS = ("virtualbox", "qemu", "libvirt")
FIRMWARES = ("bios", "efi")

#: Where Debian's package ovmf has the firmware.
OVMF = "/usr/share/OVMF/OVMF_CODE_4M.fd"
IMAGE = qemu.IMAGE
WIDTH = 100

_NAME = re.compile(r"[^\x00-\x1f\x7f/]{1,80}")


def recipe(profile: Profile, hypervisor: str, vm: str, firmware: str = "bios") -> str:
    """The text for one machine; ``vm`` is its name in the hypervisor.

    Raises ProfilesError for a name that no hypervisor takes.
    """
    _require_name(vm)
    make = {"virtualbox": _virtualbox, "qemu": _qemu, "libvirt": _libvirt}[hypervisor]
    return "\n".join(make(profile, vm, firmware)) + "\n"


def _require_name(vm: str) -> str:
    # Printable: bytes on the command line that are no UTF-8 are not.
    if not _NAME.fullmatch(vm) or vm.startswith("-") or not vm.isprintable():
        raise ProfilesError(
            f"{vm!r} is no name of a virtual machine",
            hint="1 to 80 characters, not starting with a dash, no slash or control character",
        )
    return vm


def overview(profile: Profile, vm: str | None = None, firmware: str = "bios") -> str:
    """The least that makes a machine a guest, in any hypervisor, and where the rest is.

    Raises ProfilesError for a name that no hypervisor takes.
    """
    name = "NAME" if vm is None else shlex.quote(_require_name(vm))
    more = ("" if vm is None else f" --vm {name}") + (
        " --firmware efi" if firmware == "efi" else ""
    )
    carried = token(profile)
    device = virtualbox.FIRMWARE_DEVICES[firmware]
    links = [
        f"  {link.name:6}  {link.mac}  "
        + (f"NAT, {UPLINK.network}" if link.is_uplink else f"internal network {link.segment}")
        + (" (only with i2p-guest)" if link.name == "i2p" else "")
        for link in LINKS[profile]
    ]
    return "\n".join(
        (
            f"The token is {carried}",
            "It goes into the BIOS vendor or the system's serial number; one is enough:",
            "",
            f"  VirtualBox  VBoxManage setextradata {name} \\",
            f"                VBoxInternal/Devices/{device}/0/Config/DmiBIOSVendor {carried}",
            f"  QEMU        -smbios type=0,vendor={carried}",
            "  libvirt     <sysinfo type='smbios'><bios>",
            f"                <entry name='vendor'>{carried}</entry></bios></sysinfo>",
            "              and <smbios mode='sysinfo'/> within <os>",
            "",
            "Network cards, with these MACs and no other card; else it ends in quarantine:",
            "",
            *links,
            "",
            "That starts it. What else must be set, so that the guest learns nothing of this host",
            "and nothing leads past the gateways, is the whole recipe:",
            "",
            *(
                f"  tails-profiles token {profile} --hypervisor {hypervisor}{more}"
                for hypervisor in HYPERVISORS
            ),
            "",
        )
    )


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _wrapped(words: Iterable[str], indent: str, end: str) -> Iterator[str]:
    """Words of a shell, quoted already, on lines of at most WIDTH that end with ``end``.

    An option and its value share a line.
    """
    line = ""
    for word in _pairs(words):
        if line and len(line) + 1 + len(word) + len(end) > WIDTH:
            yield line + end
            line = ""
        line = f"{line} {word}" if line else f"{indent}{word}"
    if line:
        yield line


def _pairs(words: Iterable[str]) -> Iterator[str]:
    together: list[str] = []
    for word in words:
        if word.startswith("-") and together:
            yield " ".join(together)
            together = []
        together.append(word)
    if together:
        yield " ".join(together)


def _clock_offset(profile: Profile, scale: int) -> str:
    """A random whole number as an expression of the shell; ``scale`` to a second."""
    reach = round(CLOCK_RANGE[profile] * scale)
    return f"$(($(shuf -i 0-{2 * reach} -n 1) - {reach}))" if reach else "0"


def _virtualbox(profile: Profile, vm: str, firmware: str) -> Iterator[str]:
    name = shlex.quote(vm)
    machine = MACHINES[profile]
    yield from _comment(
        f"{profile} in VirtualBox 7.0 or newer. Paste this into a shell, with the live image's path"
        f" in place of {IMAGE}. Settings take effect at the next start."
    )
    yield ""
    yield from _comment(
        "A new machine without disks or shared folders, and it should stay so."
        f" {virtualbox.STORAGE} {virtualbox.SHARES} Leave out the first line if the machine exists;"
        " then remove its disks, shared folders and controllers."
    )
    yield f"VBoxManage createvm --name {name} --ostype Debian_64 --register"
    yield f"VBoxManage storagectl {name} --name {virtualbox.CONTROLLER} --add ide"
    yield (
        f"VBoxManage storageattach {name} --storagectl {virtualbox.CONTROLLER} --port 0 --device 0"
        f" --type dvddrive --medium {IMAGE}"
    )
    groups = (
        *virtualbox.identity(token(profile), "", machine.uuid, firmware),
        *virtualbox.network(profile),
        *virtualbox.CHANNELS,
        virtualbox.ONE_BOOT,
        *virtualbox.hardware(profile, machine.memory, machine.processors, machine.screen),
    )
    for group in groups:
        yield ""
        yield from _comment(group.why)
        yield from _virtualbox_lines(name, group)
    yield ""
    reach = CLOCK_RANGE[profile]
    clock = virtualbox.clock(exact=not reach)
    yield from _comment(clock.why + (" Repeat the second line before each start." if reach else ""))
    yield from _virtualbox_lines(name, clock)
    yield (f"VBoxManage modifyvm {name} {virtualbox.CLOCK_OFFSET}={_clock_offset(profile, 1000)}")
    shared = virtualbox.shared_network(LINKS[profile])
    yield ""
    yield from _comment(shared.why)
    yield from (f"# {line}" for line in _virtualbox_lines(name, shared))
    yield from _virtualbox_start(profile, name)


def _virtualbox_lines(name: str, group: Group) -> Iterator[str]:
    if group.flags:
        lines = [*_wrapped(group.flags, "    ", " \\")]
        first = f"VBoxManage modifyvm {name}"
        if len(lines) == 1 and len(first) + len(lines[0]) <= WIDTH:
            yield f"{first} {lines[0].strip()}"
        else:
            yield f"{first} \\"
            yield from lines
    for key, value in group.extradata:
        yield f"VBoxManage setextradata {name} {shlex.quote(key)} {shlex.quote(value)}"


def _virtualbox_start(profile: Profile, name: str) -> Iterator[str]:
    yield ""
    yield "# Each start:"
    if profile.is_gateway:
        yield f"# VBoxManage modifyvm {name} --cable-connected1 off"
    yield f"# VBoxManage startvm {name}"
    if profile.is_gateway:
        yield from _comment(
            f"Plug the uplink in once its first screen says {profile}: a machine that lost its"
            " token, or hangs, never sees a network."
        )
        yield f"# VBoxManage controlvm {name} setlinkstate1 on"
    yield from _comment(virtualbox.HOST_PROPERTIES_WHY)
    for path in virtualbox.HOST_PROPERTIES:
        yield f"# VBoxManage guestproperty delete {name} {path}"


def _qemu(profile: Profile, vm: str, firmware: str) -> Iterator[str]:
    machine = MACHINES[profile]
    yield from _comment(
        f"{profile} in QEMU 7.2 or newer, for bash. Write the live image's path in place of"
        f" {IMAGE}; where a processor has no KVM, -accel tcg is about ten times slower."
    )
    yield ""
    yield from _comment(
        "The ends of the inner links meet in this directory: the same one for every guest, and for"
        " nobody else."
    )
    yield "mkdir -p -m 700 links"
    yield ""
    yield "qemu=("
    yield f"    qemu-system-x86_64 -name {shlex.quote(qemu.escape_option_value(vm))}"
    for options in qemu.by_hand(profile, machine, qemu_firmware(firmware)):
        yield from _qemu_lines(options)
    yield from _comment(qemu.CLOCK, "    ")
    yield (f'    -rtc "base=$(date -u -d "{_clock_offset(profile, 1)} seconds" +%FT%T),clock=vm"')
    yield ")"
    yield from _qemu_runner(profile)


def qemu_firmware(firmware: str) -> qemu.Options | None:
    """What a QEMU boots with, where it is not its own BIOS."""
    if firmware != "efi":
        return None
    return qemu.Options(
        "UEFI, of Debian's package ovmf, without variables that would outlast the machine.",
        ("-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}"),
    )


def _qemu_lines(options: qemu.Options) -> Iterator[str]:
    yield from _comment(options.why, "    ")
    yield from _wrapped((shlex.quote(word) for word in options.words), "    ", "")


def _qemu_runner(profile: Profile) -> Iterator[str]:
    yield ""
    if profile.is_gateway:
        yield from _comment(f"{qemu.OWN_USER} This is root's part, once; USER is who runs it:")
        yield "#   nft -f - <<'END'"
        yield "#   table inet own_gateways {"
        yield "#       chain out {"
        yield "#           type filter hook output priority filter"
        yield '#           meta skuid "USER" fib daddr type local counter drop'
        yield "#       }"
        yield "#   }"
        yield "#   END"
        yield '"${qemu[@]}"'
    else:
        yield from _comment(qemu.NO_NETWORK)
        yield 'unshare --user --map-current-user --net -- "${qemu[@]}"'
    yield ""
    yield "# To press its power button:"
    yield (
        "#   printf '%s\\n' '{\"execute\": \"qmp_capabilities\"}'"
        f' \'{{"execute": "system_powerdown"}}\' | socat - UNIX-CONNECT:links/{profile}.qmp'
    )


def _libvirt(profile: Profile, vm: str, firmware: str) -> Iterator[str]:
    yield f"<!-- {profile} in libvirt 9.0 or newer, with QEMU and KVM: virsh define FILE."
    for line in textwrap.wrap(
        "Write the live image's path in place of /IMAGE.iso. Add no other device, above all no "
        + ", ".join(libvirt.NEVER)
        + ".",
        WIDTH - 5,
    ):
        yield f"     {line}"
    if profile.is_gateway:
        mac = LINKS[profile][0].mac
        yield f"     Plug the uplink in once its first screen says {profile}: a machine that lost"
        yield "     its token, or hangs, never sees a network:"
        yield f"     virsh domif-setlink NAME {mac} up"
    if profile is Profile.APP_GUEST:
        yield "     libvirt runs this machine in this host's own network: whoever breaks out of it"
        yield "     into QEMU is there. 'tails-profiles host' and the recipe for QEMU do better."
    yield "-->"
    yield from libvirt.domain(profile, vm, firmware, MACHINES[profile], round(CLOCK_RANGE[profile]))
