"""A tokenized corpus to batches for AlbertForPreTraining: pairs of segments (sop.py) with masked words (masking.py).

Examples are made anew in every epoch. Each is a function of (seed, epoch, number in the epoch) and nothing else: not of
the size of a batch, the number of ranks or worker processes, or where a run was broken off. An epoch is planned in
pools of random blocks of documents, and shuffled within a pool, so memory does not grow with the corpus. report.py
counts and shows what comes out; corpus.py is below.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from minialbert.errors import InputError
from minialbert.heads import IGNORED
from minialbert.pretrain.corpus import Corpus
from minialbert.pretrain.masking import Masked, Masker, Masking, starts_word, starts_word_google, starts_word_wordpiece
from minialbert.pretrain.sop import ORDERS, Pair, Range, cut, pairs, stretch
from minialbert.tokenizers import Tokenizer

BLOCK_TOKENS, POOL_BLOCKS = 1 << 16, 64  # a pool, within which examples are shuffled, has about 4 million tokens
ORDER, PLAN, SHUFFLE, EXAMPLE = range(4)  # what a generator is for
KINDS = ("in order", "swapped", "random", "single")


@dataclass(frozen=True)
class Recipe:
    """How examples are made. `google_compat` does what the program behind the released models does.

    max_predictions: None is round(probability * max_length), and 20 with google_compat, which at length 512 is 4 %.
    The other words are explained in sop.py (order, short) and masking.py.
    """

    max_length: int = 512
    order: str = "sop"  # "nsp", "none"
    google_compat: bool = False
    short: float = 0.1
    probability: float = 0.15
    max_predictions: int | None = None
    ngram: int = 3
    favor_longer: bool = False
    whole_words: bool = True
    per_span: bool = False

    def __post_init__(self):
        if self.order not in ORDERS:
            raise InputError(f"order={self.order!r} must be one of {', '.join(ORDERS)}")
        if self.max_length < 8:
            raise InputError(f"max_length={self.max_length} must be at least 8: three special pieces and two segments")
        for name in ("short", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} must be between 0 and 1")
        if self.ngram < 1 or (self.max_predictions is not None and self.max_predictions < 1):
            raise InputError(f"ngram={self.ngram} and max_predictions={self.max_predictions} must be at least 1")

    @property
    def slots(self) -> int:
        """M: how many pieces of an example can be masked."""
        usual = 20 if self.google_compat else max(1, round(self.probability * self.max_length))
        return usual if self.max_predictions is None else self.max_predictions

    @property
    def masking(self) -> Masking:
        return Masking(
            self.probability, self.slots, self.ngram, self.favor_longer, self.whole_words,
            per_span=self.per_span, cross=self.google_compat,
        )  # fmt: skip


def masker_for(tokenizer: Tokenizer, recipe: Recipe) -> Masker:
    """The masker for a vocabulary: no special piece is ever masked or put in the place of another.

    google_compat: only [CLS] and [SEP] are never masked, any piece may stand in the place of another, and Google's
    rule says where words start.
    """
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    rule = starts_word_google if recipe.google_compat else starts_word
    if tokenizer.kind == "wordpiece":
        rule = starts_word_wordpiece
    starts = np.array([rule(piece) for piece in pieces])
    numbers = np.arange(len(pieces))
    if recipe.google_compat:
        return Masker(starts, tokenizer.mask_id, {tokenizer.cls_id, tokenizer.sep_id}, numbers, recipe.masking)
    special = tokenizer.special_ids
    others = np.setdiff1d(numbers, list(special))
    return Masker(starts, tokenizer.mask_id, special, others, recipe.masking)


class Planned(NamedTuple):
    """An example before its ids are looked up: sentences of the corpus, label and kind (a number, see KINDS)."""

    a: Range
    b: Range
    label: int
    kind: int


class Example(NamedTuple):
    """ids [T] with their masks (`masked`), without padding; from `turn` on the token types are 1."""

    masked: Masked
    turn: int
    label: int
    kind: str
    planned: Planned
    lost: int  # pieces that found no room


class Batch(NamedTuple):
    """What AlbertForPreTraining takes, `model(**batch.inputs)`; and where the next batch begins."""

    inputs: dict[str, Tensor]
    epoch: int
    number: int

    @property
    def position(self) -> tuple[int, int]:
        """(epoch, number in it) to store in a checkpoint: Batches(..., position=...) goes on with the next batch."""
        return self.epoch, self.number


class Examples:
    """All examples of a corpus, epoch after epoch. Raises CheckpointError if the tokenizer is not the corpus's."""

    def __init__(self, corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe | None = None, seed: int = 0):
        corpus.check_tokenizer(tokenizer)
        if seed < 0:
            raise InputError(f"seed={seed} must not be negative")
        self.corpus, self.tokenizer, self.recipe, self.seed = corpus, tokenizer, recipe or Recipe(), seed
        self.masker = masker_for(tokenizer, self.recipe)
        self.cls, self.sep, self.pad = tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id
        self.room = self.recipe.max_length - tokenizer.num_special(pair=self.recipe.order != "none")
        self.edges = corpus.blocks(BLOCK_TOKENS)

    def generator(self, epoch: int, purpose: int, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, purpose, number])

    # ---- which examples, in which order ----

    def pools(self, epoch: int) -> Iterator[np.ndarray]:
        """The plan of an epoch: arrays [n, 6] of Planned, one for each pool."""
        blocks = np.argsort(self.generator(epoch, ORDER).random(len(self.edges) - 1))
        for number, at in enumerate(range(0, len(blocks), POOL_BLOCKS)):
            rng = self.generator(epoch, PLAN, number)
            rows = []
            for block in blocks[at : at + POOL_BLOCKS].tolist():
                for document in range(self.edges[block], self.edges[block + 1]):
                    rows += self.plan(document, rng)
            plan = np.array(rows, dtype=np.int64).reshape(-1, 6)
            yield plan[np.argsort(self.generator(epoch, SHUFFLE, number).random(len(plan)))]

    def plan(self, document: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
        """The pairs of one document as rows of a plan."""
        base, lengths = self.corpus.document(document)

        def elsewhere(wanted: int) -> Range | None:
            if self.corpus.documents == 1:
                return None
            other = int(rng.random() * (self.corpus.documents - 1))
            first, its_lengths = self.corpus.document(other + (other >= document))
            start, stop = stretch(its_lengths, wanted, rng)
            return first + start, first + stop

        recipe = self.recipe
        found = pairs(lengths, self.room, rng, recipe.order, recipe.short, recipe.google_compat, elsewhere)
        return [row_of(pair, base) for pair in found]

    def stream(self, epoch: int = 0, index: int = 0) -> Iterator[tuple[int, int, np.ndarray]]:
        """(epoch, number in it, row of the plan) of one example after the other from a position on, without end."""
        while True:
            first = 0
            for plan in self.pools(epoch):
                for number in range(max(index, first), first + len(plan)):
                    yield epoch, number, plan[number - first]
                first += len(plan)
            if index > first:
                raise InputError(
                    f"there is no example {index} in epoch {epoch}, it has {first}: another corpus, recipe?"
                )
            epoch, index = epoch + 1, 0

    # ---- one example, one batch ----

    def example(self, epoch: int, number: int, row: Sequence[int] | np.ndarray) -> Example:
        """The example of a row of the plan."""
        rng = self.generator(epoch, EXAMPLE, number)
        a0, a1, b0, b1, label, kind = (int(x) for x in row)
        a = self.corpus.ids(a0, a1)
        b = self.corpus.ids(b0, b1) if b1 > b0 else a[:0]
        (a_start, a_stop), (b_start, b_stop) = cut(len(a), len(b), self.room, rng)
        turn = a_stop - a_start + 2
        size = turn + (b_stop - b_start + 1 if b1 > b0 else 0)
        ids = np.empty(size, dtype=np.int64)
        ids[0], ids[turn - 1], ids[-1] = self.cls, self.sep, self.sep
        ids[1 : turn - 1] = a[a_start:a_stop]
        ids[turn:-1] = b[b_start:b_stop]
        lost = len(a) + len(b) - (a_stop - a_start) - (b_stop - b_start)
        planned = Planned((a0, a1), (b0, b1), label, kind)
        return Example(self.masker(ids, rng), turn, label, KINDS[kind], planned, lost)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """The arguments of AlbertForPreTraining, always of the same shapes: [B, T] and [B, M].

        labels are -100 and masked_positions 0 in slots that are not used; sentence_order_label is -100 for an example
        without an order. All int64.
        """
        B, T, M = len(examples), self.recipe.max_length, self.recipe.slots
        inputs = {name: np.zeros((B, T), dtype=np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
        inputs["input_ids"].fill(self.pad)
        inputs["masked_positions"] = np.zeros((B, M), dtype=np.int64)
        inputs["labels"] = np.full((B, M), IGNORED, dtype=np.int64)
        inputs["sentence_order_label"] = np.array([example.label for example in examples], dtype=np.int64)
        for i, (masked, turn, *_) in enumerate(examples):
            size, count = len(masked.ids), len(masked.positions)
            inputs["input_ids"][i, :size] = masked.ids
            inputs["attention_mask"][i, :size] = 1
            inputs["token_type_ids"][i, turn:size] = 1
            inputs["masked_positions"][i, :count] = masked.positions
            inputs["labels"][i, :count] = masked.labels
        return {name: torch.from_numpy(array) for name, array in inputs.items()}


def row_of(pair: Pair, base: int) -> tuple[int, ...]:
    """A pair of a document as a row of the plan; `base` is the number of the document's first sentence."""
    b = base if pair.kind != "random" else 0  # a segment from elsewhere has its place in the corpus already
    (a0, a1), (b0, b1) = pair.first, pair.second
    return a0 + base, a1 + base, b0 + b, b1 + b, pair.label, KINDS.index(pair.kind)


class Batches(IterableDataset):
    """Batches without end from a position (epoch, index) on; each is the share of one of `world` ranks.

    batch_size counts the rows of all ranks. For worker processes:
    DataLoader(Batches(...), batch_size=None, num_workers=4) gives the same batches in the same order.
    """

    def __init__(
        self, examples: Examples, batch_size: int, position: tuple[int, int] = (0, 0), rank: int = 0, world: int = 1
    ):
        if batch_size < 1 or batch_size % world or not 0 <= rank < world:
            raise InputError(f"batch_size={batch_size} must be a multiple of world={world}, rank={rank} below it")
        self.examples, self.batch_size, self.position = examples, batch_size, position
        self.rows = slice(rank * batch_size // world, (rank + 1) * batch_size // world)

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        stream = self.examples.stream(*self.position)
        for number in range(1 << 62):
            rows = list(islice(stream, self.batch_size))
            if number % workers == worker:
                epoch, last, _ = rows[-1]
                examples = [self.examples.example(*row) for row in rows[self.rows]]
                yield Batch(self.examples.collate(examples), epoch, last + 1)
