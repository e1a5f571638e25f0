"""The first stage of a search: vectors against the model under even attention, and the index that is kept of them."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from matcher_fixtures import CAPTIONS
from model_fixtures import VOCABULARY, tiny_config
from scoring_fixtures import make, make_captions, make_pictures

from bssan_tf.features.store import Features
from bssan_tf.matching import vector_index as module
from bssan_tf.matching.matcher import Matcher
from bssan_tf.matching.vector_index import first_stage, row_keys, vector_index
from bssan_tf.models.bssan import Bssan
from bssan_tf.scoring import FastScorer, score_matrices
from bssan_tf.scoring.first_stage import FirstStage, has_first_stage, principal_components

PARTS = {"bilinear": True, "fusion": 6, "weighted_lengths": True, "o2w_weight": 0.3, "region_norm": "centred"}


@pytest.mark.parametrize("variant", ["full", "w2r", "o2w"])
def test_the_inner_product_is_the_bilinear_score_under_even_attention(variant):
    config = tiny_config("improved", variant=variant, even_attention=True, **PARTS)
    model = Bssan(config.model, VOCABULARY)  # its MLPs are silent before a step
    rng = np.random.default_rng(3)
    for network in model.networks.values():
        for gain in (network.bilinear.query_gain, network.bilinear.attended_gain):
            gain.assign(rng.uniform(0.3, 2, gain.shape))
    fast, pictures, tokens = FastScorer(model.scorer), make_pictures(config), make_captions()
    stage = FirstStage(fast)
    found = stage.photos(pictures, np.arange(7)) @ stage.sentences(tokens).T
    expected = score_matrices(fast, pictures, tokens)["score"]
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)
    alone = stage.sentences(tokens[3:4])
    np.testing.assert_allclose(alone[0], stage.sentences(tokens)[3], atol=1e-5)


def test_only_bilinear_scores_have_one():
    assert has_first_stage(FastScorer(make("full", bilinear=True, fusion=6)[1]))
    assert not has_first_stage(FastScorer(make("full", bilinear=False)[1]))
    assert not has_first_stage(FastScorer(make("w2r", "paper")[1]))


def test_principal_components_keep_inner_products():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 9))  # that lie in three dimensions
    others, basis = rng.normal(size=(4, 9)), principal_components(vectors, 3)
    np.testing.assert_allclose((vectors @ basis) @ (others @ basis).T, vectors @ others.T, atol=1e-4)
    kept = [np.linalg.norm(vectors @ principal_components(vectors, size)) for size in (1, 2, 3)]
    assert kept[0] < kept[1] < kept[2]
    assert principal_components(vectors).shape == (9, 9)  # there are no more


@pytest.fixture
def photos(tmp_path):
    """Features of 40 photos as a store has them, and a fast scorer that has seen none of them."""
    config, scorer = make("full", **PARTS)
    pictures = make_pictures(config, 40)
    ids = tuple(f"{i}.jpg" for i in range(40))
    (tmp_path / "store").mkdir()
    kept = {"folder": tmp_path / "store", "sums": np.arange(100, 140, dtype=np.uint32)}
    return SimpleNamespace(features=Features(ids, **vars(pictures), **kept), fast=FastScorer(scorer))


def ranked(stage, features, rows, tokens):
    """Places by exact products of short vectors."""
    return np.argsort(-(stage.photos(features, rows) @ stage.sentences(tokens)[0]), kind="stable")


def test_an_index_follows_its_photos(photos, monkeypatch):
    described, of = [], FirstStage.photos
    monkeypatch.setattr(
        FirstStage, "photos", lambda self, features, rows: described.append(len(rows)) or of(self, features, rows)
    )
    tokens = make_captions()[1:2]

    def check(features, rows, *expected):
        described.clear()
        index = vector_index(photos.fast, features, rows)
        assert described == [*expected]
        places = index.search(tokens, 40)
        assert sorted(places) == list(range(len(rows)))
        products = index.stage.photos(features, rows) @ index.stage.sentences(tokens)[0]
        assert np.all(np.diff(products[places]) < 2e-2)  # float16 may swap near ties
        np.testing.assert_array_equal(index.search(tokens, 5), places[:5])

    rows = np.arange(30)
    check(photos.features, rows, 30, 30)  # the basis, and the vectors
    check(photos.features, rows)
    check(photos.features, np.arange(33), 3)
    check(photos.features, np.arange(33)[::-1])  # another order
    sums = photos.features.sums.copy()
    sums[[4, 9]] += 1000
    check(dataclasses.replace(photos.features, sums=sums), np.arange(2, 36), 5)  # three new, two changed, two gone
    check(dataclasses.replace(photos.features, image_ids=tuple("abcdefghij" * 4)), rows, 30, 30)  # others: a new basis


@pytest.mark.parametrize("damage", ["vectors", "notes", "no vectors", "half of it"])
def test_a_damaged_index_is_made_anew(photos, caplog, damage):
    rows, tokens = np.arange(40), make_captions()[1:2]
    before = vector_index(photos.fast, photos.features, rows).search(tokens, 40)
    (vectors,), (notes,) = (list(photos.features.folder.parent.glob(f"*{end}")) for end in (".usearch", ".npz"))
    if damage == "half of it":  # another file with its own checksum
        half = vectors.read_bytes()[: vectors.stat().st_size // 2]
        vectors.write_bytes(half)
        with np.load(notes) as kept:
            np.savez(notes, basis=kept["basis"], sha256=module.file_sha256(vectors))
    elif damage == "no vectors":
        vectors.unlink()
    else:
        (vectors if damage == "vectors" else notes).write_bytes(b"xx")
    np.testing.assert_array_equal(vector_index(photos.fast, photos.features, rows).search(tokens, 40), before)
    assert "made anew" in caplog.text
    caplog.clear()
    vector_index(photos.fast, photos.features, rows)
    assert not caplog.text


def test_a_kill_loses_a_minute_at_most(photos, monkeypatch):
    described, of = [], FirstStage.photos

    def photos_until(self, features, rows):
        described.append(len(rows))
        if len(described) == 4:
            raise KeyboardInterrupt
        return of(self, features, rows)

    monkeypatch.setattr(FirstStage, "photos", photos_until)
    for name, value in (("BLOCK", 8), ("SAVE_SECONDS", 0.0)):
        monkeypatch.setattr(module, name, value)
    with pytest.raises(KeyboardInterrupt):
        vector_index(photos.fast, photos.features, np.arange(40))
    vector_index(photos.fast, photos.features, np.arange(40))
    assert described == [40, 8, 8, 8, 8, 8, 8]  # two blocks were kept


def test_a_cache_that_cannot_be_written_is_used(photos, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "replacing", full)
    assert len(vector_index(photos.fast, photos.features, np.arange(40)).search(make_captions()[1:2], 9)) == 9
    assert "can't be kept" in caplog.text
    assert not list(photos.features.folder.parent.glob("*.usearch"))


def test_runs_have_indexes_of_their_own(photos):
    other = FastScorer(make("full", seed=1, **PARTS)[1])
    for fast in (photos.fast, other, photos.fast):
        vector_index(fast, photos.features, np.arange(40))
    assert len(list(photos.features.folder.parent.glob("*.usearch"))) == 2


def test_where_there_is_none(photos, monkeypatch):
    monkeypatch.setattr(module, "RERANK", 29)
    rows = np.arange(40)
    assert first_stage(photos.fast, photos.features, rows)
    assert first_stage(photos.fast, photos.features, rows[:29]) is None
    assert first_stage(photos.fast, dataclasses.replace(photos.features, sums=None), rows) is None
    assert first_stage(FastScorer(make("full", bilinear=False)[1]), photos.features, rows) is None


def test_keys_tell_names_and_contents_apart(photos):
    keys = row_keys(photos.features, np.arange(40))
    assert len({*keys.tolist()}) == 40
    assert keys.dtype == np.uint64
    renamed = dataclasses.replace(photos.features, image_ids=tuple(f"{i}.png" for i in range(40)))
    changed = dataclasses.replace(photos.features, sums=photos.features.sums + np.uint32(1000))
    for other in (renamed, changed):
        assert not np.isin(row_keys(other, np.arange(40)), keys).any()


def test_a_folder_is_searched_in_two_stages(matcher_work, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "RERANK", 10)
    folder = tmp_path / "many"
    folder.mkdir()
    paths = sorted((matcher_work / "photos").glob("*.png"))[:20]
    for path in paths:
        shutil.copy(path, folder)
    matcher = Matcher.load(matcher_work / "runs" / "mine")
    index = matcher.index(folder)
    whole = index.search(CAPTIONS[0], top=20, rerank=0)
    assert len(whole) == 20
    chosen = {index.paths[place] for place in index.first(matcher.tokens(CAPTIONS[:1]), 6)}
    best = [hit for hit in whole if hit.found in chosen]
    some = index.search(CAPTIONS[0], top=3, rerank=6)
    assert [hit.found for hit in some] == [hit.found for hit in best[:3]]
    assert [hit.score for hit in some] == pytest.approx([hit.score for hit in best[:3]], abs=1e-4)
    (folder / paths[0].name).unlink()
    assert len(matcher.index(folder).search(CAPTIONS[0], top=20)) == 19
