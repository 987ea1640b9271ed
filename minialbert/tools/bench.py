"""Speed side by side with transformers and others: every row in one run, in turn, in medians with their spread.

Here is `bench`, which runs the rows on one model and one corpus. The rows are in bench_vectors.py (the encoder),
bench_training.py, bench_processes.py (import, first vector, memory) and bench_files.py (tokenize, convert);
bench_measuring.py says how a row is measured, bench_peers.py beside what, bench_plot.py draws it. The goals are those
of the README; no test asserts a time.
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minialbert.config import AlbertConfig
from minialbert.convert import load
from minialbert.embed.texts import read_texts
from minialbert.errors import InputError, NameUnknown, nearest
from minialbert.model import AlbertModel
from minialbert.tools.bench_files import convert_rows, tokenize_rows
from minialbert.tools.bench_measuring import Row, Subject, cpu_flags, interleave, spread
from minialbert.tools.bench_processes import first_vector_rows, import_rows, memory_rows
from minialbert.tools.bench_training import training_rows
from minialbert.tools.bench_vectors import (
    bfloat16_rows,
    corpus_rows,
    dense_rows,
    latency_rows,
    layer_products,
    layer_rows,
)

MOST_TEXTS = 20_000  # read from --texts for the tokenize row
PACKAGES = ("transformers", "tokenizers", "sentence-transformers", "onnxruntime")  # whose versions are told
QUICK: dict[str, Any] = {  # as many words as the shipped tokenizer has
    "vocab_size": 8192, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip

ROWS: dict[str, Callable[[Subject], Iterator[Row]]] = {
    "corpus": corpus_rows, "dense": dense_rows, "latency": latency_rows, "bfloat16": bfloat16_rows,
    "layer-k": layer_rows, "training": training_rows, "import": import_rows, "first-vector": first_vector_rows,
    "memory": memory_rows, "tokenize": tokenize_rows, "convert": convert_rows,
}  # fmt: skip


def bench(
    ref: str | Path | None = None, preset: str = "albert-base-v2", rows: Sequence[str] | None = None, *,
    repeats: int | None = None, texts: str | None = None, count: int | None = None, quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure the rows named, all by default: {"machine", "model", "corpus", "rows", "left out", ...}, ready for JSON.

    ref is a model that `load` takes; without it the weights are random at the preset's size. texts is a file of real
    sentences, which need a model's tokenizer. say is told what is going on and what cannot be measured.
    Raises NameUnknown for a row that is not there, InputError for numbers and files that cannot be used.
    """
    if unknown := [name for name in rows or () if name not in ROWS]:
        near = nearest(unknown[0], ROWS)
        raise NameUnknown(f"no row named {unknown[0]!r}. Nearest: {near or 'none'}. All: {', '.join(ROWS)}")
    for what, number in (("repeats", repeats), ("count", count)):
        if number is not None and number < 1:
            raise InputError(f"{what}={number} must be at least 1")
    repeats, count = repeats or (1 if quick else 3), count or (24 if quick else 96)
    with tempfile.TemporaryDirectory(prefix="minialbert-") as folder:
        subject = subject_of(ref, preset, texts, repeats, count, quick, Path(folder), say)
        products, flops = layer_products(subject.model.config, subject.dense[0] * subject.dense[1])
        rate = spread([flops / 1e9 / s for s in interleave({"": products}, 3)[""]])
        measured: list[dict[str, Any]] = []
        took: dict[str, float] = {}
        for name in rows or ROWS:
            say(f"measuring {name}")
            started = time.perf_counter()
            with torch.inference_mode(name != "training"):
                measured += map(asdict, ROWS[name](subject))
            took[name] = round(time.perf_counter() - started, 1)
    lengths = list(map(len, subject.ids))
    return {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "torch": torch.__version__, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "flags": cpu_flags(), "matrix products, GFLOP/s": rate, "peers": peer_versions(),
        },
        "model": {"name": subject.name, "parameters": subject.model.config.count_parameters()["model"]},
        "corpus": {"texts": len(lengths), "tokens": sum(lengths), "longest": max(lengths), "repeats": repeats},
        "rows": measured,
        "left out": subject.left_out,
        "seconds taken": took,
    }  # fmt: skip


def peer_versions() -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def subject_of(
    ref: str | Path | None, preset: str, file: str | None, repeats: int, count: int, quick: bool, folder: Path,
    say: Callable[[str], None],
) -> Subject:  # fmt: skip
    """The model, given or random, and the corpus, real texts or random ids."""
    tokenizer, directory, texts = None, None, []
    if ref is not None:
        (model, tokenizer), directory, name = load(ref), Path(ref), str(ref)
    elif file:
        raise InputError("--texts needs --model: ids are made by the model's own tokenizer")
    else:
        name = f"{'a tiny model' if quick else preset}, random weights"
        config = AlbertConfig(**QUICK) if quick else AlbertConfig.preset(preset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AlbertModel(config).eval()
            for path, weight in model.named_parameters():
                if path.endswith("bias"):  # 0 at first, which hides how they round
                    torch.nn.init.normal_(weight, std=0.02)
    P = model.config.max_position_embeddings
    ids = sentences(count, model.config.vocab_size, P)
    if file and tokenizer is not None:
        texts = list(islice((text for text in read_texts(file) if text.strip()), MOST_TEXTS))
        if not texts:
            raise InputError(f"{file}: no text in it")
        ids = [list(row) for row in tokenizer(texts[:count], padding=False, truncation=True, max_length=P).input_ids]
    dense = (2, min(16, P)) if quick else (8, min(128, P))
    return Subject(name, model, ids, texts, tokenizer, directory, repeats, dense, quick, folder, say)


def sentences(count: int, V: int, P: int) -> list[list[int]]:
    """Random ids with the lengths of English sentences: lognormal, 28 tokens in the mean, half of them from 16 to 35.

    The deviation of the logarithm is that of 2,295 real sentences of mixed prose (0.578).
    """
    random, deviation = np.random.default_rng(0), 0.58
    lengths = random.lognormal(np.log(28) - deviation**2 / 2, deviation, count).round().clip(4, P).astype(int)
    return [random.integers(0, V, length).tolist() for length in lengths]
