# SPDX-License-Identifier: GPL-3.0-or-later
"""Have VBoxManage make a machine, and believe only what it shows afterwards."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from tails_profiles import vboxdrv, vboxmanage, virtualbox_folders
from tails_profiles.command import Command
from tails_profiles.errors import LaunchError
from tails_profiles.launch import Display
from tails_profiles.profile import Profile
from tails_profiles.system import machines, mounts
from tails_profiles.system.process import run
from tails_profiles.vboxdrv import DriverFacts
from tails_profiles.vboxmanage import Call, Difference, Machine, Shown, Version

#: Bytes below which a disk is called full: several of VirtualBox's files.
_FULL = 64 * 1024


class Tool:
    """VBoxManage for one guest of a launch: as its user, with its list of machines."""

    def __init__(self, profile: Profile, directory: Path) -> None:
        self._profile = profile
        self._directory = directory

    def call(self, call: Call) -> str:
        """Run one call; returns what it printed. Raises LaunchError with VirtualBox's reason."""
        done = run(vboxmanage.command(self._profile, self._directory, call), ok=range(256))
        if done.status != 0:
            said = vboxmanage.complaint(done.stderr or done.stdout)
            raise LaunchError(
                f"{self._profile}: {Path(call[0]).name} {call[1]} failed: {said}",
                hint=_hint(said) or _full(vboxmanage.home(self._profile, self._directory)),
            )
        return done.stdout

    def manage(self, *words: str) -> str:
        """VBoxManage itself; as ``call``."""
        return self.call((vboxmanage.VBOXMANAGE, *words))

    def machines(self) -> dict[UUID, str]:
        """Names of all machines of this user's list."""
        return vboxmanage.parse_list(self.manage("list", "vms"))

    def running(self) -> frozenset[UUID]:
        """Those that run. It locks none, which would disturb one that is starting."""
        return frozenset(vboxmanage.parse_list(self.manage("list", "runningvms")))

    def differences(self, made: Machine, version: Version) -> tuple[Difference, ...]:
        """Where the machine is not as it must be."""
        info = vboxmanage.parse_info(self.call(vboxmanage.look(made)))
        extradata = vboxmanage.parse_extradata(self.call(vboxmanage.look_at_extradata(made)))
        folders = {}
        if made.shares or virtualbox_folders.any_in(info):
            folders = virtualbox_folders.parse(self.call(vboxmanage.look_at_folders(made)))
        return vboxmanage.differences(made, Shown(info, extradata, folders), version)


def ensure(made: Machine, tool: Tool, version: Version) -> tuple[Difference, ...]:
    """See that the machine is there and as it must be: made, mended or left as it is.

    Returns the shared folders of it that nobody asked for, which are removed. Raises LaunchError
    where it cannot be, where a machine that is not ours is in the way, and where VirtualBox says
    done and shows something else.
    """
    _require_media(made)
    _require_folders(made)
    found = _found(made, tool, version)
    for call in _needed(made, found, version):
        tool.call(call)
    left = tool.differences(made, version)
    # Once more: a settings file in which sed found no place for extradata.
    for call in vboxmanage.repair(made, left, version) or () if left else ():
        tool.call(call)
        left = tool.differences(made, version)
    if left:
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        raise LaunchError(
            f"{made.profile}: VirtualBox says that it is done, and {left[0]}{more}",
            hint=_full(made.folder) or "stop the guests, and start them again",
        )
    _require_saved(made)
    return vboxmanage.foreign_folders(found or ())


def _require_saved(made: Machine) -> None:
    """What VirtualBox shows is in its memory: on a full disk its file is empty all the same."""
    text = _read(made.settings_file) or b""
    full = _full(made.folder)
    whole = text.rstrip().endswith(b"</VirtualBox>") and str(made.uuid).encode() in text
    if full or not whole:
        raise LaunchError(
            f"{made.profile}: VirtualBox says that it is done, and {made.settings_file} is"
            + (" not whole" if not whole else " the last that has room"),
            hint=full or "stop the guests, and start them again",
        )


def _read(path: Path) -> bytes | None:
    """A file in a directory of the machine's user: what lies there is not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(1 << 20)


def _found(made: Machine, tool: Tool, version: Version) -> tuple[Difference, ...] | None:
    """Where the machine that is there differs; None where there is none.

    One whose file cannot be read differs in that. Raises LaunchError where it is not ours.
    """
    known = tool.machines()
    name = known.get(made.uuid)
    for uuid, other in known.items():
        if other == made.profile and uuid != made.uuid:
            raise LaunchError(
                f"{made.profile}: another machine of that name is in VirtualBox's list: {uuid}",
                hint=f"the list below {made.folder.parent} is for this program alone",
            )
    if name is None:
        return None
    if name == vboxmanage.INACCESSIBLE:
        return (Difference("name", made.profile.value, name),)
    found = tool.differences(made, version)
    _require_ours(made, found)
    return found


def _needed(
    made: Machine, found: tuple[Difference, ...] | None, version: Version
) -> Iterator[Call]:
    if found is None:
        # Of a start that was killed before the machine was in the list.
        yield from _remove_leftover(made)
        yield from vboxmanage.create(made, version)
        return
    calls = vboxmanage.repair(made, found, version)
    if calls is not None:
        yield from calls
        return
    yield vboxmanage.forget(made)
    yield vboxmanage.remove_files(made)
    yield from vboxmanage.create(made, version)


def _require_ours(made: Machine, found: tuple[Difference, ...]) -> None:
    for each in found:
        if each.key == vboxmanage.MARK:
            raise LaunchError(
                f"{made.profile}: the machine {made.uuid} is none that this program made",
                hint=f"the list below {made.folder.parent} is for this program alone",
            )
        if each.key == "VMState" and each.found not in {"saved", None}:
            raise LaunchError(
                f"{made.profile}: its machine is in use: {each.found}",
                hint="stop the guests first; close a window of VirtualBox that shows it",
            )


def _remove_leftover(made: Machine) -> Iterator[Call]:
    """Its settings file, if it is ours or holds nothing; another's is not touched."""
    text = _read(made.settings_file)
    if text is None:
        return
    if text and str(made.uuid).encode() not in text:
        raise LaunchError(
            f"{made.settings_file} is of another machine",
            hint=f"the directory {made.folder} is for this program alone",
        )
    yield vboxmanage.remove_files(made)


def _require_media(made: Machine) -> None:
    """VirtualBox starts a machine whose medium is missing, with an empty drive."""
    for medium in made.media:
        if not medium.path.is_file():
            raise LaunchError(f"{made.profile}: {medium.path} is missing, or is no file")


def _require_folders(made: Machine) -> None:
    """VirtualBox starts a machine whose folder is missing, without it; so nothing is started."""
    for share in made.shares:
        if share.target not in mounts.below(share.target.parent):
            raise LaunchError(
                f"{made.profile}: {share.feature} is not mounted on {share.target}",
                hint="stop the guests, and start them again",
            )


_HINTS = (
    ("locked", "it is in use: stop the guests, and close every window of VirtualBox that shows it"),
    ("VERR_FILE_NOT_FOUND", "a file of it is gone; start again"),
    ("VERR_ACCESS_DENIED", "machines do not run as root: the file must be open to others"),
    ("VERR_DISK_FULL", "the disk is full"),
    ("Failed to create the VirtualBox object", "its own service, VBoxSVC, ended; start again"),
    ("NS_ERROR_", "its own service, VBoxSVC, may have ended; start again"),
    ("Unknown option", "this VirtualBox does not know what 6.1 to 7.2 know"),
)


def _hint(said: str) -> str | None:
    return next((hint for text, hint in _HINTS if text in said), None)


def _full(directory: Path) -> str | None:
    with contextlib.suppress(OSError):
        found = os.statvfs(directory)
        if found.f_bavail * found.f_frsize < _FULL or (found.f_files and not found.f_favail):
            return f"the disk of {directory} is full"
    return None


def version() -> tuple[int, int]:
    """VirtualBox's; raises LaunchError where it is not installed, or too old."""
    # Nothing of whoever asks: it would make a directory in that home.
    call = ("/usr/bin/env", "-i", "HOME=/nonexistent", vboxmanage.VBOXMANAGE, "--version")
    if not Path(vboxmanage.VBOXMANAGE).exists():
        vboxdrv.require_driver(driver_facts())
    return vboxmanage.parse_version(run(Command(call)).stdout)


def display() -> Display | None:
    """The X screen of whoever runs this, if there is one."""
    name, authority = os.environ.get("DISPLAY"), os.environ.get("XAUTHORITY")
    return Display(name, Path(authority) if authority else None) if name else None


#: efivarfs: four bytes of attributes, then 1 where Secure Boot is on (UEFI, EFI_GLOBAL_VARIABLE).
_SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def driver_facts(root: Path = Path("/")) -> DriverFacts:
    """Look at this machine; ``root`` stands in for ``/``."""
    release = root / "lib/modules" / os.uname().release
    return DriverFacts(
        program=(root / vboxmanage.VBOXMANAGE.lstrip("/")).exists(),
        device=(root / "dev/vboxdrv").exists(),
        module=any(release.rglob("vboxdrv.ko*")),
        secure_boot=_text(root / _SECURE_BOOT)[4:5] == b"\1",
    )


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def end_services(directory: Path) -> None:
    """End VBoxSVC of a launch's users, which would end five seconds later, and its sockets."""
    for profile in (Profile.TOR_GUEST, Profile.APP_GUEST):
        place = vboxmanage.home(profile, directory)
        wanted = f"VBOX_USER_HOME={vboxmanage.config(place)}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and wanted in _text(entry / "environ").split(b"\0"):
                process = machines.identify(int(entry.name))
                if process is not None:
                    machines.kill(process)
                    machines.wait_until_ended(process, _GONE)
        shutil.rmtree(f"/tmp/.vbox-{vboxmanage.socket_id(place)}-ipc", ignore_errors=True)  # noqa: S108


#: Seconds for a killed process to be gone.
_GONE = 30.0
