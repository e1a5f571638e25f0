"""The settings of data, model and training, each told once: default, help, which values make sense, what it needs.

The defaults are the printed text. flags.py makes the flags of train.py and the table of docs/training.md from these
fields, and schema.py checks a whole run by them. So a new setting is one field.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from bssan_tf.config.fields import HUB, PRESET, SET, UNSET, file_setting, hub_preset, setting

PUBLISHED = ("flickr8k", "flickr30k", "coco")  # data sets, whose lists and sizes are known
DATASETS = ("scenes", *PUBLISHED, "folder")  # what --data names; else it is a path
MOST = 2**32  # of any whole number
MEMORY_MB = 2048  # that scoring may take
OF_TRAINING = ("glove", "text_corpus")  # files that a trained run needs no more
BANK = 500  # training queries that a correction of hubs has
RERANK = 100  # candidates of a search that the whole model scores
WITH_W2R, WITH_O2W, WITH_BOTH = ("full", "w2r", "no_reg"), ("full", "o2w", "no_reg"), ("full", "no_reg")  # variants


@dataclass(frozen=True)
class DataConfig:
    """Which pictures and captions, and how they become arrays."""

    data: str = setting(
        "scenes", "data set: scenes (drawn), flickr8k, flickr30k, coco, or the path of a folder of photos"
    )
    root: str | None = setting(
        None, "folder of the data set; without it $BSSAN_DATA/NAME, then data/NAME", metavar="FOLDER", moves=True
    )
    split: str = setting(
        "auto",
        "whose split lists to use: the official ones, Karpathy's, those that are there, or a seeded division",
        choices=("auto", "official", "karpathy", "random"),
    )
    allow_partial: bool = setting(False, "accept a data set with missing files")
    cache: str = setting("cache", "folder in which features are kept", metavar="FOLDER", moves=True)
    backbone: str | None = setting(
        None,
        "network that makes the regions: vgg19, vgg16, slim, a model of keras.applications (resnet50), NAME:LAYER or"
        " NAME:LAYER+LAYER for other layers (LAYER@2: of the photo at twice the size), or keras_hub:PRESET;"
        " without it, slim for scenes and vgg19 for photos",
        metavar="NAME",
    )
    backbone_weights: str | None = file_setting(
        "weights of the backbone, .h5, .keras or .npz, or a preset's folder; without them they are downloaded"
    )
    objects: str | None = setting(
        None,
        "source of the objects: detections of a Faster R-CNN with their fc7, the boxes of --boxes, ten fixed boxes, or"
        " the boxes of a detector of KerasHub; without it, the first of these that the other flags allow",
        choices=("faster_rcnn", "boxes", "grid", HUB + PRESET),
        others=True,
    )
    detector_weights: str | None = file_setting("weights of the Faster R-CNN: .npz, .h5, or a TensorFlow 1 checkpoint")
    boxes: str | None = file_setting("boxes of any detector, .npz; see docs/data.md")
    import_regions: str | None = file_setting("your own regions, .npy (N, D, M)")
    import_objects: str | None = file_setting("your own objects, .npy (N, P, Q)")
    import_ids: str | None = file_setting("text file with the image id of each imported row, one a line")
    skip_bad_images: bool = setting(False, "leave out pictures that cannot be read")
    verify: bool = setting(True, "compare kept features with their checksums before they are used", once=True)
    check_photos: bool = setting(
        False, "read all photos to find those that have changed, not only those whose size or times have", once=True
    )
    engine: str | None = setting(
        None, "a cluster of Ray describes pictures and fills score matrices: docs/scale.md", choices=("ray",), once=True
    )
    object_context: bool = setting(
        False,
        "for O2W, append to each object its class and the mean of the photo's regions",
        needs={"variant": WITH_O2W, "import_regions": UNSET, "import_objects": UNSET},
    )
    glove: str | None = file_setting("pre-trained word vectors in GloVe's text format")
    text_corpus: str | None = file_setting("captions without photos, a file or a folder: 300 more dimensions of a word")
    caption_length: int = setting(30, "words of a caption that are read; what follows is cut", rule="above 0")  # L
    word_rule: str = field(default="unicode", metadata={"choices": ("unicode", "ascii"), "older": "ascii"})
    object_shares: tuple[float, float] = field(default=(0.04, 0.08), metadata={"older": (0.1, 0.2)})  # own and class
    imported_order: str = field(default="file", metadata={"choices": ("file", "splits"), "older": "splits"})

    @property
    def detects(self) -> bool:
        """Whether a detector looks at the photos, whose whole pixels it needs."""
        return self.objects == "faster_rcnn" or hub_preset(self.objects) is not None


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and parts of the network, in the letters of the legend."""

    variant: str = setting(
        "full",
        "the paper's variants (section V-A): both networks, W2R or O2W alone, or both without L2 regularisation",
        choices=("full", "w2r", "o2w", "no_reg"),
    )
    D: int = field(default=196, metadata={"rule": "above 0"})
    M: int = field(default=512, metadata={"rule": "above 0"})
    P: int = field(default=10, metadata={"rule": "above 0"})
    Q: int = field(default=4096, metadata={"rule": "above 0"})
    E_glove: int = field(default=300, metadata={"rule": "0 or more"})  # 0: no pre-trained vectors
    E_trained: int = setting(
        0,
        "dimensions of a word that are learned, beside GloVe's; 300 where there are none of either",
        flag="--trained-embeddings",
        rule="0 or more",
    )
    w2r_text: str = setting(
        "lstm",
        "what reads the words' [u ; t] in W2R: an LSTM, or a CNN of widths 2, 3 and 4 with --lstm filters each",
        choices=("lstm", "cnn"),
        needs={"variant": WITH_W2R},
    )
    H: int = setting(1024, "size of W2R's LSTM", flag="--lstm", rule="above 0")
    S: int = setting(512, "size of O2W's Bi-LSTM", flag="--bilstm", rule="above 0")
    w2r_mlp: tuple[int, ...] = (1024, 512, 128)  # Table I; the last layer, 1, is implied
    o2w_mlp: tuple[int, ...] = (512, 256, 64)
    train_embeddings: bool = setting(False, "fine-tune the GloVe vectors", needs={"glove": SET})
    region_norm: str = setting(
        "none", "scaling of the regions before Eq. 2", choices=("none", "sqrt_l2", "centred"), improved=True
    )
    object_norm: str = setting(
        "none", "scaling of the objects before Eq. 10", choices=("none", "sqrt_l2", "centred"), improved=True
    )
    fusion: int = setting(
        0, "dimensions of the product (A u)∘(B t) beside [u ; t]; 0 for none", rule="0 or more", improved=True
    )
    bilinear: bool = setting(
        False, "add to the MLP's score the normalised sum of (A u)∘(B t)", needs={"fusion": SET}, improved=True
    )
    weighted_lengths: bool = setting(
        False, "learn a weight for each dimension of the lengths in the bilinear score", needs={"bilinear": SET}
    )
    attention_scale: float = setting(
        0.0,
        "initial value of a learned factor on e, the attention's logits; 0 for none",
        rule="0 or more",
        improved=True,
        needs={"even_attention": UNSET},
    )
    o2w_attention_scale: float | None = setting(
        None,
        "initial value of that factor for O2W; without it, as --attention-scale",
        rule="0 or more",
        improved=True,
        needs={"even_attention": UNSET},
    )
    attention_gate: float = setting(
        0.0,
        "initial value of a learned gate γ: attention compares with keys less their mean, and gives the mean plus γ "
        "times what it finds beyond it; 0 for none",
        rule="0 or more",
        improved=True,
        needs={"even_attention": UNSET},
    )
    even_attention: bool = setting(
        False, "keep both attentions even, in training and after: a yardstick for what they are worth"
    )
    cosine_attention: bool = setting(
        False, "cosines in place of the inner products of Eq. 2 and 10", improved=True, needs={"even_attention": UNSET}
    )
    dropout: float = setting(
        0.0, "dropout rate of the inputs of LSTM, MLP and bilinear score", rule="0 or more and below 1", improved=True
    )
    fuse: str = setting(
        "sum",
        "score of both networks: sum, Y + λ Y', each with its loss; or fc, a dense layer over both MLPs, with one loss",
        choices=("sum", "fc"),
        needs={"variant": WITH_BOTH},
    )
    o2w_weight: float = setting(
        0.6, "λ, weight of O2W in loss and score", flag="--lambda", rule="0 or more", needs={"fuse": ("sum",)}, off=1.0
    )

    @property
    def E(self) -> int:
        """Size of a word's vector."""
        return self.E_glove + self.E_trained

    @property
    def needed_features(self) -> tuple[str, ...]:
        """What the variant looks at: `regions`, `objects` or both."""
        return {"w2r": ("regions",), "o2w": ("objects",)}.get(self.variant, ("regions", "objects"))


@dataclass(frozen=True)
class TrainingConfig:
    """How the network is trained, and for how long."""

    loss: str = setting(
        "hinge", "Eq. 7, or a softmax over the positive and its negatives", choices=("hinge", "softmax")
    )
    margin: float = setting(0.2, "M, the margin of Eq. 7", rule="above 0")
    l2: float = setting(
        0.01, "δ, weight of the L2 term of Eq. 18", rule="0 or more", needs={"variant": ("full", "w2r", "o2w")}, off=0.0
    )
    negative_attention: str = setting(
        "uniform",
        "attention of negative pairs in training: uniform (Eq. 8), learned (Eq. 1), or mixed, half of each",
        choices=("uniform", "learned", "mixed"),
    )
    uniform_positives: float = setting(
        0.0,
        "share of the positive pairs under Eq. 8, too",
        rule="between 0 and 1",
        needs={"negative_attention": ("uniform", "mixed")},  # positives alone under Eq. 8 would show by it
    )
    negative_source: str = setting(
        "random",
        "negatives: random captions, or the next captions of the batch, which also rank the photos of a caption",
        choices=("random", "batch"),
    )
    negatives: int = setting(1, "K, negatives for each positive pair", rule="above 0")
    all_pairs: float = setting(
        0.0,
        "weight of a second loss: a softmax over the bilinear scores of all B×B pairs of a batch; 0 for none",
        rule="0 or more",
        needs={"bilinear": SET, "negative_source": ("batch",)},
    )
    optimizer: str = setting("sgd", "optimiser; sgd is the paper's", choices=("sgd", "adam"))
    learning_rate: float = setting(0.01, "learning rate after the warm-up", rule="above 0")
    o2w_rate: float = setting(
        1.0, "share of the learning rate that O2W's own weights take", rule="above 0", needs={"variant": WITH_O2W}
    )
    momentum: float = setting(0.9, "momentum of SGD", rule="0 or more and below 1", needs={"optimizer": ("sgd",)})
    clip_norm: float = setting(0.0, "largest norm of the gradient; 0 for no limit", rule="0 or more")
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0", rule="0 or more")
    schedule: str = setting(
        "plateau",
        "course of the learning rate: it falls when the validation rsum stops rising, or as a cosine over --epochs",
        choices=("plateau", "cosine"),
    )
    batch_size: int = setting(64, "B, pictures of a batch", rule="above 0")
    fixed_boxes: float = setting(
        0.0,
        "share of a batch's photos that show ten fixed boxes in place of a detector's, for use without one; 0 for none",
        rule="between 0 and 1",
        needs={"variant": WITH_O2W, "import_regions": UNSET, "import_objects": UNSET},
    )
    cca_start: bool = setting(False, "initialise word vectors, attention and fusion from a CCA of the training split")
    glove_prior: float = setting(
        0.0,
        "variance that similar words (by GloVe) share in this CCA's prior, over that of a single word; 0 for none",
        rule="0 or more",
        needs={"cca_start": SET},
    )
    hold_o2w_attention: bool = setting(
        False,
        "keep O2W's attention as this CCA gave it: training makes its objects forget which words name them",
        needs={"cca_start": SET, "variant": WITH_O2W, "even_attention": UNSET},
    )
    length_pool: int = setting(
        32, "batches whose pairs are sorted by caption length together, to save padding; 1 for none", rule="above 0"
    )
    epochs: int = setting(100, "passes over the pictures, each with one of its captions", rule="above 0")
    steps_per_epoch: int = setting(
        0, "validate and save after so many steps; 0 for one pass over the pictures", rule="0 or more"
    )
    mixed_precision: bool = setting(False, "train with products in bfloat16")
    minutes: float = setting(
        0.0, "minutes of training after which the current epoch is the last; 0 for no limit", rule="0 or more"
    )
    early_signs: int = setting(
        0,
        "steps over which to look for signs of collapse, kept in early_signs.csv; the flag alone means 300",
        rule="0 or more",
        const=300,
    )
    validation_images: int = setting(
        200, "pictures of the val split to validate on, a seeded sample; 0 for all", rule="0 or more"
    )
    validation_captions: int = setting(1, "captions of each of these pictures; 0 for all", rule="0 or more")
    plateau_patience: int = setting(
        3, "epochs without a better rsum before the rate falls", rule="above 0", needs={"schedule": ("plateau",)}
    )
    plateau_factor: float = setting(
        0.5, "factor on the learning rate when it falls", rule="above 0 and below 1", needs={"schedule": ("plateau",)}
    )
    stop_patience: int = setting(10, "epochs without a better rsum before training ends", rule="above 0")
    seed: int = setting(0, "seed of weights, batches and dropout", rule="0 or more and below 2^32")


SECTIONS = {"data": DataConfig, "model": ModelConfig, "training": TrainingConfig}


def fields_of(*sections: str) -> dict[str, dataclasses.Field]:
    """{name: field} of some sections, or of all."""
    return {f.name: f for section in sections or SECTIONS for f in dataclasses.fields(SECTIONS[section])}


def flag_of(name: str) -> str:
    """The flag of train.py that sets a field."""
    known = fields_of()
    return (known[name].metadata.get("flag") if name in known else None) or "--" + name.replace("_", "-")


def off_value(told: dataclasses.Field):
    """The value of a field where what it needs is missing."""
    return told.metadata.get("off", told.default)
