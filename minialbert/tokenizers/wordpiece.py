"""`WordPieceTokenizer`: BERT's tokenizer, written out. Chinese ALBERT and every BERT use it.

A text is cut into words (normalize.py); each word is spelled with the longest pieces of the vocabulary, from the left.
base.py does the rest; English ALBERT's tokenizer is in sentencepiece.py.
Source: Devlin et al. 2019 and the rules of Google's tokenizer, as measured.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar

from minialbert.errors import FileError
from minialbert.tokenizers.base import Tokenizer
from minialbert.tokenizers.encoding import Token
from minialbert.tokenizers.normalize import chunks_of, text_of, words_aligned, words_of_chunk
from minialbert.tokenizers.write_json import whole_json, wordpiece_parts

CACHED_CHUNKS = 200_000  # distinct stretches between white space that are remembered with their ids
LONGEST_CACHED = 40


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer.

    A word is what BERT's basic tokenizer gives: text between white space, every punctuation sign and every ideograph
    by itself; a special token in the text is a word of its own. Words that cleaning removes whole are not counted.
    A word that cannot be spelled, or longer than `max_chars` characters, is one [UNK] that covers all of it.

    Of two equal lines of the vocabulary the later one is used, as in Hugging Face; ids are always line numbers.
    """

    kind = "wordpiece"
    FILE_NAME = "vocab.txt"
    HF_CLASS = "BertTokenizer"
    SPECIAL: ClassVar[dict[str, str]] = {
        "pad": "[PAD]",
        "unk": "[UNK]",
        "cls": "[CLS]",
        "sep": "[SEP]",
        "mask": "[MASK]",
    }
    SETTINGS: ClassVar[dict[str, Any]] = {
        "flavor": "hf",  # "google": private-use characters kept, sigma by its place, no special tokens in text
        "do_lower_case": True,
        "strip_accents": None,  # None: as do_lower_case
        "tokenize_chinese_chars": True,
        "max_chars": None,  # None: 100, but 200 in flavor "google" and for Google's vocab_chinese.txt
        "split_special": None,  # recognise [MASK] and the others in text? None: yes in flavor "hf"
        "allowed_special": None,  # which of them; None: all. () forbids them in text that is not trusted
        "model_max_length": 512,
    }
    strip_accents: bool | None
    tokenize_chinese_chars: bool
    max_chars: int

    def _load(self) -> None:
        self._pieces = read_vocabulary(self.data, str(self.source))
        self._ids = {piece: i for i, piece in enumerate(self._pieces)}
        if self.max_chars is None:
            google = self.flavor == "google" or self.source.name == "vocab_chinese.txt"
            self.max_chars = 200 if google else 100
        self._longest = max(map(len, self._pieces))
        self._strip = self.do_lower_case if self.strip_accents is None else self.strip_accents
        self._hf = self.flavor == "hf"
        self._cache = ChunkCache(self)

    def _missing_message(self, missing: list[str]) -> str:
        return f"{self.source}: the vocabulary has no line {', '.join(missing)}; it is not one of BERT's"

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def _vocabulary_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def _vocabulary_token(self, number: int) -> str:
        return self._pieces[number]

    def _accents(self) -> str:
        return "accents removed" if self._strip else "accents kept"

    # ---- text to pieces ----

    def _segment_ids(self, text: str) -> list[int]:
        chunks = chunks_of(text, self.do_lower_case, self._hf)
        return list(chain.from_iterable(map(self._cache.__getitem__, chunks)))

    def spell(self, word: str) -> list[tuple[int, int, int]]:
        """A word as (start, end, id) of each piece: the longest from the left, continuations with ## in front.

        If any rest cannot be spelled, the whole word is one unknown piece.
        """
        if len(word) > self.max_chars:
            return [(0, len(word), self.unk_id)]
        out, start, prefix = [], 0, ""
        while start < len(word):
            end = min(len(word), start + self._longest)
            while end > start and (number := self._ids.get(prefix + word[start:end])) is None:
                end -= 1
            if end == start or number is None:
                return [(0, len(word), self.unk_id)]
            out.append((start, end, number))
            start, prefix = end, "##"
        return out

    def _segment_tokens(self, text: str) -> tuple[list[Token], int]:
        words = words_aligned(text, self.do_lower_case, self._strip, self.tokenize_chinese_chars, self._hf)
        tokens = []
        for n, word in enumerate(words):
            for start, end, number in self.spell(text_of(word)):
                tokens.append(Token(self._pieces[number], number, word[start].start, word[end - 1].end, n))
        return tokens, len(words)

    def tokenizer_json(self) -> dict[str, Any]:
        parts = wordpiece_parts(self._pieces, self._roles["unk"][0], self.settings)
        return whole_json(parts, self.entries(), self.cls_id, self.sep_id)

    def _join(self, pieces: list[str]) -> str:
        """Words with spaces between them; none before . , ! ? (as Hugging Face prints them)."""
        out = ""
        for piece in pieces:
            if piece.startswith("##") and out:
                out += piece[2:]
            else:
                out += piece if not out or piece in (".", ",", "!", "?") else " " + piece
        return out


class ChunkCache(dict):
    """text between white space: its ids. Most of a corpus has been seen before; what is missing is spelled once."""

    def __init__(self, tokenizer: WordPieceTokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, chunk: str) -> Sequence[int]:
        tokenizer = self.tokenizer
        words = words_of_chunk(chunk, tokenizer._strip, tokenizer.tokenize_chinese_chars, tokenizer._hf)
        whole, most, ids = tokenizer._ids, tokenizer.max_chars, []
        for word in words:
            if len(word) <= most and (number := whole.get(word)) is not None:  # most words are pieces
                ids.append(number)
            elif len(words) > 1:
                ids += self[word]  # it may have stood alone, or beside another sign
            else:
                ids += [number for _, _, number in tokenizer.spell(word)]
        if len(chunk) <= LONGEST_CACHED:
            if len(self) >= CACHED_CHUNKS:
                self.clear()
            self[chunk] = tuple(ids)
        return ids


def read_vocabulary(data: bytes, source: str) -> list[str]:
    """One token a line, its id the number of the line from 0; only the line end is taken off. Raises FileError."""
    try:
        lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FileError(f"{source}: line {line} is not UTF-8; is this a vocabulary?") from error
    if lines and not lines[-1]:
        lines.pop()
    if not any(lines):
        raise FileError(f"{source}: is empty; a WordPiece vocabulary has one token a line")
    return lines


def is_cased(pieces: list[str]) -> bool:
    """Whether a vocabulary was made from text with its capitals: then more than a few of its words have one."""
    words = [piece for piece in pieces if not (piece.startswith("[") and piece.endswith("]"))]
    return sum(word != word.lower() for word in words) > 0.05 * len(words)
