"""One dense layer over both networks' last hidden layers, trained by one loss (`fuse` fc)."""

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from model_fixtures import VOCABULARY, random_pairs, randomise, tiny_config

from bssan_tf.config.presets import preset
from bssan_tf.matching import indexes, matcher
from bssan_tf.models.bssan import Bssan
from bssan_tf.training.step import compile_siamese

FC = {"fuse": "fc", "o2w_weight": 1.0}


def fused(name="paper", **values):
    config = tiny_config(name, **FC, dropout=0.0, **values).check()
    model = Bssan(config.model, VOCABULARY, config.training.l2)
    randomise(model.scorer)
    return config, model


def test_the_score_is_a_dense_layer_over_both_networks():
    """Literally: [last hidden layer of W2R's MLP ; mean over the objects of O2W's], one Dense to the score."""
    config, model = fused()
    inputs, rows, outs = {name: tf.constant(x) for name, x in random_pairs(config).items()}, {}, {}
    words = model.embeddings[0](inputs["tokens"])
    mask = tf.constant(inputs["tokens"] > 0)
    shared = {"mask": mask[:, None], "uniform": tf.zeros((5, 1), tf.bool)}
    w2r = {"regions": inputs["regions"], "words": words[:, None], **shared}
    states = model.o2w_text({"words": words, "mask": mask})
    o2w = {"objects": inputs["objects"], "valid": inputs["valid"], "states": states[:, None], **shared}
    for name, given, layer in (("w2r", w2r, "w2r_lstm"), ("o2w", o2w, "o2w_rows")):
        network = model.networks[name].model
        mlp = network.get_layer(f"{name}_mlp")
        outs[name] = mlp.get_layer(f"{name}_mlp_out")
        to_mlp = tf.keras.Model(network.input, network.get_layer(layer).output)
        rows[name] = tf.keras.Model(mlp.input, outs[name].input)(to_mlp(given)).numpy()
    of_picture = np.nonzero(inputs["valid"].numpy())[0]
    mean = np.stack([rows["o2w"][of_picture == i].mean(axis=0) for i in range(5)])
    joined = np.concatenate([rows["w2r"], mean], axis=1)
    dense = tf.keras.layers.Dense(1)
    dense.build(joined.shape)
    (k1, b1), (k2, b2) = (out.get_weights() for out in outs.values())
    dense.set_weights([np.concatenate([k1, k2]), b1 + b2])
    np.testing.assert_allclose(model.scorer(inputs)["score"], dense(joined)[:, 0], atol=1e-6)


def test_one_loss_is_on_the_sum():
    config, model = fused("improved", negatives=3, all_pairs=2.0, l2=0.01)
    siamese, inputs = model.siamese(config.training), random_pairs(config, 8)
    assert set(siamese.output) == {"score", "w2r_all", "o2w_all"}
    assert model.trained_parts == ("score",)
    model.config = config.replace(fuse="sum").model
    given = {name: inputs[name] for name in siamese.input}
    parts = model.siamese(config.training)(given)
    scores = siamese(given)["score"].numpy()
    np.testing.assert_allclose(scores, parts["w2r"] + parts["o2w"], atol=1e-5)
    compile_siamese(siamese, config)
    siamese.run_eagerly = True
    targets = {name: np.zeros(8, np.float32) for name in siamese.output}
    found = siamese.test_on_batch(given, targets, return_dict=True)
    both = [scores, np.stack([np.roll(scores[:, k], k) for k in range(4)], axis=1)]  # by picture and by caption
    ranking = np.mean([np.log(np.exp(rows - rows[:, :1]).sum(axis=1)) for rows in both])
    assert found["score_ranking"] == pytest.approx(ranking, rel=1e-4)
    of_all = found["w2r_all_loss"] + found["o2w_all_loss"]
    term = sum(float(loss) for loss in siamese.losses)
    assert found["loss"] == pytest.approx(ranking + 2 * of_all + term, rel=1e-4)


def test_search_scores_all_candidates_in_full(monkeypatch):
    """O2W alone was not trained to choose the best of them."""
    asked = []
    words = SimpleNamespace(read_sentence=lambda *_: np.full((1, 3), 2))
    part = SimpleNamespace(image_paths=[], image_rows=[])
    data = SimpleNamespace(features=None, split=lambda _: part)
    ranking = SimpleNamespace(rank=lambda tokens, rerank: asked.append(rerank) or (np.zeros(0, int), np.zeros(0)))
    monkeypatch.setattr(matcher, "FastScorer", lambda scorer: None)
    monkeypatch.setattr(matcher, "data_of_run", lambda *_: data)
    monkeypatch.setattr(indexes, "PictureSearch", lambda *_: ranking)
    for values in (FC, {}):
        config = preset("improved", data="flickr8k").replace(**values)
        loaded = SimpleNamespace(scorer=None), words
        run = SimpleNamespace(load_config=lambda c=config: c, load_model=lambda n=loaded: n, calibration=lambda: None)
        matcher.Matcher(run).index_of_split().search("a dog", rerank=50)
    assert asked == [0, 50]
