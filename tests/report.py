# SPDX-License-Identifier: GPL-3.0-or-later
"""Sum up pytest's XML reports: one line a stage, what tests noted, what failed and why, what was
skipped, the total.

``python3 tests/report.py DIRECTORY``; prints, and judges nothing. It stands at the end of a run, so
that the end alone, which is what is kept of long outputs, says what failed.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

#: Lines of a failure that are said again: the last ones hold the error.
TOLD = 12


def main(directory: Path) -> None:
    """Print the sums of every report in ``directory``."""
    total = {"passed": 0, "failed": 0, "skipped": 0}
    failed: list[str] = []
    skipped: list[str] = []
    for path in sorted(directory.glob("*.xml"), key=lambda path: path.stat().st_mtime):
        counts = dict.fromkeys(total, 0)
        noted: dict[str, None] = {}
        for case in ET.parse(path).getroot().iter("testcase"):
            counts[_result(case)] += 1
            name = f"{case.get('classname')}::{case.get('name')}"
            for reason in (*case.findall("failure"), *case.findall("error")):
                lines = (reason.text or reason.get("message") or "").splitlines()
                failed += [f"FAILED {name}", *(f"    {line}" for line in lines[-TOLD:])]
            for each in case.iter("property"):
                noted[f"    {each.get('name')}: {each.get('value')}"] = None
            skipped += [
                f"not run: {name} ({reason.get('message')})" for reason in case.findall("skipped")
            ]
        print("\n".join((f"{path.stem:12} {_words(counts)}", *noted)))
        total = {key: total[key] + counts[key] for key in total}
    for line in (*failed, *skipped):
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
