# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipes in the hands of the programs that they are for: nft, libvirt's schema.

VirtualBox has its own, in tests/virtualbox.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tails_profiles import recipe
from tails_profiles.profile import GUESTS, Profile

TIME_LIMIT = 60 * float(os.environ.get("TAILS_PROFILES_TIME_FACTOR", "1"))

pytestmark = pytest.mark.lab

needs_libvirt = pytest.mark.skipif(
    shutil.which("virt-xml-validate") is None, reason="needs virt-xml-validate (libvirt-clients)"
)


def run(argv: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # type: ignore[call-overload]
        argv, capture_output=True, text=True, timeout=TIME_LIMIT, check=False, **options
    )


def test_rules_for_a_gateway_made_by_hand_load(tmp_path: Path) -> None:
    lines = recipe.recipe(Profile.TOR_GUEST, "qemu", "vm").splitlines()
    begin = lines.index("#   nft -f - <<'END'") + 1
    rules = "\n".join(line.removeprefix("#   ") for line in lines[begin : lines.index("#   END")])
    assert "fib daddr type local counter drop" in rules
    done = run(["unshare", "--net", "nft", "-c", "-f", "-"], input=rules.replace("USER", "nobody"))
    assert (done.returncode, done.stderr) == (0, "")


@needs_libvirt
@pytest.mark.parametrize("firmware", recipe.FIRMWARES)
@pytest.mark.parametrize("profile", GUESTS)
def test_domain_is_what_libvirts_schema_asks_for(
    profile: Profile, firmware: str, tmp_path: Path
) -> None:
    domain = tmp_path / "domain.xml"
    domain.write_text(recipe.recipe(profile, "libvirt", "my <vm>", firmware))
    done = run(["virt-xml-validate", str(domain), "domain"])
    assert done.returncode == 0, done.stderr


@needs_libvirt
def test_schema_refuses_a_broken_domain(tmp_path: Path) -> None:
    domain = tmp_path / "domain.xml"
    text = recipe.recipe(Profile.TOR_GUEST, "libvirt", "vm")
    domain.write_text(text.replace("<readonly/>", "<read-only/>"))
    assert run(["virt-xml-validate", str(domain), "domain"]).returncode != 0
