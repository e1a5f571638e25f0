"""Our metrics against others' code, `eccv_caption` and `fico_itr`, and against a brute force; ties included."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import pytest

from bssan_tf.errors import UserError
from bssan_tf.metrics import details, eccv, plausible, recall

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would like ujson
    import eccv_caption
import fico_itr

NEAR = {"abs": 1e-9, "rel": 0}
IMAGES, FOLDS = 20, 5
JUDGE = eccv_caption.Metrics()  # reads the published lists, which the tests replace in copies


def world(seed: int, ties: bool):
    """Scores of 20 images and 100 + 3 captions, their numbers, and lists in which much fits several images."""
    rng = np.random.default_rng(seed)
    images = rng.permutation(500)[:IMAGES]
    owner = rng.permutation(np.concatenate([np.repeat(np.arange(IMAGES), 5), rng.integers(IMAGES, size=3)]))
    captions = 1000 + rng.permutation(len(owner))
    ranked = []  # five of each image
    for image in range(IMAGES):
        ranked += captions[owner == image][:5].tolist()
    scores = rng.normal(size=(IMAGES, len(owner))) + 1.2 * (owner == np.arange(IMAGES)[:, None])
    unranked = np.setdiff1d(captions, ranked)

    def positives(some: bool):
        fit = rng.random(scores.shape) < 0.06
        fit[owner, np.arange(len(owner))] = True
        to_captions, to_images = {}, {}
        for i in rng.permutation(IMAGES)[: 12 if some else IMAGES]:
            to_captions[int(images[i])] = [int(captions[c]) for c in np.flatnonzero(fit[i]) if captions[c] in ranked]
        for c in rng.permutation(len(owner))[: 40 if some else len(owner)]:
            if captions[c] in ranked:
                to_images[int(captions[c])] = images[np.flatnonzero(fit[:, c])].tolist()
        return to_captions, to_images

    lists = eccv.Lists(np.sort(images), np.array(ranked), positives(True), positives(False))
    first = next(iter(lists.eccv[0]))
    lists.eccv[0][first].append(int(unranked[0]))  # as two of the published lists have
    return (np.round(scores, 1) if ties else scores), owner, images, captions, lists


def ranked_items(scores, queries, candidates, positives, among):
    """{query: items, best first, ties against us} of every query; `among` are the items that are ranked."""
    kept = np.isin(candidates, among)
    found = {}
    for number, line in zip(queries, scores):
        fits = np.isin(candidates, list(positives.get(int(number), ())))
        order = np.lexsort((fits, -line))
        found[int(number)] = [int(candidates[place]) for place in order if kept[place]]
    return found


def theirs(lists, scores, images, captions, kind):
    """What eccv_caption says of rankings in which ties count against the lists of `kind`."""
    judge = copy.copy(JUDGE)
    judge.eccv_gts, judge.cxc_gts = (dict(zip(("i2t", "t2i"), way)) for way in (lists.eccv, lists.cxc))
    to_captions, to_images = getattr(lists, kind)
    i2t = ranked_items(scores, images, captions, to_captions, lists.captions)
    t2i = ranked_items(scores.T, captions, images, to_images, lists.images)
    asked = ("eccv_map_at_r", "eccv_rprecision", "eccv_r1") if kind == "eccv" else ("cxc_recalls",)
    return judge.compute_all_metrics(i2t, t2i, target_metrics=asked, verbose=False)


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_eccv_caption_and_cxc(monkeypatch, seed, ties, block):
    monkeypatch.setattr(eccv, "_AT_ONCE", block)
    scores, _, images, captions, lists = world(seed, ties)
    ours = eccv.listed_report(scores, images, captions, lists)
    theirs_eccv, theirs_cxc = (theirs(lists, scores, images, captions, kind) for kind in ("eccv", "cxc"))
    for way in ("i2t", "t2i"):
        for name, key in (("mAP@R", "eccv_map_at_r"), ("R-P", "eccv_rprecision"), ("R@1", "eccv_r1")):
            assert ours["eccv"][way][name] == pytest.approx(100 * theirs_eccv[key][way], **NEAR)
        for k in recall.RECALLS:
            assert ours["cxc"][way][f"R@{k}"] == pytest.approx(100 * theirs_cxc[f"cxc_r{k}"][way], **NEAR)


def test_ties_are_where_the_package_leaves_the_choice_to_its_caller():
    """It takes ranked lists. On constant scores ours is the least, and a caller's sort may give it anything."""
    scores, _, images, captions, lists = world(0, ties=False)
    constant = np.zeros_like(scores)
    assert eccv.listed_report(constant, images, captions, lists)["cxc"]["t2i"]["R@1"] == 0
    judge = copy.copy(JUDGE)
    judge.cxc_gts = dict(zip(("i2t", "t2i"), lists.cxc))
    t2i = {c: [*fit, *np.setdiff1d(images, fit).tolist()] for c, fit in lists.cxc[1].items()}  # theirs, by luck
    i2t = {i: [*fit, *np.setdiff1d(lists.captions, fit).tolist()] for i, fit in lists.cxc[0].items()}
    lucky = judge.compute_all_metrics(i2t, t2i, target_metrics=("cxc_recalls",))
    assert lucky["cxc_r1"]["t2i"] == 1


@pytest.mark.parametrize("ties", [False, True])
def test_coco_5k_and_1k(monkeypatch, ties):
    """Five captions an image, as the package has them, in the order of the images."""
    scores, owner, images, captions, _ = world(1, ties)
    order = np.concatenate([np.flatnonzero(owner == image)[:5] for image in range(IMAGES)])
    scores, owner, captions = scores[:, order], owner[order], captions[order]
    judge = copy.copy(JUDGE)
    own = {int(images[i]): [int(c) for c in captions[owner == i]] for i in range(IMAGES)}
    of = {c: [i] for i, cs in own.items() for c in cs}
    judge.coco_gts, judge.coco_ids = {"i2t": own, "t2i": of}, captions
    i2t = ranked_items(scores, images, captions, own, captions)
    t2i = ranked_items(scores.T, captions, images, of, images)
    found = judge.compute_all_metrics(i2t, t2i, target_metrics=("coco_1k_recalls", "coco_5k_recalls"))
    monkeypatch.setattr(recall, "_FOLD", IMAGES // FOLDS)
    for protocol, key in (("5k", "coco_5k"), ("5fold", "coco_1k")):
        folds = [
            details.detailed_report(scores[a:b, 5 * a : 5 * b], owner[5 * a : 5 * b] - a)
            for a, b in recall.protocol_folds(protocol, IMAGES)
        ]
        ours = recall.mean_report(folds, protocol)
        for way in ("i2t", "t2i"):
            for k in recall.RECALLS:
                assert ours[way][f"R@{k}"] == pytest.approx(100 * found[f"{key}_r{k}"][way], **NEAR)


@pytest.mark.parametrize("seed", range(3))
def test_fico_itr_on_asymmetric_matrices(seed):
    """Its Med r is the whole number at or below ours; without ties all else is equal."""
    scores, owner, *_ = world(seed, ties=False)
    ours = details.detailed_report(scores, owner)
    for way, theirs in zip(("i2t", "t2i"), fico_itr.instance_retrieval(scores, captions_per_image=owner.tolist())):
        for name in ("R@1", "R@5", "R@10"):
            assert ours[way][name] == pytest.approx(theirs[name], **NEAR)
        assert ours[way]["MeanR"] == pytest.approx(theirs["MeanR"], **NEAR)
        assert np.floor(ours[way]["MedR"]) == theirs["MedianR"]


@pytest.mark.parametrize("seed", range(3))
def test_fico_itr_breaks_ties_by_place_and_agrees_once_they_are_broken_against_us(seed):
    scores, owner, *_ = world(seed, ties=True)
    ours = details.detailed_report(scores, owner)
    correct = owner == np.arange(IMAGES)[:, None]
    apart = scores - 1e-6 * correct  # below all that tie with it
    for way, theirs in zip(("i2t", "t2i"), fico_itr.instance_retrieval(apart, captions_per_image=owner.tolist())):
        assert ours[way]["MeanR"] == pytest.approx(theirs["MeanR"], **NEAR)
        assert all(ours[way][name] == pytest.approx(theirs[name], **NEAR) for name in ("R@1", "R@5", "R@10"))
    by_place = fico_itr.instance_retrieval(np.zeros_like(scores), captions_per_image=owner.tolist())
    constant = details.detailed_report(np.zeros_like(scores), owner)
    for way, theirs in zip(("i2t", "t2i"), by_place):
        assert constant[way]["R@10"] == 0 if way == "t2i" else constant[way]["R@1"] == 0
        assert theirs["R@10"] > 0


def brute_pmrp(scores, owner, classes):
    """By sorted lists, a query at a time."""
    ways = {}
    has = classes.any(axis=1)
    sides = {"i2t": (scores, np.arange(len(scores)), owner), "t2i": (scores.T, owner, np.arange(len(scores)))}
    for way, (matrix, query_images, candidate_images) in sides.items():
        shares = []
        for zeta in (0, 1, 2):
            for image, line in zip(query_images, matrix):
                if not has[image]:
                    continue
                kept = has[candidate_images]
                differing = (classes[candidate_images[kept]] != classes[image]).sum(axis=1)
                ranked = [fits for _, fits in sorted(zip(-line[kept], differing <= zeta))]
                R = sum(ranked)
                shares.append(sum(ranked[:R]) / R)
        ways[way] = 100 * np.mean(shares)
    return ways


@pytest.mark.parametrize("block", [1, 1 << 22])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_pmrp(monkeypatch, seed, ties, block):
    monkeypatch.setattr(plausible, "_AT_ONCE", block)
    scores, owner, *_ = world(seed, ties)
    classes = np.random.default_rng(seed).random((IMAGES, 6)) < 0.25
    classes[3] = False
    assert plausible.pmrp(scores, owner, classes) == pytest.approx(brute_pmrp(scores, owner, classes), **NEAR)


def test_pmrp_by_hand():
    """Three images: a dog; a dog and a cat; four other things. At zeta 0 each fits itself, from 1 on the first two."""
    classes = np.array([[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]], bool)
    scores = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]])
    # i2t, zeta 0: no (caption 1 is first), no (2 is first), yes; zeta 1 and 2: {0, 1} of 2, {1} of 2, 1
    # t2i, zeta 0: caption 0 ties, no; caption 1 ties, no; caption 2: image 1 is first, no; then 2 of 2, 2 of 2, 0
    found = plausible.pmrp(scores, np.arange(3), classes)
    assert found == pytest.approx({"i2t": 100 * (1 / 3 + 2 * 2.5 / 3) / 3, "t2i": 100 * (0 + 2 * 2 / 3) / 3})


def test_pmrp_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no image with a class"):
        plausible.pmrp(np.zeros((2, 2)), np.arange(2), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="does not fit"):
        plausible.pmrp(np.zeros((2, 3)), np.arange(2), np.ones((2, 3)))


def test_missing_images_and_captions_are_told():
    scores, _, images, captions, lists = world(0, ties=False)
    assert lists.lacking(images, captions) == ""
    gone = lists.captions[0]
    said = lists.lacking(images[1:], captions[captions != gone])
    assert said == f"1 of 20 images (the first: {images[0]}) and 1 of 100 captions (the first: {gone})"
    with pytest.raises(ValueError, match="1 of 20 images"):
        eccv.listed_report(scores[1:], images[1:], captions, lists)
    scores[4, 50] = np.nan
    with pytest.raises(recall.NotFiniteError):
        eccv.listed_report(scores, images, captions, lists)


def test_the_published_lists():
    lists = eccv.installed_lists()
    assert (len(lists.images), len(np.unique(lists.captions))) == (5000, 25_000)
    assert [len(way) for way in lists.eccv] == [1261, 1332]
    assert [sum(map(len, way.values())) for way in lists.eccv] == [22_550, 11_279]  # as its README counts them
    assert [len(way) for way in lists.cxc] == [5000, 24_972]
    absent = {n for fit in lists.eccv[0].values() for n in fit} - set(lists.captions.tolist())
    assert len(absent) == 2


def test_damaged_lists_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"eccv_image_to_caption\.json: no such file; install it anew"):
        eccv.read_lists(tmp_path)
    (tmp_path / "eccv_image_to_caption.json").write_text(json.dumps({"1": ["dog"]}))
    with pytest.raises(UserError, match="is no list of numbers"):
        eccv.read_lists(tmp_path)


@pytest.mark.large
def test_eccv_caption_at_full_size():
    lists = eccv.installed_lists()
    rng = np.random.default_rng(0)
    captions = np.concatenate([lists.captions, 10_000_000 + np.arange(10)])  # ten that are not ranked
    captions = rng.permutation(captions)
    scores = rng.normal(size=(5000, 25_010)).astype(np.float32)
    column, row = ({int(n): k for k, n in enumerate(numbers)} for numbers in (captions, lists.images))
    for image, fit in lists.cxc[0].items():
        scores[row[image], [column[n] for n in fit]] += 2.5
    ours = eccv.listed_report(scores, lists.images, captions, lists)
    kept = np.isin(captions, lists.captions)
    judge = copy.copy(JUDGE)
    top = {}
    for way, matrix, queries, items in (
        ("i2t", scores[:, kept], lists.images, captions[kept]),
        ("t2i", scores[:, kept].T, captions[kept], lists.images),
    ):
        best = [np.argpartition(-line, 50)[:50] for line in matrix]
        top[way] = {
            int(q): items[b[np.argsort(-line[b])]].tolist() for q, b, line in zip(queries, best, matrix)
        }  # fmt: skip
    asked = ("eccv_map_at_r", "eccv_rprecision", "eccv_r1", "cxc_recalls")
    found = judge.compute_all_metrics(top["i2t"], top["t2i"], target_metrics=asked)
    for way in ("i2t", "t2i"):
        for name, key in (("mAP@R", "eccv_map_at_r"), ("R-P", "eccv_rprecision"), ("R@1", "eccv_r1")):
            assert ours["eccv"][way][name] == pytest.approx(100 * found[key][way], **NEAR)
        for k in recall.RECALLS:
            assert ours["cxc"][way][f"R@{k}"] == pytest.approx(100 * found[f"cxc_r{k}"][way], **NEAR)
