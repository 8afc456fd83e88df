# SPDX-License-Identifier: GPL-3.0-or-later
"""The choice, its file, and what is to happen at Start. No GTK, no greeter.

``tails.isolation`` is in the greeter's own format: one ``NAME=value`` a line, mode 0600, values
shell-quoted, booleans ``true`` and ``false``. Its grammar is closed: each key at most once, no
other key, ``TAILS_ISOLATION_ENABLED`` required, every value one of a few words, at most 4096
bytes. A file outside the grammar counts as damaged and the defaults hold.
"""

import contextlib
import os
import shlex
import stat
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from greeter_plugin.capability import I2p, Verdict

FILE_NAME = "tails.isolation"
MAX_BYTES = 4096


class Folders(Enum):
    """What the isolated session gets of the persistent folders."""

    READ_WRITE = "read-write"
    READ_ONLY = "read-only"
    NONE = "none"


class KeptFiles(Enum):
    """Whether an isolated session could keep files here, and whether the user was warned."""

    NONE = "none"
    KEPT = "kept"
    WARNED = "warned"


class Choice(NamedTuple):
    """What the user chose; the defaults are those of a greeter without our file."""

    enabled: bool = False
    i2p: bool = False
    folders: Folders = Folders.READ_WRITE
    kept_files: KeptFiles = KeptFiles.NONE


class NotStoredError(Exception):
    """There is no file."""


class DamagedFileError(Exception):
    """The file is outside the grammar; the message says where, and never what it holds."""


class Problem(Enum):
    """What the user must be told of the file."""

    DAMAGED = "damaged"
    NOT_SAVED = "not-saved"


class Start(Enum):
    """What Start has to do."""

    AS_ALWAYS = "as-always"
    WARN_FIRST = "warn-first"
    ISOLATED = "isolated"


_BOOLEANS = {"true": True, "false": False}
_GRAMMAR: dict[str, tuple[str, dict[str, object]]] = {
    "TAILS_ISOLATION_ENABLED": ("enabled", dict(_BOOLEANS)),
    "TAILS_ISOLATION_I2P_ENABLED": ("i2p", dict(_BOOLEANS)),
    "TAILS_ISOLATION_FOLDERS": ("folders", {item.value: item for item in Folders}),
    "TAILS_ISOLATION_KEPT_FILES": ("kept_files", {item.value: item for item in KeptFiles}),
}
_REQUIRED = "TAILS_ISOLATION_ENABLED"


def parse(data: bytes) -> Choice:
    """The choice that a file holds. Raises DamagedFileError, and nothing else."""
    if len(data) > MAX_BYTES:
        raise DamagedFileError(f"more than {MAX_BYTES} bytes")
    try:
        lines = data.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError as err:
        raise DamagedFileError("not ASCII") from err
    found: dict[str, object] = {}
    names = set()
    for number, line in enumerate(lines, 1):
        name, separator, quoted = line.partition("=")
        if not separator or name not in _GRAMMAR:
            raise DamagedFileError(f"line {number} is no setting of isolation")
        if name in names:
            raise DamagedFileError(f"line {number} repeats {name}")
        names.add(name)
        field, words = _GRAMMAR[name]
        word = _unquote(quoted)
        if word not in words:
            raise DamagedFileError(f"line {number} has a value that {name} cannot have")
        found[field] = words[word]
    if _REQUIRED not in names:
        raise DamagedFileError(f"{_REQUIRED} is missing")
    return Choice()._replace(**found)  # type: ignore[arg-type]  # the grammar gives each its type


def _unquote(quoted: str) -> str | None:
    try:
        words = shlex.split(quoted)
    except ValueError:
        return None
    return words[0] if len(words) == 1 else None


def serialize(choice: Choice) -> bytes:
    """The one file of this choice; ``parse`` gives the choice back."""
    values = {
        "TAILS_ISOLATION_ENABLED": str(choice.enabled).lower(),
        "TAILS_ISOLATION_I2P_ENABLED": str(choice.i2p).lower(),
        "TAILS_ISOLATION_FOLDERS": choice.folders.value,
        "TAILS_ISOLATION_KEPT_FILES": choice.kept_files.value,
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()).encode()


def read(path: Path) -> Choice:
    """Read the file: NotStoredError where there is none, DamagedFileError where it is no use."""
    try:
        # Neither a link nor a pipe is followed: the directory may be an older session's.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise NotStoredError(str(path)) from err
    except OSError as err:
        raise DamagedFileError(err.strerror or "cannot be opened") from err
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedFileError("not a regular file")
        return parse(os.read(descriptor, MAX_BYTES + 1))
    except OSError as err:
        raise DamagedFileError(err.strerror or "cannot be read") from err
    finally:
        os.close(descriptor)


def write(path: Path, choice: Choice) -> None:
    """Replace the file, whole or not at all, mode 0600 from its first moment. Raises OSError."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, no path
            file.write(serialize(choice))
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


class Isolation:
    """The setting as the greeter uses it: one choice, one file, one verdict on the machine.

    A choice that the user made in this greeter is stronger than a stored one: unlocking the
    Persistent Storage must not quietly take isolation away.
    """

    def __init__(self, path: Path, verdict: Verdict) -> None:
        self.path = path
        self.verdict = verdict
        self.choice = Choice()
        self.problem: Problem | None = None
        self.touched = False
        self._damage_seen = False
        #: Whether there is a file to keep in step with the choice.
        self._has_file = False

    @property
    def effective(self) -> Choice:
        """What would happen at Start: the choice, without what this machine cannot do."""
        return self.choice._replace(
            enabled=self.choice.enabled and self.verdict.possible,
            i2p=self.choice.i2p and self.verdict.i2p is I2p.POSSIBLE,
        )

    def choose(self, choice: Choice) -> None:
        """Take over what the user chose; what is known about kept files stays."""
        if not self.verdict.possible:
            return
        self.touched = True
        self.choice = choice._replace(kept_files=self.choice.kept_files)

    def load(self) -> bool:
        """Take over the stored choice; whether the user has to see something new.

        Raises NotStoredError.
        """
        try:
            stored = read(self.path)
            self._has_file = True
        except DamagedFileError:
            self._has_file = True
            if self._damage_seen:
                return False
            self._damage_seen = True
            self.problem = Problem.DAMAGED
            self.choice = self.choice if self.touched else Choice()
            return True
        before = self.choice
        if self.touched:
            self.choice = before._replace(kept_files=stored.kept_files)
            self.store()
            return False
        self.choice = stored
        return stored._replace(kept_files=before.kept_files) != before

    def store(self) -> None:
        """Write the choice, if there is anything of the user's to write.

        Nothing is written before the user has chosen something, nor for a tick that never was:
        the greeter's directory stays as it would be without us, a damaged file stays for whoever
        wants to see it, and a choice made for another machine survives this one.
        """
        if not self.touched:
            return
        if self.effective.enabled or self._has_file:
            self._write(self.effective)
        else:
            self.problem = None

    def plan_start(self) -> Start:
        """What Start has to do, as things stand."""
        if self.effective.enabled:
            return Start.ISOLATED
        if self.choice.kept_files is KeptFiles.KEPT:
            return Start.WARN_FIRST
        return Start.AS_ALWAYS

    def start_isolated(self) -> bool:
        """Record that an isolated session begins; False when its settings cannot be stored."""
        if self.choice.folders is Folders.READ_WRITE and self.choice.kept_files is KeptFiles.NONE:
            self.choice = self.choice._replace(kept_files=KeptFiles.KEPT)
        return self._write(self.effective)

    def start_warned(self) -> None:
        """Record that the user has been warned of kept files."""
        self.choice = self.choice._replace(kept_files=KeptFiles.WARNED)
        # Not the effective choice: on this machine it may be less than the stored one.
        self._write(self.choice)

    def _write(self, choice: Choice) -> bool:
        try:
            write(self.path, choice)
        except OSError:
            self.problem = Problem.NOT_SAVED
            return False
        self._has_file = True
        self.problem = None
        return True
