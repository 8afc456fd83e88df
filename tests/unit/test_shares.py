# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of persistent folders, and what a launch makes of the user's choice."""

from dataclasses import replace
from pathlib import Path

import pytest

from tails_profiles import firewall_step, launch, launch_steps, qemu, settings, shares, virtualbox
from tails_profiles.errors import LaunchError, SettingsError
from tails_profiles.launch import LaunchPlan
from tails_profiles.launch_steps import BindFolder, CheckClosed
from tails_profiles.machine_steps import MakeMachine, StartMachine
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.quota import Space
from tails_profiles.settings import TOR_FEATURES, Feature, Share
from tails_profiles.shares import FOLDERS, MOUNT_OPTIONS, VBOXSF_OPTIONS, Choice, parse_choice
from tests.unit.test_launch import FACTS, SEEDS, argv, option, plan

HOME = Path("/home/u")
SSH = Choice(Feature.SSH_CLIENT, HOME / "ssh", writable=True)
GPG = Choice(Feature.GNUPG, HOME / "gpg", writable=False)
#: A file system without a project quota.
SPACE = Space(1, 2, 0, enforced=False, size=100 << 30, free=50 << 30, inodes=1000, free_inodes=500)
TOR = Choice(Feature.TOR_DATA, HOME / "tor", writable=True)


def shared(*choices: Choice, base: LaunchPlan | None = None) -> LaunchPlan:
    return launch.sharing(base or plan(), choices, {choice.source: SPACE for choice in choices})


def test_every_feature_of_the_settings_has_a_row_with_a_tag_of_its_own() -> None:
    assert set(FOLDERS) == set(Feature)
    assert len({row.tag for row in FOLDERS.values()}) == len(FOLDERS)
    for row in FOLDERS.values():
        # 9p's limit, and the grammar of the settings.
        assert len(row.tag) <= 31
        values = replace(settings.defaults(row.guest), shares=(Share(row.tag, row.feature),))
        assert settings.parse(settings.serialize(values)) == values


def test_tor_s_state_goes_to_tor_guest_and_the_rest_to_app_guest() -> None:
    assert {row.feature for row in FOLDERS.values() if row.guest is Profile.TOR_GUEST} == {
        *TOR_FEATURES
    }
    assert {row.guest for row in FOLDERS.values()} == {Profile.TOR_GUEST, Profile.APP_GUEST}


def test_a_choice_names_feature_directory_and_access() -> None:
    assert parse_choice("SSHClient=/home/u/ssh") == SSH
    assert parse_choice("GnuPG=/home/u/gpg:ro") == GPG


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SSHClient", "is no share"),
        ("SSHClient=", "is no share"),
        ("=/home", "''"),
        ("WelcomeScreen=/x", "cannot be shared"),
        ("NetworkConnections=/x", "cannot be shared"),
        ("sshclient=/x", "cannot be shared"),
        ("Printers=/x", "is not shared: root of app-guest"),
        ("AdditionalSoftware=/x", "is not shared: root of app-guest"),
        ("Dotfiles=/x", "is not shared: it is a link"),
        ("TorConfiguration=/x", "is not shared: nothing in tor-guest"),
        ("TorData=/x:ro", "cannot be read-only: Tor"),
    ],
)
def test_what_is_not_shared_is_refused_with_its_reason(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        parse_choice(text)


def test_a_feature_has_one_directory() -> None:
    with pytest.raises(SettingsError, match="shared twice"):
        shares.choices(["GnuPG=/a", "GnuPG=/b"])


def test_each_guest_gets_its_own_and_is_promised_exactly_that() -> None:
    made = shared(SSH, GPG, TOR)
    found = {guest.profile: guest for guest in made.guests}
    assert [share.tag for share in found[Profile.TOR_GUEST].shares] == ["tor-data"]
    assert [share.tag for share in found[Profile.APP_GUEST].shares] == ["ssh-client", "gnupg"]
    for guest in made.guests:
        promised = tuple(Share(share.tag, share.feature) for share in guest.shares)
        assert guest.settings.shares == promised
        for share in guest.shares:
            assert share.target == made.directory / "shares" / guest.profile / share.tag


def test_settings_name_no_folder_and_without_a_choice_nothing_differs() -> None:
    assert shared() == plan()
    given = {profile: settings.defaults(profile) for profile in Profile if profile.is_guest}
    given[Profile.APP_GUEST] = replace(
        given[Profile.APP_GUEST], shares=(Share("gnupg", Feature.GNUPG),)
    )
    offsets = dict.fromkeys(given, 0.0)
    with pytest.raises(SettingsError, match="names no folder"):
        launch.plan(Path("/image.iso"), Path("/run/x"), FACTS, given, offsets, i2p=False)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ((SSH, replace(TOR, source=SSH.source)), "is in"),
        ((SSH, replace(TOR, source=SSH.source / "tor")), r"tor \(TorData\) is in /home/u/ssh"),
        ((replace(TOR, source=HOME), SSH), r"ssh \(SSHClient\) is in /home/u"),
        ((replace(SSH, source=Path("/")),), "holds the image"),
        ((replace(SSH, source=Path("/run")),), "holds the launch's own directory"),
        ((replace(SSH, source=Path("/run/x/links")),), "is in the launch's own directory"),
        ((replace(SSH, source=Path("relative")),), "cannot be passed on"),
        ((replace(SSH, source=Path("/home/a:b")),), "cannot be passed on"),
        ((replace(SSH, source=Path("/home/a\nb")),), "cannot be passed on"),
    ],
)
def test_folders_that_cannot_be_kept_apart_are_refused(
    choices: tuple[Choice, ...], words: str
) -> None:
    with pytest.raises(LaunchError, match=words):
        shared(*choices)


def test_folders_with_a_common_beginning_of_their_names_are_two() -> None:
    shared(SSH, replace(TOR, source=Path(f"{SSH.source}-tor")))


def test_a_folder_is_mounted_after_its_checks_and_before_its_machine_starts() -> None:
    steps = launch_steps.steps(shared(SSH, TOR), SEEDS)
    kinds = [step for step in steps if isinstance(step, CheckClosed | BindFolder | StartMachine)]
    assert [type(step).__name__ for step in kinds] == [
        "CheckClosed", "BindFolder", "StartMachine",
    ] * 2  # fmt: skip
    users = {step.share.tag: step.user for step in kinds if isinstance(step, BindFolder)}
    assert users == {"tor-data": "tails-profiles-gateway", "ssh-client": "tails-profiles-app"}
    for step in kinds:
        if isinstance(step, CheckClosed):
            assert step.user != users[step.share.tag]


def test_qemu_is_told_the_folder_the_model_and_whether_it_may_write() -> None:
    made = shared(SSH, GPG)
    ssh, gpg = option(argv(Profile.APP_GUEST, made), "-fsdev")
    for text in (ssh, gpg):
        assert text.startswith("local,id=")
        assert ",security_model=mapped-xattr,fmode=0600,dmode=0700,multidevs=forbid" in text
        assert f"path={made.directory}/shares/app-guest/" in text
    assert ssh.endswith("multidevs=forbid")
    assert gpg.endswith(",readonly=on")
    assert option(argv(Profile.TOR_GUEST, made), "-fsdev") == []


def test_only_a_machine_with_a_folder_has_a_user_namespace() -> None:
    made = shared(SSH)
    app, tor = argv(Profile.APP_GUEST, made), argv(Profile.TOR_GUEST, made)
    assert "--map-user=1000" in app
    # What it had before, it still has, and once more inside.
    assert app.count("--bounding-set=-all") == 2
    assert app.index("--no-new-privs") < app.index("--user") < app.index(qemu.QEMU)
    assert "--user" not in tor
    under = shared(SSH, base=plan(replace(FACTS, systemd=True)))
    words = argv(Profile.APP_GUEST, under)
    assert "--property=RestrictNamespaces=user" in words
    assert "--property=RestrictNamespaces=yes" in argv(Profile.TOR_GUEST, under)
    (paths,) = [word for word in words if word.startswith("--property=BindPaths=")]
    assert paths.endswith(" /run/x/shares/app-guest/ssh-client")


def test_a_guest_takes_destinations_from_its_own_table() -> None:
    values = replace(
        settings.defaults(Profile.APP_GUEST),
        shares=(Share("ssh-client", Feature.SSH_CLIENT), Share("gnupg", Feature.GNUPG)),
    )
    options = f"{MOUNT_OPTIONS} {VBOXSF_OPTIONS}"
    assert shares.mount_table(values) == (
        f"ssh-client - ~/.ssh {options}\ngnupg - ~/.gnupg {options}\n"
    )
    assert "nosuid,nodev" in MOUNT_OPTIONS
    assert "nosuid,nodev" in VBOXSF_OPTIONS
    # The step puts the owner before these, and takes them as words of one line.
    assert " " not in options.replace(" ", "", 1)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (Share("printers", Feature.PRINTERS), "is not shared"),
        (Share("ssh-client", Feature.GNUPG), "that is 'gnupg'"),
    ],
)
def test_a_guest_refuses_a_promise_that_is_not_in_its_table(share: Share, words: str) -> None:
    values = replace(settings.defaults(Profile.APP_GUEST), shares=(share,))
    with pytest.raises(SettingsError, match=words):
        shares.promised(values)


def test_virtualbox_gets_the_same_folder_by_flags() -> None:
    ssh, gpg = shared(SSH, GPG).guests[-1].shares
    path = "/run/x/shares/app-guest"
    assert virtualbox.shared_folder(ssh) == (
        "--name", "ssh-client", "--hostpath", f"{path}/ssh-client",
    )  # fmt: skip
    assert virtualbox.shared_folder(gpg)[-2:] == (f"{path}/gnupg", "--readonly")


def test_the_guest_s_step_finds_what_was_promised_and_nothing_otherwise(tmp_path: Path) -> None:
    paths, values = Paths(tmp_path), settings.defaults(Profile.APP_GUEST)
    firewall_step.write_configuration(values, paths)
    assert not paths.shares.exists()
    values = replace(values, shares=(Share("gnupg", Feature.GNUPG),))
    firewall_step.write_configuration(values, paths)
    assert paths.shares.read_text() == f"gnupg - ~/.gnupg {MOUNT_OPTIONS} {VBOXSF_OPTIONS}\n"
    assert str(paths.shares.relative_to(tmp_path)) == "run/tails-profiles/shares"


def virtual_box(made: LaunchPlan) -> LaunchPlan:
    return replace(made, virtualbox=launch.VirtualBoxFacts((7, 2), None))


@pytest.mark.parametrize("feature", [Feature.GNUPG, Feature.THUNDERBIRD, Feature.ELECTRUM])
def test_what_needs_links_or_sockets_is_refused_with_virtualbox(feature: Feature) -> None:
    choice = replace(SSH, feature=feature)
    shared(choice)
    with pytest.raises(LaunchError, match=f"{feature} cannot be shared by VirtualBox: its ") as err:
        shared(choice, base=virtual_box(plan()))
    assert err.value.hint is not None
    assert "qemu" in err.value.hint


def test_with_virtualbox_a_folder_is_mounted_then_shared_and_its_machine_starts() -> None:
    made = shared(SSH, TOR, base=virtual_box(plan()))
    kinds = (CheckClosed, BindFolder, MakeMachine, StartMachine)
    steps = [step for step in launch_steps.steps(made, SEEDS) if isinstance(step, kinds)]
    assert [type(step) for step in steps] == [*kinds] * 2
    shown = launch_steps.display(made, steps)
    assert "sharedfolder add" in shown
    # What it must say of them afterwards.
    path = "/run/x/shares/app-guest/ssh-client"
    line = f"Name: 'ssh-client', Host path: '{path}' (machine mapping), writable"
    assert f"<<'END'\n{line}\nEND" in shown
    assert "Host path" not in launch_steps.display(
        virtual_box(plan()), launch_steps.steps(virtual_box(plan()), SEEDS)
    )
