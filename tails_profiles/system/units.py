# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask systemd about units."""

from tails_profiles.command import Command
from tails_profiles.system.process import run

SYSTEMCTL = "/usr/bin/systemctl"


def is_active_or_starting(unit: str) -> bool:
    """Whether a unit is active, or has a job that will start it (org.freedesktop.systemd1(5))."""
    facts = properties(unit, "ActiveState", "Job")
    if facts.get("ActiveState") in {"active", "activating"}:
        return True
    job = facts.get("Job", "")
    return job not in {"", "0"} and _job_type(job) == "start"


def properties(unit: str, *names: str) -> dict[str, str]:
    """Some properties of a unit, as systemctl prints them."""
    done = run(Command((SYSTEMCTL, "show", f"--property={','.join(names)}", "--", unit)))
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _job_type(number: str) -> str:
    done = run(Command((SYSTEMCTL, "list-jobs", "--no-legend", "--no-pager", "--full")))
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == number:
            return words[2]
    return ""
