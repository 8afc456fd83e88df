# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell the host how far a gateway's service is: ``starting``, percentages, ``ready``.

``python3 -I -m tails_profiles.progress`` runs beside Tor; it ends when Tor is ready, or
with a status other than 0 when Tor went away, and is then started anew by systemd.
"""

import logging
import sys
from collections.abc import Callable, Iterable

from tails_profiles.announce import Announcement
from tails_profiles.errors import ProfilesError
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.system import journal, tor, units
from tails_profiles.system.serial import announce

log = logging.getLogger(__name__)

TOR_UNIT = "tails-profiles-tor.service"


def announcements(percents: Iterable[int]) -> Iterable[Announcement]:
    """tor-guest's lines for a bootstrap: one for each percentage, and ``ready`` at its end."""
    yield Announcement(Profile.TOR_GUEST, "starting")
    for percent in percents:
        yield Announcement(Profile.TOR_GUEST, "tor", percent=percent)
    yield Announcement(Profile.TOR_GUEST, "ready")


def main(say: Callable[[Announcement, Paths], None] = announce) -> int:
    """Announce until Tor is ready, or that it gave up; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[journal.handler()])
    try:
        if units.properties(TOR_UNIT, "ActiveState").get("ActiveState") == "failed":
            log.error("%s has given up", TOR_UNIT)
            say(Announcement(Profile.TOR_GUEST, "failed", reason="tor"), Paths())
            return 0
        for announcement in announcements(tor.progress()):
            say(announcement, Paths())
            journal.notify(announcement.line().strip())
    except ProfilesError as err:
        log.error("%s", err)  # noqa: TRY400 - an expected failure is one line
        return err.exit_status
    log.info("Tor is ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
