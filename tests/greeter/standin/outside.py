# SPDX-License-Identifier: GPL-3.0-or-later
"""What surrounds a real greeter, told to the test: GDM, the accounts, the session, tpsd.

Loaded by a ``.pth`` file in the greeter's process, before the greeter. Only libraries that talk to
daemons are replaced; GTK and the greeter's own program are the real ones. ``STANDIN_CONTROL`` and
``STANDIN_TRACE`` are as in the stand-in. Written from the documentation of libgdm,
libaccountsservice and tails.md 1.5 and 2.
"""

import atexit
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAKES = ("Gdm", "AccountsService", "WebKit2")
PERSISTENT = "/var/lib/gdm3/settings/persistent"


def trace(line: str) -> None:
    with open(os.environ["STANDIN_TRACE"], "a") as file:
        file.write(line + "\n")


class Emitter:
    """Something with signals."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[..., Any]] = {}

    def connect(self, signal: str, handler: Callable[..., Any]) -> int:
        self.handlers[signal] = handler
        return len(self.handlers)

    def disconnect(self, number: int) -> None:
        pass


class GdmGreeter(Emitter):
    def call_select_session_sync(self, session: str, _cancellable: None) -> None:
        trace(f"SelectSession {session}")

    def call_start_session_when_ready_sync(self, _service: str, _now: bool, _cancel: None) -> None:
        trace("StartSessionWhenReady")


class Verifier(Emitter):
    def __init__(self, greeter: GdmGreeter) -> None:
        super().__init__()
        self.greeter = greeter

    def call_begin_verification_for_user_sync(self, service: str, user: str, _cancel: None) -> None:
        trace(f"BeginVerificationForUser {service} {user}")
        self.handlers["secret_info_query"](self, service, "Password: ")

    def call_answer_query(self, service: str, answer: str, *_: None) -> None:
        trace(f"AnswerQuery {answer}")
        # GDM 48 names the session as well.
        session = [] if os.environ["STANDIN_SERIES"] == "6" else ["c1"]
        self.greeter.handlers["session-opened"](self.greeter, service, *session)


class GdmClient:
    def __init__(self) -> None:
        trace("Gdm.Client")
        self.greeter = GdmGreeter()

    def get_greeter_sync(self, _cancellable: None) -> GdmGreeter:
        return self.greeter

    def get_user_verifier_sync(self, _cancellable: None) -> Verifier:
        return Verifier(self.greeter)


class User:
    def set_language(self, _language: str) -> None:
        pass


class UserManager(Emitter):
    @classmethod
    def get_default(cls) -> "UserManager":
        return cls()

    def connect(self, signal: str, handler: Callable[..., Any]) -> int:
        from gi.repository import GLib  # noqa: PLC0415

        def loaded() -> bool:
            handler(self, None)
            listen()
            trace("ready")
            return False

        GLib.idle_add(loaded)
        return super().connect(signal, handler)

    def get_user(self, _name: str) -> User:
        return User()


class Proxy(Emitter):
    """The session manager and tpsd; a Persistent Storage that exists and is locked."""

    def get_cached_property(self, name: str) -> Any:
        from gi.repository import GLib  # noqa: PLC0415

        known = {"IsCreated": True, "CanUnlock": True, "IsUpgraded": True}
        return GLib.Variant("b", known[name]) if name in known else None

    def call_sync(self, method_name: str, **_: Any) -> None:
        trace(method_name)
        if method_name == "Activate":
            os.system(f"mount --bind {os.environ['STANDIN_STORAGE']} {PERSISTENT}")

    def Inhibit(self, *_: Any) -> int:  # noqa: N802
        return 1

    def Shutdown(self) -> None:  # noqa: N802
        trace("Shutdown")


def listen() -> None:
    """Take the test's commands."""
    from gi.repository import GLib, Gtk  # noqa: PLC0415

    def command(source: Any, _condition: Any) -> bool:
        word, _, argument = source.readline().strip().partition(" ")
        window = next(w for w in Gtk.Window.list_toplevels() if hasattr(w, "dialog_add_setting"))
        if word == "language":
            window.greeter.on_language_changed(argument)
        elif word == "unlock":
            window.persistence_setting.unlock("passphrase")
            window.cb_tps_unlocked()
        elif word == "settle":
            from settle import Settle  # type: ignore[import-not-found]  # noqa: PLC0415

            Settle(lambda: trace("done settle"))
            return True
        trace(f"done {word}")
        return True

    GLib.io_add_watch(open(os.environ["STANDIN_CONTROL"]), GLib.IO_IN, command)


def replace() -> None:
    """Put everything in its place."""
    import gi.repository  # noqa: PLC0415
    from gi.repository import Gio  # noqa: PLC0415

    require = gi.require_version
    gi.require_version = lambda name, version: name in FAKES or require(name, version)
    for name, content in {
        "Gdm": {"Client": GdmClient},
        "AccountsService": {"UserManager": UserManager},
        "WebKit2": {},
    }.items():
        module = types.ModuleType(f"gi.repository.{name}")
        vars(module).update(content)
        setattr(gi.repository, name, module)
        sys.modules[module.__name__] = module
    Gio.bus_get_sync = lambda *_: None
    for name in ("new_sync", "new_for_bus_sync"):
        setattr(Gio.DBusProxy, name, staticmethod(lambda *_: Proxy()))
    os.environ["NO_UDISKS"] = "1"
    sys.path.append(str(Path(__file__).parent))
    atexit.register(trace, "ended")


if Path(sys.orig_argv[-1]).name in {"start.py", "tails-greeter.py"}:
    replace()
