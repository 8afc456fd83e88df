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
    elif word == "vanish":
        os.system(f"umount --lazy {config.persistent_settings_dir}")
        os.system(f"mount -t tmpfs -o ro,mode=0 tmpfs {config.persistent_settings_dir}")
    elif word == "":
        return False
    trace(f"done {word}")
    return True


if __name__ == "__main__":
    try:
        Path("/var/lib/gdm3/tails.greeter-seen").touch(exist_ok=False)
    except FileExistsError:
        logging.error("a second greeter was prevented")
        sys.exit(1)
    GLib.set_prgname("Welcome to Tails!")
    application = GreeterApplication()
    control = open(os.environ["STANDIN_CONTROL"])
    GLib.io_add_watch(control, GLib.IO_IN, command, application)
    Gtk.main()
    trace("ended")
