# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a guest's machine is, and what it could do if somebody broke out of it.

Asked of the kernel about the running machines, not of their command lines.
"""

import grp
import os
import pwd
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tails_profiles.constants import APP_USER, GATEWAY_USER, LINK_GROUP
from tails_profiles.profile import Profile
from tails_profiles.system import machines
from tests.launch.world import World, run

pytestmark = pytest.mark.vm

USERS = {Profile.TOR_GUEST: GATEWAY_USER, Profile.APP_GUEST: APP_USER}
each_guest = pytest.mark.parametrize("profile", USERS, ids=str)


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    os.environ["TAILS_PROFILES_TEST_SECRET"] = "a secret of the session"
    with World() as world:
        world.start(world.plan())
        yield world
    del os.environ["TAILS_PROFILES_TEST_SECRET"]


def pid(world: World, profile: Profile) -> int:
    return world.machine(profile).pid


def facts(world: World, profile: Profile) -> dict[str, list[str]]:
    text = Path(f"/proc/{pid(world, profile)}/status").read_text()
    return {line.split(":")[0]: line.split(":")[1].split() for line in text.splitlines()}


@each_guest
def test_own_user_and_no_group_but_that_of_the_links(running: World, profile: Profile) -> None:
    found, user = facts(running, profile), pwd.getpwnam(USERS[profile])
    assert found["Uid"] == [str(user.pw_uid)] * 4
    assert found["Gid"] == [str(user.pw_gid)] * 4
    assert found["Groups"] == [str(grp.getgrnam(LINK_GROUP).gr_gid)]


@each_guest
def test_no_capability_no_new_one_and_a_filter_of_system_calls(
    running: World, profile: Profile
) -> None:
    found = facts(running, profile)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name][0], 16) == 0, name
    assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"])


@each_guest
def test_nothing_of_who_started_it(running: World, profile: Profile) -> None:
    machine = Path(f"/proc/{pid(running, profile)}")
    environment = dict(
        word.split(b"=", 1) for word in (machine / "environ").read_bytes().split(b"\0") if word
    )
    assert set(environment) <= {b"TERM", b"SHELL", b"HOME", b"USER", b"LOGNAME", b"PATH"}
    open_files = {os.readlink(path) for path in (machine / "fd").iterdir()}  # noqa: PTH115
    known = (str(running.top), "/dev/null", "socket:", "anon_inode:", "pipe:", "/dev/urandom")
    assert not [name for name in open_files if not name.startswith(known)]
    limits = (machine / "limits").read_text()
    assert next(line for line in limits.splitlines() if "core file" in line).split()[4:6] == [
        "0", "0",
    ]  # fmt: skip


def test_app_guest_s_machine_has_an_empty_network_namespace(running: World) -> None:
    inside = ("nsenter", "--net", f"--target={pid(running, Profile.APP_GUEST)}", "ip", "-oneline")
    links = run(*inside, "link", "show").splitlines()
    assert len(links) == 1
    assert " lo: <LOOPBACK> " in links[0]
    assert run(*inside, "address", "show").strip() == ""
    assert run(*inside, "route", "show", "table", "all").strip() == ""
    # Gateways stay under the host's rules, in its own namespace: so the question can be answered
    # otherwise.
    assert machines.shares_network(machines.Process(pid(running, Profile.TOR_GUEST), 0))
    assert not machines.shares_network(machines.Process(pid(running, Profile.APP_GUEST), 0))


def reach(user: str, path: Path) -> bool:
    """Whether a user, with the group of the links, could connect to a socket or read a file."""
    test = f"import os,sys; sys.exit(not os.access({str(path)!r}, os.R_OK | os.W_OK))"
    done = subprocess.run(
        ["setpriv", f"--reuid={user}", f"--groups={LINK_GROUP}", "--",
         "/usr/bin/python3", "-c", test],
        check=False, capture_output=True,
    )  # fmt: skip
    return done.returncode == 0


def test_sockets_are_for_their_own_user_and_links_for_both(running: World) -> None:
    directory = running.directory
    for name, owner, other in (
        ("tor-guest/qmp", GATEWAY_USER, APP_USER),
        ("tor-guest/serial", GATEWAY_USER, APP_USER),
        ("app-guest/qmp", APP_USER, GATEWAY_USER),
        ("app-guest/screen", APP_USER, GATEWAY_USER),
    ):
        assert reach(owner, directory / name), name
        assert not reach(other, directory / name), name
        assert not reach("nobody", directory / name), name
    for end in ("links/tails-tor.app", "links/tails-tor.gateway"):
        assert reach(GATEWAY_USER, directory / end)
        assert reach(APP_USER, directory / end)


@each_guest
def test_medium_settings_and_state_cannot_be_written_to(running: World, profile: Profile) -> None:
    for path in (
        running.image(),
        running.directory / profile / "settings.iso",
        running.directory / "launch.json",
        running.directory,
    ):
        assert not reach(USERS[profile], path), path
    flags = {
        os.readlink(path): (Path(f"/proc/{pid(running, profile)}/fdinfo") / path.name).read_text()  # noqa: PTH115
        for path in Path(f"/proc/{pid(running, profile)}/fd").iterdir()
    }
    for name, text in flags.items():
        if name.endswith(".iso"):
            mode = int(text.split("flags:")[1].split()[0], 8) & os.O_ACCMODE
            assert mode == os.O_RDONLY, name
