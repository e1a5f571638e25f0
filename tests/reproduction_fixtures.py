"""Plans of reproduce.py, and reports of drawn scores in place of measured ones."""

import numpy as np

from bssan_tf.commands import reproduce
from bssan_tf.metrics.details import detailed_report
from bssan_tf.reproduction.plan import check_what, make_plan

IMAGES = 12


def plan_of(*what, presets=("improved",), seeds=(0,), search=False, size=None, **given):
    made_of = reproduce.settings_maker(size)
    return make_plan(check_what(what, search), "mine", presets, seeds, {"epochs": 5, **given}, made_of)


def report(lift=3.0, seed=0):
    owner = np.repeat(np.arange(IMAGES), 2)
    scores = np.random.default_rng(seed).normal(size=(IMAGES, len(owner)))
    return {**detailed_report(scores + lift * (owner == np.arange(IMAGES)[:, None]), owner), "protocol": "full"}
