"""How the rows of `minialbert bench` are measured: works in turn, the median of the ratios of their rounds.

A number of seconds means little on a machine that others use too, so each row runs its works A B A B, takes the ratio
of every round, and shows the median of these ratios. The rows are in bench.py, those of training in bench_training.py.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")  # of the CPU, that decide speed


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is the median over the rounds of ours / theirs, which is what the goal is about."""

    name: str
    unit: str
    ours: dict[str, float]  # median, low, high
    peer: str  # what theirs is
    theirs: dict[str, float] | None
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
    say: Callable[[str], None]
    left_out: list[str] = field(default_factory=list)  # what could not be measured, and why

    def leave_out(self, line: str) -> None:
        self.left_out.append(line)
        self.say(line)


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
    name: str, ours: Sequence[float], peer: str, theirs: Sequence[float] | None, goal: str = "",
    unit: str = "s", work: tuple[float, float] | None = None, **more: Any,
) -> Row:  # fmt: skip
    """A Row from the seconds of each round; with `work`, (ours, theirs) in some unit, it is about work per second."""
    if work is not None:
        ours, theirs = [work[0] / s for s in ours], theirs and [work[1] / s for s in theirs]
    if theirs is None:
        return Row(name, unit, spread(ours), peer, None, None, goal, None, **more)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    sign, _, number = goal.partition(" ")
    met = None if not goal else ratio >= float(number) if sign == ">=" else ratio <= float(number)
    return Row(name, unit, spread(ours), peer, spread(theirs), ratio, goal, met, **more)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def cpu_flags() -> list[str]:
    """Those of FLAGS that this CPU has, where the system tells."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [flag for flag in FLAGS if flag in words]


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 itself; without that it is slower than float32."""
    return bool({"avx512_bf16", "amx_bf16"} & set(cpu_flags()))
