# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``--help``, the manual page and the README say is what the program does."""

import argparse
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tails_profiles import audit, cli, launch_steps, running, selftest, usage
from tails_profiles.cli import build_parser, main
from tails_profiles.paths import Paths
from tails_profiles.profile import GUESTS, PROFILES, Profile
from tails_profiles.selection import Selection
from tails_profiles.status import I2pStatus, LinkStatus, Status
from tails_profiles.system import machines
from tails_profiles.tor_status import TorStatus
from tests.unit.test_launch import plan as launch_plan

SEEDS = {profile: bytes(64) for profile in GUESTS}
TOP = Path(__file__).parents[2]
MANUAL = (TOP / "debian/tails-profiles.1").read_text().replace("\\-", "-")
#: What looks at nothing but its own constants, and may be run by a test.
HARMLESS = {"list", "show", "render", "token"}


def parsers(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command and action by its full name, and their parsers."""
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, child in action.choices.items():
                yield from parsers(child, f"{name} {word}".strip())


ALL = dict(parsers(build_parser()))


def command_lines() -> Iterator[list[str]]:
    """Every line somewhere that a reader could type, without what the shell does with it."""
    texts = [call for words in usage.COMMANDS.values() for call, _ in words.examples]
    texts += re.findall(r"^  (tails-profiles .*?)(?:   |$)", usage.OVERVIEW, re.M)
    texts += re.findall(r"^(tails-profiles [a-z].*)$", MANUAL, re.M)
    for path in (TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))):
        text = path.read_text()
        texts += re.findall(r"`(tails-profiles [a-z][^`|]*)`", text)
        texts += [
            f"tails-profiles {rest}"
            for rest in re.findall(r"-m tails_profiles ((?:[^#\n]|\\\n)*)", text)
        ]
    for text in texts:
        words = shlex.split(re.split(r" [|>]", text)[0])
        yield [word for word in words[1:] if word not in {"…", "..."}]


LINES = [*command_lines()]


def test_there_are_examples() -> None:
    assert len(LINES) > 20
    assert ["token", "tor-guest", "--hypervisor", "virtualbox", "--vm", "Gateway"] in LINES


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_every_line_that_a_reader_could_type_is_taken(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if " ".join(words) in ALL:
        # A command named in a sentence, which may need more.
        return
    arguments = build_parser().parse_args(words)
    if words[0] in HARMLESS:
        assert arguments.handler(arguments) == 0
        assert capsys.readouterr().out


@pytest.mark.parametrize("name", filter(None, ALL))
def test_every_command_has_words_of_its_own_and_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = usage.COMMANDS[name]
    assert name == "host" or words.examples
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    assert words.text in shown
    assert usage.EXIT_STATUS in shown
    assert max(map(len, shown.splitlines())) <= 90


@pytest.mark.parametrize("name", filter(None, ALL))
def test_manual_names_every_command_and_its_options(name: str) -> None:
    commands = MANUAL[MANUAL.index(".SH COMMANDS") : MANUAL.index(".SH SETTINGS FILE")]
    assert re.search(rf'^\.(B|BR) "?{name}\b', commands, re.M) or name == "host", name
    for action in ALL[name]._actions:
        for option in action.option_strings:
            if option.startswith("--") and option != "--help":
                assert option in commands, option


def keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_manual_names_every_json_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "find", list)
    tried = [(selftest.attempts(Profile.APP_GUEST)[0], selftest.Observation())]
    asked = dict.fromkeys(selftest.services(Profile.APP_GUEST))
    guest = running._guest_status(tmp_path, Profile.APP_GUEST, None, None)
    plan = launch_plan(i2p=True)
    status = Status(
        "normal", None, "", None, None, None, None, (LinkStatus("a", "b", up=True),),
        TorStatus(1, ""), I2pStatus(False, 0, 0, 0), None, None, "", None, None,
    )  # fmt: skip
    for command, value in (
        ("detect", Selection(next(iter(PROFILES)), None, None, "").to_json()),
        ("show", [cli.profile_json(profile) for profile in PROFILES]),
        ("status", status.to_json()),
        ("check", selftest.report(Profile.APP_GUEST, tried, asked, watched=True).to_json()),
        ("host plan", launch_steps.to_json(plan, launch_steps.steps(plan, SEEDS))),
        ("host status", [running.status(tmp_path), guest]),
        (
            "host audit",
            audit.report("vm", "qemu", Profile.TOR_GUEST, [audit.unknown("a", "b")]).to_json(),
        ),
    ):
        section = re.search(rf'^\.BR "?{command}"? .*?^\.(TP|SS)', MANUAL, re.M | re.S)
        assert section
        for key in keys(value):
            assert re.search(rf"\b{key}\b", section[0]), f"{command}: {key}"


def test_manual_names_every_file_of_a_boot() -> None:
    paths = Paths()
    for path in (paths.selection, paths.status, paths.failure, paths.lease, paths.rulesets):
        assert str(path) in MANUAL


def test_json_of_show_is_stable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "app-guest", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [*shown] == ["profile", "summary", "chosen_by", "token", "target", "links", "held",
                        "variants"]  # fmt: skip
    assert shown["links"] == [
        {"name": "tor", "mac": "00:11:22:33:44:55", "address": "10.1.2.3/29", "peer": "10.1.2.1",
         "segment": "tails-tor", "optional": False},
        {"name": "i2p", "mac": "00:11:22:33:44:56", "address": "10.1.3.3/29", "peer": "10.1.3.1",
         "segment": "tails-i2p", "optional": True},
    ]  # fmt: skip
