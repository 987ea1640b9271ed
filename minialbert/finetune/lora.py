"""LoRA: a frozen model learns through a few added numbers, one product B A beside each weight W (Hu et al. 2021).

    W x + b  becomes  W x + b + alpha / rank * B (A x)        A [rank, in], B [out, rank], B = 0 at the start

A shared block has one W for all its visits. Its LoRA is shared in the same way, or there is one for each visit: the
weights stay one set, and each visit adds a small difference of its own.

    wrapped = with_lora(model, Lora(model.config, rank=8, per_visit=True))
    wrapped(**batch, labels=labels).loss.backward()           # the LoRA and the head have gradients, nothing else
    merge(model, wrapped.lora).save_pretrained("merged")      # an ordinary model again

It is small to keep, not small to train: gradients still pass every layer, so nearly all that is kept for the backward
pass is kept as before. At base size, a batch of 8 x 128, float32, LoRA on all six maps keeps 645 MB where training
everything keeps 647 MB; to run the first 6 of 12 visits without a gradient (freeze.forward_from) keeps 325 MB.

model.py knows nothing of this. What a linear map reads passes one point of the tap and what it gives passes a later
one, so a tap that remembers the first adds to the second. The fast encoder of packed.py asks no tap: merge first.
Neighbours: adapter.py saves a LoRA apart from its base, freeze.py says what else learns.
"""

import copy
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minialbert.config import AlbertConfig
from minialbert.errors import InputError, NameUnknown, nearest
from minialbert.finetune.freeze import counts, freeze, parameters_of
from minialbert.heads import encoder_of
from minialbert.hooks import HEADS, Tap
from minialbert.inputs import check_tap
from minialbert.model import no_tap
from minialbert.sharing import Model, unshare

MAPS = {  # the linear maps of a layer: (the point that its input passes, the point that its output passes)
    "attention.query": ("hidden", "attention.q"),  # hidden of the layer before
    "attention.key": ("hidden", "attention.k"),
    "attention.value": ("hidden", "attention.v"),
    "attention.output": ("attention.context", "attention.out"),
    "ffn.up": ("mid", "ffn.pre"),
    "ffn.down": ("ffn.inner", "ffn.out"),
}


class Pair(nn.Module):
    """B (A x): what is added to one weight, rank * (in + out) numbers."""

    def __init__(self, rank: int, inputs: int, outputs: int):
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))  # A x is about as large as x
        self.B = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.A), self.B)

    def product(self) -> Tensor:
        """B A, [out, in], in float64."""
        return self.B.detach().cpu().double() @ self.A.detach().cpu().double()


class Lora(nn.Module):
    """The pairs A, B for a configuration, named "block.0.attention.query.A", or "visit.3.attention.query.A".

    parts: of MAPS; "attention", "ffn" and "query" are understood too. per_visit: one pair for each of the visits
    1..L, in place of one for each weight; without sharing, as in BERT, that is the same. dropout: on the input of the
    pairs, in training. With B = 0 outputs equal those of the bare model to the bit (but for the sign of a zero).
    Raises InputError for numbers that make no LoRA, NameUnknown for a part that does not exist.
    """

    def __init__(
        self, config: AlbertConfig, rank: int = 8, alpha: float = 16.0,
        parts: Iterable[str] = ("attention.query", "attention.value"), per_visit: bool = False, dropout: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.sizes, self.plan = sizes_of(config), config.sharing_plan()
        self.rank, self.alpha, self.per_visit, self.dropout = rank, alpha, per_visit, dropout
        self.parts = _chosen([parts] if isinstance(parts, str) else parts)
        H, wide = config.hidden_size, config.intermediate_size  # H, F
        widths = {part: {"ffn.up": (H, wide), "ffn.down": (wide, H)}.get(part, (H, H)) for part in self.parts}
        most = min(map(min, widths.values()))
        if type(rank) is not int or not 1 <= rank <= most:
            raise InputError(f"--lora (rank) {rank!r} must be a whole number from 1 to the width {most}")
        if not 0 < alpha < math.inf or not 0 <= dropout < 1:
            raise InputError(
                f"--alpha (alpha) {alpha}, dropout {dropout}: expected alpha above 0, dropout from 0 to below 1"
            )
        self.targets = {MAPS[part][1]: part for part in self.parts}  # where something is added
        self.sources = {MAPS[part][0] for part in self.parts}  # what has to be remembered for it
        pairs: Any = nn.ModuleDict()
        for part in self.parts:
            half, name = part.split(".")
            for number in sorted({self.number(half, layer) for layer in range(1, len(self.plan) + 1)}):
                at = pairs
                for step in (str(number), half):
                    if step not in at:
                        at[step] = nn.ModuleDict()
                    at = at[step]
                at[name] = Pair(rank, *widths[part])
        setattr(self, "visit" if per_visit else "block", pairs)

    def number(self, half: str, layer: int) -> int:
        """Which pair a layer uses: its own, or that of the weights it uses, counted as the encoder counts them."""
        if self.per_visit:
            return layer
        a, f = self.plan[min(layer, len(self.plan)) - 1]  # past L there is one block, see SharedEncoder.visits
        return a if half == "attention" else f

    def pair(self, part: str, layer: int) -> Pair:
        half, name = part.split(".")
        pairs: Any = self.visit if self.per_visit else self.block
        return pairs[str(self.number(half, layer))][half][name]

    def pairs(self) -> Iterator[tuple[int, str, str, Pair]]:
        """(number, "attention" or "ffn", name of the map, pair) of each."""
        for path, module in self.named_modules():
            if isinstance(module, Pair):
                _, number, half, name = path.split(".")
                yield int(number), half, name, module

    def added(self, part: str, layer: int, x: Tensor, out: Tensor) -> Tensor:
        """The output of a map, [B, T, ...] or [B, A, T, D], with what its pair makes of the input added."""
        pair = self.pair(part, layer)
        x = F.dropout(x.to(pair.A.dtype), self.dropout, self.training)  # a bfloat16 model can have a float32 LoRA
        more = self.alpha / self.rank * pair(x).to(out.dtype)
        return out + (more.unflatten(-1, (out.shape[1], -1)).transpose(1, 2) if out.dim() == 4 else more)

    def tap(self, then: Tap = no_tap) -> "LoraTap":
        """A tap for one forward call, with the user's own inside it; with_lora makes one for every call."""
        return LoraTap(self, then)

    def forward(self, *_: Any) -> Tensor:
        raise InputError("a Lora is no tap by itself: use with_lora(model, lora), or tap=lora.tap() for one call")

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}, parts={self.parts}, per_visit={self.per_visit}"


class LoraTap:
    """Adds the LoRA first, lets the user's tap look or change, and remembers what the next maps will read of that.

    It holds what one forward call has shown it, so each call gets one of its own.
    """

    def __init__(self, lora: Lora, then: Tap):
        self.lora, self.then = lora, then
        self.inputs: dict[str, Tensor] = {}  # by the point, the latest

    def check(self, layers: int) -> None:
        L = len(self.lora.plan)
        if self.lora.per_visit and layers > L:
            raise InputError(
                f"depth={layers}: this LoRA has a pair for each of the visits 1..{L} and none for later ones; "
                "a shared one (per_visit=False) has no end"
            )
        if self.then is not no_tap:
            check_tap(self.then, layers)

    def wants(self, name: str, layer: int) -> bool:
        if self.then is not no_tap and (not hasattr(self.then, "wants") or self.then.wants(name, layer)):
            return True
        return name in self.lora.targets or name in self.lora.sources

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        part = self.lora.targets.get(name)
        if part is not None:
            tensor = self.lora.added(part, layer, self.input_of(part, layer), tensor)
        if self.then is not no_tap:
            tensor = self.then(name, layer, tensor)
        if name in self.lora.sources:
            self.inputs[name] = tensor
        return tensor

    def input_of(self, part: str, layer: int) -> Tensor:
        """[B, T, in]; what only one map reads is not held any longer."""
        source = MAPS[part][0]
        if source not in self.inputs:
            raise InputError(
                f"the LoRA did not see what layer {layer} starts from: with stored hidden_states call "
                "with_lora(model, lora) in place of the model"
            )
        x = self.inputs[source] if source == "hidden" else self.inputs.pop(source)
        return x.transpose(1, 2).flatten(2) if source in HEADS else x


class LoraModel(nn.Module):
    """A model and its LoRA: called like the model, with the same outputs. `with_lora` makes one."""

    def __init__(self, model: nn.Module, lora: Lora):
        super().__init__()
        self.model, self.lora = model, lora
        self.train(model.training)

    @property
    def config(self) -> AlbertConfig:
        return encoder_of(self.model).config

    @property
    def device(self) -> torch.device:
        return encoder_of(self.model).device

    def opened(self, tap: Tap = no_tap) -> tuple[nn.Module, LoraTap]:
        """The model inside, and the tap with which it computes what this one does."""
        return self.model, self.lora.tap(tap)

    def forward(self, *inputs: Any, tap: Tap = no_tap, **more: Any) -> Any:
        model, tap = self.opened(tap)
        if (start := more.get("hidden_states")) is not None:  # the model shows no tap what it is given
            tap.inputs["hidden"] = start
        return model(*inputs, tap=tap, **more)


def with_lora(model: nn.Module, lora: Lora, learn: Sequence[str] | None = None) -> LoraModel:
    """The model and the LoRA as one, in which the LoRA learns, and of the model only what `learn` names.

    learn: parts as freeze.freeze has them; None is the head, where there is one, for a new head must learn. The model
    is not copied: it is frozen in place, and computes as before when called without the LoRA. The LoRA goes to the
    model's device, and is at least float32. Raises InputError when the LoRA was made for another configuration.
    """
    check_fit(model, lora)
    if learn is None:
        learn = [part for part in counts(model) if part == "head"]
    chosen = [parameter for part in learn for parameter in parameters_of(model, part)]
    freeze(model, *counts(model))
    for parameter in [*chosen, *lora.parameters()]:
        parameter.requires_grad_(True)
    trunk = encoder_of(model)
    return LoraModel(model, lora.to(trunk.device, torch.promote_types(trunk.dtype, torch.float32)))


def merge(model: Model, lora: Lora) -> Model:
    """A copy of the model with alpha / rank * B A added to its weights, that computes what the two do, to rounding.

    One LoRA for each visit of a shared block has no place in one block: the copy is then unshared first, and has L
    blocks, L times the weights of one, which a warning tells. `transformers` loads either. In the copy all learns.
    """
    check_fit(model, lora)
    L = len(lora.plan)
    if lora.per_visit and any(len(set(numbers)) < L for numbers in zip(*lora.plan, strict=True)):
        warnings.warn(
            f"a LoRA for each visit: the merged model has {L} groups, each layer its own weights", stacklevel=2
        )
        twin = unshare(model)
    else:
        twin = copy.deepcopy(model)
    twin.requires_grad_(True)
    encoder = encoder_of(twin).encoder
    for number, half, name, pair in lora.pairs():
        blocks = encoder.attentions if half == "attention" else encoder.feed_forwards
        weight = blocks[number - 1 if lora.per_visit else number].get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight.copy_(weight.cpu().double() + lora.alpha / lora.rank * pair.product())
    return twin


# ---- what the page above needs ----


def _chosen(parts: Iterable[str]) -> tuple[str, ...]:
    """The maps meant, in the order of MAPS: "ffn" is both of its maps, "query" is attention.query."""
    meant = {part: [name for name in MAPS if part in (name, *name.split("."))] for part in parts}
    for part, names in meant.items():
        if not names:
            near = nearest(part, [*MAPS, *(word for name in MAPS for word in name.split("."))]) or "none"
            raise NameUnknown(f"no linear map named {part!r}. Nearest: {near}. All: {', '.join(MAPS)}")
    if not meant:
        raise InputError(f"parts: name at least one of {', '.join(MAPS)}")
    return tuple(name for name in MAPS if any(name in names for names in meant.values()))


def sizes_of(config: AlbertConfig) -> dict[str, Any]:
    """What a LoRA is made for, as JSON has it."""
    sizes: dict[str, Any] = {"hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size}
    return sizes | {"sharing_plan": [list(pair) for pair in config.sharing_plan()]}


def check_fit(model: nn.Module, lora: Lora) -> None:
    """Raises InputError unless the LoRA has the sizes and the sharing plan of the model."""
    sizes = sizes_of(encoder_of(model).config)
    differ = [f"{key} {lora.sizes[key]}, the model {value}" for key, value in sizes.items() if lora.sizes[key] != value]
    if differ:
        raise InputError(f"the LoRA was made for another configuration: it has {'; '.join(differ)}")
