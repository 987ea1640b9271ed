"""Speed side by side with transformers: every row in one process, interleaved, in medians with their spread.

A number of seconds means little on a machine that others use too, so each row runs its works in turn, A B A B, takes
the ratio of every round, and shows the median of these ratios. The yardstick of the dense rows is the machine's own
matrix-product rate, measured in the same rounds. The goals are those of the README; no test asserts a time.
"""

import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minialbert.config import AlbertConfig
from minialbert.convert import find, load
from minialbert.embed import Embedder
from minialbert.embed.files import read_texts
from minialbert.errors import InputError, NameUnknown, nearest
from minialbert.model import AlbertModel
from minialbert.packed import PackedEncoder
from minialbert.tokenizers import Tokenizer
from minialbert.tools.cost import cost

TOLERANCE = 1e-5  # of the largest value: two float32 forwards of the same mathematics are nearer than this
COSINE = 0.999  # the smallest between a bfloat16 vector and its float32 one
PADDED_BATCH = 32  # texts that transformers pads together
MOST_TEXTS = 20_000  # read from --texts for the tokenize row
QUICK = {"vocab_size": 100, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
         "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")  # of the CPU, that decide speed


class Spread(NamedTuple):
    """What some rounds measured."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is the median over the rounds of ours / theirs, which is what the goal is about."""

    name: str
    unit: str
    ours: Spread
    peer: str  # what theirs is
    theirs: Spread | None
    ratio: float | None
    goal: str  # as ">= 3.5"; "" where nothing is promised
    met: bool | None
    facts: dict[str, float] = field(default_factory=dict)  # how equal the results are
    equal: bool = True  # False: the two did not compute the same, and the times mean nothing


@dataclass
class Subject:
    """What is measured: one model, ours and theirs with the same weights, and one corpus."""

    name: str
    model: AlbertModel
    theirs: Any  # transformers' model, None when there is none
    ids: list[list[int]]  # the corpus
    texts: list[str]  # its texts and more, when it has any
    tokenizer: Tokenizer | None
    directory: Path | None  # where transformers finds the tokenizer
    repeats: int
    dense: tuple[int, int]  # B, T

    def embedder(self, dtype: torch.dtype = torch.float32) -> Embedder:
        return Embedder(self.model, self.tokenizer, dtype=dtype)  # type: ignore[arg-type]  # ready ids need none


# ---- measuring ----


def interleave(works: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work in every round; the works take turns, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(
    name: str, unit: str, ours: Sequence[float], peer: str, theirs: Sequence[float] | None, goal: str = "", **more: Any
) -> Row:
    """A Row from what each round measured, in the unit; `more` are the row's further fields."""
    ratio = None if theirs is None else statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    sign, _, number = goal.partition(" ")
    met = None
    if ratio is not None and goal:
        met = ratio >= float(number) if sign == ">=" else ratio <= float(number)
    return Row(name, unit, spread(ours), peer, spread(theirs) if theirs else None, ratio, goal, met, **more)


def spread(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def per_second(amount: float, seconds: Sequence[float] | None) -> list[float] | None:
    return None if seconds is None else [amount / s for s in seconds]


# ---- the rows; each yields what it measured, and a line for what it could not ----


def corpus_rows(subject: Subject) -> Iterator[Row | str]:
    """Ids of sentences of mixed length to mean-pooled vectors of the last layer, float32."""
    embed, ids, theirs = subject.embedder(), subject.ids, subject.theirs
    works: dict[str, Callable[[], Any]] = {"ours": lambda: embed.encode_ids(ids)}
    if theirs is not None:
        by_length = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        works["padded"] = lambda: their_vectors(theirs, ids, range(len(ids)))
        works["sorted"] = lambda: their_vectors(theirs, ids, by_length)
    seconds = interleave(works, subject.repeats)
    tokens, facts, equal = sum(map(len, ids)), {}, True
    if theirs is not None:
        want = their_vectors(theirs, ids, range(len(ids)))
        difference = float(np.abs(embed.encode_ids(ids) - want).max() / np.abs(want).max())
        facts, equal = {"largest difference": difference}, difference < TOLERANCE
    ours = per_second(tokens, seconds["ours"])
    for how, goal in (("padded", ">= 3.5"), ("sorted", ">= 1.45")):
        other = per_second(tokens, seconds.get(how))
        peer = f"transformers, {how} batches of {PADDED_BATCH}"
        yield compare("corpus", "tokens/s", ours or [], peer, other, goal, facts=facts, equal=equal)


@torch.inference_mode()
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


@torch.inference_mode()
def dense_rows(subject: Subject) -> Iterator[Row | str]:
    """One batch without padding: how much of the machine's matrix-product rate arrives, for each way to run it."""
    (B, T), model, theirs = subject.dense, subject.model, subject.theirs
    V, L = model.config.vocab_size, model.config.num_visits
    ids = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(0))
    packed, flat = PackedEncoder(model), ids.flatten()
    products, flops = layer_products(model.config, B * T)
    works: dict[str, Callable[[], Any]] = {
        "matrix products": products,
        "packed.py": lambda: packed(flat, torch.zeros_like(flat), [T] * B, {L}),
        "model.py": lambda: model(ids, torch.ones_like(ids)),
    }
    if theirs is not None:
        works["transformers"] = lambda: theirs(input_ids=ids, attention_mask=torch.ones_like(ids))
    seconds = interleave(works, subject.repeats)
    peer = per_second(flops / 1e9, seconds.pop("matrix products"))
    work = 2 * cost(model.config, B, T).total_multiply_adds / 1e9
    for name, times in seconds.items():
        goal = ">= 0.90" if name == "packed.py" else ""
        yield compare(
            f"dense {B} x {T}, {name}", "GFLOP/s", per_second(work, times) or [], "matrix products", peer, goal
        )


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


def bfloat16_rows(subject: Subject) -> Iterator[Row | str]:
    """The corpus in bfloat16 beside float32, and how far the vectors turn."""
    if "avx512_bf16" not in cpu_flags() and "amx_bf16" not in cpu_flags():
        yield "bfloat16: left out, this CPU has neither AVX512-BF16 nor AMX"
        return
    embed, half = subject.embedder(), subject.embedder(torch.bfloat16)
    works = {"float32": lambda: embed.encode_ids(subject.ids), "bfloat16": lambda: half.encode_ids(subject.ids)}
    seconds = interleave(works, subject.repeats)
    a, b = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (work() for work in works.values()))
    cosines = (a * b).sum(1)
    facts = {"mean cosine": float(cosines.mean()), "smallest cosine": float(cosines.min())}
    ours, theirs = (per_second(sum(map(len, subject.ids)), seconds[name]) for name in ("bfloat16", "float32"))
    yield compare("bfloat16", "tokens/s", ours or [], "float32", theirs, ">= 2.5", facts=facts,
                  equal=facts["smallest cosine"] >= COSINE)  # fmt: skip


def layer_rows(subject: Subject) -> Iterator[Row | str]:
    """Layer k alone beside the whole forward."""
    embed, L = subject.embedder(), subject.model.config.num_visits
    some = sorted({max(L // 4, 1), max(L // 2, 1)})
    works = {k: (lambda k=k: embed.encode_ids(subject.ids, layer=k)) for k in (*some, L)}
    seconds = interleave({str(k): work for k, work in works.items()}, subject.repeats)
    for k in some:
        yield compare(f"layer {k} alone", "s", seconds[str(k)], f"all {L} layers", seconds[str(L)],
                      f"<= {k / L + 0.05:.2f}")  # fmt: skip


def import_rows(subject: Subject) -> Iterator[Row | str]:
    """Seconds that importing takes beyond `import torch`, each in a fresh process."""
    lines = {"ours": "import minialbert"}
    if importlib.util.find_spec("transformers") is not None:
        lines["theirs"] = "from transformers import AlbertModel"
    found: dict[str, list[float]] = {name: [] for name in lines}
    for turn in range(subject.repeats + (subject.repeats > 1)):  # the first round fills the file cache
        for name, line in lines.items():
            code = f"import torch, time; start = time.perf_counter(); {line}; print(time.perf_counter() - start)"
            told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            if turn or subject.repeats == 1:
                found[name].append(float(told.stdout.split()[-1]))
    yield compare("import", "s", found["ours"], "transformers' AlbertModel", found.get("theirs"), "<= 0.1")


def tokenize_rows(subject: Subject) -> Iterator[Row | str]:
    """Texts to ids on one thread; every round has texts that neither has seen, so no cache answers for the work."""
    tokenizer, fast = subject.tokenizer, None
    if tokenizer is None or len(subject.texts) <= subject.repeats:
        yield f"tokenize: left out, it needs --model and more than {subject.repeats} texts in --texts"
        return
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    try:
        from transformers import AutoTokenizer

        fast = AutoTokenizer.from_pretrained(subject.directory, use_fast=True)
    except Exception as error:  # a black box: whatever it raises, its row is left out
        yield f"tokenize: transformers left out, {' '.join(str(error).split())[:200]}"
    count = len(subject.texts) // (subject.repeats + 1)
    parts = [subject.texts[i * count : (i + 1) * count] for i in range(subject.repeats + 1)]
    turns, their_turns = iter(parts), iter(parts)
    ids: dict[str, list] = {"ours": [], "theirs": []}
    works: dict[str, Callable[[], Any]] = {
        "ours": lambda: ids["ours"].extend(tokenizer(next(turns), padding=False).input_ids)
    }
    if fast is not None:
        works["theirs"] = lambda: ids["theirs"].extend(fast(next(their_turns))["input_ids"])
    seconds = interleave(works, subject.repeats)
    same = sum(list(a) == list(b) for a, b in zip(ids["ours"], ids["theirs"], strict=False)) / len(ids["ours"])
    yield compare("tokenize", "texts/s", per_second(count, seconds["ours"]) or [], "transformers' fast tokenizer",
                  per_second(count, seconds.get("theirs")), ">= 5", facts={"same ids": same} if fast else {})  # fmt: skip


ROWS: dict[str, Callable[[Subject], Iterator[Row | str]]] = {
    "corpus": corpus_rows, "dense": dense_rows, "bfloat16": bfloat16_rows, "layer-k": layer_rows,
    "import": import_rows, "tokenize": tokenize_rows,
}  # fmt: skip


# ---- what is measured, and on what ----


def bench(
    ref: str | Path | None = None, preset: str = "albert-base-v2", rows: Sequence[str] | None = None, *,
    repeats: int | None = None, texts: str | None = None, count: int | None = None, quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Measure the rows named, all by default; {"machine": ..., "model": ..., "rows": [...], "left out": [...]}.

    ref is a model that `load` takes; without it the weights are random at the preset's size. texts is a file of real
    sentences, which need a model's tokenizer. say is told what cannot be measured and what is going on.
    Raises NameUnknown for a row that is not there, InputError for numbers and files that cannot be used.
    """
    if unknown := [name for name in rows or () if name not in ROWS]:
        hint = nearest(unknown[0], ROWS)
        raise NameUnknown(f"no row named {unknown[0]!r}. Nearest: {hint or 'none'}. All: {', '.join(ROWS)}")
    for name, number in (("repeats", repeats), ("count", count)):
        if number is not None and number < 1:
            raise InputError(f"{name}={number} must be at least 1")
    subject = subject_of(
        ref, preset, texts, repeats or (1 if quick else 5), count or (24 if quick else 256), quick, say
    )
    config, (B, T) = subject.model.config, subject.dense
    products, flops = layer_products(config, B * T)
    rate = per_second(flops / 1e9, interleave({"": products}, 3)[""])
    lengths = [len(row) for row in subject.ids]
    result: dict[str, Any] = {
        "machine": machine() | {"matrix products, GFLOP/s": spread(rate or [])._asdict()},
        "model": {"name": subject.name, "parameters": config.count_parameters()["model"]},
        "corpus": {"texts": len(lengths), "tokens": sum(lengths), "longest": max(lengths), "repeats": subject.repeats},
        "rows": [],
        "left out": [],
    }
    for name in rows or ROWS:
        say(f"measuring {name}")
        for found in ROWS[name](subject):
            if isinstance(found, Row):
                spreads = {
                    key: value and value._asdict() for key, value in (("ours", found.ours), ("theirs", found.theirs))
                }
                result["rows"].append(asdict(found) | spreads)
            else:
                say(found)
                result["left out"].append(found)
    return result


def subject_of(
    ref: str | Path | None, preset: str, file: str | None, repeats: int, count: int, quick: bool, say: Callable
) -> Subject:
    tokenizer, directory, texts, name = None, None, [], f"{preset}, random weights"
    if ref is not None:
        (model, tokenizer), directory, name = load(ref), find(ref), str(ref)
    else:
        if file:
            raise InputError("--texts needs --model: ids are made by the model's own tokenizer")
        config = AlbertConfig(**QUICK) if quick else AlbertConfig.preset(preset)  # type: ignore[arg-type]
        name = "a tiny model, random weights" if quick else name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AlbertModel(config).eval()
    P = model.config.max_position_embeddings
    if file and tokenizer is not None:
        texts = [text for text, _ in zip((t for t in read_texts(file) if t.strip()), range(MOST_TEXTS), strict=False)]
        if not texts:
            raise InputError(f"{file}: no text in it")
        ids = [list(row) for row in tokenizer(texts[:count], padding=False, truncation=True, max_length=P).input_ids]
    else:
        ids = sentences(count, model.config.vocab_size, P)
    return Subject(name, model, their_model(model, say), ids, texts, tokenizer, directory, repeats,
                   (2, min(16, P)) if quick else (8, min(128, P)))  # fmt: skip


def sentences(count: int, V: int, P: int) -> list[list[int]]:
    """Random ids with the lengths of sentences: lognormal, 28 tokens in the mean, half of them from 17 to 35."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(np.log(28) - 0.55**2 / 2, 0.55, count).round(), 4, P).astype(int)
    return [random.integers(0, V, length).tolist() for length in lengths]


def their_model(model: AlbertModel, say: Callable[[str], None]) -> Any:
    """transformers' model with the same weights, by way of a directory; None, and a line, when it is not installed."""
    try:
        import transformers
    except ImportError:
        say("transformers is not installed: its side of every row is left out (pip install transformers)")
        return None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    cls = transformers.BertModel if model.config.model_type == "bert" else transformers.AlbertModel
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        pooler = model.pooler is not None
        return cls.from_pretrained(directory, attn_implementation="sdpa", add_pooling_layer=pooler).eval()


def cpu_flags() -> list[str]:
    """Those of FLAGS that this CPU has, where the system tells."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [flag for flag in FLAGS if flag in words]


def machine() -> dict[str, Any]:
    return {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "flags": cpu_flags(),
    }
