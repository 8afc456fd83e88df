# SPDX-License-Identifier: GPL-3.0-or-later
"""bash completion, asked as bash asks it, against the program's own grammar."""

import argparse
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tails_profiles import firewall, recipe
from tails_profiles.cli import build_parser
from tails_profiles.profile import GUESTS, PROFILES, Profile

SCRIPT = Path(__file__).parents[2] / "debian/tails-profiles.bash-completion"

pytestmark = [
    pytest.mark.allow_processes,
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
]


def complete(*words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last of ``words``, which follow the program's name."""
    typed = shlex.join(["tails-profiles", *words])
    asked = (
        f"source {shlex.quote(str(SCRIPT))}; COMP_WORDS=({typed}); COMP_CWORD={len(words)};"
        ' _tails_profiles; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-uc", asked], capture_output=True, text=True, check=True, cwd=cwd, timeout=60
    )
    assert done.stderr == ""
    return sorted(filter(None, done.stdout.splitlines()))


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> list[str]:
    return sorted(
        option
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--")
    )


COMMANDS = subparsers(build_parser())
ACTIONS = subparsers(COMMANDS["host"])


def test_first_word_is_every_command() -> None:
    assert complete("") == sorted([*COMMANDS, "--help", "--version"])
    assert complete("sh") == ["show"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command(name: str) -> None:
    assert complete(name, "--") == options(COMMANDS[name])


@pytest.mark.parametrize("name", ACTIONS)
def test_every_option_of_every_action(name: str) -> None:
    assert complete("host", name, "--") == options(ACTIONS[name])


def test_host_has_its_actions() -> None:
    assert complete("host", "") == sorted([*ACTIONS, "--help"])
    assert complete("host", "st") == ["start", "status", "stop"]
    assert {*complete("host", "show", "")} >= {*GUESTS}
    assert complete("host", "show", "tor-guest", "tor") == []


def test_profiles_and_only_one() -> None:
    assert set(complete("show", "")) >= {*PROFILES}
    assert set(complete("token", "")) >= {*GUESTS}
    assert not {*complete("token", "")} & {"host", "normal", "quarantine"}
    assert complete("render", "quar") == ["quarantine"]
    assert complete("show", "host", "") == ["--help", "--json"]
    assert complete("token", "tor-guest", "tor") == []


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("token", "tor-guest", "--hypervisor", ""), [*recipe.HYPERVISORS]),
        (("token", "--hypervisor", "=", "q"), ["qemu"]),
        (("token", "--hypervisor", "="), [*recipe.HYPERVISORS]),
        (("host", "plan", "--hypervisor", ""), ["qemu", "virtualbox"]),
        (("host", "audit", "--hypervisor", ""), [*recipe.HYPERVISORS]),
        (("host", "audit", "vm", "--profile", ""), [*GUESTS]),
        (("token", "tor-guest", "--firmware", ""), [*recipe.FIRMWARES]),
        (("render", "tor-guest", "--variant", ""), [*firewall.variants(Profile.TOR_GUEST)]),
        (("render", "tor-guest", "--link", ""), [*firewall.link_tables(Profile.TOR_GUEST)]),
        (("render", "app-guest", "--link", ""), [*firewall.link_tables(Profile.APP_GUEST)]),
        (("host", "plan", "--format", ""), ["json", "shell"]),
        (("token", "tor-guest", "--vm", ""), []),
    ],
)
def test_values_of_options(typed: tuple[str, ...], expected: list[str]) -> None:
    assert complete(*typed) == sorted(expected)


def test_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "live image.iso").touch()
    (tmp_path / "tree").mkdir()
    assert complete("host", "plan", "--image", "", cwd=tmp_path) == ["live image.iso", "tree"]
    assert complete("host", "start", "--settings", "li", cwd=tmp_path) == ["live image.iso"]
    assert complete("detect", "--sysfs", "", cwd=tmp_path) == ["tree"]
