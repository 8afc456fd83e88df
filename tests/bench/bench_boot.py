# SPDX-License-Identifier: GPL-3.0-or-later
"""Wall time that the generator adds to the generator phase of a normal boot.

``python3 -m tests.bench.bench_boot [--json]``. A real systemd boots in namespaces, without a
token, with and without our generator, in turns; the phase is what PID 1 itself timed. It runs its
generators side by side and waits for the slowest, so what is added is less than what ours takes,
and lies within what one boot differs from the next: the error of the difference is printed with
it. Fails where more than a tenth of the phase is added beyond that error.
"""

import json
import os
import shutil
import statistics
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.sabotage.boot import Boot, Machine

GENERATOR = "usr/lib/systemd/system-generators/tails-profiles-generator"
ROUNDS = 25
LIMIT = 0.10


def phase(*, ours: bool) -> float:
    """Milliseconds that one boot's generators took."""
    work = Path(mkdtemp(dir="/dev/shm", prefix="tails-profiles-bench-"))
    try:
        # Any target will do: generators are done before the first transaction.
        machine = Machine(
            dmi={"bios_vendor": b"SeaBIOS", "product_serial": b"0", "chassis_asset_tag": b"0"},
            files={} if ours else {GENERATOR: None}, arguments=["--unit=basic.target"],
        )  # fmt: skip
        with Boot(machine, work) as boot:
            boot.wait_until_settled()
            shown = boot.succeed(
                "systemctl show --property=GeneratorsStartTimestampMonotonic"
                " --property=GeneratorsFinishTimestampMonotonic"
            )
    finally:
        shutil.rmtree(work)
    times = dict(line.split("=") for line in shown.splitlines())
    start, finish = (
        int(times[f"Generators{end}TimestampMonotonic"]) for end in ("Start", "Finish")
    )
    return (finish - start) / 1000


def pair(*, first: bool) -> tuple[float, float]:
    """One boot with ours and one without; which is first alternates, so that no drift adds up."""
    one = phase(ours=first)
    other = phase(ours=not first)
    return (one, other) if first else (other, one)


def main() -> int:
    """Measure in turns, print, judge."""
    # Before everything else that runs: a boot has its machine to itself.
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    pairs = [pair(first=bool(number % 2)) for number in range(ROUNDS)]
    ours, without = (statistics.median(side) for side in zip(*pairs, strict=True))
    differences = [one - other for one, other in pairs]
    added = statistics.median(differences)
    quarters = statistics.quantiles(differences, n=4)
    # Of a median: 1.253 standard errors of a mean; a quarter range is 1.349 standard deviations.
    error = 1.253 * (quarters[2] - quarters[0]) / 1.349 / ROUNDS**0.5
    if "--json" in sys.argv:
        print(json.dumps({"without": without, "with": ours, "added": added, "error": error}))
    else:
        print(
            f"generator phase of a normal boot: {without:.1f} ms without, {ours:.1f} ms with;"
            f" added {added:+.1f} ms, error {error:.1f} ms"
        )
    passed = added - 2 * error <= LIMIT * without
    print("verdict: " + ("passed" if passed else "FAILED"), file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
