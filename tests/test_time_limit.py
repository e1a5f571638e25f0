"""--minutes: what counts, and what it may cut off."""

import time

import pytest
from training_fixtures import make_config, write_features

from bssan_tf.runs.folder import RunFolder
from bssan_tf.training import callbacks as cb
from bssan_tf.training import run as training

pytestmark = pytest.mark.usefixtures("no_export")


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


def test_a_time_limit_that_may_cut_off_a_cosine_is_warned_of_once(tmp_path, caplog):
    corpus = write_features(tmp_path / "corpus")
    config = make_config(corpus, variant="w2r", epochs=2, minutes=2.5, schedule="cosine")
    training.train(config, RunFolder(tmp_path / "run"), progress=False)
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    found = [line for line in lines if line.startswith("--minutes")]
    expected = "--minutes 2.5: may end training before the rate has fallen, as --schedule cosine takes all 2 --epochs"
    assert [line.partition(";")[0] for line in found] == [expected]


@pytest.mark.parametrize(("minutes", "schedule"), [(0, "cosine"), (2.5, "plateau")])
def test_no_warning_where_no_cosine_can_be_cut_off(caplog, minutes, schedule):
    limit = cb.TimeLimit(minutes, schedule)
    limit.set_params({"epochs": 2})
    limit.on_train_begin()
    assert not caplog.records
