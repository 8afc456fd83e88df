# SPDX-License-Identifier: GPL-3.0-or-later
"""What a test says to a running guest, and what it asks of it.

A few words that read as sentences: ``wait_for_target``, ``succeed``, ``fail``, ``type_keys``,
``console_text``, ``screenshot``. Every wait is for an event, with a limit; nothing sleeps for a
guess.
"""

import base64
import contextlib
import re
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scapy.all import Ether, Packet, PcapReader

from tails_profiles.announce import parse_line
from tails_profiles.errors import LaunchError
from tails_profiles.system import qmp
from tests.lab.tornet import FACTOR
from tests.vm.image import PORT

#: IEEE 802, for local experiments: nothing else in a test uses it.
_CANARY_TYPE = 0x88B5
_CANARY_MAC = "02:63:61:6e:72:79"
POWER_ON, POWER_OFF = b"before power-on", b"after power-off"

#: Seconds between two questions to a guest: one takes about as long without virtualization.
_INTERVAL = 0.5
_TEXT_SCREEN, _COLUMNS, _ROWS = 0xB8000, 80, 25


class Shell:
    """The root shell behind the door of the test layer."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._rest = b""

    def wait(self, seconds: float = 300) -> None:
        """Until it answers: what is sent before the port is open may be lost, so it is repeated."""
        deadline = time.monotonic() + seconds * FACTOR
        while time.monotonic() < deadline:
            self._socket.sendall(b"echo hi''1x\n")
            with contextlib.suppress(TimeoutError):
                self._read(b"hi1x\n", 5)
                return
        raise TimeoutError(f"no shell within {seconds * FACTOR:.0f} s")

    def execute(self, command: str, seconds: float = 120) -> tuple[int, str]:
        """Status and output of a command."""
        encoded = base64.b64encode(command.encode()).decode()
        self._socket.sendall(
            f"echo {encoded}|base64 -d>/run/.c; bash /run/.c >/run/.o 2>&1 </dev/null; r=$?; "
            'echo "BEG:$(base64 -w0 /run/.o):$r:END"\n'.encode()
        )
        match = re.search(rb"BEG:([^:]*):(\d+):END\n", self._read(b":END\n", seconds * FACTOR))
        assert match
        return int(match[2]), base64.b64decode(match[1]).decode(errors="replace").strip()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _read(self, end: bytes, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while end not in self._rest:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError("the guest's shell is gone")
            self._rest += data
        before, _, self._rest = self._rest.partition(end)
        return before + end


class Serial:
    """Everything a guest writes to its first serial port, as it comes."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._more = threading.Condition()
        self.log = b""
        self._ended = False
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while data := self._socket.recv(4096):
            with self._more:
                self.log += data
                self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    def words(self) -> list[str]:
        """What was announced so far, without the common beginning."""
        said = map(parse_line, self.log.splitlines(keepends=True))
        return [each.line().split(" ", 2)[2].strip() for each in said if each]

    def wait_for(self, words: str, seconds: float) -> None:
        """Until the guest has announced ``words``."""
        with self._more:
            said = self._more.wait_for(
                lambda: words in self.words() or self._ended, seconds * FACTOR
            )
        assert words in self.words(), (
            f"{'' if said else f'within {seconds * FACTOR:.0f} s '}the host was not told"
            f" {words!r}, only {self.words()}"
        )


class Machine:
    """One running guest. ``directory`` holds its sockets; captures are there as well."""

    def __init__(self, name: str, directory: Path, links: tuple[str, ...]) -> None:
        self.name = name
        self.directory = directory
        self.links = links
        self._shell: Shell | None = None
        self._answered = False
        self.serial: Serial | None = None

    # ---- from inside

    @property
    def shell(self) -> Shell:
        """The root shell, once it answers."""
        if self._shell is None:
            self.open_door()
        assert self._shell is not None
        if not self._answered:
            self._shell.wait()
            self._answered = True
        return self._shell

    def open_door(self) -> None:
        """Connect to the shell's door: behind a closed one it ends and is started anew for ever,
        which costs a machine without virtualization a third of its time.
        """
        self._shell = Shell(self.directory / "shell")

    def shut_door(self) -> None:
        """Hang up, before another power-on or for good."""
        if self._shell is not None:
            self._shell.close()
        self._shell, self._answered = None, False

    def execute(self, command: str, seconds: float = 120) -> tuple[int, str]:
        """Status and output of a command."""
        return self.shell.execute(command, seconds)

    def succeed(self, command: str, seconds: float = 120) -> str:
        """The output of a command that must succeed."""
        status, text = self.execute(command, seconds)
        assert status == 0, f"{self.name}: {command}: status {status}: {text}"
        return text

    def fail(self, command: str, seconds: float = 120) -> str:
        """The output of a command that must not succeed."""
        status, text = self.execute(command, seconds)
        assert status != 0, f"{self.name}: {command}: succeeded: {text}"
        return text

    def wait_until_succeeds(self, command: str, seconds: float = 300) -> str:
        """The output of the first attempt that succeeds."""
        last = ""

        def attempt() -> bool:
            nonlocal last
            status, last = self.execute(command)
            return status == 0

        self.wait_until(f"{command} to succeed", attempt, seconds)
        return last

    def wait_for_unit(self, unit: str, seconds: float = 300) -> None:
        """Until a unit is active."""
        self.wait_until_succeeds(f"systemctl is-active {unit}", seconds)

    wait_for_target = wait_for_unit

    def is_active(self, unit: str) -> bool:
        """Whether a unit is active now."""
        return self.execute(f"systemctl is-active {unit}")[0] == 0

    def links_up(self) -> list[str]:
        """The links that are up now; lo is none."""
        return self.succeed(
            "for link in /sys/class/net/*/device; do link=${link%/device}; link=${link##*/};"
            " ip -o link show dev $link up; done | cut -d: -f2"
        ).split()

    def journal(self) -> str:
        """This boot's journal."""
        return self.execute("journalctl -b --no-pager -o short-monotonic", 300)[1]

    # ---- from outside

    def monitor(self, command: str, **arguments: object) -> dict[str, object]:
        """One QMP command."""
        return qmp.execute(self.directory / "qmp", command, arguments)

    def wait_until(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Until ``condition`` holds."""
        deadline = time.monotonic() + seconds * FACTOR
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name}: waited {seconds * FACTOR:.0f} s for {what}")
            time.sleep(_INTERVAL)

    def type_keys(self, keys: str) -> None:
        """Press keys on the guest's keyboard, one after another: names of QMP, ``a b ret``."""
        for key in keys.split():
            pressed = [{"type": "qcode", "data": part} for part in key.split("-")]
            self.monitor("send-key", keys=pressed)

    def screenshot(self, output: Path) -> None:
        """A picture of the screen."""
        # QEMU may run as another user: it writes where it may.
        path = self.directory / "screen.png"
        self.monitor("screendump", filename=str(path), format="png")
        shutil.move(path, output)

    def console_text(self) -> str:
        """The words on the first screen, by its virtual console: works in quarantine as well."""
        columns = self.succeed("stty -F /dev/tty1 size").split()[1]
        return self.succeed(f"fold -w {columns} /dev/vcs1 | sed 's/ *$//'")

    def text_screen(self) -> str:
        """The words of a text screen, out of the machine's video memory: needs no living guest."""
        path = self.directory / "text-screen"
        self.monitor("pmemsave", val=_TEXT_SCREEN, size=_COLUMNS * _ROWS * 2, filename=str(path))
        cells = path.read_bytes()[::2]
        path.unlink()
        text = "".join(chr(byte) if 32 <= byte < 127 else " " for byte in cells)
        rows = (text[at : at + _COLUMNS] for at in range(0, len(text), _COLUMNS))
        return "\n".join(row.rstrip() for row in rows)

    def wait_for_words(self, words: str, seconds: float = 600) -> None:
        """Until the host has been told ``words`` on the serial port."""
        assert self.serial is not None, f"{self.name} has no serial port"
        self.serial.wait_for(words, seconds)

    def status(self) -> str:
        """QEMU's word for what the machine is doing."""
        return str(self.monitor("query-status")["status"])

    def power_off(self, seconds: float = 60) -> None:
        """Press the power button, and wait until the machine is off (and QEMU still there)."""
        self.monitor("system_powerdown")
        self.wait_until("power-off", lambda: self.status() == "shutdown", seconds)

    def end(self) -> None:
        """The last canary, then the end of QEMU: captures are complete."""
        self.mark(POWER_OFF)
        # Answered after whatever arrived before it: the canaries are in the captures.
        self.monitor("query-status")
        # It may be gone before it has answered.
        with contextlib.suppress(LaunchError):
            self.monitor("quit")

    # ---- captures

    def mark(self, label: bytes) -> None:
        """Send a canary frame over every link, which must then stand in its capture."""
        for link in self.links:
            send_canary(self.directory / f"{link}.tap", label)

    def frames(self, link: str) -> list[Packet]:
        """What a link carried between the canaries, which must both be there, at both ends."""
        frames = read_capture(self.directory / f"{link}.pcap")
        labels = [label_of(frame) for frame in frames]
        for label in (POWER_ON, POWER_OFF):
            assert label in labels, f"{self.name}: {link}: no canary {label.decode()!r}"
        assert labels[0] == POWER_ON, f"{self.name}: {link}: frames before the first canary"
        assert labels[-1] == POWER_OFF, f"{self.name}: {link}: frames after the last canary"
        # The other end of an inner link marks its own captures, and its canaries arrive here.
        return [frame for frame, label in zip(frames, labels, strict=True) if label is None]

    def frames_so_far(self, link: str) -> list[Packet]:
        """What a link has carried until now; there may be more."""
        return read_capture(self.directory / f"{link}.pcap")

    # ---- evidence

    def keep_evidence(self, folder: Path) -> None:
        """Journal, serial port, captures and screen, for whoever looks into a failure."""
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError, LaunchError, AssertionError):
            self.screenshot(folder / f"{self.name}.png")
        with contextlib.suppress(OSError, LaunchError, AssertionError):
            (folder / f"{self.name}.screen").write_text(self.text_screen())
        if self.serial is not None:
            (folder / f"{self.name}.serial").write_bytes(self.serial.log)
        for path in self.directory.glob("*.pcap"):
            shutil.copy(path, folder / f"{self.name}.{path.name}")
        # Last: a guest without its shell answers nothing for as long as the limit is.
        if self._answered:
            with contextlib.suppress(OSError, AssertionError):
                (folder / f"{self.name}.journal").write_text(self.journal())


def canary(label: bytes) -> Packet:
    """The frame that marks one end of a capture."""
    return Ether(src=_CANARY_MAC, dst=_CANARY_MAC, type=_CANARY_TYPE) / label.ljust(46, b"\0")


def send_canary(tap: Path, label: bytes) -> None:
    """One frame for the capture behind a tap."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.sendto(bytes(canary(label)), str(tap))


def label_of(frame: Packet) -> bytes | None:
    """A canary's label; None for a frame of anybody else."""
    if frame[Ether].type != _CANARY_TYPE or frame[Ether].src != _CANARY_MAC:
        return None
    return bytes(frame[Ether].payload).rstrip(b"\0")


def read_capture(path: Path) -> list[Packet]:
    """Every whole frame: QEMU may still be writing the last one."""
    return list(_whole_frames(path))


def _whole_frames(path: Path) -> Iterator[Packet]:
    with PcapReader(str(path)) as reader, contextlib.suppress(EOFError, struct.error):
        yield from reader


def doors(directory: Path) -> tuple[str, ...]:
    """QEMU's options for the port of the root shell."""
    return (
        "-chardev", f"socket,id=door,path={directory}/shell,server=on,wait=off",
        "-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=door,name={PORT}",
    )  # fmt: skip


def watched(argv: tuple[str, ...], directory: Path) -> tuple[str, ...]:
    """QEMU's options with every link led over a hub to a tap, and the tap's capture.

    The tap sees every frame of the hub, and a canary sent to it is in the capture at once, whether
    the machine runs or not. The machine stays after power-off for the last one.
    """
    words: list[str] = []
    dumps: list[str] = []
    for option, word in zip(("", *argv), argv, strict=False):
        if option == "-netdev":
            name = re.findall(r"(?:^|,)id=([^,]+)", word)[0]
            words += _hub(name, word, len(dumps) + 1, directory)
            dump = f"filter-dump,id=dump-{name},netdev={name}-tap,file={directory}/{name}.pcap"
            dumps += ["-object", dump]
        elif option == "-action":
            words.append("panic=pause,shutdown=pause")
        else:
            words.append(word)
    return (*words, *dumps)


def _hub(name: str, backend: str, hub: int, directory: Path) -> list[str]:
    tap = f"{directory}/{name}.tap"
    nobody = f"remote.type=unix,remote.path={tap}.nobody"
    return [
        backend.replace(f"id={name}", f"id={name}-wire"),
        "-netdev", f"dgram,id={name}-tap,local.type=unix,local.path={tap},{nobody}",
        "-netdev", f"hubport,id={name}-to-wire,hubid={hub},netdev={name}-wire",
        "-netdev", f"hubport,id={name}-to-tap,hubid={hub},netdev={name}-tap",
        "-netdev", f"hubport,id={name},hubid={hub}",
    ]  # fmt: skip
