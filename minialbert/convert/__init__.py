"""From a directory to a model and its tokenizer, and back: load, load_model, save_model.

names.py has the names, torch_files.py the files. Loading is exact: every parameter is filled once, every tensor of the
file is used or stands in the report with the reason why not.
"""

import json
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert import names
from minialbert.convert.torch_files import Weights, write_safetensors, write_text
from minialbert.errors import CheckpointError, FileError, InputError
from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from minialbert.pretrained import Pretrained

_HEAD_WORDS = {"mlm.": "masked words", "sop.": "sentence order", "classifier.": "classifier", "qa.": "answers",
               "pooler.": "pooler"}  # fmt: skip


@dataclass
class LoadReport:
    """What became of every tensor: names of the file, and of ours for `missing` and `new`."""

    used: dict[str, str] = field(default_factory=dict)  # theirs: ours
    tied: list[str] = field(default_factory=list)  # a second copy of the word table or of the output bias
    derived: list[str] = field(default_factory=list)  # copies of shared weights, folded; an identity projection
    ignored: dict[str, str] = field(default_factory=dict)  # theirs: why
    missing: list[str] = field(default_factory=list)  # ours, without which nothing works
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
    if path.is_dir():
        return path
    if path.exists():
        raise FileError(f"{path}: is a file, expected the directory that holds config.json, weights and vocabulary")
    raise FileError(f"{path}: no such directory; expected one with config.json, weights and vocabulary")


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
            f"{where}: padding is {tokenizer.pad_id} in the vocabulary, {config.pad_token_id} in the configuration"
        )


def load_model(cls: type, ref: str | Path, *, dtype: torch.dtype | str = torch.float32, **changes: Any):
    """Build cls from a directory and fill it; returns the model in eval mode and a LoadReport."""
    directory = find(ref)
    config = AlbertConfig.from_json(directory / "config.json")
    weights = Weights(directory)
    theirs = {name: names.plain(name, config.model_type) for name in weights}
    config = replace(config, **changes)
    to_ours = names.expand(config, "hf")

    kwargs = {}
    if cls is AlbertModel and not any(to_ours.get(name, "").startswith("pooler.") for name in theirs.values()):
        kwargs["pooler"] = False  # models for masked words, tags and answers are saved without one
    with torch.device("meta"):
        model = cls(config, **kwargs)
    wanted = {name.removeprefix("albert."): list(p.shape) for name, p in model.named_parameters()}

    report, state = LoadReport(), {}
    fresh_head = _head_to_renew(cls, config, changes)
    for name, plain in theirs.items():
        ours = to_ours.get(plain)
        if plain in names.BUFFERS:
            report.ignored[name] = "a buffer of old versions"
        elif "decoder." in plain and plain.startswith(("predictions.", "cls.predictions.")):
            _tie(weights, name, plain, theirs, wanted, to_ours, state, report)
        elif ours is None:
            _sort_unknown(weights, name, plain, config, report)
        elif ours.startswith("classifier.") and fresh_head:
            report.ignored[name] = fresh_head
        elif ours not in wanted:
            report.ignored[name] = f"the {_HEAD_WORDS[ours.split('.')[0] + '.']} head, which {cls.__name__} has not"
        else:
            _check_shape(weights, name, wanted[ours], ours, config)
            tensor = weights.read(name)
            if ours in state:
                if not torch.equal(state[ours], tensor):
                    raise CheckpointError(
                        f"{_file(weights)}: {name} differs from other copies of {ours}, which "
                        f"parameter_sharing={config.parameter_sharing!r} says are one"
                    )
                report.derived.append(name)
            else:
                state[ours] = tensor
                report.used[name] = ours

    _fill_gaps(state, wanted, config, directory, weights, report)
    kind = state["embeddings.word.weight"].dtype if dtype == "auto" else dtype
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise InputError(f"dtype={dtype!r} must be a floating-point torch.dtype or 'auto'")
    own = {name: state[name.removeprefix("albert.")].to(kind) for name in dict(model.named_parameters())}
    model.load_state_dict(own, assign=True)
    if report.new:
        heads = sorted({_HEAD_WORDS[name.split(".")[0] + "."] for name in report.new})
        warnings.warn(f"{directory}: has no {' and no '.join(heads)}; new here, to be trained before use", stacklevel=3)
    return model.eval(), report


def _file(weights: Weights) -> str:
    return str(weights.files[0]) if len(weights.files) == 1 else str(weights.directory)


def _head_to_renew(cls: type, config: AlbertConfig, changes: dict) -> str:
    """Why a classifier in the file is not the one that is asked for, or ""."""
    made_for = str((config.extra.get("architectures") or [""])[0])
    kinds = ("SequenceClassification", "TokenClassification", "MultipleChoice")
    theirs = next((kind for kind in kinds if made_for.endswith(kind)), None)
    asked = next((kind for kind in kinds if cls.__name__.endswith(kind)), None)
    if asked and theirs and asked != theirs:
        return f"the classifier of {made_for}, another task"
    return "made for other labels" if "num_labels" in changes else ""


def _tie(weights, name, plain, theirs, wanted, to_ours, state, report) -> None:
    """The output matrix and bias of masked words: the word table and mlm.bias under another name."""
    original = "embeddings.word_embeddings.weight" if plain.endswith("weight") else plain.replace("decoder.", "")
    ours = to_ours[original]
    twin = next((other for other, p in theirs.items() if p == original), None)
    if twin is None and ours in wanted:
        _check_shape(weights, name, wanted[ours], ours, None)
        state[ours] = weights.read(name)
        report.used[name] = ours
    elif twin is None or "mlm.bias" not in wanted or torch.equal(weights.read(name), weights.read(twin)):
        report.tied.append(name)
    else:
        raise CheckpointError(
            f"{_file(weights)}: {name} differs from {twin}; they are one tensor in ALBERT and BERT. "
            "Load AlbertModel for its vectors, or remove the copy that is wrong"
        )


def _sort_unknown(weights: Weights, name: str, plain: str, config: AlbertConfig, report: LoadReport) -> None:
    """A name that the table lacks: harmless on top of the trunk, refused inside it, where it would change the numbers."""
    if not plain.startswith(("embeddings.", "encoder.", "pooler.")):
        report.ignored[name] = "not part of the model: somebody's own head"
        return
    dtype, shape = weights.listing[name]
    if plain.startswith("encoder.embedding_hidden_mapping_in.") and not config.has_projection:
        x = weights.read(name)
        if torch.equal(x, torch.eye(len(x), dtype=x.dtype) if x.dim() == 2 else torch.zeros_like(x)):
            report.derived.append(name)
            return
    raise CheckpointError(
        f"{_file(weights)}: {name} {shape} is inside the encoder, and no model of this configuration has it "
        f"(num_hidden_layers={config.num_hidden_layers}, num_hidden_groups={config.num_hidden_groups}, "
        f"inner_group_num={config.inner_group_num}, model_type={config.model_type}); is config.json of another model?"
    )


def _check_shape(weights: Weights, name: str, expected: list[int], ours: str, config: AlbertConfig | None) -> None:
    _, shape = weights.listing[name]
    if shape == expected:
        return
    table = next((s for n, (_, s) in weights.listing.items() if n.endswith("word_embeddings.weight")), [0, 0])
    width = next((s[0] for n, (_, s) in weights.listing.items() if "attention" in n and n.endswith("query.bias")), 0)
    like = [
        name
        for name, sizes in PRESETS.items()
        if (sizes["hidden_size"], sizes.get("embedding_size", 128)) == (width, table[-1])
    ]
    hint = f" The weights look like {like[0]} (H={width})." if like and shape != [] and config else ""
    raise CheckpointError(
        f"{_file(weights)}: {ours} ({name}) is {shape}, the configuration needs {expected}.{hint} "
        "config.json and the weights do not belong together"
    )


def _fill_gaps(state: dict[str, Tensor], wanted: dict, config: AlbertConfig, directory: Path, weights, report) -> None:
    """Parameters that the file lacks: an error inside the trunk or half a head, new numbers for a whole head."""
    for name in wanted.keys() - state.keys():
        head = name.split(".")[0] + "."
        siblings = [other for other in wanted if other.startswith(head)]
        if head in _HEAD_WORDS and not any(other in state for other in siblings):
            report.new.append(name)
        else:
            report.missing.append(name)
    if report.missing:
        some = ", ".join(sorted(report.missing)[:4]) + (", ..." if len(report.missing) > 4 else "")
        raise CheckpointError(
            f"{_file(weights)}: {len(report.missing)} of {len(wanted)} tensors are missing: {some}. "
            f"The file has {len(weights.listing)}, of which {len(report.used)} are used"
        )
    for name in report.new:
        x = torch.zeros(wanted[name])
        if name.endswith("norm.weight"):
            x.fill_(1)
        elif name.endswith("weight"):
            nn.init.trunc_normal_(x, std=config.initializer_range, a=-2 * config.initializer_range,
                                  b=2 * config.initializer_range)  # fmt: skip
        state[name] = x


def save_model(model: "Pretrained", directory: str | Path) -> None:
    """Write config.json and model.safetensors as Hugging Face would; each file is whole or not there."""
    directory, config = Path(directory), model.config
    if directory.exists() and not directory.is_dir():
        raise FileError(f"{directory}: is a file, expected a directory to write to")
    directory.mkdir(parents=True, exist_ok=True)
    bare = isinstance(model, AlbertModel)
    own = {name.removeprefix("albert."): p for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    tensors: dict[str, Tensor] = {}
    written_before = set()
    for theirs, ours in names.expand(config, "hf").items():
        if ours in own:
            prefix = "" if bare or ours.startswith(names.HEADS) else f"{config.model_type}."
            # what several layers share is written out for each, and a file holds no aliases
            tensors[prefix + theirs] = own[ours].clone() if ours in written_before else own[ours]
            written_before.add(ours)
    if config.model_type == "albert" and not config.has_projection:  # Hugging Face always has one: an identity is none
        prefix = "" if bare else "albert."
        like = own["embeddings.word.weight"]
        H = config.hidden_size
        mapping = f"{prefix}encoder.embedding_hidden_mapping_in."
        tensors |= {mapping + "weight": torch.eye(H, dtype=like.dtype), mapping + "bias": torch.zeros(H).to(like)}
    written = config.to_json()
    written["architectures"] = [
        type(model).__name__.replace("Albert", "Bert" if config.model_type == "bert" else "Albert")
    ]
    written["dtype"] = str(own["embeddings.word.weight"].dtype).removeprefix("torch.")
    written.pop("torch_dtype", None)
    write_safetensors(directory / "model.safetensors", tensors)
    write_text(directory / "config.json", json.dumps(written, indent=2, ensure_ascii=False) + "\n")
