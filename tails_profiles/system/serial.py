# SPDX-License-Identifier: GPL-3.0-or-later
"""Say one line to the host; that nobody listens, or that there is no port, changes nothing."""

import logging
import os

from tails_profiles.announce import Announcement
from tails_profiles.paths import Paths

log = logging.getLogger(__name__)


def announce(announcement: Announcement, paths: Paths) -> None:
    """Write one announcement to the first serial port, without waiting for anybody."""
    try:
        descriptor = os.open(
            paths.root / "dev/ttyS0", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        )
    except OSError as err:
        log.debug("no serial port: %s", err.strerror)
        return
    try:
        os.write(descriptor, announcement.line().encode("ascii"))
    except OSError as err:
        log.info("the serial port takes nothing: %s", err.strerror)
    finally:
        os.close(descriptor)
