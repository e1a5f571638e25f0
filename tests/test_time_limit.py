"""--minutes: what counts, and what it may cut off."""

import time

import pytest
from training_fixtures import make_config, write_features

from bssan_tf import callbacks as cb
from bssan_tf import training
from bssan_tf.runs import RunFolder


def test_time_limit_counts_the_whole_run():
    class Model:
        stop_training = False

    limit = cb.TimeLimit(minutes=10)
    limit.model = Model()
    for spent, stops in ((5.0, False), (9.99999, True)):
        limit.spent = spent  # as a resumed run would have it
        limit.on_epoch_begin(0)
        time.sleep(0.001)
        limit.on_epoch_end(0, logs := {})
        assert logs["minutes"] > spent
        assert limit.model.stop_training is stops


@pytest.mark.parametrize(
    ("minutes", "schedule", "warned"), [(2.5, "cosine", True), (0, "cosine", False), (2.5, "plateau", False)]
)
def test_a_time_limit_that_may_cut_off_a_cosine_is_warned_of_once(tmp_path, caplog, minutes, schedule, warned):
    corpus = write_features(tmp_path / "corpus")
    config = make_config(corpus, variant="w2r", epochs=2, minutes=minutes, schedule=schedule)
    training.train(config, RunFolder(tmp_path / "run"), progress=False)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    found = [line for line in lines if line.startswith("--minutes")]
    expected = "--minutes 2.5: may end training before the rate has fallen, as --schedule cosine takes all 2 --epochs"
    assert [line.partition(";")[0] for line in found] == [expected] * warned
