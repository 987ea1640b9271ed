"""Which of several texts is the answer, as in RACE: the questions, their reader, and ChooseTask.

Each choice is read together with the question and what the question is about, and gets one number; the softmax over a
question's choices says which it is (AlbertForMultipleChoice). classify.py has one label of always the same ones.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from minialbert.errors import FileError, InputError
from minialbert.finetune.data import wrong_text
from minialbert.finetune.metrics import accuracy, softmax
from minialbert.finetune.rows import Problems, Row, json_rows, shown, text_of
from minialbert.finetune.task import CUT, Feature, Task
from minialbert.heads import AlbertForMultipleChoice
from minialbert.tokenizers import Tokenizer

SHAPE = '{"context": "...", "question": "...", "choices": ["...", "..."], "answer": 0}'


@dataclass(frozen=True)
class Question:
    """What is asked, of which context ("" for none), the choices, the place of the right one from 0 on, if known."""

    context: str
    question: str
    choices: tuple[str, ...]
    answer: int | None
    line: int

    @property
    def label(self) -> str | None:
        """The right choice itself; data.leakage compares it."""
        return None if self.answer is None else self.choices[self.answer]

    @property
    def key(self) -> tuple[str, ...]:
        """The same for questions that differ only in white space, capitals, and the order of their choices."""
        flat = [" ".join(text.lower().split()) for text in (self.context, self.question, *self.choices)]
        return (*flat[:2], *sorted(flat[2:]))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What is read of each choice: (context, question and choice); without a context (question, choice)."""
        if not self.context:
            return [(self.question, choice) for choice in self.choices]
        return [(self.context, f"{self.question} {choice}".strip()) for choice in self.choices]


@dataclass(frozen=True)
class Questions:
    """Those of one file; what `Data` of data.py is to labelled texts, and data.split and data.leakage take it too."""

    path: str
    examples: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.examples)

    def describe(self) -> str:
        """One line: what was found in the file."""
        counts = sorted({len(example.choices) for example in self.examples})
        choices = f"{counts[0]} choices each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} choices"
        return f"{self.path}: {len(self):,} questions, {choices}"


# ---- reading ----


def read_questions(path: str | Path, labelled: bool = True) -> Questions:
    """The questions of a .jsonl file (also .gz, .xz), one an object: SHAPE. Other fields are ignored.

    "context" may be left out or empty. "answer" is the place of the right choice, a number from 0 on, or its letter
    ("A" is the first), or the choice itself; one that could mean two different choices is wrong. With labelled=False it
    is not looked at. Questions may have different numbers of choices.

    Raises InputError, and FileError with the first thing that is wrong, its line, and how many more there are.
    """
    problems = Problems(path)
    rows = json_rows(text_of(path, (".jsonl",))[1], problems)
    examples = tuple(questions_of(rows, labelled, problems))
    problems.stop()
    if not examples:
        raise FileError(f"{path}: no question in it, expected an object a line: {SHAPE}")
    return Questions(str(path), examples)


def questions_of(rows: Sequence[Row], labelled: bool, problems: Problems) -> Iterator[Question]:
    """A question a row; a row in which something is wrong is left out and told."""
    for line, cells in rows:
        try:
            yield question_of(cells, labelled, line)
        except ValueError as error:
            problems.add(line, str(error))


def question_of(cells: dict[str, Any], labelled: bool, line: int) -> Question:
    """The question that an object stands for. Raises ValueError, whose words follow the line's number."""
    texts = {"context": ""} | cells
    needed = ("question", "choices", "answer") if labelled else ("question", "choices")
    if missing := [name for name in needed if texts.get(name) is None]:
        raise ValueError(f': no "{missing[0]}"; its fields: {", ".join(cells) or "none"}; expected {SHAPE}')
    for name in ("context", "question"):
        if said := wrong_text(texts[name]):
            raise ValueError(f', "{name}": {said}')
    choices = texts["choices"]
    if not isinstance(choices, list) or len(choices) < 2:
        raise ValueError(f', "choices": {shown(choices)} is no list of at least two texts')
    for number, choice in enumerate(choices):
        if said := wrong_text(choice):
            raise ValueError(f', "choices", {number}: {said}')
    answer = place_of(texts["answer"], choices) if labelled else None
    return Question(texts["context"], texts["question"], tuple(choices), answer, line)


def place_of(answer: Any, choices: Sequence[str]) -> int:
    """The place of the right choice, given as that, as its letter, or as its text. Raises ValueError.

    >>> place_of(1, ["red", "blue"]), place_of("B", ["red", "blue"]), place_of("blue", ["red", "blue"])
    (1, 1, 1)
    """
    N, places = len(choices), set()
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < N:
            raise ValueError(f', "answer": {answer}, expected 0 to {N - 1}, the place among {N} choices')
        return answer
    if isinstance(answer, str):
        places = {place for place, choice in enumerate(choices) if choice.strip() == answer.strip()}
        letter = ord(answer.upper()) - ord("A") if len(answer) == 1 else -1
        places |= {letter} if 0 <= letter < N else set()
    if len(places) != 1:
        what = "could be several of the choices" if places else "is none of the choices"
        advice = f"give its place, a number from 0 to {N - 1} without quotation marks"
        raise ValueError(f', "answer": {shown(answer)} {what}; {advice}')
    return places.pop()


# ---- the task ----


class ChooseTask(Task):
    """Which of N choices; {"answer": place, "choice": text, "probabilities": [p, ...]} in the order of the choices.

    A question is one feature: the rows of its choices laid end to end, for they are compared with each other and must
    be in one batch. Where a batch has questions with fewer choices, rows of nothing but padding stand for the rest.
    """

    name, goal, head = "choice", "accuracy", AlbertForMultipleChoice

    def __init__(self, labels: Sequence[str] = (), max_length: int = 128):
        super().__init__((), max_length)  # every question has choices of its own

    @property
    def cut(self) -> int:
        """How many questions of the last call of `features` had a choice longer than max_length."""
        return self.counts.total()

    def changes(self) -> dict[str, Any]:
        """The head has one output whatever num_labels is, so that goes back to its default."""
        return {"num_labels": 2, "id2label": None, "problem_type": None}

    def features(self, tokenizer: Tokenizer, examples: Sequence[Question]) -> list[Feature]:
        """`more` is the length of each choice's row. What is longer than max_length loses the end of its longer text,
        which is the context as a rule."""
        pairs = [pair for example in examples for pair in example.pairs]
        rows = tokenizer(pairs, padding=False, truncation=True, max_length=self.max_length)
        out, start, cut = [], 0, 0
        for number, example in enumerate(examples):
            own = slice(start, start := start + len(example.choices))
            ids, types = (list(chain(*x[own])) for x in (rows.input_ids, rows.token_type_ids))
            out.append(Feature(ids, types, number, example.answer, tuple(len(row) for row in rows.input_ids[own])))
            cut += any(rows.cut[own])
        self.counts = Counter({CUT.format(self.max_length): cut})
        return out

    def batch(self, features: Sequence[Feature], pad_id: int) -> dict[str, Tensor]:
        """The same as in Task, with ids, mask and token types [B, N, T]."""
        B, N = len(features), max(len(feature.more) for feature in features)
        T = max(max(feature.more) for feature in features)
        ids, types, mask = torch.full((B, N, T), pad_id), *torch.zeros(2, B, N, T, dtype=torch.long)
        for b, feature in enumerate(features):
            start = 0
            for n, length in enumerate(feature.more):
                row, place = slice(start, start := start + length), (b, n, slice(length))
                ids[place], types[place] = torch.tensor(feature.ids[row]), torch.tensor(feature.types[row])
                mask[place] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        known = all(feature.target is not None for feature in features)
        return inputs | (self.targets(features, T) if known else {})

    def targets(self, features: Sequence[Feature], length: int) -> dict[str, Tensor]:
        return {"labels": torch.tensor([feature.target for feature in features])}

    def loss(self, output: Any, batch: dict[str, Tensor]) -> Tensor:
        """The head's own; choices that are padding have no part in it."""
        there = batch["attention_mask"].any(-1).to(output.logits.device)  # [B, N]
        if there.all():
            return output.loss
        logits = output.logits.masked_fill(~there, -torch.inf)
        return functional.cross_entropy(logits, batch["labels"].to(logits.device))

    def read(self, output: Any, features: Sequence[Feature]) -> list[np.ndarray]:
        """The logits of each question's choices, [N]."""
        logits = output.logits.float().numpy(force=True)
        return [row[: len(feature.more)] for row, feature in zip(logits, features, strict=True)]

    def predictions(
        self, examples: Sequence[Question], features: Sequence[Feature], said: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        out = []
        for example, logits in zip(examples, said, strict=True):
            best = int(logits.argmax())
            out.append({"answer": best, "choice": example.choices[best], "probabilities": softmax(logits).tolist()})
        return out

    def scores(self, examples: Sequence[Question], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """accuracy; and chance, what it would be by drawing lots."""
        answers = [prediction["answer"] for prediction in predictions]
        chance = float(np.mean([1 / len(example.choices) for example in examples])) if examples else 0.0
        return {"examples": len(examples), "accuracy": accuracy(self.truth(examples), answers), "chance": chance}

    def floor(self, train: Sequence[Question], dev: Sequence[Question]) -> float:
        """The accuracy of always taking the place that is right most often in train, or of drawing lots if higher."""
        best = int(np.bincount(self.truth(train)).argmax())
        scores = self.scores(dev, [{"answer": best}] * len(dev))
        return float(max(scores["accuracy"], scores["chance"]))

    def truth(self, examples: Sequence[Question]) -> list[int]:
        """The right places of all. Raises InputError where one is missing."""
        out = [example.answer for example in examples if example.answer is not None]
        if missing := [example for example in examples if example.answer is None]:
            raise InputError(f"line {missing[0].line}: has no answer, and nothing can be measured without")
        return out
