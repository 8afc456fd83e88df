# SPDX-License-Identifier: GPL-3.0-or-later
"""The window, and the life of a setting in it."""

import os

from gi.repository import Gdk, Gtk

from tailsgreeter import config
from tailsgreeter.settings import SettingNotFoundError
from tailsgreeter.translatable_window import TranslatableWindow
from tailsgreeter.ui.add_settings_dialog import AddSettingsDialog


class GreeterMainWindow(Gtk.Window, TranslatableWindow):
    promised = frozenset({
        "greeter", "settings", "listbox_add_setting", "listbox_settings", "dialog_add_setting",
    })  # fmt: skip

    def __init__(self, greeter, persistence, settings) -> None:
        Gtk.Window.__init__(self, title="Welcome to Tails!")
        TranslatableWindow.__init__(self, self)
        self.greeter, self.settings = greeter, settings
        for setting in settings:
            setting.main_window = self
        screen = Gdk.Screen.get_default()
        self.set_default_size(min(screen.get_width(), 620), min(screen.get_height(), 470))
        self.listbox_region = Gtk.ListBox(visible=True)
        self.listbox_settings = Gtk.ListBox(visible=True)
        self.listbox_settings.set_placeholder(Gtk.Label(label="The default settings", visible=True))
        self.listbox_add_setting = Gtk.ListBox(visible=True, margin=18, width_request=400)
        for setting in settings.region_settings:
            self.listbox_region.add(setting.listboxrow)
        self.button_add = Gtk.Button(label="+", visible=True)
        self.button_add.get_accessible().set_name("Add an additional setting")
        self.button_add.connect("clicked", lambda _: self.run_dialog())
        header = Gtk.HeaderBar(title="Welcome to Tails!", visible=True)
        self.button_start = Gtk.Button(label="Start Tails", visible=True)
        self.button_start.connect("clicked", lambda _: self.greeter.login())
        header.pack_end(self.button_start)
        self.set_titlebar(header)
        self.infobar = Gtk.Label(label="Settings loaded", no_show_all=True)
        box = Gtk.Box(orientation=Gtk.Orientation.VERTICAL, spacing=12, margin=18, visible=True)
        for widget in (self.infobar, self.listbox_region, self.listbox_settings, self.button_add):
            box.add(widget)
        self.add(box)
        self.dialog_add_setting = AddSettingsDialog(settings, self.listbox_add_setting)
        self.dialog_add_setting.set_transient_for(self)
        self.listbox_settings.connect("row-activated", self.on_row_activated)

    def run_dialog(self) -> None:
        dialog = self.dialog_add_setting
        response = dialog.run()
        dialog.set_visible(False)
        details = dialog.stack.get_child_by_name("setting-details")
        if details:
            dialog.stack.remove(details)
        if response == Gtk.ResponseType.YES:
            self.add_setting(dialog.selected.key)

    def add_setting(self, key: str) -> None:
        setting = self.settings.additional_settings[key]
        setting.apply()
        setting.build_popover()
        self.listbox_add_setting.remove(setting.listboxrow)
        self.listbox_settings.add(setting.listboxrow)
        self.listbox_settings.unselect_all()

    def on_row_activated(self, _listbox, row: Gtk.ListBoxRow) -> None:
        setting = self.settings[self.settings.key_of(row)]
        if not setting.popover.is_open():
            setting.popover.open()

    def unlocked(self) -> None:
        """The Persistent Storage is there."""
        if not os.listdir(config.persistent_settings_dir):
            for setting in self.settings:
                setting.apply()
            return
        settings = [*self.settings.region_settings]
        for setting in reversed(settings):
            self.load(setting)
        for setting in self.settings.additional_settings:
            if self.load(setting):
                if setting.listboxrow in self.listbox_settings.get_children():
                    setting.apply()
                else:
                    self.add_setting(setting.key)

    def load(self, setting) -> bool:
        try:
            changed = setting.load()
        except SettingNotFoundError:
            setting.apply()
            return False
        if changed:
            self.infobar.set_visible(True)
        return changed
