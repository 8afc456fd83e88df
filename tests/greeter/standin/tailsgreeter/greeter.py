# SPDX-License-Identifier: GPL-3.0-or-later
"""The program."""

import os
import time

from gi.repository import GLib, Gtk

from tailsgreeter import config, trace
from tailsgreeter.gdmclient import GdmClient
from tailsgreeter.settings.setting import BooleanSetting
from tailsgreeter.strict import Strict
from tailsgreeter.translatable_window import TranslatableWindow
from tailsgreeter.ui.additional_settings import SwitchSettingUI
from tailsgreeter.ui.main_window import GreeterMainWindow
from tailsgreeter.ui.region_settings import LanguageSettingUI
from tailsgreeter.ui.settings_collection import GreeterSettingsCollection


class GreeterApplication(Strict):
    promised = frozenset({
        "gdmclient", "localisationsettings", "persistent_storage_create", "settings", "mainwindow",
        "login", "usermanager_loaded", "close_app", "shutdown", "on_language_changed",
    })  # fmt: skip

    def __init__(self) -> None:
        for directory in (config.persistent_settings_dir, config.transient_settings_dir):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        self.gdmclient = GdmClient(session_opened_cb=self.close_app)
        macspoof = BooleanSetting(config.macspoof_setting_path, "TAILS_MACSPOOF_ENABLED")
        network = BooleanSetting(config.network_setting_path, "TAILS_NETWORK")
        self.settings = GreeterSettingsCollection(
            LanguageSettingUI(self.on_language_changed),
            SwitchSettingUI(macspoof, "macspoof", "_MAC Address Anonymization", "network-wired"),
            SwitchSettingUI(network, "network", "_Offline Mode", "airplane-mode-symbolic"),
        )
        self.mainwindow = GreeterMainWindow(self, None, self.settings)
        for setting in self.settings:
            setting.apply()
        # Where the real one waits for AccountsService.
        GLib.idle_add(self.usermanager_loaded)

    def usermanager_loaded(self) -> None:
        self.mainwindow.show()
        self.mainwindow.button_start.grab_focus()
        trace("ready")
        words = os.environ.get("STANDIN_CMDLINE", "").split()
        if "login" in words:
            self.login()
        if "measure" in words:
            GLib.idle_add(self.measure, priority=GLib.PRIORITY_LOW)

    def measure(self) -> bool:
        """The window is drawn: what has it cost?"""
        trace(f"cpu {time.process_time()}")
        self.login()
        return False

    def login(self) -> None:
        self.mainwindow.hide()
        self.gdmclient.do_login()

    def on_language_changed(self, locale: str) -> None:
        TranslatableWindow.translate_all(locale)

    def close_app(self) -> None:
        Gtk.main_quit()

    def shutdown(self) -> None:
        trace("Shutdown")
