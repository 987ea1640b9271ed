"""from_pretrained and save_pretrained, for every class of model.py and heads.py. The work is done in convert/."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from minialbert.errors import InputError

if TYPE_CHECKING:
    from minialbert.config import AlbertConfig


class Pretrained:
    """What a model needs besides its mathematics: where it is, how it is read and written."""

    config: "AlbertConfig"

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device  # type: ignore[attr-defined]

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype  # type: ignore[attr-defined]

    def digest(self) -> str:
        """SHA-256 of configuration, names and numbers: the same for the same model, from whatever file it came.

        Keys of the configuration that nobody here knows (versions, paths) have no part in it.
        """
        keys = {key: value for key, value in self.config.to_json().items() if key not in self.config.extra}
        total = hashlib.sha256(json.dumps(keys, sort_keys=True).encode())
        for name, parameter in sorted(self.named_parameters()):  # type: ignore[attr-defined]
            numbers = parameter.detach().cpu().contiguous()
            total.update(f"{name} {numbers.dtype} {list(numbers.shape)}".encode())
            total.update(numbers.view(torch.uint8).numpy())
        return total.hexdigest()

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | str = torch.float32,
        config: "str | Path | AlbertConfig | None" = None,
        **changes: Any,
    ) -> Self:
        """Read a model in eval mode from whatever minialbert.load takes; a Hugging Face directory first of all.

        dtype is that of the parameters, "auto" keeps the file's. config stands in for the one beside the weights (a
        file, an official name, an AlbertConfig); further keywords replace its fields. More groups than the file has
        (num_hidden_groups, parameter_sharing) start as copies of its one.
        Heads that the file does not have are new, with a warning; anything else missing or unknown is refused.
        Raises FileError, CheckpointError or ConfigError, each with one line that names the file.
        """
        from minialbert.convert import load_model  # upward, the only such import: see the test of floors

        return load_model(cls, path, dtype=dtype, config=config, **changes)[0]

    def save_pretrained(self, directory: str | Path) -> None:
        """Write Hugging Face's directory: config.json and model.safetensors, each whole or not at all."""
        from minialbert.convert import save_model

        save_model(self, directory)

    def resize_token_embeddings(self, size: int) -> None:
        """Make room for more words, or drop the last ones: the table, the tied output matrix and its bias together.

        New rows are the mean of the old ones, so that they start where words are; new biases are 0.
        """
        if not isinstance(size, int) or size < 1:
            raise InputError(f"size={size!r} must be a whole number of at least 1, the entries of the vocabulary")
        trunk: Any = getattr(self, "albert", self)
        head = getattr(self, "mlm", None)
        with torch.no_grad():
            old = trunk.embeddings.word.weight
            rows = old.mean(0).repeat(size, 1)
            kept = min(size, len(old))
            rows[:kept] = old[:kept]
            trunk.embeddings.word = torch.nn.Embedding.from_pretrained(rows, freeze=not old.requires_grad)
            if head is not None:
                bias = head.bias.new_zeros(size)
                bias[:kept] = head.bias[:kept]
                head.bias = torch.nn.Parameter(bias, requires_grad=head.bias.requires_grad)
        self.config = trunk.config = dataclasses.replace(trunk.config, vocab_size=size)
