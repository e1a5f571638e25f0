"""MSCOCO: official annotations and Karpathy's JSON, written small by the tests, and the real val2017."""

import hashlib
import json
import logging

import pytest

from bssan_tf.datasets import coco, load_corpus
from bssan_tf.errors import UserError


def name_of(number: int, part: str) -> str:
    return f"{number:012d}.jpg" if part.endswith("2017") else f"COCO_{part}_{number:012d}.jpg"


def write_annotations(root, part, numbers, captions=1):
    """An official file; annotations run backwards, so that images must be found by their id."""
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name_of(i, part), "height": 1, "width": 1} for i in numbers]
    annotations = [
        {"image_id": i, "id": 10 * i + k, "caption": f" Caption {k}\nof {i}.\n"}
        for k in range(captions)
        for i in reversed(numbers)
    ]
    path = folder / f"captions_{part}.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "licenses": []}))
    return path


def write_photos(folder, part, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for i in numbers:
        (folder / name_of(i, part)).touch()


@pytest.fixture
def small(monkeypatch):
    """The published sizes, scaled down: 6 train images; of 10 val images 4 for validation and 2 for test."""
    monkeypatch.setattr(coco, "ANNOTATED", {"2014": {"train": 6, "val": 10}, "2017": {"train": 6, "val": 6}})
    monkeypatch.setattr(coco, "KARPATHY_SIZES", {"train": 4, "val": 1, "test": 1})
    monkeypatch.setattr(coco, "VAL", 4)
    monkeypatch.setattr(coco, "TEST", 2)


TRAIN, VAL = range(1, 7), range(101, 111)


def test_official_2014(tmp_path, small):
    write_annotations(tmp_path, "train2014", TRAIN, captions=2)
    write_annotations(tmp_path, "val2014", VAL)
    write_photos(tmp_path / "train2014", "train2014", TRAIN)
    write_photos(tmp_path / "val2014", "val2014", VAL)
    corpus = load_corpus("coco", root=tmp_path)
    assert (corpus.official, corpus.split_lists, corpus.cache_key) == (True, "official", "coco")
    train = corpus.split("train")
    assert train.image_ids == tuple(name_of(i, "train2014") for i in TRAIN)
    assert train.captions[:3] == ("Caption 0 of 1.", "Caption 1 of 1.", "Caption 0 of 2.")
    assert train.image_paths[0] == tmp_path / "train2014" / "COCO_train2014_000000000001.jpg"
    hashed = sorted(
        (hashlib.sha256(f"0:{name_of(i, 'val2014')}".encode()).hexdigest(), name_of(i, "val2014")) for i in VAL
    )
    assert corpus.split("val").image_ids == tuple(name for _, name in hashed[:4])
    assert corpus.split("test").image_ids == tuple(name for _, name in hashed[4:6])
    assert len(corpus.image_ids) == 12  # the other four of val2014 are not used


@pytest.mark.parametrize("folder", ["", "images"])
def test_official_2017(tmp_path, small, folder):
    write_annotations(tmp_path, "train2017", TRAIN)
    write_annotations(tmp_path, "val2017", VAL[:6])
    write_photos(tmp_path / folder / "train2017", "train2017", TRAIN)
    write_photos(tmp_path / folder / "val2017", "val2017", VAL[:6])
    corpus = load_corpus("coco", root=tmp_path)
    assert (corpus.official, corpus.split_lists, corpus.cache_key) == (True, "2017", "coco-2017")
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 6, "val": 4, "test": 2}
    assert corpus.image_paths[0] == tmp_path / folder / "train2017" / "000000000001.jpg"


def test_2014_comes_first_where_both_years_are_whole(tmp_path, small):
    for year in ("2014", "2017"):
        write_annotations(tmp_path, f"train{year}", TRAIN)
        write_annotations(tmp_path, f"val{year}", VAL)
    assert load_corpus("coco", root=tmp_path, need_images=False).split_lists == "official"
    (tmp_path / "annotations" / "captions_train2014.json").unlink()
    with pytest.raises(UserError, match=r"captions_val2017.json lists 10 images, published are 6"):
        load_corpus("coco", root=tmp_path, need_images=False)


def test_photos_of_the_other_year_are_found_by_number(tmp_path, small):
    write_annotations(tmp_path, "train2014", TRAIN)
    write_annotations(tmp_path, "val2014", VAL)
    write_photos(tmp_path / "train2017", "train2017", [*TRAIN, *VAL])
    corpus = load_corpus("coco", root=tmp_path)
    assert corpus.image_ids[0] == "COCO_train2014_000000000001.jpg"
    assert corpus.image_paths[0] == tmp_path / "train2017" / "000000000001.jpg"


def karpathy_image(number, part, split):
    return {
        "filepath": part,
        "filename": name_of(number, part),
        "cocoid": number,
        "split": split,
        "sentences": [{"raw": f"About {number}.", "tokens": ["about", str(number)]}],
    }


@pytest.mark.parametrize("place", ["", "annotations", "karpathy"])
def test_karpathy_counts_restval_as_train(tmp_path, small, place):
    images = [karpathy_image(i, "train2014", "train") for i in (1, 2)]
    images += [karpathy_image(101, "val2014", "test"), karpathy_image(102, "val2014", "val")]
    images += [karpathy_image(i, "val2014", "restval") for i in (103, 104)]
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    write_photos(tmp_path / "train2014", "train2014", (1, 2))
    write_photos(tmp_path / "val2014", "val2014", (101, 102, 103, 104))
    corpus = load_corpus("coco", root=tmp_path, split_lists="karpathy")
    assert (corpus.official, corpus.cache_key) == (True, "coco-karpathy")
    assert corpus.split("train").captions == ("About 1.", "About 2.", "About 103.", "About 104.")
    assert corpus.split("test").image_paths == (tmp_path / "val2014" / "COCO_val2014_000000000101.jpg",)
    with pytest.raises(
        UserError, match=r"coco: no caption annotations found in .* --split karpathy takes it; expected"
    ):
        load_corpus("coco", root=tmp_path, split_lists="official")
    assert load_corpus("coco", root=tmp_path).split_lists == "karpathy"  # what is there


@pytest.mark.large
def test_published_sizes_are_asserted(tmp_path):
    """Decision 14 at full size: 82,783, and 4,000 + 1,000 of the 40,504 of val2014."""
    write_annotations(tmp_path, "train2014", range(1, 82_784))
    write_annotations(tmp_path, "val2014", range(200_001, 240_505))
    corpus = load_corpus("coco", root=tmp_path, need_images=False)
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {
        "train": 82_783,
        "val": 4000,
        "test": 1000,
    }
    assert corpus.official
    assert coco.ANNOTATED["2017"] == {"train": 118_287, "val": 5_000}
    assert coco.KARPATHY_SIZES == {"train": 113_287, "val": 5_000, "test": 5_000}
    write_annotations(tmp_path, "val2014", range(200_001, 240_504))
    with pytest.raises(UserError, match=r"coco: captions_val2014.json lists 40,503 images, published are 40,504;"):
        load_corpus("coco", root=tmp_path, need_images=False)


def test_missing_part_photo_and_caption(tmp_path, small, caplog):
    path = write_annotations(tmp_path, "train2014", TRAIN)
    data = json.loads(path.read_text())
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] != 3]
    path.write_text(json.dumps(data))
    write_photos(tmp_path / "train2014", "train2014", (1, 2, 3, 4, 5))
    problems = [
        "captions_val2014.json is missing",
        "1 of 6 images have no caption (the first: COCO_train2014_000000000003.jpg)",
        "1 of 5 images have no photo file in train2014/ and val2014/ (or train2017/ and val2017/; also "
        f"inside images/) of {tmp_path} (the first: COCO_train2014_000000000006.jpg)",
    ]
    with pytest.raises(UserError) as error:
        load_corpus("coco", root=tmp_path)
    assert str(error.value).startswith(f"coco: {'; '.join(problems)}; complete ")
    with caplog.at_level(logging.WARNING):
        corpus = load_corpus("coco", root=tmp_path, allow_partial=True)
    assert [record.getMessage() for record in caplog.records] == [f"coco: {text}" for text in problems]
    assert [int(name[-6:-4]) for name in corpus.image_ids] == [1, 2, 4, 5]
    assert (list(corpus.splits), corpus.official) == (["train"], False)


def test_small_val_file_is_divided_four_to_one():
    names = [f"{i}.jpg" for i in range(12)]
    parts = coco.divide_val(names)
    assert (len(parts["val"]), len(parts["test"])) == (9, 3)
    assert sorted(parts["val"] + parts["test"]) == sorted(names)
    assert coco.divide_val([]) == {"val": [], "test": []}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"images": []}, r"not COCO's caption annotations \(KeyError: 'annotations'\)"),
        ({"images": [{"id": 1}], "annotations": []}, r"KeyError: 'file_name'"),
        ({"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1}]}, "KeyError: 'caption'"),
        ({"images": 5, "annotations": []}, "TypeError"),
        (
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 2, "caption": "x"}]},
            r"annotations\[0\]: 'images' has no image 2",
        ),
        (
            {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": None}]},
            "AttributeError",
        ),
    ],
)
def test_malformed_annotations(tmp_path, data, message):
    (tmp_path / "captions_val2017.json").write_text(json.dumps(data))  # beside no folder annotations/: taken, too
    with pytest.raises(UserError, match=rf"captions_val2017.json: .*{message}"):
        load_corpus("coco", root=tmp_path, allow_partial=True)


def test_karpathy_file_absent(tmp_path):
    with pytest.raises(UserError, match=r"coco: dataset_coco.json not found in .*deepimagesent"):
        load_corpus("coco", root=tmp_path, split_lists="karpathy")


@pytest.mark.large
def test_real_coco_mini(shared_data):
    root = shared_data / "coco_mini"
    with pytest.raises(UserError, match=r"coco: train lists 80 images, published are 118,287"):
        load_corpus("coco", root=root)
    corpus = load_corpus("coco", root=root, allow_partial=True)
    assert {name: len(rows) for name, rows in corpus.splits.items()} == {"train": 80}
    assert len(corpus.captions) == 400
    assert all(path.is_file() for path in corpus.image_paths)

    text = load_corpus("coco", root=root, allow_partial=True, need_images=False)
    assert {name: len(rows) for name, rows in text.splits.items()} == {"train": 80, "val": 4000, "test": 1000}
    assert len(text.captions) == 400 + 25_014
    assert text.cache_key == "coco-2017"
    data = json.loads((root / "annotations" / "captions_val2017.json").read_text())
    number = next(image["id"] for image in data["images"] if image["file_name"] == text.split("test").image_ids[0])
    expected = [" ".join(a["caption"].split()) for a in data["annotations"] if a["image_id"] == number]
    assert list(text.split("test").sample_images(1000).captions[: len(expected)]) == expected


def test_names_that_end_in_the_same_number_keep_their_own_photos(tmp_path, small):
    """VizWiz numbers each part from 0; its names are no COCO names."""
    numbers = range(4)
    for part in ("train", "val"):
        path = write_annotations(tmp_path, f"{part}2017", numbers)
        data = json.loads(path.read_text())
        for image in data["images"]:
            image["file_name"] = f"VizWiz_{part}_{image['id']:08d}.jpg"
        path.write_text(json.dumps(data))
        (tmp_path / part).mkdir()
        for i in numbers:
            (tmp_path / part / f"VizWiz_{part}_{i:08d}.jpg").write_text(part)
    corpus = load_corpus("coco", root=tmp_path, allow_partial=True)
    assert len(corpus.image_ids) == 8
    assert [path.name for path in corpus.image_paths] == list(corpus.image_ids)


def test_scenes_of_one_number_in_karpathys_format(tmp_path, small):
    names = [f"{scene}_{i}.jpg" for scene in ("airport", "beach") for i in (1, 2)]
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": name}]}
        for name, split in zip(names, ("train", "train", "val", "test"))
    ]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / "images" / name).write_text(name)
    corpus = load_corpus("coco", root=tmp_path, split_lists="karpathy", allow_partial=True)
    assert [path.name for path in corpus.image_paths] == list(corpus.image_ids) == names
    (tmp_path / "images" / "beach_1.jpg").unlink()
    corpus = load_corpus("coco", root=tmp_path, split_lists="karpathy", allow_partial=True)
    assert "beach_1.jpg" not in corpus.image_ids  # no other photo stands in for it


def test_names_that_restart_in_each_part(tmp_path, small):
    for part, numbers in (("train2017", range(4)), ("val2017", range(2, 6))):
        write_annotations(tmp_path, part, numbers)
        (tmp_path / part).mkdir()
        for i in numbers:
            (tmp_path / part / name_of(i, part)).write_text(part)
    corpus = load_corpus("coco", root=tmp_path, allow_partial=True)
    assert corpus.split("train").image_ids == (
        "000000000000.jpg", "000000000001.jpg", "train2017/000000000002.jpg", "train2017/000000000003.jpg",
    )  # fmt: skip
    assert {path.parent.name for path in corpus.split("train").image_paths} == {"train2017"}
    for split in ("val", "test"):
        assert {path.parent.name for path in corpus.split(split).image_paths} == {"val2017"}


def test_a_file_name_with_a_folder(tmp_path, small):
    path = write_annotations(tmp_path, "train2017", range(2))
    data = json.loads(path.read_text())
    for image, folder in zip(data["images"], ("train2017", "elsewhere")):
        image["file_name"] = f"{folder}\\{image['file_name']}"
    path.write_text(json.dumps(data))
    write_photos(tmp_path / "train2017", "train2017", range(2))
    corpus = load_corpus("coco", root=tmp_path, allow_partial=True)
    assert corpus.image_ids == ("train2017/000000000000.jpg", "elsewhere/000000000001.jpg")
    assert corpus.image_paths == tuple(tmp_path / "train2017" / name_of(i, "train2017") for i in range(2))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([(1, "a.jpg"), (2, "a.jpg")], "two images have the file name a.jpg; tell them apart by their folders"),
        ([(1, "a.jpg"), (1, "b.jpg")], r"images\[1\]: id 1 is that of a.jpg; correct it"),
        ([("1", "a.jpg")], r"annotations\[0\]: 'images' has no image 1"),
        ([(1, 5)], "TypeError: file_name is 5"),
        ([([1], "a.jpg")], "TypeError: unhashable"),
    ],
)
def test_images_that_can_not_be_told_apart(tmp_path, images, message):
    images = [{"id": number, "file_name": name} for number, name in images]
    annotations = [{"image_id": 1, "caption": "x"}]
    (tmp_path / "captions_val2017.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    with pytest.raises(UserError, match=rf"captions_val2017.json: .*{message}"):
        load_corpus("coco", root=tmp_path, allow_partial=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [0, 0, float("nan"), 1]}, "bbox .* is not finite"),
        ({"bbox": [10**400, 0, 1, 1]}, "OverflowError"),
        ({"width": "wide"}, "'wide' is no width or height"),
    ],
)
def test_instances_whose_numbers_are_none(tmp_path, change, message):
    image = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
    box = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
    value = {
        "images": [{**image, **change}],
        "annotations": [{**box, **change}],
        "categories": [{"id": 1, "name": "x"}],
    }
    (tmp_path / "i.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match=rf"i.json: not COCO's instances .*{message}"):
        coco.read_instances(tmp_path / "i.json")
