"""Text to vectors: the Embedder. (The model's input layer, also called embedding, is model.Embeddings.)

pool.py has layers and poolings, post.py centring and whitening, files.py and shards.py what is read and written.
The encoder runs as packed.py lays it out: texts sorted by length, end to end, no padding.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minialbert.embed.pool import RAGGED, Layers, check_pooling, join, mix, parse_layers, pool_pieces, pool_texts
from minialbert.embed.post import Post
from minialbert.embed.prepare import LONG, Lost, Prepared, chunks, prepare
from minialbert.errors import InputError
from minialbert.model import AlbertModel
from minialbert.packed import PackedEncoder
from minialbert.tokenizers import Tokenizer
from minialbert.version import VERSION

BLOCK_TEXTS = 4096  # texts that are tokenized and sorted together


class Block(NamedTuple):
    """Vectors of some texts in order, [n, H] or a list of [T_i, H]; labels of those T_i; tokens cut from each."""

    vectors: Any
    items: list[list[dict]] | None
    cut: list[int]


class Embedder:
    """Text to vectors: `embed(texts)` is float32 [N, H].

        embed = Embedder(model, tokenizer)
        embed(["One text.", "Another."])                    # [2, H], the mean of all tokens
        embed(texts, layer="mean(-4..-1)", normalize=True)  # [N, H]
        embed(texts, layer="all", pooling="cls")            # [N, L + 1, H]
        embed(texts, pooling="words")                       # a list of [words, H], one for each text

    There is no dropout and no padding here, whatever mode the model is in. A vector moves by about 1e-6 with its
    neighbours in the batch, because a matrix product rounds by its shape; `exact=True` runs each text alone and gives
    the same bits whatever else is embedded, on as many threads. batch_tokens is how many tokens run together, a matter
    of speed and memory alone. device and dtype, where they are not the model's own, work on a copy of it; else
    a model that is trained further or changed in place is followed.
    """

    def __init__(
        self,
        model: AlbertModel,
        tokenizer: Tokenizer,
        *,
        batch_tokens: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ):
        trunk: AlbertModel = getattr(model, "albert", model)
        if not isinstance(trunk, AlbertModel) or isinstance(tokenizer, torch.nn.Module):
            raise InputError(f"Embedder(model, tokenizer) got a {type(model).__name__} as model")
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens={batch_tokens} must be at least 1")
        try:
            if (device and torch.device(device) != trunk.device) or (dtype and dtype != trunk.dtype):
                trunk = copy.deepcopy(trunk).to(device=device, dtype=dtype)
        except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
            found = "cpu" + (", cuda" if torch.cuda.is_available() else "")
            said = str(error).splitlines()[0][:80]
            raise InputError(f"device={str(device)!r} cannot be used here ({said}); there is {found}") from None
        self.model, self.tokenizer = trunk, tokenizer
        self.encoder = PackedEncoder(trunk)
        self.batch_tokens = batch_tokens or (4096 if trunk.device.type == "cpu" else 16384)

    def __call__(
        self,
        texts: str | Iterable[str | tuple[str, str]],
        layer: int | str | None = None,
        pooling: str = "mean",
        *,
        normalize: bool = False,
        post: Post | None = None,
        word_pooling: str = "mean",
        spans: Sequence[Sequence[tuple[int, int]]] | None = None,
        max_length: int | None = None,
        long: str = "cut",
        exact: bool = False,
        progress: bool | None = None,
    ) -> Any:
        """Vectors of texts, numpy float32 [N, H]; a single string is a list of one; a tuple is a pair.

        layer: 3, -1, "embeddings" ([N, E], before the projection), "mean(-4..-1)", "cat(1,6,-1)" ([N, 3 H]), "all"
        ([N, L + 1, H]); None is -1 or, for the pooling "mean", what the model says is best.
        pooling: "mean" of all tokens, [CLS] and [SEP] among them, as sentence models have it; "cls", "max"; "pooler"
        (trained only through the pair task); or, as a list of arrays with a row for each, "tokens", "words" (their
        pieces joined by word_pooling: mean, first, last, sum, max, first+last), "spans" (mean of the pieces inside each
        character range of `spans`, one list of (start, end) for each text).
        post is fitted centring or whitening (embed/post.py), normalize makes lengths 1 after it.
        A text over max_length tokens (the model's own limit if None) is cut with a warning, refused (long="error"), or
        run in windows (long="window") that overlap by a quarter; each token is then taken from the window in which
        it stands farther from an edge.
        Raises InputError, NameUnknown.
        """
        if not isinstance(texts, Iterable):
            raise InputError(f"texts are a {type(texts).__name__}, expected a string or a list of them")
        if isinstance(texts, tuple) and len(texts) != 2:
            raise InputError(f"a tuple of {len(texts)} is neither a pair nor a list of texts; make it a list")
        texts = [texts] if isinstance(texts, (str, tuple)) else list(texts)
        options: dict[str, Any] = {
            "normalize": normalize, "post": post, "word_pooling": word_pooling, "max_length": max_length,
            "long": long, "exact": exact,
        }  # fmt: skip
        if spans is not None and (pooling != "spans" or len(spans) != len(texts)):
            raise InputError(f"spans are for pooling='spans', one list for each of the {len(texts)} texts")
        bar = tqdm(total=len(texts), unit=" texts", disable=not progress and (progress is False or len(texts) < 1000))
        blocks, lost = [], Lost()
        with bar:
            for block in self.stream(texts, layer, pooling, spans=spans, **options):
                blocks.append(block)
                lost.add(block.cut)
                bar.update(len(block.cut))
        if lost.cut:
            warnings.warn(lost.line(self.limit(max_length)), stacklevel=2)
        if pooling in RAGGED:
            return [array for block in blocks for array in block.vectors]
        if not blocks:
            return np.zeros((0, *self.row_shape(layer, post)), np.float32)
        return np.concatenate([block.vectors for block in blocks])

    def stream(
        self, texts: Iterable[str | tuple[str, str]], layer: int | str | None = None, pooling: str = "mean", *,
        spans: Sequence[Sequence[tuple[int, int]]] | None = None, block_texts: int = BLOCK_TEXTS,
        normalize: bool = False, post: Post | None = None, word_pooling: str = "mean", max_length: int | None = None,
        long: str = "cut", exact: bool = False,
    ) -> Iterator[Block]:  # fmt: skip
        """The same for texts without end: a Block for every block_texts texts, in order, in bounded memory."""
        check_pooling(pooling, word_pooling)
        if long not in LONG:
            raise InputError(f"long={long!r} must be one of {', '.join(LONG)}")
        if pooling == "spans" and spans is None:
            raise InputError("pooling='spans' needs spans, a list of (start, end) for each text")
        layers, limit = self.layers(layer, pooling), self.limit(max_length)
        source, done = iter(texts), 0
        while batch := list(islice(source, block_texts)):
            ranges = None if spans is None else spans[done : done + len(batch)]
            prepared, cut = prepare(self.tokenizer, batch, pooling, ranges, limit, long, done)
            vectors = self.run(prepared, layers, pooling, word_pooling, exact)
            if pooling in RAGGED:
                items = [text.items or [] for text in prepared]
                yield Block([finished(v, post, normalize, exact) for v in vectors], items, cut)
            else:
                yield Block(finished(np.stack(vectors), post, normalize, exact), None, cut)
            done += len(batch)

    def encode_ids(
        self, ids: Sequence[Sequence[int]], layer: int | str | None = None, pooling: str = "mean", *,
        types: Sequence[Sequence[int]] | None = None, normalize: bool = False, post: Post | None = None,
        exact: bool = False,
    ) -> Any:  # fmt: skip
        """Vectors from ready-made ids, special tokens and all; pooling "mean", "cls", "max", "pooler" or "tokens"."""
        check_pooling(pooling)
        if pooling in ("words", "spans"):
            raise InputError(f"pooling={pooling!r} needs texts; ids have no words")
        ids = [list(map(int, row)) for row in ids]
        if empty := [i for i, row in enumerate(ids) if not row]:
            raise InputError(f"list {empty[0]} of ids is empty; even an empty text has its special tokens")
        V, top = self.model.config.vocab_size, max((max(row) for row in ids), default=0)
        if top >= V or min((min(row) for row in ids), default=0) < 0:
            raise InputError(f"ids run from {min(map(min, ids))} to {top}, the table has rows 0..{V - 1}")
        if types is None and any(row.count(self.tokenizer.sep_id) > 1 for row in ids):
            warnings.warn(
                "lists of ids with two [SEP], a pair, but no types: all is taken as one segment", stacklevel=2
            )
        types = [[0] * len(row) for row in ids] if types is None else [list(row) for row in types]
        if [len(row) for row in types] != [len(row) for row in ids]:
            raise InputError("types must have a number for each id")
        kinds = self.model.config.type_vocab_size
        if any(not 0 <= kind < kinds for row in types for kind in row):
            raise InputError(f"types must be 0..{kinds - 1}")
        prepared = [Prepared([list(row)], [list(kinds)]) for row, kinds in zip(ids, types, strict=True)]
        layers = self.layers(layer, pooling)
        vectors = self.run(prepared, layers, pooling, "mean", exact)
        if pooling in RAGGED:
            return [finished(v, post, normalize, exact) for v in vectors]
        if not vectors:
            return np.zeros((0, *self.row_shape(layer, post)), np.float32)
        return finished(np.stack(vectors), post, normalize, exact)

    # ---- what a call means ----

    def default(self, layer: int | str | None, pooling: str = "mean") -> int | str:
        """The layer that is meant. None: the last; of a mean, what the model's config.json says as "sentence_layer"."""
        if layer is None:
            layer = self.model.config.extra.get("sentence_layer", -1) if pooling == "mean" else -1
        return layer

    def layers(self, layer: int | str | None, pooling: str = "mean") -> Layers:
        layers = parse_layers(self.default(layer, pooling), self.model.config.num_visits)
        if pooling == "pooler":
            if self.model.pooler is None:
                raise InputError("this checkpoint has no pooler; use pooling='cls' or 'mean'")
            if layers.numbers[0] < 0:
                raise InputError("the pooler takes vectors H wide; layer 'embeddings' is E wide")
        return layers

    def row_shape(self, layer: int | str | None = None, post: Post | None = None) -> tuple[int, ...]:
        """The shape of one vector: (H,), (n H,) for "cat", (L + 1, H) for "all", (K,) after whitening to K."""
        layers, H = self.layers(layer), self.model.config.hidden_size
        if post is not None:
            return (post.width,)
        if layers.how == "all":
            return (len(layers.numbers), H)
        H = self.model.config.embedding_size if layers.numbers[0] < 0 else H
        return (H * (len(layers.numbers) if layers.how == "cat" else 1),)

    def limit(self, max_length: int | None) -> int:
        """The most tokens of a text that run together, special tokens included."""
        most = self.model.config.max_position_embeddings
        if self.tokenizer.model_max_length:
            most = min(most, self.tokenizer.model_max_length)
        if max_length is not None and not 4 <= max_length <= self.model.config.max_position_embeddings:
            P = self.model.config.max_position_embeddings
            raise InputError(f"max_length={max_length} must be between 4 and the model's P={P} positions")
        return max_length or most

    def provenance(self, layer: int | str | None = None, pooling: str = "mean", **options: Any) -> dict[str, Any]:
        """What made a vector, to be written beside it: digests, layer, pooling, precision, version."""
        return {
            "minialbert": VERSION,
            "model": self.model.digest(),
            "tokenizer": self.tokenizer.digest(),
            "layer": self.layers(layer, pooling).name,
            "pooling": pooling,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            **{name: value for name, value in options.items() if value is not None},
        }

    # ---- ids to vectors ----

    def run(self, prepared: list[Prepared], layers: Layers, pooling: str, word_pooling: str, exact: bool) -> list:
        """A result for each text, in order. Texts of one length run side by side, those in windows each by itself."""
        most = 1 if exact else self.batch_tokens
        results: list[Any] = [None] * len(prepared)
        length = [len(text.windows[0]) for text in prepared]
        with torch.autocast(self.model.device.type, enabled=False):  # what packed.py writes into has the model's type
            short = sorted((i for i, text in enumerate(prepared) if text.rows is None), key=lambda i: -length[i])
            for chunk in chunks(short, [length[i] for i in short], most):
                texts = [prepared[i] for i in chunk]
                states = self.states([text.windows[0] for text in texts], [text.types[0] for text in texts], layers)
                vectors = self.pool(states, [length[i] for i in chunk], texts, layers, pooling, word_pooling)
                for i, vector in zip(chunk, vectors, strict=True):
                    results[i] = vector
            for i, text in enumerate(prepared):
                if text.rows is None:
                    continue
                parts = []
                for chunk in chunks(list(range(len(text.windows))), [len(window) for window in text.windows], most):
                    parts.append(self.states([text.windows[n] for n in chunk], [text.types[n] for n in chunk], layers))
                rows = torch.tensor(text.rows, device=self.model.device)
                states = [torch.cat(part)[rows] for part in zip(*parts, strict=True)]
                (results[i],) = self.pool(states, [len(rows)], [text], layers, pooling, word_pooling)
        return results

    def states(self, ids: list[list[int]], types: list[list[int]], layers: Layers) -> list[Tensor]:
        """Token vectors laid end to end, one tensor for each layer to be pooled."""
        device = self.model.device
        flat = torch.tensor([n for row in ids for n in row], device=device)
        kinds = torch.tensor([n for row in types for n in row], device=device)
        kept = self.encoder(flat, kinds, [len(row) for row in ids], set(layers.numbers))
        return mix(kept, layers)

    @torch.inference_mode()
    def pool(
        self, states: list[Tensor], lengths: list[int], texts: list[Prepared], layers: Layers, pooling: str, how: str
    ) -> Iterable:
        """Token vectors to one result a text: a row, or for ragged poolings an array of rows."""
        if pooling in ("mean", "cls", "max"):
            return numpy(join([pool_texts(x, lengths, pooling) for x in states], layers))
        if pooling == "pooler":
            assert self.model.pooler is not None
            first = [pool_texts(x, lengths, "cls") for x in states]
            return numpy(join([torch.tanh(self.model.pooler(x)) for x in first], layers))
        starts = np.cumsum([0, *lengths])
        if pooling == "tokens":
            return np.split(numpy(join(states, layers)), starts[1:-1])
        groups = [
            [int(start) + row for row in group]
            for start, text in zip(starts[:-1], texts, strict=True)
            for group in text.groups or []
        ]
        how = how if pooling == "words" else "mean"
        rows = numpy(join([pool_pieces(x, groups, how) for x in states], layers))
        return np.split(rows, np.cumsum([len(text.groups or []) for text in texts])[:-1])


def numpy(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy()


def finished(vectors: np.ndarray, post: Post | None, normalize: bool, exact: bool) -> np.ndarray:
    """The steps after pooling, in their fixed order: centre, standardize or whiten, then length 1."""
    if post is not None:
        vectors = post.apply(vectors, exact=exact)
    if normalize:
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        vectors = vectors / np.where(lengths == 0, 1, lengths)
    return np.ascontiguousarray(vectors, dtype=np.float32)
