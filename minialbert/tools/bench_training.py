"""The rows `training` of bench.py: one step of pre-training beside that of transformers, from the same weights.

Both sides get the same batch and the same optimizer, ours. Each is asked in its own way for the masked words: we are
told where they are and compute logits there alone; the interface of transformers is labels for all tokens, -100 where
no word is asked for. Dropout is 0, so that the two must agree: in the loss, and in the weights after the step.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from minialbert.config import AlbertConfig
from minialbert.heads import IGNORED, AlbertForPreTraining
from minialbert.pretrain.lamb import Lamb
from minialbert.tools.bench_measuring import Row, Subject, compare, fast_bfloat16, interleave
from minialbert.tools.bench_peers import SDPA
from minialbert.training import parameter_groups

MASKED = 0.15  # of the words of every row
RATE = 1e-3
LOSS_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # of the loss
UPDATE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2}  # of the change of all weights
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout_prob", "sop_dropout_prob")


class Side(NamedTuple):
    """A model that is trained, by whatever class, with its optimizer and its view of the batch."""

    model: Any
    optimizer: Lamb
    inputs: dict[str, Tensor]

    def step(self, dtype: torch.dtype) -> float:
        """Both losses, their gradient, clipped to 1, one update; returns the loss."""
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = self.model(**self.inputs).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def training_rows(subject: Subject) -> Iterator[Row]:
    """One step in float32, and one with its products in bfloat16."""
    yield training_row(subject, torch.float32, ">= 1.3")
    if fast_bfloat16():
        yield training_row(subject, torch.bfloat16)
    else:
        subject.leave_out("training, bfloat16: left out, this CPU has neither AVX512-BF16 nor AMX")


def training_row(subject: Subject, dtype: torch.dtype, goal: str = "") -> Row:
    B, T = subject.dense
    ours, theirs = sides(subject.model.config, B, T, subject.peers.get(SDPA) is not None)
    works: dict[str, Callable[[], Any]] = {"ours": partial(ours.step, dtype)}
    equality: dict[str, Any] = {}
    if theirs is not None:
        works["theirs"] = partial(theirs.step, dtype)
        facts = differences(ours, theirs, dtype)
        loss, update = facts.values()
        equality = {"facts": facts, "equal": loss < LOSS_TOLERANCE[dtype] and update < UPDATE_TOLERANCE[dtype]}
    seconds, tokens = interleave(works, subject.repeats), int(ours.inputs["attention_mask"].sum())
    name = f"training {B} x {T}" + (", bfloat16" if dtype == torch.bfloat16 else "")
    return compare(name, seconds["ours"], "transformers, sdpa", seconds.get("theirs"), goal, "tokens/s",
                   (tokens, tokens), **equality)  # fmt: skip


def sides(config: AlbertConfig, B: int, T: int, both: bool = True) -> tuple[Side, Side | None]:
    """Ours and theirs, with the same random weights, at the same step, without dropout."""
    still: dict[str, Any] = dict.fromkeys(DROPOUTS, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AlbertForPreTraining(replace(config, **still)).train()
    for_ours, for_theirs = batch(config, B, T)
    models = [(model, for_ours), *([(their_model(model), for_theirs)] if both else [])]
    made = [Side(model, Lamb(parameter_groups(model), lr=RATE), inputs) for model, inputs in models]
    return made[0], made[1] if both else None


def batch(config: AlbertConfig, B: int, T: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random ids as inputs of our model and of theirs; a quarter of the last row is padding.

    As in training, every row has room for the masked words of a full one; the last row does not use all of it.
    """
    generator = torch.Generator().manual_seed(0)
    numbers = partial(torch.randint, generator=generator)
    shortest = T - T // 4
    mask = torch.ones(B, T, dtype=torch.long)
    mask[-1, shortest:] = 0
    shared = {"input_ids": numbers(config.vocab_size, (B, T)), "attention_mask": mask}
    shared["token_type_ids"] = (torch.arange(T) >= T // 2).long().expand(B, T)
    M = max(1, round(MASKED * T))
    places = torch.rand(B, T, generator=generator).masked_fill(mask == 0, 1.0)  # [B, T]
    positions = places.argsort(1)[:, :M].sort(1).values  # [B, M]
    words, order = numbers(config.vocab_size, (B, M)), numbers(2, (B,))
    words[-1, max(1, round(MASKED * shortest)) :] = IGNORED
    labels = torch.full((B, T), IGNORED).scatter(1, positions, words)  # [B, T]
    ours = shared | {"labels": words, "masked_positions": positions, "sentence_order_label": order}
    pair_task = "next_sentence_label" if config.model_type == "bert" else "sentence_order_label"
    return ours, shared | {"labels": labels, pair_task: order}


def their_model(model: AlbertForPreTraining) -> Any:
    """transformers' class with the weights of ours, by way of a directory."""
    import transformers

    bert = model.config.model_type == "bert"
    cls = transformers.BertForPreTraining if bert else transformers.AlbertForPreTraining
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return cls.from_pretrained(directory, attn_implementation="sdpa").train()


def differences(ours: Side, theirs: Side, dtype: torch.dtype) -> dict[str, float]:
    """One step on both sides: the distance of the losses, and that of the weights it led to, both relative.

    The latter is the length of the difference of all weights as a share of that of their change. A first step of LAMB
    is little more than the signs of the gradient, so in bfloat16 weights whose gradient is all rounding differ in full.
    """
    before = {name: w.detach().clone() for name, w in ours.model.named_parameters()}
    mine, other = ours.step(dtype), theirs.step(dtype)
    with tempfile.TemporaryDirectory() as directory:
        theirs.model.save_pretrained(directory)
        after = dict(AlbertForPreTraining.from_pretrained(directory, dtype="auto").named_parameters())
    weights = {name: w.detach() for name, w in ours.model.named_parameters()}
    change = sum(float((w - before[name]).double().square().sum()) for name, w in weights.items())
    distance = sum(float((w - after[name].detach()).double().square().sum()) for name, w in weights.items())
    return {"difference of losses": abs(mine - other) / abs(other), "difference of updates": (distance / change) ** 0.5}
