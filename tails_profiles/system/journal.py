# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd as a service sees it: the journal with fields of our own, status, passed sockets."""

import logging
import socket
import sys
from typing import Any

from tails_profiles.errors import MissingLibraryError, SystemFailureError

#: One constant id for each decision, so that ``journalctl MESSAGE_ID=…`` finds it.
SELECTED_ID = "0d4a7b1ef1c94e0db8c0c6f2b1f5a001"
LOADED_ID = "0d4a7b1ef1c94e0db8c0c6f2b1f5a002"
LINKS_ID = "0d4a7b1ef1c94e0db8c0c6f2b1f5a003"
FAILED_ID = "0d4a7b1ef1c94e0db8c0c6f2b1f5a004"


class _PrefixHandler(logging.StreamHandler[Any]):
    """Standard error with sd-daemon(3)'s level prefixes, which the journal understands too."""

    def format(self, record: logging.LogRecord) -> str:
        level = {"DEBUG": 7, "INFO": 6, "WARNING": 4}.get(record.levelname, 3)
        return f"<{level}>{super().format(record)}"


def handler() -> logging.Handler:
    """A handler for the boot steps: the journal with fields, or standard error without it.

    Fields arrive through ``log.info("…", extra={"TAILS_PROFILES_FIELD": …})``.
    """
    try:
        from systemd import journal  # noqa: PLC0415 - 46 times the cost of an empty process
    except ImportError:
        missing = _PrefixHandler(sys.stderr)
        missing.handle(
            logging.makeLogRecord(
                {"levelno": logging.INFO, "levelname": "INFO",
                 "msg": "python3-systemd is not installed: no fields in the journal"}
            )
        )  # fmt: skip
        return missing
    made: logging.Handler = journal.JournalHandler(SYSLOG_IDENTIFIER="tails-profiles")
    return made


def notify(status: str, *, ready: bool = False) -> None:
    """Set the service's status line (sd_notify(3)), and say whether it has started.

    Nothing happens outside a service.
    """
    try:
        from systemd import daemon  # noqa: PLC0415
    except ImportError:
        return
    daemon.notify(f"STATUS={status}" + ("\nREADY=1" if ready else ""))


class Messages:
    """What a unit says in this boot, from its first message on.

    Empty to whoever may not read the journal, or where the image has no python3-systemd.
    """

    def __init__(self, unit: str) -> None:
        self._reader: Any = None
        try:
            from systemd import journal  # noqa: PLC0415
        except ImportError:
            return
        self._reader = journal.Reader()
        self._reader.this_boot()
        self._reader.add_match(_SYSTEMD_UNIT=unit)

    def new(self) -> list[str]:
        """Those that were not returned before, oldest first."""
        if self._reader is None:
            return []
        # Files that have come or gone since.
        self._reader.process()
        found = (entry.get("MESSAGE", "") for entry in self._reader)
        return [each if isinstance(each, str) else each.decode(errors="replace") for each in found]


def inherited_sockets() -> list[socket.socket]:
    """The sockets of this service's socket unit (sd_listen_fds(3)).

    Raises MissingLibraryError, and SystemFailureError where there is none.
    """
    try:
        from systemd import daemon  # noqa: PLC0415
    except ImportError as err:
        raise MissingLibraryError("systemd", "python3-systemd") from err
    found = [socket.socket(fileno=descriptor) for descriptor in daemon.listen_fds()]
    if not found:
        raise SystemFailureError("no socket was passed", hint="start the .socket unit instead")
    for each in found:
        each.setblocking(False)
    return found
