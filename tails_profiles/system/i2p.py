# SPDX-License-Identifier: GPL-3.0-or-later
"""Look how far i2p-guest's router is, from outside: its sockets and the routers it has stored.

It has no console that could be asked; what a console would need, a program in this guest could use.
"""

import pwd
from collections.abc import Iterator
from ipaddress import IPv4Address

from tails_profiles import constants
from tails_profiles.paths import Paths
from tails_profiles.status import I2pStatus

# States of /proc/net/tcp (proc(5), include/net/tcp_states.h).
_ESTABLISHED, _LISTEN = "01", "0A"


def read_state(paths: Paths) -> I2pStatus:
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
    open_ports = listening >= set(constants.I2P_PORTS)
    return I2pStatus(open_ports, _known(paths), len(peers), _datagrams(paths))


def _datagrams(paths: Paths) -> int:
    """UDP datagrams that reached a socket: the rules let in those of the router alone."""
    try:
        lines = (paths.procfs / "net/snmp").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    names, values = (line.split() for line in lines if line.startswith("Udp: "))
    return int(values[names.index("InDatagrams")])


def _known(paths: Paths) -> int | None:
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
