"""`Matcher`: a trained run as a tool for any photos and sentences.

In: photos (files, PIL images or arrays) and sentences. Out: scores, an explanation of a pair, an index of a folder, a
SavedModel. The commands `visualize` and `search` are thin skins of it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import MEMORY_MB
from bssan_tf.datasets.picture_folder import pictures_in
from bssan_tf.errors import UserError
from bssan_tf.features.objects import class_names
from bssan_tf.matching.erasing import Erasure, chosen_word, erased, erasures
from bssan_tf.matching.explanation import Explanation
from bssan_tf.matching.indexes import PhotoIndex, SentenceIndex
from bssan_tf.matching.likeness import photo_vectors
from bssan_tf.matching.serving import save_matcher
from bssan_tf.matching.vector_index import first_candidates
from bssan_tf.runs.data import Data, data_of_run
from bssan_tf.runs.folder import RunFolder, find_run
from bssan_tf.runs.photo import Photo, PhotoReader, Source, folder_index
from bssan_tf.scoring import score_matrices
from bssan_tf.scoring.scorer import FastScorer

logger = logging.getLogger(__name__)

BATCH = 16  # photos that are described at once


class Matcher:
    """A run's best model with all that it needs for new photos; `Matcher.load` makes one.

    Attributes:
        run, config: the run, and its config with its files where they are now.
        tokenizer: captions -> token ids.
        of_own_data: whether given boxes are those of the run's own photos, if these have boxes of a file, not of the
            photos that are asked about.
    """

    def __init__(
        self,
        run: RunFolder,
        files: dict | None = None,
        memory_mb: float = MEMORY_MB,
        progress: bool = False,
        of_own_data: bool = False,
    ):
        self.run, self.memory_mb, self.progress = run, memory_mb, progress
        self.files = {name: str(file) for name, file in (files or {}).items()}
        config = run.load_config()
        self.of_own_data = of_own_data and config.data.objects == "boxes"
        self._fixed = config.data.objects == "grid" and "objects" not in self.files
        moved = dict(self.files)
        if self._fixed:
            moved.pop("boxes", None)  # is of photos, not of data of the run
        self.config = config.moved(moved)

    @classmethod
    def load(
        cls, run: str | Path | RunFolder | None = None, memory_mb: float = MEMORY_MB, progress: bool = False, **files
    ) -> Matcher:
        """The matcher of a run: its folder, its name in runs/, or None for the newest.

        Args:
            memory_mb: MiB that scoring may take.
            progress: show bars.
            files: where files of the run lie now, by field of DataConfig: `backbone_weights`, `detector_weights`,
                `cache`, ...; `boxes` is an .npz of boxes of the photos that are asked about, which must list them, and
                `objects` a detector for them. For the splits, `boxes` is that of the run's own photos.

        Raises:
            UserError: no such run, or it has no finished epoch; damaged files.
        """
        found = run if isinstance(run, RunFolder) else find_run(run and str(run), pretrained=True)
        return cls(found, files, memory_mb, progress)

    @functools.cached_property
    def _model_and_tokenizer(self):
        return self.run.load_model()

    @property
    def model(self):
        """The run's `Bssan`."""
        return self._model_and_tokenizer[0]

    @property
    def tokenizer(self):
        return self._model_and_tokenizer[1]

    @functools.cached_property
    def fast(self) -> FastScorer:
        """The scorer of all pairs."""
        return FastScorer(self.model.scorer)

    @functools.cached_property
    def reader(self) -> PhotoReader:
        """What describes photos; UserError for a run on imported arrays, or weights that differ from the training's."""
        boxes = None if self.of_own_data else self.files.get("boxes")
        return PhotoReader(self.run, self.config, boxes and Path(boxes))

    def read(self, photos: Sequence[Source]) -> list[Photo]:
        """Decode photos; UserError for what is no picture."""
        data, side = self.reader.data, self.reader.extractor.side
        return [Photo.read(photo, data, side, f"photo {i}") for i, photo in enumerate(photos, 1)]

    def describe(self, photos: Sequence[Photo], known: dict | None = None):
        """Features of decoded photos as `score_matrices` takes them, and the objects of each: `PhotoReader.read`."""
        return self.reader.read(photos, known)

    def _describe_one(self, photo: Source, beside: Mapping | None = None):
        if beside:
            self.reader.require_weights(beside)
        return self.describe(self.read([photo]))[0]

    def score(self, photos: Sequence[Source], captions: Sequence[str], part: str = "score") -> np.ndarray:
        """Matching scores of every photo with every caption.

        Args:
            photos: N_i files, PIL images or arrays uint8 (height, width, 3), RGB; some hundred, as their features are
                kept in memory (200 KB each). `index` is for more.
            captions: N_c sentences; words that the run does not know count as one unknown word.
            part: `score` (MS of Eq. 19), or `w2r` or `o2w` alone.

        Returns:
            float32 (N_i, N_c). Higher is better; scores of one run compare with each other only.

        Raises:
            UserError: what is no picture, a caption without a word, a part that the run does not have.
        """
        photos, tokens = _listed(photos, "photos"), self.tokens(captions)
        if part not in self.fast.parts:
            raise UserError(f"{part}: is no part of {self.run.path}, which has {', '.join(self.fast.parts)}")
        blocks = []
        for start in range(0, len(photos), BATCH):
            features, _ = self.describe(self.read(photos[start : start + BATCH]))
            blocks.append(self._matrices(features, tokens, [part])[part])
        return np.concatenate(blocks) if blocks else np.zeros((0, len(tokens)), np.float32)

    def tokens(self, captions: Sequence[str]) -> np.ndarray:
        """Token ids int32 (N_c, L) of sentences; UserError for one without a word."""
        rows = [self.tokenizer.read_sentence(caption, f"caption {i}")
                for i, caption in enumerate(_listed(captions, "captions"), 1)]  # fmt: skip
        return np.concatenate(rows) if rows else np.zeros((0, self.tokenizer.length), np.int32)

    def explain(self, photo: Source, caption: str, erase: bool = False) -> Explanation:
        """Scores of a photo with a caption, and where each word and each object looked; see `explain_all`."""
        return self.explain_all(photo, [caption], erase)[0]

    def explain_all(
        self, photo: Source, captions: Sequence[str], erase: bool = False, seed: int = 0
    ) -> list[Explanation]:
        """A photo beside each of some captions: scores, and where each word and each object looked.

        Args:
            erase: make the erase test of every word, which describes up to 100 photos more.
            seed: of its squares elsewhere.

        Raises:
            UserError: as `score`.
        """
        found, fall = self._explained(photo, captions)
        if erase and found and found[0].alpha is None:
            logger.info("no erase test: the run has no W2R, whose attention could be erased")
        elif erase and found:
            tested = fall([one.alpha for one in found], seed)
            found = [dataclasses.replace(one, erasures=own) for one, own in zip(found, tested)]
        return found

    def _explained(self, photo: Source, captions: Sequence[str]):
        """A photo beside captions, and what makes the erase test of their words, as `erasures` of maps and a seed."""
        (picture,), tokens = self.read([photo]), self.tokens(captions)
        features, (objects,) = self.describe([picture])
        scores = self._matrices(features, tokens)
        found = []
        for i, caption in enumerate(captions):
            own = {name: float(scores[name][0, i]) for name in ("score", "w2r", "o2w") if name in scores}
            found.append(self._beside(picture, features, objects, caption, tokens[i : i + 1], own, photo))

        def score(squares: list[tuple]) -> np.ndarray:
            grid, blocks = found[0].alpha.shape[1:], []
            for start in range(0, len(squares), BATCH):
                photos = [erased(picture, square, grid) for square in squares[start : start + BATCH]]
                grey, _ = self.describe(photos, objects)  # boxes stay as in the whole photo
                blocks.append(self._matrices(grey, tokens, ["score"])["score"])
            return np.concatenate(blocks)

        return found, functools.partial(erasures, score, scores["score"][0])

    def _beside(self, picture: Photo, features, objects, caption, tokens, scores, source) -> Explanation:
        tokenizer, scorer, words = self.tokenizer, self.model.scorer, self.tokenizer.words_of(caption)
        given = {**vars(features), "tokens": tokens}
        inputs = {name: given[name] for name in scorer.input}
        inputs |= {name: inputs[name].astype(np.float32) for name in ("regions", "objects") if name in inputs}
        attention = {name: value.numpy()[0] for name, value in scorer(inputs, training=False).items()}
        L, alpha, beta = len(words), attention.get("alpha"), attention.get("beta")
        return Explanation(
            words=words,
            known=np.array([word in tokenizer.words for word in words]),
            scores=scores,
            alpha=None if alpha is None else alpha[:L].reshape(L, *self.reader.extractor.grid),
            beta=None if beta is None else beta[:, :L],
            boxes=objects["boxes"],
            labels=class_names(objects["classes"], objects["labels"]),
            confidence=objects["scores"],
            valid=objects["valid"],
            pixels=picture.pixels,
            source=source,
        )

    def _matrices(self, features, tokens: np.ndarray, parts: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The scores of evaluate.py."""
        return score_matrices(self.fast, features, tokens, parts=parts, memory_mb=self.memory_mb)

    def erase(self, photo: Source, caption: str, word: int | None = None, seed: int = 0) -> Erasure:
        """How far the score falls where the square that a word attended to is grey, and where others are.

        Args:
            word: its place in the caption, from 0; None for the word with the sharpest attention among the known ones.
            seed: of the squares elsewhere.

        Raises:
            UserError: as `score`; a run without W2R, a caption without such a word.
        """
        (found,), fall = self._explained(photo, [caption])
        if found.alpha is None:
            raise UserError(f"{self.run.path}: has no W2R, whose attention could be erased")
        word = chosen_word(found.alpha, found.known, caption, word)
        return fall([found.alpha[word : word + 1]], seed)[0][0]

    def index(self, folder: str | Path) -> PhotoIndex:
        """The photos of a folder and its subfolders, to be searched; their features are kept in the run's cache.

        Beside them lies an index of their vectors, made at the first search (`first_candidates`). The next call
        describes photos that are new or have changed, and no search finds those that are gone. Unreadable ones are left
        out with a warning. UserError: no such folder, no photo in it, boxes that do not list all of them, photos of the
        index that are hidden now: in a subfolder that can't be read, or HEIC without pillow-heif.
        """
        folder, files = Path(folder), dict(self.files)
        found = pictures_in(folder)
        if self._fixed and "boxes" in files:
            files["objects"] = "boxes"
        features, rows, paths = folder_index(self.run, self._moved(files), folder, found, files, self.progress)
        first = None if self._ranked["whole"] else first_candidates(self.fast, features, rows, self.progress)
        return self._photo_index(features, rows, paths, first)

    def index_of_split(self, split: str = "test") -> PhotoIndex:
        """The photos of a split of the run's own data; UserError as `data_of_run`."""
        part, features = self.data.split(split), self.data.features
        return self._photo_index(features, part.image_rows, part.image_paths)

    def _photo_index(self, features, rows: np.ndarray, paths: Sequence[Path], first=None) -> PhotoIndex:
        like = {"describe": lambda photo: self._describe_one(photo, features.manifest)}
        like["vectors"] = lambda *given: photo_vectors(self.model.networks, *given)
        like |= {"calibration": self.run.calibration(), "first": first}
        return PhotoIndex(self.fast, self.tokenizer, features, rows, paths, **like, **self._ranked)

    def sentences(self, captions: Sequence[str]) -> SentenceIndex:
        """Sentences, to be searched for a photo; UserError for one without a word."""
        return SentenceIndex(self.fast, self._describe_one, captions, self.tokens(captions), **self._ranked)

    def sentences_of_split(self, split: str = "test") -> SentenceIndex:
        """The sentences of a split of the run's own data; UserError as `data_of_run`."""
        own, files = self.run.load_config().data.objects, dict(self.files)
        if files.pop("objects", None) or own != "boxes":
            files.pop("boxes", None)  # the photos', not the run's
        captions = data_of_run(self.run, self._moved(files), self.progress).split(split).captions
        return SentenceIndex(self.fast, self._describe_one, captions, self.tokenizer(captions), **self._ranked)

    def save_savedmodel(self, folder: str | Path) -> None:
        """Write the run for TensorFlow Serving; what it takes and gives: `save_matcher`. UserError: a full disk."""
        save_matcher(self, Path(folder))

    def _moved(self, files: dict) -> Config:
        return self.run.load_config().moved(files)  # refuses boxes that it has no use for

    @property
    def _ranked(self) -> dict:
        return {"whole": self.config.model.fuse == "fc", "memory_mb": self.memory_mb}

    @functools.cached_property
    def data(self) -> Data:
        """The data that the run was trained on; UserError where they are gone or differ."""
        return data_of_run(self.run, self._moved(self.files), self.progress)


def _listed(values, name: str) -> list:
    """A list of photos or captions; UserError for a single one, which Python would take apart."""
    if isinstance(values, (str, Path)) or not hasattr(values, "__iter__") or getattr(values, "ndim", 4) == 3:
        raise UserError(f"{name}: is a single one; give a list")
    return list(values)
