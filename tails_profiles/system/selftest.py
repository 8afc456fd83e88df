# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out the attempts of ``check``, all at once, and watch the wire meanwhile."""

import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress

from tails_profiles.errors import SystemFailureError
from tails_profiles.profile import Profile
from tails_profiles.selftest import (
    OWN_MAC,
    Attempt,
    Kind,
    Observation,
    Report,
    Service,
    attempts,
    report,
    services,
)

#: Seconds that an attempt may take; whoever answers does so in a few round trips.
PATIENCE = 3.0
#: Seconds until a service must have answered: a circuit is not needed for it.
SERVICE_PATIENCE = 10.0

_ETH_P_ALL = 3
# Linux: asm-generic/socket.h and linux/if_packet.h; Python does not name them.
_SO_RCVBUFFORCE = 33
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
#: Bytes of each link's buffer.
_BUFFER = 4 << 20
#: Errors that come from somewhere else: whoever sends them got our packet.
_ANSWERS = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})


class Watch:
    """Packet sockets on every link but lo, from before the first attempt on."""

    def __init__(self) -> None:
        self._sockets: list[tuple[str, socket.socket]] = []
        self._frames: list[bytes] = []
        self._over = threading.Event()
        for _, name in socket.if_nameindex():
            if name != "lo":
                # Protocol 0 until it is bound: frames of other links stay out.
                made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                made.bind((name, _ETH_P_ALL))
                made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
                made.setblocking(False)
                self._sockets.append((name, made))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, attempt: Attempt) -> Observation:
        """Put a frame on every link that is up."""
        refusals = []
        for name, link in self._sockets:
            mac = link.getsockname()[4]
            # A socket of its own: one that watches is not shown what it sends itself.
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender:
                try:
                    sender.bind((name, 0))
                    sender.send(attempt.payload.replace(OWN_MAC, mac))
                except OSError as err:
                    refusals.append(f"{name}: {err.strerror}")
        return Observation(refusal=", ".join(refusals) or None)

    def _read(self) -> None:
        # All the time: what else uses the network would fill the buffers.
        links = [link for _, link in self._sockets]
        while links and not self._over.is_set():
            for link in select.select(links, (), (), 0.1)[0]:
                self._drain(link)

    def _drain(self, link: socket.socket) -> None:
        with suppress(OSError):
            while True:
                frame, address = link.recvfrom(2048)
                if address[2] == socket.PACKET_OUTGOING:
                    self._frames.append(frame)

    def sent(self) -> list[bytes]:
        """Every frame that this machine put on the wire.

        Raises SystemFailureError where one may have gone by unseen.
        """
        self._over.set()
        self._reader.join()
        for name, link in self._sockets:
            self._drain(link)
            _, lost = struct.unpack("II", link.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
            if lost:
                raise SystemFailureError(
                    f"{name} was too busy to be watched: {lost} frames went by unseen",
                    hint="close what uses the network, and check again",
                )
        return self._frames

    def close(self) -> None:
        """Stop watching."""
        self._over.set()
        self._reader.join()
        for _, link in self._sockets:
            link.close()


def run(profile: Profile) -> Report:
    """Try everything that this profile must not be able to do. Takes a few seconds."""
    with ExitStack() as stack:
        watch = stack.enter_context(closing(Watch())) if os.geteuid() == 0 else None
        planned = attempts(profile)
        with ThreadPoolExecutor(len(planned) + 1) as pool:
            checks = [pool.submit(_ask, service) for service in services(profile)]
            seen = [*pool.map(lambda attempt: _try(attempt, watch), planned)]
        answered = {
            service: check.result()
            for service, check in zip(services(profile), checks, strict=True)
        }
        frames = watch.sent() if watch else []
    return report(
        profile,
        [
            (attempt, _with_wire(attempt, observation, frames, watched=watch is not None))
            for attempt, observation in zip(planned, seen, strict=True)
        ],
        answered,
        watched=watch is not None,
    )


def _with_wire(
    attempt: Attempt, seen: Observation, frames: Sequence[bytes], *, watched: bool
) -> Observation:
    if not watched or seen.obstacle is not None:
        return seen
    left = any(attempt.is_frame(frame) for frame in frames)
    return Observation(seen.answer, seen.refusal, left)


def _try(attempt: Attempt, watch: Watch | None) -> Observation:
    if attempt.kind is Kind.FRAME:
        return watch.send(attempt) if watch else Observation(obstacle="needs root")
    call = {Kind.TCP: _tcp, Kind.UDP: _udp, Kind.PING: _ping}[attempt.kind]
    try:
        return call(attempt)
    except TimeoutError:
        return Observation()
    except OSError as err:
        if err.errno in _ANSWERS:
            return Observation(answer=f"answered: {err.strerror}")
        return Observation(refusal=err.strerror or str(err))


def _socket(attempt: Attempt, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
    version = attempt.address.version if attempt.address else 4
    made = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind, protocol)
    made.settimeout(PATIENCE)
    return made


def _tcp(attempt: Attempt) -> Observation:
    with _socket(attempt, socket.SOCK_STREAM) as sock:
        sock.connect((str(attempt.address), attempt.port))
        return Observation(answer="a connection was made")


def _udp(attempt: Attempt) -> Observation:
    with _socket(attempt, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        # Connected, so that an error which comes back is heard.
        sock.connect((str(attempt.address), attempt.port))
        sock.send(attempt.payload)
        sock.recv(2048)
        return Observation(answer="a datagram came back")


def _ping(attempt: Attempt) -> Observation:
    """One ICMP echo; a raw socket for root, else the kernel's own kind where that is allowed."""
    try:
        sock = _socket(attempt, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    except PermissionError:
        if os.geteuid() != 0:
            return Observation(obstacle="needs root")
        sock = _socket(attempt, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with sock:
        sock.connect((str(attempt.address), 0))
        # Type 8, code 0, its checksum, identifier and sequence 0.
        sock.send(struct.pack(">2B3H", 8, 0, 0xF7FF, 0, 0))
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            answer = sock.recv(2048)
            # A raw socket gets the IP header too.
            kind = answer[20] if sock.type == socket.SOCK_RAW else answer[0]
            if kind == 0:
                return Observation(answer="an echo came back")
        return Observation()


def _ask(service: Service) -> str | None:
    """None where a SOCKS port takes us without a password (RFC 1928), else what is wrong."""
    try:
        with socket.create_connection(("127.0.0.1", service.port), SERVICE_PATIENCE) as sock:
            sock.settimeout(SERVICE_PATIENCE)
            sock.sendall(b"\x05\x01\x00")
            answer = sock.recv(2)
    except OSError as err:
        return err.strerror or str(err)
    return None if answer == b"\x05\x00" else f"it answers {answer!r}"
