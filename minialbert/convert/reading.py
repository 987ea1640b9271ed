"""From files to parameters: which tensor of a file is which of ours, and what became of every one of them.

sources.py says where the files are, names.py has the names. Loading is exact: every parameter is filled once, every
tensor of the file is used or stands in the report with the reason why not.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import minialbert.convert.names as names
from minialbert.config import PRESETS, AlbertConfig
from minialbert.convert.google_files import GoogleWeights
from minialbert.convert.sources import Source, config_in
from minialbert.convert.torch_files import FLOATS, Weights
from minialbert.errors import CheckpointError, FileError, NameUnknown, nearest
from minialbert.tokenizers import Tokenizer

AnyWeights = Weights | GoogleWeights
HEADS = {  # what may be missing from a file, or be left over in it: the first part of our names, in words
    "mlm": "masked words", "sop": "sentence order", "classifier": "classifier", "qa": "answers", "pooler": "pooler",
}  # fmt: skip


@dataclass
class LoadReport:
    """What became of every tensor: names of the file, and ours for `missing`, for `new`, and for blocks that grew."""

    used: dict[str, str] = field(default_factory=dict)  # theirs: ours
    tied: list[str] = field(default_factory=list)  # a second copy of the word table or of the output bias
    derived: list[str] = field(default_factory=list)  # copies of shared weights, folded; an identity projection
    ignored: dict[str, str] = field(default_factory=dict)  # theirs: why
    missing: list[str] = field(default_factory=list)  # ours; loading refuses when there are any
    new: list[str] = field(default_factory=list)  # ours, of a head the file does not have

    def __str__(self) -> str:
        counts = {k: len(getattr(self, k)) for k in ("used", "tied", "derived", "ignored", "missing", "new")}
        return ", ".join(f"{kind} {n}" for kind, n in counts.items())


@dataclass
class Contents:
    """A checkpoint taken apart: its configuration, its tensors, and where each of ours is among them."""

    saved: AlbertConfig  # as the files say
    config: AlbertConfig  # as asked for
    weights: AnyWeights
    places: dict[str, list[str]]  # ours: names in the file, several where it has copies
    report: LoadReport

    def has(self, head: str) -> bool:
        """Whether the file has a head, by the first part of our names."""
        return any(ours.split(".")[0] == head for ours in self.places)

    def check(self, wanted: Mapping[str, Tensor]) -> None:
        """Shapes and dtypes, before anything is read. Raises CheckpointError."""
        for ours, theirs in self.places.items():
            for name in theirs:
                _check_fit(self.weights, name, ours, wanted[ours], self.config)

    def read(self, ours: str, wanted: Mapping[str, Tensor]) -> Tensor:
        """The tensor for one of our names; where the file has several for it, they must be equal.

        Raises CheckpointError for a wrong shape or dtype, and for copies that differ.
        """
        weights, report = self.weights, self.report
        first, *others = sorted(self.places[ours], key=_is_tied)
        _check_fit(weights, first, ours, wanted[ours], self.config)
        x = weights.read(first)
        report.used.setdefault(first, ours)
        for other in others:
            if other in report.tied or other in report.derived:
                continue
            if same_numbers(x, weights.read(other)):
                (report.tied if _is_tied(other) else report.derived).append(other)
            elif not _is_tied(other):
                raise CheckpointError(
                    f"{weights.home(other)}: {other} differs from {first}, and both are {ours} in a model of this "
                    f"configuration (parameter_sharing={self.config.parameter_sharing!r}, num_hidden_groups="
                    f"{self.config.num_hidden_groups}); is the configuration of another model?"
                )
            elif "mlm.bias" in wanted:
                raise CheckpointError(
                    f"{weights.home(other)}: {other} differs from {first}; they are one tensor in ALBERT and BERT. "
                    "Load AlbertModel for its vectors, or remove the copy that is wrong"
                )
            else:
                report.ignored[other] = "an output matrix of its own for masked words"
        return x


def contents_of(source: Source, config: str | Path | AlbertConfig | None, changes: dict[str, Any]) -> Contents:
    """The files of a source opened and sorted; `config` in place of the one they have, `changes` to its fields."""
    saved = _config(source, config)
    weights = source.weights()
    report = LoadReport()
    if source.is_google and "num_labels" not in changes:
        saved = _count_labels(saved, weights)
    wanted = _changed(saved, changes)
    contents = Contents(saved, wanted, weights, _sort(weights, wanted, report), report)
    _grow(contents)
    return contents


def _config(source: Source, given: str | Path | AlbertConfig | None) -> AlbertConfig:
    if isinstance(given, AlbertConfig):
        return given
    if given is not None:
        if os.path.isdir(given):
            given = config_in(Path(given))
        if os.path.isfile(given) or Path(given).suffix == ".json":
            return AlbertConfig.from_json(given)
        preset = AlbertConfig.preset(str(given))
        if source.is_google and preset.model_type == "albert" and preset.hidden_act == "gelu":
            # the hub's word for v1; Google's weights were trained with the tanh form
            return replace(preset, hidden_act="gelu_new")
        return preset
    if not source.config.is_file():
        raise FileError(
            f"{source.config}: no such file; the sizes of a model stand in its configuration. Copy it there, or give "
            "another file or an official name: convert --config, or load(..., config=...)"
        )
    return AlbertConfig.from_json(source.config)


def _count_labels(config: AlbertConfig, weights: AnyWeights) -> AlbertConfig:
    """Google's files do not say how many classes a fine-tuned model has; its classifier does."""
    rows = next((weights.shape(name) for name in weights if names.google_plain(name, config) == "output_bias"), [2])
    return replace(config, num_labels=rows[0]) if len(rows) == 1 and rows[0] > 0 else config


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


def _sort(weights: AnyWeights, config: AlbertConfig, report: LoadReport) -> dict[str, list[str]]:
    """Where every tensor belongs: {our name: its names in the file}, several where the file has copies.

    A name that the table lacks is harmless on top of the encoder and refused inside it, where it would have a part in
    the numbers.
    """
    to_ours = names.expand(config, weights.style)
    places: dict[str, list[str]] = {}
    strangers = []
    for name in weights:
        plain = names.in_table(name, weights.style, config)
        if ours := to_ours.get(names.TIED.get(plain, plain)):
            places.setdefault(ours, []).append(name)
        elif why := names.why_no_part(plain):
            report.ignored[name] = why
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
            f"{_why_strange(strangers)}"
        )
    return places


def _why_strange(strangers: list[str]) -> str:
    """What is known of names that are not in the table."""
    if any("layer_normalization" in name or "layer_norm_" in name for name in strangers):
        return "LayerNorms of its own for each layer, somebody's change of the code; no model here has them"
    if any("layer_shared" in name for name in strangers):
        return "another code base (layer_shared), whose projection and norms sit elsewhere; it is not read"
    return "is the configuration of another model?"


def _check_identity(weights: AnyWeights, name: str) -> None:
    """Without a projection of our own, the file's must change nothing."""
    x = weights.read(name)
    nothing = torch.eye(len(x)) if x.dim() == 2 else torch.zeros(x.shape)
    if not same_numbers(x, nothing):
        raise CheckpointError(
            f"{weights.home(name)}: {name} changes the embeddings, and config.json says that there is no projection; "
            "load it with project_embeddings=True"
        )


def _grow(contents: Contents) -> None:
    """Blocks that the file does not have start as copies of the one that it has, as Google's init_from_group0 does."""
    saved, config, places = contents.saved, contents.config, contents.places
    inner = saved.inner_group_num
    if len(set(saved.sharing_plan())) > inner or config.inner_group_num != inner:
        return
    for ours in sorted(set(names.expand(config, "hf").values()) - places.keys()):
        if block := re.fullmatch(r"(encoder\.\w+\.)(\d+)(\..*)", ours):
            first = places.get(f"{block[1]}{int(block[2]) % inner}{block[3]}")
            if first and int(block[2]) >= inner:
                places[ours] = first
                contents.report.derived.append(ours)


def same_numbers(x: Tensor, y: Tensor) -> bool:
    """The same numbers, NaN for NaN, whatever the precision they are stored in."""
    if x.shape != y.shape:
        return False
    if x.dtype == y.dtype and torch.equal(x, y):  # without another tensor of their size
        return True
    return bool(((x == y) | (x.isnan() & y.isnan())).all())


def _is_tied(name: str) -> bool:
    return "predictions.decoder." in name


def _check_fit(weights: AnyWeights, name: str, ours: str, wanted: Tensor, config: AlbertConfig) -> None:
    kind, shape = weights.listing[name][0], weights.shape(name)
    if shape != list(wanted.shape):
        raise CheckpointError(
            f"{weights.home(name)}: {ours} ({name}) is {shape}, the configuration needs {list(wanted.shape)}."
            f"{_looks_like(weights, config)} config.json and the weights do not belong together"
        )
    if kind not in FLOATS:
        raise CheckpointError(
            f"{weights.home(name)}: {ours} ({name}) is of dtype {kind}, expected one of {', '.join(FLOATS)}; "
            "quantized weights are not read"
        )


def _looks_like(weights: AnyWeights, config: AlbertConfig) -> str:
    """A hint for an error: the official model that has the widths of the file, when it is not the one configured."""
    shapes = [(name, shape) for name, (_, shape) in weights.listing.items()]
    table = next((shape for name, shape in shapes if name.endswith(("word_embeddings.weight", "word_embeddings"))), [])
    query = next((shape for name, shape in shapes if name.endswith(("query.bias", "query/bias"))), [])
    for name, sizes in PRESETS.items():
        E, H = sizes.get("embedding_size", 128), sizes["hidden_size"]
        if [*table[1:], *query] == [E, H] != [config.embedding_size, config.hidden_size]:
            return f" The weights look like {name.rpartition('-')[0]} (H={H})."
    return ""


def check_vocabulary(config: AlbertConfig, tokenizer: Tokenizer, where: Path, any_vocabulary: bool = False) -> None:
    """Refuse a vocabulary that was not made for the weights: too long, or shorter than rounding up explains."""
    have, rows = len(tokenizer), config.vocab_size
    padded = -(-have // 128) * 128  # tables are often rounded up for speed
    if have > rows or (padded < rows and not any_vocabulary):
        raise CheckpointError(
            f"{where}: the vocabulary has {have} entries, the word table {rows} rows; they do not belong together. "
            + ("Find the right one" if have > rows else "If they do: --any-vocabulary, load(..., any_vocabulary=True)")
        )
    if config.pad_token_id is not None and config.pad_token_id != tokenizer.pad_id:
        raise CheckpointError(
            f"{where}: padding is {tokenizer.pad_id} in the vocabulary, {config.pad_token_id} in the configuration; "
            "find the vocabulary of this model, or correct pad_token_id in config.json"
        )
