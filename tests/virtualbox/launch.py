# SPDX-License-Identifier: GPL-3.0-or-later
"""The launcher itself beside the real VirtualBox: ``python3 -m tests.virtualbox.launch``.

Runs inside, as ``inside`` does. Three things differ from ``host start``, all for want of the kernel
driver: nobody looks for it, machines are run by ``driverless``'s front end, and what would be an
internal network leads nowhere. Prints one JSON object.
"""

import base64
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from tails_profiles import launcher, screen, settings, vboxmanage
from tails_profiles.errors import LaunchError
from tails_profiles.launch import Display, GuestPlan, LaunchPlan
from tails_profiles.launch_steps import Step
from tails_profiles.profile import GUESTS, Profile
from tails_profiles.running import Limits
from tails_profiles.system import machines
from tails_profiles.system.process import run
from tails_profiles.vboxmanage import Machine, Version
from tests.virtualbox.driverless import EXTRADATA, FRONT_END, OPTIONS, SCREEN
from tests.virtualbox.inside import DIRECTORY, IMAGE
from tests.virtualbox.world import FACTOR

#: Interpreted guests take minutes where others take seconds.
LIMITS = Limits(silence=900 * FACTOR, power_off=60 * FACTOR, answer=60 * FACTOR)
REAL_MACHINE = vboxmanage.machine


def machine(guest: GuestPlan, plan: LaunchPlan, version: Version) -> Machine:
    """Without internal networks."""
    made = REAL_MACHINE(guest, plan, version)
    options = dict(made.options)
    for key, value in made.options.items():
        if value == ("intnet",):
            options[key] = ("null",)
            del options[(key[0].replace("nic", "intnet"),)]
    extradata = {
        key: value for key, value in made.extradata.items() if not key.endswith("/RestrictAccess")
    }
    return dataclasses.replace(made, options=options, extradata={**extradata, **EXTRADATA})


def front_end(guest: GuestPlan, directory: Path, display: Display | None) -> tuple[str, ...]:
    """The one that needs no kernel driver, on the tests' screen."""
    return (
        "/usr/bin/env", *vboxmanage.environment(guest.profile, directory),
        *(f"{key}={value}" for key, value in SCREEN.items()),
        FRONT_END, "--comment", f"{vboxmanage.COMMENT}{guest.directory}",
        "--startvm", str(guest.machine.uuid), *OPTIONS,
    )  # fmt: skip


class Tapped(machines.Words):
    """Also keeps what is none of a gateway's words."""

    heard = b""

    def _take(self, data: bytes) -> None:
        Tapped.heard += data
        super()._take(data)


def main() -> int:
    """Start both guests, look, and stop them."""
    vboxmanage.machine = machine
    vboxmanage.front_end = front_end
    launcher.require_driver = lambda _: None  # type: ignore[attr-defined,assignment]
    launcher.Words = Tapped  # type: ignore[attr-defined]
    said: list[str] = []
    given = {profile: settings.defaults(profile) for profile in GUESTS}
    plan = launcher.make_plan(IMAGE, DIRECTORY, given, i2p=False, hypervisor="virtualbox")
    found: dict[str, Any] = {"said": said, "links": {}}

    class Watched(launcher.Launcher):
        """Asks the hypervisor for the uplink's cable once the guest runs, and at its end."""

        def carry_out(self, step: Step) -> None:
            super().carry_out(step)
            said.append(type(step).__name__)

    Watched(plan, said.append, within=LIMITS).start(launcher.make_steps(plan))
    found["status"] = launcher.status(DIRECTORY)
    for guest in plan.guests:
        call = (vboxmanage.VBOXMANAGE, "showvminfo", str(guest.machine.uuid), "--machinereadable")
        shown = run(vboxmanage.command(guest.profile, DIRECTORY, call)).stdout
        info = vboxmanage.parse_info(shown)
        found["links"][guest.profile] = (info["VMState"], info["nic1"], info["cableconnected1"])
        log = (
            vboxmanage.home(guest.profile, DIRECTORY) / "machines" / guest.profile / "Logs/VBox.log"
        )
        found[f"log of {guest.profile}"] = log.read_text(errors="replace")
        pid = next(each["pid"] for each in found["status"]["guests"]
                   if each["profile"] == guest.profile)  # fmt: skip
        found[f"process of {guest.profile}"] = Path(f"/proc/{pid}/status").read_text()
        found[f"network of {guest.profile}"] = str(Path(f"/proc/{pid}/ns/net").readlink())
        asked = run(vboxmanage.command(
            guest.profile, DIRECTORY,
            (vboxmanage.VBOXMANAGE, "guestproperty", "enumerate", str(guest.machine.uuid)),
        ))  # fmt: skip
        found[f"properties of {guest.profile}"] = asked.stdout
    drawn = screen.show(Profile.TOR_GUEST, DIRECTORY).png
    found["picture"] = base64.b64encode(drawn).decode()
    try:
        launcher.Launcher(plan, said.append).start(launcher.make_steps(plan))
    except LaunchError as err:
        found["started twice"] = str(err)
    found["network here"] = str(Path("/proc/self/ns/net").readlink())
    found["heard"] = Tapped.heard.decode("utf-8", "replace")
    launcher.stop(DIRECTORY, said.append, Limits(LIMITS.silence, 60 * FACTOR, LIMITS.answer))
    found["left"] = DIRECTORY.exists()
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
