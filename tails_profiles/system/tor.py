# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask Tor how far it is. Never configures it."""

import re
from pathlib import Path

from tails_profiles.status import TorStatus

CONTROL_SOCKET = Path("/run/tor/control")
_PROGRESS = re.compile(r"PROGRESS=([0-9]{1,3})", re.ASCII)


def bootstrap(socket: Path = CONTROL_SOCKET) -> TorStatus:
    """Tor's bootstrap state (control-spec, GETINFO status/bootstrap-phase); never raises."""
    try:
        import stem  # noqa: PLC0415 - slow to import, and not installed everywhere
        from stem.control import Controller  # noqa: PLC0415
    except ImportError:
        return TorStatus(None, "python3-stem is not installed")
    if not socket.exists():
        return TorStatus(None, "Tor is not running")
    try:
        with Controller.from_socket_file(str(socket)) as controller:
            controller.authenticate()
            phase = controller.get_info("status/bootstrap-phase")
    except (stem.ControllerError, stem.SocketError, OSError, ValueError) as err:
        return TorStatus(None, f"Tor's control socket does not answer: {err}")
    match = _PROGRESS.search(phase)
    percent = int(match[1]) if match else None
    return TorStatus(percent, f"{percent} %" if percent is not None else phase[:80])
