"""Fixtures that several test files share: where the real data lies, and quiet TensorFlow."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
gc.set_threshold(100_000, 20, 50)  # looking through the millions of objects of graphs took a tenth of the time

PROJECT = Path(__file__).resolve().parent.parent

# Files that train take longest, so they start first and the workers end together.
SLOW_FILES = (
    "test_reproduce_killed.py", "test_cli.py", "test_training.py", "test_training_step.py", "test_starting.py",
    "test_scoring.py", "test_detected_objects.py", "test_models.py", "test_early_signs.py", "test_benchmarks.py",
    "test_context_run.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Start the slow files first; else the order stays."""
    rank = {name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_sessionfinish():
    """pytest collects garbage five times at its end, a second each where all of TensorFlow is looked through."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _needed_lstm_kernels():
    """As the scripts do."""
    from bssan_tf.tools.stack import trace_needed_kernels

    trace_needed_kernels()


@pytest.fixture(scope="session", autouse=True)
def _quick_graphs():
    """Calls of layers are traced as they are written, as Keras 3 does; Keras 2 would have AutoGraph rewrite each."""
    import tensorflow.compat.v2 as tf

    gc.freeze()  # what the packages have made stays: collections need not look through it
    tf.__internal__.autograph.tf_convert = lambda call, *_, **__: call


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """In whatever order tests run; fixtures of a wider scope take seeds of their own where numbers matter."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's root, where train.py, evaluate.py and visualize.py lie."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photos, captions and weights for tests; skips where they are absent."""
    folder = Path(os.environ.get("BSSAN_SHARED_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data not found: set BSSAN_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def matcher_work(tmp_path_factory) -> Path:
    """A folder as of `matcher_fixtures.make_work`; the processes of a test run share it."""
    from matcher_fixtures import made_once

    temporary = tmp_path_factory.getbasetemp()  # of this process, where pytest-xdist has started several
    return made_once((temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary) / "matcher")


@pytest.fixture(scope="session")
def matcher(matcher_work):
    """The matcher of the run in `matcher_work`."""
    from bssan_tf.matching.matcher import Matcher

    return Matcher.load(matcher_work / "runs" / "mine")


@pytest.fixture
def no_export(monkeypatch):
    """Runs without SavedModel and pictures, half of the time that a tiny training takes."""
    from training_fixtures import leave_export_out

    leave_export_out(monkeypatch)


@pytest.fixture
def small_blocks(monkeypatch):
    """Constants so small that tiny models need many slabs, groups and blocks."""
    from scoring_fixtures import SMALL

    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)
