"""Vectors inside scikit-learn: AlbertVectorizer, a transformer that turns texts into features for a Pipeline.

    pipe = make_pipeline(AlbertVectorizer(), LogisticRegression())
    GridSearchCV(pipe, {"albertvectorizer__layer": [2, 4, 6], "albertvectorizer__pooling": ["mean", "cls"]})

scikit-learn is an extra (pip install scikit-learn): who wants this file imports it, nothing else of the package does.
The vectors are those of embed/, from whatever convert/ can load.
"""

import functools
import hashlib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from minialbert.convert import load
from minialbert.convert.sources import opened
from minialbert.embed import Embedder
from minialbert.embed.pool import RAGGED, check_pooling
from minialbert.errors import CheckpointError, InputError

TOKENIZER_FILES = (".json", ".txt", ".model", ".vocab")
KEPT = 2  # models that the process keeps loaded for the next fit


class AlbertVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Texts, or (text, pair) tuples, to float32 [N, H].

    model: what `minialbert.load` takes, as a string or a path; None is the small model that ships. layer, pooling,
    normalize and max_length are those of Embedder's call, with one vector a text: layer "all" and the poolings
    "tokens", "words" and "spans" are refused. device: "cpu", "cuda", ...

    Nothing is learnt from the texts: `fit` loads the model and checks the settings. A process keeps the last two models
    that it loaded, under what they were called, the digest of their files and the device; so all clones of a grid
    search share one, and files that change are read anew. A pickle holds settings and digests, not the weights: whoever
    unpickles it needs the model under the same name, and another model under this name is refused.

    Raises what loading raises, InputError and NameUnknown. Attributes after fit: `provenance_`, what made the vectors;
    `n_features_out_`, H.
    """

    def __init__(
        self,
        model: str | PathLike | None = None,
        layer: int | str | None = None,
        pooling: str = "mean",
        normalize: bool = False,
        max_length: int | None = None,
        device: str | None = None,
    ):
        self.model = model
        self.layer = layer
        self.pooling = pooling
        self.normalize = normalize
        self.max_length = max_length
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Load the model and check the settings; X and y are not looked at."""
        embed = embedder_of(self.model, self.device)
        check_pooling(self.pooling)
        if self.pooling in RAGGED:
            raise InputError(f"pooling={self.pooling!r} gives several vectors a text, expected one; use mean")
        layer = embed.default(self.layer, self.pooling)
        shape = embed.row_shape(layer)
        if len(shape) > 1:
            raise InputError(
                f"layer={layer!r} gives {shape[0]} vectors a text, expected one; use cat(...) or mean(...)"
            )
        self.provenance_ = embed.provenance(
            layer, self.pooling, normalize=self.normalize, max_length=embed.limit(self.max_length)
        )
        self.n_features_out_ = self._n_features_out = shape[0]
        self.embedder_ = embed
        return self

    def transform(self, X: Iterable[str | tuple[str, str]]) -> np.ndarray:
        """float32 [N, H]. Raises NotFittedError before fit, InputError for what is no list of texts."""
        check_is_fitted(self, "provenance_")
        if not hasattr(self, "embedder_"):
            self.embedder_ = self._loaded_again()
        fitted = {name: self.provenance_[name] for name in ("layer", "pooling", "normalize", "max_length")}
        return self.embedder_(texts_of(X), **fitted, progress=False)

    def _loaded_again(self) -> Embedder:
        """The model of an estimator that was unpickled. Raises CheckpointError when it is not the one of before."""
        embed = embedder_of(self.model, self.device)
        now = {"model": embed.model.digest(), "tokenizer": embed.tokenizer.digest()}
        if differs := [part for part, digest in now.items() if digest != self.provenance_[part]]:
            name, what = self.model or "the model that ships", " and ".join(differs)
            raise CheckpointError(f"{name}: is another {what} than when this AlbertVectorizer was fitted; fit it again")
        return embed

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "embedder_"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.transformer_tags.preserves_dtype = []  # float32, whatever comes
        return tags


def texts_of(X: Any) -> list[str | tuple[str, str]]:
    """X as Embedder takes it: from a list, an array or a pandas Series; a row of two strings is a pair.

    Raises InputError that names the first that is neither.
    """
    if isinstance(X, str) or not isinstance(X, Iterable):
        raise InputError(f"X is a {type(X).__name__}, expected a list of texts")
    if getattr(X, "ndim", 1) == 2:  # to go through a DataFrame would give the names of its columns
        X = np.asarray(X, dtype=object)
    texts: list[Any] = []
    for number, x in enumerate(X):
        parts = (x,) if isinstance(x, str) else tuple(x) if isinstance(x, (tuple, list, np.ndarray)) else ()
        if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
            told = " ".join(str(x).split())[:40]
            raise InputError(
                f"X[{number}] is {told} ({type(x).__name__}), expected a string, or two for a pair; fill in or drop "
                "what is missing"
            )
        texts.append(parts if len(parts) == 2 else parts[0])
    return texts


# ---- models that are loaded once ----


def embedder_of(model: str | PathLike | None, device: str | None) -> Embedder:
    """The Embedder of what `load` takes; the same object again as long as no file of it changed."""
    if model is not None and not isinstance(model, (str, PathLike)):
        raise InputError(f"model is a {type(model).__name__}, expected a path, a name, or None for the one that ships")
    return _embedder(None if model is None else str(model), files_digest(model), device)


@functools.lru_cache(maxsize=KEPT)
def _embedder(model: str | None, digest: str, device: str | None) -> Embedder:
    return Embedder(*load(model), device=device)


def files_digest(model: str | PathLike | None) -> str:
    """SHA-256 of what `load` would read: weights, configuration, vocabulary and its settings."""
    total = hashlib.sha256()
    with opened(None if model is None else str(model)) as source:
        beside = [path for path in source.directory.iterdir() if path.suffix in TOKENIZER_FILES]
        files = {*map(Path, source.weights().files), source.config, *beside}
        for path in sorted(path for path in files if path.is_file()):
            with open(path, "rb") as file:
                total.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
