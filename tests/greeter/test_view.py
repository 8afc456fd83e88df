# SPDX-License-Identifier: GPL-3.0-or-later
"""The setting as a user meets it: stock-shaped greeter, installed wrapper, AT-SPI from outside."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from greeter_plugin import words
from greeter_plugin.capability import Obstacle, judge
from greeter_plugin.model import (
    Choice,
    DamagedFileError,
    Folders,
    KeptFiles,
    parse,
    serialize,
)
from greeter_plugin.words import Words

from .test_model import GOOD, damaged
from .test_words import LANGUAGES, locales
from .world import HEIGHT, WIDTH, Greeter, role_of, until

__all__ = ["locales"]
Start = Callable[..., Greeter]

ESCAPE = 9
HANDLE = "Configure Isolate through virtualization"
SELECTED = "SelectSession tails-profiles-host"
LOGIN = ["BeginVerificationForUser gdm-password amnesia", "StartSessionWhenReady", "ended"]


def open_dialog(greeter: Greeter) -> None:
    greeter.press("button", "Add an additional setting")
    greeter.find("dialog", "Additional Settings")


def open_page(greeter: Greeter) -> None:
    open_dialog(greeter)
    greeter.press("list item", description=HANDLE)
    greeter.find("radio button")


def toggle(greeter: Greeter, role: str, name: str, state: bool = True) -> None:
    greeter.press(role, name)
    until(lambda: greeter.is_(greeter.find(role, name), "checked") == state, f"{name} {state}")


def add(greeter: Greeter) -> None:
    greeter.press("button", "Add")
    until(lambda: not any("dialog" in line.split(" ")[:2] for line in greeter.tree()), "closed")


def choose(greeter: Greeter) -> None:
    """Open, tick, add."""
    open_page(greeter)
    toggle(greeter, "check box", words.CHECKBOX)
    add(greeter)


def login(greeter: Greeter) -> list[str]:
    """Start Tails; what was said to GDM, in its order."""
    greeter.press("button", "Start Tails")
    return ended(greeter)


# The one that is in use, and the one before in ./check alone.
SERIES = [pytest.param(6, marks=pytest.mark.broad), 7]


def ended(greeter: Greeter) -> list[str]:
    greeter.wait_for("ended")
    assert greeter.process.wait(10) == 0
    return [line for line in greeter.trace if line.startswith(("Sel", "Beg", "Sta", "Shu", "end"))]


def stored(greeter: Greeter, directory: Path | None = None) -> Choice:
    return parse(((directory or greeter.settings) / "tails.isolation").read_bytes())


@pytest.mark.parametrize("series", SERIES)
def test_ticked_setting_is_saved_and_the_host_session_chosen(start: Start, series: int) -> None:
    greeter = start(series=series)
    open_page(greeter)
    for name in (words.I2P, *words.FOLDERS.values()):
        role = "check box" if name == words.I2P else "radio button"
        assert not greeter.is_(greeter.find(role, name), "sensitive")
    toggle(greeter, "check box", words.CHECKBOX)
    toggle(greeter, "check box", words.I2P)
    toggle(greeter, "radio button", words.FOLDERS[Folders.READ_ONLY])
    greeter.shot(f"tails-{series}-ticked")
    # What is ticked counts once the user says Add.
    assert not (greeter.settings / "tails.isolation").exists()
    add(greeter)
    greeter.find("label", words.ON_I2P)
    greeter.shot(f"tails-{series}-added")
    assert login(greeter) == [SELECTED, *LOGIN]
    assert stored(greeter) == Choice(enabled=True, i2p=True, folders=Folders.READ_ONLY)
    assert (greeter.settings / "tails.isolation").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("series", SERIES)
def test_without_the_tick_nothing_changes_byte_for_byte(start: Start, series: int) -> None:
    results = []
    for installed in (True, False):
        greeter = start(series=series, installed=installed)
        if installed:
            # Even what is ticked and then cancelled changes nothing.
            open_page(greeter)
            toggle(greeter, "check box", words.CHECKBOX)
            greeter.press("button", "Cancel")
            until(lambda: len(greeter.tree()) < 20, "the dialog closes")  # noqa: B023
            open_page(greeter)
            assert not greeter.is_(greeter.find("check box", words.CHECKBOX), "checked")
            greeter.press("button", "Back")
            greeter.press("button", "Cancel")
        tree = until(lambda: t if len(t := greeter.tree()) < 20 else None, "closed")  # noqa: B023
        said = login(greeter)
        trace = [line for line in greeter.trace if not line.startswith("stock launcher")]
        results.append((tree, said, trace, greeter.files()))
        greeter.close()
    assert results[0] == results[1]


def test_adding_it_without_the_tick_changes_no_file_and_no_call(start: Start) -> None:
    results = []
    for installed in (True, False):
        greeter = start(installed=installed)
        if installed:
            open_page(greeter)
            add(greeter)
            greeter.find("label", words.OFF)
        results.append((login(greeter), greeter.files()))
        # Two at once would be taken for one another.
        greeter.close()
    assert results[0] == results[1]
    assert results[0][0] == LOGIN


def test_setting_is_changed_in_its_popover(start: Start) -> None:
    greeter = start()
    choose(greeter)
    assert stored(greeter).enabled
    greeter.press("list item", description=HANDLE)
    toggle(greeter, "check box", words.CHECKBOX, state=False)
    until(lambda: not stored(greeter).enabled, "stored at once")
    greeter.shot("popover")
    toggle(greeter, "check box", words.CHECKBOX)
    toggle(greeter, "radio button", words.FOLDERS[Folders.NONE])
    until(lambda: stored(greeter) == Choice(enabled=True, folders=Folders.NONE), "stored")
    toggle(greeter, "check box", words.CHECKBOX, state=False)
    greeter.find("label", words.OFF)
    greeter.key(ESCAPE)
    until(lambda: not any("check box" in line for line in greeter.tree()), "the popover closes")
    assert login(greeter) == LOGIN


@pytest.mark.parametrize("series", SERIES)
def test_setting_is_restored_from_an_unlocked_storage(start: Start, series: int) -> None:
    greeter = start(series=series)
    choice = Choice(enabled=True, folders=Folders.NONE)
    (greeter.storage / "tails.isolation").write_bytes(serialize(choice))
    greeter.tell(f"unlock {greeter.storage}")
    greeter.find("label", words.ON)
    greeter.find("label", "Settings loaded")
    assert login(greeter) == [SELECTED, *LOGIN]
    assert stored(greeter, greeter.storage) == choice


def test_choice_is_carried_into_a_storage_that_has_none(start: Start) -> None:
    greeter = start()
    choose(greeter)
    greeter.tell(f"unlock {greeter.storage}")
    assert stored(greeter, greeter.storage) == Choice(enabled=True)
    assert login(greeter) == [SELECTED, *LOGIN]
    assert stored(greeter, greeter.storage).kept_files is KeptFiles.KEPT


@pytest.mark.parametrize(
    "data",
    [b"TAILS_ISOLATION_ENABLED=maybe\n", b"\x00" * 5000, b"TAILS_NETWORK=true\n"],
    ids=["corrupt", "long", "foreign"],
)
def test_damaged_file_means_defaults_and_a_visible_warning(start: Start, data: bytes) -> None:
    greeter = start()
    (greeter.storage / "tails.isolation").write_bytes(data)
    greeter.tell(f"unlock {greeter.storage}")
    greeter.find("label", "Warning: the saved setting is damaged and was not used.\nOff (default)")
    greeter.shot("damaged")
    assert login(greeter) == LOGIN
    assert (greeter.storage / "tails.isolation").read_bytes() == data


@pytest.mark.broad
def test_greeter_survives_random_files_and_shows_what_their_grammar_says(start: Start) -> None:
    greeter = start()
    generator = random.Random(11)
    file = greeter.storage / "tails.isolation"
    file.write_bytes(serialize(Choice(enabled=True)))
    greeter.tell(f"unlock {greeter.storage}")
    seen = set()
    for _ in range(100):
        data = damaged(generator)
        file.write_bytes(data)
        greeter.tell("reload")
        try:
            choice = parse(data)
        except DamagedFileError:
            continue
        # Once damaged, the warning stays until the user chooses something.
        expected = Words().value(choice, judge(GOOD), None)
        row = greeter.find("list item", description=HANDLE)
        until(lambda: row.get_name().endswith(expected), expected)  # noqa: B023
        seen.add(expected)
    assert seen == {words.ON, words.ON_I2P, words.OFF}
    assert "Traceback" not in greeter.journal
    assert file.read_bytes() == data


def test_storage_that_vanishes_half_way_asks_before_starting_without(start: Start) -> None:
    greeter = start()
    greeter.tell(f"unlock {greeter.storage}")
    choose(greeter)
    greeter.tell("vanish")
    greeter.press("list item", description=HANDLE)
    toggle(greeter, "radio button", words.FOLDERS[Folders.NONE])
    greeter.find("label", "Warning: the setting could not be saved.\nOn")
    greeter.key(ESCAPE)
    until(lambda: not any("check box" in line for line in greeter.tree()), "the popover closes")
    greeter.press("button", "Start Tails")
    greeter.find("label", words.FAILED_TEXT)
    greeter.press("button", words.START_WITHOUT)
    assert ended(greeter) == LOGIN


def test_gdm_that_refuses_asks_before_starting_without(start: Start) -> None:
    greeter = start(env={"STANDIN_GDM": "broken"})
    choose(greeter)
    greeter.press("button", "Start Tails")
    greeter.find("label", words.FAILED_TEXT)
    greeter.shot("failed")
    # Closing the question is no answer to it. Without a window manager the keyboard belongs to
    # the window under the pointer.
    greeter.press("label", words.FAILED_TEXT)
    greeter.key(ESCAPE)
    greeter.find("label", words.FAILED_TEXT)
    greeter.settle()
    assert LOGIN[0] not in greeter.trace
    greeter.press("button", words.SHUT_DOWN)
    greeter.wait_for("Shutdown")
    greeter.find("label", words.FAILED_TEXT)
    assert LOGIN[0] not in greeter.trace
    greeter.press("button", words.START_WITHOUT)
    assert ended(greeter) == ["Shutdown", *LOGIN]
    assert "GDM does not answer" in greeter.journal


KEPT = Choice(folders=Folders.READ_WRITE, kept_files=KeptFiles.KEPT)


@pytest.mark.parametrize(
    ("answer", "said", "enabled"),
    [(words.START_WITHOUT, LOGIN, False), (words.START_ISOLATED, [SELECTED, *LOGIN], True)],
)
def test_user_is_warned_once_of_kept_files(
    start: Start, answer: str, said: list[str], enabled: bool
) -> None:
    greeter = start()
    (greeter.storage / "tails.isolation").write_bytes(serialize(KEPT))
    greeter.tell(f"unlock {greeter.storage}")
    greeter.press("button", "Start Tails")
    greeter.find("label", words.KEPT_TEXT)
    greeter.shot("kept-files")
    greeter.press("button", answer)
    assert ended(greeter) == said
    warned = stored(greeter, greeter.storage)
    assert warned == Choice(enabled=enabled, kept_files=KeptFiles.WARNED)
    again = start()
    (again.storage / "tails.isolation").write_bytes(serialize(warned))
    again.tell(f"unlock {again.storage}")
    assert login(again) == said


OBSTACLES = {
    Obstacle.NO_HYPERVISOR: {"programs": ()},
    Obstacle.NO_SESSION: {"host_session": False},
    Obstacle.NO_VIRTUALIZATION: {"flags": "fpu"},
    Obstacle.INSIDE_VM: {"flags": "fpu hypervisor"},
    Obstacle.PROCESSOR_HELD: {"drivers": ("vboxdrv",)},
    Obstacle.TOO_LITTLE_MEMORY: {"memory": 2000},
}


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param(
            obstacle,
            id=obstacle.value,
            marks=[] if obstacle is Obstacle.NO_HYPERVISOR else pytest.mark.broad,
        )
        for obstacle in Obstacle
    ],
)
def test_obstacle_is_said_in_words_and_the_row_is_insensitive(
    start: Start, obstacle: Obstacle
) -> None:
    greeter = start(**OBSTACLES[obstacle])
    (greeter.storage / "tails.isolation").write_bytes(serialize(Choice(enabled=True)))
    open_dialog(greeter)
    row = greeter.find("list item", description=HANDLE)
    greeter.shot(f"obstacle-{obstacle.value}")
    assert not greeter.is_(row, "sensitive")
    reason = words.OBSTACLES[obstacle].format(needs="3.6", has="1.9")
    assert reason in row.get_name()
    greeter.find("label", f"{reason}\n{words.WEAKER}")
    on_screen(greeter)
    greeter.press("list item", description=HANDLE)
    assert not any("check box" in line for line in greeter.tree())
    greeter.press("button", "Cancel")
    until(lambda: len(greeter.tree()) < 20, "the dialog closes")
    # A tick that was saved on another machine is shown, and kept for that machine.
    greeter.tell(f"unlock {greeter.storage}")
    greeter.find("label", reason, prefix=True)
    assert login(greeter) == LOGIN
    assert stored(greeter, greeter.storage) == Choice(enabled=True)


@pytest.mark.parametrize(
    ("facts", "offered", "note"),
    [
        ({}, True, False),
        ({"programs": ("usr/bin/qemu-system-x86_64",)}, False, False),
        ({"memory": judge(GOOD).needs + 10}, True, True),
    ],
    ids=["possible", "absent", "memory"],
)
def test_i2p_is_offered_where_the_image_has_it(
    start: Start, facts: dict[str, Any], offered: bool, note: bool
) -> None:
    greeter = start(**facts)
    open_page(greeter)
    toggle(greeter, "check box", words.CHECKBOX)
    assert any(words.I2P in line for line in greeter.tree()) is offered
    assert any("I2P needs 3.9 GB of memory" in line for line in greeter.tree()) is note
    if offered:
        assert greeter.is_(greeter.find("check box", words.I2P), "sensitive") is not note


def test_nothing_is_offered_in_a_guest(start: Start) -> None:
    greeter = start(guest="app-guest")
    open_dialog(greeter)
    assert not any(words.CHECKBOX in line for line in greeter.tree())


# ---- languages, sizes, keyboard


def on_screen(greeter: Greeter, below: Any = None) -> None:
    """Every widget of ours that shows lies on the screen, and texts do not lie over each other."""
    greeter.settle()
    places = []
    for widget in greeter.widgets(below):
        if not greeter.is_(widget, "showing") or role_of(widget) == "filler":
            continue
        place = greeter.place(widget)
        if place.width <= 1:
            continue
        what = f"{role_of(widget)} {widget.get_name()!r}"
        right, bottom = place.x + place.width, place.y + place.height
        assert place.x >= 0 and place.y >= 0, what  # noqa: PT018
        assert right <= WIDTH and bottom <= HEIGHT, f"{what} {right} {bottom}"  # noqa: PT018
        if role_of(widget) in {"check box", "radio button"}:
            places.append((place.y, bottom, what))
    for (_, bottom, one), (top, _, other) in itertools.pairwise(places):
        assert bottom <= top, f"{one} over {other}"


SHAPES = {
    "plain": {},
    "large-text": {"GDK_DPI_SCALE": "1.5"},
    "high-contrast": {"GTK_THEME": "HighContrast"},
}
# Right to left with digits of its own, and long words; the others as well in ./check.
SOME = [
    pytest.param(language, marks=[] if language in {"de", "fa"} else pytest.mark.broad)
    for language in LANGUAGES
]
LOCALES = {"en": "en_US", "pt_BR": "pt_BR", "fa": "fa_IR"}


@pytest.mark.parametrize("language", SOME)
@pytest.mark.parametrize(
    "shape",
    [
        pytest.param("plain", marks=pytest.mark.broad),
        "large-text",
        pytest.param("high-contrast", marks=pytest.mark.broad),
    ],
)
def test_page_in_every_language_and_shape(
    start: Start, locales: str, language: str, shape: str
) -> None:
    locale = LOCALES.get(language, f"{language}_{language.upper()}")
    say = Words(locale, locales)
    verdict = judge(GOOD)
    greeter = start(env=SHAPES[shape])
    greeter.tell(f"language {locale}")
    open_dialog(greeter)
    caption = greeter.find("label", say.say(words.CHECKBOX))
    value = greeter.find("label", say.say(words.OFF))
    greeter.settle()
    ends = [greeter.place(item).x for item in (caption, value)]
    assert (ends[0] > ends[1]) is (language == "fa")
    on_screen(greeter)
    greeter.shot(f"{language}-{shape}-list")
    greeter.press("list item", description=HANDLE)
    toggle(greeter, "check box", say.say(words.CHECKBOX))
    for text in (words.EXPLANATION, words.CHECKBOX, words.I2P, words.FOLDERS_HEADING):
        assert any(repr(say.say(text, verdict))[1:-1] in line for line in greeter.tree()), text
    for text in words.FOLDERS.values():
        greeter.find("radio button", say.say(text))
    greeter.find("dialog")
    greeter.shot(f"{language}-{shape}-page")
    on_screen(greeter)
    # The words of the questions too.
    add(greeter)
    greeter.find("label", say.say(words.ON))
    greeter.tell("language en_US")
    greeter.find("label", words.ON)
    greeter.tell(f"language {locale}")
    greeter.press("button", "Start Tails")
    assert ended(greeter) == [SELECTED, *LOGIN]


@pytest.mark.parametrize("language", SOME)
def test_longest_reason_fits_the_screen_in_large_text(
    start: Start, locales: str, language: str
) -> None:
    locale = LOCALES.get(language, f"{language}_{language.upper()}")
    greeter = start(env=SHAPES["large-text"], flags="fpu")
    greeter.tell(f"language {locale}")
    open_dialog(greeter)
    reason = words.OBSTACLES[Obstacle.NO_VIRTUALIZATION]
    greeter.find("label", Words(locale, locales).say(reason), prefix=True)
    greeter.shot(f"{language}-large-text-obstacle")
    on_screen(greeter)


@pytest.mark.parametrize("language", SOME)
def test_question_in_every_language(start: Start, locales: str, language: str) -> None:
    locale = LOCALES.get(language, f"{language}_{language.upper()}")
    say = Words(locale, locales)
    greeter = start(env={"STANDIN_CMDLINE": ""})
    (greeter.storage / "tails.isolation").write_bytes(serialize(KEPT))
    # Restored with the rest, from the storage, before anything of ours is loaded.
    (greeter.storage / "tails.language").write_text(f"TAILS_LOCALE_NAME={locale}\n")
    greeter.tell(f"unlock {greeter.storage}")
    greeter.press("button", "Start Tails")
    greeter.find("label", say.say(words.KEPT_TEXT))
    for text in (words.START_WITHOUT, words.START_ISOLATED, words.SHUT_DOWN):
        greeter.find("button", say.say(text))
    greeter.shot(f"{language}-question")
    on_screen(greeter)


@pytest.mark.parametrize("locale", ["xx_XX", "../../etc", "de", "ll_CC@euro"])
def test_language_that_does_not_exist_is_english(start: Start, locale: str) -> None:
    greeter = start()
    greeter.tell("language de_DE")
    greeter.tell(f"language {locale}")
    open_dialog(greeter)
    expected = "Durch Virtualisierung" if locale == "de" else words.CHECKBOX
    greeter.find("label", expected, prefix=True)


@pytest.mark.parametrize("shape", ["plain", "large-text"])
def test_page_is_used_with_the_keyboard_alone(start: Start, shape: str) -> None:
    """What has the keyboard is seen, also where the page has to be scrolled for it."""
    greeter = start(env=SHAPES[shape])
    codes = {"Tab": 23, "space": 65, "Down": 116, "Return": 36}

    def key(name: str) -> None:
        greeter.key(codes[name])

    def focused() -> str:
        names = [
            f"{role_of(widget)} {widget.get_name()} {widget.get_description()}"
            for widget in greeter.widgets()
            if greeter.is_(widget, "focused")
        ]
        return names[-1] if names else ""

    def walk_to(name: str, with_key: str = "Tab") -> None:
        for _ in range(12):
            before = focused()
            if name in before:
                return
            key(with_key)
            until(lambda: focused() != before, f"{with_key} moves from {before}")  # noqa: B023
        raise AssertionError(f"{name} is not reached")

    # Without a window manager the window under the pointer has the keyboard.
    open_dialog(greeter)
    walk_to("list item Isolate through virtualization", "Down")
    key("space")
    until(lambda: "check box Isolate" in focused(), "the page's checkbox has the focus")
    key("space")
    walk_to("check box Also start I2P")
    key("space")
    walk_to("radio button Read and write")
    key("Down")
    until(lambda: "Read only" in focused(), "the next radio button")
    greeter.settle()
    frame = greeter.place(greeter.find("dialog"))
    radio = greeter.place(greeter.find("radio button", words.FOLDERS[Folders.READ_ONLY]))
    assert frame.y < radio.y
    assert radio.y + radio.height < frame.y + frame.height
    greeter.shot(f"keyboard-{shape}")
    walk_to("button Add")
    key("Return")
    greeter.find("label", words.ON_I2P)
    assert stored(greeter) == Choice(enabled=True, i2p=True, folders=Folders.READ_ONLY)
