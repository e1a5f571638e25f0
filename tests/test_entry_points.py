"""The ways in: scripts, `python -m bssan_tf`, the installed `bssan`, and what an installation brings along."""

import fnmatch
import importlib
import re
import shutil
import subprocess
import sys

import pytest
import setuptools

from bssan_tf import cli
from bssan_tf.commands import NAMES
from bssan_tf.runs.folder import command_line

SLOW = ("tensorflow", "keras", "matplotlib", "h5py")
# what a shell does with --help, and then what it has loaded
HELP = """
import sys
from bssan_tf.commands import {name}
try:
    {name}.main(["--help"])
except SystemExit as stopped:
    assert not stopped.code, stopped.code
    print("loaded:", *[name for name in {slow} if name in sys.modules])
"""


def python(project, *arguments):
    return subprocess.run([sys.executable, *arguments], cwd=project, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", NAMES)
def test_script_and_module_give_the_same_help(project, name):
    script, module = python(project, f"{name}.py", "--help"), python(project, "-m", "bssan_tf", name, "--help")
    assert script.returncode == module.returncode == 0, script.stderr + module.stderr
    own, of_module = (done.stdout.split("\n\n", 1) for done in (script, module))
    assert own[1] == of_module[1]
    assert own[0].startswith(f"usage: {name}.py ")
    assert of_module[0].startswith(f"usage: bssan {name} ")
    assert not script.stderr + module.stderr


@pytest.mark.parametrize("name", NAMES)
def test_help_loads_nothing_slow(project, name):
    done = python(project, "-c", HELP.format(name=name, slow=SLOW))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_an_unknown_command_is_refused_in_one_line(project, arguments):
    done = python(project, "-m", "bssan_tf", *arguments)
    assert done.returncode == 2
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(name in line for name in NAMES)


def section(project, title: str) -> dict[str, str]:
    """`key = value` of a table of pyproject.toml; Python 3.9 and 3.10 have no reader of their own."""
    text = (project / "pyproject.toml").read_text(encoding="utf-8").split(f"[{title}]\n")[1].split("\n[")[0]
    return {key.strip('"'): value for key, value in re.findall(r"^(\S+) = (.*)$", text, re.M)}


def test_the_installed_command_is_a_function(project):
    scripts = section(project, "project.scripts")
    assert scripts.keys() == {"bssan"}
    module, name = scripts["bssan"].strip('"').split(":")
    assert callable(getattr(importlib.import_module(module), name))


def listed(value: str) -> list[str]:
    return re.findall(r'"(.*?)"', value)


def test_an_installation_has_every_room_and_its_files(project):
    include = listed(section(project, "tool.setuptools.packages.find")["include"])
    found = set(setuptools.find_packages(str(project), include=include))
    rooms = {path.parent for path in (project / "bssan_tf").rglob("*.py")}
    assert found == {".".join(path.relative_to(project).parts) for path in rooms}

    data = {package: listed(value) for package, value in section(project, "tool.setuptools.package-data").items()}
    files = [path for path in (project / "bssan_tf").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    others = [path for path in files if path.suffix != ".py"]
    packed = {"config.json", "data.json", "metrics.json", "vocabulary.txt", "weights.npz", "CARD.md"}
    expected = {"slim_vgg19.npz", "slim_scenes.npz", "page.html", "page.css", "page.js"} | packed
    assert {path.name for path in others} == expected
    for path in others:
        room = next(folder for folder in path.parents if folder in rooms)
        patterns = data[".".join(room.relative_to(project).parts)]
        assert any(fnmatch.fnmatch(path.relative_to(room).as_posix(), pattern) for pattern in patterns), path


@pytest.mark.parametrize(
    ("argv", "command", "called"),
    [
        (["train.py", "--seed", "1"], ["python", "train.py", "--seed", "1"], "python evaluate.py"),
        (["bssan train", "--seed", "1"], ["python", "-m", "bssan_tf", "train", "--seed", "1"], "bssan evaluate"),
    ],
)
def test_a_run_notes_a_command_that_can_be_given_again(monkeypatch, argv, command, called):
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == command
    assert cli.command("evaluate") == called


@pytest.mark.parametrize(
    ("program", "installed", "typed"),
    [
        ("bssan train", "/bin/bssan", "bssan evaluate"),
        ("bssan train", None, "python -m bssan_tf evaluate"),
        ("train.py", "/bin/bssan", "python evaluate.py"),
    ],
)
def test_a_hint_names_a_command_that_is_there(monkeypatch, program, installed, typed):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(shutil, "which", lambda name: installed)
    assert cli.to_type("evaluate") == typed
