# SPDX-License-Identifier: GPL-3.0-or-later
"""Tor's configuration in tor-guest: who may use it, and where it connects."""

from ipaddress import IPv4Address

import pytest

from tails_profiles.errors import TransportError
from tails_profiles.settings import Proxy, ProxyType, TorSettings
from tails_profiles.torrc import torrc

DEFAULT = TorSettings()
OBFS4 = "obfs4 192.0.2.7:443 " + "A" * 40 + " cert=" + "b" * 70 + " iat-mode=0"
SNOWFLAKE = "snowflake 192.0.2.3:80 url=https://example.org/"


def lines(settings: TorSettings = DEFAULT, *installed: str) -> list[str]:
    return torrc(settings, frozenset(installed)).splitlines()


def test_ports_are_on_the_inner_link_with_the_isolation_of_tails() -> None:
    assert [line for line in lines() if "Port " in line] == [
        "SocksPort 10.1.2.1:9050 IsolateDestAddr IsolateDestPort",
        "SocksPort 10.1.2.1:9062 IsolateDestAddr IsolateDestPort",
        "SocksPort 10.1.2.1:9063 NoIsolateClientAddr NoIsolateSOCKSAuth NoIsolateClientProtocol",
        "SocksPort 10.1.2.1:9150 IsolateSOCKSAuth KeepAliveIsolateSOCKSAuth ExtendedErrors",
        "DNSPort 10.1.2.1:53",
        "DNSPort 10.1.2.1:5353",
        "TransPort 10.1.2.1:9040",
    ]


def test_only_app_guest_may_use_them() -> None:
    policy = [line for line in lines() if line.startswith("SocksPolicy")]
    assert policy == ["SocksPolicy accept 10.1.2.3", "SocksPolicy reject *"]


def test_private_addresses_are_refused_whatever_the_defaults_are() -> None:
    assert "ClientRejectInternalAddresses 1" in lines()
    assert "ClientDNSRejectInternalAddresses 1" in lines()


def test_control_is_a_unix_socket_and_no_port() -> None:
    assert "ControlSocket /run/tor/control GroupWritable RelaxDirModeCheck" in lines()
    assert not any(line.startswith("ControlPort") for line in lines())


def test_network_is_disabled_until_somebody_asks_to_connect() -> None:
    assert "DisableNetwork 1" in lines(TorSettings(connect=False))
    assert "DisableNetwork 0" in lines()


def test_bridges_are_used_with_the_program_that_is_there() -> None:
    text = lines(TorSettings(bridges=(OBFS4, SNOWFLAKE)), "/usr/bin/lyrebird",
                 "/usr/bin/snowflake-client")  # fmt: skip
    assert "UseBridges 1" in text
    assert "ClientTransportPlugin obfs4 exec /usr/bin/lyrebird" in text
    assert "ClientTransportPlugin snowflake exec /usr/bin/snowflake-client" in text
    assert f"Bridge {OBFS4}" in text
    assert f"Bridge {SNOWFLAKE}" in text


def test_transport_without_a_program_is_refused_and_named() -> None:
    with pytest.raises(TransportError, match="snowflake") as caught:
        torrc(TorSettings(bridges=(SNOWFLAKE,)), frozenset({"/usr/bin/obfs4proxy"}))
    assert caught.value.reason == "bridge"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ProxyType.SOCKS4, ["Socks4Proxy 192.0.2.9:1080"]),
        (ProxyType.SOCKS5, ["Socks5Proxy 192.0.2.9:1080", "Socks5ProxyUsername me",
                            "Socks5ProxyPassword p"]),
        (ProxyType.HTTPS, ["HTTPSProxy 192.0.2.9:1080", "HTTPSProxyAuthenticator me:p"]),
    ],
)  # fmt: skip
def test_proxy_and_its_login(kind: ProxyType, expected: list[str]) -> None:
    login = () if kind is ProxyType.SOCKS4 else ("me", "p")
    proxy = Proxy(kind, IPv4Address("192.0.2.9"), 1080, *login)
    assert [line for line in lines(TorSettings(proxy=proxy)) if "Proxy" in line] == expected
