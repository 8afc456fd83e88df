# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell the host how far a gateway's service is: ``starting``, percentages, ``ready``.

``python3 -I -m tails_profiles.progress`` runs beside Tor or the I2P router; it ends when that is
ready, or with a status other than 0 when Tor went away, and is then started anew by systemd.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tails_profiles.announce import REPEAT, Announcement
from tails_profiles.errors import DetectionError, I2pError, ProfilesError
from tails_profiles.i2pd import ROUTERS_WANTED
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.status import I2pStatus
from tails_profiles.system import files, i2p, journal, tor, units
from tails_profiles.system.serial import announce

log = logging.getLogger(__name__)

#: Seconds between two looks at the I2P router, which tells nobody by itself.
INTERVAL = 2.0


@dataclass(frozen=True, slots=True)
class Service:
    """What a gateway runs: its unit, its word on the serial port, and where percentages come from.

    ``progress`` ends with the service being ready, or yields None when it may have given up.
    """

    unit: str
    word: str
    progress: Callable[[Paths], Iterator[int | None]]


def i2p_progress(
    paths: Paths,
    sleep: Callable[[float], None] = time.sleep,
    watch: Callable[[], I2pStatus] | None = None,
) -> Iterator[int | None]:
    """Every change of the router's percentage, and the same again after ``REPEAT`` seconds, until
    it is 100; None while it does not listen.

    Raises I2pError when it knows nobody and found nobody.
    """
    last, looks = -1, 0
    look = watch or i2p.Watch(paths).state
    while last < 100:
        state = look()
        if not state.listening:
            yield None
        if state.is_refused:
            raise I2pError(state.note)
        if state.known is not None and state.known >= ROUTERS_WANTED:
            i2p.forget_names(paths)
        if state.percent != last:
            last, looks = state.percent, 0
            log.info("%s", state.note)
            yield last
        elif looks * INTERVAL >= REPEAT:
            looks = 0
            yield last
        if last < 100:
            looks += 1
            sleep(INTERVAL)


SERVICES: Mapping[Profile, Service] = MappingProxyType(
    {
        Profile.TOR_GUEST: Service(
            "tails-profiles-tor.service", "tor", lambda _: iter(tor.progress())
        ),
        Profile.I2P_GUEST: Service(i2p.UNIT, "i2p", i2p_progress),
    }
)


def announcements(
    profile: Profile, percents: Iterable[int | None], has_failed: Callable[[], bool]
) -> Iterator[Announcement]:
    """A gateway's lines: one for each percentage, repeated or not, and ``ready`` at their end.

    At a None it is asked whether the service has given up: then ``failed``, and nothing more.
    """
    word = SERVICES[profile].word
    yield Announcement(profile, "starting")
    for percent in percents:
        if percent is not None:
            yield Announcement(profile, word, percent=percent)
        elif has_failed():
            yield Announcement(profile, "failed", reason=word)
            return
    yield Announcement(profile, "ready")


def _profile(paths: Paths) -> Profile:
    selection = files.read_json(paths.selection) or {}
    for profile in SERVICES:
        if selection.get("profile") == profile:
            return profile
    raise DetectionError(f"{paths.selection} names no gateway")


def main(say: Callable[[Announcement, Paths], None] = announce, paths: Paths | None = None) -> int:
    """Announce until the service is ready, or that it gave up; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[journal.handler()])
    where = paths or Paths()
    try:
        profile = _profile(where)
        service = SERVICES[profile]

        def has_failed() -> bool:
            state = units.properties(service.unit, "ActiveState").get("ActiveState")
            return state == "failed"

        if has_failed():
            log.error("%s has given up", service.unit)
            say(Announcement(profile, "failed", reason=service.word), where)
            return 0
        for announcement in announcements(profile, service.progress(where), has_failed):
            say(announcement, where)
            journal.notify(announcement.line().strip())
    except I2pError as err:
        # The router goes on, and would for ever: nothing comes to it by itself.
        log.error("%s", err)  # noqa: TRY400 - an expected failure is one line
        say(Announcement(profile, "failed", reason=service.word), where)
        return 0
    except ProfilesError as err:
        log.error("%s", err)  # noqa: TRY400 - an expected failure is one line
        return err.exit_status
    log.info("%s: %s", service.unit, announcement.word)
    return 0


if __name__ == "__main__":
    sys.exit(main())
