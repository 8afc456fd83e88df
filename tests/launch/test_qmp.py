# SPDX-License-Identifier: GPL-3.0-or-later
"""A signal in the middle of a conversation with QEMU ends it, and the event loop is silent."""

import gc
import json
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tails_profiles.errors import LaunchError
from tails_profiles.system import qmp
from tails_profiles.system.interrupts import Interrupts

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}}, "capabilities": []}}
COMMAND = "query-status"


def serve(path: Path, asked: Callable[[str], bool]) -> threading.Thread:
    """One client of a QEMU that answers a command where ``asked`` says so."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()

    def run() -> None:
        with listening, listening.accept()[0] as client:
            client.sendall(json.dumps(GREETING).encode() + b"\n")
            # One command at a time, each in a piece.
            while line := client.recv(4096):
                command = json.loads(line)
                if asked(command["execute"]):
                    known = {"id": command["id"]} if "id" in command else {}
                    client.sendall(json.dumps({"return": {}, **known}).encode() + b"\n")

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.parametrize("when", ["qmp_capabilities", COMMAND])
def test_interrupt_in_the_middle_leaves_nothing(
    when: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def asked(command: str) -> bool:
        if command == when:
            os.kill(os.getpid(), signal.SIGINT)
        return command != COMMAND

    served = serve(tmp_path / "qmp", asked)
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        with pytest.raises(KeyboardInterrupt), Interrupts():
            qmp.execute(tmp_path / "qmp", COMMAND)
        gc.collect()
    served.join()
    assert [str(each.message) for each in warned] == []
    assert caplog.text == ""
    assert threading.active_count() == 1


def test_nobody_who_answers_is_an_error_in_time(tmp_path: Path) -> None:
    served = serve(tmp_path / "qmp", lambda command: command != COMMAND)
    with pytest.raises(LaunchError, match="does not answer within 1 s: query-status"):
        qmp.execute(tmp_path / "qmp", COMMAND, seconds=1)
    served.join()
