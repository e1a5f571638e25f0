"""Search with a trained run: pictures for a sentence, or sentences for a picture.

Candidates are a split of the run's corpus, or for a sentence the pictures of any folder.
"""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from bssan_tf.config.schema import Config
from bssan_tf.datasets.corpus import Split
from bssan_tf.drawing.attention import describe_photo, photo_objects
from bssan_tf.errors import UserError
from bssan_tf.evaluation.retrieval import check_fit
from bssan_tf.features.pictures import read_picture
from bssan_tf.features.store import Features
from bssan_tf.runs.data import extractors_of, fingerprint, open_data, photo_features, run_context
from bssan_tf.runs.folder import RunFolder
from bssan_tf.scoring.planning import MEMORY_MB
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.scoring.two_stage import RERANK, CaptionSearch, PictureSearch

logger = logging.getLogger(__name__)

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def search(
    run: RunFolder,
    query: str,
    folder: Path | None = None,
    split: str = "test",
    top: int = 10,
    rerank: int = RERANK,
    data_flags: dict | None = None,
    memory_mb: float = MEMORY_MB,
    progress: bool = True,
) -> list[tuple[float, str]]:
    """Rank pictures for a sentence, or sentences for a photo.

    Args:
        query: a sentence, or the path of a picture file.
        folder: pictures to search instead of the run's corpus; for sentences.
        split: part of the run's corpus that is searched.
        top: how many to return.
        rerank: candidates that are scored in full, the best by O2W; 0 for all.
        data_flags: fields of DataConfig to replace; with `folder`, `boxes` is a file that lists its pictures. Without
            it, the run's own boxes where they list them, else the ten fixed ones.
        memory_mb: what scoring may take, see `score_matrices`.

    Returns:
        Scores and the paths or sentences, best first.

    Raises:
        UserError: a query without a word, a picture that cannot be read, a folder without pictures, data that are
            gone or differ from those of the training, too little memory.
    """
    config = run.load_config().with_moved_data(data_flags)
    is_photo = Path(query).suffix.lower() in PHOTO_SUFFIXES
    if is_photo:
        if folder:
            raise UserError(f"--images {folder}: is searched for a sentence; for a picture leave it out")
        read_picture(query)  # before anything slow
    model, tokenizer = run.load_model()
    fast = FastScorer(model.scorer)
    rerank = rerank and max(rerank, top)
    if is_photo:
        part, _ = corpus_part(run, config, split, progress)
        features = _photo_features(run, config, Path(query))
        order, scores = CaptionSearch(fast, tokenizer(part.captions), memory_mb).rank(features, 0, rerank)
        found = part.captions
    else:
        tokens = tokenizer.read_sentence(query, "--search")
        if folder:
            found, features = _folder_features(run, config, folder, "boxes" in (data_flags or {}), progress)
            rows = np.setdiff1d(np.arange(len(found)), features.bad_rows)
        else:
            part, features = corpus_part(run, config, split, progress)
            found, rows = part.image_paths, part.image_rows
        order, scores = PictureSearch(fast, features, rows, memory_mb).rank(tokens, rerank)
        found = [found[row] for row in rows] if folder else found
    return [(float(score), str(found[place])) for score, place in zip(scores[:top], order)]


def corpus_part(run: RunFolder, config: Config, split: str, progress: bool) -> tuple[Split, Features]:
    """A split of the run's corpus and the features of the corpus; UserError if they are not those of the training."""
    data = open_data(config.data, progress)
    check_fit(config, data)
    run.require_same_data(fingerprint(data))
    return data.split(split), data.features


def _photo_features(run: RunFolder, config: Config, photo: Path) -> SimpleNamespace:
    picture, size = read_picture(photo)
    extractor, detector = extractors_of(run, config.data)
    objects = photo_objects(config.data, photo, size, None, config.model.P, detector)
    return SimpleNamespace(**describe_photo(extractor, picture, objects, run_context(run, config)))


def _folder_features(
    run: RunFolder, config: Config, folder: Path, must_list: bool = False, progress: bool = True
) -> tuple[list[Path], Features]:
    """The pictures of a folder and their features, kept in the cache; unreadable ones are left out with a warning.

    Args:
        must_list: see `photo_features`.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
    if not paths:
        raise UserError(f"--images {folder}: no pictures in it ({', '.join(PHOTO_SUFFIXES)})")
    return paths, photo_features(run, config, folder, paths, must_list, progress)


def text_of(results: list[tuple[float, str]]) -> str:
    """The results as lines of rank, score and picture or sentence."""
    return "\n".join(f"{rank:>3}  {score:8.3f}  {found}" for rank, (score, found) in enumerate(results, 1))
