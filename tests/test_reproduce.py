"""reproduce.py: its page, with stubs in place of the trainings."""

import csv
import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from reproduction_fixtures import plan_of, report

from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import Request
from bssan_tf.reproduction import measured, page, trainings
from bssan_tf.reproduction.progress import told_once
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.files import locked


class Stub:
    """What `Materials` is to the rest: no data, no checks of them."""

    def __init__(self, plan, request, photos=(), progress=True):
        self.plan, self.request, self.chosen, self.why_no_cca = plan, request, np.arange(4), None
        for training in plan.distinct():
            if training.run.config_file.exists():
                training.run.require_settings(training.config, "give another --name")

    def data_of(self, training):
        return SimpleNamespace(fingerprint={"captions": Stub.data})

    def open(self, training, **changes):
        return SimpleNamespace(run=training.run, request=dataclasses.replace(self.request, **changes))


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Everything but trainings and their evaluation, which are stubs; `made.trained` and `.evaluated` list them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Stub, "data", "first", raising=False)

    def train_one(training, log, *rest):
        made.trained.append(training.name)
        run = training.run
        run.path.mkdir(parents=True, exist_ok=True)
        run.config_file.write_text(training.config.to_json())
        run.command_file.write_text(f"python -m bssan_tf train --name {run.name}\n")
        told = {"corpus": "scenes", "split": "val", "n_images": 100, "n_captions": 100}
        run.metrics_file.write_text(json.dumps({**told, "rsum": 100.0 + 10 * training.config.model.o2w_weight}))
        run.best.write_text(training.name)
        run.export.mkdir(parents=True)

    def evaluate(opened):
        made.evaluated.append((opened.run.name, opened.request.out))
        value = {**report(seed=len(made.evaluated)), "run": opened.run.name, "corpus": "scenes", "split": "test"}
        vectors = f"word vectors of {opened.run.name.split('-')[1]}"
        return {**value, "differs": ["regions of slim", vectors]}, ""

    def baselines(materials, training):
        made.evaluated.append(("cca", None))
        return {"cca": report(1.5)}

    def draw(materials, what, values, caption):
        if made.unreadable:
            raise UserError("a.jpg: is no picture")
        return [what]

    monkeypatch.setattr(trainings, "train", train_one)
    monkeypatch.setattr(measured, "evaluate_open", evaluate)
    monkeypatch.setattr(measured, "_baselines", baselines)
    monkeypatch.setattr(page, "draw", draw)
    monkeypatch.setattr(page, "Materials", Stub)

    def made(*what, request=None, **options):
        plan = plan_of(*what, **options)
        path = page.reproduce(plan, request or Request(), command="python reproduce.py", progress=False)
        return plan, path.read_text()

    made.trained, made.evaluated, made.unreadable = [], [], False
    return made


def test_the_page_has_every_table_and_each_row_its_commands(made):
    plan, text = made("table2", "figure5", "figure9", "text", presets=("improved", "paper"))
    assert made.trained == [training.name for training in plan.distinct()]
    assert sorted(name for name, _ in made.evaluated) == sorted([*made.trained, "cca"])
    for expected in ("BSSAN_no_reg (`paper`)", "| CCA |", "printed in the paper, Table II", "DAN (vgg)", "λ = 0.4",
                     "BSSAN_w2r, CNN", "other pictures, not comparable", "Our setting: regions of slim.",
                     "Our setting (`paper`): word vectors of paper.",
                     "![Figure 5: the five best sentences of four pictures](figure5.png)",
                     "# runs/mine-improved-no_reg-0: δ = 0"):  # fmt: skip
        assert expected in text
    for name in made.trained:
        assert f"python -m bssan_tf train --name {name}" in text
        assert f"python evaluate.py runs/{name}" in text
    files = {path.name for path in plan.folder.iterdir()}
    assert {"table2.md", "table2.tex", "figure9.md", "text.tex", "numbers.csv", "index.md"} <= files
    rows = list(csv.DictReader((plan.folder / "numbers.csv").open()))
    assert {row["what"] for row in rows} == {"table2", "figure9", "text"}
    assert {row["run"] for row in rows if row["row"] == "δ = 0"} == {"runs/mine-improved-no_reg-0"}


def test_a_later_call_adds_to_the_page(made):
    made("table2")
    evaluated = [*made.evaluated]
    plan, text = made("figure5")
    assert made.evaluated == evaluated  # pictures need no figures
    assert "## Table II" in text
    assert text.index("## Table II") < text.index("## Figure 5")
    assert len((plan.folder / "numbers.csv").read_text().splitlines()) > 50


def test_finished_runs_and_reports_are_used_again(made, monkeypatch):
    made("table2")
    first = [*made.trained], [*made.evaluated]
    made("table2")
    assert (made.trained, made.evaluated) == first
    made("table2", "table3", seeds=(0, 1))  # the second seed alone is new
    assert [name for name in made.trained if name.endswith("-0")] == first[0]
    RunFolder(Path("runs/mine-improved-o2w-0")).best.write_text("others")
    made("table2")
    assert made.evaluated[-1][0] == "mine-improved-o2w-0"
    count = len(made.evaluated)
    monkeypatch.setattr(Stub, "data", "second")
    made("table2")  # other data, all anew
    assert len(made.evaluated) == count + len(first[1])
    made("table2", request=Request(captions_per_image=1))  # another request, too
    assert len(made.evaluated) == count + 2 * len(first[1])


def test_scores_of_a_killed_measurement_are_used_for_the_same_request_only(made):
    plan, _ = made("text")
    path = plan.folder / "measured" / "mine-improved-bssan-0.json"
    path.unlink()
    made("text")
    name, out = made.evaluated[-1]
    path.unlink()
    out.write_text("scores of a killed call")
    stale = out.with_name("mine-improved-bssan-0-0123.npy.part")
    stale.write_text("of another request")
    made("text")
    assert made.evaluated[-1] == (name, out)
    assert not stale.exists()
    assert not list(path.parent.glob("*.npy*"))


def test_a_run_of_other_flags_is_refused_before_anything_is_trained(made):
    made("figure5")
    trained = [*made.trained]
    with pytest.raises(UserError, match=r"mine-improved-bssan-0: is a run of other flags, --epochs was 5, is 6; give"):
        made("table2", epochs=6)
    assert made.trained == trained


@pytest.mark.parametrize(
    ("first", "second", "flag"),
    [
        ({"data": "coco", "split": "karpathy"}, {"data": "coco", "split": "official"}, "--split"),
        ({"data": "coco", "glove": "a.txt"}, {"data": "coco", "glove": "b.txt"}, "--glove"),
        ({"data": "coco", "glove": "a.txt"}, {"data": "coco"}, "--glove"),
        ({"data": "coco", "boxes": "a.npz"}, {"data": "coco"}, "--objects"),
        ({"data": "photos"}, {"data": "other"}, "--data"),
    ],
)
def test_runs_of_other_data_are_told(made, first, second, flag):
    made("figure5", **first)
    with pytest.raises(UserError, match=rf"is a run of other flags, {flag} was "):
        made("figure5", **second)


def test_data_that_moved_are_the_same_settings(made):
    made("figure5", data="photos", glove="old/a.txt", cache="one")
    made("figure5", data="./photos", glove="new/a.txt", cache="two")
    assert len(made.trained) == 1


def test_a_search_marks_the_best_of_the_grid(made):
    _, text = made("figure9", search=True)
    assert "its validation pictures (scenes, val: 100 images, 100 captions); chance is 32.0." in text
    assert "Chosen, as the highest: λ = 1, δ = 0. Its rsum on scenes, test: 12 images, 24 captions is " in text
    assert "The δ of BSSAN in the other tables, 1e-06, is no point of this grid." in text
    assert "The λ of BSSAN" not in text
    assert "# runs/mine-improved-lambda0.4-delta0.1-0: λ = 0.4, δ = 0.1" in text
    assert "| 1 | **110.0** | 110.0 |" in text
    assert "| 0.4 | 104.0 | 104.0 |" in text
    assert "search,λ = 0.4 δ = 0.1,runs/mine-improved-lambda0.4-delta0.1-0,validation,rsum,104.0" in (
        Path("reproduction/mine/numbers.csv").read_text()
    )


def test_a_figure_that_cannot_be_drawn_says_why_and_the_tables_are_there(made):
    made.unreadable = True
    _, text = made("table2", "figure5")
    assert "Not drawn: a.jpg: is no picture" in text
    assert "| CCA |" in text


def test_two_calls_do_not_make_the_same(made):
    made("figure5")
    folder = Path("reproduction/mine")
    with locked(folder / "lock"), pytest.raises(UserError, match=r"reproduction/mine: is being made by another call"):
        made("figure5")


def test_a_training_that_fails_names_its_log(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (training,) = plan_of("figure5", data="gone").distinct()
    (tmp_path / "logs").mkdir()
    run, says = subprocess.run, "import sys; print('at work'); sys.exit('error: --data gone: no such folder\\n')"
    stub = [sys.executable, "-c", says]  # that the command itself ends so is in test_cli.py
    monkeypatch.setattr(trainings.subprocess, "run", lambda _, **options: run(stub, **options))
    told = r"runs/mine-improved-bssan-0: its training failed, see .*one.txt \(error: --data gone: no such folder"
    with pytest.raises(UserError, match=told):
        trainings.train(training, tmp_path / "logs" / "one.txt", ["--quiet"])


def test_a_training_is_told_what_it_is_for(monkeypatch, tmp_path):
    """By its environment, so that its folder says so from the beginning."""
    monkeypatch.chdir(tmp_path)
    given, (training,) = {}, plan_of("figure5").distinct()
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(trainings.subprocess, "run", lambda command, **options: given.update(options) or done)
    logs = Path("reproduction/mine/logs")
    logs.mkdir(parents=True)
    trainings.train(training, logs / "one.txt", [])
    assert given["env"]["BSSAN_TF_REPRODUCTION"] == "reproduction/mine"


def test_the_chosen_point_of_a_search_is_measured(made, monkeypatch):
    """Also where it is no point of Figure 9."""
    best = {(0.4, 0.1): [300.0]}
    monkeypatch.setattr("bssan_tf.reproduction.search.grid_of", lambda plan: best)
    monkeypatch.setattr("bssan_tf.reproduction.notes.grid_of", lambda plan: best)
    monkeypatch.setattr(page, "grid_of", lambda plan: {point: [1.0] for point in page.runs_of(plan)})
    plan, text = made("figure9", search=True)
    assert "mine-improved-lambda0.4-delta0.1-0" in [name for name, _ in made.evaluated]
    assert len(made.evaluated) == len(plan.measured()) + 1
    assert "Chosen, as the highest: λ = 0.4, δ = 0.1. Its rsum on scenes, test" in text
    told = [line for line in section(text, "Grid search").splitlines() if line.startswith("python evaluate.py")]
    assert told == ["python evaluate.py runs/mine-improved-lambda0.4-delta0.1-0"]


def section(text, heading):
    """The part of a page below a heading."""
    return text.split(f"## {heading}")[1].split("\n## ")[0]


def test_a_section_lists_the_runs_of_its_own_presets(made):
    _, text = made("table2", "figure5", "text", presets=("improved", "paper"))
    assert "mine-paper-bssan-0" in section(text, "Table II")
    for heading in ("Figure 5", "Claims"):
        assert "mine-improved-bssan-0" in section(text, heading)
        assert "-paper-" not in section(text, heading)


def test_each_part_says_what_it_was_made_of(made):
    _, text = made("table2", "figure5", "figure9", "text", presets=("improved", "paper"))
    improved, paper = (f"preset `{name}`, size `tiny`, at most 5 epochs" for name in ("improved", "paper"))
    ours = "Ours: scenes, test: 12 images, 24 captions. Chance is an rsum of 244.8."
    for heading, trained, measured_on in (
        ("Table II", f"Trained: {improved}; {paper}.", ours),
        ("Figure 5", f"Trained: {improved}.", "- BSSAN: rsum "),
        ("Figure 9", f"Trained: {improved}.", ours),
        ("Claims", f"Trained: {improved}.", ours),
    ):
        assert f"- {trained}\n" in section(text, heading), heading
        assert measured_on in section(text, heading), heading
    assert "✓, green: of this picture." in section(text, "Figure 5")
    assert "thin line" in section(text, "Figure 9")


def test_figures_of_a_collapsed_run_say_so(made, monkeypatch):
    monkeypatch.setattr("bssan_tf.reproduction.notes.collapse_of", lambda training, report: 40)
    _, text = made("figure5", presets=("paper",))
    assert "- BSSAN: collapse at step 40: rsum 106.0, chance 32.0 (scenes, val: 100 images, 100 captions)." in text


def test_table_1_has_the_networks_of_every_trained_preset(made):
    plan, _ = made("table2", presets=("improved", "paper"))
    printed, *trained = page._networks(plan)
    assert printed == "`paper` at the printed size, as built"
    assert trained == ["`improved`, `tiny`, as trained here", "`paper`, `tiny`, as trained here"]
    assert list(page._networks(plan_of("table1"))) == [printed]


def test_a_message_is_said_once_in_a_reproduction(caplog):
    caplog.set_level("INFO")
    with told_once():
        for share in (0.0, 0.0, 1.5):
            logging.getLogger("bssan_tf").info("%.1f %% of the tokens are unknown words", share)
    assert caplog.messages == [f"{share} % of the tokens are unknown words" for share in (0.0, 1.5)]
    logging.getLogger("bssan_tf").info("%.1f %% of the tokens are unknown words", 0.0)
    assert len(caplog.messages) == 3
