# SPDX-License-Identifier: GPL-3.0-or-later
"""Language, keyboard and I2P's browser of app-guest's session, as the files that Debian reads.

Sources: locale(5) of Debian (pam_env reads ``/etc/default/locale``), keyboard(5), xorg.conf(5),
the Desktop Entry Specification.
Every value is one of the settings' closed grammar: none can end a string or a line.
"""

from collections.abc import Mapping

from tails_profiles.settings import Settings

CATEGORIES = (
    "LC_ADDRESS", "LC_IDENTIFICATION", "LC_MEASUREMENT", "LC_MONETARY", "LC_NAME", "LC_NUMERIC",
    "LC_PAPER", "LC_TELEPHONE", "LC_TIME",
)  # fmt: skip


#: Only where there is an i2p-guest, and so not part of the image.
BROWSER = """\
[Desktop Entry]
Type=Application
Name=I2P Browser
Comment=Sites of I2P, and nothing else
Exec=/usr/lib/tails-profiles/i2p-browser %u
Icon=web-browser
Terminal=false
Categories=Network;WebBrowser;
"""

#: An entry of its own: not every panel shows the actions of another.
IDENTITY = """\
[Desktop Entry]
Type=Application
Name=New I2P identity
Comment=Sites of I2P see somebody else from then on
Exec=/usr/lib/tails-profiles/i2p-browser --renew
Icon=view-refresh
Terminal=false
Categories=Network;
"""

#: Where the session's desktop looks for entries, below the image's own.
_ENTRIES = "usr/local/share/applications/tails-profiles-i2p-{}.desktop"


def session_files(settings: Settings) -> Mapping[str, str]:
    """Each file's path from the root, without the leading slash, and its text."""
    texts = {
        "etc/default/locale": _locale(settings),
        "etc/default/keyboard": _keyboard(settings),
        "etc/X11/xorg.conf.d/00-keyboard.conf": _xorg(settings),
    }
    if settings.i2p is not None:
        texts[_ENTRIES.format("browser")] = BROWSER
        texts[_ENTRIES.format("identity")] = IDENTITY
    return texts


def _locale(settings: Settings) -> str:
    formats = _encoded(settings.formats)
    lines = [f"LANG={_encoded(settings.language)}", *(f"{name}={formats}" for name in CATEGORIES)]
    return "\n".join(lines) + "\n"


def _encoded(locale: str) -> str:
    # glibc wants the encoding before the modifier: sr_RS.UTF-8@latin (setlocale(3)).
    name, at, modifier = locale.partition("@")
    return f"{name}.UTF-8{at}{modifier}"


def _keyboard(settings: Settings) -> str:
    keyboard = settings.keyboard
    return (
        f'XKBMODEL="{keyboard.model}"\nXKBLAYOUT="{keyboard.layout}"\n'
        f'XKBVARIANT="{keyboard.variant}"\nXKBOPTIONS="{keyboard.options}"\nBACKSPACE="guess"\n'
    )


def _xorg(settings: Settings) -> str:
    keyboard = settings.keyboard
    options = (
        ("XkbModel", keyboard.model),
        ("XkbLayout", keyboard.layout),
        ("XkbVariant", keyboard.variant),
        ("XkbOptions", keyboard.options),
    )
    lines = [f'    Option "{name}" "{value}"' for name, value in options if value]
    return "\n".join(
        (
            'Section "InputClass"',
            '    Identifier "tails-profiles keyboard"',
            '    MatchIsKeyboard "on"',
            *lines,
            "EndSection",
            "",
        )
    )
