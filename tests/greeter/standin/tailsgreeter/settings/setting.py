# SPDX-License-Identifier: GPL-3.0-or-later
"""One value in one file."""

from pathlib import Path

from tailsgreeter.settings import SettingNotFoundError


class BooleanSetting:
    def __init__(self, settings_file: str, setting_name: str) -> None:
        self.path, self.key = Path(settings_file), setting_name

    def save(self, value: bool) -> None:
        self.path.write_text(f"{self.key}={str(value).lower()}\n")
        self.path.chmod(0o600)

    def load(self) -> bool:
        try:
            return self.path.read_text().strip() == f"{self.key}=true"
        except FileNotFoundError as err:
            raise SettingNotFoundError(self.key) from err
