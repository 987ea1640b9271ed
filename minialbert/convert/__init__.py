"""From any official format to a model and its tokenizer, and back: load, convert, and what from_pretrained needs.

sources.py finds the files (archives.py, hub.py), torch_files.py and tf_checkpoint.py read them, names.py says what the
tensors are called, reading.py and filling.py make a model of them, writing.py and conversion.py other files.
"""

from pathlib import Path
from typing import Any

import torch

from minialbert.config import AlbertConfig
from minialbert.convert.conversion import Conversion, as_directory, convert
from minialbert.convert.filling import fill, load_model
from minialbert.convert.reading import LoadReport, check_vocabulary
from minialbert.convert.sources import opened, shipped
from minialbert.convert.writing import save_model
from minialbert.errors import FileError
from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer, load_tokenizer
from minialbert.tokenizers.files import find_vocabulary

__all__ = [
    "Conversion",
    "LoadReport",
    "as_directory",
    "check_vocabulary",
    "convert",
    "load",
    "load_model",
    "save_model",
    "tokenizer_of",
]


def load(
    ref: str | Path | None = None,
    *,
    dtype: torch.dtype | str = torch.float32,
    config: str | Path | AlbertConfig | None = None,
    vocabulary: str | Path | None = None,
    any_vocabulary: bool = False,
) -> tuple[AlbertModel, Tokenizer]:
    """A model in eval mode and its tokenizer, ALBERT or BERT, from whatever it was released as.

    ref: nothing, for the small model that ships; a Hugging Face directory or a file of tensors; a Google release
    (.tar.gz, .zip, directory or checkpoint prefix); a hub module; or an official name that is on this machine
    (`minialbert download NAME` gets it).
    config stands in for the configuration beside the weights: a file, an official name or an AlbertConfig; vocabulary,
    a file or directory, for the one there.
    Raises FileError, ConfigError or CheckpointError; also when vocabulary and weights do not belong together, unless
    any_vocabulary=True.
    """
    with opened(ref) as source:
        model, _, _ = fill(AlbertModel, source, dtype, config, {})
        tokenizer = source.tokenizer(vocabulary, model.config)
        check_vocabulary(model.config, tokenizer, tokenizer.source, any_vocabulary)
    return model, tokenizer


def tokenizer_of(ref: str | Path | None = None, **settings: Any) -> Tokenizer:
    """The tokenizer alone: of whatever `load` takes, of a directory with a vocabulary and nothing else, or of its file.

    settings as in load_tokenizer. Raises FileError, CheckpointError, InputError.
    """
    ref = shipped() if ref is None else ref
    try:
        find_vocabulary(ref)
    except FileError:  # an archive, a prefix, a module, a name
        with opened(ref) as source:
            return source.tokenizer(**settings)
    return load_tokenizer(ref, **settings)
