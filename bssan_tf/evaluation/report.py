"""Retrieval reports as people and programs read them: a text table beside the paper's rows, and JSON.

In: the dicts of metrics, pointing.py and photo_pointing.py. Out: strings and JSON values; nothing is printed here.
The paper's numbers stand beside ours only for its own data sets, and every way in which our setting differs
from the paper's is said below the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bssan_tf.config.settings import PUBLISHED
from bssan_tf.evaluation.paper import PAPER_TABLES, TITLES
from bssan_tf.metrics.output import FURTHER, KEYS, WAYS, hubs_text, table_lines, table_row, width_of
from bssan_tf.metrics.recall import RECALLS, both_ways

_DIFFERING = {**{f"R@{k}": f"R@{k}" for k in RECALLS}, **FURTHER}
ROW_NAMES = {  # of parts and baselines, by their keys in the JSON value
    "w2r": "W2R",
    "o2w": "O2W",
    "cca": "CCA",
    "cca_weighted": "CCA+",
    "cca_context": "CCA (objects in context)",
    "cca_context_weighted": "CCA+ (objects in context)",
}
_PROTOCOLS = {"1k": "the first 1,000 images", "5fold": "mean of 5 folds of 1,000 images", "5k": "5,000 images at once"}


@dataclass(frozen=True)
class Setting:
    """What a measurement depends on; the defaults are the paper's."""

    corpus: str  # name of the data set
    split: str = "test"  # or "train", "val"
    split_lists: str = "official"  # `Corpus.split_lists`
    official: bool = True  # whether a published data set is whole, `Corpus.official`
    images: int = 1000  # how many are ranked against each other
    unreadable: int = 0  # images of the split that were left out because they can't be read
    captions_per_image: int | None = None  # how many captions of each image were scored, None for all
    regions: str | None = "vgg19"  # what the features come from, None where the model has none
    objects: str | None = "faster_rcnn"  # likewise
    E_glove: int = 300  # dimensions of a word's vector from GloVe
    E_corpus: int = 0  # from captions without photos
    E_trained: int = 0  # and learned ones


def differences(ours: Setting) -> tuple[str, ...]:
    """Every way in which a measurement's setting differs from the paper's, one phrase each."""
    paper, published = Setting(ours.corpus), ours.corpus in PUBLISHED
    other_lists, fewer_captions = ours.split_lists != paper.split_lists, ours.captions_per_image is not None
    unsaid = ours.corpus == "coco"
    ranked = f"{ours.images:,} images ranked against each other; the paper's are {paper.images:,}"
    words, learned = " dimensions of a text corpus", " learned dimensions"
    sources = ((ours.E_glove, "-d GloVe"), (ours.E_corpus, words), (ours.E_trained, learned))
    vectors = " and ".join(f"{count}{source}" for count, source in sources if count)
    phrases = {
        f"images of the {ours.split} split; the paper's are of test": ours.split != paper.split,
        "only a part of the data set": not ours.official and published,
        f"split lists: {ours.split_lists}, not the paper's": other_lists and published,
        "the paper does not say which 1,000 images of val2014 are its test split": unsaid and not other_lists,
        f"{ranked} (fewer are easier)": ours.images < paper.images,
        f"{ranked} (more are harder)": ours.images > paper.images,
        f"{ours.unreadable:,} unreadable image(s) of the split left out": ours.unreadable,
        f"{ours.captions_per_image} caption(s) an image; the paper scores all five": fewer_captions,
        f"regions of {ours.regions}; the paper's are of VGG-19 conv5_4": ours.regions not in (paper.regions, None),
        f"objects of {ours.objects}; the paper's are Faster R-CNN's fc7": ours.objects not in (paper.objects, None),
        f"word vectors of {vectors}; the paper's are {paper.E_glove}-d GloVe": vectors != f"{paper.E_glove}-d GloVe",
    }
    return tuple(phrase for phrase, differs in phrases.items() if differs)


def text_table(value: Mapping, beside_paper: bool = True) -> str:
    """The retrieval table of a `report_json`: our row, its parts', the baselines', and the paper's of this data set.

    Below a row stands what a correction of hubs makes of it. `beside_paper` False leaves the paper's rows out; else
    what differs in the setting is said below them.
    """
    differs = value.get("differs", ())
    others = {**value.get("parts", {}), **value.get("baselines", {})}
    rows, hub = [], value.get("hub", {"rows": {}})
    for key, row in {"score": value, **others}.items():
        rows.append((ROW_NAMES.get(key, value["run"]), row))
        if key in hub["rows"]:
            rows.append((_hub_name(hub), hub["rows"][key]))
    printed = PAPER_TABLES.get(value["corpus"], {}) if beside_paper else {}
    lines, width = [heading_of(value), *table_lines(rows)], width_of(rows)
    if printed:
        mark = " *" if differs else ""
        lines += ["-" * len(lines[-1]), f"printed in the paper, {TITLES[value['corpus']]}{mark}"]
        for key, values in printed.items():
            paper = both_ways(dict(zip(KEYS, values[:4])), dict(zip(KEYS, values[4:])))
            lines.append(table_row(f"  {key}{mark}", paper, width))
        if differs:
            lines += ["", "* NOT the same setting as ours:", *(f"  - {phrase}" for phrase in differs)]
    return "\n".join(lines)


def table_of_runs(value: Mapping) -> str:
    """The retrieval table of several runs: a row each, and one of the mean of their scores where that was measured."""
    mean = [] if "difference" in value else [("mean of their scores", value)]
    rows = [*value["runs"].items(), *mean]
    return "\n".join([heading_of(value), *table_lines(rows)])


def difference_lines(value: Mapping) -> str:
    """The differences of two runs with their paired intervals, and which is better by rsum."""
    first, second = value["runs"]
    found, bounds = value["difference"], value["difference"]["intervals"]

    def shown(number: float, bound: Sequence[float]) -> str:
        return "{:+.1f} ({:+.1f} to {:+.1f})".format(number, *bound)

    lines = [f"{second} minus {first}, with 95 % intervals (the same resampled images for both):"]
    for way, name in WAYS.items():
        each = (f"{title} {shown(found[way][key], bounds[way][key])}" for title, key in _DIFFERING.items())
        lines.append(f"{name}: {', '.join(each)}")
    rsum, verdict = shown(found["rsum"], bounds["rsum"]), value["verdict"]
    better = f"{verdict} is better" if verdict in value["runs"] else verdict
    lines.append(f"rsum {rsum}: {better}, as these two were trained; other seeds may tell otherwise")
    return "\n".join(lines)


def _hub_name(hub: Mapping) -> str:
    return f"  with {hub['method']} ({'transductive' if hub['transductive'] else '{:,} of train'.format(hub['bank'])})"


def hub_line(value: Mapping) -> str:
    """What the bank of a correction is, and the hubs that are left; "" without one."""
    if (hub := value.get("hub")) is None:
        return ""
    bank = f"{hub['bank'] or 0:,} training captions (text to image) and as many training pictures (image to text)"
    if hub["transductive"]:
        bank = "the measured queries themselves (transductive): to be compared with transductive figures only"
    settings = ", ".join(f"{name} {number:g}" for name, number in hub["settings"].items())
    left = f"hubs with {hub['method']}, skewness of N_10: {hubs_text(hub['rows']['score'])}"
    return f"with {hub['method']}: {settings}; its bank is {bank}\n{left}"


def calibration_line(value: Mapping) -> str:
    """What `calibration.measure` found; "" without it."""
    if (found := value.get("calibration")) is None:
        return ""
    return (
        f"probabilities of hits (search.py): calibration error {found['error']:.1f} % over the first ten; the default "
        f"--min-probability rejects {found['rejected']:.0f} % of the sentences whose image is absent, and keeps "
        f"{found['kept']:.0f} % of the right first hits"
    )


def pointing_lines(pointing: Mapping) -> str:
    """What `pointing.pointing` found, one line for each attention that the model has; "" if there is none."""
    lines = []
    for key, cases, text in (
        ("w2r", "n_words", "W2R: attention of colour and shape words peaks inside the named object's box"),
        ("o2w", "n_objects", "O2W: attention of objects peaks at a word that names them"),
    ):
        if pointing.get(key) is not None:
            counted = f"of {pointing[cases]:,} {cases[2:]}; chance {pointing[f'{key}_chance']:.1f} %"
            if (centre := pointing.get(f"{key}_centre")) is not None:
                counted += f", the picture's centre {centre:.1f} %"
            lines.append(f"{text}: {pointing[key]:.1f} % ({counted})")
    return "\n".join(lines)


def photo_pointing_text(value: Mapping) -> str:
    """What `photo_pointing` found, as tables of W2R and O2W."""
    lines = [f"{heading_of(value)}; {value['n_unknown']:,} naming words that the run does not know are not counted"]
    for key, title, cases in (
        ("w2r", "W2R: attention of a word that names a class peaks inside a box of that class", "all words"),
        ("o2w", "O2W: attention of an object (IoU >= 0.5) peaks at a word that names its class", "all objects"),
    ):
        if (rows := value[key]) is None:
            continue
        centred = "centre" in rows["all"]
        heading = f"{'':24}{'cases':>7}{key.upper() + ', %':>14}{'chance':>9}{'entropy':>9}"
        lines += ["", title, heading + (f"{'centre':>9}{key.upper() + ' - centre':>16}" if centred else "")]
        mean = f"mean of {len(rows['classes'])} classes"
        for name, row in ((cases, "all"), ("without person", "without_person"), (mean, "class_mean")):
            if (found := rows[row]) is not None:
                count = "" if row == "class_mean" else f"{found['n']:,}"
                line = f"{name:24}{count:>7}{_with_error(found, 'right'):>14}{found['chance']:9.1f}"
                line += f"{found['entropy']:9.1f}"
                lines.append(line + (f"{found['centre']:9.1f}{_with_error(found, 'lead'):>16}" if centred else ""))
    lines += ["", "±: one standard error over photos; centre: the middle of the picture in place of the peak"]
    lines.append("entropy: of α and β (before the gate, if there is one), in % of that of even attention")
    if sure := value.get("sure"):
        lines.append(f"the boxes are a detector's, of a score of {sure:g} or more; its errors count as attention's")
    if tied := value["w2r"]["all"]["tied"]:
        lines.append(f"{tied:.0f} % of the words have several cells at their peak; the share of these inside counts")
    if value["objects"] == "grid":
        lines.append("O2W is not measured: the objects are ten fixed boxes")
    return "\n".join(lines)


def _with_error(row: Mapping, name: str) -> str:
    number, error = f"{row[name]:{'+' if name == 'lead' else ''}.1f}", row[f"{name}_error"]
    return number if error is None else f"{number} ± {error:.1f}"


def report_json(report: Mapping, *, run: str, corpus: str, split: str, **others: Mapping | None) -> dict:
    """A report of `recall.mean_report` as one JSON value, from which `text_table` is made.

    `run` is what its row is called, `corpus` chooses the paper's table. `others` are, where there are any, `pointing`
    (of `pointing.pointing`, in percent, like the recalls), by name the reports of `parts` (W2R and O2W alone) and
    `baselines` (further rows of our own measurement), `hub`, of `hubs.Correction.told`, and `differs`, the phrases of
    `differences`, and `calibration`, of `calibration.measure`.
    """
    return {**report, "run": run, "corpus": corpus, "split": split, **{k: v for k, v in others.items() if v}}


def heading_of(value: Mapping) -> str:
    """What a report is of: data set, split, and how many images and captions."""
    heading = f"{value['corpus']}, {value['split']}: {value['n_images']:,} images, {value['n_captions']:,} captions"
    protocol = _PROTOCOLS.get(value.get("protocol"))
    return f"{heading} ({protocol})" if protocol else heading
