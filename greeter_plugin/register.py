# SPDX-License-Identifier: GPL-3.0-or-later
"""The one seam with Tails Greeter: attach the setting to its running window.

Serves Tails 6, whose settings have an ``id``, and Tails 7, where it is a ``name``. Uses only what
``SEAM`` lists; a greeter in which one of these has moved starts without us, and the journal names
what moved. The same holds for any error of ours, at any call: the setting is withdrawn, with all
its traces.
"""

import functools
import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import gi

gi.require_version("Gtk", "3.0")
from gi.repository import GLib, Gtk  # noqa: E402

from greeter_plugin import host, view, words  # noqa: E402
from greeter_plugin.capability import Verdict, judge  # noqa: E402
from greeter_plugin.model import (  # noqa: E402
    FILE_NAME,
    Choice,
    Isolation,
    NotStoredError,
    Start,
)
from greeter_plugin.words import Words  # noqa: E402

ID = "isolation"
ICON = "security-high-symbolic"

#: What is used of the greeter, as paths from a module or from its window.
SEAM = (
    "{window}.settings.settings",
    "{window}.settings.additional_settings.settings",
    "{window}.listbox_add_setting",
    "{window}.dialog_add_setting",
    "{window}.greeter.shutdown",
    "{window}.greeter.gdmclient._GdmClient__greeter.call_select_session_sync",
    "tailsgreeter.config.persistent_settings_dir",
    "tailsgreeter.config.language_setting_path",
    "tailsgreeter.settings.SettingNotFoundError",
    "tailsgreeter.translatable_window.TranslatableWindow.translate_all",
    "tailsgreeter.ui.additional_settings.AdditionalSetting.apply",
    "tailsgreeter.ui.additional_settings.AdditionalSetting.build_popover",
)

WITHOUT, ISOLATE, SHUT_DOWN = 1, 2, 3

Result = TypeVar("Result")


class SeamMovedError(Exception):
    """Names of the greeter that are not where they were."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        super().__init__("not found in this Tails Greeter: " + ", ".join(names))


def report(what: str, err: BaseException) -> None:
    """Say in the journal what went wrong, with the traceback; the greeter's own log goes there."""
    logging.getLogger().error(
        "tails-profiles-greeter: %s: %s; continuing without it",
        what,
        err,
        exc_info=(type(err), err, err.__traceback__),
    )


def find_window() -> Any:  # noqa: ANN401
    """The greeter's main window, or None as long as there is none."""
    for window in Gtk.Window.list_toplevels():
        if hasattr(window, "dialog_add_setting"):
            return window
    return None


def missing(window: Any) -> list[str]:  # noqa: ANN401
    """The names of SEAM that this greeter does not have."""
    return [name for name in SEAM if not _has(window, name)]


def _has(window: Any, name: str) -> bool:  # noqa: ANN401
    parts = name.split(".")
    if parts[0] == "{window}":
        found, rest = window, parts[1:]
    else:
        known = [".".join(parts[: n + 1]) for n in range(len(parts))]
        modules = [module for module in known if module in sys.modules]
        if not modules:
            return False
        found, rest = sys.modules[modules[-1]], parts[len(modules) :]
    for part in rest:
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


def attach(window: Any, root: Path = Path("/")) -> "Plugin | None":  # noqa: ANN401
    """Attach the setting; None in a guest, where there is nothing to choose.

    Raises whatever went wrong, after taking everything back.
    """
    if window is None:
        raise SeamMovedError(["a window with dialog_add_setting"])
    if host.is_guest(root):
        return None
    moved = missing(window)
    if moved:
        raise SeamMovedError(moved)
    return Plugin(window, judge(host.read_facts(root)))


class Plugin:
    """Everything of ours in one greeter, and how to take it away again."""

    def __init__(self, window: Any, verdict: Verdict) -> None:  # noqa: ANN401
        # Imported here: these exist in the greeter's process alone.
        from tailsgreeter import config, settings  # type: ignore[import-not-found]  # noqa: PLC0415

        self.window = window
        self._undo = ExitStack()
        self._withdrawing = False
        #: What the user has last seen: isolation on or off. Held apart from the model, which may
        #: be what fails.
        self._wanted = False
        self._not_found = settings.SettingNotFoundError
        self.isolation = Isolation(Path(config.persistent_settings_dir) / FILE_NAME, verdict)
        self._words = Words(stored_language(Path(config.language_setting_path)))
        try:
            self.page = view.Page(verdict, self._take_over, self.guarded)
            #: What is ticked in the dialog, before Add.
            self._pending: Choice | None = None
            self.setting = _setting_class(self)()
            self._translate(self._words)
            self._attach()
        except Exception:
            self._undo.close()
            raise

    # What the setting asks of us, each through ``guarded``.

    def apply(self) -> None:
        """Store the choice, and show it."""
        self.isolation.store()
        self._update_row()

    def load(self) -> bool:
        """Take over the stored choice; whether it changed anything the user sees."""
        try:
            changed = self.isolation.load()
        except NotStoredError as err:
            raise self._not_found(str(err)) from err
        self._wanted = self.isolation.effective.enabled
        self.page.show(self.isolation.effective)
        self._update_row()
        return changed

    def value(self) -> str:
        """What the row shows."""
        isolation = self.isolation
        return self._words.value(isolation.effective, isolation.verdict, isolation.problem)

    def open_in_dialog(self) -> None:
        """The page is in the dialog: what is ticked there counts once the user says Add."""
        self._pending = self.isolation.effective
        self.page.build()
        self.page.show(self._pending)
        self.page.focus()

    # Attaching and withdrawing.

    def _attach(self) -> None:
        window, setting = self.window, self.setting
        for collection in (window.settings, window.settings.additional_settings):
            collection.settings[ID] = setting
            self._undo.callback(collection.settings.pop, ID, None)
        setting.main_window = window
        self._undo.callback(self._remove_row)
        window.listbox_add_setting.add(setting.listboxrow)
        disconnect = _disconnecter(window, "hide", self._on_start)
        # Who has seen isolation chosen must not start without it unawares.
        self._undo.callback(lambda: self._wanted or disconnect())
        dialog = window.dialog_add_setting
        self._undo.callback(_disconnecter(dialog, "response", self.guarded(self._on_response)))
        self._undo.callback(_disconnecter(self.page.box, "unmap", self.guarded(self._on_page_left)))
        self._undo.callback(_listen_to_languages(self.guarded(self._on_language)))
        setting.apply()
        if self._withdrawing:
            raise RuntimeError("the setting could not be applied")

    def withdraw(self, err: Exception) -> None:
        """Take everything back, once the greeter is out of the call that failed."""
        if self._withdrawing:
            return
        self._withdrawing = True
        # Not now: the greeter may be walking over its settings.
        GLib.idle_add(self._withdraw_now)
        report("the setting failed", err)

    def _withdraw_now(self) -> bool:
        try:
            self._undo.close()
        except Exception as err:  # noqa: BLE001 - nothing of ours may reach the greeter
            report("withdrawing failed", err)
        return False

    def _remove_row(self) -> None:
        """Take row and page away, wherever the user has brought them."""
        box = self.page.box
        if box.get_mapped() and isinstance(box.get_parent(), Gtk.Stack):
            self.window.dialog_add_setting.response(Gtk.ResponseType.CANCEL)
        for widget in (box, self.setting.listboxrow):
            parent = widget.get_parent()
            if parent is not None:
                parent.remove(widget)
            widget.destroy()

    def guarded(self, function: Callable[..., Result]) -> Callable[..., Result | None]:
        """``function``, after whose failure the greeter goes on without us."""

        @functools.wraps(function)
        def call(*args: Any) -> Result | None:  # noqa: ANN401
            if self._withdrawing:
                return None
            try:
                return function(*args)
            except self._not_found:
                raise
            except Exception as err:  # noqa: BLE001 - nothing of ours may reach the greeter
                with suppress(Exception):
                    self.withdraw(err)
                return None

        return call

    # What happens.

    def _take_over(self, choice: Choice) -> None:
        if self._pending is not None:
            self._pending = choice
            return
        self._wanted = choice.enabled
        self.isolation.choose(choice)
        self.setting.apply()

    def _on_response(self, _dialog: Any, response: int) -> None:  # noqa: ANN401
        if self._pending is not None and response == Gtk.ResponseType.YES:
            self._wanted = self._pending.enabled
            self.isolation.choose(self._pending)

    def _on_page_left(self, *_: Any) -> None:  # noqa: ANN401
        if self._pending is not None:
            self._pending = None
            self.page.show(self.isolation.effective)

    def _on_language(self, locale: str) -> None:
        self._translate(Words(locale))

    def _translate(self, say: Words) -> None:
        self._words = say
        self.page.translate(say)
        self._update_row()

    def _update_row(self) -> None:
        row = self.setting.listboxrow
        self.setting.show_value()
        view.lay_out_row(row, self._words.say(words.TITLE), self.value())
        row.set_sensitive(self.isolation.verdict.possible)
        view.name_row(row, f"{self._words.say(words.CHECKBOX)}. {self.value()}")

    # Start.

    def _on_start(self, *_: Any) -> None:  # noqa: ANN401
        """The window hides: the user has chosen Start, and the login is about to begin."""
        try:
            self._choose_session()
        except Exception as err:  # noqa: BLE001 - whatever it is, the user must know
            # The question first in importance: a journal that fails must not cost it.
            with suppress(Exception):
                report("the isolated session could not be chosen", err)
            if self._wanted:
                self._say_failed()

    def _say_failed(self) -> None:
        try:
            self._ask(words.FAILED_TITLE, words.FAILED_TEXT, [])
        except Exception as err:  # noqa: BLE001 - the login goes on all the same
            report("the user could not be asked", err)

    def _choose_session(self) -> None:
        if self._withdrawing:
            if self._wanted:
                raise RuntimeError("the setting was withdrawn after isolation was chosen")
            return
        plan = self.isolation.plan_start()
        if plan is Start.WARN_FIRST:
            plan = self._warn()
        if plan is not Start.ISOLATED:
            return
        self._wanted = True
        if not self.isolation.start_isolated():
            raise OSError(f"{self.isolation.path} could not be written")
        proxy = self.window.greeter.gdmclient._GdmClient__greeter  # noqa: SLF001 - see SEAM
        proxy.call_select_session_sync(host.SESSION, None)

    def _warn(self) -> Start:
        isolate = [view.Button(self._words.say(words.START_ISOLATED), ISOLATE)]
        possible = self.isolation.verdict.possible
        answer = self._ask(words.KEPT_TITLE, words.KEPT_TEXT, isolate if possible else [])
        self._wanted = answer == ISOLATE
        self.isolation.start_warned()
        if not self._wanted:
            return Start.AS_ALWAYS
        self.isolation.choose(self.isolation.choice._replace(enabled=True))
        return Start.ISOLATED

    def _ask(self, title: str, text: str, more: list[view.Button]) -> int:
        say = self._words.say
        without = view.Button(say(words.START_WITHOUT), WITHOUT)
        buttons = [view.Button(say(words.SHUT_DOWN), SHUT_DOWN), without, *more]
        answer = view.ask(say(title), say(text), buttons)
        while answer == SHUT_DOWN:
            # Asked again, in case the user calls the shutdown off: the login follows this.
            self.window.greeter.shutdown()
            answer = view.ask(say(title), say(text), buttons)
        return answer


def stored_language(path: Path) -> str:
    """The locale that the greeter has stored, such as ``pt_BR``; empty without one."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "TAILS_LOCALE_NAME":
            return value.strip("'\"")
    return ""


def _disconnecter(source: Any, signal: str, function: Callable[..., Any]) -> Callable[[], None]:  # noqa: ANN401
    handler = source.connect(signal, function)

    def disconnect() -> None:
        if source.handler_is_connected(handler):
            source.disconnect(handler)

    return disconnect


def _listen_to_languages(changed: Callable[[str], Any]) -> Callable[[], None]:
    """Hear of every language that the greeter is switched to, until the result is called."""
    from tailsgreeter.translatable_window import (  # type: ignore[import-not-found]  # noqa: PLC0415
        TranslatableWindow,
    )

    listening = [changed]

    class Listener(TranslatableWindow):  # type: ignore[misc]
        """One of the windows that the greeter translates; has no widget."""

        def __init__(self) -> None:
            super().__init__(self)

        def translate_to(self, lang: object) -> None:
            for function in listening:
                function(str(lang))

    Listener()
    return listening.clear


class _Calls:
    """The greeter's calls to a setting, handed on; nothing of ours comes back but a result."""

    plugin: Plugin
    id = ID
    name = ID
    icon_name = ICON
    # In English: the greeter makes of it the handle that Tails' own tests look for.
    title = words.TITLE

    def __init__(self) -> None:
        super().__init__()
        # Only now: the base looks for a page of its own, and keeps what it finds.
        self.box = self.plugin.page.box

    @property
    def value_for_display(self) -> str:
        return self.plugin.guarded(self.plugin.value)() or ""

    def apply(self) -> None:
        self.plugin.guarded(self.plugin.apply)()

    def load(self) -> bool:
        return bool(self.plugin.guarded(self.plugin.load)())

    def on_opened_in_dialog(self) -> None:
        self.plugin.guarded(self.plugin.open_in_dialog)()

    def build_popover(self) -> None:
        self.plugin.guarded(self.plugin.page.build)()
        self.plugin.guarded(super().build_popover)()  # type: ignore[misc]

    def show_value(self) -> None:
        super().apply()  # type: ignore[misc]


def _setting_class(plugin: Plugin) -> Any:  # noqa: ANN401
    """The class that the greeter sees; made at run time, for its base exists in the greeter."""
    from tailsgreeter.ui.additional_settings import (  # type: ignore[import-not-found]  # noqa: PLC0415
        AdditionalSetting,
    )

    return type("IsolationSetting", (_Calls, AdditionalSetting), {"plugin": plugin})
