# SPDX-License-Identifier: GPL-3.0-or-later
"""One private VirtualBox: namespaces of its own over the kept root directory, gone with its end.

Its processes, its network and its files are nobody else's: VBoxSVC, which VBoxManage starts by
itself, ends with the process namespace, and what was written was in memory.

>>> with VirtualBox() as box:
...     box.manage("createvm", "--name", "a", "--uuid", uuid, "--ostype", "Debian_64", "--register")
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from tests.virtualbox import root

TOP = Path(__file__).parents[2]
FACTOR = float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))
#: Seconds for one call. The first one starts VBoxSVC.
CALL = 60 * FACTOR

#: The program itself. Debian's ``/usr/bin/VBoxManage`` is a script before it, which prints warnings
#: to standard output where there is no kernel driver.
MANAGE = "/usr/lib/virtualbox/VBoxManage"
#: Where one instance keeps everything, inside.
HOME = Path("/home/vbox")
MACHINES = HOME / "machines"
ENVIRONMENT: Mapping[str, str] = {
    "HOME": str(HOME),
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # Two instances of one user would share a VBoxSVC otherwise.
    "VBOX_IPC_SOCKETID": "test",
    "VBOX_USER_HOME": str(HOME / "config"),
    "USER": "root",
}

#: Its first process: sets everything up, then reaps whoever is left without a parent, until its
#: standard input ends. Then the kernel ends all the others.
_FIRST = """\
set -eu
read -r pid _ </proc/self/stat
tree=$1 work=$2 size=$3
shift 3
mount -t tmpfs -o "mode=755,size=$size" tmpfs "$work"
mkdir "$work/upper" "$work/work" "$work/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$work/upper,workdir=$work/work" overlay "$work/root"
cd "$work/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
while read -r name major minor; do
    mknod "dev/$name" c "$major" "$minor"
    chmod 666 "dev/$name"
done <<'END'
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
for path; do
    mkdir -p ".$path"
    mount --bind "$path" ".$path"
done
ip link set lo up
mkdir -p home/vbox/machines
pivot_root . .
umount -l .
cd /
echo "$pid"
read -r _ || :
"""


class VirtualBox:
    """``binds`` are directories of this machine that are seen inside, at the same path.

    ``size`` is the room for all that is written, as tmpfs(5) takes it.
    """

    def __init__(self, binds: Sequence[Path] = (), size: str = "1g") -> None:
        self._binds = binds
        self._size = size

    def __enter__(self) -> Self:
        self._work = TemporaryDirectory(prefix="tails-profiles-vbox-", dir="/var/tmp")
        self._first = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--ipc", "--propagation", "private", "--fork",
             "bash", "-c", _FIRST, "first", str(root.tree()), self._work.name, self._size,
             *map(str, self._binds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._first.stdout is not None
        try:
            line = self._first.stdout.readline()
            assert line, "the namespaces could not be set up"
            self.pid = int(line)
            self.manage("setproperty", "machinefolder", str(MACHINES))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._first.stdin is not None
        self._first.stdin.close()
        self._first.wait(CALL)
        self._work.cleanup()

    @property
    def enter(self) -> tuple[str, ...]:
        """What stands before a command so that it runs inside, as root."""
        return ("nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--root",
                "--wdns=/", "--")  # fmt: skip

    def path(self, inside: Path | str) -> Path:
        """A file inside, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root") / Path(inside).relative_to("/")

    def run(
        self, *argv: str, stdin: str = "", timeout: float = CALL, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        """A command inside, to its end; ``environment`` is added to the instance's own."""
        return subprocess.run(
            [*self.enter, *argv], input=stdin, capture_output=True, text=True, timeout=timeout,
            env={**ENVIRONMENT, **environment}, check=False,
        )  # fmt: skip

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """VBoxManage, whatever becomes of it."""
        return self.run(MANAGE, *words)

    def manage(self, *words: str) -> str:
        """VBoxManage; what it printed. Fails where its exit status is not 0."""
        done = self.call(*words)
        assert done.returncode == 0, f"VBoxManage {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    def processes(self, name: str = "") -> dict[int, str]:
        """The processes inside whose command line holds ``name``, by this machine's numbers."""
        here = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    same = (entry / "ns/pid").readlink() == here
                    words = (
                        (entry / "cmdline")
                        .read_bytes()
                        .replace(b"\0", b" ")
                        .decode(errors="replace")
                    )
                except OSError:
                    continue  # it ended meanwhile
                if same and name in words and int(entry.name) != self.pid:
                    found[int(entry.name)] = words
        return found
