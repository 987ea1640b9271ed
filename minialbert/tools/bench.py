"""Speed side by side with transformers: every row in one process, interleaved, in medians with their spread.

Here are the rows of inference, and `bench`, which runs all rows; bench_training.py has those of training,
bench_measuring.py says how a row is measured. The yardstick of the dense rows is the machine's own matrix-product
rate, measured in the same rounds. The goals are those of the README; no test asserts a time.
"""

import importlib.util
import operator
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minialbert.config import AlbertConfig
from minialbert.convert import load
from minialbert.embed import Embedder
from minialbert.embed.texts import read_texts
from minialbert.errors import InputError, NameUnknown, nearest
from minialbert.model import AlbertModel
from minialbert.packed import PackedEncoder
from minialbert.tools.bench_measuring import Row, Subject, compare, cpu_flags, fast_bfloat16, interleave, spread
from minialbert.tools.bench_training import training_rows
from minialbert.tools.cost import cost

TOLERANCE = 1e-5  # of the largest value: two float32 forwards of the same mathematics are nearer than this
COSINE = 0.999  # the smallest between a bfloat16 vector and its float32 one
PADDED_BATCH = 32  # texts that transformers pads together
MOST_TEXTS = 20_000  # read from --texts for the tokenize row
QUICK: dict[str, Any] = {
    "vocab_size": 100, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64,
}  # fmt: skip

# ---- the rows; each yields what it measured, and tells the subject what it could not ----


def corpus_rows(subject: Subject) -> Iterator[Row]:
    """Ids of sentences of mixed length to mean-pooled vectors of the last layer, float32."""
    run, ids, theirs = runner(subject), subject.ids, subject.theirs
    works: dict[str, Callable[[], Any]] = {"ours": run}
    equality: dict[str, Any] = {}
    if theirs is not None:
        given, by_length = range(len(ids)), sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        works["padded"] = lambda: their_vectors(theirs, ids, given)
        works["sorted"] = lambda: their_vectors(theirs, ids, by_length)
        want = works["padded"]()
        difference = float(np.abs(run() - want).max() / np.abs(want).max())
        equality = {"facts": {"largest difference": difference}, "equal": difference < TOLERANCE}
    seconds, tokens = interleave(works, subject.repeats), sum(map(len, ids))
    for how, goal in (("padded", ">= 3.5"), ("sorted", ">= 1.45")):
        yield compare(f"corpus, {how}", seconds["ours"], f"transformers, batches of {PADDED_BATCH}", seconds.get(how),
                      goal, "tokens/s", (tokens, tokens), **equality)  # fmt: skip


def runner(subject: Subject, layer: int = -1, dtype: torch.dtype = torch.float32) -> Callable[[], np.ndarray]:
    """Our way from the corpus to vectors, as something to be timed."""
    embed = Embedder(subject.model, subject.tokenizer, dtype=dtype)  # type: ignore[arg-type]  # ready ids need none
    types = [[0] * len(row) for row in subject.ids]
    return lambda: embed.encode_ids(subject.ids, layer, types=types)


def their_vectors(theirs: Any, ids: list[list[int]], order: Sequence[int]) -> np.ndarray:
    """The same vectors by transformers, padded batch after padded batch in the order given."""
    vectors = np.empty((len(ids), theirs.config.hidden_size), np.float32)
    for start in range(0, len(order), PADDED_BATCH):
        batch = list(order[start : start + PADDED_BATCH])
        width = max(len(ids[i]) for i in batch)
        rows = torch.tensor([ids[i] + [0] * (width - len(ids[i])) for i in batch])  # [B, T]
        mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in batch])  # [B, T]
        hidden = theirs(input_ids=rows, attention_mask=mask).last_hidden_state  # [B, T, H]
        vectors[batch] = ((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).numpy()
    return vectors


def dense_rows(subject: Subject) -> Iterator[Row]:
    """One batch without padding: how much of the machine's matrix-product rate arrives, for each way to run it."""
    (B, T), model, theirs = subject.dense, subject.model, subject.theirs
    ids = torch.randint(0, model.config.vocab_size, (B, T), generator=torch.Generator().manual_seed(0))
    packed, flat, L = PackedEncoder(model), ids.flatten(), model.config.num_visits
    products, flops = layer_products(model.config, B * T)
    works: dict[str, Callable[[], Any]] = {
        "matrix products": products,
        "packed.py": lambda: packed(flat, torch.zeros_like(flat), [T] * B, {L}),
        "model.py": lambda: model(ids),
    }
    if theirs is not None:
        works["transformers"] = lambda: theirs(input_ids=ids)
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


def bfloat16_rows(subject: Subject) -> Iterator[Row]:
    """The corpus in bfloat16 beside float32, and how far the vectors turn."""
    if not fast_bfloat16():
        subject.leave_out("bfloat16: left out, this CPU has neither AVX512-BF16 nor AMX")
        return
    works = {"float32": runner(subject), "bfloat16": runner(subject, dtype=torch.bfloat16)}
    a, b = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (work() for work in works.values()))
    cosines = (a * b).sum(1)
    facts = {"mean cosine": float(cosines.mean()), "smallest cosine": float(cosines.min())}
    seconds, tokens = interleave(works, subject.repeats), sum(map(len, subject.ids))
    yield compare("bfloat16", seconds["bfloat16"], "float32", seconds["float32"], ">= 2.5", "tokens/s",
                  (tokens, tokens), facts=facts, equal=facts["smallest cosine"] >= COSINE)  # fmt: skip


def layer_rows(subject: Subject) -> Iterator[Row]:
    """Layer k alone beside the whole forward."""
    L = subject.model.config.num_visits
    some = sorted({max(L // 4, 1), max(L // 2, 1)})
    seconds = interleave({str(k): runner(subject, layer=k) for k in {*some, L}}, subject.repeats)
    for k in some:
        yield compare(f"layer {k} alone", seconds[str(k)], f"all {L} layers", seconds[str(L)], f"<= {k / L + 0.05:.2f}")


def import_rows(subject: Subject) -> Iterator[Row]:
    """Seconds that importing takes beyond `import torch`, each in a fresh process."""
    lines = {"ours": "import minialbert"}
    if importlib.util.find_spec("transformers") is not None:
        lines["theirs"] = "from transformers import AlbertModel"
    found: dict[str, list[float]] = {name: [] for name in lines}
    for _ in range(subject.repeats + 1):
        for name, line in lines.items():
            code = f"import torch, time; start = time.perf_counter(); {line}; print(time.perf_counter() - start)"
            told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            found[name].append(float(told.stdout.split()[-1]))
    theirs = found["theirs"][1:] if "theirs" in found else None  # the first round fills the file cache
    yield compare("import", found["ours"][1:], "transformers' AlbertModel", theirs, "<= 0.1")


def tokenize_rows(subject: Subject) -> Iterator[Row]:
    """Texts to ids on one thread; every round has texts that neither has seen, so no cache answers for the work."""
    tokenizer, texts, rounds = subject.tokenizer, subject.texts, subject.repeats + 1
    if tokenizer is None or len(texts) < rounds:
        subject.leave_out(f"tokenize: left out, it needs --model, and --texts with at least {rounds} texts")
        return
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    count = len(texts) // rounds
    parts = [texts[i * count : (i + 1) * count] for i in range(rounds)]
    mine, other, ours, theirs = iter(parts), iter(parts), [], []
    works: dict[str, Callable[[], Any]] = {"ours": lambda: ours.extend(tokenizer(next(mine), padding=False).input_ids)}
    try:
        from transformers import AutoTokenizer

        fast = AutoTokenizer.from_pretrained(subject.directory, use_fast=True)
        works["theirs"] = lambda: theirs.extend(fast(next(other))["input_ids"])
    except Exception as error:  # a black box: whatever it raises, its side is left out
        subject.leave_out(f"tokenize: transformers left out, {' '.join(str(error).split())[:200]}")
    seconds = interleave(works, subject.repeats)
    facts = {"same ids": sum(map(operator.eq, ours, theirs)) / len(ours)} if theirs else {}
    yield compare("tokenize", seconds["ours"], "transformers' fast tokenizer", seconds.get("theirs"), ">= 5",
                  "texts/s", (count, count), facts=facts)  # fmt: skip


ROWS: dict[str, Callable[[Subject], Iterator[Row]]] = {
    "corpus": corpus_rows, "dense": dense_rows, "bfloat16": bfloat16_rows, "layer-k": layer_rows,
    "training": training_rows, "import": import_rows, "tokenize": tokenize_rows,
}  # fmt: skip


# ---- what is measured, and on what ----


def bench(
    ref: str | Path | None = None, preset: str = "albert-base-v2", rows: Sequence[str] | None = None, *,
    repeats: int | None = None, texts: str | None = None, count: int | None = None, quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure the rows named, all by default: {"machine", "model", "corpus", "rows", "left out"}, ready for JSON.

    ref is a model that `load` takes; without it the weights are random at the preset's size. texts is a file of real
    sentences, which need a model's tokenizer. say is told what is going on and what cannot be measured.
    Raises NameUnknown for a row that is not there, InputError for numbers and files that cannot be used.
    """
    if unknown := [name for name in rows or () if name not in ROWS]:
        near = nearest(unknown[0], ROWS)
        raise NameUnknown(f"no row named {unknown[0]!r}. Nearest: {near or 'none'}. All: {', '.join(ROWS)}")
    if (repeats or 1) < 1 or (count or 1) < 1 or 0 in (repeats, count):
        raise InputError(f"repeats={repeats} count={count}: both must be at least 1")
    repeats, count = repeats or (1 if quick else 3), count or (24 if quick else 256)
    subject = subject_of(ref, preset, texts, repeats, count, quick, say)
    config, lengths = subject.model.config, list(map(len, subject.ids))
    products, flops = layer_products(config, subject.dense[0] * subject.dense[1])
    rate = spread([flops / 1e9 / s for s in interleave({"": products}, 3)[""]])
    measured: list[dict[str, Any]] = []
    for name in rows or ROWS:
        say(f"measuring {name}")
        with torch.inference_mode(name != "training"):
            measured += map(asdict, ROWS[name](subject))
    return {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "torch": torch.__version__, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "flags": cpu_flags(), "matrix products, GFLOP/s": rate,
        },
        "model": {"name": subject.name, "parameters": config.count_parameters()["model"]},
        "corpus": {"texts": len(lengths), "tokens": sum(lengths), "longest": max(lengths), "repeats": repeats},
        "rows": measured,
        "left out": subject.left_out,
    }  # fmt: skip


def subject_of(
    ref: str | Path | None, preset: str, file: str | None, repeats: int, count: int, quick: bool, say: Callable
) -> Subject:
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
    P = model.config.max_position_embeddings
    ids = sentences(count, model.config.vocab_size, P)
    if file and tokenizer is not None:
        texts = list(islice((text for text in read_texts(file) if text.strip()), MOST_TEXTS))
        if not texts:
            raise InputError(f"{file}: no text in it")
        ids = [list(row) for row in tokenizer(texts[:count], padding=False, truncation=True, max_length=P).input_ids]
    dense = (2, min(16, P)) if quick else (8, min(128, P))
    subject = Subject(name, model, None, ids, texts, tokenizer, directory, repeats, dense, say)
    subject.theirs = their_model(subject)
    return subject


def sentences(count: int, V: int, P: int) -> list[list[int]]:
    """Random ids with the lengths of English sentences: lognormal, 28 tokens in the mean, half of them from 16 to 35.

    The deviation of the logarithm is that of 2,295 real sentences of mixed prose (0.578).
    """
    random, deviation = np.random.default_rng(0), 0.58
    lengths = random.lognormal(np.log(28) - deviation**2 / 2, deviation, count).round().clip(4, P).astype(int)
    return [random.integers(0, V, length).tolist() for length in lengths]


def their_model(subject: Subject) -> Any:
    """transformers' model with the same weights, by way of a directory; None when it is not installed."""
    try:
        import transformers
    except ImportError:
        return subject.leave_out("transformers is not installed: its side of every row is left out")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = subject.model
    cls = transformers.BertModel if model.config.model_type == "bert" else transformers.AlbertModel
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        kwargs: Any = {"attn_implementation": "sdpa", "add_pooling_layer": model.pooler is not None}
        return cls.from_pretrained(directory, **kwargs).eval()
