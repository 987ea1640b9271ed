"""What a model directory holds: configuration, who shares what, tensors, parameters by part, digests.

Nothing in it is run: headers are read, and pickles only as plain tensors.
"""

import hashlib
from pathlib import Path
from typing import Any

from minialbert.config import AlbertConfig
from minialbert.convert.filling import fill
from minialbert.convert.sources import opened
from minialbert.errors import MiniAlbertError
from minialbert.model import AlbertModel


def inspect(ref: str | Path) -> dict[str, Any]:
    """Everything about a model's files as a dictionary that JSON can hold; raises what loading it would raise."""
    with opened(ref) as source:
        weights = source.weights()
        model, report, _ = fill(AlbertModel, source, "auto", None, {})
        try:
            tokenizer = source.tokenizer()
            vocabulary: dict[str, Any] = {
                "kind": tokenizer.kind, "entries": len(tokenizer), "said": tokenizer.describe(),
            }  # fmt: skip
        except MiniAlbertError as error:
            vocabulary = {"error": str(error)}
        return {
            "path": str(ref),
            "format": source.kind,
            "configuration": model.config.to_json(),
            "sharing": sharing_table(model.config),
            "parameters": model.config.count_parameters(),
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in weights.files},
            "tensors": {name: {"dtype": kind, "shape": shape} for name, (kind, shape) in weights.listing.items()},
            "report": {"used": report.used, "tied": report.tied, "derived": report.derived, "ignored": report.ignored},
            "tokenizer": vocabulary,
        }


def sharing_table(config: AlbertConfig) -> dict[str, list[int]]:
    """Which layers, counted from 1, use each set of weights: {"encoder.attentions.0": [1, 2, ..., 12], ...}."""
    table: dict[str, list[int]] = {}
    for layer, (a, f) in enumerate(config.sharing_plan(), start=1):
        table.setdefault(f"encoder.attentions.{a}", []).append(layer)
        table.setdefault(f"encoder.feed_forwards.{f}", []).append(layer)
    return table


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
