# SPDX-License-Identifier: GPL-3.0-or-later
"""Real machines with one thing wrong: none sends a frame, the screen says why, the host is told."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.vm.cases import CASES, QUARANTINE, Case
from tests.vm.fixtures import EVIDENCE, kept_when_raised
from tests.vm.single import Single

pytestmark = pytest.mark.vm

#: Machines at once: one for each processor of the smallest machine that this runs on.
AT_ONCE = 2
ALL = {case.spec.name: case for case in CASES}


class Runner:
    """Runs the selected cases two at a time; a test waits for its own."""

    def __init__(self, names: list[str]) -> None:
        # On a path that QEMU's other user may enter.
        self.directory = Path(tempfile.mkdtemp(prefix="tp-vm-", dir="/var/tmp"))
        self._machines: list[Single] = []
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._verdicts: dict[str, Future[float]] = {
            name: self._pool.submit(self._judge, ALL[name]) for name in names
        }

    def _judge(self, case: Case) -> float:
        machine = Single(case.spec, self.directory / case.spec.name)
        self._machines.append(machine)
        with machine:
            return judge(case, machine)

    def result(self, name: str) -> float:
        """Its seconds of processor time, or what the case raised."""
        return self._verdicts[name].result()

    def close(self) -> None:
        """End the machines too, also those whose verdict nobody waits for any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for machine in self._machines:
            machine.cut_power()
        self._pool.shutdown()
        shutil.rmtree(self.directory)


@pytest.fixture(scope="module")
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    selected = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == Path(__file__) and isinstance(item, pytest.Function)
    ]
    made = Runner(selected)
    yield made
    made.close()


def judge(case: Case, machine: Single) -> float:
    """See that a boot ends as it must; returns its seconds of processor time."""
    with kept_when_raised(machine.keep_evidence, EVIDENCE / machine.name):
        in_quarantine(machine, case)
        case.then(machine)
        seconds = machine.cpu_seconds()
        machine.finish()
        for link in machine.links:
            frames = machine.frames(link)
            assert frames == [], f"{link}: {[frame.summary() for frame in frames]}"
    return seconds


def shown(text: str, case: Case) -> bool:
    """Whether the case's words are on the screen, wherever its lines were broken."""
    flat = "".join(text.split())
    return all("".join(words.split()) in flat for words in case.screen)


def in_quarantine(machine: Single, case: Case) -> None:
    """Quarantine alone: no link, no getty, no desktop; words on the screen and for the host."""
    if case.host is not None:
        machine.wait_for_words(f"quarantine failed {case.host}")
    machine.wait_for_target(QUARANTINE, 600)
    assert machine.links_up() == []
    for unit in ("getty@tty1.service", "display-manager.service", "NetworkManager.service"):
        assert not machine.is_active(unit), unit
    screen = machine.console_text()
    assert "QUARANTINE" in screen, screen
    assert shown(screen, case), screen


@pytest.mark.parametrize("name", ALL)
def test_nothing_leaves_and_the_screen_says_why(
    name: str, runner: Runner, record_property: Callable[[str, object], None]
) -> None:
    record_property("processor time of the machine", f"{runner.result(name):.0f} s")
