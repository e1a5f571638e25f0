"""The store on disk: kills at every system call, fit of the manifest, the lock, memory, and what a reader sees."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hostile_files import packed, saved

from bssan_tf.errors import UserError
from bssan_tf.features import store_writer
from bssan_tf.features.store import Features, open_array, open_store
from bssan_tf.features.store_writer import StorePlan, StoreWriter

IDS = tuple(f"ü{i}.jpg" for i in range(6))
ARRAYS = {"regions": ((4, 2), "float16"), "valid": ((3,), "bool"), "sizes": ((), "int64")}

ARCHIVE = packed({"a.npy": saved(np.ones(1))})


def plan(ids=IDS, arrays=ARRAYS, **made_with):
    return StorePlan(ids, arrays, {"extractor": "tiny", "boxes": None, "grid": [2, 2], **made_with})


def rows(start, stop):
    numbers = np.arange(start, stop)
    regions = (numbers[:, None, None] + np.arange(8).reshape(4, 2) / 10).astype(np.float16)
    return {"regions": regions, "valid": (numbers[:, None] + np.arange(3)) % 2 == 0, "sizes": numbers * 100}


def write_all(folder, bad=(), **changes):
    with StoreWriter(folder, plan(**changes)) as writer:
        writer.write(0, rows(0, 4))
        writer.commit(4, bad)
        writer.write(4, rows(4, 6))
        writer.commit(6, bad)
    return folder


def test_what_was_written_is_read(tmp_path):
    features = open_store(write_all(tmp_path / "deep" / "store", bad=[3, 1]))
    assert isinstance(features, Features)
    assert features.image_ids == IDS
    assert isinstance(features.regions, np.memmap)
    np.testing.assert_array_equal(features.regions, rows(0, 6)["regions"])
    np.testing.assert_array_equal(features.valid, rows(0, 6)["valid"])
    assert features.objects is None
    assert features.grid == (2, 2)
    np.testing.assert_array_equal(features.bad_rows, [1, 3])
    assert features.manifest["bad_images"] == [IDS[1], IDS[3]]
    assert features.manifest["extractor"] == "tiny"
    assert (tmp_path / "deep" / "store" / "ids.txt").read_text(encoding="utf-8").split() == list(IDS)
    with pytest.raises(ValueError, match="read-only"):
        features.regions[0] = 1


def change(folder, name, alter):
    array = np.lib.format.open_memmap(folder / f"{name}.npy", "r+")
    alter(array)
    array.flush()


def set_row(row, value):
    return lambda array: array.__setitem__(row, value)


@pytest.mark.parametrize(
    ("name", "alter", "row"),
    [
        ("regions", set_row((2, 3, 1), 7), 2),
        ("regions", set_row(5, 0), 5),
        ("regions", lambda array: array.__setitem__([1, 3], array[[3, 1]]), 1),
        ("valid", lambda array: np.logical_not(array, out=array), 0),
        ("sums", set_row(4, 0), 4),
    ],
)
def test_changed_rows_are_refused(tmp_path, name, alter, row):
    write_all(tmp_path)
    change(tmp_path, name, alter)
    with pytest.raises(UserError, match=rf"rows have changed .*first that of {IDS[row]} \(row {row}\); put the folder"):
        open_store(tmp_path)
    open_store(tmp_path, verify=False)


def test_rows_swapped_with_their_sums_are_refused(tmp_path):
    write_all(tmp_path)
    for name in (*ARRAYS, "sums"):
        change(tmp_path, name, lambda array: array.__setitem__([1, 3], array[[3, 1]]))
    with pytest.raises(UserError, match=r"2 of 6 rows have changed"):
        open_store(tmp_path)


def test_a_store_of_an_older_version_is_taken_and_that_is_said(tmp_path, caplog):
    write_all(tmp_path)
    edit_manifest(tmp_path, kept=[], format=1)
    (tmp_path / "sums.npy").unlink()
    with caplog.at_level("INFO"):
        open_store(tmp_path)
    assert "of an older version, without checksums; not verified" in caplog.text
    write_all(tmp_path)  # is gone on with, too
    assert not (tmp_path / "sums.npy").exists()


def test_arrays_are_not_written_through_links(tmp_path):
    mine, store = tmp_path / "mine", tmp_path / "store"
    mine.write_text("mine")
    store.mkdir()
    (store / "regions.npy").symlink_to(mine)
    (store / "manifest.json").write_text(
        json.dumps({**plan().manifest(), "format": 1, "finished_rows": 0, "bad_images": []})
    )
    (store / "ids.txt").write_text("".join(f"{name}\n" for name in IDS), encoding="utf-8")
    with pytest.raises(UserError, match=r"regions\.npy: is a symbolic link"):
        write_all(store)
    assert mine.read_text() == "mine"


def test_the_files_are_plain_npy(tmp_path):
    write_all(tmp_path)
    loaded = np.load(tmp_path / "regions.npy", allow_pickle=False)
    assert loaded.shape == (6, 4, 2)
    assert loaded.dtype == np.float16


def test_going_on_after_an_uncommitted_block(tmp_path):
    with StoreWriter(tmp_path, plan()) as writer:
        writer.write(0, rows(0, 2))
        writer.commit(2, [1])
        writer.write(2, rows(2, 4))  # never committed
    with pytest.raises(UserError, match=r"only 2 of 6 images are extracted"):
        open_store(tmp_path)
    with StoreWriter(tmp_path, plan()) as writer:
        assert writer.finished_rows == 2
        assert writer.bad == {1}
        writer.write(2, rows(2, 6))
        writer.commit(6, writer.bad)
    np.testing.assert_array_equal(open_store(tmp_path).regions, rows(0, 6)["regions"])


KILLS = """
    import os, shutil, signal, sys
    from pathlib import Path
    import numpy as np
    from bssan_tf.features.store import open_store
    from bssan_tf.features.store_writer import StorePlan, StoreWriter

    ids = tuple(f"{i}.jpg" for i in range(10))
    plan = StorePlan(ids, {"regions": ((3, 5), "float16"), "sizes": ((), "int64")}, {"extractor": "tiny"})
    regions = np.random.default_rng(0).normal(size=(10, 3, 5)).astype(np.float16)

    def run(folder, kill_at=0):
        calls = 0
        def wrap(name):
            original = getattr(os, name)
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == kill_at:
                    if name == "pwrite":  # torn in the middle
                        original(args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)
            return call
        if kill_at:
            for name in ("open", "pwrite", "fsync", "replace", "ftruncate", "mkdir"):
                setattr(os, name, wrap(name))
        with StoreWriter(folder, plan) as writer:
            for start in range(writer.finished_rows, 10, 4):
                stop = min(start + 4, 10)
                writer.write(start, {"regions": regions[start:stop], "sizes": np.arange(start, stop)})
                writer.commit(stop, writer.bad | ({5} if start <= 5 < stop else set()))

    def killed(folder, kill_at):
        child = os.fork()
        if not child:
            run(folder, kill_at)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status == 0 or os.WTERMSIG(status) == signal.SIGKILL, status
        return status != 0

    def content(folder):
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".part"}

    base = Path(sys.argv[1])
    run(base / "whole")
    expected, points = content(base / "whole"), 0
    while killed(base / "torn", points + 1):
        points += 1
        killed(base / "torn", 1 + points % 7)  # and once more while it goes on
        run(base / "torn")
        assert content(base / "torn") == expected, points
        shutil.rmtree(base / "torn")
    print(points)
"""


def test_killed_at_every_system_call_then_resumed(tmp_path, project):
    command = [sys.executable, "-c", textwrap.dedent(KILLS), str(tmp_path)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 35  # system calls of one run


def test_arrays_are_durable_before_the_manifest_says_so(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def record_fsync(descriptor):
        events.append("fsync " + os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_replace(source, target):
        events.append(f"replace {os.path.basename(target)}")
        replace(source, target)

    with StoreWriter(tmp_path, plan()) as writer:
        writer.write(0, rows(0, 6))
        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "replace", record_replace)
        writer.commit(6, [])
    arrays = [f"fsync {name}.npy" for name in ("regions", "valid", "sums", "sizes")]
    manifest = [f"fsync .manifest.json.{os.getpid()}.part", "replace manifest.json", f"fsync {tmp_path.name}"]
    assert events == arrays + manifest


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extractor": "vgg19"}, r'extractor is "tiny" there, "vgg19" asked for'),
        ({"boxes": "grid"}, r'boxes is null there, "grid" asked for'),
        ({"ids": IDS[:5]}, "images is 6 there, 5 asked for; ids_sha256 is"),
        ({"ids": (*IDS[1:], IDS[0])}, "ids_sha256 is"),
        ({"arrays": {**ARRAYS, "sizes": ((), "int32")}}, "arrays is"),
    ],
)
def test_a_store_made_for_something_else(tmp_path, changes, words):
    write_all(tmp_path)
    before = (tmp_path / "regions.npy").read_bytes()
    with pytest.raises(
        UserError, match=rf"manifest\.json: .*{words}.*; give what it was made with, or another --cache$"
    ) as error:
        StoreWriter(tmp_path, plan(**changes))
    assert "\n" not in str(error.value)
    assert (tmp_path / "regions.npy").read_bytes() == before


def test_two_differences_are_both_named(tmp_path):
    write_all(tmp_path)
    with pytest.raises(UserError, match=r'extractor is "tiny".*; boxes is null'):
        StoreWriter(tmp_path, plan(extractor="b", boxes="grid"))


def edit_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_damaged_stores(tmp_path):
    for i, (damage, words) in enumerate(
        [
            (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: not valid JSON"),
            (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json: is a list"),
            (lambda f: edit_manifest(f, finished_rows="6"), "manifest.json: damaged .finished_rows is '6'"),
            (lambda f: edit_manifest(f, kept=[]), "manifest.json: damaged .kept lacks sums"),
            (lambda f: edit_manifest(f, kept=[], format=1), "manifest.json: damaged .kept lacks sums"),
            (lambda f: edit_manifest(f, bad_images=["x"]), "doesn't fit|damaged"),
            (lambda f: edit_manifest(f, finished_rows=7), "doesn't fit|damaged"),
            (lambda f: (f / "manifest.json").unlink(), "has regions.npy but no manifest.json"),
            (lambda f: (f / "ids.txt").unlink(), "ids.txt: no such file"),
            (lambda f: (f / "ids.txt").write_text("a\nb\n"), "ids.txt: (doesn't fit|other images)"),
            (lambda f: (f / "regions.npy").unlink(), "regions.npy: (no such file|missing)"),
            (lambda f: os.truncate(f / "regions.npy", 200), "regions.npy: (not a complete|missing or not)"),
            (lambda f: (f / "regions.npy").write_bytes(ARCHIVE), "regions.npy: (not a complete|missing)"),
            (lambda f: (f / "sums.npy").write_bytes(ARCHIVE), "sums.npy: (not a complete|missing)"),
            (lambda f: np.save(f / "regions.npy", np.zeros((6, 4, 2))), "regions.npy: (shape or dtype|missing)"),
        ]
    ):
        folder = write_all(tmp_path / str(i))
        damage(folder)
        for use in (open_store, lambda f: StoreWriter(f, plan())):
            with pytest.raises(UserError, match=words) as error:
                use(folder)
            assert "\n" not in str(error.value)


def test_no_store(tmp_path):
    with pytest.raises(UserError, match=r"no feature store; run train.py"):
        open_store(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        StoreWriter(tmp_path / "file" / "store", plan())


def test_objects_arrays_are_never_unpickled(tmp_path):
    np.save(tmp_path / "regions.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a complete .npy array of numbers"):
        open_array(tmp_path, "regions", (1,), "float16")


def test_one_writer_at_a_time(tmp_path):
    with StoreWriter(tmp_path, plan()), pytest.raises(UserError, match="another process is extracting into it"):
        StoreWriter(tmp_path, plan())
    StoreWriter(tmp_path, plan()).__exit__()  # the lock was given back


def test_rows_of_a_wrong_shape_are_a_mistake_of_ours(tmp_path):
    with StoreWriter(tmp_path, plan()) as writer:
        with pytest.raises(ValueError, match="planned"):
            writer.write(0, {"regions": rows(0, 1)["regions"]})
        with pytest.raises(ValueError, match="don't fit"):
            writer.write(5, rows(0, 2))
        with pytest.raises(ValueError, match="don't fit"):
            writer.write(0, {**rows(0, 2), "regions": np.zeros((2, 4, 3))})


def test_a_full_disk(tmp_path, monkeypatch):
    free = store_writer.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(store_writer.shutil, "disk_usage", lambda _: free)
    with pytest.raises(UserError, match="GB are free; give a --cache on a larger disk"):
        StoreWriter(tmp_path / "a", plan())
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    with StoreWriter(tmp_path / "b", plan()) as writer:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(UserError, match=r"No space left on device.*make room and start again"):
            writer.write(0, rows(0, 2))


MEMORY = """
    import sys
    import numpy as np
    from benchmarks.memory import peak_mb
    from bssan_tf.features.store import open_store
    from bssan_tf.features.store_writer import StorePlan, StoreWriter

    rows = 4000  # of 196 x 128 float16 values: 200 MB
    plan = StorePlan(tuple(map(str, range(rows))), {"regions": ((196, 128), "float16")}, {})
    start = peak_mb()
    with StoreWriter(sys.argv[1], plan) as writer:
        for row in range(0, rows, 16):
            writer.write(row, {"regions": np.full((16, 196, 128), row, np.float16)})
        writer.commit(rows, ())
    features = open_store(sys.argv[1])
    assert features.regions[rows - 1, 0, 0] == rows - 16
    print(peak_mb() - start)
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path, project):
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "store")]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20  # MB
