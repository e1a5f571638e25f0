"""Which boxes of a photo are its objects, and the mean feature of a box on maps where it is known."""

from pathlib import Path

import numpy as np
import pytest
from feature_fixtures import tiny_extractor

from bssan_tf.errors import UserError
from bssan_tf.features.objects import BoxesFile, empty_objects, grid_boxes, roi_means, top_objects


def ramp(size=14):
    """A map (1, size, size, 2) whose value at each point is its x and y as fractions of the picture."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centres, centres)
    return np.stack([x, y], -1)[None]


def roi_by_hand(feature_map, box):
    """RoI Align with one sample in each of 7x7 bins, the map continued unchanged beyond its edge."""
    height, width, channels = feature_map.shape
    total = np.zeros(channels)
    x1, y1, x2, y2 = box
    for i in range(7):
        for j in range(7):
            y = min(max((y1 + (y2 - y1) * (i + 0.5) / 7) * height - 0.5, 0), height - 1)
            x = min(max((x1 + (x2 - x1) * (j + 0.5) / 7) * width - 0.5, 0), width - 1)
            top, left = int(min(y, height - 2)), int(min(x, width - 2))
            dy, dx = y - top, x - left
            cells = feature_map[top : top + 2, left : left + 2]
            total += (
                cells[0, 0] * (1 - dy) * (1 - dx)
                + cells[0, 1] * (1 - dy) * dx
                + cells[1, 0] * dy * (1 - dx)
                + cells[1, 1] * dy * dx
            )
    return total / 49


@pytest.mark.parametrize("box", [(0.2, 0.3, 0.6, 0.9), (0.25, 0.05, 0.3, 0.95), (0, 0, 1, 1), (0.5, 0.5, 0.52, 0.53)])
def test_on_a_ramp_the_mean_is_the_middle_of_the_box(box):
    x1, y1, x2, y2 = box
    found = roi_means(ramp(), np.array([[box]], np.float32)).numpy()[0, 0]
    np.testing.assert_allclose(found, [(x1 + x2) / 2, (y1 + y2) / 2], atol=1e-5)


def test_the_whole_photo_gives_the_mean_of_the_map():
    maps = np.random.default_rng(0).normal(size=(2, 14, 14, 3)).astype(np.float32)
    found = roi_means(maps, np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1, 1))).numpy()
    np.testing.assert_allclose(found[:, 0], maps.mean((1, 2)), atol=1e-5)


def test_a_box_inside_one_lit_cell_and_one_far_from_it():
    feature_map = np.zeros((1, 14, 14, 1), np.float32)
    feature_map[0, 3, 5] = 1.0  # row 3, column 5
    cell = np.array([5 / 14, 3 / 14, 6 / 14, 4 / 14], np.float32)
    swapped = cell[[1, 0, 3, 2]]
    found = roi_means(feature_map, np.stack([cell, swapped])[None]).numpy()[0, :, 0]
    # on each axis the samples stand at -3/7 ... 3/7 of a cell from its centre: 1 - mean(|k|/7) = 1 - 12/49
    np.testing.assert_allclose(found, [(37 / 49) ** 2, 0], atol=1e-6)


def test_at_the_edges_the_map_goes_on():
    ones = np.ones((1, 14, 14, 1), np.float32)
    edges = [(0, 0, 0.02, 0.02), (0.98, 0.98, 1, 1), (0, 0.5, 1, 0.51), (0.99, 0, 1, 1)]
    np.testing.assert_allclose(roi_means(ones, np.array([edges], np.float32)), 1.0, atol=1e-6)


@pytest.mark.parametrize("shape", [(14, 14), (5, 9)])
def test_random_boxes_against_a_reference(shape):
    generator = np.random.default_rng(1)
    maps = generator.normal(size=(3, *shape, 4)).astype(np.float32)
    corners = np.sort(generator.uniform(0, 1, (3, 6, 2, 2)), axis=2)
    boxes = corners.reshape(3, 6, 4).astype(np.float32)
    found = roi_means(maps, boxes).numpy()
    assert found.shape == (3, 6, 4)
    for b in range(3):
        for p in range(6):
            np.testing.assert_allclose(found[b, p], roi_by_hand(maps[b], boxes[b, p]), atol=1e-4)


def test_top_objects_by_score_as_fractions():
    detections = np.array(
        [
            [10, 20, 60, 40, 0.3, 7],
            [0, 0, 50, 25, 0.9, 2],
            [5, 5, 5, 30, 0.8, 1],  # no width
            [20, 10, 40, 30, 0.0, 1],  # no score
            [90, 40, 120, 80, 0.5, 3],  # half outside
            [-30, 0, -10, 20, 0.7, 4],  # outside
            [0, 0, 100, 50, 0.3, 8],  # the same score as the first, after it
        ],
        np.float32,
    )
    found = top_objects(detections, size=(50, 100), count=5)
    expected = [[0, 0, 0.5, 0.5], [0.9, 0.8, 1, 1], [0.1, 0.4, 0.6, 0.8], [0, 0, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(found["boxes"], expected, atol=1e-6)
    np.testing.assert_array_equal(found["classes"], [2, 3, 7, 8, -1])
    np.testing.assert_allclose(found["scores"], [0.9, 0.5, 0.3, 0.3, 0])
    np.testing.assert_array_equal(found["valid"], [True] * 4 + [False])
    assert {k: (v.dtype, v.shape) for k, v in found.items()} == {
        k: (v.dtype, v.shape) for k, v in empty_objects(5).items()
    }
    fewer = top_objects(detections, size=(50, 100), count=2)
    np.testing.assert_array_equal(fewer["classes"], [2, 3])
    assert not top_objects(np.zeros((0, 6), np.float32), (50, 100), 3)["valid"].any()


def test_grid_boxes():
    found = grid_boxes()
    assert found["boxes"].shape == (10, 4)
    np.testing.assert_array_equal(found["boxes"][0], [0, 0, 1, 1])
    np.testing.assert_allclose(found["boxes"][6], [2 / 3, 1 / 3, 1, 2 / 3], atol=1e-6)  # second row, third column
    np.testing.assert_allclose(found["boxes"][7], [0, 2 / 3, 1 / 3, 1], atol=1e-6)
    assert found["valid"].all()
    assert (found["scores"] == 1).all()
    assert (found["classes"] == -1).all()
    assert found["boxes"].max() == 1
    np.testing.assert_array_equal(grid_boxes(12)["valid"], [True] * 10 + [False] * 2)
    assert grid_boxes(4)["boxes"].shape == (4, 4)


def save(path, **changes):
    boxes = np.tile(np.array([1, 2, 30, 40, 0.5, 3], np.float32), (2, 4, 1))
    arrays = {"names": np.array(["a.jpg", "b.jpg"]), "boxes": boxes, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_rows_are_found_by_id_or_by_file_name(tmp_path):
    file = BoxesFile(save(tmp_path / "b.npz", labels=np.array(["cat", "dog", "car", "emu"])))
    assert file.labels == ("cat", "dog", "car", "emu")
    np.testing.assert_array_equal(file.rows(("b.jpg", "17"), ("x/y.jpg", "x/a.jpg")), [1, 0])
    with pytest.raises(UserError, match=r"b\.npz: no row for 1 of 2 images, the first c\.jpg; run the detector"):
        file.rows(("b.jpg", "c.jpg"), ("x/b.jpg", "x/c.jpg"))


POISON = np.tile(np.array([1, 2, np.nan, 40, 0.5, 3], np.float32), (2, 4, 1))


def test_file_names_alone_count_only_where_they_are_of_one_image(tmp_path):
    boxes = np.zeros((2, 4, 6), np.float32)
    ids = ("cats/1.jpg", "dogs/1.jpg")
    bare = BoxesFile(save(tmp_path / "b.npz", names=np.array(["1.jpg", "2.jpg"]), boxes=boxes))
    with pytest.raises(
        UserError, match=r"2 images and 1 of its rows are named 1.jpg; name rows by image, as cats/1.jpg"
    ):
        bare.rows(ids, [Path(name) for name in ids])
    np.testing.assert_array_equal(bare.rows(["cats/1.jpg", "x"], [Path("cats/1.jpg"), Path("dogs/2.jpg")]), [0, 1])
    whole = BoxesFile(save(tmp_path / "b.npz", names=np.array(ids[::-1]), boxes=boxes))
    np.testing.assert_array_equal(whole.rows(ids, [Path(name) for name in ids]), [1, 0])
    with pytest.raises(UserError, match=r"1 images and 2 of its rows are named 1.jpg"):
        whole.rows(["1.jpg"], [Path("images/1.jpg")])
    with pytest.raises(UserError, match=r"no row for 1 of 1 images, the first birds/1.jpg"):
        BoxesFile(save(tmp_path / "b.npz", names=np.array(["cats/1.jpg", "x"]), boxes=boxes)).rows(
            ["birds/1.jpg"], [Path("birds/1.jpg")]
        )


def test_a_bare_name_that_ends_other_names_is_told_by_place(tmp_path):
    """Names by path below a folder: a photo has never the row of one of the same name in another folder."""
    names = np.array(["dog.jpg", "sub/dog.jpg", "b.jpg"])
    file = BoxesFile(save(tmp_path / "b.npz", names=names, boxes=np.zeros((3, 4, 6), np.float32)))
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    photos = [tmp_path / "photos" / name for name in names]
    np.testing.assert_array_equal(file.rows(names, photos), [0, 1, 2])
    np.testing.assert_array_equal(file.rows(["dog.jpg", "b.jpg"], [photos[1], Path("x/b.jpg")]), [1, 2])
    with pytest.raises(UserError, match=r"dog\.jpg may be the photo of its row dog\.jpg or of sub/dog\.jpg; give"):
        file.rows(["dog.jpg"], photos[:1])
    photos[1].write_text("a dog")
    np.testing.assert_array_equal(file.rows(["dog.jpg"], photos[:1]), [0])  # sub/dog.jpg lies beside it
    (tmp_path / "now").symlink_to(tmp_path / "photos" / "sub")
    assert [file.row_at(path) for path in (*photos, tmp_path / "now" / "dog.jpg", "c.jpg")] == [0, 1, 2, 1, None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": None}, "has no array 'names'"),
        ({"boxes": None}, "has no array 'boxes'"),
        ({"names": np.array(["a.jpg"])}, "1 names but 2 rows"),
        ({"names": np.array(["a.jpg", "a.jpg"])}, "occur twice"),
        ({"names": np.array([1, 2])}, "not str"),
        ({"names": np.array(["a.jpg", None], object)}, "not a readable"),
        ({"boxes": np.zeros((2, 4, 5), np.float32)}, r"\(2, 4, 5\), not float \(N, n, 6\)"),
        ({"boxes": np.zeros((2, 4, 6), int)}, "not float"),
        ({"boxes": POISON}, r"a\.jpg has values that are not finite"),
        ({"boxes": np.full((2, 4, 6), 0.5, np.float32)}, "pixels of the photo file are wanted"),
    ],
)
def test_boxes_files_that_are_wrong(tmp_path, changes, words):
    with pytest.raises(UserError, match=rf"--boxes .*b\.npz: .*{words}") as error:
        BoxesFile(save(tmp_path / "b.npz", **changes))
    assert "\n" not in str(error.value)


def test_no_boxes_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        BoxesFile(tmp_path / "b.npz")
    (tmp_path / "b.npz").write_text("hello")
    with pytest.raises(UserError, match="not a readable"):
        BoxesFile(tmp_path / "b.npz")


def test_photos_without_any_detection_are_accepted(tmp_path):
    file = BoxesFile(save(tmp_path / "b.npz", boxes=np.zeros((2, 4, 6), np.float32)))
    assert not top_objects(file.boxes[0], (100, 200), 3)["valid"].any()


def test_describe_gives_zeros_where_there_is_no_object(tmp_path):
    extractor = tiny_extractor(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    boxes = np.tile(np.array([0.1, 0.1, 0.6, 0.7], np.float32), (2, 3, 1))
    valid = np.array([[True, True, False], [False, True, True]])
    objects = extractor.describe(pictures, boxes, valid)["objects"]
    assert objects.shape == (2, 3, 32)
    assert objects.dtype == np.float16
    np.testing.assert_array_equal((objects != 0).any(-1), valid)
    np.testing.assert_array_equal(objects[0, 0], objects[0, 1])
    everything = extractor.describe(pictures, boxes)["objects"]
    assert (everything != 0).any(-1).all()
    whole = extractor.describe(pictures, np.tile(np.array([0, 0, 1, 1], np.float32), (2, 1, 1)))
    mean = whole["regions"].astype(np.float32).mean(1)
    np.testing.assert_allclose(whole["objects"][:, 0], mean, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("number", [-3, 2, 0.5, 1e20])
def test_classes_that_are_none_are_refused(tmp_path, number):
    boxes = np.array([[[1, 1, 5, 5, 0.9, number], [0, 0, 0, 0, 0, 99]]], np.float32)
    np.savez(tmp_path / "b.npz", names=np.array(["a.jpg"]), boxes=boxes, labels=np.array(["dog", "cat"]))
    with pytest.raises(UserError, match=r"b\.npz.*class .*, of 2 classes"):
        BoxesFile(tmp_path / "b.npz")
