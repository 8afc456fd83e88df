# SPDX-License-Identifier: GPL-3.0-or-later
"""The second boot step: match, prepare and raise the links of the decided profile.

It is a process of its own, and imports no more than it does: see tests/unit/test_imports.py.
"""

import logging
from collections.abc import Callable
from typing import Any

from tails_profiles import links
from tails_profiles.announce import Announcement
from tails_profiles.decision import Decision, decision_from_json
from tails_profiles.errors import LinkError
from tails_profiles.paths import Paths
from tails_profiles.patience import patience
from tails_profiles.rule_files import DHCP_LINK, file_name
from tails_profiles.system import files, journal, nft
from tails_profiles.system import links as link_edge
from tails_profiles.system.serial import announce

log = logging.getLogger(__name__)


def run(paths: Paths) -> None:
    """Match, prepare and raise the links of the decided profile."""
    value = files.read_json(paths.decision)
    if value is None:
        raise LinkError(f"{paths.decision} cannot be read: the firewall step did not finish")
    decision = decision_from_json(value)

    def absent(found: Any) -> frozenset[str]:  # noqa: ANN401 - an iterable of links
        return links.missing(decision.profile, found, i2p_promised=decision.i2p_promised)

    journal.notify("waiting for links")
    try:
        found = link_edge.wait_for_links(absent, patience())
        plan = links.plan(
            decision.profile, found, i2p_promised=decision.i2p_promised, dhcp=decision.dhcp,
            offline=decision.offline,
        )  # fmt: skip
    except BaseException:
        # Those of an earlier run are up.
        link_edge.put_down(paths)
        raise
    link_edge.apply(plan, table_loader(decision, paths), paths)
    names = [link.name for link in plan.links]
    log.info("links are up: %s", ", ".join(names), extra={"MESSAGE_ID": journal.LINKS_ID})
    files.write_json(
        paths.status, {**(files.read_json(paths.status) or {}), "stage": "links", "links": names}
    )
    if decision.profile.is_gateway:
        announce(Announcement(decision.profile, "firewall"), paths)


def table_loader(decision: Decision, paths: Paths) -> Callable[[str], None]:
    """What loads the table of one link, with the elements that this start adds to it."""

    def load(table: str) -> None:
        name = file_name(decision.profile, decision.variant, table)
        link = "uplink" if table == DHCP_LINK else table
        elements = decision.elements(link) if link == "uplink" else ""
        nft.load(nft.read(name, paths) + elements, name)

    return load
