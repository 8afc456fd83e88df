# SPDX-License-Identifier: GPL-3.0-or-later
"""The choice, its file, and the verdict on a machine: no display, no greeter."""

import ast
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from greeter_plugin import capability, host
from greeter_plugin.capability import HostFacts, I2p, Obstacle, judge
from greeter_plugin.model import (
    MAX_BYTES,
    Choice,
    DamagedFileError,
    Folders,
    Isolation,
    KeptFiles,
    NotStoredError,
    Problem,
    Start,
    parse,
    read,
    serialize,
    write,
)
from tails_profiles import launch
from tails_profiles.profile import Profile

PLUGIN = Path(__file__).parents[2] / "greeter_plugin"

GOOD = HostFacts(
    processor_flags=frozenset({"fpu", "vmx"}),
    memory=8000,
    qemu=True,
    virtualbox=False,
    kvm=True,
    vboxdrv=False,
    kvm_holds=False,
    host_session=True,
    i2pd=True,
)
POSSIBLE = judge(GOOD)
IMPOSSIBLE = judge(GOOD._replace(processor_flags=frozenset()))
SAVED = Choice(enabled=True, i2p=True, folders=Folders.READ_ONLY)


def isolation(path: Path, stored: Choice | bytes | None = None, **facts: object) -> Isolation:
    if stored is not None:
        data = stored if isinstance(stored, bytes) else serialize(stored)
        (path / "tails.isolation").write_bytes(data)
    return Isolation(path / "tails.isolation", judge(GOOD._replace(**facts)))


# ---- the file


def test_file_is_in_the_greeters_format() -> None:
    assert serialize(SAVED) == (
        b"TAILS_ISOLATION_ENABLED=true\n"
        b"TAILS_ISOLATION_I2P_ENABLED=true\n"
        b"TAILS_ISOLATION_FOLDERS=read-only\n"
        b"TAILS_ISOLATION_KEPT_FILES=none\n"
    )


def every_choice() -> Iterator[Choice]:
    for enabled in (False, True):
        for i2p in (False, True):
            for folders in Folders:
                for kept in KeptFiles:
                    yield Choice(enabled, i2p, folders, kept)


def test_every_choice_comes_back() -> None:
    assert all(parse(serialize(choice)) == choice for choice in every_choice())


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("TAILS_ISOLATION_ENABLED=true\n", Choice(enabled=True)),
        ("TAILS_ISOLATION_ENABLED=true", Choice(enabled=True)),
        ("TAILS_ISOLATION_ENABLED='true'\n", Choice(enabled=True)),
        (
            "TAILS_ISOLATION_FOLDERS=none\nTAILS_ISOLATION_ENABLED=false\n",
            Choice(folders=Folders.NONE),
        ),
    ],
)
def test_file_by_another_hand_is_read(text: str, choice: Choice) -> None:
    assert parse(text.encode()) == choice


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"TAILS_ISOLATION_ENABLED=\n",
        b"TAILS_ISOLATION_ENABLED=TRUE\n",
        b"TAILS_ISOLATION_ENABLED=1\n",
        b"TAILS_ISOLATION_ENABLED=true false\n",
        b"TAILS_ISOLATION_ENABLED='true\n",
        b"TAILS_ISOLATION_ENABLED=true\n\n",
        b"TAILS_ISOLATION_ENABLED=true\r\n" + b"x",
        b"TAILS_ISOLATION_ENABLED = true\n",
        b" TAILS_ISOLATION_ENABLED=true\n",
        b"export TAILS_ISOLATION_ENABLED=true\n",
        b"TAILS_ISOLATION_ENABLED=true\nTAILS_ISOLATION_ENABLED=false\n",
        b"TAILS_ISOLATION_ENABLED=true\nTAILS_ISOLATION_FOLDERS=all\n",
        b"TAILS_ISOLATION_ENABLED=true\nTAILS_NETWORK=true\n",
        b"TAILS_ISOLATION_I2P_ENABLED=true\n",
        b"TAILS_ISOLATION_ENABLED=$(reboot)\n",
        b"TAILS_ISOLATION_ENABLED=true\x00\n",
        b"TAILS_ISOLATION_ENABLED=tru\xc3\xa9\n",
        b'{"enabled": true}\n',
        b"TAILS_ISOLATION_ENABLED=true" + b" " * MAX_BYTES + b"\n",
        b"\x7fELF",
    ],
)
def test_file_outside_the_grammar_is_damaged(data: bytes) -> None:
    with pytest.raises(DamagedFileError):
        parse(data)


def test_missing_file_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(NotStoredError):
        read(tmp_path / "tails.isolation")


def test_file_is_made_with_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "tails.isolation"
    before = os.umask(0)
    try:
        write(path, SAVED)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read(path) == SAVED
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "dangling"])
def test_what_is_no_regular_file_is_damaged_and_not_followed(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "tails.isolation"
    target.write_bytes(serialize(SAVED))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(target if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(DamagedFileError):
        read(path)


def test_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "tails.isolation"
    target.write_text("mine")
    path.symlink_to(target)
    write(path, SAVED)
    assert target.read_text() == "mine"
    assert not path.is_symlink()


def damaged(generator: random.Random) -> bytes:
    """A random settings file: from pure noise to a real one with one wrong byte."""
    shape = generator.randrange(5)
    if shape == 0:
        return generator.randbytes(generator.randrange(200))
    lines = serialize(generator.choice(list(every_choice()))).splitlines(keepends=True)
    if shape == 1:
        lines.insert(generator.randrange(5), generator.choice(lines))
    elif shape == 2:
        generator.shuffle(lines)
        del lines[: generator.randrange(4)]
    elif shape == 3:
        lines.append(b"TAILS_%d=true\n" % generator.randrange(99))
    data = bytearray(b"".join(lines))
    for _ in range(generator.randrange(3)):
        data[generator.randrange(len(data))] = generator.choice(b"\n='\"\\$ \x00\xfftruefals-")
    return bytes(data)


@pytest.mark.broad
def test_ten_thousand_random_files_never_give_a_value_outside_the_grammar(tmp_path: Path) -> None:
    generator = random.Random(7)
    counts = {"read": 0, "damaged": 0}
    for _ in range(10_000):
        data = damaged(generator)
        setting = isolation(tmp_path, data)
        changed = setting.load()
        if setting.problem is Problem.DAMAGED:
            counts["damaged"] += 1
            assert changed
            assert setting.choice == Choice()
        else:
            counts["read"] += 1
            assert setting.choice in set(every_choice())
        # Nothing is written before the user has chosen something.
        setting.store()
        assert (tmp_path / "tails.isolation").read_bytes() == data
    assert min(counts.values()) > 1000, counts


# ---- the setting


def test_without_a_choice_nothing_is_written(tmp_path: Path) -> None:
    setting = isolation(tmp_path)
    setting.store()
    with pytest.raises(NotStoredError):
        setting.load()
    setting.store()
    assert setting.plan_start() is Start.AS_ALWAYS
    assert list(tmp_path.iterdir()) == []


def test_tick_that_never_was_writes_nothing(tmp_path: Path) -> None:
    setting = isolation(tmp_path)
    setting.choose(Choice(folders=Folders.NONE))
    setting.store()
    assert list(tmp_path.iterdir()) == []
    assert setting.plan_start() is Start.AS_ALWAYS


@pytest.mark.parametrize("stored", [SAVED, b"garbage"])
def test_choice_against_isolation_replaces_a_file_that_is_there(
    tmp_path: Path, stored: Choice | bytes
) -> None:
    setting = isolation(tmp_path, stored)
    setting.load()
    setting.choose(Choice())
    setting.store()
    assert read(tmp_path / "tails.isolation") == Choice()


def test_tick_taken_back_before_it_could_be_saved_is_no_problem(tmp_path: Path) -> None:
    setting = isolation(tmp_path / "gone")
    setting.choose(SAVED)
    setting.store()
    assert setting.problem is Problem.NOT_SAVED
    setting.choose(Choice())
    setting.store()
    assert setting.problem is None


def test_choice_is_stored_and_restored(tmp_path: Path) -> None:
    setting = isolation(tmp_path)
    setting.choose(SAVED)
    setting.store()
    again = isolation(tmp_path)
    assert again.load()
    assert again.choice == SAVED
    assert not again.load()
    assert again.plan_start() is Start.ISOLATED


def test_choice_taken_back_is_stored(tmp_path: Path) -> None:
    setting = isolation(tmp_path, SAVED)
    setting.load()
    setting.choose(SAVED._replace(enabled=False))
    setting.store()
    assert not read(tmp_path / "tails.isolation").enabled


def test_unlocking_does_not_take_away_what_the_user_chose_before(tmp_path: Path) -> None:
    setting = isolation(tmp_path, Choice(kept_files=KeptFiles.WARNED))
    setting.choose(SAVED)
    assert not setting.load()
    assert setting.plan_start() is Start.ISOLATED
    assert read(tmp_path / "tails.isolation") == SAVED._replace(kept_files=KeptFiles.WARNED)


def test_stored_tick_on_a_machine_that_cannot_is_shown_and_kept(tmp_path: Path) -> None:
    setting = isolation(tmp_path, SAVED, processor_flags=frozenset())
    assert setting.load()
    setting.choose(Choice())
    setting.store()
    assert not setting.effective.enabled
    assert setting.plan_start() is Start.AS_ALWAYS
    assert read(tmp_path / "tails.isolation") == SAVED


@pytest.mark.parametrize("facts", [{"i2pd": False}, {"memory": POSSIBLE.i2p_needs - 1}])
def test_i2p_that_is_not_possible_is_not_chosen(tmp_path: Path, facts: dict[str, object]) -> None:
    setting = isolation(tmp_path, SAVED, **facts)
    setting.load()
    assert setting.effective == SAVED._replace(i2p=False)


def test_choosing_forgets_nothing_of_kept_files(tmp_path: Path) -> None:
    setting = isolation(tmp_path, SAVED._replace(kept_files=KeptFiles.KEPT))
    setting.load()
    setting.choose(Choice())
    assert setting.choice.kept_files is KeptFiles.KEPT


@pytest.mark.parametrize("touched", [False, True])
def test_file_that_becomes_damaged_leaves_only_what_the_user_chose(
    tmp_path: Path, touched: bool
) -> None:
    setting = isolation(tmp_path, SAVED)
    setting.load()
    if touched:
        setting.choose(SAVED)
    (tmp_path / "tails.isolation").write_bytes(b"garbage")
    assert setting.load()
    assert setting.problem is Problem.DAMAGED
    assert setting.choice == (SAVED if touched else Choice())


def test_damaged_file_is_reported_once_and_replaced_by_a_choice(tmp_path: Path) -> None:
    setting = isolation(tmp_path, b"garbage")
    assert setting.load()
    assert setting.problem is Problem.DAMAGED
    assert not setting.load()
    setting.choose(SAVED)
    setting.store()
    assert setting.problem is None
    assert read(tmp_path / "tails.isolation") == SAVED


def test_storage_that_vanishes_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    storage.mkdir()
    setting = isolation(storage)
    setting.choose(SAVED)
    setting.store()
    (storage / "tails.isolation").unlink()
    storage.rmdir()
    with pytest.raises(NotStoredError):
        setting.load()
    setting.store()
    assert setting.problem is Problem.NOT_SAVED
    assert not setting.start_isolated()
    storage.mkdir()
    assert setting.start_isolated()
    assert setting.problem is None


def test_user_is_warned_of_kept_files_once(tmp_path: Path) -> None:
    setting = isolation(tmp_path)
    setting.choose(Choice(enabled=True))
    assert setting.start_isolated()
    later = isolation(tmp_path)
    later.load()
    later.choose(later.choice._replace(enabled=False))
    assert later.plan_start() is Start.WARN_FIRST
    later.start_warned()
    for enabled in (True, False):
        again = isolation(tmp_path)
        again.load()
        again.choose(again.choice._replace(enabled=enabled))
        assert again.plan_start() is (Start.ISOLATED if enabled else Start.AS_ALWAYS)
        if enabled:
            again.start_isolated()


@pytest.mark.parametrize("folders", [Folders.READ_ONLY, Folders.NONE])
def test_session_that_cannot_write_leaves_nothing_to_warn_of(
    tmp_path: Path, folders: Folders
) -> None:
    setting = isolation(tmp_path)
    setting.choose(Choice(enabled=True, folders=folders))
    assert setting.start_isolated()
    assert read(tmp_path / "tails.isolation").kept_files is KeptFiles.NONE


def test_warning_on_a_machine_that_cannot_keeps_the_stored_choice(tmp_path: Path) -> None:
    stored = SAVED._replace(kept_files=KeptFiles.KEPT)
    setting = isolation(tmp_path, stored, processor_flags=frozenset())
    setting.load()
    assert setting.plan_start() is Start.WARN_FIRST
    setting.start_warned()
    assert read(tmp_path / "tails.isolation") == stored._replace(kept_files=KeptFiles.WARNED)


# ---- the machine

VBOX = {"qemu": False, "virtualbox": True, "kvm": False, "vboxdrv": True}


@pytest.mark.parametrize(
    ("facts", "obstacle"),
    [
        ({}, None),
        ({"processor_flags": frozenset({"svm"})}, None),
        ({"processor_flags": frozenset({"svm", "hypervisor"})}, None),
        (VBOX, None),
        ({**VBOX, "kvm": True}, None),
        ({**VBOX, "kvm": True, "kvm_holds": True, "qemu": True}, None),
        ({"vboxdrv": True}, None),
        ({"memory": POSSIBLE.needs}, None),
        ({"qemu": False}, Obstacle.NO_HYPERVISOR),
        ({**VBOX, "vboxdrv": False}, Obstacle.NO_HYPERVISOR),
        ({"host_session": False}, Obstacle.NO_SESSION),
        ({"processor_flags": frozenset()}, Obstacle.NO_VIRTUALIZATION),
        ({"kvm": False}, Obstacle.NO_VIRTUALIZATION),
        ({"processor_flags": frozenset({"hypervisor"})}, Obstacle.INSIDE_VM),
        ({"processor_flags": frozenset({"svm", "hypervisor"}), "kvm": False}, Obstacle.INSIDE_VM),
        ({"kvm": False, "vboxdrv": True}, Obstacle.PROCESSOR_HELD),
        ({**VBOX, "kvm": True, "kvm_holds": True}, Obstacle.PROCESSOR_HELD),
        ({"memory": POSSIBLE.needs - 1}, Obstacle.TOO_LITTLE_MEMORY),
        ({"memory": 0}, Obstacle.TOO_LITTLE_MEMORY),
    ],
)
def test_obstacle(facts: dict[str, object], obstacle: Obstacle | None) -> None:
    verdict = judge(GOOD._replace(**facts))
    assert verdict.obstacle is obstacle
    assert verdict.possible is (obstacle is None)


@pytest.mark.parametrize(
    ("facts", "i2p"),
    [
        ({}, I2p.POSSIBLE),
        ({"i2pd": False}, I2p.ABSENT),
        ({"memory": POSSIBLE.i2p_needs - 1}, I2p.TOO_LITTLE_MEMORY),
        ({"memory": POSSIBLE.i2p_needs}, I2p.POSSIBLE),
    ],
)
def test_i2p(facts: dict[str, object], i2p: I2p) -> None:
    assert judge(GOOD._replace(**facts)).i2p is i2p


def test_memory_is_what_the_launcher_asks_for() -> None:
    guests = {profile: machine.memory for profile, machine in launch.MACHINES.items()}
    assert guests == {
        Profile.TOR_GUEST: capability.TOR_GUEST,
        Profile.I2P_GUEST: capability.I2P_GUEST,
        Profile.APP_GUEST: capability.APP_GUEST,
    }
    assert capability.HOST_RESERVE == launch.HOST_RESERVE
    assert (
        POSSIBLE.needs
        >= launch.HOST_RESERVE + guests[Profile.TOR_GUEST] + guests[Profile.APP_GUEST]
    )
    assert POSSIBLE.i2p_needs - POSSIBLE.needs == guests[Profile.I2P_GUEST]


def machine(root: Path, **files: str) -> Path:
    """A fake root directory; keys are paths with ``__`` for ``/``."""
    texts = {
        "proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu vmx\n\nprocessor\t: 1\nflags\t\t: fpu\n",
        "proc/meminfo": "MemTotal:        8192000 kB\nMemFree:         1 kB\n",
        "usr/bin/qemu-system-x86_64": "",
        "sys/class/misc/kvm/dev": "10:232\n",
        "usr/share/wayland-sessions/tails-profiles-host.desktop": "[Desktop Entry]\n",
        **{name.replace("__", "/"): text for name, text in files.items()},
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_facts_are_read(tmp_path: Path) -> None:
    assert host.read_facts(machine(tmp_path)) == GOOD._replace(i2pd=False)


def test_facts_of_another_machine_are_read(tmp_path: Path) -> None:
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/i2pd").touch()
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/VBoxManage").touch()
    facts = host.read_facts(
        machine(
            tmp_path,
            proc__cpuinfo="flags : svm hypervisor\n",
            proc__meminfo="MemTotal: 1048576 kB\n",
            sys__class__misc__vboxdrv__dev="10:60\n",
            sys__module__kvm__parameters__enable_virt_at_load="Y\n",
        )
    )
    assert facts == HostFacts(
        frozenset({"svm", "hypervisor"}), 1024, True, True, True, True, True, True, True
    )


def test_machine_without_flags_or_memory(tmp_path: Path) -> None:
    root = machine(tmp_path, proc__cpuinfo="processor : 0\n")
    assert host.read_facts(root).processor_flags == frozenset()
    (root / "proc/meminfo").write_text("nothing\n")
    with pytest.raises(ValueError, match="MemTotal"):
        host.read_facts(root)


@pytest.mark.parametrize(
    ("text", "guest"),
    [
        (None, False),
        ('{"profile": "normal", "field": null}', False),
        ('{"profile": "app-guest"}', True),
        ("", False),
    ],
)
def test_guest_is_known(tmp_path: Path, text: str | None, guest: bool) -> None:
    if text is not None:
        (tmp_path / "run/tails-profiles").mkdir(parents=True)
        (tmp_path / "run/tails-profiles/selection.json").write_text(text)
    assert host.is_guest(tmp_path) is guest


# ---- what may import what


def imports(name: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse((PLUGIN / f"{name}.py").read_text())):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found}


MODULES = {path.stem for path in PLUGIN.glob("*.py")}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_module_waits_for_the_rest_of_the_project(name: str) -> None:
    assert not imports(name) & {"tails_profiles", "subprocess", "systemd", "jinja2"}


@pytest.mark.parametrize("name", sorted(MODULES - {"view", "register", "start"}))
def test_only_the_view_and_the_seam_know_gtk(name: str) -> None:
    assert "gi" not in imports(name)


@pytest.mark.parametrize("name", sorted(MODULES - {"register"}))
def test_only_the_seam_knows_the_greeter(name: str) -> None:
    assert "tailsgreeter" not in imports(name)


def test_pure_modules_open_nothing() -> None:
    assert imports("capability") == {"enum", "typing"}
    assert not imports("words") & {"os", "pathlib"}
