"""Model directories to load: whole ones as Hugging Face writes them, and the pieces to make others from."""

import json
import shutil
import struct
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import minialbert
from minialbert.config import AlbertConfig
from minialbert.convert import names
from minialbert.convert.tf_writer import write_checkpoint
from tests.conftest import theirs_of, tiny_bert, tiny_config

CONFIGS = {"albert": tiny_config(num_hidden_groups=2), "bert": tiny_bert()}
FAMILIES = list(CONFIGS)


@cache
def _released(family: str, head: str, labels: int) -> tuple[dict, dict]:
    config = CONFIGS[family].to_json()
    if labels != 2:
        names_of_labels = {str(i): f"LABEL_{i}" for i in range(labels)}
        config |= {"id2label": names_of_labels, "label2id": {label: int(i) for i, label in names_of_labels.items()}}
    with TemporaryDirectory() as directory:
        theirs_of(type(CONFIGS[family]).from_json(config), head).save_pretrained(directory)
        return load_file(f"{directory}/model.safetensors"), json.loads(Path(directory, "config.json").read_text())


def released(family: str = "albert", head: str = "ForPreTraining", labels: int = 2) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the configuration that Hugging Face writes for a tiny model with random numbers."""
    tensors, config = _released(family, head, labels)
    return {name: x.clone() for name, x in tensors.items()}, dict(config)


def write(directory: Path, tensors: dict[str, Tensor], config: dict) -> Path:
    """model.safetensors and config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: x.contiguous() for name, x in tensors.items()}, directory / "model.safetensors", {"format": "pt"})
    write_config(directory, config)
    return directory


def write_config(directory: Path, config: dict) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def write_released(directory: Path, family: str = "albert", head: str = "ForPreTraining", labels: int = 2) -> Path:
    return write(directory, *released(family, head, labels))


def write_index(directory: Path, shards: dict[str, dict[str, Tensor]], kind: str = "model.safetensors") -> None:
    """Shards by their file names, and the index that belongs to them."""
    for file, tensors in shards.items():
        if file.endswith(".bin"):
            torch.save(tensors, directory / file)
        else:
            save_file(tensors, directory / file, {"format": "pt"})
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / f"{kind}.index.json").write_text(json.dumps(index))


def halves(tensors: dict[str, Tensor], ending: str) -> dict[str, dict[str, Tensor]]:
    """Two shards, every second tensor in each, so that no part of the model is in one file."""
    items = list(tensors.items())
    return {f"part-{i + 1}-of-2.{ending}": dict(items[i::2]) for i in range(2)}


def parts_of(file: bytes) -> tuple[dict, bytes]:
    """A safetensors file taken apart: header and tensors."""
    (length,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def put_together(header, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def plain_names(family: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the prefix "albert." or "bert."."""
    return {names.plain(name, family): x for name, x in tensors.items()}


def assert_same_bits(ours, reference) -> None:
    """Equal names, precisions and numbers."""
    got, want = dict(ours.named_parameters()), dict(reference.named_parameters())
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].dtype == x.dtype, name
        assert torch.equal(got[name], x), name


# ---- Google's releases ----

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def google_variables(config: AlbertConfig, head: str = "ForPreTraining", seed: int = 0) -> dict[str, np.ndarray]:
    """The variables of a random model under TensorFlow's names, as Google's code would save them."""
    torch.manual_seed(seed)
    model = getattr(minialbert, "Albert" + head)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    own = {name.removeprefix("albert."): p.detach().numpy() for name, p in model.named_parameters()}
    variables = {theirs: own[ours] for theirs, ours in sorted(names.expand(config, "google").items()) if ours in own}
    return {name: np.ascontiguousarray(x.T) if name.endswith("/kernel") else x for name, x in variables.items()}


def write_release(
    directory: Path, variables: dict[str, np.ndarray], config: AlbertConfig, prefix: str = "model.ckpt-best"
) -> Path:
    """A directory as Google's archives hold it: checkpoint, configuration, vocabulary."""
    directory.mkdir(parents=True, exist_ok=True)
    write_checkpoint(directory / prefix, variables.items())
    name = "bert_config.json" if config.model_type == "bert" else "albert_config.json"
    (directory / name).write_text(json.dumps(config.to_google_json()))
    words = SPECIALS + [f"word{i}" for i in range(config.vocab_size - len(SPECIALS))]
    (directory / ("vocab.txt" if config.model_type == "bert" else "vocab_chinese.txt")).write_text("\n".join(words))
    return directory


def write_module(directory: Path, release: Path) -> Path:
    """A hub module made of a release: the checkpoint under variables/, the rest under assets/."""
    (directory / "variables").mkdir(parents=True)
    (directory / "assets").mkdir()
    (directory / "saved_model.pb").write_bytes(b"\x08\x01")
    (directory / "tfhub_module.pb").write_bytes(b"\x08\x03")
    for path in release.iterdir():
        if path.name.startswith("model.ckpt-best."):
            shutil.copy(path, directory / "variables" / path.name.replace("model.ckpt-best", "variables"))
        else:
            shutil.copy(path, directory / "assets" / path.name)
    return directory


def write_archive(path: Path, folder: Path, inside: str = "albert_tiny/") -> Path:
    """A .tar.gz or .zip of a folder's files, below a directory of its own unless inside is ""."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(folder.iterdir()):
                archive.write(file, inside + file.name)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, inside + file.name)
    return path
