# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths."""

from tailsgreeter import SERIES
from tailsgreeter.strict import guard_module

data_path = "/usr/share/tails/greeter/"
persistent_settings_dir = "/var/lib/gdm3/settings/persistent"
transient_settings_dir = "/var/lib/gdm3/settings/transient"
language_directory = persistent_settings_dir if SERIES == 6 else transient_settings_dir
language_setting_path = f"{language_directory}/tails.language"
macspoof_setting_path = f"{persistent_settings_dir}/tails.macspoof"
network_setting_path = f"{persistent_settings_dir}/tails.network"

guard_module(
    __name__,
    "data_path", "persistent_settings_dir", "transient_settings_dir", "language_setting_path",
    "macspoof_setting_path", "network_setting_path",
)  # fmt: skip
