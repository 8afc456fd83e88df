# SPDX-License-Identifier: GPL-3.0-or-later
"""The setting "Isolate through virtualization" in Tails Greeter.

Imports nothing but the standard library and gi, and nothing at all of ``tails_profiles``: it is
loaded into the greeter's process, whose start every user waits for. docs/greeter.md says how the
parts fit.
"""
