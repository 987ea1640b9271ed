"""Vectors out: .npy, .npz, .safetensors, .jsonl and .parquet, with where they came from.

Nothing here holds a whole corpus: vectors go out block by block. A file is written under a temporary name beside the
target and renamed when whole: a failure leaves nothing, and an older file as it was. Neighbours: texts.py reads the
texts, pool.py and post.py make the vectors, shards.py writes a large corpus in parts and goes on after a kill.
"""

import contextlib
import io
import json
import math
import os
import shutil
import sys
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from minialbert.embed.texts import is_broken
from minialbert.errors import FileError, InputError

GROUP = 1 << 25  # bytes of vectors in a row group of .parquet
HEADER = 128  # bytes before the numbers in a .npy file, enough for any count of rows


def estimate_bytes(count: int, width: int, dtype: str = "float32", layers: int = 1) -> int:
    """What `count` vectors (of texts or of tokens) take on disk; headers and labels come on top."""
    return count * layers * width * np.dtype(dtype).itemsize


def open_writer(
    path: str | Path | None, provenance: Mapping, width: int, ragged: bool | str = False, dtype: str = "float32"
) -> "Writer":
    """The writer for the ending of `path`; None is JSON lines on standard output. Use it in a with-block.

    `ragged`: several vectors a text, called "tokens" (the same as True) or "words" in .jsonl and .parquet.
    """
    if path is None:
        return StdoutWriter(None, provenance, width, ragged, dtype)
    path = Path(path)
    kind = WRITERS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path}: unknown ending, vectors are written to {', '.join(WRITERS)}")
    if kind is NpyWriter and ragged:
        others = ", ".join(ending for ending in WRITERS if ending != ".npy")
        raise InputError(f"{path}: .npy holds one vector a text; several go to {others}")
    return kind(path, provenance, width, ragged, dtype)


class Writer(ABC):
    """Takes blocks of vectors; leaves a whole file at the end of its with-block, or nothing after an exception."""

    sidecar = False  # does the provenance go to a file of its own, path + ".json"?

    def __init__(self, path: Path | None, provenance: Mapping, width: int, ragged: bool | str, dtype: str):
        if dtype not in ("float32", "float16") or ragged not in (False, True, "tokens", "words"):
            raise InputError(f"dtype={dtype}, ragged={ragged}: expected float32 or float16; False, tokens or words")
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            found = "is a directory" if path.is_dir() else f"there is no directory {path.parent}"
            raise FileError(f"{path}: {found}; choose another output")
        try:
            self.provenance = json.dumps(dict(provenance), indent=2)
        except (TypeError, ValueError) as error:
            raise InputError(f"provenance must be plain JSON: {error}") from None
        self.path, self.width, self.dtype = path, width, np.dtype(dtype)
        self.ragged = "tokens" if ragged is True else ragged or ""
        self.row: tuple[int, ...] = ()  # (H,) or (K, H), set by the first block
        self.count = self.rows = 0  # texts, vectors
        self.state = "open"  # then "closed" or "discarded"
        self.files: dict[Path, IO[bytes]] = {}  # all temporary files; the first becomes the target
        with self.undone_on_error():
            self.begin()

    def write(self, block, texts: Sequence[str] | None = None, items: Sequence[Sequence[Mapping]] | None = None):
        """Add a block [n, H] (or [n, K, H] for K layers), or, if ragged, a list of n arrays [T_i, H].

        `texts`: n strings. `items`, if ragged: for each text a list of T_i labels {"piece" or "word", "start", "end"}.
        """
        if self.state != "open":
            raise InputError(f"this writer is {self.state}: open a new one")
        arrays = [np.asarray(array) for array in (block if self.ragged else [block])]
        for array in arrays:
            if array.ndim not in (2, 3) or array.shape[-1] != self.width or self.row not in ((), array.shape[1:]):
                row = ", ".join(map(str, self.row or (self.width,)))
                raise InputError(f"a block is {list(array.shape)}, expected [any number, {row}]")
            self.row = array.shape[1:]
        lengths = [len(array) for array in arrays] if self.ragged else [1] * len(arrays[0])
        if texts is not None and len(texts) != len(lengths):
            raise InputError(f"{len(texts)} texts were given with vectors of {len(lengths)}")
        if items is not None and [len(labels) for labels in items] != lengths:
            raise InputError("items must hold a label for each vector of each text")
        if lengths:
            with self.undone_on_error(), np.errstate(over="raise"):
                rows = np.concatenate([array.astype(self.dtype, copy=False) for array in arrays])
                self.put(rows, lengths, texts, items)
                self.count, self.rows = self.count + len(lengths), self.rows + len(rows)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self.state != "open":
            return
        with self.undone_on_error():
            self.end()
            if self.sidecar:
                self.temporary(".json").write(self.provenance.encode() + b"\n")
            for file in self.files.values():
                file.close()
            if self.path is not None:
                target, *others = self.files
                beside = Path(f"{self.path}.json")
                if self.sidecar:
                    beside.unlink(missing_ok=True)  # at no moment do old vectors lie beside new provenance
                os.replace(target, self.path)
                if self.sidecar:
                    os.replace(others.pop(), beside)
                for name in others:
                    name.unlink()
        self.state = "closed"

    def discard(self) -> None:
        """Give up, and remove what was written so far."""
        if self.state == "open":
            self.state = "discarded"
            for name, file in self.files.items():
                with contextlib.suppress(OSError):  # a full disk complains here again
                    file.close()
                name.unlink(missing_ok=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind:
            self.discard()
        else:
            self.close()

    @contextlib.contextmanager
    def undone_on_error(self):
        try:
            yield
        except BaseException as error:
            self.discard()
            if isinstance(error, FloatingPointError):
                raise InputError(f"a number is too large for {self.dtype}: store float32") from None
            if isinstance(error, OSError) and not isinstance(error, FileError) and self.path is not None:
                raise FileError(f"{self.path}: could not be written: {error.strerror or error}") from error
            raise

    def temporary(self, label: str = "") -> IO[bytes]:
        name = Path(f"{self.path}.{os.getpid()}{label}.tmp")
        self.files[name] = file = open(name, "w+b")  # noqa: SIM115 (closed by close and by discard)
        return file

    def begin(self) -> None:
        self.file = self.temporary()

    @abstractmethod
    def put(self, rows: np.ndarray, lengths: list[int], texts, items) -> None:
        """Write rows [R, H], the first lengths[0] of which are of the first text, and so on."""

    def end(self) -> None:  # noqa: B027  # most kinds have nothing to add
        """Write what can only be written at the end."""


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The first 128 bytes of a .npy file, version 1.0."""
    about = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + about.ljust(HEADER - 11).encode() + b"\n"


class NpyWriter(Writer):
    """One array [N, H]. The count of rows goes into the header at the end."""

    sidecar = True

    def begin(self) -> None:
        super().begin()
        self.file.write(bytes(HEADER))

    def put(self, rows, lengths, texts, items) -> None:
        self.file.write(rows.data)

    def end(self) -> None:
        self.file.seek(0)
        self.file.write(npy_header(self.dtype, (self.rows, *(self.row or (self.width,)))))


class ColumnsWriter(Writer):
    """Several arrays. Each goes to a temporary file first, because only at the end are their lengths known.

    If ragged, vectors[splits[i] : splits[i + 1]] are those of text i, and the same rows of offsets are where each
    starts and ends in the text (-1: the label does not say).
    """

    def begin(self) -> None:
        super().begin()
        names = ["splits", "offsets", "vectors"] if self.ragged else ["vectors"]  # int64 first: all are aligned
        self.columns = {name: self.temporary(f".{name}") for name in names}
        if self.ragged:
            self.columns["splits"].write(bytes(8))

    def put(self, rows, lengths, texts, items) -> None:
        self.columns["vectors"].write(rows.data)
        if self.ragged:
            labels = flat(items, len(rows))
            offsets = [(label.get("start", -1), label.get("end", -1)) for label in labels]
            self.columns["splits"].write((self.rows + np.cumsum(lengths, dtype=np.int64)).data)
            self.columns["offsets"].write(np.array(offsets, np.int64).data)

    def arrays(self) -> Iterator[tuple[str, np.dtype, tuple[int, ...], IO[bytes]]]:
        """Name, dtype, shape, and the file at its beginning, of each array."""
        row, whole = self.row or (self.width,), np.dtype(np.int64)
        about = {
            "splits": (whole, (self.count + 1,)),
            "offsets": (whole, (self.rows, 2)),
            "vectors": (self.dtype, (self.rows, *row)),
        }
        for name, file in self.columns.items():
            file.seek(0)
            yield name, *about[name], file


class NpzWriter(ColumnsWriter):
    """The arrays in an uncompressed .npz, with the provenance as an array of one string."""

    def end(self) -> None:
        text = np.array(self.provenance)
        arrays = [*self.arrays(), ("provenance", text.dtype, (), io.BytesIO(text.tobytes()))]
        with zipfile.ZipFile(self.file, "w") as archive:
            for name, dtype, shape, file in arrays:
                about = zipfile.ZipInfo(f"{name}.npy")  # without the clock: the same vectors give the same bytes
                with archive.open(about, "w", force_zip64=True) as member:
                    member.write(npy_header(dtype, shape))
                    shutil.copyfileobj(file, member, 1 << 20)


class SafetensorsWriter(ColumnsWriter):
    """The arrays in a .safetensors file, with the provenance in its metadata."""

    def end(self) -> None:
        header: dict[str, Any] = {"__metadata__": {"provenance": self.provenance}}
        arrays, start = list(self.arrays()), 0
        for name, dtype, shape, _ in arrays:
            end = start + dtype.itemsize * math.prod(shape)
            kind = ("I" if dtype.kind == "i" else "F") + str(8 * dtype.itemsize)
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
            start = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.file.write(len(text).to_bytes(8, "little") + text)
        for *_, file in arrays:
            shutil.copyfileobj(file, self.file, 1 << 20)


class JsonlWriter(Writer):
    """A JSON object a text. Each number is the shortest that gives the same float back."""

    sidecar = True

    def put(self, rows, lengths, texts, items) -> None:
        if not np.isfinite(rows).all():
            raise InputError("a vector holds NaN or infinity, which JSON has no word for")
        vectors, labels = map(json_floats, rows.astype("U")), iter(flat(items, len(rows)))
        for i, length in enumerate(lengths):
            line = json_head({} if texts is None else {"text": texts[i]})
            if self.ragged:
                several = [f'{json_head(next(labels))}"vector": {next(vectors)}}}' for _ in range(length)]
                line += f'"{self.ragged}": [{", ".join(several)}]}}\n'
            else:
                line += f'"vector": {next(vectors)}}}\n'
            self.file.write(line.encode())


class StdoutWriter(JsonlWriter):
    """The same on standard output, without a second file."""

    sidecar = False

    def begin(self) -> None:
        self.file = sys.stdout.buffer

    def put(self, rows, lengths, texts, items) -> None:
        super().put(rows, lengths, texts, items)
        self.file.flush()


def json_floats(row: np.ndarray) -> str:
    return "[" + ", ".join(row.tolist() if row.ndim == 1 else map(json_floats, row)) + "]"


def json_head(record: Mapping) -> str:
    """The beginning of an object. Letters are not escaped, unless UTF-8 cannot hold them."""
    text = json.dumps(dict(record), ensure_ascii=False)
    text = json.dumps(dict(record)) if is_broken(text) else text
    return f"{text[:-1]}, " if record else "{"


def flat(items, count: int) -> list[Mapping]:
    """The labels of a block in one list; empty ones if none were given."""
    return [label for labels in items for label in labels] if items is not None else [{}] * count


class ParquetWriter(Writer):
    """Columns text and vector; if ragged, text and a list of {piece or word, start, end, vector}."""

    def begin(self) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise InputError('writing .parquet needs pyarrow: pip install "minialbert[parquet]"') from None
        super().begin()
        self.arrow: Any = pyarrow
        self.waiting: list[Any] = []
        self.sink: Any = None

    def put(self, rows, lengths, texts, items) -> None:
        self.waiting.append(self.table(rows, lengths, texts, items))
        if sum(table.nbytes for table in self.waiting) >= GROUP:
            self.write_group()

    def table(self, rows, lengths, texts, items):
        if texts is not None and any(map(is_broken, texts)):
            raise InputError("a text has half a surrogate pair (\\ud800 to \\udfff), which .parquet cannot hold")
        pa = self.arrow
        column = pa.array(rows.reshape(-1))
        for size in reversed(rows.shape[1:]):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        if self.ragged:
            kinds = {"word" if self.ragged == "words" else "piece": pa.string(), "start": pa.int64(), "end": pa.int64()}
            labels = flat(items, len(rows))
            fields = {key: pa.array([label.get(key) for label in labels], kind) for key, kind in kinds.items()}
            struct = pa.StructArray.from_arrays([*fields.values(), column], [*fields, "vector"])
            column = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), struct)
        names = pa.array([None] * len(lengths) if texts is None else list(texts), pa.string())
        table = pa.table({"text": names, self.ragged or "vector": column})
        return table.replace_schema_metadata({"provenance": self.provenance})

    def write_group(self) -> None:
        """What is waiting becomes a row group."""
        table = self.arrow.concat_tables(self.waiting)
        self.sink = self.sink or self.arrow.parquet.ParquetWriter(self.file, table.schema)
        self.sink.write_table(table, row_group_size=max(len(table), 1))
        self.waiting = []

    def end(self) -> None:
        if self.waiting or self.sink is None:
            nothing = np.empty((0, *(self.row or (self.width,))), self.dtype)
            self.waiting.append(self.table(nothing, [], None, None))
            self.write_group()
        self.sink.close()


WRITERS: dict[str, type[Writer]] = {
    ".npy": NpyWriter,
    ".npz": NpzWriter,
    ".safetensors": SafetensorsWriter,
    ".jsonl": JsonlWriter,
    ".parquet": ParquetWriter,
}
