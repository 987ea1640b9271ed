"""Vectors of a large corpus: a directory of parts and a manifest, which survives a kill and is read by text number.

    manifest.json     what the vectors are, and of each part: file, first text, count, bytes, digests of file and texts
    part-00000.npy    vectors [n, H] (or [n, K, H]) of the first n texts; .npz (see files.py) if a text has several

A part or a manifest is written under a temporary name and renamed, and a part counts once the manifest names it. So
whatever kills the process, the directory holds whole parts, and the next run goes on after the last of them.
Neighbours: files.py writes single files, texts.py reads the texts.
"""

import contextlib
import functools
import hashlib
import json
import operator
import os
import re
import struct
import weakref
import zipfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minialbert.embed.files import NpyWriter, NpzWriter, Writer
from minialbert.errors import FileError, InputError
from minialbert.whole import whole_file

try:
    import fcntl
except ImportError:  # Windows: two runs into one directory go unnoticed there
    fcntl = None  # type: ignore[assignment]

MANIFEST = "manifest.json"
OURS = re.compile(r"\.?(part-\d{5,}\.np[yz]|manifest\.json)(\..+\.tmp)?")
SETTINGS = ("width", "part_size", "dtype", "ragged")


class ShardWriter:
    """Writes vectors of texts into `directory`, a part every `part_size` texts; goes on where a killed run stopped.

    with ShardWriter("vectors", provenance, width=768) as writer:
        for texts in batches(writer.skip(read_texts("corpus.txt"))):
            writer.write(embed(texts), texts)

    `skip` passes over the `done_texts` that are done already, and checks that they are the same texts. For the same
    bits as in an unbroken run, let no batch cross a multiple of `part_size`. After an exception the whole parts stay.
    """

    def __init__(
        self,
        directory: str | Path,
        provenance: Mapping,
        width: int,
        part_size: int = 10_000,
        ragged: bool | str = False,
        dtype: str = "float32",
    ):
        if part_size < 1:
            raise InputError(f"part_size={part_size}: a part holds at least one text")
        if dtype not in ("float32", "float16"):
            raise InputError(f'dtype="{dtype}": vectors are stored as float32 or float16')
        settings = {"width": width, "part_size": part_size, "dtype": dtype, "ragged": bool(ragged)}
        try:
            settings["provenance"] = json.loads(json.dumps(dict(provenance)))
        except (TypeError, ValueError) as error:
            raise InputError(f"provenance must be plain JSON: {error}") from None
        self.directory, self.part_size = Path(directory), part_size
        self.part: Writer | None = None
        self.digest = hashlib.sha256()  # of the texts of the part being written
        with named(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self.unlock = lock(self, self.directory)
            try:
                self.manifest = opened(self.directory, settings)
            except BaseException:
                self.unlock()
                raise
        self.done_texts = self.count  # by earlier runs
        self.skipped = self.done_texts == 0

    @property
    def count(self) -> int:
        """Texts in whole parts."""
        return sum(part["count"] for part in self.manifest["parts"])

    def skip(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts after those done; refuses texts other than the ones that the whole parts were made from."""
        rest = iter(texts)
        for part in self.manifest["parts"]:
            digest, end = hashlib.sha256(), part["first"] + part["count"]
            for number in range(part["first"], end):
                text = next(rest, None)
                if text is None:
                    raise InputError(f"{self.directory}: has {self.done_texts} texts, this input only {number}")
                add_text(digest, text)
            if digest.hexdigest() != part["texts"]:
                found = f"was made from other texts than numbers {part['first']} to {end - 1} of this input"
                raise InputError(f"{self.directory / part['file']}: {found}; use a new directory")
        self.skipped = True
        return rest

    def write(self, block, texts: Sequence[str], items: Sequence[Sequence[Mapping]] | None = None) -> None:
        """Add the vectors of `texts`, as Writer.write takes them; a part ends wherever it is full."""
        self.check_skipped()
        if self.manifest["complete"] and texts:
            raise InputError(f"{self.directory}: is complete with {self.count} texts; for more use a new directory")
        if len(block) != len(texts):
            raise InputError(f"{len(texts)} texts were given with vectors of {len(block)}")
        start = 0
        while start < len(texts):
            part = self.part = self.part or self.new_part()
            end = start + self.part_size - part.count
            part.write(block[start:end], None, None if items is None else items[start:end])
            for text in texts[start:end]:
                add_text(self.digest, text)
            if part.count == self.part_size:
                self.end_part(part)
            start = end

    def close(self) -> None:
        """End the last part and mark the directory as complete (after a failed write: only stop)."""
        if not self.unlock.alive or (self.part and self.part.state == "discarded"):
            return self.discard()
        self.check_skipped()
        self.manifest["complete"] = True
        if self.part:
            self.end_part(self.part)
        with named(self.directory):
            write_manifest(self.directory, self.manifest)
        self.unlock()

    def discard(self) -> None:
        """Stop here: the whole parts stay, the one begun goes."""
        if self.part:
            self.part.discard()
        self.unlock()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind:
            self.discard()
        else:
            self.close()

    def check_skipped(self) -> None:
        if not self.skipped:
            raise InputError(f"{self.directory}: {self.done_texts} texts are done; pass over them with skip(texts)")

    def new_part(self) -> Writer:
        about, ragged = self.manifest, self.manifest["ragged"]
        path = self.directory / f"part-{len(about['parts']):05d}{'.npz' if ragged else '.npy'}"
        part = (NpzWriter if ragged else NpyWriter)(path, about["provenance"], about["width"], ragged, about["dtype"])
        part.row, part.sidecar = tuple(about["row"]), False
        self.digest = hashlib.sha256()
        return part

    def end_part(self, part: Writer) -> None:
        part.close()
        assert part.path is not None
        about: dict[str, Any] = {"file": part.path.name, "first": self.count, "count": part.count}
        with named(self.directory):
            about |= {"bytes": part.path.stat().st_size, "sha256": file_digest(part.path)}
            self.manifest["row"] = list(part.row)
            self.manifest["parts"].append({**about, "texts": self.digest.hexdigest()})
            write_manifest(self.directory, self.manifest)
        self.part = None


class ShardReader:
    """The vectors in a directory of shards, by the number of the text, memory-mapped.

    reader[i] is [H] (or [K, H]), or [T_i, H] if ragged; reader[i:j] is [j - i, H], or a list if ragged. An incomplete
    or damaged directory is refused; `incomplete` reads the whole parts there are, `verify` checks their sha256 too.
    """

    def __init__(self, directory: str | Path, incomplete: bool = False, verify: bool = False):
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise FileError(f"{directory}: no such directory")
        self.manifest = read_manifest(self.directory)
        self.parts = self.manifest["parts"]
        if not (self.manifest["complete"] or incomplete):
            found = f"is incomplete, {len(self.parts)} whole parts"
            raise FileError(f"{directory}: {found}; let the run finish, or read what is there with incomplete=True")
        check_parts(self.directory, self.manifest, verify)
        self.provenance, self.width = self.manifest["provenance"], self.manifest["width"]
        self.ragged, self.dtype = self.manifest["ragged"], np.dtype(self.manifest["dtype"])
        self.firsts = [part["first"] for part in self.parts]
        self.arrays = functools.lru_cache(maxsize=32)(self.open_part)  # each holds a file open

    def open_part(self, number: int) -> dict[str, np.ndarray]:
        path = self.directory / self.parts[number]["file"]
        if not self.ragged:
            return {"vectors": np.load(path, mmap_mode="r")}
        return {name: map_member(path, name) for name in ("vectors", "splits", "offsets")}

    def __len__(self) -> int:
        return self.firsts[-1] + self.parts[-1]["count"] if self.parts else 0

    def __getitem__(self, index):
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if self.ragged or step != 1:
                rows = [self[i] for i in range(start, stop, step)]
                return rows if self.ragged else np.stack(rows) if rows else self[0:0]
            row = self.manifest["row"] or [self.width]
            out = np.empty((max(stop - start, 0), *row), self.dtype)
            done = start
            while done < stop:
                number, i = self.find(done)
                piece = self.arrays(number)["vectors"][i : i + stop - done]
                out[done - start : done - start + len(piece)] = piece
                done += len(piece)
            return out
        return self.take(index, "vectors")

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def offsets(self, index: int) -> np.ndarray:
        """If ragged: [T_i, 2], where each vector's token or word starts and ends in text i (-1: not known)."""
        if not self.ragged:
            raise InputError(f"{self.directory}: has one vector a text, so no offsets")
        return self.take(index, "offsets")

    def take(self, index: int, name: str) -> np.ndarray:
        number, i = self.find(index)
        arrays = self.arrays(number)
        return np.array(arrays[name][slice(*arrays["splits"][i : i + 2]) if self.ragged else i])

    def find(self, index: int) -> tuple[int, int]:
        """The part of a text, and its number in that part."""
        index = operator.index(index)
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise InputError(f"{self.directory}: no text {index}, there are {len(self)}")
        number = bisect_right(self.firsts, at) - 1
        return number, at - self.firsts[number]


def opened(directory: Path, settings: dict) -> dict:
    """The manifest found there, checked against the settings, or a new one; removes what a kill left."""
    found = {entry.name for entry in directory.iterdir()}
    if MANIFEST in found:
        manifest = read_manifest(directory)
        old, new = listed(manifest), listed(settings)
        differs = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if differs:
            was, now = (", ".join(f"{key[1]}={side.get(key)!r}" for key in differs) for side in (old, new))
            raise InputError(f"{directory}: its vectors have {was}, this run has {now}; use a new directory")
        check_parts(directory, manifest)
    else:
        others = sorted(name for name in found if not name.startswith(f".{MANIFEST}."))
        if others:
            raise FileError(
                f"{directory}: has other files ({', '.join(others[:3])}) and no {MANIFEST}; use a new directory"
            )
        about = {"format": "minialbert-shards", "version": 1, "complete": False}
        manifest = {**about, **settings, "row": [], "parts": []}
        write_manifest(directory, manifest)
    for name in found - {MANIFEST} - {part["file"] for part in manifest["parts"]}:
        if OURS.fullmatch(name):
            (directory / name).unlink()
    return manifest


def listed(settings: Mapping) -> dict[tuple[str, str], Any]:
    """All that must be equal to go on, under (kind, name)."""
    own = {("", key): settings[key] for key in SETTINGS}
    return own | {("provenance", key): value for key, value in settings["provenance"].items()}


def read_manifest(directory: Path) -> dict:
    path = directory / MANIFEST
    if not path.is_file():
        raise FileError(f"{path}: no such file; {directory} is not a directory of shards")
    try:
        manifest = json.loads(path.read_bytes())
        known = manifest["format"] == "minialbert-shards" and manifest["version"] == 1
        listed(manifest), manifest["row"], manifest["complete"]
        end = 0
        for part in manifest["parts"]:
            known = known and part["first"] == end and OURS.fullmatch(part["file"]) is not None
            end += part["count"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(
            f"{path}: damaged, or not a manifest of shards; remove the directory and start again"
        ) from error
    if not known:
        raise FileError(f"{path}: damaged, or of another version; remove the directory and start again")
    return manifest


def write_manifest(directory: Path, manifest: dict) -> None:
    with whole_file(directory / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")


def check_parts(directory: Path, manifest: dict, digests: bool = False) -> None:
    """Refuses parts that are missing or of the wrong size (and, if asked, of the wrong sha256)."""
    for part in manifest["parts"]:
        path, fault = directory / part["file"], ""
        if not path.is_file():
            fault = "is missing"
        elif path.stat().st_size != part["bytes"]:
            fault = f"has {path.stat().st_size} bytes, the manifest says {part['bytes']}"
        elif digests and file_digest(path) != part["sha256"]:
            fault = "is damaged, its sha256 is not the manifest's"
        if fault:
            raise FileError(f"{path}: {fault}; restore it, or remove the directory and start again")


def add_text(digest, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    digest.update(len(data).to_bytes(8, "little") + data)


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_member(path: Path, name: str) -> np.ndarray:
    """An array of an uncompressed .npz, memory-mapped where it lies in the file (np.load would read all of it)."""
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        start = archive.getinfo(f"{name}.npy").header_offset
        file.seek(start + 26)  # the lengths of the two fields that end the 30 bytes of a zip member's header
        file.seek(start + 30 + sum(struct.unpack("<HH", file.read(4))))
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return np.memmap(path, dtype, "r", file.tell(), shape)


def lock(owner: ShardWriter, directory: Path) -> weakref.finalize:
    """Keeps a second run out of the directory until called, or until the owner or the process is gone."""
    if fcntl is None:
        return weakref.finalize(owner, int)
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise FileError(f"{directory}: another run is writing there; wait for it, or use another directory") from None
    except OSError:  # a file system without locks
        pass
    return weakref.finalize(owner, os.close, handle)


@contextlib.contextmanager
def named(directory: Path):
    """Errors of the operating system become one line that names the directory."""
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"{directory}: could not be read or written: {error.strerror or error}") from error
