# SPDX-License-Identifier: GPL-3.0-or-later
"""The built packages: what they hold, and what a Debian is like with, and after, them."""

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.sabotage.root import BUILD, SUITES, base

pytestmark = pytest.mark.lab

TOP = Path(__file__).parents[2]
PACKAGES = ("tails-profiles", "tails-profiles-boot", "tails-profiles-greeter")
WANTED = ("lockdown", "firewall", "links")
#: By whom each name outside of our own is brought: they must be what the package says it needs.
LIBRARIES = {
    "python3-dmidecode", "python3-jinja2", "python3-pyudev", "python3-stem", "python3-systemd",
}  # fmt: skip


def deb(package: str) -> Path:
    """The package as ./check built it."""
    (found,) = (BUILD / "debs").glob(f"{package}_*.deb")
    return found


def field(package: str, name: str) -> str:
    """One field of the package's control file."""
    return _output("dpkg-deb", "--field", str(deb(package)), name).strip()


def members(package: str, part: str = "--fsys-tarfile") -> dict[str, tarfile.TarInfo]:
    """What lies in the package, without directories, by absolute path."""
    with _tar(package, part) as archive:
        return {
            item.name.removeprefix("."): item for item in archive.getmembers() if not item.isdir()
        }


def content(package: str, path: str) -> bytes:
    """One file of the package."""
    with _tar(package, "--fsys-tarfile") as archive:
        file = archive.extractfile(f".{path}")
        assert file is not None
        return file.read()


def _tar(package: str, part: str) -> tarfile.TarFile:
    done = subprocess.run(
        ["dpkg-deb", part, deb(package)], capture_output=True, check=True, stdin=subprocess.DEVNULL
    )
    return tarfile.open(fileobj=BytesIO(done.stdout))


def _output(*argv: str) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


# ---- what they hold


def test_boot_has_no_maintainer_script_and_nobody_a_configuration_file() -> None:
    assert set(members("tails-profiles-boot", "--ctrl-tarfile")) == {"/control", "/md5sums"}
    for package in PACKAGES:
        control = members(package, "--ctrl-tarfile")
        assert "/conffiles" not in control
        # Byte-compilation is all that the others do: see dh_python3(1).
        assert set(control) <= {"/control", "/md5sums", "/postinst", "/prerm"}
        assert not [path for path in members(package) if path.startswith(("/etc", "/var", "/run"))]


def test_everything_belongs_to_root_and_nobody_else_may_write_it() -> None:
    for package in PACKAGES:
        for path, item in members(package).items():
            assert (item.uid, item.gid) == (0, 0), path
            assert item.issym() or item.mode in {0o644, 0o755}, f"{path} {item.mode:o}"


def test_only_programs_are_executable() -> None:
    programs = {
        path
        for path, item in members("tails-profiles-boot").items()
        if item.isfile() and item.mode & 0o111
    }
    assert "/usr/lib/systemd/system-generators/tails-profiles-generator" in programs
    for path in programs:
        assert content("tails-profiles-boot", path).startswith(b"#!/"), path
        assert path.startswith(("/usr/lib/tails-profiles/", "/usr/lib/systemd/system-generators/"))


def test_the_three_steps_and_no_other_unit_are_wanted_by_a_boot() -> None:
    system = "/usr/lib/systemd/system"
    links = {path: item for path, item in members("tails-profiles-boot").items() if item.issym()}
    assert {path: item.linkname for path, item in links.items()} == {
        f"{system}/sysinit.target.wants/tails-profiles-{step}.service": (
            f"../tails-profiles-{step}.service"
        )
        for step in WANTED
    }
    for package in ("tails-profiles", "tails-profiles-greeter"):
        assert not [path for path in members(package) if "/systemd/" in path]


def test_every_program_that_a_unit_starts_ships_or_is_its_packages_need() -> None:
    shipped = {path for package in PACKAGES[:2] for path in members(package)}
    for path in members("tails-profiles-boot"):
        if not path.endswith((".service", ".socket")):
            continue
        for line in content("tails-profiles-boot", path).decode().splitlines():
            key, _, value = line.partition("=")
            if key.startswith("Exec") and value:
                program = value.split()[0].lstrip("@-:+!")
                if "tails-profiles" in program:
                    assert program in shipped, f"{path}: {program}"


def test_greeters_package_ships_its_places_and_no_file_of_tails() -> None:
    plugin = TOP / "greeter_plugin"
    share = "/usr/share/tails-profiles-greeter/greeter_plugin"
    domain = "LC_MESSAGES/tails-profiles.mo"
    languages = (plugin / "po/LINGUAS").read_text().split()
    shipped = {path for path in members("tails-profiles-greeter") if "/share/doc/" not in path}
    assert shipped == {
        "/usr/lib/tails-profiles-greeter/tails-profiles-greeter",
        # GDM looks here before /usr/share/applications, where Tails' own entry stays as it is.
        "/usr/share/gdm/greeter/applications/tails-greeter.desktop",
        # Byte code is made anew with each Python.
        "/usr/share/python3/runtime.d/tails-profiles-greeter.rtupdate",
        *(f"{share}/{path.name}" for path in plugin.glob("*.py")),
        *(f"/usr/share/locale/{language}/{domain}" for language in languages),
    }
    for path in plugin.glob("*.py"):
        assert content("tails-profiles-greeter", f"{share}/{path.name}") == path.read_bytes()
    needed = field("tails-profiles-greeter", "Depends").split(", ")
    assert {"gir1.2-gtk-3.0", "python3-gi"} <= {word.split()[0] for word in needed}


def test_rule_sets_are_those_that_were_reviewed() -> None:
    place = "/usr/lib/tails-profiles/rulesets/"
    golden = TOP / "tests/golden/rulesets"
    shipped = {path for path in members("tails-profiles-boot") if path.startswith(place)}
    assert shipped == {place + path.name for path in golden.iterdir()}
    for path in shipped:
        assert content("tails-profiles-boot", path) == (golden / Path(path).name).read_bytes()


def test_needs_name_the_libraries_and_hold_both_packages_at_one_version() -> None:
    needed = {word.strip().split()[0] for word in field("tails-profiles", "Depends").split(",")}
    assert needed >= LIBRARIES | {"nftables", "iproute2"}
    version = field("tails-profiles", "Version")
    assert f"tails-profiles (= {version})" in field("tails-profiles-boot", "Depends")


def test_manual_page_is_set_without_a_warning(tmp_path: Path) -> None:
    page = tmp_path / "tails-profiles.1.gz"
    page.write_bytes(content("tails-profiles", "/usr/share/man/man1/tails-profiles.1.gz"))
    done = subprocess.run(
        ["man", "--warnings", "--encoding=UTF-8", "--local-file", page],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80",
             "MANROFFSEQ": ""},
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"tor-guest" in done.stdout


def test_completion_lies_where_bash_looks_for_the_programs_name() -> None:
    path = "/usr/share/bash-completion/completions/tails-profiles"
    source = TOP / "debian/tails-profiles.bash-completion"
    assert content("tails-profiles", path) == source.read_bytes()


# ---- a Debian with them

_ENTER = """
set -eu
work=$1 lower=$2
shift 2
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" "$work/root"
mount -t proc proc "$work/root/proc"
mount -t tmpfs -o mode=755 tmpfs "$work/root/dev"
mknod -m 666 "$work/root/dev/null" c 1 3
mount --bind "$work/debs" "$work/root/mnt"
exec chroot "$work/root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive sh -c "$1"
"""


class Debian:
    """A root directory laid over the one that the boots use; what is done in it stays in it."""

    def __init__(self, suite: str) -> None:
        self.lower = base(suite)
        #: Every path before the packages came.
        self.untouched: set[str] = set()
        self.work = Path(mkdtemp(dir="/dev/shm", prefix="tails-profiles-packaging-"))
        for name in ("upper", "work", "root", "debs"):
            (self.work / name).mkdir()
        for package in PACKAGES[:2]:
            shutil.copy(deb(package), self.work / "debs")

    def run(self, command: str) -> str:
        """What a shell command prints in it; it must succeed."""
        return _output(
            "unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", _ENTER, "enter",
            str(self.work), str(self.lower), command,
        )  # fmt: skip

    def files(self) -> set[str]:
        """Every path outside of dpkg's own records and logs."""
        found = self.run(
            "find / -xdev ! -path '/var/lib/dpkg/*' ! -path '/var/log/*' ! -path '/mnt*'"
            " ! -path '/dev*' ! -path '/proc*'"
        )
        return set(found.splitlines())


@pytest.fixture(scope="module", params=SUITES)
def debian(request: pytest.FixtureRequest) -> Iterator[Debian]:
    """With both packages installed, by dpkg, which checks what they need."""
    made = Debian(request.param)
    made.untouched = made.files()
    made.run("dpkg --install /mnt/*.deb")
    yield made
    shutil.rmtree(made.work)


def test_installed_packages_are_whole_and_their_needs_met(debian: Debian) -> None:
    assert debian.run("dpkg --audit") == ""
    # These roots are made without documentation.
    left_out = ("/usr/share/doc/", "/usr/share/man/")
    found = debian.run("dpkg --verify tails-profiles tails-profiles-boot").splitlines()
    assert [line for line in found if not any(place in f"{line}/" for place in left_out)] == []


def test_installed_command_answers_from_the_package_alone(debian: Debian) -> None:
    assert debian.run("cd / && tails-profiles --help").startswith("usage: tails-profiles")
    assert field("tails-profiles", "Version") in debian.run("tails-profiles --version")
    # A module of its name in the working directory or in PYTHONPATH is not taken.
    debian.run(
        "mkdir /tmp/evil && echo 'raise SystemExit(9)' >/tmp/evil/tails_profiles.py && cd /tmp/evil"
        " && PYTHONPATH=/tmp/evil tails-profiles list && rm -r /tmp/evil"
    )
    debian.run(
        "tails-profiles render app-guest | cmp - /usr/lib/tails-profiles/rulesets/app-guest.nft"
    )


def test_installing_changes_no_file_of_the_system(debian: Debian) -> None:
    added = debian.files() - debian.untouched
    assert "/usr/lib/systemd/system/tails-profiles-lockdown.service" in added
    # Beside our own names: the directories of our drop-ins, for services that are not there.
    drop_ins = {
        path.rpartition("/")[0] for path in added if path.endswith("50-tails-profiles.conf")
    }
    ours = {path for path in added if "tails-profiles" in path or "tails_profiles" in path}
    # And a unit whose name is that of its place.
    mount = {"/usr/lib/systemd/system/etc-resolv.conf.mount"}
    assert added - ours - drop_ins == mount


def test_removed_packages_leave_nothing_behind(debian: Debian) -> None:
    debian.run("dpkg --purge tails-profiles-boot tails-profiles")
    try:
        # What the interpreter wrote for libraries of others is theirs.
        left = {path for path in debian.files() ^ debian.untouched if "__pycache__" not in path}
        assert left == set()
    finally:
        debian.run("dpkg --install /mnt/*.deb")
