# SPDX-License-Identifier: GPL-3.0-or-later
"""Render a context to the text of a rule set.

The text that ships is rendered when the package is built; ``render`` prints the same bytes.
``python3 -m tails_profiles.ruleset DIRECTORY`` writes every file, and is what the build runs.
"""

import sys
from pathlib import Path

from tails_profiles.errors import MissingLibraryError, RulesetError
from tails_profiles.firewall import (
    Context,
    all_rulesets,
    build_context,
    build_link_context,
)
from tails_profiles.paths import Paths
from tails_profiles.profile import Profile
from tails_profiles.rule_files import file_name

LOCKDOWN = "lockdown.nft"


def templates(paths: Paths | None = None) -> Path:
    """Where the templates are: installed, or beside the package in a source tree."""
    source = Path(__file__).resolve().parents[1] / "nft"
    return source if (source / LOCKDOWN).is_file() else (paths or Paths()).templates


def render(context: Context, directory: Path | None = None) -> str:
    """Render one context; the same context always gives the same text.

    Raises RulesetError when a template is missing, broken, or uses a name the context lacks, and
    MissingLibraryError.
    """
    try:
        import jinja2  # noqa: PLC0415 - slow to import, and most commands render nothing
    except ImportError as err:
        raise MissingLibraryError("jinja2", "python3-jinja2") from err
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(directory or templates()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - the output is nft, every value is a constant of ours
    )
    environment.filters["nft_set"] = _nft_set
    try:
        return environment.get_template(context.template).render(c=context)
    except jinja2.TemplateNotFound as err:
        raise RulesetError(f"no template {err.name}", hint="reinstall tails-profiles") from err
    except jinja2.TemplateError as err:
        line = getattr(err, "lineno", None)
        raise RulesetError(f"template {context.template}, line {line}: {err.message}") from err


def _nft_set(values: tuple[object, ...]) -> str:
    """An anonymous set, or the bare value when there is only one."""
    if len(values) == 1:
        return str(values[0])
    return "{ " + ", ".join(str(value) for value in values) + " }"


def render_named(profile: Profile, variant: str = "", link: str | None = None) -> str:
    """The text of one file by its names; raises RulesetError as build_context does."""
    if link is None:
        return render(build_context(profile, variant))
    return render(build_link_context(profile, link, variant))


def write_all(directory: Path) -> list[str]:
    """Write every rule set, and the static lockdown, into ``directory``; returns their names."""
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    for profile, variant, link in all_rulesets():
        name = file_name(profile, variant, link)
        (directory / name).write_text(render_named(profile, variant, link), encoding="utf-8")
        names.append(name)
    (directory / LOCKDOWN).write_bytes((templates() / LOCKDOWN).read_bytes())
    return [*names, LOCKDOWN]


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
