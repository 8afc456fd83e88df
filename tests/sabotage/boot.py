# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot a real systemd as PID 1 of fresh namespaces, with fake DMI and with captured links.

What is real: systemd and its units, our packages as they ship, nft, the kernel's links and rules.
What stands in, and is all that does:

- DMI: files in a ``/sys/class`` that has little else;
- hardware: veth pairs, given a ``device`` by an overlay over their sysfs directory, and an entry
  in udev's database (no udevd runs: sysfs is read-only here);
- systemd believes that it is in a container, as it does on a machine with ``container=lxc`` on its
  kernel command line; the number of the PID namespace, by which we know better, is that of the
  first one through a wrapper of ``readlink``;
- screens and the first serial port: pseudo-terminals, whose other ends are read outside;
- SMBIOS tables, where a test asks for them: files over ``/sys/firmware``; a file is ``/dev/mem``.
"""

import contextlib
import ctypes
import json
import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import textwrap
import time
import tty
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.sabotage.root import SUITES, base, layer
from tests.sabotage.smbios import memory

FACTOR = float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
LEASE = "tails-profiles-lease.service"
OUR_UNITS = ("lockdown", "firewall", "links")
TERMINALS = ("ttyS0", "tty1")
TOR_LINKS = {"eth0": "00:55:44:33:22:21", "eth1": "00:55:44:33:22:11"}
I2P_LINKS = {"eth0": "00:55:44:33:22:22", "eth1": "00:55:44:33:22:12"}
APP_LINKS = {"eth0": "00:11:22:33:44:55"}

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_OUTGOING = 4
#: For local experiments (IEEE 802): nothing in these tests sends it.
_CANARY = bytes.fromhex("ffffffffffff 020000000001 88b5")


@dataclass(frozen=True)
class Machine:
    """One machine to boot. ``files`` are written into the root, ``None`` deletes.

    ``tables`` are an SMBIOS entry point and its structures; without ``memory`` there is no
    ``/dev/mem``. ``consoles`` is what the kernel says it writes to. ``container`` boots without
    the door that makes us believe in a machine. ``extra`` are packages of the suite beside those
    of every root.
    """

    dmi: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | bytes | None] = field(default_factory=dict)
    masked: Sequence[str] = ()
    arguments: Sequence[str] = ()
    ours: bool = True
    suite: str = SUITES[0]
    tables: tuple[bytes, bytes] | None = None
    memory: bool = True
    container: bool = False
    consoles: str = "ttyS0"
    extra: Sequence[str] = ()


# Runs as the parent of PID 1, in the new namespaces; $1 is the work directory (a tmpfs).
_SETUP = r"""
set -eu
work=$1 lower=$2
mount --make-rprivate /
root=$work/root
mkdir -p "$root" "$work/work"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$work/upper,workdir=$work/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/full" c 1 7
mknod -m 666 "$root/dev/random" c 1 8
mknod -m 666 "$root/dev/urandom" c 1 9
mknod -m 666 "$root/dev/tty" c 5 0
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/run/udev/data"
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs tmpfs "$root/dev/shm"
# What is written to the console can be read afterwards.
: > "$work/console"
: > "$root/dev/console"
mount --bind "$work/console" "$root/dev/console"
for pair in $4; do
    : > "$root/dev/${pair%%=*}"
    mount --bind "${pair#*=}" "$root/dev/${pair%%=*}"
done
# As udev's rules give it to a group.
chroot "$root" chgrp dialout /dev/ttyS0
chmod 660 "$root/dev/ttyS0"
[ ! -e "$work/mem" ] || cp "$work/mem" "$root/dev/mem"
[ ! -d "$work/firmware" ] || mount --bind "$work/firmware" "$root/sys/firmware"

mkdir "$work/class"
mount --bind "$root/sys/class" "$work/class"
mount -t tmpfs tmpfs "$root/sys/class"
cp -R "$work/dmi" "$root/sys/class/dmi"
mkdir -p "$root/sys/class/tty/console"
echo "$5" > "$root/sys/class/tty/console/active"
for class in net block; do
    mkdir "$root/sys/class/$class"
    mount --bind "$work/class/$class" "$root/sys/class/$class"
done
for link in $3; do
    mkdir -p "$work/device/$link/upper" "$work/device/$link/work"
    ln -s ../../../platform "$work/device/$link/upper/device"
    directory=$root/sys/devices/virtual/net/$link
    echo I:1 > "$root/run/udev/data/n$(cat "$directory/ifindex")"
    upper=$work/device/$link/upper
    mount -t overlay overlay "$directory" \
        -o "lowerdir=$directory,upperdir=$upper,workdir=$work/device/$link/work"
done
mount -o remount,bind,ro "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mkdir -p "$root/run/lab"
cd "$root"
shift 5
exec env -i container=lxc PATH=/usr/sbin:/usr/bin chroot "$root" /usr/lib/systemd/systemd "$@"
"""

# Test-only: see the module's docstring.
_DOORS = {
    "etc/systemd/system/tails-profiles-links.service.d/lab.conf": (
        "[Service]\nEnvironment=SYSTEMD_DEVICE_VERIFY_SYSFS=0\n"
    ),
    "usr/bin/readlink": (
        '#!/bin/sh\n[ "$*" != /proc/self/ns/pid ] || exec echo "pid:[4026531836]"\n'
        'exec /usr/bin/readlink.real "$@"\n'
    ),
}

# A connection that NetworkManager would bring up at once, a display manager, and a quick getty.
_IMAGE = {
    "etc/NetworkManager/system-connections/lab.nmconnection": (
        "[connection]\nid=lab\ntype=ethernet\nautoconnect=true\n"
        "[ipv4]\nmethod=manual\naddress1=192.0.2.1/24\n[ipv6]\nmethod=disabled\n"
    ),
    "etc/systemd/system/display-manager.service": (
        "[Unit]\nDescription=stands for a display manager\nConflicts=getty@tty1.service\n"
        "[Service]\nExecStart=/usr/bin/tail -f /dev/null\n"
    ),
    "etc/hostname": "lab\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
}


class Boot:
    """One boot, as a context manager: on exit PID 1 is killed, and everything ends with it."""

    def __init__(self, machine: Machine, work: Path) -> None:
        self.machine = machine
        self.work = work

    def __enter__(self) -> Self:
        self._enter_network()
        self._write_files()
        for name, mac in self.machine.links.items():
            _run("ip", "link", "add", f"out-{name}", "type", "veth", "peer", "name", name,
                 "address", mac)  # fmt: skip
            # Outside, nothing talks by itself: every frame that is seen came from the guest.
            Path(f"/proc/sys/net/ipv6/conf/out-{name}/disable_ipv6").write_text("1")
            _run("ip", "link", "set", f"out-{name}", "arp", "off", "up")
        self._start_capture()
        self._terminals = {name: os.openpty() for name in TERMINALS}
        for _, slave in self._terminals.values():
            tty.setraw(slave)
            # As udev does for a serial port: root and Debian's group dialout.
            os.fchown(slave, 0, 20)
            os.fchmod(slave, 0o660)
        self._said = dict.fromkeys(TERMINALS, b"")
        self._start()
        return self

    def _start_capture(self) -> None:
        # A pair of its own carries the canaries: what arrives on it has crossed a link as well.
        _run("ip", "link", "add", "out-canary", "type", "veth", "peer", "name", "in-canary")
        for name in ("out-canary", "in-canary"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            _run("ip", "link", "set", name, "arp", "off", "up")
        self.capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self.capture.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.capture.settimeout(10 * FACTOR)
        self._canary = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._canary.bind(("in-canary", 0))
        self._canaries = 0
        self._frames: list[bytes] = []
        assert self.frames() == []

    def _enter_network(self) -> None:
        # This process stands outside of the machine: a network namespace of its own.
        libc = ctypes.CDLL(None, use_errno=True)
        self._old = os.open("/proc/self/ns/net", os.O_RDONLY)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")

    def _write_files(self) -> None:
        upper = self.work / "upper"
        doors = _DOORS if self.machine.ours and not self.machine.container else {}
        files: dict[str, str | bytes | None] = {**_IMAGE, **doors, **self.machine.files}
        for unit in self.machine.masked:
            path = upper / "etc/systemd/system" / unit
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to("/dev/null")
        for name, content in files.items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                # A whiteout of overlayfs: the lower file is gone.
                os.mknod(path, 0o600 | 0o020000, os.makedev(0, 0))
                continue
            data = content.encode() if isinstance(content, str) else content
            path.write_bytes(data)
            path.chmod(0o755 if data.startswith(b"#!") else 0o600 if "nmconn" in name else 0o644)
        if doors:
            shutil.copy(
                base(self.machine.suite, self.machine.extra) / "usr/bin/readlink",
                upper / "usr/bin/readlink.real",
            )
        self._write_firmware()

    def _write_firmware(self) -> None:
        if self.machine.tables is not None:
            tables = self.work / "firmware/dmi/tables"
            tables.mkdir(parents=True)
            for name, content in zip(
                ("smbios_entry_point", "DMI"), self.machine.tables, strict=True
            ):
                (tables / name).write_bytes(content)
            if self.machine.memory:
                (self.work / "mem").write_bytes(memory(*self.machine.tables))
        dmi = self.work / "dmi/id"
        dmi.mkdir(parents=True)
        for name, value in self.machine.dmi.items():
            (dmi / name).write_bytes(value + b"\n")

    def _start(self) -> None:
        lower = [str(layer(self.machine.suite))] if self.machine.ours else []
        lower.append(str(base(self.machine.suite, self.machine.extra)))
        # The links must be in the namespace before its sysfs is arranged: the set-up waits.
        wait = 'read -r _ && exec sh -c "$0" setup "$@"'
        argv = [
            "unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork",
            "--kill-child", "sh", "-c", wait, _SETUP, str(self.work), ":".join(lower),
            " ".join(self.machine.links),
            " ".join(f"{name}={os.ttyname(slave)}" for name, (_, slave) in self._terminals.items()),
            self.machine.consoles, *self.machine.arguments,
        ]  # fmt: skip
        # A control group of its own: two systemds in one would end each other's processes.
        self.cgroup = _cgroup2() / f"tails-profiles-{os.getpid()}-{self.work.name}"
        self.cgroup.mkdir()
        enter = f'echo $$ > {shlex.quote(str(self.cgroup))}/cgroup.procs && exec "$@"'
        argv = ["sh", "-c", enter, "enter", *argv]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=(self.work / "log").open("wb"),
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.pid = self._first_child()
        for name in self.machine.links:
            _run("ip", "link", "set", name, "netns", str(self.pid))
        assert self.process.stdin
        self.process.stdin.write(b"go\n")
        self.process.stdin.close()
        self._wait_for_systemd()

    def _wait_for_systemd(self) -> None:
        # Until then the process is the set-up, in another root directory.
        while self.process.poll() is None:
            if Path(f"/proc/{self.pid}/exe").readlink().name == "systemd":
                return
            time.sleep(0.01)
        raise AssertionError((self.work / "log").read_text())

    def _first_child(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while self.process.poll() is None:
            words = children.read_text().split()
            if words:
                return int(words[0])
        raise AssertionError((self.work / "log").read_text())

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        self._remove_cgroups()
        self.capture.close()
        self._canary.close()
        for pair in self._terminals.values():
            for descriptor in pair:
                os.close(descriptor)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self._old, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(self._old)

    def _remove_cgroups(self) -> None:
        # Its processes are gone or going with PID 1; a group can be removed once it is empty.
        deadline = time.monotonic() + 10 * FACTOR
        for directory, _, _ in os.walk(self.cgroup, topdown=False):
            while True:
                try:
                    Path(directory).rmdir()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)

    def execute(self, command: str, timeout: float = 60) -> tuple[int, str]:
        """Run a shell command inside; returns its status and what it printed."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--all", "--root", "--wdns=/",
             "sh", "-c", command],
            capture_output=True, text=True, errors="replace", check=False,
            timeout=timeout * FACTOR, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def succeed(self, command: str) -> str:
        """Run a shell command inside; fails the test unless it exits with 0."""
        status, output = self.execute(command)
        assert status == 0, f"{command}: {status}\n{output}\n{self.journal()}"
        return output

    def fail(self, command: str) -> str:
        """Run a shell command inside; fails the test if it exits with 0."""
        status, output = self.execute(command)
        assert status != 0, f"{command} succeeded\n{output}"
        return output

    def wait_until_settled(self) -> str:
        """Wait until systemd has no job left; returns its state, or that it has stopped.

        A gateway that waits for a lease, and what waits for that, has settled too.
        """
        # Not is-system-running --wait: called this early, it can miss the one signal it waits for.
        deadline = time.monotonic() + 15 * FACTOR
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return "stopped"
            status, jobs = self.execute("timeout 5 systemctl list-jobs --no-legend --no-pager")
            running = [line.split()[1] for line in jobs.splitlines() if " running" in line]
            if status == 0 and (not jobs.strip() or running == [LEASE]):
                return self.execute("timeout 5 systemctl is-system-running")[1].strip()
            time.sleep(0.25)
        raise AssertionError(f"jobs are still running\n{self.journal()}")

    def is_active(self, unit: str) -> bool:
        """Whether a unit is active."""
        return self.execute(f"systemctl is-active --quiet {shlex.quote(unit)}")[0] == 0

    def links_up(self) -> list[str]:
        """The names of the links that are up, lo apart."""
        listed = json.loads(self.succeed("ip -json link show"))
        return [
            entry["ifname"]
            for entry in listed
            if entry["ifname"] != "lo" and "UP" in entry["flags"]
        ]

    def tables(self) -> set[str]:
        """The nft tables, as "FAMILY NAME"."""
        text = self.succeed("nft list tables")
        return {line.removeprefix("table ") for line in text.splitlines()}

    def frames(self) -> list[bytes]:
        """Every frame that left the machine so far.

        A canary of its own must come through after them, and no frame may have been lost.
        """
        self._canaries += 1
        canary = _CANARY + self._canaries.to_bytes(46, "big")
        self._canary.send(canary)
        while True:
            # No canary ends in TimeoutError.
            frame, address = self.capture.recvfrom(65536)
            # A link that is gone with its machine has no name any more: that is one of these too.
            if address[2] == _OUTGOING or address[0] == "in-canary":
                continue
            if address[0] != "out-canary":
                self._frames.append(frame)
            elif frame == canary:
                break
        statistics = self.capture.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        assert struct.unpack("II", statistics)[1] == 0, "the capture lost frames"
        return list(self._frames)

    def said(self, terminal: str) -> str:
        """What was written to a terminal so far."""
        master = self._terminals[terminal][0]
        os.set_blocking(master, False)
        with contextlib.suppress(BlockingIOError):
            while block := os.read(master, 65536):
                self._said[terminal] += block
        return self._said[terminal].decode(errors="replace")

    def console(self) -> str:
        """What was written to the console."""
        return (self.work / "console").read_text(errors="replace")

    def journal(self) -> str:
        """The journal of this boot, for the message of a failing test."""
        _, text = self.execute("journalctl --no-pager -o short-monotonic -b 2>&1 | tail -80")
        log = (self.work / "log").read_text(errors="replace")
        return textwrap.indent(text + log, "    | ")


def _cgroup2() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise AssertionError("no cgroup2 file system is mounted")


def _run(*argv: str) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{shlex.join(argv)}: {done.stderr}"
