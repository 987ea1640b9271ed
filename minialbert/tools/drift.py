"""What tuning changed: the vectors of the same texts from a model before and after it, layer by layer.

Texts are compared by their vectors, so the two may have different tokenizers, depths and widths; the figures that need
one width (cosine, distance) are then left out. Neighbours: probe.py asks what a layer knows, search.py finds texts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from minialbert.embed import Embedder
from minialbert.embed.pool import parse_layers
from minialbert.errors import InputError

POOLINGS = ("mean", "cls", "max", "pooler")
MOST = 2000  # texts; all are compared with all, and every layer of both models is held in memory
SAME = 1e-6  # cosines that differ by less count as equal: float32 rounds by this much


# ---- two sets of vectors of the same texts ----


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The cosine of each row of x with the same row of y, [N]; of rows of zeros 0."""
    return (unit(x) * unit(y)).sum(1)


def unit(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(lengths == 0, 1, lengths)


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """|y - x| / |x| of each row, [N]."""
    return np.linalg.norm(y - x, axis=1) / np.maximum(np.linalg.norm(x, axis=1), 1e-12)


def cka(x: np.ndarray, y: np.ndarray) -> float | None:
    """Linear centred kernel alignment of x [N, H] with y [N, K]: |X'Y|^2 / (|X'X| |Y'Y|), columns centred.

    1 when one is the other turned, mirrored, scaled or moved; near 0 when they have nothing in common and N is far
    above H. With few texts it is high for any two models: compare values of one N only. None where all rows are equal.
    Source: Kornblith et al. 2019, section 3.
    """
    if not (varies(x) and varies(y)):
        return None
    x, y = (z - z.mean(0) for z in (x.astype(np.float64), y.astype(np.float64)))
    if len(x) < max(x.shape[1], y.shape[1]):  # the same from the products of rows, which are fewer
        a, b = x @ x.T, y @ y.T
        return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def varies(x: np.ndarray) -> bool:
    """Whether rows differ by more than rounding; those of [CLS] before the first layer do not."""
    return bool(x.std(0, dtype=np.float64).max() > 1e-6 * np.abs(x).max())


def order_of(x: np.ndarray) -> np.ndarray:
    """All other texts of each text, the nearest by cosine first, [N, N - 1]; those equally near in their order."""
    close = unit(x.astype(np.float64))
    close = close @ close.T
    np.fill_diagonal(close, np.inf)  # the first of all: itself, taken off
    return np.argsort(-np.rint(close / SAME), axis=1, kind="stable")[:, 1:]


def kept(before: np.ndarray, after: np.ndarray, k: int) -> np.ndarray:
    """The share of the k nearest that are still among the k nearest, [N]; takes what order_of gives."""
    return np.array([len(np.intersect1d(a, b)) for a, b in zip(before[:, :k], after[:, :k], strict=True)]) / k


def ranks_of(order: np.ndarray) -> np.ndarray:
    """For each pair the worse of the two places that one has among the nearest of the other, from 1; [N, N]."""
    N = len(order)
    places = np.zeros((N, N), dtype=np.int32)
    np.put_along_axis(places, order, np.arange(1, N, dtype=np.int32)[None].repeat(N, 0), axis=1)
    return np.maximum(places, places.T)


# ---- what is told of them ----


class Layer(NamedTuple):
    """One layer: its number in both models, and means over all texts; None where there is nothing to compare."""

    before: int
    after: int
    cosine: float | None
    distance: float | None
    cka: float | None
    kept: float | None


class Moved(NamedTuple):
    """A text and how it moved in the last of the layers."""

    text: str
    cosine: float | None
    kept: float


class Pair(NamedTuple):
    """Two texts, and which place one had among the nearest of the other, the worse of the two, before and after."""

    first: str
    second: str
    before: int
    after: int


@dataclass(frozen=True)
class Drift:
    """A row for each layer; then, in the last of them, what moved most, what became neighbours, what no longer is."""

    texts: int
    pooling: str
    k: int
    layers: tuple[Layer, ...]
    moved: tuple[Moved, ...]
    became: tuple[Pair, ...]
    stopped: tuple[Pair, ...]

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it."""
        lists = {name: [row._asdict() for row in getattr(self, name)] for name in ("layers", *LISTS)}
        return asdict(self) | lists

    def lines(self) -> list[str]:
        """A page of 80 columns."""
        near = f"{self.k} nearest kept"
        out = [f"{self.texts:,} texts, {self.pooling}", f"{'layer':<7}{'cosine':>8}{'moved':>8}{'CKA':>8}{near:>18}"]
        for row in self.layers:
            name = str(row.before) if row.before == row.after else f"{row.before} | {row.after}"
            out.append(f"{name:<7}{figure(row.cosine):>8}{figure(row.distance):>8}{figure(row.cka):>8}"
                       f"{figure(row.kept, '.0%'):>18}")  # fmt: skip
        for name, told in LISTS.items():
            if rows := getattr(self, name):
                out += ["", told.format(layer=f"layer {self.layers[-1].after}", k=self.k)]
                out += [line for row in rows for line in (text_lines if name == "moved" else pair_lines)(row)]
        return out


LISTS = {
    "moved": "moved most in {layer} (cosine, {k} nearest kept):",
    "became": "became neighbours (each among the {k} nearest of the other; place before, after):",
    "stopped": "stopped being neighbours:",
}


def text_lines(row: Moved) -> list[str]:
    return [short(f"  {figure(row.cosine):>7} {row.kept:>6.0%}  {row.text}")]


def pair_lines(row: Pair) -> list[str]:
    return [short(f"  {row.before:>6} {row.after:>6}  {row.first}"), short(f"{'':17}{row.second}")]


def figure(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else format(value, form)


def short(line: str, width: int = 80) -> str:
    return line if len(line) <= width else line[: width - 3] + "..."


# ---- the whole ----


def distinct(texts: Iterable[str], most: int = MOST) -> tuple[list[str], bool]:
    """The first `most` texts, each once, blank ones left out and white space made single; whether there were more."""
    found: dict[str, None] = {}
    for text in texts:
        text = " ".join(text.split())
        if text and text not in found:
            if len(found) == most:
                return list(found), True
            found[text] = None
    return list(found), False


def drift(
    before: Embedder, after: Embedder, texts: Sequence[str], layers: Sequence[int] | None = None,
    pooling: str = "mean", k: int | None = None, top: int = 5,
) -> Drift:  # fmt: skip
    """How the vectors of texts differ between two models.

    layers: some numbers, negative ones counted from the top of each model; None is all that both have. k: how many
    nearest texts are compared, 10 or at most half of them if None. top: how many texts and pairs are told.
    Raises InputError for fewer than 3 texts, a pooling or a layer that does not do, a k that is not below N.
    """
    texts = list(texts)
    N = len(texts)
    if N < 3:
        raise InputError(f"{N} texts that are not blank and differ, expected at least 3 (better some hundreds)")
    k = min(10, (N - 1) // 2) if k is None else k
    if not 1 <= k < N:
        raise InputError(f"k={k} nearest texts: must be from 1 to {N - 1}, for there are {N} texts")
    if pooling not in POOLINGS:
        raise InputError(f"pooling={pooling!r} must be one of {', '.join(POOLINGS)}")
    numbers = numbers_of(before, after, layers)
    x, y = (vectors(embed, texts, [pair[i] for pair in numbers], pooling) for i, embed in enumerate((before, after)))
    rows, orders, stay = [], None, None
    for (first, second), a, b in zip(numbers, x, y, strict=True):
        orders = (order_of(a), order_of(b)) if varies(a) and varies(b) else None
        stay = kept(*orders, k) if orders else None
        one = a.shape == b.shape
        rows.append(Layer(
            first, second, float(cosines(a, b).mean()) if one else None, float(distances(a, b).mean()) if one else None,
            cka(a, b), None if stay is None else float(stay.mean()),
        ))  # fmt: skip
    if orders is None or stay is None:
        return Drift(N, pooling, k, tuple(rows), (), (), ())
    ranks = ranks_of(orders[0]), ranks_of(orders[1])
    how = cosines(x[-1], y[-1]) if x[-1].shape == y[-1].shape else None
    moved = np.argsort(stay if how is None else how, kind="stable")[:top]
    told = tuple(Moved(texts[i], None if how is None else float(how[i]), float(stay[i])) for i in moved)
    return Drift(N, pooling, k, tuple(rows), told, changed(texts, *ranks, k, top), changed(texts, *ranks, k, top, True))


def numbers_of(before: Embedder, after: Embedder, layers: Sequence[int] | None) -> list[tuple[int, int]]:
    """The number of each layer to compare, in both models."""
    L, M = (embed.model.config.num_visits for embed in (before, after))
    every = range(min(L, M) + 1) if layers is None else layers
    return [(parse_layers(layer, L).numbers[0], parse_layers(layer, M).numbers[0]) for layer in every]


def vectors(embed: Embedder, texts: Sequence[str], layers: Sequence[int], pooling: str) -> list[np.ndarray]:
    """[N, H] for each layer, in one pass."""
    found = embed(texts, f"cat({','.join(map(str, layers))})", pooling)
    return [found.reshape(len(texts), len(layers), -1)[:, i] for i in range(len(layers))]


def changed(
    texts: Sequence[str], before: np.ndarray, after: np.ndarray, k: int, top: int, stopped: bool = False
) -> tuple[Pair, ...]:
    """Pairs that are neighbours in one model alone, those farthest apart in the other first; takes ranks_of's."""
    near, far = (before, after) if stopped else (after, before)
    i, j = np.nonzero(np.triu((near <= k) & (far > k), 1))
    order = np.argsort(-far[i, j], kind="stable")[:top]
    return tuple(
        Pair(texts[a], texts[b], int(before[a, b]), int(after[a, b])) for a, b in zip(i[order], j[order], strict=True)
    )
