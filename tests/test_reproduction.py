"""The runs and the picture of what happens over the first steps, on a tiny corpus."""

import numpy as np
import pytest
from training_fixtures import write_features

from benchmarks import reproduction
from benchmarks.charts import signs_figure
from bssan_tf.errors import UserError
from bssan_tf.training import run as training

pytestmark = pytest.mark.usefixtures("no_export")

SIZES = "--size tiny --variant w2r --lstm 8 --trained-embeddings 10 --batch-size 8 --negatives 3 --validation-images 0"


@pytest.mark.large
def test_sets_are_trained_once_and_drawn(tmp_path, capsys, monkeypatch):
    corpus, sets, out = write_features(tmp_path / "corpus"), tmp_path / "sets.txt", tmp_path / "out.png"
    sets.write_text("paper: --preset paper\n")
    features = f"--import-regions {corpus / 'regions.npy'} --import-objects {corpus / 'objects.npy'}"
    arguments = [
        "--sets", str(sets), "--steps", "20", "--seeds", "3", "--runs", str(tmp_path / "runs"), "-o", str(out),
        "--common", f"--data {corpus} {features} {SIZES}",
    ]  # fmt: skip
    reproduction.main(arguments)
    printed = capsys.readouterr().out
    assert "paper, seed 3: step 20  w2r_loss 0." in printed
    assert out.stat().st_size > 10_000
    out.unlink()
    monkeypatch.setattr(training, "train", None)  # not again
    reproduction.main(arguments)
    assert out.exists()
    sets.write_text("paper: --preset paper --margin 0.3\n")
    with pytest.raises(UserError, match=r"is a run of other flags, --margin was 0\.2, is 0\.3"):
        reproduction.main(arguments)


def test_the_rate_stays_and_every_step_counts():
    config = reproduction.config_of("--preset improved --data flickr8k --epochs 16", 700)
    training_config = config.training
    assert (training_config.schedule, training_config.epochs) == ("plateau", 1)
    assert training_config.steps_per_epoch == training_config.early_signs == 700


def test_lines_are_means_over_the_steps_that_all_runs_have():
    def run(values):
        steps = {"step": np.arange(len(values))}
        return steps | {f"w2r_hinge_{name}": np.array(values) for name in ("eq8", "learned")}

    figure = signs_figure({"one": [run([0.0, np.nan, 2.0, 9.0]), run([1.0, np.nan, 4.0])]})
    first, second = figure.axes[:2]
    assert [line.get_ydata().tolist() for line in first.lines] == [[0.5, 3.0]] * 2
    assert first.collections[0].get_paths()[0].vertices[:, 1].max() == pytest.approx(4.0)
    assert not second.lines  # no O2W in it
