"""The two sides of a comparison: what minialbert and transformers compute on one batch, point by point.

A point is (name, layer) with the names of hooks.py, heads laid side by side: q, k, v and context are [B, T, H] here.
comparison.py compares the two, hypotheses.py asks what would make them equal. transformers is a black box: its modules
are found by the names of the tensors in its files (convert/names.py), its hidden states and maps are its outputs.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import minialbert.convert.names as names
from minialbert.config import AlbertConfig
from minialbert.heads import (
    AlbertForMaskedLM,
    AlbertForMultipleChoice,
    AlbertForPreTraining,
    AlbertForQuestionAnswering,
    AlbertForSequenceClassification,
    AlbertForTokenClassification,
)
from minialbert.hooks import Tap, chain
from minialbert.model import AlbertModel
from minialbert.tools.parity.probe import Batch, probed

Point = tuple[str, int]
Points = dict[Point, Tensor]
See = Callable[[Point, Tensor], None]

_CLASSES = (
    AlbertModel, AlbertForPreTraining, AlbertForMaskedLM, AlbertForSequenceClassification,
    AlbertForTokenClassification, AlbertForQuestionAnswering, AlbertForMultipleChoice,
)  # fmt: skip
CLASSES = {cls.__name__.removeprefix("Albert"): cls for cls in _CLASSES}
BEFORE = ("embeddings.word", "embeddings.token_type", "embeddings.position", "embeddings")
IN_LAYER = (  # in order of computation
    "attention.q", "attention.k", "attention.v", "attention.probs", "attention.context", "attention.out", "mid",
    "ffn.pre", "ffn.inner", "ffn.out", "hidden",
)  # fmt: skip
AFTER = (
    "sdpa", "packed", "pooled", "mlm.logits", "mlm.log_probs", "sop.logits", "sop.log_probs", "logits", "start_logits",
    "end_logits", "mlm.loss", "sop.loss", "loss",
)  # fmt: skip
_ORDER = {name: i for i, name in enumerate((*BEFORE, *IN_LAYER))}

_MODULES = {  # the module of ours that has the counterpart's weights: the points that come out of it and go into it
    "embeddings.word": ("embeddings.word", ""),
    "embeddings.token_type": ("embeddings.token_type", ""),
    "embeddings.position": ("embeddings.position", ""),
    "embeddings.norm": ("embeddings", ""),
    "attentions.query": ("attention.q", ""),
    "attentions.key": ("attention.k", ""),
    "attentions.value": ("attention.v", ""),
    "attentions.output": ("attention.out", "attention.context"),
    "attentions.norm": ("mid", ""),
    "feed_forwards.up": ("ffn.pre", ""),
    "feed_forwards.down": ("ffn.out", "ffn.inner"),
}
_THEIR_OUTPUTS = {
    "prediction_logits": "mlm.logits", "seq_relationship_logits": "sop.logits", "sop_logits": "sop.logits",
    "logits": "logits", "start_logits": "start_logits", "end_logits": "end_logits", "loss": "loss",
}  # fmt: skip


def order(point: Point) -> tuple[int, int, int]:
    """A key that sorts points in order of computation."""
    name, layer = point
    return (1, AFTER.index(name), 0) if name in AFTER else (0, layer, _ORDER[name])


def farthest(ours: Tensor, theirs: Tensor) -> float:
    """The largest absolute difference; infinite when the shapes differ or a number is none."""
    if ours.shape != theirs.shape:
        return float("inf")
    if not ours.numel():
        return 0.0
    apart = (ours.double() - theirs.double()).abs().max().item()
    return apart if apart == apart else float("inf")


# ---- ours ----


class Tape:
    """A tap that keeps every point but the scores, off the graph and on the CPU."""

    def __init__(self) -> None:
        self.kept: Points = {}

    def __call__(self, name: str, layer: int, x: Tensor) -> Tensor:
        if name != "attention.scores":
            joined = name in ("attention.q", "attention.k", "attention.v", "attention.context")
            self.kept[name, layer] = (x.transpose(1, 2).flatten(2) if joined else x).detach().cpu()
        return x


def our_points(model: Any, batch: Batch, tap: Tap | None = None, **more: Any) -> tuple[Points, Tensor | None]:
    """Every point of one forward, and the loss with its graph. `more` goes to the forward."""
    tape = Tape()
    out = model(**batch.inputs, **batch.labels, **more, tap=tape if tap is None else chain(tap, tape))
    kept = tape.kept
    if isinstance(model, AlbertModel):
        loss = None if batch.probe is None else probed(out.last_hidden_state, out.pooler_output, batch.probe)
    else:
        loss = out.loss
        for field in ("logits", "start_logits", "end_logits"):
            if (x := getattr(out, field, None)) is not None and not isinstance(model, AlbertForMaskedLM):
                kept[field, 0] = x.detach().cpu()
    if loss is not None:
        kept["loss", 0] = loss.detach().cpu()
    return kept, loss


def trunk_points(model: Any, batch: Batch, tap: Tap, **more: Any) -> Points:
    """The same for the encoder alone, some of its layers as `depth`, `hidden_states` and `from_layer` say."""
    tape, inputs = Tape(), batch.flat()
    if "hidden_states" in more:
        inputs = {"attention_mask": inputs["attention_mask"]} if "attention_mask" in inputs else {}
    getattr(model, "albert", model)(**inputs, **more, tap=chain(tap, tape))
    return tape.kept


def our_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """Parameters under the names of the table: without the prefix of the encoder."""
    return {name.removeprefix("albert."): p for name, p in model.named_parameters()}


# ---- theirs ----


def their_names(model: Any, config: AlbertConfig) -> Iterator[tuple[str, str, Tensor]]:
    """Each of their parameters: its name, ours for it ("" where the table has none), the numbers."""
    to_ours = names.expand(config, "hf")
    for name, parameter in model.named_parameters():
        plain = names.plain(name, config.model_type)
        yield name, to_ours.get(names.TIED.get(plain, plain), ""), parameter


def their_points(
    model: Any, config: AlbertConfig, batch: Batch, see: See, maps: bool = True
) -> tuple[Tensor | None, list[list[int]]]:
    """Give every point to `see` as it is computed, keep none.

    Attention maps only on demand: the eager attention alone has them.
    Returns the loss with its graph, and for each layer which of our [attention, feed-forward] weights they used.
    """
    plan: list[list[int]] = []
    pooled: list[Tensor | None] = [None]
    rows = batch.flat()["input_ids"].shape[0]

    def pool(_module, _inputs, out) -> None:
        pooled[0] = getattr(out, "pooler_output", None)
        if pooled[0] is not None:
            see(("pooled", 0), pooled[0].detach())

    with _watched(model, config, rows, see, plan):
        handle = model.base_model.register_forward_hook(pool)
        try:
            labels = dict(batch.labels)
            if config.model_type == "bert" and "sentence_order_label" in labels:
                labels["next_sentence_label"] = labels.pop("sentence_order_label")
            out = model(**batch.inputs, **labels, output_hidden_states=True, output_attentions=maps)
        finally:
            handle.remove()
    for layer, x in enumerate(out.hidden_states):
        see(("hidden", layer), x.detach())
    for layer, x in enumerate(out.attentions or (), start=1):
        if x is not None:
            see(("attention.probs", layer), x.detach())
    loss = out.get("loss") if batch.probe is None else probed(out.last_hidden_state, pooled[0], batch.probe)
    masked = type(model).__name__.endswith("ForMaskedLM")
    for key, name in _THEIR_OUTPUTS.items():
        if key != "loss" and out.get(key) is not None:
            see(("mlm.logits" if masked else name, 0), out[key].detach())
    if loss is not None:
        see(("loss", 0), loss.detach())
    return loss, plan


@contextmanager
def _watched(model: Any, config: AlbertConfig, rows: int, see: See, plan: list[list[int]]) -> Iterator[None]:
    """Hooks on their modules; a shared block fires at every visit, so visits are counted, name by name."""
    modules = {names.plain(name, config.model_type): module for name, module in model.named_modules()}
    visits: dict[str, int] = {}
    handles = []

    def show(name: str, x: Tensor) -> int:
        layer = visits[name] = visits.get(name, 0) + 1
        see((name, 0 if name in BEFORE else layer), x.detach().expand(rows, *x.shape[1:]))
        return layer

    def hook(role: str, block: int):
        after, before = _MODULES[role]

        def fired(_module, inputs, output) -> None:
            if before:
                show(before, inputs[0])
            layer = show(after, output)
            if role == "attentions.query":
                plan.append([block, -1])
            elif role == "feed_forwards.up":
                plan[layer - 1][1] = block

        return fired

    seen = set()
    for theirs, ours in names.expand(config, "hf").items():
        role = re.sub(r"^encoder\.(\w+)\.\d+\.", r"\1.", ours).removesuffix(".weight")
        name = theirs.removesuffix(".weight")
        if role in _MODULES and name in modules and name not in seen:
            seen.add(name)
            block = int(ours.split(".")[2]) if ours.startswith("encoder.") else 0
            handles.append(modules[name].register_forward_hook(hook(role, block)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def their_last_hidden(model: Any, batch: Batch) -> Tensor:
    """What their encoder puts out, with whatever attention it is set to."""
    return model.base_model(**batch.flat()).last_hidden_state
