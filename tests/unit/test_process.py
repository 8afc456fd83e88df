# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading what a command prints, within bounds."""

import sys
import time
from pathlib import Path

import pytest

from tails_profiles.command import Command
from tails_profiles.errors import AuditError, CommandError, CommandNotFoundError
from tails_profiles.system import hypervisors, process

pytestmark = pytest.mark.allow_processes


def shell(text: str) -> Command:
    return Command(("/bin/sh", "-c", text))


def test_answer_status_and_complaint_are_read() -> None:
    done = process.read(shell("printf 'é'; echo no >&2; exit 3"), limit=10, ok=(3,))
    assert (done.status, done.stdout, done.stderr) == (3, "é", "no\n")


def test_locale_is_that_of_no_country_with_utf_8() -> None:
    done = process.read(shell('printf "%s" "$LC_ALL"'), limit=100)
    assert done.stdout == "C.UTF-8"


def test_status_that_means_failure_is_raised_with_the_complaint() -> None:
    with pytest.raises(CommandError, match="failed with status 3: why") as caught:
        process.read(shell("echo why >&2; exit 3"), limit=10)
    assert caught.value.status == 3


@pytest.mark.parametrize("size", [100, 101])
def test_answer_is_bounded_to_the_byte(size: int) -> None:
    command = Command((sys.executable, "-c", f"print('x' * {size}, end='')"))
    if size == 100:
        assert process.read(command, limit=100).stdout == "x" * 100
        return
    with pytest.raises(CommandError, match="more than 100 bytes"):
        process.read(command, limit=100)


def test_command_that_prints_without_end_is_ended() -> None:
    began = time.monotonic()
    with pytest.raises(CommandError, match="more than 1000 bytes"):
        process.read(Command(("/usr/bin/yes",)), limit=1000)
    assert time.monotonic() - began < process.TIMEOUT


def test_command_that_says_nothing_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TIMEOUT", 0.2)
    with pytest.raises(CommandError, match="did not end in time"):
        process.read(Command(("/bin/sleep", "1000")), limit=10)


def test_complaints_without_end_do_not_fill_memory() -> None:
    done = process.read(shell("yes | head -c 1000000 >&2"), limit=1000)
    assert len(done.stderr) == 1000


def test_program_that_is_not_there() -> None:
    with pytest.raises(CommandNotFoundError):
        process.read(Command(("/nowhere/program",)), limit=10)


def test_settings_file_is_read_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vm.vbox"
    with pytest.raises(AuditError, match=r"vm\.vbox cannot be read: No such file"):
        hypervisors.read_settings_file(str(path))
    path.write_bytes(b"x" * 10)
    monkeypatch.setattr(hypervisors, "LIMIT", 10)
    assert hypervisors.read_settings_file(str(path)) == "x" * 10
    path.write_bytes(b"x" * 11)
    with pytest.raises(AuditError, match="more than 10 bytes"):
        hypervisors.read_settings_file(str(path))


#: VBoxManage 7.2.22, where its service ended just as it was called.
ENDED = """\
VBoxManage: error: Failed to create the VirtualBox object!
VBoxManage: error: Most likely, the VirtualBox COM server is not running or failed to start.
"""


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        ([(0, "")], 0),
        ([(1, ENDED), (0, "")], 0),
        # Asked once more, and not for ever.
        ([(1, ENDED), (1, ENDED)], None),
        ([(1, ENDED), (1, "VBoxManage: error: other")], None),
        ([(1, "VBoxManage: error: other")], None),
    ],
)
def test_virtualboxs_service_that_ends_is_asked_again(
    answers: list[tuple[int, str]], shown: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    coming = iter(answers)

    def read(command: Command, *, limit: int, ok: tuple[int, ...]) -> process.Completed:
        asked.append(command.argv)
        status, errors = next(coming)
        if status not in ok:
            raise CommandError(command.display(), status, errors)
        return process.Completed(status, "list", errors)

    monkeypatch.setattr(hypervisors, "read", read)
    if shown is None:
        with pytest.raises(CommandError):
            hypervisors.list_virtualbox("VBoxManage")
    else:
        assert hypervisors.list_virtualbox("VBoxManage") == "list"
    assert asked == [("VBoxManage", "list", "vms")] * len(answers)
    # What may fail, and then says that the service ended, is asked again as well.
    coming = iter([(1, ENDED), (1, "VBoxManage: error: Could not find a registered machine")])
    with pytest.raises(AuditError, match="Could not find"):
        hypervisors.ask_virtualbox("VBoxManage", "uuid")
