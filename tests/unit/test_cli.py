# SPDX-License-Identifier: GPL-3.0-or-later
"""The command as its users type it."""

import json
from pathlib import Path

import pytest

from tails_profiles.cli import build_parser, main
from tails_profiles.profile import Profile

TOP = Path(__file__).parents[2]


def dmi(root: Path, **fields: str) -> Path:
    directory = root / "class/dmi/id"
    directory.mkdir(parents=True)
    for name, value in fields.items():
        (directory / name).write_text(value + "\n")
    return root


def test_detect_prints_the_selection_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dmi(tmp_path, bios_vendor="tails-profile:tor-guest")
    assert main(["detect", "--json", "--sysfs", str(root)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["profile"], answer["field"]) == ("tor-guest", "bios_vendor")


def test_detect_of_a_missing_tree_is_one_line_and_status_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "--sysfs", str(tmp_path / "nothing")]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tails-profiles: ")
    assert "Traceback" not in captured.err


def test_render_prints_the_bytes_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "tor-guest", "--variant", "tcp-dns", "--link", "uplink"]) == 0
    golden = TOP / "tests/golden/rulesets/tor-guest-tcp-dns.uplink.nft"
    assert capsys.readouterr().out == golden.read_text()


@pytest.mark.parametrize(
    "argv", [["render", "normal"], ["render", "tor-guest", "--variant", "x"],
             ["render", "app-guest", "--link", "uplink"]]
)  # fmt: skip
def test_render_of_what_does_not_exist_is_status_five(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 5
    assert capsys.readouterr().err.count("\n") == 2


def test_usage_error_is_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["show", "nothing"])
    assert caught.value.code == 2
    assert "tor-guest" in capsys.readouterr().err


def test_list_and_show_name_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for profile in Profile:
        assert profile in listed
        assert main(["show", profile, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["profile"] == profile


def test_manual_and_completion_know_every_command_and_option() -> None:
    manual = (TOP / "debian/tails-profiles.1").read_text().replace("\\-", "-")
    completion = (TOP / "debian/tails-profiles.bash-completion").read_text()
    parser = build_parser()
    commands = next(
        action.choices for action in parser._actions if isinstance(action.choices, dict)
    )
    for name, command in commands.items():
        options = [o for action in command._actions for o in action.option_strings]
        for word in (name, *(option for option in options if option.startswith("--"))):
            assert word in manual, word
            assert word in completion, word
