# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the boot steps wait for hardware, by the machine's own speed."""

import time

#: Seconds that hardware may need to appear, on a machine that reaches these steps in
#: ``REFERENCE_BOOT`` seconds; slower machines get more in proportion, up to ``MAX_FACTOR``.
PATIENCE = 60.0
REFERENCE_BOOT = 5.0
MAX_FACTOR = 10.0


def patience() -> float:
    """Seconds to wait for hardware, by how long this machine took to get here."""
    here = time.clock_gettime(time.CLOCK_BOOTTIME)
    return PATIENCE * min(max(here / REFERENCE_BOOT, 1.0), MAX_FACTOR)
