# SPDX-License-Identifier: GPL-3.0-or-later
"""The cross-check with python-dmidecode where the library truly answers, in boots and directly."""

import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.sabotage.boot import TOR_LINKS, Boot, Machine
from tests.sabotage.expect import TOR, quarantined
from tests.sabotage.root import TOP
from tests.sabotage.smbios import memory, tables

pytestmark = [pytest.mark.lab, pytest.mark.boots]

TOKEN = b"tails-profile:tor-guest"
AGREEING = tables(TOKEN, TOKEN)
DMIDECODE = "usr/lib/python3/dist-packages/dmidecode.py"


def said(boot: Boot) -> str:
    return boot.succeed("journalctl --output=cat --identifier=tails-profiles")


def is_tor_guest(boot: Boot) -> bool:
    boot.wait_until_settled()
    return sorted(boot.links_up()) == ["inner", "uplink"]


def test_tables_that_agree_pass_and_are_logged(work: Path) -> None:
    with Boot(Machine(dmi=TOR, links=TOR_LINKS, tables=AGREEING), work) as boot:
        assert is_tor_guest(boot), boot.journal()
        assert "dmidecode agrees on bios_vendor and product_serial" in said(boot)


@pytest.mark.parametrize(
    ("disagreeing", "field"),
    [
        (tables(b"SeaBIOS", TOKEN), "bios_vendor"),
        pytest.param(tables(TOKEN, b"0"), "product_serial", marks=pytest.mark.broad),
        pytest.param(
            tables(b"tails-profile:app-guest", TOKEN), "bios_vendor", marks=pytest.mark.broad
        ),
        pytest.param(tables(TOKEN + b"x", TOKEN), "bios_vendor", marks=pytest.mark.broad),
        pytest.param(tables(TOKEN, b""), "product_serial", marks=pytest.mark.broad),
    ],
)
def test_tables_that_disagree_end_in_quarantine_naming_the_field(
    disagreeing: tuple[bytes, bytes], field: str, work: Path
) -> None:
    with Boot(Machine(dmi=TOR, links=TOR_LINKS, tables=disagreeing), work) as boot:
        quarantined(boot, field, "dmidecode", reason="token")


def test_without_memory_the_library_says_nothing_and_that_is_logged(work: Path) -> None:
    # Were it to answer all the same, these tables would end in quarantine.
    machine = Machine(dmi=TOR, links=TOR_LINKS, tables=tables(b"x", b"y"), memory=False)
    with Boot(machine, work) as boot:
        assert is_tor_guest(boot), boot.journal()
        assert "dmidecode gave no answer (no /dev/mem, or no DMI)" in said(boot)


def test_without_the_library_the_kernel_decides_and_that_is_logged(work: Path) -> None:
    machine = Machine(dmi=TOR, links=TOR_LINKS, tables=tables(b"x", b"y"), files={DMIDECODE: None})
    with Boot(machine, work) as boot:
        assert is_tor_guest(boot), boot.journal()
        assert "python3-dmidecode is not installed" in said(boot)


# The very function, in a mount namespace in which the library finds the tables of the test.
DIRECTLY = r"""
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /sys/firmware
mkdir -p /sys/firmware/dmi
cp -R "$1" /sys/firmware/dmi/tables
mount -t tmpfs -o mode=755 tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/urandom c 1 9
cp "$1.mem" /dev/mem
exec /usr/bin/python3 -c "$2"
"""


@pytest.mark.parametrize(
    ("there", "answer"),
    [
        (AGREEING, "True dmidecode agrees on bios_vendor and product_serial"),
        (tables(b"SeaBIOS", TOKEN), "DmiContradictionError bios_vendor"),
        (tables(TOKEN, b"0"), "DmiContradictionError product_serial"),
        # The library shows what it does not like as dots, and cuts nothing.
        (tables(TOKEN, TOKEN + b"\x01"), "DmiContradictionError product_serial"),
    ],
)
def test_library_answers_from_tables(
    there: tuple[bytes, bytes], answer: str, tmp_path: Path
) -> None:
    directory = tmp_path / "tables"
    directory.mkdir()
    for name, content in zip(("smbios_entry_point", "DMI"), there, strict=True):
        (directory / name).write_bytes(content)
    (tmp_path / "tables.mem").write_bytes(memory(*there))
    script = textwrap.dedent(f"""
        from tails_profiles.errors import DmiContradictionError
        from tails_profiles.selection import DmiFields, FieldReading
        from tails_profiles.system.dmi import cross_check
        token = {TOKEN!r} + b"\\n"
        fields = DmiFields(FieldReading("bios_vendor", token),
                           FieldReading("product_serial", token),
                           FieldReading("chassis_asset_tag"))
        try:
            checked = cross_check(fields)
            print(checked.answered, checked.note)
        except DmiContradictionError as err:
            print(type(err).__name__, err.field)
    """)
    done = subprocess.run(
        ["unshare", "--mount", "/bin/sh", "-c", DIRECTLY, "sh", directory, script],
        capture_output=True, text=True, check=False, cwd=TOP, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == answer, done.stderr
