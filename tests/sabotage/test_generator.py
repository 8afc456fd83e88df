# SPDX-License-Identifier: GPL-3.0-or-later
"""The generator as it ships, on every machine of the corpus: what it writes, and when nothing.

Its quick way out, taken without the classifier, must never say "normal" where the corpus does not.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.data.tokens import CASES, Case
from tests.dmi_fields import write_case

UNITS = Path(__file__).parents[2] / "units"
GENERATOR = UNITS / "tails-profiles-generator"
MACHINES = tuple(case for case in CASES if not case.container)
#: A few that are not normal.
CHOSEN = tuple(case for case in MACHINES if case.profile != "normal")[::40]
#: For one machine; a run takes a millisecond.
SECONDS = 2 * float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
UNIT_DIRECTORY = "/usr/lib/systemd/system"
#: What a gateway does without.
MASKS = (
    "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount", "systemd-binfmt.service", "modprobe@configfs.service",
    "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service",
    "kmod-static-nodes.service", "systemd-tmpfiles-setup-dev-early.service",
    "systemd-udev-load-credentials.service", "timers.target",
)  # fmt: skip
#: And what it has in the place of systemd's own.
COLDPLUG = "systemd-udev-trigger.service*"

# In a mount namespace of its own: the arguments are a directory on a tmpfs, the generator, and how
# many seconds one run may take. Each machine's fields stand where the kernel shows them; each
# answer is a line.
DRIVER = """
import os, subprocess, sys
from pathlib import Path

generator, seconds = sys.argv[2], float(sys.argv[3])
work = Path("/mnt")
subprocess.run(["mount", "--bind", sys.argv[1], work], check=True)
mount = ["mount", "-t"]
subprocess.run([*mount, "tmpfs", "tmpfs", "/sys/class"], check=True)
Path("/sys/class/dmi").mkdir()
layers = f"lowerdir=/usr/lib,upperdir={work}/lib,workdir={work}/work"
subprocess.run([*mount, "overlay", "overlay", "-o", layers, "/usr/lib"], check=True)
# The kernel's log, which a container may not have, is a file.
subprocess.run([*mount, "tmpfs", "tmpfs", "/dev"], check=True)
os.mknod("/dev/null", 0o666 | 0o020000, os.makedev(1, 3))
said = Path("/dev/kmsg")
places = [work / name for name in ("normal", "early", "late")]
for place in places:
    place.mkdir(exist_ok=True)
for number in sys.stdin.read().split():
    Path("/sys/class/dmi/id").unlink(missing_ok=True)
    Path("/sys/class/dmi/id").symlink_to(work / "machines" / number)
    said.write_text("")
    status = subprocess.run([generator, *places], stdin=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, timeout=seconds).returncode
    made = [path for place in places for path in place.iterdir()]
    links = [f"{path.readlink()} {path.relative_to(work)}" for path in made if path.is_symlink()]
    files = sorted(f"{path.relative_to(work)}{'*' if path.stat().st_size else ''}"
                   for path in made if path.is_file() and not path.is_symlink())
    print(status, " ".join(links), " ".join(files), said.read_text().rstrip(), sep="|")
    for path in made:
        path.unlink()
"""


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """The corpus as directories, and the installed classifier."""
    made = Path(mkdtemp(dir="/dev/shm", prefix="tails-profiles-generator-"))
    for number, case in enumerate(MACHINES):
        write_case(made / "machines" / str(number), case)
        answer = made / "answers" / str(number)
        answer.parent.mkdir(exist_ok=True)
        answer.write_text(named(case) + "\n")
    (made / "lib/tails-profiles").mkdir(parents=True)
    shutil.copy(UNITS / "classify.sh", made / "lib/tails-profiles")
    (made / "work").mkdir()
    yield made
    shutil.rmtree(made)


def answers(
    work: Path, machines: Sequence[Case], *namespaces: str, **environment: str
) -> list[str]:
    """What the generator did on each machine: "STATUS|TARGET PLACE|FILES|MESSAGE".

    A file that is not empty has a star.
    """
    numbers = [MACHINES.index(case) for case in machines]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", *namespaces, sys.executable, "-c",
         DRIVER, work, GENERATOR, str(SECONDS)],
        input=" ".join(map(str, numbers)),
        capture_output=True, text=True, errors="replace", check=False,
        env={"PATH": os.environ["PATH"], **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def named(case: Case) -> str:
    """The only link that may be made for this machine: its target and its place."""
    if case.profile == "normal":
        return ""
    return f"{UNIT_DIRECTORY}/tails-profiles-{case.profile}.target early/default.target"


def spared(case: Case) -> str:
    """The files that may be made for this machine: masks, which are empty, and one unit."""
    gateway = case.profile in {"tor-guest", "i2p-guest"}
    return " ".join(sorted(f"early/{unit}" for unit in (*MASKS, COLDPLUG))) if gateway else ""


def message(case: Case) -> str:
    """What the kernel's log is told, up to the reason for a quarantine."""
    if case.profile == "normal":
        return ""
    if case.profile == "quarantine":
        return f"<3>tails-profiles-generator: quarantine: {case.field}: "
    return f"<6>tails-profiles-generator: {case.profile}, from {case.field}"


def test_generator_makes_one_link_for_a_token_spares_a_gateway_and_writes_nothing_without(
    work: Path,
) -> None:
    # Words of the kernel command line are in its environment.
    names = ("ordinary", "name", "field", "line", "rest", "early", "tp_profile", "tp_value", "IFS")
    said = answers(work, MACHINES, **dict.fromkeys(names, "1"))
    for case, answer in zip(MACHINES, said, strict=True):
        status, made, files, told = answer.split("|", 3)
        assert (status, made, files) == ("0", named(case), spared(case)), case
        assert told.startswith(message(case)), case
        assert case.profile == "quarantine" or told == message(case), case


def test_generator_is_silent_in_an_initial_ram_disk(work: Path) -> None:
    assert set(answers(work, CHOSEN, SYSTEMD_IN_INITRD="1")) == {"0|||"}


def test_generator_is_silent_in_a_container_alone(work: Path) -> None:
    own = ("--pid", "--fork", "--kill-child")
    assert set(answers(work, CHOSEN, *own, SYSTEMD_VIRTUALIZATION="container:lxc")) == {"0|||"}
    # What systemd calls a machine is one, in whatever namespace.
    assert "0|||" not in answers(work, CHOSEN, *own, SYSTEMD_VIRTUALIZATION="vm:qemu")


def test_missing_classifier_makes_nothing_and_is_no_success(work: Path) -> None:
    installed = work / "lib/tails-profiles/classify.sh"
    aside = installed.rename(work / "aside")
    try:
        assert set(answers(work, CHOSEN)) == {"1|||"}
    finally:
        aside.rename(installed)


# Each is one plausible mistake of the quick way out, or of what follows it.
MUTANTS = (
    ('[ ! -f "$field" ]', "false"),
    ("! read -r line ||", "! read -r line &&"),
    ("|| read -r rest ||", "||"),
    ('[ -n "$rest" ]', "false"),
    ("*[Tt][Aa]", "[Tt][Aa]"),
    ("*[Tt][Aa][Ii][Ll][Ss]-", "*tails-"),
    ("[Ff][Ii][Ll][Ee]*)", "[Ff][Ii][Ll][Ee]:*)"),
    ("product_serial chassis_asset_tag", "product_serial"),
    ("bios_vendor product_serial", "bios_vendor"),
    ("IFS='\n'\n", "IFS=' '\n"),
    ('"$early/default.target"', '"$1/default.target"'),
    ('"$early/$unit" || exit 1', '"$1/$unit" || exit 1'),
    ('"$early/systemd-udev-trigger.service"', '"$1/systemd-udev-trigger.service"'),
)
# A subshell for each machine, and the link is only named; the first one that is answered otherwise
# than by hand ends it. $1 is the directory of machines, $2 that of the answers, $3 the source.
SUBSHELLS = """
for machine in "$1"/*; do
    number=${machine##*/}
    IFS= read -r expected <"$2/$number"
    answer=$( (mutant=$3; set -- normal early late; . "$mutant") 2>/dev/null ||
        printf 'status %s' $?)
    [ "$answer" = "$expected" ] || { echo "$number"; exit; }
done
"""
INSTEAD = {
    "/sys/class/dmi/id": "$machine",
    "/usr/lib/tails-profiles/classify.sh": str(UNITS / "classify.sh"),
    "ln -s ": "printf '%s %s' ",
    "/dev/kmsg": "/dev/null",
}


NEVER = "does not end"


def mistaken(source: str, work: Path, tmp_path: Path) -> Case | str | None:
    """The first machine on which this source does something else; NEVER where it does not end."""
    for installed, here in INSTEAD.items():
        assert installed in source
        source = source.replace(installed, here)
    mutant = tmp_path / "generator"
    mutant.write_text(source)
    (tmp_path / "early").mkdir()
    with subprocess.Popen(
        ["/bin/dash", "-c", SUBSHELLS, "driver", work / "machines", work / "answers", mutant],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, cwd=tmp_path,
    ) as driver:  # fmt: skip
        try:
            out, err = driver.communicate(timeout=2 * SECONDS)
        except subprocess.TimeoutExpired:
            # With the subshell that waits.
            os.killpg(driver.pid, signal.SIGKILL)
            return NEVER
    assert (err, driver.returncode) == ("", 0)
    return MACHINES[int(out)] if out else None


def test_generator_in_subshells_does_what_it_does_alone(work: Path, tmp_path: Path) -> None:
    assert mistaken(GENERATOR.read_text(), work, tmp_path) is None


@pytest.mark.parametrize(("original", "mistake"), MUTANTS)
def test_corpus_catches_a_mistake_in_the_generator(
    original: str, mistake: str, work: Path, tmp_path: Path
) -> None:
    source = GENERATOR.read_text()
    assert source.count(original) == 1
    found = mistaken(source.replace(original, mistake), work, tmp_path)
    # Only the one that opens a pipe waits for ever, and with it the boot.
    assert found is not None
    assert (found == NEVER) == (mistake == "false" and "$rest" not in original)
