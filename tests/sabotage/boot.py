# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot a real systemd as PID 1 of fresh namespaces, with fake DMI and with captured links.

What is real: systemd and its units, our packages as they ship, nft, the kernel's links and rules.
What stands in, and is all that does:

- DMI: an overlay over ``/sys/class`` with the fields' files;
- hardware: veth pairs, given a ``device`` by an overlay over their sysfs directory, and an entry
  in udev's database (no udevd runs: sysfs is read-only here);
- systemd knows that it is in a container; the units' condition on that is reset by drop-ins, and
  the generator is started through a wrapper that hides that one variable.
"""

import contextlib
import ctypes
import json
import os
import shlex
import signal
import socket
import subprocess
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.sabotage.root import base, layer

FACTOR = float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
LEASE = "tails-profiles-lease.service"
OUR_UNITS = ("lockdown", "firewall", "links")
TOR_LINKS = {"eth0": "00:55:44:33:22:21", "eth1": "00:55:44:33:22:11"}
I2P_LINKS = {"eth0": "00:55:44:33:22:22", "eth1": "00:55:44:33:22:12"}
APP_LINKS = {"eth0": "00:11:22:33:44:55"}

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 0x0003


@dataclass(frozen=True)
class Machine:
    """One machine to boot. ``files`` are written into the root, ``None`` deletes."""

    dmi: Mapping[str, bytes] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | None] = field(default_factory=dict)
    masked: Sequence[str] = ()
    arguments: Sequence[str] = ()
    ours: bool = True


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

mkdir -p "$work/dmi/work"
mount -t overlay overlay "$root/sys/class" \
    -o "lowerdir=$root/sys/class,upperdir=$work/dmi/upper,workdir=$work/dmi/work"
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
shift 3
exec env -i container=lxc PATH=/usr/sbin:/usr/bin chroot "$root" /usr/lib/systemd/systemd "$@"
"""

# Test-only: see the module's docstring.
_DOORS = {
    **{
        f"etc/systemd/system/tails-profiles-{unit}.service.d/lab.conf": (
            "[Unit]\nConditionVirtualization=\n[Service]\nEnvironment=SYSTEMD_DEVICE_VERIFY_SYSFS=0\n"
        )
        for unit in OUR_UNITS
    },
    "etc/systemd/system-generators/tails-profiles-generator": (
        "#!/bin/sh\nunset SYSTEMD_VIRTUALIZATION\n"
        'exec /usr/lib/systemd/system-generators/tails-profiles-generator "$@"\n'
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
        self.capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._start()
        return self

    def _enter_network(self) -> None:
        # This process stands outside of the machine: a network namespace of its own.
        libc = ctypes.CDLL(None, use_errno=True)
        self._old = os.open("/proc/self/ns/net", os.O_RDONLY)
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")

    def _write_files(self) -> None:
        upper = self.work / "upper"
        files: dict[str, str | None] = {**_IMAGE, **(_DOORS if self.machine.ours else {})}
        files.update(self.machine.files)
        for unit in self.machine.masked:
            path = upper / "etc/systemd/system" / unit
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to("/dev/null")
        for name, text in files.items():
            path = upper / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                # A whiteout of overlayfs: the lower file is gone.
                os.mknod(path, 0o600 | 0o020000, os.makedev(0, 0))
                continue
            path.write_text(text)
            path.chmod(0o755 if text.startswith("#!") else 0o600 if "nmconn" in name else 0o644)
        dmi = self.work / "dmi/upper/dmi/id"
        dmi.mkdir(parents=True)
        for name, value in self.machine.dmi.items():
            (dmi / name).write_bytes(value + b"\n")

    def _start(self) -> None:
        lower = [str(layer())] if self.machine.ours else []
        lower.append(str(base()))
        # The links must be in the namespace before its sysfs is arranged: the set-up waits.
        wait = 'read -r _ && exec sh -c "$0" setup "$@"'
        argv = [
            "unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork",
            "--kill-child", "sh", "-c", wait, _SETUP, str(self.work), ":".join(lower),
            " ".join(self.machine.links), *self.machine.arguments,
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
            time.sleep(0.1)
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
        """Every frame that left the machine so far."""
        self.capture.setblocking(False)
        seen = []
        while True:
            try:
                frame, address = self.capture.recvfrom(65536)
            except BlockingIOError:
                return seen
            # Packets that this side sent would be type 4.
            if address[0].startswith("out-") and address[2] != 4:
                seen.append(frame)

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
