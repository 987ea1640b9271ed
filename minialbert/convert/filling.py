"""Parameters into a class: an encoder, or an encoder with any of the heads. from_pretrained is load_model here.

reading.py finds every tensor; here is decided which of them the class has a place for, and what starts anew.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from minialbert.config import AlbertConfig
from minialbert.convert.reading import HEADS, Contents, LoadReport, contents_of
from minialbert.convert.sources import Source, opened
from minialbert.errors import CheckpointError, InputError
from minialbert.model import AlbertModel


def load_model(
    cls: type,
    ref: str | Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    config: str | Path | AlbertConfig | None = None,
    **changes: Any,
) -> tuple[Any, LoadReport]:
    """Build cls from whatever `load` takes and fill it; returns the model in eval mode and what became of every tensor.

    config stands in for the one beside the weights: a file, an official name, an AlbertConfig; changes replace fields.
    Heads that the file does not have are new, with a warning.
    Raises FileError, ConfigError or CheckpointError for the files, InputError or NameUnknown for the arguments.
    """
    with opened(ref) as source:
        model, report, warning = fill(cls, source, dtype, config, changes)
    if warning:
        warnings.warn(f"{ref}: {warning}", stacklevel=3)
    return model, report


def fill(
    cls: type, source: Source, dtype: torch.dtype | str, config: str | Path | AlbertConfig | None, changes: dict
) -> tuple[Any, LoadReport, str]:
    """The model, the report, and a warning about what is new in it or ""."""
    if dtype != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype={dtype!r} must be a floating-point torch.dtype or 'auto'")
    contents = contents_of(source, config, changes)
    model = empty(cls, contents)
    wanted = parameters_of(model)
    why_new = _why_no_classifier(cls, contents.saved, contents.config) if contents.has("classifier") else ""
    _leave_out(cls, wanted, contents, why_new)
    state = {ours: contents.read(ours, wanted) for ours in wanted if ours in contents.places}
    find_gaps(contents, wanted)
    report = contents.report
    state |= {ours: _start(ours, wanted[ours], contents.config.initializer_range) for ours in report.new}

    kind = state["embeddings.word.weight"].dtype if dtype == "auto" else dtype
    own = {name: state.pop(name.removeprefix("albert.")).to(kind) for name, _ in model.named_parameters()}
    model.load_state_dict(own, assign=True)
    heads = ", ".join(dict.fromkeys(HEADS[ours.split(".")[0]] for ours in report.new))
    why = f" (the file's is {why_new})" if why_new and "classifier" in heads else ""
    return model.eval(), report, f"new here, to be trained before use: {heads}{why}" if heads else ""


class _NoNumbers(TorchFunctionMode):
    """Leaves out first numbers: without memory they are none, yet asking for them makes torch import for seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        filling = getattr(function, "__module__", None) == "torch.nn.init" and function.__name__.endswith("_")
        return None if filling else function(*args, **(kwargs or {}))


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by our name, which says nothing of the encoder's place under a head."""
    return {name.removeprefix("albert."): p for name, p in model.named_parameters()}


def empty(cls: Any, contents: Contents) -> nn.Module:
    """The model without memory; AlbertModel without a pooler where the file has none, as under other heads."""
    with torch.device("meta"), _NoNumbers():
        if issubclass(cls, AlbertModel):
            return cls(contents.config, pooler=contents.has("pooler"))
        return cls(contents.config)


def _why_no_classifier(cls: type, saved: AlbertConfig, config: AlbertConfig) -> str:
    """Why a classifier in the file is not the one that is asked for, or ""."""
    made_for = saved.extra.get("architectures")
    made_for = str(made_for[0]) if isinstance(made_for, list) and made_for else ""
    kinds = ("SequenceClassification", "TokenClassification", "MultipleChoice")
    theirs = next((kind for kind in kinds if made_for.endswith(kind)), None)
    asked = next((kind for kind in kinds if cls.__name__.endswith(kind)), None)
    if asked and theirs and asked != theirs:
        return f"for another task, {made_for}"
    if config.num_labels != saved.num_labels and asked != "MultipleChoice":
        return f"for {saved.num_labels} labels, not {config.num_labels}"
    return ""


def _leave_out(cls: type, wanted: Mapping, contents: Contents, why_new: str) -> None:
    """Take heads out of the places that the class does not have, and a classifier that is not the one asked for."""
    for ours in list(contents.places):
        head = ours.split(".")[0]
        if ours not in wanted:
            why = f"{HEADS[head]}, which {cls.__name__} has not"
        elif head == "classifier" and why_new:
            why = f"a classifier {why_new}"
        else:
            continue
        contents.report.ignored |= dict.fromkeys(contents.places.pop(ours), why)


def find_gaps(contents: Contents, wanted: Mapping[str, Tensor]) -> None:
    """Parameters that the file lacks: new for a whole head, refused inside the encoder and for half a head."""
    report = contents.report
    for ours in wanted:
        if ours not in contents.places:
            head = ours.split(".")[0]
            (report.new if head in HEADS and not contents.has(head) else report.missing).append(ours)
    if report.missing:
        raise missing(contents, len(wanted))


def missing(contents: Contents, count: int) -> CheckpointError:
    """The error for parameters that a file should have, of `count` in all."""
    report, weights = contents.report, contents.weights
    report.used |= {theirs[0]: ours for ours, theirs in contents.places.items()}
    some = ", ".join(report.missing[:4]) + (", ..." if len(report.missing) > 4 else "")
    encoder = any(contents.has(ours.split(".")[0]) or ours.split(".")[0] not in HEADS for ours in report.missing)
    return CheckpointError(
        f"{weights.place}: {len(report.missing)} of {count} tensors missing: {some}. "
        f"The file has {len(weights.listing)}, of which {len(contents.places)} have a place; "
        + ("it has no such head" if not encoder else "is the configuration of another model, or the file not whole?")
    )


def _start(ours: str, wanted: Tensor, deviation: float) -> Tensor:
    """The numbers that training starts from, as in a new model."""
    if ours.endswith("norm.weight"):
        return torch.ones(wanted.shape)
    x = torch.zeros(wanted.shape)
    return nn.init.trunc_normal_(x, std=deviation, a=-2 * deviation, b=2 * deviation) if x.dim() == 2 else x
