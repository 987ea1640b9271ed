"""What may be otherwise: the mistakes that people make in this family of models, each as a change of our forward.

hypotheses.py tries them against what theirs computes. Differences that are known already come first.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from minialbert.model import ACTIVATIONS
from minialbert.tools.parity.hypotheses import Hypothesis
from minialbert.tools.parity.probe import Batch
from minialbert.tools.parity.sides import Points, our_tensors

EPSILONS = (1e-12, 1e-5, 1e-6, 1e-3, 1e-7, 1e-8)
DECODER = "mlm.decoder.weight"  # the name here of an output matrix that is not the word table
MAPS = ("query", "key", "value", "output")


def all_hypotheses(
    model: Any, batch: Batch, facts: Mapping[str, tuple[Any, Any]], their_tensors: Mapping[str, Tensor],
    their_plan: list[tuple[int, int]] | None = None,
) -> Iterator[Hypothesis]:  # fmt: skip
    """Known differences first (facts: ours, theirs; tensors of theirs that differ), then what people get wrong."""
    yield Hypothesis("chance or the device: asked again on the CPU, ours agrees")
    yield from _of_facts(model, facts, their_plan)
    yield from _of_tensors(model, their_tensors)
    own = our_tensors(model)
    yield from _of_activations(model)
    yield from _of_epsilons(model)
    yield from _of_inputs(model, batch)
    yield from _of_attention(model)
    yield from _of_norms_and_sums(model, own)
    yield from _of_exchanged(own)
    yield from _of_plan(model)
    yield from _of_left_out(own)
    yield from _of_heads(model, own)


def _of_facts(model, facts: Mapping[str, tuple[Any, Any]], their_plan) -> Iterator[Hypothesis]:
    for key, (ours, theirs) in facts.items():
        words, encoder = f"{key} is {ours!r} here, {theirs!r} there", _trunk(model).encoder
        if key == "hidden_act" and theirs in ACTIVATIONS:
            yield Hypothesis(words, attributes=_activation(model, theirs))
        elif key == "layer_norm_eps":
            yield Hypothesis(words, attributes=_epsilon(model, "", theirs))
        elif key == "num_attention_heads":
            yield Hypothesis(words, attributes=_heads(model, theirs))
        elif key == "sharing plan" and their_plan:
            yield Hypothesis("theirs visits the blocks in another order", attributes=((encoder, "plan", their_plan),))


def _of_tensors(model, theirs: Mapping[str, Tensor]) -> Iterator[Hypothesis]:
    if (decoder := theirs.get(DECODER)) is not None:
        words = "theirs has an output matrix of its own for masked words"
        yield Hypothesis(words, attributes=((model.mlm, "forward", _with_decoder(model.mlm, decoder)),))
    theirs = {name: x for name, x in theirs.items() if name != DECODER}
    for name, x in theirs.items():
        yield Hypothesis(f"the weights: {name}", tensors={name: x})
    if len(theirs) > 1:
        some = ", ".join(list(theirs)[:4]) + (f" and {len(theirs) - 4} more" if len(theirs) > 4 else "")
        yield Hypothesis(f"the weights: {some}", tensors=theirs)


def _with_decoder(head, decoder: Tensor):
    """The head of masked words with another matrix than the word table."""
    forward = type(head).forward
    return lambda x, table, *more: forward(head, x, decoder.to(table), *more)


def _trunk(model) -> Any:
    return getattr(model, "albert", model)


def _activation(model, name: str, parts: str = "layers and head") -> tuple[tuple[Any, str, Any], ...]:
    places = list(_trunk(model).encoder.feed_forwards) if "layers" in parts else []
    places += [model.mlm] if "head" in parts and hasattr(model, "mlm") else []
    return tuple((place, "act", ACTIVATIONS[name]) for place in places)


def _epsilon(model, where: str, eps: float) -> tuple[tuple[Any, str, Any], ...]:
    modules = model.named_modules()
    return tuple((m, "eps", eps) for name, m in modules if isinstance(m, nn.LayerNorm) and where in name)


def _heads(model, A: int) -> tuple[tuple[Any, str, Any], ...]:
    both = [(m, A, model.config.hidden_size // A) for m in _trunk(model).encoder.attentions]
    return tuple(triple for m, A, D in both for triple in ((m, "heads", A), (m, "width", D)))


def _of_activations(model) -> Iterator[Hypothesis]:
    for name in ("gelu", "gelu_new", "relu", "quick_gelu", "silu", "tanh", "linear"):
        yield Hypothesis(f"theirs has the activation {name!r}", attributes=_activation(model, name))
        if hasattr(model, "mlm"):
            words = f"theirs has the activation {name!r} in the head of masked words"
            yield Hypothesis(words, attributes=_activation(model, name, "head"))


def _of_epsilons(model) -> Iterator[Hypothesis]:
    for where, words in (
        ("", "every"),
        ("encoder", "the layers'"),
        ("embeddings", "the embeddings'"),
        ("mlm", "the head's"),
    ):
        for eps in EPSILONS:
            if places := _epsilon(model, where, eps):
                yield Hypothesis(f"theirs has epsilon {eps:g} in {words} LayerNorm", attributes=places)


def _of_inputs(model, batch: Batch) -> Iterator[Hypothesis]:
    flat, config = batch.flat(), model.config
    ids, mask, types = flat["input_ids"], flat["attention_mask"], flat["token_type_ids"]
    (B, T), P = ids.shape, config.max_position_embeddings
    yield Hypothesis("theirs has no attention mask", inputs={"attention_mask": None})
    yield Hypothesis("theirs masks the real tokens in place of the padding", inputs={"attention_mask": 1 - mask})
    longer = torch.cat([mask[:, :1], mask[:, :-1]], 1)
    yield Hypothesis("theirs masks one token too few", inputs={"attention_mask": longer})
    shorter = torch.cat([mask[:, 1:], mask[:, :1] * 0], 1)
    yield Hypothesis("theirs masks one token too many", inputs={"attention_mask": shorter})
    causal = torch.ones(T, T, dtype=torch.bool, device=mask.device).tril() & (mask[:, None, None] != 0)
    yield Hypothesis("theirs has a causal mask", inputs={"attention_mask": causal})
    yield Hypothesis("theirs ignores the token types", inputs={"token_type_ids": torch.zeros_like(types)})
    other = config.type_vocab_size - 1 - types
    yield Hypothesis("theirs has the token types the other way round", inputs={"token_type_ids": other})
    for offset in (1, 2, -1):
        positions = (torch.arange(T, device=ids.device) + offset).clamp(0, P - 1).expand(B, T)
        yield Hypothesis(f"theirs counts positions from {offset}", inputs={"position_ids": positions})


def _of_attention(model) -> Iterator[Hypothesis]:
    attentions = _trunk(model).encoder.attentions
    A, H = attentions[0].heads, model.config.hidden_size
    for factor, words in ((math.sqrt(H / A), "does not divide the scores by sqrt(D)"),
                          (1 / math.sqrt(A), "divides the scores by sqrt(H), not sqrt(D)")):  # fmt: skip
        yield Hypothesis(f"theirs {words}", tap=_Rewired(model, {"attention.scores": _scaled(factor)}))
    for heads in (a for a in range(1, H + 1) if H % a == 0 and a != A):
        yield Hypothesis(f"theirs has {heads} attention heads, ours {A}", attributes=_heads(model, heads))

    def interleaved(x: Tensor) -> Tensor:
        return x.unflatten(-1, (H // A, A)).permute(0, 3, 1, 2)

    split = tuple((attention, "split", interleaved) for attention in attentions)
    yield Hypothesis("theirs has the heads interleaved: head a owns columns a, a + A, ...", attributes=split)


class _Rewired:
    """A tap that computes some points from earlier ones: {name: (taps seen so far, layer, tensor) -> tensor}."""

    def __init__(self, model, rules: Mapping[str, Callable[["_Rewired", int, Tensor], Tensor]]):
        self.encoder, self.rules = _trunk(model).encoder, rules
        self.seen: Points = {}

    def __call__(self, name: str, layer: int, x: Tensor) -> Tensor:
        if layer and name in self.rules:
            x = self.rules[name](self, layer, x)
        self.seen[name, layer] = x
        return x

    def begin(self, layer: int, x: Tensor) -> None:
        """The run starts in the middle: this is the hidden state of that layer, nothing to be computed anew."""
        self.seen["hidden", layer] = x

    def attention(self, layer: int) -> Any:
        return self.encoder.attentions[self.encoder.visits(layer)[layer - 1][0]]

    def ffn(self, layer: int) -> Any:
        return self.encoder.feed_forwards[self.encoder.visits(layer)[layer - 1][1]]


def _scaled(factor: float) -> Callable[[_Rewired, int, Tensor], Tensor]:
    return lambda now, layer, x: (x * factor).clamp(min=torch.finfo(x.dtype).min)


def _of_norms_and_sums(model, own: Mapping[str, Tensor]) -> Iterator[Hypothesis]:
    """Where the two LayerNorms and the two residuals of a layer stand; `now.seen` has the points before."""
    exchanged = {}
    for name in own:
        for here, there in (("attentions", "feed_forwards"), ("feed_forwards", "attentions")):
            other = name.replace(here, there)
            if ".norm." in name and here in name and other in own:
                exchanged[name] = own[other].detach().clone()
    yield Hypothesis("theirs has the two LayerNorms of a layer swapped", tensors=exchanged)

    def rewired(words: str, **rules) -> Hypothesis:
        return Hypothesis(words, tap=_Rewired(model, {name.replace("_", "."): rule for name, rule in rules.items()}))

    def before_attention(which: str):
        def rule(now: _Rewired, layer: int, _: Tensor) -> Tensor:
            part = now.attention(layer)
            return part.split(getattr(part, which)(part.norm(now.seen["hidden", layer - 1])))

        return rule

    def sum_1(now: _Rewired, layer: int, _: Tensor) -> Tensor:
        return now.seen["hidden", layer - 1] + now.seen["attention.out", layer]

    def sum_2(now: _Rewired, layer: int, _: Tensor) -> Tensor:
        return now.seen["mid", layer] + now.seen["ffn.out", layer]

    yield rewired(
        "theirs is pre-norm: LayerNorm before each half, not after",
        attention_q=before_attention("query"), attention_k=before_attention("key"),
        attention_v=before_attention("value"), mid=sum_1, hidden=sum_2,
        ffn_pre=lambda now, layer, _: now.ffn(layer).up(now.ffn(layer).norm(now.seen["mid", layer])),
    )  # fmt: skip
    yield rewired(
        "theirs is LayerNorm(input + attention), ours is not",
        mid=lambda now, layer, _: now.attention(layer).norm(sum_1(now, layer, _)),
    )
    yield rewired(
        "theirs is LayerNorm(middle + feed-forward), ours is not",
        hidden=lambda now, layer, _: now.ffn(layer).norm(sum_2(now, layer, _)),
    )
    yield rewired("theirs has no LayerNorm after attention", mid=sum_1)
    yield rewired("theirs has no LayerNorm after the feed-forward", hidden=sum_2)
    yield rewired(
        "theirs has no residual around attention",
        mid=lambda now, layer, _: now.attention(layer).norm(now.seen["attention.out", layer]),
    )
    yield rewired(
        "theirs has no residual around the feed-forward",
        hidden=lambda now, layer, _: now.ffn(layer).norm(now.seen["ffn.out", layer]),
    )
    yield rewired(
        "theirs adds the layer's input, not the middle, after the feed-forward",
        hidden=lambda now, layer, _: now.ffn(layer).norm(now.seen["hidden", layer - 1] + now.seen["ffn.out", layer]),
    )


def _of_exchanged(own: Mapping[str, Tensor]) -> Iterator[Hypothesis]:
    """Attention maps in each other's place, square kernels lying on their side, maps with the wrong sign."""
    blocks = sorted({name.rpartition(".query.")[0] for name in own if ".query." in name})
    for i, one in enumerate(MAPS):
        for other in MAPS[i + 1 :]:
            tensors = {}
            for block in blocks:
                for end in ("weight", "bias"):
                    tensors[f"{block}.{one}.{end}"] = own[f"{block}.{other}.{end}"].detach().clone()
                    tensors[f"{block}.{other}.{end}"] = own[f"{block}.{one}.{end}"].detach().clone()
            yield Hypothesis(f"theirs has {one} and {other} swapped", tensors=tensors)
    for part in dict.fromkeys(_role(name) for name in own if name.endswith(".weight")):
        names = [name for name in own if _role(name) == part and name.endswith(".weight")]
        x = own[names[0]]
        if x.dim() == 2 and ("embeddings" not in part or part.endswith("projection")):
            if x.shape[0] == x.shape[1]:
                turned = {name: own[name].detach().T.contiguous() for name in names}
                yield Hypothesis(f"theirs has {part}.weight transposed", tensors=turned)
            negated = {name: -own[name].detach() for name in names}
            yield Hypothesis(f"theirs has {part}.weight negated", tensors=negated)


def _role(name: str) -> str:
    """The place in a layer that a tensor has, without the block's number: attention.query, ffn.up, pooler."""
    words = name.split(".")[:-1]
    if words[0] == "encoder":
        return {"attentions": "attention", "feed_forwards": "ffn"}[words[1]] + "." + words[3]
    return ".".join(words)


def _of_plan(model) -> Iterator[Hypothesis]:
    encoder, config = _trunk(model).encoder, model.config
    groups, inner = config.num_hidden_groups, config.inner_group_num
    plan = encoder.plan
    orders = {"with the groups from last to first": plan[::-1]}
    if inner > 1:
        turned = [plan[i - i % inner + inner - 1 - i % inner] for i in range(len(plan))]
        orders["with the blocks inside each group from last to first"] = turned
    if groups > 1 and config.parameter_sharing == "all":
        modulo = [(k % groups) * inner + j for k in range(config.num_hidden_layers) for j in range(inner)]
        orders["layer k with group k mod G"] = [(i, i) for i in modulo]
    orders["every layer with the first block"] = [plan[0]] * len(plan)
    for words, order_ in orders.items():
        if order_ != plan:
            yield Hypothesis(f"theirs visits {words}", attributes=((encoder, "plan", order_),))


def _of_left_out(own: Mapping[str, Tensor]) -> Iterator[Hypothesis]:
    for part in dict.fromkeys(_role(name) for name in own if name.endswith(".bias") and ".norm." not in name):
        names = [name for name in own if _role(name) == part and name.endswith(".bias")]
        zeros = {name: torch.zeros_like(own[name]) for name in names}
        yield Hypothesis(f"theirs has no {part}.bias, or zeros", tensors=zeros)


def _of_heads(model, own: Mapping[str, Tensor]) -> Iterator[Hypothesis]:
    if (pooler := _trunk(model).pooler) is not None:
        yield Hypothesis("theirs pools without tanh", tap=lambda n, _, x: x.atanh() if n == "pooled" else x)
        for token, words in ((1, "second token"), (-1, "last token"), (None, "mean of all tokens")):
            yield Hypothesis(f"theirs pools the {words}", tap=_Pooled(pooler, token))
    if hasattr(model, "mlm"):
        nothing = ((model.mlm, "norm", nn.Identity()),)
        yield Hypothesis("theirs has no LayerNorm in the head of masked words", attributes=nothing)


class _Pooled:
    """A tap that pools something else than the first token."""

    def __init__(self, pooler: nn.Module, token: int | None):
        self.pooler, self.token, self.hidden = pooler, token, torch.empty(0)

    def begin(self, layer: int, x: Tensor) -> None:
        self.hidden = x

    def __call__(self, name: str, layer: int, x: Tensor) -> Tensor:
        if name == "hidden":
            self.hidden = x
        if name != "pooled":
            return x
        one = self.hidden.mean(1) if self.token is None else self.hidden[:, self.token]
        return torch.tanh(self.pooler(one))
