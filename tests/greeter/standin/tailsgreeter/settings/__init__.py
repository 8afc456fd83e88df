# SPDX-License-Identifier: GPL-3.0-or-later
"""Models of the settings."""

from tailsgreeter.strict import guard_module


class SettingNotFoundError(Exception):
    """A setting is not stored."""


guard_module(__name__, "SettingNotFoundError")
