# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets against the real rule sets of tor-guest, in network namespaces."""

import pwd
from collections.abc import Iterator

import pytest

from tails_profiles import constants as c
from tails_profiles.profile import Profile
from tests.leaks import attacks
from tests.leaks.laboratory import INET, Laboratory
from tests.leaks.probes import Call, Flow, Probe, Report, Result, passes, verify

pytestmark = pytest.mark.lab

#: By hand: what tor-guest serves, and ports beside it that a program might open.
TOR_PORTS = (9050, 9062, 9063, 9150, 951)
TOR = attacks.Gateway(Profile.TOR_GUEST, TOR_PORTS, (53, 5353))
TOR_UID = pwd.getpwnam(c.TOR_USER).pw_uid
PROBES = (
    *attacks.from_app(TOR),
    *attacks.users(TOR_UID),
    Probe("UDP of Tor's user", "P53", Call((TOR_UID,), "udp", (attacks.N1,), 443), attacks.LEFT,
          (INET, "uplink")),
)  # fmt: skip
FLOWS = (
    Flow("app-guest calls each of Tor's ports", attacks.inner(
        *(TOR.ip(TOR.own) / attacks.syn(port, sport=41000) for port in TOR_PORTS)),
         attacks.BACK, least=5),
    Flow("Tor calls the internet", Call((TOR_UID,), "tcp", (attacks.N1,), 443), attacks.LEFT),
)  # fmt: skip


@pytest.fixture(scope="module")
def lab() -> Iterator[Laboratory]:
    """tor-guest as it is by default."""
    made = Laboratory(Profile.TOR_GUEST, "tcp")
    made.listen(*TOR_PORTS, 22, 9040)
    yield made
    made.close()


@pytest.fixture(scope="module")
def results(lab: Laboratory, report: Report) -> dict[str, Result]:
    """All probes, verified."""
    found = verify(lab, PROBES)
    report.add(lab, found.values())
    return found


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.id)
def test_probe_is_stopped_by_each_of_its_layers(probe: Probe, results: dict[str, Result]) -> None:
    results[probe.id].check()


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_what_must_work_works(flow: Flow, lab: Laboratory) -> None:
    passes(lab, flow)
