"""Tags of words: schemes, entities and their F1; and labels of words as labels of pieces, and back.

A scheme says in the prefix of a tag where its entity begins. Whatever a file has (columns.py reads it), here it becomes
IOB2: B- at the first word of every entity, I- at the others, O outside. tag.py makes a task of it.
Source: Ramshaw and Marcus 1995 (IOB1); Tjong Kim Sang and De Meulder 2003 (entity F1).
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from minialbert.errors import InputError

SCHEMES = ("iob2", "iob1", "bioes", "io", "plain")
PREFIXED = re.compile("([BIMESLU])-(.+)", re.DOTALL)
BARE = frozenset("BIMESLU")  # where there is one kind of entity and nobody named it
UNNAMED = "_"  # its type
IGNORED = -100

T = TypeVar("T")


# ---- tags and entities ----


class Entity(NamedTuple):
    """Words start:end of a sentence are one thing of this type."""

    type: str
    start: int
    end: int


def parts(tag: str) -> tuple[str, str]:
    """Prefix and type: "B-PER" is B and PER, "O" is O and "", "B" is B and "_", "PER" is I and PER."""
    if tag == "O":
        return "O", ""
    found = PREFIXED.fullmatch(tag)
    return (found[1], found[2]) if found else (tag, UNNAMED) if tag in BARE else ("I", tag)


def entities(tags: Sequence[str], strict: bool = False) -> list[Entity]:
    """The entities of a sentence, in order.

    An entity goes on while its type does, until B, S or U begins another or E, L, S or U has ended it; so an I that
    continues nothing begins one, as in the CoNLL shared tasks. strict: B alone begins one (IOB2 by the letter), and
    such an I is nothing.

    >>> entities(["B-PER", "I-PER", "O", "I-LOC"])
    [Entity(type='PER', start=0, end=2), Entity(type='LOC', start=3, end=4)]
    >>> entities(["B-PER", "I-PER", "O", "I-LOC"], strict=True)
    [Entity(type='PER', start=0, end=2)]
    """
    found: list[Entity] = []
    open_type, ended = "", True  # of the entity that the word before belongs to
    for at, tag in enumerate(tags):
        prefix, kind = parts(tag)
        if prefix == "O":
            open_type = ""
        elif prefix in "BSU" or ended or kind != open_type:
            open_type = "" if strict and prefix != "B" else kind
            if open_type:
                found.append(Entity(kind, at, at + 1))
        else:
            found[-1] = found[-1]._replace(end=at + 1)
        ended = prefix in "ESLU" or not open_type
    return found


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities in IOB2, from any scheme.

    >>> to_iob2(["I-PER", "I-PER", "B-PER", "O", "S-LOC"])
    ['B-PER', 'I-PER', 'B-PER', 'O', 'B-LOC']
    """
    out = ["O"] * len(tags)
    for kind, start, end in entities(tags):
        name = "" if kind == UNNAMED else f"-{kind}"
        out[start:end] = [f"B{name}"] + [f"I{name}"] * (end - start - 1)
    return out


def scheme_of(sentences: Sequence[Sequence[str]]) -> str:
    """Which scheme tags are in, one of SCHEMES; I- alone is "io", though it may be IOB1 in which nothing is adjacent.

    Tags without prefixes are "io" where there is an O among them, else "plain" (parts of speech). Prefixes may stand
    alone: where all tags but O are such letters, B among them, or where B, I and O are there.
    """
    tags = {tag for sentence in sentences for tag in sentence}
    prefixes = {tag[0] for tag in tags if PREFIXED.fullmatch(tag)}
    if not prefixes and "B" in tags and (tags <= BARE | {"O"} or {"I", "O"} <= tags):
        prefixes = tags & BARE
    if not prefixes:
        return "io" if "O" in tags else "plain"
    if prefixes - {"B", "I"}:
        return "bioes"
    if "B" not in prefixes:
        return "io"
    pairs = [(parts(a), parts(b)) for tags in sentences for a, b in zip(["O", *tags], tags, strict=False)]
    between = all(a[1] == b[1] for a, b in pairs if b[0] == "B")  # IOB1 writes B only between two of one type
    return "iob1" if between and any(a[1] != b[1] for a, b in pairs if b[0] == "I") else "iob2"


# ---- how good tags are ----


def entity_scores(
    truth: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], strict: bool = False
) -> dict[str, Any]:
    """Micro precision, recall and F1 of entities, from 0 to 1, and "types": the same for each type.

    An entity is right when its type and both its ends are. What would be divided by 0 is 0. `support` counts true ones.
    """
    true, said, right = Counter[str](), Counter[str](), Counter[str]()
    for these, those in zip(truth, answers, strict=True):
        if len(these) != len(those):
            raise InputError(f"{len(those)} tags for a sentence of {len(these)} words")
        gold, found = set(entities(these, strict)), set(entities(those, strict))
        for counter, members in ((true, gold), (said, found), (right, gold & found)):
            counter.update(entity.type for entity in members)

    def told(right: int, said: int, true: int) -> dict[str, Any]:
        precision, recall, both = right / max(said, 1), right / max(true, 1), said + true
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * right / max(both, 1),
            "support": true,
            "answered": said,
        }

    types = {kind: told(right[kind], said[kind], true[kind]) for kind in sorted(true.keys() | said.keys())}
    return {**told(right.total(), said.total(), true.total()), "types": types}


# ---- words and pieces ----


def labels_to_pieces(word_ids: Sequence[int | None], labels: Sequence[T], ignored: Any = IGNORED) -> list[T | Any]:
    """A label for each piece, from one for each word: the first piece of a word has it, all others are `ignored`.

    >>> labels_to_pieces([None, 0, 0, 2, None], ["B", "O", "I"])
    [-100, 'B', -100, 'I', -100]
    """
    first = first_pieces(word_ids)
    out: list[T | Any] = [ignored] * len(word_ids)
    for word, place in first.items():
        out[place] = labels[word]
    return out


def pieces_to_labels(word_ids: Sequence[int | None], values: Sequence[T], words: int) -> list[T | None]:
    """A value for each of so many words, from one for each piece: that of the first piece; None where a word has none.

    >>> pieces_to_labels([None, 0, 0, 2, None], ["x", "B", "y", "I", "z"], words=3)
    ['B', None, 'I']
    """
    first = first_pieces(word_ids)
    return [values[first[word]] if word in first else None for word in range(words)]


def first_pieces(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Where the first piece of each word stands; `word_ids` are those of an Encoding."""
    first: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None:
            first.setdefault(word, place)
    return first
