# SPDX-License-Identifier: GPL-3.0-or-later
"""What the setting adds to the start of Tails Greeter, as a share of the greeter's own.

``python3 -m tests.bench.bench_greeter [--json]``; exits with 1 above a tenth. CPU time of the
greeter's process from its start until its window is drawn, with and without the package, in
turns. The greeter is the stand-in of tests/greeter, which loads and builds far less than the real
one: the share is larger than it is in Tails.
"""

import compileall
import json
import statistics
import sys
from pathlib import Path

from tests.greeter.world import Greeter, Machine, Screen

ROUNDS = 25
AIM, LIMIT = 0.05, 0.10


def compiled(root: Path) -> None:
    """Byte-compile what is installed, as the packages do."""
    for directory in ("share/tails-profiles-greeter", "lib/python3/dist-packages"):
        if (root / "usr" / directory).exists():
            compileall.compile_dir(root / "usr" / directory, stripdir=root, quiet=1)


def cost(screen: Screen, *, installed: bool) -> float:
    """Seconds of CPU of one start."""
    machine = Machine(installed=installed, sabotage=compiled, env={"STANDIN_CMDLINE": "measure"})
    greeter = Greeter(screen, machine)
    try:
        greeter.wait_for("ended")
        line = next(line for line in greeter.trace if line.startswith("cpu "))
        return float(line.split()[1])
    finally:
        greeter.close()


def main() -> int:
    """Measure in turns, print, judge."""
    screen = Screen()
    pairs = []
    try:
        for number in range(ROUNDS):
            # Each first in every other round: what comes second finds warmer caches.
            order = (True, False) if number % 2 else (False, True)
            found = {installed: cost(screen, installed=installed) for installed in order}
            pairs.append((found[True], found[False]))
    finally:
        screen.close()
    stock = statistics.median(pair[1] for pair in pairs)
    differences = [ours - without for ours, without in pairs]
    added, quarters = statistics.median(differences), statistics.quantiles(differences)
    share = added / stock
    # Of a median: 1.253 standard errors of a mean; a quarter range is 1.349 standard deviations.
    error = 1.253 * (quarters[2] - quarters[0]) / 1.349 / ROUNDS**0.5 / stock
    if "--json" in sys.argv:
        print(json.dumps({"share": share, "error": error, "added": added, "stock": stock}))
    else:
        print(
            f"greeter's start: {1000 * stock:.0f} ms of CPU, the setting adds"
            f" {1000 * added:.1f} ms: {share:.1%}, error {error:.1%}"
            f" (aim {AIM:.0%}, limit {LIMIT:.0%})"
        )
    print("verdict: " + ("passed" if share <= LIMIT else "FAILED"), file=sys.stderr)
    return 0 if share <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
