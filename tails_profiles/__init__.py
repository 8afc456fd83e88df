# SPDX-License-Identifier: GPL-3.0-or-later
"""One live image, several virtual machines: boot profiles chosen by a DMI string."""

__version__ = "0.1.0"
