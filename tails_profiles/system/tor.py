# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask Tor how far it is (control-spec, status/bootstrap-phase). Never configures it."""

import queue
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tails_profiles.announce import REPEAT
from tails_profiles.errors import MissingLibraryError, TorError
from tails_profiles.tor_status import TorStatus

CONTROL_SOCKET = Path("/run/tor/control")
#: Seconds within which a Tor that works has answered.
PATIENCE = 5.0
_PROGRESS = re.compile(r"PROGRESS=([0-9]{1,3})", re.ASCII)


def bootstrap(socket: Path = CONTROL_SOCKET) -> TorStatus:
    """Tor's bootstrap state for ``status``; never raises and never takes long."""
    try:
        socket.stat()
    except FileNotFoundError:
        return TorStatus(None, "Tor is not running")
    except OSError as err:
        # Its directory is Tor's alone.
        return TorStatus(None, f"run as root to ask Tor: {err.strerror}")
    answer: queue.Queue[TorStatus] = queue.Queue()

    def ask() -> None:
        try:
            answer.put(_ask(socket))
        # stem fails with whatever happens to it on answers that are not Tor's.
        except Exception as err:  # noqa: BLE001
            answer.put(TorStatus(None, f"Tor's answer cannot be understood: {err!r}"))

    # stem has no time limit of its own, and a stopped process accepts connections all the same.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.get(timeout=PATIENCE)
    except queue.Empty:
        return TorStatus(None, f"Tor's control socket does not answer within {PATIENCE:.0f} s")


def _ask(socket: Path) -> TorStatus:
    try:
        with _Connection(socket) as connection:
            percent = connection.percent()
    except (TorError, MissingLibraryError) as err:
        return TorStatus(None, str(err))
    return TorStatus(percent, f"{percent} %")


def progress(socket: Path = CONTROL_SOCKET) -> Iterator[int]:
    """Every percentage from now on, the present one first; ends with 100.

    One that stays is yielded again after ``REPEAT`` seconds.

    A Tor that is told not to connect (``DisableNetwork 1``) is done at once: yields nothing.
    Raises TorError when the socket does not answer or Tor ends on the way, and
    MissingLibraryError.
    """
    with _Connection(socket) as connection:
        if connection.is_offline():
            return
        events = connection.events()
        percent = connection.percent()
        yield percent
        while percent < 100:
            try:
                phase = events.get(timeout=REPEAT)
            except queue.Empty:
                yield percent
                continue
            if phase is None:
                raise TorError(f"Tor ended at {percent} %")
            match = _PROGRESS.search(phase)
            if match and int(match[1]) != percent:
                percent = int(match[1])
                yield percent


def _said(err: Exception) -> str:
    """What an error says, or what it is where it says nothing."""
    return str(err) or type(err).__name__


class _Connection:
    """An authenticated control connection, with stem's several kinds of failure made one."""

    def __init__(self, socket: Path) -> None:
        try:
            import stem  # noqa: PLC0415 - slow to import, and not installed everywhere
            from stem import connection, control  # noqa: PLC0415
        except ImportError as err:
            raise MissingLibraryError("stem", "python3-stem") from err
        self._failures = (
            stem.ControllerError, stem.SocketError, connection.AuthenticationFailure,
            OSError, ValueError,
        )  # fmt: skip
        try:
            self._controller: Any = control.Controller.from_socket_file(str(socket))
        except self._failures as err:
            raise TorError(f"Tor's control socket {socket} does not answer: {_said(err)}") from err
        try:
            self._controller.authenticate()
        except self._failures as err:
            self._controller.close()
            raise TorError(f"Tor refuses its control connection: {_said(err)}") from err

    def __enter__(self) -> "_Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.close()

    def _ask(self, call: str, *words: Any) -> Any:  # noqa: ANN401
        try:
            return getattr(self._controller, call)(*words)
        except self._failures as err:
            raise TorError(f"Tor does not answer: {_said(err)}") from err

    def is_offline(self) -> bool:
        return bool(self._ask("get_conf", "DisableNetwork") == "1")

    def percent(self) -> int:
        phase = self._ask("get_info", "status/bootstrap-phase")
        match = _PROGRESS.search(phase)
        if match is None:
            raise TorError(f"Tor describes its bootstrap as {phase[:80]!r}")
        return int(match[1])

    def events(self) -> "queue.Queue[str | None]":
        """The text of every bootstrap event; None when the connection ends."""
        events: queue.Queue[str | None] = queue.Queue()
        self._ask("add_event_listener", lambda event: events.put(str(event)), "STATUS_CLIENT")
        self._controller.add_status_listener(
            lambda _controller, state, _when: events.put(None) if state == "Closed" else None
        )
        return events
