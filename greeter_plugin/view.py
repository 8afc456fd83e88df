# SPDX-License-Identifier: GPL-3.0-or-later
"""Widgets of the setting. GTK 3; knows neither the greeter nor what is valid."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import gi

gi.require_version("Gtk", "3.0")
from gi.repository import Gtk, Pango  # noqa: E402

from greeter_plugin import words  # noqa: E402
from greeter_plugin.capability import I2p, Verdict  # noqa: E402
from greeter_plugin.model import Choice, Folders  # noqa: E402
from greeter_plugin.words import Words  # noqa: E402

# Characters; what the greeter's own pages have, so that 800 pixels are enough.
PAGE_WIDTH = 50
CAPTION_WIDTH = 24
VALUE_WIDTH = 30
#: What the greeter's window and a page's frame need of the screen's height, in pixels.
FRAME_HEIGHT = 160


class Page:
    """The details page. ``box`` goes into the greeter's dialog, and later into its popover."""

    def __init__(
        self,
        verdict: Verdict,
        changed: Callable[[Choice], None],
        guarded: Callable[[Callable[..., None]], Callable[..., None]],
    ) -> None:
        """``changed`` is told what the user chooses; ``guarded`` wraps what GTK calls."""
        self._verdict = verdict
        self._changed = changed
        self._guarded = guarded
        self._choice = Choice()
        self._filling = False
        self._built = False
        self._say = Words()
        self.box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, visible=True)

    def build(self) -> None:
        """Fill the box, the first time it is needed: the greeter's start does not wait for it."""
        if self._built:
            return
        self._heading = _label()
        self._heading.set_attributes(_heading_attributes())
        self._explanation = _label()
        self._enabled = Gtk.CheckButton(visible=True)
        self._i2p = Gtk.CheckButton(visible=True)
        self._i2p_note = _label()
        self._folders_heading = _label()
        self._folders = _radio_buttons()
        self._lay_out()
        self._connect()
        self._built = True
        self.translate(self._say)
        self.show(self._choice)

    def translate(self, say: Words) -> None:
        """Put every text of the page into one language."""
        self._say = say
        if not self._built:
            return
        self._heading.set_text(say.say(words.CHECKBOX))
        self._explanation.set_text(say.say(words.EXPLANATION, self._verdict))
        note = say.i2p_note(self._verdict)
        self._i2p_note.set_text(note)
        _set_words(self._enabled, say.say(words.CHECKBOX), self._explanation.get_text())
        _set_words(self._i2p, say.say(words.I2P), note)
        heading = say.say(words.FOLDERS_HEADING)
        self._folders_heading.set_text(heading)
        for folders, button in self._folders.items():
            _set_words(button, say.say(words.FOLDERS[folders]), heading)

    def show(self, choice: Choice) -> None:
        """Let the widgets show a choice, without reporting it as a change."""
        self._choice = choice
        if not self._built:
            return
        self._filling = True
        try:
            self._enabled.set_active(choice.enabled)
            self._i2p.set_active(choice.i2p)
            self._folders[choice.folders].set_active(True)
        finally:
            self._filling = False
        self._follow()

    def focus(self) -> None:
        """Put the keyboard on the checkbox."""
        self._enabled.grab_focus()

    def _lay_out(self) -> None:
        content = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=12, margin=18, visible=True)
        for widget in (self._heading, self._explanation, self._enabled):
            content.add(widget)
        choices = Gtk.Box(
            orientation=Gtk.Orientation.VERTICAL, spacing=6, margin_start=24, visible=True
        )
        if self._verdict.i2p is not I2p.ABSENT:
            choices.add(self._i2p)
            if self._verdict.i2p is I2p.TOO_LITTLE_MEMORY:
                choices.add(self._i2p_note)
        choices.add(self._folders_heading)
        for button in self._folders.values():
            choices.add(button)
        content.add(choices)
        scrolled = Gtk.ScrolledWindow(
            hscrollbar_policy=Gtk.PolicyType.NEVER,
            propagate_natural_height=True,
            propagate_natural_width=True,
            visible=True,
        )
        scrolled.add(content)
        # With large text a page can be higher than a small screen.
        screen = self.box.get_screen()
        scrolled.set_max_content_height(max(screen.get_height() - FRAME_HEIGHT, 200))
        self.box.pack_start(scrolled, True, True, 0)

    def _connect(self) -> None:
        toggled = self._guarded(self._on_toggled)
        for button in (self._enabled, self._i2p, *self._folders.values()):
            button.connect("toggled", toggled)

    def _on_toggled(self, button: Any) -> None:  # noqa: ANN401
        # A radio button that is switched off is followed by the one that is switched on.
        if self._filling or (button in self._folders.values() and not button.get_active()):
            return
        self._follow()
        self._choice = self._choice._replace(
            enabled=self._enabled.get_active(),
            i2p=self._i2p.get_active(),
            folders=self._active_folders(),
        )
        self._changed(self._choice)

    def _active_folders(self) -> Folders:
        return next(folders for folders, button in self._folders.items() if button.get_active())

    def _follow(self) -> None:
        enabled = self._enabled.get_active()
        self._i2p.set_sensitive(enabled and self._verdict.i2p is I2p.POSSIBLE)
        self._folders_heading.set_sensitive(enabled)
        for button in self._folders.values():
            button.set_sensitive(enabled)


class Button(NamedTuple):
    """One answer of a question; ``response`` is a Gtk.ResponseType or a number of ours."""

    text: str
    response: int


def ask(title: str, text: str, buttons: Sequence[Button]) -> int:
    """Ask until one of the buttons is chosen; closing the window is no answer."""
    dialog = Gtk.MessageDialog(
        message_type=Gtk.MessageType.WARNING, text=title, title=title, modal=True
    )
    dialog.format_secondary_text(text)
    for button in buttons:
        dialog.add_button(button.text, button.response)
    dialog.set_position(Gtk.WindowPosition.CENTER)
    responses = {button.response for button in buttons}
    try:
        answer = int(dialog.run())
        while answer not in responses:
            answer = int(dialog.run())
        return answer
    finally:
        dialog.destroy()


def lay_out_row(row: Any, caption: str, value: str) -> None:  # noqa: ANN401
    """Put both texts into a greeter's row: either may need several lines on a small screen."""
    for label in _labels(row):
        # The caption is the one with a mnemonic.
        is_caption = label.get_use_underline()
        text, most = (caption, CAPTION_WIDTH) if is_caption else (value, VALUE_WIDTH)
        label.set_label(text)
        label.set_line_wrap(True)
        label.set_max_width_chars(most)
        # Without this a window asks for the height that its narrowest form would need.
        label.set_width_chars(min(most, max(map(len, text.splitlines()), default=0)))
        label.set_valign(Gtk.Align.START)
        label.set_xalign(0.0 if is_caption else 1.0)
        if not is_caption:
            label.set_justify(Gtk.Justification.RIGHT)


def name_row(row: Any, name: str) -> None:  # noqa: ANN401
    """Give a row a name, for screen readers: the labels in an insensitive one get no focus.

    Its description stays the greeter's, by which Tails' own tests find rows.
    """
    row.get_accessible().set_name(name)


def _labels(widget: Any) -> Iterator[Any]:  # noqa: ANN401
    if isinstance(widget, Gtk.Label):
        yield widget
    elif isinstance(widget, Gtk.Container):
        for child in widget.get_children():
            yield from _labels(child)


def _label() -> Any:  # noqa: ANN401
    return Gtk.Label(
        visible=True,
        wrap=True,
        xalign=0.0,
        width_chars=PAGE_WIDTH,
        max_width_chars=PAGE_WIDTH,
    )


def _heading_attributes() -> Any:  # noqa: ANN401
    attributes = Pango.AttrList()
    attributes.insert(Pango.attr_weight_new(Pango.Weight.BOLD))
    attributes.insert(Pango.attr_scale_new(1.5))
    return attributes


def _radio_buttons() -> dict[Folders, Any]:
    buttons: dict[Folders, Any] = {}
    first = None
    for folders in Folders:
        button = Gtk.RadioButton(visible=True, group=first)
        first = first or button
        buttons[folders] = button
    return buttons


def _set_words(button: Any, text: str, description: str) -> None:  # noqa: ANN401
    button.set_label(text)
    child = button.get_child()
    child.set_line_wrap(True)
    child.set_xalign(0.0)
    accessible = button.get_accessible()
    accessible.set_name(text)
    accessible.set_description(description)
