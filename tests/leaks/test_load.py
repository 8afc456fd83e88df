# SPDX-License-Identifier: GPL-3.0-or-later
"""Every rule set as it ships is taken by nft, and refused whole where its account is missing.

By this machine's nft, and by those of both Debians: their syntax grew between 1.0.6 and 1.1.
"""

import re
from pathlib import Path

import pytest

from tests.leaks.laboratory import run
from tests.sabotage.root import SUITES, base

pytestmark = pytest.mark.lab

GOLDEN = Path(__file__).parents[1] / "golden/rulesets"
#: What each Debian has at least: a root directory with another one proves nothing of it.
VERSIONS = {"bookworm": "1.0.6", "trixie": "1.1."}

# $1 is the root directory, $2 the rule sets, $3 an empty directory for what is said. The root
# directory stays as it is: what is put there lies on mounts of this namespace.
LOAD = """
set -eu
root=$1 rules=$2 said=$3
for link in uplink inner tor i2p; do ip link add $link type veth peer name p$link; done
mount --make-rprivate /
grep -v -e ^debian-tor: -e ^i2pd: "$root/etc/passwd" >"$said/passwd"
mount --bind "$rules" "${root%/}/mnt"
cd /
nft() { chroot "$root" nft "$@"; }
for file in "$rules"/*.nft; do
    file=/mnt/${file##*/}
    nft -f "$file" || { echo "$file"; exit 1; }
    nft list ruleset >"$said/once"
    nft -f "$file"
    nft list ruleset >"$said/twice"
    # Loading twice is loading once; no packet comes by that would be counted.
    cmp "$said/once" "$said/twice"
done
nft -f /mnt/lockdown.nft
nft list ruleset >"$said/before"
mount --bind "$said/passwd" "${root%/}/etc/passwd"
for file in tor-guest-tcp i2p-guest; do
    if nft -f "/mnt/$file.nft" 2>"$said/error"; then echo "$file was loaded"; exit 1; fi
    grep -q 'does not exist' "$said/error"
done
nft list ruleset >"$said/after"
cmp "$said/before" "$said/after"
grep -q 'lo out' "$said/after"
"""


@pytest.mark.parametrize("suite", [None, *SUITES], ids=lambda suite: suite or "this-machine")
def test_every_file_loads_twice_and_a_missing_account_loads_nothing(
    suite: str | None, tmp_path: Path
) -> None:
    root = Path("/") if suite is None else base(suite)
    if suite is not None:
        version = re.search(r"v([0-9.]+)", run("chroot", str(root), "nft", "--version"))
        assert version
        assert version[1].startswith(VERSIONS[suite])
    run(
        "unshare", "--net", "--mount", "sh", "-c", LOAD, "load", str(root), str(GOLDEN),
        str(tmp_path),
    )  # fmt: skip
