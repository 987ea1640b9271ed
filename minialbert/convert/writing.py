"""Parameters to files: Hugging Face's directory, and Google's checkpoint. save_pretrained is save_model here."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import minialbert.convert.names as names
from minialbert.config import AlbertConfig
from minialbert.convert.google_files import write_google
from minialbert.convert.torch_files import Listing, dtype_word, torch_dtype, write_safetensors, write_text
from minialbert.errors import CheckpointError, ConfigError, FileError
from minialbert.model import AlbertModel

if TYPE_CHECKING:
    from minialbert.pretrained import Pretrained

CHECKPOINTS = {"albert": ("model.ckpt-best", "albert_config.json"), "bert": ("bert_model.ckpt", "bert_config.json")}


def save_model(model: "Pretrained", directory: str | Path) -> None:
    """Write config.json and model.safetensors as Hugging Face would; each file is whole or not there.

    Raises FileError when the directory cannot be written to.
    """
    own = {name.removeprefix("albert."): p for name, p in model.named_parameters()}  # type: ignore[attr-defined]
    listing = {ours: (dtype_word(p), list(p.shape)) for ours, p in own.items()}
    write_hf(Path(directory), model.config, type(model), listing, own.__getitem__)


def make_directory(directory: Path) -> None:
    """Raises FileError when it cannot be made."""
    if os.path.exists(directory) and not os.path.isdir(directory):
        raise FileError(f"{directory}: is a file, expected a directory to write to")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{directory}: cannot be made ({error.strerror or error})") from None


def write_hf(
    directory: Path, config: AlbertConfig, cls: type, listing: Listing, read: Callable[[str], Tensor]
) -> dict[str, str]:
    """config.json and model.safetensors, with one tensor in memory at a time; returns {their name: ours}.

    listing and read have our names; every parameter is written under Hugging Face's, once for each layer that has one
    there, because a file holds no aliases.
    """
    make_directory(directory)
    prefix = "" if issubclass(cls, AlbertModel) else f"{config.model_type}."
    theirs: dict[str, str] = {}
    for name, ours in names.expand(config, "hf").items():
        if ours in listing:
            theirs[name if ours.startswith(names.HEADS) else prefix + name] = ours
    out = {name: listing[ours] for name, ours in theirs.items()}
    kind = listing["embeddings.word.weight"][0]
    identity = prefix + names.PROJECTION
    if config.model_type == "albert" and not config.has_projection:  # Hugging Face always has one
        H = config.hidden_size
        out |= {f"{identity}.weight": (kind, [H, H]), f"{identity}.bias": (kind, [H])}

    def read_theirs(name: str) -> Tensor:
        if name in theirs:
            return read(theirs[name])
        (kind, shape) = out[name]
        return (torch.eye(shape[0]) if len(shape) == 2 else torch.zeros(shape)).to(torch_dtype(kind))

    write_safetensors(directory / "model.safetensors", out, read_theirs)
    text = json.dumps(_hf_config(config, cls, kind), indent=2, ensure_ascii=False)
    write_text(directory / "config.json", text + "\n")
    return theirs


def _hf_config(config: AlbertConfig, cls: type, kind: str) -> dict[str, Any]:
    """config.json, with the class that Hugging Face would load and the precision of the file."""
    out = config.to_json()
    family = "Bert" if config.model_type == "bert" else "Albert"
    out |= {"architectures": [cls.__name__.replace("Albert", family)]}
    out |= {"dtype": str(torch_dtype(kind)).removeprefix("torch.")}
    out.pop("torch_dtype", None)
    return out


def write_tensorflow(
    directory: Path, config: AlbertConfig, listing: Listing, read: Callable[[str], Tensor]
) -> dict[str, str]:
    """Google's checkpoint and configuration, with one tensor in memory at a time; returns {their name: ours}.

    Raises ConfigError for what Google's code cannot compute, CheckpointError for a projection that it has no place for.
    """
    make_directory(directory)
    prefix, config_name = CHECKPOINTS[config.model_type]
    try:
        text = json.dumps(config.to_google_json(), indent=2)
    except ConfigError as error:
        raise ConfigError(f"this model cannot be written for Google's code: {error}") from None
    theirs = {name: ours for name, ours in names.expand(config, "google").items() if ours in listing}
    if config.embedding_size == config.hidden_size:
        for name in [name for name, ours in theirs.items() if ours.startswith("embeddings.projection.")]:
            x = read(theirs.pop(name))
            if not torch.equal(x, torch.eye(len(x)).to(x) if x.dim() == 2 else torch.zeros_like(x)):
                raise CheckpointError(
                    f"{name}: Google's code has no projection where E = H, and this one is no identity; "
                    "such a model cannot be written for it"
                )
    write_google(directory / prefix, ((name, read(ours)) for name, ours in sorted(theirs.items())))
    write_text(directory / config_name, text + "\n")
    return theirs
