# SPDX-License-Identifier: GPL-3.0-or-later
"""The first boot step: select, check, and replace lockdown by the profile's rule set."""

import hashlib
import logging
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from tails_profiles import constants, i2pd, settings, shares, torrc
from tails_profiles.announce import Announcement
from tails_profiles.decision import Decision
from tails_profiles.errors import DetectionError, QuarantineError, SettingsError
from tails_profiles.paths import Paths
from tails_profiles.patience import patience
from tails_profiles.profile import PROFILES, Profile
from tails_profiles.rule_files import file_name
from tails_profiles.selection import Selection, select
from tails_profiles.session import session_files
from tails_profiles.settings import I2pSettings, Settings
from tails_profiles.settings_disk import Content
from tails_profiles.system import dmi, files, journal, nft, settings_disk, units
from tails_profiles.system.serial import announce

log = logging.getLogger(__name__)


def decide(profile: Profile, found: Settings | None) -> Decision:
    """What follows from a profile and its settings disk; None where there is no disk."""
    values = found or settings.defaults(profile)
    return Decision(
        profile,
        settings.variant(values),
        profile is Profile.APP_GUEST and values.i2p is not None,
        # Our launcher always attaches a disk and gives the uplink its constant network.
        profile.is_gateway and found is None,
        settings.private_proxy(values),
        values.offline,
        values.i2p.port if profile is Profile.I2P_GUEST and values.i2p is not None else None,
    )


def run(paths: Paths) -> None:
    """Select, check, and replace lockdown by the profile's rule set."""
    selection = select(dmi.read_fields(paths.sysfs), container=False)
    files.write_json(paths.selection, selection.to_json())
    if selection.profile is Profile.NORMAL:
        return
    if selection.profile is Profile.QUARANTINE:
        raise QuarantineError(selection.field, selection.reason)
    log.info(
        "profile %s: %s", selection.profile, selection.reason,
        extra={"MESSAGE_ID": journal.SELECTED_ID, "TAILS_PROFILES_PROFILE": selection.profile,
               "TAILS_PROFILES_FIELD": selection.field},
    )  # fmt: skip
    if selection.profile.is_gateway:
        announce(Announcement(selection.profile, "selected"), paths)
    require_target(selection.profile)
    found, bundle = read_settings(selection, paths)
    if found is not None:
        settings.refuse_unbuilt(found)
        shares.promised(found)
    decision = decide(selection.profile, found)
    cross_check(selection, paths)
    name = file_name(decision.profile, decision.variant)
    text = nft.read(name, paths) + decision.elements()
    nft.load(text, name)
    log.info(
        "rule set %s is in force", name,
        extra={"MESSAGE_ID": journal.LOADED_ID, "TAILS_PROFILES_RULESET": name},
    )  # fmt: skip
    write_network_files(decision, paths)
    write_configuration(found or settings.defaults(selection.profile), paths, bundle)
    files.write_json(paths.decision, decision.to_json(), mode=0o600)
    if decision.dhcp:
        files.write_atomic(paths.dhcp, "")
    digest = hashlib.sha256(text.encode()).hexdigest()
    record(paths, selection, stage="firewall", ruleset=name, ruleset_sha256=digest)


def require_target(profile: Profile) -> None:
    """Refuse half a profile: the generator is dead, or systemd.unit= names another target.

    Raises DetectionError unless the profile's target is active or on its way.
    """
    target = PROFILES[profile].target
    if target is None or not units.is_active_or_starting(target):
        raise DetectionError(
            f"the token selects {profile}, and {target} is not being started",
            hint="remove systemd.unit= and the like from the kernel command line",
        )


def read_settings(selection: Selection, paths: Paths) -> tuple[Settings | None, bytes]:
    """The settings and the bundle of this guest; mixes the seed beside them.

    None and nothing without a disk. Raises SettingsError.
    """
    found, disk = find_settings(selection, paths)
    if disk is None:
        return None, b""
    settings_disk.mix_seed(disk.seed, paths)
    return found, disk.bundle


def find_settings(selection: Selection, paths: Paths) -> tuple[Settings | None, Content | None]:
    """The settings of this guest's disk, and the disk, if there is one; changes nothing.

    Raises SettingsError.
    """
    disk = settings_disk.find(paths, promised=selection.settings_promised, timeout=patience())
    if disk is None:
        return None, None
    found = settings.parse(disk.settings, profile=selection.profile)
    if disk.bundle and (found.i2p is None or found.i2p.reseed != "bundle"):
        raise SettingsError(
            "the settings disk holds first I2P routers that its settings do not ask for",
            hint='set i2p.reseed to "bundle"',
        )
    return found, disk


def cross_check(selection: Selection, paths: Paths) -> None:
    """Ask dmidecode for a second opinion; raises DmiContradictionError."""
    checked = dmi.cross_check(dmi.read_fields(paths.sysfs))
    log.info("%s (%s)", checked.note, selection.field)


def resolv_conf(decision: Decision) -> str:
    """What programs of a guest ask for names: app-guest's relay, a gateway nobody."""
    if decision.profile is Profile.APP_GUEST:
        return "nameserver 127.0.0.1\n"
    if decision.variant.startswith(("tcp-dns", "tcp-udp")):
        return f"nameserver {constants.UPLINK_RESOLVER}\n"
    return "# no names: nothing in this guest resolves outside Tor or I2P\n"


# Our links are configured before NetworkManager starts: it sees them as connected from outside, so
# that programs which ask it do not believe they are offline. It manages nothing else: it puts up
# every device that it manages, and a card that appears after the links step has no rules. Twice: a
# list in the image's /etc would replace ours.
NETWORK_MANAGER = """\
# Written by tails-profiles: links are configured before NetworkManager starts, and stay so.
[main]
no-auto-default=*
dns=none
rc-manager=unmanaged

[keyfile]
unmanaged-devices=*,except:interface-name:tor,except:interface-name:i2p

[device-90-tails-profiles]
match-device=*,except:interface-name:tor,except:interface-name:i2p
managed=0

[connectivity]
enabled=false
"""


def write_network_files(decision: Decision, paths: Paths) -> None:
    """What else on the image must know that the network is not its own."""
    files.write_atomic(paths.resolv_conf, resolv_conf(decision))
    if decision.profile is Profile.APP_GUEST:
        files.write_atomic(paths.network_manager, NETWORK_MANAGER)


def write_configuration(values: Settings, paths: Paths, bundle: bytes = b"") -> None:
    """What the profile's own services read: the settings in their programs' words.

    ``bundle``: I2P's first routers, where the settings disk holds them.
    """
    if values.shares:
        files.write_atomic(paths.shares, shares.mount_table(values))
    if values.profile is Profile.APP_GUEST:
        for name, text in session_files(values).items():
            files.write_atomic(paths.session / name, text)
    if values.profile is Profile.I2P_GUEST and values.i2p is not None:
        _write_i2pd(values.i2p, paths, bundle)
    if values.tor is not None:
        tor = replace(values.tor, connect=values.tor.connect and not values.offline)
        programs = {program for each in torrc.PLUGINS.values() for program in each}
        installed = frozenset(
            program for program in programs if (paths.root / program.lstrip("/")).is_file()
        )
        # Bridges and a proxy's password are in it: for Tor's account, and nobody else.
        files.write_atomic(paths.torrc, torrc.torrc(tor, installed), 0o640, constants.TOR_USER)


def _write_i2pd(values: I2pSettings, paths: Paths, given: bytes) -> None:
    bundle = next(
        (each for each in i2pd.BUNDLES if (paths.root / each.lstrip("/")).is_file()), None
    )
    if given:
        bundle = i2pd.given_path(given)
        files.write_atomic(paths.state / PurePosixPath(bundle).name, given)
    try:
        added = paths.root / i2pd.ADDITIONS.lstrip("/")
        additions = added.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        additions = ""
    subscriptions = paths.root / i2pd.SUBSCRIPTIONS.lstrip("/")
    if subscriptions.is_file() and not subscriptions.is_symlink():
        text = subscriptions.read_text(encoding="utf-8", errors="replace")
        i2pd.check_lists(i2pd.listed(text))
    files.write_atomic(paths.i2pd_conf, i2pd.i2pd_conf(values, bundle, additions))
    resolvers = constants.I2P_RESOLVERS if i2pd.asks_names(values) else ()
    text = "".join(f"nameserver {each}\n" for each in resolvers) or i2pd.NO_NAMES
    # Of that group is also who takes the names away again, once no more are needed.
    group = constants.I2P_USER if resolvers else None
    files.write_atomic(paths.i2pd_resolv_conf, text, 0o664 if resolvers else 0o644, group)


def record(paths: Paths, selection: Selection, **facts: Any) -> None:  # noqa: ANN401
    """Replace ``status.json``."""
    files.write_json(
        paths.status,
        {"profile": selection.profile.value, "field": selection.field, "links": [], **facts},
    )
