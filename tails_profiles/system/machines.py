# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of running virtual machines, and what this host can run them with."""

import contextlib
import os
import re
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

from tails_profiles.announce import MAX_LINE, Announcement, parse_line
from tails_profiles.command import Command
from tails_profiles.errors import CommandError, CommandNotFoundError, LaunchError
from tails_profiles.system import units
from tails_profiles.system.process import run, spawn

#: Seconds between two looks at something that tells nobody when it changes.
_INTERVAL = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """A process that will not be mistaken for a later one: ``started`` is in clock ticks."""

    pid: int
    started: int


@dataclass(frozen=True, slots=True)
class Machine:
    """A running machine of ours, as its command line describes it."""

    directory: Path
    profile: str
    process: Process
    hypervisor: str


def start(command: Command, log: Path) -> Process:
    """Start a machine that outlives this program; what it says goes to ``log``.

    Raises CommandNotFoundError, and LaunchError when it has ended by now.
    """
    return _process(spawn(command, log))


def start_unit(command: Command, unit: str) -> Process:
    """Have systemd start a machine as ``unit``; raises CommandError, LaunchError as ``start``."""
    # A unit of that name that ended badly would be in the way; it is not, if there is none.
    run(Command((units.SYSTEMCTL, "reset-failed", unit)), ok=range(256))
    run(command)
    return _process(int(units.properties(unit, "MainPID").get("MainPID", "0")))


def _process(pid: int) -> Process:
    process = identify(pid) if pid else None
    if process is None:
        raise LaunchError("the virtual machine ended at once")
    return process


#: What a machine's command line says of it: ``qemu`` writes its control socket, ``vboxmanage`` a
#: comment.
_MARKS = {
    "qemu": re.compile(rb"unix:(/[^,\0]+)/([a-z0-9-]+)/qmp,server=on,wait=off"),
    "virtualbox": re.compile(rb"tails-profiles:(/[^,\0]+)/([a-z0-9-]+)"),
}


def find() -> Iterator[Machine]:
    """Every running machine of ours, or of who says so, whoever started it and from where."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            started = _started(int(entry.name))
            # The launcher's own helpers, which name it as well, are not it: see ``unit``.
            if started is None or words[0].endswith(b"systemd-run"):
                continue
            for hypervisor, mark in _MARKS.items():
                found = next(filter(None, map(mark.fullmatch, words)), None)
                if found:
                    yield Machine(
                        Path(os.fsdecode(found[1])),
                        found[2].decode("ascii"),
                        Process(int(entry.name), started),
                        hypervisor,
                    )


def shares_network(process: Process) -> bool:
    """Whether it is in this program's network namespace; of one that ended, no."""
    try:
        return Path(f"/proc/{process.pid}/ns/net").stat().st_ino == (
            Path("/proc/self/ns/net").stat().st_ino
        )
    except OSError:
        return False


def identify(pid: int) -> Process | None:
    """The process that has this number now."""
    started = _started(pid)
    return None if started is None else Process(pid, started)


def is_running(process: Process) -> bool:
    """Whether this very process is there, and is no zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    return _started(process.pid) == process.started


def kill(process: Process, unit_prefix: str | None = None) -> None:
    """End it at once, if it is still the one that was started; with its unit, if it has one."""
    if not is_running(process):
        return
    unit = None if unit_prefix is None else _unit(process, unit_prefix)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    if unit is not None:
        # Whatever else may be in its control group.
        with contextlib.suppress(CommandError):
            run(Command((units.SYSTEMCTL, "stop", unit)))


def _unit(process: Process, prefix: str) -> str | None:
    """The unit that a process belongs to, if its name starts with ``prefix``; cgroups(7)."""
    try:
        text = Path(f"/proc/{process.pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return None
    names = {line.rpartition("/")[2] for line in text.splitlines()}
    return next((name for name in names if name.startswith(prefix)), None)


def wait_until_ended(process: Process, seconds: float) -> bool:
    """Whether it ended within ``seconds``."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return not is_running(process)
    try:
        if is_running(process):
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(seconds * 1000)
    finally:
        os.close(descriptor)
    return not is_running(process)


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat (proc(5)); None where there is no such process, or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


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


class Words:
    """What a gateway says on its serial port; everything else there is skipped."""

    def __init__(self, serial: socket.socket) -> None:
        self._serial = serial
        self._rest = b""
        self._said: list[Announcement] = []

    def next(self, deadline: float, check: Callable[[], None]) -> Announcement | None:
        """The next one; None once ``deadline`` (time.monotonic) is over.

        ``check`` is called about once a second, and may raise. Raises LaunchError when the machine
        has ended.
        """
        while not self._said:
            left = deadline - time.monotonic()
            # Also of a guest that floods the port, so that reading never waits.
            if left <= 0:
                return None
            check()
            self._serial.settimeout(min(left, 1))
            try:
                data = self._serial.recv(65536)
            except TimeoutError:
                continue
            except OSError as err:
                raise LaunchError("the virtual machine ended") from err
            if not data:
                raise LaunchError("the virtual machine ended")
            self._take(data)
        return self._said.pop(0)

    def _take(self, data: bytes) -> None:
        *whole, rest = (self._rest + data).split(b"\n")
        # A guest that never ends its line fills nothing here.
        self._rest = rest[-MAX_LINE - 1 :]
        said = (parse_line(line + b"\n") for line in whole)
        self._said += [each for each in said if each is not None]

    def close(self) -> None:
        """Listen no longer."""
        self._serial.close()


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


def resolver(path: Path = Path("/etc/resolv.conf")) -> IPv4Address | None:
    """Whom QEMU's user-mode networking asks for names: the first IPv4 server in resolv.conf(5)."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if words[:1] == ["nameserver"]:
            with contextlib.suppress(IndexError, AddressValueError):
                return IPv4Address(words[1])
    return None


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """MiB that programs can have without swapping (proc(5), MemAvailable)."""
    for line in meminfo.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0
