# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU time of the generator as a multiple of /usr/bin/true, in one run, interleaved.

``python3 -m tests.bench.bench_generator [--json]``; exits with 1 above 1.5 without a token and 3.5
with one. The fake DMI lies in a private mount namespace, so that what runs is what ships.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).parents[2]
ROUNDS = 400
LIMITS = {"no token": 1.5, "token": 3.5}


def cpu(argv: list[str]) -> float:
    """User and system seconds of one process and its children."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawn(argv[0], argv, {}, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise RuntimeError(f"{argv}: {status}")
    return usage.ru_utime + usage.ru_stime


def measure(generator: Path) -> dict[str, float]:
    """Medians over all rounds, as multiples of /usr/bin/true."""
    samples: dict[str, list[float]] = {"true": [], "no token": [], "token": []}
    fields = Path("/sys/class/dmi/id")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for _ in range(ROUNDS):
            samples["true"].append(cpu(["/usr/bin/true"]))
            for name, value in (("no token", "SeaBIOS"), ("token", "tails-profile:tor-guest")):
                (fields / "bios_vendor").write_text(value + "\n")
                samples[name].append(cpu([str(generator), directory]))
                (Path(directory) / "default.target").unlink(missing_ok=True)
    base = statistics.mean(samples["true"])
    return {name: statistics.mean(samples[name]) / base for name in LIMITS}


def main() -> int:
    """Arrange the namespace, measure, print, judge."""
    if "--inside" not in sys.argv:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-m",
             "tests.bench.bench_generator", "--inside", *sys.argv[1:]],
            cwd=TOP, check=False,
        )  # fmt: skip
        return done.returncode
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/class"], check=True)
    fields = Path("/sys/class/dmi/id")
    fields.mkdir(parents=True)
    for name in ("product_serial", "chassis_asset_tag"):
        (fields / name).write_text("0\n")
    library = Path("/usr/lib")
    work = Path(tempfile.mkdtemp(dir="/sys/class"))
    (work / "upper/tails-profiles").mkdir(parents=True)
    (work / "work").mkdir()
    (work / "upper/tails-profiles/classify.sh").write_bytes(
        (TOP / "units/classify.sh").read_bytes()
    )
    options = f"lowerdir={library},upperdir={work}/upper,workdir={work}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, library], check=True)
    ratios = measure(TOP / "units/tails-profiles-generator")
    if "--json" in sys.argv:
        print(json.dumps(ratios))
    else:
        for name, ratio in ratios.items():
            print(f"generator, {name:9}: {ratio:.2f} times /usr/bin/true (limit {LIMITS[name]})")
    passed = all(ratio <= LIMITS[name] for name, ratio in ratios.items())
    print("verdict: " + ("passed" if passed else "FAILED"), file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
