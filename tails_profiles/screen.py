# SPDX-License-Identifier: GPL-3.0-or-later
"""See a running guest's screen without a window: ``host show``.

A window would be a process of the guest's user on the screen of whoever looks, where it could watch
and type. A picture is a file, which ``picture`` reads.
"""

import contextlib
from pathlib import Path

from tails_profiles import hypervisors, picture, qemu, vboxmanage
from tails_profiles.errors import LaunchError
from tails_profiles.launch import MACHINES
from tails_profiles.picture import Picture
from tails_profiles.profile import Profile
from tails_profiles.running import running
from tails_profiles.system import files
from tails_profiles.system.control import control

#: Seconds within which a hypervisor that does not hang has drawn it.
_ANSWER = 60.0


def target(profile: Profile, directory: Path) -> Path:
    """Where the machine's user may write it; it is removed once it was read."""
    return directory / profile / "screen.png"


def plan(profile: Profile, directory: Path, of: str) -> str:
    """What makes the file, as lines for a root shell; ``of`` is a hypervisor's name."""
    path = target(profile, directory)
    if of == hypervisors.VirtualBox.name:
        call = vboxmanage.picture(MACHINES[profile].uuid, path)
        return vboxmanage.command(profile, directory, call).display() + "\n"
    return (
        hypervisors.Qemu.prelude
        + qemu.monitor_line(directory / profile / "qmp", *qemu.picture(path))
        + "\n"
    )


def hypervisor(profile: Profile, directory: Path) -> str:
    """Whose machine the guest is; raises LaunchError where it does not run."""
    for each in running(directory):
        if each.profile == profile:
            return each.hypervisor
    raise LaunchError(f"{profile} does not run", hint="see what does: tails-profiles host status")


def show(profile: Profile, directory: Path) -> Picture:
    """The screen of a guest of this launch, now. Raises LaunchError."""
    directory = directory.absolute()
    asked = control(profile, directory, hypervisor(profile, directory))
    path = target(profile, directory)
    try:
        _remove(path)
        asked.draw(path, _ANSWER)
        return picture.read(files.read_foreign(path, picture.MAX_FILE))
    except OSError as err:
        raise LaunchError(
            f"{profile}: {err.filename}: {err.strerror}",
            hint="stop the guests, and start them again",
        ) from err
    except LaunchError as err:
        said = err.message.removeprefix(f"{profile}: ")
        raise LaunchError(f"{profile}: {said}", hint=err.hint) from err
    finally:
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
