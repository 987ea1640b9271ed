"""The forward, told step by step: what each point holds, its formula, and the line of code where it passes.

The points are those of hooks.py, the code is model.py and heads.py, the letters theirs. File and line are read from
the frame that calls the tap, so they cannot go stale. `minialbert trace` (cli/look.py) prints what is made here.
"""

import linecache
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from minialbert.config import AlbertConfig
from minialbert.errors import InputError, NameUnknown, nearest
from minialbert.heads import encoder_of
from minialbert.hooks import POINTS, Recorder

PACKAGE = Path(__file__).parent.parent
NOT_MODEL = {str(PACKAGE / "hooks.py"), __file__}  # frames between a tap and the code that called it

FORMULAS = {  # what model.py computes there; dropout, which is only for training, is left out
    "embeddings.word": "rows of the word table, at input_ids",
    "embeddings.token_type": "rows of the token type table, at token_type_ids",
    "embeddings.position": "rows of the position table, at position_ids",
    "embeddings": "LayerNorm(word + token_type + position)",
    "hidden": "LayerNorm(mid + ffn.out)",  # of layers 1..L; `formula` has layer 0
    "attention.q": "hidden[l-1] W_q + b_q, cut into A heads of D",
    "attention.k": "hidden[l-1] W_k + b_k, cut into A heads of D",
    "attention.v": "hidden[l-1] W_v + b_v, cut into A heads of D",
    "attention.scores": "q k^T / sqrt(D), padding at the lowest number",
    "attention.probs": "softmax of the scores over the keys, the last T",
    "attention.context": "softmax(q k^T / sqrt(D)) v, in one fused kernel",
    "attention.out": "(heads of the context joined to H) W_o + b_o",
    "mid": "LayerNorm(hidden[l-1] + attention.out)",
    "ffn.pre": "mid W_up + b_up, from H to F",
    "ffn.inner": "act(ffn.pre)",
    "ffn.out": "ffn.inner W_down + b_down, from F to H",
    "pooled": "tanh(x W + b), x the first token's last hidden",
    "mlm.logits": "LayerNorm(act(hidden W + b)) table^T + bias",
    "sop.logits": "pooled W + b: two numbers, in order and swapped",
}


def formula(point: str, layer: int, config: AlbertConfig | None = None) -> str:
    """How a point is computed, with the layer's number in it; with a configuration, as that one has it.

    Raises NameUnknown for a point that does not exist.

    >>> formula("mid", 3)
    'LayerNorm(hidden[2] + attention.out)'
    """
    if point not in FORMULAS:
        raise NameUnknown(f"no point named {point!r}. Nearest: {nearest(point, FORMULAS) or 'none'}")
    if (point, layer) == ("hidden", 0):
        no_matrix = config is not None and not config.has_projection
        return "embeddings, H wide as they are" if no_matrix else "embeddings W + b, from E to H"
    if point == "ffn.inner" and config is not None:
        return f"{config.hidden_act}(ffn.pre)"
    return FORMULAS[point].replace("l-1", str(layer - 1))


@dataclass(frozen=True)
class Step:
    """What passed one point at one layer. Statistics are over real tokens only, padding left out, in float64."""

    point: str
    layer: int
    shape: tuple[int, ...]
    letters: str  # the shape in the letters of model.py, "[B, T, H]"
    mean: float
    std: float  # of all its numbers, their count as divisor
    norm: float  # the mean length of its vectors along the last axis
    low: float
    high: float
    formula: str
    file: str  # of the code where it passes, inside the package: "model.py"
    line: int
    code: str  # that line, without its indent
    module: str  # whose forward that is, a name for model.get_submodule; one name at two layers: the same weights


class _Follower:
    """The tap: notes a Step at each point that is wanted, and hands every tensor on as it came."""

    def __init__(self, model: nn.Module, mask: Tensor | None, positions: bool, wanted: Recorder):
        self.encoder, self.mask, self.positions, self.wanted = encoder_of(model), mask, positions, wanted
        self.names = {id(module): name for name, module in model.named_modules()}
        self.steps: list[Step] = []

    def check(self, layers: int) -> None:
        self.wanted.check(layers)

    def wants(self, name: str, layer: int) -> bool:
        return self.wanted.wants(name, layer)

    def __call__(self, name: str, layer: int, tensor: Tensor) -> Tensor:
        if self.wants(name, layer):
            frame = maker(sys._getframe(1))
            path, line = frame.f_code.co_filename, frame.f_lineno
            letters = "[B, M, V]" if name == "mlm.logits" and self.positions else POINTS[name][1]
            numbers = tensor.detach().cpu().double()
            step = Step(
                name, layer, tuple(tensor.shape), letters, *statistics(numbers, self.counted(letters, numbers)),
                formula(name, layer, self.encoder.config), Path(path).relative_to(PACKAGE).as_posix(), line,
                linecache.getline(path, line).strip(), self.names.get(id(frame.f_locals.get("self")), ""),
            )  # fmt: skip
            self.steps.append(step)
        return tensor

    def counted(self, letters: str, tensor: Tensor) -> Tensor:
        """True for the numbers that belong to real tokens, in the shape of the tensor.

        Where the mask has pairs, [B, 1 or A, T, T], a token is real when any query may look at it.
        """
        if self.mask is None or "T" not in letters:
            return torch.ones(()).bool().expand(tensor.shape)
        keys = ~self.encoder.padding_of(self.mask, tensor.shape[0], tensor.shape[-2]).cpu()
        real = keys.any(2).any(1)  # [B, T]
        if not real.any():
            raise InputError("attention_mask has no real token in it, nothing to measure; 1 is for real tokens")
        if letters == "[B, A, T, T]":
            counted = keys & real[:, None, :, None]
        else:
            counted = real[:, None, :, None] if "A" in letters else real[:, :, None]
        return counted.expand(tensor.shape)


def maker(frame: FrameType) -> FrameType:
    """The innermost frame of the package that is no tap's: the line where the tensor passes, just made."""
    while frame.f_back is not None and not _makes(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _makes(path: str) -> bool:
    return path not in NOT_MODEL and Path(path).is_relative_to(PACKAGE)


def statistics(numbers: Tensor, counted: Tensor) -> tuple[float, float, float, float, float]:
    """Mean, std, mean length of the vectors along the last axis, lowest and highest, of what is counted."""
    some = numbers[counted]
    lengths = numbers.masked_fill(~counted, 0).norm(dim=-1)[counted.any(-1)]
    found = (some.mean(), some.std(correction=0), lengths.mean(), some.min(), some.max())
    mean, std, norm, low, high = (x.item() for x in found)
    return mean, std, norm, low, high


def follow(
    model: nn.Module, batch: Mapping[str, Any], *,
    points: Iterable[str] | None = None, layers: int | Iterable[int] | None = None, depth: int | None = None,
) -> tuple[list[Step], Any]:  # fmt: skip
    """`trace`, and the output of the same forward."""
    visits = len(encoder_of(model).encoder.visits(depth))
    points = [points] if isinstance(points, str) else list(POINTS if points is None else points)
    layers = [layers] if isinstance(layers, int) else None if layers is None else sorted(layers)
    for layer in layers or ():
        if not 0 <= layer <= visits:
            raise InputError(f"layer {layer}: this run has layers 0..{visits}, 0 the input")
    mask = batch.get("attention_mask")
    if mask is not None and (mask := torch.as_tensor(mask)).dim() == 3:
        mask = mask.flatten(0, 1)  # N choices for each of B questions run as B N texts
    positions = batch.get("masked_positions") is not None
    tap = _Follower(model, mask, positions, Recorder(*points, layers=layers))
    with torch.inference_mode():
        output = model(**batch, depth=depth, tap=tap)
    return tap.steps, output


def trace(
    model: nn.Module, batch: Mapping[str, Any], *,
    points: Iterable[str] | None = None, layers: int | Iterable[int] | None = None, depth: int | None = None,
) -> list[Step]:  # fmt: skip
    """Runs model(**batch) once, in the mode it is in, and tells each point of hooks.POINTS that it passes, in order.

    `points`, `layers`: only these; `depth` as in a call of the model. No bit of the output is changed: where scores
    and probs are shown they are built for it, beside the fused kernel that the context comes from.
    Raises NameUnknown for a point that does not exist, InputError for a layer that this run does not have and for
    what the model itself refuses.
    """
    return follow(model, batch, points=points, layers=layers, depth=depth)[0]


def shared_with(plan: list[tuple[int, int]], layer: int) -> str:
    """Whose weights a visit uses, in words.

    >>> shared_with([(0, 0), (0, 0), (0, 0)], 3)
    'the same weights as layers 1, 2 (attention 0, feed-forward 0)'
    >>> shared_with([(0, 0), (0, 1)], 2)
    'attention 0 as in layer 1; feed-forward 1 is new'
    """
    before, (a, f) = plan[: layer - 1], plan[layer - 1]
    like_a = [number for number, pair in enumerate(before, start=1) if pair[0] == a]
    like_f = [number for number, pair in enumerate(before, start=1) if pair[1] == f]
    if like_a == like_f:
        what = f"the same weights as {_layers(like_a)}" if like_a else "new weights"
        return f"{what} (attention {a}, feed-forward {f})"
    parts = (("attention", a, like_a), ("feed-forward", f, like_f))
    return "; ".join(f"{half} {n} {f'as in {_layers(like)}' if like else 'is new'}" for half, n, like in parts)


def _layers(numbers: list[int]) -> str:
    """[1] as "layer 1", [1, 2] as "layers 1, 2", [1, 2, 3, 7] as "layers 1-3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ("layer " if len(numbers) == 1 else "layers ") + ", ".join(parts)
