"""A TensorFlow checkpoint as the loader wants it: tensors by name, one at a time, kernels turned our way round.

The file format is tf_checkpoint.py's and tf_writer.py's, the names are names.py's. torch_files.Weights is the same for
Hugging Face's directory.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minialbert.convert.tf_checkpoint import Checkpoint
from minialbert.convert.tf_writer import write_checkpoint


class GoogleWeights:
    """The tensors of a checkpoint by TensorFlow's names. `listing` has dtypes and shapes as they are in the file.

    Raises FileError when there is no checkpoint under this prefix, CheckpointError for a damaged one.
    """

    style = "google"

    def __init__(self, prefix: Path):
        self.checkpoint = Checkpoint(prefix)
        self.listing = self.checkpoint.listing
        self.files = self.checkpoint.files
        self.place = self.files[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.listing)

    def home(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self.checkpoint.home(name)

    def shape(self, name: str) -> list[int]:
        """As `read` gives it: [out, in] for what is a kernel [in, out] in the file."""
        shape = self.listing[name][1]
        return shape[::-1] if is_kernel(name) else shape

    def read(self, name: str) -> Tensor:
        """The tensor in memory of its own, laid out as ours. Raises CheckpointError."""
        x = torch.from_numpy(self.checkpoint.read(name))
        x = x.bfloat16() if self.listing[name][0] == "BF16" else x  # numpy has no such dtype: it came widened
        return x.T.contiguous() if is_kernel(name) and x.dim() == 2 else x


def is_kernel(name: str) -> bool:
    return name.removesuffix(":0").endswith("/kernel")


def write_google(prefix: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """A checkpoint of tensors in our layout under TensorFlow's names; numbers become float32 if they are less.

    Raises FileError; both files are whole or not there.
    """
    write_checkpoint(prefix, ((name, _their_array(name, x)) for name, x in tensors))


def _their_array(name: str, x: Tensor) -> np.ndarray:
    x = x.detach().cpu()
    x = x if x.dtype == torch.float64 else x.float()
    return (x.T if is_kernel(name) else x).numpy()
