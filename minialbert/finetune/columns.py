"""Sentences of tagged words, read from the columns of CoNLL, and texts cut into words.

What tags mean, and which schemes there are, is in tags.py; tag.py makes a task of it. Nothing here knows a model.
Source: Tjong Kim Sang and De Meulder 2003, for the columns.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minialbert.errors import FileError, InputError
from minialbert.finetune.rows import Problems, shown, text_of
from minialbert.finetune.tags import BARE, PREFIXED, SCHEMES, UNNAMED, entities, parts, scheme_of, to_iob2
from minialbert.tokenizers.normalize import words_aligned

MISSPELT = re.compile("[BI][-_:]", re.IGNORECASE)  # how "b-per", "B_PER" and "B-" begin, and no type should
KINDS = (".conll", ".bio", ".iob", ".iob2", ".iobes", ".bioes", ".tags")  # endings that say what is in the file


@dataclass(frozen=True)
class Sentence:
    """Words, their tags (None: not known), the line they begin in; and where in a text they stand, if they had one."""

    words: tuple[str, ...]
    tags: tuple[str, ...] | None = None
    line: int = 0
    text: str | None = None
    spans: tuple[tuple[int, int], ...] = ()

    @property
    def label(self) -> tuple[str, ...] | None:
        """The tags; data.leakage compares them."""
        return self.tags

    @property
    def key(self) -> tuple[str, None]:
        """The same for sentences that differ only in white space and capitals."""
        return " ".join(" ".join(self.words).lower().split()), None


@dataclass(frozen=True)
class TagData:
    """The sentences of one file, tags in IOB2; `labels` are those there can be, numbered by their place.

    scheme: what the file itself has. changed: how many tags are another now. opened: how many I- followed nothing that
    they could continue, in a file of IOB2 or BIOES; they begin an entity.
    """

    path: str
    examples: tuple[Sentence, ...]
    labels: tuple[str, ...]
    scheme: str
    changed: int = 0
    opened: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def plain(self) -> bool:
        """Parts of speech and the like: a tag for each word, and no entities."""
        return self.scheme == "plain"

    def describe(self) -> str:
        """One line: what was found in the file."""
        about = f"{self.path}: {len(self):,} sentences, {sum(len(s.words) for s in self.examples):,} words"
        if self.scheme == "":
            return about + ", no tags"
        if self.plain:
            return about + f", {len(self.labels)} tags, no entities"
        found = Counter(entity.type for s in self.examples for entity in entities(s.tags or ()))
        about += f", {found.total():,} entities ({', '.join(sorted(found)) or 'none'}), {self.scheme.upper()}"
        about += f", {self.changed:,} tags changed to IOB2" * bool(self.changed)
        return about + f", {self.opened:,} I- that continue nothing begin an entity" * bool(self.opened)


def sentence_of(example: Sentence | str | Sequence[str]) -> Sentence:
    """What is to be tagged: a Sentence, a list of words, or a text, which is cut into words.

    Words of a text are what BERT calls so: white space parts them, each punctuation sign and each ideograph is one.

    >>> sentence_of("In N.Y., today").words
    ('In', 'N', '.', 'Y', '.', ',', 'today')
    """
    if isinstance(example, Sentence):
        return example
    if not isinstance(example, str):
        return Sentence(tuple(example))
    found = words_aligned(example, False, False, True, True)
    spans = tuple((word[0].start, word[-1].end) for word in found)
    return Sentence(tuple(example[start:end] for start, end in spans), text=example, spans=spans)


def labels_of(sentences: Sequence[Sentence], plain: bool = False) -> tuple[str, ...]:
    """O, then B- and I- of every type, sorted; I- too where no entity of the file is longer than a word.

    Of plain tags those that occur, sorted.
    """
    tags = {tag for sentence in sentences for tag in sentence.tags or ()}
    if plain:
        return tuple(sorted(tags))
    ends = sorted({"" if kind == UNNAMED else f"-{kind}" for kind in (parts(tag)[1] for tag in tags - {"O"})})
    return ("O", *(prefix + end for end in ends for prefix in "BI"))


# ---- reading ----


def read_tags(
    path: str | Path, *, scheme: str | None = None, like: TagData | None = None, labelled: bool = True
) -> TagData:
    """The sentences of a file of columns, in UTF-8: a word and its tag a line, a blank line after each sentence.

    The first column is the word, the last the tag, any between are ignored. Columns are parted by tabs if every line
    has one, else by spaces. Skipped are lines of -DOCSTART- (a sentence ends there) and comments: what begins with #
    and has another number of columns, or begins a sentence and ends in no tag that has a prefix or is O.

    scheme: one of SCHEMES, found unless given. Everything but "plain" is changed to IOB2, which `describe` tells.
    like: the training data; its labels are then those there can be, and a tag beyond them is kept: it counts as an
    error of the model's. labelled=False: words alone are wanted (for prediction).

    Raises InputError, and FileError with the first line that is wrong and how many more there are.
    """
    if scheme not in (None, *SCHEMES):
        raise InputError(f"scheme={scheme!r} must be one of {', '.join(SCHEMES)}")
    problems = Problems(path)
    sentences = list(sentences_of(text_of(path, (*KINDS, ".txt", ".tsv"))[1], labelled, problems))
    problems.stop()
    if not sentences:
        raise FileError(f"{path}: no word in it, expected a word and its tag a line")
    words = [Sentence(tuple(word for _, word, _ in rows), line=rows[0][0]) for rows in sentences]
    if not labelled:
        return TagData(str(path), tuple(words), like.labels if like else (), "")
    tags = [[tag for _, _, tag in rows] for rows in sentences]
    scheme = scheme or ("plain" if like and like.plain else scheme_of(tags))
    if like and like.plain != (scheme == "plain"):
        what = "tags with B- and I-, or O" if scheme == "plain" else f"plain tags, as {shown(like.labels[0])}"
        raise FileError(f"{path}: tags such as {shown(tags[0][0])}, but {like.path} has {what}; both must be alike")
    check_tags(sentences, scheme, problems)
    new = tags if scheme == "plain" else [to_iob2(each) for each in tags]
    pairs = [(a, b) for before, after in zip(tags, new, strict=True) for a, b in zip(before, after, strict=True)]
    opened = sum(a[0] in "IM" and b[0] == "B" for a, b in pairs) if scheme in ("iob2", "bioes") else 0
    examples = tuple(Sentence(s.words, tuple(each), s.line) for s, each in zip(words, new, strict=True))
    labels = like.labels if like else labels_of(examples, scheme == "plain")
    return TagData(str(path), examples, labels, scheme, sum(a != b for a, b in pairs), opened)


def sentences_of(text: str, labelled: bool, problems: Problems) -> Iterator[list[tuple[int, str, str]]]:
    """Line, word and tag of each word, in lists; "" for the tag where there is one column."""
    lines = [(number, line.strip(" \r")) for number, line in enumerate(text.split("\n"), start=1)]
    real = [line for _, line in lines if line.strip() and not line.startswith(("#", "-DOCSTART-"))]
    cut = re.compile("\t" if real and all("\t" in line for line in real) else "[ \t]+")  # not at no-break spaces
    real = real or [line for _, line in lines if line.startswith("#")]
    width = len(cut.split(real[0])) if real else 0
    rows: list[tuple[int, str, str]] = []
    for number, line in lines:
        if not line.strip() or line.startswith("-DOCSTART-"):
            if rows:
                yield rows
            rows = []
            continue
        cells = [cell.strip(" ") for cell in cut.split(line)]
        if is_comment(cells, width, first=not rows):
            continue
        if len(cells) != width or (labelled and width < 2):
            expected = f"{width}, as in the first line" if width > 1 else "a word and its tag"
            problems.add(number, f": {len(cells)} column{'s' * (len(cells) != 1)}, expected {expected}")
        elif not cells[0] or not cells[-1]:
            problems.add(number, f": the {'tag' if cells[0] else 'word'} is empty")
        else:
            rows.append((number, cells[0], cells[-1] if width > 1 else ""))
    if rows:
        yield rows


def is_comment(cells: list[str], width: int, first: bool) -> bool:
    """Is a line a comment, and not the word "#" with a tag? See read_tags."""
    if not cells[0].startswith("#"):
        return False
    return len(cells) != width or (first and cells[-1] != "O" and not PREFIXED.fullmatch(cells[-1]))


def check_tags(sentences: list[list[tuple[int, str, str]]], scheme: str, problems: Problems) -> None:
    """Tags that do not belong to the scheme are told, with their lines.

    But for O all have a prefix and a type ("B-PER"), or all are prefixes alone, or in "io" all are types alone; a type
    alone does not begin like a prefix that is written in another way. Plain tags are what they are.
    """
    tags = {tag for rows in sentences for _, _, tag in rows} - {"O"}
    prefixed, wrong, expected = any(PREFIXED.fullmatch(tag) for tag in tags), set(), ""
    if scheme == "io" and not prefixed:
        wrong = {tag for tag in tags if MISSPELT.match(tag)}
        expected = 'O, a type alone (PER), or a prefix in capitals, "-" and the type (B-PER)'
    elif scheme != "plain":
        letters = {"bioes": "BIMESLU", "io": "I"}.get(scheme, "BI")
        alone = not prefixed and bool(tags & BARE)
        right = {tag for tag in tags if tag[0] in letters and (tag in BARE if alone else PREFIXED.fullmatch(tag))}
        wrong = tags - right
        expected = "O or " + ", ".join(letters if alone else [f"{letter}-..." for letter in letters])
    for rows in sentences:
        for number, _, tag in rows:
            if tag in wrong:
                problems.add(number, f": tag {shown(tag)} is unknown in {scheme.upper()}, expected {expected}")
    problems.stop()
