"""The rows of `minialbert bench` that run the encoder: corpus, dense, latency, bfloat16, layer-k.

Each yields what it measured, and tells the subject what it could not. The yardstick of the dense rows is the machine's
own matrix-product rate, measured in the same rounds. bench_measuring.py says how, bench_peers.py beside what.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from minialbert.config import AlbertConfig
from minialbert.embed import Embedder
from minialbert.packed import PackedEncoder
from minialbert.tools.bench_measuring import Row, Subject, compare, distance, fast_bfloat16, interleave
from minialbert.tools.bench_peers import (
    COMPILED,
    EAGER,
    ONNX,
    OURS_COMPILED,
    PADDED_BATCH,
    SDPA,
    SENTENCE,
    SENTENCES,
    Forward,
)
from minialbert.tools.cost import cost

COSINE = 0.999  # the smallest between a bfloat16 vector and its float32 one
CALLS = 20  # of one text, a round


def embedder(subject: Subject, dtype: torch.dtype = torch.float32) -> Embedder:
    return Embedder(subject.model, subject.tokenizer, dtype=dtype)  # type: ignore[arg-type]  # ready ids need none


def runner(subject: Subject, layer: int = -1, dtype: torch.dtype = torch.float32) -> Callable[[], np.ndarray]:
    """Our way from the corpus to vectors, as something to be timed."""
    embed, types = embedder(subject, dtype), [[0] * len(row) for row in subject.ids]
    return lambda: embed.encode_ids(subject.ids, layer, types=types)


def padded_vectors(forward: Forward, ids: list[list[int]], order: Sequence[int], H: int) -> np.ndarray:
    """The same vectors by a peer, padded batch after padded batch in the order given."""
    vectors = np.empty((len(ids), H), np.float32)
    for start in range(0, len(order), PADDED_BATCH):
        batch = list(order[start : start + PADDED_BATCH])
        width = max(len(ids[i]) for i in batch)
        rows = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in batch])  # [B, T]
        mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in batch])  # [B, T]
        hidden = forward(rows, mask)  # [B, T, H]
        vectors[batch] = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    return vectors


def corpus_rows(subject: Subject) -> Iterator[Row]:
    """Ids of sentences of mixed length to mean-pooled vectors of the last layer, float32; or texts to the same."""
    ids, H, get = subject.ids, subject.model.config.hidden_size, subject.peers.get
    tokens = sum(map(len, ids))
    given, by_length = range(len(ids)), sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    rows = [  # a name, who runs it, what that is, in which order, the goal
        ("padded", SDPA, f"transformers, batches of {PADDED_BATCH}", given, ">= 3.5"),
        ("sorted", SDPA, f"transformers, batches of {PADDED_BATCH}", by_length, ">= 1.45"),
        ("sorted for onnxruntime", ONNX, f"onnxruntime, batches of {PADDED_BATCH}", by_length, ""),
    ]
    works: dict[str, Callable[[], Any]] = {"ours": runner(subject)}
    for name, peer, _, order, _ in rows:
        if (forward := get(peer)) is not None:
            works[name] = partial(padded_vectors, forward, ids, order, H)
    texts = subject.texts[: len(ids)]
    if not texts:
        subject.leave_out(f"corpus: {SENTENCES} left out, it takes texts; give --model and --texts")
    elif (encode := get(SENTENCES)) is not None:
        works |= {"our texts": partial(embedder(subject), texts, -1), "texts": partial(encode, texts)}
    vectors: dict[str, np.ndarray] = {}
    seconds = interleave(works, subject.repeats, vectors)
    for name, _, what, _, goal in rows:
        if goal or name in works:
            yield compare(f"corpus, {name}", seconds["ours"], what, seconds.get(name), goal, "tokens/s",
                          (tokens, tokens), **distance(vectors["ours"], vectors.get(name)))  # fmt: skip
    if "texts" in works:
        yield compare("corpus, from texts", seconds["our texts"], SENTENCES, seconds["texts"], ">= 1.45", "tokens/s",
                      (tokens, tokens), **distance(vectors["our texts"], vectors["texts"]))  # fmt: skip


def dense_rows(subject: Subject) -> Iterator[Row]:
    """One batch without padding: how much of the machine's matrix-product rate arrives, for each way to run it."""
    (B, T), model = subject.dense, subject.model
    ids = torch.randint(0, model.config.vocab_size, (B, T), generator=torch.Generator().manual_seed(0))
    packed, flat, L = PackedEncoder(model), ids.flatten(), model.config.num_visits
    products, flops = layer_products(model.config, B * T)
    works: dict[str, Callable[[], Any]] = {
        "matrix products": products,
        "packed.py": lambda: packed(flat, torch.zeros_like(flat), [T] * B, {L}),
        "model.py": lambda: model(ids),
    }
    for peer in (SDPA, EAGER):
        if (forward := subject.peers.get(peer)) is not None:
            works[peer] = partial(forward, ids, None)
    seconds = interleave(works, subject.repeats)
    work = 2 * cost(model.config, B, T).total_multiply_adds / 1e9, flops / 1e9
    for name in list(works)[1:]:
        yield compare(f"dense {B} x {T}, {name}", seconds[name], "matrix products", seconds["matrix products"],
                      ">= 0.90" if name == "packed.py" else "", "GFLOP/s", work)  # fmt: skip


def layer_products(config: AlbertConfig, N: int) -> tuple[Callable[[], None], float]:
    """The matrix products of all layers for N tokens and nothing else, and how many FLOPs they are."""
    H, inner, L = config.hidden_size, config.intermediate_size, config.num_visits
    shapes = ((H, 3 * H), (H, H), (H, inner), (inner, H))  # query, key and value in one; output; up; down
    triples = [(torch.randn(N, a), torch.randn(b, a).t(), torch.empty(N, b)) for a, b in shapes]

    def products() -> None:
        for _ in range(L):
            for x, weight, out in triples:
                torch.mm(x, weight, out=out)

    return products, 2.0 * N * L * sum(a * b for a, b in shapes)


def latency_rows(subject: Subject) -> Iterator[Row]:
    """One text alone, as a service gets it: ids to the mean of its tokens. A round is the median of CALLS in turn."""
    model, get = subject.model, subject.peers.get
    T = min(SENTENCE, model.config.max_position_embeddings)
    ids = torch.randint(0, model.config.vocab_size, (1, T), generator=torch.Generator().manual_seed(0))
    embed = embedder(subject)
    works: dict[str, Callable[[], Any]] = {
        "packed.py": lambda: embed.encode_ids(ids.tolist(), -1, types=[[0] * T]),
        "model.py": lambda: model(ids).last_hidden_state.mean(1),
    }
    if subject.quick:
        subject.leave_out("latency: torch.compile left out of --quick, compiling takes a minute")
    for peer in (SDPA, EAGER, ONNX) if subject.quick else (SDPA, EAGER, ONNX, OURS_COMPILED, COMPILED):
        if (forward := get(peer)) is not None:
            works[peer] = partial(lambda run: run(ids, None).mean(1), forward)
    vectors: dict[str, Any] = {}
    seconds = interleave(works, CALLS * subject.repeats, vectors)
    milliseconds = {
        name: [1000 * median(times[i : i + CALLS]) for i in range(0, len(times), CALLS)]
        for name, times in seconds.items()
    }
    pairs = [("packed.py", peer) for peer in (SDPA, EAGER, ONNX, COMPILED)]
    for ours, theirs in [*pairs, ("model.py", SDPA), (OURS_COMPILED, COMPILED)]:
        if ours in works and (theirs in works or theirs == SDPA):
            same = distance(np.asarray(vectors[ours]), np.asarray(vectors[theirs])) if theirs in works else {}
            yield compare(f"latency 1 x {T}, {ours}", milliseconds[ours], theirs, milliseconds.get(theirs), unit="ms",
                          **same)  # fmt: skip


def bfloat16_rows(subject: Subject) -> Iterator[Row]:
    """The corpus in bfloat16 beside float32, and how far the vectors turn."""
    if not fast_bfloat16():
        subject.leave_out("bfloat16: left out, this CPU has neither AVX512-BF16 nor AMX")
        return
    works = {"float32": runner(subject), "bfloat16": runner(subject, dtype=torch.bfloat16)}
    vectors: dict[str, np.ndarray] = {}
    seconds, tokens = interleave(works, subject.repeats, vectors), sum(map(len, subject.ids))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in vectors.values())
    cosines = (a * b).sum(1)
    facts = {"mean cosine": float(cosines.mean()), "smallest cosine": float(cosines.min())}
    yield compare("bfloat16", seconds["bfloat16"], "float32", seconds["float32"], ">= 2.5", "tokens/s",
                  (tokens, tokens), facts=facts, equal=facts["smallest cosine"] >= COSINE)  # fmt: skip


def layer_rows(subject: Subject) -> Iterator[Row]:
    """Layer k alone beside the whole forward."""
    L = subject.model.config.num_visits
    some = sorted({max(L // 4, 1), max(L // 2, 1)})
    seconds = interleave({str(k): runner(subject, layer=k) for k in {*some, L}}, subject.repeats)
    for k in some:
        yield compare(f"layer {k} alone", seconds[str(k)], f"all {L} layers", seconds[str(L)], f"<= {k / L + 0.05:.2f}")
