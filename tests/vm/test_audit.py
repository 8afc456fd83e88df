# SPDX-License-Identifier: GPL-3.0-or-later
"""``host audit`` beside running machines: of QEMU, and of libvirt with its driver for QEMU.

Made only from what ``token`` prints, but emulated; no guest boots in them. Each row of the recipes
broken: tests/unit/test_audit.py, tests/lab/test_audit.py.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tails_profiles import recipe
from tails_profiles.profile import GUESTS, Profile
from tests.vm.test_recipes import TIME_LIMIT, emulated, needs_ovmf, started

TOP = Path(__file__).parents[2]
TOR, APP = Profile.TOR_GUEST, Profile.APP_GUEST
NAME = "a, b's"
FIRMWARES = ["bios", pytest.param("efi", marks=needs_ovmf)]
#: Somebody who is not root.
SOMEBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86"),
]


def run(argv: Sequence[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=TIME_LIMIT, check=False, cwd=TOP,
        env={**os.environ, **environment},
    )  # fmt: skip


def named(*words: str, **environment: str) -> list[str]:
    """The settings that the command names."""
    done = run(
        [sys.executable, "-m", "tails_profiles", "host", "audit", "--json", *words], **environment
    )
    assert done.stderr == ""
    found = [each["setting"] for each in json.loads(done.stdout)["deviations"]]
    assert done.returncode == bool(found)
    return found


# ---- QEMU


def as_somebody(text: str) -> str:
    """The same script, run by somebody who is not root, in a directory that he may write to."""
    return f"chmod 0777 .; exec {shlex.join(SOMEBODY)} bash -eu -c {shlex.quote(text)}"


@pytest.mark.parametrize("firmware", FIRMWARES)
@pytest.mark.parametrize("profile", GUESTS)
def test_machine_of_the_recipe_has_nothing_named(profile: Profile, firmware: str) -> None:
    with started(as_somebody(emulated(profile, firmware)), profile):
        assert named(NAME) == []
        assert named(NAME, "--hypervisor", "qemu", "--profile", profile) == []
        other = APP if profile is TOR else TOR
        assert named(NAME, "--profile", other) != []


@pytest.mark.parametrize(
    ("profile", "old", "new", "settings"),
    [
        (TOR, "hostname=host", "hostname=host,hostfwd=tcp:127.0.0.1:0-:22", ["-netdev hostfwd"]),
        (TOR, "-serial none", "-serial none -device virtio-balloon-pci",
         ["-device virtio-balloon-pci"]),
        (TOR, "-serial none", "-serial none -netdev user,id=x -device e1000,netdev=x",
         ["-netdev user,id=x", "-device e1000,netdev=x"]),
        (TOR, "Nehalem,", "max,", ["-cpu"]),
        (TOR, "mac=00:55:44:33:22:21", "mac=52:54:00:12:34:56", ["-device mac"]),
        (TOR, "-serial none", "-serial none -no-shutdown", []),
        (APP, "unshare --user --map-current-user --net -- ", "", ["network namespace"]),
    ],
)  # fmt: skip
def test_broken_machine_is_named(profile: Profile, old: str, new: str, settings: list[str]) -> None:
    text = emulated(profile, "bios")
    assert old in text
    with started(as_somebody(text.replace(old, new)), profile):
        assert named(NAME) == settings


def test_machine_of_root_is_named_and_two_of_one_name_are_refused() -> None:
    with started(emulated(TOR, "bios"), TOR):
        assert named(NAME) == ["user"]
        with started(as_somebody(emulated(APP, "bios")), APP):
            done = run([sys.executable, "-m", "tails_profiles", "host", "audit", NAME])
            assert (done.returncode, done.stdout) == (1, "")
            assert f"2 machines are named {NAME!r}" in done.stderr
            pids = done.stderr.split("say which: ")[1].split(" or ")
            assert sorted(named(pid.strip()) for pid in pids) == [[], ["user"]]


# ---- libvirt


class Libvirt:
    """Somebody's own libvirtd, with its driver for QEMU and no network."""

    def __init__(self, directory: Path) -> None:
        directory.chmod(0o777)
        self.directory = directory
        self._log = directory / "log"
        places = {
            "HOME": directory,
            "XDG_RUNTIME_DIR": directory / "run",
            "XDG_CONFIG_HOME": directory / "config",
            "XDG_CACHE_HOME": directory / "cache",
        }
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", *SOMEBODY, "libvirtd"], stdout=log, stderr=log,
                env={**os.environ, **{name: str(place) for name, place in places.items()}},
            )  # fmt: skip
        self._socket = directory / "run/libvirt/libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self._socket}"
        until = time.monotonic() + TIME_LIMIT
        while not self._socket.exists():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.05)

    def virsh(self, *words: str) -> str:
        done = run(["virsh", "--connect", self.uri, *words])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def define(self, profile: Profile, firmware: str = "bios") -> None:
        """The recipe, with the image and the number that it asks for, emulated."""
        image = self.directory / "image.iso"
        image.write_bytes(bytes(1 << 20))
        text = recipe.recipe(profile, "libvirt", NAME, firmware)
        for old, new in (("type='kvm'", "type='qemu'"), ("/IMAGE.iso", str(image)),
                         ("adjustment='0'", "adjustment='2'")):  # fmt: skip
            if profile is not Profile.I2P_GUEST or "adjustment" not in old:
                text = text.replace(old, new)
        domain = self.directory / "domain.xml"
        domain.write_text(text)
        self.virsh("define", str(domain))

    def named(self, *words: str) -> list[str]:
        return named(NAME, "--hypervisor", "libvirt", *words, LIBVIRT_DEFAULT_URI=self.uri)

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(TIME_LIMIT)


@pytest.fixture(scope="module")
def libvirt() -> Iterator[Libvirt]:
    if shutil.which("libvirtd") is None:
        pytest.skip("needs libvirtd (libvirt-daemon)")
    # A short path: sockets are in it.
    directory = Path(tempfile.mkdtemp(prefix="tp-libvirt-"))
    made = Libvirt(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


@pytest.mark.parametrize("firmware", FIRMWARES)
@pytest.mark.parametrize("profile", GUESTS)
def test_domain_of_the_recipe_has_nothing_named(
    libvirt: Libvirt, profile: Profile, firmware: str
) -> None:
    libvirt.define(profile, firmware)
    try:
        assert libvirt.named() == []
    finally:
        libvirt.virsh("undefine", "--nvram", NAME)


@pytest.mark.parametrize("profile", [TOR, APP])
def test_running_domain_is_looked_at_as_it_is_now(libvirt: Libvirt, profile: Profile) -> None:
    libvirt.define(profile)
    libvirt.virsh("start", "--paused", NAME)
    try:
        assert libvirt.named() == []
        if profile is TOR:
            # The link gate, opened.
            libvirt.virsh("domif-setlink", NAME, "00:55:44:33:22:21", "up")
            assert libvirt.named() == []
        device = libvirt.directory / "device.xml"
        device.write_text("<interface type='user'><model type='virtio'/></interface>")
        libvirt.virsh("attach-device", NAME, str(device), "--live")
        assert libvirt.named() == ["devices/interface[3]"]
        # Its process is libvirt's, and is not looked at as somebody's own.
        assert named(NAME, LIBVIRT_DEFAULT_URI=libvirt.uri) == ["devices/interface[3]"]
    finally:
        libvirt.virsh("destroy", NAME)
        libvirt.virsh("undefine", NAME)


def test_words_for_qemu_that_libvirt_does_not_read_are_named(libvirt: Libvirt) -> None:
    libvirt.define(APP)
    domain = libvirt.directory / "domain.xml"
    text = domain.read_text().replace(
        "<domain type='qemu'>",
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>",
    )
    end = "<qemu:commandline><qemu:arg value='-nic'/></qemu:commandline></domain>"
    domain.write_text(text.replace("</domain>", end))
    try:
        libvirt.virsh("define", str(domain))
        assert libvirt.named() == ["qemu:commandline"]
    finally:
        libvirt.virsh("undefine", NAME)
