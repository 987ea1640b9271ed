"""Texts in: a text a line, or a field of JSON lines, one by one and in bounded memory. files.py writes the vectors."""

import contextlib
import gzip
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minialbert.errors import FileError, InputError

LONGEST = 1 << 26  # bytes in one line: a file without line ends must not fill the memory


def read_texts(path: str | Path, field: str | None = None) -> Iterator[str]:
    """The texts of a file, one by one, in bounded memory.

    .txt, or no ending: a text a line; only the line end is taken off, an empty line is an empty text.
    .jsonl: an object a line; `field` names the string to take (if None: "text", or the only string there is); blank
    lines are skipped. Both also as .gz and .xz. "-": standard input, a text a line, or .jsonl if `field` is given.
    A missing file, a directory, an unknown ending are refused at once; what is wrong inside, when it is reached.
    """
    name = str(path)
    stem, packing = os.path.splitext(name.lower())
    kind = os.path.splitext(stem if packing in (".gz", ".xz") else name.lower())[1]
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    if name == "-":
        name, kind = "standard input", ".jsonl" if field else ".txt"
        lines = _lines(name, lambda: contextlib.nullcontext(sys.stdin.buffer))
    else:
        if kind not in ("", ".txt", ".jsonl"):
            raise InputError(
                f"{name}: texts are read from .txt and .jsonl, both also as .gz and .xz; rename or convert it"
            )
        if field and kind != ".jsonl":
            raise InputError(f'{name}: a field ("{field}") is for .jsonl; this file is read as a text a line')
        if os.path.isdir(name) or not os.path.exists(name):
            raise FileError(
                f"{name}: {'is a directory' if os.path.isdir(name) else 'no such file'}; give a file of texts"
            )
        lines = _lines(name, lambda: openers.get(packing, open)(path, "rb"))
    return _strings(name, lines, field) if kind == ".jsonl" else (text for _, text in lines)


def _lines(name: str, opener: Callable[[], Any]) -> Iterator[tuple[int, str]]:
    """The decoded lines, without their ends, each with its number (from 1)."""
    number = offset = 0
    try:
        with opener() as stream:
            while line := stream.readline(LONGEST + 1):
                number, start, offset = number + 1, offset, offset + len(line)
                if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise FileError(f"{name}: is UTF-16, expected UTF-8; convert it: iconv -f utf-16 -t utf-8")
                if number == 1 and line.startswith(b"\xef\xbb\xbf"):  # byte order mark
                    line, start = line[3:], 3
                    if not line:
                        return
                if b"\0" in line:
                    where = f"line {number}, byte offset {start + line.index(0)}"
                    raise FileError(f"{name}: a NUL byte in {where}: this is a binary file, expected lines of text")
                if len(line) > LONGEST:
                    raise FileError(f"{name}: line {number} is longer than {LONGEST} bytes, expected a text a line")
                line = line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n")
                try:
                    text = line.decode()
                except UnicodeDecodeError as error:
                    where = f"byte 0x{line[error.start]:02X} in line {number}, byte offset {start + error.start}"
                    advice = "repair that line, or convert the file (iconv -f windows-1252 -t utf-8)"
                    raise FileError(f"{name}: not UTF-8: {where}; {advice}") from None
                yield number, text
    except FileError:
        raise
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FileError(
            f"{name}: unreadable or cut off after line {number}: {error}; fetch or unpack it again"
        ) from error


def _strings(name: str, lines: Iterator[tuple[int, str]], field: str | None) -> Iterator[str]:
    """The string called `field` of each line's JSON object."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise FileError(f"{name}: line {number} is not JSON ({what}); repair or remove it") from None
        if not isinstance(record, dict):
            raise FileError(f'{name}: line {number} is not an object such as {{"text": "..."}}')
        strings = [key for key, value in record.items() if isinstance(value, str)]
        if field is None and ("text" in strings or len(strings) == 1):
            field = "text" if "text" in strings else strings[0]
        if field not in strings:
            wanted = "no field was named" if field is None else f'no string "{field}"'
            raise FileError(f"{name}: line {number}: {wanted}; its strings: {', '.join(strings) or 'none'} (--field)")
        if is_broken(record[field]):
            raise FileError(
                f'{name}: line {number}: "{field}" has half a surrogate pair (\\ud800 to \\udfff); repair it'
            )
        yield record[field]


def is_broken(text: str) -> bool:
    """Whether a text has half a surrogate pair in it, so that UTF-8 cannot hold it."""
    try:
        return not (text.isascii() or text.encode())
    except UnicodeEncodeError:
        return True
