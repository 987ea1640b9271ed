"""A picture of a comparison: how far apart the two are at each layer, on a logarithmic axis."""

import math
import os
from pathlib import Path

from minialbert.errors import FileError, InputError
from minialbert.tools.parity.verdict import Report

ENDINGS = (".png", ".svg")
ZERO, HIGHEST = 1e-18, 1e3  # where zero and infinity are drawn
LOOKS = {"float32": ("o", "#c44e52"), "float64": ("s", "#4c72b0")}


def check_target(target: str | Path) -> None:
    """Raises InputError for another ending than .png and .svg; before the work, not after it."""
    if Path(target).suffix not in ENDINGS:
        raise InputError(f"{target}: a figure is written as {' or '.join(ENDINGS)}, by its ending")


def plot(report: Report, target: str | Path) -> None:
    """Write a figure: the largest distance over the points of each layer, and the tolerance of that point as a line.

    Raises InputError for another ending than .png and .svg, FileError where matplotlib is missing or the file cannot
    be written.
    """
    target = Path(target)
    check_target(target)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FileError("matplotlib is not installed, and --plot draws with it: pip install matplotlib") from None

    groups = [(name, rows) for name, rows in report.by_layer() if name not in ("tokenizer", "config", "weights")]
    names = [name.removeprefix("layer ") for name, _ in groups]
    figure = Figure(figsize=(max(5.5, 1.6 + 0.26 * len(names)), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    highest = 1e-4
    for kind, (marker, color) in LOOKS.items():
        xs, distances, allowed = [], [], []
        for i, (_, rows) in enumerate(groups):
            measured = [row for row in rows if kind in row.distance]
            if measured:
                worst = max(
                    measured, key=lambda row: row.distance[kind] / row.tolerance[kind] if row.tolerance[kind] else 0
                )
                xs.append(i)
                distances.append(min(max(worst.distance[kind], ZERO), HIGHEST))
                allowed.append(worst.tolerance[kind] if worst.tolerance[kind] else math.nan)
        if xs:
            highest = max(highest, *distances, *(x for x in allowed if x == x))
            axes.plot(xs, distances, marker, color=color, markersize=5, label=f"{kind}, measured")
            axes.plot(xs, allowed, "--", color=color, linewidth=1, label=f"{kind}, tolerance")
    axes.set_yscale("log")
    powers = [-16, -14, -12, -10, -8, -6, -4, -2, 0, 2]
    axes.set_yticks([ZERO, *(10.0**power for power in powers)], ["0", *(f"$10^{{{power}}}$" for power in powers)])
    axes.set_ylim(ZERO / 10, max(1e-3, 10 * highest))
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 30, fontsize=8)
    axes.set_xlabel("layer (numbers), and what comes before and after the layers")
    axes.set_ylabel("largest absolute difference")
    axes.set_title(f"minialbert and {report.against.split(' on ')[0]}: {report.model.split(',')[0]}", fontsize=10)
    axes.grid(axis="y", linewidth=0.4)
    figure.legend(loc="outside lower center", fontsize=8, ncols=2)
    beside = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        figure.savefig(beside, dpi=150)
        os.replace(beside, target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise FileError(f"{target}: cannot be written ({error.strerror or error})") from None
