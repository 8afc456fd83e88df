# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows whose text follows the language."""

from gi.repository import Gtk

from tailsgreeter.strict import Strict, guard_module


class TranslatableWindow(Strict):
    """``translate_all`` tells every instance, and sets the direction of new and old widgets."""

    promised = frozenset({"store_translations", "translate_all"})
    known: list["TranslatableWindow"] = []

    def __init__(self, window: "TranslatableWindow") -> None:
        self.known.append(window)
        self.stored: list[Gtk.Widget] = []

    def store_translations(self, widget: Gtk.Widget) -> None:
        self.stored.append(widget)

    def translate_to(self, lang: str) -> None:
        rtl = lang.startswith(("fa", "ar", "he"))
        Gtk.Widget.set_default_direction(Gtk.TextDirection.RTL if rtl else Gtk.TextDirection.LTR)

    @staticmethod
    def translate_all(lang: str) -> None:
        for window in TranslatableWindow.known:
            window.translate_to(lang)


guard_module(__name__, "TranslatableWindow")
