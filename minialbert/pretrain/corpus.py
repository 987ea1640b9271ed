"""Text tokenized once, in shards on disk that are mapped into memory: a corpus of any size takes little of it.

    manifest.json                what was tokenized, by which tokenizer; of each shard counts and a digest of its text
    shard-00000.ids.npy          ids of all sentences, end to end: uint16, or uint32 for a vocabulary past 65,536
    shard-00000.sentences.npy    [S + 1] where each sentence begins in the ids, and the last one ends
    shard-00000.documents.npy    [D + 1] with which sentence each document begins, and the last one ends

A file is written under a temporary name and renamed, and a shard counts once the manifest names it. So whatever kills
the process, the next run goes on after the last whole shard. documents.py reads the text, examples.py makes examples.
"""

import bisect
import contextlib
import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minialbert.errors import CheckpointError, FileError, InputError, MiniAlbertError
from minialbert.pretrain.documents import Document, apart, read_documents, sentences_of, text_files
from minialbert.tokenizers import Tokenizer
from minialbert.whole import whole_file, writing

MANIFEST, FORMAT = "manifest.json", "minialbert corpus 1"
PARTS = ("ids", "sentences", "documents")
SHARD_TOKENS = 1 << 24
BATCH_CHARACTERS = 1 << 20  # of text that a process tokenizes at a time


class Tokenized(NamedTuple):
    """Documents as arrays: ids end to end, pieces of each sentence, sentences of each document; the text's digest."""

    ids: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray
    digest: bytes


def prepare_corpus(
    paths: Iterable[str | Path],
    tokenizer: Tokenizer,
    directory: str | Path,
    layout: str = "paragraphs",
    workers: int = 1,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[dict[str, int]], None] = lambda counts: None,
    part: tuple[float, bool] | None = None,
) -> "Corpus":
    """Tokenizes text files into `directory`, or goes on where a killed run stopped, or finds it done.

    layout: see documents.py. workers: processes that tokenize; the files are the same bytes for any number. progress is
    called after each shard with the counts so far (documents, sentences, tokens, unknown). part: (share, True) takes
    the documents to be held out, about this share of them, (share, False) all others; None is all.
    Raises CheckpointError if the directory was made with another tokenizer, layout or from other files, FileError for
    files that cannot be read or written or hold no text.
    """
    if not 1 <= shard_tokens <= 1 << 31:
        raise InputError(f"shard_tokens={shard_tokens} must be between 1 and 2^31: positions are 32-bit numbers")
    files, directory = text_files(paths), Path(directory)
    settings: dict[str, Any] = {
        "format": FORMAT,
        "tokenizer": tokenizer.digest(),
        "vocabulary": len(tokenizer),
        "dtype": dtype_of(tokenizer),
        "layout": layout,
        "shard_tokens": shard_tokens,
        "sources": [{"name": path.name, "bytes": path.stat().st_size} for path in files],
    }
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    if part is not None:
        if not 0 < part[0] < 1:
            raise InputError(
                f"a share of {part[0]} of the documents cannot be held out, expected more than 0, less than 1"
            )
        settings["part"] = list(part)
    manifest = opened(directory, settings, tokenizer.describe())
    if not manifest["complete"]:
        documents = read_documents(files, layout)
        batches = batches_of(documents if part is None else apart(documents, *part))
        skip_done(directory, manifest, batches)
        results = tokenized(batches, tokenizer, layout, workers)
        with contextlib.closing(results):
            shards = shards_of(results, shard_tokens)
            while (shard := next(shards, None)) is not None:
                number = len(manifest["shards"])
                manifest["shards"].append(write_shard(directory, number, shard, tokenizer.unk_id))
                del shard  # or it stays in memory while the next one grows
                write_manifest(directory, manifest)
                progress(totals(manifest))
        if not totals(manifest)["tokens"]:
            what = "no text in it" if part is None else f"no document for this part of it (held out: {part[0]:g})"
            raise FileError(f"{files[0]}: {what}, expected lines of text with a blank line between documents")
        manifest["complete"] = True
        write_manifest(directory, manifest)
    return Corpus(directory)


# ---- what is there already ----


def opened(directory: Path, settings: dict[str, Any], tokenizer: str) -> dict[str, Any]:
    """The manifest of a run to go on with, or a new one. Raises CheckpointError."""
    path = directory / MANIFEST
    if not path.exists():
        return settings | {"tokenizer_said": tokenizer, "shards": [], "complete": False}
    manifest = read_manifest(directory)
    for key in settings | ({"part": None} if "part" in manifest else {}):
        was, now = manifest.get(key), settings.get(key)
        if was != now:
            if key == "tokenizer":
                was, now = manifest.get("tokenizer_said"), tokenizer
            raise CheckpointError(f"{path}: made with {key} {was}, this run has {now}; use a new directory")
    return manifest


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a corpus. Raises FileError, CheckpointError."""
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); is this a tokenized corpus?") from None
    except ValueError:
        raise CheckpointError(f"{path}: is not JSON; prepare the corpus again, in a new directory") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f'{path}: is not the manifest of a "{FORMAT}"; prepare the corpus in a new directory')
    return manifest


def skip_done(directory: Path, manifest: dict[str, Any], batches: Iterator[list[Document]]) -> None:
    """Passes over the text of whole shards, and checks that it is the same text. Raises CheckpointError."""
    for shard in manifest["shards"]:
        digest = hashlib.sha256()
        for _ in range(shard["batches"]):
            digest.update(digest_of(next(batches, [])))
        if digest.hexdigest() != shard["text"]:
            raise CheckpointError(f"{directory / shard['name']}: was made from other text; use a new directory")


# ---- text to arrays ----


def batches_of(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in groups of about BATCH_CHARACTERS, which a process tokenizes at a time; a shard is whole groups."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += sum(map(len, document))
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def digest_of(documents: list[Document]) -> bytes:
    return hashlib.sha256("\0".join("\n".join(document) for document in documents).encode()).digest()


def dtype_of(tokenizer: Tokenizer) -> str:
    """The narrowest kind of number that holds every id."""
    return "uint16" if len(tokenizer) <= 1 << 16 else "uint32"


def tokenize_batch(documents: list[Document], tokenizer: Tokenizer, layout: str) -> Tokenized:
    """Sentences without a piece are left out, and documents without a sentence."""
    per_document = [sentences_of(document, layout) for document in documents]
    flat = [sentence for sentences in per_document for sentence in sentences]
    rows = tokenizer(flat, padding=False, add_special_tokens=False)["input_ids"] if flat else []
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    borders = np.cumsum([0, *map(len, per_document)])
    counts = np.diff(np.append(0, np.cumsum(lengths > 0))[borders])
    ids = np.fromiter(chain.from_iterable(rows), dtype=dtype_of(tokenizer), count=int(lengths.sum()))
    return Tokenized(ids, lengths[lengths > 0], counts[counts > 0], digest_of(documents))


_inherited: tuple[Tokenizer, str]  # of a worker process


def _begin(tokenizer: Tokenizer, layout: str) -> None:
    global _inherited
    _inherited = tokenizer, layout
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends this process when the one that began it is gone: killed, it could not tell."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _work(documents: list[Document]) -> Tokenized:
    return tokenize_batch(documents, *_inherited)


def tokenized(
    batches: Iterator[list[Document]], tokenizer: Tokenizer, layout: str, workers: int
) -> Generator[Tokenized, None, None]:
    """The batches tokenized, in their order, with few of them in memory at a time."""
    if workers <= 1:
        for batch in batches:
            yield tokenize_batch(batch, tokenizer, layout)
        return
    with ProcessPoolExecutor(workers, initializer=_begin, initargs=(tokenizer, layout)) as pool:
        waiting: deque = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(_work, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            advice = "run again, it goes on after the last whole shard (fewer workers need less memory)"
            raise MiniAlbertError(f"a tokenizing process was killed; {advice}") from None
        finally:
            for future in waiting:
                future.cancel()


def shards_of(results: Iterator[Tokenized], shard_tokens: int) -> Iterator[list[Tokenized]]:
    """Batches gathered until they have `shard_tokens`."""
    shard: list[Tokenized] = []
    size = 0
    for result in results:
        shard.append(result)
        size += len(result.ids)
        if size >= shard_tokens:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


# ---- arrays to files ----


def write_shard(directory: Path, number: int, shard: list[Tokenized], unknown: int) -> dict[str, Any]:
    """The three files of a shard; returns its entry in the manifest."""
    name = f"shard-{number:05d}"
    ids = np.concatenate([batch.ids for batch in shard])
    sentences = np.cumsum(np.concatenate([[0], *(batch.lengths for batch in shard)])).astype(np.uint32)
    documents = np.cumsum(np.concatenate([[0], *(batch.counts for batch in shard)])).astype(np.uint32)
    for part, array in zip(PARTS, (ids, sentences, documents), strict=True):
        with whole_file(directory / f"{name}.{part}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, array)
    text = hashlib.sha256(b"".join(batch.digest for batch in shard))
    counts = {"documents": len(documents) - 1, "sentences": len(sentences) - 1, "tokens": len(ids)}
    found = {"unknown": int((ids == unknown).sum()), "batches": len(shard), "text": text.hexdigest()}
    return {"name": name} | counts | found


def write_manifest(directory: Path, manifest: dict[str, Any]) -> None:
    with whole_file(directory / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def totals(manifest: dict[str, Any]) -> dict[str, int]:
    """documents, sentences, tokens and unknown pieces of all shards."""
    keys = ("documents", "sentences", "tokens", "unknown")
    return {key: sum(shard[key] for shard in manifest["shards"]) for key in keys}


# ---- files to ids ----


class Corpus:
    """A tokenized corpus, mapped into memory. Documents and sentences are counted from 0 over all shards.

    Raises FileError, CheckpointError for a directory that is not one, is unfinished or damaged.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        self.manifest = read_manifest(self.directory)
        if not self.manifest["complete"]:
            raise CheckpointError(f"{self.directory}: is unfinished; run the preparation again, it goes on")
        counts = totals(self.manifest)
        self.documents, self.sentences, self.tokens = counts["documents"], counts["sentences"], counts["tokens"]
        self.unknown = counts["unknown"]
        self.shards = [[self.part(shard, part) for part in PARTS] for shard in self.manifest["shards"]]
        first = {key: np.cumsum([0, *(s[key] for s in self.manifest["shards"])]) for key in ("documents", "sentences")}
        self.first_document, self.first_sentence = first["documents"].tolist(), first["sentences"].tolist()

    def __reduce__(self):  # to another process goes the name of the directory, not the corpus
        return Corpus, (self.directory,)

    def part(self, shard: dict[str, Any], part: str) -> np.ndarray:
        """One file of a shard, as long as the manifest says."""
        path = self.directory / f"{shard['name']}.{part}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged or missing ({error}); prepare the corpus again") from None
        expected = shard["tokens"] if part == "ids" else shard[part] + 1
        if array.shape != (expected,):
            raise CheckpointError(f"{path}: holds {array.shape}, the manifest says {expected}; prepare it again")
        return array.view(np.ndarray)  # the same memory without the class, which makes every slice slow

    def digest(self) -> str:
        """SHA-256, as hex, of text, tokenizer and settings: what a checkpoint stores to know its data again."""
        said = [self.manifest[key] for key in ("tokenizer", "layout", "shard_tokens")]
        return hashlib.sha256(json.dumps([*said, [s["text"] for s in self.manifest["shards"]]]).encode()).hexdigest()

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Raises CheckpointError unless it is the tokenizer that made the ids."""
        if tokenizer.digest() != self.manifest["tokenizer"]:
            said = self.manifest["tokenizer_said"]
            raise CheckpointError(f"{self.directory}: was tokenized by another tokenizer ({said}); prepare it again")

    def document(self, number: int) -> tuple[int, list[int]]:
        """Number of a document's first sentence, and the pieces of each of its sentences."""
        k = bisect.bisect_right(self.first_document, number) - 1
        _, sentences, documents = self.shards[k]
        start, stop = documents[number - self.first_document[k] :][:2].tolist()
        return self.first_sentence[k] + start, np.diff(sentences[start : stop + 1]).tolist()

    def ids(self, start: int, stop: int) -> np.ndarray:
        """The ids of sentences start:stop, which are of one document; a view of the file."""
        k = bisect.bisect_right(self.first_sentence, start) - 1
        ids, sentences, _ = self.shards[k]
        base = self.first_sentence[k]
        return ids[int(sentences[start - base]) : int(sentences[stop - base])]

    def blocks(self, tokens: int) -> np.ndarray:
        """The corpus cut at documents into runs of about so many tokens: the first document of each, and the end."""
        firsts = []
        for (_, sentences, documents), first in zip(self.shards, self.first_document, strict=False):
            block = sentences[documents[:-1]] // tokens
            firsts.append(first + np.flatnonzero(np.diff(block.astype(np.int64), prepend=-1)))
        return np.concatenate([*firsts, [self.documents]])

    def describe(self) -> str:
        """What is in it, in a few lines, with warnings for what looks wrong."""
        per = self.tokens / self.sentences
        lines = [
            f"{self.documents:,} documents, {self.sentences:,} sentences, {self.tokens:,} tokens "
            f"({per:.1f} a sentence), {self.unknown / self.tokens:.2%} unknown, in {len(self.shards)} shards"
        ]
        if self.documents == 1 and self.sentences > 1000:
            lines.append("warning: a single document; is there no blank line between documents?")
        if self.sentences < 1.5 * self.documents:
            lines.append("warning: most documents are one sentence, which has no order; are all lines apart?")
        if per > 100:
            lines.append('warning: very long sentences; is layout="sentences" right for lines that are paragraphs?')
        if self.unknown > 0.02 * self.tokens:
            lines.append("warning: many unknown pieces; is it the tokenizer of this language?")
        return "\n".join(lines)
