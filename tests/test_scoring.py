"""The fast scorer against Keras on padded pairs: parts, variants, sizes, budgets; search in two stages."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from scoring_fixtures import TREE_TOKENS, make, make_captions, make_pictures, score, sizes_of

from benchmarks.naive import NaiveScorer
from bssan_tf.errors import UserError
from bssan_tf.scoring import FastScorer, planning, score_matrices, two_stage
from bssan_tf.scoring.prefix_tree import PrefixTree
from bssan_tf.scoring.w2r import FastW2R


class TestPrefixTree:
    def test_every_path_spells_its_caption(self):
        for tokens in (TREE_TOKENS, make_captions()):
            tree = PrefixTree(tokens)
            np.testing.assert_array_equal(tree.captions[tree.caption_of], tokens)
            spelled = {}
            for depth, level in enumerate(tree.levels):
                for node, caption in zip(level.end_nodes, level.end_captions):
                    words, place = [], node
                    for upper in tree.levels[depth::-1]:
                        words.append(tree.words[upper.words[place]])
                        place = upper.parents[place]
                    spelled[caption] = words[::-1]
            for i, caption in enumerate(tree.captions):
                assert spelled.get(i, []) == list(caption[caption != 0])

    def test_no_prefix_has_two_nodes(self):
        for tokens in (TREE_TOKENS, make_captions()):
            prefixes = {tuple(row[:n]) for row in tokens for n in range(1, (row != 0).sum() + 1)}
            assert PrefixTree(tokens).nodes == len(prefixes)

    def test_parents_ascend(self):
        for level in PrefixTree(make_captions(200)).levels:
            assert (np.diff(level.parents) >= 0).all()
            assert (np.diff(level.end_nodes) > 0).all()

    def test_of_nothing(self):
        assert PrefixTree(np.zeros((0, 5), np.int32)).nodes == 0
        assert PrefixTree(np.zeros((2, 5), np.int32)).levels == []


@pytest.mark.parametrize(("name", "values"), [("paper", {}), ("improved", {"attention_gate": 0.3})])
def test_it_is_the_same_whether_regions_are_projected_before_the_attention_or_after(name, values, monkeypatch):
    config, scorer = make("w2r", name, **values)
    pictures, tokens, seen = make_pictures(config), make_captions(), []
    for early in (True, False):
        monkeypatch.setattr(FastW2R, "_projects_first", lambda *_, early=early: early)
        seen.append(score_matrices(scorer, pictures, tokens)["w2r"])
    np.testing.assert_allclose(*seen, rtol=1e-5, atol=3e-5)  # of scores up to 30
    assert (seen[0] != seen[1]).any()  # of other roundings, so both ways were taken


def test_regions_are_projected_first_where_that_is_less_work():
    network = SimpleNamespace(from_region=np.zeros((1024, 256 + 1024)))
    assert FastW2R._projects_first(network, V=4000, D=196)
    assert not FastW2R._projects_first(network, V=10, D=196)  # one sentence
    network.from_region = np.zeros((64, 128 + 512))  # as on scenes
    assert not FastW2R._projects_first(network, V=4000, D=196)


@pytest.mark.smoke
@pytest.mark.parametrize(  # no_reg has the graphs of full, whose parts are each scored alone, too
    ("variant", "name", "values"),
    [
        ("full", "paper", {}),
        ("full", "improved", {}),
        ("full", "improved", {"attention_gate": 0.3}),
        ("full", "paper", {"even_attention": True}),
        ("w2r", "improved", {}),
        ("o2w", "improved", {}),
    ],
    ids=["paper", "improved", "gate", "even", "w2r", "o2w"],
)
class TestSameScoresAsKeras:
    def test_every_part(self, variant, name, values):
        config, scorer = make(variant, name, **values)
        pictures, tokens = make_pictures(config), make_captions()
        expected = NaiveScorer(scorer, **vars(pictures)).matrix(tokens, batch_size=280)  # one batch has one graph
        got = score_matrices(scorer, pictures, tokens)
        assert set(got) == set(expected)
        for part, wanted in expected.items():
            assert wanted.std() > 1e-3
            np.testing.assert_allclose(got[part], wanted, rtol=1e-6, atol=1e-5, err_msg=part)
            assert got[part].dtype == np.float32
            alone = score_matrices(scorer, pictures, tokens, parts=[part])
            assert set(alone) == {part}
            np.testing.assert_array_equal(alone[part], got[part])


@pytest.mark.parametrize(
    "sizes",
    [
        {"D": 1, "M": 3, "P": 1, "Q": 2, "H": 1, "S": 1},
        {"D": 9, "M": 16, "P": 6, "Q": 3, "H": 33, "S": 17, "E_trained": 5, "w2r_mlp": (7,), "o2w_mlp": (5, 4)},
    ],
)
def test_any_sizes(sizes):
    config, scorer = make(**sizes)
    pictures, tokens = make_pictures(config, dtype=np.float16), make_captions(25, length=9)
    expected = NaiveScorer(scorer, **vars(pictures)).matrix(tokens)["score"]
    np.testing.assert_allclose(score(scorer, pictures, tokens), expected, atol=1e-5)


@pytest.mark.large
def test_table_1_sizes_agree_to_1e_4():
    config, scorer = make(H=1024, S=512, M=512, Q=512, D=49, w2r_mlp=(1024, 512, 128), o2w_mlp=(512, 256, 64))
    for weight in scorer.weights:  # of the size that training gives them, so that gates are not saturated
        if len(weight.shape) == 2:
            weight.assign(weight * 0.1)
    pictures, tokens = make_pictures(config, 3), make_captions(12, length=30)
    expected = NaiveScorer(scorer, **vars(pictures)).matrix(tokens)
    for part, got in score_matrices(scorer, pictures, tokens).items():
        np.testing.assert_allclose(got, expected[part], atol=1e-4)


class TestBudget:
    def tokens(self):
        return make_captions(90, length=12)

    def plan(self, scorer, memory_mb, pictures=11):
        return planning.plan(sizes_of(scorer), self.tokens(), pictures, memory_mb)

    def test_pages_and_blocks_change_nothing(self, small_blocks):
        config, scorer = make()
        pictures = make_pictures(config, 11)
        expected = NaiveScorer(scorer, **vars(pictures)).matrix(self.tokens(), batch_size=990)["score"]
        (page,) = self.plan(scorer, 100)
        assert page.pictures == 11
        paged = self.plan(scorer, 0.06)
        assert len(paged) > 2
        assert all(1 < page.pictures < 11 for page in paged)
        for memory_mb in (100, 0.06):
            got = score(scorer, pictures, self.tokens(), memory_mb=memory_mb)
            np.testing.assert_allclose(got, expected, atol=1e-5)

    def test_pages_hold_each_caption_once(self, small_blocks):
        pages = self.plan(make()[1], 0.06)
        np.testing.assert_array_equal(np.sort(np.concatenate([page.captions for page in pages])), np.arange(90))

    def test_blocks_depend_on_the_budget_not_on_the_corpus(self, small_blocks):
        scorer = make()[1]
        assert len({self.plan(scorer, 0.2, pictures)[0].pictures for pictures in (2000, 4000, 80_000)}) == 1

    def test_features_of_a_block_are_small_whatever_the_budget(self):
        D = planning.BLOCK_BYTES // (4 * 5 * 10)  # ten pictures of D regions with M = 5 numbers
        (page,) = planning.plan(sizes_of(make()[1], D), self.tokens(), 100, 2**16)
        assert page.pictures == 10

    def test_too_little_is_refused_with_what_is_enough(self, small_blocks):
        scorer = make()[1]
        with pytest.raises(UserError, match=r"--memory 0.001: .* at least (\d+)"):
            self.plan(scorer, 0.001)


def test_rows_of_a_larger_store():
    config, scorer = make()
    pictures, tokens = make_pictures(config, 9), make_captions(10, length=6)
    rows = np.array([7, 2, 3])
    whole = score(scorer, pictures, tokens)
    np.testing.assert_allclose(score(scorer, pictures, tokens, rows), whole[rows], atol=1e-5)


def test_nothing_to_score():
    config, scorer = make()
    pictures = make_pictures(config, 3)
    assert score(scorer, pictures, np.zeros((0, 5), np.int32)).shape == (3, 0)
    assert score(scorer, pictures, TREE_TOKENS, np.zeros(0, int)).shape == (0, 6)


def test_missing_features_and_parts_are_named():
    config, scorer = make("w2r")
    pictures = make_pictures(config)
    with pytest.raises(ValueError, match="regions: w2r needs them"):
        score(scorer, SimpleNamespace(regions=None), TREE_TOKENS)
    with pytest.raises(ValueError, match="only the parts w2r, score"):
        score_matrices(scorer, pictures, TREE_TOKENS, parts=["o2w", "score"])


def test_only_what_is_needed_is_looked_at_and_objects_without_valid_are_all_real():
    config, scorer = make("w2r")
    pictures = make_pictures(config)
    expected = score(scorer, pictures, TREE_TOKENS)
    np.testing.assert_array_equal(score(scorer, SimpleNamespace(regions=pictures.regions), TREE_TOKENS), expected)
    config, scorer = make("o2w")
    objects, valid = pictures.objects, np.ones_like(pictures.valid)
    found, expected = (
        score(scorer, SimpleNamespace(objects=objects, valid=given), TREE_TOKENS) for given in (None, valid)
    )
    np.testing.assert_array_equal(found, expected)


def test_a_scorer_loaded_from_a_file_scores_the_same(tmp_path):
    config, scorer = make()
    pictures = make_pictures(config)
    scorer.save(tmp_path / "model.keras")
    loaded = tf.keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(score(loaded, pictures, TREE_TOKENS), score(scorer, pictures, TREE_TOKENS), atol=1e-6)


def test_twice_gives_the_same_numbers():
    config, scorer = make()
    pictures, tokens = make_pictures(config), make_captions()
    first = score(scorer, pictures, tokens)
    np.testing.assert_array_equal(score(scorer, pictures, tokens), first)


class TestTwoStages:
    o2w, w2r = np.array([5.0, 1.0, 4.0, 3.0, 2.0]), np.array([-4.0, 8.0, -2.0, 0.0, 6.0])  # sums 1, 9, 2, 3, 8

    def rank(self, rerank, lacks=None):
        """Order, scores, and for which places W2R was asked."""
        asked = []

        def score(part, places):
            if part == "o2w":
                return self.o2w[places]
            asked.append(sorted(places.tolist()))
            return self.w2r[places]

        fast = SimpleNamespace(w2r=True, o2w=True, total=lambda scores: sum(scores.values()))
        if lacks:
            setattr(fast, lacks, None)
        order, scores = two_stage.two_stages(fast, score, 5, rerank)
        return order.tolist(), scores.tolist(), asked

    def test_only_the_best_of_o2w_are_scored_in_full(self):
        order, scores, asked = self.rank(3)
        assert asked == [[0, 2, 3]]
        assert order == [3, 2, 0, 4, 1]  # 3, 2, 0 by the full score, the rest as O2W has them
        assert scores == [3.0, 2.0, 1.0]

    @pytest.mark.parametrize("rerank", [0, 5, 100])
    def test_all_in_full(self, rerank):
        assert self.rank(rerank) == ([1, 4, 3, 2, 0], [9.0, 8.0, 3.0, 2.0, 1.0], [[0, 1, 2, 3, 4]])

    def test_a_variant_with_one_part_has_one_stage(self):
        assert self.rank(3, lacks="o2w") == ([1, 4, 3, 2, 0], [8.0, 6.0, 0.0, -2.0, -4.0], [[0, 1, 2, 3, 4]])
        assert self.rank(3, lacks="w2r") == ([0, 2, 3, 4, 1], [5.0, 4.0, 3.0, 2.0, 1.0], [])

    def test_sides_are_kept_only_where_they_fit(self, small_blocks, monkeypatch):
        config, scorer = make("o2w")
        fast, features, tokens = FastScorer(scorer), make_pictures(config, 40), make_captions(40)
        calls = []
        for name in ("prepare", "prepare_pictures"):
            real = getattr(fast.o2w, name)
            monkeypatch.setattr(
                fast.o2w, name, lambda *given, real=real, name=name: calls.append((name, given[0])) or real(*given)
            )

        def largest(search, *query, name):
            """Pictures or captions of the largest part that a second query prepares."""
            search.rank(*query)
            del calls[:]
            search.rank(*query)
            own = [
                len(given.captions if name == "prepare" else given["objects"])
                for called, given in calls
                if called == name
            ]
            return max(own, default=0)

        P = features.objects.shape[1]
        by_text = {"name": "prepare_pictures"}
        need = 40 * fast.o2w.side_bytes(P) / 2**20
        tree = PrefixTree(tokens[:1])
        some = (fast.o2w.fixed_bytes(tree, P) + 20 * fast.o2w.bytes_per_picture(tree, P)) / 2**20
        assert largest(two_stage.PictureSearch(fast, features, range(40), keep_mb=need), tokens[:1], **by_text) == 0
        for keep in (0, 0.99 * need):
            search = two_stage.PictureSearch(fast, features, range(40), memory_mb=some, keep_mb=keep)
            assert 0 < largest(search, tokens[:1], **by_text) < 40
        by_picture = {"name": "prepare"}
        tree = PrefixTree(tokens)
        need, fixed = fast.o2w.side_bytes(tree.lengths.sum()) / 2**20, fast.o2w.fixed_bytes(tree, P) / 2**20
        assert largest(two_stage.CaptionSearch(fast, tokens, keep_mb=need), features, 0, **by_picture) == 0
        for keep in (0, 0.99 * need):
            search = two_stage.CaptionSearch(fast, tokens, memory_mb=fixed - 0.5 * need, keep_mb=keep)
            assert 0 < largest(search, features, 0, **by_picture) < 38

    def test_the_plan_knows_the_length_of_captions(self):
        o2w = FastScorer(make("o2w")[1]).o2w
        short, long = (PrefixTree(np.full((1, length), 3, np.int32)) for length in (10, 60))
        assert o2w.fixed_bytes(long, 4) > 3 * o2w.fixed_bytes(short, 4)

    @pytest.mark.parametrize("variant", ["full", "w2r", "o2w"])
    @pytest.mark.parametrize("memory", [{"memory_mb": 0.06}, {"keep_mb": 1}])
    def test_with_a_model_both_directions_agree_with_the_matrix(self, variant, memory, small_blocks):
        config, scorer = make(variant)
        features, tokens, fast = make_pictures(config, 40), make_captions(9, length=6), FastScorer(scorer)
        rows = np.random.default_rng(0).permutation(40)[:33]
        parts = score_matrices(fast, features, tokens)
        first = parts.get("o2w", parts["score"])

        def check(ranking, first, full, kept):
            order, scores = ranking
            assert sorted(order) == list(range(len(first)))
            best = order[: kept if variant == "full" else len(first)]
            np.testing.assert_allclose(np.sort(first[best]), np.sort(first)[-len(best) :], atol=1e-5)
            np.testing.assert_allclose(scores, full[best], atol=1e-5)
            assert (np.diff(scores) <= 0).all()

        search = two_stage.PictureSearch(fast, features, rows, **memory)
        for caption in (0, 8):  # the last one has no word
            full = parts["score"][rows, caption]
            check(search.rank(tokens[[caption]], rerank=5), first[rows, caption], full, 5)
        search = two_stage.CaptionSearch(fast, tokens, **memory)
        for row in (2, 39):  # the last one has no object
            check(search.rank(features, row, rerank=4), first[row], parts["score"][row], 4)
