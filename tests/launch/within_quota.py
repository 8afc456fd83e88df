# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs as root of a tiny guest, which is the host here: see ``test_quota``.

Lends folders of real file systems as a launch does, with nobody's machine started, and writes to
them as the process of a machine would. Prints what became of it as one line of JSON.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, "/share/code")

from tails_profiles import launch, launcher, qemu, settings
from tails_profiles.command import Command
from tails_profiles.errors import ProfilesError
from tails_profiles.launch import HostFacts, LaunchPlan
from tails_profiles.launch_steps import BindFolder, CheckClosed, LimitFolder, Step
from tails_profiles.profile import GUESTS
from tails_profiles.quota import Limit
from tails_profiles.settings import Feature
from tails_profiles.shares import Choice
from tails_profiles.system import mounts

MIB = 1 << 20
OWNER = 1000
SIZE = 1600 * MIB
DIRECTORY = Path("/run/tails-profiles-host")
ACCOUNTS = (("tails-profiles-gateway", 201), ("tails-profiles-app", 202))
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-O", "quota,project", "-N", "6000"),
    "ext4-without": ("mkfs.ext4", "-q"),
    "xfs": ("mkfs.xfs", "-q"),
}
#: Whole blocks without writing them: a quota counts both alike, and one is quicker.
FILLS = """
import errno, json, os, sys
size = 0
number = os.open('filler-' + sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)
for step in (16 << 20, 1 << 20, 4096):
    try:
        while True:
            os.posix_fallocate(number, size, step)
            size += step
    except OSError as err:
        ended = errno.errorcode[err.errno]
try:
    with open('written-' + sys.argv[1], 'wb') as file:
        file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    written = 'done'
except OSError as err:
    written = errno.errorcode[err.errno]
print(json.dumps([size, ended, written]))
"""
MAKES_FILES = """
import errno, json, os
os.mkdir('many')
made = 0
try:
    while made < 10000:
        os.close(os.open(f'many/{made}', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        made += 1
    ended = 'all'
except OSError as err:
    ended = errno.errorcode[err.errno]
print(json.dumps([made, ended]))
"""


def run(*argv: str) -> str:
    """A command that must succeed; its output."""
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def prepare() -> None:
    """The accounts of a launch, and nothing that needs a hypervisor."""
    os.environ["PATH"] = "/usr/sbin:/usr/bin"
    for name, number in ACCOUNTS:
        with Path("/etc/passwd").open("a") as file:
            file.write(f"{name}:x:{number}:{number}::/nonexistent:/bin/false\n")
        with Path("/etc/group").open("a") as file:
            file.write(f"{name}:x:{number}:\n")
    with Path("/etc/group").open("a") as file:
        file.write("tails-profiles-link:x:203:\nkvm:x:204:\n")
    Path("/var/tmp").mkdir(parents=True)
    Path("/run").mkdir()
    mock.patch.object(launcher, "_require_programs").start()


@dataclass
class Disk:
    """A file system of its own kind, with a folder of a user's."""

    kind: str

    @property
    def top(self) -> Path:
        """Where it is mounted."""
        return Path("/tmp") / self.kind

    @property
    def folder(self) -> Path:
        """What is lent."""
        return self.top / "folder"

    @property
    def choice(self) -> Choice:
        """That the folder is lent to app-guest."""
        return Choice(Feature.PERSISTENT_DIRECTORY, self.folder, writable=True)

    def make(self, options: str) -> None:
        """With what a hostile guest, and a careless user, may have left in the folder."""
        file = self.top.with_suffix(".img")
        with file.open("wb") as opened:
            opened.truncate(SIZE)
        run(*MAKE[self.kind], str(file))
        self.top.mkdir()
        run("mount", "-o", options, str(file), str(self.top))
        self.folder.mkdir(mode=0o700)
        outside = self.top / "outside"
        outside.mkdir()
        (outside / "file").write_text("not lent")
        below = self.folder / "below"
        below.mkdir()
        (below / "old").write_bytes(bytes(MIB))
        (self.folder / "to-file").symlink_to(outside / "file")
        (self.folder / "to-directory").symlink_to(outside)
        os.mkfifo(self.folder / "pipe")
        # Longer than a path may be.
        here = os.open(self.folder, os.O_RDONLY)
        for _ in range(60):
            name = "d" * 100
            os.mkdir(name, dir_fd=here)
            os.chown(name, OWNER, OWNER, dir_fd=here)
            deeper = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
        os.close(os.open("deepest", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=here))
        os.chown("deepest", OWNER, OWNER, dir_fd=here)
        os.close(here)
        for path in (self.folder, below, below / "old", self.folder / "pipe"):
            os.chown(path, OWNER, OWNER)
        # Root's, and in root's directory a file of the user's.
        roots = self.folder / "roots"
        roots.mkdir()
        (roots / "file").write_text("")
        (roots / "users").write_text("")
        os.chown(roots / "users", OWNER, OWNER)
        # Nobody's in the mount, since it has one group; and what nobody can enter there.
        (self.folder / "of-another-group").write_text("")
        os.chown(self.folder / "of-another-group", OWNER, 0)
        (self.folder / "of-another-group").chmod(0o660)
        (self.folder / "closed").mkdir(mode=0o700)

    def empty(self) -> None:
        """Without what the writer left."""
        for path in (*self.folder.glob("filler-*"), *self.folder.glob("written-*")):
            path.unlink()
        shutil.rmtree(self.folder / "many", ignore_errors=True)

    def is_limited(self, project: int) -> bool:
        """Whether a project has a limit: its directories say so by their size."""
        made = self.top / "of-the-project"
        made.mkdir()
        run("chattr", "-p", str(project), "+P", str(made))
        limited = os.statvfs(made).f_blocks < os.statvfs(self.top).f_blocks
        made.rmdir()
        return limited

    def deepest(self) -> int:
        """The project of the file that no path reaches."""
        before = os.open(".", os.O_RDONLY)
        os.chdir(self.folder)
        while Path("d" * 100).exists():
            os.chdir("d" * 100)
        said = run("lsattr", "-p", "deepest")
        os.fchdir(before)
        os.close(before)
        return int(said.split()[0])

    def free(self) -> int:
        """Bytes that an ordinary user may still write to the file system."""
        found = os.statvfs(self.top)
        return found.f_bavail * found.f_frsize

    def projects(self) -> dict[str, int]:
        """The project of all that has one, by lsattr(1); but for a path too long for it."""
        done = subprocess.run(
            ["lsattr", "-Rpa", str(self.top)], check=False, capture_output=True, text=True
        )
        found = {}
        for line in done.stdout.splitlines():
            words = line.split(maxsplit=2)
            if len(words) == 3 and words[0].isdecimal() and words[0] != "0":
                found[str(Path(words[2]).relative_to(self.top))] = int(words[0])
        return {name: number for name, number in found.items() if "ddd" not in name}


def plan(*choices: Choice) -> LaunchPlan:
    """A launch that lends these."""
    image = launcher.image_facts(Path("/etc/passwd"))
    facts = HostFacts(1 << 20, image, kvm=False, systemd=False, now=datetime.now(UTC))
    made = launch.plan(
        Path("/etc/passwd"), DIRECTORY, facts,
        {profile: settings.defaults(profile) for profile in GUESTS},
        dict.fromkeys(GUESTS, 0.0), i2p=False,
    )  # fmt: skip
    return launcher.with_shares(made, choices)


def steps(made: LaunchPlan) -> Iterator[Step]:
    """Of a launch what it does about its folders."""
    for step in launcher.make_steps(made):
        words = step.argv if isinstance(step, Command) else ("",)
        if isinstance(step, CheckClosed | BindFolder | LimitFolder) or (
            words[0] == "/usr/bin/install" and "tails-profiles-link" not in words
        ):
            yield step


def start(made: LaunchPlan, planned: Sequence[Step]) -> str:
    """``host start`` with these steps; the error, if there is one."""
    try:
        launcher.Launcher(made, lambda words: print(words, file=sys.stderr)).start(tuple(planned))
    except ProfilesError as err:
        return f"{err} ({err.hint})"
    return ""


def stop() -> str:
    """``host stop``; what it said."""
    said: list[str] = []
    launcher.stop(DIRECTORY, said.append)
    return " ".join(words for words in said if "limit" in words)


def as_machine(made: LaunchPlan, *words: str, number: int = -1) -> subprocess.CompletedProcess[str]:
    """A command in a guest's folder, by whom its machine's process would be."""
    guest = made.guests[number]
    argv = qemu.guest_command(guest, made).argv
    before = argv[: argv.index(qemu.QEMU)]
    inside = ("/bin/sh", "-c", 'cd "$0" && exec "$@"', str(guest.shares[0].target))
    return subprocess.run([*before, *inside, *words], check=False, capture_output=True, text=True)


def answer(made: LaunchPlan, program: str, *words: str, number: int = -1) -> Any:
    """What a Python program answers there."""
    done = as_machine(made, "/usr/bin/python3", "-B", "-c", program, *words, number=number)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def limits(made: LaunchPlan) -> list[Limit]:
    """Those that a launch would set."""
    return [step.limit for step in steps(made) if isinstance(step, LimitFolder)]


def limited(kind: str) -> dict[str, Any]:
    """A file system with a project quota."""
    disk = Disk(kind)
    disk.make("loop,prjquota")
    seen: dict[str, Any] = {"free": disk.free()}
    # What the first has filled is there for the second.
    seen |= fill(disk) | start_again(disk)
    for part in (fill_without, keep_to_others, fill_both):
        disk.empty()
        seen |= part(disk)
    run("umount", str(disk.top))
    return seen


def fill(disk: Disk) -> dict[str, Any]:
    """A start that fails, and then one whose guest takes what it can get."""
    made = plan(disk.choice)
    (limit,) = limits(made)
    seen: dict[str, Any] = {
        "warnings": launch.warnings(made), "growth": limit.size, "project": limit.project,
        "failed": start(made, (*steps(made), Command(("/usr/bin/false",)))),
        "projects after failure": disk.projects(),
        "limited after failure": disk.is_limited(limit.project),
        "start": start(made, tuple(steps(made))),
        "limited": disk.is_limited(limit.project),
        "projects": disk.projects(), "deepest": disk.deepest(),
    }  # fmt: skip
    guest = made.guests[-1]
    target = guest.shares[0].target
    seen["size to the guest"] = (found := os.statvfs(target)).f_blocks * found.f_frsize
    try:
        (disk.folder / "moved").hardlink_to(disk.top / "outside/file")
    except OSError as err:
        seen["link of another file"] = errno.errorcode[err.errno or 0]
    write = ("/bin/sh", "-c", "echo words >>of-another-group")
    seen["write to another group's"] = as_machine(made, *write).stderr
    # In its user namespace nobody changes a project; outside of it a file's owner does.
    change = ("chattr", "-p", "0", "below/old")
    seen["own project"] = as_machine(made, *change).stderr
    seen["own flag"] = as_machine(made, "chattr", "-P", "below").stderr
    user = ("setpriv", f"--reuid={guest.user}", f"--regid={guest.user}", "--clear-groups", "--")
    done = subprocess.run([*user, *change[:-1], str(target / change[-1])], check=False)
    seen["own project without it"] = done.returncode
    run("chattr", "-p", str(limit.project), str(target / change[-1]))
    return {**seen, "filled": answer(made, FILLS, "1"), "free when filled": disk.free()}


def start_again(disk: Disk) -> dict[str, Any]:
    """After a launch that filled it and was killed; then an end."""
    made = plan(disk.choice)
    seen = {
        "warnings again": launch.warnings(made),
        "growth again": [limit.size for limit in limits(made)],
        "start again": start(made, tuple(steps(made))),
        "filled again": answer(made, FILLS, "2"),
        "free when filled again": disk.free(),
    }
    disk.empty()
    if disk.kind == "ext4":
        seen["files"] = answer(made, MAKES_FILES)
        seen["free inodes"] = os.statvfs(disk.top).f_ffree
    return {
        **seen,
        "stop": stop(),
        "projects after stop": disk.projects(),
        "limited after stop": disk.is_limited(limits(made)[0].project),
    }


def fill_without(disk: Disk) -> dict[str, Any]:
    """The anti-test, and that the limit is gone: the same writer, with all but our step."""
    made = plan(disk.choice)
    bare = [step for step in steps(made) if not isinstance(step, LimitFolder)]
    seen = {
        "start without": start(made, bare),
        "filled without": answer(made, FILLS, "3"),
        "free without": disk.free(),
    }
    stop()
    return seen


def keep_to_others(disk: Disk) -> dict[str, Any]:
    """The user's own project, of something in the folder and of the folder; and read-only."""
    below = disk.folder / "below"
    run("chattr", "-p", "7", str(below))
    mixed = plan(disk.choice)
    seen: dict[str, Any] = {"foreign below": start(mixed, tuple(steps(mixed)))}
    run("chattr", "-p", "7", str(disk.folder))
    own, read_only = plan(disk.choice), plan(replace(disk.choice, writable=False))
    seen |= {
        "own": [launch.warnings(own), limits(own)],
        "read-only": [launch.warnings(read_only), limits(read_only)],
        "start own": start(own, tuple(steps(own))),
        "stop own": stop(),
        "projects of their own": disk.projects(),
    }
    run("chattr", "-P", "-p", "0", str(below), str(disk.folder))
    (disk.folder / "unreadable").mkdir(mode=0o711)
    os.chown(disk.folder / "unreadable", OWNER, 0)
    unread = plan(disk.choice)
    seen["unreadable"] = start(unread, tuple(steps(unread)))
    (disk.folder / "unreadable").rmdir()
    return seen


def fill_both(disk: Disk) -> dict[str, Any]:
    """Both guests, one after the other."""
    tor = disk.top / "tor"
    tor.mkdir(mode=0o700)
    os.chown(tor, OWNER, OWNER)
    made = plan(disk.choice, Choice(Feature.TOR_DATA, tor, writable=True))
    seen = {
        "free for both": disk.free(),
        "both": [
            start(made, tuple(steps(made))),
            *(answer(made, FILLS, "4", number=number)[1:] for number in (0, 1)),
        ],
        "free when both filled": disk.free(),
    }
    stop()
    return seen


def unlimited(kind: str) -> dict[str, Any]:
    """A file system without one."""
    disk = Disk(kind)
    disk.make("loop")
    made = plan(disk.choice)
    seen = {
        "warnings": launch.warnings(made),
        "limits": limits(made),
        "start": start(made, tuple(steps(made))),
        "stop": stop(),
    }
    run("umount", str(disk.top))
    return seen


def main() -> None:
    """Everything, once."""
    prepare()
    found = {kind: limited(kind) for kind in ("ext4", "xfs")}
    found["ext4-without"] = unlimited("ext4-without")
    assert not mounts.below(DIRECTORY)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
