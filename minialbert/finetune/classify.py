"""One answer for a text or a pair of texts: one label, any number of labels, or a number; a Task each.

data.py reads the files, the head is AlbertForSequenceClassification, the figures are those of metrics.py; choose.py has
one of several texts. What the head learns is the usual: cross entropy, binary cross entropy, squared error.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from minialbert.errors import InputError
from minialbert.finetune.data import Example
from minialbert.finetune.metrics import (
    accuracy,
    averages,
    by_label,
    confusion,
    exact_match,
    matthews,
    pearson,
    softmax,
    spearman,
    tally,
    tally_of,
)
from minialbert.finetune.task import CUT, Feature, Task
from minialbert.heads import AlbertForSequenceClassification
from minialbert.tokenizers import Tokenizer


class TextTask(Task):
    """What the three share: a text is [CLS] A [SEP], a pair [CLS] A [SEP] B [SEP] with token types 1 from B on.

    paired: whether it is for pairs or for single texts, and then for nothing else; None: not known, both are taken.
    """

    head = AlbertForSequenceClassification

    def __init__(self, labels: Sequence[str] = (), max_length: int = 128, paired: bool | None = None):
        super().__init__(labels, max_length)
        self.paired = paired

    @property
    def cut(self) -> int:
        """How many examples of the last call of `features` were longer than max_length."""
        return self.counts.total()

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | ({} if self.paired is None else {"paired": self.paired})

    def features(self, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Feature]:
        """A row an example. What is longer than max_length loses its end, a pair that of the longer text first.

        Raises InputError for a label that the task does not have, a pair for single texts, a text for pairs.
        """
        for example in examples:
            self.check_kind(example)
        inputs = [example.text if example.pair is None else (example.text, example.pair) for example in examples]
        rows = tokenizer(inputs, padding=False, truncation=True, max_length=self.max_length)
        self.counts = Counter({CUT.format(self.max_length): sum(cut > 0 for cut in rows.cut)})
        targets = [None if example.label is None else self.target(example) for example in examples]
        told = zip(rows.input_ids, rows.token_type_ids, targets, strict=True)
        return [Feature(ids, types, number, target) for number, (ids, types, target) in enumerate(told)]

    def check_kind(self, example: Example) -> None:
        """Raises InputError for a pair where single texts were learnt, and the reverse."""
        if self.paired is True and example.pair is None:
            raise InputError(f"text {example.line}: is a single text, the model was tuned on pairs; part two by a tab")
        if self.paired is False and example.pair is not None:
            advice = "leave the second out, or the tab that parts them"
            raise InputError(f"text {example.line}: is a pair, the model was tuned on single texts; {advice}")

    @abstractmethod
    def target(self, example: Example) -> Any:
        """The label of one example as numbers."""

    def targets(self, features: Sequence[Feature], length: int) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.target for feature in features])}

    def read(self, output: Any, features: Sequence[Feature]) -> list[np.ndarray]:
        """The logits [C] of each."""
        return list(output.logits.float().numpy(force=True))

    def place(self, name: str, example: Example) -> int:
        """The number of a label. Raises InputError where there is none."""
        if name not in self.labels:
            raise InputError(f'line {example.line}: "{name}" is not among the {len(self.labels)} labels of the task')
        return self.labels.index(name)

    def truth(self, examples: Sequence[Example]) -> np.ndarray:
        """The targets of all, to measure with. Raises InputError where one is missing."""
        if missing := [example for example in examples if example.label is None]:
            raise InputError(f"line {missing[0].line}: has no label, and nothing can be measured without")
        return np.array([self.target(example) for example in examples])

    def floor(self, train: Sequence[Example], dev: Sequence[Example]) -> float:
        """The goal on dev when every example gets the same answer, the one that does best on train."""
        return float(self.scores(dev, [self.blind(train)] * len(dev))[self.goal])

    @abstractmethod
    def blind(self, train: Sequence[Example]) -> dict[str, Any]:
        """The best prediction that does not look at the text."""


def distinct(labels: Sequence[str], at_least: int) -> None:
    """Raises InputError unless there are enough labels, each once."""
    if len(labels) < at_least:
        some = ", ".join(labels) or "none"
        raise InputError(f"labels: {some}; expected at least {at_least}, for there is nothing to tell apart")
    if twice := [name for name, times in Counter(labels).items() if times > 1]:
        raise InputError(f'labels: "{twice[0]}" is there twice, expected each once')


class ClassifyTask(TextTask):
    """Exactly one of C labels; {"label": name, "probabilities": {name: p}}, all of them, the likeliest first.

    weights: one number a label, in their order; the loss of an example then counts as much as its label, and the mean
    is over these weights, as in torch's cross_entropy(weight=...). `balanced` computes the usual ones.
    """

    name, goal = "classification", "accuracy"

    def __init__(
        self, labels: Sequence[str], max_length: int = 128, weights: Sequence[float] | None = None,
        paired: bool | None = None,
    ):  # fmt: skip
        super().__init__(labels, max_length, paired)
        distinct(self.labels, at_least=2)
        if weights is not None and (len(weights) != len(self.labels) or not all(0 <= w < np.inf for w in weights)):
            said = f"{len(weights)} numbers, the smallest {min(weights, default=0)}"
            raise InputError(f"weights: {said}; expected {len(self.labels)}, one a label, none negative")
        self.weights = None if weights is None else [float(weight) for weight in weights]

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | ({"weights": self.weights} if self.weights else {})

    def changes(self) -> dict[str, Any]:
        names = dict(enumerate(self.labels))
        return {"num_labels": len(names), "id2label": names, "problem_type": "single_label_classification"}

    def target(self, example: Example) -> int:
        return self.place(str(example.label), example)

    def weight_of(self, batch: dict[str, Tensor]) -> Tensor | None:
        """The weight of each example of a batch, [B]."""
        return None if self.weights is None else torch.tensor(self.weights)[batch["labels"].cpu()]

    def counted(self, batch: dict[str, Tensor]) -> float:
        """How many examples; with weights the sum of them, a float, by which the loss of the batch was divided."""
        weights = self.weight_of(batch)
        return super().counted(batch) if weights is None else float(weights.sum())

    def loss(self, output: Any, batch: dict[str, Tensor]) -> Tensor:
        if self.weights is None:
            return output.loss
        weight = torch.tensor(self.weights, dtype=output.logits.dtype, device=output.logits.device)
        labels = batch["labels"].to(output.logits.device)
        each = functional.cross_entropy(output.logits, labels, weight, reduction="sum")
        return each / weight[labels].sum().clamp(min=1e-12)  # nothing that counts is a loss of 0, not NaN

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], said: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        out = []
        for logits in said:
            p, order = softmax(logits), np.argsort(-logits, kind="stable")  # logits may differ where p does not
            out.append({
                "label": self.labels[order[0]],
                "probabilities": {self.labels[i]: float(p[i]) for i in order},
            })  # fmt: skip
        return out

    def scores(self, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """accuracy, macro_f1 and weighted_f1, matthews; each label's own under "labels"; the confusion matrix.

        A label that is not in these examples has no part in macro_f1 unless it was answered.
        """
        truth = self.truth(examples)
        answers = [self.labels.index(prediction["label"]) for prediction in predictions]
        table = confusion(truth, answers, len(self.labels))
        means = averages(tally_of(table))
        return {
            "examples": len(examples), "accuracy": accuracy(truth, answers),
            "macro_f1": means["macro_f1"], "weighted_f1": means["weighted_f1"], "matthews": matthews(table),
            "labels": by_label(self.labels, tally_of(table)), "confusion": table.tolist(),
        }  # fmt: skip

    def blind(self, train: Sequence[Example]) -> dict[str, Any]:
        """The commonest label; of equals the first."""
        return {"label": self.labels[int(np.bincount(self.truth(train), minlength=len(self.labels)).argmax())]}


def balanced(labels: Sequence[str], train: Sequence[Example]) -> list[float]:
    """Weights that make all labels count alike: N / (C n) for a label of n among N examples, C labels that occur.

    The same as scikit-learn's "balanced". A label without an example has weight 1: it cannot be learned, yet its loss
    on other data is a number.
    """
    counts = Counter(example.label for example in train)
    occur = sum(counts[name] > 0 for name in labels)
    return [len(train) / (occur * counts[name]) if counts[name] else 1.0 for name in labels]


class MultilabelTask(TextTask):
    """Any number of C labels, none too; {"labels": [...], "probabilities": {name: p}} in the order of the labels.

    A label is given when its probability is above the threshold.
    """

    name, goal = "multilabel", "micro_f1"

    def __init__(
        self, labels: Sequence[str], max_length: int = 128, threshold: float = 0.5, paired: bool | None = None
    ):
        super().__init__(labels, max_length, paired)
        distinct(self.labels, at_least=1)
        if not 0 <= threshold < 1:
            raise InputError(f"threshold={threshold} must be from 0 to below 1: a label is given above it")
        self.threshold = threshold

    @property
    def settings(self) -> dict[str, Any]:
        return super().settings | {"threshold": self.threshold}

    def changes(self) -> dict[str, Any]:
        names = dict(enumerate(self.labels))
        return {"num_labels": len(names), "id2label": names, "problem_type": "multi_label_classification"}

    def target(self, example: Example) -> list[float]:
        """A row of 0 and 1."""
        names: Any = example.label
        places = {self.place(name, example) for name in names}
        return [float(i in places) for i in range(len(self.labels))]

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], said: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        out = []
        for logits in said:
            p = softmax(np.stack([np.zeros_like(logits), logits], -1))[:, 1]  # the sigmoid, without overflow
            given = [name for name, one in zip(self.labels, p, strict=True) if one > self.threshold]
            out.append({"labels": given, "probabilities": dict(zip(self.labels, p.tolist(), strict=True))})
        return out

    def scores(self, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """micro_f1, macro_f1, weighted_f1, exact_match (the whole set is right); each label's own under "labels"."""
        truth = self.truth(examples).reshape(len(examples), len(self.labels)) > 0
        answers = np.array([[name in p["labels"] for name in self.labels] for p in predictions], dtype=bool)
        answers = answers.reshape(truth.shape)
        counts = tally(answers, truth)
        return {
            "examples": len(examples), **averages(counts), "exact_match": exact_match(answers, truth),
            "labels": by_label(self.labels, counts),
        }  # fmt: skip

    def blind(self, train: Sequence[Example]) -> dict[str, Any]:
        """Of all sets of labels the one with the best micro F1 when every example gets it: the k commonest."""
        counts = self.truth(train).reshape(len(train), len(self.labels)).sum(0)  # [C]
        order = np.argsort(-counts, kind="stable")
        hits, answered = counts[order].cumsum(), len(train) * np.arange(1, len(order) + 1)
        best = int((2 * hits / np.maximum(answered + counts.sum(), 1)).argmax()) + 1
        return {"labels": [self.labels[i] for i in order[:best]]}


class RegressTask(TextTask):
    """A number, in the unit of the labels; {"score": x}. The loss is the squared error."""

    name, goal = "regression", "spearman"

    def __init__(self, labels: Sequence[str] = (), max_length: int = 128, paired: bool | None = None):
        super().__init__((), max_length, paired)  # a number has no name; what the configuration calls it is left aside

    def start(self, model: nn.Module, train: Sequence[Example]) -> None:
        """Sets the bias of a new head to the mean of the labels, so that no step is spent on getting there.

        Else the first gradients all say "more", the encoder bends to it too, and small data has too few steps left for
        what tells texts apart. The head is as it always is afterwards: labels are not scaled, nothing is to be undone.
        """
        head: Any = model
        with torch.no_grad():
            head.classifier.bias.fill_(float(self.truth(train).mean()))

    def changes(self) -> dict[str, Any]:
        return {"num_labels": 1, "id2label": {0: "score"}, "problem_type": "regression"}

    def target(self, example: Example) -> float:
        number: Any = example.label
        return float(number)

    def predictions(
        self, examples: Sequence[Example], features: Sequence[Feature], said: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        return [{"score": float(number[0])} for number in said]

    def scores(self, examples: Sequence[Example], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """spearman, pearson (0 where one side never varies); mean_error, root_mean_square in the unit of the labels."""
        truth, answers = self.truth(examples), np.array([prediction["score"] for prediction in predictions])
        apart = np.abs(answers - truth)
        return {
            "examples": len(examples), "spearman": spearman(answers, truth), "pearson": pearson(answers, truth),
            "mean_error": float(apart.mean()), "root_mean_square": float(np.sqrt((apart**2).mean())),
        }  # fmt: skip

    def blind(self, train: Sequence[Example]) -> dict[str, Any]:
        """The mean, which no ranking comes from: its Spearman is 0."""
        return {"score": float(self.truth(train).mean())}


KINDS: dict[str, type[TextTask]] = {kind.name: kind for kind in (ClassifyTask, MultilabelTask, RegressTask)}
