"""The doctor's first look: is the data of a pre-training run what the recipe says, and is its plan sane?

A check is a function that returns a Finding: what was measured, what was expected and where that comes from, what to
do. What cannot be known is "not measured", with the reason; nothing is guessed. Neighbours: vitals.py looks at the
model, symptoms.py at what training has left behind, doctor.py reads the run and makes the page.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minialbert.config import AlbertConfig
from minialbert.pretrain.corpus import Corpus
from minialbert.pretrain.examples import Example, Examples, Planned
from minialbert.pretrain.lamb import scaled_rate
from minialbert.pretrain.masking import unmask
from minialbert.pretrain.plan import Plan
from minialbert.pretrain.report import Tally
from minialbert.pretrain.sop import FOLLOWS, NO_LABEL, RANDOM, SWAPPED
from minialbert.tokenizers import Tokenizer

OK, LOOK, WRONG, UNKNOWN = "ok", "look", "wrong", "not measured"
SMALL_BATCH = 256  # examples; below, LAMB's rule for the rate says too little
BETA2 = 0.999  # of Lamb and its AdamW, as in the loop


class Finding(NamedTuple):
    """verdict: "ok", "look" (unusual), "wrong", or "not measured", and then `measured` says why."""

    name: str
    verdict: str
    measured: str
    expected: str = ""
    advice: str = ""


def unknown(name: str, why: str) -> Finding:
    return Finding(name, UNKNOWN, why)


def several(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ---- the data ----


def vocabulary(config: AlbertConfig, tokenizer: Tokenizer) -> Finding:
    """Do the rows of the word table and the ids of the vocabulary belong together?"""
    V, have = config.vocab_size, len(tokenizer)
    roles = {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "unk", "cls", "sep", "mask")}
    told = f"{have:,} pieces for V = {V:,} rows; " + ", ".join(f"{name} {number}" for name, number in roles.items())
    verdict, advice = OK, ""
    if have > V or len(set(roles.values())) < len(roles) or max(roles.values()) >= V:
        verdict, advice = WRONG, "ids without a row of their own cannot be learnt; train with the right vocabulary"
    elif V - have > 127:
        verdict, advice = LOOK, f"{V - have:,} rows are never used, and every softmax sums over them: set vocab_size"
    return Finding("vocabulary", verdict, told, "a row for each piece, at most 127 more; five special ids", advice)


def data(examples: Examples, drawn: Sequence[Example]) -> list[Finding]:
    """What the first examples of the run are like."""
    tally = Tally(examples)
    for example in drawn:
        tally.add(example)
    found = tally.result()
    return [
        order_labels(examples, drawn),
        *([] if examples.recipe.order == "none" else [order_balance(drawn)]),
        masking(examples, found),
        text(examples, found),
    ]


def document_of(corpus: Corpus, sentence: int) -> int:
    k = bisect.bisect_right(corpus.first_sentence, sentence) - 1
    begins = corpus.shards[k][2]
    place = np.searchsorted(begins, sentence - corpus.first_sentence[k], side="right")
    return corpus.first_document[k] + int(place) - 1


def true_label(corpus: Corpus, planned: Planned) -> int:
    """The order label, from nothing but where the two segments stand in the corpus."""
    (a0, a1), (b0, b1) = planned.a, planned.b
    if b0 == b1:
        return NO_LABEL
    if document_of(corpus, a0) == document_of(corpus, b0) and b0 == a1:
        return FOLLOWS
    return SWAPPED if document_of(corpus, a0) == document_of(corpus, b0) and b1 == a0 else RANDOM


def within(part: np.ndarray, whole: np.ndarray) -> bool:
    """Is `part` found in `whole`, in one piece?"""
    said, all_of_it = (f" {' '.join(map(str, ids.tolist()))} " for ids in (part, whole))
    return said in all_of_it


def order_labels(examples: Examples, drawn: Sequence[Example]) -> Finding:
    """Rebuilds each label from the text, and compares it with the one that the model is given."""
    name, corpus = "order labels", examples.corpus
    if examples.recipe.order == "none":
        return unknown(name, 'order="none": there is no task about pairs in this run')
    given = examples.collate(drawn)["sentence_order_label"].tolist()
    labels = texts = 0
    for example, label in zip(drawn, given, strict=True):
        masked, turn, planned = example.masked, example.turn, example.planned
        ids = unmask(masked.ids, masked.positions, masked.labels)
        labels += label != true_label(corpus, planned)
        segments = [(ids[1 : turn - 1], planned.a), (ids[turn:-1], planned.b)]
        texts += not all(a == b or within(part, corpus.ids(a, b)) for part, (a, b) in segments)
    told = f"{labels} of {len(drawn)} labels disagree with the text, {texts} segments are not where the plan says"
    wrong = WRONG if labels + texts else OK
    advice = "the second task cannot be learnt from such labels: do not train; the code that makes pairs is at fault"
    return Finding(
        name, wrong, told, "0 and 0: rebuilt from the places in the corpus", advice if labels + texts else ""
    )


def order_balance(drawn: Sequence[Example]) -> Finding:
    """Is the order label a fair coin, and how many examples have none?"""
    name, n = "order balance", sum(example.label != NO_LABEL for example in drawn)
    own = [example.label for example in drawn if example.kind in ("in order", "swapped")]
    kinds = [example.kind for example in drawn]
    coin = own if "swapped" in kinds else [example.label for example in drawn if example.label != NO_LABEL]
    if not n or not coin:
        advice = "documents of one sentence have no order: check --layout, or train with --order none"
        return Finding(name, WRONG, f"none of {len(drawn)} examples has an order label", "most have one", advice)
    share, bound = sum(label == 1 for label in coin) / len(coin), 2 / math.sqrt(len(coin))
    elsewhere = kinds.count("random") / len(kinds)
    told = f"label 1 in {share:.1%} of {len(coin)} pairs; no label in {1 - n / len(drawn):.1%} of the examples"
    told += f"; B from another document in {elsewhere:.1%}" if elsewhere else ""
    verdict, advice = OK, ""
    if abs(share - 0.5) > bound:
        verdict, advice = WRONG, "the order of pairs must be a fair coin; the code that makes pairs is at fault"
    elif n < 0.9 * len(drawn):
        verdict, advice = LOOK, "many documents are one sentence: is --layout right, are documents apart?"
    expected = f"50 % +- {bound:.1%} (four deviations of a fair coin), a label in 9 of 10"
    return Finding(name, verdict, told, expected, advice)


def masking(examples: Examples, found: dict[str, Any]) -> Finding:
    """The true masking rate, and what stands in the place of a masked piece."""
    rules, fate = examples.masker.rules, found["corruption_share"]
    share, n = found["masked_share_of_all_tokens"], found["predictions_per_instance"] * found["instances"]
    told = f"{share:.1%} of the tokens; {fate['mask']:.0%} [MASK], {fate['same_as_label']:.0%} kept, "
    told += f"{fate['other_piece']:.0%} another piece"
    together = found["pieces_per_accepted_ngram"] if rules.per_span else 1.0  # pieces that share one draw
    bound = 4 * math.sqrt(rules.masked * (1 - rules.masked) * together / max(n, 1))
    verdict, advice = OK, ""
    if not 0.9 * rules.probability <= share <= 1.1 * rules.probability:
        most = rules.max_predictions / examples.recipe.max_length
        verdict = LOOK
        advice = f"{rules.max_predictions} slots in {examples.recipe.max_length} pieces are {most:.1%} at most: set "
        advice += "max_predictions, if that is not meant (Google's 20 at length 512 are 4 %)"
    elif abs(fate["mask"] - rules.masked) > bound:
        verdict, advice = WRONG, "the code that masks is at fault"
    expected = f"{rules.probability:.0%}, within a tenth of it; [MASK] {rules.masked:.0%} +- {bound:.1%} (the recipe)"
    return Finding("masking", verdict, told, expected, advice)


def text(examples: Examples, found: dict[str, Any]) -> Finding:
    """Unknown pieces, padding, and what is cut away."""
    corpus = examples.corpus
    unknown_share, lost = corpus.unknown / corpus.tokens, found["tokens_lost_share"]
    padding = 1 - found["sequence_length_tokens"] / examples.recipe.max_length
    told = f"{unknown_share:.2%} unknown pieces, {padding:.0%} padding, {lost:.0%} of the text cut away"
    advice = []
    if unknown_share > 0.02:
        advice.append("is it the tokenizer of this language?")
    if padding > 0.5:
        advice.append("documents are short for this length: a shorter --stage does the same in less time")
    if lost > 0.3:
        advice.append("sentences are long for this length: a longer --stage keeps more of them")
    if corpus.documents == 1 and corpus.sentences > 1000:
        advice.append("all is one document: put blank lines between documents, order is learnt within each")
    expected = (
        "at most 2 % unknown (the tokenizer fits), 50 % padding (else work is wasted), 30 % cut away (else text is)"
    )
    return Finding("text", LOOK if advice else OK, told, expected, "; ".join(advice))


# ---- the plan ----


def warm_up_of(plan: Plan) -> int:
    return plan.steps // 40 if plan.warmup is None else plan.warmup


def warm_up(plan: Plan) -> Finding:
    """The steps of rising rate; without Adam's bias correction they also hide how short v is at first.

    AdamW's step is the rate times m / sqrt(v), and v has gathered a share 1 - 0.999 ** t of the squares it will have:
    after 100 steps a step is 3 times as long as the rate says. LAMB's length does not depend on it.
    """
    warmup = warm_up_of(plan)
    told = f"{warmup:,} of {plan.steps:,} steps ({warmup / plan.steps:.1%})"
    verdict, advice, longer = OK, "", 1 / math.sqrt(1 - BETA2 ** (warmup + 1))
    if plan.optimizer == "adamw":
        told += f"; at its end a step of AdamW is {longer:.1f} times as long as the rate says"
    if not warmup:
        verdict = LOOK
        advice = f"the first updates follow means of nothing yet; try --warmup {max(10, plan.steps // 40)}"
    elif warmup > plan.steps / 2:
        verdict, advice = LOOK, "most of the run is spent below its rate: a shorter --warmup"
    elif plan.optimizer == "adamw" and longer > 4:
        verdict, advice = LOOK, "there is no bias correction: --warmup of some hundred steps, or a lower --peak"
    return Finding("warm-up", verdict, told, "2.5 %: ALBERT's 3,125 of 125,000", advice)


def peak(plan: Plan, H: int) -> Finding:
    """The highest rate against what is known to work for such a batch."""
    batch = max(stage.batch for stage in plan.stages)
    lamb = plan.optimizer == "lamb"
    rate = plan.peak if plan.peak is not None else scaled_rate(batch)
    if lamb:
        rule, why = (
            scaled_rate(batch),
            f"ALBERT's 0.00176 for batches of 4,096, times the square root of {batch:,} / 4,096",
        )
    else:
        rule = 1e-4 * max(1.0, 768 / H) * max(1.0, math.sqrt(batch / 256))
        why = f"BERT's 1e-4 at a batch of 256 and H = 768; narrower models bear more, as 768 / {H}"
    verdict, advice = OK, ""
    if lamb and rate >= 1:
        verdict, advice = (
            WRONG,
            f"LAMB moves each matrix by rate times its own length; --peak {rule:.2g} to {4 * rule:.2g}",
        )
    elif lamb and batch < SMALL_BATCH:
        why += "; it is of batches of thousands, and far too low for small ones"
        if rate < 0.001:
            verdict = LOOK
            advice = "models of H = 64 learnt at 0.005 to 0.03 with batches of 32, and not at 0.0001: --peak 0.005"
    elif rate > 4 * rule:
        verdict = LOOK
        advice = f"small models bear it, large ones may diverge: if the loss jumps, --peak {rule:.2g} to {4 * rule:.2g}"
    told = f"{rate:.3g} ({plan.optimizer}), {rate / rule:.3g} times the rule"
    return Finding("peak of the rate", verdict, told, f"at most 4 times {rule:.2g}: {why}", advice)
