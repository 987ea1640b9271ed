"""What sharing means for one layer: a block taken apart into L equal ones and put together, whose gradient is whose.

In ALBERT one block is visited L times, so no layer has weights of its own: to freeze or edit the weights of layer 3
alone, `unshare` the model first. The plan is in config.py, the loop that reads it in model.SharedEncoder.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from minialbert.config import AlbertConfig
from minialbert.errors import InputError
from minialbert.heads import encoder_of

Model = TypeVar("Model", bound=nn.Module)


def unshare(model: Model) -> Model:
    """A copy whose every layer has its own weights, equal to those it used; outputs stay the same to the bit.

    An ALBERT becomes a model with num_hidden_groups = L, which `transformers` loads too. Any class of ours; the
    original is left alone. L blocks need L times the memory of one.
    """
    encoder = encoder_of(model).encoder
    return _rebuilt(model, _unshared(encoder_of(model).config),
                    [copy.deepcopy(encoder.attentions[a]) for a, _ in encoder.plan],
                    [copy.deepcopy(encoder.feed_forwards[f]) for _, f in encoder.plan])  # fmt: skip


def share(model: Model) -> Model:
    """The inverse check: a copy with one block for all layers, if their weights are equal to the bit.

    Raises InputError that names the first tensor in which two layers differ; an average of them would be another model.
    """
    encoder = encoder_of(model).encoder
    first = layer_parameters(model, 1, own=False)
    for layer in range(2, len(encoder.plan) + 1):
        for name, weight in layer_parameters(model, layer, own=False).items():
            if not torch.equal(weight, first[name]):
                apart = (weight - first[name]).abs().max().item()
                raise InputError(
                    f"layers 1 and {layer} differ in {name}, by {apart:.2g} at most: one block cannot be both"
                )
    config = replace(encoder_of(model).config, parameter_sharing="all", num_hidden_layers=len(encoder.plan),
                     num_hidden_groups=1, inner_group_num=1, model_type="albert")  # fmt: skip
    twin = _rebuilt(model, config, [copy.deepcopy(encoder.attentions[encoder.plan[0][0]])],
                    [copy.deepcopy(encoder.feed_forwards[encoder.plan[0][1]])])  # fmt: skip
    every = [layer_parameters(model, layer, own=False) for layer in range(1, len(encoder.plan) + 1)]
    for name, weight in layer_parameters(twin, 1, own=False).items():  # what learns in any layer learns in the one
        weight.requires_grad_(any(weights[name].requires_grad for weights in every))
    return twin


def layer_parameters(model: nn.Module, layer: int, own: bool = True) -> dict[str, Tensor]:
    """The weights that a layer uses, l = 1..L: {"attention.query.weight": ..., "ffn.up.weight": ...}; not copies.

    With own=True it is an error if another layer uses them too: whoever freezes or edits them would do so for all of
    those. Raises InputError that says which, and what can be done.
    """
    encoder = encoder_of(model).encoder
    L = len(encoder.plan)
    if not 1 <= layer <= L:
        raise InputError(f"layer {layer}: the layers with weights are 1..{L}")
    a, f = encoder.plan[layer - 1]
    if own:
        for part, number, index in (("attention", a, 0), ("feed-forward", f, 1)):
            users = [n for n, pair in enumerate(encoder.plan, start=1) if pair[index] == number]
            if len(users) > 1:
                raise InputError(
                    f"layer {layer} has no {part} weights of its own, layers {', '.join(map(str, users))} use the same "
                    "ones: what happens to one happens to all. minialbert.unshare(model), or finetune --unshare, gives "
                    "each layer its own, with equal outputs; a tap changes one visit without changing weights"
                )
    parts = {"attention": encoder.attentions[a], "ffn": encoder.feed_forwards[f]}
    return {f"{part}.{name}": weight for part, block in parts.items() for name, weight in block.named_parameters()}


def gradient_by_visit(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], depth: int | None = None
) -> dict[str, Tensor]:
    """The gradient of shared weights, split into what each visit asks for: {"attention.query.weight": [L, H, H], ...}.

    loss: a function that runs the model it is given and returns a number, as `lambda m: m(**batch, labels=y).loss`. A
    shared weight's gradient is the sum over its visits, and these are the terms: x.sum(0) is what backward() gives.
    depth: how many visits the loss makes, if not L. Weights are not copied: each visit sees them through a view of its
    own. The model's own .grad stays as it was.
    """
    encoder = encoder_of(model).encoder
    plan = encoder.visits(depth)
    views: list[dict[str, Tensor]] = []
    blocks: tuple[list, list] = [], []
    for a, f in plan:
        seen: dict[str, Tensor] = {}
        for kind, part, block in ((0, "attention", encoder.attentions[a]), (1, "ffn", encoder.feed_forwards[f])):
            blocks[kind].append(_seen_through_views(block, f"{part}.", seen))
        views.append(seen)
    apart = _rebuilt(model, _unshared(encoder_of(model).config, len(plan)), *blocks, keep=model.parameters())
    with torch.enable_grad():
        value = loss(apart)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
        raise InputError("loss(model) must give one number with a gradient, such as model(**batch, labels=y).loss")
    wanted = [view for seen in views for view in seen.values()]
    gradients = torch.autograd.grad(value, wanted, allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise InputError("the loss does not depend on the layers of the model it was given: use the m of loss(m)")
    found = iter(torch.zeros_like(w) if g is None else g for g, w in zip(gradients, wanted, strict=True))
    rows = [{name: next(found) for name in seen} for seen in views]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _seen_through_views(block: nn.Module, prefix: str, seen: dict[str, Tensor]) -> nn.Module:
    """The block over again, its parameters views of the first's; the views are put into `seen` by name."""
    twin = copy.deepcopy(block, {id(p): p for p in block.parameters()})  # the memo keeps the weights themselves
    for path, module in twin.named_modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            view = weight.detach().requires_grad_()  # the same numbers in the same memory, a gradient of its own
            seen[f"{prefix}{path}.{name}" if path else f"{prefix}{name}"] = view
            delattr(module, name)
            setattr(module, name, view)
    return twin


def _unshared(config: AlbertConfig, visits: int | None = None) -> AlbertConfig:
    """The same shape with a block for each visit."""
    visits = config.num_visits if visits is None else visits
    return replace(
        config, num_hidden_layers=visits, num_hidden_groups=visits, inner_group_num=1, parameter_sharing="all"
    )


def _rebuilt(
    model: Model, config: AlbertConfig, attentions: list, feed_forwards: list, keep: Iterable[Tensor] = ()
) -> Model:
    """A copy of a model with other blocks and the configuration that says so; parameters in `keep` are not copied."""
    encoder = encoder_of(model).encoder
    memo: dict = {id(weight): weight for weight in keep}
    memo[id(encoder.attentions)] = nn.ModuleList(attentions)
    memo[id(encoder.feed_forwards)] = nn.ModuleList(feed_forwards)
    twin = copy.deepcopy(model, memo)
    for part in {id(m): m for m in (twin, encoder_of(twin))}.values():
        part.config = config
    encoder_of(twin).encoder.plan = config.sharing_plan()
    return twin
