# SPDX-License-Identifier: GPL-3.0-or-later
"""New client destinations for I2P's proxies, whenever app-guest calls: sites cannot link visits.

``python3 -I -m tails_profiles.renew`` runs in i2p-guest, socket-activated, until nobody has called
for a while. Nothing is read from a caller, who gets one of two constant words back. The router is
started anew, which ends what goes through its proxies.
"""

import contextlib
import logging
import select
import socket
import sys
import time
from collections.abc import Callable

from tails_profiles.constants import I2P_INNER, I2P_RENEW_PORT
from tails_profiles.errors import ProfilesError
from tails_profiles.paths import Paths
from tails_profiles.system import i2p, journal

log = logging.getLogger(__name__)

#: Seconds between two requests that are met: each costs tunnels of others, and the pattern is seen.
#: The router's unit allows four starts in 120.
INTERVAL = 40.0
#: Seconds without a caller after which this ends; the socket starts it again.
IDLE = 30.0
#: Where the socket unit listens.
ADDRESS = (str(I2P_INNER.ip), I2P_RENEW_PORT)
RENEWED, TOO_SOON = b"renewed\n", b"too soon\n"


def serve(
    listener: socket.socket, act: Callable[[], None], clock: Callable[[], float] = time.monotonic
) -> None:
    """Answer callers until nobody has called for ``IDLE`` seconds."""
    last = -INTERVAL
    while select.select([listener], [], [], IDLE + INTERVAL)[0]:
        # A caller who has gone has asked all the same, or not at all.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            caller, _ = listener.accept()
            with caller:
                caller.setblocking(False)
                if clock() - last < INTERVAL:
                    caller.send(TOO_SOON)
                    continue
                act()
                last = clock()
                log.info("new client destinations, as app-guest asked")
                caller.send(RENEWED)


def main() -> int:
    """Serve the socket of this service; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[journal.handler()])
    try:
        (listener,) = journal.inherited_sockets()
        serve(listener, lambda: i2p.renew(Paths()))
    except ProfilesError as err:
        log.error("%s", err)  # noqa: TRY400 - an expected failure is one line
        return err.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
