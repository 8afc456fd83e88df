# SPDX-License-Identifier: GPL-3.0-or-later
"""``./demo`` to its end, and interrupted half-way: its verdict, its status, and nothing left."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.tornet import run
from tests.vm.image import TOP
from tests.vm.machine import Shell

pytestmark = pytest.mark.vm


def lists() -> dict[str, set[str]]:
    """What a run may leave: processes, mounts, namespaces, rules, files."""
    return {
        "processes": {
            line
            for line in run("ps", "-e", "-o", "pid=,args=").splitlines()
            if str(TOP) in line or "tails-profiles-demo" in line
        },
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "namespaces": set(run("ip", "netns").splitlines()),
        "rules": set(run("nft", "list", "tables").splitlines()),
        "files": {
            str(path)
            for top in ("/run", "/tmp", "/var/tmp")
            for path in Path(top).glob("*tails-profiles*")
        },
    }


def start(*options: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
    """The demo in a session of its own, as a terminal has it."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.vm.demo", *options], cwd=TOP, stdin=stdin,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ask(path: Path, command: str) -> str:
    """What the root shell at a socket answers, with nobody else connected to it."""
    shell = Shell(path)
    try:
        shell.wait()
        return shell.execute(command)[1]
    finally:
        shell.close()


@pytest.mark.slow
def test_interactive_demo_gives_shells_and_ends_at_enter() -> None:
    before = lists()
    ours, its = os.openpty()
    with start("--interactive", stdin=its) as demo:
        assert demo.stdout is not None
        said = ""
        while not said.endswith("Enter ends it. "):
            character = demo.stdout.read(1)
            assert character, said
            said += character
        doors = re.findall(r"^   socat READLINE UNIX-CONNECT:(\S+)$", said, re.M)
        names = {ask(Path(door), "id -un; tails-profiles detect") for door in doors}
        os.write(ours, b"\n")
        rest, _ = demo.communicate()
    assert demo.returncode == 0, said + rest
    assert "a VNC viewer at the socket " in said
    assert len(names) == 2
    for profile in ("tor-guest", "app-guest"):
        assert any(profile in name and name.startswith("root\n") for name in names)
    assert lists() == before


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--i2p",)], ids=["tor", "i2p"])
def test_demo_shows_everything_and_leaves_nothing(options: tuple[str, ...]) -> None:
    before = lists()
    with start(*options) as demo:
        output, _ = demo.communicate()
    assert demo.returncode == 0, output
    assert output.endswith("demo: everything was as it should be\n"), output
    assert "BAD" not in output
    for words in ("an exit of the Tor network", "no answer", "0 of anything else",
                  "with tor-guest's Tor stopped"):  # fmt: skip
        assert words in output
    assert ("a destination of this start alone" in output) == ("--i2p" in options)
    assert lists() == before


def test_interrupted_demo_leaves_nothing() -> None:
    before = lists()
    with start() as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if "tor-guest: selected" in line:
                # Ctrl-C reaches everything that the terminal started.
                os.killpg(demo.pid, signal.SIGINT)
                break
        rest, _ = demo.communicate()
    assert demo.returncode == 130, "".join(said) + rest
    assert "nothing is left" in rest
    assert lists() == before
