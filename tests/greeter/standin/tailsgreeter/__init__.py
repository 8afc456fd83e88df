# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Tails Greeter's program: written from its description (names, order of calls,
files), with none of its code. ``STANDIN_SERIES`` says whether it is one of Tails 6 or of Tails 7.
"""

import os

SERIES = int(os.environ.get("STANDIN_SERIES", "6"))
KEY = "id" if SERIES == 6 else "name"


def trace(line: str) -> None:
    """Tell the test what happened."""
    with open(os.environ["STANDIN_TRACE"], "a") as file:
        file.write(line + "\n")
