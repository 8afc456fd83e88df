# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of every row."""

from gi.repository import Gtk

from tailsgreeter import KEY
from tailsgreeter.strict import Strict


class GreeterSetting(Strict):
    promised = frozenset({
        KEY, "title", "icon_name", "value_for_display", "listboxrow", "box", "builder", "dialog",
        "main_window", "popover", "accel_key", "hide_button_add", "apply", "load",
        "on_opened_in_dialog", "build_popover", "close_window",
    })  # fmt: skip
    title = icon_name = value_for_display = ""

    def __init__(self) -> None:
        self.accel_key = self.popover = self.main_window = None
        self.listboxrow = Gtk.ListBoxRow(visible=True)
        box = Gtk.Box(visible=True, spacing=6, margin=6)
        box.add(Gtk.Image.new_from_icon_name(self.icon_name, Gtk.IconSize.LARGE_TOOLBAR))
        caption = Gtk.Label(visible=True, label=self.title, use_underline=True)
        caption.set_mnemonic_widget(self.listboxrow)
        box.add(caption)
        self.value_label = Gtk.Label(visible=True)
        box.pack_end(self.value_label, False, True, 0)
        self.listboxrow.add(box)
        plain = self.title.replace("_", "", 1)
        self.listboxrow.set_tooltip_text(f"Configure {plain}")
        self.listboxrow.set_has_tooltip(False)

    def apply(self) -> None:
        self.value_label.set_label(self.value_for_display)

    def load(self) -> bool:
        return False

    @property
    def key(self) -> str:
        return getattr(self, KEY)


setattr(GreeterSetting, KEY, "")
