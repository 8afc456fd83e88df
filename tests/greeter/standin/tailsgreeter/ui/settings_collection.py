# SPDX-License-Identifier: GPL-3.0-or-later
"""All settings by their keys, and the two kinds of them."""

from tailsgreeter.strict import Strict
from tailsgreeter.ui.additional_settings import AdditionalSetting
from tailsgreeter.ui.region_settings import LocalizationSettingUI


class GreeterSettingsCollection(Strict):
    promised = frozenset({"settings", "region_settings", "additional_settings"})

    def __init__(self, *settings, whole: bool = True) -> None:
        self.settings = {setting.key: setting for setting in settings}
        if whole:
            for name, kind in (
                ("region_settings", LocalizationSettingUI),
                ("additional_settings", AdditionalSetting),
            ):
                chosen = [setting for setting in settings if isinstance(setting, kind)]
                setattr(self, name, GreeterSettingsCollection(*chosen, whole=False))

    def __getitem__(self, key: str):
        return self.settings[key]

    def __iter__(self):
        return iter(self.settings.values())

    def key_of(self, row):
        return next(key for key, item in self.settings.items() if item.listboxrow == row)
