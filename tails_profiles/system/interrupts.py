# SPDX-License-Identifier: GPL-3.0-or-later
"""Signals that ask this program to end, as one exception at a time when it can be dealt with."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

#: Ctrl-C, ``kill``, and a terminal that is gone.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Within it the first of ``SIGNALS`` raises KeyboardInterrupt, and later ones do nothing.

    So whatever is taken back because of the first is taken back to its end. Signals reach the main
    thread alone: in any other this does nothing.
    """

    def __init__(self) -> None:
        self._held = False
        self._pending = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for each in SIGNALS:
                # nohup(1) and its like have their way.
                if signal.getsignal(each) is not signal.SIG_IGN:
                    self._before[each] = signal.signal(each, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        for each in self._before:
            # Programs that the clean-up starts inherit this.
            signal.signal(each, signal.SIG_IGN)
        if self._held:
            self._pending = True
        else:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it nothing is raised; what came meanwhile is raised at its end.

        Also in place of a failure: what was started may have got the same signal.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                raise KeyboardInterrupt
