"""A LoRA in a directory of its own: adapter.safetensors, and adapter.json that says which base it belongs to.

    save_lora(wrapped, "adapter")                    # some hundred kB; the base is not in it
    wrapped = load_lora(model, "adapter")            # onto the same base, and no other

lora.py has the LoRA itself, and `merge`, of which an ordinary model comes that needs neither. No pickles.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minialbert.errors import CheckpointError, FileError, MiniAlbertError
from minialbert.finetune.lora import Lora, LoraModel, sizes_of, with_lora
from minialbert.heads import encoder_of
from minialbert.training import digest_of
from minialbert.whole import check_free, whole_directory, writing

FORMAT = "minialbert adapter 1"
SETTINGS = ("rank", "alpha", "parts", "per_visit", "dropout")
TENSORS, FACTS = "adapter.safetensors", "adapter.json"


def save_lora(wrapped: LoraModel, directory: str | Path) -> None:
    """Write adapter.safetensors, the LoRA and what else learns (the head), and adapter.json; both or nothing.

    The directory must be new or empty. The base is not written, its digest is. Raises FileError.
    """
    lora, path = wrapped.lora, Path(directory)
    tensors = {
        name: p.detach().cpu().contiguous()
        for name, p in wrapped.named_parameters()
        if name.startswith("lora.") or p.requires_grad
    }
    facts: dict[str, Any] = {"format": FORMAT} | {key: getattr(lora, key) for key in SETTINGS}
    digest = _base_digest(wrapped.model, tensors)
    facts["base"] = {"class": type(wrapped.model).__name__, **lora.sizes, "sha256": digest}
    check_free(path)
    with writing(path), whole_directory(path) as temporary:
        save_file(tensors, temporary / TENSORS)
        facts["sha256"] = digest_of(temporary / TENSORS)
        (temporary / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_lora(model: nn.Module, directory: str | Path) -> LoraModel:
    """`with_lora` with what save_lora wrote. The model must be the one it was trained on, in class and to the bit.

    What the file has of the model itself, its head, is put into the model. Raises FileError for a directory without an
    adapter, CheckpointError for a damaged one and for another base; the model is as it was then.
    """
    path = Path(directory)
    facts, tensors = _read(path)
    _check_base(path, facts["base"], model, tensors)
    try:
        lora = Lora(encoder_of(model).config, **{key: facts[key] for key in SETTINGS})
    except (MiniAlbertError, TypeError) as error:
        raise CheckpointError(
            f"{path / FACTS}: describes no LoRA ({error}); the adapter has to be saved again"
        ) from None
    expected = {f"lora.{name}": x for name, x in lora.named_parameters()}
    own = {f"model.{name}": x for name, x in model.named_parameters()} | expected
    for name in [*tensors, *expected]:
        found, wanted = (list(x[name].shape) if name in x else "missing" for x in (tensors, own))
        if found != wanted:
            raise CheckpointError(f"{path / TENSORS}: {name} is {found}, this model has it {wanted}")
    wrapped = with_lora(model, lora, learn=())
    for name, parameter in wrapped.named_parameters():
        if name in tensors:
            parameter.data.copy_(tensors[name])
            parameter.requires_grad_(True)
    return wrapped


def _check_base(path: Path, base: Any, model: nn.Module, tensors: Iterable[str]) -> None:
    """Raises CheckpointError unless the model is the base of an adapter, by class, sizes, and weights."""
    base = base if isinstance(base, dict) else {}
    here = {"class": type(model).__name__, **sizes_of(encoder_of(model).config)}
    differ = [f"{key} {base.get(key)}, here {value}" for key, value in here.items() if base.get(key) != value]
    if not differ and base.get("sha256") != _base_digest(model, tensors):
        differ = ["weights of the same sizes, but not the same, or in another dtype"]
    if differ:
        raise CheckpointError(f"{path}: this adapter was trained on another model: {'; '.join(differ)}")


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        facts = json.loads((directory / FACTS).read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{directory / FACTS}: cannot be read ({error.strerror}); save_lora writes adapters") from None
    except ValueError:
        raise CheckpointError(f"{directory / FACTS}: is not JSON; the adapter has to be saved again") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT or not {*SETTINGS, "base"} <= facts.keys():
        raise CheckpointError(f'{directory / FACTS}: is not a "{FORMAT}"; was it written by another version?')
    path = directory / TENSORS
    if not path.is_file() or digest_of(path) != facts.get("sha256"):
        raise CheckpointError(
            f"{path}: missing, damaged or changed since it was written (its SHA-256 is not the one in {FACTS}); "
            "the adapter has to be saved again"
        )
    return facts, load_file(path)


def _base_digest(model: nn.Module, tensors: Iterable[str]) -> str:
    """SHA-256 of the parameters of a model that an adapter does not bring, by name, to the bit."""
    total, brought = hashlib.sha256(), set(tensors)
    for name, parameter in model.named_parameters():
        if f"model.{name}" not in brought:
            numbers = parameter.detach().cpu().contiguous()
            total.update(f"{name} {numbers.dtype} {list(numbers.shape)}".encode())
            total.update(numbers.view(torch.uint8).numpy().data)
    return total.hexdigest()
