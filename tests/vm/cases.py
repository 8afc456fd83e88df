# SPDX-License-Identifier: GPL-3.0-or-later
"""The cases of ``test_cases``: one machine each, what is wrong with it, and what must follow.

Each row is a boot of the real image with the launcher's own options and one thing changed. All
of them must end without a frame on any link. The no-token boot of ``test_normal`` is the anti-test:
the same machine, links and captures, and its frames are seen.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tails_profiles import constants as c
from tails_profiles import settings
from tails_profiles.constants import LinkConstants
from tails_profiles.launch import GuestPlan
from tails_profiles.profile import Profile
from tails_profiles.settings import Feature, Share
from tails_profiles.shares import FOLDERS
from tests.vm.image import MASKED, Absent, Edited, File, Layer
from tests.vm.machine import Machine
from tests.vm.single import Argv, Single, Spec, disk

RULESETS = "usr/lib/tails-profiles/rulesets"
GENERATOR = "usr/lib/systemd/system-generators/tails-profiles-generator"
QUARANTINE = "tails-profiles-quarantine.target"


def nothing_more(machine: Machine) -> None:
    """Nothing beyond what every case asserts."""


@dataclass(frozen=True)
class Case:
    """``screen``: words on the first screen. ``host``: the reason the host is told, if anybody.

    ``then`` goes on in the machine once it is in quarantine.
    """

    spec: Spec
    screen: tuple[str, ...]
    host: str | None
    then: Callable[[Single], None] = nothing_more


# ---- what changes the plan


def with_token(token: str, tag: str | None = None) -> Callable[[GuestPlan], GuestPlan]:
    """Another value in both fields of the token, and perhaps in the asset tag."""

    def change(guest: GuestPlan) -> GuestPlan:
        return replace(guest, token=token, settings_tag=guest.settings_tag if tag is None else tag)

    return change


def with_link(link: LinkConstants) -> Callable[[GuestPlan], GuestPlan]:
    """One network card more."""
    return lambda guest: replace(guest, links=(*guest.links, link))


# ---- what changes QEMU's options


def two_tokens(argv: Argv, directory: Path) -> Argv:
    """The serial number names another profile than the vendor."""
    return tuple(
        re.sub(r"serial=tails-profile:[a-z0-9-]+", "serial=tails-profile:app-guest", word)
        for word in argv
    )


def without_settings_disk(argv: Argv, directory: Path) -> Argv:
    """No settings disk, although the asset tag promises one."""
    words: list[str] = []
    for word in argv:
        if "node-name=settings" in word or "drive=settings" in word:
            # The option it belongs to.
            words.pop()
        else:
            words.append(word)
    return tuple(words)


def with_second_settings_disk(argv: Argv, directory: Path) -> Argv:
    """The same disk twice."""
    words = list(argv)
    for option, word in pairwise(argv):
        if "node-name=settings" in word or "drive=settings" in word:
            words += [option, re.sub(r"\b(node-name|drive|serial)=settings", r"\1=again", word)]
    return tuple(words)


# ---- what goes on afterwards


def button_switches_it_off(machine: Single) -> None:
    """The way out that is left to its user: logind, and drivers that coldplug has loaded."""
    machine.wait_until_succeeds(
        "journalctl -b -u systemd-logind -o cat | grep 'Watching system buttons.*Power Button'"
    )
    machine.power_off()


def enter_leads_back(machine: Single) -> None:
    """An emergency shell, and Enter in it: quarantine again."""
    machine.succeed("systemctl --no-block isolate emergency.target")
    machine.wait_for_unit("emergency.service")
    machine.wait_until_succeeds("grep -q 'Press Enter' /dev/vcs1")
    machine.type_keys("ret")
    machine.wait_until(
        "Enter to end the emergency shell", lambda: not machine.is_active("emergency.service"), 120
    )
    machine.wait_for_target(QUARANTINE)
    assert machine.links_up() == []
    assert "QUARANTINE" in machine.console_text()


def without_account(name: str) -> Layer:
    """passwd and shadow of a machine without an account."""

    def change(text: str) -> str:
        return "".join(line for line in text.splitlines(keepends=True) if name not in line)

    return {f"etc/{file}": Edited(change) for file in ("passwd", "shadow")}


def corrupt_disk() -> bytes:
    """A settings disk of which one value is no JSON."""
    good = disk(settings.defaults(Profile.TOR_GUEST))
    bad = good.replace(b"true", b"TRUE")
    assert bad != good
    return bad


def promising(feature: Feature) -> bytes:
    """A settings disk that promises a share, which no machine here has."""
    folder = FOLDERS[feature]
    values = settings.defaults(folder.guest)
    return disk(replace(values, shares=(Share(folder.tag, feature),)))


def _cases() -> tuple[Case, ...]:
    second = LinkConstants(
        "second", c.I2P_UPLINK_MAC, c.UPLINK, c.UPLINK_ROUTER, peer_mac=None, segment=None
    )
    stray = replace(second, name="uplink", mac=c.TOR_UPLINK_MAC)
    app_disk = disk(settings.defaults(Profile.APP_GUEST))
    app = Profile.APP_GUEST
    wrong = "its value is none of those it may have"
    dead = "tails-profiles-tor-guest.target is not being started"
    return (
        Case(Spec("token-with-a-blank-behind-it", change=with_token("tails-profile:tor-guest ")),
             ("bios_vendor", wrong), "token", then=enter_leads_back),
        Case(Spec("token-of-an-unknown-profile", change=with_token("tails-profile:tor-gust")),
             ("bios_vendor", wrong, "tails-profile:tor-gust"), "token",
             then=button_switches_it_off),
        Case(Spec("two-different-tokens", argv=two_tokens), ("two tokens",), "token"),
        Case(Spec("asset-tag-without-a-token", change=with_token("nobody")),
             ("chassis_asset_tag", "settings without a token"), "token"),
        Case(Spec("rule-set-missing", layer={f"{RULESETS}/tor-guest-tcp.nft": Absent()}),
             ("tor-guest-tcp.nft cannot be read",), "ruleset"),
        Case(Spec("rule-set-altered",
                  layer={f"{RULESETS}/tor-guest-tcp.nft": File("table inet tails_profiles {\n")}),
             ("nft refused tor-guest-tcp.nft",), "ruleset"),
        Case(Spec("link-table-refused",
                  layer={f"{RULESETS}/tor-guest-tcp.uplink.nft": File("no such word\n")}),
             ("nft refused tor-guest-tcp.uplink.nft",), "ruleset"),
        Case(Spec("nft-missing", layer={"usr/sbin/nft": Absent()}),
             ("QUARANTINE",), "ruleset", then=button_switches_it_off),
        Case(Spec("tor-s-account-missing", layer=without_account(c.TOR_USER)),
             ("nft refused tor-guest-tcp.nft",), "ruleset"),
        Case(Spec("i2p-s-account-missing", Profile.I2P_GUEST, layer=without_account(c.I2P_USER)),
             ("nft refused i2p-guest.nft",), "ruleset"),
        Case(Spec("i2p-without-first-routers", Profile.I2P_GUEST),
             ("where the first I2P routers come from", "--reseed FILE"), "i2p"),
        Case(Spec("generator-masked",
                  layer={"etc/systemd/system-generators/tails-profiles-generator": MASKED}),
             (dead,), "token"),
        Case(Spec("generator-killed", layer={GENERATOR: File("#!/bin/sh\nkill -9 $$\n", 0o755)}),
             (dead,), "token"),
        Case(Spec("generator-not-executable", layer={GENERATOR: Edited(str, 0o644)}),
             (dead,), "token"),
        Case(Spec("lockdown-masked",
                  layer={"etc/systemd/system/tails-profiles-lockdown.service": MASKED}),
             ("tails-profiles-lockdown.service has not done its work (masked)",), "ruleset"),
        Case(Spec("firewall-masked-on-the-kernel-line",
                  arguments="systemd.mask=tails-profiles-firewall.service"),
             ("tails-profiles-firewall.service has not done its work (masked)",), "ruleset"),
        Case(Spec("uplink-in-app-guest", app, change=with_link(stray)),
             (c.TOR_UPLINK_MAC,), None),
        Case(Spec("two-uplinks-in-tor-guest", change=with_link(second)),
             (c.I2P_UPLINK_MAC,), "links"),
        Case(Spec("settings-disk-missing", argv=without_settings_disk),
             ("promises a settings disk",), "settings"),
        Case(Spec("two-settings-disks", argv=with_second_settings_disk),
             ("two settings disks",), "settings"),
        Case(Spec("settings-of-another-profile", disk=app_disk),
             ("app-guest",), "settings"),
        Case(Spec("settings-corrupt", disk=corrupt_disk()), ("QUARANTINE",), "settings"),
        Case(Spec("share-missing-in-tor-guest", disk=promising(Feature.TOR_DATA)),
             ("the share tor-data could not be mounted",), "settings"),
        Case(Spec("share-missing-in-app-guest", app, disk=promising(Feature.SSH_CLIENT)),
             ("the share ssh-client could not be mounted",), None),
        Case(Spec("another-target-on-the-kernel-line",
                  arguments="systemd.unit=multi-user.target"),
             (dead, "systemd.unit="), "token"),
    )  # fmt: skip


CASES = _cases()
