"""What a batch may hold, how long its rows become, and which tokens stay when a text is too long. Plain functions.

base.py calls them.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from minialbert.errors import InputError

STRATEGIES = ("longest_first", "longest_first_fast", "only_first", "only_second")
Text = str | list[str]  # a text, or a text that somebody has already cut into words


def batch_of(texts: Any, split: bool) -> Iterator[tuple[Text, Text | None]]:
    """Each item of a batch as (first, second); second None when it is no pair. Raises InputError."""
    if isinstance(texts, str):
        texts = [texts]
    if isinstance(texts, bytes | dict) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a string or a list of strings and pairs, not {type(texts).__name__}")
    for i, item in enumerate(texts):
        if isinstance(item, str) and not split:  # the usual case first
            yield item, None
        elif not isinstance(item, tuple):
            yield checked(item, i, split), None
        elif len(item) != 2:
            raise InputError(f"text {i} is a tuple of {len(item)}, expected a pair (first, second)")
        else:
            yield checked(item[0], i, split), None if item[1] is None else checked(item[1], i, split)


def checked(text: Any, i: int, split: bool) -> Any:
    """A string; with `split` a list of strings. Raises InputError naming the place and the type found."""
    if not split:
        if isinstance(text, str):
            return text
        hint = "; a pair is a tuple, words need is_split_into_words=True" if isinstance(text, list) else ""
        raise InputError(f"text {i} is {type(text).__name__}, expected str{hint}")
    if isinstance(text, str) or not isinstance(text, Iterable):
        raise InputError(f"text {i} is {type(text).__name__}, expected a list of words (is_split_into_words)")
    words = list(text)
    for n, word in enumerate(words):
        if not isinstance(word, str):
            raise InputError(f"text {i}, word {n} is {type(word).__name__}, expected str")
    return words


def kept_slices(n1: int, n2: int | None, room: int, strategy: str, side: str, i: int = 0) -> tuple[slice, slice]:
    """Which content tokens of a text (n2 None) or pair stay when there is room for `room`. Raises InputError."""
    k1, k2 = kept_lengths(n1, n2, room, strategy, i)
    if side == "right":
        return slice(0, k1), slice(0, k2)
    return slice(n1 - k1, n1), slice((n2 or 0) - k2, n2 or 0)


def kept_lengths(n1: int, n2: int | None, room: int, strategy: str, i: int = 0) -> tuple[int, int]:
    """How many tokens of the first and the second text stay.

    "longest_first" is Google's loop (take one from the longer text, from the second on ties) in closed form.
    Tested against the loop.
    """
    if room < 0:
        raise InputError(f"text {i}: max_length is too small even for [CLS] and [SEP]")
    if n1 + (n2 or 0) <= room:
        return n1, n2 or 0
    if n2 is None:
        if strategy == "only_second":
            raise InputError(f'text {i} has no second text to cut (truncation="only_second")')
        return room, 0
    if strategy in ("only_first", "only_second"):
        other = n2 if strategy == "only_first" else n1
        if other >= room:
            raise InputError(f"text {i}: {strategy} would leave nothing of it, the other text has {other} of {room}")
        return (room - n2, n2) if strategy == "only_first" else (n1, room - n1)
    if strategy == "longest_first_fast":
        short, long = min(n1, n2), max(n1, n2)
        long = short if short > room else max(short, room - short)
        if short + long > room:
            short, long = room // 2, room - room // 2
        return (short, long) if n1 <= n2 else (long, short)
    half = (room + 1) // 2  # the first text's share when both are long
    if n1 < half:
        return n1, room - n1
    if n2 < room - half:
        return room - n2, n2
    return half, room - half


def padded_width(lengths: list[int], padding: str | bool, limit: int | None, multiple: int | None) -> int | None:
    """T of a padded batch: the longest row, with "max_length" at least the limit, rounded up; None for no padding."""
    if not padding:
        return None
    width = max(lengths, default=0)
    if padding == "max_length":
        width = max(width, limit or 0)
    return -(-width // (multiple or 1)) * (multiple or 1)
