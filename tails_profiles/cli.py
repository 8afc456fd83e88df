# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line: parse, call, print. Results on standard output, everything else beside it."""

import argparse
import base64
import contextlib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from tails_profiles import (
    __version__,
    auditor,
    boot,
    firewall,
    firewall_step,
    hypervisors,
    i2pd,
    launch,
    launch_steps,
    launcher,
    lease,
    links,
    recipe,
    rule_files,
    ruleset,
    screen,
    settings,
    shares,
    usage,
)
from tails_profiles.constants import LINKS
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
from tails_profiles.settings_disk import MAX_BUNDLE
from tails_profiles.status import Status
from tails_profiles.system import dmi, files, selftest
from tails_profiles.system import links as link_edge
from tails_profiles.system.status import read_status

Handler = Callable[[argparse.Namespace], int]


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
        _leave_nothing_in(sys.stdout)
        return 0
    except OSError as err:
        where = f"{err.filename}: " if err.filename else ""
        _leave_nothing_in(sys.stdout)
        return _complain(where + (err.strerror or str(err)), None, ProfilesError.exit_status)
    except KeyboardInterrupt:
        return _complain("interrupted", None, 130)
    finally:
        # A terminal that went away: else the status would be 120.
        _leave_nothing_in(sys.stderr)


def _run(argv: Sequence[str] | None) -> int:
    if sys.stdout is None:  # the caller closed it
        raise ProfilesError("standard output is closed")
    try:
        arguments = build_parser().parse_args(argv)
        handler: Handler = arguments.handler
        return handler(arguments)
    finally:
        # Here and not while the interpreter ends: this can fail, and --help comes by too.
        sys.stdout.flush()


def _complain(message: str, hint: str | None, status: int) -> int:
    """Say what went wrong, in a line and perhaps a hint; returns ``status``."""
    if sys.stderr is not None:
        # A terminal that is gone reads nothing, and the status is still true.
        with contextlib.suppress(OSError):
            sys.stderr.write(f"tails-profiles: {_harmless(message)}\n")
            if hint:
                sys.stderr.write(f"  {_harmless(hint)}\n")
            sys.stderr.flush()
    return status


def _leave_nothing_in(stream: TextIO | None) -> None:
    """Where a stream takes nothing any more, leave nothing for the interpreter to flush."""
    if stream is None:
        return
    with contextlib.suppress(OSError):
        stream.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _harmless(text: str) -> str:
    """One line, and nothing that could move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() else "?" for char in text)


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    parser = argparse.ArgumentParser(
        prog="tails-profiles",
        description=usage.DESCRIPTION,
        epilog=usage.OVERVIEW + usage.EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    detect = _add(commands, "detect", _detect)
    detect.add_argument("--sysfs", type=Path, metavar="DIR",
                        help="read below DIR/class/dmi/id; DIR stands in for /sys")  # fmt: skip
    _add(commands, "list", _list)
    show = _add(commands, "show", _show)
    _add_profile(show, PROFILES)
    render = _add(commands, "render", _render)
    _add_profile(render, PROFILES)
    render.add_argument("--variant", default="", metavar="V", help="of tor-guest: "
                        + ", ".join(firewall.variants(Profile.TOR_GUEST)))  # fmt: skip
    render.add_argument("--link", metavar="NAME",
                        help="the table of one link: uplink, uplink-dhcp, inner; in app-guest"
                        " tor, i2p")  # fmt: skip
    apply = _add(commands, "apply", _apply)
    apply.add_argument("--dry-run", action="store_true", help="print every step; change nothing")
    status = _add(commands, "status", _status)
    check = _add(commands, "check", _check)
    token = _add(commands, "token", _token)
    _add_profile(token, GUESTS)
    token.add_argument("--hypervisor", choices=recipe.HYPERVISORS,
                       help="print the whole recipe for it")  # fmt: skip
    token.add_argument("--vm", metavar="NAME", help="the machine's name (default: the profile's)")
    token.add_argument("--firmware", choices=recipe.FIRMWARES, default="bios",
                       help="what the machine boots with (default: bios)")  # fmt: skip
    _add_host(commands)
    for each in (detect, show, status, check):
        _add_json(each)
    return parser


def _add(commands: Any, name: str, handler: Handler | None) -> argparse.ArgumentParser:  # noqa: ANN401
    """One command or action, with the words that ``usage`` has for it."""
    words = usage.COMMANDS[name]
    made: argparse.ArgumentParser = commands.add_parser(
        name.rpartition(" ")[2],
        help=words.summary,
        description=words.text,
        epilog=words.epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if handler is not None:
        made.set_defaults(handler=handler)
    return made


def _add_profile(parser: argparse.ArgumentParser, profiles: Iterable[Profile]) -> None:
    names = [profile.value for profile in profiles]
    parser.add_argument("profile", choices=names, metavar="PROFILE", help=", ".join(names))


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print JSON; its keys are in tails-profiles(1)"
    )


def _add_host(commands: Any) -> None:  # noqa: ANN401 - argparse's own type has no name
    actions = _add(commands, "host", None).add_subparsers(
        title="actions", metavar="ACTION", required=True
    )
    plan = _add(actions, "host plan", _host_plan)
    start = _add(actions, "host start", _host_start)
    stop = _add(actions, "host stop", _host_stop)
    status = _add(actions, "host status", _host_status)
    show = _add(actions, "host show", _host_show)
    _add_profile(show, GUESTS)
    show.add_argument("--dry-run", action="store_true",
                      help="print what would draw it; change nothing")  # fmt: skip
    audit = _add(actions, "host audit", _host_audit)
    audit.add_argument("vm", metavar="VM", help="its name or UUID; in QEMU its process id, too")
    audit.add_argument("--hypervisor", choices=recipe.HYPERVISORS,
                       help="whose it is (default: every one is asked)")  # fmt: skip
    audit.add_argument("--profile", choices=[profile.value for profile in GUESTS],
                       help="the guest it is to be (default: as its token says)")  # fmt: skip
    for action in (plan, start):
        action.add_argument("--hypervisor", choices=hypervisors.NAMES, default="qemu",
                            help="default: %(default)s")  # fmt: skip
        action.add_argument("--image", type=Path, required=True, metavar="FILE",
                            help="a live image with tails-profiles in it")  # fmt: skip
        action.add_argument("--settings", type=Path, metavar="FILE",
                            help="JSON: language, keyboard, bridges; see settings.md")  # fmt: skip
        action.add_argument("--i2p", action="store_true", help="also start i2p-guest")
        action.add_argument("--share", action="append", default=[], metavar="NAME=DIR[:ro]",
                            help="lend a guest a folder; may be repeated")  # fmt: skip
        action.add_argument("--exclusive", action="store_true",
                            help="while they run, nobody else here has a network")  # fmt: skip
        action.add_argument("--reseed", type=Path, metavar="FILE",
                            help="I2P's first routers, .su3 or .zip; see i2p.md")  # fmt: skip
    for action in (plan, start, stop, status, show):
        action.add_argument("--directory", type=Path, default=launcher.DIRECTORY, metavar="DIR",
                            help="sockets and state (default: %(default)s)")  # fmt: skip
    plan.add_argument("--format", choices=("shell", "json"), default="shell",
                      help="default: shell")  # fmt: skip
    for action in (status, show, audit):
        _add_json(action)


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
        chosen_by = token(profile) if profile.is_guest else facts.chosen_by
        sys.stdout.write(
            f"{profile:{width}}  {facts.summary}\n{'':{width}}  chosen by {chosen_by}\n"
        )
    return 0


def _show(arguments: argparse.Namespace) -> int:
    facts = profile_json(Profile(arguments.profile))
    if arguments.json:
        _print_json(facts)
        return 0
    _print_pairs(
        [(name, facts[key]) for name, key in
         (("profile", "profile"), ("is", "summary"), ("chosen by", "chosen_by"),
          ("token", "token"), ("target", "target")) if facts[key]]
    )  # fmt: skip
    for link in facts["links"]:
        optional = ", may be absent" if link["optional"] else ""
        sys.stdout.write(f"\nlink {link['name']}: MAC {link['mac']}{optional}\n")
        sys.stdout.write(f"  {link['address']}, leads to {link['peer']}")
        sys.stdout.write(f" over {link['segment']}\n" if link["segment"] else "\n")
    for title, key in (("rule set variants", "variants"), ("holds back", "held")):
        if facts[key]:
            sys.stdout.write(f"\n{title}:\n{_wrap(facts[key])}\n")
    return 0


def _wrap(names: Iterable[str]) -> str:
    return textwrap.fill(
        ", ".join(names), 78, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )


def profile_json(profile: Profile) -> dict[str, Any]:
    """The stable keys of ``show --json``."""
    facts = PROFILES[profile]
    return {
        "profile": profile.value,
        "summary": facts.summary,
        "chosen_by": facts.chosen_by,
        "token": token(profile) if profile.is_guest else None,
        "target": facts.target,
        "links": [
            {
                "name": link.name,
                "mac": link.mac,
                "address": str(link.address),
                "peer": str(link.peer),
                "segment": link.segment,
                "optional": link.name in facts.optional_links,
            }
            for link in LINKS.get(profile, ())
        ],
        "held": list(facts.held),
        "variants": [name for name in firewall.variants(profile) if name],
    }


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
    found, _ = firewall_step.find_settings(selection, paths)
    decision = firewall_step.decide(selection.profile, found)

    def load(link: str | None = None) -> str:
        name = rule_files.file_name(decision.profile, decision.variant, link)
        return f"nft -f {paths.rulesets / name}"

    sys.stdout.write(load() + "\n")
    plan = links.plan(
        decision.profile,
        link_edge.list_links(),
        i2p_promised=decision.i2p_promised,
        dhcp=decision.dhcp,
        offline=decision.offline,
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


def _check(arguments: argparse.Namespace) -> int:
    paths = Paths()
    recorded = files.load_json(paths.selection)
    selection = (
        detect(None, paths)
        if recorded is None
        else selection_from_json(recorded, str(paths.selection))
    )
    if not selection.profile.is_guest and selection.profile is not Profile.QUARANTINE:
        raise DetectionError(
            f"this boot is {selection.profile}, where nothing is closed: {selection.reason}",
            hint="run it in a guest",
        )
    report = selftest.run(selection.profile)
    if arguments.json:
        _print_json(report.to_json())
    else:
        sys.stdout.writelines(f"{line}\n" for line in report.lines())
    return 0 if report.passed else 1


def _make_plan(arguments: argparse.Namespace) -> LaunchPlan:
    found = {profile: settings.defaults(profile) for profile in GUESTS}
    if arguments.settings is not None:
        try:
            data = arguments.settings.read_bytes()
        except OSError as err:
            raise SettingsError(f"{arguments.settings} cannot be read: {err.strerror}") from err
        found = dict(settings.for_guests(data))
    if not arguments.i2p and found[Profile.APP_GUEST].i2p is not None:
        raise SettingsError(
            f"{arguments.settings} has settings for i2p-guest, which is not to be started",
            hint="add --i2p, or set i2p to null",
        )
    if arguments.i2p and found[Profile.APP_GUEST].i2p is None:
        found[Profile.APP_GUEST] = replace(found[Profile.APP_GUEST], i2p=settings.I2pSettings())
    bundle = _bundle(arguments)
    made = launcher.make_plan(
        arguments.image,
        arguments.directory,
        found,
        i2p=arguments.i2p,
        exclusive=arguments.exclusive,
        hypervisor=arguments.hypervisor,
    )
    made = launcher.with_shares(made, shares.choices(arguments.share))
    for words in launch.warnings(made):
        _say(f"warning: {words}")
    return launch.with_bundle(made, bundle)


def _bundle(arguments: argparse.Namespace) -> bytes:
    """The file of first I2P routers, checked as far as it can be here."""
    if arguments.reseed is None:
        return b""
    if not arguments.i2p:
        raise SettingsError(f"{arguments.reseed} is for i2p-guest, which is not to be started",
                            hint="add --i2p")  # fmt: skip
    try:
        with arguments.reseed.open("rb") as file:
            data: bytes = file.read(MAX_BUNDLE + 1)
    except OSError as err:
        raise SettingsError(f"{arguments.reseed} cannot be read: {err.strerror}") from err
    if len(data) > MAX_BUNDLE:
        raise SettingsError(f"{arguments.reseed} has more than {MAX_BUNDLE >> 10} KiB",
                            hint="a reseed bundle has about 100")  # fmt: skip
    i2pd.given_path(data)
    return data


def _host_plan(arguments: argparse.Namespace) -> int:
    plan = _make_plan(arguments)
    steps = launcher.make_steps(plan)
    if arguments.format == "json":
        _print_json(launch_steps.to_json(plan, steps))
    else:
        sys.stdout.write(launch_steps.display(plan, steps))
    return 0


def _host_start(arguments: argparse.Namespace) -> int:
    _require_root()
    plan = _make_plan(arguments)
    terminal = Terminal(sys.stderr)
    launcher.Launcher(plan, terminal.say, terminal.progress).start(launcher.make_steps(plan))
    _say(f"everything runs. {_screen(plan)}")
    return 0


def _screen(plan: LaunchPlan) -> str:
    """Where app-guest's screen is."""
    if plan.virtualbox is None:
        return (
            "app-guest's screen, for a VNC viewer that takes a socket:\n"
            f"  vncviewer {plan.guests[-1].screen}"
        )
    if plan.virtualbox.display is None:
        return "Without DISPLAY app-guest has no window: see launch.md"
    return (
        f"app-guest fills the screen {plan.virtualbox.display.name}. Whoever breaks out of it could"
        " watch that screen: see launch.md"
    )


def _host_stop(arguments: argparse.Namespace) -> int:
    _require_root()
    launcher.stop(arguments.directory, _say)
    return 0


def _host_status(arguments: argparse.Namespace) -> int:
    found = launcher.status(arguments.directory)
    if arguments.json:
        _print_json(found)
        return 0
    if found["under_way"]:
        sys.stdout.write(f"a {found['under_way']} is under way\n")
    if not found["guests"]:
        sys.stdout.write("no guest was started\n")
        return 0
    _print_pairs([(guest["profile"], _guest_line(guest)) for guest in found["guests"]])
    if found["rules"] is False:
        sys.stdout.write("the host's rules are NOT in force: stop the guests\n")
    return 0


def _host_show(arguments: argparse.Namespace) -> int:
    profile, directory = Profile(arguments.profile), arguments.directory.absolute()
    if arguments.dry_run:
        hypervisor = screen.hypervisor(profile, directory)
        sys.stdout.write(screen.plan(profile, directory, hypervisor))
        return 0
    _require_root()
    if not arguments.json and sys.stdout.isatty():
        raise ProfilesError(
            "a picture is nothing for a terminal",
            hint=f"into a file: tails-profiles host show {profile} >{profile}.png",
        )
    found = screen.show(profile, directory)
    if arguments.json:
        _print_json(
            {"profile": profile.value, "width": found.width, "height": found.height,
             "png": base64.b64encode(found.png).decode()}
        )  # fmt: skip
    else:
        sys.stdout.buffer.write(found.png)
    return 0


def _host_audit(arguments: argparse.Namespace) -> int:
    profile = None if arguments.profile is None else Profile(arguments.profile)
    report = auditor.audit(arguments.vm, arguments.hypervisor, profile)
    if arguments.json:
        _print_json(report.to_json())
    else:
        sys.stdout.writelines(f"{_harmless(line)}\n" for line in report.lines())
    return 1 if report.deviations else 0


def _guest_line(guest: Mapping[str, Any]) -> str:
    facts = [f"running (process {guest['pid']})" if guest["running"] else "ended"]
    if guest["word"]:
        percent = "" if guest["percent"] is None else f" {guest['percent']} %"
        facts.append(f"last said {guest['word']}{percent}")
    if guest["plugged"] is not None and guest["running"]:
        facts.append(f"uplink {'plugged in' if guest['plugged'] else 'unplugged'}")
    if guest["screen"] and guest["running"]:
        facts.append(f"screen {guest['screen']}")
    return ", ".join(facts)


class Terminal:
    """Says what happens; what passes is one line that changes, where somebody watches."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._passing = False

    def say(self, words: str) -> None:
        """A line that stays."""
        self._write(words, "\n")
        self._passing = False

    def progress(self, words: str) -> None:
        """A line that the next one replaces; where nobody watches, a line."""
        if not self._stream.isatty():
            self.say(words)
            return
        self._write(words, "")
        self._passing = True

    def _write(self, words: str, end: str) -> None:
        # To the start of the line, and delete to its end (ECMA-48, CR and EL).
        start = "\r\033[K" if self._passing else ""
        self._stream.write(f"{start}{words}{end}")
        self._stream.flush()


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LaunchError("users, namespaces and rule sets need root", hint="run as root")


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")
    sys.stderr.flush()


def _token(arguments: argparse.Namespace) -> int:
    profile, vm, firmware = Profile(arguments.profile), arguments.vm, arguments.firmware
    if arguments.hypervisor is None:
        sys.stdout.write(recipe.overview(profile, vm, firmware))
    else:
        vm = profile.value if vm is None else vm
        sys.stdout.write(recipe.recipe(profile, arguments.hypervisor, vm, firmware))
    return 0
