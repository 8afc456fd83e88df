# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test shares. Unit tests never start a process: see tests/unit/conftest.py."""

import hypothesis

# How long an example takes depends on what else the machine does: nothing here is judged by time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")
