"""A run without training and a folder of drawn photos, for the tests of the app."""

import os

import tiny_corpus
from training_fixtures import untrained_run

from bssan_tf.datasets.scene_pictures import plan_scene, scene_jpeg

SENTENCE = "A red dog and a cat."


def make_work(folder, photos: int = 6):
    """A run in folder/grid; in folder/some scenes and a link out of it, to a scene in folder/other."""
    tiny_corpus.write_corpus(folder / "photos", pictures=18)
    untrained_run(folder)
    for name, count in (("some", photos), ("other", 1)):
        (folder / name).mkdir()
        for i in range(count):
            (folder / name / f"{name}-{i}.jpg").write_bytes(scene_jpeg(plan_scene((len(name), i))))
    os.symlink(folder / "other" / "other-0.jpg", folder / "some" / "link.jpg")
    return folder
