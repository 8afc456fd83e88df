# SPDX-License-Identifier: GPL-3.0-or-later
"""List the links through udev, carry out their plan step by step, and read everything back."""

import json
import logging
import os
from collections.abc import Callable, Iterable
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
        for step in steps(plan):
            _carry_out(step, load_table, paths)
        for link in plan.links:
            read_back(link, paths)
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


def read_back(link: LinkPlan, paths: Paths) -> None:
    """Compare what the kernel has with what was asked for; raises LinkError naming both."""
    for what, wanted, there in _facts(link, paths):
        if wanted != there:
            raise LinkError(f"{link.name}: {what} is {there!r}, expected {wanted!r}")


def _facts(link: LinkPlan, paths: Paths) -> Iterable[tuple[str, object, object]]:
    state = _ask("-details", "link", "show", "dev", link.name)[0]
    yield "the MAC", link.facts.mac, state["address"]
    yield "being up", True, "UP" in state["flags"]
    yield "ARP off", not link.facts.is_uplink, "NOARP" in state["flags"]
    yield "the address", [str(link.address)] if link.address else [], _addresses(link.name)
    wanted = {"default" if route.prefixlen == 0 else str(route) for route in link.routes}
    yield "the routes", wanted, _routes(link.name, str(link.facts.peer))
    if link.facts.peer_mac is not None:
        neighbours = [
            (entry["dst"], entry.get("lladdr"), entry.get("state"))
            for entry in _ask("neighbour", "show", "dev", link.name, "nud", "permanent")
        ]
        yield "the peer", [(str(link.facts.peer), link.facts.peer_mac, ["PERMANENT"])], neighbours
    for setting in (*MACHINE_SYSCTLS, *link_sysctls(link.name)):
        path = paths.procfs / "sys" / setting.path
        if (path.exists() or not setting.optional) and not _is_of_another(setting, path):
            yield setting.path, setting.value, path.read_text(encoding="ascii").strip()


def read_back_lease(lease: Lease, name: str) -> None:
    """Compare what the kernel has with what a lease says; raises LeaseError naming both."""
    for what, wanted, there in (
        ("the address", [str(lease.address)], _addresses(name)),
        ("the routes", {"default"}, _routes(name, str(lease.router))),
    ):
        if wanted != there:
            raise LeaseError(f"{name}: {what} is {there!r}, expected {wanted!r}")


def _addresses(name: str) -> list[str]:
    return [
        f"{entry['local']}/{entry['prefixlen']}"
        for info in _ask("address", "show", "dev", name)
        for entry in info.get("addr_info", ())
    ]


def _routes(name: str, router: str) -> set[str]:
    return {
        entry["dst"]
        for entry in _ask("route", "show", "dev", name)
        if entry.get("gateway") == router
    }


def _ask(*words: str) -> list[dict[str, Any]]:
    text = run(Command((IP, "-json", "-4", *words))).stdout
    answer: list[dict[str, Any]] = json.loads(text or "[]")
    return answer
