# SPDX-License-Identifier: GPL-3.0-or-later
"""The command itself, as a person uses it: a terminal, Ctrl-C, twice, killed, and from a script.

The fixture ``world`` compares what there is before and after each test.
"""

import json
import os
import pty
import pwd
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tails_profiles import picture
from tails_profiles.constants import GATEWAY_USER
from tests.launch.screens import has_something
from tests.launch.world import FACTOR, World

pytestmark = pytest.mark.vm


class Terminal:
    """``tails-profiles host`` in a terminal of its own."""

    def __init__(self, world: World, *words: str, image: Path | None = None) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            command = world.command(*words, image=image)
            os.execvpe(command[0], command, world.environment)
        self.text = ""

    def read_until(self, words: str) -> None:
        """Until it has printed this."""
        deadline = time.monotonic() + 120 * FACTOR
        while words not in self.text:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"no {words!r} in {self.text!r}")

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, keys)

    def status(self) -> int:
        """Its exit status, once it has ended."""
        while self._read(120 * FACTOR):
            pass
        os.close(self._terminal)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, seconds: float) -> bool:
        if not select.select([self._terminal], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.text += data.decode()
        return bool(data)


@contextmanager
def running(world: World, **parameters: str) -> Iterator[subprocess.Popen[str]]:
    """A start in the background, once tor-guest has said a word."""
    process = subprocess.Popen(
        world.command("start", image=world.image(**parameters)), stderr=subprocess.PIPE, text=True,
        env=world.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stderr
        for line in process.stderr:
            if line == "tor-guest: selected\n":
                break
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "word", ["tor-guest: starting", "tor-guest: firewall", "tor-guest: tor 55 %", "app-guest: s"]
)
def test_ctrl_c_at_a_terminal(world: World, word: str) -> None:
    terminal = Terminal(world, "start", image=world.image())
    terminal.read_until(word)
    # Twice, as people do.
    terminal.type(b"\x03")
    terminal.type(b"\x03")
    assert terminal.status() == 130
    assert terminal.text.endswith("interrupted\r\n")
    assert "Traceback" not in terminal.text


def test_percentages_are_one_line_that_changes_and_the_end_says_where_the_screen_is(
    world: World,
) -> None:
    terminal = Terminal(world, "start", image=world.image())
    assert terminal.status() == 0
    shown = terminal.text
    assert "tor-guest: tor 10 %\r\x1b[Ktor-guest: tor 55 %\r\x1b[Ktor-guest: tor 100 %\r" in shown
    assert f"vncviewer {world.directory}/app-guest/screen" in shown
    # Where nobody watches, status says how far it is: see below.
    assert world.cli("stop").returncode == 0


def test_terminal_that_goes_away_leaves_nothing(world: World) -> None:
    terminal = Terminal(world, "start", image=world.image())
    terminal.read_until("tor-guest: firewall")
    os.close(terminal._terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 130


def test_start_twice_stop_twice_and_status_between(world: World) -> None:
    assert world.cli("start", image=world.image()).returncode == 0
    again = world.cli("start", image=world.image())
    assert again.returncode == 7
    assert "guests run already: app-guest, tor-guest\n  see them" in again.stderr
    elsewhere = world.cli("start", "--directory", str(world.top / "other"), image=world.image())
    assert elsewhere.returncode == 7
    assert f"guests of {world.directory} run already" in elsewhere.stderr
    # Nor does the end of another launch take away the rules under which these run.
    (world.top / "other").mkdir(exist_ok=True)
    other = world.cli("stop", "--directory", str(world.top / "other"))
    assert (other.returncode, f"guests of {world.directory} run" in other.stderr) == (0, True)
    found = json.loads(world.cli("status", "--json").stdout)
    assert set(found) == {
        "version", "directory", "under_way", "hypervisor", "image", "accelerator", "rules",
        "guests",
    }  # fmt: skip
    assert (found["image"], found["rules"], found["under_way"]) == (str(world.image()), True, None)
    tor, app = found["guests"]
    keys = {
        "profile",
        "pid",
        "running",
        "word",
        "percent",
        "plugged",
        "monitor",
        "serial",
        "screen",
    }
    assert set(tor) == set(app) == keys
    assert (tor["profile"], tor["running"], tor["word"], tor["plugged"]) == (
        "tor-guest", True, "ready", True,
    )  # fmt: skip
    assert (app["profile"], app["running"], app["plugged"]) == ("app-guest", True, None)
    assert {tor["pid"], app["pid"]} == set(world.processes())
    assert Path(tor["serial"]).is_socket()
    assert Path(app["screen"]).is_socket()
    for _ in range(2):
        done = world.cli("stop")
        assert (done.returncode, "did not power off" in done.stderr) == (0, False)
    assert world.cli("status").stdout == "no guest was started\n"
    assert json.loads(world.cli("status", "--json").stdout)["guests"] == []


def test_guest_that_its_user_powered_off(world: World) -> None:
    assert world.cli("start", image=world.image()).returncode == 0
    subprocess.run(
        ["socat", "-", f"UNIX-CONNECT:{world.directory}/app-guest/qmp"], check=True,
        input=b'{"execute": "qmp_capabilities"}\n{"execute": "quit"}\n', capture_output=True,
    )  # fmt: skip
    deadline = time.monotonic() + 30 * FACTOR
    while "app-guest: ended\n" not in (text := world.cli("status").stdout):
        assert time.monotonic() < deadline, text
    assert re.search(r"tor-guest: running \(process \d+\), last said ready, uplink plugged", text)
    assert world.cli("stop").returncode == 0


def test_screens_are_drawn_by_the_command_and_by_what_it_prints(world: World) -> None:
    assert world.cli("start", image=world.image()).returncode == 0
    drawn = {}
    for guest, size in (("tor-guest", (720, 400)), ("app-guest", None)):
        done = subprocess.run(
            world.command("show", guest), capture_output=True, check=False, env=world.environment
        )
        assert done.returncode == 0, done.stderr
        drawn[guest] = picture.read(done.stdout)
        assert size in {None, (drawn[guest].width, drawn[guest].height)}
        # Words of its firmware or its kernel, at least: not one colour.
        assert has_something(drawn[guest])
        assert not (world.directory / guest / "screen.png").exists()
    assert drawn["tor-guest"].png != drawn["app-guest"].png
    script = world.cli("show", "tor-guest", "--dry-run").stdout
    assert subprocess.run(["bash", "-eu"], input=script, text=True, check=False).returncode == 0
    path = world.directory / "tor-guest/screen.png"
    assert path.stat().st_uid == pwd.getpwnam(GATEWAY_USER).pw_uid
    assert picture.read(path.read_bytes()).width == 720
    assert world.cli("stop").returncode == 0
    gone = world.cli("show", "tor-guest")
    assert (gone.returncode, "tor-guest does not run" in gone.stderr) == (7, True)


def test_stop_ends_a_start_under_way(world: World) -> None:
    with running(world, at="firewall", do="hang") as starting:
        found = json.loads(world.cli("status", "--json").stdout)
        assert found["under_way"] == "start"
        (tor,) = found["guests"]
        assert (tor["running"], tor["word"], tor["plugged"]) == (True, "selected", False)
        stopping = world.cli("stop")
        assert stopping.returncode == 0
        assert "a start is under way" in stopping.stderr
        assert starting.wait(60 * FACTOR) == 130


@pytest.mark.parametrize("what", ["nothing", "state corrupt", "state gone", "state of another"])
def test_stop_and_start_after_a_launcher_that_was_killed(world: World, what: str) -> None:
    state = world.directory / "launch.json"
    with running(world) as starting:
        starting.send_signal(signal.SIGKILL)
        starting.wait()
    assert world.processes()
    if what == "state corrupt":
        state.write_text('{"guests": {"tor-guest": {"pid": "x')
    elif what == "state of another":
        # A process of this test, which must survive.
        state.write_text(
            json.dumps({"guests": {"tor-guest": {"pid": os.getpid(), "started": 1, "word": None,
                                                 "percent": None, "plugged": False}}})
        )  # fmt: skip
    elif what == "state gone":
        state.unlink()
    assert world.cli("start", image=world.image()).returncode == 7
    assert world.cli("stop").returncode == 0


def test_start_after_guests_and_launcher_were_killed(world: World) -> None:
    with running(world) as starting:
        starting.send_signal(signal.SIGKILL)
        starting.wait()
    for pid in world.processes():
        os.kill(pid, signal.SIGKILL)
    assert world.cli("start", image=world.image()).returncode == 0
    assert world.cli("stop").returncode == 0


def test_printed_plan_is_a_script_that_runs_the_guests(world: World) -> None:
    plan = world.cli("plan", image=world.image())
    assert plan.returncode == 0
    done = subprocess.run(
        ["bash"], input=plan.stdout, capture_output=True, text=True, check=False,
        timeout=120 * FACTOR, env=world.environment,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "tor-guest: firewall\ntor-guest: ready\n", "",
    )  # fmt: skip
    found = json.loads(world.cli("status", "--json").stdout)
    assert [guest["running"] for guest in found["guests"]] == [True, True]
    assert found["rules"] is True
    assert len(world.processes()) == 2
    assert world.cli("stop").returncode == 0


def test_printed_plan_ends_at_its_first_failure(world: World) -> None:
    failing = world.image(at="firewall", do="fail:links")
    plan = world.cli("plan", image=failing).stdout
    done = subprocess.run(
        ["bash"], input=plan, capture_output=True, text=True, check=False, timeout=120 * FACTOR
    )
    assert done.returncode != 0
    assert "tails-profiles 1 tor-guest failed links" in done.stderr
    assert not (world.directory / "app-guest").exists()
    assert world.cli("stop").returncode == 0


def test_plan_as_json_holds_the_same_steps(world: World) -> None:
    found = json.loads(world.cli("plan", "--format", "json", image=world.image()).stdout)
    assert [guest["profile"] for guest in found["guests"]] == ["tor-guest", "app-guest"]
    assert found["runner"] == "setpriv"
    kinds = [step["kind"] for step in found["steps"]]
    assert kinds.count("machine") == 2
    assert kinds.index("rules") < kinds.index("machine")
    for guest in found["guests"]:
        (shell,) = [
            step["shell"] for step in found["steps"]
            if step["kind"] == "machine" and f"{guest['profile']}/qmp" in step["shell"]
        ]  # fmt: skip
        assert all(word in shell for word in ("-nodefaults", *guest["argv"][:3]))


def test_gateways_start_with_i2p_in_order(world: World) -> None:
    done = world.cli("start", "--i2p", image=world.image())
    assert done.returncode == 0
    said = [line for line in done.stderr.splitlines() if line.endswith((": starting", ": ready"))]
    assert said == [
        "tor-guest: starting", "tor-guest: starting", "tor-guest: ready",
        "i2p-guest: starting", "i2p-guest: starting", "i2p-guest: ready", "app-guest: starting",
    ]  # fmt: skip
    assert len(world.processes()) == 3
    assert world.cli("stop").returncode == 0


def test_without_its_directory_to_write_to(world: World) -> None:
    done = world.cli("start", "--directory", "/proc/nothing/host", image=world.image())
    assert done.returncode == 7
    assert "cannot be written" in done.stderr


def test_settings_of_a_guest_that_is_not_to_be_started_are_refused(world: World) -> None:
    """Else app-guest would be promised a link that nobody gives it."""
    path = world.top / "settings.json"
    path.write_text('{"i2p": {"port": null, "reseed": null}}')
    words = ("plan", "--settings", str(path))
    try:
        refused = world.cli(*words, image=world.image())
        assert (refused.returncode, "--i2p" in refused.stderr) == (4, True)
        assert world.cli(*words, "--i2p", image=world.image()).returncode == 0
    finally:
        path.unlink()


@pytest.mark.parametrize("action", ["plan", "start"])
def test_port_that_nobody_can_call_is_warned_of(action: str, world: World) -> None:
    path = world.top / "settings.json"
    path.write_text('{"i2p": {"port": 23456, "reseed": null}}')
    words = (action, "--settings", str(path), "--i2p")
    try:
        done = world.cli(*words, image=world.image())
        assert (done.returncode, "warning" in done.stderr) == (0, False)
        if action == "start":
            assert world.cli("stop").returncode == 0
        done = world.cli(*words, "--exclusive", image=world.image())
        assert done.returncode == 0
        assert "warning: i2p.port 23456: nobody can call i2p-guest, --exclusive" in done.stderr
    finally:
        path.unlink()
        assert world.cli("stop").returncode == 0
