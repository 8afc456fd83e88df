# SPDX-License-Identifier: GPL-3.0-or-later
"""Every expected failure and the exit status it ends in.

The tree is cut by what the caller can do about it. Each error builds its message from its
fields, so that code tests the fields and people read the text: lower-case start, no full stop,
the offending value quoted, where it came from and what was expected. Programming mistakes are
not in this tree: they end in a traceback, and on the boot path in quarantine.
"""

from collections.abc import Sequence
from typing import ClassVar


class ProfilesError(Exception):
    """An expected failure; shown as one line and, where there is one, a hint.

    ``exit_status`` is what the command exits with. ``reason`` is the word a gateway announces
    to its host in ``failed REASON``; None leaves it to the boot step in which it happens.
    """

    exit_status: ClassVar[int] = 1
    reason: ClassVar[str | None] = None

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class DetectionError(ProfilesError):
    """The DMI fields cannot be read, or what they say cannot be obeyed."""

    exit_status = 3
    reason = "token"


class DmiContradictionError(DetectionError):
    """Two readers of the same DMI field disagree; raised by the cross-check with dmidecode."""

    def __init__(self, field: str, kernel: bytes, library: bytes) -> None:
        super().__init__(
            f"the kernel and dmidecode disagree on {field}: {kernel!r} and {library!r}",
            hint="DMI is constant after boot; do not use this machine until it is explained",
        )
        self.field = field
        self.kernel = kernel
        self.library = library


class QuarantineError(DetectionError):
    """The selection is quarantine; carries what the selection says about it."""

    def __init__(self, field: str | None, why: str) -> None:
        super().__init__(
            f"{field}: {why}" if field else why,
            hint="see 'tails-profiles token --help' for the exact strings",
        )
        self.field = field


class DamagedStateError(DetectionError):
    """A state file of this boot is not as the boot steps write it."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(
            f"{path} is damaged: {why}", hint="the boot steps alone write it, as root, at each boot"
        )
        self.path = path
        self.why = why


class SettingsError(ProfilesError):
    """The settings disk is missing, doubled or for another profile, or a value in it is invalid."""

    exit_status = 4
    reason = "settings"


class InvalidSettingError(SettingsError):
    """A value outside the closed grammar of its key."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        shown = repr(value)
        if len(shown) > 120:  # hostile files may hold 64 KiB in one value
            shown = shown[:117] + "..."
        super().__init__(f"setting {key}: {shown} is not {expected}")
        self.key = key
        self.value = value
        self.expected = expected


class TransportError(SettingsError):
    """A bridge needs a pluggable transport that this image does not have."""

    reason = "bridge"

    def __init__(self, transport: str, programs: Sequence[str]) -> None:
        super().__init__(
            f"bridges use {transport}, and this image has no program for it",
            hint=f"looked for {' and '.join(programs)}",
        )
        self.transport = transport
        self.programs = tuple(programs)


class ReseedError(SettingsError):
    """The I2P router would know nobody: no first routers, or a file that holds none."""

    reason = "i2p"


class SubscriptionError(SettingsError):
    """A list of names that the I2P router could never fetch."""

    reason = "i2p"

    def __init__(self, where: str, url: str) -> None:
        shown = repr(url)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(
            f"{where}: {shown} is no list of I2P names",
            hint="it is http://SITE.i2p/PATH, fetched through I2P: no https, no other network",
        )
        self.where = where
        self.url = url


class RulesetError(ProfilesError):
    """A rule set cannot be rendered, found or loaded."""

    exit_status = 5
    reason = "ruleset"


class RulesetRejectedError(RulesetError):
    """The kernel or nft refused a rule set; nothing of it is in force."""

    def __init__(self, source: str, stderr: str) -> None:
        lines = stderr.strip().splitlines()
        super().__init__(f"nft refused {source}: {lines[0] if lines else 'no message'}")
        self.source = source
        self.stderr = stderr


class SystemFailureError(ProfilesError):
    """The machine did not do what was asked of it."""

    exit_status = 6


class CommandError(SystemFailureError):
    """A command ended with a status that means failure, or did not end in time."""

    def __init__(self, shown: str, status: int | None, stderr: str) -> None:
        lines = stderr.strip().splitlines()
        ended = "did not end in time" if status is None else f"failed with status {status}"
        super().__init__(f"{shown}: {ended}" + (f": {lines[-1]}" if lines else ""))
        self.shown = shown
        self.status = status
        self.stderr = stderr


class CommandNotFoundError(SystemFailureError):
    """A program this step needs is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program}: no such program", hint="install the package that holds it")
        self.program = program


class MissingLibraryError(SystemFailureError):
    """A Python library this step needs is not installed."""

    def __init__(self, module: str, package: str) -> None:
        super().__init__(
            f"the Python library {module} cannot be imported", hint=f"install {package}"
        )
        self.module = module
        self.package = package


class MissingAccountError(SystemFailureError):
    """An account of the image is missing."""

    reason = "tor"

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no account {name}", hint="install the package that makes it")
        self.name = name


class LinkError(SystemFailureError):
    """The links of this machine are not those of its profile, or do not take their settings."""

    reason = "links"


class LeaseError(SystemFailureError):
    """The uplink has no lease that may be taken."""

    reason = "network"


class TorError(SystemFailureError):
    """Tor does not answer, or ended."""

    reason = "tor"


class I2pError(SystemFailureError):
    """The I2P router has found nobody to begin with."""

    reason = "i2p"


class LaunchError(ProfilesError):
    """A guest cannot be started, or did not become ready."""

    exit_status = 7


class AuditError(ProfilesError):
    """There is no such machine, or what the hypervisor says of it cannot be read."""


def known(names: Sequence[str]) -> str:
    """Words for a hint that lists what would have been accepted."""
    return "known: " + ", ".join(names) if names else "it has none"
