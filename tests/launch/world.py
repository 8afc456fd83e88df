# SPDX-License-Identifier: GPL-3.0-or-later
"""A host for tiny guests: namespaces of its own, the real launcher, and what there is of it.

``World.left`` is everything that a launch could leave behind; tests compare it before and after.
"""

import ctypes
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tails_profiles import launcher, settings
from tails_profiles.constants import APP_USER, GATEWAY_USER
from tails_profiles.launch import LaunchPlan
from tails_profiles.launch_steps import Step
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.running import Limits
from tails_profiles.settings import Settings
from tails_profiles.shares import Choice
from tails_profiles.system import machines
from tails_profiles.system.machines import Process
from tests.launch import tiny

TOP = Path(__file__).parents[2]
FACTOR = float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
#: How long a tiny guest may be silent, and take to power off.
LIMITS = Limits(silence=90 * FACTOR, power_off=60 * FACTOR, answer=30 * FACTOR)
_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
_SHARED = ("/tmp", "/var/tmp", "/run", "/dev/shm", "/run/lock")


class World:
    """This process in network and mount namespaces of its own, and a directory for everything."""

    def __enter__(self) -> Self:
        # Downloaded at its first use: while there is a network.
        tiny.system()
        self._library = ctypes.CDLL(None, use_errno=True)
        self._old = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("net", "mnt")]
        # setns(2) puts both at the top of the mount namespace, out of a chroot.
        self._directories = [os.open(path, os.O_PATH) for path in ("/", ".")]
        if self._library.unshare(_CLONE_NEWNET | _CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        run("mount", "--make-rprivate", "/")
        # Named network namespaces of others come and go.
        run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
        run("ip", "link", "set", "lo", "up")
        # On a path that another user may enter: machines do not run as root.
        self.top = Path(tempfile.mkdtemp(prefix="tp-launch-", dir="/var/tmp"))
        self.top.chmod(0o755)
        self.directory = self.top / "host"
        self.said: list[str] = []
        self._images: dict[tuple[tuple[str, str], ...], Path] = {}
        run("systemd-sysusers", str(TOP / "sysusers/tails-profiles.conf"))
        return self

    def __exit__(self, *_: object) -> None:
        launcher.stop(self.directory, print, Limits(0, 0))
        for descriptor in self._old:
            assert self._library.setns(descriptor, 0) == 0
            os.close(descriptor)
        root, cwd = self._directories
        os.fchdir(root)
        os.chroot(".")
        os.fchdir(cwd)
        for descriptor in self._directories:
            os.close(descriptor)
        shutil.rmtree(self.top)

    def image(self, **parameters: str) -> Path:
        """An image of a tiny guest; the same for the same parameters."""
        key = tuple(sorted(parameters.items()))
        if key not in self._images:
            self._images[key] = tiny.image(self.top / f"{len(self._images)}.iso", **parameters)
        return self._images[key]

    def plan(
        self,
        image: Path | None = None,
        *,
        i2p: bool = False,
        given: Mapping[Profile, Settings] | None = None,
        shares: Sequence[Choice] = (),
    ) -> LaunchPlan:
        """The launcher's plan, by its own look at this machine."""
        chosen = given or {profile: settings.defaults(profile) for profile in GUESTS}
        made = launcher.make_plan(image or self.image(), self.directory, chosen, i2p=i2p)
        return launcher.with_shares(made, shares)

    def start(
        self,
        plan: LaunchPlan,
        *,
        within: Limits = LIMITS,
        after: Callable[[int, Step], None] | None = None,
        at: Callable[[str], None] | None = None,
        steps: tuple[Step, ...] = (),
    ) -> None:
        """Carry a plan out. ``after`` is called after each step, ``at`` with all that is said.

        ``steps`` are carried out in place of the plan's.
        """

        def say(words: str) -> None:
            self.said.append(words)
            if at:
                at(words)

        class Watched(launcher.Launcher):
            number = -1

            def carry_out(self, step: Step) -> None:
                super().carry_out(step)
                self.number += 1
                if after:
                    after(self.number, step)

        self.said.clear()
        Watched(plan, say, within=within).start(steps or launcher.make_steps(plan))

    def stop(self, within: Limits = LIMITS) -> None:
        """``host stop``."""
        self.said.clear()
        launcher.stop(self.directory, self.said.append, within)

    def command(self, *words: str, image: Path | None = None) -> list[str]:
        """The command line of ``tails-profiles host``."""
        action, *options = words
        start = [sys.executable, "-m", "tails_profiles", "host", action]
        start += ["--directory", str(self.directory), *options]
        return start + (["--image", str(image)] if image else [])

    def machine(self, profile: Profile) -> Process:
        """The machine of a guest; those of other launches on this machine are not ours."""
        return next(
            found.process
            for found in machines.find()
            if (found.directory, found.profile) == (self.directory, profile)
        )

    def cli(self, *words: str, image: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*words, image=image), capture_output=True, text=True, check=False,
            env=self.environment, timeout=120 * FACTOR, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def cli_without_library(
        self, *words: str, image: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same, on a machine without the library that talks to QEMU."""
        hidden = self.top / "qemu.py"
        hidden.write_text("raise ImportError\n")
        try:
            return subprocess.run(
                self.command(*words, image=image), capture_output=True, text=True, check=False,
                env={**self.environment, "PYTHONPATH": f"{self.top}:{TOP}"},
                timeout=120 * FACTOR, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        finally:
            hidden.unlink()

    @property
    def environment(self) -> dict[str, str]:
        """With the package of this source tree, and QEMU's library."""
        paths = (str(TOP), os.environ.get("PYTHONPATH", str(TOP / ".build/python")))
        return {**os.environ, "PYTHONPATH": ":".join(paths)}

    def left(self) -> set[tuple[str, str]]:
        """Everything that a launch makes: processes, mounts, tables, links, files."""
        texts = {
            "mount": Path("/proc/self/mountinfo").read_text().splitlines(),
            "table": run("nft", "list", "ruleset").splitlines(),
            "link": run("ip", "-oneline", "link", "show").splitlines(),
            "namespace": run("ip", "netns", "list").splitlines(),
            "file": [str(path) for path in self.top.rglob("*") if path.suffix != ".iso"],
            "file of a user": self._owned(),
            "process": [f"{pid} {words}" for pid, words in self.processes().items()],
        }
        return {(kind, text) for kind, lines in texts.items() for text in lines}

    def processes(self) -> dict[int, str]:
        """Every other process of these namespaces, or that names this directory."""
        here = Path("/proc/self/ns/net").stat().st_ino
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                words = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
                same = (entry / "ns/net").stat().st_ino == here
            except OSError:
                continue  # it ended meanwhile
            if same or str(self.top) in words:
                found[int(entry.name)] = words
        return found

    def _owned(self) -> list[str]:
        numbers = {pwd.getpwnam(user).pw_uid for user in (GATEWAY_USER, APP_USER)}
        return sorted(
            str(path)
            for directory in _SHARED
            for path in Path(directory).iterdir()
            if path.exists() and path.stat().st_uid in numbers
        )


def run(*argv: str, stdin: str | None = None) -> str:
    """A command that must succeed; what it printed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, input=stdin)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout
