"""`Vocabulary`: ids and tokens. Those of the vocabulary file, the special ones, the added ones; and back to text.

Also finds special and added tokens in a text. `Tokenizer` in base.py is built on it.
"""

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, SupportsIndex

from minialbert.errors import InputError


class Vocabulary(ABC):
    """Strings and their ids, both ways. The two kinds of tokenizer say what their file holds."""

    kind: ClassVar[str]
    swallows_left: str | None = None  # a special token that takes the white space before it along
    source: Any
    flavor: str
    do_lower_case: bool
    split_special: bool | None
    allowed_special: Iterable[str] | None

    def __init__(self, names: dict[str, str]):
        """`names`: role of each special token (pad, unk, cls, sep, mask) to its string."""
        self.added: dict[str, int] = {}  # added token: id
        self.added_special: set[str] = set()  # those of them that decode(skip_special_tokens=True) leaves out
        self._roles = {role: (name, self._vocabulary_id(name)) for role, name in names.items()}
        self._prepare()

    # ---- what the two kinds supply ----

    @abstractmethod
    def _vocabulary_id(self, token: str) -> int | None: ...

    @abstractmethod
    def _vocabulary_token(self, number: int) -> str: ...

    @abstractmethod
    def _join(self, pieces: list[str]) -> str: ...

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids of the vocabulary file, added tokens left out."""

    # ---- special and added tokens ----

    @property
    def special_tokens(self) -> dict[str, int]:
        """The special tokens of the vocabulary, by string: padding, unknown, [CLS], [SEP], [MASK]."""
        return {name: number for name, number in self._roles.values() if number is not None}

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset([*self.special_tokens.values(), *(self.added[token] for token in self.added_special)])

    def entries(self) -> dict[int, dict[str, Any]]:
        """Special and added tokens by id, as the files of Hugging Face describe them."""
        flags = {"rstrip": False, "single_word": False, "normalized": False}
        out = {}
        for token, number in {**self.special_tokens, **self.added}.items():
            special = token in self.special_tokens or token in self.added_special
            out[number] = {"content": token, "lstrip": token == self.swallows_left, "special": special, **flags}
        return dict(sorted(out.items()))

    def splits(self) -> bool:
        """Are special tokens recognised in a text? Added ones always are."""
        by_flavor = self.split_special is None and self.flavor == "hf"
        return bool(self.split_special or by_flavor) and (self.allowed_special is None or bool(self.allowed_special))

    def differences(self) -> list[str]:
        """For which texts transformers gives other ids after `save_pretrained`, because of unusual settings."""
        out = []
        if self.splits() and self.allowed_special is not None:
            out.append("special tokens in a text (all recognised there, here only some)")
        if not self.splits() and self.added_special:
            out.append("added special tokens in a text (not recognised there)")
        if self.flavor == "google" and self.do_lower_case:
            out.append("a capital sigma at the end of a word (flavor google)")
        return out

    def _role_id(self, role: str) -> int:
        name, number = self._roles[role]
        if number is None:
            raise InputError(f"{self.source}: the vocabulary has no {name}, which this needs")
        return number

    pad_id = property(lambda self: self._role_id("pad"), doc="Id of the padding token.")
    unk_id = property(lambda self: self._role_id("unk"), doc="Id of the token for what the vocabulary cannot spell.")
    cls_id = property(lambda self: self._role_id("cls"), doc="Id of [CLS].")
    sep_id = property(lambda self: self._role_id("sep"), doc="Id of [SEP].")
    mask_id = property(lambda self: self._role_id("mask"), doc="Id of [MASK].")

    def __len__(self) -> int:
        """Number of ids, added tokens included: what the model's table must have."""
        return self.vocab_size + len(self._beyond)

    def add_tokens(self, tokens: Iterable[str], special: bool = False) -> int:
        """Tokens that are recognised whole wherever they stand in a text; the model's table must grow with them.

        They are matched exactly (before lower-casing), longest first. Returns how many ids were added at the end; a
        token the vocabulary already has keeps its id and counts as none. `special`: decoding may leave it out.
        """
        if isinstance(tokens, str):
            raise InputError(f"add_tokens takes a list of tokens, not one string; did you mean [{tokens!r}]?")
        tokens = list(tokens)
        for token in tokens:
            if not isinstance(token, str) or not token.strip():
                raise InputError(f"an added token must be a string with something visible in it, not {token!r}")
        before = len(self)
        after = before
        for token in tokens:
            if token in self.special_tokens:
                continue
            if token not in self.added:
                known = self._vocabulary_id(token)
                self.added[token] = after if known is None else known
                after += known is None
            if special:
                self.added_special.add(token)
        self._prepare()
        return after - before

    def has(self, token: str) -> bool:
        """Is it a token of the vocabulary, or an added one?"""
        return token in self.added or self._vocabulary_id(token) is not None

    def _prepare(self) -> None:
        """What must be known to find special and added tokens in a text; again whenever tokens are added."""
        wanted = dict(self.added)
        if self.splits():
            known = self.special_tokens
            for token in known if self.allowed_special is None else self.allowed_special:
                if token not in known:
                    raise InputError(f"allowed_special: {token!r} is no special token; there are {', '.join(known)}")
                wanted[token] = known[token]
        self._found_in_text = wanted
        longest_first = sorted(wanted, key=lambda token: (-len(token), token))
        self._splitter = re.compile("|".join(map(self._pattern, longest_first))) if wanted else None
        # A letter has other cases that a pattern may allow: "" is in every text.
        self._first_letters = {"" if token[0].isalpha() else token[0] for token in wanted}
        self._beyond = {number: token for token, number in self.added.items() if number >= self.vocab_size}

    def _pattern(self, token: str) -> str:
        """The regular expression that finds one special or added token."""
        return re.escape(token)

    def _may_hold_special(self, text: str) -> bool:
        """A cheap look at the text before the pattern is tried: most texts hold no bracket at all."""
        for letter in self._first_letters:  # noqa: SIM110 (any() takes three times as long, and this is for every text)
            if letter in text:
                return True
        return False

    def _segments(self, text: str) -> Iterator[tuple[int, int, int | None]]:
        """start, end, id of each special or added token in the text; id None for the ordinary text between them."""
        at = 0
        for match in self._splitter.finditer(text) if self._splitter else ():
            end = match.start()
            if match[0] == self.swallows_left:
                end = at + len(text[at:end].rstrip())
            yield at, end, None
            found = match[0] if match[0] in self._found_in_text else match[0].lower()  # see _pattern
            yield match.start(), match.end(), self._found_in_text[found]
            at = match.end()
        yield at, len(text), None

    # ---- ids to text ----

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """The id of a token, or the ids of several; the unknown id for what is not in the vocabulary."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        known = self.added.get(tokens, self._vocabulary_id(tokens))
        return self.unk_id if known is None else known

    def convert_ids_to_tokens(self, ids: int | Iterable[int]) -> Any:
        """The token of an id, or the tokens of several. Raises InputError for an id that does not exist."""
        if isinstance(ids, Iterable):
            return [self.convert_ids_to_tokens(number) for number in ids]
        if not isinstance(ids, SupportsIndex):
            raise InputError(f"an id is a whole number, not {type(ids).__name__}")
        number = operator.index(ids)
        if not 0 <= number < len(self):
            raise InputError(f"id {number} is not in the vocabulary, which has {len(self)} ids from 0")
        return self._beyond.get(number) or self._vocabulary_token(number)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Ids to a text a person can read. It is not the text that was encoded: that was cleaned first."""
        left_out = self.special_ids if skip_special_tokens else ()
        kept = [number for number in ids if number not in left_out]
        return self._join(self.convert_ids_to_tokens(kept))
