# SPDX-License-Identifier: GPL-3.0-or-later
"""A real guest with shares in the real VirtualBox, without the kernel driver: ten minutes each.

Debian's vboxguest and vboxsf, mounted by our own step; the machine, its user and its folders are
the launcher's. What the guest wrote and synced must be on the host, however the machine ends.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tails_profiles import vboxmanage
from tails_profiles.profile import Profile
from tails_profiles.shares import FOLDERS
from tests.virtualbox import driverless, launch, sharing
from tests.virtualbox.inside import DIRECTORY, IMAGE, plan
from tests.virtualbox.test_plan import UUID, Host
from tests.virtualbox.world import FACTOR, TOP, VirtualBox

pytestmark = [pytest.mark.virtualbox, pytest.mark.slow]

#: Seconds.
BOOT = 2400 * FACTOR
APP = Profile.APP_GUEST
FOLDER, READ_ONLY, WITH_LINKS = Path("/tmp/folder"), Path("/tmp/read-only"), Path("/tmp/links")
SERIAL = vboxmanage.home(APP, DIRECTORY) / "serial"
#: What the guest must have found. ``theirs`` and the folders are user 1000's on the host.
EXPECTED = {
    "vboxguest": "done",
    "vboxsf": "done",
    "theirs": "done 1000:1000 600",
    "read theirs": "done mine",
    "chmod": "done",
    "mode now": "done 640",
    # Says that it did, and did not.
    "chown": "done",
    "owner now": "done 1000",
    "new file": "done",
    "new file again": "refused File exists",
    # Asked for 0644; the machine's process has a umask.
    "its mode": "done 1000:1000 600",
    "symlink": "refused Operation not permitted",
    # The anti-test: a folder for which the key of symbolic links is set.
    "symlink where the test allows it": "done",
    "hardlink": "refused Operation not permitted",
    "fifo": "refused Operation not permitted",
    "device": "refused Operation not permitted",
    "set-user-id": "done",
    # Followed in the guest, where no such file is: the host's is not reached.
    "read through a link of the host": "refused No such file or directory",
    "read up": "refused No such file or directory",
    "rename": "done",
    "odd name": "done",
    "read after remove": "done one",
    "write to the read-only one": "refused Read-only file system",
    "read the read-only one": "done theirs too",
    **dict.fromkeys(
        (f"mount {tag!r}" for tag in ("tor-data", "other", "..", "/", "")),
        "refused No such file or directory",
    ),
    # The size and the room of the file system, 4 MiB, to the byte.
    "room": "done 4096 1024",
    # Three seconds after there was no room any more, until it was killed.
    "fill": "still writes",
    "remove it": "done",
    "synced": "yes",
}
#: What Debian's programs must have found on the same share: the checks of QEMU's 9p, all of which
#: work on a file system of a kernel's own. Nothing but files and directories can be made.
_REFUSED = "PermissionError: [Errno 1] Operation not permitted"
PROGRAMS = {
    **dict.fromkeys(
        ("ssh_keys", "ssh_config", "sqlite_wal", "sqlite_journal", "record_locks", "file_locks",
         "replaced_while_open", "odd_names", "programs", "many_files"),
        "works",
    ),
    # It keeps the old list under another name, by a hard link.
    "ssh_known_hosts": "AssertionError: ssh-keygen: 255 link /share/.ssh/known_hosts to"
    " /share/.ssh/known_hosts.old: Operation not permitted\n",
    # It ends: no socket.
    "ssh_agent": "AssertionError: ",
    # Read and written, but not measured: fstat(2) asks the host for it by its name.
    "unlinked_while_open": "FileNotFoundError: [Errno 2] No such file or directory",
    "hard_links": f"{_REFUSED}: '/share/one' -> '/share/two'",
    "symbolic_links": f"{_REFUSED}: '127.0.0.1:+4711' -> '/share/lock-link'",
    "sockets": _REFUSED,
    "pipes": _REFUSED,
    "archives": f"{_REFUSED}: 'file' -> '/share/tree/link'",
}  # fmt: skip


@contextmanager
def guest(end: str) -> Iterator[tuple[Host, "subprocess.Popen[bytes]"]]:
    """A guest that runs; ``end`` is how its image says that it ends."""
    with VirtualBox([TOP], size="2g") as box, driverless.screen(box):
        sharing.image(box.path(IMAGE), end)
        host = Host(box)
        prepare(host)
        planned = plan(0)
        app = next(each for each in planned.guests if each.profile is APP)
        runner = vboxmanage.start_command(app, planned, None).argv
        runner = runner[: runner.index("/usr/bin/env")]
        with subprocess.Popen(
            [*box.enter, *runner, *launch.front_end(app, DIRECTORY, None)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                yield host, process
            finally:
                host.end("VirtualBoxVM")


def prepare(host: Host) -> None:
    """The folders, and app-guest's machine, as far as it goes without the driver."""
    sharing.programs(host.box.path(READ_ONLY) / "system")
    done = host.box.run(
        "sh", "-euc",
        'mkdir "$1" "$3"; mount -t tmpfs -o size=4m tmpfs "$1"; chmod 700 "$@"; '
        'echo mine >"$1/theirs"; echo x >"$1/seed"; echo theirs too >"$2/theirs"; '
        'chmod 600 "$1/theirs"; ln -s ../secret "$1/hosts-link"; chown -R 1000:1000 "$@"; '
        "echo for nobody >/tmp/secret; chmod 644 /tmp/secret",
        "sh", str(FOLDER), str(READ_ONLY), str(WITH_LINKS),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lent = zip(sharing.FEATURES, (FOLDER, f"{READ_ONLY}:ro", WITH_LINKS), strict=True)
    options = [word for feature, path in lent for word in ("--share", f"{feature}={path}")]
    found = host.ensure("--guest", APP, *options)
    assert found["guests"][APP]["differences"] == []
    uuid = UUID[APP]
    host.manage(APP, "modifyvm", uuid, "--nic1", "null", "--nic2", "null", "--memory", "256",
                "--uart1", "0x3f8", "4", "--uart-mode1", "file", str(SERIAL))  # fmt: skip
    for number in range(2):
        key = f"VBoxInternal/Devices/virtio-net/{number}/LUN#0/Config/RestrictAccess"
        host.manage(APP, "setextradata", uuid, key)
    for key, value in driverless.EXTRADATA.items():
        host.manage(APP, "setextradata", uuid, key, value)
    tag = FOLDERS[sharing.FEATURES[2]].tag
    key = f"VBoxInternal2/SharedFoldersEnableSymlinksCreate/{tag}"
    host.manage(APP, "setextradata", uuid, key, "1")


def said(host: Host) -> str:
    path = host.box.path(SERIAL)
    return path.read_bytes().decode(errors="replace").replace("\r", "") if path.exists() else ""


def wait_for(host: Host, process: "subprocess.Popen[bytes]", word: str) -> None:
    """Until the guest has said it; an error when its machine ended before."""
    deadline = time.monotonic() + BOOT
    while word not in said(host):
        assert time.monotonic() < deadline, said(host)
        assert process.poll() is None, said(host)
        time.sleep(0.01)


def kill(host: Host, process: "subprocess.Popen[bytes]") -> None:
    """The machine, 50 ms after the guest's fsync has returned: the time that the promise names."""
    wait_for(host, process, "note synced=yes\n")
    time.sleep(0.05)
    for pid in host.box.processes("VirtualBoxVM"):
        os.kill(pid, signal.SIGKILL)
    host.end("VirtualBoxVM")


def power_off(host: Host, process: "subprocess.Popen[bytes]") -> None:
    """The guest does it itself."""
    process.wait(BOOT)
    assert "note synced=yes\n" in said(host), said(host)


@pytest.mark.parametrize(("end", "how"), [("never", kill), ("power-off", power_off)])
def test_what_a_guest_synced_is_on_the_host_and_nothing_of_the_host_is_near(
    end: str, how: Callable[[Host, "subprocess.Popen[bytes]"], None],
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    with guest(end) as (host, process):
        how(host, process)
        notes = dict(re.findall(r"^note ([^=\n]+)=(.*?) *$", said(host), re.MULTILINE))
        assert {name: notes.get(name) for name in EXPECTED} == EXPECTED, said(host)
        if how is power_off:
            assert json.loads(notes["programs"]) == PROGRAMS
        record_property("kernel", notes["kernel"])
        record_property("VBoxManage --version", host.box.manage("--version").strip())
        folder = host.box.path(FOLDER)
        assert (folder / "data").read_bytes() == b"x" * 65536
        found = {path.name: path.lstat() for path in folder.iterdir()}
        assert {(each.st_uid, each.st_gid) for each in found.values()} == {(1000, 1000)}
        assert [name for name, each in found.items() if each.st_mode & 0o7000] == []
        assert [path.name for path in folder.iterdir() if path.is_symlink()] == ["hosts-link"]
        assert host.box.path(WITH_LINKS).joinpath("link").is_symlink()
        assert host.box.path("/tmp/secret").read_text() == "for nobody\n"
        assert sorted(path.name for path in host.box.path(READ_ONLY).iterdir()) == [
            "system",
            "theirs",
        ]
