# SPDX-License-Identifier: GPL-3.0-or-later
"""Walk a user's way through the stand-in from inside, fast: for tests that break one thing each.

The way is the same with and without the setting; where its row is, it is opened, ticked, added,
changed in the popover, restored from the Persistent Storage and warned about. ``tree start`` and
``tree end`` in the trace are the accessibility tree and the settings' keys before and after, on
one line each.
"""

import os

from gi.repository import GLib, Gtk
from tailsgreeter import config, trace

HANDLE = "Configure Isolate through virtualization"


def tree(widget, depth: int = 0):
    """The accessible objects below a widget's, as text."""

    def walk(item, depth: int):
        if item is None:
            return
        yield f"{depth} {item.get_role().value_nick} {item.get_name()} {item.get_description()}"
        for number in range(item.get_n_accessible_children()):
            yield from walk(item.ref_accessible_child(number), depth + 1)

    return list(walk(widget.get_accessible(), depth))


class Drive:
    """One step after the other, each from the main loop, so that the greeter can follow."""

    def __init__(self, application) -> None:
        self.window = application.mainwindow
        self.application = application
        self.steps = [
            self.start, self.open_dialog, self.french, self.english, self.popover, self.unlock,
            self.end, self.login,
        ]  # fmt: skip
        GLib.idle_add(self.step, priority=GLib.PRIORITY_LOW)

    def step(self) -> bool:
        self.steps.pop(0)()
        return bool(self.steps)

    def dump(self, name: str) -> None:
        windows = [self.window, self.window.dialog_add_setting]
        lines = [line for window in windows for line in tree(window)]
        # What the greeter will go through when it loads and applies.
        every = self.application.settings
        keys = [*every.settings, *every.additional_settings.settings]
        trace(f"tree {name} {lines + keys}")

    def start(self) -> None:
        self.dump("start")

    def row(self, listbox):
        rows = [row for row in listbox.get_children() if row.get_tooltip_text() == HANDLE]
        return rows[0] if rows else None

    def open_dialog(self) -> None:
        GLib.idle_add(self.in_dialog, priority=GLib.PRIORITY_LOW)
        self.window.button_add.clicked()

    def in_dialog(self) -> bool:
        dialog, row = self.window.dialog_add_setting, self.row(self.window.listbox_add_setting)
        answer = Gtk.ResponseType.CANCEL
        if row is not None and row.get_sensitive():
            dialog.open(row)
            # Once left by Back, with a tick; then for good.
            self.toggle(dialog.stack, Gtk.CheckButton)
            dialog.go_back()
            while Gtk.events_pending():
                Gtk.main_iteration()
            if self.row(self.window.listbox_add_setting) is not None:
                dialog.open(row)
                self.toggle(dialog.stack, Gtk.CheckButton)
                answer = Gtk.ResponseType.YES
        dialog.response(answer)
        return False

    def toggle(self, container, kind) -> None:
        """Switch the first button of that kind."""

        def buttons(widget):
            if isinstance(widget, kind):
                yield widget
            elif isinstance(widget, Gtk.Container):
                for child in widget.get_children():
                    yield from buttons(child)

        found = [*buttons(container)]
        if found:
            found[0].set_active(not found[0].get_active())

    def french(self) -> None:
        self.language("fr_FR")

    def english(self) -> None:
        self.language("en_US")

    def language(self, locale: str) -> None:
        language = self.application.settings["language"]
        language.value = locale
        language.apply()

    def popover(self) -> None:
        row = self.row(self.window.listbox_settings)
        if row is not None:
            row.activate()
            setting = self.application.settings["isolation"]
            self.toggle(setting.box, Gtk.CheckButton)
            setting.popover.close(Gtk.ResponseType.NONE)

    def unlock(self) -> None:
        os.system(f"mount --bind {os.environ['STANDIN_STORAGE']} {config.persistent_settings_dir}")
        self.window.unlocked()

    def end(self) -> None:
        self.dump("end")

    def login(self) -> None:
        GLib.timeout_add(20, self.answer)
        self.window.button_start.clicked()

    def answer(self) -> bool:
        """Answer every question with its last button."""
        for dialog in Gtk.Window.list_toplevels():
            if isinstance(dialog, Gtk.MessageDialog) and dialog.get_visible():
                buttons = dialog.get_action_area().get_children()
                trace("asked")
                buttons[-1].clicked()
        return True
