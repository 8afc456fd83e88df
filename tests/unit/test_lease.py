# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a DHCP lease is taken, by whoever it was offered."""

from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tails_profiles import constants
from tails_profiles.errors import LeaseError
from tails_profiles.lease import MAX_LEASE, MIN_LEASE, Lease, parse, request, take_steps

GOOD = {"ip": "10.0.2.15", "subnet": "255.255.255.0", "router": "10.0.2.2", "lease": "86400"}


def lines(**over: str | None) -> str:
    values = {**GOOD, **over}
    return "".join(f"{name}={value}\n" for name, value in values.items() if value is not None)


def test_lease_of_a_usual_nat_is_taken() -> None:
    taken = parse(lines())
    assert taken == Lease(IPv4Interface("10.0.2.15/24"), IPv4Address("10.0.2.2"), 86400)
    assert taken.renew_after == 43200
    assert [step.display() for step in take_steps(taken)] == [
        "/usr/sbin/ip address replace 10.0.2.15/24 dev uplink",
        "/usr/sbin/ip route replace 0.0.0.0/0 via 10.0.2.2 dev uplink",
    ]


@pytest.mark.parametrize(
    ("over", "word"),
    [
        ({"ip": None}, "no ip"),
        ({"ip": ""}, "no ip"),
        ({"ip": "10.0.2.256"}, "'10.0.2.256'"),
        ({"ip": "10.0.2.15/24"}, "10.0.2.15/24"),
        ({"ip": "010.0.2.15"}, "010.0.2.15"),
        ({"ip": "fe80::1"}, "fe80::1"),
        ({"ip": "10.0.2.0"}, "none that a machine"),
        ({"ip": "10.0.2.255"}, "none that a machine"),
        ({"ip": "127.0.0.5", "router": "127.0.0.1"}, "none that a machine"),
        ({"ip": "169.254.3.4", "router": "169.254.3.1"}, "none that a machine"),
        ({"ip": "0.0.0.5", "router": "0.0.0.1"}, "none that a machine"),
        ({"ip": "224.0.0.5", "router": "224.0.0.1"}, "none that a machine"),
        ({"subnet": None}, "no subnet"),
        ({"subnet": "0.0.0.0"}, "no mask"),
        ({"subnet": "254.0.0.0"}, "no mask"),
        ({"subnet": "255.255.255.254"}, "no mask"),
        ({"subnet": "255.255.255.255"}, "no mask"),
        ({"subnet": "255.0.255.0"}, "no mask"),
        ({"subnet": "24"}, "'24'"),
        ({"router": None}, "no router"),
        ({"router": "10.0.3.2"}, "not in the lease's network"),
        ({"router": "10.0.2.15"}, "to us and to the router"),
        ({"router": "10.0.2.255"}, "none that a machine"),
        ({"router": "x 10.0.2.2"}, "'x'"),
        ({"router": " 10.0.2.2"}, "''"),
        ({"lease": None}, "no lease"),
        ({"lease": "-1"}, "'-1'"),
        ({"lease": "99999999999"}, "no number"),
        ({"lease": "١٢٣"}, "no number"),
        ({"ip": "10.1.2.5", "router": "10.1.2.6", "subnet": "255.255.255.248"}, "tor-guest's"),
        ({"ip": "10.1.3.5", "router": "10.1.3.6", "subnet": "255.255.255.248"}, "i2p-guest's"),
        ({"ip": "10.1.200.5", "router": "10.1.200.1", "subnet": "255.255.0.0"}, "10.1.2.0/29"),
        ({"ip": "10.9.0.5", "router": "10.9.0.1", "subnet": "255.0.0.0"}, "overlaps"),
        ({"ip": "10.100.0.5", "router": "10.100.0.1"}, "Tor's mapped names"),
    ],
)
def test_lease_that_may_not_be_taken_is_refused_by_name(
    over: dict[str, str | None], word: str
) -> None:
    with pytest.raises(LeaseError) as caught:
        parse(lines(**over))
    assert word in str(caught.value)
    assert caught.value.reason == "network"


def test_value_that_is_named_twice_is_refused() -> None:
    with pytest.raises(LeaseError, match="twice"):
        parse(lines() + "router=10.0.2.9\n")


def test_first_of_several_routers_is_taken() -> None:
    assert parse(lines(router="10.0.2.2 10.0.2.9")).router == IPv4Address("10.0.2.2")


@pytest.mark.parametrize(
    ("said", "held"), [("0", MIN_LEASE), ("1", MIN_LEASE), ("4294967295", MAX_LEASE)]
)
def test_time_of_a_lease_is_bounded(said: str, held: int) -> None:
    assert parse(lines(lease=said)).seconds == held


@given(st.text(max_size=200))
def test_garbage_raises_nothing_but_the_one_error(text: str) -> None:
    with pytest.raises(LeaseError):
        parse(text)


@given(st.ip_addresses(v=4), st.integers(0, 32), st.ip_addresses(v=4), st.integers(0, 2**32 - 1))
def test_whatever_is_taken_keeps_away_from_our_own_networks(
    address: IPv4Address, prefix: int, router: IPv4Address, seconds: int
) -> None:
    mask = str(IPv4Address((0xFFFFFFFF << (32 - prefix)) & 0xFFFFFFFF))
    try:
        taken = parse(lines(ip=str(address), subnet=mask, router=str(router), lease=str(seconds)))
    except LeaseError:
        return
    assert 8 <= taken.address.network.prefixlen <= 30
    assert taken.router in taken.address.network
    assert taken.router != taken.address.ip
    for ours in (constants.TOR_INNER.network, constants.I2P_INNER.network, constants.MAPPED):
        assert not taken.address.network.overlaps(ours)


def test_client_is_told_to_send_nothing_about_itself() -> None:
    argv = request("/hook").argv
    assert argv[argv.index("-V") + 1] == ""
    assert "-C" in argv
    assert "-o" in argv
    assert [argv[i + 1] for i, word in enumerate(argv) if word == "-O"] == ["subnet", "router"]
    assert not {"-x", "-F", "-r", "-H", "-h"} & set(argv)
