# SPDX-License-Identifier: GPL-3.0-or-later
"""Persistent folders: one table, of which host and guest take their halves.

A folder stays on the host and reaches one guest as a share of its hypervisor. The settings file
names features; where they belong in the guest, and whose they are there, stands here alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tails_profiles.constants import TOR_USER
from tails_profiles.errors import SettingsError, known
from tails_profiles.profile import Profile
from tails_profiles.quota import Limit, Unlimited
from tails_profiles.settings import TOR_FEATURES, Feature, Settings, Share

#: The user of a live system's desktop: ``amnesia`` on Tails, its first ordinary user on Debian.
#: Every folder is shown to a guest as this user's, whoever owns it on the host.
LIVE_UID = 1000


#: How a guest mounts a 9p share (Documentation/filesystems/9p.rst): ``cache=mmap`` because SQLite
#: maps a file that several programs write; everything else goes to the host at once.
MOUNT_OPTIONS = "trans=virtio,version=9p2000.L,cache=mmap,msize=262144,nosuid,nodev"
#: And one of VirtualBox (fs/vboxsf/super.c of the kernel), beside the owner of everything in it,
#: whom the guest's step knows. ``ttl=0``: each look at a file asks the host.
VBOXSF_OPTIONS = "nls=utf8,ttl=0,nosuid,nodev"


@dataclass(frozen=True, slots=True)
class Folder:
    """One feature in its guest.

    ``destination`` begins with ``~`` where it is in the home of the live user. ``owner`` is an
    account of the guest, None for the live user. ``refused`` says why it is not shared at all,
    ``must_write`` why it cannot be shared read-only, ``needs_links`` why not by VirtualBox, whose
    folders hold files and directories and nothing else.
    """

    feature: Feature
    tag: str
    destination: str
    owner: str | None = None
    refused: str | None = None
    must_write: str | None = None
    needs_links: str | None = None

    @property
    def guest(self) -> Profile:
        """The one guest that it may go to."""
        return Profile.TOR_GUEST if self.feature in TOR_FEATURES else Profile.APP_GUEST


_ROOTS = "root of app-guest would act on it, at every start, whatever an earlier session wrote"
_TABLE = (
    Folder(Feature.PERSISTENT_DIRECTORY, "persistent-directory", "~/Persistent"),
    Folder(Feature.BROWSER_BOOKMARKS, "browser-bookmarks", "~/.mozilla/firefox/bookmarks"),
    Folder(
        Feature.THUNDERBIRD, "thunderbird", "~/.thunderbird",
        needs_links="its profile is locked by a symbolic link",
    ),
    Folder(
        Feature.GNUPG, "gnupg", "~/.gnupg",
        needs_links="its locks are hard links, and its agents listen on sockets there",
    ),
    Folder(
        Feature.ELECTRUM, "electrum", "~/.electrum",
        needs_links="its daemon listens on a socket there",
    ),
    Folder(Feature.PIDGIN, "pidgin", "~/.purple"),
    Folder(Feature.SSH_CLIENT, "ssh-client", "~/.ssh"),
    Folder(
        Feature.TOR_DATA, "tor-data", "/var/lib/tor", TOR_USER,
        must_write="Tor does not start where it cannot write",
    ),
    Folder(
        Feature.TOR_CONFIGURATION, "tor-configuration", "/var/lib/tca",
        refused="nothing in tor-guest reads it: bridges and proxy reach it by --settings",
    ),
    Folder(
        Feature.ADDITIONAL_SOFTWARE, "additional-software", "/var/cache/apt/archives",
        refused=_ROOTS,
    ),
    Folder(Feature.PRINTERS, "printers", "/etc/cups", refused=_ROOTS),
    Folder(
        Feature.DOTFILES, "dotfiles", "~",
        refused="it is a link for each file, and no share carries links",
    ),
)  # fmt: skip
#: Every feature that has a name in the settings.
FOLDERS: Mapping[Feature, Folder] = MappingProxyType({row.feature: row for row in _TABLE})


@dataclass(frozen=True, slots=True)
class Choice:
    """What the user chose for one feature: a directory of the host, and whether it is written."""

    feature: Feature
    source: Path
    writable: bool


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """One share of a launch, in no hypervisor's words.

    ``source`` is the user's directory; ``target`` is where it is mounted for the machine, which
    sees nothing else of it. ``growth`` is None for one that is not written to.
    """

    tag: str
    feature: Feature
    source: Path
    target: Path
    writable: bool
    growth: Limit | Unlimited | None = None


def parse_choice(text: str) -> Choice:
    """``FEATURE=DIRECTORY``, read-write, or with ``:ro`` behind it. Raises SettingsError."""
    name, equals, rest = text.partition("=")
    if not equals or not rest:
        raise SettingsError(
            f"{text!r} is no share", hint="FEATURE=DIRECTORY or FEATURE=DIRECTORY:ro"
        )
    if name not in list(Feature):
        shared = [feature.value for feature, row in FOLDERS.items() if row.refused is None]
        raise SettingsError(f"{name!r} cannot be shared", hint=known(sorted(shared)))
    folder = FOLDERS[Feature(name)]
    if folder.refused is not None:
        raise SettingsError(f"{name} is not shared: {folder.refused}", hint="see docs/shares.md")
    directory = rest.removesuffix(":ro")
    if directory != rest and folder.must_write is not None:
        raise SettingsError(f"{name} cannot be read-only: {folder.must_write}")
    return Choice(folder.feature, Path(directory), directory == rest)


def choices(texts: Sequence[str]) -> tuple[Choice, ...]:
    """All of them; raises SettingsError, also where a feature is named twice."""
    found = tuple(parse_choice(text) for text in texts)
    names = [choice.feature for choice in found]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"{name} is shared twice", hint="each feature has one directory")
    return found


def promised(settings: Settings) -> tuple[Folder, ...]:
    """The folders that a guest's settings promise it, by the guest's own table.

    Raises SettingsError for one that is not shared, or under another tag.
    """
    return tuple(_promised(share) for share in settings.shares)


def _promised(share: Share) -> Folder:
    folder = FOLDERS[share.feature]
    if folder.refused is not None:
        raise SettingsError(f"{share.feature} is not shared: {folder.refused}")
    if share.tag != folder.tag:
        raise SettingsError(
            f"the share {share.tag!r} cannot be {share.feature}: that is {folder.tag!r}"
        )
    return folder


def mount_table(settings: Settings) -> str:
    """What the guest's step mounts, a line each.

    Tag, owner or ``-``, destination, options for 9p and for vboxsf: the step sees which it is.
    """
    options = f"{MOUNT_OPTIONS} {VBOXSF_OPTIONS}"
    return "".join(
        f"{folder.tag} {folder.owner or '-'} {folder.destination} {options}\n"
        for folder in promised(settings)
    )
