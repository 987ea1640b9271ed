"""From a directory to a model and its tokenizer, and back: load, load_model, save_model.

names.py has the names, torch_files.py the files. Loading is exact: every parameter is filled once, every tensor of the
file is used or stands in the report with the reason why not.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import minialbert.convert.names as names
from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert.torch_files import FLOATS, Weights, write_safetensors, write_text
from minialbert.errors import CheckpointError, FileError, InputError, NameUnknown, nearest
from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from minialbert.pretrained import Pretrained

_HEADS = {  # what may be missing from a file, or be left over in it: the first part of our names, in words
    "mlm": "masked words", "sop": "sentence order", "classifier": "classifier", "qa": "answers", "pooler": "pooler",
}  # fmt: skip


@dataclass
class LoadReport:
    """What became of every tensor: names of the file, and of ours for `missing` and `new`."""

    used: dict[str, str] = field(default_factory=dict)  # theirs: ours
    tied: list[str] = field(default_factory=list)  # a second copy of the word table or of the output bias
    derived: list[str] = field(default_factory=list)  # copies of shared weights, folded; an identity projection
    ignored: dict[str, str] = field(default_factory=dict)  # theirs: why
    missing: list[str] = field(default_factory=list)  # ours; load_model refuses when there are any
    new: list[str] = field(default_factory=list)  # ours, of a head the file does not have

    def __str__(self) -> str:
        counts = {k: len(getattr(self, k)) for k in ("used", "tied", "derived", "ignored", "missing", "new")}
        return ", ".join(f"{kind} {n}" for kind, n in counts.items())


def load(
    ref: str | Path | None = None, *, dtype: torch.dtype | str = torch.float32, any_vocabulary: bool = False
) -> tuple[AlbertModel, Tokenizer]:
    """A model in eval mode and its tokenizer, from a Hugging Face directory of ALBERT or BERT.

    Raises FileError, ConfigError or CheckpointError; also when vocabulary and weights do not belong together, unless
    any_vocabulary=True.
    """
    directory = find(ref)
    model, _ = load_model(AlbertModel, directory, dtype=dtype)
    tokenizer = load_tokenizer(directory)
    check_vocabulary(model.config, tokenizer, directory, any_vocabulary)
    return model, tokenizer


def find(ref: str | Path | None) -> Path:
    """The directory that a reference means."""
    if ref is None:
        raise FileError(
            "no model given, and none ships with this version yet: give a directory with config.json, weights and "
            "vocabulary, as --model DIR or minialbert.load(DIR)"
        )
    path = Path(ref)
    if os.path.isdir(path):  # not path.is_dir(), which raises for a name too long and for a closed folder above
        return path
    if os.path.exists(path):
        raise FileError(f"{path}: is a file, expected the directory that holds config.json, weights and vocabulary")
    raise FileError(f"{path}: no such directory; expected one with config.json, weights and vocabulary")


@contextmanager
def as_directory(ref: str | Path) -> Iterator[Path]:
    """Hugging Face's directory of whatever a reference means: itself, or one made of it for the time of use."""
    yield find(ref)


def check_vocabulary(config: AlbertConfig, tokenizer: Tokenizer, where: Path, any_vocabulary: bool = False) -> None:
    """Refuse a vocabulary that was not made for the weights: too long, or shorter than rounding up explains."""
    have, rows = len(tokenizer), config.vocab_size
    padded = -(-have // 128) * 128  # tables are often rounded up for speed
    if have > rows or (padded < rows and not any_vocabulary):
        raise CheckpointError(
            f"{where}: the vocabulary has {have} entries, the word table {rows} rows; they do not belong together. "
            + ("Find the right vocabulary" if have > rows else "If they do: load(..., any_vocabulary=True)")
        )
    if config.pad_token_id is not None and config.pad_token_id != tokenizer.pad_id:
        raise CheckpointError(
            f"{where}: padding is {tokenizer.pad_id} in the vocabulary, {config.pad_token_id} in the configuration; "
            "find the vocabulary of this model, or correct pad_token_id in config.json"
        )


def load_model(
    cls: type, ref: str | Path, *, dtype: torch.dtype | str = torch.float32, **changes: Any
) -> tuple[Any, LoadReport]:
    """Build cls from a directory and fill it; returns the model in eval mode and what became of every tensor.

    changes replace fields of the configuration. Heads that the file does not have are new, with a warning.
    Raises FileError, ConfigError or CheckpointError for the directory, InputError or NameUnknown for the arguments.
    """
    if dtype != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise InputError(f"dtype={dtype!r} must be a floating-point torch.dtype or 'auto'")
    directory, report = find(ref), LoadReport()
    saved = AlbertConfig.from_json(directory / "config.json")
    config = _changed(saved, changes)
    weights = Weights(directory)

    places = _sort(weights, config, report)
    model = _empty(cls, config, places)
    wanted = {name.removeprefix("albert."): p for name, p in model.named_parameters()}
    why_new = _why_no_classifier(cls, saved, config)
    _leave_out(cls, wanted, places, why_new, report)
    state = {ours: _read(weights, ours, places[ours], wanted, config, report) for ours in wanted if ours in places}
    _find_gaps(weights, wanted, state, report)
    state |= {ours: _start(ours, wanted[ours], config.initializer_range) for ours in report.new}

    kind = state["embeddings.word.weight"].dtype if dtype == "auto" else dtype
    own = {name: state.pop(name.removeprefix("albert.")).to(kind) for name, _ in model.named_parameters()}
    model.load_state_dict(own, assign=True)
    if report.new:
        heads = ", ".join(dict.fromkeys(_HEADS[ours.split(".")[0]] for ours in report.new))
        why = f" (the file's is {why_new})" if why_new and "classifier" in heads else ""
        warnings.warn(f"{directory}: new here, to be trained before use: {heads}{why}", stacklevel=3)
    return model.eval(), report


def _changed(config: AlbertConfig, changes: dict[str, Any]) -> AlbertConfig:
    """The configuration with some fields replaced; names of labels go with their number."""
    known = [f.name for f in fields(AlbertConfig)]
    for key in changes.keys() - set(known):
        raise NameUnknown(f"{key} is no field of the configuration. Nearest: {nearest(key, [*known, 'dtype'])}")
    if isinstance(labels := changes.get("id2label"), Mapping):
        changes = {"num_labels": len(labels)} | changes
    elif changes.get("num_labels", config.num_labels) != config.num_labels:
        changes = {"id2label": None} | changes
    return replace(config, **changes)


def _sort(weights: Weights, config: AlbertConfig, report: LoadReport) -> dict[str, list[str]]:
    """Where every tensor belongs: {our name: its names in the file}, several where the file has copies.

    A name that the table lacks is harmless on top of the encoder and refused inside it, where it would have a part in
    the numbers.
    """
    to_ours = names.expand(config, "hf")
    places: dict[str, list[str]] = {}
    strangers = []
    for name in weights:
        plain = names.plain(name, config.model_type)
        if ours := to_ours.get(names.TIED.get(plain, plain)):
            places.setdefault(ours, []).append(name)
        elif plain in names.BUFFERS:
            report.ignored[name] = "a buffer of old versions"
        elif not plain.startswith(names.TRUNK):
            report.ignored[name] = "not part of the model: somebody's own head"
        elif plain.startswith(names.PROJECTION) and config.model_type == "albert":
            _check_identity(weights, name)
            report.derived.append(name)
        else:
            strangers.append(name)
    if strangers:
        some = ", ".join(strangers[:3]) + (", ..." if len(strangers) > 3 else "")
        raise CheckpointError(
            f"{weights.place}: {len(strangers)} unknown inside the encoder: {some}. The configuration says "
            f"model_type={config.model_type}, num_hidden_layers={config.num_hidden_layers}, "
            f"num_hidden_groups={config.num_hidden_groups}, inner_group_num={config.inner_group_num}; "
            "is config.json of another model?"
        )
    return places


def _check_identity(weights: Weights, name: str) -> None:
    """Without a projection of our own, the file's must change nothing."""
    x = weights.read(name)
    nothing = torch.eye(len(x)) if x.dim() == 2 else torch.zeros(x.shape)
    if not _equal(x, nothing):
        raise CheckpointError(
            f"{weights.home[name]}: {name} changes the embeddings, and config.json says that there is no projection; "
            "load it with project_embeddings=True"
        )


class _NoNumbers(TorchFunctionMode):
    """Leaves out first numbers: without memory they are none, yet asking for them makes torch import for seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        filling = getattr(function, "__module__", None) == "torch.nn.init" and function.__name__.endswith("_")
        return None if filling else function(*args, **(kwargs or {}))


def _empty(cls: Any, config: AlbertConfig, places: dict[str, list[str]]) -> nn.Module:
    """The model without memory; AlbertModel without a pooler where the file has none, as under other heads."""
    with torch.device("meta"), _NoNumbers():
        if issubclass(cls, AlbertModel):
            return cls(config, pooler=any(ours.startswith("pooler.") for ours in places))
        return cls(config)


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


def _leave_out(cls: type, wanted: Mapping, places: dict[str, list[str]], why_new: str, report: LoadReport) -> None:
    """Take heads out of places that the class does not have, and a classifier that is not the one asked for."""
    for ours in list(places):
        head = ours.split(".")[0]
        if ours not in wanted:
            why = f"{_HEADS[head]}, which {cls.__name__} has not"
        elif head == "classifier" and why_new:
            why = f"a classifier {why_new}"
        else:
            continue
        report.ignored |= dict.fromkeys(places.pop(ours), why)


def _read(
    weights: Weights,
    ours: str,
    copies: list[str],
    wanted: Mapping[str, Tensor],
    config: AlbertConfig,
    report: LoadReport,
) -> Tensor:
    """The tensor for one of our names; where the file has several for it, they must be equal."""
    first, *others = sorted(copies, key=_is_tied)
    _check_fit(weights, first, ours, wanted[ours], config)
    x = weights.read(first)
    report.used[first] = ours
    for other in others:
        if _equal(x, weights.read(other)):
            (report.tied if _is_tied(other) else report.derived).append(other)
        elif not _is_tied(other):
            raise CheckpointError(
                f"{weights.home[other]}: {other} differs from {first}, and both are {ours} in a model of this "
                f"configuration (parameter_sharing={config.parameter_sharing!r}); is config.json of another model?"
            )
        elif "mlm.bias" in wanted:
            raise CheckpointError(
                f"{weights.home[other]}: {other} differs from {first}; they are one tensor in ALBERT and BERT. "
                "Load AlbertModel for its vectors, or remove the copy that is wrong"
            )
        else:
            report.ignored[other] = "an output matrix of its own for masked words"
    return x


def _is_tied(name: str) -> bool:
    return "predictions.decoder." in name


def _equal(x: Tensor, y: Tensor) -> bool:
    """The same numbers, NaN for NaN, whatever the precision they are stored in."""
    return x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())


def _check_fit(weights: Weights, name: str, ours: str, wanted: Tensor, config: AlbertConfig) -> None:
    kind, shape = weights.listing[name]
    if shape != list(wanted.shape):
        raise CheckpointError(
            f"{weights.home[name]}: {ours} ({name}) is {shape}, the configuration needs {list(wanted.shape)}."
            f"{_looks_like(weights, config)} config.json and the weights do not belong together"
        )
    if kind not in FLOATS:
        raise CheckpointError(
            f"{weights.home[name]}: {ours} ({name}) is of dtype {kind}, expected one of {', '.join(FLOATS)}; "
            "quantized weights are not read"
        )


def _looks_like(weights: Weights, config: AlbertConfig) -> str:
    """A hint for an error: the official model that has the widths of the file, when it is not the one configured."""
    shapes = [(name, shape) for name, (_, shape) in weights.listing.items()]
    table = next((shape for name, shape in shapes if name.endswith("word_embeddings.weight")), [])
    query = next((shape for name, shape in shapes if name.endswith("query.bias")), [])
    for name, sizes in PRESETS.items():
        E, H = sizes.get("embedding_size", 128), sizes["hidden_size"]
        if [*table[1:], *query] == [E, H] != [config.embedding_size, config.hidden_size]:
            return f" The weights look like {name.rpartition('-')[0]} (H={H})."
    return ""


def _find_gaps(weights: Weights, wanted: Mapping[str, Tensor], state: dict[str, Tensor], report: LoadReport) -> None:
    """Parameters that the file lacks: new for a whole head, refused inside the encoder and for half a head."""
    begun = {ours.split(".")[0] for ours in state}
    for ours in wanted.keys() - state.keys():
        head = ours.split(".")[0]
        (report.new if head in _HEADS and head not in begun else report.missing).append(ours)
    for part in (report.new, report.missing):
        part.sort(key=list(wanted).index)  # sets have no order, and new numbers should not depend on one
    if report.missing:
        some = ", ".join(report.missing[:4]) + (", ..." if len(report.missing) > 4 else "")
        raise CheckpointError(
            f"{weights.place}: {len(report.missing)} of {len(wanted)} tensors missing: {some}. "
            f"The file has {len(weights.listing)}, of which {len(report.used)} are used; "
            "is config.json of another model, or the file not whole?"
        )


def _start(ours: str, wanted: Tensor, deviation: float) -> Tensor:
    """The numbers that training starts from, as in a new model."""
    if ours.endswith("norm.weight"):
        return torch.ones(wanted.shape)
    x = torch.zeros(wanted.shape)
    return nn.init.trunc_normal_(x, std=deviation, a=-2 * deviation, b=2 * deviation) if x.dim() == 2 else x


def save_model(model: "Pretrained", directory: str | Path) -> None:
    """Write config.json and model.safetensors as Hugging Face would; each file is whole or not there.

    Raises FileError when the directory cannot be written to.
    """
    directory = Path(directory)
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise FileError(f"{directory}: is a file, expected a directory to write to")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{directory}: cannot be made ({error.strerror or error})") from None
    write_safetensors(directory / "model.safetensors", _their_tensors(model))
    text = json.dumps(_their_config(model), indent=2, ensure_ascii=False)
    write_text(directory / "config.json", text + "\n")


def _their_tensors(model: "Pretrained") -> dict[str, Tensor]:
    """Every parameter under Hugging Face's name, once for each layer that has one there."""
    config, bare = model.config, isinstance(model, AlbertModel)
    own = {name.removeprefix("albert."): p for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    prefix = "" if bare else f"{config.model_type}."
    tensors: dict[str, Tensor] = {}
    written = set()
    for theirs, ours in names.expand(config, "hf").items():
        if ours in own:
            # what several layers share is written out for each, and a file holds no aliases
            tensor = own[ours].clone() if ours in written else own[ours]
            tensors[theirs if ours.startswith(names.HEADS) else prefix + theirs] = tensor
            written.add(ours)
    if config.model_type == "albert" and not config.has_projection:  # Hugging Face always has one: an identity is none
        H, like = config.hidden_size, own["embeddings.word.weight"]
        tensors[f"{prefix}{names.PROJECTION}.weight"] = torch.eye(H).to(like)
        tensors[f"{prefix}{names.PROJECTION}.bias"] = torch.zeros(H).to(like)
    return tensors


def _their_config(model: "Pretrained") -> dict[str, Any]:
    """config.json, with the class that Hugging Face would load and the precision of the file."""
    out = model.config.to_json()
    family = "Bert" if model.config.model_type == "bert" else "Albert"
    out |= {"architectures": [type(model).__name__.replace("Albert", family)]}
    out |= {"dtype": str(model.dtype).removeprefix("torch.")}
    out.pop("torch_dtype", None)
    return out
