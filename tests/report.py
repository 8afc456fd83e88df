# SPDX-License-Identifier: GPL-3.0-or-later
"""Sum up pytest's XML reports: one line a stage, what was skipped and why, and the total.

``python3 tests/report.py DIRECTORY``; prints, and judges nothing.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET


def main(directory: Path) -> None:
    """Print the sums of every report in ``directory``."""
    total = {"passed": 0, "failed": 0, "skipped": 0}
    skipped: list[str] = []
    for path in sorted(directory.glob("*.xml"), key=lambda path: path.stat().st_mtime):
        counts = dict.fromkeys(total, 0)
        for case in ET.parse(path).getroot().iter("testcase"):
            counts[_result(case)] += 1
            reason = case.find("skipped")
            if reason is not None:
                name = f"{case.get('classname')}::{case.get('name')}"
                skipped.append(f"not run: {name} ({reason.get('message')})")
        print(f"{path.stem:12}", _words(counts))
        total = {key: total[key] + counts[key] for key in total}
    for line in skipped:
        print(line)
    if any(total.values()):
        print(_words(total))


def _result(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {word}" for word, number in counts.items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
