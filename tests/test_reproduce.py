"""reproduce.py: which trainings a plan has, and its page, with stubs in place of the trainings."""

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from reproduction_fixtures import plan_of, report

from bssan_tf.commands import reproduce, train
from bssan_tf.errors import UserError
from bssan_tf.evaluation.scores import Request
from bssan_tf.reproduction import measured, page, trainings
from bssan_tf.reproduction.plan import DELTAS, LAMBDAS
from bssan_tf.runs.folder import RunFolder
from bssan_tf.tools.files import locked


def test_a_training_that_two_rows_share_is_there_once():
    plan = plan_of("table2", "table3", "figure9")
    names = [training.name for training in plan.distinct()]
    # λ = 1 is the preset's own, and δ = 0 has no L2 term, as BSSAN_no_reg
    assert len(names) == len(set(names)) == 4 + (len(LAMBDAS) - 1) + (len(DELTAS) - 1)
    (own,) = plan.runs("lambda1")
    assert own.name == "mine-improved-bssan-0"
    assert plan.runs("delta0")[0].name == "mine-improved-no_reg-0"
    assert plan.runs("lambda0.4")[0].config.model.o2w_weight == 0.4
    assert plan.runs("delta0.01")[0].config.training.l2 == 0.01
    assert own.flags == ("--preset", "improved", "--epochs", "5", "--seed", "0")


def test_the_grid_point_of_the_paper_is_the_papers_own_training():
    """λ = 0.6 and δ = 0.01 (section V-B)."""
    plan = plan_of("figure9", presets=("paper",))
    assert plan.runs("lambda0.6") == plan.runs("delta0.01")
    assert plan.runs("lambda0.6")[0].name == "mine-paper-bssan-0"


def test_figures_are_of_the_first_preset_and_tables_of_all():
    plan = plan_of("table2", "figure9", "text", presets=("improved", "paper"), seeds=(0, 1))
    papers = {training.name for training in plan.distinct() if "-paper-" in training.name}
    assert papers == {f"mine-paper-{row}-{seed}" for row in ("w2r", "o2w", "no_reg", "bssan") for seed in (0, 1)}
    assert plan.runs("fc")[1].config.training.seed == 1
    assert plan.runs("w2r_cnn")[0].config.model.w2r_text == "cnn"


def test_runs_with_pairs_under_eq8_look_for_its_collapse():
    plan = plan_of("table2", presets=("improved", "paper"))
    assert all(("--early-signs" in one.flags) == ("-paper-" in one.name) for one in plan.distinct())
    assert plan.runs("bssan", "paper")[0].config.training.early_signs == 300


def test_a_search_is_every_pair_of_both():
    plan = plan_of("figure9", search=True)
    points = len(LAMBDAS) + len(DELTAS) - 1  # δ = 0 with λ = 1 is a point of both, and so is λ = 1 with another δ
    assert {plan.runs(f"lambda0.4-delta{delta:g}")[0].config.training.l2 for delta in DELTAS} == set(DELTAS)
    assert plan.runs("lambda1-delta0.1") == plan.runs("delta0.1")
    assert len(plan.measured()) == points + 1  # and BSSAN itself, at λ = 1
    assert len(plan.distinct()) == len(LAMBDAS) * len(DELTAS) + len(LAMBDAS)  # the preset's δ is none of the grid's


def test_the_settings_of_train_are_those_of_all_trainings():
    asked = ["--data", "flickr8k", "--size", "small", "--lambda", "0.3", "--no-bilinear", "--allow-partial"]
    options = reproduce.build_parser().parse_args(["table2", *asked])
    _, again = reproduce.settings_maker(options.size)("improved", reproduce.given_settings(options))
    assert again == train.config_of(train.build_parser().parse_args(asked), tell=False)
    scenes = reproduce.build_parser().parse_args(["table2"])
    assert reproduce.given_settings(scenes) == {"epochs": reproduce.EPOCHS}


def test_a_command_makes_the_config_of_its_training():
    plan = plan_of("table2", "text", "figure9", presets=("improved", "paper"), size="small", all_pairs=0.0)
    for training in plan.distinct():
        assert training.config == train.config_of(train.build_parser().parse_args(training.flags), tell=False)
        assert training.config.size == "small"


def test_settings_that_a_row_leaves_without_effect_are_left_out_in_it():
    plan = plan_of("table2", "text", "figure9", o2w_weight=0.3, o2w_rate=0.5, l2=0.1)
    flags = {row: plan.runs(row)[0].flags for row in ("bssan", "w2r", "fc", "no_reg", "lambda0.4", "delta0.01")}
    assert {"--lambda", "0.3", "--o2w-rate", "0.5", "--l2", "0.1"} <= set(flags["bssan"])
    assert "--o2w-rate" not in flags["w2r"]
    assert "--lambda" not in flags["fc"]
    assert "--l2" not in flags["no_reg"]
    assert flags["lambda0.4"].count("--lambda") == 1
    assert plan.runs("lambda0.4")[0].config.training.l2 == 0.1
    assert plan.runs("delta0.01")[0].config.model.o2w_weight == 0.3
    with pytest.raises(UserError, match=r"--momentum 0.5: has no effect with --optimizer adam"):
        plan_of("table2", momentum=0.5)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["table4"], "table4: must be one of table1"),
        (["table2", "--seed", "3"], "unrecognized arguments: --seed"),
        (["table2", "--variant", "w2r"], "unrecognized arguments: --variant"),
        (["table2", "--name", "a/b"], "without slashes"),
        (["table2", "--epochs", "0"], "--epochs 0: must be above 0"),
        (["table2", "--sample", "0"], "--sample: 0: must be a whole number"),
        (["table2", "--search"], "--search: is of figure9; name that, too"),
        (["table2", "--photos", "a.jpg"], "--photos a.jpg: is of figure5, figure6"),
        (["table2", "--name", "n" * 190], "a run's name may have 200 bytes at most; give another --name"),
        (["text", "--lambda", "0", "--fuse", "fc"], "unrecognized arguments: --fuse"),
    ],
)
def test_bad_flags_are_told_before_anything_is_trained(arguments, problem, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainings, "train", lambda *_: pytest.fail("too late"))
    with pytest.raises((UserError, SystemExit)) as refused:
        reproduce.main(arguments)
    assert problem in str(refused.value) + capsys.readouterr().err
    assert not any(tmp_path.iterdir())


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
        run.metrics_file.write_text(json.dumps({"rsum": 100.0 + 10 * training.config.model.o2w_weight}))
        run.best.write_text(training.name)
        run.export.mkdir(parents=True)

    def evaluate(opened):
        made.evaluated.append((opened.run.name, opened.request.out))
        value = {**report(seed=len(made.evaluated)), "run": opened.run.name, "corpus": "scenes", "split": "test"}
        return {**value, "differs": ["only a part of the data set"]}, ""

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
                     "BSSAN_w2r, CNN", "other pictures, not comparable", "only a part of the data set",
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
    assert "each run at its best epoch: λ = 1, δ = 0." in text
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
    told = r"runs/mine-improved-bssan-0: its training failed, see .*one.txt \(error: --data gone: no folder"
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
