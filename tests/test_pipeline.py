"""Batches as a function of the step: coverage, negatives, lengths, restart."""

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import tiny_config

from bssan_tf.datasets.corpus import Split
from bssan_tf.errors import UserError
from bssan_tf.features.store import Features
from bssan_tf.training.batches import PairStream

IMAGES, L = 20, 9


def make_split():
    """20 pictures in store rows 5 to 24, with 1, 2 or 3 captions each."""
    counts = 1 + np.arange(IMAGES) % 3
    owner = np.repeat(np.arange(IMAGES), counts)
    return Split(
        corpus_name="tiny",
        name="train",
        image_ids=tuple(f"{i}.jpg" for i in range(IMAGES)),
        image_paths=tuple(f"{i}.jpg" for i in range(IMAGES)),
        captions=tuple(f"caption {i}" for i in range(len(owner))),
        image_of_caption=owner,
        image_rows=np.arange(IMAGES) + 5,
        caption_rows=np.arange(len(owner)),
    )


def make_features(config, seed=0):
    """Region value = row number, so that a batch shows which pictures it holds."""
    model, n = config.model, IMAGES + 5
    rng = np.random.default_rng(seed)
    rows = np.arange(n, dtype=np.float16)[:, None, None]
    return Features(
        image_ids=tuple(map(str, range(n))),
        regions=np.broadcast_to(rows, (n, model.D, model.M)).astype(np.float16),
        objects=rng.normal(size=(n, model.P, model.Q)).astype(np.float16),
        valid=np.arange(model.P) < rng.integers(1, model.P + 1, n)[:, None],
    )


def make_tokens(split, seed=0):
    """Token 1 of caption c is c + 1; lengths differ."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((len(split.captions), L), np.int32)
    for c, row in enumerate(tokens):
        row[: rng.integers(1, 6)] = c + 1
    return tokens


def make_stream(**values):
    config = tiny_config(**values)
    split = make_split()
    return PairStream(split, make_features(config), make_tokens(split), config.training)


def pictures_and_captions(batch):
    return batch["regions"][:, 0, 0].astype(int) - 5, batch["tokens"][:, 0] - 1


def test_every_pair_is_right_and_every_caption_has_its_turn():
    stream = make_stream(batch_size=5)
    seen = set()
    for round_number in range(6):  # 6 = least common multiple of 1, 2, 3 captions
        pictures = []
        for place in range(4):
            images, captions = pictures_and_captions(stream.batch(round_number * 4 + place))
            np.testing.assert_array_equal(stream.split.image_of_caption[captions], images)
            pictures += images.tolist()
            seen |= set(captions.tolist())
        assert sorted(pictures) == list(range(IMAGES))
        if round_number == 2:
            assert seen == set(range(len(stream.split.captions)))  # three rounds suffice for three captions


def test_negatives_are_captions_of_other_pictures_and_change_every_round():
    stream = make_stream(batch_size=20, negatives=3)
    batches = [stream.batch(step) for step in range(60)]
    drawn = np.concatenate([b["negative_tokens"][:, :, 0] - 1 for b in batches])
    owners = np.concatenate([pictures_and_captions(b)[0] for b in batches])
    assert (stream.split.image_of_caption[drawn] != owners[:, None]).all()
    assert set(drawn.ravel()) == set(range(len(stream.split.captions)))
    # uniform over captions: 3,600 draws of 39 captions, about 92 each
    assert np.bincount(drawn.ravel()).min() > 50
    assert np.bincount(drawn.ravel()).max() < 140
    # a batch holds all pictures: in their order, two rounds one after the other differ in their negatives
    rounds = [part[np.argsort(owner)] for part, owner in zip(drawn.reshape(60, 20, 3), owners.reshape(60, 20))]
    assert all((one != following).any() for one, following in zip(rounds, rounds[1:]))


def test_captions_are_cut_to_the_longest_of_the_batch():
    stream = make_stream(batch_size=5, negatives=1)
    for step in range(8):
        batch = stream.batch(step)
        both = np.concatenate([batch["tokens"], batch["negative_tokens"][:, 0]])
        assert (both[:, -1] != 0).any()
        assert batch["tokens"].shape[1] == batch["negative_tokens"].shape[2] <= 5


def test_batch_depends_on_the_step_alone():
    one, other = make_stream(batch_size=5), make_stream(batch_size=5)
    ahead = [one.batch(step) for step in range(12)]
    for step in (11, 3, 7):
        for name, value in other.batch(step).items():
            np.testing.assert_array_equal(value, ahead[step][name])
    different = make_stream(batch_size=5, seed=1).batch(3)
    assert (different["regions"] != ahead[3]["regions"]).any()


def long_stream(**values):
    """600 pictures with a caption each, of 1 to 30 words, bell-shaped as real captions are."""
    config = tiny_config(batch_size=10, **values)
    lengths = np.clip(np.random.default_rng(3).normal(12, 4, 600).round(), 1, 30).astype(int)
    tokens = (np.arange(30) < lengths[:, None]) * (np.arange(600)[:, None] + 1)
    split = Split(
        corpus_name="long",
        name="train",
        image_ids=tuple(map(str, range(600))),
        image_paths=tuple(map(str, range(600))),
        captions=tuple(map(str, range(600))),
        image_of_caption=np.arange(600),
        image_rows=np.arange(600),
        caption_rows=np.arange(600),
    )
    regions = np.zeros((600, config.model.D, config.model.M), np.float16)
    return PairStream(split, Features(split.image_ids, regions=regions), tokens.astype(np.int32), config.training)


def padded_share(stream):
    captions = []
    for step in range(2 * stream.round_steps):
        batch = stream.batch(step)
        both = [batch["tokens"][:, None], batch["negative_tokens"]] if "negative_tokens" in batch else [batch["tokens"]]
        captions.append(np.concatenate(both, axis=-2 if len(both) == 1 else 1).ravel())
    return float((np.concatenate(captions) == 0).mean())


@pytest.mark.parametrize("source", ["random", "batch"])
def test_sorting_by_length_leaves_little_padding(source):
    sorted_, plain = (padded_share(long_stream(negative_source=source, length_pool=n)) for n in (32, 1))
    assert plain > 0.25
    assert sorted_ < (0.12 if source == "random" else 0.06)


def test_sorted_batches_come_in_random_order_and_cover_the_round():
    stream = long_stream(negative_source="batch")
    batches = [stream.batch(step)["tokens"] for step in range(stream.round_steps)]
    widths = np.array([tokens.shape[1] for tokens in batches])
    assert abs(np.corrcoef(widths, np.arange(len(widths)))[0, 1]) < 0.5
    assert sorted(np.concatenate([tokens[:, 0] for tokens in batches])) == list(range(1, 601))
    again = [stream.batch(stream.round_steps + step)["tokens"] for step in range(stream.round_steps)]
    assert any(set(a[:, 0]) != set(b[:, 0]) for a, b in zip(batches, again))


def test_dataset_starts_at_a_step_and_has_the_models_types():
    stream = make_stream(batch_size=5)
    shapes = {"regions": (None, 5), "objects": (None, 7), "tokens": (None,), "negative_tokens": (2, None)}
    types = {"regions": tf.float32, "objects": tf.float32, "tokens": tf.int32, "negative_tokens": tf.int32}
    wanted = {name: tf.TensorSpec((None, *shape), types[name]) for name, shape in shapes.items()}
    (inputs, targets), _ = stream.dataset(wanted, ["w2r", "o2w"]).steps(7, 9)
    expected = stream.batch(7)
    assert {name: value.dtype for name, value in inputs.items()} == types
    for name, value in inputs.items():
        np.testing.assert_array_equal(value, expected[name])
    assert targets["o2w"].shape == (5,)


def test_too_large_a_batch_is_refused():
    with pytest.raises(UserError, match=r"--batch-size 21: the train split has only 20 pictures"):
        make_stream(batch_size=21)
