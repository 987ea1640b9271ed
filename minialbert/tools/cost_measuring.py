"""A model and the BERT of its shape, run side by side with random weights: counted, and timed in turns.

What cost.py computes is compared here with a run (count.py), and the one thing that cannot be computed is measured:
whether a block whose weights stay in the cache is faster than one whose weights come from memory at each layer.
"""

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minialbert.config import AlbertConfig
from minialbert.errors import InputError
from minialbert.heads import AlbertForPreTraining, encoder_of
from minialbert.model import AlbertModel
from minialbert.tools.bench_measuring import interleave, spread
from minialbert.tools.cost import bert_of_the_same_shape, cost, short
from minialbert.tools.count import counted

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")  # of Linux
NOISE = 0.05  # a difference that is smaller says nothing on a machine that others use too


def measure(
    config: AlbertConfig,
    batch: int = 1,
    length: int = 128,
    masked: int | None = None,
    text: int = 16,
    repeats: int = 5,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Both models counted over batch x length tokens, and timed there and on one text of `text` tokens.

    Float32, on the CPU, in as many threads as torch has been given. A dictionary that JSON can hold; its ratios are
    this model by BERT, the median over the rounds. Raises InputError when both do not fit into memory.
    """
    if repeats < 1:
        raise InputError(f"repeats={repeats} must be at least 1")
    text = min(text, config.max_position_embeddings)
    configs = {"model": config, "bert": bert_of_the_same_shape(config)}
    costs = {name: cost(each, batch, length, masked=masked) for name, each in configs.items()}
    check_memory(sum(c.weight_bytes for c in costs.values()) + max(c.total_training_bytes for c in costs.values()))
    sides = {}
    for name, each in configs.items():
        say(f"making the {name}: {costs[name].total_parameters:,} random weights")
        sides[name] = Side(each, batch, length, masked)
    found: dict[str, Any] = {"machine": machine(), "counted": {}, "seconds": {}, "layer": []}
    for name, side in sides.items():
        say(f"counting the {name}: one forward, one step of training")
        found["counted"][name] = side.counted()
    for B, T, rounds in ((1, text, 4 * repeats), (batch, length, repeats)):
        say(f"timing {rounds} rounds of B={B} T={T}")
        works = {name: partial(side.forward, side.ids(B, T), side.places(B, T)) for name, side in sides.items()}
        found["seconds"][f"B={B} T={T}"] = in_turns(works, rounds)
    for T in sorted({1, text}):
        say(f"timing the layers alone, {8 * repeats} rounds of B=1 T={T}")
        x = torch.randn(1, T, config.hidden_size)
        works = {name: partial(side.layers, x) for name, side in sides.items()}
        found["layer"].append({"tokens": T} | in_turns(works, 8 * repeats, share=config.num_visits))
    found["block_bytes"] = {
        name: 4 * (c.parameters["attention"] + c.parameters["ffn"]) for name, c in costs.items()
    }  # what the layers read, whole
    found["said"] = cache_effect(config.num_visits, found)
    return found


@dataclass
class Side:
    """One of the two models."""

    config: AlbertConfig
    batch: int
    length: int
    masked: int | None

    def __post_init__(self) -> None:
        self.whole = (AlbertModel if self.masked is None else AlbertForPreTraining)(self.config).eval()
        self.encoder = encoder_of(self.whole)

    def ids(self, B: int, T: int) -> Tensor:
        return torch.randint(0, self.config.vocab_size, (B, T))

    def forward(self, ids: Tensor, places: Tensor | None = None) -> None:
        with torch.inference_mode():
            self.whole(ids) if places is None else self.whole(ids, masked_positions=places)

    def layers(self, x: Tensor) -> None:
        with torch.inference_mode():
            self.encoder.encoder(x, None, self.encoder.encoder.plan)

    def places(self, B: int, T: int) -> Tensor | None:
        """Of the masked words, [B, M]: nowhere in particular; None for all places, or when there are no heads."""
        return torch.arange(self.masked).repeat(B, 1) if self.masked and self.masked < T else None

    def loss(self, ids: Tensor, places: Tensor | None, labels: Tensor, order: Tensor) -> Tensor:
        if self.masked is None:
            out = self.whole(ids)
            return out.last_hidden_state.sum() + out.pooler_output.sum()
        return self.whole(ids, labels=labels, sentence_order_label=order, masked_positions=places).loss

    def counted(self) -> dict[str, int]:
        """One forward in inference mode; one forward and backward in training mode."""
        B, T = self.batch, self.length
        ids, places = self.ids(B, T), self.places(B, T)
        labels, order = ids[:, : self.masked].contiguous(), torch.zeros(B, dtype=torch.long)
        forward = counted(lambda: self.forward(ids, places))
        self.whole.train()
        step = counted(lambda: self.loss(ids, places, labels, order).backward())
        self.whole.zero_grad(set_to_none=True)
        self.whole.eval()
        return {"flops": forward.flops, "step_flops": step.flops, "inference_bytes": forward.peak_bytes,
                "training_bytes": step.saved_bytes, "step_peak_bytes": step.peak_bytes}  # fmt: skip


def in_turns(works: Mapping[str, Callable[[], Any]], rounds: int, share: int = 1) -> dict[str, Any]:
    """Seconds of each side, each run `share` equal parts, and the ratio of each round: median and quartiles."""
    seconds = interleave(dict(works), rounds)
    ratios = [a / b for a, b in zip(seconds["model"], seconds["bert"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    found: dict[str, Any] = {name: spread([s / share for s in each]) for name, each in seconds.items()}
    return found | {"ratio": {"median": statistics.median(ratios), "low": low, "high": high}, "rounds": rounds}


def cache_effect(layers: int, found: dict[str, Any]) -> str:
    """What the times of a layer say about weights that stay near."""
    caches, blocks = found["machine"]["caches"], found["block_bytes"]
    said = (
        f"{layers} layers read {short(blocks['model'], 'B')} of weights here and {short(blocks['bert'], 'B')} in BERT"
    )
    if caches:
        said += "; caches: " + ", ".join(f"{name} {short(size, 'B')}" for name, size in caches.items())
    times = ", ".join(f"{row['ratio']['median']:.2f} at T={row['tokens']}" for row in found["layer"])
    said += f". A layer takes {times} of BERT's time with one text: "
    if blocks["model"] == blocks["bert"]:
        return said + "nothing is shared, so this is the noise."
    if any(row["ratio"]["high"] < 1 - NOISE for row in found["layer"]):
        return said + "weights that stay in a cache are not read from memory again."
    if any(row["ratio"]["low"] > 1 + NOISE for row in found["layer"]):
        return said + "slower, which sharing does not explain; measure again on a quiet machine."
    return said + "no gain that stands out of the noise here (the last cache is shared with whatever else runs)."


def machine() -> dict[str, Any]:
    """What the times depend on."""
    return {"system": platform.machine(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "caches": cache_sizes()}  # fmt: skip


def cache_sizes(directory: Path = CACHES) -> dict[str, int]:
    """Bytes of the data caches of the first core, as {"L1": ..., "L2": ...}; empty where the system tells none."""
    sizes = {}
    for index in sorted(directory.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
            unit = {"K": 1024, "M": 1024**2}.get(size[-1:], 1)
            if kind != "Instruction":
                sizes[f"L{level}"] = int(size.rstrip("KM")) * unit
        except (OSError, ValueError):
            continue
    return dict(sorted(sizes.items()))


def check_memory(needed: int, meminfo: Path = Path("/proc/meminfo")) -> None:
    """Raises InputError when the system says that less is free."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError, IndexError):
        return
    if needed > free:
        raise InputError(f"both models and a step need {short(needed, 'B')} and {short(free, 'B')} are free: "
                         "take a smaller model or fewer tokens, or leave --measure out")  # fmt: skip
