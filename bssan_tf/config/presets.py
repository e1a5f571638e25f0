"""The named presets: which value every field of a Config has before flags replace single ones.

In: the names of a preset, a size, a variant and a data set. Out: the Config of that run; what a preset does not
name is as in config.py, the printed text. No TensorFlow here either, so that `--help` answers at once.
"""

from __future__ import annotations

from bssan_tf.config.schema import Config, DataConfig
from bssan_tf.errors import UserError

PRESETS = ("improved", "paper")
SIZES = ("paper", "small", "tiny")

# a quarter and an eighth of Table I
_SMALL = {"H": 256, "S": 128, "w2r_mlp": (256, 128, 32), "o2w_mlp": (128, 64, 16)}
_TINY = {"H": 128, "S": 64, "w2r_mlp": (128, 64, 16), "o2w_mlp": (64, 32, 8)}

_IMPROVED = {
    "loss": "softmax",
    "negative_attention": "mixed",
    "negative_source": "batch",
    "negatives": 8,
    "optimizer": "adam",
    "learning_rate": 0.0003,
    "o2w_rate": 0.3,
    "l2": 1e-6,
    "clip_norm": 2.0,
    "warmup_steps": 100,
    "batch_size": 32,
    "schedule": "cosine",
    "epochs": 2,
    "group": 4,
    "cca_start": True,
    "glove_prior": 0.3,
    "object_context": True,
    "region_norm": "centred",
    "object_norm": "centred",
    "fusion": 256,
    "bilinear": True,
    "weighted_lengths": True,
    "all_pairs": 1.0,
    "attention_scale": 1.0,
    "o2w_attention_scale": 0.25,
    "cosine_attention": True,
    "dropout": 0.3,
    "word_dropout": 0.1,
    "E_trained": 250,
    "o2w_weight": 1.0,
}


_IMPROVED_TINY = {"fusion": 128, "E_trained": 64}

# scenes are simple and few: so much is enough, and takes minutes
_SCENES = {"epochs": 16, "validation_images": 100}
_IMPROVED_SCENES = {
    "learning_rate": 0.003,
    "o2w_rate": 1.0,
    "o2w_weight": 1.0,
    "warmup_steps": 20,
    "schedule": "plateau",
    "dropout": 0.1,
    "word_dropout": 0.0,
    "object_context": False,
    "all_pairs": 0.0,
    "attention_scale": 5.0,
    "o2w_attention_scale": None,
    # without the loss of all pairs Eq. 8 harms: O2W then points at the wrong words
    "negative_attention": "learned",
    # from a CCA it retrieves as well, but its attention points less well
    "group": 1,
    "cca_start": False,
    "bilinear": False,
    "weighted_lengths": False,
    "cosine_attention": False,
    "region_norm": "sqrt_l2",
    "object_norm": "sqrt_l2",
}


def preset(name: str = "improved", size: str = "paper", variant: str = "full", data: str = DataConfig.data) -> Config:
    """The config of a named preset.

    Args:
        name: `paper`, the printed text to the letter, or `improved`, what was measured to work best.
        size: `paper`, the layers of Table I, `small`, a quarter of their width, or `tiny`, an eighth.
        variant: `full`, `w2r`, `o2w` or `no_reg` (section V-A); `no_reg` sets δ = 0.
        data: the data set; scenes need fewer epochs than photos.

    Raises:
        UserError: for a preset or a size that does not exist.
    """
    if name not in PRESETS:
        raise UserError(f"--preset {name}: must be one of {', '.join(PRESETS)}")
    if size not in SIZES:
        raise UserError(f"--size {size}: must be one of {', '.join(SIZES)}")
    config = Config(preset=name, size=size).replace(variant=variant, data=data)
    config = config.replace(**{"small": _SMALL, "tiny": _TINY}.get(size, {}))
    improved, tiny, scenes = name == "improved", size == "tiny", data == "scenes"
    for applies, values in (
        (improved, _IMPROVED),
        (improved and tiny, _IMPROVED_TINY),
        (scenes, _SCENES),
        (improved and scenes, _IMPROVED_SCENES),
    ):
        if applies:
            config = config.replace(**values)
    if variant == "no_reg":
        config = config.replace(l2=0.0)
    return config
