# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a Tor that answers oddly, or not at all: words in every case, never a traceback."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tails_profiles.system import tor

INFO = b'250-PROTOCOLINFO 1\r\n250-AUTH METHODS=%s\r\n250-VERSION Tor="0.4.8.10"\r\n250 OK\r\n'
PHASE = b'250-status/bootstrap-phase=NOTICE BOOTSTRAP %s SUMMARY="Loading"\r\n250 OK\r\n'

# A traceback in a thread reaches a user just the same.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

Serve = Callable[[list[bytes]], Path]


@pytest.fixture(name="serve")
def _serve(tmp_path: Path) -> Iterator[Serve]:
    """A control socket that gives one answer to each request, the last one to all that follow."""
    listener = socket.socket(socket.AF_UNIX)
    path = tmp_path / "control"
    listener.bind(str(path))
    listener.listen()

    def start(answers: list[bytes]) -> Path:
        def run() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rwb") as file:
                left = [*answers]
                while file.readline() and left:
                    file.write(left[0] if len(left) == 1 else left.pop(0))
                    file.flush()

        threading.Thread(target=run, daemon=True).start()
        return path

    yield start
    listener.close()


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        # stem itself fails on this one with an IndexError.
        ([b"250 OK\r\n"], "cannot be understood"),
        ([INFO % b"HASHEDPASSWORD"], "refuses its control connection: no passphrase"),
        ([INFO % b'COOKIE COOKIEFILE="/nonexistent"', b"515 no\r\n"], "refuses"),
        ([INFO % b"NULL", b"515 Authentication failed\r\n"], "refuses"),
        ([INFO % b"UNKNOWN"], "refuses"),
        ([INFO % b"NULL", b"250 OK\r\n", b"552 no such thing\r\n"], "Tor does not answer"),
        ([INFO % b"NULL", b"250 OK\r\n", PHASE % b"nothing"], "Tor describes its bootstrap as"),
    ],
)
def test_tor_that_answers_oddly(serve: Serve, answers: list[bytes], words: str) -> None:
    status = tor.bootstrap(serve(answers))
    assert status.percent is None
    assert words in status.note


@pytest.mark.parametrize("answers", [[], [b"garbage\r\n"], [b"\0\xff\r\n"]])
def test_tor_that_answers_nothing_is_not_waited_for_long(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, answers: list[bytes]
) -> None:
    monkeypatch.setattr(tor, "PATIENCE", 0.3)
    status = tor.bootstrap(serve(answers))
    assert status.percent is None
    assert "does not answer" in status.note


def test_tor_that_says_how_far_it_is(serve: Serve) -> None:
    answers = [INFO % b"NULL", b"250 OK\r\n", PHASE % b"PROGRESS=45"]
    assert tor.bootstrap(serve(answers)).percent == 45


def test_no_socket_is_no_tor(tmp_path: Path) -> None:
    assert tor.bootstrap(tmp_path / "control").note == "Tor is not running"


BOOTSTRAP = b"GETINFO status/bootstrap-phase"
#: What a Tor in the middle of its bootstrap answers.
ASKED = {
    b"PROTOCOLINFO 1": INFO % b"NULL",
    b"GETCONF disablenetwork": b"250 DisableNetwork=0\r\n",
    b"GETINFO version": b"250-version=0.4.8.10\r\n250 OK\r\n",
    BOOTSTRAP: PHASE % b"PROGRESS=45",
}
EVENT = b'650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"\r\n'


def test_tor_that_comes_no_further_is_heard_of_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher takes it for a sign of life; what comes then is told at once."""
    monkeypatch.setattr(tor, "REPEAT", 0.1)
    done = threading.Event()

    def run() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as file:
            while request := file.readline():
                file.write(ASKED.get(request.rstrip(), b"250 OK\r\n"))
                file.flush()
                if request.rstrip() == BOOTSTRAP:
                    done.wait(10)
                    file.write(EVENT)
                    file.flush()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "control"))
        listener.listen()
        threading.Thread(target=run, daemon=True).start()
        percents = tor.progress(tmp_path / "control")
        assert [next(percents) for _ in range(3)] == [45, 45, 45]
        done.set()
        assert [each for each in percents if each != 45] == [100]
