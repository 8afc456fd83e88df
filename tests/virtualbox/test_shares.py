# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of the user's in VirtualBox: told to the real VBoxManage, and read back; a real guest.

Our code runs inside, as root, beside the real program (``inside``).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tails_profiles import vboxmanage
from tails_profiles.profile import Profile
from tests.virtualbox.inside import DIRECTORY
from tests.virtualbox.test_command import PLAN, PYTHON, command
from tests.virtualbox.test_plan import CALLS, UUID, Host, verbs
from tests.virtualbox.world import TOP, VirtualBox

pytestmark = pytest.mark.virtualbox

APP = Profile.APP_GUEST
#: The user's, on a file system that maps owners, as an overlay does not.
SSH, PURPLE = Path("/tmp/ssh"), Path("/tmp/purple")
OWNER = "1000:1000"
LENT = ("--guest", APP, "--share", f"SSHClient={SSH}", "--share", f"Pidgin={PURPLE}:ro")
TARGETS = DIRECTORY / "shares" / APP


@pytest.fixture
def host() -> Iterator[Host]:
    with VirtualBox([TOP]) as box:
        for folder in (SSH, PURPLE):
            box.run("install", "-d", "-m", "700", "-o", "1000", "-g", "1000", str(folder))
        yield Host(box)


def folders(host: Host) -> dict[str, dict[str, str]]:
    """What the machine's settings file says of each, which is all that VirtualBox keeps."""
    found = {}
    for text in re.findall("<SharedFolder (.*)/>", host.file(APP)):
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', text))
        found[attributes.pop("name")] = attributes
    return found


EXPECTED = {
    "ssh-client": {
        "hostPath": f"{TARGETS}/ssh-client", "writable": "true", "autoMount": "false",
    },
    "pidgin": {"hostPath": f"{TARGETS}/pidgin", "writable": "false", "autoMount": "false"},
}  # fmt: skip


def test_folders_are_shared_and_read_back_and_nothing_else_may_be_done_with_them(
    host: Host,
) -> None:
    found = host.ensure(*LENT)["guests"][APP]
    assert found["differences"] == found["removed"] == []
    # Beside the others: one for each folder, one that shows them.
    assert len(found["calls"]) == CALLS + 3
    assert folders(host) == EXPECTED
    for name in EXPECTED:
        key = f"VBoxInternal2/SharedFoldersEnableSymlinksCreate/{name}"
        assert host.manage(APP, "getextradata", UUID[APP], key) == "No value set!\n"
    # The machine's user is in it, and what it writes is the owner's.
    user = vboxmanage.manager(APP, DIRECTORY)
    assert host.box.run(*user, "touch", f"{TARGETS}/ssh-client/new").returncode == 0
    assert host.box.run("stat", "-c", "%u:%g", f"{SSH}/new").stdout == f"{OWNER}\n"
    assert host.box.run(*user, "touch", f"{TARGETS}/pidgin/new").returncode != 0


def test_folder_that_the_machine_has_already_is_left(host: Host) -> None:
    host.ensure(*LENT)
    again = host.ensure(*LENT)
    assert not any("sharedfolder" in verb for verb in verbs(again, APP))
    assert folders(host) == EXPECTED


SPOILT = {
    "removed": (("remove", "--name", "pidgin"),),
    "another path": (
        ("remove", "--name", "ssh-client"),
        ("add", "--name", "ssh-client", "--hostpath", str(TARGETS / "pidgin")),
    ),
    "writable": (
        ("remove", "--name", "pidgin"),
        ("add", "--name", "pidgin", "--hostpath", str(TARGETS / "pidgin")),
    ),
    "read-only": (
        ("remove", "--name", "ssh-client"),
        ("add", "--name", "ssh-client", "--hostpath", str(TARGETS / "ssh-client"), "--readonly"),
    ),
    "mounted by the guest's own programs": (
        ("modify", "--name", "ssh-client", "--automount=true", "--auto-mount-point=/x"),
    ),
    "with links": (("modify", "--name", "ssh-client", "--symlink-policy=any"),),
}  # fmt: skip


def test_whatever_somebody_changed_is_mended(host: Host) -> None:
    host.ensure(*LENT)
    for what, calls in SPOILT.items():
        for verb, *words in calls:
            host.manage(APP, "sharedfolder", verb, UUID[APP], *words)
        assert folders(host) != EXPECTED, f"{what}: changes nothing"
        found = host.ensure(*LENT)["guests"][APP]
        assert found["differences"] == found["removed"] == [], what
        assert not any("unregistervm" in call for call in found["calls"]), what
        assert folders(host) == EXPECTED, what


def test_access_that_the_user_chose_anew_is_what_holds(host: Host) -> None:
    host.ensure(*LENT)
    host.ensure("--guest", APP, "--share", f"SSHClient={SSH}:ro")
    wanted = {"ssh-client": {**EXPECTED["ssh-client"], "writable": "false"}}
    assert folders(host) == wanted


@pytest.mark.parametrize("where", ["machine", "global"])
def test_folder_that_nobody_asked_for_is_named_and_removed(host: Host, where: str) -> None:
    host.ensure(*LENT)
    host.box.run("mkdir", "-m", "777", "/srv/share")
    host.box.path("/srv/share/file").write_text("mine")
    owner = UUID[APP] if where == "machine" else "global"
    host.manage(APP, "sharedfolder", "add", owner, "--name", "x", "--hostpath", "/srv/share")
    found = host.ensure(*LENT)["guests"][APP]
    (line,) = found["removed"]
    assert "shared folder x is \"'/srv/share'" in line
    assert "nobody asked for" in line
    assert found["differences"] == []
    assert not any("unregistervm" in call for call in found["calls"])
    assert folders(host) == EXPECTED
    shown = host.manage(APP, "showvminfo", UUID[APP])
    assert "/srv/share" not in shown
    assert host.box.path("/srv/share/file").read_text() == "mine"
    # The same where none was asked for at all.
    host.manage(APP, "sharedfolder", "add", owner, "--name", "x", "--hostpath", "/srv/share")
    assert len(host.ensure("--guest", APP)["guests"][APP]["removed"]) == 3
    assert folders(host) == {}


def test_folder_that_is_missing_is_said_before_anything_is_made(host: Host) -> None:
    found = host.ensure(*LENT, "--unbound")
    assert "SSHClient is not mounted on" in found["error"]
    assert UUID[APP] not in host.manage(APP, "list", "vms")
    host.ensure(*LENT)
    before = host.file(APP)
    host.box.run("umount", f"{TARGETS}/pidgin")
    found = host.ensure(*LENT, "--unbound")
    assert "Pidgin is not mounted on" in found["error"]
    assert host.file(APP) == before


def test_killed_between_any_two_calls_it_has_its_folders_the_next_time(host: Host) -> None:
    for last in range(CALLS - 1, CALLS + 4):
        host.ensure(*LENT, "--last", str(last), died=True)
        found = host.ensure(*LENT)
        assert found["guests"][APP]["differences"] == [], last
        assert folders(host) == EXPECTED, last
        host.manage(APP, "unregistervm", UUID[APP], "--delete")
    assert host.box.path(SSH).is_dir()


def shared_plan(host: Host) -> str:
    host.box.path("/srv/image.iso").write_bytes(bytes(2048 * 100))
    words = ("--share", f"SSHClient={SSH}", "--share", f"TorData={PURPLE}")
    done = command(host, *PLAN, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_printed_plan_shares_the_folder_and_ends_where_it_is_not_shown(host: Host) -> None:
    shown = shared_plan(host)
    assert "Name: 'tor-data', Host path: " in shown
    done = host.box.run("bash", stdin=shown, **PYTHON)
    # As far as the driver: the first machine's process ends.
    assert "No such process" in done.stderr
    assert "Host path" not in done.stderr
    assert command(host, "stop").returncode == 0
    assert not host.box.path(DIRECTORY).exists()
    assert host.box.path(PURPLE).is_dir()
    wrong = shown.replace("mapping), writable", "mapping), readonly", 1)
    done = host.box.run("bash", stdin=wrong, **PYTHON)
    assert "it is not so: \nName: 'tor-data'" in done.stderr
    assert "No such process" not in done.stderr
    command(host, "stop")


def audit(host: Host, *words: str) -> list[str]:
    user = vboxmanage.manager(APP, DIRECTORY)
    done = host.box.run(
        *user, f"PYTHONPATH={TOP}", "PYTHONDONTWRITEBYTECODE=1", "python3", "-m", "tails_profiles",
        "host", "audit", APP, "--hypervisor", "virtualbox", "--json", *words,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return [each["setting"] for each in found["deviations"] if "folder" in each["setting"]]


def test_audit_knows_what_the_launcher_lends_and_names_every_other(host: Host) -> None:
    host.ensure(*LENT)
    assert audit(host) == []
    host.manage(APP, "sharedfolder", "modify", UUID[APP], "--name=pidgin", "--symlink-policy=any")
    host.manage(APP, "sharedfolder", "add", UUID[APP], "--name", "x", "--hostpath", "/srv")
    assert audit(host) == ["shared folder 'pidgin'", "shared folder 'x'"]
    assert audit(host, "--profile", "tor-guest")[:1] == ["shared folder 'ssh-client'"]
