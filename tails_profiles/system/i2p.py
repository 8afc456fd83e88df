# SPDX-License-Identifier: GPL-3.0-or-later
"""Look how far i2p-guest's router is, from outside: its sockets and the routers it has stored.

It has no console that could be asked; what a console would need, a program in this guest could use.
"""

import os
import pwd
import select
import signal
from collections.abc import Iterator
from ipaddress import IPv4Address

from tails_profiles import constants
from tails_profiles.errors import SystemFailureError
from tails_profiles.i2pd import NO_NAMES, ROUTERS_WANTED, SILENCE, Heard, has_bundle, hear
from tails_profiles.paths import Paths
from tails_profiles.status import I2pStatus
from tails_profiles.system import units
from tails_profiles.system.journal import Messages

UNIT = "tails-profiles-i2p.service"
#: Seconds in which the router ends when it is told to; then it is ended.
PATIENCE = 5.0

# States of /proc/net/tcp (proc(5), include/net/tcp_states.h).
_ESTABLISHED, _LISTEN = "01", "0A"


class Watch:
    """The router as it goes on; what it has said is read only once."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._messages = Messages(UNIT)
        self._heard = SILENCE

    def state(self) -> I2pStatus:
        """Its state now."""
        return read_state(self._paths, self.heard())

    def heard(self) -> Heard:
        """What it has said until now."""
        self._heard = hear(self._heard, self._messages.new())
        return self._heard


def renew(paths: Paths) -> None:
    """Have the router make its proxies anew, each with a new destination; the old ones are gone
    when this returns, if it was ended for that.

    Raises SystemFailureError where it does not run.
    """
    number = int(units.properties(UNIT, "MainPID").get("MainPID", "0"))
    if number == 0:
        raise SystemFailureError("the I2P router does not run")
    # By its end, after which its unit starts it again. Reloading (i2pd(1): SIGHUP) does less: the
    # old destinations go on beside the new ones, and a list of names that has not come yet never
    # comes. But who would have no first routers at a new start is no router afterwards.
    enough = (_stored(paths) or 0) >= ROUTERS_WANTED
    if enough or has_bundle(paths.i2pd_conf.read_text(encoding="utf-8")):
        _end(number)
    else:
        os.kill(number, signal.SIGHUP)


def _end(number: int) -> None:
    """End a process of this account, and return when it is gone."""
    process = os.pidfd_open(number)
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        # i2pd waits half a minute for a list of names that it is fetching.
        if not select.select([process], [], [], PATIENCE)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], PATIENCE)
    finally:
        os.close(process)


def forget_names(paths: Paths) -> None:
    """Take the resolvers away from the router, whose first routers have come.

    In place: it is mounted where the router looks.
    """
    if "nameserver" in paths.i2pd_resolv_conf.read_text(encoding="ascii"):
        paths.i2pd_resolv_conf.write_text(NO_NAMES, encoding="ascii")


def read_state(paths: Paths, heard: Heard) -> I2pStatus:
    """The router's state; never raises. ``known`` is None to whoever may not look."""
    sockets = list(_sockets(paths))
    listening = {
        port
        for state, (address, port), _, _ in sockets
        if state == _LISTEN and address == constants.I2P_INNER.ip
    }
    user = _user()
    peers = {
        remote
        for state, (address, _), remote, owner in sockets
        if state == _ESTABLISHED and owner == user and address != constants.I2P_INNER.ip
        and not remote[0].is_loopback
    }  # fmt: skip
    open_ports = listening >= set(constants.I2P_PROXY_PORTS)
    stored = _stored(paths)
    # It stores them some minutes after it has learned of them.
    known = None if stored is None else max(stored, heard.routers)
    return I2pStatus(open_ports, known, len(peers), _datagrams(paths), heard)


def _datagrams(paths: Paths) -> int:
    """UDP datagrams that reached a socket: the rules let in those of the router alone."""
    try:
        lines = (paths.procfs / "net/snmp").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    names, values = (line.split() for line in lines if line.startswith("Udp: "))
    return int(values[names.index("InDatagrams")])


def _stored(paths: Paths) -> int | None:
    try:
        # netDb/rX/routerInfo-HASH.dat: a directory for each first letter of the hash.
        next(paths.i2p_data.iterdir(), None)
        return sum(1 for _ in paths.i2p_data.glob("netDb/r?/routerInfo-*.dat"))
    except PermissionError:
        return None
    except OSError:
        return 0


def _user() -> int | None:
    try:
        return pwd.getpwnam(constants.I2P_USER).pw_uid
    except KeyError:
        return None


_Endpoint = tuple[IPv4Address, int]


def _sockets(paths: Paths) -> Iterator[tuple[str, _Endpoint, _Endpoint, int]]:
    """State, own end, other end and owner of every TCP socket of this namespace."""
    try:
        lines = (paths.procfs / "net/tcp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        words = line.split()
        yield words[3], _endpoint(words[1]), _endpoint(words[2]), int(words[7])


def _endpoint(text: str) -> _Endpoint:
    address, _, port = text.partition(":")
    # The address is in the machine's byte order, which is this image's: little-endian.
    return IPv4Address(int.from_bytes(bytes.fromhex(address), "little")), int(port, 16)
