# SPDX-License-Identifier: GPL-3.0-or-later
"""The sh classifier against the corpus, against its reference, and against its own mutants."""

import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tails_profiles.selection import select
from tests.data.tokens import CASES, HARMLESS, MALFORMED, MALFORMED_TAGS, Case, Raw
from tests.dmi_fields import fields_of, write_case

CLASSIFIER = Path(__file__).parents[2] / "units/classify.sh"

# One dash for all machines: each line is a directory, each answer a line.
DRIVER = """
set -eu
. "$1"
while read -r directory; do
    classify "$directory"
    echo "$tp_profile/$tp_field/$tp_settings"
done
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[tuple[Case, Path], ...]]:
    """The corpus as directories."""
    root = Path(mkdtemp(dir="/dev/shm"))
    made = []
    for number, case in enumerate(case for case in CASES if not case.container):
        directory = root / str(number)
        write_case(directory, case)
        made.append((case, directory))
    yield tuple(made)
    shutil.rmtree(root)


def answers(classifier: Path, directories: Sequence[Path]) -> list[str]:
    """What the sh classifier says of each directory."""
    done = subprocess.run(
        ["/bin/dash", "-c", DRIVER, "driver", classifier],
        input="".join(f"{directory}\n" for directory in directories),
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def wrong_answers(
    classifier: Path, machines: tuple[tuple[Case, Path], ...]
) -> list[tuple[Case, str]]:
    """Every machine that this classifier answers otherwise than by hand."""
    said = answers(classifier, [directory for _, directory in machines])
    expected = [f"{case.profile}/{case.field or ''}" for case, _ in machines]
    said += ["died"] * (len(expected) - len(said))
    return [
        (case, answer)
        for (case, _), answer, wanted in zip(machines, said, expected, strict=True)
        if answer.rpartition("/")[0] != wanted
    ]


def test_sh_classifier_answers_the_corpus_as_written_by_hand(
    machines: tuple[tuple[Case, Path], ...],
) -> None:
    assert wrong_answers(CLASSIFIER, machines) == []


def test_sh_classifier_promises_settings_as_the_reference_does(
    machines: tuple[tuple[Case, Path], ...],
) -> None:
    said = answers(CLASSIFIER, [directory for _, directory in machines])
    for (case, _), answer in zip(machines, said, strict=True):
        promised = select(fields_of(case), container=False).settings_promised
        assert answer.rpartition("/")[2] == str(int(promised)), case


def random_cases(seed: int, count: int) -> Iterator[Case]:
    """Machines made from pieces of the corpus, cut, joined and damaged."""
    source = random.Random(seed)
    pieces = [value for value in (*HARMLESS, *MALFORMED, *MALFORMED_TAGS) if len(value) < 60]
    pieces += [b"tails-profile:tor-guest", b"tails-profile:app-guest", b"tails-profiles-settings:1"]

    def value() -> bytes | Raw:
        made = bytearray(source.choice(pieces))
        if source.random() < 0.3:
            made += source.choice(pieces)
        for _ in range(source.choice((0, 0, 0, 1, 1, 2))):
            position = source.randrange(len(made) + 1)
            made[position:position] = bytes([source.randrange(1, 256)])
        if made and source.random() < 0.3:
            del made[source.randrange(len(made))]
        if source.random() < 0.2:
            return bytes(made.swapcase())
        return Raw(bytes(made)) if source.random() < 0.1 else bytes(made)

    for _ in range(count):
        yield Case(value(), value(), source.choice((b"", value())), "", None)


def test_classifiers_agree_on_thousands_of_damaged_strings(tmp_path: Path) -> None:
    cases = list(random_cases(seed=20261124, count=4000))
    for number, case in enumerate(cases):
        write_case(tmp_path / str(number), case)
    said = answers(CLASSIFIER, [tmp_path / str(number) for number in range(len(cases))])
    profiles = set()
    for case, answer in zip(cases, said, strict=True):
        reference = select(fields_of(case), container=False)
        profiles.add(reference.profile.value)
        assert answer == (
            f"{reference.profile}/{reference.field or ''}/{int(reference.settings_promised)}"
        ), case
    assert profiles >= {"normal", "quarantine", "tor-guest", "app-guest"}


# Each is one plausible mistake: (what stands in the source, what the mistake makes of it).
MUTANTS = (
    ("while IFS= read -r tp_line", "while read -r tp_line"),
    ("while IFS= read -r tp_line", "while IFS= read tp_line"),
    ("while IFS= read -r tp_line; do", "if IFS= read -r tp_line; then"),
    ("${tp_lines:+$tp_newline}", ""),
    ('if [ -n "$tp_line" ] || [ -z "$tp_lines" ]; then', 'if [ -n "$tp_line" ]; then'),
    ('if [ -n "$tp_line" ] || [ -z "$tp_lines" ]; then', 'if [ -z "$tp_lines" ]; then'),
    ('[ -e "$1" ] || [ -L "$1" ] || return 0', "return 0"),
    ('[ -e "$1" ] || [ -L "$1" ] || return 0', '[ -e "$1" ] || return 0'),
    ("*[Tt][Aa]", "[Tt][Aa]"),
    ("[Ff][Ii][Ll][Ee]*)", "[Ff][Ii][Ll][Ee]:*)"),
    ("*[Tt][Aa][Ii][Ll][Ss]-", "*tails-"),
    ("[Ff][Ii][Ll][Ee]*)", "file*)"),
    ('[ "$tp_vendor" != "$tp_serial" ]', "false"),
    ('[ "$tp_settings" = 1 ]; then', "false; then"),
    ("chassis_asset_tag:tails-profiles-settings:1)", "*:tails-profiles-settings:1)"),
    ("bios_vendor:tails-profile:tor-guest |", "*:tails-profile:tor-guest |"),
    ("product_serial chassis_asset_tag", "product_serial"),
    ("bios_vendor product_serial chassis", "product_serial bios_vendor chassis"),
)


@pytest.mark.parametrize(("original", "mistake"), MUTANTS)
def test_corpus_catches_a_mistake_in_the_sh_classifier(
    original: str, mistake: str, machines: tuple[tuple[Case, Path], ...], tmp_path: Path
) -> None:
    source = CLASSIFIER.read_text()
    assert source.count(original) == 1
    mutated = source.replace(original, mistake)
    if "if IFS=" in mistake:
        mutated = mutated.replace("        done\n    } 2>", "        fi\n    } 2>")
    mutant = tmp_path / "classify.sh"
    mutant.write_text(mutated)
    assert wrong_answers(mutant, machines) != []
