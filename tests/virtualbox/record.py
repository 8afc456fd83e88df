# SPDX-License-Identifier: GPL-3.0-or-later
"""What the real VirtualBox says of machines that the recipe made, kept for tests without it.

``python3 -m tests.virtualbox.record`` writes tests/data/virtualbox anew; read the difference. A
test compares what the real one says now. Recorded in November 2026 with 7.2.22_Debianr175245.
"""

import re
from pathlib import Path

from tails_profiles import recipe
from tails_profiles.profile import GUESTS, Profile
from tests.virtualbox.world import MACHINES, VirtualBox

RECORDS = Path(__file__).parents[1] / "data/virtualbox"
#: What is another in each machine, and what stands for it.
_DRAWN = (
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-(?!(746f72|693270|617070)000001)[0-9a-f]{12}",
     "00000000-0000-4000-8000-000000000000"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?", "2026-01-01T00:00:00"),
    (r"(biossystemtimeoffset=|<TimeOffset value=\")-?[1-9]\d*", r"\g<1>1234"),
    # Which of the two depends on whether its service has begun anew meanwhile.
    (r"localhostReachable=\"[01]\"", "localhostReachable=\"1\""),
    (r"(Written by VirtualBox ).*", r"\g<1>7.2"),
)  # fmt: skip


def make(box: VirtualBox, profile: Profile, name: str, firmware: str = "bios") -> None:
    """A machine from nothing but what the recipe says, with an image that is none."""
    box.path("/tmp/IMAGE.iso").write_bytes(bytes(1 << 20))
    text = recipe.recipe(profile, "virtualbox", name, firmware)
    done = box.run("env", "-C", "/tmp", "bash", "-e", stdin=text)
    assert done.returncode == 0, done.stderr


def settings_file(profile: Profile) -> Path:
    """Of a machine that is named as its profile, inside."""
    return MACHINES / profile / f"{profile}.vbox"


def said(box: VirtualBox, profile: Profile) -> dict[str, str]:
    """The answer and the file of one machine, by their records' suffixes; nothing drawn is left."""
    texts = {
        "info": box.manage("showvminfo", profile, "--machinereadable"),
        "vbox": box.path(settings_file(profile)).read_text(),
    }
    for pattern, constant in _DRAWN:
        texts = {name: re.sub(pattern, constant, text) for name, text in texts.items()}
    return texts


if __name__ == "__main__":
    RECORDS.mkdir(exist_ok=True)
    with VirtualBox() as made:
        for each in GUESTS:
            make(made, each, each.value)
            for suffix, text in said(made, each).items():
                (RECORDS / f"{each}.{suffix}").write_text(text)
