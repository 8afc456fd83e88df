# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: parse, call, print. Results on standard output, everything else beside it."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from tails_profiles import (
    __version__,
    boot,
    firewall,
    launch_steps,
    launcher,
    lease,
    links,
    recipe,
    ruleset,
    settings,
)
from tails_profiles.errors import (
    DetectionError,
    LaunchError,
    ProfilesError,
    QuarantineError,
    SettingsError,
)
from tails_profiles.launch import LaunchPlan
from tails_profiles.paths import Paths
from tails_profiles.profile import GUESTS, PROFILES, Profile, token
from tails_profiles.selection import Selection, select, selection_from_json
from tails_profiles.status import Status
from tails_profiles.system import dmi, files
from tails_profiles.system import links as link_edge
from tails_profiles.system.status import read_status

EXIT_STATUS = """\
exit status:
  0 done; 1 other expected failure; 2 usage; 3 detection; 4 settings; 5 rule set;
  6 a system command failed; 7 launch; 130 interrupted
"""

DESCRIPTION = """\
One live image, several virtual machines. A string that the hypervisor puts into a DMI
field makes a boot of an unmodified image tor-guest, i2p-guest or app-guest; without it
the image boots as always.
"""

EXAMPLES = """\
examples:
  tails-profiles token tor-guest --hypervisor virtualbox --vm Gateway
                                 what to type so that a VM becomes a Tor gateway
  tails-profiles detect          what this machine's DMI fields select, and why
  tails-profiles render app-guest --link tor
                                 the rule set of one link, as it ships
  tails-profiles status --json   what this boot has become

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status, and never raises an expected failure.

    Raises SystemExit for usage errors and ``--help``, as argparse does.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A name that the locale has no letters for is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(argv)
    except ProfilesError as err:
        return _complain(str(err), err.hint, err.exit_status)
    except BrokenPipeError:
        # Whoever reads has seen enough; the interpreter would complain while flushing.
        _discard_output()
        return 0
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        _discard_output()
        return _complain(where + (err.strerror or str(err)), None, ProfilesError.exit_status)
    except KeyboardInterrupt:
        return _complain("interrupted", None, 130)


def _run(argv: Sequence[str] | None) -> int:
    if sys.stdout is None:  # the caller closed it
        raise ProfilesError("standard output is closed")
    try:
        arguments = build_parser().parse_args(argv)
        handler: Callable[[argparse.Namespace], int] = arguments.handler
        return handler(arguments)
    finally:
        # Here and not while the interpreter ends: this can fail, and --help comes by too.
        sys.stdout.flush()


def _complain(message: str, hint: str | None, status: int) -> int:
    """Say what went wrong, in a line and perhaps a hint; returns ``status``."""
    if sys.stderr is not None:
        sys.stderr.write(f"tails-profiles: {_harmless(message)}\n")
        if hint:
            sys.stderr.write(f"  {_harmless(hint)}\n")
    return status


def _discard_output() -> None:
    """Where standard output takes nothing any more, leave nothing for the interpreter to flush."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _harmless(text: str) -> str:
    """One line, and nothing that could move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() else "?" for char in text)


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = argparse.ArgumentParser(
        prog="tails-profiles",
        description=DESCRIPTION,
        epilog=EXAMPLES + EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, handler: Callable[..., int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=EXIT_STATUS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(handler=handler)
        return made

    detect = command("detect", _detect, "say what the DMI fields select and why; changes nothing")
    _add_json(detect)
    detect.add_argument(
        "--sysfs",
        type=Path,
        metavar="DIR",
        help="read DIR/class/dmi/id, DIR standing in for /sys",
    )
    command("list", _list, "list the profiles")
    show = command("show", _show, "show one profile: its target, links and what it holds back")
    show.add_argument("profile", choices=[*PROFILES], metavar="PROFILE")
    _add_json(show)
    render = command("render", _render, "print a rule set, the very bytes that ship")
    render.add_argument("profile", choices=[*PROFILES], metavar="PROFILE")
    render.add_argument("--variant", default="", metavar="V", help="of tor-guest: " + ", ".join(
        firewall.variants(Profile.TOR_GUEST)))  # fmt: skip
    render.add_argument(
        "--link", metavar="NAME", help="the table of one link: uplink, uplink-dhcp, inner, tor, i2p"
    )
    apply = command("apply", _apply, "do what the boot units do: rule set, then links")
    apply.add_argument("--dry-run", action="store_true", help="print every step; change nothing")
    status = command("status", _status, "say what this boot has become")
    _add_json(status)
    _add_host(command("host", _host_status, "run the guests on this machine, in QEMU"))
    _add_token(command("token", _token, "print the whole recipe for a virtual machine of your own"))
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object; keys are stable"
    )


def _add_host(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, handler, text in (
        ("plan", _host_plan, "print every command that start would run"),
        ("start", _host_start, "start the gateways, then app-guest"),
        ("stop", _host_stop, "power everything off; leaves nothing behind"),
        ("status", _host_status, "say what runs"),
    ):
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        action.set_defaults(handler=handler)
        action.add_argument("--directory", type=Path, default=launcher.DIRECTORY, metavar="DIR",
                            help="sockets and state (default: %(default)s)")  # fmt: skip
        if name in {"plan", "start"}:
            action.add_argument("--hypervisor", choices=("qemu",), default="qemu")
            action.add_argument("--image", type=Path, required=True, metavar="FILE",
                                help="a live image with tails-profiles in it")  # fmt: skip
            action.add_argument("--settings", type=Path, metavar="FILE",
                                help="language, keyboard, bridges …, docs/settings.md")  # fmt: skip
            action.add_argument("--i2p", action="store_true", help="also start i2p-guest")
        if name == "plan":
            action.add_argument("--format", choices=("shell", "json"), default="shell")
        if name == "status":
            _add_json(action)


def _add_token(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", choices=[*GUESTS], metavar="PROFILE",
                        help=", ".join(GUESTS))  # fmt: skip
    parser.add_argument("--hypervisor", choices=recipe.HYPERVISORS,
                        help="print the whole recipe for it (default: the least)")  # fmt: skip
    parser.add_argument("--vm", metavar="NAME", help="the machine's name (default: the profile's)")
    parser.add_argument("--firmware", choices=recipe.FIRMWARES, default="bios",
                        help="what the machine boots with (default: bios)")  # fmt: skip


def _print_json(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    sys.stdout.write(json.dumps(value, indent=1) + "\n")


def _print_pairs(pairs: Sequence[tuple[str, object]]) -> None:
    width = max(len(name) for name, _ in pairs) + 1
    for name, value in pairs:
        sys.stdout.write(f"{name + ':':{width}} {_harmless(str(value))}\n")


def detect(sysfs: Path | None, paths: Paths) -> Selection:
    """What the fields select.

    Without root the serial number cannot be read; then the selection that this boot recorded is
    the answer. Raises DetectionError where there is none.
    """
    if sysfs is not None:
        if not sysfs.is_dir():
            raise DetectionError(f"{sysfs} is no directory", hint="--sysfs takes a tree like /sys")
        return select(dmi.read_fields(sysfs), container=False)
    if os.geteuid() == 0:
        return select(dmi.read_fields(paths.sysfs), container=dmi.in_container())
    recorded = files.read_json(paths.selection)
    if recorded is None:
        raise DetectionError(
            "the serial number is for root alone, and this boot recorded no selection",
            hint="run as root",
        )
    return selection_from_json(recorded, str(paths.selection))


def _detect(arguments: argparse.Namespace) -> int:
    selection = detect(arguments.sysfs, Paths())
    if arguments.json:
        _print_json(selection.to_json())
    else:
        _print_pairs(
            [("profile", selection.profile), ("field", selection.field or "-"),
             ("token", selection.token or "-"), ("reason", selection.reason)]
        )  # fmt: skip
    return 0


def _list(_: argparse.Namespace) -> int:
    width = max(len(profile) for profile in PROFILES)
    for profile, facts in PROFILES.items():
        sys.stdout.write(f"{profile:{width}}  {facts.summary}\n")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    profile = Profile(arguments.profile)
    facts = PROFILES[profile]
    named = {
        "profile": profile.value,
        "summary": facts.summary,
        "chosen_by": facts.chosen_by,
        "token": token(profile) if profile.is_guest else None,
        "target": facts.target,
        "links": list(facts.links),
        "optional_links": list(facts.optional_links),
        "held": list(facts.held),
        "variants": [name for name in firewall.variants(profile) if name],
    }
    if arguments.json:
        _print_json(named)
        return 0
    _print_pairs(
        [
            (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else value)
            for name, value in named.items()
            if value
        ]
    )
    return 0


def _render(arguments: argparse.Namespace) -> int:
    profile = Profile(arguments.profile)
    variant = arguments.variant or firewall.default_variant(profile)
    sys.stdout.write(ruleset.render_named(profile, variant, arguments.link))
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    if os.geteuid() != 0:
        raise DetectionError("the DMI fields and the rule sets are for root", hint="run as root")
    paths = Paths()
    selection = select(dmi.read_fields(paths.sysfs), container=dmi.in_container())
    if selection.profile is Profile.NORMAL:
        sys.stdout.write(f"nothing to do: {selection.reason}\n")
        return 0
    if arguments.dry_run:
        _show_steps(selection, paths)
        return 0
    for step in boot.STEPS:
        status = boot.main([step])
        if status != 0:
            failure = files.read_json(paths.failure) or {}
            hint = failure.get("hint")
            message = failure.get("message", "failed, see the journal")
            return _complain(f"{step}: {message}", hint and str(hint), status)
    return 0


def _show_steps(selection: Selection, paths: Paths) -> None:
    """What ``apply`` would do, as lines for a root shell."""
    sys.stdout.write(f"# {selection.profile}: {_harmless(selection.reason)}\n")
    if not selection.profile.is_guest:
        raise QuarantineError(selection.field, selection.reason)
    decision = boot.decide(selection.profile, boot.find_settings(selection, paths)[0])

    def load(link: str | None = None) -> str:
        name = firewall.file_name(decision.profile, decision.variant, link)
        return f"nft -f {paths.rulesets / name}"

    sys.stdout.write(load() + "\n")
    plan = links.plan(
        decision.profile,
        link_edge.list_links(),
        i2p_promised=decision.i2p_promised,
        dhcp=decision.dhcp,
    )
    for step in links.steps(plan):
        line = load(step.table) if isinstance(step, links.LoadTable) else step.display()
        sys.stdout.write(line + "\n")
    if decision.dhcp:
        sys.stdout.write("# address and route from the lease that this prints, if it is taken:\n")
        sys.stdout.write(lease.request(str(paths.lease_hook)).display() + "\n")


def _status(arguments: argparse.Namespace) -> int:
    status: Status = read_status(Paths())
    if arguments.json:
        _print_json(status.to_json())
    else:
        _print_pairs(status.lines())
    return 0


def _make_plan(arguments: argparse.Namespace) -> LaunchPlan:
    found = {profile: settings.defaults(profile) for profile in GUESTS}
    if arguments.settings is not None:
        try:
            data = arguments.settings.read_bytes()
        except OSError as err:
            raise SettingsError(f"{arguments.settings} cannot be read: {err.strerror}") from err
        found = dict(settings.for_guests(data))
    if arguments.i2p and found[Profile.APP_GUEST].i2p is None:
        found[Profile.APP_GUEST] = replace(found[Profile.APP_GUEST], i2p=settings.I2pSettings())
    return launcher.make_plan(arguments.image, arguments.directory, found, i2p=arguments.i2p)


def _host_plan(arguments: argparse.Namespace) -> int:
    steps = launcher.make_steps(_make_plan(arguments))
    if arguments.format == "json":
        _print_json([step.display() for step in steps])
    else:
        sys.stdout.write(launch_steps.display(steps))
    return 0


def _host_start(arguments: argparse.Namespace) -> int:
    _require_root()
    plan = _make_plan(arguments)
    launcher.Launcher(plan, _say).start(launcher.make_steps(plan))
    app = plan.guests[-1]
    _say(f"everything runs; app-guest's screen: a VNC viewer at unix:{app.screen}")
    return 0


def _host_stop(arguments: argparse.Namespace) -> int:
    _require_root()
    launcher.stop(arguments.directory, _say)
    return 0


def _host_status(arguments: argparse.Namespace) -> int:
    found = launcher.status(arguments.directory)
    if arguments.json:
        _print_json(found)
    elif found:
        _print_pairs(list(found.items()))
    else:
        sys.stdout.write("no guest was started\n")
    return 0


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LaunchError("users, namespaces and rule sets need root", hint="run as root")


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def _token(arguments: argparse.Namespace) -> int:
    if arguments.hypervisor is None:
        sys.stdout.write(recipe.overview(Profile(arguments.profile)))
        return 0
    sys.stdout.write(
        recipe.recipe(
            Profile(arguments.profile),
            arguments.hypervisor,
            arguments.vm or arguments.profile,
            arguments.firmware,
        )
    )
    return 0
