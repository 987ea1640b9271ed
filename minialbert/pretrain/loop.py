"""The training loop: a tokenized corpus and a configuration, or a model to go on from, become a pre-trained model.

One update is `Run.update`, read it first: the losses of a batch, a few rows at a time; their gradient, summed over all
processes; clipped; one step of the optimizer. plan.py says how much of what. Batches come from examples.py, the
optimizer from lamb.py, held-out figures from measure.py; what it leaves on disk is in ../checkpoints.py.

Killed at any moment, a run goes on from its last checkpoint to the same bits (on a processor, with as many threads and
processes): every random number is a function of the seed, the step and the place within the step, so there is no
generator whose state could be lost. Started by torchrun, each process has its share of the rows, and losses are divided
by the words of the whole batch: more processes change nothing but the last bits, and which units dropout drops.
"""

import contextlib
import functools
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader
from tqdm import tqdm

from minialbert.checkpoints import (
    best,
    check_digests,
    keep,
    last,
    read_state,
    restore_optimizer,
    save_checkpoint,
)
from minialbert.config import AlbertConfig
from minialbert.convert.reading import check_vocabulary
from minialbert.errors import CheckpointError, InputError, MiniAlbertError
from minialbert.heads import IGNORED, AlbertForPreTraining
from minialbert.pretrain.corpus import Corpus
from minialbert.pretrain.examples import Batch, Batches, Examples
from minialbert.pretrain.lamb import Lamb, set_rate
from minialbert.pretrain.measure import fall, held_out_batches, measure
from minialbert.pretrain.plan import Plan
from minialbert.pretrain.ranks import Ranks
from minialbert.tokenizers import Tokenizer
from minialbert.training import Log, Stopped, alone, asked_to_stop, autocast, parameter_groups
from minialbert.whole import whole_directory

HELD_OUT_SEED = 2020  # the same examples in every run, whatever its own seed


class Diverged(MiniAlbertError, ArithmeticError):
    """A loss or a gradient that is no number any more."""


class Run:
    """A model, its optimizer, and where they stand: updates made (`step`), and the place in the data (`position`)."""

    def __init__(
        self,
        directory: str | Path,
        start: AlbertConfig | AlbertForPreTraining,
        corpus: Corpus,
        tokenizer: Tokenizer,
        plan: Plan,
        held_out: Corpus | None = None,
        device: str | torch.device = "cpu",
    ):
        self.directory, self.corpus, self.tokenizer, self.plan = Path(directory), corpus, tokenizer, plan
        self.held_out, self.ranks = held_out, Ranks(device)
        self.step, self.position = 0, (0, 0)
        self.figures: dict[str, float] = {}  # held-out, of the last checkpoint
        self.found = last(directory)
        state: dict[str, Any] = {}
        if self.found:
            state = self.checked_state(self.found)
            start = AlbertForPreTraining.from_pretrained(self.found, dtype="auto")
            for name, w in start.named_parameters():
                w.requires_grad_(name not in state["frozen"])
        elif isinstance(start, AlbertConfig):
            torch.manual_seed(plan.seed)
            start = AlbertForPreTraining(start)
        check_vocabulary(start.config, tokenizer, corpus.directory, any_vocabulary=True)
        for stage in plan.stages:
            if stage.length > (P := start.config.max_position_embeddings):
                raise InputError(f"a stage has length={stage.length}, the model P={P} positions; shorten the stage")
        self.model = start.to(self.ranks.device).train()
        self.parameters = [w for w in self.model.parameters() if w.requires_grad]
        self.ranks.same([w.data for w in self.parameters])
        groups = parameter_groups(self.model, plan.weight_decay)
        self.optimizer = Lamb(groups, lr=0.0, trust=plan.optimizer == "lamb")
        if self.found:
            restore_optimizer(self.found, state, self.optimizer)
            self.step, self.position, self.figures = state["step"], tuple(state["position"]), state["held_out"]
        self.forward: Callable[..., Any] = torch.compile(self.model, dynamic=False) if plan.compile else self.model

    def checked_state(self, path: Path) -> dict[str, Any]:
        """The state of a checkpoint, if it is of this run. Raises CheckpointError, FileError."""
        state = read_state(path)
        for name, now in (self.plan.fixed() | {"corpus": self.corpus.digest()}).items():
            if state.get(name) != now:
                raise CheckpointError(
                    f"{path}: made with {name} {state.get(name)}, this run has {now}; go on as it was made, "
                    "or start in a new directory (from this model, if you like)"
                )
        check_digests(path, state)
        return state

    def examples(self, corpus: Corpus, length: int, seed: int) -> Examples:
        return Examples(corpus, self.tokenizer, replace(self.plan.recipe, max_length=length), seed)

    def batches(self) -> Iterator[Batch]:
        """This process's share of all batches, from where the run stands to its end."""
        ranks, begin = self.ranks, 0
        for stage in self.plan.stages:
            end = begin + stage.steps
            if self.step < end:
                if begin and self.step == begin:
                    self.position = self.position[0] + 1, 0
                examples = self.examples(self.corpus, stage.length, self.plan.seed)
                source = Batches(examples, stage.batch, self.position, ranks.rank, ranks.world)
                loader = (
                    DataLoader(source, batch_size=None, num_workers=self.plan.workers) if self.plan.workers else source
                )
                yield from islice(loader, end - self.step)
            begin = end

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        return autocast(self.plan.dtype, self.ranks.device)

    def update(self, batch: Batch) -> dict[str, float]:
        """One update on one batch; returns its figures. Raises Diverged, with the weights as they were before.

        The losses are means over the words and the pairs of the whole batch, of all processes: not means of means,
        which would count a word the more, the fewer there are beside it.
        """
        inputs = {name: x.to(self.ranks.device) for name, x in batch.inputs.items()}
        B, T = inputs["input_ids"].shape
        words, pairs = inputs["labels"] != IGNORED, inputs["sentence_order_label"] != IGNORED
        counts = self.ranks.total(torch.stack([words.sum(), pairs.sum(), inputs["attention_mask"].sum()])).clamp(min=1)
        losses = torch.zeros(2, dtype=self.model.dtype, device=self.ranks.device)
        rows = max(1, self.plan.micro_tokens // T)
        for at in range(0, B, rows):
            part = slice(at, at + rows)
            self.seed(at)
            with self.autocast():
                out = self.forward(**{name: x[part] for name, x in inputs.items()})
            mlm = out.mlm_loss * (words[part].sum() / counts[0])
            sop = out.sop_loss * (pairs[part].sum() / counts[1])
            (mlm + self.plan.sop_weight * sop).backward()
            losses += torch.stack([mlm.detach(), sop.detach()])
        losses = self.sum_gradients(losses)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.plan.clip or math.inf)
        mlm_loss, sop_loss, length, tokens = torch.stack([*losses, norm, counts[2].to(norm)]).tolist()
        if not math.isfinite(mlm_loss + sop_loss + length):
            raise self.stopped(batch, f"the losses are {mlm_loss} and {sop_loss}, the gradient's length is {length}")
        now = self.plan.rate(self.step)
        set_rate(self.optimizer, now)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.position = self.step + 1, batch.position
        loss = mlm_loss + self.plan.sop_weight * sop_loss
        return {
            "step": self.step, "epoch": batch.epoch, "loss": loss, "mlm_loss": mlm_loss, "sop_loss": sop_loss,
            "rate": now, "gradient_norm": length, "tokens": int(tokens),
        }  # fmt: skip

    def seed(self, part: int) -> None:
        """Dropout's generators, from the place in the run alone."""
        place = [self.plan.seed, self.step, self.ranks.rank, part]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def sum_gradients(self, losses: Tensor) -> Tensor:
        """Gradients and losses summed over all processes, in one message."""
        if self.ranks.world == 1:
            return losses
        gradients = [w.grad for w in self.parameters if w.grad is not None]
        flat = self.ranks.total(torch.cat([losses, *(g.flatten() for g in gradients)]))
        losses, *parts = flat.split([2, *(g.numel() for g in gradients)])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return losses

    def measured(self) -> dict[str, float]:
        """Held-out figures at the length of the last stage; none without a held-out corpus or examples."""
        if self.held_out is None or not self.plan.held_out:
            return {}
        length, ranks = self.plan.stages[-1].length, self.ranks
        examples = self.examples(self.held_out, length, HELD_OUT_SEED)
        rows = max(1, self.plan.micro_tokens // length)
        batches = held_out_batches(examples, self.plan.held_out, rows, ranks.rank, ranks.world)
        return measure(self.model, batches, self.autocast, ranks.total)

    def save(self) -> None:
        """A checkpoint; old ones go."""
        if self.ranks.rank == 0:
            facts = {"step": self.step, "position": self.position, "held_out": self.figures}
            facts["frozen"] = [name for name, w in self.model.named_parameters() if not w.requires_grad]
            state = facts | {"corpus": self.corpus.digest()} | self.plan.fixed()
            self.found = save_checkpoint(self.directory, self.model, self.tokenizer, self.optimizer, state)
            keep(self.directory, self.plan.keep_last)

    def alarm(self) -> None:
        """Warns when the model is much worse than it was; the better one is kept."""
        good = best(self.directory)
        if good and (what := fall(self.figures, read_state(good)["held_out"])):
            warnings.warn(
                f"step {self.step}: {what}, its value at {good}, which is kept; if it does not come back, go on from "
                "there in a new directory, with a lower peak",
                stacklevel=2,
            )

    def stopped(self, batch: Batch, what: str) -> Diverged:
        """Writes down the batch, and the weights it met; returns the error to raise."""
        path = self.directory / f"stopped-{self.step:08d}-rank{self.ranks.rank}"
        with whole_directory(path) as temporary:
            save_file(batch.inputs, temporary / "batch.safetensors")
            if self.ranks.rank == 0:
                self.model.save_pretrained(temporary)
                self.tokenizer.save_pretrained(temporary)
        return Diverged(
            f"step {self.step}: {what}; the batch and the weights before it are in {path}; "
            f"train with a lower peak than {self.plan.rate(self.step):.2g} or a longer warm-up, in a new directory"
        )

    def train(self, until: int | None = None, progress: bool | None = None) -> Path:
        """Goes on to the end, or to step `until`, and returns the last checkpoint. Raises Diverged, FileError.

        progress: a bar with tokens per second and the time left, on stderr; None: where that is a terminal.
        """
        until = self.plan.steps if until is None else min(until, self.plan.steps)
        leader, clock = self.ranks.rank == 0, time.perf_counter
        if self.found and leader:
            keep(self.directory, self.plan.keep_last)
        if self.found and self.step >= until:
            return self.found
        hidden = None if leader and progress is None else not (leader and progress)
        with contextlib.ExitStack() as stack:
            if leader:
                stack.enter_context(alone(self.directory))
            asked = stack.enter_context(asked_to_stop()) if self.ranks.world == 1 else []
            if self.plan.recompute:
                stack.enter_context(recomputed(self.model))
            log = stack.enter_context(contextlib.closing(Log(self.directory, self.step))) if leader else None
            bar = stack.enter_context(
                tqdm(total=until, initial=self.step, unit="step", file=sys.stderr, dynamic_ncols=True, disable=hidden)
            )
            tokens, seconds, began = 0.0, 0.0, clock()
            for batch in islice(self.batches(), until - self.step):
                row = self.update(batch)
                tokens, seconds, began = tokens + row["tokens"], seconds + clock() - began, clock()
                bar.update()
                if log and (self.step % self.plan.log_every == 0 or self.step == until):
                    log.write(row | {"tokens_per_second": round(tokens / seconds)} | trust_range(self.optimizer))
                    bar.set_postfix_str(f"loss {row['loss']:.3f}, {tokens / seconds:,.0f} tokens/s")
                    tokens = seconds = 0.0
                if self.step % self.plan.save_every == 0 or self.step == until:
                    self.figures = self.measured()
                    if log and self.figures:
                        log.write({"step": self.step} | {f"held_out/{name}": x for name, x in self.figures.items()})
                        self.alarm()
                    self.save()
                    began = clock()  # the speed is that of training alone
                elif asked:
                    self.figures = {}  # nothing was measured here
                    self.save()
                if asked:
                    raise Stopped(asked[0], f"stopped; {self.found} is saved, and the same command goes on from there")
        self.ranks.wait()  # for the first, which writes: what is returned is there
        return self.directory / f"step-{self.step:08d}"


def trust_range(optimizer: Lamb) -> dict[str, float]:
    """The smallest and the largest trust ratio of the last update; none for AdamW."""
    ratios = optimizer.trust_ratios().values()
    return {"trust_min": min(ratios), "trust_max": max(ratios)} if ratios else {}


@contextlib.contextmanager
def recomputed(model: AlbertForPreTraining) -> Iterator[None]:
    """Within it each half of a layer keeps its input alone; the gradient makes the rest again, dropout included."""
    encoder = model.albert.encoder
    blocks = [*encoder.attentions, *encoder.feed_forwards]
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def pretrain(
    directory: str | Path,
    start: AlbertConfig | AlbertForPreTraining,
    corpus: Corpus,
    tokenizer: Tokenizer,
    plan: Plan,
    *,
    held_out: Corpus | None = None,
    device: str | torch.device = "cpu",
    until: int | None = None,
    progress: bool | None = None,
) -> Path:
    """Pre-trains a model in `directory`, or goes on where a killed run stopped, or finds it done.

    start: a configuration for a new model, or a model to go on from, with a plan of its own and on any text; it is
    trained in place, in its float32. held_out: text to measure on. until: stop early; the next call goes on.
    Returns the last checkpoint, which minialbert.load reads; checkpoints.best(directory) is the best one.
    Raises InputError, CheckpointError for what does not fit together, FileError, and Diverged at the first NaN.
    """
    return Run(directory, start, corpus, tokenizer, plan, held_out, device).train(until, progress)
