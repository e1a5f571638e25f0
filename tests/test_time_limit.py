"""--minutes: what counts, and what it may cut off."""

import time

import pytest

from bssan_tf.training import callbacks as cb


class Model:
    stop_training = False


def test_time_limit_counts_the_whole_run():
    limit = cb.TimeLimit(minutes=10)
    limit.set_model(Model())
    for spent, stops in ((5.0, False), (9.99999, True)):
        limit.spent = spent  # as a resumed run would have it
        limit.on_epoch_begin(0)
        time.sleep(0.001)
        limit.on_epoch_end(0, logs := {})
        assert logs["minutes"] > spent
        assert limit.model.stop_training is stops


def test_a_time_limit_that_may_cut_off_a_cosine_is_warned_of_once(caplog):
    limit = cb.TimeLimit(2.5, "cosine")
    limit.set_params({"epochs": 2})
    limit.set_model(Model())
    limit.on_train_begin()
    for epoch in range(2):
        limit.on_epoch_begin(epoch)
        limit.on_epoch_end(epoch, {})
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = "--minutes 2.5: may end training before the rate has fallen, as --schedule cosine takes all 2 --epochs"
    assert [line.partition(";")[0] for line in found] == [expected]


@pytest.mark.parametrize(("minutes", "schedule"), [(0, "cosine"), (2.5, "plateau")])
def test_no_warning_where_no_cosine_can_be_cut_off(caplog, minutes, schedule):
    limit = cb.TimeLimit(minutes, schedule)
    limit.set_params({"epochs": 2})
    limit.on_train_begin()
    assert not caplog.records
