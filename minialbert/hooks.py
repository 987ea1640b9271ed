"""Looking at, changing and combining what passes the taps of a model.

A tap is a function (name, layer, tensor) -> tensor, given to a forward call and asked at each point below.
Nothing is registered on a module, so nothing is left behind, and a block that is visited L times says which visit
this is. Layers are counted once, everywhere: hidden 0 is the input after the projection to H, hidden l the output of
layer l, l = 1..L, every visit counted. That is Hugging Face's hidden_states[l]; their attentions[l - 1] is layer l.

    tape = Recorder("hidden", "attention.probs", layers=[0, 6, 12])
    model(**batch, tap=tape)
    tape["hidden", 6]  # [B, T, H]
    silence = Editor("attention.probs", layer=3, fn=lambda probs: probs * 0)
    model(**batch, tap=chain(silence, tape))
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from minialbert.errors import InputError, NameUnknown, nearest

Tap = Callable[[str, int, Tensor], Tensor]
Numbers = int | Iterable[int] | None  # one, several, or all

POINTS = {  # name: (the layers it has, its shape, what it is)
    "embeddings.word": ("0", "[B, T, E]", "rows of the word table"),
    "embeddings.position": ("0", "[B, T, E]", "rows of the position table"),
    "embeddings.token_type": ("0", "[B, T, E]", "rows of the token type table"),
    "embeddings": ("0", "[B, T, E]", "their sum after LayerNorm"),
    "hidden": ("0..L", "[B, T, H]", "0: after the projection; l: the output of layer l"),
    "attention.q": ("1..L", "[B, A, T, D]", "queries"),
    "attention.k": ("1..L", "[B, A, T, D]", "keys"),
    "attention.v": ("1..L", "[B, A, T, D]", "values"),
    "attention.scores": ("1..L", "[B, A, T, T]", "q k / sqrt(D), masked; the last T is the key"),
    "attention.probs": ("1..L", "[B, A, T, T]", "softmax of the scores over the keys"),
    "attention.context": ("1..L", "[B, A, T, D]", "probs times values"),
    "attention.out": ("1..L", "[B, T, H]", "heads joined, after the dense map"),
    "mid": ("1..L", "[B, T, H]", "after the first LayerNorm: the middle of the layer"),
    "ffn.pre": ("1..L", "[B, T, F]", "before the activation"),
    "ffn.inner": ("1..L", "[B, T, F]", "after the activation"),
    "ffn.out": ("1..L", "[B, T, H]", "after the second map"),
    "pooled": ("0", "[B, H]", "tanh of a map of the first token's last hidden state"),
    "mlm.logits": ("0", "[B, T, V]", "scores of every vocabulary entry ([B, M, V] when positions are given)"),
    "sop.logits": ("0", "[B, 2]", "in order, swapped"),
}


HEADS = {name for name, (_, shape, _) in POINTS.items() if shape.startswith("[B, A")}  # these have an axis of heads, 1
TOKENS = {name: shape.split(", ").index("T") for name, (_, shape, _) in POINTS.items() if ", T" in shape}  # queries


class _Selection:
    """Which points, layers, heads and tokens a tap is about; the model asks before it takes the fused kernel."""

    def __init__(
        self, names: Iterable[str], layers: Numbers = None, heads: Numbers = None, tokens: Numbers = None
    ):  # fmt: skip
        self.names = tuple(names)
        if not self.names:
            raise InputError("name at least one point; Recorder(*POINTS) keeps them all")
        for name in self.names:
            if name not in POINTS:
                raise NameUnknown(
                    f"no point named {name!r}. Nearest: {nearest(name, POINTS) or 'none'}. "
                    "All points: minialbert.hooks.POINTS"
                )
        self.layers, self.heads, self.tokens = (
            _numbers(what, given) for what, given in (("layer", layers), ("head", heads), ("token", tokens))
        )
        for axis, given, having in (("heads", heads, HEADS), ("tokens", tokens, TOKENS)):
            if given is not None and (without := [name for name in self.names if name not in having]):
                raise InputError(f"{axis}={given}: {without[0]} has no axis of {axis}, it is {POINTS[without[0]][1]}")

    def check(self, layers: int) -> None:
        """Called by the model before it runs: a tap whose every layer lies beyond the last would never fire."""
        if self.layers and min(self.layers) > layers:
            raise InputError(f"{', '.join(self.names)} at layer {min(self.layers)}: this run has layers 0..{layers}")

    def wants(self, name: str, layer: int) -> bool:
        # compared one by one: torch.compile takes `layer in self.layers` for true or false once and for all (2.13)
        return any(own == name for own in self.names) and (
            self.layers is None or any(own == layer for own in self.layers)
        )

    def part(self, name: str, tensor: Tensor) -> tuple | None:
        """An index for the heads and tokens of a tensor, to read or to write; None is all of it."""
        if self.heads is None and self.tokens is None:
            return None
        index: list = [slice(None)] * tensor.dim()
        for what, axis, given in (("head", 1, self.heads), ("token", TOKENS.get(name, 0), self.tokens)):
            if given is not None:
                if max(given) >= tensor.shape[axis]:
                    raise InputError(f"{name}: no {what} {max(given)}, there are {what}s 0..{tensor.shape[axis] - 1}")
                index[axis] = list(given)
        if self.heads is not None and self.tokens is not None:
            index[1] = [[head] for head in self.heads]  # every head with every token
        return tuple(index)


def passes(name: str, layer: int) -> bool:
    """Whether a point exists at a layer of some model."""
    return {"0": layer == 0, "0..L": True, "1..L": layer > 0}[POINTS[name][0]]


def _numbers(what: str, given: Numbers) -> tuple[int, ...] | None:
    """3, [3, 1] or None as a tuple, in order, each once, or None for all."""
    if given is None:
        return None
    listed = [given] if isinstance(given, int) else list(given) if isinstance(given, Iterable) else [given]
    if bad := [number for number in listed if type(number) is not int]:
        raise InputError(f"{what}s are whole numbers, not a {type(bad[0]).__name__}")
    numbers = tuple(sorted(set(listed)))
    if not numbers:
        raise InputError(f"{what}s: an empty list names none; leave it out for all")
    if min(numbers) < 0:
        counted = "0..L here, from the input upwards" if what == "layer" else "from 0"
        raise InputError(f"{what} {min(numbers)}: {what}s are counted {counted}")
    return numbers


class Kept(dict[tuple[str, int], Tensor]):
    """Tensors by (point, layer); asking for what is not there tells what is."""

    def __missing__(self, key):
        rows = [f"{name}, {layer}: {list(tensor.shape)}" for (name, layer), tensor in self.items()]
        raise NameUnknown(f"nothing kept for {key!r}: " + ("; ".join(rows) or "nothing kept yet"))


class Recorder(_Selection):
    """Keeps the tensors that pass the named points: `tape["hidden", 6]`, or `tape["pooled"]` where there is one layer.

    layers, heads, tokens: numbers or lists of them, None for all. Of scores and probs, tokens are the queries. What is
    left out is not held in memory; the axes stay. device, dtype: where and as what it is kept, such as "cpu" and
    torch.float16. gradients=True keeps after a backward() also the gradient of each, as `tape.gradients["ffn.out", 3]`.
    detach=False keeps tensors with their graph, to compute further losses from.

    Recording changes no bit of the output; scores and probs are built for it beside the fused attention. With
    gradients=True or detach=False they are built in its place, for only then do gradients pass through them.
    A second call overwrites the first. `size` tells the bytes before anything runs.
    Raises NameUnknown for a point that does not exist or was not kept, InputError for numbers out of range.
    """

    def __init__(
        self, *names: str, layers: Numbers = None, heads: Numbers = None, tokens: Numbers = None,
        device: torch.device | str | None = None, dtype: torch.dtype | None = None,
        gradients: bool = False, detach: bool = True,
    ):  # fmt: skip
        super().__init__(names, layers, heads, tokens)
        self.device, self.dtype, self.detach = device, dtype, detach
        self.kept = Kept()
        self.wants_gradients, self.gradients = gradients, Kept()

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        if not self.wants(name, layer):
            return tensor
        if self.wants_gradients or not self.detach:
            tensor = tensor.view_as(tensor)  # what is kept is then on the way to the output
        if self.wants_gradients and tensor.requires_grad:
            tensor.register_hook(lambda gradient: self.gradients.update({(name, layer): self.cut(name, gradient)}))
        self.kept[name, layer] = self.cut(name, tensor.detach() if self.detach else tensor)
        return tensor

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """The part of a tensor that is kept, where and as what it is kept."""
        part = self.part(name, tensor)
        return (tensor if part is None else tensor[part]).to(device=self.device, dtype=self.dtype)

    def size(self, config, batch: int, length: int, depth: int | None = None) -> int:
        """How many bytes a forward of [batch, length] ids will leave here, gradients included; nothing is run.

        config: of the model. Without dtype, tensors are counted as float32.
        """
        H, A = config.hidden_size, config.num_attention_heads
        T = length if self.tokens is None else len(self.tokens)
        sizes = {"B": batch, "E": config.embedding_size, "H": H, "D": H // A, "F": config.intermediate_size,
                 "A": A if self.heads is None else len(self.heads), "V": config.vocab_size, "2": 2}  # fmt: skip
        last = config.num_visits if depth is None else depth
        numbers = 0
        for name in dict.fromkeys(self.names):
            where, shape, _ = POINTS[name]
            layers = {"0": range(1), "0..L": range(last + 1), "1..L": range(1, last + 1)}[where]
            letters = shape.strip("[]").split(", ")
            widths = [sizes[s] if s != "T" else T if axis == TOKENS[name] else length for axis, s in enumerate(letters)]
            numbers += math.prod(widths) * sum(self.wants(name, layer) for layer in layers)
        return numbers * (self.dtype or torch.float32).itemsize * (2 if self.wants_gradients else 1)

    def __getitem__(self, key: str | tuple[str, int]) -> Tensor:
        if isinstance(key, str):
            layers = [layer for name, layer in self.kept if name == key]
            if len(layers) > 1:
                raise NameUnknown(f"{key!r} was kept at layers {layers}: say which, as tape[{key!r}, {layers[-1]}]")
            key = (key, layers[0] if layers else 0)
        return self.kept[key]

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self.kept

    def __iter__(self):
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)

    def __repr__(self) -> str:
        rows = [f"{name}, {layer}: {list(tensor.shape)}" for (name, layer), tensor in self.kept.items()]
        return f"Recorder({', '.join(self.names)}): " + ("; ".join(rows) or "nothing kept yet")


class Editor(_Selection):
    """Changes what passes one point: fn(tensor) -> tensor of the same shape, at one layer, several, or all (None).

    heads, tokens: fn sees only these, [B, a, t, ...], and what it gives is put back among the others. fn gets a copy,
    so it may also work in place; what it gives back unchanged leaves every bit as it was. Ready-made ones (silence a
    head, patch in another run) are in edits.py.
    """

    def __init__(
        self, name: str, layer: Numbers = None, *, fn: Callable[[Tensor], Tensor],
        heads: Numbers = None, tokens: Numbers = None,
    ):  # fmt: skip
        super().__init__([name], layer, heads, tokens)
        if not callable(fn):
            raise InputError(f"fn is a {type(fn).__name__}, expected a function of a tensor")
        if never := [number for number in self.layers or () if not passes(name, number)]:
            raise InputError(f"{name} never passes at layer {never[0]}, it does at {POINTS[name][0]}")
        self.fn = fn

    def check(self, layers: int) -> None:
        """As for every tap, and no layer may lie beyond the last: an edit that is not made is no result."""
        if self.layers and max(self.layers) > layers:
            raise InputError(f"{self.names[0]} at layer {max(self.layers)}: this run has layers 0..{layers}")

    def change(self, layer: int, part: Tensor) -> Tensor:
        """What stands in for a part at a layer."""
        return self.fn(part)

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        if not self.wants(name, layer):
            return tensor
        index = self.part(name, tensor)
        before = tensor if index is None else tensor[index]
        copy = before.clone()
        new = self.change(layer, copy)
        if not isinstance(new, Tensor) or (new.shape, new.dtype) != (before.shape, before.dtype):
            got = f"{list(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
            expected = f"{list(before.shape)} {before.dtype}"
            raise InputError(f"the editor of {name} at layer {layer} gave {got}, expected {expected}")
        if new is copy and torch.equal(new, before):
            return tensor
        if index is None:
            return new
        whole = tensor.clone()
        whole[index] = new
        return whole


def chain(*taps: Tap) -> Tap:
    """One tap out of several; each sees what the one before it made, so an editor comes before its recorder."""
    return _Chain(taps)


class _Chain:
    def __init__(self, taps: tuple[Tap, ...]):
        self.taps = taps
        if bad := [tap for tap in taps if not callable(tap)]:
            raise InputError(f"a {type(bad[0]).__name__} is no tap, expected functions (name, layer, tensor) -> tensor")

    def check(self, layers: int) -> None:
        for tap in self.taps:
            if hasattr(tap, "check"):
                tap.check(layers)

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        for tap in self.taps:
            tensor = tap(name, layer, tensor)
        return tensor

    def wants(self, name: str, layer: int) -> bool:
        # a plain function does not say what it wants, so it gets everything
        return any(tap.wants(name, layer) if hasattr(tap, "wants") else True for tap in self.taps)
