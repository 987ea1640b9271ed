"""What a pre-training run is to do: lengths, batches, steps, rates. loop.py does it; lamb.py has the optimizer."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from minialbert.errors import InputError
from minialbert.pretrain.examples import Recipe
from minialbert.pretrain.lamb import rate, scaled_rate


class Stage(NamedTuple):
    """`steps` updates on batches of `batch` examples, of all processes together, of up to `length` pieces."""

    length: int
    steps: int
    batch: int


@dataclass(frozen=True)
class Plan:
    """What to train and how. All of it but the last part decides the weights, and cannot change in mid-run.

    Words cost less in short sequences: stages of length 128 and then 512 are BERT's recipe, for 9 steps in 10 and the
    rest. Each stage begins a new epoch; recipe.max_length gives way to its length.
    """

    stages: tuple[Stage, ...]
    recipe: Recipe = field(default_factory=Recipe)
    optimizer: str = "lamb"  # or "adamw"
    peak: float | None = None  # of the rate; None: ALBERT's, by the square-root rule for the largest batch
    warmup: int | None = None  # steps; None: 2.5 % of them, as ALBERT's 3125 of 125000
    power: float = 1.0  # of the rate's way down
    weight_decay: float = 0.01
    clip: float = 1.0  # the longest gradient; 0: no limit
    sop_weight: float = 1.0  # 0: masked words alone
    dtype: str = "float32"  # or "bfloat16": products in it, through autocast; weights and optimizer stay float32
    seed: int = 0

    micro_tokens: int = 8192  # pieces, padding included, in memory at once: a batch is worked off in parts
    recompute: bool = False  # what is inside a layer is made again for the gradient: less memory, one more forward
    compile: bool = False  # torch.compile: the first step waits for it
    workers: int = 0  # processes that make examples; 0: this one
    log_every: int = 10  # steps
    save_every: int = 500  # steps; what is saved is measured
    keep_last: int = 3  # checkpoints, besides the best
    held_out: int = 1024  # examples to measure on

    def __post_init__(self):
        if not self.stages or min(min(stage) for stage in self.stages) < 1:
            raise InputError(f"stages={self.stages}: expected one at least, with length, steps and batch of 1 or more")
        for name, options in (("optimizer", ("lamb", "adamw")), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in options:
                raise InputError(f"{name}={getattr(self, name)!r} must be one of {', '.join(options)}")
        for name in ("micro_tokens", "log_every", "save_every", "keep_last"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("clip", "sop_weight", "seed", "workers", "held_out"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)} must be 0 or more")
        self.rate(0)

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def rate(self, step: int) -> float:
        """The learning rate of the update after `step` others. Raises InputError."""
        peak = scaled_rate(max(stage.batch for stage in self.stages)) if self.peak is None else self.peak
        warmup = self.steps // 40 if self.warmup is None else self.warmup
        return rate(step, peak=peak, total=self.steps, warmup=warmup, power=self.power)

    def fixed(self) -> dict[str, Any]:
        """What decides the weights, for state.json."""
        found = asdict(self) | {"stages": [list(stage) for stage in self.stages]}
        names = list(found)
        return {name: found[name] for name in names[: names.index("micro_tokens")]}
