# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of guests' screens: what draws them, and what of a file is believed."""

import base64
import io
import json
import os
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tails_profiles import cli, picture, screen
from tails_profiles.errors import LaunchError
from tails_profiles.launch import MACHINES
from tails_profiles.profile import Profile
from tails_profiles.running import Running
from tails_profiles.system import files
from tails_profiles.system.machines import Process

TOR = Profile.TOR_GUEST
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(name: bytes, content: bytes, checksum: int | None = None) -> bytes:
    real = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I4s", len(content), name) + content + struct.pack(">I", real)


def header(width: int = 2, height: int = 1, *rest: int) -> bytes:
    return struct.pack(">IIBBBBB", width, height, *(rest or (8, 2, 0, 0, 0)))


#: Two pixels, red and green.
LINE = b"\0\xff\0\0\0\xff\0"


def png(
    head: bytes = header(), lines: bytes = LINE, more: bytes = b"", packed: bytes | None = None
) -> bytes:
    body = zlib.compress(lines) if packed is None else packed
    return SIGNATURE + chunk(b"IHDR", head) + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_picture_is_read_and_written_anew() -> None:
    found = picture.read(png())
    assert (found.width, found.height) == (2, 1)
    assert picture.read(found.png) == found


def test_nothing_but_pixels_is_left() -> None:
    words = b"Comment\0a viewer's parser of this has a hole"
    extra = chunk(b"tEXt", words) + chunk(b"iCCP", b"x\0\0" + zlib.compress(words))
    made = png(more=extra, packed=zlib.compress(LINE, 9))
    assert words in made
    assert picture.read(made).png == picture.read(png()).png
    # In two parts, as encoders that write while they draw do.
    body = zlib.compress(LINE)
    parts = chunk(b"IDAT", body[:4]) + chunk(b"IDAT", body[4:])
    split = SIGNATURE + chunk(b"IHDR", header()) + parts + chunk(b"IEND", b"")
    assert picture.read(split).png == picture.read(png()).png


def test_alpha_is_taken() -> None:
    found = picture.read(png(header(1, 2, 8, 6, 0, 0, 0), b"\0abcd\4efgh"))
    assert (found.width, found.height) == (1, 2)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no PNG"),
        (b"GIF89a", "no PNG"),
        (SIGNATURE, "unpack"),
        (png()[:-1], "unpack"),
        (png() + b"x", "behind its end"),
        (png()[:40] + b"\xff" + png()[41:], "checksum"),
        (SIGNATURE + chunk(b"IHDR", header(), 1) + chunk(b"IEND", b""), "checksum"),
        (SIGNATURE + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "no header"),
        (png(more=chunk(b"IHDR", header())), "no header"),
        (png(header()[:-1]), "unpack"),
        (png(header(0)), "0 x 1"),
        (png(header(1, 4097), LINE), "1 x 4097"),
        (png(header(2**32 - 1, 2**32 - 1)), "4294967295"),
        (png(header(2, 1, 16, 2, 0, 0, 0)), "eight bits"),
        (png(header(2, 1, 8, 3, 0, 0, 0)), "eight bits"),
        (png(header(2, 1, 8, 2, 1, 0, 0)), "eight bits"),
        (png(header(2, 1, 8, 2, 0, 1, 0)), "eight bits"),
        # Interlaced: other lengths of lines.
        (png(header(2, 1, 8, 2, 0, 0, 1)), "eight bits"),
        (png(lines=LINE[:-1]), "fewer"),
        (png(lines=LINE + b"\0"), "more pixels"),
        # Two megabytes of nothing, in two kilobytes.
        (png(lines=bytes(2 << 20)), "more pixels"),
        (png(packed=zlib.compress(LINE) + b"x"), "more pixels"),
        (png(packed=zlib.compress(LINE)[:-1]), "more pixels"),
        (png(packed=b"x"), "damaged"),
        (png(packed=b""), "more pixels"),
        (png(lines=b"\5" + LINE[1:]), "filter"),
        (png(header(1, 2), b"\0\1\2\3\7\1\2\3"), "filter"),
    ],
)
def test_whatever_else_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(LaunchError, match=why):
        picture.read(data)


@given(st.integers(0, len(png()) - 1), st.integers(0, 255))
def test_any_changed_byte_is_refused_or_makes_no_difference(place: int, byte: int) -> None:
    data = bytearray(png())
    changed = data[place] != byte
    data[place] = byte
    if changed:
        with pytest.raises(LaunchError):
            picture.read(bytes(data))
    else:
        assert picture.read(bytes(data)) == picture.read(png())


# ---- what draws it


def test_virtualbox_draws_as_the_guests_user() -> None:
    line = screen.plan(TOR, Path("/run/x"), "virtualbox")
    uuid = MACHINES[TOR].uuid
    assert line.endswith(f"VBoxManage controlvm {uuid} screenshotpng /run/x/tor-guest/screen.png\n")
    assert "--reuid=tails-profiles-gateway" in line
    assert "VBOX_USER_HOME=/run/x/virtualbox-gateway/config" in line
    assert "unshare --net" in screen.plan(Profile.APP_GUEST, Path("/run/x"), "virtualbox")


def test_qemu_draws_by_its_monitor() -> None:
    lines = screen.plan(TOR, Path("/run/a b"), "qemu").splitlines()
    assert lines[0] == "monitor() {"
    assert lines[-1] == (
        "monitor '/run/a b/tor-guest/qmp' "
        '\'{"execute": "screendump", "arguments": '
        '{"filename": "/run/a b/tor-guest/screen.png", "format": "png"}}\''
    )


class Machine:
    """A guest's hypervisor, which draws ``data``, or does what a hostile one could."""

    def __init__(self, directory: Path, data: bytes | None = png()) -> None:
        self.directory = directory
        (directory / TOR).mkdir(parents=True)
        self.data = data
        self.drew = 0

    def draw(self, path: Path, seconds: float) -> None:
        assert seconds > 0
        assert not path.exists()
        self.drew += 1
        if self.data is not None:
            path.write_bytes(self.data)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path / "host")
    found = [Running("tor-guest", Process(1, 1), "qemu")]
    monkeypatch.setattr(screen, "running", lambda _: found)
    monkeypatch.setattr(screen, "control", lambda *_: made)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def left(machine: Machine) -> list[str]:
    return [path.name for path in (machine.directory / TOR).iterdir()]


def test_picture_is_drawn_and_removed(machine: Machine) -> None:
    # What an earlier one left.
    (machine.directory / TOR / "screen.png").write_bytes(b"old")
    assert screen.show(TOR, machine.directory) == picture.read(png())
    assert (machine.drew, left(machine)) == (1, [])


def test_guest_that_does_not_run_is_said(machine: Machine) -> None:
    with pytest.raises(LaunchError, match="app-guest does not run"):
        screen.show(Profile.APP_GUEST, machine.directory)
    assert machine.drew == 0


def test_nothing_drawn_and_damage_name_the_guest(machine: Machine) -> None:
    machine.data = None
    with pytest.raises(LaunchError, match=r"tor-guest: .*screen\.png: No such file"):
        screen.show(TOR, machine.directory)
    machine.data = b"x"
    with pytest.raises(LaunchError, match="tor-guest: the picture of its screen is damaged"):
        screen.show(TOR, machine.directory)
    assert left(machine) == []


def test_what_a_hostile_process_puts_there_is_not_followed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(png())
    path = machine.directory / TOR / "screen.png"
    kinds = (lambda: path.symlink_to(secret), lambda: os.mkfifo(path), path.mkdir)
    for make in kinds:
        monkeypatch.setattr(machine, "draw", lambda *_, make=make: make())
        with pytest.raises(LaunchError, match=r"tor-guest: .*screen\.png"):
            screen.show(TOR, machine.directory)
    with pytest.raises(LaunchError, match=r"tor-guest: .*screen\.png: Is a directory"):
        # There before.
        screen.show(TOR, machine.directory)
    assert secret.exists()


def test_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert files.read_foreign(path, 5) == b"12345"
    with pytest.raises(OSError, match="at most 4 bytes"):
        files.read_foreign(path, 4)


# ---- the command


def test_bytes_go_to_standard_output(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stream = SimpleNamespace(buffer=written, isatty=lambda: False, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["host", "show", "tor-guest", "--directory", str(machine.directory)]) == 0
    assert written.getvalue() == picture.read(png()).png


def test_json_has_size_and_file(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["host", "show", "tor-guest", "--json", "--directory", str(machine.directory)]
    assert cli.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert base64.b64decode(found.pop("png")) == picture.read(png()).png
    assert found == {"profile": "tor-guest", "width": 2, "height": 1}


def test_dry_run_draws_nothing(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["host", "show", "tor-guest", "--dry-run", "--directory", str(machine.directory)]
    assert cli.main(words) == 0
    assert "screendump" in capsys.readouterr().out
    assert machine.drew == 0


def test_terminal_gets_no_bytes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["host", "show", "tor-guest", "--directory", str(machine.directory)]) == 1
    assert "nothing for a terminal" in capsys.readouterr().err
    assert machine.drew == 0


def test_root_is_needed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert cli.main(["host", "show", "tor-guest", "--directory", str(machine.directory)]) == 7
    assert "run as root" in capsys.readouterr().err
