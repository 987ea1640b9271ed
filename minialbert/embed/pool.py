"""Which layers, and how tokens become one vector: the grammar of `layer=` and `pooling=`, on tensors laid end to end.

The Embedder that uses both is in __init__.py. Padding cannot be counted here: there is none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from minialbert.errors import InputError, NameUnknown, nearest

POOLINGS = ("mean", "cls", "max", "pooler", "tokens", "words", "spans")
WORD_POOLINGS = ("mean", "first", "last", "sum", "max", "first+last")
RAGGED = ("tokens", "words", "spans")  # several vectors a text
NARROW = -1  # the vectors before the projection, E wide; packed.py calls them so too


@dataclass(frozen=True)
class Layers:
    """The layers a result is made of, 0..L, and how: "one", "mean", "cat", or "all" (kept apart)."""

    numbers: tuple[int, ...]
    how: str

    @property
    def name(self) -> str:
        """The same, written one way, with no negative numbers: for provenance."""
        listed = ",".join("embeddings" if n == NARROW else str(n) for n in self.numbers)
        return listed if self.how == "one" else "all" if self.how == "all" else f"{self.how}({listed})"


def parse_layers(spec: int | str, L: int) -> Layers:
    """Read `3`, `-1` (the last), `all`, `embeddings` (E wide), `mean(-4..-1)`, `cat(1,6,-1)`, `mean(0,3..6)`.

    A number is one layer and a range needs a word that says what to do with it. Layer 0 is the input after the
    projection, L the output. Raises InputError, with what was probably meant.

    >>> parse_layers("mean(-4..-1)", L=12)
    Layers(numbers=(9, 10, 11, 12), how='mean')
    """
    text = str(spec).replace(" ", "")
    if text == "all":
        return Layers(tuple(range(L + 1)), "all")
    if text == "embeddings":
        return Layers((NARROW,), "one")
    if re.fullmatch(r"-?\d+", text):
        return Layers((_number(text, L, spec),), "one")
    call = re.fullmatch(r"(mean|cat)\((.+)\)", text)
    if not call:
        bare = re.fullmatch(r"(-?\d+)(?:\.\.|-|:)(-?\d+)", text)
        hint = f"did you mean mean({bare[1]}..{bare[2]}) or cat({bare[1]}..{bare[2]})?" if bare else (
            "expected a number, all, embeddings, mean(...) or cat(...), as mean(-4..-1) or cat(1,6,-1)"
        )  # fmt: skip
        raise InputError(f"layer {spec!r}: {hint}")
    numbers: list[int] = []
    for part in call[2].split(","):
        ends = part.split("..")
        if len(ends) == 1:
            numbers.append(_number(part, L, spec))
            continue
        first, last = _number(ends[0], L, spec), _number(ends[-1], L, spec)
        if len(ends) != 2 or first > last:
            raise InputError(f"layer {spec!r}: the range {part} must rise from the lower layer to the higher")
        numbers += range(first, last + 1)
    return Layers(tuple(numbers), call[1])


def _number(text: str, L: int, spec: int | str) -> int:
    if not re.fullmatch(r"-?\d+", text):
        raise InputError(f"layer {spec!r}: {text!r} is not a whole number")
    number = int(text)
    if not -L - 1 <= number <= L:
        raise InputError(f"layer {number}: the model has layers 0..{L}, or -{L + 1}..-1 counted from the top")
    return number % (L + 1)


def check_pooling(pooling: str, word_pooling: str = "mean") -> None:
    for given, options, what in ((pooling, POOLINGS, "pooling"), (word_pooling, WORD_POOLINGS, "word_pooling")):
        if given not in options:
            near = nearest(str(given), options)
            raise NameUnknown(
                f"no {what} named {given!r}; one of {', '.join(options)}" + (f". Nearest: {near}" if near else "")
            )


def mix(kept: dict[int, Tensor], layers: Layers) -> list[Tensor]:
    """The token vectors to be pooled: one tensor [N, H], or one for each layer of "cat" and "all".

    A mean is taken token by token, before any pooling; the layers of "cat" are pooled one by one, so each slice is
    that layer's own result bit for bit.
    """
    states = [kept[n] for n in layers.numbers]
    if layers.how == "mean":
        return [torch.stack(states).mean(0)]
    return states


def join(pooled: Sequence[Tensor], layers: Layers) -> Tensor:
    """Pooled [M, H] of each layer to one result: [M, H], [M, n H] for "cat", [M, L + 1, H] for "all"."""
    if layers.how == "all":
        return torch.stack(list(pooled), dim=1)
    return pooled[0] if len(pooled) == 1 else torch.cat(list(pooled), dim=-1)


def pool_texts(x: Tensor, lengths: Sequence[int], pooling: str) -> Tensor:
    """One vector for each text: [N, H] laid end to end to [M, H], by "mean", "cls" or "max" of its own tokens."""
    parts, start = [], 0
    for length, run in groupby(lengths):
        count = len(list(run))
        texts = x[start : start + length * count].view(count, length, -1)  # [M, T, H]
        start += length * count
        parts.append(texts[:, 0] if pooling == "cls" else texts.amax(1) if pooling == "max" else texts.mean(1))
    return torch.cat(parts)


def pool_pieces(x: Tensor, groups: Sequence[Sequence[int]], how: str) -> Tensor:
    """One vector for each group of rows: [N, H] to [M, H]; a group without rows gives zeros.

    "mean" and "sum" are one index-add over all groups, "first", "last", "max" and "first+last" (their mean) as named.
    """
    full = [m for m, rows in enumerate(groups) if len(rows)]
    out = x.new_zeros(len(groups), x.shape[-1])  # [M, H]
    if not full:
        return out
    where = torch.tensor(full, device=x.device)
    if how in ("first", "last", "first+last"):
        first = x[torch.tensor([groups[m][0] for m in full], device=x.device)]
        last = x[torch.tensor([groups[m][-1] for m in full], device=x.device)]
        out[where] = first if how == "first" else last if how == "last" else (first + last) / 2
        return out
    rows = torch.tensor([row for m in full for row in groups[m]], device=x.device)
    group = torch.tensor([m for m in full for _ in groups[m]], device=x.device)
    if how == "max":
        index = group[:, None].expand(-1, x.shape[-1])
        return out.scatter_reduce_(0, index, x[rows], "amax", include_self=False)
    out.index_add_(0, group, x[rows])
    if how == "mean":
        out /= torch.tensor([max(len(rows), 1) for rows in groups], device=x.device, dtype=x.dtype)[:, None]
    return out
