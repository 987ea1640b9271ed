"""A corpus that outgrows one machine: EmbedTexts, the Embedder of __init__.py as a worker of Ray Data or of Spark.

With Ray Data (pip install minialbert[ray]) each actor is an EmbedTexts:

    import json, pathlib, ray
    from minialbert.embed.workers import EmbedTexts

    settings = {"layer": "mean(-2..-1)", "normalize": True}
    made_by = EmbedTexts(**settings).provenance()
    texts = ray.data.read_text("corpus.txt")  # the column "text", a line a row
    vectors = texts.map_batches(
        EmbedTexts, fn_constructor_kwargs={**settings, "expect": made_by}, batch_size=256,
        num_cpus=1, compute=ray.data.ActorPoolStrategy(size=2),
    )
    vectors.write_parquet("vectors")  # the column "vector" beside the others
    pathlib.Path("vectors.json").write_text(json.dumps(made_by))

(Leave a CPU to those who read and write: where actors hold all of them, Ray waits for ever. Measured: 2 of 2.)
With Spark the same class goes into pandas UDFs, over a column or over whole rows:

    @pandas_udf("array<float>")
    def vector(texts: Iterator[pd.Series]) -> Iterator[pd.Series]:
        yield from EmbedTexts(normalize=True).series(texts)

    df.withColumn("vector", vector("text"))
    df.mapInPandas(EmbedTexts(normalize=True).frames, "id long, text string, vector array<float>")

Ray is tested with Ray itself. Spark needs Java: the tests do with pandas and Arrow what it does with both, and with
Spark 4.3 itself both ways were tried by hand, once: with exact=True they gave the bits of Embedder on one thread.
The engines cut a corpus, spread it, retry and write; on one machine `minialbert embed --shards` does that (shards.py).
"""

import contextlib
import functools
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from minialbert.convert import load
from minialbert.embed import Embedder
from minialbert.embed.pool import RAGGED, check_pooling
from minialbert.embed.prepare import LONG
from minialbert.errors import CheckpointError, InputError

DTYPES = ("float32", "bfloat16")
KEPT = 2  # models that a process keeps loaded
SHOWN, CELLS = 40, 3  # characters of a value in a message; other cells of its row


class EmbedTexts:
    """Batches of texts to the same batches with vectors, float32 [n, H]; one vector a text.

    ref: what `minialbert.load` takes, under a name that every machine knows (a relative path is looked up where the
    worker runs); None is the small model that ships. layer, pooling, normalize, max_length, long and exact are those
    of Embedder's call; layer "all" and the poolings "tokens", "words" and "spans" are refused. dtype and device are
    those of the model: "float32" or "bfloat16"; "cuda" where the engine gives each worker a GPU (num_gpus=1).
    column is where the texts are, output where the vectors go. threads: of torch during a call, as many as the engine
    counts for a worker; None leaves them alone. expect: a `provenance()` to hold to, so that a machine where the same
    name means another model, or an older version of this package runs, is refused instead of mixed in.

    Nothing is loaded before the first batch, so an object is pickled as its settings; a process loads a model once
    for all objects. A vector moves by about 1e-6 with the batch that it comes in; with exact=True it has the bits that
    Embedder gives it on such a machine.
    Raises InputError and NameUnknown; in a worker what `load` raises, too, and CheckpointError for the unexpected.
    """

    def __init__(
        self,
        ref: str | None = None,
        *,
        layer: int | str | None = None,
        pooling: str = "mean",
        normalize: bool = False,
        max_length: int | None = None,
        long: str = "cut",
        exact: bool = False,
        dtype: str = "float32",
        device: str | None = None,
        column: str = "text",
        output: str = "vector",
        threads: int | None = 1,
        expect: dict[str, Any] | None = None,
    ):
        check_pooling(pooling)
        if pooling in RAGGED:
            raise InputError(f"pooling={pooling!r} gives several vectors a text, expected one; use mean")
        for name, value, allowed in (("long", long, LONG), ("dtype", dtype, DTYPES)):
            if value not in allowed:
                raise InputError(f"{name}={value!r} must be one of {', '.join(allowed)}")
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise InputError(f"threads={threads!r} must be a whole number of at least 1, or None")
        if column == output:
            raise InputError(f'column and output are both "{column}"; name another column for the vectors')
        self.ref, self.dtype, self.device = None if ref is None else str(ref), dtype, device
        self.layer, self.pooling, self.normalize = layer, pooling, normalize
        self.max_length, self.long, self.exact = max_length, long, exact
        self.column, self.output, self.threads, self.expect = column, output, threads, expect
        self._checked: Embedder | None = None  # not pickled

    # ---- what the engines call ----

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A batch of Ray Data, a dict of arrays, with the vectors as one more: float32 [n, H]."""
        if not isinstance(batch, dict):
            raise InputError(f"the batch is a {type(batch).__name__}, expected a dict of arrays: batch_format='numpy'")
        self.check_columns(batch)
        return {**batch, self.output: self.vectors(texts_of(batch[self.column], self.column, batch))}

    def series(self, batches: Iterable[Any]) -> Iterator[Any]:
        """pandas Series of texts to Series of vectors, each [H]: for a pandas UDF of Spark over iterators."""
        import pandas as pd

        for batch in batches:
            vectors = self.vectors(texts_of(batch, self.column))
            yield pd.Series(list(vectors), index=batch.index, name=self.output, dtype=object)

    def frames(self, batches: Iterable[Any]) -> Iterator[Any]:
        """pandas DataFrames to the same with the column of vectors, each [H]: for mapInPandas of Spark."""
        import pandas as pd

        for batch in batches:
            self.check_columns(batch)
            vectors = self.vectors(texts_of(batch[self.column], self.column, batch))
            yield batch.assign(**{self.output: pd.Series(list(vectors), index=batch.index, dtype=object)})

    def provenance(self) -> dict[str, Any]:
        """What makes the vectors, to be written beside them: Embedder's, as `minialbert embed` records it.

        The model is loaded on the CPU for it, so whoever starts the workers needs no GPU.
        """
        return self.made_by(embedder_of(self.ref, self.dtype, None))

    # ---- what they have in common ----

    def vectors(self, texts: list[str]) -> np.ndarray:
        """float32 [n, H], with a model that is loaded once a process, on `threads` threads."""
        with torch_threads(self.threads):
            embed = self.checked_embedder()
            return embed(texts, self.layer, self.pooling, normalize=self.normalize, max_length=self.max_length,
                         long=self.long, exact=self.exact, progress=False)  # fmt: skip

    def checked_embedder(self) -> Embedder:
        """The Embedder of this process; settings and expectations are checked when it is new to this object."""
        embed = embedder_of(self.ref, self.dtype, self.device)
        if self._checked is not embed:
            layer = embed.default(self.layer, self.pooling)
            if len(shape := embed.row_shape(layer)) > 1:
                raise InputError(f"layer={layer!r} gives {shape[0]} vectors a text, expected one; use mean(...)")
            if self.expect is not None:
                self.check_expected(self.made_by(embed))
            self._checked = embed
        return embed

    def check_expected(self, found: dict[str, Any]) -> None:
        """Raises CheckpointError unless the vectors are made as `expect` says."""
        assert self.expect is not None
        pairs = {name: (found.get(name), self.expect.get(name)) for name in {**found, **self.expect}}
        differs = [
            f"{name} {told_of(is_)}, expected {told_of(was)}" for name, (is_, was) in pairs.items() if is_ != was
        ]
        if differs:
            name = self.ref or "the model that ships"
            raise CheckpointError(
                f"{name} on {socket.gethostname()}: {'; '.join(differs)}; use the same model, settings and version"
            )

    def made_by(self, embed: Embedder) -> dict[str, Any]:
        layer, limit = embed.default(self.layer, self.pooling), embed.limit(self.max_length)
        origin = embed.provenance(layer, self.pooling, long=self.long, max_length=limit)
        return origin | {"normalize": self.normalize, "exact": self.exact}

    def check_columns(self, batch: Any) -> None:
        """Raises InputError unless the column of texts is there and the one of vectors is not."""
        names = ", ".join(map(str, batch)) or "none"
        if self.column not in batch:
            raise InputError(f'no column "{self.column}" in the batch; its columns: {names} (column=...)')
        if self.output in batch:
            raise InputError(
                f'the batch has a column "{self.output}" already; name another for the vectors (output=...)'
            )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_checked": None}


def texts_of(values: Iterable[Any], column: str, batch: Any = None) -> list[str]:
    """A column as a list of strings. Raises InputError that names the column and the row of the batch.

    An engine takes a batch from anywhere, so what tells the row are its first cells in the other columns.
    """
    texts = list(values)
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            others = [] if batch is None else [name for name in batch if name != column and np.ndim(batch[name]) == 1]
            cells = ", ".join(f"{name}={told_of(list(batch[name])[row])}" for name in others[:CELLS])
            raise InputError(
                f'column "{column}", row {row} of a batch of {len(texts)}{f" ({cells})" if cells else ""}: '
                f"{told_of(text)} ({type(text).__name__}), expected a string; fill in or drop what is missing"
            )
    return texts


def told_of(value: Any) -> str:
    """A value in one short line."""
    told = " ".join(str(value).split())
    return told if len(told) <= SHOWN else told[: SHOWN - 3] + "..."


@functools.lru_cache(maxsize=KEPT)
def embedder_of(ref: str | None, dtype: str, device: str | None) -> Embedder:
    """The Embedder of what `load` takes, the same object again in this process."""
    return Embedder(*load(ref), device=device, dtype=getattr(torch, dtype))


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """torch on so many threads inside, as before outside: the process may be somebody else's, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
