"""The scripts as real commands: on small data, with bad input, killed and resumed."""

import io
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_corpus
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_fixtures import same_weights, share_models

from benchmarks import curves
from benchmarks import search as search_benchmark
from bssan_tf import cli
from bssan_tf.commands import evaluate, search, train, visualize
from bssan_tf.config.settings import MEMORY_MB, RERANK
from bssan_tf.errors import NO_WINDOWS, UserError
from bssan_tf.evaluation import retrieval
from bssan_tf.evaluation.scores import Request
from bssan_tf.matching.matcher import Matcher
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools import files

SEARCH = ["search.py", "a dog", "--run", "runs/one", "--quiet"]
POINTING = ["evaluate.py", "runs/one", "--pointing", "photos"]
IMPORTS = "leave --import-regions and --import-objects out"
IMPORTED = ["train.py", "--data", "photos", "--batch-size", "8"]
IMPORTS_OBJECTS = [*IMPORTED, "--import-objects", "photos/objects.npy"]
PHOTOS = [*IMPORTED, "--backbone", "slim"]
TRAIN = ["train.py", *tiny_corpus.TINY, "--data", "photos", "--backbone", "slim", "--all-pairs", "0"]  # a smaller graph


def run(project, folder, arguments, **kwargs):
    """Run a script of the project with `folder` as the working directory."""
    command = [sys.executable, str(project / arguments[0]), *map(str, arguments[1:])]
    environment = {k: v for k, v in os.environ.items() if k != "BSSAN_DATA"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, **kwargs)


@dataclass
class Done:
    """What a script printed, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def run_here(project, folder, arguments) -> Done:
    """The same by the script's own entry in this process: TensorFlow is loaded once for all of these."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.delenv("BSSAN_DATA", raising=False)
        patch.setattr(sys, "argv", list(map(str, arguments)))
        share_models(patch)
        try:
            runpy.run_path(str(project / arguments[0]), run_name="__main__")
        except SystemExit as stopped:
            code = stopped.code or 0
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture
def call(project, workplace):
    """`run_here` in the workplace."""
    return partial(run_here, project, workplace)


@pytest.fixture(scope="module")
def workplace(project, tmp_path_factory):
    """A folder with photos, their captions, and a run `one` trained on them."""
    folder = tmp_path_factory.mktemp("workplace")
    tiny_corpus.write_corpus(folder / "photos", pictures=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bssan_tf.training.run.export_saved_model", lambda *_: None)  # nothing here asks for it
        patch.setattr("bssan_tf.training.steering.ATTENTION_PAIRS", 1)  # a picture an epoch, not three
        done = run_here(project, folder, [*TRAIN, "--name", "one"])
    assert done.returncode == 0, done.stderr
    assert "rsum" in done.stdout
    return folder


def history(run):
    """history.csv without the columns that measure time."""
    lines = [line.split(",") for line in run.history_file.read_text().split()]
    clock = [i for i, column in enumerate(lines[0]) if column in ("pairs_per_s", "minutes")]
    return [[value for i, value in enumerate(line) if i not in clock] for line in lines]


def test_run_folder_remembers_the_command(workplace):
    command = (workplace / "runs" / "one" / "command.txt").read_text()
    assert command.startswith("python ")
    assert "train.py" in command
    assert "--data photos" in command


def test_train_says_how_far_off_probabilities_are(workplace, monkeypatch, capsys):
    way = {f"R@{k}": 50.0 for k in (1, 5, 10)} | {"MedR": 1.0}
    report = {"n_images": 8, "n_captions": 8, "rsum": 300.0, "i2t": way, "t2i": way, "best_epoch": 1}
    metrics = {"corpus": "pets", "split": "val", **report}
    monkeypatch.chdir(workplace)
    for calibration in ({"error": 1.23}, None):
        monkeypatch.setattr(train, "resume", lambda *_, c=calibration: {**metrics, "calibration": c})
        train.main(["--resume", "one"])
        told = capsys.readouterr().out
        assert ("probabilities of hits (search.py): calibration error 1.2 % over" in told) is bool(calibration)


def test_tensorboard_shows_attention(workplace):
    events = EventAccumulator(str(workplace / "runs" / "one" / "logs" / "attention"), {"tensors": 0}).Reload()
    drawn = events.Tags()["tensors"]
    assert len(drawn) == 1
    _, _, png = events.Tensors(drawn[0])[0].tensor_proto.string_val
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.width > 600


@pytest.fixture(scope="module")
def evaluated(project, workplace):
    """What evaluate.py has printed of the latest run; it has kept report.json and scores.npy."""
    flags = ["--quiet", "--json", "report.json", "--baseline", "cca", "--out", "scores.npy"]
    done = run(project, workplace, ["evaluate.py", *flags])
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def captions(workplace):
    """(name of the picture, caption) of the test split, in the order of the scores."""
    lines = (workplace / "photos" / "captions.csv").read_text().splitlines()
    return [tuple(line.split(",")[:2]) for line in lines if line.endswith(",test")]


def test_evaluate(evaluated, workplace):
    assert "CCA" in evaluated.stdout
    assert "the latest run: runs/one" in evaluated.stderr
    assert "oneDNN" not in evaluated.stderr  # nor anything else that TensorFlow lacks
    assert "absl" not in evaluated.stderr
    report = json.loads((workplace / "report.json").read_text())
    assert (report["run"], report["split"], report["n_images"], report["n_captions"]) == ("one", "test", 8, 16)
    for way in ("i2t", "t2i"):
        assert set(report[way]) == {"R@1", "R@5", "R@10", "MedR", "MeanR", "R-P", "mAP@R", "N10_skewness", "never"}
    total = sum(report[way][f"R@{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10))
    assert report["rsum"] == pytest.approx(total)
    assert "pointing" not in report  # a folder has no ground truth
    rows = ("cca", "cca_weighted", "cca_context", "cca_context_weighted")
    assert {name: row["n_images"] for name, row in report["baselines"].items()} == dict.fromkeys(rows, 8)


def test_scores_are_kept_and_used_again(evaluated, call, workplace):
    arguments = ["evaluate.py", "one", "--quiet", "--out", "scores.npy", "--json", "kept.json"]
    assert np.load(workplace / "scores.npy").shape == (8, 16)
    written = (workplace / "scores.npy").stat().st_mtime_ns
    assert call(arguments).returncode == 0
    first, kept = (json.loads((workplace / name).read_text()) for name in ("report.json", "kept.json"))
    assert {name: value for name, value in first.items() if name != "baselines"} == kept
    assert (workplace / "scores.npy").stat().st_mtime_ns == written
    again = call(["bssan_tf/metrics/__main__.py", "scores.npy", "--json", "again.json"])
    assert again.stdout.startswith("image of each caption: scores.owners.txt\n")
    measured = json.loads((workplace / "again.json").read_text())
    assert [measured[name] for name in ("i2t", "t2i", "intervals")] == [
        kept[name] for name in ("i2t", "t2i", "intervals")
    ]
    other = call([*arguments, "--split", "val"])
    assert other.returncode == 2
    assert "scores.npy: holds other scores" in other.stderr


def test_flags_of_evaluate_are_what_is_asked_for(monkeypatch, workplace):
    asked = []
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(retrieval, "evaluate", lambda run, *rest: asked.append((run.name, *rest)) or ({}, ""))
    evaluate.main(["one"])
    flags = ["--split", "val", "--sample", "5", "--captions-per-image", "1", "--protocol", "1k", "--baseline", "cca"]
    evaluate.main(["one", *flags, "--parts", "--out", "s.npy", "--memory", "7", "--quiet", "--root", "moved"])
    how = {"parts": True, "baseline": "cca", "out": Path("s.npy"), "memory_mb": 7}
    request = Request("val", 1, 5, "1k", **how)
    assert asked == [("one", Request(), {}, True), ("one", request, {"root": "moved"}, False)]


def test_flags_of_search_and_visualize_are_what_is_asked_for(monkeypatch, workplace):
    asked = []
    noted = {name: lambda *how: asked.append(how) or [] for name in ("search", "like")}
    found = SimpleNamespace(**noted, draw=asked.append, scores={})
    found.save_page = lambda *given: asked.append(given)

    class Asked:
        def __init__(self, run, files, memory_mb=MEMORY_MB, progress=False, of_own_data=False):
            self.made = run.name, files, memory_mb, progress, of_own_data

        def __getattr__(self, name):
            def ask(*given, **how):
                asked.append((name, *given, *how.values(), *self.made))
                return found if name.startswith("index") or name.startswith("sent") else [found] * len(given[1])

            return ask

    monkeypatch.chdir(workplace)
    monkeypatch.setattr("bssan_tf.matching.matcher.Matcher", Asked)
    search.main(["a dog", "--run", "one"])
    search.main([*SEARCH[1:], "--images", "photos", "--top", "3", "--rerank", "0", "--memory", "7", "--boxes", "b.npz"])
    search.main(["photos/000.png", "--quiet", "--run", "one", "--split", "val"])
    search.main(["--like", "photos/000.png", "--run", "one", "--images", "photos", "--top", "4"])
    search.main(["--like", "photos/000.png", "--run", "one"])
    visualize.main(["photos/000.png", "a dog", "--run", "one"])
    visualize.main(["photos/000.png", "a dog", "--run", "one", "-o", "o.png", "--boxes", "b.npz", "--cache", "c"])
    visualize.main(["photos/000.png", "a dog", "--run", "one", "-o", "o.html"])
    visualize.main(["photos/000.png", "a dog", "--run", "one", "-o", "o.HTML", "--against", "a cat", "--no-erase"])
    photo, files, rest = Path("photos/000.png"), {"boxes": "b.npz", "cache": "c"}, ("one", {}, MEMORY_MB, False, False)
    assert asked == [
        ("index_of_split", "test", "one", {}, MEMORY_MB, True, True), ("a dog", 10, RERANK),
        ("index", Path("photos"), "one", {"boxes": "b.npz"}, 7, False, True), ("a dog", 3, 0),
        ("sentences_of_split", "val", "one", {}, MEMORY_MB, False, True), ("photos/000.png", 10, RERANK),
        ("index", Path("photos"), "one", {}, MEMORY_MB, True, True), ("photos/000.png", 4),
        ("index_of_split", "test", "one", {}, MEMORY_MB, True, True), ("photos/000.png", 10),
        ("explain_all", photo, ["a dog"], False, *rest), Path("000-attention.png"),
        ("explain_all", photo, ["a dog"], False, "one", files, MEMORY_MB, False, False), Path("o.png"),
        ("explain_all", photo, ["a dog"], True, *rest), (Path("o.html"),),
        ("explain_all", photo, ["a dog", "a cat"], False, *rest), (Path("o.HTML"), found),
    ]  # fmt: skip


def found(done):
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().split("\n")
    scores = [float(line.split()[1]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    return [line.split(maxsplit=2)[2] for line in lines]


def test_search_of_pictures(evaluated, call, workplace, captions):
    done = call(["search.py", captions[5][1], "--rerank", 0])
    ranked = found(done)
    assert len(ranked) == 8  # all of the test split
    assert all((workplace / path).exists() for path in ranked)
    scores = np.sort(np.load(workplace / "scores.npy")[:, 5])[::-1]
    np.testing.assert_allclose([float(line.split()[1]) for line in done.stdout.splitlines()], scores, atol=6e-4)


def test_search_gives_json_and_a_contact_sheet(evaluated, call, workplace, captions):
    listed = found(call(["search.py", captions[5][1], "--run", "one"]))
    done = call(["search.py", captions[5][1], "--run", "one", "--json", "-o", "sheet.png", "--quiet"])
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["query"], told["run"]) == (captions[5][1], "runs/one")
    assert [(one["rank"], one["path"]) for one in told["results"]] == list(enumerate(listed, 1))
    scores = np.sort(np.load(workplace / "scores.npy")[:, 5])[::-1]
    assert [one["score"] for one in told["results"]] == pytest.approx(scores, abs=1e-3)
    with Image.open(workplace / "sheet.png") as sheet:
        assert sheet.width > 1000
    (sentence,) = json.loads(call(["search.py", listed[0], "--json", "--top", 1]).stdout)["results"]
    assert list(sentence) == ["rank", "score", "sentence"]


def test_search_of_pictures_like_one(call, workplace):
    like = json.loads(call(["search.py", "--like", "photos/000.png", "--images", "photos", "--json"]).stdout)
    assert like["like"] == "photos/000.png"
    assert len(like["results"]) == 10
    assert "photos/000.png" not in [one["path"] for one in like["results"]]
    assert all(-1 <= one["score"] <= 1.0001 for one in like["results"])


def test_search_of_a_folder_and_of_sentences(call, workplace, caplog):
    (workplace / "mine").mkdir()
    for i in range(3):
        shutil.copy(workplace / "photos" / f"00{i}.png", workplace / "mine")
    (workplace / "mine" / "broken.png").write_text("no picture")
    (workplace / "mine" / "deeper").mkdir()
    (workplace / "mine" / "002.png").rename(workplace / "mine" / "deeper" / "002.png")
    done = call(["search.py", "a red dog", "--images", "mine", "--quiet"])
    assert set(found(done)) == {"mine/000.png", "mine/001.png", "mine/deeper/002.png"}
    assert "broken.png" in caplog.text
    sentences = found(call(["search.py", "mine/000.png", "--top", 4]))
    assert len(sentences) == 4
    assert all(" " in sentence for sentence in sentences)


def test_benchmark_of_search(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    share_models(monkeypatch)
    flags = ["--split", "test", "--captions-per-image", "2", "--rerank", "3", "7", "50", "--queries", "2"]
    search_benchmark.main(["one", *flags, "--json", "search.json"])
    numbers = json.loads((workplace / "search.json").read_text())
    for way, candidates, queries, reranked in (
        ("text_to_image", 8, 16, [8, 7, 3, 7, 3]),  # chosen by O2W, and by the index
        ("image_to_text", 16, 8, [16, 7, 3]),
    ):
        assert (numbers[way]["candidates"], numbers[way]["queries"]) == (candidates, queries)
        full, *others = numbers[way]["rows"]
        assert [row["reranked"] for row in numbers[way]["rows"]] == reranked
        assert (full["R@10_lost"], full["speed_up"]) == (0, 1)
        assert all(row["R@10_lost"] == full["R@10"] - row["R@10"] and row["seconds"] > 0 for row in others)
    assert "text to image, 8 candidates" in capsys.readouterr().out

    beside = ["--beside", "val", "--sentences", "5", "--rerank", "3", "--queries", "2", "--json", "search.json"]
    search_benchmark.main(["one", "--split", "test", *beside])
    found = json.loads((workplace / "search.json").read_text())
    rows = [(row["by_index"], row["reranked"]) for row in found["text_to_image"]["rows"]]
    assert (found["text_to_image"]["queries"], "image_to_text" in found) == (5, False)
    assert rows == [(0, found["text_to_image"]["candidates"]), (0, 3), (3, 3)]


def test_visualize_any_photo(call, workplace):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 90), dtype=np.uint8)).save(workplace / "grey.png")
    done = call(["visualize.py", "grey.png", "A red dog, and a zyx!", "-o", "out.png"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("score ")
    with Image.open(workplace / "out.png") as picture:
        assert picture.width > 600
        assert np.asarray(picture.convert("RGB")).std() > 20


def test_visualize_makes_a_page(call, workplace):
    command = ["visualize.py", "photos/000.png", "A red dog!", "-o", "page.html", "--against", "a <b>zyx</b>"]
    done = call([*command, "--no-erase"])
    assert done.returncode == 0, done.stderr
    scores, others, path = done.stdout.splitlines()
    assert scores.startswith("score ")
    assert others.startswith("score ")
    page = (workplace / path).read_text()
    assert "<title>a red dog | a bzyxb</title>" in page
    assert '"erased"' not in page
    assert call(command).returncode == 0  # over its own page
    assert '"erased"' in (workplace / path).read_text()


def test_visualize_and_evaluate_say_the_same_scores(evaluated, workplace, monkeypatch, captions):
    monkeypatch.chdir(workplace)
    share_models(monkeypatch)
    name, caption = captions[2]  # of the second picture of the test split
    scores = Matcher.load("runs/one").explain(Path("photos") / name, caption).scores
    assert set(scores) == {"score", "w2r", "o2w"}
    assert scores["score"] == pytest.approx(np.load("scores.npy")[1, 2], rel=1e-5)


def test_curves_of_runs(workplace, capsys):
    arguments = [str(workplace / "runs" / "one"), "-x", "epoch", "-o", str(workplace / "curves.png")]
    curves.main(arguments)
    with Image.open(capsys.readouterr().out.strip()) as picture:
        assert picture.width > 600
    with pytest.raises(UserError, match=r"history\.csv: has no column 'joy'"):
        curves.main([*arguments, "-y", "joy"])


@pytest.mark.usefixtures("no_export")
@pytest.mark.large
def test_killed_training_resumes_to_the_same_numbers(project, call, workplace):
    command = [sys.executable, str(project / "train.py"), *TRAIN[1:], "--name", "killed"]
    started = workplace / "runs" / "killed" / "state" / "epoch-1.npz"
    child = subprocess.Popen(command, cwd=workplace, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not started.exists():  # the first epoch is saved
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    whole, cut = (RunFolder(workplace / "runs" / name) for name in ("one", "killed"))
    assert not cut.metrics_file.exists()
    done = call(["train.py", "--resume", "runs/killed", "--quiet"])
    assert done.returncode == 0, done.stderr
    assert history(whole) == history(cut)
    metrics = [json.loads(run.metrics_file.read_text()) for run in (whole, cut)]
    assert {**metrics[0], "run": ""} == {**metrics[1], "run": ""}
    same_weights(whole, cut)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--data", "flickr30k"], "flickr30k"),
        (["train.py", "--data", "nowhere"], "nowhere: no such folder, and not one of the data sets scenes"),
        (["train.py", "--dropout", "2"], "--dropout 2.0: must be 0 or more and below 1"),
        (["train.py", "--devices", "tpu"], "--devices tpu: must be auto"),
        (["train.py", "--data", "photos", "--name", "one"], "runs/one: holds a run already"),
        ([*PHOTOS, "--objects", "boxes"], "--objects boxes: no boxes"),
        ([*PHOTOS, "--boxes", "no.npz"], "--boxes no.npz: no such file"),
        ([*PHOTOS, "--glove", "no.txt"], "no.txt"),
        ([*PHOTOS, "--batch-size", "99"], "--batch-size 99"),
        ([*IMPORTED, "--import-regions", "no.npy"], "no.npy"),
        ([*IMPORTED, "--import-regions", "photos/regions.npy"], "--import-objects FILE.npy"),
        ([*PHOTOS, "--backbone-weights", "no.h5"], "no.h5"),
        (["train.py", "--resume", "runs/none"], "runs/none: no such run"),
        (["train.py", "--resume", "runs/one", "--seed", "3"], "leave out --seed"),
        (["train.py", "--resume", "runs/one", "--variant", "w2r"], "leave out --variant"),
        (["train.py", "--resume", "runs/one", "--name", "two"], "leave out --name"),
        (["train.py", "--resume", "runs/one", "--shard", "1/2"], "--shard 1/2: is for the data set's flags"),
        (["train.py", "--name", "../one"], "without slashes"),
        (["train.py", "--size", "huge"], "--size: invalid choice"),
        (["evaluate.py", "runs/one", "--import-regions", "photos/regions.npy", "--quiet"], IMPORTS),
        (["evaluate.py", "runs/none"], "runs/none: no such run"),
        (["evaluate.py", "runs/one", "--split", "dress"], "--split: invalid choice: 'dress'"),
        (["evaluate.py", "runs/one", "--sample", "0"], "--sample: 0: must be a whole number, 1 or more"),
        (["evaluate.py", "runs/one", "--json", "gone/report.json"], "there is no folder gone"),
        (["evaluate.py", "runs/one", "--protocol", "1k", "--quiet"], "--protocol 1k: needs 1,000 images"),
        (["evaluate.py", "runs/one", "--memory", "1", "--quiet"], "--memory 1: too little for this model"),
        ([*POINTING, "--sample", "3"], "--sample 3: has no effect with --pointing; leave it out"),
        ([*POINTING, "--baseline", "cca"], "--baseline cca: has no effect with --pointing; leave it out"),
        ([*POINTING, "--parts"], "--parts: has no effect with --pointing; leave it out"),
        (POINTING, "--pointing photos: no captions and instances of the same photos; expected are"),
        ([*POINTING[:-1], "gone"], "--pointing gone: no such folder"),
        ([*SEARCH, "--json", "r.json"], "unrecognized arguments: r.json"),
        ([*SEARCH, "--images", "photos", "--split", "val"], "--split val: --images is searched instead of a split"),
        ([*SEARCH, "--top", "0"], "--top: 0: must be a whole number, 1 or more"),
        ([*SEARCH, "--rerank", "-3"], "--rerank: -3: must be a whole number, 0 or more"),
        ([*SEARCH, "--memory", "1"], "--memory 1: too little for this model"),
        (["search.py", "a dog", "--run", "runs/none"], "runs/none: no such run"),
        (["search.py", "!?"], "has no word"),
        (["search.py", "gone.jpg"], "gone.jpg: no such file"),
        (
            ["search.py", "photos/"],
            "photos/: is a folder; to search its pictures give a sentence, and --images photos/",
        ),
        (["search.py", "photos/captions.csv"], "photos/captions.csv: is no picture file (.jpg"),
        (
            ["search.py", "photos/000.png", "--images", "photos"],
            "--images photos: is searched by a sentence; for pictures like it give --like photos/000.png",
        ),
        ([*SEARCH, "--min-probability", "2"], "argument --min-probability: 2: must be a number from 0 to 1"),
        ([*SEARCH, "--min-probability"], "--min-probability 0: the run has no calibration; it comes with"),
        (["search.py", "photos/000.png", "--min-probability"], "--min-probability: is of pictures for a sentence"),
        (
            ["search.py", "--like", "photos/000.png", "--min-probability", "0.1"],
            "--min-probability: is of pictures for",
        ),
        (["search.py", "--run", "one"], "search: nothing to search for; give a sentence in quotes"),
        ([*SEARCH, "--like", "photos/000.png"], "--like photos/000.png: is a query itself; leave it or 'a dog' out"),
        (["search.py", "--like", ""], "--like: its value is empty"),
        (["search.py", "--like", "a dog"], "a dog: no such file; give a picture file"),
        (["search.py", "--like", "photos"], "photos: is a folder; give a picture file"),
        (["search.py", "--like", "photos/captions.csv"], "photos/captions.csv: can't be read as a picture"),
        (["search.py", "--like", "photos/000.png", "--images", "runs"], "runs: no pictures in it"),
        ([*SEARCH, "-o", "photos/000.png"], "photos/000.png: is a file of yours, not a drawing of this command"),
        ([*SEARCH, "-o", "sheet.jpg"], "sheet.jpg: must end with .png"),
        (["search.py", "photos/000.png", "-o", "sheet.png"], "-o sheet.png: shows pictures, but for photos/000.png"),
        ([*SEARCH, "--images", "spoilt"], "1 of 1 pictures can't be read: spoilt/a.jpg: can't be read as a picture"),
        ([*SEARCH, "--images", "gone"], "gone: no such folder"),
        ([*SEARCH, "--images", "runs"], "runs: no pictures in it"),
        (["visualize.py", "photos/000.png", "a dog", "-o", "picture.txt"], "must end with .png or .html"),
        (["visualize.py", "photos/000.png", "a dog", "-o", "mine.html"], "mine.html: is a file of yours"),
        (
            ["visualize.py", "photos/000.png", "a dog", "--against", "a cat"],
            "--against: is of a page; name one with -o",
        ),
        (["visualize.py", "photos/000.png", "a dog", "-o", "a.png", "--no-erase"], "--no-erase: is of a page"),
        (["visualize.py", "photos/000.png", "a dog", "-o", "a.html", "--against", "?!"], "caption 2 '?!': has no word"),
        (["visualize.py", "photos/000.png", "a dog", "-o", "photos/000.png"], "photos/000.png: is a file of yours"),
        (["evaluate.py", "runs/one", "--json", "runs/one/config.json"], "config.json: is a file of yours"),
        (["evaluate.py", "runs/one", "--json", "photos/captions.csv"], "captions.csv: not valid JSON"),
        (["evaluate.py", "one", "--erase", "3", "--baseline", "cca"], "--baseline cca: has no effect with --erase"),
        (["evaluate.py", "one", "--erase", "3", "--pointing", "boxes"], "--pointing boxes: has no effect with --erase"),
        (["visualize.py", "no.jpg", "a dog"], "no.jpg"),
        (["visualize.py", "photos/captions.csv", "a dog"], "photos/captions.csv"),
        (["visualize.py", "photos/000.png", "?!"], "has no word"),
        (["visualize.py", "photos/000.png", "a dog", "--boxes", "empty.npz"], "does not list 000.png"),
    ],
)
def test_bad_input_is_told_in_one_line(call, workplace, arguments, message):
    if "empty.npz" in arguments:
        np.savez(workplace / "empty.npz", names=np.array(["x"]), boxes=np.zeros((1, 1, 6), np.float32))
    (workplace / "mine.html").write_text("<title>mine</title>")
    if "spoilt" in arguments:
        (workplace / "spoilt").mkdir()
        (workplace / "spoilt" / "a.jpg").write_text("no picture")
    before = sorted(path.name for path in (workplace / "runs").iterdir())
    done = call(arguments)
    assert (workplace / "mine.html").read_text() == "<title>mine</title>"
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.strip().split("\n") if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert message in errors[0]
    assert not done.stdout
    assert sorted(path.name for path in (workplace / "runs").iterdir()) == before  # no half-made run


def test_no_run_at_all(project, tmp_path):
    done = run(project, tmp_path, ["evaluate.py"])
    assert done.returncode == 2
    assert done.stderr.startswith("error: runs/: no trained run there")
    assert done.stderr.count("\n") == 1


def test_windows_is_refused_with_one_line(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("bssan_tf.tools.files.fcntl", None)
        with pytest.raises(UserError, match=r"^Windows: "), files.locked(tmp_path / "lock"):
            pass
    with monkeypatch.context() as patch:
        patch.setattr("bssan_tf.cli.os", SimpleNamespace(name="nt", environ=os.environ))
        with pytest.raises(SystemExit) as stopped:
            cli.run(lambda _: pytest.fail("was called"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {NO_WINDOWS}\n"


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("--flag 1: is wrong"), 2, "error: --flag 1: is wrong\n"),
        (
            OSError(28, "No space left on device", "a.npy"),
            2,
            "error: a.npy: No space left on device; what was finished is kept: make room and go on "
            "(a training by --resume)\n",
        ),
        (OSError(13, "Permission denied", "a.npy"), 2, "error: a.npy: Permission denied\n"),
        (KeyboardInterrupt(), 130, "stopped; what was finished is kept\n"),
    ],
)
def test_what_ends_a_command_is_one_line_and_a_code(capsys, error, code, told):
    def main(arguments):
        raise error

    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    assert (stopped.value.code, capsys.readouterr().err) == (code, told)


def claims_ten_terabytes(path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2500000000, 1000, 1), }".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())


def nested_boxes(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("names.npy", b"\x00" * 50_000_000)
        archive.writestr("boxes.npy", b"\x93NUMPY")


def corpus_of(line, name="captions.jsonl"):
    def make(path):
        path.mkdir()
        (path / name).write_bytes(line)

    return make


@pytest.mark.parametrize(
    ("flag", "make", "message"),
    [
        ("--import-regions", claims_ten_terabytes, "--import-regions hostile"),
        ("--import-regions", lambda path: np.save(path.open("wb"), np.array([{}])), "--import-regions hostile"),
        ("--boxes", nested_boxes, "--boxes hostile"),
        ("--boxes", lambda path: path.write_bytes(b"PK\x03\x04 cut"), "--boxes hostile"),
        ("--glove", os.mkfifo, "--glove hostile: no such file"),
        ("--backbone-weights", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"), "--backbone-weights hostile"),
        ("--data", corpus_of(b"[" * 100_000), "captions.jsonl"),
        ("--data", corpus_of(b'{"image": "a.jpg", "caption": "\\ud800"}'), "captions.jsonl"),
        ("--data", corpus_of(b'image,caption\na.jpg,"a dog', "captions.csv"), "captions.csv"),
        ("--data", corpus_of(b"image,caption\na\xff.jpg,a dog\n", "captions.csv"), "captions.csv"),
    ],
)
def test_a_hostile_file_is_told_in_one_line(call, workplace, flag, make, message):
    hostile = workplace / "hostile"
    make(hostile)
    try:
        done = call([*(IMPORTS_OBJECTS if flag.startswith("--import") else PHOTOS), flag, "hostile"])
    finally:
        shutil.rmtree(hostile) if hostile.is_dir() else hostile.unlink()
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.strip().split("\n") if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in done.stderr
