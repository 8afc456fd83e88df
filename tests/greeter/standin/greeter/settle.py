# SPDX-License-Identifier: GPL-3.0-or-later
"""Say when every window stands still, so that what a test aims at is where it will be hit.

A page that has just been opened is laid out in a later frame, and its window grows when the X
server says so. Whoever asks for a widget's place before that gets the old one, however often.
"""

from collections.abc import Callable

from gi.repository import Gdk, GLib, Gtk

# Milliseconds between two looks at whether a frame is over.
LOOK = 5


class Settle:
    """Calls ``done`` once a whole frame has passed in which nothing moved and nothing arrived."""

    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done
        self.places: list[object] = []
        # Low: whatever the greeter has still to do comes first.
        GLib.idle_add(self.begin_frame, priority=GLib.PRIORITY_LOW)

    def begin_frame(self) -> bool:
        """Ask each window for one more frame."""
        self.frames = {window: clock.get_frame_counter() for window, clock in clocks()}
        GLib.timeout_add(LOOK, self.look, priority=GLib.PRIORITY_LOW)
        return False

    def look(self) -> bool:
        """Whether the frame is over; then whether it changed anything."""
        waiting = [clock for window, clock in clocks()
                   if clock.get_frame_counter() <= self.frames.get(window, -1)]  # fmt: skip
        for clock in waiting:
            # At each look: a window that came after the frame began has not been asked, and a
            # request made while a clock stands still is forgotten.
            clock.request_phase(Gdk.FrameClockPhase.LAYOUT)
        if waiting:
            return True
        # What the server was told in that frame, such as a new size, has its answer after this.
        Gdk.Display.get_default().sync()
        places = [place for window, _ in clocks() for place in places_in(window)]
        if Gtk.events_pending() or places != self.places:
            self.places = places
            GLib.idle_add(self.begin_frame, priority=GLib.PRIORITY_LOW)
        else:
            self.done()
        return False


def clocks() -> list[tuple[Gtk.Window, Gdk.FrameClock]]:
    """Each window that shows, with what times its frames."""
    return [
        (window, window.get_frame_clock())
        for window in Gtk.Window.list_toplevels()
        if window.get_mapped()
    ]


def places_in(window: Gtk.Window) -> list[object]:
    """Where the window is, and every widget in it."""
    places: list[object] = [tuple(window.get_window().get_origin())]

    def add(widget: Gtk.Widget) -> None:
        place = widget.get_allocation()
        places.append((widget.get_mapped(), place.x, place.y, place.width, place.height))
        if isinstance(widget, Gtk.Container):
            widget.forall(add)

    add(window)
    return places
