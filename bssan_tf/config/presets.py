"""The named presets: which value every setting has before flags replace single ones.

What a preset does not name is as in settings.py, the printed text. No TensorFlow here either, for a quick `--help`.
"""

from __future__ import annotations

from bssan_tf.config.schema import Config
from bssan_tf.config.settings import DataConfig
from bssan_tf.errors import UserError

PRESETS = ("improved", "paper")
SIZES = ("paper", "small", "tiny")

# a quarter and an eighth of Table I
_SMALL = {"H": 256, "S": 128, "w2r_mlp": (256, 128, 32), "o2w_mlp": (128, 64, 16)}
_TINY = {"H": 128, "S": 64, "w2r_mlp": (128, 64, 16), "o2w_mlp": (64, 32, 8)}

_IMPROVED = {
    "loss": "softmax",
    "negative_attention": "learned",
    "negative_source": "batch",
    "all_pairs": 1.0,
    "optimizer": "adam",
    "learning_rate": 0.0003,
    "o2w_rate": 0.3,
    "l2": 1e-6,
    "clip_norm": 2.0,
    "warmup_steps": 100,
    "batch_size": 32,
    "schedule": "cosine",
    "epochs": 2,
    "cca_start": True,
    "glove_prior": 0.3,
    "object_context": True,
    "region_norm": "centred",
    "object_norm": "centred",
    "fusion": 256,
    "bilinear": True,
    "weighted_lengths": True,
    "attention_scale": 1.0,
    "o2w_attention_scale": 0.25,
    "cosine_attention": True,
    "dropout": 0.3,
    "E_trained": 250,
    "o2w_weight": 1.0,
}
_IMPROVED_TINY = {"fusion": 128, "E_trained": 64}

# scenes are simple and few: so much is enough, and takes minutes
_SCENES = {"epochs": 16, "validation_images": 100}
_IMPROVED_SCENES = {
    "negatives": 8,
    "learning_rate": 0.003,
    "o2w_rate": 1.0,
    "warmup_steps": 20,
    "schedule": "plateau",
    "dropout": 0.1,
    "attention_scale": 5.0,
    "o2w_attention_scale": None,
    # from a CCA it retrieves as well, but its attention points less well
    "object_context": False,
    "all_pairs": 0.0,
    "cca_start": False,
    "glove_prior": 0.0,
    "bilinear": False,
    "weighted_lengths": False,
    "cosine_attention": False,
    "region_norm": "sqrt_l2",
    "object_norm": "sqrt_l2",
}


def preset(name: str = "improved", size: str = "paper", variant: str = "full", data: str = DataConfig.data) -> Config:
    """The config of a named preset; UserError for an unknown preset or size.

    Args:
        name: `paper`, the printed text to the letter, or `improved`, what was measured to work best.
        size: `paper`, the layers of Table I, `small`, a quarter of their width, or `tiny`, an eighth.
        variant: `full`, `w2r`, `o2w` or `no_reg` (section V-A).
        data: the data set; scenes need other settings than photos.
    """
    for flag, value, names in (("--preset", name, PRESETS), ("--size", size, SIZES)):
        if value not in names:
            raise UserError(f"{flag} {value}: must be one of {', '.join(names)}")
    improved, scenes = name == "improved", data == "scenes"
    values = {"variant": variant, "data": data, **{"small": _SMALL, "tiny": _TINY}.get(size, {})}
    values |= _IMPROVED if improved else {}
    values |= _IMPROVED_TINY if improved and size == "tiny" else {}
    values |= _SCENES if scenes else {}
    values |= _IMPROVED_SCENES if improved and scenes else {}
    return Config(preset=name, size=size).replace(**values).settled(())
