# SPDX-License-Identifier: GPL-3.0-or-later
"""Every rule set as it ships is taken by nft, and refused whole where its account is missing."""

from pathlib import Path

import pytest

from tests.leaks.laboratory import run

pytestmark = pytest.mark.lab


def test_every_file_loads_twice_and_a_missing_account_loads_nothing(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden/rulesets"
    script = tmp_path / "load"
    script.write_text(
        "set -e\n"
        "for link in uplink inner tor i2p; do ip link add $link type veth peer name p$link; done\n"
        f"for file in {golden}/*.nft; do nft -f $file; nft -f $file; done\n"
        f"nft -f {golden}/lockdown.nft\n"
        "mount --make-rprivate /\n"
        f"grep -v debian-tor /etc/passwd > {tmp_path}/passwd\n"
        f"mount --bind {tmp_path}/passwd /etc/passwd\n"
        f"! nft -f {golden}/tor-guest-tcp.nft 2> {tmp_path}/err\n"
        f"grep -q 'does not exist' {tmp_path}/err\n"
        "nft list table inet tails_profiles | grep -q 'lo out'\n"
    )
    run("unshare", "--net", "--mount", "sh", str(script))
