"""The answer to a question as a stretch of a text, character by character. AnswerTask is the task; questions.py reads.

Question and context are a pair; a long context is cut into windows that overlap. The model gives each piece two logits,
how well an answer starts there and how well it ends; the best pair over all windows is the answer: context[start:end].
Source: Devlin et al. 2019, sections 4.2 and 4.3; the recipe of their released code for windows and for no answer.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minialbert.errors import InputError
from minialbert.finetune.questions import Question, best_over, exact_match, word_f1
from minialbert.finetune.task import Feature, Task
from minialbert.heads import AlbertForQuestionAnswering
from minialbert.tokenizers import Tokenizer

NOT_COUNTED = 1_000_000  # a position past every input
Spans = list[tuple[int, int]]


class Window(NamedTuple):
    """What a feature shows of a context: the characters of each piece, the first of which is at position `first`."""

    first: int
    spans: Spans


class Span(NamedTuple):
    """Characters start:end of the context as an answer; the score is the sum of the two logits."""

    score: float
    start: int
    end: int


class AnswerTask(Task):
    """Where the answer to a question stands. An example is a Question, or a pair (question, context).

    max_length: of a window, question included; stride: how many pieces of the context two windows share (at most half
    of what there is room for); max_answer_length and max_question_length in pieces, too. no_answer: a context may have
    no answer, as in SQuAD 2.0; then the start and end logits at [CLS], added, minimum over the windows, stand for that,
    and it is the prediction where they exceed the best answer's by more than `threshold` (see `tune`).

    After `features`, `counts` says how many contexts are in several windows, how many questions were cut, how many
    answers consist of characters without pieces (these are not learnt).
    """

    name: ClassVar[str] = "answer"
    goal: ClassVar[str] = "f1"
    head = AlbertForQuestionAnswering

    def __init__(
        self, labels: Sequence[str] = (), max_length: int = 384, stride: int = 128, max_answer_length: int = 30,
        max_question_length: int = 64, no_answer: bool = False, threshold: float = 0.0, n_best: int = 20,
    ):  # fmt: skip
        super().__init__((), max_length)
        for name, value in (("max_answer_length", max_answer_length), ("n_best", n_best)):
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        if stride < 0 or max_question_length < 0:
            raise InputError(f"stride={stride} and max_question_length={max_question_length} must not be negative")
        self.stride, self.max_answer_length, self.max_question_length = stride, max_answer_length, max_question_length
        self.no_answer, self.threshold, self.n_best = no_answer, threshold, n_best

    @property
    def cut(self) -> int:
        """Of how many questions `features` left something out."""
        return self.counts["questions cut"]

    @property
    def settings(self) -> dict[str, Any]:
        names = ("stride", "max_answer_length", "max_question_length", "no_answer", "threshold", "n_best")
        return super().settings | {name: getattr(self, name) for name in names}

    def changes(self) -> dict[str, Any]:
        return {"num_labels": 2, "id2label": None, "problem_type": None}  # start and end; names of another task go

    # ---- questions to rows ----

    def features(self, tokenizer: Tokenizer, examples: Sequence[Question | tuple[str, str]]) -> list[Feature]:
        """A row for each window of each context: [CLS] question [SEP] part of the context [SEP]."""
        self.counts, around, found = Counter(), tokenizer.num_special(True), []
        seen: dict[str, tuple[list[int], Spans]] = {}  # many questions are about one context
        for number, example in enumerate(map(question_of, examples)):
            if example.context not in seen:
                encoding = tokenizer([example.context], padding=False, add_special_tokens=False)
                seen[example.context] = encoding.input_ids[0], encoding.offsets[0]
            context, spans = seen[example.context]
            asked = tokenizer([example.question], padding=False, add_special_tokens=False).input_ids[0]
            question = asked[: self.max_question_length]
            room = self.max_length - around - len(question)
            if room < 1:
                raise InputError(
                    f"--max-length (max_length) {self.max_length} leaves no room for the context: question {number} "
                    f"has {len(question)} pieces, [CLS] and [SEP] take {around}; raise it, or lower max_question_length"
                )
            windows = windows_of(len(context), room, self.stride)
            self.counts["questions cut"] += len(asked) > len(question)
            self.counts["contexts in windows"] += len(windows) > 1
            answer = self.place_of(example, spans)
            for start, stop in windows:
                ids, types = tokenizer.build(question, context[start:stop])
                window = Window(len(question) + 2, spans[start:stop])
                target = None if answer is None else target_of(answer, start, stop, window.first)
                found.append(Feature(ids, types, number, target, window))
        return found

    def place_of(self, example: Question, spans: Spans) -> range | None:
        """The pieces of the context that cover the first right answer, and none beyond; an empty range for no answer,
        one past everything for an answer without pieces; None where the answer is not known."""
        if example.answers is None:
            return None
        if not example.answers:
            return range(0)
        answer = example.answers[0]
        touched = [n for n, (a, b) in enumerate(spans) if a < b and a < answer.end and b > answer.start]
        self.counts["answers without pieces"] += not touched
        return range(touched[0], touched[-1] + 1) if touched else range(NOT_COUNTED, NOT_COUNTED + 1)

    def targets(self, features: Sequence[Feature], length: int) -> dict[str, Tensor]:
        """start_positions and end_positions [B]; 0 is [CLS], for a window that does not hold the whole answer."""
        starts, ends = torch.tensor([feature.target for feature in features]).T
        return {"start_positions": starts, "end_positions": ends}

    # ---- rows to answers ----

    def read(self, output: Any, features: Sequence[Feature]) -> list[np.ndarray]:
        """Start and end logits [2, T]."""
        both = torch.stack([output.start_logits, output.end_logits], 1).detach().float().cpu().numpy()
        return [both[row, :, : len(feature.ids)] for row, feature in enumerate(features)]

    def predictions(
        self, examples: Sequence[Any], features: Sequence[Feature], said: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """id, answer (the text; "" for none), its start and end in the context (None), probability; `best`: the n_best
        answers with score and probability; `no_answer`: by how much that beats the best answer, where it may.

        Probabilities are a softmax of the scores of `best`, as in the official recipe, so they compare these alone.
        """
        spans: list[dict[tuple[int, int], Span]] = [{} for _ in examples]
        nulls = [np.inf] * len(examples)
        for feature, (start, end) in zip(features, said, strict=True):
            mine = spans[feature.example]
            for span in best_spans(start, end, feature.more, self.max_answer_length, self.n_best):
                mine[span[1:]] = max(span, mine.get(span[1:], span))
            nulls[feature.example] = min(nulls[feature.example], float(start[0]) + float(end[0]))
        return [
            self.decided(self.told(question_of(example), list(found.values()), null))
            for example, found, null in zip(examples, spans, nulls, strict=True)
        ]

    def told(self, question: Question, spans: list[Span], null: float) -> dict[str, Any]:
        """What is found for a question, as JSON holds it; nothing is chosen yet."""
        spans = sorted(spans, key=lambda span: (-span.score, span.start, span.end))[: self.n_best]
        best: list[dict[str, Any]] = [
            {"text": question.context[start:end], "start": start, "end": end, "score": score}
            for score, start, end in spans
        ]
        if self.no_answer:
            best = sorted([*best, NOTHING | {"score": null}], key=lambda entry: -entry["score"])
        scores = np.array([entry["score"] for entry in best])
        shares = np.exp(scores - scores.max(initial=-np.inf))
        best = [entry | {"probability": float(p)} for entry, p in zip(best, shares / shares.sum(), strict=True)]
        beaten_by = null - spans[0].score if self.no_answer and spans else None
        return {"id": question.id, "no_answer": beaten_by, "best": best}

    def decided(self, prediction: dict[str, Any]) -> dict[str, Any]:
        """A prediction with its answer chosen by the threshold as it is now."""
        some, nothing = answered(prediction), {"probability": 1.0} | NOTHING  # no piece, so no answer
        if self.no_answer:
            nothing = next(entry for entry in prediction["best"] if entry["start"] is None)
        beaten = self.no_answer and some is not None and prediction["no_answer"] > self.threshold
        chosen = nothing if some is None or beaten else some
        said = {"answer": chosen["text"]} | {key: chosen[key] for key in ("start", "end", "probability")}
        return {"id": prediction["id"]} | said | {key: prediction[key] for key in ("no_answer", "best")}

    # ---- how good they are ----

    def scores(self, examples: Sequence[Question], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """exact_match and f1, the best over the right answers, mean over the questions: SQuAD's definition.

        Where there may be no answer also the same for the questions that have one and for those that have none (their
        f1 is how often nothing is said), and best_f1 with the best_threshold it would be reached at.
        """
        truths = [texts_of(example) for example in examples]
        rows = [
            [best_over(score, prediction["answer"], truth) for score in (exact_match, word_f1)]
            for truth, prediction in zip(truths, predictions, strict=True)
        ]

        def mean(chosen: list[bool]) -> dict[str, Any]:
            values = [row for row, yes in zip(rows, chosen, strict=True) if yes]
            exact, f1 = np.mean(values, 0).tolist() if values else (0.0, 0.0)
            return {"exact_match": exact, "f1": f1, "questions": len(values)}

        out = mean([True] * len(rows))
        if self.no_answer:
            threshold, f1 = best_threshold(examples, predictions)
            out |= {"answerable": mean([bool(truth) for truth in truths])}
            out |= {"unanswerable": mean([not truth for truth in truths])}
            out |= {"best_f1": f1, "best_threshold": threshold}
        return out

    def tune(self, examples: Sequence[Question], predictions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sets `threshold` to what gives the best F1 on these (dev) questions; the predictions, decided anew."""
        if self.no_answer:
            self.threshold, _ = best_threshold(examples, predictions)
            self.tuned = {"threshold": self.threshold, "tuned_on": "dev"}
        return [self.decided(prediction) for prediction in predictions]

    def floor(self, train: Sequence[Question], dev: Sequence[Question]) -> float:
        """F1 of whoever never answers: the share of questions without an answer."""
        return sum(best_over(word_f1, "", texts_of(example)) for example in dev) / max(len(dev), 1)


NOTHING: dict[str, Any] = {"text": "", "start": None, "end": None}


def question_of(example: Question | tuple[str, str]) -> Question:
    """What is asked: a Question, or a pair (question, context)."""
    return example if isinstance(example, Question) else Question("", *example)


def texts_of(example: Question) -> list[str]:
    if example.answers is None:
        raise InputError(f"question {example.id!r} has no known answer, so there is nothing to compare with")
    return [answer.text for answer in example.answers]


def answered(prediction: dict[str, Any]) -> dict[str, Any] | None:
    """The best of a prediction's answers that is one."""
    return next((entry for entry in prediction["best"] if entry["start"] is not None), None)


def windows_of(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """start, stop of each window over so many pieces; two neighbours share `stride`, at most half of the room.

    >>> windows_of(10, room=6, stride=2)
    [(0, 6), (4, 10)]
    """
    step = room - min(stride, room // 2)
    count = 1 + max(0, -(-(length - room) // step))
    return [(n * step, min(n * step + room, length)) for n in range(count)]


def target_of(answer: range, start: int, stop: int, first: int) -> tuple[int, int]:
    """Positions of the first and last piece of an answer in the window start:stop; [CLS] twice if it is not in it."""
    if answer.start == NOT_COUNTED:
        return NOT_COUNTED, NOT_COUNTED
    if not answer or answer.start < start or answer.stop > stop:
        return 0, 0
    return answer.start - start + first, answer.stop - 1 - start + first


def best_spans(start: np.ndarray, end: np.ndarray, window: Window, longest: int, n: int) -> list[Span]:
    """The n best answers in a window, best first: every start <= end of at most `longest` pieces of the context is
    tried, no position outside it, and none that begins or ends with a piece without characters of its own."""
    first, spans = window
    real = np.array([a < b for a, b in spans], dtype=bool)
    if not real.any():
        return []
    scores = [np.where(real, x[first : first + len(spans)].astype(np.float64), -np.inf) for x in (start, end)]
    ends = np.concatenate([scores[1], np.full(longest - 1, -np.inf)])
    table = scores[0][:, None] + np.lib.stride_tricks.sliding_window_view(ends, longest)  # row: start, column: length
    flat = table.ravel()
    some = min(2 * n, flat.size)
    top = np.argpartition(-flat, some - 1)[:some]
    found: dict[tuple[int, int], Span] = {}
    for at in top[np.isfinite(flat[top])]:
        i, length = divmod(int(at), longest)
        span = Span(float(flat[at]), spans[i][0], spans[i + length][1])
        found[span[1:]] = max(span, found.get(span[1:], span))  # pieces of one character give the same answer
    return sorted(found.values(), key=lambda span: (-span.score, span.start, span.end))[:n]


def best_threshold(examples: Sequence[Question], predictions: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """The threshold on "no_answer" that gives the best F1, and that F1; of equals the one nearest to 0."""
    rows = []  # by how much no answer wins, and F1 of answering, and of not
    for example, prediction in zip(examples, predictions, strict=True):
        some, truths = answered(prediction), texts_of(example)
        never = best_over(word_f1, "", truths)
        if some is None:
            rows.append((np.inf, never, never))
        else:
            rows.append((prediction["no_answer"], best_over(word_f1, some["text"], truths), never))
    values = sorted({row[0] for row in rows if np.isfinite(row[0])}) or [0.0]
    options = [values[0] - 1, *((a + b) / 2 for a, b in pairwise(values)), values[-1] + 1, 0.0]
    wins, answering, never_f1 = (np.array(column) for column in zip(*sorted(rows), strict=True))
    totals = np.concatenate([[0.0], np.cumsum(answering)]) + np.concatenate([np.cumsum(never_f1[::-1])[::-1], [0.0]])
    f1 = {option: totals[np.searchsorted(wins, option, side="right")] / len(rows) for option in options}
    best = max(options, key=lambda option: (round(f1[option], 12), -abs(option)))
    return float(best), float(f1[best])
