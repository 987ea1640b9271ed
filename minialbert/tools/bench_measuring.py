"""How the rows of `minialbert bench` are measured: works in turn, the median of the ratios of their rounds.

A number of seconds means little on a machine that others use too, so each row runs its works A B A B, takes the ratio
of every round, and shows the median of these ratios. The rows are in bench_vectors.py, bench_processes.py,
bench_files.py and bench_training.py, what they are measured beside in bench_peers.py.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer
from minialbert.tools.bench_peers import Peers

TOLERANCE = 1e-5  # of the largest value: two float32 forwards of the same mathematics are nearer than this
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")  # of the CPU, that decide speed


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is the median over the rounds of ours / theirs, which is what the goal is about."""

    name: str
    unit: str  # of work per second, "tokens/s": more is better; of anything else, "s", "MiB": less is
    ours: dict[str, float]  # median, low, high
    peer: str  # what theirs is
    theirs: dict[str, float] | None
    ratio: float | None
    ratio_spread: tuple[float, float] | None  # the least and the most of the rounds
    goal: str  # as ">= 3.5"; "" where nothing is promised
    met: bool | None
    facts: dict[str, float] = field(default_factory=dict)  # how equal the results are
    equal: bool = True  # False: the two did not compute the same, and the times mean nothing


@dataclass
class Subject:
    """What is measured: one model, ours and in its peers with the same weights, and one corpus."""

    name: str
    model: AlbertModel
    ids: list[list[int]]  # the corpus
    texts: list[str]  # its texts and more, when it has any
    tokenizer: Tokenizer | None
    directory: Path | None  # where the model came from
    repeats: int
    dense: tuple[int, int]  # B, T
    quick: bool
    folder: Path  # for files of the time of measuring
    say: Callable[[str], None]
    left_out: list[str] = field(default_factory=list)  # what could not be measured, and why

    @cached_property
    def home(self) -> Path:
        """A directory with the weights and, if there is one, the tokenizer, for whoever reads it as a user would."""
        self.model.save_pretrained(self.folder / "model")
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(self.folder / "model")
        return self.folder / "model"

    @cached_property
    def peers(self) -> Peers:
        return Peers(self.model, lambda: self.home, self.leave_out)

    def leave_out(self, line: str) -> None:
        if line not in self.left_out:
            self.left_out.append(line)
            self.say(line)


def interleave(
    works: dict[str, Callable[[], Any]], repeats: int, kept: dict[str, Any] | None = None,
    between: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of each work in every round; the works take turns, after one round that does not count.

    What they return is left in `kept`, of the last round; `between` runs before every work, off the clock.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            between()
            started = time.perf_counter()
            result = work()
            if turn:
                seconds[name].append(time.perf_counter() - started)
            if kept is not None:
                kept[name] = result
    return seconds


def compare(
    name: str, ours: Sequence[float], peer: str, theirs: Sequence[float] | None, goal: str = "",
    unit: str = "s", work: tuple[float, float] | None = None, **more: Any,
) -> Row:  # fmt: skip
    """A Row from the seconds of each round; with `work`, (ours, theirs) in some unit, it is about work per second."""
    if work is not None:
        ours, theirs = [work[0] / s for s in ours], theirs and [work[1] / s for s in theirs]
    if theirs is None:
        return Row(name, unit, spread(ours), peer, None, None, None, goal, None, **more)
    ratios = spread([a / b for a, b in zip(ours, theirs, strict=True)])
    ratio = ratios["median"]
    sign, _, number = goal.partition(" ")
    met = None if not goal else ratio >= float(number) if sign == ">=" else ratio <= float(number)
    between = ratios["low"], ratios["high"]
    return Row(name, unit, spread(ours), peer, spread(theirs), ratio, between, goal, met, **more)


def distance(ours: np.ndarray, theirs: np.ndarray | None) -> dict[str, Any]:
    """How equal two results are, as a Row has it: the largest difference as a share of the largest value."""
    if theirs is None:
        return {}
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return {"facts": {"largest difference": difference}, "equal": difference < TOLERANCE}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def figure_of(ratio: float) -> str:
    """A ratio as it is shown: two digits after the point, or two that are not 0."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


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
