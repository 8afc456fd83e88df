# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings disk: its bytes, what reads it, and what it refuses."""

import io
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tails_profiles import settings_disk
from tails_profiles.errors import SettingsError
from tails_profiles.paths import Paths
from tails_profiles.settings_disk import LABEL, MAX_BUNDLE, Content, build, label, read
from tails_profiles.system import settings_disk as edge
from tails_profiles.system.process import Completed

pycdlib = pytest.importorskip("pycdlib")
SEED = bytes(range(64))


@given(
    st.binary(min_size=1, max_size=65536),
    st.binary(min_size=64, max_size=64),
    st.binary(max_size=5000),
)
def test_what_is_written_is_read(settings: bytes, seed: bytes, bundle: bytes) -> None:
    assert read(build(settings, seed, bundle)) == Content(settings, seed, bundle)


def test_largest_content_is_found_whole_and_more_is_refused(tmp_path: Path) -> None:
    content = Content(b"x" * 65536, SEED, b"y" * MAX_BUNDLE)
    paths = machine(tmp_path, vda=build(content.settings, content.seed, content.bundle))
    assert edge.find(paths, promised=True, timeout=1) == content
    with pytest.raises(ValueError, match="at most"):
        build(b"{}", SEED, bytes(MAX_BUNDLE + 1))


def test_image_is_read_by_another_implementation() -> None:
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(build(b'{"x": 1}' * 500, SEED, b"PK" * 3000)))
    assert image.pvd.volume_identifier.decode().strip() == LABEL
    for path, content in (
        ("/SETTINGS.JSON;1", b'{"x": 1}' * 500), ("/SEED.;1", SEED), ("/RESEED.;1", b"PK" * 3000),
    ):  # fmt: skip
        out = io.BytesIO()
        image.get_file_from_iso_fp(out, iso_path=path)
        assert out.getvalue() == content
    image.close()


def test_bytes_do_not_depend_on_time_zone_or_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for zone, now in (("UTC", 0.0), ("Asia/Tokyo", 1.8e9)):
        monkeypatch.setitem(os.environ, "TZ", zone)
        time.tzset()
        monkeypatch.setattr(time, "time", lambda now=now: now)
        made.append(build(b"{}", SEED))
    monkeypatch.undo()
    time.tzset()
    assert made[0] == made[1]


def test_image_holds_no_word_but_the_label_and_the_names() -> None:
    image = build(b"{}", SEED)
    words = {word for word in image.translate(bytes(range(32)) + bytes(range(32, 127)) + bytes(129))
             .replace(b"\0", b" ").split() if word.isalpha() and len(word) > 3}  # fmt: skip
    assert words <= {b"TAILSPROF", b"SETTINGS", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


@pytest.mark.parametrize("position", [16 * 2048 + 700, 18 * 2048, 20 * 2048 + 40, 21 * 2048 + 2000])
def test_image_that_differs_in_a_byte_is_refused(position: int) -> None:
    image = bytearray(build(b"{}", SEED))
    image[position] ^= 1
    with pytest.raises(SettingsError):
        read(bytes(image))


@given(st.binary(max_size=200), st.integers(0, 22 * 2048))
def test_damaged_image_is_refused_and_nothing_else_raised(damage: bytes, position: int) -> None:
    image = bytearray(build(b"{}", SEED))
    image[position : position + len(damage)] = damage
    if bytes(image) == build(b"{}", SEED):
        return
    try:
        content = read(bytes(image))
    except SettingsError:
        return
    # Only the content itself may differ: it has its own validator.
    assert build(content.settings, content.seed, content.bundle) == bytes(image)


def machine(root: Path, **disks: bytes) -> Paths:
    """A machine with these block devices."""
    for name, content in disks.items():
        (root / "sys/class/block" / name).mkdir(parents=True)
        (root / "dev").mkdir(exist_ok=True)
        (root / "dev" / name).write_bytes(content)
    return Paths(root)


@pytest.fixture(autouse=True)
def _no_udev(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "run", lambda *_, **__: Completed(0, "", ""))


OTHER = b"\0" * 40000


def test_only_settings_disk_is_found_among_others(tmp_path: Path) -> None:
    paths = machine(tmp_path, vda=OTHER, sr0=build(b"{}", SEED) + bytes(4096), vdb=b"")
    assert edge.find(paths, promised=True, timeout=1) == Content(b"{}", SEED)


def test_no_disk_is_an_answer_unless_it_was_promised(tmp_path: Path) -> None:
    paths = machine(tmp_path, vda=OTHER)
    assert edge.find(paths, promised=False, timeout=1) is None
    with pytest.raises(SettingsError, match="promises a settings disk"):
        edge.find(paths, promised=True, timeout=1)


def test_two_settings_disks_are_refused_by_name(tmp_path: Path) -> None:
    paths = machine(tmp_path, vda=build(b"{}", SEED), vdb=build(b"{}", SEED))
    with pytest.raises(SettingsError, match=r"vda and .*vdb"):
        edge.find(paths, promised=False, timeout=1)


@pytest.mark.parametrize("cut", [20 * 2048, 22 * 2048 + 63])
def test_truncated_settings_disk_is_refused(tmp_path: Path, cut: int) -> None:
    paths = machine(tmp_path, vda=build(b"{}", SEED)[:cut])
    with pytest.raises(SettingsError):
        edge.find(paths, promised=False, timeout=1)


def test_disk_without_the_label_is_none() -> None:
    assert label(OTHER) == ""
    assert label(build(b"{}", SEED)) == LABEL
    assert settings_disk.label(b"") == ""


def test_seed_reaches_the_kernels_pool(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    pool = tmp_path / "dev/urandom"
    pool.touch()
    edge.mix_seed(SEED, Paths(tmp_path))
    assert pool.read_bytes() == SEED


@pytest.mark.parametrize(
    ("status", "took", "refused"), [(0, 9.0, False), (1, 0.1, False), (1, 5.0, True)]
)
def test_udev_that_is_still_busy_is_no_answer(
    status: int, took: float, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter((100.0, 100.0 + took))
    monkeypatch.setattr(edge, "monotonic", lambda: next(clock))
    monkeypatch.setattr(edge, "run", lambda *_, **__: Completed(status, "", ""))
    if refused:
        with pytest.raises(SettingsError, match="within 5 s"):
            edge.find(Paths(tmp_path), promised=False, timeout=5)
    else:
        assert edge.find(Paths(tmp_path), promised=False, timeout=5) is None
