# SPDX-License-Identifier: GPL-3.0-or-later
"""The seam: what moved is named, and whatever of ours fails leaves the stock greeter."""

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from greeter_plugin.model import Choice, KeptFiles, serialize

from .world import STOCK, WRAPPER, Greeter, Machine, Screen, until

Start = Callable[..., Greeter]
PLUGIN = Path(__file__).parents[2] / "greeter_plugin"
INSTALLED = "usr/share/tails-profiles-greeter/greeter_plugin"
LOGIN = ["BeginVerificationForUser gdm-password amnesia", "StartSessionWhenReady", "ended"]

#: Restored in the drive: an isolated session has been there, and this one is none.
STORED = Choice(kept_files=KeptFiles.KEPT)


def seam() -> tuple[str, ...]:
    tree = ast.parse((PLUGIN / "register.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SEAM":
            return ast.literal_eval(node.value)
    raise AssertionError("no SEAM")


@pytest.fixture(scope="module")
def stock_tree(screen: Screen) -> list[str]:
    """What a greeter without us shows."""
    with closing(Greeter(screen, Machine(installed=False))) as greeter:
        greeter.wait_for("ready")
        return opened_tree(greeter)


def opened_tree(greeter: Greeter) -> list[str]:
    """The tree with the dialog of additional settings open."""
    greeter.press("button", "Add an additional setting")
    greeter.find("dialog")
    greeter.settle()
    return until(lambda: t if "'Offline Mode'" in str(t := greeter.tree()) else None, "the dialog")


def test_stock_tree_differs_from_ours(start: Start, stock_tree: list[str]) -> None:
    ours = opened_tree(start())
    # Its row, what holds the row together, and two labels.
    assert len(ours) == len(stock_tree) + 4
    assert ours[: len(stock_tree)] == stock_tree


@pytest.mark.parametrize("name", seam())
def test_name_that_moved_is_named_and_the_stock_greeter_starts(start: Start, name: str) -> None:
    greeter = start(env={"STANDIN_RENAME": name})
    expected = "a window with dialog_add_setting" if "dialog_add" in name else name
    until(lambda: "not found in this Tails Greeter" in greeter.journal, "the journal says so")
    assert f"not found in this Tails Greeter: {expected}\n" in greeter.journal
    assert not any("solate" in line for line in greeter.tree())


def break_file(name: str, text: str) -> Callable[[Path], None]:
    def sabotage(root: Path) -> None:
        with (root / INSTALLED / f"{name}.py").open("a") as file:
            file.write(text)

    return sabotage


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / INSTALLED / name).unlink()


def replace_python(root: Path) -> None:
    """Our part cannot even be started: no python3 that knows -I."""
    wrapper = root / WRAPPER
    wrapper.write_text(wrapper.read_text().replace("python3 -I", "python3 --no-such-option"))


BROKEN_FILES = {
    "syntax error in start": break_file("start", "\n)"),
    "start ends at once": lambda root: (root / INSTALLED / "start.py").write_text("exit(3)\n"),
    "start is missing": remove("start.py"),
    "syntax error in register": break_file("register", "\n)"),
    "model is missing": remove("model.py"),
    "import fails in view": break_file("view", "\nimport no_such_module\n"),
    "start is interrupted": break_file("register", "\nraise KeyError('sabotaged')\n"),
    "python does not start": replace_python,
}
# Where the greeter's own program never began, the stock launcher has the last word.
STARTED_AGAIN = {
    "syntax error in start",
    "start ends at once",
    "start is missing",
    "python does not start",
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_installation_leaves_the_stock_greeter(
    start: Start, stock_tree: list[str], case: str
) -> None:
    greeter = start(sabotage=BROKEN_FILES[case])
    assert opened_tree(greeter) == stock_tree
    assert "tails-profiles-greeter: " in greeter.journal
    assert any(line.startswith("stock launcher") for line in greeter.trace) is (
        case in STARTED_AGAIN
    )


def test_second_greeter_is_prevented_as_in_the_stock_one(screen: Screen) -> None:
    def seen(root: Path) -> None:
        (root / "var/lib/gdm3/tails.greeter-seen").touch()

    with closing(Greeter(screen, Machine(sabotage=seen))) as greeter:
        assert greeter.process.wait(10) == 1
        assert "a second greeter was prevented" in greeter.journal


def test_desktop_entry_is_the_stock_one_but_for_its_program(tmp_path: Path) -> None:
    subprocess.run([PLUGIN / "install", tmp_path], check=True)
    entry = tmp_path / "usr/share/gdm/greeter/applications/tails-greeter.desktop"
    subprocess.run(["desktop-file-validate", entry], check=True)
    keys = dict(line.split("=", 1) for line in entry.read_text().splitlines()[1:])
    assert keys["Exec"] == f"/{WRAPPER}"
    assert keys["X-GNOME-Provides"] == "tails-greeter"
    assert keys["Type"] == "Application"
    assert (tmp_path / WRAPPER).stat().st_mode & 0o111
    assert f"stock=/{STOCK}\n" in (tmp_path / WRAPPER).read_text()


# ---- the stand-in refuses what nobody promised


def test_name_that_nobody_promised_is_refused(start: Start, stock_tree: list[str]) -> None:
    greeter = start(
        sabotage=break_file(
            "register",
            "\n_attach = attach\ndef attach(window):\n    _attach(window).window.infobar\n",
        )
    )
    until(lambda: "NotPromisedError: GreeterMainWindow.infobar" in greeter.journal, "refused")
    assert greeter.refused() == ["refused GreeterMainWindow.infobar"]


# ---- whatever of ours raises


def functions() -> Iterator[str]:
    """Every function of the plugin, as module.name or module.Class.name."""
    for path in sorted(PLUGIN.glob("*.py")):
        if path.stem == "start":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                yield f"{path.stem}.{node.name}"
            elif isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.FunctionDef):
                        yield f"{path.stem}.{node.name}.{item.name}"


# The border itself, behind which all others are caught: no code of ours is left to catch it.
BORDER = re.compile(
    r"register\.(_Calls\.(value_for_display|apply|load|on_opened_in_dialog|build_popover)"
    r"|Plugin\.(guarded|withdraw|_on_start)|report)"
)
# Called before there is a greeter to go back from, by the mark for xgettext.
AT_IMPORT = {"words._"}
# Reached only where something else has failed; their own tests are in test_view.
NOT_ON_THE_WAY = {"register.Plugin._withdraw_now", "register.Plugin._remove_row",
                  "register.SeamMovedError.__init__", "register.Plugin._say_failed"}  # fmt: skip
NAMES = [name for name in functions() if not BORDER.fullmatch(name) and name not in AT_IMPORT]

SABOTAGE = """

def _sabotage(*args, _original={original}, _left=[{skip}], **kwargs):
    if _left[0] > 0:
        _left[0] -= 1
        return _original(*args, **kwargs)
    import os
    with open(os.environ["STANDIN_TRACE"], "a") as trace:
        trace.write("sabotaged\\n")
    raise RuntimeError("sabotaged {name}")


{target} = {wrapped}
"""


def sabotage(name: str, skip: int = 0) -> Callable[[Path], None]:
    """Let a function raise, at its first call or after ``skip`` good ones."""
    module, _, target = name.partition(".")
    source = ast.parse((PLUGIN / f"{module}.py").read_text())
    node = next(
        item
        for item in ast.walk(source)
        if isinstance(item, ast.FunctionDef) and item.name == target.rpartition(".")[2]
    )
    kind = [ast.unparse(decorator) for decorator in node.decorator_list]
    is_property = "property" in kind
    text = SABOTAGE.format(
        name=name,
        skip=skip,
        target=target,
        original=f"{target}.fget" if is_property else target,
        wrapped="property(_sabotage)" if is_property else "_sabotage",
    )
    return break_file(module, text)


def drive(greeter: Greeter) -> dict[str, list[str]]:
    """The way of the drive: its trees by name, and everything else that was traced."""
    greeter.tell("drive")
    greeter.wait_for("ended")
    assert greeter.process.wait(10) == 0
    found: dict[str, list[str]] = {"rest": []}
    for line in greeter.trace:
        if line.startswith("tree "):
            _, name, tree = line.split(" ", 2)
            found[name] = ast.literal_eval(tree)
        else:
            found["rest"].append(line)
    return found


def driven(start: Start, **facts: object) -> tuple[Greeter, dict[str, list[str]]]:
    greeter = start(**facts)
    (greeter.storage / "tails.isolation").write_bytes(serialize(STORED))
    return greeter, drive(greeter)


@pytest.fixture(scope="module")
def stock_drive(screen: Screen) -> dict[str, list[str]]:
    with closing(Greeter(screen, Machine(installed=False))) as greeter:
        greeter.wait_for("ready")
        return drive(greeter)


def test_sample_is_of_functions_that_are() -> None:
    assert set(NAMES) >= SAMPLE | NOT_ON_THE_WAY


def test_drive_meets_everything(start: Start, stock_drive: dict[str, list[str]]) -> None:
    _, found = driven(start)
    assert found["start"] != stock_drive["start"]
    assert found["end"] != stock_drive["end"]
    assert found["rest"].count("asked") == 1
    assert found["rest"][-4:] == ["SelectSession tails-profiles-host", *LOGIN]


# One of each module and of each time: when it is imported, attached, opened, restored, started.
SAMPLE = {"host.read_facts", "model.read", "model.write", "register.attach", "register.Plugin.load",
          "register.Plugin.apply", "register._listen_to_languages", "register.Plugin._on_response",
          "view.ask", "view.Page.build", "view.Page._on_toggled", "words.Words.say"}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.broad)
        for name in NAMES
        if name not in NOT_ON_THE_WAY
    ],
)
def test_whatever_raises_the_stock_greeter_goes_on(
    start: Start, stock_drive: dict[str, list[str]], name: str
) -> None:
    greeter, found = driven(start, sabotage=sabotage(name))
    rest = found["rest"]
    assert "sabotaged" in rest, "the drive does not reach it"
    assert f"sabotaged {name}" in greeter.journal
    assert "tails-profiles-greeter: " in greeter.journal
    assert rest[-3:] == LOGIN
    assert not any(line.startswith("Select") for line in rest)
    # What fails once the user has chosen Start cannot change what is no longer there.
    order = [line.split(" ")[0:2] for line in greeter.trace if line.startswith(("tree", "sabo"))]
    if order.index(["sabotaged"]) < order.index(["tree", "end"]):
        assert found["end"] == stock_drive["end"]
    if order[0] == ["sabotaged"]:
        assert found["start"] == stock_drive["start"]


# What is called three times before Start, in the dialog or the popover: the third one fails.
AGAIN = {"model.Isolation.effective", "model.Isolation.store", "model.serialize", "model.write",
         "register.Plugin._on_language", "register.Plugin._on_page_left",
         "register.Plugin._take_over", "register.Plugin.apply", "register.Plugin.value",
         "register._Calls.show_value", "view.Page._on_toggled", "view.Page.build",
         "view.Page.show", "view.Page.translate", "view.lay_out_row", "words.Words.__init__",
         "words.Words.say"}  # fmt: skip


@pytest.mark.broad
@pytest.mark.parametrize("name", sorted(AGAIN))
def test_whatever_raises_later_the_stock_greeter_goes_on(
    start: Start, stock_drive: dict[str, list[str]], name: str
) -> None:
    greeter, found = driven(start, sabotage=sabotage(name, skip=2))
    assert f"sabotaged {name}" in greeter.journal
    assert found["rest"][-3:] == LOGIN
    assert not any(line.startswith("Select") for line in found["rest"])
    order = [line.split(" ")[0:2] for line in greeter.trace if line.startswith(("tree", "sabo"))]
    assert order.index(["sabotaged"]) < order.index(["tree", "end"])
    assert found["end"] == stock_drive["end"]


def test_user_who_chose_isolation_is_asked_when_the_setting_fails_later(start: Start) -> None:
    _, found = driven(start, sabotage=sabotage("model.serialize"))
    assert found["rest"].index("sabotaged") < found["rest"].index("asked")
    assert found["rest"][-3:] == LOGIN


def test_user_who_did_not_is_not_asked(start: Start) -> None:
    _, found = driven(start, sabotage=sabotage("register.Plugin.open_in_dialog"))
    assert "sabotaged" in found["rest"]
    assert "asked" not in found["rest"]


def test_journal_that_fails_does_not_cost_the_question(start: Start) -> None:
    _, found = driven(start, sabotage=sabotage("register.report"), env={"STANDIN_GDM": "broken"})
    # Of the kept files, answered with isolation; then that it failed.
    assert found["rest"][-6:] == ["asked", "sabotaged", "asked", *LOGIN]


def test_user_who_answers_with_isolation_is_asked_again_when_that_fails(start: Start) -> None:
    _, found = driven(start, sabotage=sabotage("model.Isolation.start_warned"))
    assert found["rest"][-6:] == ["asked", "sabotaged", "asked", *LOGIN]


def test_user_whose_tick_was_restored_is_asked_when_start_fails(start: Start) -> None:
    greeter = start(sabotage=sabotage("model.Isolation.plan_start"))
    (greeter.storage / "tails.isolation").write_bytes(serialize(Choice(enabled=True)))
    greeter.tell(f"unlock {greeter.storage}")
    greeter.press("button", "Start Tails")
    greeter.press("button", "Start Without Isolation")
    greeter.wait_for("ended")
    assert greeter.trace[-3:] == LOGIN
