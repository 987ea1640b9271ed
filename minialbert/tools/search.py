"""The texts of a file, or vectors of a directory of shards, nearest to a query by cosine; put in order by a pair model.

Nothing but the best so far is held: the corpus comes in parts, embedded as they are read, or as `minialbert embed
--shards` left them. No index is built: every vector is compared, which is exact, and quick for some millions of them.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from minialbert.embed import Embedder, finished
from minialbert.embed.prepare import Lost
from minialbert.embed.shards import ShardReader, add_text
from minialbert.errors import InputError, NameUnknown, nearest
from minialbert.finetune.classify import KINDS, RegressTask, TextTask
from minialbert.finetune.data import Example
from minialbert.finetune.predict import predictions_of
from minialbert.finetune.task import Task
from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer

PART = 2048  # texts that are embedded and compared together
EQUAL = 5  # decimals: cosines that agree in so many are equal, and go by their place in the corpus


class Part(NamedTuple):
    """Some texts of a corpus in a row: the number of the first, from 1; the texts if known; their vectors [n, H]."""

    first: int
    texts: Sequence[str] | None
    vectors: np.ndarray


class Hit(NamedTuple):
    """A text that was found: its number in the corpus, from 1, and its cosine with the query.

    judged: what a pair model says of it, where there is one: the probability of a label, or a score.
    """

    number: int
    cosine: float
    text: str | None = None
    judged: float | None = None


# ---- the corpus, part by part ----


def parts_of_texts(embed: Embedder, texts: Iterable[str], size: int = PART, **options: Any) -> Iterator[Part]:
    """Texts with their vectors, embedded as they come; options are those of Embedder.stream. Warns of what is cut."""
    source, done, lost = iter(texts), 0, Lost()
    while some := list(islice(source, size)):
        (block,) = embed.stream(some, block_texts=size, **options)
        yield Part(done + 1, some, block.vectors)
        done += len(some)
        lost.add(block.cut)
    if lost.cut:
        warnings.warn(lost.line(embed.limit(options.get("max_length"))), stacklevel=2)


def parts_of_shards(reader: ShardReader, texts: Iterable[str] | None = None) -> Iterator[Part]:
    """Vectors that were written earlier; if texts are given, with them: they must be those the vectors are of.

    Raises InputError, at the end of the file in question, when they are others, or not as many.
    """
    source = None if texts is None else iter(texts)
    for about in reader.parts:
        end, digest = about["first"] + about["count"], hashlib.sha256()
        for first in range(about["first"], end, PART):
            last = min(first + PART, end)
            some = None if source is None else list(islice(source, last - first))
            for text in some or ():
                add_text(digest, text)
            if some is None or len(some) == last - first:  # else there are too few, which the digest tells
                yield Part(first + 1, some, np.asarray(reader[first:last], dtype=np.float32))
        if source is not None and digest.hexdigest() != about["texts"]:
            where = f"{reader.directory / about['file']}: has vectors of other texts"
            raise InputError(f"{where} than numbers {about['first'] + 1} to {end} of this input; embed these anew")
    if source is not None and next(source, None) is not None:
        raise InputError(
            f"{reader.directory}: has vectors of {len(reader)} texts, this input has more; embed them anew"
        )


def opened_shards(directory: str | Path) -> ShardReader:
    """A directory of shards to search in. Raises FileError, and InputError for vectors that no query can have."""
    reader = ShardReader(directory)
    if reader.ragged or len(reader.manifest["row"] or [0]) > 1:
        raise InputError(f"{directory}: has several vectors a text; write one (--pooling mean, one --layer)")
    if steps := reader.provenance.get("post"):
        raise InputError(f"{directory}: its vectors were changed by {', '.join(steps)}, a query is not; embed without")
    return reader


def embedder_like(reader: ShardReader, model: AlbertModel, tokenizer: Tokenizer, device: str | None = None) -> Embedder:
    """The Embedder of a query for shards. Raises InputError when they are of another model or tokenizer."""
    made = reader.provenance
    dtype = getattr(torch, str(made.get("dtype", "float32")), torch.float32)
    embed = Embedder(model, tokenizer, device=device, dtype=dtype)
    for what, digest in (("model", embed.model.digest()), ("tokenizer", tokenizer.digest())):
        if made.get(what) != digest:
            found = str(made.get(what))[:12]
            raise InputError(
                f"{reader.directory}: its vectors are of another {what} (digest {found}, this one {digest[:12]}); "
                "name theirs with --model"
            )
    return embed


def options_of(reader: ShardReader) -> dict[str, Any]:
    """How the texts of shards were embedded, and a query has to be, as Embedder's call takes it."""
    return {
        name: reader.provenance[name]
        for name in ("layer", "pooling", "max_length", "long")
        if name in reader.provenance
    }


# ---- the search ----


def closest(queries: np.ndarray, parts: Iterable[Part], top: int = 10) -> list[list[Hit]]:
    """The `top` texts of a corpus for each of the queries [Q, H], the nearest first; of equals the first in the corpus.

    Blank texts are not found.
    """
    if top < 1:
        raise InputError(f"top={top} must be at least 1")
    queries = finished(queries, None, True, False)
    best: list[list[Hit]] = [[] for _ in queries]
    for first, texts, vectors in parts:
        table = queries @ finished(vectors, None, True, False).T  # [Q, n]
        if texts is not None:
            table[:, [not text.strip() for text in texts]] = -np.inf
        for hits, row in zip(best, table, strict=True):
            for i in np.argsort(-row.round(EQUAL), kind="stable")[:top]:
                if row[i] > -np.inf:
                    hits.append(Hit(first + int(i), float(row[i]), None if texts is None else texts[i]))
            hits.sort(key=lambda hit: (-np.float32(hit.cosine).round(EQUAL), hit.number))
            del hits[top:]
    return best


def search(
    embed: Embedder, queries: Sequence[str], parts: Iterable[Part], top: int = 10, **options: Any
) -> list[list[Hit]]:
    """The texts nearest to each query; options are those of Embedder's call that the parts were embedded with.

        search(embed, ["Who was king?"], parts_of_texts(embed, texts))
        search(embed, ["Who was king?"], parts_of_shards(reader), **options_of(reader))

    Raises InputError for a blank query.
    """
    for query in queries:
        if not query.strip():
            raise InputError(f"query {query!r} is blank, and so is near to nothing in particular")
    return closest(embed(list(queries), progress=False, **options), parts, top)


# ---- a second look by a pair model ----


def judge_of(task: Task, label: str | None = None) -> Callable[[dict[str, Any]], float]:
    """What to order by, from a prediction of this task: the probability of a label, or the score.

    Raises InputError for a task that is not one of texts, for one that was tuned on single texts, and when no label is
    named, NameUnknown for one it has not.
    """
    if not isinstance(task, TextTask):
        raise InputError(f"a model for the task {task.name} cannot judge pairs; expected one of {', '.join(KINDS)}")
    if task.settings.get("paired") is False:  # not there: nobody wrote down what it was tuned on
        raise InputError("a model that was tuned on single texts cannot judge pairs; tune one on (query, text)")
    if isinstance(task, RegressTask):
        if label is not None:
            raise InputError(f"label {label!r}: this model gives a score and has no labels; leave it out")
        return lambda prediction: prediction["score"]
    if label is None:
        raise InputError(f"order by which label's probability? It has {', '.join(task.labels[:20])} (--label)")
    if label not in task.labels:
        raise NameUnknown(f"no label {label!r}. Nearest: {nearest(label, task.labels) or 'none'}. It has: "
                          f"{', '.join(task.labels[:20])}")  # fmt: skip
    return lambda prediction: prediction["probabilities"][label]


def rerank(
    model: nn.Module, tokenizer: Tokenizer, task: Task, query: str, hits: Sequence[Hit], label: str | None = None
) -> list[Hit]:
    """Hits anew, in the order of what a pair model says of (query, text); of equals the nearer first.

    model, tokenizer, task: as `finetune.tasks.load_tuned` gives them. A model that does not say whether it was tuned on
    pairs is believed to be; one that says it was not is refused.
    """
    judge = judge_of(task, label)
    if any(hit.text is None for hit in hits):
        raise InputError("a pair model reads texts, shards have none; give those they were made from too (--input)")
    examples = [Example(query, hit.text, None, hit.number) for hit in hits]
    said = predictions_of(model, tokenizer, task, examples) if hits else []
    judged = [hit._replace(judged=judge(prediction)) for hit, prediction in zip(hits, said, strict=True)]
    return sorted(judged, key=lambda hit: -round(hit.judged or 0.0, EQUAL))
