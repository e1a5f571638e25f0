"""Search with a trained run: pictures for a sentence, or sentences for a picture.

Candidates are a split of the run's corpus, or for a sentence the pictures of any folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import MEMORY_MB, RERANK
from bssan_tf.datasets.photos import SUFFIXES, check_name
from bssan_tf.errors import UserError
from bssan_tf.runs.data import data_of_run
from bssan_tf.runs.folder import RunFolder
from bssan_tf.runs.photo import Photo, folder_features, photo_inputs
from bssan_tf.scoring.scorer import FastScorer
from bssan_tf.scoring.two_stage import CaptionSearch, PictureSearch

logger = logging.getLogger(__name__)


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
    """Rank pictures for a sentence, or sentences for a photo: scores and the paths or sentences, best first.

    UserError for a query without a word, a picture that cannot be read, a folder without pictures, data that are gone
    or differ from those of the training, too little memory.

    Args:
        query: a sentence, or the path of a picture file.
        split: part of the run's corpus that is searched: its pictures for a sentence, its sentences for a photo.
        folder: pictures to search for a sentence in place of the split's.
        top: how many to return.
        rerank: candidates that the whole model scores, the best by O2W; 0 for all, as with `fuse` fc always.
        data_flags: fields of DataConfig to replace; with `folder`, `boxes` is a file that lists its pictures, or
            `objects` a detector. Without these, the run's own boxes where they are its corpus' pictures, else the
            fixed ones.
        memory_mb: what scoring may take, see `score_matrices`.
    """
    config = run.load_config().moved(data_flags)
    _require_query(query)
    photo, paths = None, pictures_in(folder) if folder else []
    if Path(query).suffix.lower() in SUFFIXES:
        if folder:
            raise UserError(f"--images {folder}: is searched for a sentence; for a picture leave it out")
        photo = Photo.read(query, config.data)  # before anything slow
    model, tokenizer = run.load_model()
    fast, rerank = FastScorer(model.scorer), rerank and max(rerank, top)
    if config.model.fuse == "fc" and rerank:
        logger.info("all candidates are scored in full: with --fuse fc, O2W was not trained to rank alone")
        rerank = 0
    if photo:
        part = data_of_run(run, _own_config(run, data_flags), progress).split(split)
        features, _ = photo_inputs(run, config, photo)
        order, scores = CaptionSearch(fast, tokenizer(part.captions), memory_mb).rank(features, 0, rerank)
        found = part.captions
    else:
        tokens = tokenizer.read_sentence(query, "query")
        if folder:
            features = folder_features(run, config, folder, paths, data_flags, progress)
            rows = np.setdiff1d(np.arange(len(paths)), features.bad_rows)
            found = [paths[row] for row in rows]
        else:
            data = data_of_run(run, config, progress)
            part, features = data.split(split), data.features
            found, rows = part.image_paths, part.image_rows
        order, scores = PictureSearch(fast, features, rows, memory_mb).rank(tokens, rerank)
    return [(float(score), str(found[place])) for score, place in zip(scores[:top], order)]


def _own_config(run: RunFolder, data_flags: dict | None) -> Config:
    """The run's config with its files where they are, for its own sentences; objects that a photo is given are not."""
    config, flags = run.load_config(), dict(data_flags or {})
    if flags.pop("objects", None) or config.data.objects != "boxes":
        flags.pop("boxes", None)
    return config.moved(flags)


def _require_query(query: str) -> None:
    """UserError for a path of something else than a picture, which would be read as a sentence."""
    if not (os.sep in query or Path(query).suffix) or Path(query).suffix.lower() in SUFFIXES:
        return
    if os.path.isdir(query):
        raise UserError(f"{query}: is a folder; to search its pictures give a sentence, and --images {query}")
    if os.path.exists(query):
        raise UserError(f"{query}: is no picture file ({', '.join(SUFFIXES)}); give one, or a sentence")


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder by name; UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"--images {folder}: no pictures in it ({', '.join(SUFFIXES)})")
    for path in paths:
        check_name(path.name, f"--images {folder}")
    return paths


def text_of(results: list[tuple[float, str]]) -> str:
    """The results as lines of rank, score and picture or sentence."""
    return "\n".join(f"{rank:>3}  {score:8.3f}  {found}" for rank, (score, found) in enumerate(results, 1))
