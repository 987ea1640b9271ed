"""A picture of what `minialbert bench` found: a bar for each row, its ratio on a logarithmic axis, the goal as a mark.

The look, the alternative text inside and writing it whole are those of all figures: tools/plot_style.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minialbert.errors import InputError
from minialbert.tools.bench_measuring import figure_of
from minialbert.tools.plot_style import COLORS, HATCHES, check_target, legend, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_target", "drawn", "plot"]

KINDS = ("work per second: more is better", "time or memory: less is better")


def plot(found: Mapping[str, Any], target: str | Path) -> None:
    """Write the figure: .png, .svg or .pdf. Raises InputError for another ending, and FileError as `save` does."""
    save(drawn(found), target)


@styled
def drawn(found: Mapping[str, Any]) -> "Figure":
    """What `bench` gives: bars from 1, which is the other side, a line from the least to the most of the rounds."""
    rows = [row for row in found["rows"] if row["ratio"] is not None]
    if not rows:
        raise InputError("no row has a ratio, so there is nothing to draw; what was left out says why")
    figure = new_figure(6.5, 1.5 + 0.24 * len(rows), "")
    axes = figure.add_subplot()
    for kind, label in enumerate(KINDS):
        some = {i: row for i, row in enumerate(rows) if kind == (not row["unit"].endswith("/s"))}
        if some:
            axes.barh(list(some), [row["ratio"] - 1 for row in some.values()], left=1, height=0.6, label=label,
                      color=COLORS[kind * 4], hatch=HATCHES[kind], edgecolor="white", linewidth=0)  # fmt: skip
    low, high = zip(*(row["ratio_spread"] for row in rows), strict=True)
    axes.hlines(range(len(rows)), low, high, color="#222222", linewidth=1.2, label="least to most of the rounds")
    goals = {i: float(row["goal"].split()[1]) for i, row in enumerate(rows) if row["goal"]}
    if goals:
        axes.plot([*goals.values()], [*goals], "|", color="black", markersize=14, markeredgewidth=2, label="goal")
    edges = [1.0, *low, *high, *goals.values()]
    left, right = min(edges) / 1.3, max(edges) * 1.3
    digits = (1, 2, 5) if right / left < 300 else (1,)
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in digits]
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_xticks([x for x in ticks if left <= x <= right], minor=False)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.xaxis.set_minor_formatter(lambda x, _: "")
    axes.axvline(1, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['name']}  /  {row['peer']}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    axes.set_ylabel("row  /  what it is beside")
    axes.grid(axis="x")
    values = axes.secondary_yaxis("right")
    values.set_yticks(range(len(rows)), [figure_of(row["ratio"]) for row in rows])
    values.tick_params(length=0)
    threads = found["machine"]["threads"]
    axes.set_xlabel("ours / theirs, median of the rounds")
    axes.set_title(f"Side by side, {threads} thread{'s' * (threads > 1)}")
    legend(figure, axes)
    told = "; ".join(
        f"{row['name']} beside {row['peer']}: {figure_of(row['ratio'])}"
        + (f" (goal {row['goal']})" if row["goal"] else "")
        for row in rows
    )
    figure.set_label(
        f"{axes.get_title(loc='left')}, {found['model']['name']}. Bars of ours / theirs on a logarithmic axis. {told}."
    )
    return figure
