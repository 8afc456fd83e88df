# SPDX-License-Identifier: GPL-3.0-or-later
"""What pictures of guests' screens show, as far as tests ask."""

import zlib

from tails_profiles.picture import Picture


def has_something(drawn: Picture) -> bool:
    """Whether a screen is not black all over: then all bytes of its lines are 0, but filters."""
    lines = zlib.decompress(drawn.png[drawn.png.index(b"IDAT") + 4 : -16])
    size = len(lines) // drawn.height
    return any(any(lines[start + 1 : start + size]) for start in range(0, len(lines), size))
