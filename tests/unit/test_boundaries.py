# SPDX-License-Identifier: GPL-3.0-or-later
"""What may import what, which lists must agree, and what the units promise."""

import ast
from pathlib import Path

import pytest

from tails_profiles.profile import PROFILES

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "tails_profiles"
LIBRARIES = {"dmidecode", "qemu", "pyudev", "stem", "systemd", "jinja2", "subprocess"}
PURE = (
    "announce",
    "bridges",
    "command",
    "constants",
    "errors",
    "firewall",
    "launch",
    "launch_steps",
    "lease",
    "libvirt",
    "links",
    "paths",
    "profile",
    "qemu",
    "recipe",
    "selection",
    "session",
    "settings",
    "settings_disk",
    "status",
    "torrc",
    "usage",
    "virtualbox",
)
STEPS = ("lockdown", "firewall", "links")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_library_is_imported_by_exactly_one_module(library: str) -> None:
    users = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imports(path))
    ]
    assert len(users) == 1, users


@pytest.mark.parametrize("module", PURE)
def test_pure_module_touches_nothing(module: str) -> None:
    assert not any(
        name.startswith("tails_profiles.system") for name in imports(PACKAGE / f"{module}.py")
    )
    assert not imports(PACKAGE / f"{module}.py") & {"os", "socket", "time", "tempfile", *LIBRARIES}


def test_lists_of_held_units_are_those_of_the_profile_table() -> None:
    files = {path.name: set(path.read_text().split()) for path in (TOP / "units/held").iterdir()}
    assert files == {row.profile.value: set(row.held) for row in PROFILES.values() if row.held}


def test_every_held_unit_has_the_drop_in_that_holds_it() -> None:
    for unit in {unit for row in PROFILES.values() for unit in row.held}:
        text = (TOP / f"units/dropins/{unit}.d/50-tails-profiles.conf").read_text()
        assert f"ConditionPathExists=!/run/tails-profiles/held/{unit}\n" in text
        assert "tails-profiles-lockdown.service" in text


def test_drop_in_that_requires_one_step_requires_all_three_in_order() -> None:
    required = 0
    for path in (TOP / "units/dropins").glob("*/*.conf"):
        lines = path.read_text().splitlines()
        assert not any(line.startswith("Exec") for line in lines)
        if any(line.startswith("Requires=") for line in lines):
            required += 1
            for key in ("Requires", "After"):
                names = " ".join(f"tails-profiles-{step}.service" for step in STEPS)
                assert f"{key}={names}" in lines
    assert required >= 11


@pytest.mark.parametrize("step", STEPS)
def test_step_carries_no_condition_that_could_be_false_in_a_guest_and_no_stop(step: str) -> None:
    text = (TOP / f"units/tails-profiles-{step}.service").read_text()
    conditions = [line for line in text.splitlines() if line.startswith(("Condition", "Assert"))]
    assert conditions == ["ConditionVirtualization=!container"]
    assert "\nExecStop" not in text
    assert "\nOnFailure=tails-profiles-quarantine.target\nOnFailureJobMode=isolate\n" in text
    assert "\nRemainAfterExit=yes\n" in text


def test_at_most_five_exceptions_from_hardening_each_with_its_reason() -> None:
    text = "".join(path.read_text() for path in (TOP / "units").glob("*.service"))
    assert text.count("# Exception:") <= 5
    assert text.count("=no\n") - text.count("DefaultDependencies=no\n") == text.count(
        "# Exception:"
    )
