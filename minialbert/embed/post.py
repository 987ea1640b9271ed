"""Centring, standardizing, whitening: statistics fitted on a corpus, saved, applied to one vector or to many.

The order of steps is fixed: center; then standardize or whiten, never both. Scaling to length 1 is not a step here:
the Embedder does it afterwards. Statistics are float64 and divide by N, so over the corpus they were fitted on,
standardized columns have variance 1 and whitened vectors have the identity as their covariance.

Sources: Mu and Viswanath 2018 ("All-but-the-Top": vectors share a large mean, take it away); Su et al. 2021
("Whitening Sentence Representations": decorrelate too, and keep the K strongest directions).
Neighbours: pool.py makes the vectors, files.py writes them.
"""

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from minialbert.errors import FileError, InputError
from minialbert.whole import whole_file

BLOCK = 4096  # rows that are float64 at one time
FLOOR = 1e-6  # whitening takes no variance to be less than this share of the largest
LARGEST = float(np.finfo(np.float32).max)


class PostFit:
    """Fits a Post to vectors that come in blocks, holding the count, the mean and the second moments only.

    Blocks are merged as in Chan, Golub and LeVeque 1979, relative to the first vector, so that a large common mean
    costs no digits. `whiten` is True (all H directions) or the number K of strongest ones. `standardize` and `whiten`
    include `center`.
    """

    def __init__(self, width: int, whiten: bool | int | None = None, *, center=False, standardize=False):
        count = width if whiten is True else int(whiten or 0)  # K
        if whiten is not None and whiten is not False and not 1 <= count <= width:
            raise InputError(f"whiten={whiten}: the number of directions must be between 1 and the width {width}")
        if count and standardize:
            raise InputError("standardize or whiten, not both: whitened columns have variance 1 already")
        if not (count or center or standardize):
            raise InputError("nothing to fit: ask for center, standardize or whiten")
        self.width, self.directions, self.standardize = width, count, standardize
        self.count = 0
        self.origin = self.mean = np.zeros(width)  # [H], the first vector; the mean relative to it
        self.moments = np.zeros((width, width) if count else width)  # [H, H] or [H], sums of products about the mean

    def add(self, vectors) -> None:
        """Take in a block [n, H]."""
        array, before = checked(vectors, self.width), self.count
        for start in range(0, len(array), BLOCK):
            x = as_float64(array[start : start + BLOCK], before + start)  # [n, H]
            if self.count == 0:
                self.origin = x[0].copy()
            x -= self.origin
            mean, total = x.mean(axis=0), self.count + len(x)
            x -= mean
            shift, weight = mean - self.mean, self.count * len(x) / total
            if self.directions:
                self.moments += x.T @ x + np.outer(shift, shift) * weight
            elif self.standardize:
                self.moments += (x * x).sum(axis=0) + shift * shift * weight
            self.mean = self.mean + shift * (len(x) / total)
            self.count = total

    def finish(self, provenance: Mapping | None = None) -> "Post":
        """The statistics of all that was added; `provenance` says what the vectors were (see Post.check)."""
        if self.count < (2 if self.standardize or self.directions else 1):
            raise InputError(f"{self.count} vectors are too few to fit on; standardize and whiten need at least two")
        scale = directions = None
        if self.standardize:
            scale = inverse_root(self.moments / self.count)
        if self.directions:
            if self.count <= self.directions:  # n texts span n - 1 directions
                found = f"{self.directions} directions were fitted on {self.count} texts, which span fewer"
                warnings.warn(f"{found}: fit on more texts, or keep few directions (whiten=K)", stacklevel=2)
            variances, vectors = np.linalg.eigh(self.moments / self.count)  # ascending; [H], [H, H]
            variances, vectors = variances[::-1], vectors[:, ::-1]
            weights = inverse_root(np.maximum(variances, FLOOR * max(variances[0], 0.0)))
            signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), range(self.width)])  # or the sign is arbitrary
            directions = np.ascontiguousarray((vectors * signs * weights)[:, : self.directions])  # [H, K]
        return Post(self.origin + self.mean, scale, directions, self.count, plain(provenance or {}))


@dataclass(frozen=True, eq=False)
class Post:
    """Fitted statistics: `apply` them, `save` and `load` them, `check` that they belong to the vectors at hand."""

    mean: np.ndarray  # [H]
    scale: np.ndarray | None = None  # [H], one over the standard deviation, if standardizing
    directions: np.ndarray | None = None  # [H, K], each over its standard deviation, if whitening
    count: int = 0  # texts fitted on
    provenance: dict = field(default_factory=dict)  # of the vectors: model digest, layer, pooling, ...

    @property
    def steps(self) -> list[str]:
        """What apply does, in order, such as ["center", "whiten"]."""
        return ["center"] + ["standardize"] * (self.scale is not None) + ["whiten"] * (self.directions is not None)

    @property
    def width(self) -> int:
        """The width of what comes out: H, or K."""
        return len(self.mean) if self.directions is None else self.directions.shape[1]

    @classmethod
    def fit(cls, vectors, *, center=False, standardize=False, whiten=None, provenance=None) -> "Post":
        """PostFit in one call, for vectors [N, H] in memory or memory-mapped."""
        fitting = PostFit((np.shape(vectors) or (0,))[-1], whiten, center=center, standardize=standardize)
        fitting.add(vectors)
        return fitting.finish(provenance)

    def apply(self, vectors, exact: bool = False) -> np.ndarray:
        """Float32 [N, H] for vectors [N, H], or [H] for one vector [H]; whitening to K makes the last axis K.

        Centring and standardizing give the same bits for one vector and for many; so does whitening with `exact` (row
        by row, slower). Without it a number may differ in its last bit: a matrix product rounds by its shape.
        """
        array = np.asarray(vectors)
        if array.ndim == 1:
            return self.apply(array[None], exact)[0]
        array = checked(array, len(self.mean))
        out = np.empty((len(array), self.width), np.float32)
        for start in range(0, len(array), BLOCK):
            x = as_float64(array[start : start + BLOCK], start) - self.mean  # [n, H]
            if self.scale is not None:
                x *= self.scale
            if self.directions is not None:
                x = np.stack([row @ self.directions for row in x]) if exact else x @ self.directions  # [n, K]
            out[start : start + BLOCK] = x
        return out

    def check(self, provenance: Mapping) -> None:
        """Refuse vectors of another origin: what the statistics were fitted with must be the same in `provenance`."""
        given = plain(provenance)
        differs = [key for key, value in self.provenance.items() if key not in given or given[key] != value]
        if differs:
            fitted = ", ".join(f"{key}={self.provenance[key]!r}" for key in differs)
            here = ", ".join(f"{key}={given[key]!r}" if key in given else f"no {key}" for key in differs)
            raise InputError(f"the statistics were fitted with {fitted}, the vectors here have {here}: fit them again")

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file, whole or not at all."""
        arrays = {"mean": self.mean, "scale": self.scale, "directions": self.directions}
        about = {"version": 1, "steps": self.steps, "count": self.count, "provenance": self.provenance}
        data = save({k: v for k, v in arrays.items() if v is not None}, metadata={"post": json.dumps(about)})
        with whole_file(Path(path)) as temporary:
            temporary.write_bytes(data)

    @classmethod
    def load(cls, path: str | Path) -> "Post":
        """Read what `save` wrote."""
        if not os.path.isfile(path):
            raise FileError(f"{path}: no such file; statistics are written by Post.save (--save-post)")
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["post"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            version, steps = about["version"], about["steps"]
            post = cls(**arrays, count=about["count"], provenance=about["provenance"])
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise FileError(f"{path}: not statistics that Post.save wrote, or damaged; fit and save again") from error
        if version != 1 or post.steps != steps:
            raise FileError(f"{path}: written by another version ({version}, steps {steps}); fit and save again")
        return post


def checked(vectors: Any, width: int) -> np.ndarray:
    """The vectors as an array [N, H]; refuses any other shape."""
    array = np.asarray(vectors)
    if array.ndim == 3:
        found = f"vectors are {list(array.shape)} (texts, layers, width)"
        raise InputError(f"{found}, expected [N, {width}]: choose one layer or a mix of layers")
    if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "fiu":
        raise InputError(f"vectors are {list(array.shape)} of {array.dtype}, expected numbers [N, {width}]")
    return array


def as_float64(block: np.ndarray, first: int) -> np.ndarray:
    """A block in float64; refuses what is not finite as float32, naming the row (`first` is the block's first)."""
    block = block.astype(np.float64)
    bad = ~(np.abs(block) <= LARGEST).all(axis=1)  # NaN fails the comparison too
    if bad.any():
        raise InputError(f"vector {first + int(bad.argmax())} (counted from 0) holds NaN or infinity: leave it out")
    return block


def inverse_root(variances: np.ndarray) -> np.ndarray:
    """One over the standard deviation; 0 where the variance is 0, so that what never varied stays 0."""
    return np.divide(1.0, np.sqrt(variances), out=np.zeros_like(variances), where=variances > 0)


def plain(provenance: Mapping) -> dict:
    """As JSON gives it back, so that what was saved and what was not compare equal."""
    try:
        return json.loads(json.dumps(dict(provenance)))
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance must be plain JSON: {error}") from None
