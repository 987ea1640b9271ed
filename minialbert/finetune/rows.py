"""A file of labelled records to rows of named cells: .tsv, .csv, .jsonl, packed or not. data.py says what they mean.

Text comes in whole, for a quoted cell may go over lines. What is wrong in a row is collected, so that the first fault
can be told together with how many more there are; what makes all that follows unreadable is raised at once.
"""

import csv
import gzip
import itertools
import json
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from minialbert.errors import FileError, InputError

HELP = "say which column is what: --columns text=NAME,label=NAME, or by number (text=1,label=2) if there is no header"
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


class Row(NamedTuple):
    """One record: the line it begins in, and its cells by the name of their column."""

    line: int
    cells: dict[str, Any]


class Problems:
    """What is wrong in a file, collected; `stop` raises the first and counts the others."""

    def __init__(self, name: str | Path):
        self.name = name
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, what: str) -> None:
        """`what` follows the number of the line, so it begins with ": " or with ", column ..."."""
        self.found.append((line, what))

    def refuse(self, line: int | None, what: str) -> NoReturn:
        """The same for what makes the rest unreadable; None where it is in no line."""
        what = CONTROL.sub(" ", what).encode(errors="backslashreplace").decode()  # one line, and it can be printed
        raise FileError(f"{self.name}: line {line}{what}" if line else f"{self.name}{what}")

    def stop(self) -> None:
        if self.found:
            self.found.sort(key=lambda found: found[0])
            (line, what), more = self.found[0], len(self.found) - 1
            also = f" (and {more} more problem{'s' * (more > 1)}, next in line {self.found[1][0]})" if more else ""
            self.refuse(line, what + also)


def shown(cell: Any) -> str:
    """The beginning of a cell, as JSON writes it."""
    told = json.dumps(cell, ensure_ascii=False)
    return told if len(told) <= 40 else told[:37] + "..."


def read_rows(path: str | Path, problems: Problems, numbered: bool, known: Set[str]) -> list[Row]:
    """The records of a .tsv, .csv or .jsonl file.

    A table's first line names its columns, and one of `known` (in small letters) must be among them where that is not
    empty; if `numbered`, there is no such line and the columns are called "1", "2", ... Raises InputError, FileError.
    """
    kind, text = text_of(path)
    if kind == ".jsonl":
        rows = json_rows(text, problems)
    else:
        rows = table_rows(separated(text) if kind == ".tsv" else quoted(text, problems), problems, numbered, known)
    if not rows:
        problems.stop()
        raise FileError(f"{path}: no example in it, expected {'an object' if kind == '.jsonl' else 'a line'} for each")
    return rows


def text_of(path: str | Path, kinds: Sequence[str] = (".tsv", ".csv", ".jsonl")) -> tuple[str, str]:
    """The kind of a file by its ending, and what it says, unpacked. Raises InputError, FileError."""
    stem, packing = os.path.splitext(str(path))
    kind = os.path.splitext(stem)[1].lower() if packing.lower() in OPENERS else packing.lower()
    if kind not in kinds:
        raise InputError(f"{path}: expected {', '.join(kinds)} (also as .gz or .xz); rename or convert it")
    if os.path.isdir(path) or not os.path.exists(path):
        raise FileError(f"{path}: {'is a directory' if os.path.isdir(path) else 'no such file'}; give a {kind} file")
    try:
        with OPENERS.get(packing.lower(), open)(path, "rb") as stream:
            data: bytes = stream.read()
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FileError(f"{path}: unreadable or cut off: {error}; fetch or unpack it again") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileError(f"{path}: is UTF-16, expected UTF-8; convert it: iconv -f utf-16 -t utf-8")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(0)) + 1
        raise FileError(f"{path}: line {line}: a NUL byte: this is a binary file, expected text")
    try:
        return kind, data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        what = f"not UTF-8 (byte 0x{error.object[error.start]:02X})"
        advice = "repair that line, or convert the file (iconv -f windows-1252 -t utf-8)"
        raise FileError(f"{path}: line {before.count(10) + 1}: {what}; {advice}") from None


def separated(text: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of a .tsv, which has no quoting: a quotation mark is a sign like others. Blank lines are skipped."""
    for line, row in enumerate(text.split("\n"), start=1):
        if row.strip(" \r"):
            yield line, row.removesuffix("\r").split("\t")


def quoted(text: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """The cells of a .csv; a row may go over several lines."""
    reader = csv.reader((line + "\n" for line in text.split("\n")), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end" in str(error):
                problems.refuse(line, ': a quotation mark (") opens a cell and none closes it')
            advice = "a quotation mark inside a quoted cell is written twice"
            problems.refuse(line, f": not CSV ({error}); {advice}")
        if len(cells) > 1 or any(cell.strip() for cell in cells):
            yield line, cells


def table_rows(
    table: Iterator[tuple[int, list[str]]], problems: Problems, numbered: bool, known: Set[str]
) -> list[Row]:
    """The rows of a table, each cell by the name or number of its column; see read_rows."""
    line, header = next(table, (1, []))
    if numbered:
        table, header = itertools.chain([(line, header)], table), [str(n + 1) for n in range(len(header))]
    else:
        header = [cell.strip() for cell in header]
        if header and known and not known & {cell.lower() for cell in header}:
            problems.refuse(line, f": {', '.join(map(shown, header[:4]))} name no column that is known here; {HELP}")
        if twice := [cell for cell in header if cell and header.count(cell) > 1]:
            problems.refuse(line, f': the column "{twice[0]}" is there twice; rename one')
    rows = []
    for line, cells in table:
        if len(cells) == len(header):
            rows.append(Row(line, dict(zip(header, cells, strict=True))))
        else:
            expected = f"{len(header)}, as in the first line" if numbered else f"{len(header)} ({', '.join(header)})"
            problems.add(line, f": {len(cells)} column{'s' * (len(cells) != 1)}, expected {expected}")
    return rows


def json_rows(text: str, problems: Problems) -> list[Row]:
    """An object a line."""
    rows = []
    for line, source in enumerate(text.split("\n"), start=1):
        if not source.strip():
            continue
        try:
            record = json.loads(source)
        except (ValueError, RecursionError) as error:
            what = "nested too deep" if isinstance(error, RecursionError) else "a number of too many digits"
            what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else what
            problems.add(line, f": not JSON ({what})")
            continue
        if isinstance(record, dict):
            rows.append(Row(line, record))
        else:
            problems.add(line, ': not an object such as {"text": "...", "label": "..."}')
    return rows
