# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of all probes, printed when the tests are through and kept below .build."""

import pickle
import subprocess
from pathlib import Path
from typing import Any

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
    if config.pluginmanager.has_plugin("dsession"):
        config.pluginmanager.register(_Collector(config.stash[_REPORT]))


class _Collector:
    """Where modules are shared among processes: brings what each has found into the one table."""

    def __init__(self, report: Report) -> None:
        self.report = report

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A process of pytest-xdist has ended; one that died has no output, and failed anyway."""
        found = getattr(node, "workeroutput", {}).get("leaks")
        if found is not None:
            self.report.merge(pickle.loads(found))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What one of several processes has found goes to the one with the table."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["leaks"] = pickle.dumps(session.config.stash[_REPORT])


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
