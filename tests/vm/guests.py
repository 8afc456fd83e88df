# SPDX-License-Identifier: GPL-3.0-or-later
"""Real guests for tests: the image with a test layer, a private Tor network, the real launcher.

The production image holds no door. A further squashfs layer, appended to a copy of it, opens a
root shell on a virtio port, and names the private network's authorities; the launcher's steps are
run as they are but for that port, and for a capture of every link from power-on.
"""

import base64
import ctypes
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tails_profiles import launcher, settings
from tails_profiles.command import Command
from tails_profiles.launch import LaunchPlan
from tails_profiles.launch_steps import StartMachine, Step
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.settings import Settings
from tails_profiles.system import qmp
from tests.lab.tornet import FACTOR, TorNetwork, run

TOP = Path(__file__).parents[2]
IMAGE = TOP / ".build/image/tails-profiles.iso"
_CLONE_NEWNET = 0x40000000

SHELL_RULE = """\
SUBSYSTEM=="virtio-ports", ATTR{name}=="test.shell", TAG+="systemd", \
ENV{SYSTEMD_WANTS}+="test-shell.service"
"""
SHELL_UNIT = """\
[Unit]
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
StartLimitIntervalSec=0

[Service]
ExecStart=/bin/bash --norc --noprofile
StandardInput=file:/dev/virtio-ports/test.shell
StandardOutput=file:/dev/virtio-ports/test.shell
StandardError=journal
Restart=always
RestartSec=0
"""


def test_image(output: Path, torrc: str) -> None:
    """A copy of the image with the test layer on top."""
    with tempfile.TemporaryDirectory() as name:
        layer = Path(name) / "layer"
        for path, text in (
            ("etc/udev/rules.d/99-test-shell.rules", SHELL_RULE),
            ("etc/systemd/system/test-shell.service", SHELL_UNIT),
            ("usr/share/tor/tails-profiles.d/private-network.conf", torrc),
        ):
            (layer / path).parent.mkdir(parents=True, exist_ok=True)
            (layer / path).write_text(text)
        for path in (layer, *layer.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        squashfs = Path(name) / "90-test.squashfs"
        run("mksquashfs", str(layer), str(squashfs), "-comp", "zstd", "-all-root", "-no-progress")
        run("cp", "--reflink=auto", str(IMAGE), str(output))
        disc = f"stdio:{output}"
        run("xorriso", "-dev", disc, "-boot_image", "any", "keep", "-map", str(squashfs),
            "/live/90-test.squashfs")  # fmt: skip
    output.chmod(0o644)


@contextmanager
def namespace(name: str) -> Iterator[None]:
    """This thread, and what it starts, in a network namespace."""
    library = ctypes.CDLL(None, use_errno=True)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    assert library.setns(there, _CLONE_NEWNET) == 0
    try:
        yield
    finally:
        assert library.setns(here, _CLONE_NEWNET) == 0
        os.close(here)
        os.close(there)


class Shell:
    """The root shell of one guest."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._rest = b""

    def wait(self, seconds: float) -> None:
        """Until it answers: what is sent before the port is open may be lost, so it is repeated."""
        deadline = time.monotonic() + seconds * FACTOR
        while time.monotonic() < deadline:
            self._socket.sendall(b"echo hi''1x\n")
            try:
                self._read(b"hi1x\n", 5)
            except TimeoutError:
                continue
            return
        raise TimeoutError(f"no shell within {seconds * FACTOR:.0f} s")

    def execute(self, command: str, seconds: float = 120) -> tuple[int, str]:
        """Status and output of a command."""
        encoded = base64.b64encode(command.encode()).decode()
        self._socket.sendall(
            f"echo {encoded}|base64 -d>/run/.c; bash /run/.c >/run/.o 2>&1 </dev/null; r=$?; "
            'echo "BEG:$(base64 -w0 /run/.o):$r:END"\n'.encode()
        )
        match = re.search(rb"BEG:([^:]*):(\d+):END\n", self._read(b":END\n", seconds * FACTOR))
        assert match
        return int(match[2]), base64.b64decode(match[1]).decode(errors="replace")

    def output(self, command: str, seconds: float = 120) -> str:
        """The output of a command that must succeed."""
        status, text = self.execute(command, seconds)
        assert status == 0, f"{command}: {status}: {text}"
        return text.strip()

    def _read(self, end: bytes, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while end not in self._rest:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the guest's shell is gone")
            self._rest += data
        before, _, self._rest = self._rest.partition(end)
        return before + end


class Guests:
    """A launch in a namespace of its own, whose uplink leads to a private Tor network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        self.name = f"tpv{os.getpid()}"
        self.network = TorNetwork(directory / "network", self.name)
        self.uplink = f"{self.name}uplink"
        self.state = directory / "host"
        self.image = directory / "test.iso"
        self.said: list[str] = []
        self.plan: LaunchPlan | None = None

    def prepare(self) -> None:
        """The Tor network, the namespace of the gateways' machines, and the test image."""
        self.network.start()
        run("ip", "netns", "add", self.uplink)
        run("ip", "-n", self.uplink, "link", "set", "lo", "up")
        self.network.attach(self.uplink, "out", "02:00:00:00:00:09", "198.18.0.2/30", "198.18.0.1")
        test_image(self.image, self.network.client_torrc())

    def start(self, given: Mapping[Profile, Settings] | None = None) -> None:
        """Everything that ``tails-profiles host start`` does."""
        chosen = given or {profile: settings.defaults(profile) for profile in GUESTS}
        with namespace(self.uplink):
            self.plan = launcher.make_plan(self.image, self.state, chosen, i2p=False)
            steps = tuple(map(self._with_door, launcher.make_steps(self.plan)))
            launcher.Launcher(self.plan, self._say).start(steps)

    def _say(self, words: str) -> None:
        print(f"{time.monotonic():8.1f} {words}", flush=True)
        self.said.append(words)

    def _with_door(self, step: Step) -> Step:
        if not isinstance(step, StartMachine):
            return step
        where = step.guest.directory
        door = (
            "-chardev",
            f"socket,id=door,path={where}/shell,server=on,wait=off",
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtserialport,chardev=door,name=test.shell",
        )
        captures: list[str] = []
        for link in step.guest.links:
            dump = f"filter-dump,id=dump-{link.name},netdev={link.name}"
            captures += ["-object", f"{dump},file={where}/{link.name}.pcap"]
        return replace(step, command=Command((*step.command.argv, *door, *captures)))

    def shell(self, profile: Profile, seconds: float = 300) -> Shell:
        """A guest's root shell, once it answers."""
        made = Shell(self.state / profile / "shell")
        made.wait(seconds)
        return made

    def capture(self, profile: Profile, link: str) -> Path:
        """A capture of one link, since power-on."""
        return self.state / profile / f"{link}.pcap"

    def picture(self, profile: Profile, output: Path) -> None:
        """What is on a guest's screen."""
        path = self.state / profile / "screen.png"
        qmp.execute(
            self.state / profile / "qmp", "screendump", {"filename": str(path), "format": "png"}
        )
        shutil.move(path, output)

    def stop(self) -> None:
        """``tails-profiles host stop``."""
        with namespace(self.uplink):
            launcher.stop(self.state, self._say)

    def close(self) -> None:
        """Everything, the networks too."""
        if self.state.exists():
            self.stop()
        subprocess.run(["ip", "netns", "delete", self.uplink], check=False, capture_output=True)
        self.network.close()
        shutil.rmtree(self.directory)
