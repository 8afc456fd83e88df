# SPDX-License-Identifier: GPL-3.0-or-later
"""A screen, and a machine on which a greeter starts: what the tests of the view stand on.

A ``Greeter`` is the stand-in, started by the installed wrapper in a private mount namespace: the
plugin and the stand-in lie over /usr where their packages have them, /var/lib is a copy that goes
away, and the machine's facts (processor, memory, drivers, programs) are what the test says. It is
looked at and used from outside, through AT-SPI.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gi

TOP = Path(__file__).parents[2]
STANDIN = Path(__file__).parent / "standin"
PICTURES = TOP / ".build/greeter"
FACTOR = float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
WIDTH, HEIGHT = 800, 600
SETTLED = "done settle"


def until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 15) -> Any:
    """The first true answer of ``condition``; ``what`` did not happen in time otherwise."""
    deadline = time.monotonic() + seconds * FACTOR
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(what if isinstance(what, str) else what())
        time.sleep(0.02)  # between two looks, never in place of one


def role_of(widget: Any) -> str:
    """A widget's role; at-spi2 2.5x calls a push button a button."""
    return str(widget.get_role_name()).removeprefix("push ")


class Screen:
    """An X server of 800 x 600 and a session bus, with the accessibility bus behind it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="greeter-screen-", dir="/tmp"))
        self.directory.chmod(0o700)
        # What moves is missed by a click.
        settings = self.directory / ".config/gtk-3.0/settings.ini"
        settings.parent.mkdir(parents=True)
        settings.write_text("[Settings]\ngtk-enable-animations=false\n")
        read, write = os.pipe()
        self._server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-nolisten",
             "tcp", "-dpi", "96"],
            pass_fds=[write], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(write)
        with os.fdopen(read) as answer:
            self.env = {
                "DISPLAY": f":{answer.readline().strip()}",
                "XDG_RUNTIME_DIR": str(self.directory),
                "HOME": str(self.directory),
                "GSETTINGS_BACKEND": "memory",
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            }
        self._bus = subprocess.Popen(
            ["dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address=1"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=self.env,
        )  # fmt: skip
        assert self._bus.stdout is not None
        self.env["DBUS_SESSION_BUS_ADDRESS"] = self._bus.stdout.readline().strip()
        os.environ.update(self.env)
        gi.require_version("Atspi", "2.0")
        gi.require_version("Gdk", "3.0")
        from gi.repository import Atspi, Gdk  # noqa: PLC0415

        self.atspi = Atspi
        Atspi.init()
        self._gdk = Gdk

    def picture(self, name: str) -> Any:
        """Keep a picture of the whole screen; returns its pixels."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        root = self._gdk.get_default_root_window()
        pixels = self._gdk.pixbuf_get_from_window(root, 0, 0, WIDTH, HEIGHT)
        pixels.savev(str(PICTURES / f"{name}.png"), "png", [], [])
        return pixels

    def close(self) -> None:
        for process in (self._bus, self._server):
            process.terminate()
            process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)


@dataclass
class Machine:
    """The facts of a machine; the defaults can isolate, with I2P. ``memory`` is in MiB."""

    flags: str = "fpu vmx"
    memory: int = 8000
    programs: tuple[str, ...] = ("usr/bin/qemu-system-x86_64", "usr/sbin/i2pd")
    drivers: tuple[str, ...] = ("kvm",)
    host_session: bool = True
    installed: bool = True
    series: int = 6
    guest: str = ""
    env: dict[str, str] = field(default_factory=dict)
    #: What a test breaks in the installed files: called with their root.
    sabotage: Callable[[Path], None] | None = None


SCRIPT = r"""
set -eu
world=$1
shift
for place in usr var/lib; do
    mount -t overlay overlay /$place \
        -o "lowerdir=/$place,upperdir=$world/upper/$place,workdir=$world/work/$place"
done
# This machine may have some of them.
rm -f /usr/bin/qemu-system-x86_64 /usr/bin/VBoxManage /usr/sbin/i2pd /usr/bin/i2pd
for name in $(cat "$world/programs"); do
    mkdir -p "/${name%/*}"
    : >"/$name"
done
for name in cpuinfo meminfo; do mount --bind "$world/$name" "/proc/$name"; done
mount -t tmpfs tmpfs /sys/class/misc
for driver in $(cat "$world/drivers"); do mkdir "/sys/class/misc/$driver"; done
mount -t tmpfs tmpfs /run
if [ -s "$world/selection.json" ]; then
    mkdir /run/tails-profiles
    cp "$world/selection.json" /run/tails-profiles/
fi
exec "$@"
"""
SESSION = "usr/share/wayland-sessions/tails-profiles-host.desktop"
WRAPPER = "usr/lib/tails-profiles-greeter/tails-profiles-greeter"
STOCK = "usr/local/lib/tails-greeter"


class Greeter:
    """One greeter, from its start to its end."""

    def __init__(self, screen: Screen, machine: Machine) -> None:
        self.screen, self.machine = screen, machine
        self.world = Path(tempfile.mkdtemp(prefix="greeter-", dir="/dev/shm"))
        self.upper = self.world / "upper"
        self.storage = self.world / "storage"
        self.storage.mkdir(mode=0o700)
        self._fill()
        self.process = self._start()
        self._control = os.open(self.world / "control", os.O_RDWR)
        self._used: list[str] = []

    def _fill(self) -> None:
        world, machine = self.world, self.machine
        for place in ("usr", "var/lib"):
            (self.upper / place).mkdir(parents=True)
            (world / "work" / place).mkdir(parents=True)
        self.install_stock()
        if machine.installed:
            subprocess.run([TOP / "greeter_plugin/install", self.upper], check=True)
        session = [SESSION] if machine.host_session else []
        (world / "programs").write_text("\n".join([*machine.programs, *session]))
        (self.upper / "var/lib/gdm3").mkdir()
        (world / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {machine.flags}\n")
        (world / "meminfo").write_text(f"MemTotal: {machine.memory * 1024} kB\n")
        (world / "drivers").write_text("\n".join(machine.drivers))
        guest = f'{{"profile": "{machine.guest}"}}' if machine.guest else ""
        (world / "selection.json").write_text(guest)
        if machine.sabotage:
            machine.sabotage(self.upper)
        (world / "trace").touch()
        os.mkfifo(world / "control")

    def install_stock(self) -> None:
        """Put the greeter that is there without us below ``upper``."""
        share, packages = self.upper / "usr/share/tails", "usr/lib/python3/dist-packages"
        shutil.copytree(STANDIN / "greeter", share / "greeter")
        shutil.copytree(STANDIN / "tailsgreeter", self.upper / packages / "tailsgreeter")
        (self.upper / STOCK).parent.mkdir(parents=True)
        shutil.copy(STANDIN / "launcher", self.upper / STOCK)

    def _start(self) -> subprocess.Popen[bytes]:
        program = WRAPPER if self.machine.installed else STOCK
        with (self.world / "journal").open("wb") as journal:
            return subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh",
                 self.world, f"/{program}"],
                env={
                    **self.screen.env,
                    "STANDIN_TRACE": str(self.world / "trace"),
                    "STANDIN_CONTROL": str(self.world / "control"),
                    "STANDIN_STORAGE": str(self.storage),
                    "STANDIN_SERIES": str(self.machine.series),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    **self.machine.env,
                },
                stdin=subprocess.DEVNULL, stdout=journal, stderr=journal, start_new_session=True,
            )  # fmt: skip

    # ---- what it has done

    @property
    def journal(self) -> str:
        return (self.world / "journal").read_text(errors="replace")

    @property
    def trace(self) -> list[str]:
        """What the greeter has done; our own questions whether it stands still are left out."""
        return [line for line in self._lines() if line != SETTLED]

    def _lines(self) -> list[str]:
        return (self.world / "trace").read_text().splitlines()

    def refused(self) -> list[str]:
        """Names that the plugin used and nobody promised; forgets them."""
        if not self.world.exists():
            return []
        lines = self._lines()
        kept = [line for line in lines if not line.startswith("refused ")]
        (self.world / "trace").write_text("".join(f"{line}\n" for line in kept))
        return [line for line in lines if line.startswith("refused ")]

    @property
    def settings(self) -> Path:
        """Its directory of settings, as long as no Persistent Storage lies over it."""
        return self.upper / "var/lib/gdm3/settings/persistent"

    def files(self) -> dict[str, bytes]:
        """Everything below the greeter's directory, with its content and mode."""
        top = self.upper / "var/lib/gdm3"
        return {
            f"{path.relative_to(top)} {path.stat().st_mode:o}": path.read_bytes()
            for path in sorted(top.rglob("*"))
            if path.is_file()
        }

    def wait_for(self, line: str) -> None:
        """Until the trace has one more ``line`` than has been waited for."""
        self._used.append(line)
        wanted = self._used.count(line)

        def there() -> bool:
            if self._lines().count(line) >= wanted:
                return True
            if self.process.poll() is not None and self._lines().count(line) < wanted:
                raise AssertionError(f"ended before {line!r}:\n{self.journal}\n{self.trace}")
            return False

        until(there, lambda: f"{line!r} in {self.trace}, {self.journal}")

    def tell(self, command: str) -> None:
        """Give the stand-in a command, and wait until it has been carried out."""
        os.write(self._control, command.encode() + b"\n")
        self.wait_for(f"done {command.split(maxsplit=1)[0]}")

    def settle(self) -> None:
        """Wait until its windows stand still: only then is a place worth asking for."""
        self.tell("settle")

    # ---- what it shows

    def shot(self, name: str) -> None:
        """Keep a picture, once everything that was asked for has been drawn."""
        self.settle()
        pixels = self.screen.picture(name).get_pixels()
        assert pixels.count(pixels[:3]) < len(pixels) // 3, f"{name} shows nothing"

    def application(self) -> Any:
        """The greeter on the accessibility bus, with nothing remembered from earlier looks."""

        def look() -> Any:
            desktop = self.screen.atspi.get_desktop(0)
            desktop.clear_cache()
            for number in range(desktop.get_child_count()):
                child = desktop.get_child_at_index(number)
                if child is not None and child.get_name() == "Welcome to Tails!":
                    child.clear_cache()
                    return child
            return None

        return until(look, lambda: f"no greeter on the accessibility bus: {self.journal}")

    def widgets(self, below: Any = None) -> Iterator[Any]:
        """Every widget that shows, top down; or only those below one."""
        states = self.screen.atspi.StateType

        def walk(widget: Any) -> Iterator[Any]:
            for number in range(widget.get_child_count()):
                child = widget.get_child_at_index(number)
                if child is not None and child.get_state_set().contains(states.VISIBLE):
                    yield child
                    yield from walk(child)

        yield from walk(below or self.application())

    def tree(self) -> list[str]:
        """The accessibility tree, a line a widget."""
        states = self.screen.atspi.StateType
        lines = []
        for widget in self.widgets():
            flags = widget.get_state_set()
            marks = "".join(
                mark if flags.contains(state) else "-"
                for mark, state in (("s", states.SENSITIVE), ("c", states.CHECKED),
                                    ("f", states.FOCUSABLE), ("v", states.SHOWING))
            )  # fmt: skip
            lines.append(
                f"{marks} {role_of(widget)} {widget.get_name()!r} {widget.get_description()!r}"
            )
        return lines

    def find(
        self, role: str, name: str = "", description: str = "", *, prefix: bool = False
    ) -> Any:
        """The first widget of that role, name and description; waits for it. Empty is any."""

        def look() -> Any:
            for widget in self.widgets():
                with suppress(Exception):  # gone while we looked
                    found = widget.get_name() or ""
                    if (
                        role_of(widget) == role
                        and (not name or found == name or (prefix and found.startswith(name)))
                        and (not description or widget.get_description() == description)
                    ):
                        return widget
            return None

        return until(
            look, lambda: "\n".join([f"no {role} {name!r} {description!r} in", *self.tree()])
        )

    def press(self, role: str, name: str = "", description: str = "") -> None:
        """Click on a widget, with the pointer: an action that opens a dialog would not return."""
        self.find(role, name, description)
        self.settle()
        place = self.place(self.find(role, name, description))
        assert min(place.x, place.y) >= 0, f"{role} {name!r} lies off the screen"
        assert min(place.width, place.height) > 0, f"{role} {name!r} has no size"
        x, y = place.x + place.width // 2, place.y + place.height // 2
        self.screen.atspi.generate_mouse_event(x, y, "b1c")

    def place(self, widget: Any) -> Any:
        """Where a widget is on the screen, in pixels."""
        return self.screen.atspi.Component.get_extents(widget, self.screen.atspi.CoordType.SCREEN)

    def key(self, code: int) -> None:
        """Press and release a key, by its X code, in the window that has the keyboard."""
        self.settle()
        kind = self.screen.atspi.KeySynthType.PRESSRELEASE
        self.screen.atspi.generate_keyboard_event(code, None, kind)

    def is_(self, widget: Any, state: str) -> bool:
        widget.clear_cache()
        return bool(
            widget.get_state_set().contains(getattr(self.screen.atspi.StateType, state.upper()))
        )

    def close(self) -> None:
        """End it, if it has not ended, and take its world away."""
        if not self.world.exists():
            return
        os.close(self._control)
        if self.process.poll() is None:
            # The wrapper and its child: a session of their own.
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10 * FACTOR)
        shutil.rmtree(self.world)
