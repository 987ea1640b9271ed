"""What is different, where no forward is needed to tell: configurations, weights tensor by tensor, ids of texts.

parity.py asks; hypotheses.py is for what only a forward can show. Nothing here knows transformers: it gets numbers.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Text = str | tuple[str, str]

FACTS = (  # keys of Hugging Face's config.json that have a part in the numbers
    "vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_hidden_groups", "inner_group_num",
    "num_attention_heads", "intermediate_size", "hidden_act", "max_position_embeddings", "type_vocab_size",
    "layer_norm_eps", "pad_token_id", "num_labels", "problem_type",
)  # fmt: skip
_SAME_ACTIVATION = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "swish": "silu"}


def shared_facts(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{key: (ours, theirs)} of what both have."""
    return {key: (ours[key], theirs[key]) for key in FACTS if key in ours and key in theirs}


def same_fact(ours: Any, theirs: Any) -> bool:
    """Equal, or two names of one activation."""
    plain = [_SAME_ACTIVATION.get(x, x) if isinstance(x, str) else x for x in (ours, theirs)]
    return plain[0] == plain[1]


# ---- weights ----


def equal(ours: Tensor, theirs: Tensor) -> bool:
    """Exactly the same numbers, or NaN in the same places."""
    return ours.shape == theirs.shape and bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())


def relation(name: str, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str:
    """How their tensor of this name came from ours, in words; both are all tensors under our names."""
    x, y = ours[name], theirs[name]
    if twin := _twin(name, ours, y):
        back = twin in theirs and equal(theirs[twin], x)
        return f"swapped with {twin}" if back else f"there it is what is {twin} here"
    if x.shape != y.shape:
        return f"is {list(x.shape)} here, {list(y.shape)} there"
    if not y.isfinite().all() or not x.isfinite().all():
        return "holds numbers that are not finite"
    for a, b, where in ((x, y, "there"), (y, x, "here")):
        if not b.any():
            return f"all zero {where}"
        for kind in (torch.float16, torch.bfloat16):
            if equal(a.to(kind).to(a.dtype), b):
                return f"rounded to {str(kind).removeprefix('torch.')} {where}"
    if x.dim() == 2 and x.shape[0] == x.shape[1] and equal(x.T, y):
        return "transposed"
    if equal(-x, y):
        return "negated"
    return _moved(x, y) or _scaled(x, y) or _few(x, y)


def _twin(name: str, ours: Mapping[str, Tensor], y: Tensor) -> str:
    """Another tensor of ours with exactly these numbers, unless they say nothing (all equal, as new biases are)."""
    if y.numel() < 2 or bool((y == y.flatten()[0]).all()):
        return ""
    same = (other for other, x in ours.items() if other != name and x.shape == y.shape)
    return next((other for other in same if equal(ours[other], y)), "")


def _moved(x: Tensor, y: Tensor) -> str:
    """Rows that moved up or down together, or the same rows or columns in another order."""
    if x.dim() == 2 and len(x) == 2 and equal(x.flip(0), y):
        return "its two rows swapped"
    for axis, word in enumerate(("rows", "columns")[: x.dim()]):
        n, what = x.shape[axis], word if x.dim() == 2 else "elements"
        for k in (1, -1, 2, -2):
            stay, at = n - abs(k), (max(0, -k), max(0, k))
            if stay > 1 and equal(x.narrow(axis, at[0], stay), y.narrow(axis, at[1], stay)):
                return f"{what} shifted by {k}"
        if equal(_sorted(x, axis), _sorted(y, axis)):
            return f"the same {what} in another order"
    return ""


def _sorted(x: Tensor, axis: int) -> Tensor:
    """Rows (or columns) in the order of their numbers."""
    rows = x.transpose(0, axis).reshape(x.shape[axis], -1)
    order = torch.arange(len(rows))
    for column in reversed(range(min(rows.shape[1], 4))):  # four numbers tell rows apart
        order = order[rows[order, column].argsort(stable=True)]
    return rows[order]


def _scaled(x: Tensor, y: Tensor) -> str:
    factor = ((x.double() * y.double()).sum() / (x.double() ** 2).sum()).item()
    close = (y.double() - factor * x.double()).abs().max() <= 1e-6 * y.double().abs().max()
    return f"scaled by {factor:.6g}" if close and abs(factor - 1) > 1e-6 else ""


def _few(x: Tensor, y: Tensor) -> str:
    apart = (x.double() - y.double()).abs()
    at = [int(i) for i in torch.nonzero(apart == apart.max())[0]]
    count, most = int((apart != 0).sum()), f"{apart.max().item():.2g}"
    if count == 1:
        return f"1 of {x.numel():,} numbers differs, at {at}, by {most}"
    return f"{count:,} of {x.numel():,} numbers differ, the most at {at}, by {most}"


def told(relations: Mapping[str, str], most: int = 4) -> str:
    """Relations of many tensors in one line: weight and bias of one map together, the rest counted."""
    parts: dict[tuple[str, str], list[str]] = {}
    for name, words in relations.items():
        other = words.removeprefix("swapped with ")
        if other in relations and list(relations).index(other) < list(relations).index(name):
            continue  # told already, from the other side
        part, _, end = name.rpartition(".")
        head, _, other = words.rpartition(" ")
        same = f"{head} {other.rpartition('.')[0]}" if other.endswith(f".{end}") else words
        parts.setdefault((part, same), []).append(end)
    lines = [f"{part}.{ends[0] if len(ends) == 1 else '{' + ','.join(ends) + '}'} {words}"
             for (part, words), ends in parts.items()]  # fmt: skip
    return "; ".join(lines[:most]) + (f"; and {len(lines) - most} more" if len(lines) > most else "")


def gradient_relation(ours: Tensor, theirs: Tensor) -> str:
    """How two gradients of one parameter are related, "" where nothing simple is."""
    for x, words in ((theirs, "theirs is zero"), (ours, "ours is zero")):
        if not x.any():
            return words
    if ours.shape != theirs.shape:
        return ""
    factor = ((ours.double() * theirs.double()).sum() / (ours.double() ** 2).sum()).item()
    close = (theirs.double() - factor * ours.double()).abs().max() <= 1e-5 * theirs.double().abs().max()
    return f"theirs is {factor:.6g} times ours" if close and abs(factor - 1) > 1e-5 else ""


# ---- texts ----

TEXTS: tuple[Text, ...] = (  # without brackets: given spiece.model alone, transformers 5 cuts them in a way of its own
    "The bank of the river was steep, and nobody had mown it since June.",
    "Naïve café owners don't exist!",
    "In 1987 some people came, 92 or more; the rest stayed at home.",
    "x" * 60,
    "a b c d e f g",
    "ALBERT shares ONE block between Twelve layers",
    "",
    ("Does it rain?", "Yes: since Monday."),
    ("One", "the OTHER side"),
)


def _each(change: Callable[[str], str]) -> Callable[[Text], Text]:
    return lambda text: change(text) if isinstance(text, str) else (change(text[0]), change(text[1]))


def _bare(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


_CHANGES = {
    "lower-cases": _each(str.lower),
    "strips accents": _each(_bare),
    "lower-cases and strips accents": _each(lambda text: _bare(text.lower())),
    "drops the second text of a pair": lambda text: text if isinstance(text, str) else text[0],
}


def why_ids_differ(
    ours: Callable[[Text], list[int]], theirs: Callable[[Text], list[int]], texts: Sequence[Text]
) -> str | None:
    """What one tokenizer does that the other does not, if changing the texts beforehand makes all ids equal."""
    for words, change in _CHANGES.items():
        if all(ours(change(text)) == theirs(text) for text in texts):
            return f"theirs {words}, ours does not"
        if all(ours(text) == theirs(change(text)) for text in texts):
            return f"ours {words}, theirs does not"
    if all(ours(text)[1:-1] == theirs(text) for text in texts):
        return "theirs adds no [CLS] and [SEP]"
    apart = [(a, b) for text in texts for a, b in zip(ours(text), theirs(text), strict=False)]
    pairs = dict(apart)
    if all(len(ours(t)) == len(theirs(t)) for t in texts) and all(pairs[a] == b for a, b in apart):
        offsets = {b - a for a, b in apart}
        return (
            f"their ids are ours plus {offsets.pop()}" if len(offsets) == 1 else "the same pieces, other ids for some"
        )
    return None
