"""Labelled texts and pairs, read from .tsv, .csv or .jsonl and checked: what is wrong is told with its line and column.

Three kinds of label: one of several names ("classification"), any number of them ("multilabel"), a number
("regression"). Everything is held in memory. Nothing here knows a model; tools/probe.py is the first reader.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from minialbert.errors import FileError, InputError, nearest
from minialbert.finetune.rows import HELP, Problems, Row, read_rows, shown, text_of

TASKS = ("classification", "multilabel", "regression")
PAIRS = (
    ("sentence1", "sentence2"), ("text_a", "text_b"), ("text1", "text2"), ("premise", "hypothesis"),
    ("question1", "question2"), ("question", "sentence"), ("question", "answer"), ("question", "passage"),
    ("query", "passage"),
)  # fmt: skip
SINGLES = ("text", "sentence", "question", "query")
LABELS = ("label", "labels", "score")
KNOWN = {*SINGLES, *LABELS, *(name for pair in PAIRS for name in pair)}
SURROGATE = re.compile("[\ud800-\udfff]")

Label = str | tuple[str, ...] | float | None


@dataclass(frozen=True)
class Example:
    """A text or a pair of them, its label (None where the file has no labels), and the line it begins in."""

    text: str
    pair: str | None
    label: Label
    line: int

    @property
    def key(self) -> tuple[str, str | None]:
        """The same for texts that differ only in white space and capitals."""
        first, second = (None if text is None else " ".join(text.lower().split()) for text in (self.text, self.pair))
        return first or "", second


@dataclass(frozen=True)
class Data:
    """The examples of one file. `labels` are the names there can be, () for regression; numbered by their place."""

    path: str
    task: str
    examples: tuple[Example, ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def paired(self) -> bool:
        return self.examples[0].pair is not None

    @property
    def inputs(self) -> list[str | tuple[str, str]]:
        """What a tokenizer or an Embedder takes: texts, or (text, pair)."""
        return [example.text if example.pair is None else (example.text, example.pair) for example in self.examples]

    @property
    def targets(self) -> list[Any]:
        """A label's number; for multilabel a row of 0 and 1; for regression a float. Needs labels in the file."""
        place = {name: number for number, name in enumerate(self.labels)}
        found = [example.label for example in self.examples]
        if self.task == "multilabel":
            return [[int(name in label) for name in self.labels] for label in found]  # type: ignore[operator]
        return found if self.task == "regression" else [place[label] for label in found]  # type: ignore[index]

    @property
    def empty(self) -> int:
        """How many examples have an empty text in them; that is allowed."""
        return sum(not first or second == "" for first, second in (example.key for example in self.examples))

    def describe(self) -> str:
        """One line: what was found in the file."""
        kind = "pairs" if self.paired else "texts"
        about = f", {len(self.labels)} labels" if self.labels else ""
        return f"{self.path}: {len(self):,} {kind}, {self.task}{about}" + (f", {self.empty} empty" * bool(self.empty))


class Like(NamedTuple):
    """What a file must fit where the training data is not at hand: that which a model was tuned on, as it tells."""

    path: str  # of the model
    task: str
    labels: tuple[str, ...]
    paired: bool | None  # None: not known


class Leak(NamedTuple):
    """Examples that are also in the training data: how many, and how many of them with another label there."""

    shared: int
    conflicts: int


def leakage(train: Data, dev: Data) -> Leak:
    """Examples of `dev` whose text (or text and pair) is in `train` too, white space and capitals put aside."""
    known: dict[Any, set[Label]] = {}
    for example in train.examples:
        known.setdefault(example.key, set()).add(example.label)
    both = [example for example in dev.examples if example.key in known]
    return Leak(len(both), sum(example.label not in known[example.key] for example in both))


def conflicts(data: Data) -> list[tuple[Any, Any]]:
    """Texts that have several labels in the data: of each the first two examples that differ."""
    first: dict[Any, Any] = {}
    found: dict[Any, tuple[Any, Any]] = {}
    for example in data.examples:
        if first.setdefault(example.key, example).label != example.label:
            found.setdefault(example.key, (first[example.key], example))
    return list(found.values())


def held_out(data: Data, share: float = 0.2) -> list[bool]:
    """Which examples to hold out, about this share of them: always the same, in any order of the file.

    What a text says decides, so copies of it stay together. In classification it is this share of each label, one at
    least; of a label with a single text none. Raises InputError when there is nothing to part.
    """
    groups: dict[Any, list[int]] = {}
    for number, example in enumerate(data.examples):
        groups.setdefault(example.key, []).append(number)
    drawn = sorted(groups, key=lambda key: hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest())
    if len(drawn) < 2:
        raise InputError(f"{data.path}: all its texts are the same, so none can be held out")
    by_label: dict[str, list[list[int]]] = {}
    for copies in (groups[key] for key in drawn):
        one = getattr(data, "task", None) == "classification"  # a text with two labels goes with the first by name
        label = min(str(data.examples[number].label) for number in copies) if one else ""
        by_label.setdefault(label, []).append(copies)
    held = {number for own in by_label.values() for number in _share_of(own, share)}
    held = held or _share_of([groups[key] for key in drawn], share)  # every label has a single text
    return [number in held for number in range(len(data))]


def _share_of(groups: list[list[int]], share: float) -> set[int]:
    """The first groups that have about this share of all numbers; one group at least is held, and one is not."""
    held: set[int] = set()
    for group in groups[:-1]:
        if held and len(held) >= round(share * sum(map(len, groups))):
            break
        held.update(group)
    return held


def split(data: Data, share: float = 0.2) -> tuple[Data, Data]:
    """The data without what held_out says, and that; both keep all names of labels."""
    held = held_out(data, share)
    sides = [tuple(e for e, out in zip(data.examples, held, strict=True) if out == side) for side in (False, True)]
    rest, out = (f"{data.path} ({which})" for which in ("the rest", "held out"))
    return replace(data, path=rest, examples=sides[0]), replace(data, path=out, examples=sides[1])


# ---- reading ----


def read_data(
    path: str | Path, task: str | None = None, *, columns: str | Mapping[str, str | int] | None = None,
    separator: str | None = None, labels: Sequence[str] | None = None, like: Data | Like | None = None,
    labelled: bool = True,
) -> Data:  # fmt: skip
    """The examples of a .tsv, .csv or .jsonl file, each also as .gz or .xz, in UTF-8.

    The first line names the columns: text, sentence or question; or a pair: sentence1 and sentence2, text_a and text_b,
    premise and hypothesis, ... (PAIRS); and label, labels or score. Other columns are ignored. `columns` says it where
    names are others ({"text": "review", "label": "stars"}) or where there is no header ({"text": 2, "label": 1}, or
    "text=2,label=1"; counted from 1). A .tsv has no quoting; in a .csv a cell in quotes may hold commas and line ends.

    task: "classification", "multilabel", "regression", or found: a column "score", or numbers of which one at least has
    a fraction, is regression; a column "labels", a list in JSON, or a `separator` (its default is ",") is multilabel;
    whole numbers are names. The names are sorted, numbers by their value, unless `labels` gives them.
    like: the training data; task and names are then its own, and a label that it does not have is wrong.
    labelled=False: labels are not looked at (for prediction), and are None.

    Raises InputError, and FileError with the first thing that is wrong and how many more there are.
    """
    name = str(path)
    task = task or (like.task if like else None)
    if task not in (None, *TASKS):
        raise InputError(f"task={task!r} must be one of {', '.join(TASKS)}")
    problems, roles = Problems(name), parse_columns(columns)
    numbered = bool(roles) and all(column.isdecimal() for column in roles.values())
    rows = read_rows(path, problems, numbered, frozenset() if roles else KNOWN)
    roles = find_roles(list(rows[0].cells), roles, labelled, problems)
    task = task or find_task(rows, roles.get("label"), separator)
    examples = tuple(examples_of(rows, roles, task, separator or ",", problems))
    names = like.labels if like else tuple(labels) if labels else names_of(examples)
    if task == "regression":
        names = ()
    elif "label" in roles:
        check_names(examples, names, like.path if like else "those given", roles["label"], problems)
    problems.stop()
    if like and like.paired is not None and like.paired != ("pair" in roles):
        found, wanted = ("pairs", "single texts")[:: 1 if "pair" in roles else -1]
        if isinstance(like, Data):
            raise FileError(f"{name}: has {found}, but {like.path} has {wanted}; both must be alike")
        advice = "text=NAME,pair=NAME" if like.paired else "text=NAME alone"
        raise FileError(f"{name}: has {found}, but {like.path} was tuned on {wanted}; --columns {advice} says which")
    return Data(name, task, examples, names)


def read_labels(path: str | Path) -> list[str]:
    """Names of labels, one a line, in the order that numbers them. Raises FileError."""
    names = [line.strip() for line in text_of(path, (".txt",))[1].split("\n")]
    names = [name for name in names if name]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FileError(f'{path}: "{twice[0]}" is there twice, expected each label once')
    if not names:
        raise FileError(f"{path}: is empty, expected a label a line")
    return names


# ---- which column is what ----


def parse_columns(columns: str | Mapping[str, str | int] | None) -> dict[str, str]:
    """The column of each role, {"text": "review", "label": "stars"}, from that or from "text=review,label=stars"."""
    if isinstance(columns, str):
        columns = dict(part.partition("=")[::2] for part in columns.split(","))
    roles = {role.strip(): str(column).strip() for role, column in (columns or {}).items()}
    if roles and ("text" not in roles or not all(roles.values()) or set(roles) - {"text", "pair", "label"}):
        said = ",".join(f"{role}={column}" for role, column in roles.items())
        raise InputError(
            f"--columns {said}: expected text=NAME, pair=NAME and label=NAME, pair only where there are pairs"
        )
    return roles


def find_roles(names: list[str], asked: dict[str, str], labelled: bool, problems: Problems) -> dict[str, str]:
    """Which column is "text", which "pair" (if any), which "label" (if labelled); as asked for, or by its name."""
    there = ", ".join(names) or "none"
    asked = {role: column for role, column in asked.items() if labelled or role != "label"}
    if asked:
        if missing := [column for column in asked.values() if column not in names]:
            problems.refuse(None, f': no column "{missing[0]}"; its columns: {there}')
        if "label" not in asked and labelled:
            raise InputError("--columns: nothing says which column has the labels; add label=NAME")
        return asked
    lower = {column.lower(): column for column in names}
    pairs = [pair for pair in PAIRS if set(pair) <= set(lower)]
    alone = [[text] for text in SINGLES if text in lower and not any(text in pair for pair in pairs)]
    found = [*map(list, pairs), *alone]
    labels = [column for column in LABELS if labelled and column in lower]
    if len(found) != 1:
        half = [" and ".join(pair) for pair in PAIRS if set(pair) & set(lower)]
        none = f"expected both {half[0]}" if half else "no column text, sentence, or sentence1 and sentence2"
        what = "several columns could be the text" if found else none
        problems.refuse(None, f": {what}; its columns: {there}; {HELP}")
    if len(labels) > 1 or (labelled and not labels):
        what = f"both {labels[0]} and {labels[1]} could be the label" if labels else "no column label, labels or score"
        problems.refuse(None, f": {what}; its columns: {there}; {HELP}")
    roles = {role: lower[column] for role, column in zip(("text", "pair"), found[0], strict=False)}
    return roles | ({"label": lower[labels[0]]} if labels else {})


def find_task(rows: list[Row], column: str | None, separator: str | None) -> str:
    """What kind of label a column holds; see read_data."""
    cells = [row.cells.get(column) for row in rows] if column else []
    if separator or any(isinstance(cell, list) for cell in cells):
        return "multilabel"
    if column and column.lower() in ("score", "labels"):
        return "regression" if column.lower() == "score" else "multilabel"
    numbers = [number_of(cell) for cell in cells]
    measured = any(isinstance(cell, float) for cell in cells) or any(n is not None and n % 1 for n in numbers)
    return "regression" if measured and None not in numbers else "classification"


def number_of(cell: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = math.nan if isinstance(cell, (bool, list, dict)) or cell is None else float(cell)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# ---- what the cells mean ----


def examples_of(
    rows: list[Row], roles: dict[str, str], task: str, separator: str, problems: Problems
) -> Iterator[Example]:
    """An example a row; a row in which something is wrong is left out and told."""
    for line, cells in rows:
        missing = [column for column in roles.values() if column not in cells]
        if missing:
            problems.add(line, f': no "{missing[0]}"; its fields: {", ".join(cells) or "none"}')
            continue
        wrong = False
        for column in (roles[role] for role in ("text", "pair") if role in roles):
            if said := wrong_text(cells[column]):
                problems.add(line, f', column "{column}": {said}')
                wrong = True
        label = None
        if "label" in roles:
            try:
                label = label_of(cells[roles["label"]], task, separator)
            except ValueError as error:
                problems.add(line, f', column "{roles["label"]}": {error}')
                wrong = True
        if not wrong:
            yield Example(cells[roles["text"]], cells[roles["pair"]] if "pair" in roles else None, label, line)


def wrong_text(cell: Any) -> str:
    """What is wrong with a text, or ""."""
    if not isinstance(cell, str):
        return f"{shown(cell)} is no string, expected a text"
    return "" if cell.isascii() or not SURROGATE.search(cell) else "half a surrogate pair (\\ud800 to \\udfff) in it"


def label_of(cell: Any, task: str, separator: str) -> Label:
    """The label that a cell stands for. Raises ValueError, whose words follow the place."""
    if task == "regression":
        number = number_of(cell)
        if number is None:
            raise ValueError("is empty, expected a number" if cell in ("", None) else f"{shown(cell)} is not a number")
        return number
    if task == "classification":
        return name_of(cell)
    if isinstance(cell, str):
        cell = cell.split(separator) if cell.strip() else []
    if not isinstance(cell, list):
        raise ValueError(f"{shown(cell)} is not a list of labels")
    names = tuple(name_of(part) for part in cell)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f'"{twice[0]}" is there twice, expected each label once')
    return names


def name_of(cell: Any) -> str:
    """A label's name; in JSON also a whole number, true or false."""
    if isinstance(cell, (list, dict, float)):
        advice = ' (task "multilabel" takes lists)' if isinstance(cell, list) else ""
        raise ValueError(f"{shown(cell)} is not one label{advice}")
    name = "" if cell is None else json.dumps(cell) if isinstance(cell, (bool, int)) else cell.strip()
    if not name or (wrong := wrong_text(name)):
        raise ValueError(wrong if name else "is empty, expected a label")
    return name


def check_names(examples: Iterable[Example], names: Sequence[str], where: str, column: str, problems: Problems) -> None:
    """Labels that are not among the names are problems."""
    known = set(names)
    for example in examples:
        for name in example.label if isinstance(example.label, tuple) else (str(example.label),):
            if name not in known:
                near = "" if problems.found else nearest(name, names)  # the first alone is shown
                what = f'"{name}" is not among the {len(names)} labels of {where}'
                problems.add(example.line, f', column "{column}": {what}' + f". Nearest: {near}" * bool(near))


def names_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """The names that occur, sorted; whole numbers by their value."""
    labels = [example.label for example in examples if example.label is not None]
    names = {name for label in labels for name in (label if isinstance(label, tuple) else (str(label),))}
    return tuple(sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
