# SPDX-License-Identifier: GPL-3.0-or-later
"""``python3 -m tails_profiles`` is the command."""

import sys

from tails_profiles.cli import main

sys.exit(main())
