# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of app-guest's session, as Debian's programs read them."""

import shlex
from configparser import ConfigParser
from dataclasses import replace

import pytest

from tails_profiles.profile import Profile
from tails_profiles.session import BROWSER, CATEGORIES, IDENTITY, session_files
from tails_profiles.settings import I2pSettings, Keyboard, Settings, defaults

APP = defaults(Profile.APP_GUEST)
# The widest values that the grammar has, all at once.
WIDE = replace(
    APP,
    keyboard=Keyboard(
        "pc105", "us,de,ir,br", "intl,,ez-x,nodeadkeys", "grp:alt_shift_toggle,lv3:a(b)+c-d"
    ),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pt_BR", "pt_BR.UTF-8"),
        # glibc knows "sr_RS.UTF-8@latin"; with the encoding last it has no such locale.
        ("sr_RS@latin", "sr_RS.UTF-8@latin"),
        ("ca_ES@valencia", "ca_ES.UTF-8@valencia"),
    ],
)
def test_encoding_stands_where_glibc_wants_it(name: str, expected: str) -> None:
    text = session_files(replace(APP, language=name, formats="de_DE"))["etc/default/locale"]
    assert text.splitlines()[0] == f"LANG={expected}"
    text = session_files(replace(APP, language="de_DE", formats=name))["etc/default/locale"]
    assert f"LC_TIME={expected}" in text.splitlines()
    assert "LANG=de_DE.UTF-8" in text.splitlines()


@pytest.mark.parametrize("settings", [APP, WIDE])
def test_a_shell_reads_each_line_as_one_assignment(settings: Settings) -> None:
    files = session_files(settings)
    for name, count in (("etc/default/locale", 1 + len(CATEGORIES)), ("etc/default/keyboard", 5)):
        words = [shlex.split(line) for line in files[name].splitlines()]
        assert [len(line) for line in words] == [1] * count, name
        assert not set("`$;&|<>\n") & {*"".join(word for line in words for word in line)}


def test_xorg_gets_the_keyboard_and_no_empty_option() -> None:
    text = session_files(WIDE)["etc/X11/xorg.conf.d/00-keyboard.conf"]
    assert '    Option "XkbVariant" "intl,,ez-x,nodeadkeys"\n' in text
    assert all(line.count('"') in {0, 2, 4} for line in text.splitlines())
    assert "XkbVariant" not in session_files(APP)["etc/X11/xorg.conf.d/00-keyboard.conf"]


@pytest.mark.parametrize(
    ("entry", "text", "options"),
    [("browser", BROWSER, ["%u"]), ("identity", IDENTITY, ["--renew"])],
)
def test_i2p_is_in_the_menu_only_where_there_is_an_i2p_guest(
    entry: str, text: str, options: list[str]
) -> None:
    name = f"usr/local/share/applications/tails-profiles-i2p-{entry}.desktop"
    assert name not in session_files(APP)
    assert session_files(replace(APP, i2p=I2pSettings()))[name] == text
    parser = ConfigParser(interpolation=None, strict=True)
    parser.read_string(text)
    # One group: a menu shows no actions.
    assert parser.sections() == ["Desktop Entry"]
    command = parser["Desktop Entry"]["Exec"].split()
    assert command == ["/usr/lib/tails-profiles/i2p-browser", *options]
    assert parser["Desktop Entry"]["Type"] == "Application"
    # What a menu sorts by; without one of the main categories an entry is under "Other".
    assert "Network" in parser["Desktop Entry"]["Categories"].split(";")
