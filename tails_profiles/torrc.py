# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide Tor's whole configuration in tor-guest, as one text.

Option names and their meaning: tor(1). Ports and their isolation are those of Tails, so that
programs in app-guest need no other configuration than they have there. Nothing of the image's own
torrc is read: it would contact the public authorities before the settings are known.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tails_profiles import constants as c
from tails_profiles.bridges import Transport
from tails_profiles.errors import TransportError
from tails_profiles.settings import Proxy, ProxyType, TorSettings, transports_of

CONTROL_SOCKET = "/run/tor/control"
DATA_DIRECTORY = "/var/lib/tor"
#: What the makers of an image add; AppArmor's profile of Debian's tor lets Tor read below here.
ADDITIONS = "/usr/share/tor/tails-profiles.d/*.conf"

_DESTINATION = "IsolateDestAddr IsolateDestPort"
_LISTENERS: Mapping[int, str] = MappingProxyType(
    {
        c.SOCKS_DEFAULT: _DESTINATION,
        c.SOCKS_SYSTEM: _DESTINATION,
        c.SOCKS_UNISOLATED: "NoIsolateClientAddr NoIsolateSOCKSAuth NoIsolateClientProtocol",
        c.SOCKS_BROWSER: "IsolateSOCKSAuth KeepAliveIsolateSOCKSAuth ExtendedErrors",
    }
)

#: Programs that speak each transport, the preferred one first (Debian's package names them so;
#: lyrebird is obfs4proxy's newer name and speaks webtunnel too).
PLUGINS: Mapping[Transport, tuple[str, ...]] = MappingProxyType(
    {
        Transport.OBFS4: ("/usr/bin/obfs4proxy", "/usr/bin/lyrebird"),
        Transport.MEEK_LITE: ("/usr/bin/obfs4proxy", "/usr/bin/lyrebird"),
        Transport.WEBTUNNEL: ("/usr/bin/webtunnel-client", "/usr/bin/lyrebird"),
        Transport.SNOWFLAKE: ("/usr/bin/snowflake-client",),
    }
)


def torrc(tor: TorSettings, installed: frozenset[str]) -> str:
    """The configuration that these settings come to.

    ``installed`` holds those of the ``PLUGINS`` that this image has. Raises TransportError for a
    bridge whose transport none of them speaks.
    """
    return "\n".join((*_fixed(), *_bridges(tor, installed), *_proxy(tor.proxy), *_end(tor))) + "\n"


def _fixed() -> Iterator[str]:
    inner = c.TOR_INNER.ip
    yield "# Written by tails-profiles at each boot; nothing else configures this Tor."
    yield f"DataDirectory {DATA_DIRECTORY}"
    yield f"ControlSocket {CONTROL_SOCKET} GroupWritable RelaxDirModeCheck"
    yield "CookieAuthentication 1"
    yield "CookieAuthFile /run/tor/control.authcookie"
    yield "Log notice stdout"
    yield "AvoidDiskWrites 1"
    # Countries of relays: nothing here asks for them, and an emulated machine reads them for 4 s.
    yield "GeoIPFile /dev/null"
    yield "GeoIPv6File /dev/null"
    yield "WarnPlaintextPorts 23,109"
    for port, flags in _LISTENERS.items():
        yield f"SocksPort {inner}:{port} {flags}"
    yield f"SocksPolicy accept {c.APP_TOR.ip}"
    yield "SocksPolicy reject *"
    for port in c.DNS_PORTS:
        yield f"DNSPort {inner}:{port}"
    yield f"TransPort {inner}:{c.TRANS_PORT}"
    yield f"VirtualAddrNetworkIPv4 {c.MAPPED}"
    yield "AutomapHostsOnResolve 1"
    # Tor's defaults, but not where TestingTorNetwork is set, nor perhaps in each later version: no
    # request for a private address goes to an exit, and no exit's answer may name one.
    yield "ClientRejectInternalAddresses 1"
    yield "ClientDNSRejectInternalAddresses 1"
    # No IPv6 ever leaves this guest; asking for it would only fail later.
    yield "ClientUseIPv6 0"


def _bridges(tor: TorSettings, installed: frozenset[str]) -> Iterator[str]:
    if not tor.bridges:
        return
    yield "UseBridges 1"
    programs: dict[str, list[Transport]] = {}
    for transport in sorted(transports_of(tor) - {Transport.VANILLA}):
        programs.setdefault(_program(transport, installed), []).append(transport)
    for program, transports in programs.items():
        yield f"ClientTransportPlugin {','.join(transports)} exec {program}"
    for line in tor.bridges:
        yield f"Bridge {line}"


def _program(transport: Transport, installed: frozenset[str]) -> str:
    for program in PLUGINS[transport]:
        if program in installed:
            return program
    raise TransportError(transport, PLUGINS[transport])


def _proxy(proxy: Proxy | None) -> Iterator[str]:
    # The grammar of the settings leaves nothing in a login that torrc would read as more than one
    # word: no blank, quote, backslash or number sign.
    if proxy is None:
        return
    where = f"{proxy.address}:{proxy.port}"
    login = proxy.username is not None
    if proxy.kind is ProxyType.SOCKS4:
        yield f"Socks4Proxy {where}"
    elif proxy.kind is ProxyType.SOCKS5:
        yield f"Socks5Proxy {where}"
        if login:
            yield f"Socks5ProxyUsername {proxy.username}"
            yield f"Socks5ProxyPassword {proxy.password}"
    else:
        yield f"HTTPSProxy {where}"
        if login:
            yield f"HTTPSProxyAuthenticator {proxy.username}:{proxy.password}"


def _end(tor: TorSettings) -> Iterator[str]:
    yield f"DisableNetwork {0 if tor.connect else 1}"
    yield f"%include {ADDITIONS}"
