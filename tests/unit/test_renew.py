# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests for a new client destination: a caller gets a word back, and is not listened to."""

import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tails_profiles import renew
from tails_profiles.errors import SystemFailureError
from tails_profiles.i2pd import ROUTERS_WANTED
from tails_profiles.paths import Paths
from tails_profiles.system import i2p, units


def answers(
    monkeypatch: pytest.MonkeyPatch, times: list[float], act: Callable[[], None]
) -> list[bytes]:
    """What callers at these times are told; each sends a lot, and is answered all the same."""
    monkeypatch.setattr(renew, "IDLE", -renew.INTERVAL + 1.0)
    listener = socket.create_server(("127.0.0.1", 0))
    moments = iter(times)
    now = 0.0

    def clock() -> float:
        return now

    serving = threading.Thread(target=renew.serve, args=(listener, act, clock))
    serving.start()
    told = []
    for now in moments:  # noqa: B007 - read by the clock
        with socket.create_connection(listener.getsockname()) as caller:
            told.append(caller.makefile("rb").read())
    serving.join()
    listener.close()
    return told


def test_one_destination_for_many_calls_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[None] = []
    told = answers(monkeypatch, [100, 101, 139.9, 140, 145, 300], lambda: done.append(None))
    renewed, soon = renew.RENEWED, renew.TOO_SOON
    assert told == [renewed, soon, soon, renewed, soon, renewed]
    assert len(done) == 3


@pytest.mark.parametrize(
    ("first", "known", "sent"),
    [
        ("zipfile = /etc/i2pd/reseed.zip\nurls =\n", 0, signal.SIGTERM),
        # First routers came online, by names that are taken away: it must know enough itself.
        ("yggurls =\n", ROUTERS_WANTED, signal.SIGTERM),
        ("yggurls =\n", ROUTERS_WANTED - 1, signal.SIGHUP),
    ],
)  # fmt: skip
def test_router_is_ended_unless_it_would_know_nobody_then_and_nobody_else(
    first: str, known: int, sent: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = Paths(tmp_path)
    paths.state.mkdir(parents=True)
    paths.i2pd_conf.write_text("[reseed]\n" + first)
    for number in range(known):
        path = paths.i2p_data / f"netDb/r{number % 10}/routerInfo-{number}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    signalled: list[tuple[int, int]] = []
    monkeypatch.setattr(units, "properties", lambda *_: {"MainPID": "77"})
    monkeypatch.setattr(os, "kill", lambda *words: signalled.append(words))
    monkeypatch.setattr(i2p, "_end", lambda number: signalled.append((number, signal.SIGTERM)))
    i2p.renew(paths)
    assert signalled == [(77, sent)]
    # 0 is systemd's word for none, and kill(2)'s for a whole group.
    monkeypatch.setattr(units, "properties", lambda *_: {"MainPID": "0"})
    with pytest.raises(SystemFailureError, match="does not run"):
        i2p.renew(paths)
    assert len(signalled) == 1


@pytest.mark.parametrize(
    ("obeys", "expected"),
    [(True, [signal.SIGTERM]), (False, [signal.SIGTERM, signal.SIGKILL])],
    ids=["ends", "goes on"],
)
def test_caller_is_answered_once_the_old_router_is_gone(
    obeys: bool, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe stands for the process: it can be read from when that is gone."""
    reading, writing = os.pipe()
    sent: list[int] = []

    def tell(process: int, number: int) -> None:
        assert process == reading
        sent.append(number)
        if obeys or number == signal.SIGKILL:
            os.close(writing)

    monkeypatch.setattr(os, "pidfd_open", lambda number: reading if number == 77 else -1)
    monkeypatch.setattr(signal, "pidfd_send_signal", tell)
    monkeypatch.setattr(i2p, "PATIENCE", 0.05 if not obeys else 60)
    i2p._end(77)
    assert sent == expected
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)


def test_unit_starts_the_router_again_and_as_often_as_is_asked() -> None:
    text = (Path(__file__).parents[2] / "units/tails-profiles-i2p.service").read_text()
    assert "\nRestart=always\n" in text
    limits = dict(re.findall(r"^StartLimit(IntervalSec|Burst)=(\d+)$", text, re.MULTILINE))
    # The boot's own, and those that are asked for.
    assert 1 + int(limits["IntervalSec"]) // renew.INTERVAL <= int(limits["Burst"])


def test_units_agree_on_the_port() -> None:
    units = Path(__file__).parents[2] / "units"
    text = (units / "tails-profiles-i2p-renew.socket").read_text()
    assert f"ListenStream={renew.ADDRESS[0]}:{renew.ADDRESS[1]}\n" in text
    assert str(renew.ADDRESS[1]) in (units / "i2p-browser").read_text()
    assert (
        f"i2p-port@{renew.ADDRESS[1]}.socket"
        in (units / "tails-profiles-app-guest.target").read_text()
    )
