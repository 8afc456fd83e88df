# SPDX-License-Identifier: GPL-3.0-or-later
"""Making both guests' machines in the real VirtualBox: our calls beside one setting a call.

``python3 -m tests.bench.bench_virtualbox`` prints calls, wall time and their ratio, in one run and
in turns, and fails where ours takes more than half. Ours read back everything; the other way, which
is how scripts build such machines (Whonix' has 63 calls), reads nothing.
"""

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from tails_profiles import vboxmanage
from tails_profiles.launch import GuestPlan, LaunchPlan
from tails_profiles.vboxmanage import Call, Machine
from tests.virtualbox.inside import plan
from tests.virtualbox.world import TOP, VirtualBox

LIMIT = 0.5
ROUNDS = 5
#: Runs command lines from its standard input, and prints how long each took, in seconds.
RUNNER = """
import json, subprocess, sys, time
begin = time.perf_counter()
for argv in json.load(sys.stdin):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(time.perf_counter() - begin)
"""


def ours(guest: GuestPlan, made: Machine, directory: Path) -> Iterator[tuple[str, ...]]:
    """What the launcher runs where there is no machine yet."""
    calls: tuple[Call, ...] = (
        (vboxmanage.VBOXMANAGE, "list", "vms"),
        *vboxmanage.create(made, vboxmanage.NEWEST),
        vboxmanage.look(made),
        vboxmanage.look_at_extradata(made),
    )
    for call in calls:
        yield vboxmanage.command(guest.profile, directory, call).argv


def one_by_one(made: Machine) -> Iterator[tuple[str, ...]]:
    """The same machine, a call for each setting; without a change of user before each."""
    uuid = str(made.uuid)
    create, _, register, _, *drives = vboxmanage.create(made, vboxmanage.NEWEST)
    yield create
    yield register
    for key, values in made.options.items():
        flags = tuple(vboxmanage.flags({key: values}, vboxmanage.NEWEST))
        if flags:
            yield (vboxmanage.VBOXMANAGE, "modifyvm", uuid, *flags)
    for name, value in made.extradata.items():
        yield vboxmanage.set_extradata(made, name, value)
    yield from drives


def timed(box: VirtualBox, calls: list[tuple[str, ...]]) -> float:
    """Seconds for all of them, one after the other."""
    done = box.run("python3", "-c", RUNNER, stdin=json.dumps(calls))
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return float(done.stdout)


def forget(box: VirtualBox, made: LaunchPlan) -> None:
    """Nothing of either way is left; the services go on running."""
    for guest in made.guests:
        for prefix in ((), vboxmanage.manager(guest.profile, made.directory)):
            box.run(*prefix, vboxmanage.VBOXMANAGE, "unregistervm", str(guest.machine.uuid))
        machine = vboxmanage.machine(guest, made, vboxmanage.NEWEST)
        box.run("rm", "-rf", str(machine.folder / guest.profile))


def main() -> int:
    """Measure, print, judge."""
    made = plan(1.0)
    with VirtualBox([TOP]) as box:
        done = box.run("python3", "-m", "tests.virtualbox.inside", PYTHONPATH=str(TOP))
        if done.returncode != 0 or "error" in json.loads(done.stdout):
            raise RuntimeError(done.stderr or done.stdout)
        version = box.manage("--version").strip()
        machines = [
            (guest, vboxmanage.machine(guest, made, vboxmanage.NEWEST))
            for guest in made.guests
            if guest.profile.value != "i2p-guest"
        ]
        ways = {
            "ours": [call for pair in machines for call in ours(*pair, made.directory)],
            "one setting a call": [call for _, each in machines for call in one_by_one(each)],
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, calls in ways.items():
                forget(box, made)
                times[name].append(timed(box, calls))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"VirtualBox {version}, both guests, median of {ROUNDS}:")
    for name, calls in ways.items():
        print(f"  {name}: {len(calls)} calls, {median[name]:.2f} s")
    ratio = median["ours"] / median["one setting a call"]
    fewer = len(ways["ours"]) / len(ways["one setting a call"])
    passed = ratio <= LIMIT and fewer <= LIMIT
    verdict = "passed" if passed else "FAILED"
    print(f"{verdict}: {fewer:.2f} of the calls, {ratio:.2f} of the time; at most {LIMIT}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
