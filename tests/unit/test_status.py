# SPDX-License-Identifier: GPL-3.0-or-later
"""What a boot has become, from files that may be damaged and services that may not answer."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as limits
from hypothesis import strategies as st

from tails_profiles import cli
from tails_profiles.errors import CommandNotFoundError, DamagedStateError
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.system import dmi, files, nft, tor, units
from tails_profiles.system import status as edge

SELECTION = {
    "profile": "app-guest",
    "field": "bios_vendor",
    "token": "tails-profile:app-guest",
    "reason": "bios_vendor says so",
    "settings_promised": False,
}
STATUS = {"profile": "app-guest", "field": "bios_vendor", "stage": "links", "links": ["tor"],
          "ruleset": "app-guest.nft", "ruleset_sha256": "00"}  # fmt: skip
FAILURE = {
    "step": "links",
    "message": "app-guest has no link tor",
    "hint": "look",
    "reason": "links",
}


@pytest.fixture(name="paths")
def _paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A machine in a directory, for a user who is not root; systemd has started nothing."""
    paths = Paths(tmp_path)
    paths.state.mkdir(parents=True)
    monkeypatch.setattr(cli, "Paths", lambda: paths)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(units, "properties", lambda *_: {"ActiveState": "inactive"})
    return paths


def write(paths: Paths, **contents: object) -> None:
    for name, value in contents.items():
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        (paths.state / f"{name}.json").write_bytes(text)


def device(paths: Paths, name: str, flags: str, *, parent: bool = True) -> None:
    directory = paths.sysfs / "class/net" / name
    directory.mkdir(parents=True)
    (directory / "flags").write_text(flags + "\n")
    (directory / "address").write_text("00:11:22:33:44:55\n")
    if parent:
        (directory / "device").mkdir()


def test_a_guest_that_is_there(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    write(paths, selection=SELECTION, status=STATUS)
    device(paths, "tor", "0x1003")
    device(paths, "lo", "0x9", parent=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(nft, "tables", lambda: frozenset({"inet tails_profiles"}))
    status = edge.read_status(paths)
    assert (status.profile, status.stage, status.loaded) == ("app-guest", "links", True)
    assert [(link.name, link.up) for link in status.links] == [("tor", True)]
    assert ("rule set", "app-guest.nft, in force") in status.lines()


@pytest.mark.parametrize(("tables", "loaded"), [(frozenset({"inet other"}), False), (None, None)])
def test_rule_set_that_is_not_in_force_and_nft_that_is_missing_are_told_apart(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, tables: frozenset[str] | None, loaded: object
) -> None:
    def answer() -> frozenset[str]:
        if tables is None:
            raise CommandNotFoundError("nft")
        return tables

    write(paths, selection=SELECTION, status=STATUS)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(nft, "tables", answer)
    status = edge.read_status(paths)
    assert status.loaded is loaded
    text = dict(status.lines())["rule set"]
    assert ("NOT in force" in text) == (loaded is False)


def test_failure_is_quarantine_and_comes_first(paths: Paths) -> None:
    write(paths, selection=SELECTION, status=STATUS, failure=FAILURE)
    status = edge.read_status(paths)
    assert (status.profile, status.stage) == ("quarantine", "failed")
    assert [*status.lines()][:2] == [("failure", "app-guest has no link tor"), ("to do", "look")]
    # Lockdown's table, which stands then, has the same name.
    assert status.loaded is False


def test_lockdown_that_failed_without_a_word_is_quarantine(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "properties", lambda *_: {"ActiveState": "active"})
    assert edge.read_status(paths).profile == "quarantine"


def test_root_reads_the_fields_where_nothing_is_recorded(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = paths.sysfs / "class/dmi/id"
    directory.mkdir(parents=True)
    (directory / "bios_vendor").write_text("tails-profile:nonsense\n")
    assert edge.read_status(paths).profile == "normal"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(dmi, "in_container", lambda: False)
    assert edge.read_status(paths).profile == "quarantine"


DAMAGED: list[tuple[str, Any]] = [
    ("selection", b""),
    ("selection", b"{"),
    ("selection", b"\0" * 20),
    ("selection", b"\xff\xfe"),
    ("selection", b"[" * 100_000),
    ("selection", b" " * (files.MAX_STATE + 1)),
    ("selection", []),
    ("selection", {}),
    ("selection", {**SELECTION, "profile": "tor-gest"}),
    ("selection", {**SELECTION, "profile": []}),
    ("selection", {**SELECTION, "field": 7}),
    ("selection", {**SELECTION, "reason": None}),
    ("selection", {**SELECTION, "settings_promised": "yes"}),
    ("selection", {**SELECTION, "more": 1}),
    ("status", {**STATUS, "ruleset": 5}),
    ("status", {**STATUS, "stage": {}}),
    ("status", b"null"),
    ("failure", {**FAILURE, "message": ["x"]}),
    ("failure", {"hint": "x"}),
    ("failure", b'{"message": "x"'),
    ("lease", {"note": 1}),
]


@pytest.mark.parametrize(("name", "content"), DAMAGED, ids=map(str, range(len(DAMAGED))))
def test_damaged_state_file_is_named_in_one_line(
    paths: Paths, capsys: pytest.CaptureFixture[str], name: str, content: object
) -> None:
    write(paths, **{"selection": SELECTION, "status": STATUS, name: content})
    assert cli.main(["status"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0].startswith(f"tails-profiles: {paths.state}/{name}.json is damaged: ")
    assert len(lines) == 2
    assert len(lines[0]) < 300


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_state_file_that_is_no_file_is_refused_at_once(paths: Paths, make: Any) -> None:
    make(paths.selection)
    with pytest.raises(DamagedStateError):
        edge.read_status(paths)


def test_detect_without_root_repeats_what_was_recorded_or_asks_for_root(
    paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["detect"]) == 3
    assert capsys.readouterr().err.splitlines()[1] == "  run as root"
    write(paths, selection=SELECTION)
    assert cli.main(["detect", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == SELECTION


#: As the boot steps would write it, but for its words, which may be anything.
WORDS = st.fixed_dictionaries(
    {**{key: st.just(value) for key, value in SELECTION.items()},
     "reason": st.text(max_size=9), "field": st.text(max_size=9)}
)  # fmt: skip
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*SELECTION, *STATUS, *FAILURE]) | st.text(max_size=5),
            inner,
            max_size=6,
        )
    ),
    max_leaves=9,
)


@limits(max_examples=100, deadline=None, suppress_health_check=[*HealthCheck])
@given(
    name=st.sampled_from(["selection", "status", "failure", "lease"]),
    content=st.binary(max_size=60)
    | (JSON_VALUES | WORDS).map(lambda value: json.dumps(value).encode()),
    command=st.sampled_from([["status"], ["status", "--json"], ["detect"], ["detect", "--json"]]),
)
def test_no_state_file_makes_a_traceback_or_moves_the_terminal(
    paths: Paths, capsys: pytest.CaptureFixture[str], name: str, content: bytes, command: list[str]
) -> None:
    write(paths, **{"selection": SELECTION, "status": STATUS, "failure": FAILURE, name: content})
    status = cli.main(command)
    captured = capsys.readouterr()
    assert status in {0, 3}
    assert (status == 0) == (captured.err == "")
    if "--json" not in command:
        assert all(char.isprintable() or char == "\n" for char in captured.out + captured.err)


def test_tor_whose_directory_is_closed_to_us_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refuse)
    assert tor.bootstrap(tmp_path / "control").note == "run as root to ask Tor: Permission denied"


def test_every_profile_can_be_recorded(paths: Paths) -> None:
    for profile in Profile:
        write(paths, selection={**SELECTION, "profile": profile.value})
        assert edge.read_status(paths).profile == profile
