"""Texts to ids that are ready to run: windows over long ones, rows of their words or spans, labels of those rows.

The Embedder in __init__.py runs them; pool.py says what the poolings are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from minialbert.embed.pool import RAGGED
from minialbert.errors import InputError
from minialbert.tokenizers import Encoding, Tokenizer

LONG = ("cut", "window", "error")
OVERLAP = 4  # a window shares a quarter of its tokens with the one before it


class Prepared(NamedTuple):
    """A text ready to run: windows of ids (one, unless it is long), types, and which rows of them are its tokens."""

    windows: list[list[int]]
    types: list[list[int]]
    rows: list[int] | None = None  # None: all rows of the one window
    groups: list[list[int]] | None = None  # rows of each word or span
    items: list[dict] | None = None  # a label for each vector of a ragged pooling


@dataclass
class Lost:
    """What a corpus lost to the limit, counted as it goes by: of so many texts some were cut, by so many tokens."""

    texts: int = 0
    cut: int = 0
    tokens: int = 0

    def add(self, cut: Sequence[int]) -> None:
        """More texts, each with how many tokens were cut from it."""
        self.texts += len(cut)
        self.cut += sum(n > 0 for n in cut)
        self.tokens += sum(cut)

    def line(self, limit: int) -> str:
        return (
            f"{self.cut} of {self.texts} texts were cut to {limit} tokens, {self.tokens} tokens lost; "
            "long='window' (--long window) keeps them"
        )


def prepare(
    tokenizer: Tokenizer, batch: list, pooling: str, ranges: Sequence | None, limit: int, long: str, first: int
) -> tuple[list[Prepared], list[int]]:
    """A batch of texts, and how many tokens were cut from each. first is the number of the batch's first text."""
    cut = long == "cut"
    encoding = tokenizer(batch, padding=False, truncation=cut, max_length=limit if cut else None)
    prepared = []
    for i, (ids, types) in enumerate(zip(encoding.input_ids, encoding.token_type_ids, strict=True)):
        groups, items = pieces_of(encoding, i, batch[i], pooling, None if ranges is None else ranges[i], first + i)
        if len(ids) <= limit:
            prepared.append(Prepared([ids], [types], None, groups, items))
            continue
        if long == "error":
            raise InputError(
                f"text {first + i} has {len(ids)} tokens, the limit is {limit}; use long='cut' or 'window'"
            )
        if not isinstance(batch[i], str):
            raise InputError(f"text {first + i} is a pair of {len(ids)} tokens; windows are for single texts, cut it")
        windows, rows = windows_of(ids, limit)
        prepared.append(Prepared(windows, [[0] * len(window) for window in windows], rows, groups, items))
    return prepared, encoding.cut


def windows_of(ids: list[int], limit: int) -> tuple[list[list[int]], list[int]]:
    """A long text in windows of at most `limit` tokens, and for each of its tokens the row that counts.

    Every window has the text's [CLS] and [SEP]. A token in two windows is taken from the one in which it stands
    farther from an edge; [CLS] from the first window, [SEP] from the last.
    """
    content, room = ids[1:-1], limit - 2
    step = room - room // OVERLAP
    count = 1 + max(0, math.ceil((len(content) - room) / step))
    windows, rows, done = [], [0], 0
    for n in range(count):
        start, stop = n * step, min(n * step + room, len(content))
        windows.append([ids[0], *content[start:stop], ids[-1]])
        upto = stop if n == count - 1 else stop - (stop - (n + 1) * step + 1) // 2  # the middle of the overlap
        base = sum(len(w) for w in windows[:-1])
        rows += range(base + 1 + done - start, base + 1 + upto - start)
        done = upto
    rows.append(sum(len(w) for w in windows) - 1)
    return windows, rows


def pieces_of(
    encoding: Encoding, i: int, text: Any, pooling: str, ranges: Sequence | None, number: int
) -> tuple[list[list[int]] | None, list[dict] | None]:
    """Rows and labels of the vectors a ragged pooling gives for text i; nothing for the others."""
    if pooling not in RAGGED:
        return None, None
    texts = (text,) if isinstance(text, str) else tuple(text)
    pieces, offsets, sequences = encoding.tokens[i], encoding.offsets[i], encoding.sequence_ids[i]
    if pooling == "tokens":
        return None, [{"piece": piece, "start": a, "end": b} for piece, (a, b) in zip(pieces, offsets, strict=True)]

    def label(text: str, start: int, end: int, rows: list[int]) -> dict:
        return {"word": text[start:end], "start": start, "end": end, "pieces": [pieces[row] for row in rows]}

    groups, items = [], []
    if pooling == "spans":
        for start, end in ranges or ():
            if not 0 <= start < end <= len(texts[0]):
                raise InputError(f"span ({start}, {end}) is not inside text {number} of {len(texts[0])} characters")
            rows = [row for row, (a, b) in enumerate(offsets) if sequences[row] == 0 and a < end and b > start]
            groups.append(rows)
            items.append(label(texts[0], start, end, rows))
        return groups, items
    words: dict[tuple[int, int], list[int]] = {}
    for row, (word, sequence) in enumerate(zip(encoding.word_ids[i], sequences, strict=True)):
        if word is not None and sequence is not None:
            words.setdefault((sequence, word), []).append(row)
    for (sequence, word), rows in words.items():
        groups.append(rows)
        items.append(label(texts[sequence], *(encoding.word_to_chars(i, word, sequence) or (0, 0)), rows))
    return groups, items


def chunks(numbers: list[int], lengths: list[int], most: int) -> Iterator[list[int]]:
    """Runs of numbers whose lengths add up to at most `most`, one at least in each."""
    chunk: list[int] = []
    total = 0
    for number, length in zip(numbers, lengths, strict=True):
        if chunk and total + length > most:
            yield chunk
            chunk, total = [], 0
        chunk.append(number)
        total += length
    if chunk:
        yield chunk
