"""One page about one text: where every head looks, what each visit would answer, how the hidden states move.

`look` gathers the numbers (from lens.py and trace.py beside this folder), `page` puts them into a page that needs
nothing else: page.html is its frame, page.css its looks, page.js draws. `minialbert explore` (cli/look.py) writes it.
"""

import base64
import dataclasses
import hashlib
import json
import math
import os
import shlex
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from minialbert.convert.sources import SHIPPED
from minialbert.errors import FileError, InputError
from minialbert.heads import encoder_of
from minialbert.tokenizers import Encoding, Tokenizer
from minialbert.tools.lens import attention_maps, layer_distances, logit_lens, looking, token_path
from minialbert.tools.trace import trace
from minialbert.version import VERSION
from minialbert.whole import whole_file

TOP = 5  # guesses kept for each cell of the lens
MOST = 4_000_000  # probabilities that one page holds, L A T T; measured: 5 bytes each, so 20 MB
HEADS = {"mlm": "masked words", "sop": "sentence order"}  # attribute of a model: what its head tells


def explore(
    model: nn.Module, tokenizer: Tokenizer, text: str, pair: str | None = None, *, ref: str | Path | None = None
) -> str:
    """The page about a text, or a pair, as one string of HTML; `write` puts it into a file.

    `ref` is what `load` was given for this model (None: the one that ships), for the names on the page; of a path only
    the last part is shown.
    Raises InputError for a text longer than the model or a page can take, and for numbers that are not finite.
    """
    return page(look(model, tokenizer, text, pair, ref=ref))


# ---- the numbers ----


def look(
    model: nn.Module, tokenizer: Tokenizer, text: str, pair: str | None = None, *, ref: str | Path | None = None
) -> dict[str, Any]:
    """What the page shows, as plain lists and numbers.

    attention[l - 1][a] is a list of T T probabilities in millionths, query by query; lens[l][t] the best pieces with
    probabilities, None where the model has no head to ask; path.points[l][t] is a place on the plane.
    """
    texts = [text if pair is None else (text, pair)]
    batch = tokenizer(texts)
    check_length(model, batch.input_ids.shape[1])
    has_words = getattr(model, "mlm", None) is not None
    with looking(model):
        maps = [millionths(probs, layer) for layer, probs in enumerate(attention_maps(model, batch), start=1)]
        path, moved, steps = token_path(model, batch), layer_distances(model, batch), trace(model, batch)
        lens = lens_of(model, tokenizer, batch) if has_words else None
    return {
        "version": VERSION,
        "command": command(text, pair, ref),
        "call": f"tokenizer({texts!r})",
        "model": about(model, ref),
        "text": text,
        "pair": pair,
        "tokens": batch.tokens[0],
        "start": first_to_show(tokenizer, batch),
        "attention": maps,
        "lens": lens,
        "missing": f"This {type(model).__name__} has no head for masked words, so there is nothing to ask.",
        "path": {"points": digits(path.points), "share": digits(path.share)},
        "distances": {"l2": digits(moved.l2, 6), "degrees": digits(moved.degrees, 6)},
        "steps": [digits(dataclasses.asdict(step), 6) for step in steps],
    }


def check_length(model: nn.Module, T: int) -> None:
    config = encoder_of(model).config
    L, A, P = config.num_visits, config.num_attention_heads, config.max_position_embeddings
    if T > P:
        raise InputError(f"the text makes T={T} tokens, the model has P={P} positions: take a shorter one")
    if L * A * T * T > MOST:
        raise InputError(
            f"the text makes T={T} tokens, whose maps are L A T T = {L * A * T * T:,} numbers; a page holds {MOST:,}: "
            f"take a text of up to {math.isqrt(MOST // (L * A))} tokens"
        )


def about(model: nn.Module, ref: str | Path | None) -> dict[str, Any]:
    """The model's name, sizes and sharing plan."""
    encoder = encoder_of(model)
    config = encoder.config
    L, A, H = config.num_visits, config.num_attention_heads, config.hidden_size
    heads = HEADS | ({"sop": "next sentence"} if config.model_type == "bert" else {})
    return {
        "name": shown_name(ref) if ref is not None else SHIPPED,
        "load": f"minialbert.load({'' if ref is None else repr(shown_name(ref))})",
        "digest": encoder.digest(),
        "sizes": {
            "L": L, "A": A, "H": H, "D": H // A, "E": config.embedding_size, "F": config.intermediate_size,
            "V": config.vocab_size,
        },
        "projection": config.has_projection,
        "plan": encoder.encoder.plan,
        "block": sum(parameter.numel() for parameter in encoder.encoder.parameters()),
        "heads": [told for name, told in heads.items() if getattr(model, name, None) is not None],
    }  # fmt: skip


def shown_name(ref: str | Path) -> str:
    """A name as it is, a path without the folders above: where somebody keeps files is not for those they write to."""
    return Path(ref).absolute().name if os.path.exists(ref) else str(ref)


def command(text: str, pair: str | None, ref: str | Path | None) -> str:
    more = ([] if pair is None else ["--pair", pair]) + ([] if ref is None else ["--model", shown_name(ref)])
    return shlex.join(["minialbert", "explore", text, *more, "--output", "page.html"])


def first_to_show(tokenizer: Tokenizer, batch: Encoding) -> int:
    """The first [MASK], or else the first token that is not [CLS]: what the page is about when it opens."""
    mask = tokenizer.special_tokens.get(tokenizer.SPECIAL["mask"])
    ids = batch.input_ids[0].tolist()
    return ids.index(mask) if mask in ids else 1


def lens_of(model: nn.Module, tokenizer: Tokenizer, batch: Encoding) -> list[list[list[tuple[str, float]]]]:
    """For each layer 0..L and each token the best pieces, with probabilities of four digits."""
    V = encoder_of(model).config.vocab_size
    found = logit_lens(model, batch, top=min(TOP, V))
    ids, chances = found.ids[:, 0].tolist(), digits(found.probabilities[:, 0])
    used = found.ids.unique().tolist()
    names = {n: tokenizer.convert_ids_to_tokens(n) if n < len(tokenizer) else f"row {n}" for n in used}
    return [
        [[(names[n], p) for n, p in zip(*cell, strict=True)] for cell in zip(*layer, strict=True)]
        for layer in zip(ids, chances, strict=True)
    ]


def millionths(probs: Tensor, layer: int) -> list[list[int]]:
    """Probabilities [1, A, T, T] as whole numbers, a list of T T for each head: half the size, and exact in JSON."""
    if not probs.isfinite().all():
        raise InputError(f"attention.probs at layer {layer} holds numbers that are not finite: nothing to draw")
    return (probs[0].double() * 1e6).round().long().flatten(1).tolist()


def digits(numbers: Any, kept: int = 4) -> Any:
    """The same lists or dict, floats rounded to so many digits; what is not finite is None: JSON has no word for it."""
    if isinstance(numbers, Tensor):
        numbers = numbers.tolist()
    if isinstance(numbers, dict):
        return {name: digits(value, kept) for name, value in numbers.items()}
    if isinstance(numbers, (list, tuple)):
        return [digits(value, kept) for value in numbers]
    if isinstance(numbers, float):
        return float(f"{numbers:.{kept}g}") if math.isfinite(numbers) else None
    return numbers


# ---- the page ----


def page(data: dict[str, Any]) -> str:
    """The frame, filled. No text of a user becomes markup: all of it is in the JSON, where no `<` stays.

    The policy allows the page's own style and script, by their SHA-256, and nothing else: no network, no eval.
    """
    folder = files(__name__)
    frame, style, script = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    policy = f"default-src 'none'; style-src {sha256(style)}; script-src {sha256(script)}; base-uri 'none'"
    filled = frame.replace("@POLICY@", policy).replace("@STYLE@", style).replace("@SCRIPT@", script)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # in ASCII, whatever the text holds
    return filled.replace("@DATA@", text.replace("<", "\\u003c"))  # last: nothing looks for marks in it


def sha256(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def check_target(path: str | Path) -> None:
    """Can a page be written there? Asked before the work. Raises FileError."""
    path = Path(path)
    if path.is_dir():
        raise FileError(f"{path}: is a directory; give the name of the page in it, as {path / 'page.html'}")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a page is HTML, give a name that ends in .html")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no directory {path.parent}; make it, or give another place")


def write(html: str, path: str | Path) -> None:
    """A page into a file, whole or not at all; one that is there is replaced. Raises FileError."""
    check_target(path)
    with whole_file(Path(path)) as temporary:
        temporary.write_bytes(html.encode())
