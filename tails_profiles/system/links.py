# SPDX-License-Identifier: GPL-3.0-or-later
"""List the links through udev, carry out their plan step by step, and read everything back."""

import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from time import monotonic
from typing import Any

from tails_profiles.command import Command
from tails_profiles.errors import CommandError, LeaseError, LinkError, MissingLibraryError
from tails_profiles.lease import Lease
from tails_profiles.links import (
    IP,
    MACHINE_SYSCTLS,
    FoundLink,
    LinkPlan,
    LinksPlan,
    RequireTables,
    Step,
    Sysctl,
    link_sysctls,
    steps,
    tables,
)
from tails_profiles.paths import Paths
from tails_profiles.system import nft
from tails_profiles.system.process import run

log = logging.getLogger(__name__)

#: What ip(8) tells about one thing.
_Entry = dict[str, Any]
#: Words that a batch of ip(8) reads as they stand.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@-]+")


def list_links() -> tuple[FoundLink, ...]:
    """Every network device that has a parent device and that udev has finished with.

    Raises MissingLibraryError without pyudev.
    """
    pyudev = _import_pyudev()
    return tuple(
        sorted(
            (
                FoundLink(device.sys_name, _mac(device))
                for device in pyudev.Context().list_devices(subsystem="net")
                if has_parent(Path(device.sys_path)) and device.is_initialized
            ),
            key=lambda link: link.name,
        )
    )


def has_parent(sys_path: Path) -> bool:
    """Whether a network device is hardware, real or virtual: veth, lo and bridges are not."""
    try:
        (sys_path / "device").lstat()
    except FileNotFoundError:
        return False
    # Any other doubt counts as hardware: it is put down, and must be known to come up.
    except OSError:
        return True
    return True


def _mac(device: Any) -> str:  # noqa: ANN401 - pyudev ships no types
    address: bytes = device.attributes.get("address") or b""
    return address.decode("ascii", "replace").strip().lower()


def wait_for_links(
    absent: Callable[[Iterable[FoundLink]], frozenset[str]], timeout: float
) -> tuple[FoundLink, ...]:
    """List the links once udev has nothing left to do, waiting until none is absent.

    ``timeout`` is in seconds; what is still absent then is the caller's error to name.
    """
    deadline = monotonic() + timeout
    pyudev = _import_pyudev()
    monitor = pyudev.Monitor.from_netlink(pyudev.Context())
    monitor.filter_by(subsystem="net")
    monitor.start()
    # Status 1: the queue did not empty, or no udevd runs; the list below tells what matters.
    run(
        Command(("/usr/bin/udevadm", "settle", f"--timeout={int(timeout)}")),
        ok=(0, 1),
        timeout=timeout + 10,
    )
    found = list_links()
    while absent(found) and (left := deadline - monotonic()) > 0:
        monitor.poll(timeout=left)
        found = list_links()
    return found


def _import_pyudev() -> Any:  # noqa: ANN401
    try:
        import pyudev  # noqa: PLC0415 - 50 times the cost of an empty process
    except ImportError as err:
        raise MissingLibraryError("pyudev", "python3-pyudev") from err
    return pyudev


def apply(plan: LinksPlan, load_table: Callable[[str], None], paths: Paths) -> None:
    """Carry out a plan, read it back, and on any error put every link down again.

    ``load_table`` loads the rule set of a link table by its name.
    """
    try:
        for link in plan.links:
            check_mac(link, paths)
        for step in batched(steps(plan)):
            _carry_out(step, load_table, paths)
        read_back(plan, paths)
        _require_tables(tables(plan))
    except BaseException:
        put_down(paths)
        raise


def _carry_out(step: Step, load_table: Callable[[str], None], paths: Paths) -> None:
    log.debug("%s", step.display())
    if isinstance(step, Sysctl):
        _write_sysctl(step, paths)
    elif isinstance(step, Command):
        run(step)
    elif isinstance(step, RequireTables):
        _require_tables(step.tables)
    else:
        load_table(step.table)


def _require_tables(wanted: frozenset[str]) -> None:
    absent = wanted - nft.tables()
    if absent:
        raise LinkError(
            f"nft does not have {', '.join(sorted(absent))} any more",
            hint="another program of this image has removed rules that are not its own",
        )


def _write_sysctl(step: Sysctl, paths: Paths) -> None:
    path = paths.procfs / "sys" / step.path
    if _is_of_another(step, path):
        log.debug("%s belongs to the first network namespace", step.path)
        return
    try:
        path.write_text(step.value + "\n", encoding="ascii")
    except FileNotFoundError as err:
        if not step.optional:
            raise LinkError(f"this kernel has no setting {step.path}") from err
    except OSError as err:
        raise LinkError(f"{step.path} does not take {step.value!r}: {err.strerror}") from err


def _is_of_another(setting: Sysctl, path: Path) -> bool:
    """Whether only the first network namespace may write it, and this is another."""
    return setting.machine_wide and path.exists() and not os.access(path, os.W_OK)


def check_mac(link: LinkPlan, paths: Paths) -> None:
    """Look at the MAC once more, past udev's cache, right before anything is done with it."""
    path = paths.sysfs / "class/net" / link.found.name / "address"
    mac = path.read_text(encoding="ascii").strip().lower()
    if mac != link.facts.mac:
        raise LinkError(f"{link.found.name} has the MAC {mac}, expected {link.facts.mac}")


def put_down(paths: Paths) -> None:
    """Put every link down; a link that cannot be is logged, the others are tried all the same."""
    for path in sorted((paths.sysfs / "class/net").iterdir()):
        if has_parent(path):
            try:
                run(Command((IP, "link", "set", "dev", path.name, "down")))
            except CommandError as err:
                log.error("%s", err)  # noqa: TRY400 - one line for the console, no traceback


def batched(planned: Iterable[Step]) -> Iterator[Step]:
    """The same steps; what ip(8) does without anything of others in between, it does in one go.

    Where processes are slow, eleven of them take two seconds. A batch ends at its first failure.
    """
    for several, group in groupby(planned, key=_may_be_batched):
        members = list(group)
        if not several or len(members) == 1:
            yield from members
            continue
        lines = [" ".join(step.argv[1:]) for step in members if isinstance(step, Command)]
        yield Command((IP, "-batch", "-"), stdin="\n".join(lines) + "\n")


def _may_be_batched(step: Step) -> bool:
    # A link of another's may have a name that a batch reads as something else.
    return (
        isinstance(step, Command) and step.argv[0] == IP and all(map(_PLAIN.fullmatch, step.argv))
    )


def read_back(plan: LinksPlan, paths: Paths) -> None:
    """Compare what the kernel has with what was asked for; raises LinkError naming both."""
    states = {state["ifname"]: state for state in _ask("-details", "address", "show")}
    routes = _ask("-4", "route", "show")
    neighbours = _ask("-4", "neighbour", "show", "nud", "permanent")
    for link in plan.links:
        for what, wanted, there in (
            *_facts(link, states.get(link.name, {}), routes, neighbours),
            *_settings(link, paths),
        ):
            if wanted != there:
                raise LinkError(f"{link.name}: {what} is {there!r}, expected {wanted!r}")


def _facts(
    link: LinkPlan, state: _Entry, routes: list[_Entry], neighbours: list[_Entry]
) -> Iterable[tuple[str, object, object]]:
    flags = state.get("flags", ())
    yield "the MAC", link.facts.mac, state.get("address")
    yield "being up", True, "UP" in flags
    yield "ARP off", not link.facts.is_uplink, "NOARP" in flags
    yield "the address", [str(link.address)] if link.address else [], _addresses(state)
    wanted = {"default" if route.prefixlen == 0 else str(route) for route in link.routes}
    yield "the routes", wanted, _routes(routes, link.name, str(link.facts.peer))
    if link.facts.peer_mac is not None:
        known = [
            (entry["dst"], entry.get("lladdr"), entry.get("state"))
            for entry in neighbours
            if entry["dev"] == link.name
        ]
        yield "the peer", [(str(link.facts.peer), link.facts.peer_mac, ["PERMANENT"])], known


def _settings(link: LinkPlan, paths: Paths) -> Iterable[tuple[str, object, object]]:
    for setting in (*MACHINE_SYSCTLS, *link_sysctls(link.name)):
        path = paths.procfs / "sys" / setting.path
        if (path.exists() or not setting.optional) and not _is_of_another(setting, path):
            yield setting.path, setting.value, path.read_text(encoding="ascii").strip()


def read_back_lease(lease: Lease, name: str) -> None:
    """Compare what the kernel has with what a lease says; raises LeaseError naming both."""
    for what, wanted, there in (
        ("the address", [str(lease.address)], _addresses(_ask("address", "show", "dev", name)[0])),
        ("the routes", {"default"}, _routes(_ask("-4", "route", "show"), name, str(lease.router))),
    ):
        if wanted != there:
            raise LeaseError(f"{name}: {what} is {there!r}, expected {wanted!r}")


def _addresses(state: _Entry) -> list[str]:
    return [
        f"{entry['local']}/{entry['prefixlen']}"
        for entry in state.get("addr_info", ())
        if entry["family"] == "inet"
    ]


def _routes(routes: list[_Entry], name: str, router: str) -> set[str]:
    return {
        entry["dst"]
        for entry in routes
        if entry.get("dev") == name and entry.get("gateway") == router
    }


def _ask(*words: str) -> list[_Entry]:
    text = run(Command((IP, "-json", *words))).stdout
    answer: list[_Entry] = json.loads(text or "[]")
    return answer
