# SPDX-License-Identifier: GPL-3.0-or-later
"""List, details page, Add."""

from gi.repository import Gdk, Gtk

from tailsgreeter.translatable_window import TranslatableWindow


class AddSettingsDialog(Gtk.Dialog, TranslatableWindow):
    def __init__(self, settings, listbox: Gtk.ListBox) -> None:
        Gtk.Dialog.__init__(self, use_header_bar=True, title="Additional Settings")
        TranslatableWindow.__init__(self, self)
        self.settings, self.listbox = settings, listbox
        self.set_default_size(-1, 400)
        self.selected = None
        for setting in settings.additional_settings:
            listbox.add(setting.listboxrow)
            self.store_translations(setting.box)
        self.add_button("Cancel", Gtk.ResponseType.CANCEL)
        self.button_add = self.add_button("Add", Gtk.ResponseType.YES)
        self.button_back = Gtk.Button(label="Back")
        self.button_back.connect("clicked", lambda _: self.go_back())
        self.get_header_bar().pack_end(self.button_back)
        keys = Gtk.AccelGroup()
        keys.connect(Gdk.KEY_Return, 0, 0, self.on_return)
        self.add_accel_group(keys)
        self.stack = Gtk.Stack(visible=True)
        self.stack.add_named(listbox, "setting-type")
        self.get_content_area().add(self.stack)
        listbox.connect("row-activated", lambda _, row: self.open(row))

    def on_return(self, *_) -> bool:
        if self.button_add.get_visible():
            self.response(Gtk.ResponseType.YES)
        return False

    def open(self, row: Gtk.ListBoxRow) -> None:
        self.selected = self.settings.additional_settings[
            self.settings.additional_settings.key_of(row)
        ]
        self.stack.add_named(self.selected.box, "setting-details")
        self.stack.set_visible_child_name("setting-details")
        self.button_back.set_visible(True)
        self.button_add.set_visible(not self.selected.hide_button_add)
        self.selected.on_opened_in_dialog()

    def go_back(self) -> None:
        self.stack.set_visible_child_name("setting-type")
        self.button_back.set_visible(False)
        self.button_add.set_visible(False)
        details = self.stack.get_child_by_name("setting-details")
        if details:
            self.stack.remove(details)

    def run(self) -> int:
        for setting in self.settings.additional_settings:
            setting.dialog = self
        self.go_back()
        return super().run()
