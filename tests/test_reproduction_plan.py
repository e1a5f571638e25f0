"""reproduce.py: which trainings a plan has, by which flags, and which flags are refused."""

import pytest
from reproduction_fixtures import plan_of

from bssan_tf.commands import reproduce, train
from bssan_tf.errors import UserError
from bssan_tf.reproduction import trainings
from bssan_tf.reproduction.plan import DELTAS, LAMBDAS


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
    assert reproduce.given_settings(scenes) == {"epochs": 6}
    assert reproduce.given_settings(reproduce.build_parser().parse_args(["table2", "--epochs", "1"])) == {"epochs": 1}


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


def test_the_help_tells_the_epochs_that_a_reproduction_has():
    told = {action.dest: action.help for action in reproduce.build_parser()._actions}
    assert told["epochs"].endswith("(default: 2; on scenes: 6; --preset paper: 100)")
    assert {action.dest: action.help for action in train.build_parser()._actions}["epochs"].endswith(
        "(default: 2; on scenes: 16; --preset paper: 100)"
    )
    assert "300 where there are none of either (" in told["E_trained"]
