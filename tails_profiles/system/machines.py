# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of running virtual machines, and what this host can run them with."""

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tails_profiles.announce import MAX_LINE, Announcement, parse_line
from tails_profiles.command import Command
from tails_profiles.errors import CommandError, CommandNotFoundError, LaunchError
from tails_profiles.system.process import run, spawn

#: Seconds between two looks at something that tells nobody when it changes.
_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """A process that will not be mistaken for a later one: ``started`` is in clock ticks."""

    pid: int
    started: int


def start(command: Command, log: Path) -> Process:
    """Start a machine that outlives this program; what it says goes to ``log``.

    Raises CommandNotFoundError.
    """
    pid = spawn(command, log)
    started = _started(pid)
    if started is None:
        raise LaunchError(f"{command.argv[0]} ended at once", hint=f"see {log}")
    return Process(pid, started)


def is_running(process: Process) -> bool:
    """Whether this very process is there, and is no zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return _started(process.pid) == process.started


def kill(process: Process) -> None:
    """End it at once, if it is still the one that was started."""
    if is_running(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def wait_until_ended(process: Process, seconds: float) -> bool:
    """Whether it ended within ``seconds``."""
    deadline = time.monotonic() + seconds
    while is_running(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(_INTERVAL)
    return True


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None where there is no such process, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def connect(path: Path, process: Process, seconds: float) -> socket.socket:
    """A connection to a machine's socket, once it is there; raises LaunchError."""
    deadline = time.monotonic() + seconds
    while True:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError) as err:
            made.close()
            if not is_running(process):
                raise LaunchError("the virtual machine ended at once") from err
            if time.monotonic() > deadline:
                raise LaunchError(f"{path} did not appear within {seconds:.0f} s") from err
            time.sleep(_INTERVAL)
        else:
            return made


def announcements(serial: socket.socket, seconds: float) -> Iterator[Announcement]:
    """What a gateway says, as it says it; everything else on that port is skipped.

    Raises LaunchError when it says nothing for ``seconds``, or when its machine ends.
    """
    deadline = time.monotonic() + seconds
    line = b""
    while True:
        serial.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = serial.recv(4096)
        except TimeoutError as err:
            raise LaunchError(f"said nothing for {seconds:.0f} s") from err
        if not data:
            raise LaunchError("the virtual machine ended")
        *whole, rest = (line + data).split(b"\n")
        # A guest that never ends its line fills nothing here.
        line = rest[-MAX_LINE - 1 :]
        for each in whole:
            said = parse_line(each + b"\n")
            if said is not None:
                deadline = time.monotonic() + seconds
                yield said


#: A boot sector that reports to isa-debug-exit and stops: mov al,16; out 0xf4,al; hlt.
_BOOT_SECTOR = bytes.fromhex("b010e6f4f4").ljust(510, b"\0") + b"\x55\xaa"
_REPORTED = 33  # (16 << 1) | 1, as QEMU's isa-debug-exit has it


def accelerator_works(name: str, qemu: str, cpu: str, seconds: float = 20.0) -> bool:
    """Whether a virtual machine really runs with this accelerator and processor model.

    ``/dev/kvm`` may open and its guests hang, or lack instructions of the processor that they are
    promised: so one is run through its firmware to a boot sector that reports back.
    """
    with tempfile.TemporaryDirectory() as directory:
        sector = Path(directory) / "sector"
        sector.write_bytes(_BOOT_SECTOR)
        argv = (
            qemu, "-nodefaults", "-no-user-config", "-machine", "pc", "-accel", name,
            "-cpu", f"{cpu},enforce", "-display", "none", "-m", "16",
            "-drive", f"file={sector},format=raw,if=ide,readonly=off",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=1",
        )  # fmt: skip
        try:
            return run(Command(argv), ok=range(256), timeout=seconds).status == _REPORTED
        except (CommandError, CommandNotFoundError):
            return False


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """MiB that programs can have without swapping (proc(5), MemAvailable)."""
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0
