# SPDX-License-Identifier: GPL-3.0-or-later
"""How somebody's own virtual machine differs from its recipe, and the leak that each opens.

The recipe's own rows are what a machine is compared with, and their words are the leaks: there is
no second list of either. ``audit_virtualbox``, ``audit_libvirt`` and ``audit_qemu`` compare. What
they find in a machine and do not know is a deviation too: it could be anything.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from xml.etree import ElementTree

from tails_profiles.errors import AuditError
from tails_profiles.profile import Profile
from tails_profiles.selection import DmiFields, FieldReading, select


class Opens(StrEnum):
    """What a deviation opens, the worst first."""

    #: A way past the gateways, or into them.
    NETWORK = "network"
    #: Something between guest and host, or between guests: files, clipboard, devices, listeners.
    CHANNEL = "channel"
    #: Nobody knows: the recipe does not have it, and this program has no words for it.
    UNKNOWN = "unknown"
    #: What the guest learns of its host.
    IDENTITY = "identity"


#: What an unknown setting opens.
UNKNOWN = "The recipe does not have it, and this audit does not know what it opens."


@dataclass(frozen=True, slots=True)
class Deviation:
    """One setting that is not the recipe's, in the hypervisor's own words.

    ``leak`` is what it opens, as the recipe says it.
    """

    setting: str
    found: str
    expected: str
    opens: Opens
    leak: str

    def line(self) -> str:
        """In words."""
        return f"{self.setting} is {self.found}, not {self.expected}. {self.leak}"


def unknown(setting: str, found: str) -> Deviation:
    """A setting that no recipe has."""
    return Deviation(setting, found, "absent", Opens.UNKNOWN, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that deviates in one machine, the worst first."""

    vm: str
    hypervisor: str
    profile: Profile
    deviations: tuple[Deviation, ...]

    def lines(self) -> Iterator[str]:
        """For people: a line for each."""
        for each in self.deviations:
            yield f"{each.opens}: {each.line()}"
        if not self.deviations:
            yield f"{self.vm} is {self.profile} as the recipe has it"

    def to_json(self) -> dict[str, Any]:
        """The stable keys of ``host audit --json``."""
        return {
            "vm": self.vm,
            "hypervisor": self.hypervisor,
            "profile": self.profile.value,
            "deviations": [
                {
                    "setting": each.setting,
                    "found": each.found,
                    "expected": each.expected,
                    "opens": each.opens.value,
                    "leak": each.leak,
                }
                for each in self.deviations
            ],
        }


def report(vm: str, hypervisor: str, profile: Profile, deviations: Iterable[Deviation]) -> Report:
    """The report; within one kind of leak in the recipe's order, each once."""
    order = [*Opens]
    unique = dict.fromkeys(deviations)
    return Report(
        vm, hypervisor, profile,
        tuple(sorted(unique, key=lambda each: order.index(each.opens))),
    )  # fmt: skip


def profile_of(fields: Mapping[str, str | None], wanted: Profile | None) -> Profile:
    """The guest that a machine is to be, from its DMI fields by the kernel's names, or as asked.

    Raises AuditError where neither says.
    """
    if wanted is not None:
        return wanted
    selection = select(
        DmiFields(
            **{
                name: FieldReading(name, None if value is None else f"{value}\n".encode())
                for name, value in fields.items()
            }
        ),
        container=False,
    )
    if selection.profile.is_guest:
        return selection.profile
    where = f"{selection.field}: " if selection.field else ""
    raise AuditError(
        f"which guest this machine should be is not clear: {where}{selection.reason}",
        hint="say it: --profile tor-guest, i2p-guest or app-guest",
    )


def parse_xml(
    text: str, source: str, parser: ElementTree.XMLParser | None = None
) -> ElementTree.Element:
    """XML as a hypervisor keeps it; raises AuditError naming ``source``.

    It has no document type, so that nothing in it can grow while it is read.
    """
    if "<!DOCTYPE" in text:
        raise AuditError(f"{source} has a document type, as no hypervisor writes it")
    try:
        return ElementTree.fromstring(text, parser)  # noqa: S314 - see above
    except ElementTree.ParseError as err:
        raise AuditError(f"{source} is no XML: {err}") from err
