# SPDX-License-Identifier: GPL-3.0-or-later
"""The laboratory itself: what it is for it notices, and what it stands on is so."""

import pwd
from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.all import (
    ARP,
    TCP,
    Ether,
    ICMPv6EchoRequest,
    IPv6,
    raw,
)

from tails_profiles import constants as c
from tails_profiles.profile import Profile
from tails_profiles.rule_files import lease_elements
from tests.leaks.attacks import (
    ANSWERED,
    BACK,
    FORWARDED,
    LEFT,
    N1,
    Gateway,
    inner,
    syn,
)
from tests.leaks.laboratory import (
    BROADCAST_MAC,
    INET,
    Laboratory,
    UplinkEnd,
    packet_socket,
    wait_until,
)
from tests.leaks.probes import (
    Call,
    Daemon,
    Flow,
    Frames,
    Mutant,
    Probe,
    Report,
    Tool,
    shortfall,
    survival,
    verify,
)

pytestmark = pytest.mark.lab

#: tor-guest, chosen because it has every kind of layer.
TOR = Gateway(Profile.TOR_GUEST, (9050,), ())
UPLINK = c.LINKS[Profile.TOR_GUEST][0]
OUT = Probe("a SYN", "P1", inner(TOR.ip() / syn(443)), LEFT, FORWARDED)


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    made = Laboratory(Profile.TOR_GUEST, "tcp")
    made.listen(9050, 22)
    yield made
    made.close()


def faults(lab: Laboratory, probe: Probe) -> str:
    """What verifying says about one probe."""
    return "; ".join(verify(lab, (probe,))[probe.id].faults)


# ---- a probe that proves nothing fails


def test_a_probe_that_holds_has_no_fault(lab: Laboratory) -> None:
    assert faults(lab, OUT) == ""


def test_a_probe_whose_packet_never_arrives_is_unproven(lab: Laboratory) -> None:
    lost = replace(OUT, action=inner(TOR.ether(dst="02:00:00:00:00:99") / (TOR.ip() / syn(1))[1]))
    assert "unproven: without inet, inner, uplink, ip_forward 0 of 1" in faults(lab, lost)


def test_a_layer_that_does_not_stop_it_alone_is_a_fault(lab: Laboratory) -> None:
    assert "with echo_ignore alone: seen 1" in faults(
        lab, replace(OUT, layers=(*FORWARDED, "echo_ignore"))
    )


def test_a_layer_that_was_not_named_makes_it_unproven(lab: Laboratory) -> None:
    found = faults(lab, replace(OUT, layers=(INET, "inner", "uplink")))
    assert "unproven: without inet, inner, uplink 0 of 1" in found


def test_half_a_batch_is_not_enough(lab: Laboratory) -> None:
    half = Frames("inner", (raw(TOR.ip() / syn(443)), raw(TOR.ether() / ARP())))
    assert "1 of 2 are seen" in faults(lab, replace(OUT, action=half, least=2))


def test_what_gets_through_is_a_fault(lab: Laboratory) -> None:
    open_port = Probe("open", "P1", inner(TOR.ip(TOR.own) / syn(9050)), BACK, ANSWERED)
    assert "with everything in place: seen 1" in faults(lab, open_port)


def test_what_cannot_be_proven_is_counted_apart(lab: Laboratory) -> None:
    lost = inner(TOR.ether(dst="02:00:00:00:00:99") / (TOR.ip() / syn(1))[1])
    unproven = replace(OUT, action=lost, unprovable="for this test")
    results = verify(lab, (unproven,))
    report = Report()
    report.add(lab, results.values())
    assert report.lines()[0].startswith("unproven")
    assert report.lines()[-1].endswith("1 unproven")
    assert "listed as unprovable" in faults(lab, replace(OUT, unprovable="no reason"))


def test_a_mistake_that_nobody_notices_survives(lab: Laboratory) -> None:
    harmless = Mutant("x", INET, 'counter drop comment "out"', 'drop comment "out"', OUT.id)
    assert "does not notice" in survival(lab, harmless, (OUT,))
    harmful = replace(harmless, old='counter drop comment "forward"', new="counter accept")
    assert survival(lab, harmful, (OUT,)) == ""
    assert "no probe" in survival(lab, replace(harmful, probe="P0"), (OUT,))


def test_a_flow_that_does_not_pass_falls_short(lab: Laboratory) -> None:
    assert "0 of 1 passed" in shortfall(lab, Flow("closed", inner(TOR.ip(TOR.own) / syn(22)), BACK))


def test_a_capture_that_captures_nothing_is_noticed(lab: Laboratory) -> None:
    end = lab.ends["uplink"]
    working = end.capture
    end.capture = packet_socket(lab.guest, "lo")
    try:
        with pytest.raises(AssertionError, match="uplink captures nothing"):
            lab.canary()
    finally:
        end.capture.close()
        end.capture = working
    lab.canary()


@pytest.mark.parametrize(
    ("due", "fields"),
    [
        (True, {}),
        (True, {"op": 2, "pdst": "10.0.2.2"}),
        (False, {"psrc": "10.1.2.1"}),
        (False, {"psrc": "0.0.0.0"}),
        (False, {"pdst": "10.0.2.77"}),
        (False, {"pdst": "10.0.2.3"}),
        (False, {"pdst": "10.0.2.15"}),
        (False, {"hwsrc": TOR.inner.mac}),
        (False, {"op": 3}),
        (False, {"hwtype": 6}),
    ],
    ids=str,
)
def test_only_arp_between_us_and_the_router_is_overlooked(
    due: bool, fields: dict[str, object]
) -> None:
    arp = {"op": 1, "hwsrc": UPLINK.mac, "psrc": "10.0.2.15", "pdst": "10.0.2.2", **fields}
    frame = raw(Ether(src=UPLINK.mac, dst=BROADCAST_MAC) / ARP(**arp))
    assert UplinkEnd("", "", UPLINK).is_due_arp(frame) is due
    assert not UplinkEnd("", "", UPLINK).is_due_arp(frame[:6] + b"\2" + frame[7:])


# ---- what packets do not show by themselves


def test_real_programs_of_other_users_and_of_the_lan_get_nowhere(lab: Laboratory) -> None:
    """Sockets of other probes have an owner only; here whole programs run as somebody else."""
    curl = ("curl", "--silent", "--max-time", "0.2", f"http://{N1}/")
    user = ("setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups")
    probes = (
        Probe("curl of a user", "P53", Tool("guest", (*user, *curl)), LEFT, (INET,)),
        Probe("curl of root", "P53", Tool("guest", curl), LEFT, (INET,)),
        Probe("ping of root", "P53", Tool("guest", ("ping", "-c1", "-W0.2", N1)), LEFT,
              (INET, "uplink")),
        Probe("ping of the LAN", "P54", Tool("lan", ("sh", "-c",
              "ip neighbour flush dev lan; exec ping -c1 -W0.2 10.0.2.15")), LEFT, ("uplink",)),
    )  # fmt: skip
    for result in verify(lab, probes).values():
        result.check()


def test_claims_by_arp_change_no_neighbour(lab: Laboratory) -> None:
    """P22, with the link's table removed: the entry is permanent, and ARP is off."""
    claims = inner(*(
        TOR.ether(dst=BROADCAST_MAC) / ARP(op=op, hwsrc="02:66:66:66:66:66", psrc=TOR.client,
                                           pdst=TOR.own, hwdst=TOR.inner.mac) for op in (1, 2)
    ))  # fmt: skip
    lab.without({"inner"})
    before = lab.neighbours()
    assert claims.perform(lab, Daemon("inner", (0x0806,)))
    assert lab.neighbours() == before
    lab.without({"inner", "arp_flag_inner"})
    claims.perform(lab, Daemon("inner", (0x0806,)))
    assert "02:66:66:66:66:66" in lab.neighbours(), "the anti-test: with ARP they are believed"
    lab.without()
    assert lab.neighbours() == before


def test_ipv6_stays_off_without_any_rule(lab: Laboratory) -> None:
    """P18: each of the setting, the link's table and the other table stops it alone."""
    own = "fe80::255:44ff:fe33:2211"
    echo = inner(TOR.ether() / IPv6(src="fe80::211:22ff:fe33:4455", dst=own) / ICMPv6EchoRequest())
    setting = "net/ipv6/conf/inner/disable_ipv6"
    lab.without(ANSWERED)
    assert not echo.perform(lab, BACK)
    lab.sysctl("net/ipv6/conf/inner/accept_dad", "0")
    lab.sysctl(setting, "0")
    try:
        wait_until(lambda: own in lab.addresses6(), "a link-local address that may be used")
        assert echo.perform(lab, BACK), "the anti-test: it answers, or asks who we are"
        for layer in ANSWERED:
            lab.without(set(ANSWERED) - {layer})
            assert not echo.perform(lab, BACK), layer
    finally:
        lab.sysctl(setting, "1")
        lab.without()


def test_calls_of_tor_tell_no_uptime(lab: Laboratory) -> None:
    """U7: no TCP timestamp, and the usual TTL."""
    uid = pwd.getpwnam(c.TOR_USER).pw_uid
    for value, expected in (("0", False), ("1", True)):
        lab.sysctl("net/ipv4/tcp_timestamps", value)
        (frame,) = Call((uid,), "tcp", (N1,), 443).perform(lab, LEFT)
        call = Ether(frame)
        assert ("Timestamp" in dict(call[TCP].options)) is expected
        assert call.payload.ttl == 64
    lab.sysctl("net/ipv4/tcp_timestamps", "0")


def test_without_a_lease_nothing_but_its_request_leaves() -> None:
    lab = Laboratory(Profile.TOR_GUEST, "tcp", dhcp=True)
    try:
        uid = pwd.getpwnam(c.TOR_USER).pw_uid
        lab.nft(lease_elements(None))
        call = Call((uid,), "tcp", (N1,), 443)
        lab.forget_neighbours()
        assert not call.perform(lab, LEFT)
        lab.forget_neighbours()
        lab.nft(lease_elements((c.UPLINK.ip, c.UPLINK_ROUTER)))
        assert call.perform(lab, LEFT)
    finally:
        lab.close()
