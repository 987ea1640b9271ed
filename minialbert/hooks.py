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

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from minialbert.errors import InputError, NameUnknown, nearest

Tap = Callable[[str, int, Tensor], Tensor]

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


class _Selection:
    """Which points and layers a tap is interested in; the model asks `wants` before it takes the fused kernel."""

    def __init__(self, names: Iterable[str], layers: int | Iterable[int] | None):
        self.names = tuple(names)
        if not self.names:
            raise InputError("name at least one point; Recorder(*POINTS) keeps them all")
        for name in self.names:
            if name not in POINTS:
                raise NameUnknown(
                    f"no point named {name!r}. Nearest: {nearest(name, POINTS) or 'none'}. "
                    "All points: minialbert.hooks.POINTS"
                )
        layers = [layers] if isinstance(layers, int) else layers
        self.layers = None if layers is None else frozenset(layers)
        if self.layers and min(self.layers) < 0:
            raise InputError(f"layer {min(self.layers)}: layers are counted 0..L here, from the input upwards")

    def check(self, layers: int) -> None:
        """Called by the model before it runs: a tap whose every layer lies beyond the last would never fire."""
        if self.layers and min(self.layers) > layers:
            raise InputError(f"{', '.join(self.names)} at layer {min(self.layers)}: this run has layers 0..{layers}")

    def wants(self, name: str, layer: int) -> bool:
        return name in self.names and (self.layers is None or layer in self.layers)


class Recorder(_Selection):
    """Keeps the tensors that pass the named points: `tape["hidden", 6]`, or `tape["pooled"]` where there is one layer.

    layers=None keeps every layer. Tensors are detached unless detach=False, which keeps the graph, so that
    tape["ffn.out", 3].retain_grad() and backward() give gradients. Recording changes no bit of the output; scores and
    probs are built for it beside the fused attention (with detach=False, in its place). A second call overwrites the
    first. Raises NameUnknown for a point that does not exist or was not kept.
    """

    def __init__(self, *names: str, layers: int | Iterable[int] | None = None, detach: bool = True):
        super().__init__(names, layers)
        self.detach = detach
        self.kept: dict[tuple[str, int], Tensor] = {}

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        if self.wants(name, layer):
            if not self.detach:
                tensor = tensor.view_as(tensor)  # what is kept is then on the way to the output
            self.kept[name, layer] = tensor.detach() if self.detach else tensor
        return tensor

    def __getitem__(self, key: str | tuple[str, int]) -> Tensor:
        if isinstance(key, str):
            layers = [layer for name, layer in self.kept if name == key]
            if len(layers) == 1:
                return self.kept[key, layers[0]]
            if layers:
                raise NameUnknown(f"{key!r} was kept at layers {layers}: say which, as tape[{key!r}, {layers[-1]}]")
            key = (key, 0)
        if key not in self.kept:
            raise NameUnknown(f"nothing kept for {key!r}; {self!r}")
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

    fn gets a copy, so it may also work in place; what it gives back unchanged leaves every bit as it was.
    """

    def __init__(self, name: str, layer: int | Iterable[int] | None = None, *, fn: Callable[[Tensor], Tensor]):
        super().__init__([name], layer)
        if not callable(fn):
            raise InputError(f"fn is a {type(fn).__name__}, expected a function of a tensor")
        self.fn = fn

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        if not self.wants(name, layer):
            return tensor
        copy = tensor.clone()
        new = self.fn(copy)
        if not isinstance(new, Tensor) or (new.shape, new.dtype) != (tensor.shape, tensor.dtype):
            got = f"{list(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
            expected = f"{list(tensor.shape)} {tensor.dtype}"
            raise InputError(f"the editor of {name} at layer {layer} gave {got}, expected {expected}")
        return tensor if new is copy and torch.equal(new, tensor) else new


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
