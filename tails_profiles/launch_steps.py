# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn a ``LaunchPlan`` into the ordered steps that carry it out.

``host plan`` prints these steps as a script for bash, and ``host start`` carries the same ones out.
"""

import base64
import gzip
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tails_profiles import firewall, hypervisors, settings_disk
from tails_profiles import settings as guest_settings
from tails_profiles.command import Command
from tails_profiles.launch import GuestPlan, ImageFacts, LaunchPlan, warnings
from tails_profiles.machine_steps import (
    AwaitRunning,
    MachineStep,
    MakeMachine,
    Manage,
    Monitor,
    StartMachine,
)
from tails_profiles.profile import Profile
from tails_profiles.quota import Limit
from tails_profiles.ruleset import render
from tails_profiles.shares import SharedFolder

HOST_TABLE = "inet tails_profiles_host"


@dataclass(frozen=True, slots=True)
class LoadRules:
    """Load the host's rule set, in one transaction."""

    text: str

    def display(self) -> str:
        """Lines for a shell."""
        return f"/usr/sbin/nft -f - <<'END'\n{self.text}END"


@dataclass(frozen=True, slots=True)
class CheckReadable:
    """See that the user of a guest's machine may read the image."""

    user: str
    image: Path

    @property
    def command(self) -> Command:
        """The command that tells; its status is 0 if so."""
        return Command(
            (
                "/usr/bin/setpriv", f"--reuid={self.user}", f"--regid={self.user}",
                "--clear-groups", "--", "/usr/bin/test", "-r", str(self.image),
            )
        )  # fmt: skip

    def display(self) -> str:
        """A line for a shell."""
        return self.command.display()


@dataclass(frozen=True, slots=True)
class CheckImage:
    """See that the image is still the file that the plan was made for."""

    image: Path
    facts: ImageFacts

    def display(self) -> str:
        """A line for a shell."""
        facts = self.facts
        seconds, rest = divmod(facts.changed, 10**9)
        expected = f"{facts.device} {facts.inode} {facts.size} {seconds}.{rest:09}"
        path = shlex.quote(str(self.image))
        return f"unchanged {path} '{expected}'"


@dataclass(frozen=True, slots=True)
class CheckClosed:
    """See that the user of another guest's machine may not enter a folder."""

    share: SharedFolder
    user: str

    @property
    def command(self) -> Command:
        """The command that tells; its status is 0 if so."""
        return Command(
            (
                "/usr/bin/setpriv", f"--reuid={self.user}", f"--regid={self.user}",
                "--clear-groups", "--", "/usr/bin/test", "!", "-x", str(self.share.source),
            )
        )  # fmt: skip

    def display(self) -> str:
        """A line for a shell."""
        return self.command.display()


@dataclass(frozen=True, slots=True)
class BindFolder:
    """Mount a folder where a guest's machine finds it, under that machine's identity."""

    share: SharedFolder
    user: str

    def display(self) -> str:
        """A line for a shell: mount(8) of Debian 12 cannot do it, our own module can."""
        access = "rw" if self.share.writable else "ro"
        return Command(
            (
                # Not from the directory in which somebody happens to be.
                "/usr/bin/python3", "-P", "-m", "tails_profiles.system.mounts",
                str(self.share.source), str(self.share.target), self.user, access,
            )
        ).display()  # fmt: skip


@dataclass(frozen=True, slots=True)
class LimitFolder:
    """Set what may be added through a share's mount, by the file system's project quota.

    By the mount and not by the folder: the mount is what is found again, whatever became of the
    launch, and it has no other file system below it.
    """

    share: SharedFolder
    limit: Limit

    def display(self) -> str:
        """A line for a shell."""
        limit = self.limit
        inodes = "-" if limit.inodes is None else str(limit.inodes)
        return Command(
            (
                "/usr/bin/python3", "-P", "-m", "tails_profiles.system.quota",
                str(self.share.target), str(limit.project), str(limit.size), inodes,
            )
        ).display()  # fmt: skip


@dataclass(frozen=True, slots=True)
class WriteDisk:
    """Write a guest's settings disk: root's file, which the guest's user may read."""

    guest: GuestPlan
    image: bytes = field(repr=False)

    def display(self) -> str:
        """A line for a shell; the image compresses to a few hundred bytes."""
        text = base64.b64encode(gzip.compress(self.image, mtime=0)).decode()
        path = shlex.quote(str(self.guest.settings_disk))
        owner = f"/usr/bin/install -m 0440 -o root -g {self.guest.user} /dev/stdin {path}"
        return f"echo {text} | base64 -d | gunzip | {owner}"


@dataclass(frozen=True, slots=True)
class Await:
    """Wait until a gateway has said a word on its serial port."""

    guest: GuestPlan
    word: str

    def display(self) -> str:
        """A line for a shell."""
        return f"says {self.guest.profile} {self.word}"


Step = (
    LoadRules
    | CheckReadable
    | CheckImage
    | CheckClosed
    | BindFolder
    | LimitFolder
    | WriteDisk
    | Await
    | MachineStep
)

#: What the printed lines use: a socket is waited for, a gateway is listened to from its first word
#: on. "says" has no time limit: Ctrl-C ends the wait.
PRELUDE = """\
set -eu
declare -A port listener
trap 'kill "${listener[@]}" 2>/dev/null || :' EXIT
appears() { until [ -S "$1" ]; do kill -0 "${!:-$$}"; sleep 0.1; done; }
unchanged() {
    [ "$(stat -L -c '%d %i %s %.9Y' "$1")" = "$2" ] || { echo "$1 has changed" >&2; return 1; }
}
listen() {
    exec {descriptor}< <(exec socat -u "UNIX-CONNECT:$2" -)
    port[$1]=$descriptor listener[$1]=$!
}
says() {
    local line
    while IFS= read -r line <&"${port[$1]}"; do
        line=${line%$'\\r'}
        case $line in
            "tails-profiles 1 $1 $2") printf '%s: %s\\n' "$1" "$2"; return ;;
            "tails-profiles 1 $1 failed "* | "tails-profiles 1 quarantine "*)
                printf '%s\\n' "$line" >&2; return 1 ;;
        esac
    done
    echo "$1: ended before it said $2" >&2
    return 1
}
"""


def steps(plan: LaunchPlan, seeds: Mapping[Profile, bytes]) -> tuple[Step, ...]:
    """Everything in order. ``seeds`` holds 64 fresh random bytes for each guest's pool."""
    return (
        *_prepare(plan),
        *(step for guest in plan.guests for step in _start(guest, plan, seeds[guest.profile])),
        CheckImage(plan.image, plan.image_facts),
    )


def _prepare(plan: LaunchPlan) -> Iterator[Step]:
    yield Command(("/usr/bin/systemd-sysusers", str(plan.sysusers)))
    for user in sorted({guest.user for guest in plan.guests}):
        yield CheckReadable(user, plan.image)
    yield Command(("/usr/bin/install", "-d", "-m", "0711", str(plan.directory)))
    # Before any machine runs: what its user may send. The directory tells that they are there.
    yield LoadRules(host_rules(plan))
    yield from hypervisors.of(plan).prepare(plan)


def host_rules(plan: LaunchPlan) -> str:
    """The host's rule set for this launch."""
    text = render(
        firewall.build_host_context(resolver=plan.resolver, udp=plan.udp, exclusive=plan.exclusive)
    )
    if plan.proxy is not None:
        address, port = plan.proxy
        text += f"add element {HOST_TABLE} proxy {{ {address} . {port} }}\n"
    return text


def _start(guest: GuestPlan, plan: LaunchPlan, seed: bytes) -> Iterator[Step]:
    yield Command(
        ("/usr/bin/install", "-d", "-m", "0700", "-o", guest.user, "-g", guest.user,
         str(guest.directory))
    )  # fmt: skip
    yield from _share(guest, plan)
    data = guest_settings.serialize(guest.settings)
    yield WriteDisk(guest, settings_disk.build(data, seed, guest.bundle))
    hypervisor = hypervisors.of(plan)
    yield from hypervisor.start(guest, plan)
    # It has the image open by now: the same file for every guest.
    yield CheckImage(plan.image, plan.image_facts)
    yield from hypervisor.go(guest)
    if guest.profile.is_gateway:
        # The link gate: a guest that lost its token, or hangs, never sees a network.
        yield Await(guest, "firewall")
        yield from hypervisor.plug(guest, plan)
        yield Await(guest, "ready")


def _share(guest: GuestPlan, plan: LaunchPlan) -> Iterator[Step]:
    if not guest.shares:
        return
    install = ("/usr/bin/install", "-d", "-o", "root")
    yield Command((*install, "-m", "0711", str(plan.share_directory)))
    # Closed to the other guests' machines.
    own = plan.share_directory / guest.profile
    yield Command((*install, "-m", "0750", "-g", guest.user, str(own)))
    others = sorted({other.user for other in plan.guests} - {guest.user})
    for share in guest.shares:
        for user in others:
            yield CheckClosed(share, user)
        yield Command((*install, "-m", "0700", str(share.target)))
        yield BindFolder(share, guest.user)
        if isinstance(share.growth, Limit):
            yield LimitFolder(share, share.growth)


def display(plan: LaunchPlan, plan_steps: Sequence[Step]) -> str:
    """All steps as a script for bash, for root."""
    warned = (f"# warning: {words}" for words in warnings(plan))
    return "\n".join((*warned, _prelude(plan), *(step.display() for step in plan_steps))) + "\n"


def _prelude(plan: LaunchPlan) -> str:
    return PRELUDE + hypervisors.of(plan).prelude


def to_json(plan: LaunchPlan, plan_steps: Sequence[Step]) -> dict[str, Any]:
    """The stable keys of ``host plan --format json``; docs/launch.md."""
    hypervisor = hypervisors.of(plan)
    return {
        "version": 1,
        "hypervisor": hypervisor.name,
        "image": str(plan.image),
        "directory": str(plan.directory),
        "accelerator": hypervisor.accelerator(plan),
        "runner": "systemd" if plan.systemd else "setpriv",
        "warnings": list(warnings(plan)),
        "guests": [
            {
                "profile": guest.profile.value,
                "token": guest.token,
                "memory": guest.machine.memory,
                "processors": guest.machine.processors,
                "user": guest.user,
                "clock": f"{guest.clock:%Y-%m-%dT%H:%M:%SZ}",
                "links": [
                    {"name": link.name, "mac": link.mac, "uplink": link.is_uplink}
                    for link in guest.links
                ],
                "shares": [
                    {
                        "tag": share.tag,
                        "feature": share.feature.value,
                        "source": str(share.source),
                        "writable": share.writable,
                        "growth": share.growth.size if isinstance(share.growth, Limit) else None,
                    }
                    for share in guest.shares
                ],
                "argv": list(hypervisor.words(guest, plan)),
            }
            for guest in plan.guests
        ],
        "prelude": _prelude(plan),
        "steps": [{"kind": _KINDS[type(step)], "shell": step.display()} for step in plan_steps],
    }


_KINDS: Mapping[type, str] = {
    Command: "command",
    LoadRules: "rules",
    CheckReadable: "check-readable",
    CheckImage: "check-image",
    CheckClosed: "check-closed",
    BindFolder: "share",
    LimitFolder: "quota",
    WriteDisk: "settings-disk",
    StartMachine: "machine",
    Monitor: "monitor",
    MakeMachine: "make",
    AwaitRunning: "await-running",
    Manage: "manage",
    Await: "await",
}
