# SPDX-License-Identifier: GPL-3.0-or-later
"""The two boot steps in order: first the rule set, then the links.

Whatever goes wrong ends in a non-zero status, which systemd answers with quarantine. Neither step
undoes anything: what was loaded before a failure is lockdown, which stays.
"""

import logging
import sys
from collections.abc import Callable

from tails_profiles.announce import Announcement
from tails_profiles.errors import ProfilesError
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.system import files, journal
from tails_profiles.system.serial import announce

log = logging.getLogger(__name__)


# Each step is a process of its own, and loads what it alone needs: on the slowest machine that we
# measured everything together takes a second longer.
def _firewall(paths: Paths) -> None:
    from tails_profiles import firewall_step  # noqa: PLC0415

    firewall_step.run(paths)


def _links(paths: Paths) -> None:
    from tails_profiles import links_step  # noqa: PLC0415

    links_step.run(paths)


def fail(step: str, err: BaseException, paths: Paths) -> int:
    """Say what went wrong in the journal, to the console's file and to the host."""
    expected = isinstance(err, ProfilesError)
    message = str(err) if expected else f"{type(err).__name__}: {err}"
    hint = err.hint if isinstance(err, ProfilesError) else "this is a mistake in tails-profiles"
    reason = (err.reason if isinstance(err, ProfilesError) else None) or _REASONS[step]
    log.error(
        "%s: %s", step, message, exc_info=None if expected else err,
        extra={"MESSAGE_ID": journal.FAILED_ID, "TAILS_PROFILES_STEP": step},
    )  # fmt: skip
    try:
        files.write_json(
            paths.failure, {"step": step, "message": message, "hint": hint, "reason": reason}
        )
    except OSError as second:
        log.error("the failure cannot be recorded: %s", second)  # noqa: TRY400
    announce(Announcement(Profile.QUARANTINE, "failed", reason=reason), paths)
    return err.exit_status if isinstance(err, ProfilesError) else 1


# What the host is told where the error itself does not say.
_REASONS = {"firewall": "ruleset", "links": "links"}

STEPS: dict[str, Callable[[Paths], None]] = {"firewall": _firewall, "links": _links}


def main(argv: list[str] | None = None, paths: Paths | None = None) -> int:
    """Run one step by its name; returns the exit status, 0 or that of the error."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1 or words[0] not in STEPS:
        sys.stderr.write(f"usage: python3 -m tails_profiles.boot {'|'.join(STEPS)}\n")
        return 2
    logging.basicConfig(level=logging.INFO, handlers=[journal.handler()])
    where = paths or Paths()
    try:
        STEPS[words[0]](where)
    # Everything: whatever goes wrong on this path must end in quarantine, with words.
    except Exception as err:  # noqa: BLE001
        return fail(words[0], err, where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
