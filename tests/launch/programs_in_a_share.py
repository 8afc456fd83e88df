# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside of a guest, from its share: real programs on files of a share.

Prints a JSON object: what each check found, or why it failed. The argument is which start of the
guest this is: the second one looks at what the first one left.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

HOME = Path("/share")
SSH, GPG = HOME / ".ssh", HOME / ".gnupg"
USER = 1000
ENVIRONMENT = {
    "HOME": str(HOME),
    "GNUPGHOME": str(GPG),
    "PATH": "/usr/bin:/usr/sbin",
    "LC_ALL": "C",
}


def run(*words: str, stdin: str = "", ok: bool = True, **extra: str) -> str:
    """A command as it was meant to end; what it printed."""
    done = subprocess.run(
        words, input=stdin, capture_output=True, text=True, check=False, timeout=300,
        env=ENVIRONMENT | extra,
    )  # fmt: skip
    said = done.stdout + done.stderr
    if (done.returncode == 0) != ok:
        raise AssertionError(f"{words[0]}: {done.returncode} {said}")
    return said


def in_child(call: Callable[[], bool]) -> bool:
    """Whether another process finds that ``call`` is true."""
    child = os.fork()
    if child == 0:
        answer = False
        with contextlib.suppress(OSError):
            answer = call()
        os._exit(0 if answer else 1)
    return os.waitpid(child, 0)[1] == 0


# ---- SSHClient


def ssh_keys() -> None:
    """A key has mode 600, is used, and is refused once others may read it."""
    SSH.mkdir(mode=0o700)
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(SSH / "id"))
    assert stat.S_IMODE((SSH / "id").stat().st_mode) == 0o600
    assert run("ssh-keygen", "-y", "-f", str(SSH / "id")).startswith("ssh-ed25519 ")
    (SSH / "id").chmod(0o644)
    assert "too open" in run("ssh-keygen", "-y", "-f", str(SSH / "id"), ok=False)
    (SSH / "id").chmod(0o600)


def ssh_config() -> None:
    """The client reads its configuration, and refuses one that others may write."""
    (SSH / "config").write_text("Host somewhere\n  Port 2222\n")
    (SSH / "config").chmod(0o600)
    assert "port 2222" in run("ssh", "-G", "somewhere")
    (SSH / "config").chmod(0o622)
    assert "Bad owner or permissions" in run("ssh", "-G", "somewhere", ok=False)
    (SSH / "config").chmod(0o600)


def ssh_known_hosts() -> None:
    """The list of known hosts is hashed in place: hard links and renames."""
    key = (SSH / "id.pub").read_text().split()
    (SSH / "known_hosts").write_text(f"example.org {key[0]} {key[1]}\n")
    run("ssh-keygen", "-q", "-H", "-f", str(SSH / "known_hosts"))
    assert (SSH / "known_hosts").read_text().startswith("|1|")
    assert "found" in run("ssh-keygen", "-F", "example.org", "-f", str(SSH / "known_hosts"))
    run("ssh-keygen", "-q", "-R", "example.org", "-f", str(SSH / "known_hosts"))
    assert (SSH / "known_hosts").read_text() == ""


def ssh_agent() -> None:
    """The agent listens on a socket in the share and holds a key of it."""
    path = str(SSH / "agent")
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", path], env=ENVIRONMENT, stdout=subprocess.DEVNULL
    )
    try:
        while not Path(path).exists():
            assert agent.poll() is None
            time.sleep(0.05)
        run("ssh-add", str(SSH / "id"), SSH_AUTH_SOCK=path)
        assert "ED25519" in run("ssh-add", "-l", SSH_AUTH_SOCK=path)
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(60)


# ---- GnuPG


def gpg_keys() -> None:
    """A key is made by an agent whose socket is in the share, and used both ways."""
    GPG.mkdir(mode=0o700)
    new = ("--batch", "--passphrase", "", "--quick-generate-key")
    said = run("gpg", *new, "a@example.org", "default", "default", "never")
    assert "unsafe" not in said
    sockets = [path.name for path in GPG.iterdir() if path.is_socket()]
    assert "S.gpg-agent" in sockets, sockets
    secret = run("gpg", "--batch", "--trust-model", "always", "-a", "-r", "a@example.org", "-e",
                 stdin="words")  # fmt: skip
    assert "words" in run("gpg", "--batch", "-d", stdin=secret[secret.index("-----BEGIN") :])


def gpg_locks() -> None:
    """Eight writers of one ring at once: its locks are hard links."""
    exported = []
    for number in range(8):
        where = HOME / f"other{number}"
        where.mkdir(mode=0o700)
        run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", f"{number}@example.org",
            "ed25519", "sign", "never", GNUPGHOME=str(where))  # fmt: skip
        exported.append(run("gpg", "-a", "--export", GNUPGHOME=str(where)))
        run("gpgconf", "--kill", "all", GNUPGHOME=str(where))
    importers = [
        subprocess.Popen(["gpg", "--batch", "--import"], stdin=subprocess.PIPE, env=ENVIRONMENT,
                         stderr=subprocess.PIPE)
        for _ in exported
    ]  # fmt: skip
    for importer, text in zip(importers, exported, strict=True):
        assert importer.stdin is not None
        importer.stdin.write(text.encode())
        importer.stdin.close()
    for importer in importers:
        assert importer.stderr is not None
        said = importer.stderr.read().decode(errors="replace")
        assert importer.wait(300) == 0, said
    listed = run("gpg", "--list-keys", "--with-colons")
    assert listed.count("\npub:") == 9, listed
    run("gpgconf", "--kill", "all")


# ---- SQLite, as in Thunderbird and the browser

ROWS = 100


def _rows(name: str) -> bool:
    base = sqlite3.connect(HOME / name, timeout=300, isolation_level=None)
    for number in range(ROWS):
        base.execute("INSERT INTO t VALUES (?, ?)", (os.getpid(), number))
    return True


def _sqlite(name: str, mode: str) -> None:
    # Before there are others: the mode is not changed while somebody waits.
    base = sqlite3.connect(HOME / name, timeout=300)
    assert base.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] == mode
    base.execute("CREATE TABLE t (pid, number)")
    base.commit()
    base.close()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            done = False
            try:
                done = _rows(name)
            finally:
                os._exit(0 if done else 1)
        children.append(child)
    # One that looks while they write.
    base = sqlite3.connect(HOME / name, timeout=300)
    base.execute("SELECT count(*) FROM t").fetchone()
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert base.execute("SELECT count(*) FROM t").fetchone() == (3 * ROWS,)
    assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    if mode == "wal":
        # Shared memory in the share: it is mapped.
        assert (HOME / f"{name}-shm").stat().st_size > 0
    base.close()


def sqlite_wal() -> None:
    """Three writers and a reader with a write-ahead log."""
    _sqlite("wal.sqlite", "wal")


def sqlite_journal() -> None:
    """The same with a rollback journal."""
    _sqlite("journal.sqlite", "delete")


# ---- what other programs ask of a directory


def record_locks() -> None:
    """A lock by fcntl(2) of one process is seen by another, and goes with it."""
    path = HOME / "lock"
    path.touch()

    def is_free() -> bool:
        with path.open("r+") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    with path.open("r+") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        assert not in_child(is_free)
    assert in_child(is_free)


def file_locks() -> None:
    """The same by flock(2)."""
    path = HOME / "flock"
    path.touch()

    def is_free() -> bool:
        with path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True

    with path.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not in_child(is_free)
    assert in_child(is_free)


def hard_links() -> None:
    """Two names of one file."""
    (HOME / "one").write_text("words")
    (HOME / "two").hardlink_to(HOME / "one")
    assert (HOME / "two").stat().st_nlink == 2
    (HOME / "one").unlink()
    assert (HOME / "two").read_text() == "words"


def symbolic_links() -> None:
    """Links as Thunderbird's and Pidgin's locks are, read back and followed in the guest."""
    (HOME / "lock-link").symlink_to("127.0.0.1:+4711")
    assert (HOME / "lock-link").readlink() == Path("127.0.0.1:+4711")
    (HOME / "target").write_text("words")
    (HOME / "good-link").symlink_to("target")
    assert (HOME / "good-link").read_text() == "words"
    (HOME / "lock-link").unlink()


def sockets() -> None:
    """A service in the share is called."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(HOME / "socket"))
        server.listen()
        client.connect(str(HOME / "socket"))
        client.send(b"x")
        assert server.accept()[0].recv(1) == b"x"


def pipes() -> None:
    """A pipe with a name."""
    os.mkfifo(HOME / "pipe")
    assert in_child(lambda: _write_later(HOME / "pipe"))


def _write_later(path: Path) -> bool:
    writer = os.fork()
    if writer == 0:
        path.write_text("words")
        os._exit(0)
    text = path.read_text()
    os.waitpid(writer, 0)
    return text == "words"


def replaced_while_open() -> None:
    """A file is replaced while somebody reads it, who still has the old one."""
    (HOME / "old").write_text("old")
    (HOME / "new").write_text("new")
    with (HOME / "old").open() as reader:
        (HOME / "new").rename(HOME / "old")
        assert reader.read() == "old"
    assert (HOME / "old").read_text() == "new"


def unlinked_while_open() -> None:
    """A file without a name is written, measured and read, as temporary files are."""
    with (HOME / "temporary").open("w+") as file:
        (HOME / "temporary").unlink()
        file.write("words")
        file.flush()
        assert os.fstat(file.fileno()).st_size == 5
        file.seek(0)
        assert file.read() == "words"


def odd_names() -> None:
    """Names in UTF-8, with blanks, colons, backslashes and line ends."""
    for name in ("Straße", "日本語", "a b", "a:b", "a\\b", "a\nb", "-", "." * 3, "n" * 255):
        (HOME / name).write_text(name)
        assert (HOME / name).read_text() == name
        (HOME / name).unlink()


def programs() -> None:
    """A program of the share runs, and not before it may."""
    path = HOME / "program.sh"
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o600)
    try:
        subprocess.run([path], check=True, capture_output=True)
    except PermissionError:
        pass
    else:
        raise AssertionError("it ran")
    path.chmod(0o700)
    assert run(str(path)) == "ran\n"


def many_files() -> None:
    """A directory of a thousand files is listed whole, and removed."""
    where = HOME / "many"
    where.mkdir()
    for number in range(1000):
        (where / str(number)).touch()
    assert len(list(where.iterdir())) == 1000
    for path in where.iterdir():
        path.unlink()
    where.rmdir()


def archives() -> None:
    """tar brings modes, times and links back."""
    tree = HOME / "tree"
    tree.mkdir()
    (tree / "file").write_text("words")
    (tree / "file").chmod(0o751)
    os.utime(tree / "file", (1, 1))
    (tree / "link").symlink_to("file")
    os.link(tree / "file", tree / "again")
    run("tar", "-C", str(HOME), "-cf", str(HOME / "tree.tar"), "tree")
    (HOME / "out").mkdir()
    run("tar", "-C", str(HOME / "out"), "-xpf", str(HOME / "tree.tar"))
    found = (HOME / "out/tree/file").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime, found.st_nlink) == (0o751, 1, 2)
    assert (HOME / "out/tree/link").readlink() == Path("file")


FIRST = (
    ssh_keys, ssh_config, ssh_known_hosts, ssh_agent, gpg_keys, gpg_locks, sqlite_wal,
    sqlite_journal, record_locks, file_locks, hard_links, symbolic_links, sockets, pipes,
    replaced_while_open, unlinked_while_open, odd_names, programs, many_files, archives,
)  # fmt: skip


# ---- the next start


def next_ssh() -> None:
    """The key is still one that ssh takes."""
    assert stat.S_IMODE((SSH / "id").stat().st_mode) == 0o600
    assert run("ssh-keygen", "-y", "-f", str(SSH / "id")).startswith("ssh-ed25519 ")


def next_gpg() -> None:
    """All keys, and the secret one signs."""
    assert run("gpg", "--list-keys", "--with-colons").count("\npub:") == 9
    assert "SIGNATURE" in run("gpg", "--batch", "-a", "--detach-sign", stdin="words")
    run("gpgconf", "--kill", "all")


def next_sqlite() -> None:
    """Both databases, whole."""
    for name in ("wal.sqlite", "journal.sqlite"):
        base = sqlite3.connect(HOME / name)
        assert base.execute("SELECT count(*) FROM t").fetchone() == (3 * ROWS,)
        assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def next_tree() -> None:
    """Links, modes and programs."""
    assert (HOME / "good-link").read_text() == "words"
    assert stat.S_IMODE((HOME / "out/tree/file").stat().st_mode) == 0o751
    assert run(str(HOME / "program.sh")) == "ran\n"


SECOND = (next_ssh, next_gpg, next_sqlite, next_tree)
#: "without-maps": for a share on which nothing can be mapped. "without-gpg": where there is none.
STARTS = {
    "first": FIRST,
    "second": SECOND,
    "without-maps": (sqlite_wal, record_locks),
    "without-gpg": tuple(check for check in FIRST if check not in {gpg_keys, gpg_locks}),
}


def main(which: str) -> None:
    """Run all checks of one start as the live user."""
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    found = {}
    for check in STARTS[which]:
        try:
            check()
            found[check.__name__] = "works"
        except (AssertionError, OSError, sqlite3.Error, subprocess.TimeoutExpired) as err:
            found[check.__name__] = f"{type(err).__name__}: {err}"
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
