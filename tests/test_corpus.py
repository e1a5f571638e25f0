"""Corpus, Split and Grounding on hand-made values; the choice of data set and of its folder."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bssan_tf.datasets import DATASETS, Corpus, Grounding, load_corpus
from bssan_tf.datasets.build_corpus import assemble
from bssan_tf.datasets.files import find_root, read_json, seeded_order
from bssan_tf.errors import UserError


def make(**changes) -> Corpus:
    """Four images; captions not grouped by image, to see that a split groups them."""
    fields = {
        "name": "tiny",
        "image_ids": ("a", "b", "c", "d"),
        "image_paths": tuple(Path(f"{name}.jpg") for name in "abcd"),
        "captions": ("b0", "a0", "c0", "b1", "d0", "c1", "c2"),
        "image_of_caption": np.array([1, 0, 2, 1, 3, 2, 2]),
        "splits": {"train": [2, 1], "val": [0], "test": [3]},
    }
    return Corpus(**{**fields, **changes})


def test_split_is_reindexed_in_the_order_of_its_list():
    train = make().split("train")
    assert train.image_ids == ("c", "b")
    assert train.image_paths == (Path("c.jpg"), Path("b.jpg"))
    assert train.captions == ("c0", "c1", "c2", "b0", "b1")
    np.testing.assert_array_equal(train.image_of_caption, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(train.image_rows, [2, 1])
    np.testing.assert_array_equal(train.caption_rows, [2, 5, 6, 0, 3])
    assert (train.corpus_name, train.name) == ("tiny", "train")
    assert {train.image_of_caption.dtype, train.image_rows.dtype, train.caption_rows.dtype} == {np.dtype("int64")}


def test_dev_is_val():
    assert make().split("dev").image_ids == make().split("val").image_ids == ("a",)


def test_unknown_split_names_those_there_are():
    with pytest.raises(UserError, match=r"tiny: has no split 'test'; choose one of train, val"):
        make(splits={"train": [0], "val": [1]}).split("test")


def test_captions_per_image():
    train = make().split("train").captions_per_image(2)
    assert train.captions == ("c0", "c1", "b0", "b1")
    np.testing.assert_array_equal(train.image_of_caption, [0, 0, 1, 1])
    np.testing.assert_array_equal(train.caption_rows, [2, 5, 0, 3])
    assert make().split("train").captions_per_image(99).captions == make().split("train").captions


def test_sample_images_keeps_order_and_all_captions():
    n = 50
    corpus = make(
        image_ids=[f"i{i}" for i in range(n)],
        image_paths=[Path()] * n,
        captions=[f"{i}-{k}" for i in range(n) for k in range(2)],
        image_of_caption=np.repeat(np.arange(n), 2),
        splits={"test": np.arange(n)[::-1]},
    )
    split = corpus.split("test")
    ten = split.sample_images(10, seed=3)
    assert len(ten.image_ids) == 10
    assert (np.diff(ten.image_rows) < 0).all()  # the order of the list, which runs backwards
    assert ten.captions == tuple(f"{name[1:]}-{k}" for name in ten.image_ids for k in range(2))
    assert [corpus.captions[row] for row in ten.caption_rows] == list(ten.captions)
    assert [corpus.image_ids[row] for row in ten.image_rows] == list(ten.image_ids)
    assert split.sample_images(10, seed=3).image_ids == ten.image_ids
    assert split.sample_images(10, seed=4).image_ids != ten.image_ids
    assert set(split.sample_images(5, seed=3).image_ids) < set(ten.image_ids)
    assert split.sample_images(n) is split


@pytest.mark.parametrize("method", ["sample_images", "captions_per_image"])
def test_subsets_must_not_be_empty(method):
    with pytest.raises(ValueError, match=r"n is 0, must be positive"):
        getattr(make().split("train"), method)(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_ids": ("a", "b", "c", "a")}, "an id occurs twice"),
        ({"image_paths": ()}, "lengths differ"),
        ({"captions": ("x",)}, "lengths differ"),
        ({"image_of_caption": [1, 0, 2, 1, 4, 2, 2]}, r"0 to 4, must lie in \[0, 4\)"),
        ({"image_of_caption": [1, 0, 2, 1, -1, 2, 2]}, "must lie in"),
        ({"image_of_caption": [1.0, 0, 2, 1, 3, 2, 2]}, "integers, is float64"),
        ({"image_of_caption": [1, 0, 2, 1, 2, 2, 2]}, "an image has no caption"),
        ({"splits": {"train": [0, 1], "val": [1]}}, "splits: an image occurs twice"),
        ({"splits": {"train": [4]}}, "split train"),
    ],
)
def test_corpus_that_does_not_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_arrays_are_copies_that_can_not_be_changed():
    owners = np.array([1, 0, 2, 1, 3, 2, 2])
    corpus = make(image_of_caption=owners)
    owners[0] = 3
    assert corpus.image_of_caption[0] == 1
    with pytest.raises(ValueError, match=r"read-only"):
        corpus.image_of_caption[0] = 0
    assert pickle.loads(pickle.dumps(corpus)).captions == corpus.captions


def grounding(**changes) -> Grounding:
    box = [[0, 0, 0.5, 0.5], [0.5, 0.25, 1, 1]]
    fields = {
        "boxes": (box, box[:1], [], box),
        "labels": (("red circle", "blue star"), ("red circle",), (), ("green ring", "red star")),
        "named": (((0, 0),), ((1, 1), (4, 0)), (), (), ((2, 1),), (), ()),
    }
    return Grounding(**{**fields, **changes})


def test_grounding_is_kept():
    corpus = make(grounding=grounding())
    assert corpus.grounding.boxes[2].shape == (0, 4)
    assert corpus.grounding.boxes[0].dtype == np.float32
    assert corpus.grounding.boxes[0][1].tolist() == [0.5, 0.25, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ((), (), (), ())}, "image 0: 2 boxes, 0 labels"),
        ({"labels": ()}, "lengths differ"),
        (
            {"boxes": ([[0, 0, 1, 2], [0, 0, 1, 1]], [[0, 0, 1, 1]], [], [[0, 0, 1, 1]] * 2)},
            "image 0: not boxes",
        ),
        ({"boxes": ([[0, 0, 1, 1]] * 2, [[0.5, 0, 0.5, 1]], [], [[0, 0, 1, 1]] * 2)}, "image 1: not boxes"),
    ],
)
def test_grounding_that_does_not_fit_together(changes, message):
    with pytest.raises(ValueError, match=message):
        grounding(**changes)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (((), (), ((0, 0),), (), (), (), ()), r"caption 2: \(0, 0\)"),  # image c has no object
        ((((0, 1),), (), (), (), (), (), ()), r"caption 0: \(0, 1\)"),  # image b has one
        ((((-1, 0),), (), (), (), (), (), ()), r"caption 0: \(-1, 0\)"),
        ((), "lengths differ"),
    ],
)
def test_grounding_must_fit_the_corpus(named, message):
    with pytest.raises(ValueError, match=message):
        make(grounding=grounding(named=named))


def test_cache_key_tells_lists_apart():
    assert make().cache_key == "tiny"
    assert make(split_lists="own").cache_key == "tiny"
    assert make(split_lists="karpathy").cache_key == "tiny-karpathy"
    assert make(split_lists="own", place="0a1b").cache_key == "tiny-0a1b"


def test_assemble_leaves_nothing_silently(tmp_path):
    def build(**changes):
        values = {
            "splits": {"val": ["v"], "train": ["t", "u"]},
            "captions": {"t": ["t0", "t1"], "u": ["u0"], "v": ["v0"], "unlisted": ["x"]},
            "photos": {name: tmp_path / name for name in "tuv"},
        }
        return assemble("set", tmp_path, photo_place="in images/", **{**values, **changes})

    whole = build(published={"train": 2, "val": 1})
    assert whole.official
    assert whole.image_ids == ("t", "u", "v")  # train, val, test, whatever the order given
    assert whole.captions == ("t0", "t1", "u0", "v0")
    np.testing.assert_array_equal(whole.image_of_caption, [0, 0, 1, 2])
    assert list(whole.splits) == ["train", "val"]
    with pytest.raises(UserError, match=r"train lists 2 images, published are 3; complete .* --allow-partial"):
        build(published={"train": 3})
    with pytest.raises(UserError, match=r"1 of 3 images have no caption \(the first: u\)"):
        build(captions={"t": ["t0"], "v": ["v0"], "u": []})
    with pytest.raises(UserError, match=r"2 of 3 images have no photo file in images/ \(the first: t\)"):
        build(photos={"v": tmp_path / "v"})
    with pytest.raises(UserError, match=r"u is listed in train and again in val; remove one"):
        build(splits={"train": ["t", "u"], "val": ["u"]}, allow_partial=True)
    with pytest.raises(UserError, match=r"t is listed in train and again in train"):
        build(splits={"train": ["t", "t"]})
    with pytest.raises(UserError, match=r"no image is left in .*: 3 of 3 images have no photo file"):
        build(photos={}, allow_partial=True)
    part = build(photos={"u": tmp_path / "u"}, allow_partial=True)
    assert (part.image_ids, list(part.splits), part.official) == (("u",), ["train"], False)
    assert build(photos={}, need_images=False).image_paths[0] == tmp_path / "images" / "t"


def test_seeded_order_is_pinned_and_does_not_depend_on_the_others():
    names = [f"{i}.jpg" for i in range(8)]
    order = seeded_order(names, seed=0)
    # the order of `printf 0:N.jpg | sha256sum` over N
    assert order == [f"{i}.jpg" for i in (2, 3, 1, 5, 0, 4, 7, 6)]
    assert seeded_order(reversed(names), seed=0) == order
    assert seeded_order(names, seed=1) != order
    assert [name for name in seeded_order([*names, "new.jpg"], seed=0) if name != "new.jpg"] == order


def test_root_is_the_flag_then_the_variable_then_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BSSAN_DATA", raising=False)
    with pytest.raises(UserError, match=r"coco: no folder data/coco \(\$BSSAN_DATA is not set\).*--root; LAYOUT"):
        find_root("coco", None, "LAYOUT")
    (tmp_path / "data" / "coco").mkdir(parents=True)
    assert find_root("coco", None, "") == Path("data/coco")
    monkeypatch.setenv("BSSAN_DATA", str(tmp_path / "all"))
    assert find_root("coco", None, "") == Path("data/coco")
    (tmp_path / "all" / "coco").mkdir(parents=True)
    assert find_root("coco", None, "") == tmp_path / "all" / "coco"
    assert find_root("coco", tmp_path, "") == tmp_path
    with pytest.raises(UserError, match=r"coco: --root nowhere is not a folder; LAYOUT"):
        find_root("coco", Path("nowhere"), "LAYOUT")
    with pytest.raises(UserError, match=r"coco2: no folder .*all/coco2 or data/coco2; put it there"):
        find_root("coco2", None, "LAYOUT")


@pytest.mark.parametrize("data", [name for name in DATASETS if name != "scenes"])
def test_absent_data_set_is_one_line_with_files_and_owners(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BSSAN_DATA", raising=False)
    (tmp_path / "empty").mkdir()
    for root in (None, tmp_path / "empty"):
        with pytest.raises(UserError) as error:
            load_corpus(data, root=root)
        message = str(error.value)
        assert message.startswith(f"{data}: ")
        assert "\n" not in message
        assert str(root or f"data/{data}") in message
        for part in {
            "flickr8k": ["Flickr8k.token.txt", "Flickr_8k.devImages.txt", "https://forms.illinois.edu/"],
            "flickr30k": ["results_20130124.token", "test.txt", "https://shannon.cs.illinois.edu/"],
            "coco": ["captions_train2014.json", "val2014/", "https://cocodataset.org/#download"],
            "folder": ["captions.csv", "captions.jsonl", "image,caption"],
        }[data]:
            assert part in message
        if data != "folder":
            assert "https://cs.stanford.edu/people/karpathy/deepimagesent/" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"data": "imagenet"},
            "--data imagenet: no such folder, and not one of the data sets scenes, flickr8k, flickr30k, coco; ",
        ),
        (
            {"data": "coco", "split_lists": "mine"},
            "--split mine: not known; choose one of auto, official, karpathy, random",
        ),
        ({"data": "scenes", "split_lists": "karpathy"}, "--split karpathy: scenes has no such lists"),
        ({"data": "scenes", "root": "x"}, "--root x: scenes are drawn into the cache; .* --cache"),
        ({"data": ".", "root": "x"}, "--root x: --data . is a folder already"),
    ],
)
def test_flags_that_do_not_fit(values, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load_corpus(**values)


def test_scenes_are_drawn_into_the_cache(tmp_path):
    corpus = load_corpus("scenes", cache=tmp_path, scene_sizes={"train": 3, "val": 1, "test": 2})
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 3, "val": 1, "test": 2}
    assert corpus.grounding is not None
    assert not corpus.official
    assert all(tmp_path / "scenes" in path.parents and path.is_file() for path in corpus.image_paths)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', "x.json: not valid JSON .* that the download is complete"),
        (b"\xff\xfe{}", "x.json: is UTF-16, and UTF-8 is expected"),
        (b"[]", "x.json: is a list, not an object of JSON"),
    ],
)
def test_bad_json(content, message, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "x.json")


def test_data_sets_do_not_import_tensorflow(project):
    code = "import sys; from bssan_tf.datasets import coco, flickr, folder, scenes; "
    code += "sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=project, check=False).returncode == 0
