# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command. The only use of ``subprocess`` in the package."""

import logging
import os
import subprocess
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tails_profiles.command import Command
from tails_profiles.errors import CommandError, CommandNotFoundError

log = logging.getLogger(__name__)

#: Seconds; nothing we run at boot takes a tenth of it on the slowest machine we measured.
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def run(command: Command, *, ok: Collection[int] = (0,), timeout: float = TIMEOUT) -> Completed:
    """Run ``command`` to its end, without a shell, in the C locale, and return what it printed.

    ``timeout`` is in seconds. Raises CommandNotFoundError when the program does not exist, and
    CommandError when the status is not in ``ok`` or the time is over.
    """
    log.debug("running %s", command.display())
    try:
        done = subprocess.run(
            command.argv,
            input=command.stdin if command.stdin is not None else "",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as err:
        raise CommandNotFoundError(command.argv[0]) from err
    except OSError as err:
        raise CommandError(command.display(), 126, str(err)) from err
    except subprocess.TimeoutExpired as err:
        raise CommandError(command.display(), None, "") from err
    if done.returncode not in ok:
        raise CommandError(command.display(), done.returncode, done.stderr)
    return Completed(done.returncode, done.stdout, done.stderr)


def read(command: Command, *, limit: int, ok: Collection[int] = (0,)) -> Completed:
    """What a command prints, at most ``limit`` bytes, in the C locale with UTF-8.

    For answers that somebody else's data are in. Raises CommandNotFoundError, and CommandError
    when the status is not in ``ok``, the time is over, or there is more.
    """
    log.debug("running %s", command.display())
    with os.fdopen(os.memfd_create("errors"), "w+b") as errors:
        try:
            process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )
        except FileNotFoundError as err:
            raise CommandNotFoundError(command.argv[0]) from err
        except OSError as err:
            raise CommandError(command.display(), 126, str(err)) from err
        watch = threading.Timer(TIMEOUT, process.kill)
        watch.start()
        with process:
            answer = process.stdout.read(limit + 1) if process.stdout else b""
            if len(answer) > limit:
                process.kill()
        late = not watch.is_alive()
        watch.cancel()
        errors.seek(0)
        words = errors.read(limit).decode(errors="replace")
    if len(answer) > limit:
        raise CommandError(command.display(), None, f"it printed more than {limit} bytes")
    if late or process.returncode not in ok:
        raise CommandError(command.display(), None if late else process.returncode, words)
    return Completed(process.returncode, answer.decode(errors="replace"), words)


def spawn(command: Command, log: Path) -> int:
    """Start a program that outlives this one, in a session of its own; returns its process id.

    What it says is added to ``log``. Raises CommandNotFoundError.
    """
    with log.open("ab") as file:
        try:
            return subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                cwd="/",
            ).pid
        except FileNotFoundError as err:
            raise CommandNotFoundError(command.argv[0]) from err
