# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of the dialog."""

from gi.repository import Gtk

from tailsgreeter import KEY
from tailsgreeter.strict import guard_module
from tailsgreeter.ui.popover import Popover
from tailsgreeter.ui.setting import GreeterSetting


class AdditionalSetting(GreeterSetting):
    def __init__(self) -> None:
        super().__init__()
        self.dialog = None
        self.hide_button_add = False
        self.builder = Gtk.Builder()
        self.box = self.builder.get_object(f"box_{self.key}_popover")

    def build_popover(self) -> None:
        self.popover = Popover(self.listboxrow, self.box)

    def close_window(self, response: Gtk.ResponseType) -> None:
        (self.popover.close if self.popover else self.dialog.response)(response)

    def on_opened_in_dialog(self) -> None:
        pass


class SwitchSettingUI(AdditionalSetting):
    """On or off."""

    def __init__(self, setting, key: str, title: str, icon_name: str) -> None:
        self.setting, self.title, self.icon_name = setting, title, icon_name
        setattr(self, KEY, key)
        self.value = True
        super().__init__()
        self.box = Gtk.Box(visible=True, margin=18)
        self.button = Gtk.CheckButton(visible=True, label=title.replace("_", ""), active=True)
        self.button.connect("toggled", self.toggled)
        self.box.add(self.button)

    def toggled(self, button: Gtk.CheckButton) -> None:
        self.value = button.get_active()

    @property
    def value_for_display(self) -> str:
        return "On (default)" if self.value else "Off"

    def apply(self) -> None:
        self.setting.save(self.value)
        super().apply()

    def load(self) -> bool:
        before, self.value = self.value, self.setting.load()
        self.button.set_active(self.value)
        return self.value != before


guard_module(__name__, "AdditionalSetting")
