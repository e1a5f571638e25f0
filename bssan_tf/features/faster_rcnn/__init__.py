"""Faster R-CNN (Ren et al., 2015) with VGG-16: the paper's objects, their boxes, classes and fc7.

`model.py` has the networks, `box_coding.py` the arithmetic of boxes, `weights.py` the files, `training.py` the
approximate joint training, `average_precision.py` the measure, `detector.py` what the extraction of features uses.
Boxes are x1, y1, x2, y2 in pixels, the last one included, as VOC counts them: in a box of one pixel x1 = x2.
"""
