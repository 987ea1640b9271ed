"""What every figure of plots.py has in common: one look, an alternative text, writing it whole or not at all.

pyplot and its state are not used, so there is nothing to close; a notebook shows a figure by itself. matplotlib is an
extra: it is imported inside functions, and missing it is one line.
"""

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from minialbert.errors import FileError, InputError
from minialbert.whole import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

ENDINGS = {".png": "Description", ".svg": "Description", ".pdf": "Subject"}  # where each keeps its alternative text
MAP = "Blues"  # white to dark blue: lightness falls all the way, so any eye and any printer can read it
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito 2008, for any eye
MARKERS, DASHES = "osD^vX", ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))  # the same said without colour
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++")
SCRIPTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari",
           "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Arial Unicode MS")  # fmt: skip
STYLE: dict[str, Any] = {
    "font.size": 8, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.labelsize": 8, "axes.linewidth": 0.6,
    "text.parse_math": False,
    "axes.edgecolor": "#555555", "axes.labelcolor": "#222222", "text.color": "#222222", "axes.titlepad": 8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#dddddd",
    "grid.linewidth": 0.5, "xtick.labelsize": 7, "ytick.labelsize": 7, "xtick.color": "#555555",
    "ytick.color": "#555555", "xtick.labelcolor": "#222222", "ytick.labelcolor": "#222222", "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "lines.linewidth": 1.5,
    "lines.markersize": 4, "legend.frameon": False, "legend.fontsize": 7, "hatch.linewidth": 0.6, "figure.dpi": 110,
    "savefig.dpi": 220, "svg.hashsalt": "minialbert", "pdf.fonttype": 42,
}  # fmt: skip


@contextmanager
def style() -> Iterator[None]:
    """The settings above for what is drawn inside. Raises FileError where matplotlib is missing."""
    try:
        from matplotlib import font_manager, rc_context
    except ImportError:
        raise FileError('matplotlib is not installed, and figures need it: pip install "minialbert[plots]"') from None
    there = {font.name for font in font_manager.fontManager.ttflist}
    settings: Any = STYLE | {"font.family": ["DejaVu Sans", *(name for name in SCRIPTS if name in there)]}
    with rc_context(settings):
        yield


def styled(draw: "Callable[P, Figure]") -> "Callable[P, Figure]":
    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        with style():
            return draw(*args, **kwargs)

    return inside


@cache
def picture() -> "type[Figure]":
    """matplotlib's Figure, which a notebook shows together with its alternative text."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
            file = io.BytesIO()
            with style():
                self.savefig(file, format="png")
            png = base64.b64encode(file.getvalue()).decode()
            shown = {"alt": alt_text(self), "width": round(96 * self.get_figwidth())}  # as large as on paper
            return {"image/png": png, "text/plain": alt_text(self)}, {"image/png": shown}

    return Picture


def new_figure(width: float, height: float, alt: str) -> "Figure":
    """An empty figure of so many inches; the alternative text is what matplotlib calls its label."""
    figure = picture()(figsize=(width, height), layout="constrained")
    figure.set_label(alt)
    return figure


def alt_text(figure: "Figure") -> str:
    """What the figure shows, in words, for whoever cannot see it."""
    return str(figure.get_label())


def check_target(path: str | Path) -> Path:
    """To be asked before the work, not after it. Raises InputError for an ending that is none of .png, .svg, .pdf,
    FileError where matplotlib is missing.
    """
    if Path(path).suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: a figure is written as {', '.join(ENDINGS)}, by its ending")
    with style():
        return Path(path)


def save(figure: "Figure", path: str | Path) -> None:
    """Write .png, .svg or .pdf, whole or not at all, the alternative text inside; the same arrays, the same bytes.

    Raises InputError for another ending, FileError when the file cannot be written.
    """
    path = check_target(path)
    ending = path.suffix.lower()
    undated = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}[ending]
    with style(), whole_file(path) as temporary:
        figure.savefig(temporary, format=ending[1:], metadata={ENDINGS[ending]: alt_text(figure)} | undated)


def array(values: Any, dimensions: int, what: str) -> np.ndarray:
    """Numbers from a tensor, an array or a list. Raises InputError for another number of axes, or none at all."""
    values = values.detach().cpu().double() if hasattr(values, "detach") else values
    found = np.asarray(values, dtype=float)
    if found.ndim != dimensions or not found.size:
        raise InputError(f"{what} is {list(found.shape)}, expected {dimensions} axes with something in each")
    return found


def square(values: Any, tokens: Sequence[str], what: str, mask: Any = None) -> tuple[np.ndarray, list[str]]:
    """The array [T, T] and the tokens; of both what has a 1 in the mask [T], if one is given: padding has 0."""
    found, T = array(values, 2, what), len(tokens)
    if found.shape != (T, T):
        raise InputError(f"{what} is {list(found.shape)}, and there are {T} tokens: cut one to the other")
    real = np.ones(T, dtype=bool) if mask is None else array(mask, 1, "the mask") != 0
    if len(real) != T or not real.any():
        raise InputError(f"the mask has {real.sum()} real of {len(real)} tokens, expected {T}, one of them real")
    return found[real][:, real], [token for token, keep in zip(tokens, real, strict=True) if keep]


def shown(piece: str, width: int = 14) -> str:
    """A piece as a label: a thin mark for the start of a word, no control characters, not longer than fits."""
    piece = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in piece.replace("▁", "_"))
    return piece if len(piece) <= width else piece[: width - 1] + "…"


def heat(figure: "Figure", axes: "Axes", values: np.ndarray, label: str, high: float | None = None) -> None:
    """A heat map from 0 up, thin white lines between the cells, and its scale at the right."""
    high = float(np.nanmax(values)) if high is None else high
    image = axes.imshow(values, cmap=MAP, vmin=0, vmax=high or 1.0, aspect="auto", interpolation="nearest")
    rows, columns = values.shape
    axes.set_xticks(np.arange(1, columns) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, rows) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=25)
    bar.set_label(label)
    bar.outline.set_visible(False)


def tokens_on(axis: Any, tokens: Sequence[str], **how: Any) -> None:
    axis.set_ticks(range(len(tokens)), [shown(token) for token in tokens], **how)


def layers_on(axes: "Axes", layers: Sequence[int]) -> None:
    """The layer axis: whole numbers, as many as fit."""
    step = math.ceil(len(layers) / 14)
    axes.set_xticks(list(layers)[::step])
    axes.set_xlabel("layer")


def lines(axes: "Axes", curves: Mapping[str, Any], layers: Sequence[int]) -> None:
    """One line for each name, told apart by colour, marker and dashes; one may end before the last layer.

    Every second one has large hollow markers, through which an equal line below can be seen.
    """
    for i, (name, values) in enumerate(curves.items()):
        k = i % len(COLORS)
        look: dict[str, Any] = {"color": COLORS[k], "marker": MARKERS[k], "linestyle": DASHES[k]}
        look |= {"markerfacecolor": "none", "markersize": 6} if k % 2 else {}
        axes.plot(layers[: len(values)], values, label=shown(name, 60), **look)
    axes.grid(axis="y")


def legend(figure: "Figure", axes: "Axes") -> None:
    """Below the axes, where it covers nothing."""
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:
        longest = max(map(len, names))
        columns = max(1, min(len(names), int(figure.get_figwidth() / (0.055 * longest + 0.55))))
        figure.legend(handles, names, loc="outside lower center", ncols=columns, handlelength=3, columnspacing=1.4)
