# SPDX-License-Identifier: GPL-3.0-or-later
"""Sentences and their translations: no display."""

import re
import subprocess
from pathlib import Path

import pytest

from greeter_plugin import words
from greeter_plugin.capability import Obstacle, judge
from greeter_plugin.model import Choice, Problem
from greeter_plugin.words import Words

from .test_model import GOOD, POSSIBLE

PLUGIN = Path(__file__).parents[2] / "greeter_plugin"
LANGUAGES = (PLUGIN / "po/LINGUAS").read_text().split()


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Catalogues, as the package has them."""
    tree = tmp_path_factory.mktemp("installed")
    subprocess.run([PLUGIN / "install", tree], check=True)
    return str(tree / "usr/share/locale")


def sentences() -> list[str]:
    found = []
    for name, value in vars(words).items():
        if name.isupper() and name not in {"DOMAIN", "LOCALE_DIRECTORY", "_LOCALE"}:
            found += [value] if isinstance(value, str) else list(value.values())
    return found


def test_languages_are_the_promised_ones() -> None:
    assert LANGUAGES == ["de", "es", "fa", "fr", "pt_BR", "ru"]


def ids(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith(("msgid", "msgctxt"))]


def test_template_is_up_to_date(tmp_path: Path) -> None:
    subprocess.run([PLUGIN / "po/update", tmp_path / "fresh.pot"], check=True)
    assert len(ids(tmp_path / "fresh.pot")) > 30
    assert ids(tmp_path / "fresh.pot") == ids(PLUGIN / "po/tails-profiles.pot")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_is_translated(language: str) -> None:
    done = subprocess.run(
        ["msgfmt", "--check", "--statistics", "-o", "/dev/null", PLUGIN / f"po/{language}.po"],
        check=True, capture_output=True, text=True, env={"LC_ALL": "C", "PATH": "/usr/bin"},
    )  # fmt: skip
    assert done.stderr == f"{len(sentences()) + 2} translated messages.\n"


@pytest.mark.parametrize("language", LANGUAGES)
def test_translation_is_used_and_keeps_names(language: str, locales: str) -> None:
    say = Words(f"{language[:2]}_{language[3:] or language[:2].upper()}", locales)
    for text in sentences():
        translated = say.say(text)
        assert translated != text
        for name in (r"\bTails\b", "I2P", r"\bTor\b", "{needs}", "{has}"):
            assert bool(re.search(name, text)) == bool(re.search(name, translated)), translated
        assert ("_" in text) == ("_" in translated)


@pytest.mark.parametrize("language", LANGUAGES)
def test_translation_keeps_figure_and_unit_on_one_line(language: str) -> None:
    text = (PLUGIN / f"po/{language}.po").read_text()
    found = re.findall(r"^msgstr .*", text, re.MULTILINE)
    assert sum(line.count("{needs}\u00a0") for line in found) == 3
    assert sum(line.count("{has}\u00a0") for line in found) == 2


def test_french_has_its_own_spaces_and_apostrophes() -> None:
    found = re.findall(r"^msgstr .*", (PLUGIN / "po/fr.po").read_text(), re.MULTILINE)
    text = "\n".join(found)
    assert len(re.findall("\u00a0[;:]", text)) > 8
    assert not re.search(r" [;:!?]|[^\u00a0 /][;!?] |'", text)


@pytest.mark.parametrize("locale", ["", "en_US", "xx_XX", "pt_PT", "../de", "de/..", "C", "\x00"])
def test_language_without_a_catalogue_is_english(locale: str, locales: str) -> None:
    assert Words(locale, locales).say(words.ON) == "On"


def test_damaged_catalogue_is_english(tmp_path: Path) -> None:
    place = tmp_path / "de/LC_MESSAGES"
    place.mkdir(parents=True)
    (place / "tails-profiles.mo").write_bytes(b"\xde\x12\x04\x95" + b"\xff" * 30)
    assert Words("de_DE", str(tmp_path)).say(words.ON) == "On"


@pytest.mark.parametrize(
    ("memory", "needs", "has"), [(3647, "3.6", "3.5"), (2048, "3.6", "2.0"), (0, "3.6", "0.0")]
)
def test_memory_is_rounded_apart(memory: int, needs: str, has: str) -> None:
    verdict = judge(GOOD._replace(memory=memory))
    text = Words().value(Choice(), verdict, None)
    assert f"needs {needs} GB of memory and this computer has {has} GB" in text


@pytest.mark.parametrize(
    ("locale", "figure"),
    [("de_DE", "3,6\u00a0GB"), ("fa_IR", "۳\u066b۶"), ("ru_RU", "3,6\u00a0ГБ")],
)
def test_figures_are_written_as_the_language_does(locales: str, locale: str, figure: str) -> None:
    assert figure in Words(locale, locales).say(words.EXPLANATION, POSSIBLE)


def test_every_obstacle_and_problem_has_words() -> None:
    assert set(words.OBSTACLES) == set(Obstacle)
    assert set(words.PROBLEMS) == set(Problem)


def test_value_says_what_holds() -> None:
    say = Words()
    assert say.value(Choice(), POSSIBLE, None) == "Off (default)"
    assert say.value(Choice(enabled=True), POSSIBLE, None) == "On"
    assert say.value(Choice(enabled=True, i2p=True), POSSIBLE, None) == "On, with I2P"
    damaged = say.value(Choice(), POSSIBLE, Problem.DAMAGED)
    assert damaged.splitlines()[0].startswith("Warning:")
    assert damaged.endswith("Off (default)")
