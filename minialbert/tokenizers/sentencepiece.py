"""`SentencePieceTokenizer`: ALBERT's tokenizer around the sentencepiece library.

clean (normalize.py), SentencePiece, then one rule of ALBERT's own: a piece that ends in digit and comma is cut again,
so that numbers do not carry the comma with them. base.py does the rest; BERT's tokenizer is in wordpiece.py.
Source: Lan et al. 2020, section 4.1; Kudo 2018 (unigram); the rules of both reference tokenizers, as measured.
"""

import re
from bisect import bisect_right
from typing import Any, ClassVar

import sentencepiece

from minialbert.errors import InputError
from minialbert.tokenizers.base import Tokenizer
from minialbert.tokenizers.encoding import Token
from minialbert.tokenizers.model_file import check_model, read_rules
from minialbert.tokenizers.normalize import Char, clean, clean_aligned, ends_in_digit_comma, text_of
from minialbert.tokenizers.write_json import MARK, unigram_parts, whole_json

WORD = re.compile(r"\S+")
RECIPE = "train it with [CLS], [SEP] and [MASK] as control symbols, as the ALBERT paper's code says"


class SentencePieceTokenizer(Tokenizer):
    """English ALBERT's tokenizer.

    A word is a run of the original text between white space, so `word_ids` count `text.split()`; a special token in
    the text is a word of its own. A word of which nothing is left after cleaning has no tokens, its number is skipped.
    A lone mark (the piece of a space by itself) has an empty span at the next character.
    """

    kind = "sentencepiece"
    swallows_left = "[MASK]"
    FILE_NAME = "spiece.model"
    HF_CLASS = "AlbertTokenizer"
    SPECIAL: ClassVar[dict[str, str]] = {
        "pad": "<pad>",
        "unk": "<unk>",
        "cls": "[CLS]",
        "sep": "[SEP]",
        "mask": "[MASK]",
    }
    SETTINGS: ClassVar[dict[str, Any]] = {
        "flavor": "hf",  # "google": what the public training code does
        "do_lower_case": True,
        "keep_accents": False,
        "remove_space": True,
        "split_special": None,  # recognise [MASK] and the others in text? None: yes in flavor "hf"
        "allowed_special": None,  # which of them; None: all. () forbids them in text that is not trusted
        "model_max_length": 512,
    }
    keep_accents: bool
    remove_space: bool

    def _load(self) -> None:
        check_model(self.data, self.source)
        self._sp = sentencepiece.SentencePieceProcessor(model_proto=self.data)
        self._size = self._sp.get_piece_size()
        pieces = [self._sp.id_to_piece(i) for i in range(self._size)]
        self._clean_args = (self.do_lower_case, self.keep_accents, self.remove_space, self.flavor == "hf")
        # Most texts hold no piece that the comma rule touches; the ids say so without looking at any string.
        self._comma_ids = {i for i, piece in enumerate(pieces) if ends_in_digit_comma(piece)}
        if self._sp.is_unknown(self._sp.piece_to_id(",")):
            self._comma_ids.add(self._sp.unk_id())  # an unknown stretch could end so too
        self._nothing: dict[str, bool] = {}  # character: does SentencePiece's own normalizer delete it?

    def _missing_message(self, missing: list[str]) -> str:
        return f"{self.source}: the SentencePiece model has no {', '.join(missing)}; it is not ALBERT's: {RECIPE}"

    @property
    def vocab_size(self) -> int:
        return self._size

    def _vocabulary_id(self, token: str) -> int | None:
        number = self._sp.piece_to_id(token)
        return number if self._sp.id_to_piece(number) == token else None

    def _vocabulary_token(self, number: int) -> str:
        return self._sp.id_to_piece(number)

    def _accents(self) -> str:
        return "accents kept" if self.keep_accents else "accents removed"

    def user_defined(self, number: int) -> bool:
        """Is the piece one that the model's trainer was told to keep whole? It gives score 0 to these alone."""
        return not self._sp.is_control(number) and not self._sp.is_unknown(number) and self._sp.get_score(number) == 0.0

    def _pattern(self, token: str) -> str:
        """transformers 4 lower-cases a text before it looks for special tokens, so <PAD> is <pad> to it."""
        pattern = super()._pattern(token)
        small = self.flavor == "hf" and self.do_lower_case and token == token.lower() and token in self.special_tokens
        return f"(?i:{pattern})" if small else pattern

    # ---- text to pieces ----

    def clean(self, text: str) -> str:
        """The text as SentencePiece sees it."""
        return clean(text, *self._clean_args)

    def _segment_ids(self, text: str) -> list[int]:
        text = clean(text, *self._clean_args)
        ids = self._sp.encode(text)
        if self._comma_ids.isdisjoint(ids):
            return ids
        return [number for _, number in self._pieces(text)]

    def _pieces(self, text: str) -> list[tuple[str, int]]:
        """Pieces and ids of a cleaned text, the comma rule applied.

        An unknown stretch gets the unknown id even where its text is the name of a special piece.
        """
        out: list[tuple[str, int]] = []
        for piece, number in zip(self._sp.encode(text, out_type=str), self._sp.encode(text), strict=True):
            if number in self._comma_ids and ends_in_digit_comma(piece):
                out += [(part, self._text_id(part)) for part in self._without_comma(piece)]
            else:
                out.append((piece, number))
        return out

    def _without_comma(self, piece: str) -> list[str]:
        """'▁2009,' as the pieces of '2009', then ','.

        Encoding '2009' puts a mark in front. Hugging Face takes it away again if the piece had none; Google's code
        means to and does not, because it compares text with bytes.
        """
        parts = self._sp.encode(piece[:-1].replace(MARK, ""), out_type=str)
        if self.flavor == "hf" and not piece.startswith(MARK) and parts and parts[0].startswith(MARK):
            parts = [parts[0][1:], *parts[1:]] if len(parts[0]) > 1 else parts[1:]
        return [*parts, ","]

    def _text_id(self, piece: str) -> int:
        """The id of a piece that came out of text: never that of a control piece."""
        number = self._sp.piece_to_id(piece)
        return self._sp.unk_id() if self._sp.is_control(number) else number

    def _segment_tokens(self, text: str) -> tuple[list[Token], int]:
        chars = clean_aligned(text, *self._clean_args)
        pieces = self._pieces(text_of(chars))
        spans = self._spans(chars)
        widths = [len(piece) - piece.count(MARK) for piece, _ in pieces]  # a mark comes from no character of its own
        if sum(widths) != len(spans):
            raise InputError(f"{self.source}: pieces and text do not agree (a model with byte pieces?): no offsets")
        words = [match.start() for match in WORD.finditer(text)]
        tokens, at = [], 0
        for (piece, number), width in zip(pieces, widths, strict=True):
            start = spans[at][0] if at < len(spans) else len(text)
            end = spans[at + width - 1][1] if width else start
            tokens.append(Token(piece, number, start, end, max(bisect_right(words, start) - 1, 0)))
            at += width
        return tokens, len(words)

    def _spans(self, chars: list[Char]) -> list[tuple[int, int]]:
        """start, end in the original text of each character, marks left out, that SentencePiece cuts into pieces.

        Its own normalizer comes after our cleaning: it tells for each character where in the cleaned text it begins.
        Several may begin at one place (½ gives 1⁄2); what it deletes belongs to nothing.
        """
        cleaned = text_of(chars)
        normalized, begins = self._sp.normalize(cleaned, with_offsets=True)
        ends = list(begins[1:])
        for k in range(len(ends) - 2, -1, -1):
            if ends[k] == begins[k]:
                ends[k] = ends[k + 1]
        spans = []
        for c, first, end in zip(normalized, begins, ends, strict=False):
            if c != MARK:
                last = max(end - 1, first)
                while last > first and self._deleted(cleaned[last]):
                    last -= 1
                spans.append((chars[first].start, chars[last].end))
        return spans

    def _deleted(self, c: str) -> bool:
        if c not in self._nothing:
            self._nothing[c] = not self._sp.normalize(c)
        return self._nothing[c]

    # ---- to transformers ----

    def tokenizer_json(self) -> dict[str, Any] | None:
        rules = read_rules(self.data)
        if not rules.unigram or rules.suffix:
            return None
        sp, numbers = self._sp, range(self._size)
        vocabulary = [(sp.id_to_piece(i), sp.get_score(i)) for i in numbers]
        unreachable = [piece for i, (piece, _) in enumerate(vocabulary) if sp.is_control(i) or sp.is_unknown(i)]
        parts = unigram_parts(vocabulary, sp.unk_id(), unreachable, rules, sp.normalize, self.settings)
        return whole_json(parts, self.entries(), self.cls_id, self.sep_id)

    def differences(self) -> list[str]:
        out = super().differences()
        if self.flavor == "google" and any(not self._sp.id_to_piece(i).startswith(MARK) for i in self._comma_ids):
            out.append("a digit and a comma inside a word (flavor google puts a mark before them)")
        rules = read_rules(self.data)
        if not rules.unigram or rules.suffix:
            out.append("any text (tokenizer.json cannot hold a model of this type, and was not written)")
        return out

    def _join(self, pieces: list[str]) -> str:
        return "".join(pieces).replace(MARK, " ").strip()
