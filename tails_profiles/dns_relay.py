# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry app-guest's local DNS queries to tor-guest's DNSPort, and the answers back.

``python3 -I -m tails_profiles.dns_relay`` is started by its sockets (sd_listen_fds(3)). A datagram
is never read beyond its identifier (RFC 1035, 4.1.1): Tor understands it or does not. Every query
has a socket of its own towards tor-guest, so that the kernel draws a port for it and an answer can
only belong to that query.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Sequence
from typing import cast

from tails_profiles import constants
from tails_profiles.errors import ProfilesError
from tails_profiles.system import journal

log = logging.getLogger(__name__)

#: tor-guest's DNSPort; both local ports lead there.
UPSTREAM = (str(constants.TOR_INNER.ip), constants.DNS_PORTS[0])
#: Seconds. Resolvers ask again after 5; Tor itself gives up on a circuit after 60.
PATIENCE = 30.0
#: Queries under way; more are dropped, as a full queue of the kernel would.
MAX_QUERIES = 1024
#: The smallest header (RFC 1035, 4.1.1) and the largest datagram (RFC 768).
MIN_BYTES, MAX_BYTES = 12, 65535


class Relay(asyncio.DatagramProtocol):
    """One local socket."""

    def __init__(self, upstream: tuple[str, int] = UPSTREAM, patience: float = PATIENCE) -> None:
        self._upstream = upstream
        self._patience = patience
        self._tasks: set[asyncio.Task[None]] = set()
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go out."""
        # Python 3.11's own datagram transport is no subclass of the type that it promises to be.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Start one query."""
        if len(data) < MIN_BYTES or len(self._tasks) >= MAX_QUERIES:
            return
        task = asyncio.get_running_loop().create_task(self._carry(data, addr))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, query: bytes, client: tuple[str, int]) -> None:
        try:
            async with asyncio.timeout(self._patience):
                answer = await ask(query, self._upstream)
        except (OSError, TimeoutError) as err:
            # Not an error of ours: tor-guest is away, or Tor cannot say. The client asks again.
            log.debug("no answer: %s", err)
            return
        if self._transport is not None:
            self._transport.sendto(answer, client)


async def ask(query: bytes, upstream: tuple[str, int]) -> bytes:
    """The answer to one query: the first datagram of the peer with the query's identifier."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as peer:
        await loop.sock_connect(peer, upstream)
        await loop.sock_sendall(peer, query)
        while True:
            answer = await loop.sock_recv(peer, MAX_BYTES)
            if answer[:2] == query[:2]:
                return answer


async def serve(sockets: Sequence[socket.socket]) -> None:
    """Relay for these sockets until cancelled."""
    loop = asyncio.get_running_loop()
    for each in sockets:
        await loop.create_datagram_endpoint(Relay, sock=each)
    await asyncio.Event().wait()


def main() -> int:
    """Serve the sockets that systemd passed; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[journal.handler()])
    try:
        sockets = journal.inherited_sockets()
    except ProfilesError as err:
        log.error("%s", err)  # noqa: TRY400 - an expected failure is one line
        return err.exit_status
    asyncio.run(serve(sockets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
