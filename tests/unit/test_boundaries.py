# SPDX-License-Identifier: GPL-3.0-or-later
"""What may import what, which lists must agree, and what the units promise."""

import ast
from pathlib import Path

import pytest

from tails_profiles.profile import GATEWAYS, PROFILES, RAISERS, Profile

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "tails_profiles"
LIBRARIES = {"dmidecode", "qemu", "pyudev", "stem", "systemd", "jinja2", "subprocess"}
PURE = (
    "announce",
    "audit",
    "audit_libvirt",
    "audit_qemu",
    "audit_virtualbox",
    "bridges",
    "command",
    "constants",
    "decision",
    "errors",
    "firewall",
    "hypervisors",
    "i2pd",
    "launch",
    "launch_steps",
    "lease",
    "libvirt",
    "links",
    "machine_steps",
    "paths",
    "profile",
    "qemu",
    "quota",
    "recipe",
    "rule_files",
    "runner",
    "selection",
    "selftest",
    "session",
    "settings",
    "settings_disk",
    "shares",
    "status",
    "tor_status",
    "torrc",
    "usage",
    "vboxdrv",
    "vboxmanage",
    "virtualbox",
    "virtualbox_folders",
    "virtualbox_machine",
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
    required = set()
    for path in (TOP / "units/dropins").glob("*/*.conf"):
        lines = path.read_text().splitlines()
        assert not any(line.startswith("Exec") for line in lines)
        if any(line.startswith("Requires=") for line in lines):
            required.add(path.parent.name.removesuffix(".d"))
            for key in ("Requires", "BindsTo", "After"):
                names = " ".join(f"tails-profiles-{step}.service" for step in STEPS)
                assert f"{key}={names}" in lines
    assert required == set(RAISERS)


@pytest.mark.parametrize("profile", [*GATEWAYS, Profile.QUARANTINE])
def test_who_could_raise_a_link_has_no_place_in_a_gateway(profile: Profile) -> None:
    assert set(RAISERS) <= set(PROFILES[profile].held)


def test_every_drop_in_is_of_a_unit_in_the_profile_table() -> None:
    dropped = {path.name.removesuffix(".d") for path in (TOP / "units/dropins").iterdir()}
    assert dropped == {unit for row in PROFILES.values() for unit in row.held}


@pytest.mark.parametrize("step", [*STEPS, "guard"])
def test_step_carries_no_condition_and_no_stop(step: str) -> None:
    text = (TOP / f"units/tails-profiles-{step}.service").read_text()
    # A unit that was skipped by a condition satisfies whoever requires it.
    assert not any(line.startswith(("Condition", "Assert")) for line in text.splitlines())
    assert "\nExecStop" not in text
    assert "\nOnFailure=tails-profiles-quarantine.target\nOnFailureJobMode=isolate\n" in text
    assert "\nRemainAfterExit=yes\n" in text


@pytest.mark.parametrize(
    "unit",
    sorted(
        path.name
        for path in (TOP / "units").iterdir()
        if path.suffix in {".service", ".socket", ".mount"}
        and path.name.removeprefix("tails-profiles-").removesuffix(".service")
        not in {*STEPS, "guard", "quarantine"}
    ),
)
def test_what_a_profile_starts_waits_for_the_guard(unit: str) -> None:
    lines = (TOP / "units" / unit).read_text().splitlines()
    if unit.endswith(("-port@.service", "-dns.service", "-browser.service")):
        # Started by its socket, which waits.
        assert f"Requires={unit.removesuffix('.service').replace('@', '@%i')}.socket" in lines
        return
    # A mount that is there without us must not be bound to what never runs: it would be unmounted.
    for key in ("Requires" if unit.endswith(".mount") else "BindsTo", "After"):
        assert any(
            line.startswith(f"{key}=") and "tails-profiles-guard.service" in line for line in lines
        )


def test_at_most_five_exceptions_from_hardening_each_with_its_reason() -> None:
    text = "".join(path.read_text() for path in (TOP / "units").glob("*.service"))
    assert text.count("# Exception:") <= 5
    assert text.count("=no\n") - text.count("DefaultDependencies=no\n") == text.count(
        "# Exception:"
    )


@pytest.mark.parametrize("monitor", ["monitor", "i2p-monitor"])
def test_what_shows_the_journal_may_read_it(monitor: str) -> None:
    # To any other account journalctl says that it has no permission, on the gateway's only screen.
    lines = (TOP / f"units/tails-profiles-{monitor}.service").read_text().splitlines()
    assert "SupplementaryGroups=systemd-journal" in lines
