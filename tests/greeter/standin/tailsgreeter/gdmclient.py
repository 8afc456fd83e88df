# SPDX-License-Identifier: GPL-3.0-or-later
"""GDM, as far as the greeter talks to it: what is said is told to the test."""

import os

from tailsgreeter import trace
from tailsgreeter.strict import Strict, guard_module


class Proxy(Strict):
    promised = frozenset({"call_select_session_sync"})

    def call_select_session_sync(self, session: str, cancellable: None) -> None:
        if os.environ.get("STANDIN_GDM") == "broken":
            raise RuntimeError("GDM does not answer")
        trace(f"SelectSession {session}")


class GdmClient(Strict):
    promised = frozenset({"do_login", "_GdmClient__greeter"})

    def __init__(self, session_opened_cb: object) -> None:
        self.session_opened_cb = session_opened_cb
        self.__greeter = Proxy()

    def do_login(self) -> None:
        trace("BeginVerificationForUser gdm-password amnesia")
        self.session_opened_cb()
        trace("StartSessionWhenReady")


guard_module(__name__, "GdmClient")
