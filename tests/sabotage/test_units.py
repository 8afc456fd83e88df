# SPDX-License-Identifier: GPL-3.0-or-later
"""What systemd itself says of every unit that we ship, as installed over each Debian."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.sabotage.root import SUITES, base, layer

pytestmark = pytest.mark.lab

UNITS = "usr/lib/systemd/system"
GENERATOR = "usr/lib/systemd/system-generators/tails-profiles-generator"
#: Exposure, in tenths, as systemd-analyze counts it.
THRESHOLD = 25
# Runs in a mount namespace of its own: an overlay of our layer over a Debian, and a shell in it.
SETUP = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
cp -R "$1.files/." "$1/root"
exec chroot "$1/root" "${@:3}"
"""


class System:
    """A Debian with our packages, in which nothing runs."""

    def __init__(self, suite: str, work: Path) -> None:
        self.suite = suite
        self.work = work
        self.files = Path(f"{work}.files")
        self.files.mkdir()

    def run(self, *argv: str) -> tuple[int, str]:
        """Run a program in it; returns its status and all that it printed."""
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", SETUP, "setup", self.work,
             f"{layer(self.suite)}:{base(self.suite)}", *argv],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(params=SUITES)
def system(request: pytest.FixtureRequest, tmp_path: Path) -> System:
    root = tmp_path / "system"
    root.mkdir()
    return System(request.param, root)


def ours(*suffixes: str) -> list[str]:
    """The names of our units; a template by the instance that one would start."""
    names = [path.name for path in (layer() / UNITS).iterdir() if path.suffix in suffixes]
    return sorted(name.replace("@.", "@9050.") for name in names)


def verify(system: System, units: Sequence[str]) -> str:
    """All that systemd-analyze has to say; its exit status is 0 for an unknown key."""
    return system.run("systemd-analyze", "verify", "--man=no", *units)[1]


def test_systemd_has_nothing_to_say_about_any_of_our_units(system: System) -> None:
    units = ours(".service", ".socket", ".target", ".mount")
    assert len(units) >= 18
    assert verify(system, units) == ""


@pytest.mark.parametrize("mistake", ["", "Execstart=-udevadm"])
def test_unit_that_the_generator_writes_is_one(mistake: str, system: System) -> None:
    """A mistake in it is said."""
    source = (layer() / GENERATOR).read_text()
    unit = source[source.index("'[Unit]") + 1 : source.rindex("'")]
    path = system.files / "etc/systemd/system/systemd-udev-trigger.service"
    path.parent.mkdir(parents=True)
    path.write_text(unit.replace("ExecStart=-udevadm", mistake or "ExecStart=-udevadm"))
    said = verify(system, [path.name])
    assert ("Execstart" in said) if mistake else (said == "")


def test_systemd_has_nothing_to_say_about_the_units_with_our_drop_ins(system: System) -> None:
    dropped = [path.name.removesuffix(".d") for path in (layer() / UNITS).glob("*.d")]
    there = [name for name in dropped if (base(system.suite) / UNITS / name).exists()]
    assert len(there) >= 10
    with_ours = verify(system, [name.replace("@.", "@eth0.") for name in there])
    assert "tails" not in with_ours


@pytest.mark.parametrize(
    ("mistake", "word"),
    [
        ("[Unit]\nAssertFirmware=device-tree\n", "AssertFirmware"),
        ("[Service]\nProtectsystem=strict\n", "Protectsystem"),
        ("[Service]\nExecStart=\nExecStart=/usr/lib/tails-profiles/absent\n", "absent"),
        ("[Unit]\nRequires=tails-profiles-absent.service\n", "absent"),
    ],
)
def test_a_mistake_in_a_unit_is_said(mistake: str, word: str, system: System) -> None:
    directory = system.files / "etc/systemd/system/tails-profiles-lockdown.service.d"
    directory.mkdir(parents=True)
    (directory / "mistake.conf").write_text(mistake)
    assert word in verify(system, ["tails-profiles-lockdown.service"])


def exposure(system: System, unit: str, threshold: int = THRESHOLD) -> tuple[bool, str]:
    """Whether a service stays below the threshold, and systemd's table."""
    status, text = system.run(
        "systemd-analyze", "security", "--offline=yes", f"--threshold={threshold}", "--no-pager",
        unit,
    )  # fmt: skip
    assert f"Overall exposure level for {unit}" in text, text
    return status == 0, text


def test_every_service_is_exposed_by_at_most_two_and_a_half(system: System) -> None:
    services = ours(".service")
    assert len(services) >= 12
    wide = {unit: text for unit in services if not (answer := exposure(system, unit))[0]
            for text in [answer[1].splitlines()[-1]]}  # fmt: skip
    assert wide == {}


def test_the_threshold_is_one_that_a_service_can_exceed(system: System) -> None:
    directory = system.files / "etc/systemd/system/tails-profiles-firewall.service.d"
    directory.mkdir(parents=True)
    (directory / "mistake.conf").write_text(
        "[Service]\nSystemCallFilter=\nProtectSystem=no\nProtectHome=no\nNoNewPrivileges=no\n"
    )
    assert not exposure(system, "tails-profiles-firewall.service")[0]


def test_all_units_together_have_at_most_five_exceptions_each_with_its_reason() -> None:
    text = "".join((layer() / UNITS / name).read_text() for name in
                   (path.name for path in (layer() / UNITS).glob("*.service")))  # fmt: skip
    switched_off = text.count("=no\n") - text.count("DefaultDependencies=no\n")
    assert switched_off == text.count("# Exception: ") <= 5
