# SPDX-License-Identifier: GPL-3.0-or-later
"""Who configures links on the image, in every arrangement in which a link once came up.

Each row boots twice. With our units the link stays down, whatever is tried from inside. With the
weaker arrangement in place of ours (an order without a requirement, a requirement in the wrong
place, a condition) the same sabotage ends with the link up and frames on the wire.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.sabotage.boot import APP_LINKS, Boot, Machine
from tests.sabotage.expect import (
    APP,
    BAD,
    DEAD_GENERATOR,
    MANAGERS,
    MANAGES_ALL,
    OTHER_LINK,
    QUARANTINE,
    nothing_up,
    quarantined,
)
from tests.sabotage.root import TOP, layer

pytestmark = [pytest.mark.lab, pytest.mark.boots]

UNITS = "usr/lib/systemd/system"
LIBRARY = "usr/lib/tails-profiles"
STEPS = tuple(f"tails-profiles-{step}.service" for step in ("lockdown", "firewall", "links"))
MANAGER_DROP_IN = f"{UNITS}/NetworkManager.service.d/50-tails-profiles.conf"
#: The profile's own link, and one that nobody knows: what would the image do with it?
LINKS = {**APP_LINKS, "eth2": OTHER_LINK["eth0"]}


def without(name: str, *keys: str) -> str:
    """One of our files, as installed, without the lines that begin with these keys."""
    lines = (layer() / name).read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(keys)]
    assert len(kept) < len(lines)
    return "".join(kept)


def unrequired() -> dict[str, str | None]:
    """Ours with everything ordered and nothing required, and no way to quarantine."""
    units = (*STEPS, "tails-profiles-guard.service", "tails-profiles-app-guest.target")
    return {
        MANAGER_DROP_IN: without(MANAGER_DROP_IN, "Requires=", "BindsTo=", "ConditionPathExists="),
        **{f"{UNITS}/{unit}": without(f"{UNITS}/{unit}", "OnFailure") for unit in units},
    }


def required_by_the_target() -> dict[str, str | None]:
    """The steps required by the target that managers are ordered after."""
    three = " ".join(STEPS)
    return {
        **unrequired(),
        "etc/systemd/system/network-pre.target.d/ours.conf": (
            f"[Unit]\nRequires={three}\nAfter={three}\n"
        ),
    }


def only_required() -> dict[str, str | None]:
    """The steps required, and not looked at once more when the manager is about to start."""
    return {MANAGER_DROP_IN: without(MANAGER_DROP_IN, "BindsTo=")}


def skipped_by_a_condition() -> dict[str, str | None]:
    """Ours with the condition that such units usually carry; PID 1 believes in a container."""
    return {
        **only_required(),
        **{
            f"etc/systemd/system/{unit}.d/condition.conf": (
                "[Unit]\nConditionVirtualization=!container\n"
            )
            for unit in STEPS
        },
    }


def kept_by_an_unknown_key() -> dict[str, str | None]:
    """The manager itself with a key that reads well and that systemd ignores."""
    return {
        **unrequired(),
        "etc/systemd/system/NetworkManager.service.d/assert.conf": (
            '[Unit]\nAssertFirmware=!smbios-field(bios_vendor $= "tails-profile*")\n'
        ),
    }


WEAKER = {
    function.__name__: function
    for function in (
        unrequired,
        only_required,
        required_by_the_target,
        skipped_by_a_condition,
        kept_by_an_unknown_key,
    )
}


@dataclass(frozen=True)
class Row:
    """One sabotage. ``quarantine``: it ends there, not merely without network.

    ``broad``: one more of a kind, for ./check and not for ./check quick.
    """

    files: Mapping[str, str | None] = field(default_factory=dict)
    masked: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    dmi: Mapping[str, bytes] = field(default_factory=lambda: APP)
    weaker: str = "unrequired"
    quarantine: bool = True
    broad: bool = False


# Where the generator is dead the image's own target is started.
ROWS = {
    "a step fails": Row({f"{LIBRARY}/rulesets/app-guest.nft": None}, broad=True),
    "a step fails, and another target": Row(DEAD_GENERATOR),
    "a step fails, required by network-pre": Row(DEAD_GENERATOR, weaker="required_by_the_target"),
    "an unknown key": Row(DEAD_GENERATOR, weaker="kept_by_an_unknown_key"),
    "container= on the kernel's command line": Row(DEAD_GENERATOR, weaker="skipped_by_a_condition"),
    "lockdown masked": Row(masked=STEPS[:1]),
    "firewall masked": Row(masked=STEPS[1:2], broad=True),
    "links masked": Row(masked=STEPS[2:], broad=True),
    "all masked": Row(masked=STEPS, broad=True),
    # Nothing is left that could lead to quarantine.
    "all masked, and another target": Row(DEAD_GENERATOR, STEPS, quarantine=False),
    "lockdown's unit is missing": Row({f"{UNITS}/{STEPS[0]}": None}, broad=True),
    "all units are missing": Row({f"{UNITS}/{unit}": None for unit in STEPS}, broad=True),
    "systemd.unit=": Row(arguments=("systemd.unit=multi-user.target",)),
    "bad token, and another target": Row(DEAD_GENERATOR, dmi=BAD, broad=True),
    "lockdown's rules are missing": Row({f"{LIBRARY}/rulesets/lockdown.nft": None}),
    "lockdown's rules are damaged": Row(
        {f"{LIBRARY}/rulesets/lockdown.nft": "table inet {\n"}, broad=True
    ),
    "the link's rules are missing": Row(
        {f"{LIBRARY}/rulesets/app-guest.tor.nft": None}, broad=True
    ),
    "the list of held units is missing": Row({f"{LIBRARY}/held/app-guest": None}, broad=True),
    "the classifier is missing": Row({f"{LIBRARY}/classify.sh": None}, broad=True),
    "nft is missing": Row({"usr/sbin/nft": None}, broad=True),
    "Python's code is damaged": Row(
        {"usr/lib/python3/dist-packages/tails_profiles/boot.py": "raise RuntimeError('broken')\n"},
        broad=True,
    ),
    "pyudev is missing": Row({"usr/lib/python3/dist-packages/pyudev": None}, broad=True),
}


def machine(row: Row, extra: Mapping[str, str | None]) -> Machine:
    return Machine(
        dmi=row.dmi, links=LINKS, files={**row.files, **extra}, masked=row.masked,
        arguments=row.arguments,
    )  # fmt: skip


def parameters(names: Iterable[str]) -> list[Any]:
    """These rows for pytest, by their names."""
    return [
        pytest.param(ROWS[name], id=name, marks=[pytest.mark.broad] if ROWS[name].broad else [])
        for name in names
    ]


def sabotages() -> Iterable[str]:
    """The rows that are different boots while ours is in place: without what is weaker in them."""
    different = {repr(replace(row, weaker="")): name for name, row in reversed(ROWS.items())}
    return reversed(different.values())


@pytest.mark.parametrize("row", parameters(sabotages()))
def test_every_link_stays_down_whatever_is_tried_from_inside(row: Row, work: Path) -> None:
    with Boot(machine(row, {}), work) as boot:
        nothing_up(boot)
        assert boot.is_active(QUARANTINE) == row.quarantine, boot.journal()
        # By hand, by a user's program, and by whoever calls the name on the bus.
        for manager in (*MANAGERS, "ifup@eth2.service"):
            boot.fail(f"systemctl start {manager}")
        boot.execute("nmcli networking on")
        boot.fail(
            "busctl --timeout=5 call org.freedesktop.NetworkManager /org/freedesktop/NetworkManager"
            " org.freedesktop.DBus.Peer Ping"
        )
        nothing_up(boot)
        assert not any(boot.is_active(manager) for manager in MANAGERS)


@pytest.mark.parametrize("row", parameters(ROWS))
def test_with_the_weaker_arrangement_a_link_comes_up(row: Row, work: Path) -> None:
    # Nor with our word to NetworkManager, which holds a strange link where the firewall step ran.
    with Boot(machine(row, {**WEAKER[row.weaker](), **MANAGES_ALL}), work) as boot:
        boot.wait_until_settled()
        boot.succeed("nm-online --quiet --timeout=30")
        assert "eth2" in boot.links_up(), boot.journal()
        assert boot.frames() != []


# A manager of the image, real enough: it raises whatever there is and, as DHCP clients do, sends by
# a packet socket, which no rule set of the inet family sees.
EARLY_MANAGER = """\
#!/usr/bin/python3 -I
import os, socket, subprocess
for name in os.listdir("/sys/class/net"):
    if os.path.lexists(f"/sys/class/net/{name}/device"):
        subprocess.run(["ip", "link", "set", "dev", name, "up"], check=True)
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind((name, 0))
        try:
            sender.send(bytes.fromhex("ffffffffffff 020000000002 0800") + bytes(300))
            print("sent on", name)
        except OSError as err:
            print("refused on", name, err)
"""
EARLY_UNIT = """\
[Unit]
DefaultDependencies=no
After=tails-profiles-firewall.service
{order}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/early-manager
"""
WANTED = "etc/systemd/system/sysinit.target.d/early.conf"


def early_manager(order: str, *, held: bool) -> dict[str, str | None]:
    files: dict[str, str | None] = {
        "etc/systemd/system/connman.service": EARLY_UNIT.format(order=order),
        "usr/sbin/early-manager": EARLY_MANAGER,
        WANTED: "[Unit]\nWants=connman.service\n",
    }
    if not held:
        files[f"{UNITS}/connman.service.d/50-tails-profiles.conf"] = None
    return files


def test_manager_between_firewall_and_links_waits_for_the_links(work: Path) -> None:
    files = early_manager("Before=sysinit.target\n", held=True)
    with Boot(Machine(dmi=APP, links=APP_LINKS, files=files), work) as boot:
        boot.wait_until_settled()
        assert boot.is_active("connman.service"), boot.execute("systemctl status connman")[1]
        # It ran, on a link that had its name and its rules: what it sent met them.
        assert "refused on tor" in boot.succeed("journalctl --unit=connman --output=cat")
        assert boot.links_up() == ["tor"]
        assert boot.frames() == []


def test_manager_ordered_before_the_links_step_does_not_come_first(work: Path) -> None:
    # Against our drop-in that is a contradiction: systemd drops one of the two to go on, and what
    # requires the other is not started either.
    files = early_manager("Before=tails-profiles-links.service\n", held=True)
    with Boot(Machine(dmi=APP, links=APP_LINKS, files=files), work) as boot:
        boot.wait_until_settled()
        assert not boot.is_active("connman.service")
        assert boot.links_up() in ([], ["tor"])
        assert boot.frames() == []


def test_without_our_drop_in_that_manager_raises_the_link_before_its_rules(work: Path) -> None:
    files = early_manager("Before=tails-profiles-links.service\n", held=False)
    with Boot(Machine(dmi=APP, links=APP_LINKS, files=files), work) as boot:
        boot.wait_until_settled()
        assert boot.is_active("connman.service"), boot.execute("systemctl status connman")[1]
        assert boot.frames() != []


# A program of the image that manages a firewall of its own: it removes what is there, once
# a boot. Quarantine wants sysinit.target again, and would start anew what has ended.
FLUSHER = """\
[Unit]
DefaultDependencies=no
After=tails-profiles-firewall.service
Before=tails-profiles-links.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft flush ruleset
"""
FLUSHED: dict[str, str | None] = {
    "etc/systemd/system/flusher.service": FLUSHER,
    "etc/systemd/system/sysinit.target.d/flusher.conf": "[Unit]\nWants=flusher.service\n",
}


def test_rules_that_another_program_removed_before_the_links_end_in_quarantine(work: Path) -> None:
    with Boot(Machine(dmi=APP, links=APP_LINKS, files=FLUSHED), work) as boot:
        quarantined(boot, "nft does not have inet tails_profiles any more")


def test_without_a_look_at_the_kernel_s_tables_the_link_comes_up_then(work: Path) -> None:
    source = (TOP / "tails_profiles/system/links.py").read_text()
    look = "absent = wanted - nft.tables()"
    assert source.count(look) == 1
    blind = source.replace(look, "absent = wanted - wanted")
    files = {**FLUSHED, "usr/lib/python3/dist-packages/tails_profiles/system/links.py": blind}
    with Boot(Machine(dmi=APP, links=APP_LINKS, files=files), work) as boot:
        boot.wait_until_settled()
        assert boot.links_up() == ["tor"]
        assert "inet tails_profiles" not in boot.tables()
