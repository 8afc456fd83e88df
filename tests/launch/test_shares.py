# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of the user's in guests: what is written arrives, and nothing else of the host is near.

Each attack is by root of a guest who has the host's Python; the programs run in the guest and say
in the share what became of it.
"""

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tails_profiles import launch, launcher
from tails_profiles.constants import APP_USER, GATEWAY_USER
from tails_profiles.errors import LaunchError
from tails_profiles.launch import LaunchPlan
from tails_profiles.launch_steps import BindFolder, Step
from tails_profiles.machine_steps import StartMachine
from tails_profiles.profile import Profile
from tails_profiles.settings import Feature
from tails_profiles.shares import FOLDERS, LIVE_UID, MOUNT_OPTIONS, Choice
from tails_profiles.system import machines, mounts
from tests.launch.sharing import (
    FEATURE,
    TAG,
    Change,
    Sharing,
    app_guest_alone,
    runner,
    unchanged,
    with_real_modes,
)
from tests.launch.world import FACTOR, run

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def _world() -> Iterator[Sharing]:
    with Sharing() as made:
        yield made


@pytest.fixture
def world(_world: Sharing) -> Iterator[Sharing]:
    _world.empty()
    before = _world.left()
    yield _world
    _world.stop()
    after = {(kind, text) for kind, text in _world.left() if str(_world.folder) not in text}
    assert after - before == set()


WRITES = """
import os
os.makedirs('/share/a/b', 0o755)
with open('/share/a/b/kept', 'w') as file:
    file.write('words\\n')
os.chmod('/share/a/b/kept', 0o640)
os.chown('/share/a/b/kept', 0, 0)
with open('/share/theirs') as file:
    print(file.read(), os.stat('/share/theirs').st_uid)
"""


def test_what_a_guest_wrote_is_on_the_host_after_power_off(world: Sharing) -> None:
    world.put("theirs", "from the host")
    assert world.finish(world.begin(WRITES)) == f"from the host {LIVE_UID}\n"
    kept = world.folder / "a/b/kept"
    assert kept.read_text() == "words\n"
    # Whoever it is there, here it is the user's, and for nobody else.
    found = kept.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (LIVE_UID, LIVE_UID, 0o600)
    assert stat.S_IMODE((world.folder / "a").stat().st_mode) == 0o700


def test_the_next_start_sees_what_the_one_before_wrote_as_it_was(world: Sharing) -> None:
    world.put("theirs", "")
    world.finish(world.begin(WRITES))
    (world.folder / "done").unlink()
    again = (
        "import os\nfound = os.stat('/share/a/b/kept')\nprint(oct(found.st_mode), found.st_uid)\n"
    )
    assert world.finish(world.begin(again)) == "0o100640 0\n"


SYNCS = """
import mmap, os, time
with open('/share/seed') as file:
    seed = file.read()
def make(name, size):
    number = os.open('/share/' + name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.ftruncate(number, size)
    return number
mapped = mmap.mmap(make('mapped and not synced', 4096), 4096)
mapped[:5] = b'never'
synced = mmap.mmap(make('mapped and synced', 4096), 4096)
synced[:6] = b'always'
synced.flush()
number = os.open('/share/data', os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
data = seed.encode() * 4096
while data:
    data = data[os.write(number, data):]
os.fsync(number)
os.close(os.open('/share/synced', os.O_CREAT | os.O_WRONLY, 0o600))
time.sleep(1e6)
"""


def kill_after_fsync(world: Sharing, seed: str) -> None:
    """Kill the machine 50 ms after the guest's fsync has returned, and look at the folder."""
    world.put("seed", seed)
    process = world.begin(SYNCS)
    world.wait_for("synced", process)
    # The time that the promise names, and no guess.
    time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert machines.wait_until_ended(process, 30)
    assert (world.folder / "data").read_bytes() == seed.encode() * 4096
    assert (world.folder / "mapped and synced").read_bytes()[:6] == b"always"
    # The anti-test: the guest did hold something back, and it went with it.
    assert (world.folder / "mapped and not synced").read_bytes() == bytes(4096)


def test_what_was_synced_survives_a_killed_machine(world: Sharing) -> None:
    kill_after_fsync(world, "once")


@pytest.mark.slow
def test_what_was_synced_survives_twenty_killed_machines(world: Sharing) -> None:
    for number in range(20):
        kill_after_fsync(world, hashlib.sha256(str(number).encode()).hexdigest())
        world.stop()
        world.empty()


HOSTILE = """
import json, os, socket, stat, subprocess
os.chdir('/share')
done = {}
def attempt(name, call):
    try:
        result = call()
        done[name] = result if isinstance(result, str) else 'done'
    except OSError as err:
        done[name] = err.strerror
def write(path, text):
    with open(path, 'w') as file:
        file.write(text)
def read(path):
    with open(path) as file:
        return file.read()
def privileged(path, mode):
    os.chown(path, 0, 0)
    os.chmod(path, mode)
attempt('read inside', lambda: read('inside'))
attempt('link', lambda: os.symlink(SECRET, 'link'))
attempt('relative link', lambda: os.symlink('../secret', 'relative'))
attempt('directory link', lambda: os.symlink('..', 'directory'))
attempt('read through link', lambda: read('link'))
attempt('read through relative', lambda: read('relative'))
attempt('read through directory', lambda: read('directory/secret'))
attempt('write through link', lambda: write('link', 'from the guest'))
for name in ('hosts-link', 'hosts-relative', 'hosts-directory/secret'):
    attempt('read ' + name, lambda: read(name))
    attempt('write ' + name, lambda: write(name, 'from the guest'))
attempt('up', lambda: read('/share/../secret'))
attempt('fifo', lambda: os.mkfifo('fifo'))
attempt('block', lambda: os.mknod('block', stat.S_IFBLK | 0o666, os.makedev(DISK >> 8, DISK & 255)))
attempt('char', lambda: os.mknod('char', stat.S_IFCHR | 0o666, os.makedev(1, 3)))
attempt('socket', lambda: socket.socket(socket.AF_UNIX).bind('socket'))
attempt('program', lambda: write('suid', '#!/bin/sh\\nid\\n'))
attempt('suid', lambda: os.chmod('suid', 0o6755))
attempt("root's", lambda: write('roots', ''))
attempt("root's suid", lambda: privileged('roots', 0o6755))
attempt('make directory', lambda: os.mkdir('shared'))
attempt('open directory', lambda: privileged('shared', 0o7777))
attempt('capability', lambda: os.setxattr('suid', 'security.capability',
        bytes.fromhex('0100000200200000000000000000000000000000')))
attempt('trusted', lambda: os.setxattr('suid', 'trusted.x', b'y'))
attempt('attribute', lambda: os.setxattr('suid', 'user.virtfs.mode', b'\\xff\\xff\\0\\0'))
attempt('link of a link', lambda: os.link('link', 'second'))
attempt('rename out', lambda: os.rename('inside', '../outside'))
tags = []
for entry in sorted(os.listdir('/sys/bus/virtio/devices')):
    path = '/sys/bus/virtio/devices/' + entry + '/mount_tag'
    if os.path.exists(path):
        tags.append(read(path).rstrip('\\n\\0'))
done['tags'] = ' '.join(tags)
os.mkdir('/tmp/other')
for tag in ('spare', 'tor-data', '..', '/', '../tor-guest/tor-data'):
    ended = subprocess.run(['mount', '-t', '9p', '-o', OPTIONS, tag, '/tmp/other'],
                           capture_output=True)
    done['mount ' + tag] = 'done' if ended.returncode == 0 else 'refused'
    subprocess.run(['umount', '/tmp/other'], capture_output=True)
print(json.dumps(done))
"""
DISK = os.makedev(254, 0)
#: A share that nobody has mounted yet.
SPARE = (
    "-fsdev", "local,id=spare,path=/usr/share,security_model=none,readonly=on",
    "-device", "virtio-9p-pci,fsdev=spare,mount_tag=spare",
)  # fmt: skip


def hostile(world: Sharing, change: Change = unchanged) -> dict[str, str]:
    """Run HOSTILE in a folder with links of the host's in it; what became of each attempt."""
    world.put("inside", "inside")
    for name, target in (
        ("hosts-link", str(world.secret)),
        ("hosts-relative", "../secret"),
        ("hosts-directory", ".."),
    ):
        (world.folder / name).symlink_to(target)
    head = f"SECRET, DISK, OPTIONS = {str(world.secret)!r}, {DISK}, {MOUNT_OPTIONS!r}\n"
    said = world.finish(world.begin(head + HOSTILE, change=lambda words: change((*words, *SPARE))))
    found: dict[str, str] = json.loads(said)
    return found


def planted(folder: Path) -> dict[str, os.stat_result]:
    """Everything in a folder that the guest made, as the host sees it."""
    return {
        str(path.relative_to(folder)): path.lstat()
        for path in folder.rglob("*")
        if not path.name.startswith("hosts-")
    }


def test_a_hostile_guest_neither_leaves_its_folder_nor_plants_anything_in_it(
    world: Sharing,
) -> None:
    done = hostile(world)
    assert done["read inside"] == "inside"
    for name in ("link", "relative link", "directory link", "fifo", "program", "suid"):
        assert done[name] == "done", (name, done)
    for name, word in done.items():
        if name.startswith(("read through", "read hosts", "write hosts", "up", "rename")):
            assert word not in {"done", world.secret.read_text()}, name
        if name in {"capability", "trusted", "attribute"}:
            assert word != "done", name
        if name.startswith("mount "):
            # The spare one is there: so the others are refused for what they are.
            assert word == ("done" if name == "mount spare" else "refused"), name
    assert set(done["tags"].split()) == {TAG, "usr", "spare"}
    assert world.secret.read_text() == "not for a guest\n"
    assert {path.name for path in world.top.iterdir() if path.suffix != ".iso"} == {
        "folder", "secret",
    }  # fmt: skip
    for name, found in planted(world.folder).items():
        kind = stat.S_IFMT(found.st_mode)
        assert kind in {stat.S_IFREG, stat.S_IFDIR}, name
        assert stat.S_IMODE(found.st_mode) & ~0o700 == 0, (name, oct(found.st_mode))
        assert (found.st_uid, found.st_gid) == (LIVE_UID, LIVE_UID), name
        names = os.listxattr(world.folder / name)
        assert all(each.startswith("user.virtfs.") for each in names), names


def test_the_same_attempts_with_another_model_plant_links_and_set_user_id(
    world: Sharing,
) -> None:
    """The anti-test; devices and other owners are stopped by the mount's identity all the same."""
    done = hostile(world, change=with_real_modes)
    found = planted(world.folder)
    assert stat.S_ISLNK(found["link"].st_mode)
    assert found["suid"].st_mode & stat.S_ISUID
    assert done["block"] != "done"
    assert {each.st_uid for each in found.values()} == {LIVE_UID}


def two_folders(world: Sharing, *, second_writable: bool) -> LaunchPlan:
    """app-guest's own folder and a second one of the same guest's."""
    second = world.top / "second"
    second.mkdir(mode=0o700)
    os.chown(second, LIVE_UID, LIVE_UID)
    (second / "kept").write_text("kept\n")
    os.chown(second / "kept", LIVE_UID, LIVE_UID)
    plan = world.shared()
    chosen = (Choice(FEATURE, world.folder, writable=True),
              Choice(Feature.GNUPG, second, writable=second_writable))  # fmt: skip
    return world.plan(plan.image, shares=chosen)


READ_ONLY = """
import json, os, subprocess
os.mkdir('/tmp/second')
subprocess.run(['mount', '-t', '9p', '-o', OPTIONS, 'gnupg', '/tmp/second'], check=True)
subprocess.run(['mount', '-o', 'remount,rw', '/tmp/second'])
os.chdir('/tmp/second')
done = {'read': open('kept').read()}
for name, call in (
    ('write', lambda: open('kept', 'a').write('more')),
    ('create', lambda: open('new', 'x')),
    ('chmod', lambda: os.chmod('kept', 0o777)),
    ('chown', lambda: os.chown('kept', 0, 0)),
    ('attribute', lambda: os.setxattr('kept', 'user.x', b'y')),
    ('rename', lambda: os.rename('kept', 'moved')),
    ('back', lambda: os.rename('moved', 'kept')),
    ('link', lambda: os.link('kept', 'again')),
    ('truncate', lambda: os.truncate('kept', 1)),
    ('times', lambda: os.utime('kept', (1, 1))),
    ('unlink', lambda: os.unlink('kept')),
    ('mkdir', lambda: os.mkdir('directory')),
):
    try:
        call()
        done[name] = 'done'
    except OSError as err:
        done[name] = err.strerror
print(json.dumps(done))
"""


@pytest.mark.parametrize("writable", [False, True])
def test_a_read_only_folder_is_not_written_to(world: Sharing, writable: bool) -> None:
    plan = two_folders(world, second_writable=writable)
    second = world.top / "second"
    before = {path.name: (path.read_text(), path.stat()) for path in second.iterdir()}
    world.put("program", f"OPTIONS = {MOUNT_OPTIONS!r}\n{READ_ONLY}")
    world.put("run", "exec /usr/bin/python3 -B /share/program\n")
    try:
        world.start(plan, steps=app_guest_alone(launcher.make_steps(plan), unchanged))
        said = world.finish(world.machine(Profile.APP_GUEST))
        after = {
            path.name: (path.read_text(), path.stat())
            for path in second.iterdir()
            if path.is_file()
        }
    finally:
        world.stop()
        shutil.rmtree(second)
    done = json.loads(said)
    assert done.pop("read") == "kept\n"
    if writable:
        assert set(done.values()) == {"done"}, done
    else:
        assert "done" not in done.values(), done
        assert after.keys() == before.keys()
        assert after["kept"][0] == "kept\n"
        for field in ("st_mode", "st_mtime_ns", "st_ctime_ns"):
            assert getattr(after["kept"][1], field) == getattr(before["kept"][1], field)


FILLS = """
import os
number = os.open('/share/filler', os.O_CREAT | os.O_WRONLY, 0o600)
written = 0
try:
    while written < 64 * 2**20:
        written += os.write(number, bytes(2**20))
except OSError as err:
    print(err.strerror)
space = os.statvfs('/share')
print(space.f_blocks * space.f_frsize // 2**20)
os.unlink('/share/filler')
"""


def test_a_file_system_of_its_own_is_all_that_a_guest_can_fill_and_see(world: Sharing) -> None:
    disk = world.top / "disk.iso"
    with disk.open("wb") as file:
        file.truncate(24 * 2**20)
    run("mkfs.ext4", "-q", str(disk))
    run("mount", "-o", "loop", str(disk), str(world.folder))
    try:
        os.chown(world.folder, LIVE_UID, LIVE_UID)
        world.folder.chmod(0o700)
        said = world.finish(world.begin(FILLS)).splitlines()
        assert said[0] == "No space left on device"
        assert int(said[1]) < 24
        assert disk.stat().st_blocks * 512 <= 24 * 2**20
    finally:
        run("umount", str(world.folder))
        disk.unlink()


def test_without_one_the_guest_sees_the_host_s_disk_and_the_user_is_told(world: Sharing) -> None:
    """The anti-test of the one above, by what it sees; nothing is filled."""
    program = "import os\nspace = os.statvfs('/share')\nprint(space.f_blocks * space.f_frsize)\n"
    process = world.begin(program)
    (words,) = launch.warnings(world.shared())
    assert "app-guest can fill the file system of" in words
    assert "it has no project quota" in words
    space = os.statvfs(world.folder)
    # Its size is not quite constant where others write.
    assert int(world.finish(process)) == pytest.approx(space.f_blocks * space.f_frsize, rel=0.01)


#: What somebody tries who took a machine's process; OWN is its folder, SOURCES are the users'.
ESCAPED = """
import json, os, stat, subprocess
done = {}
def attempt(name, call):
    try:
        call()
        done[name] = 'done'
    except OSError as err:
        done[name] = err.strerror
def both(path, mode):
    with open(path, 'w') as file:
        file.write('#!/bin/sh\\n')
    os.chmod(path, mode)
for number, path in enumerate(SOURCES):
    attempt(f'source {number}', lambda: os.listdir(path))
attempt('their share', lambda: os.listdir(THEIRS))
attempt('own share', lambda: os.listdir(OWN))
os.chdir(OWN)
attempt('write', lambda: both('written', 0o600))
attempt("root's", lambda: os.chown('written', 0, 0))
attempt("nobody's", lambda: os.chown('written', 65534, 65534))
attempt('block', lambda: os.mknod('block', stat.S_IFBLK | 0o666, DISK))
attempt('char', lambda: os.mknod('char', stat.S_IFCHR | 0o666, os.makedev(1, 3)))
attempt('link', lambda: os.symlink(SECRET, 'link'))
attempt('through link', lambda: open('link').read())
attempt('program', lambda: both('program', 0o6755))
attempt('run', lambda: subprocess.run(['./program'], check=True))
print(json.dumps(done))
"""


def test_whoever_escapes_into_the_machine_s_process_has_one_folder_and_one_identity(
    world: Sharing,
) -> None:
    tor = world.top / "tor"
    tor.mkdir(mode=0o700)
    os.chown(tor, LIVE_UID, LIVE_UID)
    image = world.image(share=TAG, options=MOUNT_OPTIONS)
    plan = world.plan(
        image,
        shares=(Choice(FEATURE, world.folder, True), Choice(Feature.TOR_DATA, tor, True)),
    )
    steps = [step for step in launcher.make_steps(plan) if not isinstance(step, StartMachine)]
    steps = [step for step in steps if getattr(step, "guest", None) is None]
    world.start(plan, steps=tuple(steps))
    app, gateway = (
        next(guest for guest in plan.guests if guest.profile is profile).shares[0]
        for profile in (Profile.APP_GUEST, Profile.TOR_GUEST)
    )
    head = (
        f"OWN, THEIRS = {str(app.target)!r}, {str(gateway.target)!r}\n"
        f"SOURCES, SECRET = {[str(world.folder), str(tor)]!r}, {str(world.secret)!r}\n"
        f"DISK = {DISK}\n"
    )

    def attempt(before: tuple[str, ...]) -> dict[str, str]:
        words = [*before, "/usr/bin/python3", "-c", head + ESCAPED]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found

    done = attempt(runner(plan))
    assert (done["own share"], done["write"]) == ("done", "done")
    for name in ("source 0", "source 1", "their share", "root's", "nobody's", "block", "char",
                 "through link", "run"):  # fmt: skip
        assert done[name] != "done", (name, done)
    for path in world.folder.iterdir():
        assert path.lstat().st_uid == LIVE_UID
        path.unlink()
    # Root of the host reaches all that the paths and the nodes are closed to; not the links, and
    # no program: the mount has none for anybody.
    done = attempt(())
    for name in ("source 0", "source 1", "their share", "own share"):
        assert done[name] == "done", (name, done)
    assert done["through link"] != "done"
    assert done["run"] != "done"
    shutil.rmtree(tor)


def keep(world: Sharing) -> None:
    world.put("precious", "words\n")


def test_a_failure_after_any_step_of_a_share_leaves_the_folder_as_it_was(world: Sharing) -> None:
    keep(world)
    plan = world.shared()
    steps = app_guest_alone(launcher.make_steps(plan), unchanged)
    first = next(i for i, step in enumerate(steps) if isinstance(step, BindFolder))
    for number in (first - 2, first - 1, first, first + 1, first + 2):

        def fail(now: int, step: Step, number: int = number) -> None:
            if now == number:
                raise LaunchError("injected")

        with pytest.raises(LaunchError, match="injected"):
            world.start(plan, steps=steps, after=fail)
        assert (world.folder / "precious").read_text() == "words\n"
        assert mounts.below(world.top) == []
        assert not world.directory.exists()


def test_a_folder_that_somebody_uses_is_never_removed(world: Sharing) -> None:
    keep(world)
    plan = world.shared()
    (guest,) = [guest for guest in plan.guests if guest.shares]
    steps = [step for step in launcher.make_steps(plan) if not isinstance(step, StartMachine)]
    world.start(plan, steps=tuple(s for s in steps if getattr(s, "guest", None) is None))
    target = guest.shares[0].target
    assert (target / "precious").read_text() == "words\n"
    with (target / "precious").open():
        with pytest.raises(LaunchError, match="cannot be taken away"):
            world.stop()
        assert (world.folder / "precious").read_text() == "words\n"
    world.stop()
    assert not world.directory.exists()
    assert (world.folder / "precious").read_text() == "words\n"


def test_an_end_that_forgets_the_mount_fails_before_it_removes_a_file(
    world: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is removed is removed as empty directories: the second of two locks."""
    keep(world)
    plan = world.shared()
    steps = [step for step in launcher.make_steps(plan) if not isinstance(step, StartMachine)]
    world.start(plan, steps=tuple(s for s in steps if getattr(s, "guest", None) is None))
    monkeypatch.setattr(mounts, "below", lambda _: [])
    with pytest.raises(LaunchError, match="cannot be taken away"):
        world.stop()
    assert (world.folder / "precious").read_text() == "words\n"
    monkeypatch.undo()
    world.stop()


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: folder.chmod(0o701), f"open to every user.*{GATEWAY_USER}"),
        (lambda folder: os.chown(folder, 0, 0), "belongs to root"),
    ],
    ids=["open", "root's"],
)
def test_a_folder_that_cannot_be_kept_apart_is_refused(
    world: Sharing, break_it: object, words: str
) -> None:
    plan = world.shared()
    break_it(world.folder)  # type: ignore[operator]
    with pytest.raises(LaunchError, match=words):
        world.start(plan)


def test_a_file_system_without_owners_is_refused_in_words(world: Sharing) -> None:
    """One of the kernel's own, of a process of that user's: it keeps no attributes of users."""
    process = subprocess.Popen(
        ["setpriv", f"--reuid={LIVE_UID}", "--clear-groups", "--", "sh", "-c", "echo; read end"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        source = Path(f"/proc/{process.pid}/attr")
        with pytest.raises(LaunchError, match="keeps no extended attributes"):
            mounts.bind(source, world.top, APP_USER, writable=False)
        process.communicate(b"\n")


IN_A_CHROOT = """
import os, sys
from pathlib import Path
from tails_profiles.errors import LaunchError
from tails_profiles.system import mounts
directory, user = sys.argv[1:]
# Read while there is a file of accounts.
account = mounts.pwd.getpwnam(user)
mounts.pwd.getpwnam = lambda name: account
os.chroot(directory)
mounts._takes_attributes = lambda directory: True
try:
    mounts.bind(Path("/folder"), Path("/proc"), user, writable=True)
except LaunchError as err:
    print(err)
"""


def test_a_machine_that_makes_no_user_namespaces_is_told_so(world: Sharing) -> None:
    """In a chroot the kernel makes none."""
    world.top.joinpath("proc").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", IN_A_CHROOT, str(world.top), APP_USER], capture_output=True,
        text=True, check=True, env=world.environment, timeout=60,
    )  # fmt: skip
    world.top.joinpath("proc").rmdir()
    assert "user namespaces cannot be made here" in done.stdout


def test_printed_plan_shares_as_start_does(world: Sharing) -> None:
    keep(world)
    image = world.image(share=TAG, options=MOUNT_OPTIONS)
    world.put("run", "cat /share/precious\n")
    words = ("--share", f"{FEATURE}={world.folder}")
    plan = world.cli("plan", *words, image=image)
    assert plan.returncode == 0, plan.stderr
    done = subprocess.run(
        ["bash"], input=plan.stdout, capture_output=True, text=True, check=False,
        timeout=120 * FACTOR, env=world.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The image runs "run" with a /usr that this machine lacks: that it is called at all, and fails,
    # is seen through the share.
    process = world.machine(Profile.APP_GUEST)
    world.wait_for("done", process)
    assert world.cli("stop").returncode == 0
    assert (world.folder / "precious").read_text() == "words\n"


def test_a_machine_with_a_share_is_as_confined_as_one_without(world: Sharing) -> None:
    process = world.begin("import time\ntime.sleep(1e6)\n")
    text = Path(f"/proc/{process.pid}/status").read_text()
    found = {line.split(":")[0]: line.split(":")[1].split() for line in text.splitlines()}
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name][0], 16) == 0, name
    assert (found["NoNewPrivs"], found["Seccomp"]) == (["1"], ["2"])
    number = run("id", "-u", APP_USER).strip()
    assert found["Uid"] == [number] * 4
    mapping = Path(f"/proc/{process.pid}/uid_map").read_text().split()
    assert mapping == [str(LIVE_UID), number, "1"]
    assert run("nsenter", "--net", f"--target={process.pid}", "ip", "-o", "address").strip() == ""


def test_feature_table_names_what_the_launch_shares(world: Sharing) -> None:
    plan = world.shared()
    (share,) = plan.guests[-1].settings.shares
    assert (share.tag, share.feature) == (FOLDERS[FEATURE].tag, FEATURE)
    assert plan.guests[0].settings.shares == ()
    assert replace(plan.guests[0], shares=()) == plan.guests[0]
