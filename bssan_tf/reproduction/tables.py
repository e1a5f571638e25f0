"""Rows of ours and printed ones as Markdown, LaTeX and CSV; and Table I from the built networks.

In: reports of the runs. Out: text. A row that has collapsed says so, with its step; its recalls are in the CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bssan_tf.config.schema import Config
from bssan_tf.evaluation.paper import Printed
from bssan_tf.reproduction.measured import chance_of, spread

COLUMNS = tuple((way, key) for way in ("i2t", "t2i") for key in ("R@1", "R@5", "R@10", "MedR"))
HEADING = ("", *("R@1", "R@5", "R@10", "Med r") * 2, "rsum")
CSV_COLUMNS = ("what", "row", "run", "direction", "metric", "value", "low", "high")
OURS = "ours"
PRINTED_LAYERS = {  # Table I
    ("W2R", "LSTM"): "1024",
    ("W2R", "MLP"): "1024-512-128-1",
    ("O2W", "Bi-LSTM"): "512",
    ("O2W", "MLP"): "512-256-64-1",
}


@dataclass(frozen=True)
class Row:
    """A line of a table: reports of ours, one a seed, or what somebody has printed."""

    name: str
    reports: Sequence[Mapping] = ()
    printed: Printed | None = None
    collapse: Sequence[int | None] = ()  # of each seed, the step of `measured.collapse_of`; of none where left out
    runs: Sequence[str] = ()  # their folders, one a seed
    group: str = OURS  # rows of one group stand together

    @property
    def steps(self) -> list[int | None]:
        """The step of each report's collapse, or None."""
        return list(self.collapse) or [None] * len(self.reports)

    @property
    def shown(self) -> list[Mapping]:
        """The reports of seeds that have not collapsed; the others are told, not averaged."""
        return [report for report, step in zip(self.reports, self.steps) if step is None]


def cells_of(row: Row) -> list[str]:
    """The nine numbers of a row as text: mean, with ± half the range where several seeds are shown."""
    if row.printed is not None:
        recalls = [row.printed[i] for i in (0, 1, 2, 4, 5, 6)]
        rsum = None if None in recalls else sum(recalls)
        return ["-" if number is None else f"{number:.1f}" for number in (*row.printed, rsum)]
    return [_mean([report[way][key] for report in row.shown]) for way, key in COLUMNS] + [
        _mean([report["rsum"] for report in row.shown])
    ]


def _mean(numbers: Sequence[float]) -> str:
    shown = f"{np.mean(numbers):.1f}"
    return shown if len(numbers) < 2 else f"{shown} ± {spread(np.array(numbers)):.1f}"


def fate_of(row: Row) -> str:
    """What is said of seeds that have collapsed; "" where none has."""
    lost = [(step, report) for step, report in zip(row.steps, row.reports) if step is not None]
    if not lost:
        return ""
    rsum, chance = np.mean([report["rsum"] for _, report in lost]), chance_of(lost[0][1])
    seeds = f" in {len(lost)} of {len(row.reports)} seeds" if len(row.reports) > 1 else ""
    return f"collapse at step {min(step for step, _ in lost)}{seeds}: rsum {rsum:.1f}, chance {chance:.1f}"


def _lines(rows: Sequence[Row]) -> Iterator[tuple[Row, str, list[str] | None]]:
    """Rows with their names and cells; None in place of cells where all seeds have collapsed."""
    for row in rows:
        fate = fate_of(row)
        if fate and not row.shown:
            yield row, row.name, None
        else:
            yield row, f"{row.name} ({fate})" if fate else row.name, cells_of(row)


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, a line of its own before each group but ours."""
    lines = [
        "| | image to text | | | | text to image | | | | |",
        "|" + "---|" * 10,
        "| " + " | ".join(HEADING) + " |",
    ]
    group = OURS
    for row, name, cells in _lines(rows):
        if row.group != group:
            lines.append(f"| *{row.group}* |" + " |" * 9)
            group = row.group
        lines.append(f"| {name} | " + " | ".join(cells or [f"**{fate_of(row)}**", *[""] * 8]) + " |")
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
    for row, name, cells in _lines(rows):
        if row.group != group:
            lines += [r"\midrule", rf"\multicolumn{{10}}{{l}}{{\emph{{{_escaped(row.group)}}}}} \\"]
            group = row.group
        cells = (
            [_escaped(cell) for cell in cells] if cells else [rf"\multicolumn{{9}}{{l}}{{{_escaped(fate_of(row))}}}"]
        )
        lines.append(" & ".join([_escaped(name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def latex_of(tables: str, caption: str) -> str:
    """Any tables in Markdown for LaTeX, with the package booktabs; lines between them are left out."""
    lines, rows = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(caption)}}}"], []
    for line in [*tables.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([_bold(_escaped(cell.strip().replace("\\", "/"))) for cell in line.strip("|").split("|")])
        elif rows:
            head, _, *body = (" & ".join(row) + r" \\" for row in rows)  # the second row is Markdown's rule
            lines += [rf"\begin{{tabular}}{{{'l' * len(rows[0])}}}", r"\toprule", head, r"\midrule", *body]
            lines += [r"\bottomrule", r"\end{tabular}", ""]
            rows = []
    return "\n".join([*lines, r"\end{table}", ""])


def _bold(cell: str) -> str:
    return rf"\textbf{{{cell[2:-2]}}}" if cell.startswith("**") else cell


def _escaped(text: str) -> str:
    for sign in "&%$#_{}":
        text = text.replace(sign, f"\\{sign}")
    text = text.replace("`", "")
    return text.replace("±", r"$\pm$").replace("λ", r"$\lambda$").replace("δ", r"$\delta$")


def csv_of(what: str, rows: Sequence[Row]) -> str:
    """Every number of ours, one line each, with its 95 % interval, under CSV_COLUMNS."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in rows:
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
        heading = "| network | layers | nodes in each layer | printed | parameters |"
        lines += ["", f"{title}:", "", heading, "|---|---|---|---|---|"]
        for network, kind, nodes, count in network_layers(config):
            printed = PRINTED_LAYERS.get((network, kind), "")
            lines.append(f"| {network} | {kind} | {nodes} | {printed} | {count} |")
    return "\n".join(lines[1:])


def layers_csv(configs: Mapping[str, Config]) -> str:
    """The parameters of Table I under CSV_COLUMNS, without intervals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for title, config in configs.items():
        for network, kind, _, count in network_layers(config):
            row = f"{title.replace('`', '')}: {network} {kind}"
            writer.writerow(("table1", row, "", "", "parameters", count.replace(",", ""), "", ""))
    return text.getvalue()


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
