"""The first stage of a search: vectors against the model under even attention, and the index that is kept of them."""

import dataclasses
import shutil
from types import SimpleNamespace

import faiss
import numpy as np
import pytest
from matcher_fixtures import CAPTIONS
from model_fixtures import VOCABULARY, tiny_config
from scoring_fixtures import make, make_captions, make_pictures

from bssan_tf.features.store import Features
from bssan_tf.matching import vector_index as module
from bssan_tf.matching.matcher import Matcher
from bssan_tf.matching.vector_index import first_candidates, row_keys, vector_index
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


def part(features, rows, **changes):
    """A store with these rows alone."""
    arrays = {name: getattr(features, name)[rows] for name in ("regions", "objects", "valid", "sums")}
    ids = tuple(features.image_ids[row] for row in rows)
    return dataclasses.replace(features, image_ids=ids, **{**arrays, **changes})


@pytest.mark.smoke
def test_an_index_follows_its_photos(photos, monkeypatch):
    described, of = [], FirstStage.photos

    def noted(self, features, rows):
        described.append(len(rows))
        return of(self, features, rows)

    monkeypatch.setattr(FirstStage, "photos", noted)
    tokens = make_captions()[1:2]

    def check(features, rows, *expected):
        described.clear()
        index = vector_index(photos.fast, features, rows)
        assert described == [*expected]
        assert index.index.ntotal == len(features.image_ids) - len(features.bad_rows)
        places = index.search(tokens, 40)
        assert sorted(places) == list(range(len(rows)))
        products = index.stage.photos(features, rows) @ index.stage.sentences(tokens)[0]
        assert np.all(np.diff(products[places]) < 2e-2)  # float16 may swap near ties
        np.testing.assert_array_equal(index.search(tokens, 5), places[:5])

    first, more = (part(photos.features, np.arange(n)) for n in (30, 33))
    check(first, np.arange(30), 30, 30)  # the basis, and the vectors
    check(first, np.arange(30))
    check(more, np.arange(33), 3)
    check(part(more, np.arange(33)[::-1]), np.arange(33))  # another order
    check(more, np.arange(5, 30))  # others of the store are hidden, and stay
    sums = photos.features.sums[2:36].copy()
    sums[[4, 9]] += 1000
    changed = part(photos.features, np.arange(2, 36), sums=sums)
    check(changed, np.arange(34), 5)  # three new, two changed, two gone
    bad = dataclasses.replace(changed, bad_rows=np.array([7]))
    check(bad, np.setdiff1d(np.arange(34), [7]))
    check(changed, np.arange(34), 1)  # it can be read again
    few = part(photos.features, np.arange(20, 28))
    check(few, np.arange(8))  # the others are gone
    monkeypatch.setattr(module, "SAMPLE", 12)
    few = part(photos.features, np.arange(5))
    check(few, np.arange(5), 5, 5)  # none is left
    check(photos.features, np.arange(40), 12, 40)  # so many more that the basis of five may not suit them


@pytest.mark.parametrize("cores", [1, 3, 7])
def test_parts_find_what_the_whole_index_finds(monkeypatch, cores):
    """With vectors that are gone, ties, and more wanted than a part has."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (50, 4)).astype(np.float32)
    flat = faiss.IndexScalarQuantizer(4, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexIDMap2(flat)
    keys = rng.permutation(10**6)[:50]
    index.add_with_ids(vectors, keys)
    index.remove_ids(keys[::7])
    left = np.setdiff1d(np.arange(50), np.arange(0, 50, 7))
    monkeypatch.setattr(module, "PART", 5)
    monkeypatch.setattr(module.os, "cpu_count", lambda: cores)
    for count in (1, 10, 25, len(left)):
        query = rng.integers(-2, 3, (1, 4)).astype(np.float32)
        products = dict(zip(keys[left].tolist(), (vectors[left] @ query[0]).tolist()))
        found = module.nearest(index, query, count).tolist()
        assert len(set(found)) == count
        assert [products[key] for key in found] == sorted(products.values(), reverse=True)[:count]


@pytest.mark.parametrize("damage", ["all", "half", "a bit", "another index", "another basis", "no index"])
def test_a_damaged_index_is_made_anew(photos, caplog, damage):
    rows, tokens = np.arange(40), make_captions()[1:2]
    before = vector_index(photos.fast, photos.features, rows).search(tokens, 40)
    (path,) = photos.features.folder.parent.glob("*.npz")
    content = bytearray(path.read_bytes())
    if damage in ("all", "half", "a bit"):
        content[len(content) // 3] ^= 4
        path.write_bytes({"all": b"xx", "half": content[: len(content) // 2], "a bit": content}[damage])
    else:
        with np.load(path) as kept:
            arrays = dict(kept)
        if damage == "another basis":
            arrays["basis"] = arrays["basis"][:, :3]
        elif damage == "another index":
            arrays["index"] = faiss.serialize_index(faiss.IndexFlatIP(arrays["basis"].shape[1]))
        else:
            arrays["index"] = np.frombuffer(b"IxMp", np.uint8)
        np.savez(path, **arrays)
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
    assert not list(photos.features.folder.parent.glob("*.npz"))


def test_runs_have_indexes_of_their_own(photos):
    other = FastScorer(make("full", seed=1, **PARTS)[1])
    for fast in (photos.fast, other, photos.fast):
        vector_index(fast, photos.features, np.arange(40))
    assert len(list(photos.features.folder.parent.glob("*.npz"))) == 2


def test_where_there_is_none(photos, monkeypatch):
    monkeypatch.setattr(module, "RERANK", 29)
    rows = np.arange(40)
    assert first_candidates(photos.fast, photos.features, rows)
    assert first_candidates(photos.fast, photos.features, rows[:29]) is None
    assert first_candidates(photos.fast, dataclasses.replace(photos.features, sums=None), rows) is None
    assert first_candidates(FastScorer(make("full", bilinear=False)[1]), photos.features, rows) is None


def test_keys_tell_names_and_contents_apart(photos):
    keys = row_keys(photos.features, np.arange(40))
    assert len({*keys.tolist()}) == 40
    assert keys.dtype == np.int64
    renamed = dataclasses.replace(photos.features, image_ids=tuple(f"{i}.png" for i in range(40)))
    changed = dataclasses.replace(photos.features, sums=photos.features.sums + np.uint32(1000))
    for other in (renamed, changed):
        assert not np.isin(row_keys(other, np.arange(40)), keys).any()


def test_a_folder_is_searched_in_two_stages(matcher_work, tmp_path, monkeypatch):
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
    left = {hit.found for hit in matcher.index(folder).search(CAPTIONS[0], top=20)}
    assert left == {folder / path.name for path in paths[1:]}
