# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sentence the user reads, and its translation. No GTK.

gettext domain ``tails-profiles``; the catalogues lie where the system's lie. A language without a
catalogue, or a name that is none, gives English.
"""

import gettext as gettext_module
import math
import re

from greeter_plugin.capability import I2p, Obstacle, Verdict
from greeter_plugin.model import Choice, Folders, Problem

DOMAIN = "tails-profiles"
LOCALE_DIRECTORY = "/usr/share/locale"

# The name becomes a part of a path.
_LOCALE = re.compile(r"[a-z]{2,3}(_[A-Z]{2})?(@[a-z]{3,10})?", re.ASCII)


def _(text: str) -> str:
    """Mark for xgettext; translated where it is shown."""
    return text


TITLE = _("_Isolate through virtualization")
CHECKBOX = _("Isolate through virtualization")
EXPLANATION = _(
    # Translators: {needs} and {has} are numbers such as 3.6.
    "Your session runs in a virtual machine and reaches the network only through Tor in a second "
    "one, so that a program that takes over the session cannot find out this computer's address "
    "or serial numbers; this needs {needs} GB of memory and takes longer to start."
)
I2P = _("Also start I2P")
I2P_MEMORY = _("I2P needs {needs} GB of memory and this computer has {has} GB.")
FOLDERS_HEADING = _("Folders of the Persistent Storage in the isolated session")
FOLDERS = {
    Folders.READ_WRITE: _("Read and write"),
    Folders.READ_ONLY: _("Read only"),
    Folders.NONE: _("No folders"),
}
ON = _("On")
ON_I2P = _("On, with I2P")
OFF = _("Off (default)")
OBSTACLES = {
    Obstacle.NO_HYPERVISOR: _("Not possible: this Tails contains no hypervisor."),
    Obstacle.NO_SESSION: _("Not possible: this Tails contains no isolated session."),
    Obstacle.NO_VIRTUALIZATION: _(
        "Not possible: the processor has no hardware virtualization, or the computer's firmware "
        "settings switch it off."
    ),
    Obstacle.INSIDE_VM: _(
        "Not possible: Tails already runs in a virtual machine, which does not allow another one "
        "inside."
    ),
    Obstacle.PROCESSOR_HELD: _("Not possible: another hypervisor is using the processor."),
    Obstacle.TOO_LITTLE_MEMORY: _(
        "Not possible: isolation needs {needs} GB of memory and this computer has {has} GB."
    ),
}
WEAKER = _("Tails starts as usual, with the weaker protection.")
PROBLEMS = {
    Problem.DAMAGED: _("Warning: the saved setting is damaged and was not used."),
    Problem.NOT_SAVED: _("Warning: the setting could not be saved."),
}
KEPT_TITLE = _("Files From an Isolated Session")
KEPT_TEXT = _(
    "An isolated session could keep files in your Persistent Storage. They become active again "
    "in this session, which is not isolated: a program that took over the isolated session may "
    "have changed them in order to attack this one."
)
FAILED_TITLE = _("Isolation Failed")
FAILED_TEXT = _(
    "You chose to isolate this session through virtualization, and this is not possible now. "
    "If you start Tails all the same, the session is not isolated."
)
START_WITHOUT = _("Start Without Isolation")
START_ISOLATED = _("Isolate This Session")
SHUT_DOWN = _("Shut Down")


class Words:
    """The sentences in one language."""

    def __init__(self, locale: str = "", directory: str = LOCALE_DIRECTORY) -> None:
        languages = [locale] if _LOCALE.fullmatch(locale) else []
        self._catalogue: gettext_module.NullTranslations
        try:
            self._catalogue = gettext_module.translation(DOMAIN, directory, languages or ["C"])
        # No catalogue, or one that is damaged: English is better than no Welcome Screen.
        except (OSError, ValueError, LookupError):
            self._catalogue = gettext_module.NullTranslations()

    def say(self, text: str, verdict: Verdict | None = None) -> str:
        """``text`` translated; the figures of ``verdict`` in GB where it names them."""
        translated = self._catalogue.gettext(text)
        if verdict is None:
            return translated
        needs = verdict.i2p_needs if text == I2P_MEMORY else verdict.needs
        # Rounded apart, so that the two never look alike when one does not suffice.
        return translated.format(
            needs=self._figure(math.ceil(needs / 102.4)),
            has=self._figure(math.floor(verdict.has / 102.4)),
        )

    def value(self, choice: Choice, verdict: Verdict, problem: Problem | None) -> str:
        """The row's value: what holds, and what the user must know about it."""
        if verdict.obstacle is not None:
            parts = [self.say(OBSTACLES[verdict.obstacle], verdict), self.say(WEAKER)]
        elif not choice.enabled:
            parts = [self.say(OFF)]
        else:
            parts = [self.say(ON_I2P if choice.i2p else ON)]
        if problem is not None:
            parts.insert(0, self.say(PROBLEMS[problem]))
        return "\n".join(parts)

    def i2p_note(self, verdict: Verdict) -> str:
        """Why I2P is offered and cannot be chosen; empty where it can."""
        return self.say(I2P_MEMORY, verdict) if verdict.i2p is I2p.TOO_LITTLE_MEMORY else ""

    def _figure(self, tenths: int) -> str:
        digits = self._catalogue.pgettext("the ten digits", "0123456789")
        point = self._catalogue.pgettext("decimal point", ".")
        text = f"{tenths // 10}{point}{tenths % 10}"
        return text.translate(str.maketrans("0123456789", digits)) if len(digits) == 10 else text
