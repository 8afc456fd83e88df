# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the stock greeter in this process, with the setting attached once its window is there.

Run as ``python3 -I start.py [ARGUMENT...]`` in the greeter's own directory, by the wrapper beside
it, which starts the stock greeter instead when this fails before the greeter has begun.
"""

import runpy
import sys
import traceback
from pathlib import Path

GREETER = "./tails-greeter.py"


def attach_once_there() -> bool:
    """Attach as soon as the greeter's window exists, at the latest in its main loop. Runs once."""
    try:
        # Here and not above: what fails here can still be taken back.
        from gi.repository import GLib, Gtk  # noqa: PLC0415

        from greeter_plugin import register  # noqa: PLC0415

        window = register.find_window()
        if window is not None or Gtk.main_level() > 0:
            register.attach(window)
        else:
            # A timeout and not this idle again: whoever empties the queue would never finish.
            GLib.timeout_add(10, attach_once_there, priority=GLib.PRIORITY_HIGH)
    except Exception:  # noqa: BLE001 - nothing of ours may reach the greeter
        # The journal has this process's standard error.
        print("tails-profiles-greeter: continuing without it:", file=sys.stderr)
        traceback.print_exc()
    return False


def main() -> None:
    """Queue the callback, and become the stock greeter."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    sys.argv[0] = GREETER
    try:
        from gi.repository import GLib  # noqa: PLC0415

        # Before anything else that waits in the main loop: a login may be among it.
        GLib.idle_add(attach_once_there, priority=GLib.PRIORITY_HIGH)
    except Exception:  # noqa: BLE001 - nothing of ours may reach the greeter
        traceback.print_exc()
    runpy.run_path(GREETER, run_name="__main__")


if __name__ == "__main__":
    main()
