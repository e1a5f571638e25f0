"""What a run is: frozen dataclasses for data, model and training, and their JSON.

A preset of presets.py fills every field; flags of train.py replace single fields; the result is saved as
`config.json` in the run folder and read back to an equal object. No TensorFlow here, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bssan_tf.errors import UserError

VARIANTS = ("full", "w2r", "o2w", "no_reg")
NEGATIVE_ATTENTION = ("uniform", "learned", "mixed")
NEGATIVE_SOURCES = ("random", "batch", "hardest")
LOSSES = ("hinge", "softmax")
HINGES = ("mean", "sum", "max", "semi_hard")
WITH_STATISTICS = ("standard", "centred")  # norms that are fitted to the training pictures
FEATURE_NORMS = ("none", "l2", "sqrt", "sqrt_l2", *WITH_STATISTICS)
OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("plateau", "cosine")


@dataclass(frozen=True)
class DataConfig:
    """Which pictures and captions, and how they become arrays."""

    data: str = "scenes"
    root: str | None = None
    split: str = "official"
    allow_partial: bool = False
    cache: str = "cache"
    backbone: str | None = None  # None: slim for scenes, vgg19 elsewhere
    backbone_weights: str | None = None
    objects: str | None = None  # faster_rcnn | boxes | grid; None: see preparation.resolve
    detector_weights: str | None = None  # of faster_rcnn; None: the slim one that ships, for scenes
    boxes: str | None = None
    import_regions: str | None = None
    import_objects: str | None = None
    import_ids: str | None = None
    skip_bad_images: bool = False
    object_context: bool = False  # class and whole photo beside each object, for O2W
    glove: str | None = None
    caption_length: int = 30  # L


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and parts of the network, in the letters of the legend."""

    variant: str = "full"
    D: int = 196
    M: int = 512
    P: int = 10
    Q: int = 4096
    E_glove: int = 300  # 0: no pre-trained vectors
    E_trained: int = 0  # dimensions learned from scratch, beside GloVe's
    H: int = 1024
    S: int = 512
    w2r_mlp: tuple[int, ...] = (1024, 512, 128)  # Table I; the last layer, 1, is implied
    o2w_mlp: tuple[int, ...] = (512, 256, 64)
    train_embeddings: bool = False
    region_norm: str = "none"
    object_norm: str = "none"
    fusion: int = 0  # size of the extra (A u)∘(B t); 0: plain concatenation
    bilinear: bool = False  # the sum of the fusion's products, scaled, is a score beside the MLP's
    weighted_lengths: bool = False  # the lengths that the bilinear score divides by have learned weights
    attention_scale: float = 0.0  # start of a learned factor on e; 0: none, as in Eq. 1
    o2w_attention_scale: float | None = None  # the same of O2W; None: as `attention_scale`
    cosine_attention: bool = False  # the products of Eq. 2 and 10 are cosines, so that tanh does not saturate
    dropout: float = 0.0
    word_dropout: float = 0.0  # share of the words of training captions whose vectors are zero
    o2w_weight: float = 0.6  # λ

    @property
    def E(self) -> int:
        """Size of a word's vector."""
        return self.E_glove + self.E_trained


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained, and for how long."""

    loss: str = "hinge"
    margin: float = 0.2
    hinge: str = "mean"  # what becomes of the hinges of a positive's K negatives
    l2: float = 0.01  # δ
    negative_attention: str = "uniform"
    mixed_share: float = 0.5  # share of the negatives under Eq. 8 with `mixed`
    uniform_positives: float = 0.0  # share of the positives under Eq. 8, too; not in the paper
    negative_source: str = "random"
    negatives: int = 1  # K
    all_pairs: float = 0.0  # weight of the loss of the bilinear scores of all B x B pairs; 0: not computed
    pooled_pairs: float = 0.0  # the same with even attention, that is of pooled words, regions and objects
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    o2w_rate: float = 1.0  # share of the learning rate that O2W's own weights take
    momentum: float = 0.9
    clip_norm: float = 0.0  # 0: none
    weight_decay: float = 0.0  # share of the learning rate by which kernels shrink each step, O2W's alike
    ema: float = 0.0  # what the moving average of the weights keeps each step; 0: the last weights are taken
    warmup_steps: int = 0
    schedule: str = "plateau"  # how the rate falls: when rsum stays, or as a cosine over `epochs`
    batch_size: int = 64  # B
    cca_start: bool = False  # words, attention and fusion start from a CCA of the training split
    glove_prior: float = 0.0  # `kinship` of words of similar GloVe vectors in this CCA; 0: none
    group: int = 1  # similar pictures that lie side by side in a batch, so that negatives are hard; 1: none
    length_pool: int = 32  # batches whose pairs are sorted by length together; 1: none are
    epochs: int = 100
    steps_per_epoch: int = 0  # 0: one pass over the photos
    mixed_precision: bool = False  # products in bfloat16, weights and scores in float32
    minutes: float = 0.0  # stop after so much training; 0: no limit
    early_signs: int = 0  # steps over which early_signs.py looks for collapse; 0: none
    validation_images: int = 200  # 0: all
    validation_captions: int = 1  # of each of these pictures; 0: all
    plateau_patience: int = 3
    plateau_factor: float = 0.5
    stop_patience: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Config:
    """A whole run."""

    preset: str = "paper"
    size: str = "paper"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def replace(self, **values) -> Config:
        """A copy in which each named field, of whichever section, has the given value.

        Raises:
            TypeError: if no section has a field of that name.
        """
        sections = {}
        for key in ("data", "model", "training"):
            section = getattr(self, key)
            own = {f.name: values.pop(f.name) for f in dataclasses.fields(section) if f.name in values}
            sections[key] = dataclasses.replace(section, **own)
        if values:
            raise TypeError(f"no config section has a field {sorted(values)[0]!r}")
        return dataclasses.replace(self, **sections)

    def with_moved_data(self, flags: Mapping[str, str] | None) -> Config:
        """A copy with the fields of DataConfig in `flags`; `root` also says where a folder named by --data is now."""
        from bssan_tf.datasets import DATASETS

        flags = dict(flags or {})
        if "root" in flags and self.data.data not in DATASETS:
            flags["data"] = flags.pop("root")
        return self.replace(**flags)

    def to_json(self) -> str:
        """The config as JSON text, fields in their order."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, source: str = "config.json") -> Config:
        """Read back what `to_json` wrote.

        Raises:
            UserError: if the text is not such a config (names `source`).
        """
        try:
            raw = json.loads(text)
            model = {k: tuple(v) if isinstance(v, list) else v for k, v in raw["model"].items()}
            return cls(
                preset=raw["preset"],
                size=raw["size"],
                data=DataConfig(**raw["data"]),
                model=ModelConfig(**model),
                training=TrainingConfig(**raw["training"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{source}: not a config of this version of bssan_tf ({error}); train the run anew"
            ) from None

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read a config file; UserError if it is absent or not one."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); is this a run folder?") from None
        return cls.from_json(text, str(path))

    def check(self) -> Config:
        """Return self if every value makes sense; UserError naming the flag and its value otherwise."""
        for name, allowed in _CHOICES.items():
            section = self.model if hasattr(self.model, name) else self.training
            _require(
                getattr(section, name) in allowed,
                name,
                getattr(section, name),
                f"one of {', '.join(allowed)}",
            )
        model, training = self.model, self.training
        for name in ("H", "S", "D", "M", "P", "Q"):
            _require(getattr(model, name) > 0, name, getattr(model, name), "above 0")
        for name in (
            "learning_rate",
            "batch_size",
            "length_pool",
            "group",
            "epochs",
            "negatives",
            "plateau_patience",
            "stop_patience",
        ):
            _require(getattr(training, name) > 0, name, getattr(training, name), "above 0")
        for name in (
            "l2",
            "margin",
            "clip_norm",
            "seed",
            "warmup_steps",
            "steps_per_epoch",
            "minutes",
            "validation_images",
            "validation_captions",
            "early_signs",
            "all_pairs",
            "pooled_pairs",
            "weight_decay",
            "glove_prior",
        ):
            _require(getattr(training, name) >= 0, name, getattr(training, name), "0 or more")
        regular = model.variant != "no_reg" or not training.l2
        _require(regular, "l2", training.l2, "0 with --variant no_reg, which has no regularisation; leave one out")
        _require(model.o2w_weight >= 0, "o2w_weight", model.o2w_weight, "0 or more")
        _require(0 <= training.mixed_share <= 1, "mixed_share", training.mixed_share, "between 0 and 1")
        most = 0 if training.negative_attention == "learned" else 1  # positives alone under Eq. 8 would show by it
        rule = "between 0 and 1, and 0 with --negative-attention learned; add --negative-attention mixed"
        _require(0 <= training.uniform_positives <= most, "uniform_positives", training.uniform_positives, rule)
        _require(0 < training.plateau_factor < 1, "plateau_factor", training.plateau_factor, "between 0 and 1")
        _require(training.o2w_rate > 0, "o2w_rate", training.o2w_rate, "above 0")
        _require(0 <= training.momentum < 1, "momentum", training.momentum, "in [0, 1)")
        _require(model.E_trained >= 0, "E_trained", model.E_trained, "0 or more")
        _require(training.loss != "hinge" or training.margin > 0, "margin", training.margin, "above 0")
        for name in ("dropout", "word_dropout"):
            _require(0 <= getattr(model, name) < 1, name, getattr(model, name), "in [0, 1)")
        _require(0 <= training.ema < 1, "ema", training.ema, "in [0, 1)")
        self._check_pairs()
        _require(model.fusion >= 0, "fusion", model.fusion, "0 or more")
        _require(model.fusion or not model.bilinear, "fusion", model.fusion, "above 0 with --bilinear")
        fits = model.bilinear or not model.weighted_lengths
        _require(fits, "weighted_lengths", True, "off without --bilinear; leave it out")
        _require(model.attention_scale >= 0, "attention_scale", model.attention_scale, "0 or more")
        own = model.o2w_attention_scale
        _require(own is None or own >= 0, "o2w_attention_scale", own, "0 or more")
        _require(self.data.caption_length > 0, "caption_length", self.data.caption_length, "above 0")
        return self

    def _check_pairs(self) -> None:
        """UserError where the pairs that are trained on, or their loss, lack what they need."""
        model, training = self.model, self.training
        of_batch = training.negative_source != "random"
        rule = "0 without --bilinear, or with --negative-source random"
        for name in ("all_pairs", "pooled_pairs"):
            value = getattr(training, name)
            _require((model.bilinear and of_batch) or not value, name, value, rule)
        of_hinge = training.loss == "hinge" or training.hinge == "mean"
        _require(of_hinge, "hinge", training.hinge, "left out without --loss hinge")
        chosen = training.negative_source == "hardest"
        rule = "batch or random without --bilinear and O2W, whose scores choose"
        fits = model.bilinear and model.variant != "w2r"
        _require(fits or not chosen, "negative_source", training.negative_source, rule)
        enough = training.batch_size > training.negatives or not of_batch
        _require(enough, "negatives", training.negatives, "below --batch-size")


_CHOICES = {
    "variant": VARIANTS,
    "region_norm": FEATURE_NORMS,
    "object_norm": FEATURE_NORMS,
    "loss": LOSSES,
    "hinge": HINGES,
    "negative_attention": NEGATIVE_ATTENTION,
    "negative_source": NEGATIVE_SOURCES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
}


_FLAGS = {"o2w_weight": "--lambda", "H": "--lstm", "S": "--bilstm", "E_trained": "--trained-embeddings"}


def flag_of(name: str) -> str:
    """The flag of train.py that sets a config field."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise UserError(f"{flag_of(name)} {value}: must be {rule}")
