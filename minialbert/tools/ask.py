"""Asking the two heads a model was pre-trained with: which word belongs here, and which of two segments comes first."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from minialbert.convert.filling import fill
from minialbert.convert.reading import HEADS, check_vocabulary, contents_of
from minialbert.convert.sources import opened
from minialbert.errors import CheckpointError, InputError
from minialbert.heads import IN_ORDER, AlbertForMaskedLM, AlbertForPreTraining
from minialbert.model import AlbertModel
from minialbert.tokenizers import Tokenizer


class Guess(NamedTuple):
    """One word that could stand for a [MASK]."""

    piece: str
    id: int
    probability: float


def load_with_head(cls: type, ref: str | Path | None) -> tuple[Any, Tokenizer]:
    """A model with its heads, and its tokenizer, from whatever `load` takes.

    Raises what loading raises, and CheckpointError when a head is not in the file: a new one would answer at random.
    """
    with opened(ref) as source:
        model, report, _ = fill(cls, source, torch.float32, None, {})
        if report.new:
            missing = ", ".join(dict.fromkeys(HEADS[ours.split(".")[0]] for ours in report.new))
            raise CheckpointError(f"{ref}: has no head for {missing}; get a checkpoint as it was pre-trained")
        tokenizer = source.tokenizer(config=model.config)
        check_vocabulary(model.config, tokenizer, tokenizer.source)
    return model, tokenizer


def load_with_heads(ref: str | Path | None = None) -> tuple[Any, Tokenizer]:
    """A model with the pre-training heads that its file has, and its tokenizer: both, masked words alone, or none."""
    with opened(ref) as source:
        contents = contents_of(source, None, {})
        words, order = contents.has("mlm"), contents.has("sop")
        cls: Any = AlbertForPreTraining if words and order else AlbertForMaskedLM if words else AlbertModel
        model, _, _ = fill(cls, source, torch.float32, None, {})
        tokenizer = source.tokenizer(config=model.config)
        check_vocabulary(model.config, tokenizer, tokenizer.source)
    return model, tokenizer


def fill_mask(
    model: AlbertForMaskedLM | AlbertForPreTraining, tokenizer: Tokenizer, text: str, top: int = 5
) -> list[list[Guess]]:
    """For each [MASK] in a text, the `top` words that the model finds likeliest, best first.

    Raises InputError for a text without [MASK], or longer than the model has positions.
    """
    V = model.config.vocab_size
    if not 1 <= top <= V:
        raise InputError(f"top={top} must be from 1 to {V}, the rows of the word table")
    ids = tokenizer.encode(text)
    places = [place for place, number in enumerate(ids) if number == tokenizer.mask_id]
    if not places:
        raise InputError(f"{text!r}: no {tokenizer.convert_ids_to_tokens(tokenizer.mask_id)} in it; put one for a word")
    with torch.inference_mode():
        out = model([ids], masked_positions=[places])
        logits = out.prediction_logits if isinstance(model, AlbertForPreTraining) else out.logits  # [1, M, V]
        chances, numbers = logits[0, :, : len(tokenizer)].softmax(-1).topk(min(top, len(tokenizer)))  # [M, top]
    return [
        [Guess(tokenizer.convert_ids_to_tokens(n), n, p) for n, p in zip(row_n, row_p, strict=True)]
        for row_n, row_p in zip(numbers.tolist(), chances.tolist(), strict=True)
    ]


def order(model: AlbertForPreTraining, tokenizer: Tokenizer, first: str, second: str) -> float:
    """The probability that `first` stands before `second` in a text; in a BERT, that `second` follows it at all."""
    batch = tokenizer([(first, second)])
    with torch.inference_mode():
        logits = model(**batch).sop_logits  # [1, 2]
    return logits.softmax(-1)[0, IN_ORDER].item()
