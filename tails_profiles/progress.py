# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell the host how far a gateway's service is: ``starting``, percentages, ``ready``.

``python3 -I -m tails_profiles.progress`` runs beside Tor or the I2P router; it ends when that is
ready (and I2P's list of names has come), or with a status other than 0 when Tor went away, and is
then started anew by systemd.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tails_profiles.announce import Announcement
from tails_profiles.errors import DetectionError, I2pError, ProfilesError
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.system import files, journal, units
from tails_profiles.system.serial import announce

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """What a gateway runs: its unit, its word on the serial port, and where percentages come from.

    ``progress`` ends with the service being ready, or yields None when it may have given up.
    ``after`` says what else is to be said once it is ready.
    """

    unit: str
    word: str
    progress: Callable[[Paths], Iterator[int | None]]
    after: Callable[[Paths], None] = lambda _: None


# Each gateway loads what it alone needs: what it takes to ask the other's service is most of all.
def _tor(_: Paths) -> Iterator[int | None]:
    from tails_profiles.system import tor  # noqa: PLC0415

    return iter(tor.progress())


def _i2p(paths: Paths) -> Iterator[int | None]:
    from tails_profiles import i2p_progress  # noqa: PLC0415

    return i2p_progress.progress(paths)


def _names(paths: Paths) -> None:
    from tails_profiles import i2p_progress  # noqa: PLC0415

    i2p_progress.watch_names(paths)


SERVICES: Mapping[Profile, Service] = MappingProxyType(
    {
        Profile.TOR_GUEST: Service("tails-profiles-tor.service", "tor", _tor),
        Profile.I2P_GUEST: Service("tails-profiles-i2p.service", "i2p", _i2p, _names),
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
    if announcement.word == "ready":
        service.after(where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
