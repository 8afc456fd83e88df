# SPDX-License-Identifier: GPL-3.0-or-later
"""The reference classifier against the hand-written corpus and against thousands of strings."""

import inspect
import json
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tails_profiles import selection
from tails_profiles.profile import GUESTS, Profile, token
from tails_profiles.selection import DmiFields, FieldReading, select, show
from tails_profiles.system import dmi
from tests.data.tokens import CASES, PYTHON_ONLY, Case
from tests.dmi_fields import fields_of, write_case


def wrong_answers(module: ModuleType, cases: tuple[Case, ...]) -> list[tuple[Case, object]]:
    """Every case that a version of the selection module answers otherwise than by hand."""
    wrong = []
    for case in cases:
        answer = module.select(fields_of(case), container=case.container)
        if (answer.profile, answer.field) != (case.profile, case.field):
            wrong.append((case, answer))
    return wrong


def test_corpus_has_at_least_three_hundred_distinct_strings() -> None:
    assert len({case.bios_vendor for case in CASES}) >= 300


def test_selection_answers_the_corpus_as_written_by_hand() -> None:
    assert wrong_answers(selection, CASES) == []


def test_selection_refuses_what_sysfs_cannot_show() -> None:
    assert wrong_answers(selection, PYTHON_ONLY) == []


def test_fields_read_from_files_select_the_same(tmp_path: Path) -> None:
    wrong = []
    for number, case in enumerate((*CASES, *PYTHON_ONLY)):
        sysfs = tmp_path / str(number)
        write_case(sysfs / "class/dmi/id", case)
        answer = select(dmi.read_fields(sysfs), container=case.container)
        if (answer.profile, answer.field) != (case.profile, case.field):
            wrong.append((case, answer))
    assert wrong == []


def test_machine_without_dmi_is_normal(tmp_path: Path) -> None:
    assert select(dmi.read_fields(tmp_path), container=False).profile is Profile.NORMAL


def test_file_in_place_of_the_dmi_directory_is_quarantine(tmp_path: Path) -> None:
    (tmp_path / "class/dmi").mkdir(parents=True)
    (tmp_path / "class/dmi/id").write_text("x\n")
    answer = select(dmi.read_fields(tmp_path), container=False)
    assert (answer.profile, answer.field) == (Profile.QUARANTINE, "bios_vendor")


def test_endless_field_is_read_no_further_than_its_limit() -> None:
    asked: list[int] = []

    def read(count: int) -> bytes:
        asked.append(count)
        return b"x" * count

    assert len(dmi._read_bounded(read)) == selection.MAX_CONTENT + 1
    assert sum(asked) == selection.MAX_CONTENT + 1


def test_settings_are_promised_only_beside_a_token() -> None:
    for case in CASES:
        answer = select(fields_of(case), container=case.container)
        if answer.settings_promised:
            assert answer.profile in GUESTS
            assert case.chassis_asset_tag == b"tails-profiles-settings:1"


def test_json_of_a_selection_is_plain_and_complete() -> None:
    fields = DmiFields(
        FieldReading("bios_vendor", b"tails-profile:tor-guest\n"),
        FieldReading("product_serial"),
        FieldReading("chassis_asset_tag"),
    )
    assert json.loads(json.dumps(select(fields, container=False).to_json())) == {
        "profile": "tor-guest",
        "field": "bios_vendor",
        "token": "tails-profile:tor-guest",
        "reason": 'bios_vendor says "tails-profile:tor-guest"',
        "settings_promised": False,
    }


def test_shown_value_cannot_move_a_terminal_or_end_its_quotes() -> None:
    assert show(b'\x1b[2J"\\\xff') == '"\\033[2J\\042\\134\\377"'
    assert show(b"x" * 65) == '"' + "x" * 64 + '"...'


_NEAR = st.sampled_from(
    [b"tails-profile", b":", b"tor-guest", b"app-guest", b"i2p-guest", b" ", b"\n", b"TAILS",
     b"-", b"profile", b"tails-profiles-settings:1", b"\x81", b"\x00", b"'"]
)  # fmt: skip
_CONTENT = st.one_of(
    st.none(),
    st.binary(max_size=80),
    st.lists(_NEAR, max_size=5).map(b"".join).map(lambda value: value + b"\n"),
    st.lists(_NEAR, max_size=5).map(b"".join),
)


@settings(max_examples=3000)
@given(_CONTENT, _CONTENT, _CONTENT)
def test_guest_is_selected_by_exact_tokens_alone(
    vendor: bytes | None, serial: bytes | None, tag: bytes | None
) -> None:
    fields = DmiFields(
        FieldReading("bios_vendor", vendor),
        FieldReading("product_serial", serial),
        FieldReading("chassis_asset_tag", tag),
    )
    answer = select(fields, container=False)
    exact = {token(profile).encode() + b"\n": profile for profile in GUESTS}
    said = {exact[value] for value in (vendor, serial) if value in exact}
    ours = any(b"tails-profile" in (value or b"").lower() for value in (vendor, serial, tag))
    if answer.profile in GUESTS:
        assert said == {answer.profile}
    if ours:
        assert answer.profile is not Profile.NORMAL
    else:
        assert answer.profile not in GUESTS


# Each is one plausible mistake: (what stands in the source, what the mistake makes of it).
MUTANTS = (
    ("removesuffix(b\"\\n\")", "strip()"),
    ("removesuffix(b\"\\n\")", "rstrip(b\"\\n\")"),
    ("removesuffix(b\"\\n\")", "split(b\"\\n\")[0]"),
    ("_WORD in value.lower()", "_WORD in value"),
    ("_WORD in value.lower()", "value.lower().startswith(_WORD)"),
    ("if not content.endswith(b\"\\n\"):", "if content and not content.endswith(b\"\\n\"):"),
    ("if len(values) > 1:", "if len(values) > 2:"),
    ("if promised:", "if promised and not fields:"),
    ("for reading in fields:", "for reading in (fields.bios_vendor, fields.product_serial):"),
    ("if reading.error is not None:", "if reading.error == \"\":"),
    ("if b\"\\0\" in content:", "if b\"\\0\\0\" in content:"),
    ("MAX_CONTENT = 4095", "MAX_CONTENT = 70001"),
    ("if container:", "if container and fields.bios_vendor.content:"),
    ("(_TAG,) if reading.name == \"chassis_asset_tag\" else tuple(_TOKENS)", "(_TAG, *_TOKENS)"),
)  # fmt: skip


@pytest.mark.parametrize(("original", "mistake"), MUTANTS)
def test_corpus_catches_a_mistake_in_the_reference(original: str, mistake: str) -> None:
    source = inspect.getsource(selection)
    assert source.count(original) == 1
    mutant = ModuleType("tails_profiles.selection_mutant")
    # The dataclasses look their module up by name.
    mutant.__dict__["__name__"] = selection.__name__
    exec(source.replace(original, mistake), mutant.__dict__)
    assert wrong_answers(mutant, (*CASES, *PYTHON_ONLY)) != []


@pytest.mark.parametrize(
    ("namespace", "container"), [("pid:[4026531836]", False), ("pid:[4026532233]", True)]
)
def test_container_is_told_by_the_number_of_its_pid_namespace(
    namespace: str, container: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of linux/proc_ns.h; what systemd believes does not matter.
    monkeypatch.setattr(Path, "readlink", lambda _path: Path(namespace))
    assert dmi.in_container() is container
