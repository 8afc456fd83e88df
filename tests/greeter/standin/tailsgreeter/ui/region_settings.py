# SPDX-License-Identifier: GPL-3.0-or-later
"""The language: its row opens nothing, the test's hand chooses."""

from pathlib import Path

from tailsgreeter import KEY, config
from tailsgreeter.settings import SettingNotFoundError
from tailsgreeter.ui.setting import GreeterSetting


class LocalizationSettingUI(GreeterSetting):
    pass


class LanguageSettingUI(LocalizationSettingUI):
    title, icon_name = "_Language", "preferences-desktop-locale"

    def __init__(self, changed) -> None:
        self.changed = changed
        self.value = "en_US"
        super().__init__()

    @property
    def value_for_display(self) -> str:
        return self.value

    def apply(self) -> None:
        path = Path(config.language_setting_path)
        path.write_text(f"TAILS_LOCALE_NAME={self.value}\nIS_DEFAULT=false\n")
        super().apply()
        self.changed(self.value)

    def load(self) -> bool:
        try:
            lines = Path(config.language_setting_path).read_text().splitlines()
        except FileNotFoundError as err:
            raise SettingNotFoundError("language") from err
        value = lines[0].partition("=")[2]
        changed, self.value = value != self.value, value
        if changed:
            self.apply()
        return changed


setattr(LanguageSettingUI, KEY, "language")
