#!/usr/bin/python3 -I
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the greeter's main program: started as the real one is, with a hand for tests.

The test writes one command a line into the pipe ``STANDIN_CONTROL``; each is answered in the
trace.
"""

import logging.config
import os
import sys
from pathlib import Path

import gi

gi.require_version("Gtk", "3.0")
from gi.repository import GLib, Gtk  # noqa: E402
from tailsgreeter import config, trace  # noqa: E402
from tailsgreeter.greeter import GreeterApplication  # noqa: E402

# Like the real one, this switches off every logger that exists already.
logging.config.fileConfig("tails-logging.conf")


def command(source, _condition, application) -> bool:
    """Carry out what the test asks for."""
    word, _, argument = source.readline().strip().partition(" ")
    if word == "language":
        language = application.settings["language"]
        language.value = argument
        language.apply()
    elif word == "unlock":
        # As tpsd does: the storage's directory is mounted over the greeter's.
        os.system(f"mount --bind {argument} {config.persistent_settings_dir}")
        application.mainwindow.unlocked()
    elif word == "reload":
        # The same once more, as if a storage with other content had been unlocked.
        application.mainwindow.unlocked()
    elif word == "vanish":
        os.system(f"umount --lazy {config.persistent_settings_dir}")
        os.system(f"mount -t tmpfs -o ro,mode=0 tmpfs {config.persistent_settings_dir}")
    elif word == "drive":
        from drive import Drive  # noqa: PLC0415

        Drive(application)
    elif word == "settle":
        from settle import Settle  # noqa: PLC0415

        # Answered later: windows move from the main loop.
        Settle(lambda: trace("done settle"))
        return True
    elif word == "":
        return False
    trace(f"done {word}")
    return True


def rename(name: str, application) -> None:
    """Move one name of the greeter away, as a later version might."""
    parts = name.replace("{window}", "window").split(".")
    if parts == [""]:
        return
    here = application.mainwindow
    if parts[0] != "window":
        modules = [".".join(parts[: n + 1]) for n in range(len(parts))]
        known = [module for module in modules if module in sys.modules]
        here = sys.modules[known[-1]]
        parts = ["", *parts[len(known) :]]
    for part in parts[1:-1]:
        here = getattr(here, part)
    # Most are the instance's; a method is its class's, or a base's.
    classes = here.__mro__ if isinstance(here, type) else type(here).__mro__
    holder = next(item for item in (here, *classes) if parts[-1] in vars(item))
    setattr(holder, f"moved_{parts[-1]}", getattr(here, parts[-1]))
    delattr(holder, parts[-1])


if __name__ == "__main__":
    try:
        Path("/var/lib/gdm3/tails.greeter-seen").touch(exist_ok=False)
    except FileExistsError:
        logging.error("a second greeter was prevented")
        sys.exit(1)
    GLib.set_prgname("Welcome to Tails!")
    application = GreeterApplication()
    rename(os.environ.get("STANDIN_RENAME", ""), application)
    # Where the files beside this one are: -I leaves them out.
    sys.path.append(config.data_path)
    control = open(os.environ["STANDIN_CONTROL"])
    GLib.io_add_watch(control, GLib.IO_IN, command, application)
    Gtk.main()
    trace("ended")
