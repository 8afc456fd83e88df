# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge: the only modules that touch the machine, one outside thing each."""
