# SPDX-License-Identifier: GPL-3.0-or-later
"""What each program of a guest's boot loads: most of what it costs is Python reading modules.

The lists hold what was measured as dear and is not needed there; in brackets what it takes of the
190 to 270 million instructions (Python 3.11) of a step.
"""

import subprocess
import sys

import pytest

from tests.unit.test_boundaries import TOP

pytestmark = pytest.mark.allow_processes

#: Of every step: the command line, the policy that rule sets are rendered from, the launcher.
NOWHERE = {
    "argparse",
    "asyncio",
    "jinja2",
    "tempfile",  # [11], with shutil and its compressors
    "tails_profiles.cli",
    "tails_profiles.firewall",  # [60]
    "tails_profiles.launch",
    "tails_profiles.ruleset",
}
#: What becomes of the settings: [110] together.
SETTINGS = {
    "tails_profiles.i2pd",
    "tails_profiles.settings",
    "tails_profiles.shares",
    "tails_profiles.status",
    "tails_profiles.torrc",
}
STEPS = {
    "tails_profiles.firewall_step": {"tails_profiles.links", "tails_profiles.status"},
    "tails_profiles.links_step": {"hashlib", "tails_profiles.system.dmi", *SETTINGS},
    "tails_profiles.system.tor": {"hashlib", "tails_profiles.links", *SETTINGS},
}
#: The program of the unit, which loads the step.
PROGRAMS = {"tails_profiles.system.tor": "tails_profiles.progress"}


def loaded(*modules: str) -> set[str]:
    """What a fresh interpreter has after importing these."""
    code = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, cwd=TOP
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("step", STEPS)
def test_step_of_a_boot_loads_nothing_that_it_does_not_use(step: str) -> None:
    found = loaded(PROGRAMS.get(step, "tails_profiles.boot"), step)
    assert step in found
    assert not found & (NOWHERE | STEPS[step])


@pytest.mark.parametrize("program", ["tails_profiles.boot", "tails_profiles.progress"])
def test_program_loads_no_step_before_it_knows_which(program: str) -> None:
    found = loaded(program)
    assert not found & {*STEPS, "tails_profiles.i2p_progress", *SETTINGS}


def test_what_may_not_be_loaded_would_be_seen() -> None:
    assert NOWHERE - {"asyncio", "jinja2"} <= loaded("tails_profiles.cli")
    assert SETTINGS | {"hashlib"} <= loaded("tails_profiles.cli")
