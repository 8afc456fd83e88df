# SPDX-License-Identifier: GPL-3.0-or-later
"""What a row in the main window opens."""

from gi.repository import Gtk

from tailsgreeter.strict import Strict


class Popover(Strict):
    def __init__(self, relative_widget: Gtk.Widget, content_widget: Gtk.Widget) -> None:
        self.widget = Gtk.Popover.new(relative_widget)
        self.widget.set_position(Gtk.PositionType.BOTTOM)
        self.widget.add(content_widget)
        self.response = None

    def open(self) -> None:
        self.widget.set_visible(True)

    def is_open(self) -> bool:
        return self.widget.get_visible()

    def close(self, response: Gtk.ResponseType) -> None:
        self.response = response
        self.widget.set_visible(False)
