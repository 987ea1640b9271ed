"""A tag for each word: names in a text, parts of speech. TagTask is the task; columns.py reads, tags.py counts.

The first piece of a word speaks for it. A sentence too long for the model is cut into windows of whole words; each word
is learnt once and predicted once, in the window that shows most of what stands around it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minialbert.errors import InputError
from minialbert.finetune.columns import Sentence, sentence_of
from minialbert.finetune.tags import IGNORED, Entity, entities, entity_scores, first_pieces, labels_to_pieces
from minialbert.finetune.task import Feature, Task
from minialbert.heads import AlbertForTokenClassification
from minialbert.tokenizers import Tokenizer

OVERLAP = 4  # a window shares about a quarter of its pieces with the one before it


class Window(NamedTuple):
    """Words start:stop of a sentence."""

    start: int
    stop: int


class TagTask(Task):
    """One of `labels` for each word. An example is a Sentence, a list of words, or a text (see sentence_of).

    A word without pieces (of control characters, say) cannot be seen: it gets O, and no probability. Labels without O
    and B- are plain: `scores` then has no entities, and its "f1" is the accuracy, which micro F1 over words is.
    After `features`, `counts` says how many sentences are in several windows, how many words have no pieces, more
    pieces than a window (the rest is left out), or a tag that is not among the labels (nothing is learnt there).
    """

    name: ClassVar[str] = "tag"
    goal: ClassVar[str] = "f1"
    head = AlbertForTokenClassification

    def __init__(self, labels: Sequence[str] = (), max_length: int = 128):
        super().__init__(labels, max_length)
        self.counts: Counter[str] = Counter()

    @property
    def cut(self) -> int:
        """How much `features` left out: words of more pieces than a window."""
        return self.counts["words cut"]

    @property
    def plain(self) -> bool:
        return "O" not in self.labels or not any(label[0] == "B" for label in self.labels)

    def changes(self) -> dict[str, Any]:
        return {"num_labels": len(self.labels), "id2label": dict(enumerate(self.labels)), "problem_type": None}

    # ---- sentences to rows ----

    def features(self, tokenizer: Tokenizer, examples: Sequence[Sentence | str | Sequence[str]]) -> list[Feature]:
        """A row for each window of each sentence; a sentence without any piece is [CLS] [SEP]."""
        room = self.max_length - tokenizer.num_special(False)
        if room < 1:
            raise InputError(
                f"--max-length (max_length) {self.max_length} leaves no room for a piece between [CLS] and [SEP]"
            )
        sentences, self.counts = [sentence_of(example) for example in examples], Counter()
        once = list(dict.fromkeys(word for sentence in sentences for word in sentence.words))
        ids = dict(zip(once, tokenizer(once, padding=False, add_special_tokens=False).input_ids, strict=True))
        found = []
        for number, sentence in enumerate(sentences):
            pieces = [ids[word] for word in sentence.words]
            windows, speaker = windows_of([min(len(each), room) for each in pieces], room)
            self.counts["sentences in windows"] += len(windows) > 1
            self.counts["words without pieces"] += sum(not each for each in pieces)
            self.counts["words cut"] += sum(len(each) > room for each in pieces)
            labels = None if sentence.tags is None else self.numbers(sentence.tags)
            for n, (start, stop) in enumerate(windows):
                row, types = tokenizer.build([piece for word in pieces[start:stop] for piece in word[:room]])
                places = [None, *(w for w in range(start, stop) for _ in pieces[w][:room]), None]  # whose piece it is
                own = {word: place for word, place in first_pieces(places).items() if speaker[word] == n}
                target = None
                if labels is not None:
                    mine = [label if word in own else IGNORED for word, label in enumerate(labels)]
                    target = labels_to_pieces(places, mine)
                found.append(Feature(row, types, number, target, own))
        return found

    def numbers(self, tags: Sequence[str]) -> list[int]:
        """The place of each tag among the labels."""
        place = {label: number for number, label in enumerate(self.labels)}
        self.counts["unknown tags"] += sum(tag not in place for tag in tags)
        return [place.get(tag, IGNORED) for tag in tags]

    def targets(self, features: Sequence[Feature], length: int) -> dict[str, Tensor]:
        """labels [B, T], -100 at all but first pieces."""
        labels = torch.full((len(features), length), IGNORED)
        for row, feature in enumerate(features):
            labels[row, : len(feature.ids)] = torch.tensor(feature.target)
        return {"labels": labels}

    def counted(self, batch: dict[str, Tensor]) -> int:
        return int((batch["labels"] != IGNORED).sum())

    # ---- rows to tags ----

    def read(self, output: Any, features: Sequence[Feature]) -> list[np.ndarray]:
        """Logits [words, C] of the words that each feature speaks for."""
        logits = output.logits.detach().float().cpu().numpy()
        return [logits[row, list(feature.more.values())] for row, feature in enumerate(features)]

    def predictions(
        self, examples: Sequence[Any], features: Sequence[Feature], said: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        """words, tags, probabilities (of these tags), and entities: type, text, the words start:end, probability (the
        mean of its words'); with `characters` [start, end] where the example is a text."""
        sentences = [sentence_of(example) for example in examples]
        tags = [["O" if "O" in self.labels else self.labels[0]] * len(sentence.words) for sentence in sentences]
        sure: list[list[float | None]] = [[None] * len(sentence.words) for sentence in sentences]
        for feature, logits in zip(features, said, strict=True):
            for word, row in zip(feature.more, probabilities(logits), strict=True):
                best = int(row.argmax())
                tags[feature.example][word] = self.labels[best]
                sure[feature.example][word] = float(row[best])
        told = []
        for sentence, its, how in zip(sentences, tags, sure, strict=True):
            found = [] if self.plain else [told_entity(sentence, entity, how) for entity in entities(its)]
            told.append({"words": list(sentence.words), "tags": its, "probabilities": how, "entities": found})
        return told

    # ---- how good they are ----

    def scores(self, examples: Sequence[Any], predictions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """precision, recall and f1 of entities (micro), for each of "types" too; accuracy is the share of words.

        Every word of every sentence counts, also one whose true tag is not among the labels.
        """
        truth = [list(sentence_of(example).tags or ()) for example in examples]
        answers = [prediction["tags"] for prediction in predictions]
        found = {} if self.plain else entity_scores(truth, answers)
        pairs = [pair for a, b in zip(truth, answers, strict=True) for pair in zip(a, b, strict=True)]
        accuracy = sum(a == b for a, b in pairs) / max(len(pairs), 1)
        return {"f1": accuracy, "accuracy": accuracy, "words": len(pairs)} | found

    def floor(self, train: Sequence[Sentence], dev: Sequence[Sentence]) -> float:
        """0: whoever says O everywhere finds no entity. Of plain tags the share of the commonest one."""
        if not self.plain:
            return 0.0
        common = Counter(tag for sentence in train for tag in sentence.tags or ()).most_common(1)
        tags = [tag for sentence in dev for tag in sentence.tags or ()]
        return sum(tag == common[0][0] for tag in tags) / len(tags) if tags and common else 0.0


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of each row, [words, C] float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(-1, keepdims=True)


def told_entity(sentence: Sentence, entity: Entity, sure: Sequence[float | None]) -> dict[str, Any]:
    """An entity as JSON holds it."""
    kind, start, end = entity
    seen = [p for p in sure[start:end] if p is not None]
    out: dict[str, Any] = {"type": kind, "text": " ".join(sentence.words[start:end]), "start": start, "end": end}
    if sentence.text is not None:
        first, last = sentence.spans[start][0], sentence.spans[end - 1][1]
        out |= {"text": sentence.text[first:last], "characters": [first, last]}
    return out | {"probability": sum(seen) / len(seen)}


def windows_of(sizes: Sequence[int], room: int) -> tuple[list[Window], list[int]]:
    """Words of so many pieces in windows of at most `room`, and for each word the window that speaks for it.

    Of the windows that a word is in, it is the one in which fewer pieces are missing: where it stands farther from an
    edge at which the sentence was cut. No word may be larger than the room.

    >>> windows_of([1, 1, 1, 1, 1], room=4)
    ([Window(start=0, stop=4), Window(start=1, stop=5)], [0, 0, 0, 1, 1])
    """
    before = [0, *accumulate(sizes)]  # pieces before each word

    def size(start: int, stop: int) -> int:
        return before[stop] - before[start]

    windows, start, stop = [], 0, 0
    while True:
        while stop < len(sizes) and size(start, stop + 1) <= room:
            stop += 1
        if stop == len(sizes):
            break
        windows.append(Window(start, stop))
        shared, last, start = min(room // OVERLAP, room - sizes[stop]), start, stop
        while start - 1 > last and size(start - 1, stop) <= shared:
            start -= 1
    while start and size(start - 1, stop) <= room:  # the last one reaches back as far as it can
        start -= 1
    windows.append(Window(start, stop))

    def shown(word: int, window: Window) -> float:
        left = size(window.start, word) if window.start else math.inf
        right = size(word + 1, window.stop) if window.stop < len(sizes) else math.inf
        return min(left, right)

    speaker = [-1] * len(sizes)
    for n, window in enumerate(windows):
        for word in range(*window):
            if speaker[word] < 0 or shown(word, window) > shown(word, windows[speaker[word]]):
                speaker[word] = n
    return windows, speaker
