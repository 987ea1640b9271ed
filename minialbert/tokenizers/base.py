"""`Tokenizer`: what ALBERT's and BERT's tokenizers share. Special tokens, pairs, truncation, padding, files, pickling.

The two kinds (sentencepiece.py, wordpiece.py) only say how a stretch of ordinary text becomes ids, and how it becomes
`Token`s that know where they came from. What is returned is in encoding.py.
"""

import hashlib
import json
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from minialbert.errors import CheckpointError, InputError, nearest
from minialbert.tokenizers.batch import STRATEGIES, Text, batch_of, checked, kept_slices, padded_width
from minialbert.tokenizers.encoding import MODEL_KEYS, Encoding, Line, Row, Token
from minialbert.tokenizers.files import ROLES, json_bytes, read_bytes, write_whole
from minialbert.tokenizers.vocabulary import Vocabulary

NEEDED = ("unk", "cls", "sep")  # without [PAD] or [MASK] one can work, as long as nothing needs them
WHOLE = (slice(None), slice(None))  # which content tokens of two texts stay when nothing is cut


class Tokenizer(Vocabulary):
    """Text to ids and back. Made by `load_tokenizer`, or by a subclass from the path of a vocabulary file.

    Settings are attributes; SETTINGS of each subclass lists them with their defaults. A tokenizer can be pickled; two
    are equal when they give the same ids for every text.
    """

    SETTINGS: ClassVar[dict[str, Any]]  # name of a setting: default
    SPECIAL: ClassVar[dict[str, str]]  # role of a special token: its usual name
    FILE_NAME: ClassVar[str]
    HF_CLASS: ClassVar[str]

    model_max_length: int | None

    def __init__(
        self,
        source: str | Path,
        data: bytes | None = None,
        special: dict[str, str] | None = None,
        why: str = "it was given",
        **settings: Any,
    ):
        """`data`: the file's bytes, read from `source` if left out. `special`: role to token, where unusual."""
        self.source, self.why = Path(source), why
        self.data = read_bytes(self.source) if data is None else data
        for name in settings:
            if name not in self.SETTINGS:
                hint = nearest(name, self.SETTINGS) or "none"
                raise InputError(f"a {self.kind} tokenizer has no setting {name!r}. Nearest: {hint}")
        for name, default in self.SETTINGS.items():
            setattr(self, name, settings.get(name, default))
        if self.flavor not in ("hf", "google"):
            raise InputError(f'flavor={self.flavor!r} must be "hf" or "google"')
        if isinstance(self.allowed_special, str):
            raise InputError("allowed_special is a collection of tokens, not one string")
        if self.allowed_special is not None:
            self.allowed_special = sorted(set(self.allowed_special))
        self._load()
        names = {**self.SPECIAL, **(special or {})}
        super().__init__({role: names[role] for role in ROLES})
        missing = [name for role, (name, number) in self._roles.items() if number is None and role in NEEDED]
        if missing:
            raise CheckpointError(self._missing_message(missing))

    # ---- what the two kinds supply ----

    @abstractmethod
    def _load(self) -> None:
        """Reads self.data. Raises FileError."""

    @abstractmethod
    def _segment_ids(self, text: str) -> list[int]:
        """Ids of ordinary text, fast."""

    @abstractmethod
    def _segment_tokens(self, text: str) -> tuple[list[Token], int]:
        """The same as Tokens, words counted from 0; and the number of words."""

    @abstractmethod
    def _missing_message(self, missing: list[str]) -> str: ...

    @abstractmethod
    def tokenizer_json(self) -> dict[str, Any] | None:
        """The content of a tokenizer.json with this tokenizer's ids; None if such a file cannot hold the vocabulary."""

    # ---- one text ----

    def _content_ids(self, text: Text) -> list[int]:
        """Ids of a text, or of a list of words one after the other, without [CLS] and [SEP] around."""
        if isinstance(text, list):
            return [number for word in text for number in self._content_ids(word)]
        if not self._may_hold_special(text):
            return self._segment_ids(text)
        ids: list[int] = []
        for start, end, found in self._segments(text):
            ids += self._segment_ids(text[start:end]) if found is None else [found]
        return ids

    def _content_tokens(self, text: Text) -> list[Token]:
        """The same with origins. Words are counted through; a special token is a word of its own.

        In a list of words each word keeps its place in the list as its number, whatever it holds.
        """
        if isinstance(text, list):
            each = [self._content_tokens(word) for word in text]
            return [token._replace(word=number) for number, tokens in enumerate(each) for token in tokens]
        out: list[Token] = []
        words = 0
        for start, end, found in self._segments(text):
            if found is not None:
                out.append(Token(self.convert_ids_to_tokens(found), found, start, end, words))
                words += 1
                continue
            tokens, count = self._segment_tokens(text[start:end])
            out += [Token(t.piece, t.id, t.start + start, t.end + start, t.word + words) for t in tokens]
            words += count
        return out

    def tokenize(self, text: str) -> list[str]:
        """The pieces of a text, without [CLS] and [SEP] around."""
        return [token.piece for token in self._content_tokens(checked(text, 0, False))]

    def encode(self, text: str, pair: str | None = None) -> list[int]:
        """Ids of a text or pair with [CLS] and [SEP] around; "" as second text is an empty pair."""
        first = self._content_ids(checked(text, 0, False))
        return self.build(first, None if pair is None else self._content_ids(checked(pair, 0, False)))[0]

    def num_special(self, pair: bool) -> int:
        """How many ids `build` puts around a text (2) or a pair (3)."""
        return 3 if pair else 2

    def build(self, ids_a: list[int], ids_b: list[int] | None = None) -> tuple[list[int], list[int]]:
        """[CLS] A [SEP] or [CLS] A [SEP] B [SEP] around ready ids; and token types, 1 after the first [SEP]."""
        first = [self.cls_id, *ids_a, self.sep_id]
        if ids_b is None:
            return first, [0] * len(first)
        second = [*ids_b, self.sep_id]
        return first + second, [0] * len(first) + [1] * len(second)

    # ---- a batch ----

    def __call__(
        self,
        texts: Any,
        padding: str | bool = "longest",
        truncation: str | bool = False,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        truncation_side: str = "right",
        is_split_into_words: bool = False,
        add_special_tokens: bool = True,
    ) -> Encoding:
        """A batch of texts and pairs as an `Encoding`.

        `texts`: a string (a batch of one), or a list of strings and (first, second) tuples, which are pairs (second
        None: no pair; "": an empty one). With is_split_into_words each text is a list of words instead.
        `padding`: "longest" or True gives arrays [B, T]; "max_length" the same, T at least max_length; False lists.
        `truncation`: False; "longest_first" or True (takes from the longer text, from the second on ties);
        "longest_first_fast" (Hugging Face 5's way); "only_first"; "only_second". max_length counts [CLS] and [SEP]
        and is model_max_length unless given. Nothing is cut unless asked for; `Encoding.cut` counts what was.
        Raises InputError for anything of the wrong type, naming its place in the batch.
        """
        strategy = "longest_first" if truncation is True else truncation
        if strategy and strategy not in STRATEGIES:
            raise InputError(f"truncation={truncation!r} must be False, True or one of {', '.join(STRATEGIES)}")
        if truncation_side not in ("right", "left"):
            raise InputError(f'truncation_side={truncation_side!r} must be "right" or "left"')
        if padding not in (False, True, "longest", "max_length"):
            raise InputError(f'padding={padding!r} must be "longest", "max_length" or False')
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise InputError(f"pad_to_multiple_of={pad_to_multiple_of} must be at least 1")
        limit = max_length
        if limit is None and (strategy or padding == "max_length"):
            limit = self.model_max_length
            if limit is None:
                raise InputError("max_length is needed: the tokenizer's files do not say how long a text may be")
        cls, sep = self.cls_id, self.sep_id
        rows = []
        for i, (first, second) in enumerate(batch_of(texts, is_split_into_words)):
            a = self._content_ids(first)
            b = None if second is None else self._content_ids(second)
            total, kept = len(a) + len(b or ()), WHOLE
            room = total
            if strategy and limit is not None:
                room = limit - (self.num_special(b is not None) if add_special_tokens else 0)
            if total > room:
                kept = kept_slices(len(a), None if b is None else len(b), room, str(strategy), truncation_side, i)
                a, b = a[kept[0]], None if b is None else b[kept[1]]
            cut = total - len(a) - len(b or ())
            if not add_special_tokens:
                rows.append(Row(first, second, kept, a + (b or []), len(a), cut))
            elif b is None:  # the usual case: what build does, without a list of types nobody needs
                rows.append(Row(first, None, kept, [cls, *a, sep], len(a) + 2, cut))
            else:
                rows.append(Row(first, second, kept, self.build(a, b)[0], len(a) + 2, cut))
        width = padded_width([len(row.ids) for row in rows], padding, limit, pad_to_multiple_of)
        needs_pad = width is not None and any(len(row.ids) < width for row in rows)
        pad_id, pad_token = (self.pad_id, self._roles["pad"][0]) if needs_pad else (0, "")
        return Encoding(rows, width, pad_id, pad_token, self._read)

    def _read(self, row: Row) -> Line:
        """Goes over a row again, this time with origins: what `Encoding` shows beside the ids."""
        parts = [self._content_tokens(row.first)[row.kept[0]]]
        if row.second is not None:
            parts.append(self._content_tokens(row.second)[row.kept[1]])
        around = len(row.ids) - sum(map(len, parts))  # 0, or 2 for a text, 3 for a pair
        cls, sep = ((Token(self._roles[role][0], self._role_id(role), 0, 0, -1), None) for role in ("cls", "sep"))
        line: list[tuple[Token, int | None]] = [cls] if around else []
        for n, tokens in enumerate(parts):
            line += [(token, n) for token in tokens]
            line += [sep] if around else []
        if [token.id for token, _ in line] != row.ids:
            raise InputError("the tokenizer has changed since this encoding was made (tokens added?); encode again")
        words: dict[tuple[int, int], range] = {}
        for at, (token, sequence) in enumerate(line):
            if sequence is not None:
                first = words.get((sequence, token.word), range(at, at)).start
                words[sequence, token.word] = range(first, at + 1)
        return Line(
            tokens=[token.piece for token, _ in line],
            offsets=[(token.start, token.end) for token, _ in line],
            word_ids=[None if sequence is None else token.word for token, sequence in line],
            sequence_ids=[sequence for _, sequence in line],
            words=words,
        )

    # ---- identity, files, pickling ----

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting by name."""
        return {name: getattr(self, name) for name in self.SETTINGS}

    def describe(self) -> str:
        """One line: kind, entries, file, why this file, lower-casing, flavor."""
        added = f" and {len(self) - self.vocab_size} added" if len(self) > self.vocab_size else ""
        case = "lower-casing" if self.do_lower_case else "case kept"
        return (
            f"{self.kind} tokenizer, {self.vocab_size} entries{added}, from {self.source} ({self.why}); "
            f"{case}, {self._accents()}, flavor {self.flavor}"
        )

    @abstractmethod
    def _accents(self) -> str: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.describe()}>"

    def digest(self) -> str:
        """SHA-256, as hex, of what determines the ids: vocabulary, settings, special and added tokens."""
        said = {k: v for k, v in self.settings.items() if k != "model_max_length"}
        state = [self.kind, said, sorted(self._roles.items()), sorted(self.added.items())]
        return hashlib.sha256(json.dumps(state).encode() + b"\0" + self.data).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.digest() == other.digest()

    def __hash__(self) -> int:
        return hash(self.digest())

    def __reduce__(self):
        special = {role: name for role, (name, _) in self._roles.items()}
        return rebuild, (type(self), self.source, self.data, special, self.why, self.settings), self._added_state()

    def _added_state(self) -> dict[str, Any]:
        return {"added": dict(self.added), "added_special": set(self.added_special)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.added, self.added_special = dict(state["added"]), set(state["added_special"])
        self._prepare()

    def save_pretrained(self, directory: str | Path) -> None:
        """Writes the vocabulary (byte for byte), tokenizer.json and tokenizer_config.json.

        `load_tokenizer` gives an equal tokenizer. transformers reads tokenizer.json and gives the same ids, in the
        cases tested; a warning says what the file cannot express (`differences`). Each file is written under a
        temporary name and renamed. Raises FileError.
        """
        directory, whole, lost = Path(directory), self.tokenizer_json(), self.differences()
        config = {
            **self.settings,
            "tokenizer_class": "PreTrainedTokenizerFast" if whole else self.HF_CLASS,
            "model_input_names": list(MODEL_KEYS),
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": not self.splits(),
            "added_tokens_decoder": {str(number): entry for number, entry in self.entries().items()},
        }
        config.update({f"{role}_token": name for role, (name, number) in self._roles.items() if number is not None})
        config = {name: value for name, value in config.items() if value is not None}
        write_whole(directory / self.FILE_NAME, self.data)
        if whole:
            write_whole(directory / "tokenizer.json", json_bytes(whole))
        else:
            (directory / "tokenizer.json").unlink(missing_ok=True)
        write_whole(directory / "tokenizer_config.json", json_bytes(config))
        if lost:
            warnings.warn(f"{directory}: in transformers, other ids for {'; '.join(lost)}", stacklevel=2)


def rebuild(cls, source, data, special, why, settings) -> Tokenizer:
    """A pickled tokenizer made anew from its vocabulary: the loaded library objects do not travel."""
    return cls(source, data=data, special=special, why=why, **settings)
