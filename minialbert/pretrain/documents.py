"""Text files in: documents one by one, in bounded memory, and a simple splitter of sentences. corpus.py tokenizes them.

The format, in three ways of writing the same; each file also as .gz or .xz:

    "paragraphs"   a paragraph a line, a blank line between documents; each line is split into sentences
    "sentences"    a sentence a line, a blank line between documents; lines are taken as they are
    "prose"        plain text with wrapped lines, a blank line between paragraphs, two or more between documents

The end of a file is the end of a document.
"""

import gzip
import hashlib
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from minialbert.errors import FileError, InputError

LAYOUTS = ("paragraphs", "sentences", "prose")
LONGEST_LINE = 1 << 26  # bytes; a file without line ends must not fill the memory
LONGEST_DOCUMENT = 1 << 20  # characters; what is longer goes on as the next document, for the same reason
OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}

Document = list[str]  # its lines (in "prose" its paragraphs), none of them empty


def read_documents(paths: Iterable[str | Path], layout: str = "paragraphs") -> Iterator[Document]:
    """The documents of the files, in order. A document without text is passed over.

    Raises InputError for an unknown layout, FileError for a file that is missing, cut off, binary or not UTF-8 (missing
    files at once, before the first document).
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    files = text_files(paths)
    read = paragraphs_of_prose if layout == "prose" else list_of_lines
    return (part for path in files for document in read(lines_of(path)) for part in bounded(document))


def apart(documents: Iterable[Document], share: float, held_out: bool) -> Iterator[Document]:
    """The documents held out, about this share of them, or the others; what a document says decides, so copies stay
    together."""
    for document in documents:
        drawn = hashlib.blake2b("\n".join(document).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if (int.from_bytes(drawn) < share * 2**64) == held_out:
            yield document


def text_files(paths: Iterable[str | Path]) -> list[Path]:
    """The paths, each checked to be a file that is there and not empty. Raises InputError, FileError."""
    if isinstance(paths, (str, Path)):
        paths = [paths]
    files = [Path(path) for path in paths]
    if not files:
        raise InputError("no file of text was given")
    for path in files:
        if not path.is_file():
            found = "is a directory; name the files in it" if path.is_dir() else "no such file"
            raise FileError(f"{path}: {found} (text, also as .gz or .xz)")
        if not path.stat().st_size:
            raise FileError(f"{path}: is empty, expected text with a blank line between documents")
    return files


def lines_of(path: Path) -> Iterator[str]:
    """The lines of one file, white space at both ends taken off. Raises FileError, which names the place."""
    number, opener = 0, OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise FileError(f"{path}: is UTF-16, expected UTF-8; convert it: iconv -f utf-16 -t utf-8")
                if b"\0" in line:
                    raise FileError(f"{path}: a NUL byte in line {number}: a binary file, expected text")
                if len(line) > LONGEST_LINE:
                    raise FileError(f"{path}: line {number} is longer than {LONGEST_LINE} bytes; break it into lines")
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        place = f"byte 0x{error.object[error.start]:02X} in line {number}"
        advice = "repair that line, or convert the file (iconv -f windows-1252 -t utf-8)"
        raise FileError(f"{path}: not UTF-8: {place}; {advice}") from None
    except FileError:
        raise
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise FileError(f"{path}: unreadable or cut off after line {number}: {error}; fetch it again") from error


def list_of_lines(lines: Iterable[str]) -> Iterator[Iterator[str]]:
    """Documents as iterators over their lines; each must be used up before the next is asked for."""
    lines = iter(lines)

    def rest(line: str) -> Iterator[str]:
        while line:
            yield line
            line = next(lines, "")

    return (rest(line) for line in lines if line)


def paragraphs_of_prose(lines: Iterable[str]) -> Iterator[Iterator[str]]:
    """The same for wrapped text: lines are joined to paragraphs, two blank lines end the document."""

    def joined() -> Iterator[str]:  # a paragraph, or "" for the border between two documents
        held: list[str] = []
        blank = size = 0
        for line in lines:
            blank = 0 if line else blank + 1
            if line:
                held.append(line)
                size += len(line)
            if held and (blank or size > LONGEST_DOCUMENT):
                yield " ".join(held)
                held, size = [], 0
            elif blank == 2:
                yield ""
        if held:
            yield " ".join(held)

    return list_of_lines(joined())


def bounded(document: Iterable[str]) -> Iterator[Document]:
    """The document as a list; in several pieces if it is very long."""
    part: Document = []
    size = 0
    for line in document:
        part.append(line)
        size += len(line)
        if size >= LONGEST_DOCUMENT:
            yield part
            part, size = [], 0
    if part:
        yield part


# ---- sentences ----

# An end: . ! ? … with closing quotes or brackets and white space after it; or the full stops of Chinese and Japanese.
END = re.compile(r"""[.!?…]+["'”’»)\]]*\s+|[。！？｡]+[”’」』）]*\s*""")
OPENING = "\"'“‘«([¿¡-–— "
ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "sr", "jr", "rev", "hon", "gen", "col", "capt", "lt", "sgt", "mt", "messrs",
    "mme", "mlle", "vs", "etc", "cf", "al", "ca", "fig", "figs", "eq", "no", "nos", "vol", "vols", "pp", "p", "ch",
    "sec", "ed", "eds", "approx", "dept", "est", "inc", "ltd", "co", "corp", "bros", "jan", "feb", "mar", "apr",
    "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
})  # fmt: skip


def split_sentences(text: str) -> list[str]:
    """The sentences of a paragraph; a simple rule, no model.

    A sentence ends at . ! ? … before white space, unless a small letter follows; nor at a full stop after an
    abbreviation, an initial or a word with a full stop inside ("e.g."). At 。！？ it ends in any case.

    >>> split_sentences("Dr. Low met J. B. Ray at 5 p.m. on Monday. \\"Late!\\" she said. He was.")
    ['Dr. Low met J. B. Ray at 5 p.m. on Monday.', '"Late!" she said.', 'He was.']
    """
    out, start = [], 0
    for match in END.finditer(text):
        if match.end() < len(text) and ends_sentence(text, match):
            out.append(text[start : match.end()].rstrip())
            start = match.end()
    return [*out, text[start:]] if text[start:].strip() else out


def ends_sentence(text: str, match: re.Match) -> bool:
    """Does a sentence end at this mark? `match` is one of END."""
    mark = match[0].rstrip()
    if mark[0] in "。！？｡":
        return True
    at = match.end()
    while at < len(text) and text[at] in OPENING:
        at += 1
    if at < len(text) and text[at].islower():
        return False
    if mark != ".":  # a number of marks, or a quote after it: not the full stop of an abbreviation
        return True
    start = match.start()
    while start and not text[start - 1].isspace():
        start -= 1
    word = text[start : match.start()].lstrip(OPENING)
    return not ("." in word or word.lower() in ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "I"))


def sentences_of(document: Document, layout: str) -> list[str]:
    """The sentences of a document, in order."""
    if layout == "sentences":
        return document
    return [sentence for line in document for sentence in split_sentences(line)]
