# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep the uplink's lease: ask, take what may be taken, ask again at half of its time.

``python3 -I -m tails_profiles.dhcp keep`` runs as long as the guest. Where nobody answers it says
so once and goes on asking: a cable may be plugged in later. A lease that may not be taken ends it.
However it ends, systemd then runs ``… stopped``, which leaves the uplink down and its table closed.
"""

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tails_profiles import lease, rule_files
from tails_profiles.announce import Announcement
from tails_profiles.command import Command
from tails_profiles.decision import decision_from_json
from tails_profiles.errors import CommandError, LeaseError, ProfilesError
from tails_profiles.lease import Lease, LeaseState
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.system import files, journal, nft
from tails_profiles.system.links import read_back_lease
from tails_profiles.system.process import run
from tails_profiles.system.serial import announce

log = logging.getLogger(__name__)

#: The host is told of the same trouble once, and again after a lease has been held.
ASKING = "asking for an address"
UNANSWERED = "nobody answers DHCP on the uplink; still asking"


@dataclass(slots=True)
class Keeper:
    """What is held now. ``until`` is when it ends, in seconds of the monotonic clock."""

    paths: Paths
    profile: Profile
    held: Lease | None = None
    until: float = 0.0
    told: bool = False

    def prepare(self) -> None:
        """Raise the uplink with nothing open but the way of a request.

        Raises RulesetRejectedError where the table of an uplink with a lease is not in the kernel.
        """
        nft.load(rule_files.lease_elements(None), "the uplink's table without a lease")
        _carry_out(*lease.drop_steps(), lease.up_step())
        self._record(None, ASKING)

    def ask(self) -> float:
        """Ask once; returns after how many seconds to ask again. Raises LeaseError."""
        try:
            answer = run(
                lease.request(str(self.paths.lease_hook)), timeout=lease.CLIENT_TIMEOUT
            ).stdout
        except CommandError as err:
            log.info("%s", err)
            return self._unanswered()
        self._take(lease.parse(answer))
        return self.held.renew_after if self.held else lease.RETRY

    def _take(self, new: Lease) -> None:
        if not new.same_network(self.held):
            self._withdraw()
            nft.load(rule_files.lease_elements((new.address.ip, new.router)), "the lease")
            _carry_out(*lease.take_steps(new))
            read_back_lease(new, "uplink")
            log.info("the lease is %s", new.describe())
        self.held, self.until, self.told = new, time.monotonic() + new.seconds, False
        self._record(new, new.describe())
        journal.notify(new.describe(), ready=True)

    def _unanswered(self) -> float:
        left = self.until - time.monotonic()
        if self.held and left > 0:
            return min(lease.RETRY, left)
        self._withdraw()
        if not self.told:
            self.told = True
            log.error("%s", UNANSWERED)
            self._record(None, UNANSWERED)
            announce(Announcement(self.profile, "failed", reason=LeaseError.reason), self.paths)
            journal.notify(UNANSWERED)
        return lease.RETRY

    def _withdraw(self) -> None:
        if self.held:
            log.info("the lease of %s is over", self.held.address)
            nft.load(rule_files.lease_elements(None), "the uplink's table without a lease")
            _carry_out(*lease.drop_steps())
            self.held = None

    def _record(self, held: Lease | None, note: str) -> None:
        files.write_json(self.paths.lease, LeaseState(held, note).to_json())


def _carry_out(*commands: Command) -> None:
    for command in commands:
        run(command)


def keep(paths: Paths, sleep: Callable[[float], None] = time.sleep) -> None:
    """Keep a lease until something raises."""
    keeper = Keeper(paths, _profile(paths))
    keeper.prepare()
    while True:
        sleep(keeper.ask())


def _profile(paths: Paths) -> Profile:
    value = files.read_json(paths.decision)
    if value is None or not (decision := decision_from_json(value)).dhcp:
        raise LeaseError(f"{paths.decision} does not say that a lease gives this guest its address")
    return decision.profile


def stopped(paths: Paths) -> None:
    """Put the uplink down, then close its table; whatever fails, the rest is done all the same."""
    attempts: tuple[Callable[[], None], ...] = (
        lambda: _carry_out(lease.down_step()),
        lambda: nft.load(rule_files.lease_elements(None), "the uplink's table without a lease"),
        lambda: _carry_out(*lease.drop_steps()),
    )
    for attempt in attempts:
        try:
            attempt()
        except ProfilesError as err:
            log.error("%s", err)  # noqa: TRY400 - the attempts are independent
    if os.environ.get("SERVICE_RESULT", "success") != "success":
        announce(Announcement(_profile(paths), "failed", reason=LeaseError.reason), paths)


def main(argv: list[str] | None = None, paths: Paths | None = None) -> int:
    """Run one of the two; returns the exit status, that of the error."""
    words = sys.argv[1:] if argv is None else argv
    actions: dict[str, Callable[[Paths], None]] = {"keep": keep, "stopped": stopped}
    if len(words) != 1 or words[0] not in actions:
        sys.stderr.write(f"usage: python3 -m tails_profiles.dhcp {'|'.join(actions)}\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[journal.handler()])
    where = paths or Paths()
    try:
        actions[words[0]](where)
    except ProfilesError as err:
        log.error("%s", err)  # noqa: TRY400 - an expected failure is one line
        files.write_json(where.lease, LeaseState(None, f"failed: {err}").to_json())
        return err.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
