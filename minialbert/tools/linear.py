"""Linear models, and bags of words as their features: what a probe is made of, with no ALBERT in it. See probe.py."""

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from minialbert.finetune.data import Example
from minialbert.finetune.metrics import measure

STRENGTHS = tuple(10.0**-power for power in range(-2, 8))  # of the penalty, strong to weak


class Linear(NamedTuple):
    """What fit finds: weights [D, C], bias [C]."""

    weights: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weights + self.bias  # [N, C]


def loss_of(task: str, scores: Tensor, y: Tensor) -> Tensor:
    """The mean over examples: cross-entropy of a softmax, or of a sigmoid for each label, or half the squared error."""
    if task == "classification":
        return functional.cross_entropy(scores, y)
    if task == "multilabel":
        return functional.binary_cross_entropy_with_logits(scores, y, reduction="sum") / len(y)
    return (scores - y).square().sum() / (2 * len(y))


def fit(x: Tensor, y: Tensor, task: str, strength: float, start: Linear | None = None, steps: int = 200) -> Linear:
    """The linear model with the least loss + strength / 2 * |weights|^2, found by L-BFGS from `start` (or zeros).

    x: float64 [N, D], dense or sparse; y: float64 [N, C], for classification 1 at the label and 0 elsewhere. The bias
    is not penalised, so for regression this is ridge: weights = (X'X + N strength I)^-1 X'y of centred X and y.
    """
    if start is None:
        start = Linear(torch.zeros(x.shape[1], y.shape[1], dtype=x.dtype), torch.zeros(y.shape[1], dtype=x.dtype))
    found = Linear(*(part.clone().requires_grad_() for part in start))
    search = torch.optim.LBFGS(
        found, max_iter=steps, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        search.zero_grad()
        loss = loss_of(task, found(x), y) + strength / 2 * found.weights.square().sum()
        loss.backward()
        return loss

    search.step(closure)
    return Linear(*(part.detach() for part in found))


def fit_well(x: Tensor, y: Tensor, task: str, held: Tensor) -> tuple[Linear, float]:
    """The same with the strength that does best on `held` [N], a share of the examples, when fitted on the others.

    The strengths are tried from the strongest on, each search going on from the last, until two in a row do worse.
    """
    inside, outside = (~held).nonzero()[:, 0], held.nonzero()[:, 0]
    x_in, x_out = x.index_select(0, inside), x.index_select(0, outside)
    tried: list[tuple[float, float, Linear]] = []
    model = None
    for strength in STRENGTHS:
        model = fit(x_in, y[inside], task, strength, model, steps=30)
        tried.append((measure(task, model(x_out).numpy(), y[outside].numpy())[0], strength, model))
        best = max(tried, key=lambda one: one[0])  # of equals the strongest
        if len(tried) > 2 and tried[-1][0] < best[0] > tried[-2][0]:
            break
    _, strength, model = best
    return fit(x, y, task, strength, model, steps=100), strength


def standardized(train: Tensor, dev: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the mean of each column of `train` taken off and over its deviation; [N, D].

    A column that varies by no more than float32 rounds becomes 0, as all of them for [CLS] before the first layer.
    """
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = torch.where(deviation > 1e-6 * train.square().mean().sqrt(), 1 / deviation, 0)
    return (train - mean) * scale, (dev - mean) * scale


# ---- bags of words ----


def words_of(text: str) -> list[str]:
    """The words, in small letters.

    >>> words_of("It's 5 p.m.")
    ['it', 's', '5', 'p', 'm']
    """
    return re.findall(r"[^\W_]+", text.lower())


def marks_of(example: Example) -> list[Hashable]:
    """What a bag of words holds: words; of a pair each word with where it is, and whether it is in both."""
    if example.pair is None:
        return list(words_of(example.text))
    first, second = words_of(example.text), words_of(example.pair)
    shared = set(first) & set(second)
    each = [(side, word) for side, words in ((1, first), (2, second)) for word in words]
    return each + [("both" if word in shared else "one", word) for word in sorted({*first, *second})]


def tf_idf(known: Iterable[Iterable[Hashable]], *bags: Iterable[Iterable[Hashable]]) -> list[Tensor]:
    """Each of `bags` as a sparse [N, words], rows of length 1: counts times log((1 + n) / (1 + n with the word)) + 1.

    The words, and in how many of the n bags each is, come from `known`; other words are left out.
    """
    known = [Counter(bag) for bag in known]
    having = Counter(word for counts in known for word in counts)
    column = {word: number for number, word in enumerate(having)}
    idf = {word: math.log((1 + len(known)) / (1 + n)) + 1 for word, n in having.items()}
    out = []
    for counted in ([Counter(bag) for bag in some] for some in bags):
        cells = [
            (row, column[word], n * idf[word]) for row, counts in enumerate(counted) for word, n in counts.items()
            if word in column
        ]  # fmt: skip
        where = torch.tensor([cell[:2] for cell in cells], dtype=torch.long).reshape(-1, 2).T
        values = torch.tensor([cell[2] for cell in cells], dtype=torch.float64)
        squares = torch.zeros(len(counted), dtype=torch.float64).index_add(0, where[0], values**2)
        size = (len(counted), max(1, len(column)))
        values = values / squares.sqrt()[where[0]]
        out.append(torch.sparse_coo_tensor(where, values, size, check_invariants=True).coalesce())
    return out
