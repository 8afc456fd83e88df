# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU time of the generator as a multiple of /usr/bin/true, beside cloud-init's ds-identify.

``python3 -m tests.bench.bench_generator [--json]``; exits with 1 above 1.5 without a token and 3.5
with one. All take turns in one run, on the same fake DMI, which lies in a private mount namespace,
so that what runs is what ships. ds-identify is Debian's, as its package installs it; it answers the
same question for clouds ("is one of the fields a word of ours?") and is what a boot with cloud-init
pays.
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
AIMS = {"no token": 1.2, "token": 2.8}
LIMITS = {"no token": 1.5, "token": 3.5}
#: Debian's package, unpacked by ./check bench, never installed: it would act at the next boot.
DS_IDENTIFY = TOP / ".build/bench/cloud-init/usr/lib/cloud-init/ds-identify"
FIELDS = Path("/sys/class/dmi/id")
#: A virtual machine of QEMU without -smbios; bios_vendor changes.
FAKE = {
    "bios_vendor": "SeaBIOS", "sys_vendor": "QEMU", "product_name": "Standard PC (i440FX + PIIX)",
    "product_serial": "", "product_uuid": "00000000-0000-0000-0000-000000000000",
    "chassis_asset_tag": "", "board_name": "",
}  # fmt: skip
ORDINARY, TOKEN = "SeaBIOS", "tails-profile:tor-guest"
#: What PID 1 gives its generators in a virtual machine.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    "SYSTEMD_SCOPE": "system",
    "SYSTEMD_IN_INITRD": "0",
    "SYSTEMD_VIRTUALIZATION": "vm:qemu",
}
#: Found, or not found: it looks for clouds here.
ANSWERS = (0, 1)


def cpu(argv: list[str], good: tuple[int, ...] = (0,)) -> float:
    """User and system seconds of one process and its children."""
    quiet = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=quiet)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in good:
        raise RuntimeError(f"{argv}: {status}")
    return usage.ru_utime + usage.ru_stime


def measure(generator: Path) -> dict[str, float]:
    """Means over all rounds, as multiples of /usr/bin/true."""
    samples: dict[str, list[float]] = {
        name: [] for name in ("true", "no token", "token", "ds-identify")
    }
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for _ in range(ROUNDS):
            samples["true"].append(cpu(["/usr/bin/true"]))
            (FIELDS / "bios_vendor").write_text(ORDINARY + "\n")
            samples["no token"].append(cpu([str(generator), directory]))
            if list(Path(directory).iterdir()):
                raise RuntimeError("without a token something was written")
            samples["ds-identify"].append(cpu([str(DS_IDENTIFY), "--force"], ANSWERS))
            (FIELDS / "bios_vendor").write_text(TOKEN + "\n")
            samples["token"].append(cpu([str(generator), directory]))
            made = list(Path(directory).iterdir())
            if Path(directory) / "default.target" not in made:
                raise RuntimeError("with a token no target was chosen")
            for path in made:
                path.unlink()
    base = statistics.mean(samples.pop("true"))
    return {name: statistics.mean(values) / base for name, values in samples.items()}


def arrange() -> None:
    """Fake DMI, the installed classifier, and a /run of its own: this is a private namespace."""
    mount = ["mount", "-t"]
    for place in ("/sys/class", "/run"):
        subprocess.run([*mount, "tmpfs", "tmpfs", place], check=True)
    # The kernel's log of this machine is not told of a thousand boots.
    if Path("/dev/kmsg").exists():
        subprocess.run(["mount", "--bind", "/dev/null", "/dev/kmsg"], check=True)
    FIELDS.mkdir(parents=True)
    for name, value in FAKE.items():
        (FIELDS / name).write_text(value + "\n")
    work = Path(tempfile.mkdtemp(dir="/sys/class"))
    (work / "upper/tails-profiles").mkdir(parents=True)
    (work / "work").mkdir()
    (work / "upper/tails-profiles/classify.sh").write_bytes(
        (TOP / "units/classify.sh").read_bytes()
    )
    options = f"lowerdir=/usr/lib,upperdir={work}/upper,workdir={work}/work"
    subprocess.run([*mount, "overlay", "overlay", "-o", options, "/usr/lib"], check=True)


def main() -> int:
    """Arrange the namespace, measure, print, judge."""
    if "--inside" not in sys.argv:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-m",
             "tests.bench.bench_generator", "--inside", *sys.argv[1:]],
            cwd=TOP, check=False,
        )  # fmt: skip
        return done.returncode
    arrange()
    ratios = measure(TOP / "units/tails-profiles-generator")
    if "--json" in sys.argv:
        print(json.dumps(ratios))
    else:
        for name, ratio in ratios.items():
            judged = f" (aim {AIMS[name]}, limit {LIMITS[name]})" if name in LIMITS else ""
            print(f"{name:12} {ratio:5.2f} times /usr/bin/true{judged}")
    passed = all(ratios[name] <= limit for name, limit in LIMITS.items())
    print("verdict: " + ("passed" if passed else "FAILED"), file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
