"""What the pre-training examples are really like: counted over many, and a few written out for a person to read.

The examples come from examples.py; the shares have the names of Google's recorded statistics, so both can be compared.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from minialbert.pretrain.examples import Example, Examples
from minialbert.pretrain.masking import unmask
from minialbert.pretrain.sop import FOLLOWS, NO_LABEL, RANDOM, SWAPPED
from minialbert.tokenizers import Tokenizer


def epoch_of(examples: Examples, epoch: int, limit: int | None = None) -> Iterator[Example]:
    """The examples of one epoch in order, `limit` of them at most."""
    for e, number, row in examples.stream(epoch):
        if e != epoch or number == limit:
            return
        yield examples.example(e, number, row)


def statistics(examples: Examples, epochs: Iterable[int] = (0,), limit: int | None = None) -> dict[str, Any]:
    """Counts and shares over the examples of some epochs (at most `limit` of each)."""
    tally = Tally(examples)
    for epoch in epochs:
        for example in epoch_of(examples, epoch, limit):
            tally.add(example)
    return tally.result()


class Tally:
    """Takes example after example; `result` says what they were like."""

    def __init__(self, examples: Examples):
        self.masker, self.corpus = examples.masker, examples.corpus
        self.special = np.array(sorted(examples.tokenizer.special_ids))
        self.mask_id, self.length = examples.masker.mask_id, examples.recipe.max_length
        self.sums: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.labels: Counter[int] = Counter()
        self.drawn: Counter[int] = Counter()
        self.taken: Counter[int] = Counter()
        self.refused: Counter[str] = Counter()
        self.attempts = 0
        self.lengths: list[tuple[int, int, int, int]] = []  # of an example: pieces, of A, of B, masked

    def add(self, example: Example) -> None:
        masked, turn = example.masked, example.turn
        ids = unmask(masked.ids, masked.positions, masked.labels)
        b = max(len(ids) - turn - 1, 0)
        self.lengths.append((len(ids), turn - 2, b, len(masked.positions)))
        self.kinds[example.kind] += 1
        self.labels[example.label] += 1
        (a0, a1), (b0, b1) = example.planned.a, example.planned.b
        several = example.kind in ("in order", "swapped")
        self.sums["sentences"] += a1 - a0 + (b1 - b0 if several else 0)
        self.sums["cut"] += example.lost > 0
        self.sums["lost"] += example.lost

        seen = masked.ids[masked.positions]
        hidden, same = seen == self.mask_id, seen == masked.labels
        self.sums["mask"] += int(hidden.sum())
        self.sums["same"] += int((same & ~hidden).sum())
        self.sums["special"] += int((np.isin(seen, self.special) & ~hidden & ~same).sum())

        starts = self.masker.starts[ids] | ~self.masker.maskable[ids]
        self.sums["starts"] += int(starts.sum())
        self.sums["begins_inside_a_word"] += int(not starts[1])
        places = self.masker.maskable[ids].nonzero()[0]
        for draw in masked.draws:
            self.attempts += 1
            self.drawn[draw.drawn] += draw.room == self.masker.rules.ngram  # near an end there is no free choice
            if draw.taken:
                self.taken[draw.taken] += 1
                self.sums["pieces_in_runs"] += draw.stop - draw.start
                self.sums["across"] += bool(places[draw.start] < turn - 1 < places[draw.stop - 1])
            else:
                self.refused[draw.why] += 1

    def result(self) -> dict[str, Any]:
        n, sums = max(len(self.lengths), 1), self.sums
        size, a, b, masked = (np.array(column) for column in zip(*self.lengths, strict=True))
        total, predictions = int(size.sum()), max(int(masked.sum()), 1)
        pairs = n - self.kinds["single"]
        own = self.kinds["in order"] + self.kinds["swapped"]
        labelled = max(n - self.labels[NO_LABEL], 1)
        random = predictions - sums["mask"] - sums["same"]
        return {
            "instances": len(self.lengths),
            "tokens": total,
            "sequence_length_tokens": float(size.mean()),
            "full_length_share": float((size == self.length).mean()),
            "segment_a_tokens": float(a.mean()),
            "segment_b_tokens": float(b.sum() / max(pairs, 1)),
            "sentences_per_example": sums["sentences"] / n,
            "pairs_truncated_share": sums["cut"] / n,
            "tokens_lost_share": sums["lost"] / (sums["lost"] + total),
            "case_share": shares(self.kinds),
            "label_1_share": self.labels[SWAPPED] / labelled,
            "no_label_share": self.labels[NO_LABEL] / n,
            "swapped_share_given_two_or_more_sentences": self.kinds["swapped"] / max(own, 1),
            "masked_share_of_all_tokens": predictions / total,
            "predictions_per_instance": float(masked.mean()),
            "corruption_share": {
                "mask": sums["mask"] / predictions,
                "same_as_label": sums["same"] / predictions,
                "other_piece": random / predictions,
            },
            "random_pieces_that_are_special_share": sums["special"] / max(random, 1),
            "ngram_drawn_share": shares(self.drawn),
            "ngram_accepted_share_words": shares(self.taken),
            "pieces_per_accepted_ngram": sums["pieces_in_runs"] / max(sum(self.taken.values()), 1),
            "rejected_as_covered_share": self.refused["covered"] / max(self.attempts, 1),
            "rejected_as_too_long_share": self.refused["too long"] / max(self.attempts, 1),
            "accepted_ngrams_spanning_the_middle_sep_share": sums["across"] / max(sum(self.taken.values()), 1),
            "token_boundary_share": sums["starts"] / total,
            "instances_whose_first_piece_is_a_continuation_share": sums["begins_inside_a_word"] / n,
        }


def shares(counts: Counter) -> dict[str, float]:
    """Counts as shares of their sum, in order of their keys."""
    total = max(sum(counts.values()), 1)
    return {str(key): counts[key] / total for key in sorted(counts)}


def describe(found: dict[str, Any]) -> str:
    """The figures that matter, in a few lines: true masking rate, lengths of runs, labels, lengths."""
    f, fate = found, found["corruption_share"]
    return "\n".join([
        f"{f['instances']:,} examples, {f['tokens']:,} tokens: {f['sequence_length_tokens']:.1f} an example "
        f"(A {f['segment_a_tokens']:.1f}, B {f['segment_b_tokens']:.1f}), {f['full_length_share']:.0%} full; "
        f"{f['tokens_lost_share']:.1%} of the text cut away",
        f"masked {f['masked_share_of_all_tokens']:.2%} of the tokens, {f['predictions_per_instance']:.1f} an example: "
        f"{fate['mask']:.1%} [MASK], {fate['same_as_label']:.1%} unchanged, {fate['other_piece']:.1%} another piece",
        f"words in a run {percent(f['ngram_accepted_share_words'])} (drawn {percent(f['ngram_drawn_share'])}); "
        f"{f['pieces_per_accepted_ngram']:.2f} pieces",
        f"pairs {percent(f['case_share'])}; label 1 for {f['label_1_share']:.1%} of those with a label",
    ])  # fmt: skip


def percent(shares: dict[str, float]) -> str:
    return ", ".join(f"{key}: {share:.1%}" for key, share in shares.items())


# ---- for a person to read ----


def check(examples: Examples, count: int = 3, epoch: int = 0) -> str:
    """Some examples decoded: the segments as they were, what the model sees, what it must guess, and the label."""
    found = epoch_of(examples, epoch, count)
    return "\n\n".join(written(number, example, examples.tokenizer) for number, example in enumerate(found))


def written(number: int, example: Example, tokenizer: Tokenizer) -> str:
    """One example as text."""
    masked, turn = example.masked, example.turn
    ids = unmask(masked.ids, masked.positions, masked.labels).tolist()
    share = len(masked.positions) / len(ids)
    lines = [
        f"example {number}: {meaning(example)}; {len(ids)} pieces, {len(masked.positions)} masked ({share:.1%})",
        f"  A     {tokenizer.decode(ids[1 : turn - 1])}",
        f"  B     {tokenizer.decode(ids[turn:-1]) if len(ids) > turn else '(none)'}",
        f"  sees  {tokenizer.decode(masked.ids.tolist())}",
    ]
    names = tokenizer.convert_ids_to_tokens
    for position, label in zip(masked.positions.tolist(), masked.labels.tolist(), strict=True):
        seen = int(masked.ids[position])
        what = "unchanged" if seen == label else names(seen)
        lines.append(f"  {position:5d} {names(label)}  <-  {what}")
    return "\n".join(lines)


def meaning(example: Example) -> str:
    """The label in words."""
    if example.label == NO_LABEL:
        return "no order label"
    if example.kind == "random":
        return f"label {RANDOM}, B is from another document"
    if example.label == SWAPPED:
        return f"label {SWAPPED}, SWAPPED: in the text B stands before A"
    return f"label {FOLLOWS}, IN ORDER: B follows A"
