# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a class of the stand-in refuse every name that is not promised.

Only the plugin is refused: the stand-in's own code, which these frames are told apart from by
their file, may use its names as it likes. What GTK defines is GTK's and free for all.
"""

import os
import sys
import types
from typing import Any

OURS = "/greeter_plugin/"


class NotPromisedError(Exception):
    """The plugin used a name of the greeter that nobody promised it. No AttributeError: hasattr
    must not swallow it."""


def _refuse(owner: str, name: str) -> None:
    frame = sys._getframe(2)
    if OURS in frame.f_code.co_filename:
        # Kept apart from what the plugin makes of the exception.
        with open(os.environ["STANDIN_TRACE"], "a") as trace:
            trace.write(f"refused {owner}.{name}\n")
        raise NotPromisedError(f"{owner}.{name}")


class Strict:
    """``promised``: the names of this class that a plugin may use."""

    promised: frozenset[str] = frozenset()

    def __getattribute__(self, name: str) -> Any:
        cls = object.__getattribute__(self, "__class__")
        if not name.startswith("__") and _is_ours(self, cls, name):
            promised = {item for base in cls.__mro__ for item in vars(base).get("promised", ())}
            if name not in promised:
                _refuse(cls.__name__, name)
        return super().__getattribute__(name)


def _is_ours(instance: object, cls: type, name: str) -> bool:
    """Whether the stand-in, and not GTK or the plugin, defines this name."""
    for base in cls.__mro__:
        if name in vars(base):
            return base.__module__.startswith("tailsgreeter")
    if hasattr(cls, "gimeta"):
        return False
    return name in object.__getattribute__(instance, "__dict__") and not any(
        OURS in sys.modules[base.__module__].__dict__.get("__file__", "") for base in cls.__mro__
    )


def guard_module(name: str, *promised: str) -> None:
    """Let a module of the stand-in answer the plugin for ``promised`` alone."""

    class StrictModule(types.ModuleType):
        def __getattribute__(self, attribute: str) -> Any:
            known = attribute.startswith("__") or attribute in promised
            if not known and f"{name}.{attribute}" not in sys.modules:
                _refuse(name, attribute)
            return super().__getattribute__(attribute)

    sys.modules[name].__class__ = StrictModule
