"""The proof: minialbert against transformers on the same weights, point by point, and why if they differ.

    report = parity("path/to/albert-base-v2")
    report.ok, report.first, report.cause

In order of computation: ids of texts, configuration, every tensor, every point of the forward (hooks.py), heads, loss,
the gradient of every parameter; in float64, where nothing hides, and in float32. against_transformers.py compares with
the library, google_pack.py with what Google's code was recorded to give; probe.py makes the batch, sides.py runs the
two models, diagnose.py and hypotheses.py find the reason, verdict.py holds the result.
"""

import contextlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from minialbert.errors import InputError
from minialbert.tools.parity.against_transformers import AgainstTransformers
from minialbert.tools.parity.comparison import DTYPES, Comparison
from minialbert.tools.parity.diagnose import TEXTS, Text
from minialbert.tools.parity.google_pack import AgainstPack
from minialbert.tools.parity.verdict import Report

OTHERS = ("transformers", "google-pack")


def parity(
    path: str | Path,
    *,
    against: str | Path | tuple[str, str | Path] | None = None,
    dtype: str | Sequence[str] = ("float32", "float64"),
    texts: Sequence[Text] | None = None,
    tolerance: float | None = None,
    attention: str = "eager",
    gradients: bool = True,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Report:
    """Compare minialbert on `path` with transformers on the same, or with `against`; nothing is downloaded.

    against: ("transformers", directory), or the directory alone, for a second checkpoint that should be equal;
    ("google-pack", directory) for recorded outputs and gradients of Google's code. dtype: "float32", "float64" or
    both. texts: for the tokenizers, in place of the built-in ones. tolerance: in place of those of verdict.py, as a
    part of the largest number at a point (absolute against a pack). attention: theirs, "eager" (its maps are compared)
    or "sdpa". device: where ours runs; theirs stays on the CPU.
    Raises InputError for arguments; FileError, CheckpointError or ConfigError for what cannot be read, FileError also
    where transformers is not installed.
    """
    wanted = (dtype,) if isinstance(dtype, str) else tuple(dtype)
    if not wanted or set(wanted) - set(DTYPES):
        raise InputError(f"dtype={dtype!r} must be one or both of {', '.join(DTYPES)}")
    if attention not in ("eager", "sdpa"):
        raise InputError(f"attention={attention!r} must be eager or sdpa")
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance={tolerance} must be above 0")
    other, place = against if isinstance(against, tuple) else ("transformers", against)
    if other not in OTHERS:
        raise InputError(f"against={other!r} must be one of {', '.join(OTHERS)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without that kind
        raise InputError(f"device={str(device)!r} cannot be used here ({str(error).splitlines()[0]})") from None
    kinds, place = tuple(kind for kind in DTYPES if kind in wanted), path if place is None else place
    started = time.perf_counter()
    with _quiet():
        work: Comparison
        if other == "google-pack":
            work = AgainstPack(path, place, kinds, tolerance, device)
        else:
            chosen = TEXTS if texts is None else texts
            work = AgainstTransformers(path, place, kinds, tolerance, device, attention, chosen, seed)
        with _no_bars(other):
            work.run(gradients)
    report = work.finish()
    report.seconds = time.perf_counter() - started
    return report


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No look at the network, and no warnings about heads that are new: the report tells them."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


@contextlib.contextmanager
def _no_bars(other: str) -> Iterator[None]:
    """transformers without progress bars and advice, for the time of use."""
    if other != "transformers":
        yield
        return
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
