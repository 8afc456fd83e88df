# SPDX-License-Identifier: GPL-3.0-or-later
"""The real VirtualBox, in a Debian unstable root directory of its own; kept by content.

``python3 -m tests.virtualbox.root`` makes it. Stable Debian has no VirtualBox, and nothing of it is
installed on the machine that runs the tests.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parents[2] / ".build"
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
    key = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:16]
    made = BUILD / f"virtualbox-{key}"
    if made.is_dir():
        return made
    part = BUILD / f"virtualbox-{key}.part"
    if part.exists():
        _run("rm", "-rf", "--one-file-system", str(part))
    print("making a Debian unstable root directory with VirtualBox, about a minute", flush=True)
    # In its own mount namespace: whatever mmdebstrap mounts ends with it.
    _run(
        "unshare", "--mount", "--propagation", "private", "mmdebstrap", "--mode=root", "--quiet",
        "--variant=apt", "--components=main,contrib",
        # Unstable has no releases: what a mirror has may be older than its date allows.
        '--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Apt::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*", f"--include={','.join(PACKAGES)}",
        SUITE, str(part),
    )  # fmt: skip
    part.rename(made)
    return made


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    tree()
    sys.exit(0)
