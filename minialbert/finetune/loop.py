"""The loop that fine-tunes: a model with a head, a task and its features become a trained model, for one seed.

`Tuning.update` is one step, read it first: the loss of a batch, a few rows at a time; clipped; one step of torch's
AdamW, whose correction of the first means small data needs (Mosbach et al. 2021; pre-training goes without, as Google
did). seeds.py runs it for several seeds. Killed at any moment it goes on from its last checkpoint to the same bits: the
order of the rows and dropout's random numbers are functions of the seed and the step.
"""

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from minialbert.checkpoints import best, check_digests, keep, last, read_state, restore_optimizer, save_checkpoint
from minialbert.errors import CheckpointError, InputError, MiniAlbertError
from minialbert.finetune.freeze import forward_from
from minialbert.finetune.lora import Lora, LoraModel
from minialbert.finetune.predict import commonest, said_of
from minialbert.finetune.task import TASK, Feature, Task
from minialbert.heads import encoder_of
from minialbert.tokenizers import Tokenizer
from minialbert.training import Log, Stopped, alone, asked_to_stop, autocast, parameter_groups

GOAL = "goal"  # what the best epoch is chosen by, among the figures of a checkpoint
COMMONEST = "commonest"  # of these, the share of dev that gets the commonest answer
ALIKE = 16  # batches that are sorted by length together
LORA = "lora.safetensors"  # beside config.json


class Diverged(MiniAlbertError, ArithmeticError):
    """A loss or a gradient that is no number any more."""


@dataclass(frozen=True)
class Plan:
    """How to train; all but the last two decides the weights. Raises InputError for what cannot be."""

    epochs: int = 3
    batch: int = 32
    peak: float = 3e-5  # learning rate
    warmup: float = 0.1  # share of all steps
    weight_decay: float = 0.01
    clip: float = 1.0  # length of the gradient; 0: never clipped
    visits: int = 0  # early visits that are run without gradient
    patience: int = 0  # epochs without a better goal after which to stop; 0: never
    seed: int = 0
    dtype: str = "float32"  # of products: or bfloat16
    micro_tokens: int = 4096  # that go through the model at a time, padding included; dropout is drawn for each part
    log_every: int = 10  # steps
    save_every: int = 500  # steps, besides the end of each epoch

    def __post_init__(self):
        for name in ("epochs", "batch", "micro_tokens", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{_option(name)} {getattr(self, name)} must be at least 1")
        for name in ("peak", "weight_decay", "clip", "patience", "visits", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{_option(name)} {getattr(self, name)} must be 0 or more")
        if not 0 <= self.warmup < 1:
            raise InputError(f"--warmup {self.warmup} must be from 0 to below 1, a share of all steps")
        if self.dtype not in ("float32", "bfloat16"):
            raise InputError(f"dtype={self.dtype!r} must be one of float32, bfloat16")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of the update after `step` others: up in a line, then down to 0 at the last."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return self.peak * (step + 1) / warmup
        return self.peak * (steps - step) / max(1, steps - warmup)

    def fixed(self) -> dict[str, Any]:
        """What decides the weights, for state.json."""
        found = asdict(self)
        names = list(found)
        return {name: found[name] for name in names[: names.index("log_every")]}


def _option(name: str) -> str:
    """A field of Plan as the command line calls it."""
    return "--no-gradient (visits)" if name == "visits" else f"--{name.replace('_', '-')}"


# ---- a model on disk ----


class Saved:
    """A model as it is written: its configuration says the task, and adapters have a file of their own."""

    def __init__(self, model: nn.Module, task: Task):
        self.model, self.task = model, task

    def save_pretrained(self, directory: str | Path) -> None:
        inside, lora = opened(self.model)
        trunk = encoder_of(inside)
        before = trunk.config
        extra = {name: value for name, value in before.extra.items() if name != "sentence_layer"}  # was before tuning
        named = replace(before, extra=extra | {TASK: self.task.settings})
        try:
            inside.config = trunk.config = named
            inside.save_pretrained(directory)
        finally:
            inside.config = trunk.config = before
        if lora is not None:
            save_file(lora.state_dict(), Path(directory) / LORA)


def take(model: nn.Module, path: Path) -> None:
    """Gives a model the numbers that were written, adapters too. Raises what reading raises."""
    inside, lora = opened(model)
    inside.load_state_dict(type(inside).from_pretrained(path, dtype="auto").state_dict())
    if lora is not None:
        lora.load_state_dict(load_file(path / LORA))


def opened(model: nn.Module) -> tuple[Any, Lora | None]:
    """The model, and the adapters around it."""
    return (model.model, model.lora) if isinstance(model, LoraModel) else (model, None)


# ---- the loop ----


def batches_of(lengths: Sequence[int], size: int, seed: Sequence[int]) -> list[np.ndarray]:
    """All rows in batches, in an order that the seed decides; rows of like length share one, to save padding.

    Rows are shuffled, some batches at a time sorted by length, and the batches shuffled again.
    """
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(lengths))
    found: list[np.ndarray] = []
    for begin in range(0, len(order), size * ALIKE):
        some = order[begin : begin + size * ALIKE]
        some = some[np.argsort(np.asarray(lengths)[some], kind="stable")]
        found += [some[at : at + size] for at in range(0, len(some), size)]
    return [found[number] for number in draw.permutation(len(found))]


def difference(name: str, was: Any, now: Any) -> str:
    """What a checkpoint was made with and this run is not, told by what differs in it."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = [key for key in now | was if was.get(key) != now.get(key)]
        was, now = ({key: side.get(key) for key in keys} for side in (was, now))
        if len(keys) == 1:
            (name,) = keys
            was, now = was[name], now[name]
    if isinstance(was, list) and isinstance(now, list):
        fewer, more = ([item for item in a if item not in b] for a, b in ((was, now), (now, was)))
        told = f"without {fewer[0]}" if fewer else f"with {more[0]}" if more else "in another order"
        return f"other {name}, this run {told}"
    return f"made with {name} {was}, this run has {now}" if len(f"{was}{now}") < 120 else f"other {name}"


class Tuning:
    """A model in training on one task with one seed: where it stands (`step`), and its figures on dev epoch by epoch.

    model: of the task's class, what learns decided by requires_grad (freeze.py), perhaps with adapters (lora.py); it is
    trained in place. examples and features of dev may be empty: then the last epoch is the best. `name` is what the
    data is known by; a checkpoint of other data is refused.
    """

    def __init__(
        self, directory: str | Path, model: nn.Module, tokenizer: Tokenizer, task: Task, plan: Plan,
        train: Sequence[Feature], dev: tuple[Sequence[Any], Sequence[Feature]] = ((), ()), name: str = "",
    ):  # fmt: skip
        if not train:
            raise InputError("no example to train on")
        self.directory, self.model, self.tokenizer, self.task = Path(directory), model, tokenizer, task
        self.plan, self.train_features, self.dev, self.name = plan, train, dev, name
        self.device = next(model.parameters()).device
        self.parameters = [w for w in model.parameters() if w.requires_grad]
        if not self.parameters:
            raise InputError("nothing learns: every part is frozen; leave a part out of what is frozen")
        self.per_epoch = math.ceil(len(train) / plan.batch)
        self.steps = plan.epochs * self.per_epoch
        groups = parameter_groups(model, plan.weight_decay)
        for group in groups:
            group["params"] = [(name, w) for name, w in group["params"] if w.requires_grad]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, eps=1e-8)
        self.step = 0
        self.history: list[dict[str, Any]] = []  # figures on dev, an epoch each
        self.found = last(directory)
        if self.found:
            self.go_on(self.found)

    # ---- where it stands ----

    def facts(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        learns = [name for name, w in self.model.named_parameters() if w.requires_grad]
        lora = opened(self.model)[1]
        return {"data": self.name, "adapters": lora.extra_repr() if lora else "none", "learns": learns,
                "task": self.task.settings, "labels": list(self.task.labels)} | self.plan.fixed()  # fmt: skip

    def go_on(self, path: Path) -> None:
        """Takes up a checkpoint. Raises CheckpointError if it is of another run."""
        state = read_state(path)
        for name, now in self.facts().items():
            if state.get(name) != now:
                told = difference(name, state.get(name), now)
                advice = "go on as it was made, or give a new directory"
                if name == "epochs":
                    best_of_it = self.directory.parent / "model"  # as seeds.py lays a run out
                    advice = f"a plan is fixed; to train on from its best epoch: --model {best_of_it} --output NEW"
                raise CheckpointError(f"{path}: {told}; {advice}")
        check_digests(path, state)
        take(self.model, path)
        restore_optimizer(path, state, self.optimizer)
        self.step, self.history = state["step"], state["history"]

    def save(self, measured: bool = True) -> None:
        """A checkpoint; old ones go. measured: an epoch has just ended, so its figures are those of this one."""
        figures = {GOAL: self.history[-1][GOAL]} if measured else {}
        state = {"step": self.step, "history": self.history, "held_out": figures} | self.facts()
        self.found = save_checkpoint(
            self.directory, Saved(self.model, self.task), self.tokenizer, self.optimizer, state
        )
        keep(self.directory, 1, GOAL)

    # ---- one step ----

    def batch(self) -> dict[str, Tensor]:
        """The rows of the next update: each epoch goes through all of them, in an order of its own."""
        epoch, at = divmod(self.step, self.per_epoch)
        lengths = [len(feature.ids) for feature in self.train_features]
        rows = batches_of(lengths, self.plan.batch, [self.plan.seed, epoch])[at]
        return self.task.batch([self.train_features[row] for row in rows], self.tokenizer.pad_id)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.plan.dtype, self.device)

    def update(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """One update on one batch; returns its figures. Raises Diverged, with the weights as they were before.

        The loss is a mean over what the task counts in the whole batch (tokens, say), not a mean of means.
        """
        batch = {name: x.to(self.device) for name, x in batch.items()}
        B, width = len(batch["input_ids"]), batch["input_ids"][0].numel()
        total, loss = self.task.counted(batch) or 1, torch.zeros(())
        rows = max(1, self.plan.micro_tokens // width)
        for at in range(0, B, rows):
            part = {name: x[at : at + rows] for name, x in batch.items()}
            seed = np.random.SeedSequence([self.plan.seed, self.step, at]).generate_state(1, np.uint64)[0]
            torch.manual_seed(int(seed))
            with self.autocast():
                output = forward_from(self.model, part, self.plan.visits) if self.plan.visits else self.model(**part)
                share = self.task.loss(output, part) * (self.task.counted(part) / total)
            share.backward()
            loss = loss.to(share) + share.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip or math.inf)
        value, length = torch.stack([loss, norm.to(loss)]).tolist()
        if not math.isfinite(value + length):
            self.optimizer.zero_grad()
            raise Diverged(f"step {self.step}: the loss is {value}, the gradient's length {length}; try a lower peak")
        rate = self.plan.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {"step": self.step, "epoch": self.step / self.per_epoch, "loss": value, "rate": rate,
                "gradient_norm": length}  # fmt: skip

    # ---- all of it ----

    def measured(self) -> dict[str, Any]:
        """The figures on dev after an epoch, the goal among them; without dev the number of the epoch is the goal."""
        examples, features = self.dev
        epoch = self.step // self.per_epoch
        if not examples:
            return {"epoch": epoch, GOAL: float(epoch)}
        said = said_of(self.model, self.task, features, self.tokenizer.pad_id, self.plan.micro_tokens, self.autocast)
        predictions = self.task.predictions(examples, features, said)
        scores = self.task.scores(examples, predictions)
        figures = {"epoch": epoch, GOAL: scores[self.task.goal], COMMONEST: commonest(predictions)}
        return figures | {name: x for name, x in scores.items() if isinstance(x, (int, float))}

    def line_of(self, loss: float) -> str:
        """The epoch that has just ended."""
        goal = f", {self.task.goal} {self.history[-1][GOAL]:.4f}" if self.dev[0] else ""
        return f"epoch {self.history[-1]['epoch']} of {self.plan.epochs}: loss {loss:.3f}{goal}"

    @property
    def done(self) -> bool:
        """All epochs are run, or the goal has not become better for `patience` of them."""
        goals = [row[GOAL] for row in self.history]
        waited = len(goals) - 1 - goals.index(max(goals)) if goals else 0
        return self.step >= self.steps or bool(self.plan.patience and waited >= self.plan.patience)

    def train(
        self, until: int | None = None, progress: bool | None = None, tell: Callable[[str], None] = lambda line: None
    ) -> Path | None:
        """Goes on to the end, or to step `until`; returns the best checkpoint, None before the first epoch has ended.
        Raises Diverged, FileError.

        progress: a bar on stderr; None: where that is a terminal. tell: is given a line at the end of each epoch.
        """
        until = self.steps if until is None else min(until, self.steps)
        hidden = None if progress is None else not progress
        self.model.train()
        with contextlib.ExitStack() as stack:
            stack.enter_context(alone(self.directory))
            asked = stack.enter_context(asked_to_stop())
            log = stack.enter_context(contextlib.closing(Log(self.directory, self.step)))
            bar = stack.enter_context(
                tqdm(total=self.steps, initial=self.step, unit="step", file=sys.stderr, dynamic_ncols=True,
                     disable=hidden, leave=False)
            )  # fmt: skip
            while not self.done and self.step < until:
                row = self.update(self.batch())
                bar.update()
                ended = self.step % self.per_epoch == 0
                if ended or self.step % self.plan.log_every == 0:
                    log.write(row)
                    bar.set_postfix_str(f"loss {row['loss']:.3f}")
                if ended:
                    self.history.append(self.measured())
                    log.write({"step": self.step} | {f"dev/{k}": x for k, x in self.history[-1].items()})
                    tell(self.line_of(row["loss"]))
                stop = bool(asked)  # seen once: a signal may come at any moment
                if ended or stop or self.step % self.plan.save_every == 0:
                    self.save(measured=ended)
                if stop:
                    raise Stopped(asked[0], f"stopped; {self.found} is saved, and the same command goes on from there")
        return best(self.directory, GOAL)
