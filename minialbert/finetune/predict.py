"""What a model says of features, example by example: used while it trains, to measure it, and to predict with it.

A model knows its task: the directory's config.json has it under "minialbert_task" (tasks.py reads it), so nothing but
the directory and the data is needed here.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import nn

from minialbert.finetune.task import ANSWERS, Feature, Task
from minialbert.tokenizers import Tokenizer

CHUNK = 1000  # examples that `predict` holds at a time


def said_of(
    model: nn.Module, task: Task, features: Sequence[Feature], pad_id: int, tokens: int = 4096,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> list[np.ndarray]:  # fmt: skip
    """What the model says of each feature, in the order given; rows of like length share a batch of about `tokens`.

    Dropout is off meanwhile; the model is left in the mode it was in.
    """
    said: list[Any] = [None] * len(features)
    order = sorted(range(len(features)), key=lambda number: len(features[number].ids))
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    try:
        while order:
            rows = max(1, tokens // len(features[order[-1]].ids))  # the longest first: what does not fit fails early
            numbers, order = order[-rows:], order[:-rows]
            some = [features[number] for number in numbers]
            inputs = {name: x.to(device) for name, x in task.batch(some, pad_id).items() if name in INPUTS}
            with torch.inference_mode(), autocast():
                output = model(**inputs)
            for number, answer in zip(numbers, task.read(output, some), strict=True):
                said[number] = answer
    finally:
        model.train(training)
    return said


INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # without labels: nothing is learnt here


def predictions_of(
    model: nn.Module, tokenizer: Tokenizer, task: Task, examples: Sequence[Any], tokens: int = 4096
) -> list[dict[str, Any]]:
    """One prediction an example, in their order."""
    features = task.features(tokenizer, examples)
    return task.predictions(examples, features, said_of(model, task, features, tokenizer.pad_id, tokens))


def predict(
    model: nn.Module, tokenizer: Tokenizer, task: Task, examples: Iterable[Any], tokens: int = 4096,
    lost: Counter[str] | None = None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The same as a stream of any length, a thousand examples at a time; their `task.counts` are added up in `lost`."""
    examples = iter(examples)
    while chunk := list(islice(examples, CHUNK)):
        predictions = predictions_of(model, tokenizer, task, chunk, tokens)
        if lost is not None:
            lost.update(task.counts)
        yield from predictions


def evaluate(
    model: nn.Module, tokenizer: Tokenizer, task: Task, examples: Sequence[Any], tokens: int = 4096
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How good the model's predictions are for labelled examples, and the predictions."""
    predictions = predictions_of(model, tokenizer, task, examples, tokens)
    return task.scores(examples, predictions), predictions


def commonest(predictions: Sequence[Mapping[str, Any]]) -> float:
    """The share of the commonest answer among all, tags counted word by word: 1 where the model tells nothing apart.

    Numbers are the same here where two digits are.
    """
    answers: Counter[str] = Counter()
    for prediction in predictions:
        said = next(prediction[field] for field in ANSWERS if field in prediction)
        answers.update(said if "tags" in prediction else [f"{said:.2g}" if isinstance(said, float) else str(said)])
    return max(answers.values(), default=0) / max(answers.total(), 1)
