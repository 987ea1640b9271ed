"""How good answers are: accuracy, F1, correlations, and how far such a figure would move with other examples.

Numbers alone: arrays in, floats out, no model and no torch. classify.py and choose.py say which figures a task has. All
are defined where a quotient would be 0 / 0: precision of a label that is never the answer, recall of one that is never
true, a correlation with what never varies are 0. `by_label` counts both beside them, so that such a 0 can be told from
an earned one.
"""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

METRICS = {
    "classification": ("accuracy", "macro F1"), "multilabel": ("micro F1", "macro F1"),
    "regression": ("Spearman", "Pearson"),
}  # fmt: skip
NAME_WIDTH = 34  # of a label in `report`; with five columns of numbers it is 80


# ---- one answer of several, any number of them ----


class Tally(NamedTuple):
    """Three counts for each of C labels, int [C]: right answers, answers, and how often the label was true."""

    hits: np.ndarray
    answered: np.ndarray
    true: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """bool [C]: the labels that were the answer or true at least once."""
        return self.answered + self.true > 0

    @property
    def precision(self) -> np.ndarray:
        """Float [C]: how many of its answers are right; 0 for a label that was never the answer."""
        return self.hits / np.maximum(self.answered, 1)

    @property
    def recall(self) -> np.ndarray:
        """Float [C]: how many of its examples are found; 0 for a label that was never true."""
        return self.hits / np.maximum(self.true, 1)

    @property
    def f1(self) -> np.ndarray:
        """Float [C]: the harmonic mean of both, 2 hits / (answered + true); 0 for a label that is not there."""
        return 2 * self.hits / np.maximum(self.answered + self.true, 1)


def confusion(truth: Sequence[int] | np.ndarray, answers: Sequence[int] | np.ndarray, C: int) -> np.ndarray:
    """How often each label was taken for each: int [C, C], the row is the true one, the column the answer.

    >>> confusion([0, 0, 2], [0, 1, 2], 3).tolist()
    [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    """
    table = np.zeros((C, C), dtype=np.int64)
    np.add.at(table, (np.asarray(truth, dtype=np.int64), np.asarray(answers, dtype=np.int64)), 1)
    return table


def tally(answers: np.ndarray, truth: np.ndarray) -> Tally:
    """From any number of labels an example, both bool [N, C]."""
    return Tally((answers & truth).sum(0), answers.sum(0), truth.sum(0))


def tally_of(table: np.ndarray) -> Tally:
    """From one label an example: a confusion matrix [C, C]."""
    return Tally(table.diagonal(), table.sum(0), table.sum(1))


def accuracy(truth: Sequence[Any] | np.ndarray, answers: Sequence[Any] | np.ndarray) -> float:
    """The share of answers that are right; 0 for no examples."""
    return float(np.mean(np.asarray(truth) == np.asarray(answers))) if len(truth) else 0.0


def exact_match(answers: np.ndarray, truth: np.ndarray) -> float:
    """The share of examples with exactly the right set of labels, both bool [N, C]; an empty set can be right too."""
    return float((answers == truth).all(1).mean()) if len(truth) else 0.0


def averages(counts: Tally) -> dict[str, float]:
    """F1 in three means: micro over all answers together, macro over labels, weighted by how often each is true.

    Macro F1 is over the labels that occur in answers or truth, as in scikit-learn, so it does not depend on how many
    more there could have been. With one label an example micro F1 is the accuracy.
    """
    hits, either, there = counts.hits.sum(), (counts.answered + counts.true).sum(), counts.there
    return {
        "micro_f1": float(2 * hits / max(either, 1)),
        "macro_f1": float(counts.f1[there].mean()) if there.any() else 0.0,
        "weighted_f1": float((counts.f1 * counts.true).sum() / max(counts.true.sum(), 1)),
    }


def f1(answers: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Micro and macro F1 of `averages`, from bool [N, C].

    >>> f1(np.array([[True, False], [True, False]]), np.array([[True, False], [False, True]]))
    (0.5, 0.3333333333333333)
    """
    means = averages(tally(answers, truth))
    return means["micro_f1"], means["macro_f1"]


def matthews(table: np.ndarray) -> float:
    """Matthews correlation of a confusion matrix [C, C]: 1 all right, 0 no better than chance or not defined.

    For two labels it is Matthews' of 1975, for more R_K of Gorodkin (2004), which is the same there.
    """
    total, hits = float(table.sum()), float(table.trace())
    true, answered = table.sum(1).astype(float), table.sum(0).astype(float)
    spread = math.sqrt(max(total**2 - answered @ answered, 0) * max(total**2 - true @ true, 0))
    return float((hits * total - true @ answered) / spread) if spread else 0.0


def confused(table: np.ndarray, names: Sequence[str], most: int = 5) -> list[tuple[str, str, int]]:
    """What is taken for what most often: (true, answer, times), the commonest first."""
    wrong = table * (1 - np.eye(len(table), dtype=table.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    places = [divmod(int(place), len(table)) for place in order]
    return [(names[i], names[j], int(wrong[i, j])) for i, j in places if wrong[i, j]]


# ---- label by label, for people ----


def by_label(names: Sequence[str], counts: Tally) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each label as JSON can hold them; support: how often true, answered: how often said.

    With support 0 recall means nothing, with answered 0 precision means nothing; they are 0.
    """
    columns = zip(names, *(x.tolist() for x in (counts.precision, counts.recall, counts.f1)), strict=True)
    return {
        name: {
            "precision": p,
            "recall": r,
            "f1": f,
            "support": int(counts.true[i]),
            "answered": int(counts.answered[i]),
        }
        for i, (name, p, r, f) in enumerate(columns)
    }


def report(labels: Mapping[str, Mapping[str, Any]], most: int = 20) -> list[str]:
    """What `by_label` gives as a table 80 columns wide.

    In the order given; of more than `most` labels the best and the worst by F1. "-" stands where a figure means
    nothing; labels that are not there, neither true nor answered, are left out and counted.
    """
    rows = [(name, row) for name, row in labels.items() if row["support"] + row["answered"]]
    absent, hidden = len(labels) - len(rows), 0
    shown = rows
    if len(rows) > most:
        shown = sorted(rows, key=lambda row: -row[1]["f1"])
        hidden, shown = len(rows) - most, shown[: most // 2] + shown[len(rows) - (most - most // 2) :]
    out = [f"{'label':<{NAME_WIDTH}}{'precision':>10}{'recall':>9}{'F1':>8}{'support':>9}{'answered':>10}"]
    for place, (name, row) in enumerate(shown):
        if hidden and place == most // 2:
            out.append(f"... {hidden} more in between ...")
        precision = f"{row['precision']:.3f}" if row["answered"] else "-"
        recall = f"{row['recall']:.3f}" if row["support"] else "-"
        out.append(f"{fitted(name)}{precision:>10}{recall:>9}{row['f1']:8.3f}{row['support']:9}{row['answered']:10}")
    support, answered = (sum(row[key] for _, row in rows) for key in ("support", "answered"))
    for title, weights in (("mean (macro)", [1] * len(rows)), ("weighted mean", [row["support"] for _, row in rows])):
        total = max(sum(weights), 1)
        means = [
            sum(weight * row[key] for weight, (_, row) in zip(weights, rows, strict=True)) / total
            for key in ("precision", "recall", "f1")
        ]
        out.append(f"{title:<{NAME_WIDTH}}{means[0]:10.3f}{means[1]:9.3f}{means[2]:8.3f}{support:9}{answered:10}")
    return out + ([f"{absent} more neither true nor answered here"] if absent else [])


def fitted(name: str, width: int = NAME_WIDTH) -> str:
    """A label in exactly `width` columns of a terminal, on one line; one that is too long loses its middle.

    >>> fitted("a label that is much too long", 16)
    'a label ... long'
    """
    name = "".join(c if c.isprintable() else "?" for c in " ".join(name.split()))
    if columns_of(name) > width:
        head, tail = name[: width - width // 3 - 3], name[-(width // 3) :]
        while columns_of(head) + columns_of(tail) + 3 > width:
            head, tail = (head[:-1], tail) if columns_of(head) >= columns_of(tail) else (head, tail[1:])
        name = f"{head}...{tail}"
    return name + " " * (width - columns_of(name))


def columns_of(text: Iterable[str]) -> int:
    """How wide a terminal shows it: Chinese signs are two columns, accents that sit on a letter none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


# ---- numbers ----


def softmax(x: np.ndarray) -> np.ndarray:
    """Probabilities [..., C] from logits, in float64."""
    x = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation; 0 when one of the two never varies."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # squares of very large or small numbers would be inf or 0
    return round(float(a @ b / math.sqrt((a @ a) * (b @ b))), 12)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of the ranks; equal values share the mean of theirs.

    >>> spearman(np.array([1.0, 2.0, 2.0, 9.0]), np.array([-5.0, 0.0, 0.0, 1.0]))
    1.0
    """
    return pearson(ranks(a), ranks(b))


def ranks(x: np.ndarray) -> np.ndarray:
    """From 1 on.

    >>> ranks(np.array([7, 5, 7])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of vectors [N, H] in pairs."""
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)


# ---- for any of the three kinds of label ----


def measure(task: str, scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Both METRICS of a task, from scores [N, C] and what is true [N, C].

    Classification: the highest score is the answer, and truth has its highest number at the label. Multilabel: every
    score above 0 is an answer, and truth is 1 or 0. Regression: C is 1.
    """
    if task == "regression":
        return spearman(scores[:, 0], truth[:, 0]), pearson(scores[:, 0], truth[:, 0])
    if task == "multilabel":
        return f1(scores > 0, truth > 0)
    table = confusion(truth.argmax(1), scores.argmax(1), scores.shape[1])
    return float(table.trace() / max(table.sum(), 1)), averages(tally_of(table))["macro_f1"]


def standard_error(metric: str, value: float, n: int) -> float | None:
    """How far a figure from n examples would move with other examples; None where there is no short formula.

    Accuracy: sqrt(p (1 - p) / n). Spearman: (1 - r^2) sqrt((1 + r^2 / 2) / (n - 3)), that of Bonett and Wright (2000)
    for Fisher's z, carried back.
    """
    if metric == "accuracy":
        return math.sqrt(value * (1 - value) / n)
    if metric == "Spearman" and n > 3:
        return (1 - value**2) * math.sqrt((1 + value**2 / 2) / (n - 3))
    return None
