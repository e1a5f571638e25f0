"""Rows of ours and printed ones as Markdown, LaTeX and CSV; and Table I from the built networks.

In: reports of the runs. Out: text. A row that has collapsed says so, with its step; its figures are in the CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bssan_tf.config.schema import Config
from bssan_tf.evaluation.paper import Printed
from bssan_tf.reproduction.measured import chance_of, near_chance, spread

COLUMNS = tuple((way, key) for way in ("i2t", "t2i") for key in ("R@1", "R@5", "R@10", "MedR"))
HEADING = ("", *("R@1", "R@5", "R@10", "Med r") * 2, "rsum")
OURS = "ours"


@dataclass(frozen=True)
class Row:
    """A line of a table: reports of ours, one a seed, or what somebody has printed."""

    name: str
    reports: Sequence[Mapping] = ()
    printed: Printed | None = None
    collapse: Sequence[int | None] = ()  # of each seed, the step of its sign
    runs: Sequence[str] = ()
    group: str = field(default=OURS)  # rows of one group stand together


def cells_of(row: Row) -> list[str]:
    """The nine numbers of a row as text: mean, with ± half the range where there are several seeds."""
    if row.printed is not None:
        recalls = [row.printed[i] for i in (0, 1, 2, 4, 5, 6)]
        rsum = None if None in recalls else sum(recalls)
        return ["-" if number is None else f"{number:.1f}" for number in (*row.printed, rsum)]
    return [_mean([report[way][key] for report in row.reports]) for way, key in COLUMNS] + [
        _mean([report["rsum"] for report in row.reports])
    ]


def _mean(numbers: Sequence[float]) -> str:
    shown = f"{np.mean(numbers):.1f}"
    return shown if len(numbers) < 2 else f"{shown} ± {spread(np.array(numbers)):.1f}"


def fate_of(row: Row) -> str:
    """What is said in place of the numbers of a row that has learned nothing; "" for others."""
    if not row.reports:
        return ""
    rsum, chance = np.mean([report["rsum"] for report in row.reports]), chance_of(row.reports[0])
    if steps := [step for step in row.collapse if step is not None]:
        seeds = f" in {len(steps)} of {len(row.collapse)} seeds" if len(row.collapse) > 1 else ""
        return f"collapse at step {min(steps)}{seeds}: rsum {rsum:.1f}, chance {chance:.1f}"
    if all(near_chance(report) for report in row.reports):
        return f"has not learned: rsum {rsum:.1f}, chance {chance:.1f}"
    return ""


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, a line of its own before each group but ours."""
    lines = [
        "| | image to text | | | | text to image | | | | |",
        "|" + "---|" * 10,
        "| " + " | ".join(HEADING) + " |",
    ]
    group = OURS
    for row in rows:
        if row.group != group:
            lines.append(f"| *{row.group}* |" + " |" * 9)
            group = row.group
        told = [f"**{fate}**", *[""] * 8] if (fate := fate_of(row)) else cells_of(row)
        lines.append(f"| {row.name} | " + " | ".join(told) + " |")
    return "\n".join(lines)


def latex(rows: Sequence[Row], caption: str) -> str:
    """The same table for LaTeX, with the package booktabs."""
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{_escaped(caption)}}}",
        r"\begin{tabular}{lrrrrrrrrr}", r"\toprule",
        r"& \multicolumn{4}{c}{image to text} & \multicolumn{4}{c}{text to image} & \\",
        " & ".join(HEADING) + r" \\", r"\midrule",
    ]  # fmt: skip
    group = OURS
    for row in rows:
        if row.group != group:
            lines += [r"\midrule", rf"\multicolumn{{10}}{{l}}{{\emph{{{_escaped(row.group)}}}}} \\"]
            group = row.group
        fate = fate_of(row)
        told = [rf"\multicolumn{{9}}{{l}}{{{_escaped(fate)}}}"] if fate else cells_of(row)
        lines.append(" & ".join([_escaped(row.name), *(cell.replace("±", r"$\pm$") for cell in told)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("±", r"$\pm$").replace("λ", r"$\lambda$").replace("δ", r"$\delta$")


def csv_of(rows: Mapping[str, Sequence[Row]]) -> str:
    """Every number of ours: what, row, run, direction, metric, value, one line each, with 95 % intervals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("what", "row", "run", "direction", "metric", "value", "low", "high"))
    for what, listed in rows.items():
        for row in listed:
            for run, report in zip(row.runs, row.reports):
                bounds = report.get("intervals", {})
                for way in ("i2t", "t2i"):
                    for key, value in report[way].items():
                        writer.writerow((what, row.name, run, way, key, value, *bounds.get(way, {}).get(key, ("", ""))))
                writer.writerow((what, row.name, run, "both", "rsum", report["rsum"], *bounds.get("rsum", ("", ""))))
    return text.getvalue()


def layers_table(configs: Mapping[str, Config]) -> str:
    """Table I, read off networks that are built from configs, by a title each: layers, nodes and parameters."""
    lines = []
    for title, config in configs.items():
        lines += [
            "",
            f"{title}:",
            "",
            "| network | type of layers | nodes in each layer | parameters |",
            "|---|---|---|---|",
        ]
        lines += [f"| {' | '.join(row)} |" for row in network_layers(config)]
    return "\n".join(lines[1:])


def network_layers(config: Config) -> list[tuple[str, str, str, str]]:
    """(network, type of layers, nodes, trained parameters) of the networks that a config's model has, as built."""
    from bssan_tf.models.bssan import Bssan

    model = Bssan(config.model, vocabulary_size=2)
    rows = []
    for name, network in model.networks.items():
        text = [model.o2w_text.get_layer("o2w_bilstm")] if name == "o2w" else []
        for layer in text + network.model.layers:
            if count := sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights):
                rows.append((name.upper(), *_kind_and_nodes(layer), f"{count:,}"))
    return rows


def _kind_and_nodes(layer) -> tuple[str, str]:
    """What Table I calls a layer, and its nodes; the name and nothing for those that it doesn't have."""
    if hasattr(layer, "layers"):  # the MLP, a model of its own
        return "MLP", "-".join(str(one.units) for one in layer.layers if hasattr(one, "units"))
    if hasattr(layer, "forward_layer"):
        return "Bi-LSTM", str(layer.forward_layer.units)
    return ("LSTM", str(layer.units)) if type(layer).__name__ == "LSTM" else (layer.name, "")
