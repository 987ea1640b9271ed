"""What learns and what stays: parts of a model by name, and early visits that are run without a gradient.

    learn_only(model, "pooler", "head")                      # the encoder stays as it was pre-trained
    learn_only(model, "biases", "head")                      # BitFit (Ben Zaken et al. 2021)
    freeze(model, "embeddings")
    print(table(model))
    forward_from(model, batch, visits=8).loss.backward()     # layers 1..8 keep nothing for the backward pass

A block that all layers share is frozen as one: layer 3 of it has no weights of its own (sharing.py). What can be told
apart in it are its visits, and forward_from does. Neighbours: lora.py adds a few weights beside frozen ones.
"""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from minialbert.errors import InputError, NameUnknown, nearest
from minialbert.heads import AlbertForMultipleChoice, encoder_of
from minialbert.inputs import check_tap
from minialbert.model import no_tap
from minialbert.sharing import layer_parameters

BEGINNINGS = {  # of a parameter's name: the part it belongs to; whatever else a model has is its head
    "embeddings.projection.": "projection",
    "embeddings.": "embeddings",
    "encoder.attentions.": "attention",
    "encoder.feed_forwards.": "ffn",
    "pooler.": "pooler",
    "lora.": "lora",
}
ACROSS = {  # parts that are made of those above, or cut through them
    "block": "attention and ffn, the weights of all layers",
    "norms": "every LayerNorm, scale and bias",
    "biases": "every bias, those of LayerNorm too",
}

# ---- which parameters ----


def freeze(model: nn.Module, *parts: str) -> None:
    """These parts no longer learn; the others stay as they are.

    Parts: "embeddings" (the three tables and their LayerNorm), "projection", "attention", "ffn", "block" (both),
    "pooler", "head", "norms", "biases", "layer 3" (layers 1..L). A frozen parameter also loses its gradient, so an
    optimizer that holds it leaves it alone. The word table is one tensor of the embeddings, also where a head for
    masked words uses it: "head" is without it, and a frozen one is frozen for both.
    Raises NameUnknown for a part that does not exist or that this model lacks, InputError for a layer that has no
    weights of its own; nothing is frozen then.
    """
    for parameter in _all_of(model, parts):
        parameter.requires_grad_(False)
        parameter.grad = None


def learn_only(model: nn.Module, *parts: str) -> None:
    """These parts learn and nothing else does; for the parts see `freeze`."""
    chosen = _all_of(model, parts)
    for weight in model.parameters():
        weight.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    for weight in model.parameters():
        weight.grad = weight.grad if weight.requires_grad else None


def _all_of(model: nn.Module, parts: tuple[str, ...]) -> list[Tensor]:
    if not parts:
        raise InputError(f"name at least one part: {_names_for(model)}")
    return [parameter for part in parts for parameter in parameters_of(model, part)]


def parameters_of(model: nn.Module, part: str) -> list[Tensor]:
    """The parameters of a part, each once; see `freeze` for the parts and for what is raised."""
    if layer := re.fullmatch(r"layer (\d+)", part):
        return list(layer_parameters(_opened(model)[0], int(layer[1])).values())
    if part == "norms":
        return [p for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()]
    if part == "biases":
        return [p for name, p in model.named_parameters() if name.endswith("bias")]
    own = _by_part(model)
    names = ("attention", "ffn") if part == "block" else (part,)
    if missing := [name for name in names if name not in own]:
        if part in ("head", *BEGINNINGS.values()):
            raise NameUnknown(f"{type(model).__name__} has no {missing[0]}; its parts are {', '.join(own)}")
        layers = [f"layer {layer}" for layer in range(1, 1 + len(encoder_of(_opened(model)[0]).encoder.plan))]
        near = nearest(part, [*own, *ACROSS, *layers]) or "none"
        raise NameUnknown(f"no part named {part!r}. Nearest: {near}. All parts: {_names_for(model)}")
    return [parameter for name in names for parameter in own[name].values()]


def _by_part(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Every parameter once, under its part and name, in the order of the model."""
    encoder_of(_opened(model)[0])  # a stranger is refused
    parts: dict[str, dict[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        part = next((part for beginning, part in BEGINNINGS.items() if _own(name).startswith(beginning)), "head")
        parts.setdefault(part, {})[name] = parameter
    return parts


def _own(name: str) -> str:
    """The name of a parameter in an AlbertModel, whatever is around it."""
    return name.removeprefix("model.").removeprefix("albert.")


def _opened(model: Any, tap: Any = no_tap) -> tuple[nn.Module, Any]:
    """The model in a LoraModel of lora.py, and its tap around yours; any other model is its own."""
    return model.opened(tap) if hasattr(model, "opened") else (model, tap)


def _names_for(model: nn.Module) -> str:
    return ", ".join([*_by_part(model), *ACROSS, f"layer 1..{len(encoder_of(_opened(model)[0]).encoder.plan)}"])


def counts(model: nn.Module, visits: int = 0) -> dict[str, tuple[int, int]]:
    """For each part of a model, how many numbers in it learn, and how many there are: {"head": (1538, 1538), ...}.

    visits: how many early ones are run without a gradient, as by forward_from; what they alone use does not learn.
    0 is an ordinary call, in which the embeddings have a gradient.
    """
    idle = _early(model, visits)
    return {
        part: (
            sum(p.numel() for name, p in own.items() if p.requires_grad and name not in idle),
            sum(p.numel() for p in own.values()),
        )
        for part, own in _by_part(model).items()
    }


def _early(model: nn.Module, visits: int) -> set[str]:
    """The parameters that nothing after the first `visits` visits uses, by name."""
    inside = _opened(model)[0]
    plan = encoder_of(inside).encoder.plan
    _check_visits(visits, len(plan))
    if not visits:
        return set()
    used = [f"lora.visit.{visit}." for visit in range(visits + 1, len(plan) + 1)]
    for a, f in plan[visits:]:
        used += [f"encoder.attentions.{a}.", f"encoder.feed_forwards.{f}.", f"lora.block.{a}.attention.",
                 f"lora.block.{f}.ffn."]  # fmt: skip
    if hasattr(inside, "mlm"):  # it ends in a product with the word table
        used.append("embeddings.word.")
    below = [
        name for name, _ in model.named_parameters() if _own(name).startswith(("embeddings.", "encoder.", "lora."))
    ]
    return {name for name in below if not _own(name).startswith(tuple(used))}


def _check_visits(visits: int, layers: int) -> None:
    if not isinstance(visits, int) or not 0 <= visits <= layers:
        raise InputError(
            f"--no-gradient (visits) {visits!r}: the layers that can be run without a gradient are 0..{layers}"
        )


def table(model: nn.Module, visits: int = 0) -> str:
    """`counts` to print, a part on each line, and how many layers use the weights of a block."""
    plan = encoder_of(_opened(model)[0]).encoder.plan
    users = {"attention": len({a for a, _ in plan}), "ffn": len({f for _, f in plan})}
    rows = [("part", "learns", "of", "")]
    found = counts(model, visits)
    whole = tuple(sum(column) for column in zip(*found.values(), strict=True))
    for part, (learn, total) in (found | {"all": whole}).items():
        sets = f"{users[part]} for {len(plan)} layers" if part in users else ""
        rows.append((part, f"{learn:,}", f"{total:,}", sets))
    return "\n".join(f"{part:<11} {learn:>13} {total:>13}  {sets}".rstrip() for part, learn, total, sets in rows)


# ---- which visits ----


def forward_from(
    model: nn.Module, batch: Mapping[str, Any], visits: int, *, depth: int | None = None, tap=no_tap, **labels: Any
) -> Any:
    """A forward call whose first `visits` layers, and the embeddings, are run without a gradient; 0: an ordinary one.

    batch: what a forward call takes, input_ids [B, T] first of all; labels in it or beside it. Returns what the model
    returns. Nothing of the first layers is kept for the backward pass. The weights of a shared block still learn,
    from the later visits alone: their gradient is the sum of the rows visits.. of sharing.gradient_by_visit. The word
    table learns where the head for masked words uses it, and only from there. In training dropout is active in all
    layers, as it is under torch.no_grad() everywhere; call model.eval() to have none. Taps see every layer once.
    Raises InputError for a number of visits that the model does not have, and for AlbertForMultipleChoice.
    """
    model, tap = _opened(model, tap)  # so that one tap of a LoRA sees both halves
    if isinstance(model, AlbertForMultipleChoice):
        raise InputError(
            "AlbertForMultipleChoice runs its [B, N, T] ids whole and takes no hidden_states to go on from: "
            "freeze(model, 'embeddings') instead, or train it with all visits"
        )
    trunk, rest = encoder_of(model), dict(batch) | labels
    plan = trunk.encoder.visits(depth)
    _check_visits(visits, len(plan))
    if tap is not no_tap:
        check_tap(tap, len(plan))
    inputs = [rest.pop(name, None) for name in ("input_ids", "token_type_ids", "position_ids", "inputs_embeds")]
    mask = rest.get("attention_mask")
    with torch.no_grad() if visits else nullcontext():
        x = trunk.embeddings(*inputs, tap)  # [B, T, H]
        padding = None if mask is None else trunk.padding_of(mask, *x.shape[:2])
        x = trunk.encoder(x, padding, plan[:visits], 0, tap)  # [B, T, H]
    return model(hidden_states=x, from_layer=visits, depth=depth, tap=tap, **rest)
