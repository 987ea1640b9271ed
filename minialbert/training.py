"""What a training run needs, whatever it trains: groups, precision, a log, a lock, being stopped, being whole.

pretrain/loop.py and finetune/loop.py have the loops. Nothing here knows a model or data.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from minialbert.errors import CheckpointError
from minialbert.whole import whole_file, writing

LOG, LOCK = "log.jsonl", "lock"

# ---- what is trained ----


def parameter_groups(model: nn.Module, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Two groups for an optimizer, named: what decays and is adapted, and what is neither, biases and all of LayerNorm.

    The same split as Google's, which goes by name ("bias" or "LayerNorm" in it). Embedding tables decay.
    Each parameter is there once, a tied one under its first name, a frozen one too: without a gradient it rests.
    """
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": weight_decay},
        {"params": [], "weight_decay": 0.0, "trust": False},
    ]
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    for name, parameter in model.named_parameters():
        excluded = id(parameter) in norms or name.endswith("bias")
        groups[excluded]["params"].append((name, parameter))
    return [group for group in groups if group["params"]]


def named_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The optimizer's tensors as "parameter/m", "parameter/v", "parameter/trust_ratio", and each parameter's steps."""
    tensors, steps = {}, {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}/{key}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
                else:
                    steps[name] = value
    return tensors, steps


@contextlib.contextmanager
def autocast(dtype: str, device: torch.device) -> Iterator[None]:
    """How products are computed within it: in "float32" as they stand, or in "bfloat16".

    In bfloat16 on a processor attention is written out, product by product: at T = 128 the gradient of the fused
    kernel took 31 % of a training step there, and a step without it 0.8 of the time (measured, AMX).
    """
    with contextlib.ExitStack() as stack:
        if dtype == "bfloat16":
            stack.enter_context(torch.autocast(device.type, torch.bfloat16))
            if device.type == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


# ---- being stopped ----


class Stopped(KeyboardInterrupt):
    """Raised by a run after Ctrl-C or SIGTERM, when it has saved where it stands; `number` is the signal's."""

    def __init__(self, number: int, line: str):
        super().__init__(line)
        self.number = number


@contextlib.contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Within it Ctrl-C and SIGTERM are noted, for the loop to end after its update; a second one ends at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # nohup's stay so

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Holds a directory for one run; a process that is killed lets go of it. Raises CheckpointError when it is held."""
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = open(directory / LOCK, "w")  # noqa: SIM115  # held as long as the run
    with file:
        try:
            import fcntl  # not on Windows: there nothing is held

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{directory}: another process is training in it; wait for its end, or give another directory"
            ) from None
        except (ImportError, OSError):  # or a file system that cannot
            pass
        yield


# ---- being whole ----


def flush(path: Path) -> None:
    """Waits until a file, or the names in a directory, would outlive a power cut."""
    with contextlib.suppress(PermissionError):  # directories cannot be opened on Windows
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def discard(path: Path) -> None:
    """Deletes a directory; it loses its name first, so half of it is never taken for a checkpoint."""
    if path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.rename(path, temporary)
        shutil.rmtree(temporary)


def digest_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- the log ----


class Log:
    """log.jsonl, one line for each step that was logged; and TensorBoard's events, where that is installed."""

    def __init__(self, directory: Path, step: int):
        """Goes on after `step`: lines past it are of steps that a killed run made and this one makes again."""
        path = directory / LOG
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        rows = [row for row in read_log(directory) if row["step"] <= step]
        with whole_file(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        with writing(path):
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # open as long as the run
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board: Any = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
        except ImportError:
            self.board = None

    def write(self, row: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name, value in row.items() if self.board else ():
            if isinstance(value, (int, float)):
                self.board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def read_log(directory: str | Path) -> list[dict[str, Any]]:
    """The rows of log.jsonl in the order of their steps; a line cut off by a kill is left out."""
    path = Path(directory) / LOG
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows
