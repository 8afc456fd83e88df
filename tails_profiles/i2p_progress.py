# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the I2P router is, again and again: it tells nobody by itself."""

import logging
import time
from collections.abc import Callable, Iterator

from tails_profiles.announce import REPEAT
from tails_profiles.errors import I2pError
from tails_profiles.i2pd import ROUTERS_WANTED, Heard
from tails_profiles.paths import Paths
from tails_profiles.status import I2pStatus
from tails_profiles.system import i2p

log = logging.getLogger(__name__)

#: Seconds between two looks.
INTERVAL = 2.0
#: The same while nobody waits: the router asks for names three minutes after its start.
NAMES_INTERVAL = 10.0


def progress(
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
        if state.percent == 100 or (state.known or 0) >= ROUTERS_WANTED:
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


def watch_names(
    paths: Paths,
    sleep: Callable[[float], None] = time.sleep,
    listen: Callable[[], Heard] | None = None,
) -> None:
    """Say what becomes of the list of names, until one has come.

    On the first screen and in the journal: without names the router serves all the same, and the
    host's channel has no word for less than ready.
    """
    told = None
    listen = listen or i2p.Watch(paths).heard
    while not (heard := listen()).names:
        told = _tell(heard.names_note, told)
        sleep(NAMES_INTERVAL)
    _tell(heard.names_note, told)


def _tell(note: str | None, told: str | None) -> str | None:
    if note is not None and note != told:
        log.warning("%s", note)
    return note
