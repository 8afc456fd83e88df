# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands before a program so that it runs as a guest's user: unshare(1) and setpriv(1).

It runs machines where there is no systemd, and VBoxManage everywhere.
"""

from tails_profiles.constants import APP_USER, GATEWAY_USER
from tails_profiles.profile import Profile


def as_user(profile: Profile, *, groups: str = "", dropped: str = "-all") -> tuple[str, ...]:
    """A guest's user and nothing of who started it, in the network namespace that user has.

    ``groups`` are further ones, with commas between. ``dropped`` is the bounding set as setpriv(1)
    takes it; other than ``-all`` is for a program that is set-user-id, which must then be able to
    gain privileges.
    """
    user = GATEWAY_USER if profile.is_gateway else APP_USER
    return (
        # app-guest's has no network, whoever escapes into it: an empty network namespace. Gateways
        # stay in this one, under the host's rule set.
        *(() if profile.is_gateway else ("/usr/bin/unshare", "--net")),
        "/usr/bin/setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        f"--groups={groups}" if groups else "--clear-groups",
        f"--bounding-set={dropped}",
        "--inh-caps=-all",
        *(("--no-new-privs",) if dropped == "-all" else ()),
        # Whoever started this: the session, its keys and its agents.
        "--reset-env",
        "--",
    )


def machine(
    profile: Profile, umask: str, *, groups: str = "", dropped: str = "-all"
) -> tuple[str, ...]:
    """The same for a guest's machine. No core files: they would hold guest memory."""
    limits = f'umask {umask}; ulimit -c 0; exec "$@"'
    return (
        *("/bin/sh", "-c", limits, profile.value),
        *as_user(profile, groups=groups, dropped=dropped),
    )
