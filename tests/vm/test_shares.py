# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of the user's in both guests, over two launches by the launcher, before a private Tor
network: what one session left, the next one has, and nothing of it is anywhere else.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tails_profiles.settings import Feature
from tails_profiles.shares import LIVE_UID, Choice
from tests.vm import fixtures
from tests.vm.fixtures import prepared_guests
from tests.vm.guests import Guests
from tests.vm.image import TOR_ADDITIONS, File
from tests.vm.machine import Machine
from tests.vm.single import Single, Spec

pytestmark = [pytest.mark.vm, pytest.mark.slow]

EVIDENCE = fixtures.EVIDENCE / "shares"


def folder(directory: Path, name: str, owner: int) -> Path:
    path = directory / name
    path.mkdir(mode=0o700)
    os.chown(path, owner, owner)
    return path


@pytest.fixture(scope="module")
def guests() -> Iterator[Guests]:
    with prepared_guests(EVIDENCE) as made:
        yield made


def guards(state: str) -> set[tuple[str, str]]:
    """Tor's guards in its state file; when each was sampled is Tor's own secret."""
    return set(re.findall(r"^Guard in=default rsa_id=(\w+) .*?sampled_on=(\S+)", state, re.M))


def test_two_launches_share_guards_and_files_and_nothing_else(guests: Guests) -> None:
    tor = folder(guests.directory, "tor", 4242)
    ssh = folder(guests.directory, "ssh", LIVE_UID)
    persistent = folder(guests.directory, "persistent", LIVE_UID)
    (persistent / "theirs").write_text("from the host\n")
    os.chown(persistent / "theirs", LIVE_UID, LIVE_UID)
    chosen = (
        Choice(Feature.TOR_DATA, tor, writable=True),
        Choice(Feature.SSH_CLIENT, ssh, writable=True),
        Choice(Feature.PERSISTENT_DIRECTORY, persistent, writable=False),
    )
    first = launch(guests, chosen)
    app, gateway = guests.app, guests.tor
    # Both have exactly their own.
    assert mounted(gateway) == {"tor-data": "/var/lib/tor"}
    assert mounted(app) == {
        "ssh-client": "/home/live/.ssh", "persistent-directory": "/home/live/Persistent",
    }  # fmt: skip
    for name, path in (("live", "/home/live/.ssh"), ("live", "/home/live/Persistent")):
        assert app.succeed(f"stat -c %U:%G {path}") == f"{name}:{name}"
    assert gateway.succeed("stat -c %U:%a /var/lib/tor") == "debian-tor:700"
    as_user = "setpriv --reuid=live --regid=live --init-groups --reset-env --"
    app.succeed(f"{as_user} sh -c 'umask 077; echo key >/home/live/.ssh/id; sync'")
    assert app.succeed(f"{as_user} cat /home/live/Persistent/theirs") == "from the host"
    assert "Read-only" in app.fail(f"{as_user} touch /home/live/Persistent/new")
    guests.switch_off()
    guests.stop()

    # On the host it is the folder's owner's, and nobody else's.
    for written, owner in ((ssh / "id", LIVE_UID), (tor / "state", 4242)):
        found = written.stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (owner, 0o600), written
    assert (ssh / "id").read_text() == "key\n"
    assert guards((tor / "state").read_text()) == first

    second = launch(guests, chosen)
    # Those of the first launch, and perhaps more.
    assert first <= second
    assert guests.app.succeed("stat -c %U:%a /home/live/.ssh/id") == "live:600"
    assert guests.app.succeed("cat /home/live/.ssh/id") == "key"
    guests.switch_off()
    guests.stop()

    # The anti-test: without the folder Tor chooses anew.
    world = guests.world
    layer = {TOR_ADDITIONS: File(world.network.client_torrc())}
    spec = Spec("without-a-folder", layer=layer, namespace=world.namespace)
    with Single(spec, guests.directory / spec.name) as alone:
        alone.wait_for_words("tor-guest ready")
        assert mounted(alone) == {}
        assert not chosen_guards(alone) & first


def launch(guests: Guests, chosen: tuple[Choice, ...]) -> set[tuple[str, str]]:
    """Start both; the guards that tor-guest has once app-guest's session runs."""
    guests.machines.clear()
    guests.start(shares=chosen)
    guests.app.wait_for_target("tails-profiles-app-guest.target", 600)
    guests.app.wait_for_unit("display-manager.service")
    return chosen_guards(guests.tor)


def chosen_guards(machine: Machine) -> set[tuple[str, str]]:
    """Its guards, once it has written them: at the latest when it ends."""
    machine.succeed("systemctl stop tails-profiles-tor.service")
    found = guards(machine.succeed("cat /var/lib/tor/state"))
    assert found
    return found


def mounted(machine: Machine) -> dict[str, str]:
    """Each 9p share of a guest, and where it is."""
    text = machine.succeed("grep ' 9p ' /proc/mounts || true")
    return {line.split()[0]: line.split()[1] for line in text.splitlines()}
