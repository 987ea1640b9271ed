"""What a task is, for whoever trains, measures or predicts: loop.py knows no more of it than stands here.

classify.py (texts and pairs), tag.py (words), answer.py (spans) and choose.py (one of several) have their Tasks. A
file is read into examples; each becomes one feature, a row of ids, or several where a long text is cut into windows;
features become batches; and what the model says of all features of an example becomes its prediction.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from minialbert.tokenizers import Tokenizer

TASK = "minialbert_task"  # the key of config.json that has the settings of a task


ANSWERS = ("label", "labels", "score", "tags", "answer")  # the field of a prediction that says what, not how sure

CUT = "texts are longer than {} pieces and lose their end (--max-length)"  # of Task.counts


@dataclass(frozen=True)
class Feature:
    """One row for the model, without padding."""

    ids: list[int]  # with [CLS] and [SEP]
    types: list[int]
    example: int  # of which example, counted from 0
    target: Any = None  # what the loss compares with, as the task's `targets` wants it; None: no label is known
    more: Any = None  # what the task needs to read an answer: offsets, where the context begins, ...


class Task(ABC):
    """A task with its labels and settings; `settings` go into config.json, so that a trained model knows its task.

    After `features`, `counts` says what these lost or could not use, in words that follow the number; after `tune`,
    `tuned` what was set, for the report.
    """

    name: ClassVar[str]
    goal: ClassVar[str]  # the score that says which epoch and which seed is best; higher is better
    head: ClassVar[type[nn.Module]]  # the class of model

    def __init__(self, labels: Sequence[str] = (), max_length: int = 128):
        self.labels, self.max_length = tuple(labels), max_length
        self.counts: Counter[str] = Counter()
        self.tuned: dict[str, Any] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """What `tasks.task_of` makes this task from again, besides the labels."""
        return {"task": self.name, "max_length": self.max_length}

    @abstractmethod
    def changes(self) -> dict[str, Any]:
        """Fields of the configuration that belong to the task: num_labels, id2label, problem_type."""

    @abstractmethod
    def features(self, tokenizer: Tokenizer, examples: Sequence[Any]) -> list[Feature]:
        """Every example as one row or several, in order. Raises InputError for what cannot be one."""

    @abstractmethod
    def targets(self, features: Sequence[Feature], length: int) -> dict[str, Tensor]:
        """The labels of a batch, under the names that the head's forward gives them; rows are padded to `length`."""

    def batch(self, features: Sequence[Feature], pad_id: int) -> dict[str, Tensor]:
        """The arguments of a forward call: ids [B, T], mask, token types, and labels where they are known."""
        T = max(len(feature.ids) for feature in features)
        ids, types = torch.full((len(features), T), pad_id), torch.zeros(len(features), T, dtype=torch.long)
        mask = torch.zeros(len(features), T, dtype=torch.long)
        for row, feature in enumerate(features):
            n = len(feature.ids)
            ids[row, :n], types[row, :n], mask[row, :n] = torch.tensor(feature.ids), torch.tensor(feature.types), 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        known = all(feature.target is not None for feature in features)
        return inputs | (self.targets(features, T) if known else {})

    def start(self, model: nn.Module, train: Sequence[Any]) -> None:  # noqa: B027  # most tasks have nothing to do
        """Where a new head begins, if labels can tell; called once, before training."""

    def counted(self, batch: dict[str, Tensor]) -> float:
        """How many things the loss of a batch is a mean over, or the sum of their weights."""
        return len(batch["input_ids"])

    def loss(self, output: Any, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch, a mean over `counted` things; the head's own unless a task weighs its classes."""
        return output.loss

    @abstractmethod
    def read(self, output: Any, features: Sequence[Feature]) -> list[np.ndarray]:
        """What the model says of each feature, in float32, padding cut off."""

    @abstractmethod
    def predictions(
        self, examples: Sequence[Any], features: Sequence[Feature], said: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """One prediction an example, ready for JSON: a field of ANSWERS, probabilities, and what else there is."""

    @abstractmethod
    def scores(self, examples: Sequence[Any], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """How good predictions are for labelled examples; `goal` is one of them. Shares are from 0 to 1."""

    def tune(self, examples: Sequence[Any], predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sets what a task decides by, a threshold say, to what is best on dev; the predictions, decided anew."""
        return list(predictions)

    @abstractmethod
    def floor(self, train: Sequence[Any], dev: Sequence[Any]) -> float:
        """The goal that an answer without looking would reach on dev: the commonest label of train, say."""
