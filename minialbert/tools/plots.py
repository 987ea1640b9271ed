"""One figure per idea, drawn from arrays: lens.py, sharing.py and probe.py compute them, nothing here asks a model.

In every figure layers run from left to right and dark means more, so that a print in grey says the same. Each function
gives a matplotlib Figure with an alternative text, `alt_text(figure)`; `save(figure, path)` writes it. Both are in
plot_style.py, with the look. Every function raises InputError for arrays that do not fit, FileError where matplotlib is
missing.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minialbert.errors import InputError
from minialbert.tools.lens import ALIKE, Distances, Similarity
from minialbert.tools.plot_style import (
    COLORS,
    HATCHES,
    MAP,
    alt_text,
    array,
    check_target,
    heat,
    layers_on,
    legend,
    lines,
    new_figure,
    save,
    shown,
    square,
    styled,
    tokens_on,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [  # noqa: RUF022  # in reading order
    "attention_map", "attention_grid", "rollout", "importance", "lens_table", "paths", "distances", "similarity",
    "visits", "probe", "tuning", "alt_text", "check_target", "save",
]  # fmt: skip


# ---- heads ----


@styled
def attention_map(
    probs: Any, tokens: Sequence[str], layer: int | None = None, head: int | None = None, mask: Any = None
) -> "Figure":
    """One head at one visit: probs [T, T], query by key. mask: [T] as in `attention_mask`, to leave padding out."""
    values, tokens = square(probs, tokens, "the map", mask)
    where = ", ".join([f"layer {layer}"] * (layer is not None) + [f"head {head}"] * (head is not None))
    t, k = divmod(int(values.argmax()), len(tokens))
    figure = token_square(values, tokens, "attention probability", "looks at (key)", "token that looks (query)", (
        f"Heat map of attention{where and f', {where}'}: {len(tokens)} tokens that look, in rows, by the same tokens "
        f"looked at, in columns. Largest: {tokens[t]!r} looks at {tokens[k]!r} with probability {values[t, k]:.2f}."
    ))  # fmt: skip
    figure.axes[0].set_title(f"Where a head looks{where and f': {where}'}")
    return figure


@styled
def rollout(rolled: Any, tokens: Sequence[str], mask: Any = None) -> "Figure":
    """What attention_rollout gives for one text at one layer, the last as a rule: [T, T]; mask as in attention_map."""
    values, tokens = square(rolled, tokens, "the rollout", mask)
    alike = values.std(0).mean()
    figure = token_square(values, tokens, "share", "input position", "position after the last visit", (
        f"Heat map of attention rollout: {len(tokens)} positions after the last visit, in rows, by the input positions "
        f"they could draw on, in columns; shares from {values.min():.2f} to {values.max():.2f}. "
        f"Rows differ by {alike:.3f} (mean standard deviation of a column)."
    ))  # fmt: skip
    figure.axes[0].set_title("Rollout: what could reach each position")
    return figure


def token_square(values: np.ndarray, tokens: Sequence[str], label: str, x: str, y: str, alt: str) -> "Figure":
    """A heat map of tokens by tokens, large enough to read every one of them."""
    side = max(2.4, 0.15 * len(tokens))
    longest = 0.065 * max(len(shown(token)) for token in tokens)
    figure = new_figure(side + longest + 1.1, side + longest + 0.6, alt)
    axes = figure.add_subplot()
    heat(figure, axes, values, label)
    tokens_on(axes.xaxis, tokens, rotation=90)
    tokens_on(axes.yaxis, tokens)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure


@styled
def attention_grid(maps: Sequence[Any], row: int = 0, length: int | None = None) -> "Figure":
    """All heads at all visits of one text: maps as lens.attention_maps gives them, [B, A, T, T] for each layer.

    length cuts padding off: how many tokens the text has.
    """
    if not len(maps):
        raise InputError("no map in the list: give those of layers 1..L")
    values = [array(x, 4, "a map")[row, :, :length, :length] for x in maps]
    L, A, T = len(values), *values[0].shape[:2]
    cell = 0.72 if max(L, A) <= 6 else 0.5
    figure = new_figure(L * cell + 1.0, A * cell + 0.8, (
        f"Small heat maps of attention for {T} tokens, one for each of {A} heads (rows) at each of {L} layers "
        f"(columns); in each, rows look at columns. The sharpest head: {sharpest(values)}."
    ))  # fmt: skip
    grid: Any = figure.subplots(A, L, squeeze=False)
    for head, layer in np.ndindex(A, L):
        axes = grid[head, layer]
        image = axes.imshow(values[layer][head], cmap=MAP, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color="#bbbbbb")
        if head == A - 1:
            axes.set_xlabel(str(layer + 1), fontsize=7)
        if layer == 0:
            axes.set_ylabel(str(head), fontsize=7, rotation=0, ha="right", va="center")
    figure.supxlabel("layer", fontsize=8)
    figure.supylabel("head", fontsize=8)
    figure.suptitle("Where every head looks at every visit", fontsize=9, x=0.07, ha="left")
    bar = figure.colorbar(image, ax=grid, fraction=0.03, pad=0.02, aspect=30)
    bar.set_label("attention probability")
    bar.outline.set_visible(False)
    return figure


def sharpest(values: Sequence[np.ndarray]) -> str:
    """The head whose tokens look at one place most, in words."""
    peaks = np.array([x.max(-1).mean(-1) for x in values])  # [L, A]
    layer, head = np.unravel_index(peaks.argmax(), peaks.shape)
    return f"layer {layer + 1}, head {head}, whose tokens give {peaks.max():.2f} on average to one place"


@styled
def importance(values: Any, what: str = "relative change of the output") -> "Figure":
    """What lens.head_importance gives, or one array of it, [L, A]: what silencing a head at a visit changes."""
    found = array(getattr(values, "change", values), 2, "importance")
    L, A = found.shape
    layer, head = np.unravel_index(np.abs(found).argmax(), found.shape)
    figure = new_figure(max(3.6, 0.3 * L + 1.4), max(2.5, 0.26 * A + 1.2), (
        f"Heat map: {what} when one of {A} heads (rows) is silent at one of {L} layers (columns). "
        f"Largest: head {head} at layer {layer + 1}, {found[layer, head]:.3g}; median {np.median(found):.3g}."
    ))  # fmt: skip
    axes = figure.add_subplot()
    heat(figure, axes, np.abs(found).T, what if (found >= 0).all() else f"|{what}|")
    axes.set_xticks(range(L), [str(number) for number in range(1, L + 1)])
    axes.set_yticks(range(A), [str(number) for number in range(A)])
    axes.set_xlabel("layer at which the head is silent")
    axes.set_ylabel("head")
    axes.set_title("What a head is worth, visit by visit")
    return figure


# ---- words, paths ----


@styled
def lens_table(
    pieces: Sequence[Sequence[str]], probabilities: Any, tokens: Sequence[str], layers: Sequence[int] | None = None
) -> "Figure":
    """The likeliest piece at each layer and position: pieces and probabilities [K, T], of the text in `tokens`."""
    values = array(probabilities, 2, "probabilities")
    K, T = values.shape
    layers = range(K) if layers is None else layers
    if [len(row) for row in pieces] != [T] * K or len(tokens) != T or len(layers) != K:
        raise InputError(f"probabilities are [{K}, {T}]: as many layers, tokens and rows of pieces are needed")
    cells = [[shown(piece, 11) for piece in row] for row in pieces]
    width = 0.14 + 0.062 * max(len(cell) for row in cells for cell in row)
    others = [f"{piece!r} for {token!r}" for token, piece in zip(tokens, pieces[-1], strict=True) if token != piece]
    figure = new_figure(max(3.0, K * width + 1.7), max(2.2, 0.18 * T + 0.9), (
        f"Table of the piece that the head for masked words finds likeliest, {T} positions (rows) at layers "
        f"{layers[0]} to {layers[-1]} (columns), darker where it is surer. The last layer gives the token itself, "
        f"but for {', '.join(others) or 'none'}."
    ))  # fmt: skip
    axes = figure.add_subplot()
    heat(figure, axes, values.T, "probability", high=1)
    for k, t in np.ndindex(K, T):
        color = "white" if values[k, t] > 0.71 else "black"  # whichever stands out more on that blue
        axes.text(k, t, cells[k][t], ha="center", va="center", fontsize=6.5, color=color)
    axes.set_xticks(range(K), [str(layer) for layer in layers])
    tokens_on(axes.yaxis, tokens)
    axes.set_xlabel("layer")
    axes.set_ylabel("token given")
    axes.set_title("Which word each layer would give")
    return figure


@styled
def paths(points: Any, tokens: Sequence[str], share: Sequence[float] | None = None) -> "Figure":
    """Where each token goes from visit to visit: points [L+1, T, 2] and share [2], as lens.token_path gives them."""
    values = array(points, 3, "points")
    if values.shape[1:] != (len(tokens), 2):
        raise InputError(f"points are {list(values.shape)}, expected [L + 1, {len(tokens)}, 2] for these tokens")
    L, T = len(values) - 1, len(tokens)
    told = [""] * 2 if share is None else [f" ({100 * float(part):.0f} % of the variance)" for part in share]
    lengths = np.linalg.norm(np.diff(values, axis=0), axis=-1).sum(0)
    figure = new_figure(4.6, max(3.2, 0.075 * T + 1.2), (
        f"Paths of {T} tokens on the plane of two principal components, from the input (ring) through {L} visits "
        f"to the output (dot). The longest path is that of {tokens[lengths.argmax()]!r}, the shortest of "
        f"{tokens[lengths.argmin()]!r}."
    ))  # fmt: skip
    axes = figure.add_subplot()
    for t in range(T):
        axes.plot(*values[:, t].T, color=COLORS[0], linewidth=0.9, alpha=0.55, marker=".", markersize=2.5)
    axes.plot(*values[0].T, "o", color=COLORS[0], markerfacecolor="white", markersize=4, label="input")
    axes.plot(*values[-1].T, "o", color="#222222", markersize=4.5, label=f"after visit {L}")
    axes.set(xticks=[], xlabel=f"first component{told[0]}", ylabel=f"second component{told[1]}")
    axes.spines[:].set(visible=True, color="#bbbbbb")
    axes.margins(0.06)
    label_at_the_sides(axes, values[-1], tokens)
    axes.set_title("Where the tokens go, visit by visit")
    legend(figure, axes)
    return figure


def label_at_the_sides(axes: "Axes", ends: np.ndarray, tokens: Sequence[str]) -> None:
    """A name for each end point, left or right of the axes, joined to it by a thin line; none overlap."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set(xlim=(left, right), ylim=(low, high))  # the lines below are not to move them
    by_x = np.argsort(ends[:, 0], kind="stable")
    other = axes.secondary_yaxis("right")
    for axis, edge, members in ((axes, left, by_x[: len(by_x) // 2]), (other, right, by_x[len(by_x) // 2 :])):
        members = members[np.argsort(ends[members, 1], kind="stable")]
        heights = low + (high - low) * spread((ends[members, 1] - low) / (high - low))
        axis.set_yticks(heights, [shown(tokens[t]) for t in members])
        axis.tick_params(length=0)
        for t, height in zip(members, heights, strict=True):
            axes.plot([edge, ends[t, 0]], [height, ends[t, 1]], color="#999999", linewidth=0.4, zorder=1)


def spread(wanted: np.ndarray) -> np.ndarray:
    """Heights from 0 to 1 near the wanted ones, which go up, and apart enough for a line of text each."""
    gap = min(0.06, 1 / max(1, len(wanted) - 1))
    steps = gap * np.arange(len(wanted))

    def pushed_up(heights: np.ndarray) -> np.ndarray:
        return np.minimum(np.maximum.accumulate(heights - steps), 1 - gap * (len(heights) - 1)) + steps

    return (pushed_up(wanted) + 1 - pushed_up(1 - wanted[::-1])[::-1]) / 2  # the mean keeps the gaps of both


# ---- curves over the layers ----


@styled
def distances(results: Distances | Mapping[str, Distances]) -> "Figure":
    """Figure 1 of the ALBERT paper, for each model by name: how far each layer moves its tokens, and how they turn."""
    results = {"model": results} if isinstance(results, Distances) else results
    l2 = {name: array(result.l2, 1, "l2") for name, result in results.items()}
    degrees = {name: array(result.degrees, 1, "degrees") for name, result in results.items()}
    if not l2:
        raise InputError("no model in the dictionary, expected name: Distances")
    ends = "; ".join(
        f"{name}: {x[0]:.3g} to {x[-1]:.3g}, {y[0]:.0f} to {y[-1]:.0f} degrees"
        for (name, x), y in zip(l2.items(), degrees.values(), strict=True)
    )
    figure = new_figure(6, 2.8, (
        "Two panels of lines over the layers: L2 distance, and angle in degrees, between the input and the output of "
        f"each layer. From the first to the last layer, {ends}."
    ))  # fmt: skip
    longest = max(map(len, l2.values()))
    panels = ((l2, "L2 distance", "How far a layer moves a token"), (degrees, "angle (degrees)", "How far it turns it"))
    for axes, (curves, label, title) in zip(figure.subplots(1, 2), panels, strict=True):
        lines(axes, curves, range(1, longest + 1))
        axes.set_ylim(0, 1.08 * axes.dataLim.ymax)  # a margin for the markers
        axes.set_ylabel(label)
        axes.set_title(title)
        layers_on(axes, range(1, longest + 1))
    legend(figure, axes)
    return figure


@styled
def similarity(curves: Similarity | Mapping[str, Any], threshold: float | None = ALIKE) -> "Figure":
    """Collapse: mean cosines at layers 0..L by name, as lens.position_similarity(...)._asdict(), or several models'."""
    curves = curves._asdict() if isinstance(curves, Similarity) else curves
    found = {name: array(values, 1, name) for name, values in curves.items()}
    found = {name: values for name, values in found.items() if not np.isnan(values).all()}
    if len({len(values) for values in found.values()}) != 1:
        raise InputError("the curves have different lengths or none has a value, expected [L + 1] each")
    layers = range(len(next(iter(found.values()))))
    ends = ", ".join(f"{name} {values[0]:.2f} to {values[-1]:.2f}" for name, values in found.items())
    figure = new_figure(4, 3, f"Lines of the mean cosine over layers 0 to {layers[-1]}: {ends}.")
    axes = figure.add_subplot()
    lines(axes, found, layers)
    if threshold is not None:
        axes.axhline(threshold, color="#555555", linewidth=0.8, linestyle=(0, (2, 2)), label="alarm")
    axes.set_ylim(min(0, *(float(np.nanmin(values)) for values in found.values())), 1.03)
    axes.set_ylabel("mean cosine (1: all alike)")
    layers_on(axes, layers)
    axes.set_title("Do the vectors stay apart?")
    legend(figure, axes)
    return figure


@styled
def visits(gradients: Mapping[str, Any]) -> "Figure":
    """What each visit asks of the shared weights: gradients by name, [L, ...] each, as sharing.gradient_by_visit gives.

    A bar is the norm over all weights of a part, the first word of their names: attention, ffn.
    """
    squares: dict[str, Any] = {}
    for name, values in gradients.items():
        values = values.detach().cpu().double().numpy() if hasattr(values, "detach") else np.asarray(values, float)
        part = name.split(".")[0]
        squares[part] = squares.get(part, 0) + (values.reshape(len(values), -1) ** 2).sum(1)
    if not squares or len({len(values) for values in squares.values()}) != 1:
        raise InputError("gradients by visit are a dictionary of name: [L, ...] with one L")
    norms = {part: np.sqrt(values) for part, values in squares.items()}
    L = len(next(iter(norms.values())))
    told = "; ".join(f"{part}, largest at visit {x.argmax() + 1} ({x.max():.3g})" for part, x in norms.items())
    figure = new_figure(max(4, 0.3 * L + 1), 3, f"Bars of the gradient norm at each of {L} visits: {told}.")
    axes = figure.add_subplot()
    width = 0.8 / len(norms)
    for i, (part, values) in enumerate(norms.items()):
        axes.bar(
            np.arange(1, L + 1) + (i + 0.5) * width - 0.4, values, width, label=shown(part, 30), edgecolor="white",
            color=COLORS[i % len(COLORS)], hatch=HATCHES[i % len(HATCHES)], linewidth=0.5,
        )  # fmt: skip
    axes.grid(axis="y")
    axes.set_ylabel("norm of the gradient")
    layers_on(axes, range(1, L + 1))
    axes.set_xlabel("visit")
    axes.set_title("What each visit asks of the weights")
    legend(figure, axes)
    return figure


@styled
def probe(
    scores: Mapping[str, Sequence[float]], layers: Sequence[int], metric: str, baselines: Mapping[str, float]
) -> "Figure":
    """How well a linear probe does at each layer: scores by pooling, one a layer; baselines as level lines."""
    found = {name: array(values, 1, name) for name, values in scores.items()}
    if not found or any(len(values) != len(layers) for values in found.values()):
        raise InputError(f"scores are a dictionary of pooling: {len(layers)} numbers, one for each of the layers")
    best = max(found, key=lambda name: np.nanmax(found[name]))
    told = ", ".join(f"{name} {value:.3g}" for name, value in baselines.items())
    figure = new_figure(4, 3, (
        f"Lines of {metric} of a linear probe over layers {layers[0]} to {layers[-1]}, one for each pooling. "
        f"Best: {best} at layer {layers[int(np.nanargmax(found[best]))]}, {np.nanmax(found[best]):.3g}. "
        f"Baselines: {told or 'none'}."
    ))  # fmt: skip
    axes = figure.add_subplot()
    lines(axes, found, layers)
    for i, (name, value) in enumerate(baselines.items()):
        axes.axhline(value, color="#555555", linewidth=0.9, linestyle=(0, (1 + 3 * i, 2)), label=shown(name, 30))
    axes.set_ylabel(metric)
    layers_on(axes, layers)
    axes.set_title("What a linear probe finds at each layer")
    legend(figure, axes)
    return figure


@styled
def tuning(report: Mapping[str, Any]) -> "Figure":
    """A fine-tuning, epoch by epoch: the goal on dev for each seed, as the report of finetune/seeds.py has it.

    Seeds with the same numbers are one line, and the legend says how many they are.
    """
    curves = {seed["seed"]: [row["goal"] for row in seed["history"]] for seed in report["seeds"] if seed["history"]}
    if not curves:
        raise InputError("the report has no epoch of any seed")
    goal, best, floor = report["goal"], report["best_seed"], report["floor"]
    longest = max(map(len, curves.values()))
    ends = ", ".join(f"seed {seed} ends at {values[-1]:.3g}" for seed, values in curves.items())
    least = "" if floor is None else f" Without looking: {floor:.3g}."
    figure = new_figure(4, 3, f"Lines of {goal} on dev over {longest} epochs, one for each seed: {ends}.{least}")
    axes = figure.add_subplot()
    alike: dict[tuple, list[int]] = {}
    for seed, values in curves.items():
        alike.setdefault(tuple(values), []).append(seed)
    for goals, seeds in alike.items():
        same = f"seeds {', '.join(map(str, seeds))}: the same"
        if best in seeds:  # broad and below, for others may go along it a way
            look: dict[str, Any] = {"color": COLORS[0], "linewidth": 2.6, "markersize": 6, "zorder": 2}
            look["label"] = f"seed {best}, kept" + f" ({same})" * (len(seeds) > 1)
        else:
            look = {"color": "#666666", "linewidth": 0.9, "markersize": 2.5, "alpha": 0.7, "zorder": 2.5}
            look["label"] = same if len(seeds) > 1 else None
        axes.plot(range(1, len(goals) + 1), goals, marker="o", **look)
    if floor is not None:
        axes.axhline(floor, color="#555555", linewidth=0.9, linestyle=(0, (2, 2)), label="without looking")
    axes.set_ylabel(f"{goal} on dev".replace("_", " "))
    layers_on(axes, range(1, longest + 1))
    axes.set_xlabel("epoch")
    axes.set_title("What fine-tuning reaches, seed by seed")
    legend(figure, axes)
    return figure
