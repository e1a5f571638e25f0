"""Tables and pictures of reproduce.py: rows, printed rows, collapses, Table I, Figures 5, 6 and 9."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from reproduction_fixtures import IMAGES, plan_of, report

from bssan_tf.config.presets import preset
from bssan_tf.drawing.figures import figure_to_array
from bssan_tf.drawing.retrieved import sensitivity_figure
from bssan_tf.errors import UserError
from bssan_tf.evaluation.paper import CITED_BY_PAPER, PAPER_TABLES, VGG_ERA
from bssan_tf.metrics.output import WAYS
from bssan_tf.reproduction import measured, pictures, tables
from bssan_tf.reproduction.materials import choose
from bssan_tf.reproduction.tables import (
    Row,
    cells_of,
    csv_of,
    fate_of,
    latex,
    latex_of,
    layers_csv,
    layers_table,
    markdown,
    network_layers,
)

PRINTED_SUMS = {  # of place times number, added up from the printed tables, so that no digit changes unseen
    ("own", "flickr30k"): 5930.1,
    ("own", "coco"): 6983.8,
    ("cited", "flickr30k"): 12573.6,
    ("cited", "coco"): 8357.0,
    ("era", "flickr8k"): 2152.5,
    ("era", "flickr30k"): 1618.8,
    ("era", "coco"): 2325.1,
}


def test_printed_rows_are_as_printed():
    assert PAPER_TABLES["flickr30k"]["BSSAN"] == (44.6, 74.9, 84.3, 2.0, 33.2, 62.6, 72.9, 3.0)
    assert CITED_BY_PAPER["coco"]["m-RNN-vgg"] == (41.0, 73.0, 83.5, 2.0, 29.0, 42.2, 77.0, 3.0)
    sums = {}
    for name, table in (("own", PAPER_TABLES), ("cited", CITED_BY_PAPER), ("era", VGG_ERA)):
        for corpus, rows in table.items():
            assert all(len(row) == 8 for row in rows.values())
            places = [place * number for row in rows.values() for place, number in enumerate(row, 1) if number]
            sums[name, corpus] = round(sum(places), 1)
    assert sums == PRINTED_SUMS
    assert cells_of(Row("MFM", printed=VGG_ERA["flickr8k"]["MFM"]))[-1] == "340.4"  # as ANCHORS has its rsum
    assert cells_of(Row("RRF", printed=CITED_BY_PAPER["flickr30k"]["RRF-Net (vgg)"])) == (
        ["42.1", "-", "-", "-", "31.2", "-", "-", "-", "-"]
    )


def test_a_row_is_the_mean_and_half_the_range_of_its_seeds():
    reports = [report(seed=seed) for seed in (0, 1, 2)]
    rsums = [one["rsum"] for one in reports]
    row = Row("BSSAN", reports, collapse=[None] * 3, runs=["a", "b", "c"])
    assert cells_of(row)[-1] == f"{np.mean(rsums):.1f} ± {(max(rsums) - min(rsums)) / 2:.1f}"
    assert cells_of(Row("BSSAN", reports[:1]))[0] == f"{reports[0]['i2t']['R@1']:.1f}"
    line = markdown([row]).splitlines()[-1]
    assert line.split("|")[1].strip() == "BSSAN"
    assert line.count("|") == markdown([row]).splitlines()[0].count("|") == 11


def test_a_collapse_is_told_in_place_of_numbers():
    row = Row("BSSAN", [report(0.0), report(0.0, 1)], collapse=[60, 40], runs=["a", "b"])
    assert fate_of(row).startswith("collapse at step 40 in 2 of 2 seeds: rsum ")
    assert "collapse at step 40" in markdown([row])
    assert "± " not in markdown([row])
    assert r"\multicolumn{9}{l}{collapse at step 40" in latex([row], "Table II")
    found = list(csv.DictReader(csv_of("table2", [row]).splitlines()))
    assert {line["run"] for line in found} == {"a", "b"}  # the numbers are there
    value = next(line for line in found if line["run"] == "a" and line["metric"] == "rsum")
    assert float(value["value"]) == row.reports[0]["rsum"]
    assert float(value["low"]) < float(value["value"]) < float(value["high"])


def test_seeds_that_learned_are_not_averaged_with_those_that_did_not():
    good = [report(6.0, seed) for seed in (0, 1)]
    row = Row("BSSAN", [good[0], report(0.0), good[1]], collapse=[None, 40, None], runs=["a", "b", "c"])
    assert cells_of(row)[-1].startswith(f"{np.mean([one['rsum'] for one in good]):.1f}")
    (line,) = markdown([row]).splitlines()[3:]
    assert line.startswith("| BSSAN (collapse at step 40 in 1 of 3 seeds: rsum ")
    assert f"| {cells_of(row)[-1]} |" in line


def test_numbers_without_a_sign_are_shown_however_low():
    low = report(0.0)
    row = Row("fc", [low], collapse=[None])
    assert fate_of(row) == ""
    assert f"| fc | {low['i2t']['R@1']:.1f} |" in markdown([row])
    assert f"| {low['rsum']:.1f} |" in markdown([row])


def test_chance_is_that_of_the_protocol():
    big = {"i2t": {}, "t2i": {}, "rsum": 3.1, "n_images": 1000, "n_captions": 1000, "protocol": "full"}
    assert fate_of(Row("fc", [big], collapse=[40])) == "collapse at step 40: rsum 3.1, chance 3.2"
    five = {**big, "n_images": 5000, "n_captions": 5000, "protocol": "5fold"}  # each image among 1,000
    assert fate_of(Row("fc", [five], collapse=[40])).endswith("chance 3.2")
    del big["protocol"]  # as train.py's own report
    assert measured.chance_of(big) == pytest.approx(3.2)


def test_any_markdown_table_for_latex():
    text = "`paper`:\n\n| λ \\ δ | 0 | 1 |\n|---|---|---|\n| 0.2 | **51.5** | 40.0 |\n\nthen:\n\n| a_b |\n|---|\n| 1 |"
    lines = latex_of(text, "Grid").splitlines()
    assert r"$\lambda$ / $\delta$ & 0 & 1 \\" in lines
    assert r"0.2 & \textbf{51.5} & 40.0 \\" in lines
    assert r"a\_b \\" in lines
    assert (lines.count(r"\begin{tabular}{lll}"), lines.count(r"\begin{tabular}{l}")) == (1, 1)
    assert not [line for line in lines if "---" in line or "then" in line]


def test_the_parameters_of_table_1_are_numbers_of_their_own(monkeypatch):
    layers = [("W2R", "LSTM", "8", "1,234"), ("W2R", "w2r_attention", "", "5")]
    monkeypatch.setattr(tables, "network_layers", lambda _: layers)
    assert layers_csv({"`paper`, `tiny`": preset("paper", "tiny")}).splitlines()[1:] == [
        'table1,"paper, tiny: W2R LSTM",,,parameters,1234,,',
        'table1,"paper, tiny: W2R w2r_attention",,,parameters,5,,',
    ]


def test_above_chance_is_what_its_interval_is_twice_above():
    big = {"n_images": 1000, "n_captions": 1000, "protocol": "full"}  # chance is 3.2
    for rsum, bounds, clearly in ((9.0, [6.5, 11.0], True), (9.0, [6.3, 13.0], False), (53.3, [44.0, 62.0], True)):
        assert measured.clearly_above_chance({**big, "rsum": rsum, "intervals": {"rsum": bounds}}) == clearly
    assert measured.clearly_above_chance({**big, "rsum": 6.5})  # of a validation split, without an interval
    assert not measured.clearly_above_chance({**big, "rsum": 6.3})
    few = {"n_images": 8, "n_captions": 8}  # chance is 350, and twice of it beyond 600
    assert measured.clearly_above_chance({**few, "rsum": 376})
    assert not measured.clearly_above_chance({**few, "rsum": 374})


def test_latex_escapes_names():
    text = latex([Row("BSSAN_w2r & 5 %", printed=PAPER_TABLES["coco"]["BSSAN_w2r"])], "50 % of #1")
    assert r"BSSAN\_w2r \& 5 \%" in text
    assert r"\caption{50 \% of \#1}" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def test_table_1_is_read_off_the_built_networks(monkeypatch):
    """LSTM and Dense of Table I; parameters by Keras' formulas, computed here."""
    config = preset("paper", "paper", data="flickr30k").replace(Q=40, M=20, E_glove=10, H=16, w2r_mlp=(12, 6))
    found = network_layers(config)
    monkeypatch.setattr(tables, "network_layers", {config: found}.get)  # built once
    rows = {(network, kind): (nodes, count) for network, kind, nodes, count in found}
    F = 20 + 10  # of [u ; t]
    assert rows["W2R", "LSTM"] == ("16", f"{4 * 16 * (F + 16 + 1):,}")
    mlp = 16 * 12 + 12 + 2 * 12 + 12 * 6 + 6 + 2 * 6 + 6 + 1  # Dense, BatchNorm's scale and shift
    assert rows["W2R", "MLP"] == ("12-6-1", f"{mlp:,}")
    assert rows["W2R", "w2r_attention"] == ("", f"{10 * 20 + 1:,}")
    assert rows["O2W", "Bi-LSTM"] == ("512", f"{2 * 4 * 512 * (10 + 512 + 1):,}")
    assert rows["O2W", "MLP"][0] == "512-256-64-1"
    assert "| W2R | LSTM | 16 | 1024 | " in layers_table({"ours": config})  # beside the printed nodes


def signs(path, steps):
    """early_signs.csv in which W2R shows the sign from the first of `steps` on."""
    rows = []
    for step in range(0, 120, 20):
        told = 1.0 if step >= steps else 0.6
        row = {"step": step, "rsum": 40.0}
        for part in ("w2r", "o2w"):
            right, hinge = (told, 0.0) if part == "w2r" else (0.5, 0.2)
            row |= {f"{part}_right_training": right, f"{part}_right_learned": 0.5}
            row |= {f"{part}_hinge_training": hinge, f"{part}_hinge_learned": 0.3}
        rows.append(row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_the_step_of_a_collapse_is_that_of_the_second_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = plan_of("table2", presets=("improved", "paper"))
    (training,) = plan.runs("bssan", "paper")
    training.run.path.mkdir(parents=True)
    chance = report(0.0)
    assert measured.collapse_of(training, chance) is None
    signs(training.run.early_signs_file, 60)
    assert measured.collapse_of(training, chance) == 80
    assert measured.collapse_of(training, report(6.0)) is None  # it has learned all the same
    assert measured.collapse_of(plan.runs("bssan")[0], chance) is None  # no pair under Eq. 8


def split_of(tmp_path):
    """A split of IMAGES pictures with two captions each, as `pictures` reads it."""
    from PIL import Image

    paths = []
    for i in range(IMAGES):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(paths[-1])
    owner = np.repeat(np.arange(IMAGES), 2)
    return SimpleNamespace(
        name="test", image_ids=tuple(f"{i}.png" for i in range(IMAGES)), image_paths=tuple(paths),
        captions=tuple(f"caption {c} of image {i}" for i in range(IMAGES) for c in "ab"), image_of_caption=owner,
        image_rows=np.arange(IMAGES),
    )  # fmt: skip


def test_figures_5_and_6_show_the_best_and_tell_right_from_wrong(monkeypatch, tmp_path):
    part = split_of(tmp_path)
    right = (part.image_of_caption == np.arange(IMAGES)[:, None]).astype(np.float32)
    scores = right - 0.01 * np.arange(2 * IMAGES)  # its own two captions first, then the first of others

    def best_of(opened, captions, images):
        columns = [part.captions.index(caption) for caption in captions]
        return (scores if opened.good else -scores)[np.ix_(images, columns)]

    seen = {}
    monkeypatch.setattr(pictures, "_scores", best_of)
    monkeypatch.setattr(pictures, "sentences_figure", lambda images, found: seen.update(five=(images, found)))
    monkeypatch.setattr(pictures, "pictures_figure", lambda sentences, found: seen.update(six=(sentences, found)))
    good, bad = (SimpleNamespace(part=part, good=which) for which in (True, False))
    pictures._sentences(good, np.array([3, 7]))
    images, found = seen["five"]
    assert images[1][0, 0, 0] == 140
    assert found[0] == [
        ("caption a of image 3", True), ("caption b of image 3", True), ("caption a of image 0", False),
        ("caption b of image 0", False), ("caption a of image 1", False),
    ]  # fmt: skip
    pictures._pictures({"BSSAN_w2r": bad, "BSSAN": good}, np.array([3, 7]), caption=1)
    sentences, found = seen["six"]
    assert sentences == ["caption a of image 3", "caption a of image 7"]
    assert [right for _, right in found["BSSAN"][1]] == [True, False, False, False, False]
    assert not any(right for _, right in found["BSSAN_w2r"][1])
    assert [pictures.caption_of(part, 3, n) for n in (1, 2, 9)] == [6, 7, 7]
    assert choose(part, ["7.png", "3.png"], 0).tolist() == [7, 3]
    with pytest.raises(UserError, match=r"--photos none.png: is no image of the test split; its names are like 0.png"):
        choose(part, ["none.png"], 0)
    with pytest.raises(UserError, match=r"--photos 4.png: 4 images are shown at most"):
        choose(part, [f"{i}.png" for i in range(5)], 0)


def laid_out(figure):
    """Whether the axes of a drawn figure fill most of it."""
    figure_to_array(figure)
    return all(axis.get_position().width > 0.35 and axis.get_position().height > 0.3 for axis in figure.axes)


def test_figure_9_has_a_thin_line_a_seed_and_a_wide_mean():
    def told(value):
        return {way: {"R@1": value, "R@5": value + 1, "R@10": value + 2} for way in ("i2t", "t2i")}

    curves = {"λ": {0.0: [told(10), told(20)], 1.0: [told(30), told(50)]}, "δ": {0.1: [told(5), told(5)]}}
    figure = sensitivity_figure(curves, WAYS)
    axis = figure.axes[0]
    lines = {line.get_linewidth(): line.get_ydata().tolist() for line in axis.get_lines()[:3]}
    assert lines == {0.8: [20, 50], 2.5: [15.0, 40.0]}
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1"]
    assert len(figure.axes) == 4
    assert not [line for line in axis.get_lines() if line.get_marker() == "x"]
    assert laid_out(figure)


def test_figure_9_leaves_out_what_has_collapsed(monkeypatch):
    def told(value):
        return {way: {f"R@{k}": float(value) for k in (1, 5, 10)} for way in ("i2t", "t2i")}

    curves = {"λ": {0.0: [told(10), None], 0.5: [None, None], 1.0: [told(30), told(50)]}}
    figure = sensitivity_figure({**curves, "δ": curves["λ"]}, WAYS)
    assert laid_out(figure)
    axis = figure.axes[0]
    (mean, *_), (cross,) = ([line for line in axis.get_lines() if line.get_marker() == marker] for marker in ("o", "x"))
    assert np.ma.filled(mean.get_ydata(), np.nan).tolist() == pytest.approx([10, np.nan, 40], nan_ok=True)
    assert (cross.get_xdata().tolist(), cross.get_ydata().tolist()) == ([1], [0])
    plan = plan_of("figure9")
    values = {training.name: report(0.0) for training in plan.measured()}
    monkeypatch.setattr(pictures, "collapse_of", lambda training, _: 40 if training.config.model.o2w_weight else None)
    found = pictures.curves_of(plan, values)
    assert found["λ"][0.0] == [values["mine-improved-lambda0-0"]]
    assert found["λ"][0.4] == found["δ"][0.1] == [None]
