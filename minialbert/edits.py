"""Ready-made editors: zero-ablate, mean-ablate, add, replace, patch. Each is an Editor of hooks.py.

All take one point, and where: layer (a visit), heads, tokens; each a number, a list of numbers, or None for all.

    model(**batch, tap=zero_ablate("attention.context", layer=3, heads=2))      # head 2 is silent at visit 3 only
    other = Recorder("hidden")
    model(**clean, tap=other)
    model(**corrupted, tap=patch(other, "hidden", layer=3, tokens=5))           # activation patching
"""

import torch
from torch import Tensor

from minialbert.errors import InputError
from minialbert.hooks import HEADS, TOKENS, Editor, Numbers, Recorder


def zero_ablate(name: str, layer: Numbers = None, *, heads: Numbers = None, tokens: Numbers = None) -> Editor:
    """Zeros in place of what passes. A head is silenced at attention.context; zeros as scores mean "look evenly"."""
    return Editor(name, layer, fn=torch.zeros_like, heads=heads, tokens=tokens)


def add(name: str, layer: Numbers, vector: Tensor, *, heads: Numbers = None, tokens: Numbers = None) -> Editor:
    """Adds a vector, [H] to hidden for instance, or whatever broadcasts to the part: steering."""
    return Editor(name, layer, fn=lambda x: x + _fitting(vector, x, name), heads=heads, tokens=tokens)


def replace(name: str, layer: Numbers, value: Tensor, *, heads: Numbers = None, tokens: Numbers = None) -> Editor:
    """A given tensor in place of what passes; it may broadcast: [H] stands for every token."""
    return Editor(name, layer, fn=lambda x: _fitting(value, x, name).expand_as(x), heads=heads, tokens=tokens)


class _FromTape(Editor):
    """Takes what a tape kept at the same point and layer; without a layer given, at every one it kept."""

    def __init__(self, tape: Recorder, name: str, layer: Numbers, heads: Numbers, tokens: Numbers):
        if not isinstance(tape, Recorder):
            raise InputError(f"a {type(tape).__name__} is no tape: give the Recorder that was tap= of the other run")
        kept = [number for point, number in tape if point == name]
        if not kept:
            tape[name, 0]  # raises, and tells what it kept
        super().__init__(name, kept if layer is None else layer, fn=torch.clone, heads=heads, tokens=tokens)
        for number in self.layers or ():
            tape[name, number]  # what was not kept is told now
        self.tape, self.name = tape, name

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        if self.wants(name, layer) and self.tape[name, layer].shape != tensor.shape:
            raise InputError(
                f"the tape kept {name} at layer {layer} as {list(self.tape[name, layer].shape)}, this run has "
                f"{list(tensor.shape)}: patch between runs of one shape, or use replace(...)"
            )
        return super().__call__(name, layer, tensor)

    def change(self, layer: int, part: Tensor) -> Tensor:
        value = self.tape[self.name, layer]
        index = self.part(self.name, value)
        return (value if index is None else value[index]).to(part)


def patch(
    tape: Recorder, name: str, layer: Numbers = None, *, heads: Numbers = None, tokens: Numbers = None
) -> Editor:  # fmt: skip
    """Activation patching: what another run had at this point, as its tape kept it, takes the place of this run's.

    layer=None is every layer that the tape has. Patching hidden 0 and every later one turns this run into the other.
    The tape must have kept whole tensors, of the same shape. Raises NameUnknown for what it did not keep.
    """
    return _FromTape(tape, name, layer, heads, tokens)


class _Mean(Editor):
    """Takes one mean vector a layer, of a head where the point has heads."""

    def __init__(self, means: dict[int, Tensor], name: str, heads: Numbers, tokens: Numbers):
        super().__init__(name, list(means), fn=torch.clone, heads=heads, tokens=tokens)
        self.means = means

    def change(self, layer: int, part: Tensor) -> Tensor:
        mean = self.means[layer]  # [H], or [A, 1, D]
        return (mean[list(self.heads)] if self.heads is not None else mean).to(part).expand_as(part)


def mean_ablate(
    tape: Recorder, name: str, layer: Numbers = None, *,
    mask: Tensor | None = None, heads: Numbers = None, tokens: Numbers = None,
) -> Editor:  # fmt: skip
    """The mean over a tape's texts and tokens in place of what passes: nothing but what every text has there.

    mask: the attention_mask of the taped batch, so that padding does not count. For points [B, T, ...] and
    [B, A, T, D], whose mean is a vector (of each head). Raises InputError for others, NameUnknown without it.
    """
    if name not in TOKENS or name in ("attention.scores", "attention.probs"):
        raise InputError(f"{name} has no mean vector of a token; it can be ablated at attention.context")
    editor = _FromTape(tape, name, layer, None, None)
    means = {number: _mean(tape[name, number], name, mask) for number in editor.layers or ()}
    return _Mean(means, name, heads, tokens)


def _mean(x: Tensor, name: str, mask: Tensor | None) -> Tensor:
    """Over texts and real tokens: [B, T, H] to [H], [B, A, T, D] to [A, 1, D]."""
    if mask is None:
        mask = torch.ones(len(x), x.shape[TOKENS[name]])
    real = torch.as_tensor(mask, device=x.device) != 0
    if real.shape != (len(x), x.shape[TOKENS[name]]):
        raise InputError(f"mask is {list(real.shape)}, the tape has {len(x)} texts of {x.shape[TOKENS[name]]} tokens")
    if name in HEADS:
        return x.transpose(1, 2)[real].mean(0)[:, None]  # [A, 1, D]
    return x[real].mean(0)


def _fitting(value: Tensor, x: Tensor, name: str) -> Tensor:
    value = torch.as_tensor(value).to(x)
    try:
        fits = torch.broadcast_shapes(value.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(f"a tensor {list(value.shape)} does not fit {name}, here {list(x.shape)}")
    return value
