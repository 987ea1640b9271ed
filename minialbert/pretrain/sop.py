"""Sentence-order pairs, the data of idea 3 of 3; the head that tells IN_ORDER = 0 from SWAPPED = 1 is heads.SOPHead.

A pair is two segments that follow each other in one document. masking.py hides words in it, examples.py gives it ids.
Nothing here sees a text: a document is the lengths of its sentences in pieces, a segment is a range of sentences. So
the whole decision about order is on this page. Source: Lan et al. 2020, section 3.1.

    order="sop"    both segments from one document, always; the label is a fair coin
    order="nsp"    BERT's task: is the second segment the true next one (0) or from another document (1)?
    order="none"   one segment and no label

`google_compat` does what the program that trained the released models does (as measured): where a chunk of text is a
single sentence the second segment comes from *another document*, under label 1, in "sop" too; and the target for a
short example is drawn once for a document, not for each chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

IN_ORDER, SWAPPED, NO_LABEL = 0, 1, -100  # the losses in heads.py count no label of -100
FOLLOWS, RANDOM = 0, 1  # the labels of "nsp"
ORDERS = ("sop", "nsp", "none")

Range = tuple[int, int]  # sentences start:stop
Elsewhere = Callable[[int], Range | None]  # about so many pieces from another document; None if there is no other


class Pair(NamedTuple):
    """Two segments as the model gets them, first and second; no sentence in the second means a single segment."""

    first: Range
    second: Range
    label: int
    kind: str  # "in order", "swapped", "random" (second is from another document) or "single"


def swapped(pair: Pair) -> Pair:
    """The same pair the other way round, with the other label."""
    label, kind = (IN_ORDER, "in order") if pair.label == SWAPPED else (SWAPPED, "swapped")
    return Pair(pair.second, pair.first, label, kind)


def chunk_end(lengths: Sequence[int], start: int, target: int, at_least: int) -> int:
    """Where a chunk that begins at sentence `start` ends: with `target` pieces, or with the document."""
    stop, size = start, 0
    while stop < len(lengths) and (size < target or stop - start < at_least):
        size += lengths[stop]
        stop += 1
    return stop


def pairs(
    lengths: Sequence[int],
    room: int,
    rng,
    order: str = "sop",
    short: float = 0.1,
    google_compat: bool = False,
    elsewhere: Elsewhere = lambda wanted: None,
) -> Iterator[Pair]:
    """The pairs of one document, each sentence in at least one of them.

    lengths: pieces of each sentence. room: pieces for both segments; a chunk is whole sentences until there are that
    many, so most pairs must be cut (`cut`). short: how often a chunk ends earlier, at a target between 2 and `room`.
    elsewhere: gives a stretch of another document; asked by "nsp" and `google_compat` alone.

    Unless `google_compat`, a chunk has two sentences or more (a last one left alone takes the one before it along), so
    a label is never a guess; a document of one sentence is a single segment without a label.
    """
    at_least = 1 if google_compat or order == "none" else 2
    target = draw_target(room, short, rng)
    start = 0
    while start < len(lengths):
        begin, stop = start, chunk_end(lengths, start, target, at_least)
        if stop - start < at_least <= stop:
            start = stop - at_least
        size = stop - start
        border = start + 1 + int(rng.random() * (size - 1))  # of the two segments; any sentence but the first begins B
        other = None
        alone = size == 1 and google_compat and order != "none"
        if alone or (order == "nsp" and size > 1 and rng.random() < 0.5):
            other = elsewhere(target - sum(lengths[start:border]))
        if other:
            stop = max(border, begin + 1)  # the rest of the chunk is used again
            yield Pair((begin, stop), other, RANDOM, "random")
        elif size == 1 or order == "none":
            yield Pair((start, stop), (stop, stop), NO_LABEL, "single")
        else:
            pair = Pair((start, border), (border, stop), IN_ORDER, "in order")
            yield swapped(pair) if order == "sop" and rng.random() < 0.5 else pair
        start = stop
        if not google_compat:
            target = draw_target(room, short, rng)


def draw_target(room: int, short: float, rng) -> int:
    """How many pieces a chunk aims at: `room`, or with probability `short` any number from 2 to `room`."""
    return 2 + int(rng.random() * (room - 1)) if rng.random() < short else room


def stretch(lengths: Sequence[int], wanted: int, rng) -> Range:
    """Some sentences of a document from a random one on: one at least, then until there are `wanted` pieces."""
    start = int(rng.random() * len(lengths))
    return start, chunk_end(lengths, start, wanted, at_least=1)


def cut(a: int, b: int, room: int, rng) -> tuple[Range, Range]:
    """Which pieces of two segments, of a and b pieces, stay when there is room for `room`.

    The longer one (the second on ties) loses a piece, at the front or at the back by fair coin, until both fit.
    """
    over = max(a + b - room, 0)
    even = max(over - abs(a - b), 0)  # what is still to go when both are equally long
    off_a = (min(over, a - b) if a > b else 0) + even // 2
    off_b = over - off_a
    front_a, front_b = (int((rng.random(off) < 0.5).sum()) if off else 0 for off in (off_a, off_b))
    return (front_a, a - off_a + front_a), (front_b, b - off_b + front_b)
