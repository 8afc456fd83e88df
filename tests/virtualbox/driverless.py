# SPDX-License-Identifier: GPL-3.0-or-later
"""Run machines in the real VirtualBox without its kernel driver: all by its interpreter, slowly.

Only VirtualBoxVM does so, on a screen, and without internal networks: these are for the kernel
driver. Everything else about a machine is what it is.
"""

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.virtualbox.world import ENVIRONMENT, FACTOR, VirtualBox

#: What stands in for a machine's front end.
FRONT_END = "/usr/lib/virtualbox/VirtualBoxVM"
OPTIONS = ("--no-startvm-errormsgbox", "--driverless", "--execute-all-in-iem")
SCREEN = {"DISPLAY": ":7", "QT_QPA_PLATFORM": "xcb"}
#: What a machine must have beside.
EXTRADATA = {"VBoxInternal/HM/FallbackToIEM": "1", "VBoxInternal/EM/IemExecutesAll": "1"}
#: A boot sector: says R on the first serial port, then resets by the keyboard's controller.
RESET = bytes.fromhex("baf803 b052 ee b90000 e2fe b0fe e664 f4 ebfd".replace(" ", ""))
SECTOR = 2048


@contextmanager
def screen(box: VirtualBox) -> Iterator[None]:
    """The screen of ``SCREEN``, inside."""
    with subprocess.Popen(
        [*box.enter, "Xvfb", SCREEN["DISPLAY"], "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        env=ENVIRONMENT, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            wait_for("the screen", lambda: box.path("/tmp/.X11-unix/X7").exists(), 30)
            yield
        finally:
            server.kill()


@contextmanager
def running(box: VirtualBox, uuid: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A machine; ``log`` is its VBox.log. Given up when it ends."""
    with subprocess.Popen(
        [*box.enter, FRONT_END, "--startvm", uuid, *OPTIONS],
        env={**ENVIRONMENT, **SCREEN}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            wait_for(
                "a machine that runs",
                lambda: "to 'RUNNING'" in states(log) or process.poll() is not None, 60,
            )  # fmt: skip
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def states(log: Path) -> str:
    """Its changes of state so far, a line each."""
    if not log.exists():
        return ""
    return "\n".join(re.findall("Changing the VM state.*", log.read_text(errors="replace")))


def configuration(log: Path, node: str) -> dict[str, str]:
    """One node of what the machine really consists of, as it logs it at its start (CFGM)."""
    return parse_configuration(log.read_text(errors="replace"), node)


def parse_configuration(text: str, node: str) -> dict[str, str]:
    """The same of the log's text."""
    found = re.search(rf"\[/{re.escape(node)}/\] \(level.*?\n((?:[\d:.]+   .*\n)*)", text)
    lines = found[1].splitlines() if found else []
    pairs = (re.match(r'[\d:.]+ +(\S+) +<\w+> += (?:"(.*)"|(0x[0-9a-f]+) )', x) for x in lines)
    return {
        pair[1]: pair[2] if pair[2] is not None else str(int(pair[3], 16)) for pair in pairs if pair
    }


def wait_for(what: str, condition: object, seconds: float) -> None:
    """Until ``condition()`` is true."""
    deadline = time.monotonic() + seconds * FACTOR
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.2)


def bootable(code: bytes) -> bytes:
    """The smallest bootable image: El Torito without emulation, and nothing in its file system."""
    sectors: dict[int, bytes] = {
        16: _descriptor(1, b"CD001\1\0" + bytes(32) + b"RESET".ljust(32)),
        17: _descriptor(
            0, b"CD001\1EL TORITO SPECIFICATION".ljust(70, b"\0") + bytes([19, 0, 0, 0])
        ),
        18: _descriptor(255, b"CD001\1"),
        19: _catalog(),
        20: code,
    }
    return b"".join(sectors.get(number, b"").ljust(SECTOR, b"\0") for number in range(64))


def _descriptor(kind: int, rest: bytes) -> bytes:
    return bytes([kind]) + rest


def _catalog() -> bytes:
    entry = bytearray(32)
    entry[0], entry[30], entry[31] = 1, 0x55, 0xAA
    words: Sequence[int] = [
        int.from_bytes(entry[at : at + 2], "little") for at in range(0, 32, 2)
    ]  # all 16-bit words of it add up to 0
    entry[28:30] = (-sum(words) & 0xFFFF).to_bytes(2, "little")
    boot = bytes([0x88, 0, 0, 0, 0, 0, 4, 0, 20, 0, 0, 0])
    return bytes(entry) + boot
