# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to a running QEMU, by the library that its developers keep (QMP specification)."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from tails_profiles.errors import LaunchError, MissingLibraryError

#: Seconds within which a QEMU that works has answered.
PATIENCE = 60.0


def library() -> ModuleType:
    """The library; raises MissingLibraryError."""
    try:
        from qemu import qmp  # noqa: PLC0415 - Debian 12 has no package of it
    except ImportError as err:
        raise MissingLibraryError("qemu.qmp", "python3-qemu-qmp, or qemu.qmp from PyPI") from err
    # What goes wrong comes as an exception; it would say it a second time on standard error.
    logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
    return qmp  # type: ignore[no-any-return]


def execute(
    socket: Path,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    seconds: float = PATIENCE,
) -> dict[str, Any]:
    """Run one command; returns what QEMU answers within ``seconds``.

    Raises LaunchError when nobody answers or QEMU refuses, and MissingLibraryError.
    """
    # In a thread of its own: signals reach the main thread, and what they raise in the middle of an
    # event loop leaves its tasks, and their complaints, behind.
    under_way: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = Future()

    async def tell_and_execute() -> dict[str, Any]:
        task = asyncio.create_task(_execute(socket, command, dict(arguments or {}), seconds))
        under_way.set_result((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(max_workers=1) as thread:
        answer = thread.submit(lambda: asyncio.run(tell_and_execute()))
        try:
            return answer.result()
        except KeyboardInterrupt:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop, task = under_way.result()
                loop.call_soon_threadsafe(task.cancel)
            raise


async def _execute(
    socket: Path, command: str, arguments: dict[str, Any], seconds: float
) -> dict[str, Any]:
    qmp = library()
    client = qmp.QMPClient()
    try:
        async with asyncio.timeout(seconds):
            await client.connect(str(socket))
            try:
                answer = await client.execute(command, arguments)
            finally:
                await client.disconnect()
    except TimeoutError as err:
        raise LaunchError(f"QEMU does not answer within {seconds:.0f} s: {command}") from err
    except (qmp.QMPError, OSError, EOFError) as err:
        raise LaunchError(
            f"QEMU does not carry out {command}: {err or type(err).__name__}"
        ) from err
    return answer if isinstance(answer, dict) else {"return": answer}
