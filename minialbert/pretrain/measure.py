"""How good a model is on text it was not trained on: masked words and sentence order, on a fixed set of examples.

The set is the first `count` examples of epoch 0 under a fixed seed: the same ones at every checkpoint of every run, so
that the figures can be laid side by side. Used by loop.py; examples.py makes the examples, heads.py the losses.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice, takewhile
from typing import Any

import torch
from torch import Tensor

from minialbert.heads import IGNORED, AlbertForPreTraining
from minialbert.pretrain.examples import Examples

FIGURES = ("mlm_loss", "mlm_right", "words", "sop_loss", "sop_right", "pairs")


def held_out_batches(
    examples: Examples, count: int, rows: int, rank: int = 0, world: int = 1
) -> Iterator[dict[str, Tensor]]:
    """The first `count` examples of epoch 0, or all it has, `rows` at a time; every `world`-th is of this rank."""
    epoch = takewhile(lambda row: row[0] == 0, examples.stream())
    planned = list(islice(epoch, rank, count, world))
    for at in range(0, len(planned), rows):
        yield examples.collate([examples.example(*row) for row in planned[at : at + rows]])


@torch.no_grad()
def measure(
    model: AlbertForPreTraining,
    batches: Iterator[dict[str, Tensor]],
    autocast: Callable[[], Any],
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> dict[str, float]:
    """The held-out figures of a model; it is put in eval mode and then back.

    Returns loss (mlm + sop), mlm_loss and sop_loss (nats), mlm_accuracy, sop_accuracy, mlm_perplexity = e^mlm_loss, and
    how many words and pairs they are of. autocast makes the context to compute in; total sums over ranks.
    """
    was = model.training
    model.eval()
    sums = torch.zeros(len(FIGURES), dtype=torch.float64)
    for inputs in batches:
        with autocast():
            out = model(**{name: x.to(model.device) for name, x in inputs.items()})
        for at, logits, key in ((0, out.prediction_logits, "labels"), (3, out.sop_logits, "sentence_order_label")):
            loss = out.sop_loss if at else out.mlm_loss
            labels = inputs[key].to(logits.device)
            counted = labels != IGNORED
            right = int(((logits.argmax(-1) == labels) & counted).sum())
            n = int(counted.sum())
            sums[at : at + 3] += torch.tensor([float(loss) * n, right, n], dtype=torch.float64)
    model.train(was)
    mlm, words_right, words, sop, pairs_right, pairs = total(sums).tolist()
    mlm_loss, sop_loss = mlm / max(words, 1), sop / max(pairs, 1)
    return {
        "loss": mlm_loss + sop_loss,
        "mlm_loss": mlm_loss,
        "mlm_accuracy": words_right / max(words, 1),
        "mlm_perplexity": math.exp(min(mlm_loss, 700.0)),
        "words": int(words),
        "sop_loss": sop_loss,
        "sop_accuracy": pairs_right / max(pairs, 1),
        "pairs": int(pairs),
    }


def fall(now: Mapping[str, float], best: Mapping[str, float]) -> str | None:
    """What has got so much worse since the best checkpoint that a person should look, in words; None as a rule.

    A fifth of the masked words that were right, or a third of what sentence order was better than a coin; and by more
    than four standard errors, so that chance alone does not do it.
    """
    told = []
    for name, counted, chance, lost in (("mlm_accuracy", "words", 0, 1 / 5), ("sop_accuracy", "pairs", 1 / 2, 1 / 3)):
        was, less = best[name], best[name] - now[name]
        error = math.sqrt(was * (1 - was) / best[counted] + now[name] * (1 - now[name]) / now[counted])
        if less > max(lost * (was - chance), 4 * error):
            told.append(f"{name} fell from {was:.3f} to {now[name]:.3f}")
    return ", ".join(told) or None
