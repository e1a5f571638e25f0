"""Several processes write one store: the bytes of a single one, locks, kills, bad pictures, and what a user may ask."""

import os
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from feature_fixtures import tiny_extractor, write_pictures

from bssan_tf.errors import UserError
from bssan_tf.features.extraction import extract_features, extract_shard
from bssan_tf.features.regions import Extractor
from bssan_tf.features.shards import Progress, Shard, ShardWriter, read_progress
from bssan_tf.features.store import open_store
from bssan_tf.features.store_writer import StorePlan, StoreWriter

PLAN = StorePlan(tuple(f"{i}.jpg" for i in range(30)), {"regions": ((3,), "float16"), "sizes": ((), "int64")}, {})


@pytest.mark.parametrize(("total", "batch_size", "count"), [(30, 4, 3), (1600, 16, 7), (5, 16, 3), (64, 16, 4)])
def test_shards_share_out_whole_batches(total, batch_size, count):
    parts = [Shard(number, count).rows(total, batch_size) for number in range(1, count + 1)]
    assert [row for first, after in parts for row in range(first, after)] == list(range(total))
    assert all(first % batch_size == 0 or first == total for first, _ in parts)
    batches = [-(-(after - first) // batch_size) for first, after in parts]
    assert max(batches) - min(batches) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_what_is_no_shard(text):
    with pytest.raises(UserError, match=r"must be like 2/4"):
        Shard.parse(text)
    assert Shard.parse("2/4") == Shard(2, 4)


def test_a_shard_is_written_by_one_process_and_the_whole_by_none_meanwhile(tmp_path):
    with ShardWriter(tmp_path, PLAN, Shard(1, 2), 4), ShardWriter(tmp_path, PLAN, Shard(2, 2), 4):
        with pytest.raises(UserError, match="another process is extracting this shard"):
            ShardWriter(tmp_path, PLAN, Shard(1, 2), 4)
        with pytest.raises(UserError, match="another process is extracting into it"):
            StoreWriter(tmp_path, PLAN)
    with StoreWriter(tmp_path, PLAN), pytest.raises(UserError, match="another process is extracting all of it"):
        ShardWriter(tmp_path, PLAN, Shard(1, 2), 4)
    ShardWriter(tmp_path, PLAN, Shard(1, 2), 4).__exit__()  # the locks were given back


def test_a_damaged_progress_file(tmp_path):
    with ShardWriter(tmp_path, PLAN, Shard(1, 2), 4) as writer:
        writer.commit(4, [])
    (tmp_path / "shard-1-of-2.json").write_text("{")
    with pytest.raises(UserError, match=r"shard-1-of-2\.json: not valid JSON .*delete this folder"):
        read_progress(tmp_path)


PROCESSES = """
    import os, signal, sys
    from pathlib import Path
    import numpy as np
    from bssan_tf.features.shards import Shard, ShardWriter
    from bssan_tf.features.store_writer import StorePlan

    folder, rows = Path(sys.argv[1]), 400
    arrays = {"regions": ((50,), "float16"), "sizes": ((), "int64")}
    plan = StorePlan(tuple(f"{i}.jpg" for i in range(rows)), arrays, {})
    values = np.random.default_rng(0).normal(size=(rows, 50)).astype(np.float16)

    def run(number, kill_at):
        with ShardWriter(folder, plan, Shard(number, 4), 4) as writer:
            for start in range(writer.finished_rows, writer.stop, 4):
                stop = min(start + 4, writer.stop)
                if start >= kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                writer.write(start, {"regions": values[start:stop], "sizes": np.arange(start, stop)})
                writer.commit(stop, writer.bad | ({start} if start % 40 == 0 else set()))

    for kill_at in ([40, 150, 1000, 340], [1000] * 4):  # three are killed, then all go on
        children = []
        for number in range(1, 5):
            child = os.fork()
            if not child:
                run(number, kill_at[number - 1])
                os._exit(0)
            children.append(child)
        killed = [os.WIFSIGNALED(os.waitpid(child, 0)[1]) for child in children]
        assert killed == [at < 1000 for at in kill_at], killed
"""


def test_four_processes_at_once_some_killed(tmp_path, project):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROCESSES), str(tmp_path)],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = np.random.default_rng(0).normal(size=(400, 50)).astype(np.float16)
    np.testing.assert_array_equal(np.load(tmp_path / "regions.npy"), values)
    np.testing.assert_array_equal(np.load(tmp_path / "sizes.npy"), np.arange(400))
    found = read_progress(tmp_path)
    assert [(progress.first, progress.finished) for progress in found] == [(i, i + 100) for i in (0, 100, 200, 300)]
    bad = [image_id for progress in found for image_id in progress.bad_images]
    assert bad == [f"{row}.jpg" for row in range(0, 400, 40)]


# ---- with pictures ----


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return tiny_extractor(tmp_path_factory.mktemp("weights"))


OPTIONS = {"boxes": "grid", "batch_size": 4, "progress": False}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".lock")}


def forbid_describing(monkeypatch, extractor):
    def describe(*_):
        raise AssertionError("nothing is left to extract")

    monkeypatch.setattr(extractor, "describe", describe)


def test_shards_give_the_bytes_of_one_process(tmp_path, extractor, monkeypatch):
    corpus = write_pictures(tmp_path / "photos", 11)
    corpus.image_paths[6].write_bytes(b"no picture")
    whole = extract_features(corpus, tmp_path / "whole", extractor, skip_bad_images=True, **OPTIONS)
    rows = [extract_shard(corpus, tmp_path / "store", extractor, Shard(n, 3), **OPTIONS) for n in (3, 1)]
    assert rows == [3, 4]
    with pytest.raises(UserError, match="only 0 of 11 images"):
        open_store(tmp_path / "store")
    described = []
    describe = Extractor.describe
    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "describe", lambda self, *batch: described.append(1) or describe(self, *batch))
        assert extract_shard(corpus, tmp_path / "store", extractor, Shard(1, 3), **OPTIONS) == 4  # done already
        assert not described
        extract_shard(corpus, tmp_path / "store", extractor, Shard(2, 3), **OPTIONS)
        assert len(described) == 1
    forbid_describing(monkeypatch, extractor)
    features = extract_features(corpus, tmp_path / "store", extractor, skip_bad_images=True, **OPTIONS)
    assert content(tmp_path / "store") == content(tmp_path / "whole")  # and no progress file is left
    np.testing.assert_array_equal(features.bad_rows, whole.bad_rows)
    assert features.bad_rows.tolist() == [6]


def test_what_shards_left_undone_one_process_does(tmp_path, extractor):
    corpus = write_pictures(tmp_path / "photos", 11)
    extract_features(corpus, tmp_path / "whole", extractor, **OPTIONS)
    extract_shard(corpus, tmp_path / "store", extractor, Shard(2, 3), **OPTIONS)
    described = []

    class Counting(Extractor):
        def describe(self, *batch):
            described.append(len(batch[0]))
            return super().describe(*batch)

    extract_features(corpus, tmp_path / "store", Counting(extractor.backbone, extractor.weights_file), **OPTIONS)
    assert len(described) == 2  # of three batches
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_a_picture_that_only_a_shard_found_bad_is_listed(tmp_path, extractor):
    corpus = write_pictures(tmp_path / "photos", 11)
    extract_features(corpus, tmp_path / "store", extractor, **OPTIONS)
    corpus.image_paths[6].write_bytes(b"no picture")
    extract_shard(corpus, tmp_path / "store", extractor, Shard(2, 3), **OPTIONS)
    features = extract_features(corpus, tmp_path / "store", extractor, skip_bad_images=True, **OPTIONS)
    assert features.bad_rows.tolist() == [6]
    assert not features.regions[6].any()


def test_an_array_that_is_gone_is_not_made_anew_below_finished_shards(tmp_path, extractor):
    corpus = write_pictures(tmp_path / "photos", 11)
    for number in (1, 3):
        extract_shard(corpus, tmp_path / "store", extractor, Shard(number, 3), **OPTIONS)
    (tmp_path / "store" / "regions.npy").unlink()
    with pytest.raises(UserError, match=r"regions\.npy: missing or not of the size"):
        extract_features(corpus, tmp_path / "store", extractor, **OPTIONS)
    with pytest.raises(UserError, match=r"regions\.npy: missing or not of the size"):
        extract_shard(corpus, tmp_path / "store", extractor, Shard(2, 3), **OPTIONS)


def test_a_killed_shard_goes_on(tmp_path, extractor):
    corpus = write_pictures(tmp_path / "photos", 22)
    extract_features(corpus, tmp_path / "whole", extractor, **OPTIONS)

    class Stopping(Extractor):
        calls = 0

        def describe(self, *batch):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().describe(*batch)

    stopping = Stopping(extractor.backbone, extractor.weights_file)
    with pytest.raises(KeyboardInterrupt):
        extract_shard(corpus, tmp_path / "store", stopping, Shard(2, 2), **OPTIONS, commit_seconds=1000)
    assert read_progress(tmp_path / "store") == [Progress(12, 20, ())]
    for number in (1, 2):
        extract_shard(corpus, tmp_path / "store", extractor, Shard(number, 2), **OPTIONS)
    extract_features(corpus, tmp_path / "store", extractor, **OPTIONS)
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_shards_of_a_corpus_that_grew(tmp_path, extractor, monkeypatch):
    corpus = write_pictures(tmp_path / "photos", 11)
    few = SimpleNamespace(name=corpus.name, image_ids=corpus.image_ids[:5], image_paths=corpus.image_paths[:5])
    extract_features(few, tmp_path / "store", extractor, **OPTIONS)
    for number in (1, 2, 3):
        extract_shard(corpus, tmp_path / "store", extractor, Shard(number, 3), **OPTIONS)
    forbid_describing(monkeypatch, extractor)
    features = extract_features(corpus, tmp_path / "store", extractor, **OPTIONS)  # nor is a shard's work done again
    assert features.image_ids == corpus.image_ids
    assert features.regions.any((1, 2)).all()
    assert features.bad_rows.size == 0


def test_more_shards_than_batches(tmp_path, extractor):
    corpus = write_pictures(tmp_path / "photos", 5)
    rows = [extract_shard(corpus, tmp_path / "store", extractor, Shard(n, 4), **OPTIONS) for n in range(1, 5)]
    assert sum(rows) == 5
    extract_features(corpus, tmp_path / "store", extractor, **OPTIONS)
    extract_features(corpus, tmp_path / "whole", extractor, **OPTIONS)
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_a_shard_of_a_whole_store_has_nothing_to_do(tmp_path, extractor, monkeypatch):
    corpus = write_pictures(tmp_path / "photos", 5)
    extract_features(corpus, tmp_path / "store", extractor, **OPTIONS)
    forbid_describing(monkeypatch, extractor)
    extract_shard(corpus, tmp_path / "store", extractor, Shard(1, 2), **OPTIONS)
    before = os.stat(tmp_path / "store" / "regions.npy").st_mtime_ns
    extract_features(corpus, tmp_path / "store", extractor, **OPTIONS)
    assert os.stat(tmp_path / "store" / "regions.npy").st_mtime_ns == before
    assert not read_progress(tmp_path / "store")
