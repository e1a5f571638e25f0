"""What the documents say of presets, flags, commands and files is so; their Python runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from bssan_tf import cli
from bssan_tf.commands import NAMES, train
from bssan_tf.config.flags import table
from bssan_tf.config.presets import preset
from bssan_tf.config.schema import Config
from bssan_tf.config.settings import SECTIONS, flag_of
from bssan_tf.datasets.text import Tokenizer
from bssan_tf.features.faster_rcnn.detector import Detector
from bssan_tf.features.regions import Extractor
from bssan_tf.models.bssan import Bssan
from bssan_tf.runs.export import export_saved_model
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.sources import store_name

PROJECT = Path(__file__).parent.parent
PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
TEXTS = {str(path.relative_to(PROJECT)): path.read_text(encoding="utf-8") for path in PAGES}
PHOTOS = "--data flickr8k"
README_BYTES = 9216
RUNNABLE = [
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for room in ("bssan_tf", "benchmarks")
    for path in sorted((PROJECT / room).rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]
MODULES = (*(f"bssan_tf.commands.{name}" for name in NAMES), *RUNNABLE)
OTHERS = ("uv ", "tensorboard ", "pip ", "ray ")  # programs whose flags are not ours


def flags_of_preset():
    """The flags of the second column of the table of the preset `improved`."""
    text = TEXTS["docs/decisions.md"].split("## The preset `improved`")[1].split("\n## ")[0]
    cells = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ") and " | `--" in line]
    return [cell.strip("` ") for cell in cells]


def config_of(flags):
    return train.config_of(train.build_parser().parse_args(shlex.split(f"{PHOTOS} {flags}")))


@pytest.mark.parametrize("flags", flags_of_preset())
def test_each_flag_of_the_table_is_the_presets(flags):
    assert config_of(flags) == config_of("")


def test_the_table_has_every_part_that_paper_lacks():
    improved, paper = config_of(""), config_of("--preset paper")
    given = set(re.findall(r"--(?:no-)?([a-z0-9-]+)", " ".join(flags_of_preset())))
    differ = set()
    for key in SECTIONS:
        ours, theirs = vars(getattr(improved, key)), vars(getattr(paper, key))
        differ |= {flag_of(name)[2:] for name in ours if ours[name] != theirs[name]}
    assert differ - {"batch-size"} <= given


def test_the_settings_are_those_of_the_code():
    told = TEXTS["docs/training.md"].split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
    assert told.strip() == table().strip(), "print it anew: python -m bssan_tf.config.flags"


def test_the_readme_is_a_first_page():
    assert (PROJECT / "README.md").stat().st_size <= README_BYTES


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors_of(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    found = []
    for heading in re.findall(r"^#+ (.*)$", without_blocks(text), re.M):
        shown = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).replace("`", "").lower()
        found.append(re.sub(r"[^\w\- ]", "", shown).replace(" ", "-"))
    return {name + (f"-{found[:i].count(name)}" if name in found[:i] else "") for i, name in enumerate(found)}


LINKS = [
    (page, target)
    for page, text in TEXTS.items()
    for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text))
    if not re.match(r"[a-z]+:", target)
]


@pytest.mark.parametrize(("page", "target"), LINKS)
def test_links_lead_somewhere(page, target):
    path, _, anchor = target.partition("#")
    goal = (PROJECT / page).parent / path if path else PROJECT / page
    assert goal.exists()
    if anchor:
        assert anchor in anchors_of(goal.read_text(encoding="utf-8"))


class _StoppedError(Exception):
    pass


@pytest.fixture(scope="module")
def parser_of():
    """The parser of a module with a command line, or None; made once."""
    known = {}

    def parser(name: str) -> argparse.ArgumentParser | None:
        if name not in known:
            module = importlib.import_module(name)
            known[name] = module.build_parser() if hasattr(module, "build_parser") else _built_in(module)
        return known[name]

    return parser


def _built_in(module) -> argparse.ArgumentParser | None:
    """The parser that a module's main makes before all else."""
    if not hasattr(module, "main") or module.__name__ == "bssan_tf.__main__":
        return None
    found = []

    def stop(self, *_):
        found.append(self)
        raise _StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with contextlib.suppress(_StoppedError):
            module.main([])
    return found[0]


def commands():
    """(page, command line) of the blocks, comments left out."""
    for page, text in TEXTS.items():
        for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"(python|bssan) ", line.strip()):
                    yield page, shlex.join(shlex.split(line, comments=True))


COMMANDS = list(commands())


def module_of(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command line runs, and its arguments."""
    words = [f"{words[0]} -m bssan_tf", *words[1:]] if words[0] == "bssan" else words
    if words[1].endswith(".py"):
        assert (PROJECT / words[1]).exists(), words[1]
        return f"bssan_tf.commands.{Path(words[1]).stem}", words[2:]
    assert words[1] == "-m", words
    if words[2] == "bssan_tf":
        return f"bssan_tf.commands.{words[3]}", words[4:]
    folder = (PROJECT / words[2].replace(".", "/")).is_dir()
    return words[2] + (".__main__" if folder else ""), words[3:]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_understood(page, command, parser_of, monkeypatch):
    monkeypatch.chdir(PROJECT)
    name, arguments = module_of(shlex.split(command))
    assert name in MODULES, f"{page}: {command}"
    parser = parser_of(name)
    assert parser, f"{name} is no command"
    try:
        options = parser.parse_args(arguments)
    except SystemExit as error:
        pytest.fail(f"{page}: {command}: refused with exit code {error.code}")
    if name == "bssan_tf.commands.train" and not options.resume:
        assert isinstance(train.config_of(options), Config)
    if "..." not in (common := getattr(options, "common", "") or ""):
        train.config_of(train.build_parser().parse_args(shlex.split(common)))


def test_every_command_of_the_readme_is_looked_at():
    found = {shlex.split(command)[1] for _, command in COMMANDS}
    assert {"train.py", "evaluate.py", "search.py", "visualize.py", "-m"} <= found
    assert len(COMMANDS) > 30


def test_flags_in_the_text_exist_or_are_marked_as_gone(parser_of):
    """† marks, in the line, a flag that an earlier commit was the last to have."""
    known = {"--help"}
    for name in MODULES:
        if parser := parser_of(name):
            known |= set(parser._option_string_actions)
    missing = []
    for page, text in TEXTS.items():
        for line in without_blocks(text).splitlines():
            if "†" in line:
                continue
            ours = re.sub(r"`[^`]*`", lambda code: "" if code[0][1:].startswith(OTHERS) else code[0], line)
            missing += [f"{page}: {flag}" for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", ours) if flag not in known]
    assert not missing


@pytest.fixture(scope="module")
def used_run(tmp_path_factory):
    """A folder in which a run on scenes and its features lie, as train.py leaves them; small layers, random weights."""
    folder = tmp_path_factory.mktemp("snippets")
    config = preset("improved", "tiny", data="scenes").resolved()
    D, M, P, Q = 196, 64, 10, 256  # of the slim backbone and detector
    config = config.replace(D=D, M=M, P=P, Q=Q, H=8, S=6, E_glove=0, E_trained=8, fusion=4, w2r_mlp=(4,), o2w_mlp=(4,))
    tokenizer = Tokenizer.fit(["a red circle above a blue square"], length=30)
    model = Bssan(config.model, len(tokenizer.words))
    export_saved_model(model.scorer, tokenizer.layer, folder / RunFolder(Path("runs/NAME")).export)
    rng = np.random.default_rng(0)
    source = Detector(None)
    store = folder / config.data.cache / "scenes" / store_name(Extractor(config.data.backbone).name, source)
    store.mkdir(parents=True)
    np.save(store / "regions.npy", rng.gamma(1.0, 1.0, (3, D, M)).astype(np.float16))
    np.save(store / "objects.npy", rng.gamma(1.0, 1.0, (3, P, Q)).astype(np.float16))
    np.save(store / "valid.npy", np.ones((3, P), bool))
    return folder


SNIPPETS = [
    (page, code)
    for page, text in TEXTS.items()
    for code in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    if "import Matcher" not in code  # test_matcher.py runs these
]


@pytest.mark.parametrize(("page", "code"), SNIPPETS, ids=[page for page, _ in SNIPPETS])
def test_python_runs(page, code, used_run, monkeypatch):
    monkeypatch.chdir(used_run)
    names = {}
    exec(compile(code, page, "exec"), names)
    if "out" in names:  # of the SavedModel
        assert names["out"]["score"].shape == (1,)
        assert np.isfinite(names["out"]["score"]).all()
        np.testing.assert_allclose(names["out"]["alpha"].numpy()[0, :6].sum(-1), 1, atol=1e-5)
        assert names["out"]["beta"].shape[:2] == (1, 10)


def test_there_is_python_to_run():
    assert "docs/usage.md" in dict(SNIPPETS)


def test_errors_of_a_parser_are_one_line(capsys):
    """Else the test of the commands above would hide what is wrong with them."""
    with pytest.raises(SystemExit):
        cli.Parser(prog="x").parse_args(["--nothing"])
    assert len(capsys.readouterr().err.splitlines()) == 1
