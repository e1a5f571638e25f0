"""Annotated photos: VOC's XML, COCO's instances, drawn scenes; and the batches that training makes of them."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from bssan_tf.datasets.scene_pictures import draw_scene, plan_scene
from bssan_tf.errors import UserError
from bssan_tf.features.faster_rcnn.images import prepare
from bssan_tf.features.faster_rcnn.photos import AnnotatedPhotos, draw_scenes, load_instances, load_voc
from bssan_tf.features.faster_rcnn.settings import VOC_LABELS, DetectorConfig, DetectorTraining
from bssan_tf.features.faster_rcnn.training import PhotoStream

OBJECT = """<object><name>{}</name><difficult>{}</difficult>
<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""


def write_voc(root, year, objects, part="trainval"):
    """A VOCdevkit with one photo for each entry of objects: {name: [(label, difficult, x1, y1, x2, y2), ...]}."""
    folder = root / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, found in objects.items():
        Image.new("RGB", (60, 40), "orange").save(folder / "JPEGImages" / f"{name}.jpg")
        text = "".join(OBJECT.format(*one) for one in found)
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation><size/>{text}</annotation>")
    (folder / "ImageSets" / "Main" / f"{part}.txt").write_text("".join(f"{name}\n" for name in objects))


def test_voc_of_two_years(tmp_path):
    write_voc(tmp_path, "2007", {"000005": [("chair", 0, 11, 6, 20, 30), ("person", 1, 1, 1, 60, 40)], "000007": []})
    write_voc(tmp_path, "2012", {"2008_000002": [("tvmonitor", 0, 34.5, 11, 44, 20)]})
    photos = load_voc(tmp_path)
    assert photos.labels == VOC_LABELS
    assert [path.name for path in photos.paths] == ["000005.jpg", "000007.jpg", "2008_000002.jpg"]
    np.testing.assert_array_equal(photos.boxes[0], [[10, 5, 19, 29], [0, 0, 59, 39]])  # counted from 0
    assert [VOC_LABELS[i] for i in photos.classes[0]] == ["chair", "person"]
    assert photos.difficult[0].tolist() == [False, True]
    assert photos.boxes[1].shape == (0, 4)
    np.testing.assert_array_equal(photos.boxes[2], [[33.5, 10, 43, 19]])
    assert load_voc(tmp_path, "2012").paths == photos.paths[2:]
    assert [path.name for path in photos.with_objects().paths] == ["000005.jpg", "2008_000002.jpg"]


def test_voc_that_is_wrong(tmp_path):
    write_voc(tmp_path, "2007", {"a": [("chair", 0, 1, 1, 5, 5)]})
    with pytest.raises(UserError, match=r"--voc .*VOC2012/ImageSets/Main/trainval\.txt not found.*--sets"):
        load_voc(tmp_path)
    xml = tmp_path / "VOC2007" / "Annotations" / "a.xml"
    for text in (
        "<annotation>",
        "<annotation><object><name>unicorn</name></object></annotation>",
        xml.read_text().replace("chair", "chairs"),
        xml.read_text().replace("<xmin>1<", "<xmin>left<"),
    ):
        xml.write_text(text)
        with pytest.raises(UserError, match=r"a\.xml: not (an annotation of VOC|valid XML)"):
            load_voc(tmp_path, "2007")
    xml.unlink()
    with pytest.raises(UserError, match=r"a\.xml: no such file"):
        load_voc(tmp_path, "2007")
    (tmp_path / "VOC2007" / "JPEGImages" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"a\.jpg: not found, but trainval\.txt lists it"):
        load_voc(tmp_path, "2007")


def test_instances_of_coco(tmp_path):
    data = {
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 9, "file_name": "9.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [10, 20, 30, 5], "iscrowd": 0},
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 60, 40], "iscrowd": 1},
            {"image_id": 7, "category_id": 3, "bbox": [5, 5, 0.2, 9]},
            {"image_id": 9, "category_id": 3, "bbox": [1, 1, 2, 2]},
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(data))
    Image.new("RGB", (60, 40)).save(tmp_path / "7.jpg")
    photos = load_instances(tmp_path / "instances.json", tmp_path)
    assert photos.labels == ("car", "dog")
    assert photos.paths == (tmp_path / "7.jpg",)  # the other is not there
    np.testing.assert_array_equal(photos.boxes[0], [[10, 20, 39, 24], [0, 0, 59, 39]])
    assert photos.classes[0].tolist() == [1, 0]
    assert photos.difficult[0].tolist() == [False, True]
    with pytest.raises(UserError, match=r"--images .*none of the 2 photos"):
        load_instances(tmp_path / "instances.json", tmp_path / "elsewhere")
    (tmp_path / "captions.json").write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match=r"captions\.json: not COCO's instances"):
        load_instances(tmp_path / "captions.json", tmp_path)


def test_the_real_instances_of_coco(shared_data):
    folder = shared_data / "coco_mini"
    photos = load_instances(folder / "annotations" / "instances_train2017.json", folder / "images")
    assert len(photos.paths) == 80
    assert len(photos.labels) == 80
    for path, boxes in zip(photos.paths, photos.boxes):
        with Image.open(path) as image:
            assert (boxes >= 0).all()
            assert (boxes <= [image.width, image.height, image.width, image.height]).all()


def test_scenes_are_drawn_once_and_boxes_hold_their_objects(tmp_path):
    photos = draw_scenes(tmp_path, "train", 3)
    stamps = [path.stat().st_mtime_ns for path in photos.paths]
    assert [path.stat().st_mtime_ns for path in draw_scenes(tmp_path, "train", 3).paths] == stamps
    for number, (path, boxes, classes) in enumerate(zip(photos.paths, photos.boxes, photos.classes)):
        scene = plan_scene((0, 20, number))
        names = [photos.labels[kind] for kind in classes]
        assert names == [f"{thing.colour} {thing.shape}" for thing in scene.things]
        drawn, owner = draw_scene(scene)
        assert np.abs(np.asarray(Image.open(path)).astype(int) - drawn).mean() < 6
        for index, box in enumerate(boxes):
            rows, columns = np.nonzero(owner == index)
            np.testing.assert_allclose(box, [columns.min(), rows.min(), columns.max(), rows.max()], atol=1.5)
    assert draw_scenes(tmp_path, "test", 1).paths[0].name != photos.paths[0].name


# ---- batches ----


def stream_of(tmp_path, training, sizes=((40, 60),) * 3, config=None):
    paths = []
    for i, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    boxes = [np.array([[i, 2, 10 + i, 12], [20, 5, 30, 39], [0, 0, 5, 5]][: i + 1], np.float32) for i in range(3)]
    classes = [np.arange(i + 1, dtype=np.int32) for i in range(3)]
    difficult = [np.zeros(1, bool), np.zeros(2, bool), np.array([False, True, False])]
    photos = AnnotatedPhotos(("cat", "dog", "owl"), tuple(paths), tuple(boxes), tuple(classes), tuple(difficult))
    return PhotoStream(photos, config or DetectorConfig(short_side=40, long_side=100), training)


def test_a_round_shows_each_photo_once_as_it_is_and_once_mirrored(tmp_path):
    stream = stream_of(tmp_path, DetectorTraining(photos_per_step=2))
    plain = [np.asarray(Image.open(path)) for path in stream.photos.paths]
    assert stream.round_steps == 3
    for start in (0, 3):  # two rounds
        seen = []
        for step in range(start, start + 3):
            batch = stream.batch(step)
            assert batch["seed"].tolist() == [[0, 2 * step], [0, 2 * step + 1]]
            for pixels, boxes, classes in zip(batch["pixels"], batch["boxes"], batch["classes"]):
                candidates = [(i, flip) for i in range(3) for flip in (False, True)]
                (which,) = [
                    (i, flip)
                    for i, flip in candidates
                    if np.array_equal(pixels, prepare(plain[i][:, ::-1] if flip else plain[i], 40, 100)[0])
                ]
                seen.append(which)
                i, flip = which
                counts = [k for k in range(i + 1) if not stream.photos.difficult[i][k]]
                assert classes[classes > 0].tolist() == [k + 1 for k in counts]
                for k, box in zip(counts, boxes):
                    x1, y1, x2, y2 = stream.photos.boxes[i][k]
                    np.testing.assert_array_equal(box, [59 - x2, y1, 59 - x1, y2] if flip else [x1, y1, x2, y2])
        assert sorted(seen) == sorted(candidates)


def test_boxes_are_scaled_with_their_photo(tmp_path):
    config = DetectorConfig(short_side=80, long_side=1000)
    sizes = ((40, 60), (40, 50), (30, 100))
    stream = stream_of(tmp_path, DetectorTraining(), sizes, config)
    for step in range(stream.round_steps):
        batch = stream.batch(step)
        assert min(batch["pixels"].shape[1:3]) == 80
        scale = 80 / {120: 40, 100: 40, 267: 30}[batch["pixels"].shape[2]]
        assert batch["boxes"][0, 0, 3] == pytest.approx(12 * scale)


def test_the_order_depends_on_seed_and_step_alone(tmp_path):
    one, other = (stream_of(tmp_path, DetectorTraining()) for _ in range(2))
    wanted = [one.batch(step) for step in range(9)]
    for step in (7, 0, 4):
        for name, value in other.batch(step).items():
            np.testing.assert_array_equal(value, wanted[step][name])
    third = stream_of(tmp_path, dataclasses.replace(DetectorTraining(), seed=1))
    assert any(not np.array_equal(third.batch(i)["pixels"], wanted[i]["pixels"]) for i in range(6))


def test_batches_that_cannot_be(tmp_path):
    with pytest.raises(UserError, match=r"--photos-per-step 9: there are only 3 photos"):
        stream_of(tmp_path, DetectorTraining(photos_per_step=9))
    stream = stream_of(tmp_path, DetectorTraining(photos_per_step=6), ((40, 60), (40, 60), (50, 60)))
    with pytest.raises(UserError, match=r"--photos-per-step 6: the photos have several sizes; take 1"):
        stream.batch(0)
