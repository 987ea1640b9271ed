"""`Encoding`: what a tokenizer returns for a batch, and the three views on a text (characters, words, pieces).

Ids are there at once. Pieces, offsets and word numbers are worked out when they are first asked for, by going over
the text a second time with origins (normalize.py); they are held equal to the ids. base.py makes the encodings.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from minialbert.errors import InputError, NameUnknown

MODEL_KEYS = ("input_ids", "attention_mask", "token_type_ids")


class Token(NamedTuple):
    """One piece of a text: its string, its id, the code points start:end it comes from, the number of its word."""

    piece: str
    id: int
    start: int
    end: int
    word: int


class Row(NamedTuple):
    """One text or pair of the batch: its ids, and what is needed to go over it again.

    `first` and `second` are a string or a list of words (`second` None: no pair); the slices say which of their
    content tokens were kept; from position `turn` on the token types are 1.
    """

    first: Any
    second: Any
    kept: tuple[slice, slice]
    ids: list[int]
    turn: int
    cut: int


class Line(NamedTuple):
    """The positions of one row without padding: one entry per id in each of the lists."""

    tokens: list[str]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    sequence_ids: list[int | None]
    words: dict[tuple[int, int], range]  # (sequence, word): its positions


class Encoding(Mapping):
    """A batch of B texts as ids; `model(**encoding)` passes input_ids, attention_mask and token_type_ids.

    With padding these three are int64 arrays [B, T] (attention_mask is 1 at real tokens, 0 at padding); without, they
    are lists of B lists. The other attributes are lists with one entry per text, padded like the ids:

    offsets              (start, end) in code points of the original text; of the word if the text came as words;
                         (0, 0) at [CLS], [SEP] and padding
    word_ids             number of the word within its sequence, None at [CLS], [SEP] and padding
    sequence_ids         0 first text, 1 second text, None elsewhere
    special_tokens_mask  1 at [CLS], [SEP] of the template and at padding, else 0 (a [MASK] found in the text is 0)
    tokens               the pieces as strings
    cut                  how many content tokens truncation removed from each text, an int

    len(encoding) is B. What a word is: see the class of the tokenizer.
    """

    def __init__(self, rows: list[Row], width: int | None, pad_id: int, pad_token: str, read: Callable[[Row], Line]):
        self._rows, self._width, self._pad_id, self._pad_token, self._read = rows, width, pad_id, pad_token, read
        self._lines: dict[int, Line] = {}

    @cached_property
    def input_ids(self) -> Any:
        if self._width is None:
            return [list(row.ids) for row in self._rows]
        out = np.full((len(self), self._width), self._pad_id, dtype=np.int64)
        out[self._filled()] = np.fromiter(chain.from_iterable(row.ids for row in self._rows), dtype=np.int64)
        return out

    @cached_property
    def attention_mask(self) -> Any:
        return [[1] * len(row.ids) for row in self._rows] if self._width is None else self._filled().astype(np.int64)

    def _filled(self) -> np.ndarray:
        """bool [B, T], true where a row has ids."""
        lengths = np.array([len(row.ids) for row in self._rows], dtype=np.int64)
        return np.arange(self._width or 0) < lengths[:, None]

    @cached_property
    def token_type_ids(self) -> Any:
        if self._width is None:
            return [[0] * row.turn + [1] * (len(row.ids) - row.turn) for row in self._rows]
        out = np.zeros((len(self), self._width), dtype=np.int64)
        for i, row in enumerate(self._rows):
            if row.turn < len(row.ids):
                out[i, row.turn : len(row.ids)] = 1
        return out

    # ---- the mapping that a model takes ----

    def keys(self):
        return dict.fromkeys(MODEL_KEYS).keys()

    def __getitem__(self, key: str) -> Any:
        if key not in MODEL_KEYS:
            hint = f"; it is an attribute: encoding.{key}" if hasattr(type(self), str(key)) else ""
            raise NameUnknown(f"an encoding has the keys {', '.join(MODEL_KEYS)}, not {key!r}{hint}")
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(MODEL_KEYS)

    def __contains__(self, key: object) -> bool:
        return key in MODEL_KEYS

    def __len__(self) -> int:
        return len(self._rows)

    def __bool__(self) -> bool:
        return True

    __eq__ = object.__eq__  # arrays have no single truth value: two encodings are equal when they are one
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        lengths = [len(row.ids) for row in self._rows]
        if self._width is not None:
            shape = f"[{len(self)}, {self._width}]"
        else:
            shape = f"{len(self)} lists of {min(lengths, default=0)} to {max(lengths, default=0)}"
        pairs = sum(row.second is not None for row in self._rows)
        cut = sum(row.cut > 0 for row in self._rows)
        notes = (f"{pairs} pairs" if pairs else "") + (", " if pairs and cut else "") + (f"{cut} cut" if cut else "")
        keys = ", ".join(f"{key} {shape}" for key in MODEL_KEYS)
        return f"Encoding({keys}{'; ' + notes if notes else ''}; also offsets, word_ids, sequence_ids, tokens, cut)"

    # ---- one entry per position ----

    @cached_property
    def cut(self) -> list[int]:
        return [row.cut for row in self._rows]

    @cached_property
    def tokens(self) -> list[list[str]]:
        return self._padded("tokens", self._pad_token)

    @cached_property
    def offsets(self) -> list[list[tuple[int, int]]]:
        return self._padded("offsets", (0, 0))

    @cached_property
    def word_ids(self) -> list[list[int | None]]:
        return self._padded("word_ids", None)

    @cached_property
    def sequence_ids(self) -> list[list[int | None]]:
        return self._padded("sequence_ids", None)

    @cached_property
    def special_tokens_mask(self) -> Any:
        mask = [[int(sequence is None) for sequence in row] for row in self.sequence_ids]
        return mask if self._width is None else np.array(mask, dtype=np.int64).reshape(len(self), self._width)

    def _padded(self, name: str, filler: Any) -> list[list]:
        out = []
        for i, row in enumerate(self._rows):
            missing = 0 if self._width is None else self._width - len(row.ids)
            out.append(list(getattr(self._line(i), name)) + [filler] * missing)
        return out

    def _line(self, i: int) -> Line:
        if not -len(self) <= i < len(self):
            raise InputError(f"text {i} of an encoding of {len(self)} texts")
        i %= len(self)
        if i not in self._lines:
            self._lines[i] = self._read(self._rows[i])
        return self._lines[i]

    # ---- three views on one text: characters, words, tokens. i is the text's number in the batch ----

    def token_to_chars(self, i: int, token: int) -> tuple[int, int] | None:
        """start, end of the token in its text; None at [CLS], [SEP] and padding."""
        line = self._line(i)
        return line.offsets[token] if self._real(line, token) else None

    def token_to_word(self, i: int, token: int) -> int | None:
        """The number of the token's word; None at [CLS], [SEP] and padding."""
        line = self._line(i)
        return line.word_ids[token] if self._real(line, token) else None

    def word_to_tokens(self, i: int, word: int, sequence: int = 0) -> range:
        """The tokens of a word; an empty range if the word left none (it was cut, or held only dropped characters)."""
        return self._line(i).words.get((sequence, word), range(0))

    def word_to_chars(self, i: int, word: int, sequence: int = 0) -> tuple[int, int] | None:
        """start, end of what the word's tokens come from; None if it has no tokens."""
        offsets = self._line(i).offsets
        spans = [offsets[t] for t in self.word_to_tokens(i, word, sequence)]
        spans = [span for span in spans if span[0] < span[1]] or spans[:1]
        return (spans[0][0], spans[-1][1]) if spans else None

    def char_to_token(self, i: int, char: int, sequence: int = 0, word: int | None = None) -> int | None:
        """The first token that comes from the character; None for white space, dropped characters and what was cut.

        For a text that came as words, `word` says in which of them the character is.
        """
        line = self._line(i)
        self._needs_word(i, sequence, word)
        for (of, number), tokens in line.words.items():
            if of == sequence and word in (None, number):
                for t in tokens:
                    if line.offsets[t][0] <= char < line.offsets[t][1]:
                        return t
        return None

    def char_to_word(self, i: int, char: int, sequence: int = 0) -> int | None:
        """The word whose characters hold this one; None for white space and what was cut."""
        self._needs_word(i, sequence, None)
        for of, word in self._line(i).words:
            start, end = self.word_to_chars(i, word, of) or (0, 0)
            if of == sequence and start <= char < end:
                return word
        return None

    def _real(self, line: Line, token: int) -> bool:
        width = len(line.tokens) if self._width is None else self._width
        if not 0 <= token < width:
            raise InputError(f"token {token} of a text of {width} tokens")
        return token < len(line.tokens) and line.sequence_ids[token] is not None

    def _needs_word(self, i: int, sequence: int, word: int | None) -> None:
        row = self._rows[i]
        if word is None and isinstance(row.second if sequence else row.first, list):
            raise InputError("this text came as a list of words: say in which one the character is, word=...")
