"""What common mistakes of retrieval evaluations are worth, on a score matrix: docs/metrics.md tells of each.

Run `python -m benchmarks.mistakes [--scores FILE.npy --image-of-caption FILE]`; without a file, scores are drawn: 1,000
images with five captions each, with about the recalls of `improved` on Flickr8k. With `--data NAME` it also counts the
captions of the split that have a word which no training caption has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bssan_tf import cli
from bssan_tf.errors import UserError
from bssan_tf.metrics.__main__ import read_scores
from bssan_tf.metrics.owners import read_owners
from bssan_tf.metrics.recall import (
    RECALLS,
    both_ways,
    mean_report,
    retrieval_ranks,
    retrieval_report,
    single_caption_report,
    summarise,
)

FOLDS, HALVES, LISTED = 5, 200, 50
LEVELS = 64  # of coarse scores


class Mistake(NamedTuple):
    """A number that is wrong, and the right one of the same scores."""

    name: str
    wrong: Mapping
    right: Mapping


def drawn_scores(images: int = 1000, captions: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 (N_i, N_c), cosines of noisy views of one vector an image, and image_of_caption."""
    rng, owner = np.random.default_rng(seed), np.repeat(np.arange(images), captions)
    meant = rng.normal(size=(images, 16))
    sides = (meant + 0.82 * rng.normal(size=meant.shape), meant[owner] + 0.82 * rng.normal(size=(len(owner), 16)))
    x, t = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
    return (x @ t.T).astype(np.float32), owner


def counted_from_zero(scores: np.ndarray, owner: np.ndarray) -> dict:
    """Ranks from 0, compared with <= K."""
    return both_ways(*(summarise(rank - 1) for rank in retrieval_ranks(scores, owner)))


def ties_in_favour(scores: np.ndarray, owner: np.ndarray) -> dict:
    """The rank is 1 + the number of better ones, so that what ties with the right one doesn't count."""
    correct = owner == np.arange(len(scores))[:, None]
    ways = []
    for matrix, right in ((scores, correct), (scores.T, correct.T)):
        best = np.max(matrix, axis=1, where=right, initial=-np.inf, keepdims=True)
        ways.append(summarise(1 + np.count_nonzero((matrix > best) & ~right, axis=1)))
    return both_ways(*ways)


def coarse(scores: np.ndarray, levels: int = LEVELS) -> np.ndarray:
    """The scores rounded to so many equal steps between the least and the greatest."""
    low, high = float(scores.min()), float(scores.max())
    return np.round((scores - low) / (high - low) * (levels - 1))


def only_the_first_is_right(scores: np.ndarray, owner: np.ndarray) -> dict:
    """All captions are ranked, and an image's first alone is taken for right; the others are not asked with."""
    first = np.unique(owner, return_index=True)[1]
    ranks = [1 + np.count_nonzero(scores[image] >= scores[image, c]) - 1 for image, c in enumerate(first)]
    return both_ways(summarise(np.array(ranks)), summarise(retrieval_ranks(scores[:, first], owner[first])[1]))


def five_a_row(scores: np.ndarray, captions: int) -> dict:
    """Caption c is taken for one of image c // 5, whatever it is of; what is behind the last image is left out."""
    owner = np.arange(scores.shape[1]) // captions
    kept = owner < len(scores)
    return retrieval_report(scores[:, kept], owner[kept])


def folds_of(scores: np.ndarray, owner: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Five parts of the images with their captions, in their order, each with its own scores."""
    size, found = len(scores) // FOLDS, []
    for start in range(0, FOLDS * size, size):
        own = (owner >= start) & (owner < start + size)
        found.append((scores[start : start + size][:, own], owner[own] - start))
    return found


def from_short_lists(scores: np.ndarray, owner: np.ndarray) -> dict:
    """Recalls of folds, from lists of the best 50 among all images and captions: what is behind them is not found."""
    size = len(scores) // FOLDS
    fold_of = (np.arange(len(scores)) // size, owner // size)
    correct = owner == np.arange(len(scores))[:, None]
    ways = []
    for matrix, right, own, others in ((scores, correct, *fold_of), (scores.T, correct.T, *fold_of[::-1])):
        best = np.argsort(-matrix, axis=1, kind="stable")[:, :LISTED]
        same = own[:, None] == others[best]
        hit = np.take_along_axis(right, best, axis=1)
        place = np.cumsum(same, axis=1)  # rank within the fold
        rank = np.where(hit.any(axis=1), np.take_along_axis(place, hit.argmax(axis=1)[:, None], 1)[:, 0], len(matrix))
        ways.append(summarise(rank[own < FOLDS]))
    return both_ways(*ways)


def differences_of_halves(scores: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Differences of rsum between two random halves of the images, (HALVES,): other pictures of the same kind."""
    found = []
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(scores))
        half = len(scores) // 2
        sums = []
        for images in (order[:half], order[half : 2 * half]):
            place = np.full(len(scores), -1)
            place[images] = np.arange(half)
            kept = place[owner] >= 0
            sums.append(retrieval_report(scores[images][:, kept], place[owner[kept]])["rsum"])
        found.append(sums[0] - sums[1])
    return np.array(found)


def mistakes(scores: np.ndarray, owner: np.ndarray) -> Iterator[Mistake]:
    """Each mistake with what it makes of a score matrix; captions are grouped by image."""
    right = retrieval_report(scores, owner)
    yield Mistake("ranks from 0 compared with <= K", counted_from_zero(scores, owner), right)
    for name, same in (
        ("ties in one's favour", scores),
        ("ties in one's favour, float16", scores.astype(np.float16)),
        (f"ties in one's favour, {LEVELS} levels", coarse(scores)),
        ("ties in one's favour, all scores equal", np.zeros_like(scores)),
    ):
        yield Mistake(name, ties_in_favour(same, owner), retrieval_report(same, owner))
    yield Mistake("one caption an image, in place of all", single_caption_report(scores, owner), right)
    yield Mistake("all are ranked, the first alone is right", only_the_first_is_right(scores, owner), right)
    counts = np.bincount(owner)
    if counts.min() == counts.max() > 1:
        lacking = retrieval_report(scores[:, 1:], owner[1:])
        yield Mistake("caption // 5, and the first is missing", five_a_row(scores[:, 1:], counts[0]), lacking)
    if len(scores) >= 2 * FOLDS:
        parts = [retrieval_report(*fold) for fold in folds_of(scores, owner)]
        mean = mean_report(parts, "5fold")
        yield Mistake("mean of five folds, in place of all at once", mean, right)
        yield Mistake("the first fold, in place of all five", parts[0], mean)
        yield Mistake("the luckiest fold, in place of all five", max(parts, key=lambda part: part["rsum"]), mean)
        yield Mistake(f"folds from lists of the best {LISTED}", from_short_lists(scores, owner), mean)


def unseen_words(train: Sequence[str], asked: Sequence[str]) -> tuple[int, int]:
    """Of the captions asked with, how many have a word that no training caption has; and how many such words."""
    from bssan_tf.datasets.words import split_words

    known = {word for text in train for word in split_words(text)}
    lacking = [set(split_words(text)) - known for text in asked]
    return sum(map(bool, lacking)), len(set().union(*lacking))


def _row(mistake: Mistake) -> str:
    def cells(report: Mapping) -> list[str]:
        return [" / ".join(f"{report[way][f'R@{k}']:.1f}" for k in RECALLS) for way in ("i2t", "t2i")]

    wrong, right = mistake.wrong, mistake.right
    change = wrong["rsum"] - right["rsum"]
    return f"| {mistake.name} | {' | '.join(cells(wrong))} | {' | '.join(cells(right))} | {change:+.1f} |"


def build_parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m benchmarks.mistakes", description=__doc__.split("\n\n")[0])
    parser.add_argument("--scores", type=Path, metavar="FILE.npy", help="a row an image, a column a caption")
    parser.add_argument("--image-of-caption", type=Path, metavar="FILE", help="as of python -m bssan_tf.metrics")
    parser.add_argument("--data", choices=("flickr8k", "flickr30k", "coco"), help="count words of its captions")
    cli.add_split_flag(parser)
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="its folder")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    options = build_parser().parse_args(arguments)
    if (options.scores is None) != (options.image_of_caption is None):
        raise UserError("--scores and --image-of-caption: one needs the other; give both or none")
    if options.scores:
        scores, owner = read_scores(options.scores), read_owners(options.image_of_caption)
        order = np.argsort(owner, kind="stable")
        scores, owner = np.asarray(scores)[:, order], owner[order]
    else:
        scores, owner = drawn_scores()
    print("| mistake | image to text | text to image | right | right | rsum |\n|---|---|---|---|---|---|")
    for mistake in mistakes(scores, owner):
        print(_row(mistake))
    apart = differences_of_halves(scores, owner)
    print(
        f"two random halves differ in rsum by {np.abs(apart).mean():.1f} on average, {np.abs(apart).max():.1f} at most"
    )
    if options.data:
        from bssan_tf.datasets import load_corpus

        corpus = load_corpus(options.data, root=options.root, need_images=False, allow_partial=True)
        train, asked = corpus.split("train").captions, corpus.split(options.split or "test").captions
        lacking, words = unseen_words(train, asked)
        print(f"{lacking:,} of {len(asked):,} captions have one of {words:,} words that train lacks")


if __name__ == "__main__":
    cli.run(main)
