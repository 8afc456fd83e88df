# SPDX-License-Identifier: GPL-3.0-or-later
"""The real VirtualBox, in a Debian unstable root directory of its own; kept by content.

``python3 -m tests.virtualbox.root`` makes it. Stable Debian has no VirtualBox, and nothing of it is
installed on the machine that runs the tests.
"""

import sys
from pathlib import Path

from tests.sabotage.root import debian

SUITE = "sid"
#: ``virtualbox`` has VBoxManage and VBoxSVC; ``virtualbox-qt`` has VirtualBoxVM, the only front end
#: that runs a machine without the kernel driver; it needs a screen. The rest is what our own
#: launcher runs there.
PACKAGES = (
    "iproute2", "mount", "nftables", "procps", "python3", "python3-jinja2", "systemd", "util-linux",
    "virtualbox", "virtualbox-qt", "xvfb",
)  # fmt: skip


def tree() -> Path:
    """The root directory; made when it is missing (about a minute, 1 GB)."""
    # Unstable has no releases: what a mirror has may be older than its date allows.
    options = ('--aptopt=Acquire::Check-Valid-Until "false"',)
    return debian("virtualbox", SUITE, PACKAGES, "main,contrib", options)


if __name__ == "__main__":
    tree()
    sys.exit(0)
