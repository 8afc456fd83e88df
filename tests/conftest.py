# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test shares. Unit tests never start a process: see tests/unit/conftest.py."""
