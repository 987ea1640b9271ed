"""The rows of `minialbert bench` about files: tokenize, texts to ids; convert, one kind of checkpoint to another.

The yardstick of convert is a copy of the same bytes. The other rows are in bench_vectors.py and bench_processes.py.
"""

import operator
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minialbert.convert import convert, tokenizer_of
from minialbert.errors import MiniAlbertError
from minialbert.model import AlbertModel
from minialbert.tools.bench_measuring import Row, Subject, compare, interleave

ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}


def tokenize_rows(subject: Subject) -> Iterator[Row]:
    """Texts to ids on one thread; every round has texts that neither has seen, so no cache answers for the work."""
    texts, rounds = subject.texts, subject.repeats + 1
    if subject.tokenizer is None or len(texts) < rounds:
        subject.leave_out(f"tokenize: left out, it needs --model, and --texts with at least {rounds} texts")
        return
    tokenizer, count = tokenizer_of(subject.home), len(texts) // rounds  # the subject's own has seen some of them
    parts = [texts[i * count : (i + 1) * count] for i in range(rounds)]
    mine, other, ours, theirs = iter(parts), iter(parts), [], []
    works: dict[str, Callable[[], Any]] = {"ours": lambda: ours.extend(tokenizer(next(mine), padding=False).input_ids)}
    with environment(ONE_THREAD):
        try:
            from transformers import AutoTokenizer

            where = subject.directory if subject.directory and subject.directory.is_dir() else subject.home
            fast = AutoTokenizer.from_pretrained(where, use_fast=True)
            works["theirs"] = lambda: theirs.extend(fast(next(other))["input_ids"])
        except Exception as error:  # a black box: whatever it raises, its side is left out
            subject.leave_out(f"tokenize: transformers left out, {' '.join(str(error).split())[:200]}")
        seconds = interleave(works, subject.repeats)
    facts = {"same ids": sum(map(operator.eq, ours, theirs)) / len(ours)} if theirs else {}
    yield compare("tokenize", seconds["ours"], "transformers' fast tokenizer", seconds.get("theirs"), ">= 5",
                  "texts/s", (count, count), facts=facts)  # fmt: skip


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= settings
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


def convert_rows(subject: Subject) -> Iterator[Row]:
    """The model's own directory to Google's files, and back; as the command does it, with the check at the end."""
    source, google, target = subject.folder / "hf", subject.folder / "google", subject.folder / "converted"
    subject.model.save_pretrained(source)  # without a tokenizer
    try:
        convert(source, google, to="google", check=False)
    except MiniAlbertError as error:
        subject.leave_out(f"convert: left out, {error}")
        return
    weights = source / "model.safetensors"
    works: dict[str, Callable[[], Any]] = {
        "copied": lambda: shutil.copyfile(weights, target),
        "to Google's files": lambda: convert(source, target, to="google", check=False),
        "and back": lambda: convert(google, target, check=False),
        "and back, checked": lambda: convert(google, target),
    }
    seconds = interleave(works, subject.repeats, between=lambda: remove(target))
    same = AlbertModel.from_pretrained(target).digest() == subject.model.digest()
    remove(target)
    size = weights.stat().st_size / 1e6
    for name in list(works)[1:]:
        yield compare(f"convert, {name}", seconds[name], "shutil.copyfile", seconds["copied"], "", "MB/s",
                      (size, size), equal=same)  # fmt: skip


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
