# SPDX-License-Identifier: GPL-3.0-or-later
"""Talk to a running QEMU, by the library that its developers keep (QMP specification)."""

import asyncio
from collections.abc import Mapping
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
    return asyncio.run(_execute(socket, command, dict(arguments or {}), seconds))


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
