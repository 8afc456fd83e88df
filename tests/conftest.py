# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test shares. Unit tests never start a process: see tests/unit/conftest.py."""

import signal

import hypothesis

# How long an example takes depends on what else the machine does: nothing here is judged by time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# As at a terminal. A run in the background or under nohup ignores these, and so would every program
# that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
