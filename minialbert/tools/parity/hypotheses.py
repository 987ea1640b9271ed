"""Why a point differs, found by trying: our forward is run with one thing changed until it meets theirs.

A hypothesis is one such change, in words. One layer is enough to test it: both sides agree on the layer's input, or an
earlier point would have been the first. Whatever meets the first differing point is then run through the whole model.
mistakes.py lists what may be otherwise; sides.py runs the forwards; diagnose.py has what needs no forward.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from minialbert.errors import MiniAlbertError
from minialbert.heads import AlbertForMultipleChoice
from minialbert.hooks import Tap
from minialbert.model import no_tap
from minialbert.tools.parity.probe import Batch, with_inputs
from minialbert.tools.parity.sides import (
    AFTER,
    IN_LAYER,
    Point,
    Points,
    order,
    our_tensors,
    trunk_points,
)

Near = Callable[[Point, Tensor], bool]  # does this tensor of ours meet theirs at the point?
Whole = Callable[..., Points]  # (batch, tap, and what else goes to the forward): ours from texts to loss


@dataclass(frozen=True)
class Hypothesis:
    """Theirs may be ours with these tensors, attributes of modules, inputs or points in place of our own."""

    words: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    attributes: tuple[tuple[Any, str, Any], ...] = ()  # object, name, value
    inputs: Mapping[str, Tensor | None] = field(default_factory=dict)
    tap: Tap = no_tap


@contextmanager
def supposed(model: nn.Module, hypothesis: Hypothesis) -> Iterator[None]:
    """The model as the hypothesis has it, for the time of use."""
    own = our_tensors(model)
    tensors = [(own[name], own[name].data) for name in hypothesis.tensors]
    own_names = {id(o): vars(o).keys() | vars(o).get("_modules", {}).keys() for o, _, _ in hypothesis.attributes}
    attributes = [(o, name, getattr(o, name)) for o, name, _ in hypothesis.attributes]
    try:
        for name, x in hypothesis.tensors.items():
            own[name].data = x.to(own[name])
        for o, name, value in hypothesis.attributes:
            setattr(o, name, value)
        yield
    finally:
        for parameter, data in tensors:
            parameter.data = data
        for o, name, value in reversed(attributes):
            setattr(o, name, value) if name in own_names[id(o)] else delattr(o, name)


def explain(
    model: Any, batch: Batch, theirs: Points, first: Point, near: Near, hypotheses: Iterator[Hypothesis],
    whole: Whole,
) -> str | None:  # fmt: skip
    """The words of the hypothesis that meets `first` and then the most points, and how far it goes; None if none does.

    `theirs` are all their points, in the precision of the model; `whole` runs ours to the loss.
    """
    best: tuple[int, str] | None = None
    with torch.no_grad():
        for hypothesis in hypotheses:
            try:
                points = _part(model, batch, hypothesis, theirs, first, whole)
                if first not in points or not near(first, points[first]):
                    continue
                with supposed(model, hypothesis):
                    points = whole(with_inputs(batch, dict(hypothesis.inputs)), hypothesis.tap)
            except (RuntimeError, IndexError, MiniAlbertError):
                continue  # a change that this model has no place for
            wrong = sorted((p for p in theirs if p not in points or not near(p, points[p])), key=order)
            if not wrong:
                return f"{hypothesis.words} (with that, every point agrees)"
            if best is None or len(wrong) < best[0]:
                name, layer = wrong[0]
                so_far = f"with that, the next to differ is {name}, layer {layer}"
                best = len(wrong), f"{hypothesis.words} ({so_far})"
    return None if best is None else best[1]


def _part(model, batch: Batch, hypothesis: Hypothesis, theirs: Points, first: Point, whole: Whole) -> Points:
    """As little of the forward as shows the point: from the input of its layer, or the last layer, where known."""
    name, layer = first
    before = model.config.num_visits if name in AFTER else layer - 1
    batch, tap = with_inputs(batch, dict(hypothesis.inputs)), hypothesis.tap
    start = theirs.get(("hidden", before)) if name in (*IN_LAYER, *AFTER) else None
    if start is not None and hasattr(tap, "begin"):
        tap.begin(before, start)
    with supposed(model, hypothesis):
        if name in AFTER and (start is None or isinstance(model, AlbertForMultipleChoice)):  # it takes ids alone
            return whole(batch, tap)
        if name in AFTER:
            mask = {key: x for key, x in batch.inputs.items() if key == "attention_mask"}
            return whole(replace(batch, inputs=mask), tap, hidden_states=start, from_layer=before)
        if start is not None:
            return trunk_points(model, batch, tap, hidden_states=start, from_layer=before, depth=layer)
        return trunk_points(model, batch, tap, depth=layer)
