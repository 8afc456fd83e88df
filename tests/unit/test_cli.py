# SPDX-License-Identifier: GPL-3.0-or-later
"""The command as its users type it."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tails_profiles import settings
from tails_profiles.cli import main
from tails_profiles.links import FoundLink
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.settings_disk import Content
from tails_profiles.system.files import write_json

TOP = Path(__file__).parents[2]


def dmi(root: Path, **fields: str) -> Path:
    directory = root / "class/dmi/id"
    directory.mkdir(parents=True)
    for name, value in fields.items():
        (directory / name).write_text(value + "\n")
    return root


def test_detect_prints_the_selection_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = dmi(tmp_path, bios_vendor="tails-profile:tor-guest")
    assert main(["detect", "--json", "--sysfs", str(root)]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["profile"], answer["field"]) == ("tor-guest", "bios_vendor")


def test_detect_of_a_missing_tree_is_one_line_and_status_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "--sysfs", str(tmp_path / "nothing")]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("tails-profiles: ")
    assert "Traceback" not in captured.err


def test_render_prints_the_bytes_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "tor-guest", "--variant", "tcp-dns", "--link", "uplink"]) == 0
    golden = TOP / "tests/golden/rulesets/tor-guest-tcp-dns.uplink.nft"
    assert capsys.readouterr().out == golden.read_text()


@pytest.mark.parametrize(
    "argv", [["render", "normal"], ["render", "tor-guest", "--variant", "x"],
             ["render", "app-guest", "--link", "uplink"]]
)  # fmt: skip
def test_render_of_what_does_not_exist_is_status_five(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 5
    assert capsys.readouterr().err.count("\n") == 2


def test_usage_error_is_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["show", "nothing"])
    assert caught.value.code == 2
    assert "tor-guest" in capsys.readouterr().err


def test_list_and_show_name_every_profile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    for profile in Profile:
        assert profile in listed
        assert main(["show", profile, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["profile"] == profile


# ---- what surrounds a command: the shell, the terminal, libraries that are missing

PROGRAM = [sys.executable, "-m", "tails_profiles"]
TIME_LIMIT = 60 * float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))


def shell(script: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a line of bash in which ``tp`` is the program."""
    return subprocess.run(
        ["bash", "-c", f'tp() {{ {shlex.join(PROGRAM)} "$@"; }}; {script}'],
        capture_output=True, text=True, timeout=TIME_LIMIT, check=False, cwd=TOP,
        # Buffered, as it is for everybody: what is wrong then shows at the end.
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
    )  # fmt: skip


@pytest.mark.allow_processes
@pytest.mark.parametrize("command", ["list", "--help", "token tor-guest --hypervisor virtualbox"])
def test_reader_that_has_seen_enough_is_no_error(command: str) -> None:
    done = shell(f"tp {command} | true; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.allow_processes
@pytest.mark.parametrize(
    ("where", "words"), [(">/dev/full", "No space left on device"), (">&-", "output is closed")]
)
@pytest.mark.parametrize("command", ["list", "--help"])
def test_output_that_goes_nowhere_is_one_line_and_status_one(
    command: str, where: str, words: str
) -> None:
    done = shell(f"tp {command} {where}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.allow_processes
def test_missing_libraries_are_named_and_needed_by_nobody_else(tmp_path: Path) -> None:
    for library in ("jinja2", "dmidecode", "pyudev", "stem", "systemd", "qemu"):
        (tmp_path / f"{library}.py").write_text("raise ImportError\n")
    path = {"PYTHONPATH": str(tmp_path)}
    dmi(tmp_path, bios_vendor="tails-profile:tor-guest")
    for command in ("list", "show tor-guest", "token tor-guest", f"detect --sysfs {tmp_path}"):
        done = shell(f"tp {command}", **path)
        assert (done.returncode, done.stderr) == (0, ""), command
    done = shell("tp render tor-guest", **path)
    assert done.returncode == 6
    assert done.stderr == (
        "tails-profiles: the Python library jinja2 cannot be imported\n  install python3-jinja2\n"
    )


@pytest.mark.allow_processes
def test_name_that_the_locale_cannot_write_is_no_traceback() -> None:
    done = shell("tp token tor-guest --hypervisor qemu --vm $'\\xff\\xe9'", LC_ALL="C.UTF-8")
    assert done.returncode == 1
    assert "no name" in done.stderr
    done = shell("tp token tor-guest --hypervisor qemu --vm é", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_is_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tails_profiles.cli.ruleset.render_named", interrupt)
    assert main(["render", "tor-guest"]) == 130
    assert capsys.readouterr().err == "tails-profiles: interrupted\n"


def test_path_that_no_file_system_takes_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # Newer Pythons say that it is no directory.
    assert main(["detect", "--sysfs", "x" * 5000]) in {1, 3}
    assert re.search("x: File name too long\n$|x is no directory\n", capsys.readouterr().err)


def test_error_cannot_move_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "--sysfs", "a\033[2J\nb"]) == 3
    error = capsys.readouterr().err
    assert "\033" not in error
    assert error.count("\n") == 2


def test_apply_needs_root(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["apply"]) == 3
    assert capsys.readouterr().err.splitlines()[1] == "  run as root"


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine in a directory, without a settings disk, for root."""
    monkeypatch.setattr("tails_profiles.cli.Paths", lambda: Paths(tmp_path))
    monkeypatch.setattr("tails_profiles.cli.dmi.in_container", lambda: False)
    monkeypatch.setattr("tails_profiles.firewall_step.settings_disk.find", lambda *_, **__: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_apply_without_a_token_does_nothing(
    machine: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    dmi(machine / "sys", bios_vendor="SeaBIOS")
    assert main(["apply", *option]) == 0
    assert capsys.readouterr().out == "nothing to do: no field carries a token\n"
    assert not (machine / "run").exists()


def test_dry_run_shows_rule_set_and_links_and_changes_nothing(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dmi(machine / "sys", bios_vendor="tails-profile:app-guest")
    found = (FoundLink("eth0", "00:11:22:33:44:55"),)
    monkeypatch.setattr("tails_profiles.cli.link_edge.list_links", lambda: found)
    assert main(["apply", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rulesets = f"nft -f {machine}/usr/lib/tails-profiles/rulesets"
    assert lines[1] == f"{rulesets}/app-guest.nft"
    assert lines[2:4] == ["/usr/sbin/ip link set dev eth0 down",
                          "/usr/sbin/ip link set dev eth0 name tor"]  # fmt: skip
    assert f"{rulesets}/app-guest.tor.nft" in lines
    assert lines.index(f"{rulesets}/app-guest.tor.nft") < lines.index(
        "/usr/sbin/ip link set dev tor up"
    )
    assert not (machine / "run").exists()


def test_dry_run_with_a_settings_disk_mixes_no_seed(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it changed something")

    disk = Content(settings.serialize(settings.defaults(Profile.TOR_GUEST)), bytes(64))
    monkeypatch.setattr("tails_profiles.firewall_step.settings_disk.find", lambda *_, **__: disk)
    monkeypatch.setattr("tails_profiles.firewall_step.settings_disk.mix_seed", refuse)
    monkeypatch.setattr("tails_profiles.cli.link_edge.list_links", lambda: ())
    dmi(machine / "sys", bios_vendor="tails-profile:tor-guest")
    assert main(["apply", "--dry-run"]) == 6
    captured = capsys.readouterr()
    assert "tor-guest has no link inner and uplink" in captured.err
    assert captured.out.endswith("rulesets/tor-guest-tcp.nft\n")


def test_dry_run_of_a_bad_token_says_what_is_wrong(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dmi(machine / "sys", bios_vendor="tails-profile:tor-gest")
    assert main(["apply", "--dry-run"]) == 3
    assert 'bios_vendor: "tails-profile:tor-gest" is none of' in capsys.readouterr().err


def test_apply_that_fails_says_which_step_and_why(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def step(argv: list[str]) -> int:
        failure = {"step": argv[0], "message": "no rule set", "hint": "reinstall"}
        write_json(Paths(machine).failure, failure)
        return 5

    dmi(machine / "sys", bios_vendor="tails-profile:app-guest")
    monkeypatch.setattr("tails_profiles.cli.boot.main", step)
    assert main(["apply"]) == 5
    assert capsys.readouterr().err == "tails-profiles: firewall: no rule set\n  reinstall\n"


@pytest.mark.parametrize(
    ("options", "content", "words"),
    [
        ([], b"PK\3\4", "is for i2p-guest, which is not to be started"),
        (["--i2p"], b"<html>", "begins with b'<html>'"),
        (["--i2p"], b"PK\3\4" + bytes(512 << 10), "has more than 512 KiB"),
        (["--i2p"], None, "cannot be read"),
    ],
)
def test_file_of_first_routers_is_looked_at_before_anything_starts(
    options: list[str],
    content: bytes | None,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "reseed"
    if content is not None:
        file.write_bytes(content)
    image = tmp_path / "image.iso"
    image.touch()
    assert main(["host", "plan", "--image", str(image), *options, "--reseed", str(file)]) == 4
    assert words in capsys.readouterr().err
