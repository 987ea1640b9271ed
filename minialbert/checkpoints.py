"""What a training run leaves on disk: checkpoints, each whole or not there. Its log is in training.py.

    step-00000500/                a Hugging Face directory: minialbert.load reads it, and so does transformers
        config.json, model.safetensors, spiece.model, ...
        training/optimizer.safetensors    the optimizer's tensors of every parameter, under its name
        training/state.json               step, place in the data, plan, figures, SHA-256 of both files of tensors

A checkpoint is written under a temporary name, flushed to the disk, and renamed; it is renamed before it is deleted. So
whatever kills the process, a directory named step-... can be trusted. There are no pickles. Random numbers need no
place here: both loops make them from the number of the step.
"""

import json
import re
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from minialbert.errors import CheckpointError, FileError
from minialbert.tokenizers import Tokenizer
from minialbert.training import LOG, digest_of, discard, flush, named_state
from minialbert.whole import whole_directory, writing

FORMAT = "minialbert training state 1"
NAME = re.compile(r"step-(\d{8,})")
MODEL, OPTIMIZER, STATE = "model.safetensors", "training/optimizer.safetensors", "training/state.json"

# ---- writing ----


class Savable(Protocol):
    """A model of ours, or one with something around it."""

    def save_pretrained(self, directory: str | Path) -> None: ...


def save_checkpoint(
    directory: Path, model: Savable, tokenizer: Tokenizer, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """Writes step-NNNNNNNN into `directory`, whole or not at all, and returns its path.

    state: numbers, texts and lists for state.json; "step" is the step that names the checkpoint. Raises FileError.
    """
    path = directory / f"step-{state['step']:08d}"
    tensors, steps = named_state(optimizer)
    with writing(path), whole_directory(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the tokenizer says of its files was said when it was made
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / OPTIMIZER).parent.mkdir()
        save_file(tensors, temporary / OPTIMIZER)
        digests = {name: digest_of(temporary / name) for name in (MODEL, OPTIMIZER)}
        facts = {"format": FORMAT, **state, "optimizer_steps": steps, "sha256": digests}
        (temporary / STATE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        for file in temporary.rglob("*"):
            flush(file)
        discard(path)
    flush(directory)
    return path


def keep(directory: Path, count: int, figure: str = "loss") -> None:
    """Deletes all checkpoints but the `count` newest and the best one, and what killed runs left half-written."""
    paths, good = checkpoints(directory), best(directory, figure)
    with writing(directory):
        for path in paths[:-count]:
            if path != good:
                discard(path)
        for path in directory.glob(".step-*"):
            shutil.rmtree(path)
        for path in directory.glob(f".{LOG}.*.tmp"):
            path.unlink()


# ---- reading ----


def checkpoints(directory: str | Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = {int(m[1]): path for path in Path(directory).glob("step-*") if (m := NAME.fullmatch(path.name))}
    return [found[step] for step in sorted(found)]


def last(directory: str | Path) -> Path | None:
    """The newest checkpoint, where a run goes on; None before the first one."""
    return next(iter(checkpoints(directory)[::-1]), None)


def best(directory: str | Path, figure: str = "loss") -> Path | None:
    """The first checkpoint with the lowest held-out loss, or the highest of another figure; None without measures."""
    measured = [(read_state(path)["held_out"], path) for path in checkpoints(directory)]
    sign = 1 if figure == "loss" else -1
    found = [(sign * figures[figure], path) for figures, path in measured if figures]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """state.json of a checkpoint. Raises FileError, CheckpointError."""
    path = checkpoint / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); is {checkpoint} a checkpoint of a run?") from None
    except ValueError:
        raise CheckpointError(
            f"{path}: is not JSON; delete {checkpoint}, the run goes on from the one before"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f'{path}: is not a "{FORMAT}"; was it written by another version?')
    return state


def check_digests(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the tensors are those that were written, to the bit."""
    for name, digest in state["sha256"].items():
        if not (checkpoint / name).is_file() or digest_of(checkpoint / name) != digest:
            raise CheckpointError(
                f"{checkpoint / name}: missing, damaged or changed since it was written (its SHA-256 is not the one in "
                f"{STATE}); delete {checkpoint}, the run goes on from the one before"
            )


def restore_optimizer(checkpoint: Path, state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Gives an optimizer the state that it had. Raises CheckpointError."""
    try:
        tensors = load_file(checkpoint / OPTIMIZER)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint / OPTIMIZER}: cannot be read ({error})") from None
    own = optimizer.state_dict()
    numbers = {
        name: number
        for group in own["param_groups"]
        for name, number in zip(group["param_names"], group["params"], strict=True)
    }
    found: dict[int, dict[str, Any]] = {numbers[name]: {"step": n} for name, n in state["optimizer_steps"].items()}
    for key, tensor in tensors.items():
        name, _, what = key.rpartition("/")
        found.setdefault(numbers[name], {})[what] = tensor
    optimizer.load_state_dict({"state": found, "param_groups": own["param_groups"]})
