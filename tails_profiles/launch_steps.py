# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a ``LaunchPlan`` into the ordered steps that carry it out.

``host plan`` prints these steps, ``host start`` carries the same ones out, and each can be pasted
into a root shell.
"""

import base64
import gzip
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tails_profiles import firewall, qemu, settings_disk
from tails_profiles import settings as guest_settings
from tails_profiles.command import Command
from tails_profiles.constants import LINK_GROUP
from tails_profiles.launch import GuestPlan, LaunchPlan
from tails_profiles.profile import Profile
from tails_profiles.ruleset import render

HOST_TABLE = "inet tails_profiles_host"
SYSUSERS = "/usr/lib/sysusers.d/tails-profiles.conf"


@dataclass(frozen=True, slots=True)
class WriteDisk:
    """Write a guest's settings disk."""

    guest: GuestPlan
    image: bytes = field(repr=False)

    def display(self) -> str:
        """A line for a shell; the image compresses to a few hundred bytes."""
        text = base64.b64encode(gzip.compress(self.image, mtime=0)).decode()
        path = shlex.quote(str(self.guest.settings_disk))
        return f"echo {text} | base64 -d | gunzip > {path}"


@dataclass(frozen=True, slots=True)
class StartMachine:
    """Start a guest's machine, which goes on running; it is paused until it is told to go."""

    guest: GuestPlan
    command: Command

    def display(self) -> str:
        """A line for a shell."""
        return f"{self.command.display()} &"


@dataclass(frozen=True, slots=True)
class Monitor:
    """One command for a running machine (QMP)."""

    guest: GuestPlan
    command: str
    arguments: Mapping[str, Any]

    def display(self) -> str:
        """A line for a shell."""
        words = [
            json.dumps({"execute": "qmp_capabilities"}),
            json.dumps({"execute": self.command, "arguments": dict(self.arguments)}),
        ]
        lines = " ".join(shlex.quote(word) for word in words)
        return f"printf '%s\\n' {lines} | socat -t 5 - UNIX-CONNECT:{self.guest.monitor}"


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until a gateway has said a word on its serial port."""

    guest: GuestPlan
    word: str

    def display(self) -> str:
        """A line for a shell."""
        said = f"tails-profiles 1 {self.guest.profile} {self.word}"
        return f"socat -u UNIX-CONNECT:{self.guest.serial} - | grep -m 1 {shlex.quote(said)}"


Step = Command | WriteDisk | StartMachine | Monitor | Await


def steps(plan: LaunchPlan, seeds: Mapping[Profile, bytes]) -> tuple[Step, ...]:
    """Everything in order. ``seeds`` holds 64 fresh random bytes for each guest's pool."""
    return (
        *_prepare(plan),
        *(step for guest in plan.guests for step in _start(guest, plan, seeds[guest.profile])),
    )


def _prepare(plan: LaunchPlan) -> Iterator[Step]:
    yield Command(("/usr/bin/systemd-sysusers", SYSUSERS))
    # Before any machine runs: what its user may send.
    yield Command(("/usr/sbin/nft", "-f", "-"), stdin=host_rules(plan))
    install = ("/usr/bin/install", "-d")
    yield Command((*install, "-m", "0711", str(plan.directory)))
    # Set-group-id: the sockets belong to the group that both users share.
    yield Command((*install, "-m", "2770", "-g", LINK_GROUP, str(plan.link_directory)))


def host_rules(plan: LaunchPlan) -> str:
    """The host's rule set for this launch."""
    text = render(firewall.build_host_context(resolver=plan.resolver, udp=plan.udp))
    if plan.proxy is not None:
        address, port = plan.proxy
        text += f"add element {HOST_TABLE} proxy {{ {address} . {port} }}\n"
    return text


def _start(guest: GuestPlan, plan: LaunchPlan, seed: bytes) -> Iterator[Step]:
    yield Command(
        ("/usr/bin/install", "-d", "-m", "0700", "-o", guest.user, "-g", guest.user,
         str(guest.directory))
    )  # fmt: skip
    data = guest_settings.serialize(guest.settings)
    yield WriteDisk(guest, settings_disk.build(data, seed))
    yield StartMachine(guest, qemu.guest_command(guest, plan))
    uplinks = [link.name for link in guest.links if link.is_uplink]
    for name in uplinks:
        yield Monitor(guest, "set_link", {"name": f"nic-{name}", "up": False})
    yield Monitor(guest, "cont", {})
    if guest.profile.is_gateway:
        # The link gate: a guest that lost its token, or hangs, never sees a network.
        yield Await(guest, "firewall")
        for name in uplinks:
            yield Monitor(guest, "set_link", {"name": f"nic-{name}", "up": True})
        yield Await(guest, "ready")


def display(plan_steps: tuple[Step, ...]) -> str:
    """All steps for a root shell, a line each; standard input as here-documents."""
    lines = []
    for step in plan_steps:
        line = step.display()
        if isinstance(step, Command) and step.stdin is not None:
            line = f"{line} <<'END'\n{step.stdin}END"
        lines.append(line)
    return "\n".join(lines) + "\n"
