"""What each layer knows of a task: a linear model on its vectors, for every layer and pooling, beside what needs none.

A probe is fitted on the vectors as they are (linear.py); the model does not learn. Labelled files are read by
finetune/data.py, figures are those of finetune/metrics.py, the picture is in plots.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from minialbert.embed import Embedder
from minialbert.embed.pool import parse_layers
from minialbert.errors import InputError
from minialbert.finetune.data import Data, held_out, leakage
from minialbert.finetune.metrics import METRICS, cosines, measure, spearman, standard_error
from minialbert.tools.linear import fit_well, marks_of, standardized, tf_idf, words_of

POOLINGS = ("mean", "cls", "max", "pooler")
FEW = 30  # examples; the error of a figure of fewer is no more than a hint


# ---- texts to numbers, with a model and without ----


def sides(embed: Embedder, data: Data, layers: Sequence[int], pooling: str) -> list[np.ndarray]:
    """The vectors of the texts, and of the second ones of pairs: one or two arrays [N, layers, H], in one pass."""
    texts = [[example.text for example in data.examples]]
    if data.paired:
        texts.append([str(example.pair) for example in data.examples])
    once = list(dict.fromkeys(text for side in texts for text in side))
    row = {text: number for number, text in enumerate(once)}
    vectors = embed(once, f"cat({','.join(map(str, layers))})", pooling, progress=False).reshape(
        len(once), len(layers), -1
    )
    return [vectors[[row[text] for text in side]] for side in texts]


def features(vectors: Sequence[np.ndarray], task: str) -> Tensor:
    """What a probe sees of one layer: u; of a pair [u, v, |u - v|, u * v]; for its similarity, which has no order,
    [|u - v|, u * v] of u and v made of length 1. Float64 [N, D]."""
    if len(vectors) == 1:
        return torch.from_numpy(vectors[0]).double()
    u, v = (torch.from_numpy(x).double() for x in vectors)
    if task == "regression":
        u, v = functional.normalize(u), functional.normalize(v)
        return torch.cat([(u - v).abs(), u * v], 1)
    return torch.cat([u, v, (u - v).abs(), u * v], 1)


def targets_of(train: Data, dev: Data) -> tuple[Tensor, Tensor]:
    """The labels as `fit` takes them, float64 [N, C]; numbers are standardized, which moves no correlation."""
    if train.task == "classification":
        names = torch.eye(len(train.labels), dtype=torch.float64)
        return names[train.targets], names[dev.targets]
    y, z = (torch.tensor(data.targets, dtype=torch.float64).reshape(len(data), -1) for data in (train, dev))
    return (y, z) if train.task == "multilabel" else ((y - y.mean()) / y.std(), (z - y.mean()) / y.std())


# ---- the whole ----


class Cell(NamedTuple):
    """What one layer and pooling gives on the examples it was not fitted on: both METRICS of the task.

    Also the strength that was chosen, and for scored pairs the Spearman of plain cosines, for which nothing is fitted.
    """

    first: float
    second: float
    strength: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class Probes:
    """A table of Cells: `cells[pooling]` has one for each of `layers`; `baselines` need no model."""

    task: str
    train: str
    dev: str
    examples: int
    shared: int
    layers: tuple[int, ...]
    cells: dict[str, list[Cell]]
    baselines: dict[str, Cell]

    @property
    def metrics(self) -> tuple[str, str]:
        return METRICS[self.task]

    def best(self, which: str = "first") -> tuple[str, int]:
        """The pooling and the layer that do best by one of a Cell's figures; of equals the first."""
        every = [(pooling, i) for pooling, column in self.cells.items() for i in range(len(column))]
        pooling, i = max(every, key=lambda at: getattr(self.cells[at[0]][at[1]], which))
        return pooling, self.layers[i]

    def error(self, cell: Cell) -> float | None:
        """The standard error of the first figure; None where there is no formula, or it says 0: that none can be."""
        return standard_error(self.metrics[0], cell.first, self.examples) or None

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON can hold it."""

        def told(cell: Cell) -> dict[str, float]:
            named = {**dict(zip(self.metrics, cell, strict=False)), "strength": cell.strength, "cosine": cell.cosine}
            named["error"] = self.error(cell)
            return {name.replace(" ", "_").lower(): value for name, value in named.items() if value is not None}

        pooling, layer = self.best()
        return {
            "task": self.task, "train": self.train, "dev": self.dev, "examples": self.examples, "shared": self.shared,
            "best": {"pooling": pooling, "layer": layer},
            "probes": [
                {"pooling": pooling, "layer": layer, **told(cell)}
                for pooling, column in self.cells.items() for layer, cell in zip(self.layers, column, strict=True)
            ],
            "baselines": {name: told(cell) for name, cell in self.baselines.items()},
        }  # fmt: skip

    def lines(self) -> list[str]:
        """The table as text: a row a layer, a block of columns a pooling, * at the best, baselines below."""
        paired = any(cell.cosine is not None for column in self.cells.values() for cell in column)
        best, top = self.best(), self.best("cosine") if paired else None
        error = any(self.error(cell) for column in (*self.cells.values(), self.baselines.values()) for cell in column)
        names = f"  {self.metrics[0]:>8}{' ± error' * error:8}{self.metrics[1]:>10}" + "    cosine" * paired

        def told(cell: Cell, mark: str = " ", other: str = " ") -> str:
            around = self.error(cell)
            more = "" if around is None else f" ± {around:.3f}"
            cosine = "" if not paired else f"{'':10}" if cell.cosine is None else f"{other + f'{cell.cosine:.3f}':>10}"
            return f"{mark + f'{cell.first:.3f}':>10}{more:8}{cell.second:10.3f}{cosine}"

        out = [f"{self.examples:,} examples of {self.dev}; fitted on {self.train}"]
        out.append(f"{'':<15}" + "".join(f"  {pooling:>8}{'':{len(names) - 10}}" for pooling in self.cells))
        out.append(f"{'layer':<15}" + names * len(self.cells))
        for i, layer in enumerate(self.layers):
            places = [(pooling, layer) for pooling in self.cells]
            row = [told(self.cells[at[0]][i], " *"[at == best], " *"[at == top]) for at in places]
            out.append(f"{layer:<15}" + "".join(row))
        out += [f"{name:<15}{told(cell)}" for name, cell in self.baselines.items()]
        if self.examples < FEW:
            out.append(f"n = {self.examples}: too few to tell one layer from another")
        tried = len(self.layers) * len(self.cells)
        if tried > 1:
            out.append(f"* the best of {tried}, chosen on these very examples, so a little flattered")
        return [line.rstrip() for line in out]


def check_enough(train: Data, dev: Data) -> None:
    """Raises InputError when there is too little to fit, to choose a strength on, or to measure."""
    for data in (train, dev):
        if any(example.label is None for example in data.examples):
            raise InputError(f"{data.path}: has no labels, and a probe is fitted to them and measured by them")
    if len({example.key for example in train.examples}) < 10:
        raise InputError(f"{train.path}: fewer than 10 different texts; a probe needs more")
    if len({example.label for example in train.examples}) < 2:
        one = train.examples[0].label
        raise InputError(f"{train.path}: every example has the label {one!r}; there is nothing to tell apart")


def baselines(train: Data, dev: Data, held: Tensor) -> dict[str, Cell]:
    """What needs no model: always the commonest label, and a probe on a bag of words."""
    y, z = targets_of(train, dev)
    found = {}
    if train.task != "regression":
        always = np.tile(np.eye(y.shape[1])[int(y.sum(0).argmax())] - 0.5, (len(dev), 1))  # [N, C]
        found["commonest label"] = Cell(*measure(train.task, always, z.numpy()))
    bags = [[marks_of(example) for example in data.examples] for data in (train, dev)]
    a, b = tf_idf(bags[0], *bags)
    model, strength = fit_well(a, y, train.task, held)
    cosine = None
    if train.task == "regression" and dev.paired:
        known = [words_of(text) for e in train.examples for text in (e.text, str(e.pair))]
        first, second = ([words_of(text) for text in side] for side in zip(*dev.inputs, strict=True))
        u, v = tf_idf(known, first, second)
        cosine = spearman((u * v).sum(1).to_dense().numpy(), z[:, 0].numpy())
    found["bag of words"] = Cell(*measure(train.task, model(b).numpy(), z.numpy()), strength, cosine)
    return found


def probe(
    embed: Embedder, train: Data, dev: Data, layers: str | Sequence[int] = "all",
    poolings: Sequence[str] = ("mean", "cls"), progress: bool | None = None,
) -> Probes:  # fmt: skip
    """A linear model on the vectors of each layer and pooling, fitted on `train`, measured on `dev`.

    layers: "all", or numbers, 0 the input after the projection and L the output. poolings: mean, cls, max, pooler.
    Vectors are standardized by `train`; the strength of the penalty is chosen on a fifth of `train`, never on `dev`.
    Read `dev` with like=train. Raises InputError, and what the Embedder raises.
    """
    L = embed.model.config.num_visits
    numbers = parse_layers("all" if layers == "all" else f"cat({','.join(map(str, layers))})", L).numbers
    numbers = tuple(dict.fromkeys(numbers))
    if wrong := [pooling for pooling in poolings if pooling not in POOLINGS]:
        raise InputError(f"pooling {wrong[0]!r}: a probe takes {', '.join(POOLINGS)}")
    if not poolings or train.task != dev.task or train.labels != dev.labels or train.paired != dev.paired:
        raise InputError(f"{train.path} and {dev.path} are not alike: read the second with like= the first")
    check_enough(train, dev)
    held = torch.tensor(held_out(train))
    y, z = targets_of(train, dev)
    cells: dict[str, list[Cell]] = {pooling: [] for pooling in poolings}
    bar = tqdm(total=len(numbers) * len(cells), unit=" probes", disable=None if progress is None else not progress)
    with bar:
        for pooling, column in cells.items():
            bar.set_description(f"{pooling}, texts to vectors")
            known, new = sides(embed, train, numbers, pooling), sides(embed, dev, numbers, pooling)
            bar.set_description(f"{pooling}, fitting")
            for i in range(len(numbers)):
                ours, others = [side[:, i] for side in known], [side[:, i] for side in new]
                a, b = standardized(features(ours, train.task), features(others, train.task))
                model, strength = fit_well(a, y, train.task, held)
                scored = train.task == "regression" and dev.paired
                cosine = spearman(cosines(*others), z[:, 0].numpy()) if scored else None
                column.append(Cell(*measure(train.task, model(b).numpy(), z.numpy()), strength, cosine))
                bar.update()
    shared = leakage(train, dev).shared
    return Probes(train.task, train.path, dev.path, len(dev), shared, numbers, cells, baselines(train, dev, held))
