# SPDX-License-Identifier: GPL-3.0-or-later
"""The setting in the real program of Tails Greeter, from a tree of Tails.

``python3 -m tests.greeter.real TREE [ROOT]``: TREE is a checkout of Tails 6 or 7, or what ``git
archive`` makes of one. Not part of ./check, which has no such tree: no package holds one. Needs
what Tails has beside GTK: gir1.2-handy-1, gir1.2-gnomedesktop-3.0, python3-pycountry; ROOT may hold
them unpacked (``dpkg -x``), so that nothing has to be installed. Only daemons are replaced
(standin/outside.py). Pictures go to .build/greeter/real-*.png.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from greeter_plugin import words
from greeter_plugin.model import Choice, Folders, KeptFiles, Problem, parse, serialize
from greeter_plugin.words import Words

from .test_view import on_screen
from .world import STANDIN, Greeter, Machine, Screen, until

HANDLE = "Configure Isolate through virtualization"
SELECTED = "SelectSession tails-profiles-host"
LOGIN = ["BeginVerificationForUser gdm-password amnesia", "AnswerQuery live",
         "StartSessionWhenReady", "ended"]  # fmt: skip
LOCALES = ("en_US", "de_DE", "es_ES", "fa_IR", "fr_FR", "pt_BR", "ru_RU")
NO_TRANSLATION = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n'
INCLUDES = Path("config/chroot_local-includes")
PACKAGES = Path("usr/lib/python3/dist-packages")


class RealGreeter(Greeter):
    """One real greeter, from its start to its end."""

    source = Path()
    unpacked: Path | None = None

    def install_stock(self) -> None:
        """As Tails' build does it, as far as the greeter needs."""
        of, to = self.source / INCLUDES, self.upper
        if self.unpacked is not None:
            shutil.copytree(self.unpacked / "usr", to / "usr", symlinks=True, dirs_exist_ok=True)
        for name in ("tailsgreeter", "tailslib", "tps"):
            shutil.copytree(of / PACKAGES / name, to / PACKAGES / name)
        data = to / "usr/share/tails/greeter"
        shutil.copytree(of / "usr/share/tails/greeter", data)
        for template in data.glob("*.ui.in"):
            template.rename(template.with_suffix(""))
        # It watches the X server's pointer for ever.
        shutil.copy(STANDIN / "greeter/set-cursor.py", data)
        (data / "supported_locales").write_text("".join(f"{name}\n" for name in LOCALES))
        (to / "usr/local/lib").mkdir(parents=True, exist_ok=True)
        shutil.copy(of / "usr/local/lib/tails-greeter", to / "usr/local/lib")
        for locale in LOCALES:
            name = locale if locale == "pt_BR" else locale[:2]
            # The English one has no translation, and has to be there.
            po = NO_TRANSLATION if name == "en" else (self.source / f"po/{name}.po").read_text()
            # It asks for the language alone as well.
            for directory in {name, locale[:2]}:
                place = to / f"usr/share/locale/{directory}/LC_MESSAGES"
                place.mkdir(parents=True, exist_ok=True)
                msgfmt = ["msgfmt", "-o", place / "tails.mo", "-"]
                subprocess.run(msgfmt, input=po, text=True, check=True)
        shutil.copy(STANDIN / "outside.py", to / PACKAGES / "greeter_outside.py")
        shutil.copy(STANDIN / "greeter/settle.py", to / PACKAGES)
        (to / PACKAGES / "greeter_outside.pth").write_text("import greeter_outside\n")

    def open_dialog(self) -> None:
        self.press("button", "Add an additional setting")
        self.find("dialog")

    def login(self) -> list[str]:
        """Start Tails; what was said to GDM, in its order."""
        self.press("button", "Start Tails")
        return self.said()

    def said(self) -> list[str]:
        self.wait_for("ended")
        assert self.process.wait(10) == 0
        return [line for line in self.trace if line.startswith(("Sel", "Beg", "Ans", "Sta", "end"))]


def tick_add_and_start(start: Callable[..., RealGreeter]) -> None:
    """Tick, I2P, read only, Add, popover, Start."""
    greeter = start()
    greeter.shot("real-main")
    greeter.tell("unlock")
    greeter.open_dialog()
    greeter.shot("real-list")
    greeter.press("list item", description=HANDLE)
    greeter.press("check box", words.CHECKBOX)
    greeter.press("check box", words.I2P)
    greeter.press("radio button", words.FOLDERS[Folders.READ_ONLY])
    greeter.shot("real-page")
    greeter.press("button", "Add")
    greeter.find("label", words.ON_I2P)
    greeter.press("list item", description=HANDLE)
    greeter.press("check box", words.I2P)
    greeter.shot("real-popover")
    greeter.find("label", words.ON)
    greeter.key(9)
    until(lambda: f"check box {words.CHECKBOX!r}" not in str(greeter.tree()), "the popover closes")
    greeter.shot("real-added")
    assert greeter.login() == [SELECTED, *LOGIN]
    stored = parse((greeter.storage / "tails.isolation").read_bytes())
    assert stored == Choice(enabled=True, folders=Folders.READ_ONLY)


def nothing_changes_without_the_tick(start: Callable[..., RealGreeter]) -> None:
    """The same files, the same calls, the same tree as without the package."""
    results = []
    for installed in (True, False):
        greeter = start(installed=installed)
        greeter.open_dialog()
        greeter.press("button", "Cancel")
        until(lambda: "dialog" not in str(greeter.tree()), "closed")  # noqa: B023
        greeter.tell("unlock")
        tree = greeter.tree()
        said = greeter.login()
        results.append((tree, said, greeter.trace, greeter.files()))
    assert results[0] == results[1]
    assert results[0][1] == LOGIN


def restored_and_warned(start: Callable[..., RealGreeter]) -> None:
    """A stored tick is restored on unlocking; kept files are warned of."""
    greeter = start()
    (greeter.storage / "tails.isolation").write_bytes(serialize(Choice(enabled=True)))
    greeter.tell("unlock")
    greeter.find("label", words.ON)
    assert greeter.login() == [SELECTED, *LOGIN]
    greeter = start()
    kept = serialize(Choice(kept_files=KeptFiles.KEPT))
    (greeter.storage / "tails.isolation").write_bytes(kept)
    greeter.tell("unlock")
    greeter.press("button", "Start Tails")
    greeter.find("label", words.KEPT_TEXT)
    greeter.shot("real-kept-files")
    greeter.press("button", words.START_WITHOUT)
    assert greeter.said() == LOGIN


def damaged_is_said(start: Callable[..., RealGreeter]) -> None:
    """A damaged file: defaults, and a warning in the main window."""
    greeter = start()
    (greeter.storage / "tails.isolation").write_bytes(b"garbage")
    greeter.tell("unlock")
    greeter.find("label", f"{words.PROBLEMS[Problem.DAMAGED]}\n{words.OFF}")
    greeter.shot("real-damaged")
    assert greeter.login() == LOGIN


def broken_setting_leaves_the_stock_greeter(start: Callable[..., RealGreeter]) -> None:
    """Our part raises while it is attached: the tree is that of a greeter without us."""

    def sabotage(root: Path) -> None:
        file = root / "usr/share/tails-profiles-greeter/greeter_plugin/register.py"
        with file.open("a") as text:
            text.write("\ndef broken(*_):\n    1 / 0\nPlugin._attach = broken\n")

    trees = []
    for facts in ({"sabotage": sabotage}, {"installed": False}):
        greeter = start(**facts)
        assert ("ZeroDivisionError" in greeter.journal) is ("sabotage" in facts)
        greeter.open_dialog()
        greeter.settle()
        trees.append(greeter.tree())
    assert trees[0] == trees[1]


def every_language_fits(start: Callable[..., RealGreeter]) -> None:
    """Row and page in each language, beside Tails' own words in it."""
    for locale in LOCALES:
        greeter = start()
        say = Words(locale, str(greeter.upper / "usr/share/locale"))
        greeter.open_dialog()
        greeter.tell(f"language {locale}")
        greeter.find("label", say.say(words.OFF))
        on_screen(greeter)
        greeter.shot(f"real-{locale}-list")
        greeter.press("list item", description=HANDLE)
        greeter.press("check box", say.say(words.CHECKBOX))
        for text in words.FOLDERS.values():
            greeter.find("radio button", say.say(text))
        on_screen(greeter, greeter.find("dialog"))
        greeter.shot(f"real-{locale}-page")
        greeter.close()


CHECKS = (
    tick_add_and_start, nothing_changes_without_the_tick, restored_and_warned, damaged_is_said,
    broken_setting_leaves_the_stock_greeter, every_language_fits,
)  # fmt: skip


def main(tree: Path, unpacked: Path | None = None) -> int:
    """Run every check, print each; the number that failed is the exit status."""
    RealGreeter.source, RealGreeter.unpacked = tree, unpacked
    rows = (tree / INCLUDES / PACKAGES / "tailsgreeter/ui/additional_settings.py").read_text()
    series = 6 if "def id(self)" in rows else 7
    failed = 0
    screen = Screen()
    try:
        for check in CHECKS:
            running: list[RealGreeter] = []

            def start(running: list[RealGreeter] = running, **facts: object) -> RealGreeter:
                greeter = RealGreeter(screen, Machine(series=series, **facts))
                running.append(greeter)
                greeter.wait_for("ready")
                return greeter

            try:
                check(start)
                print(f"passed  {check.__name__}")
            except Exception as err:  # noqa: BLE001 - the others are run all the same
                failed += 1
                print(f"FAILED  {check.__name__}: {err}")
                screen.picture(f"real-failed-{check.__name__}")
            finally:
                for greeter in running:
                    greeter.close()
    finally:
        screen.close()
    return failed


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
