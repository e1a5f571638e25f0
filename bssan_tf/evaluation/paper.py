"""What others have printed: the paper's tables, and matchers of its time with VGG features.

A row is R@1, R@5, R@10 in % and Med r image to text, then the same text to image, as printed; None where the source
prints nothing.
"""

from __future__ import annotations

Printed = tuple  # of 8 numbers or None

PAPER_TABLES: dict[str, dict[str, Printed]] = {  # Tables II and III, the paper's own rows
    "flickr30k": {
        "BSSAN_w2r": (41.2, 71.1, 80.9, 3.0, 31.0, 61.3, 70.4, 3.0),
        "BSSAN_o2w": (38.4, 67.2, 77.5, 3.0, 28.5, 57.5, 67.9, 4.0),
        "BSSAN_no_reg": (43.1, 73.9, 82.8, 2.0, 32.3, 61.7, 72.3, 3.0),
        "BSSAN": (44.6, 74.9, 84.3, 2.0, 33.2, 62.6, 72.9, 3.0),
    },
    "coco": {
        "BSSAN_w2r": (52.9, 79.3, 88.3, 2.0, 38.1, 74.1, 86.1, 2.0),
        "BSSAN_o2w": (49.2, 76.1, 85.1, 2.0, 36.2, 69.2, 82.5, 3.0),
        "BSSAN_no_reg": (54.7, 81.9, 89.7, 1.0, 40.7, 75.5, 87.9, 2.0),
        "BSSAN": (56.0, 82.6, 91.3, 1.0, 41.8, 76.7, 88.5, 2.0),
    },
}
TITLES = {"flickr30k": "Table II", "coco": "Table III"}

CITED_BY_PAPER: dict[str, dict[str, Printed]] = {  # Tables II and III, rows of others as the paper prints them
    "flickr30k": {
        "DCCA": (27.9, 56.9, 68.2, 4.0, 26.8, 52.9, 66.9, 4.0),
        "CCA (FV HGLMM)": (33.2, 60.7, 72.4, 3.0, 24.9, 52.3, 66.4, 5.0),
        "CCA (FV GMM+HGLMM)": (33.3, 62.0, 74.7, 3.0, 25.6, 53.2, 66.8, 5.0),
        "m-RNN-vgg": (35.4, 63.8, 73.7, 3.0, 22.8, 50.7, 63.1, 5.0),
        "DVSA (DepTree)": (20.0, 46.6, 59.4, 5.4, 15.0, 36.5, 48.2, 10.4),
        "DVSA (BRNN)": (22.2, 48.2, 61.4, 4.8, 15.2, 37.7, 50.5, 8.0),
        "mCNN (ensemble)": (33.6, 64.1, 74.9, 3.0, 26.2, 56.3, 69.6, 4.0),
        "DSPE": (40.3, 68.9, 79.9, None, 29.7, 60.1, 72.1, None),
        "RRF-Net (vgg)": (42.1, None, None, None, 31.2, None, None, None),
        "DAN (vgg)": (41.4, 73.5, 82.5, 2.0, 31.8, 61.7, 72.5, 3.0),
        "2WayNet": (49.8, 67.5, None, None, 36.0, 55.6, None, None),
    },
    "coco": {
        "CCA (FV HGLMM)": (38.7, 68.4, 81.0, 2.0, 25.1, 59.7, 76.5, 4.0),
        "CCA (FV GMM+HGLMM)": (38.9, 68.4, 80.1, 2.0, 25.6, 60.4, 76.8, 4.0),
        "m-RNN-vgg": (41.0, 73.0, 83.5, 2.0, 29.0, 42.2, 77.0, 3.0),
        "DVSA": (38.4, 69.9, 80.5, 1.0, 27.4, 60.2, 74.8, 3.0),
        "DSPE": (50.1, 79.7, 89.2, None, 39.6, 75.2, 86.9, None),
        "2WayNet": (55.8, 75.2, None, None, 39.7, 63.3, None, None),
    },
}


def _first(i2t: float, t2i: float) -> Printed:
    """A row of which only R@1 is told here."""
    return (i2t, None, None, None, t2i, None, None, None)


VGG_ERA: dict[str, dict[str, Printed]] = {  # as printed by their authors, VGG features, official test split
    "flickr8k": {
        "m-CNN (ensemble)": _first(24.8, 20.3),
        "HM-LSTM (R-CNN)": _first(27.7, 24.4),
        "FV-HGLMM + CCA": _first(31.0, 21.2),
        "SPE": _first(30.1, 23.0),
        "2WayNet": _first(43.4, 29.3),
        "MFM": (35.6, 67.0, 78.6, None, 28.4, 58.5, 72.3, None),
    },
    "flickr30k": {
        "FV-HGLMM + CCA": _first(35.0, 25.0),
        "HM-LSTM (R-CNN)": _first(38.1, 27.7),
        "VSE++ (fine-tuned VGG-19)": _first(41.3, 31.4),
        "sm-LSTM (ensemble)": _first(42.5, 30.2),
        "MDM": _first(44.9, 34.4),
        "SCO": _first(44.2, 32.8),
        "Dual-Path": _first(47.6, 35.3),
        "MFM": _first(50.2, 38.2),
    },
    "coco": {  # 1,000 images
        "FV-HGLMM + CCA": _first(39.4, 25.1),
        "m-CNN (ensemble)": _first(42.8, 32.6),
        "HM-LSTM (R-CNN)": _first(43.9, 36.1),
        "sm-LSTM (ensemble)": _first(53.2, 40.7),
        "MDM": _first(54.7, 44.6),
        "VSE++ (fine-tuned VGG-19)": _first(57.2, 45.9),
        "Dual-Path": _first(59.4, 41.6),
        "MFM": _first(58.9, 47.7),
        "SCO": _first(66.6, 55.5),
    },
}
