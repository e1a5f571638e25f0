"""The rooms of bssan_tf: imports go downwards only, files and functions stay short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
PACKAGE = PROJECT / "bssan_tf"
FILES = sorted(PACKAGE.rglob("*.py"))

# from top to bottom
FLOORS = (
    "app", "commands", "reproduction", "training", "evaluation", "matching", "drawing", "runs", "cca", "scoring",
    "models", "features", "datasets", "metrics", "cli", "config", "tools", "reading", "errors",
)  # fmt: skip
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 300, 60


def name_of(path):
    return str(path.relative_to(PROJECT))


def room_of(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {"__main__": "commands"}.get(room, room)


def imports_of(source: str) -> Iterator[str]:
    """What a module imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_used(source: str) -> set[str]:
    return {name.split(".")[1] for name in imports_of(source) if name.startswith("bssan_tf.")}


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} - {"__init__"} == set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_imports_go_downwards_only(room):
    allowed = FLOORS[FLOORS.index(room) :]
    for path in FILES:
        if room_of(path) == room:
            above = rooms_used(path.read_text(encoding="utf-8")) - set(allowed)
            assert not above, f"{name_of(path)} imports {', '.join(sorted(above))}"


def test_the_package_itself_imports_nothing_of_its_own():
    assert not rooms_used((PACKAGE / "__init__.py").read_text(encoding="utf-8"))


def test_all_ways_to_import_are_seen():
    source = """
from typing import TYPE_CHECKING
import bssan_tf.models.w2r
from bssan_tf import cli
if TYPE_CHECKING:
    from bssan_tf.scoring.w2r import FastW2R
def later():
    from bssan_tf.errors import UserError
"""
    assert rooms_used(source) == {"models", "cli", "scoring", "errors"}


def test_no_file_is_long():
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}


def lines_of(function) -> int:
    """Lines of a function, its docstring not counted."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(getattr(first, "value", None), ast.Constant)
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if told else 0)


def test_no_function_is_long():
    long = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and lines_of(node) > MOST_LINES_OF_A_FUNCTION:
                long[f"{name_of(path)}: {node.name}"] = lines_of(node)
    assert not long


def test_what_hangs_on_the_system_is_in_one_place():
    """File locks are POSIX; NumPy inside of a graph cannot be saved."""
    for word, places in (
        ("fcntl", {"bssan_tf/tools/files.py"}),
        ("numpy_function", {"bssan_tf/tools/step_dataset.py"}),
    ):
        uses = {name_of(path): path.read_text(encoding="utf-8").count(word) for path in FILES}
        assert {name for name, count in uses.items() if count} == places, word
    assert uses["bssan_tf/tools/step_dataset.py"] == 1


OF_KERAS = (
    "KERAS_3", "keras.src", "_symbolic_build", "_var_key", "_clip_gradients", "_flatten_layers", "_learning_rate",
    "_momentums", "_velocities", "compiled_loss", "compiled_metrics", "use_cudnn",
)  # fmt: skip


@pytest.mark.parametrize("word", OF_KERAS)
def test_what_differs_between_the_stacks_is_in_one_place(word):
    """And so are the private names of Keras."""
    uses = {name_of(path) for path in FILES if re.search(rf"(?<![a-z]){word}\b", path.read_text(encoding="utf-8"))}
    assert uses == {"bssan_tf/tools/stack.py"}


def architecture() -> str:
    return (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_page_names_every_room_and_only_rooms():
    """In its table, which also names the rooms within rooms."""
    first_cells = re.findall(r"^\| (`.*?`) \|", architecture().split("## Rooms")[1], re.M)
    named = {name for cell in first_cells for name in re.findall("`(.*?)`", cell)}
    inner = {"features/faster_rcnn", "models/improved"}
    assert named == set(FLOORS) | inner
    folders = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.glob("*/*/__init__.py")}
    assert folders == inner


def test_the_figure_shows_every_room_above_those_that_it_imports():
    drawn = [line for line in architecture().split("```")[1].splitlines() if line.startswith("│")]
    floor = {room: next(i for i, line in enumerate(drawn) if re.search(rf"[│,] {room}\b", line)) for room in FLOORS}
    for path in FILES:
        room = room_of(path)
        for other in rooms_used(path.read_text(encoding="utf-8")) - {room}:
            ground = floor[room] == floor[other] == len(drawn) - 1
            assert floor[room] < floor[other] or ground, f"{name_of(path)}: {other} is not below"


def test_a_search_imports_nothing_that_draws():
    """Matplotlib takes its time, so modules of `matching` import what draws where they draw."""
    for path in sorted((PACKAGE / "matching").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = list(imports_of(ast.unparse(node)))
                assert not [name for name in names if name.startswith(("matplotlib", "bssan_tf.drawing"))], path
