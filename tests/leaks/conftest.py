# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of all probes, printed when the tests are through and kept below .build."""

import subprocess
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from tails_profiles import constants as c
from tests.leaks.cases import Find
from tests.leaks.probes import Outcome, Report, carry_out

_REPORT = pytest.StashKey[Report]()
_TABLE = Path(__file__).parents[2] / ".build/leaks.txt"


def pytest_configure(config: pytest.Config) -> None:
    """One table for all modules."""
    config.stash[_REPORT] = Report()


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Report:
    """Where modules put their results: ``report.add(lab, results.values())``."""
    return request.config.stash[_REPORT]


@pytest.fixture(scope="module")
def outcome(request: pytest.FixtureRequest, report: Report) -> Find:
    """What was found about a case: its laboratory is built, asked and ended at the first use."""
    known: dict[str, Outcome] = {}

    def find(name: str) -> Outcome:
        if name not in known:
            known[name] = carry_out(request.module.CASES[name], report)
        return known[name]

    return find


@pytest.fixture(scope="session", autouse=True)
def _accounts() -> None:
    for user, package in ((c.TOR_USER, "tor"), (c.I2P_USER, "i2pd")):
        if subprocess.run(
            ["/usr/bin/getent", "passwd", user], capture_output=True, check=False
        ).returncode:
            pytest.fail(f"the account {user} is missing: install {package}")


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and keep it."""
    table = config.stash[_REPORT]
    if not table.rows:
        return
    terminalreporter.section("leaks")
    for line in table.lines():
        terminalreporter.write_line(line)
    _TABLE.parent.mkdir(exist_ok=True)
    _TABLE.write_text("\n".join(table.lines()) + "\n", encoding="utf-8")
