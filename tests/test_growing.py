"""A store whose corpus has got further pictures: what it holds is kept, if it is whole; only new pictures are read."""

import contextlib
import json
import logging
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from feature_fixtures import arrays, extract, forbid_describing, spoil, tiny_extractor, write_boxes, write_pictures

from bssan_tf.errors import UserError
from bssan_tf.features import describer, growing
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.regions import Extractor
from bssan_tf.features.store_writer import StoreWriter, lock_of
from bssan_tf.tools.files import locked


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    return tiny_extractor(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def corpus(tmp_path):
    return write_pictures(tmp_path / "photos", 11)


def test_a_corpus_that_grew_keeps_what_is_extracted(tmp_path, corpus, extractor, monkeypatch):
    def part(rows):
        return SimpleNamespace(name="pictures", **{
            name: tuple(getattr(corpus, name)[row] for row in rows) for name in ("image_ids", "image_paths")
        })  # fmt: skip

    fresh = extract(part([7, 0, 3, 10, 1, 4]), tmp_path / "fresh", extractor, batch_size=1)
    spoil(corpus.image_paths[4])
    first = [0, 1, 4, 7]
    extract(part(first), tmp_path / "store", extractor, batch_size=1, skip_bad_images=True)
    write_pictures(tmp_path / "photos", 11)  # 4 is mended
    described, describe = [], extractor.describe
    monkeypatch.setattr(extractor, "describe", lambda *values: described.append(1) or describe(*values))
    grown = extract(part([7, 0, 3, 10, 1, 4]), tmp_path / "store", extractor, batch_size=1)
    assert len(described) == 3  # two new pictures, and the mended one
    assert arrays(tmp_path / "store") == arrays(tmp_path / "fresh")
    assert (grown.image_ids, grown.bad_rows.size) == (fresh.image_ids, 0)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["fresh", "photos", "store"]
    with pytest.raises(UserError, match=r"images is 6 there, 5 asked for"):  # features would be lost
        extract(part([7, 0, 3, 10, 2]), tmp_path / "store", extractor, batch_size=1)
    other = extract(part([7, 0, 3, 10, 2]), tmp_path / "store", extractor, batch_size=1, may_lose=True)
    assert len(described) == 4
    np.testing.assert_array_equal(other.regions[:4], fresh.regions[:4])


def test_a_batch_is_of_new_and_changed_pictures_alone(tmp_path, corpus, extractor, monkeypatch):
    known = [0, 2, 3, 4, 6, 7, 8, 9]
    names = ("image_ids", "image_paths")
    part = SimpleNamespace(name="pictures", **{name: [getattr(corpus, name)[row] for row in known] for name in names})
    extract(part, tmp_path / "store", extractor)
    os.replace(tmp_path / "photos" / "photo010.jpg", tmp_path / "photos" / "photo003.jpg")  # 3 has changed
    write_pictures(tmp_path / "more", 11)
    os.replace(tmp_path / "more" / "photo010.jpg", tmp_path / "photos" / "photo010.jpg")
    fresh = extract(corpus, tmp_path / "fresh", extractor)
    read, calls = [], []
    describe = extractor.describe
    monkeypatch.setattr(
        describer, "read_picture", lambda path, side: read.append(path.name) or read_picture(path, side)
    )
    monkeypatch.setattr(extractor, "describe", lambda *given: calls.append(len(given[0])) or describe(*given))
    grown = extract(corpus, tmp_path / "store", extractor)
    assert sorted(read) == [f"photo{row:03d}.jpg" for row in (1, 3, 5, 10)]
    assert calls == [4]
    np.testing.assert_array_equal(grown.regions[:], fresh.regions[:])
    write_pictures(tmp_path / "more", 1, seed=5)
    os.replace(tmp_path / "more" / "photo000.jpg", tmp_path / "photos" / "photo007.jpg")
    extract(corpus, tmp_path / "store", extractor)
    assert calls == [4, 1]  # not a whole batch for one


def first_of(corpus, count):
    return SimpleNamespace(name=corpus.name, image_ids=corpus.image_ids[:count], image_paths=corpus.image_paths[:count])


def last_of(corpus, count):
    """Of which the whole corpus is no continuation."""
    ids, paths = corpus.image_ids[-count:], corpus.image_paths[-count:]
    return SimpleNamespace(name=corpus.name, image_ids=ids, image_paths=paths)


def make_older(store):
    """As a version without checksums has left it."""
    for name in ("sums", "digests", "stamps"):
        (store / f"{name}.npy").unlink()
    manifest = json.loads((store / "manifest.json").read_text())
    del manifest["kept"]
    (store / "manifest.json").write_text(json.dumps({**manifest, "format": 1}))


def test_an_older_store_that_grew_goes_by_size_and_gets_digests(tmp_path, corpus, extractor, monkeypatch, caplog):
    extract(corpus, tmp_path / "fresh", extractor, batch_size=1)
    extract(first_of(corpus, 9), tmp_path / "store", extractor, batch_size=1)
    make_older(tmp_path / "store")
    read = []
    monkeypatch.setattr(
        describer, "read_picture", lambda path, side: read.append(path.name) or read_picture(path, side)
    )
    with caplog.at_level(logging.INFO):
        extract(corpus, tmp_path / "store", extractor, batch_size=1)
    assert "store: 2 pictures are new" in caplog.text
    assert sorted(read) == ["photo009.jpg", "photo010.jpg"]  # once each
    assert arrays(tmp_path / "store") == arrays(tmp_path / "fresh")
    stamps = [np.load(tmp_path / name / "stamps.npy") for name in ("store", "fresh")]
    np.testing.assert_array_equal(*stamps)


def test_a_store_grows_under_a_lock_that_outlives_its_folder(tmp_path, corpus, extractor, monkeypatch):
    extract(last_of(corpus, 9), tmp_path / "store", extractor)
    (tmp_path / "store").rename(tmp_path / ".store.old")  # as a kill between the two renames leaves it
    with locked(lock_of(tmp_path / "store")), pytest.raises(UserError, match="another process is extracting into it"):
        extract(corpus, tmp_path / "store", extractor)
    assert (tmp_path / ".store.old").exists()

    def overtaken(*arguments):
        monkeypatch.setattr(growing, "locked", locked)
        extract(corpus, tmp_path / "store", Extractor(extractor.backbone, extractor.weights_file))
        return locked(*arguments)

    monkeypatch.setattr(growing, "locked", overtaken)
    forbid_describing(monkeypatch, extractor)  # nor is what the other process did copied once more
    before = os.stat(tmp_path / ".store.old" / "regions.npy").st_ino
    features = extract(corpus, tmp_path / "store", extractor)
    assert features.bad_rows.size == 0
    assert os.stat(tmp_path / "store" / "regions.npy").st_ino != before
    assert not (tmp_path / ".store.old").exists()


def test_what_a_failed_growth_wrote_is_removed(tmp_path, corpus, extractor, monkeypatch):
    extract(last_of(corpus, 9), tmp_path / "store", extractor)
    before = arrays(tmp_path / "store")

    def full(*_):
        raise UserError("disk: full")

    monkeypatch.setattr(StoreWriter, "commit", full)
    with pytest.raises(UserError, match="disk: full"):
        extract(corpus, tmp_path / "store", extractor)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".store.lock", "photos", "store"]
    assert arrays(tmp_path / "store") == before


def test_growth_gives_no_changed_row_a_new_checksum(tmp_path, corpus, extractor, caplog):
    fresh = extract(corpus, tmp_path / "fresh", extractor, batch_size=1)
    extract(last_of(corpus, 9), tmp_path / "store", extractor, batch_size=1)
    regions = np.load(tmp_path / "store" / "regions.npy", mmap_mode="r+")
    regions[5] = 0
    regions.flush()
    grown = extract(corpus, tmp_path / "store", extractor, batch_size=1)
    assert f"the row of {corpus.image_ids[7]} has changed since it was written; extracted anew" in caplog.text
    np.testing.assert_array_equal(grown.regions[:], fresh.regions[:])


class Killed(BaseException):
    pass


def kill_at(patch, step):
    """Raise at one of the calls that change files, before it; returns how many there have been."""
    calls = []

    def guarded(function):
        def call(*given, **how):
            calls.append(function)
            if len(calls) == step:
                raise Killed
            return function(*given, **how)

        return call

    for name in ("ftruncate", "pwrite", "replace", "unlink", "rename", "mkdir"):
        patch.setattr(os, name, guarded(getattr(os, name)))
    patch.setattr(growing.shutil, "rmtree", guarded(growing.shutil.rmtree))
    return calls


@pytest.mark.parametrize("start", [first_of, last_of], ids=["behind the known ones", "among them"])
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.large)])
def test_a_kill_at_any_point_of_the_growth_loses_nothing(tmp_path, corpus, extractor, monkeypatch, start, stride):
    extract(corpus, tmp_path / "fresh", extractor)
    extract(start(corpus, 9), tmp_path / "begun", extractor)
    read = []
    monkeypatch.setattr(
        describer, "read_picture", lambda path, side: read.append(path.name) or read_picture(path, side)
    )
    plan = describer.Describer(corpus, extractor, "grid", 10, 4).plan
    monkeypatch.setattr(os, "fsync", lambda _: None)  # of no use to the dead, and slow
    new = sorted(set(corpus.image_ids) - set(start(corpus, 9).image_ids))
    for step in range(1, 200, stride):
        store = tmp_path / f"store{step}"
        shutil.copytree(tmp_path / "begun", store)
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            calls = kill_at(patch, step)
            growing.grow_store(store, plan, describer.UNREAD)
        read.clear()
        as_before = step % 3 == 0 and extract(start(corpus, 9), store, extractor, may_lose=True)
        assert not read
        extract(corpus, store, extractor)
        assert sorted(read) == new
        assert arrays(store) == arrays(tmp_path / "fresh")
        assert not as_before or len(as_before.image_ids) == 9
        if len(calls) < step:
            break
    assert 20 < step < 190


def test_pictures_behind_the_known_ones_are_given_room_and_nothing_is_copied(tmp_path, corpus, extractor, monkeypatch):
    extract(corpus, tmp_path / "fresh", extractor)
    extract(first_of(corpus, 9), tmp_path / "store", extractor)
    before = os.stat(tmp_path / "store" / "regions.npy").st_ino
    monkeypatch.setattr(growing, "_copy", None)
    grown = extract(corpus, tmp_path / "store", extractor)
    assert os.stat(tmp_path / "store" / "regions.npy").st_ino == before
    assert arrays(tmp_path / "store") == arrays(tmp_path / "fresh")
    assert grown.image_ids == corpus.image_ids


@pytest.mark.parametrize(
    "change",
    ["", "[]", "{}", '{"manifest": {}, "ids": []}', "fewer ids", "a foreign array"],
)
def test_a_damaged_note_of_a_growth_is_refused(tmp_path, corpus, extractor, change):
    store = tmp_path / "store"
    extract(corpus, store, extractor)
    before = arrays(store)
    manifest = json.loads((store / "manifest.json").read_text())
    foreign = {**manifest["arrays"], "../other/valid": manifest["arrays"]["valid"]}
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "valid.npy", np.zeros((3, 10), bool))
    notes = {
        "fewer ids": {"manifest": manifest, "ids": corpus.image_ids[1:]},
        "a foreign array": {"manifest": {**manifest, "arrays": foreign}, "ids": corpus.image_ids},
    }
    (store / "appended.json").write_text(json.dumps(notes[change]) if change in notes else change)
    with pytest.raises(UserError, match=r"appended\.json: .*; give another --cache or delete this folder$") as error:
        extract(corpus, store, extractor)
    assert "\n" not in str(error.value)
    assert arrays(store) == before
    assert len(np.load(tmp_path / "other" / "valid.npy")) == 3


def test_a_moved_picture_keeps_its_row_but_with_boxes_by_name(tmp_path, corpus, extractor, monkeypatch):
    boxes = tmp_path / "boxes.npz"
    write_boxes(boxes, corpus)
    before = np.array(extract(corpus, tmp_path / "store", extractor).regions)
    extract(corpus, tmp_path / "boxed", extractor, boxes=boxes)
    names = ["z/photo003.jpg" if name == "photo003.jpg" else name for name in corpus.image_ids[1:]]
    (tmp_path / "photos" / "z").mkdir()
    corpus.image_paths[3].rename(tmp_path / "photos" / "z" / "photo003.jpg")
    paths = [tmp_path / "photos" / name for name in names]
    moved = SimpleNamespace(name="pictures", image_ids=tuple(names), image_paths=tuple(paths))
    read = []
    monkeypatch.setattr(
        describer, "read_picture", lambda path, side: read.append(path.name) or read_picture(path, side)
    )
    after = extract(moved, tmp_path / "store", extractor, may_lose=True)
    np.testing.assert_array_equal(after.regions[:], before[1:])
    assert (read, after.image_ids) == ([], tuple(names))
    extract(moved, tmp_path / "boxed", extractor, boxes=boxes, may_lose=True)
    assert read == ["photo003.jpg"]


def with_moved(corpus, folder):
    """The corpus where the third picture has gone to another folder, and so stands last; gone and new ones in order."""
    (folder / "z").mkdir()
    corpus.image_paths[2].rename(folder / "z" / "moved.jpg")
    names = [name for name in corpus.image_ids if name != corpus.image_ids[2]] + ["z/moved.jpg"]
    return SimpleNamespace(name=corpus.name, image_ids=tuple(names), image_paths=tuple(folder / name for name in names))


def in_order(corpus, store):
    """The corpus as an index of a folder has it."""
    folder, names = corpus.image_paths[0].parent, growing.in_store_order(store, corpus.image_ids, keep_gone=True)
    return SimpleNamespace(name=corpus.name, image_ids=names, image_paths=tuple(folder / name for name in names))


def test_few_pictures_that_are_gone_or_moved_leave_all_other_rows_as_they_are(tmp_path, corpus, extractor, monkeypatch):
    store = tmp_path / "store"
    reader = extract(first_of(corpus, 9), store, extractor)  # has it open all the time
    before, inode = np.array(reader.regions), os.stat(store / "regions.npy").st_ino
    moved = in_order(with_moved(corpus, tmp_path / "photos"), store)
    assert moved.image_ids == (*corpus.image_ids, "z/moved.jpg")
    read = []
    monkeypatch.setattr(
        describer, "read_picture", lambda path, side: read.append(path.name) or read_picture(path, side)
    )
    after = extract(moved, store, extractor, may_lose=True)
    assert sorted(read) == ["photo009.jpg", "photo010.jpg"]
    np.testing.assert_array_equal(after.regions[11], before[2])
    np.testing.assert_array_equal(after.regions[:9], before)
    np.testing.assert_array_equal(reader.regions, before)
    assert os.stat(store / "regions.npy").st_ino == inode
    assert after.bad_rows.size == 0
    left = SimpleNamespace(name=corpus.name, image_ids=moved.image_ids[1:], image_paths=moved.image_paths[1:])
    fewer = in_order(SimpleNamespace(**{**vars(left), "image_ids": left.image_ids[:-2]}), store)
    assert fewer.image_ids == left.image_ids[:-2]  # three of twelve are too many: these are copied without them
    extract(fewer, store, extractor, may_lose=True)
    np.testing.assert_array_equal(reader.regions, before)
    assert os.stat(store / "regions.npy").st_ino != inode
    assert growing.in_store_order(store, fewer.image_ids[1:], keep_gone=True) == fewer.image_ids
    assert growing.in_store_order(store, fewer.image_ids[1:], keep_gone=False) == fewer.image_ids[1:]
    assert growing.in_store_order(tmp_path / "none", ("b", "a"), keep_gone=True) == ("b", "a")


def test_a_picture_that_is_gone_and_could_not_be_read_is_dropped(tmp_path, corpus, extractor):
    spoil(corpus.image_paths[4])
    extract(corpus, tmp_path / "store", extractor, skip_bad_images=True)
    names = tuple(name for name in corpus.image_ids if name != corpus.image_ids[4])
    assert growing.in_store_order(tmp_path / "store", names, keep_gone=True) == names


def test_a_kill_at_any_point_of_a_move_loses_nothing(tmp_path, corpus, extractor, monkeypatch):
    extract(first_of(corpus, 9), tmp_path / "begun", extractor)
    moved = in_order(with_moved(corpus, tmp_path / "photos"), tmp_path / "begun")
    fresh = np.array(extract(moved, tmp_path / "begun", extractor, may_lose=True).regions)
    shutil.rmtree(tmp_path / "begun")
    (tmp_path / "photos" / "z" / "moved.jpg").rename(corpus.image_paths[2])
    extract(first_of(corpus, 9), tmp_path / "begun", extractor)
    corpus.image_paths[2].rename(tmp_path / "photos" / "z" / "moved.jpg")
    describe = describer.Describer(moved, extractor, "grid", 10, 4)
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for step in range(1, 200, 3):
        store = tmp_path / f"store{step}"
        shutil.copytree(tmp_path / "begun", store)
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            calls = kill_at(patch, step)
            growing.grow_store(store, describe.plan, describer.UNREAD, files=describe.paths)
        found = extract(moved, store, extractor, may_lose=True)
        np.testing.assert_array_equal(found.regions[:], fresh)
        assert found.bad_rows.size == 0
        if len(calls) < step:
            break
    assert 20 < step < 190


def test_a_damaged_row_is_not_given_to_a_moved_picture(tmp_path, corpus, extractor):
    store = tmp_path / "store"
    before = np.array(extract(first_of(corpus, 9), store, extractor).regions)
    regions = np.load(store / "regions.npy", mmap_mode="r+")
    regions[2] = 0
    regions.flush()
    moved = in_order(with_moved(corpus, tmp_path / "photos"), store)
    after = extract(moved, store, extractor, may_lose=True, verify=False)
    np.testing.assert_allclose(after.regions[11].astype(np.float32), before[2].astype(np.float32), atol=1e-3)
