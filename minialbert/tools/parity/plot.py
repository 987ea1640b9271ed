"""A picture of a comparison: how far apart the two are at each layer, on a logarithmic axis.

The look, the alternative text inside and writing it whole are those of all figures: tools/plot_style.py.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from minialbert.tools.parity.verdict import Report
from minialbert.tools.plot_style import COLORS, check_target, legend, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_target", "drawn", "plot"]

ZERO, HIGHEST = 1e-18, 1e3  # where zero and infinity are drawn
LOOKS = {"float32": ("o", COLORS[1]), "float64": ("s", COLORS[0])}


def plot(report: Report, target: str | Path) -> None:
    """Write the figure: .png, .svg or .pdf. Raises InputError for another ending, and FileError as `save` does."""
    save(drawn(report), target)


@styled
def drawn(report: Report) -> "Figure":
    """Of each layer the point that is nearest to its tolerance: how far apart the two are there, and the tolerance."""
    groups = [(name, rows) for name, rows in report.by_layer() if name not in ("tokenizer", "config", "weights")]
    names = [name.removeprefix("layer ") for name, _ in groups]
    figure = new_figure(max(5.5, 1.6 + 0.26 * len(names)), 4, "")
    axes = figure.add_subplot()
    told, highest = [], 1e-4
    for kind, (marker, color) in LOOKS.items():
        worst = {}  # place on the axis: distance and tolerance
        for i, (_, rows) in enumerate(groups):
            pairs = [(row.distance[kind], row.tolerance[kind] or np.nan) for row in rows if kind in row.distance]
            if pairs:
                worst[i] = max(pairs, key=lambda pair: np.nan_to_num(pair[0] / pair[1]))
        if worst:
            distances, allowed = np.array([*worst.values()]).T
            told.append(f"{kind} up to {distances.max():.2g}")
            distances = distances.clip(ZERO, HIGHEST)
            highest = np.nanmax([highest, *distances, *allowed])
            axes.plot([*worst], distances, marker, color=color, markersize=5, label=f"{kind}, measured")
            axes.plot([*worst], allowed, "--", color=color, linewidth=1, label=f"{kind}, tolerance")
    axes.set_yscale("log")
    powers = range(-16, 3, 2)
    axes.set_yticks([ZERO, *(10.0**power for power in powers)], ["0", *(f"1e{power}" for power in powers)])
    axes.set_ylim(ZERO / 10, max(1e-3, 10 * highest))
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 30)
    axes.set_xlabel("layer (numbers), and what comes before and after the layers")
    axes.set_ylabel("largest absolute difference")
    axes.set_title(f"minialbert and {report.against.split(' on ')[0]}: {report.model.split(',')[0]}")
    axes.grid(axis="y")
    legend(figure, axes)
    figure.set_label(
        f"{axes.get_title(loc='left')}. Points of the largest difference at each of {len(names)} places, {names[0]} to "
        f"{names[-1]}, on a logarithmic axis, and lines of what is allowed there: {', '.join(told)}."
    )
    return figure
