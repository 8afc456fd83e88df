# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes for a QEMU of one's own start a machine, as bash runs them. No guest boots in it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tails_profiles import recipe
from tails_profiles.profile import GUESTS, Profile

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86"),
]
TIME_LIMIT = 60 * float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
needs_ovmf = pytest.mark.skipif(not Path(recipe.OVMF).exists(), reason="needs ovmf")


class Machine:
    """One recipe under way, and its control socket."""

    def __init__(self, directory: Path, text: str, profile: Profile) -> None:
        (directory / recipe.IMAGE).write_bytes(bytes(1 << 20))
        self._errors = directory / "errors"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                ["bash", "-eu", "-c", text], cwd=directory, stderr=errors, start_new_session=True
            )
        # Relative to the directory: a path in it may be too long for a socket's address.
        self._socket = self._connect(f"/proc/{self.process.pid}/cwd/links/{profile}.qmp")
        self._file = self._socket.makefile("rw", encoding="utf-8")
        self._file.readline()
        self.ask("qmp_capabilities")

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def _connect(self, path: str) -> socket.socket:
        until = time.monotonic() + TIME_LIMIT
        while time.monotonic() < until:
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(TIME_LIMIT)
            try:
                made.connect(path)
            except OSError:
                made.close()
                assert self.process.poll() is None, self.errors
                time.sleep(0.05)
            else:
                return made
        raise AssertionError(f"no {path}: {self.errors}")

    def ask(self, command: str) -> Any:
        self._file.write(json.dumps({"execute": command}) + "\n")
        self._file.flush()
        while True:
            answer = json.loads(self._file.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]

    def quit(self) -> int:
        self.ask("quit")
        return self.process.wait(TIME_LIMIT)


@contextlib.contextmanager
def started(text: str, profile: Profile) -> Iterator[Machine]:
    directory = Path(tempfile.mkdtemp(prefix="tp-recipe-"))
    machine = None
    try:
        machine = Machine(directory, text, profile)
        yield machine
    finally:
        if machine is not None and machine.process.poll() is None:
            os.killpg(machine.process.pid, signal.SIGKILL)
            machine.process.wait()
        shutil.rmtree(directory)


def emulated(profile: Profile, firmware: str) -> str:
    text = recipe.recipe(profile, "qemu", "a, b's", firmware)
    assert text.count("-accel kvm\n") == 1
    return text.replace("-accel kvm\n", "-accel tcg\n")


@pytest.mark.parametrize(
    "firmware", ["bios", pytest.param("efi", marks=needs_ovmf)]
)  # fmt: skip
@pytest.mark.parametrize("profile", GUESTS)
def test_qemu_runs_the_recipe_without_a_word(profile: Profile, firmware: str) -> None:
    with started(emulated(profile, firmware), profile) as machine:
        assert machine.ask("query-status")["status"] == "running"
        assert machine.ask("query-name")["name"] == "a, b's"
        (medium,) = [
            drive["inserted"] for drive in machine.ask("query-block") if "medium" in str(drive)
        ]
        assert medium["ro"]
        assert machine.quit() == 0
        assert machine.errors == ""


def test_a_wrong_option_is_noticed() -> None:
    text = emulated(Profile.TOR_GUEST, "bios").replace("vmport=off", "vm-port=off")
    with (
        pytest.raises(AssertionError, match="vm-port"),
        started(text, Profile.TOR_GUEST),
    ):
        pass
