"""The doctor looks at the model: as it began, and whether it can learn a few examples by heart, and is not collapsed.

The numbers expected come from how a model is initialized (model.initialize); those marked (m) were measured, on models
from H = 12, L = 2 to H = 1024, L = 24. fitness.py looks at data and plan, symptoms.py at the log; doctor.py puts the
page together. Nothing here changes the model it is given.
"""

import copy
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from minialbert.config import AlbertConfig
from minialbert.heads import IGNORED, AlbertForPreTraining
from minialbert.hooks import Recorder
from minialbert.pretrain.fitness import LOOK, OK, UNKNOWN, WRONG, Finding, several, unknown
from minialbert.pretrain.lamb import Lamb, set_rate
from minialbert.pretrain.start import SCALE
from minialbert.training import parameter_groups

CUT = 0.8796  # standard deviation of a normal cut at two deviations, in those of the whole one
HEAD_START = (".word.weight", ".position.weight", ".projection.weight", ".query.weight", ".key.weight")  # see start.py
HEART_STEPS = 200  # (m) new models from H = 12 to H = 512 needed 52 to 113 at about the rate of `by_heart`
SAME = 0.95  # cosine of two positions, beyond which a trained model is taken for collapsed
LN2 = math.log(2)

# ---- as it began ----


def is_new(model: AlbertForPreTraining) -> bool:
    """No update has touched it: every bias but the words' is 0 and every LayerNorm weight 1, to the bit."""
    norms = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    return all(
        bool((w == (name in norms)).all())
        for name, w in model.named_parameters()
        if name in norms or (name.endswith("bias") and name != "mlm.bias")
    )


def weights(model: AlbertForPreTraining) -> Finding:
    """The spread of each new matrix against initializer_range."""
    name, wide = "initial weights", model.config.initializer_range
    if not is_new(model):
        return unknown(name, "the model has been trained")
    counted = bool(model.get_parameter("mlm.bias").any())
    off, spreads = [], []
    for key, w in model.named_parameters():
        if w.dim() < 2 or (counted and key.endswith(HEAD_START)):
            continue
        spread, noise = float(w.detach().std()) / wide, 4 / math.sqrt(2 * w.numel())
        spreads.append(spread * wide)
        if not CUT * (0.95 - noise) <= spread <= 1.05 + noise:
            off.append(f"{key} {spread * wide:.3g}")
    told = f"standard deviations {min(spreads):.3g} to {max(spreads):.3g}"
    told += "; words, positions, queries and keys have a head start" if counted else ""
    expected = f"{CUT * wide:.3g}: a normal of initializer_range {wide:g} cut at two deviations (uncut: {wide:g})"
    if off:
        return Finding(
            name, WRONG, f"{told}; off: {several(off)}", expected, "begin with a model as AlbertConfig makes it"
        )
    if not 0.005 <= wide <= 0.05:
        return Finding(name, LOOK, told, "initializer_range 0.02, as ALBERT and BERT", "set initializer_range=0.02")
    return Finding(name, OK, told, expected)


@torch.no_grad()
def first_losses(model: AlbertForPreTraining, inputs: dict[str, Tensor]) -> list[Finding]:
    """The losses of a model before its first update, on a few examples."""
    out = model.eval()(**inputs)
    labels = inputs["labels"][inputs["labels"] != IGNORED]
    pairs = int((inputs["sentence_order_label"] != IGNORED).sum())
    found = [first_words(model, float(out.mlm_loss), labels)]
    return [*found, first_order(model, float(out.sop_loss), pairs)] if pairs else found


def first_words(model: AlbertForPreTraining, loss: float, labels: Tensor) -> Finding:
    """ln V, or the cross entropy of the labels under softmax(bias); and a little more, as the logits are not all equal.

    After the last LayerNorm a vector has E numbers of variance 1, so a logit has the variance E s² of its row of the
    table, and the loss is E s² / 2 higher. (m) That holds to 0.09 for E up to 128, and to 0.09 for E = 768.
    """
    cfg, bias = model.config, model.get_parameter("mlm.bias").detach()
    told, counted = f"{loss:.3f} over {len(labels)} words", bool(bias.any())
    length = math.sqrt(cfg.embedding_size) * cfg.initializer_range * (SCALE if counted else CUT)  # of a row
    start = float(-bias.log_softmax(0)[labels].mean())
    expected = start + min(length, 1.0) ** 2 / 2
    margin = 0.1 + min(length, 1.0) / 4
    why = "word frequencies, softmax(bias)" if counted else f"ln V = {math.log(cfg.vocab_size):.3f}"
    said = f"{expected:.3f} +- {margin:.2f}: {why}, and the spread of new logits"
    verdict, advice = OK, ""
    if not is_new(model):
        told += "; the model was trained before"
        said = f"below ln V = {math.log(cfg.vocab_size):.3f}, as it goes on from there"
        expected, margin = math.log(cfg.vocab_size), 0.1
    if loss > expected + margin:
        verdict, advice = WRONG, "worse than knowing nothing: weights too large, or not of this vocabulary"
    elif is_new(model) and loss < expected - margin:
        verdict, advice = LOOK, "a new model cannot know this: does it see the words it must guess?"
    return Finding("first loss, words", verdict, told, said, advice)


def first_row(config: AlbertConfig, rows: Sequence[Mapping[str, Any]], warmup: int) -> Finding:
    """The first loss in the log, when the model of step 0 is gone: it can be too high, but not too low."""
    name, most = "first loss, words", math.log(config.vocab_size) + 0.5
    if not rows:
        return unknown(name, "there is no step-00000000 and no row of training")
    step, loss = rows[0]["step"], rows[0]["mlm_loss"]
    told = f"{loss:.3f} at step {step}, the first in the log; there is no step-00000000"
    if step > max(10, warmup):
        return unknown(name, f"{told}, and this is past the warm-up")
    said = f"at most {most:.3f}: ln V + 0.5, room for dropout and for the first updates"
    bad = loss > most
    return Finding(
        name, WRONG if bad else OK, told, said, "worse than knowing nothing: weights or rate too large" if bad else ""
    )


def first_order(model: AlbertForPreTraining, loss: float, pairs: int) -> Finding:
    """ln 2, within what the two random logits can do: they differ by d, nearly the same d for all pairs."""
    H, s = model.config.hidden_size, CUT * model.config.initializer_range
    d = math.sqrt(2 * H) * s * math.tanh(math.sqrt(H) * s)  # pooled: tanh of H sums of H products
    margin = 0.01 + math.log(math.cosh(min(1.5 * d, 20))) + 1.5 * d / math.sqrt(pairs)
    told = f"{loss:.3f} over {pairs} pairs"
    if not is_new(model):
        verdict, advice = (
            (LOOK, "the trained head says the opposite: are its labels turned round?") if loss > 1 else (OK, "")
        )
        told += "; the model was trained before"
        return Finding("first loss, order", verdict, told, f"below 1: a coin is ln 2 = {LN2:.3f}", advice)
    wrong = abs(loss - LN2) > margin
    advice = "a new model knows no order: weights too large, or it sees the label" if wrong else ""
    said = f"ln 2 = {LN2:.3f} +- {margin:.2f}, what two new logits of H = {H} can do"
    return Finding("first loss, order", WRONG if wrong else OK, told, said, advice)


# ---- one batch by heart ----


def by_heart(
    model: AlbertForPreTraining, inputs: dict[str, Tensor], frozen: Sequence[str], sop_weight: float, seconds: float
) -> Finding:
    """Can a copy of the model learn a few examples by heart? Data, labels and gradient then fit together.

    AdamW without dropout at a rate of 0.2 / H, 0.02 at most, with 10 steps of warm-up.
    """
    model = copy.deepcopy(model).eval()
    for key, w in model.named_parameters():
        w.requires_grad_(key not in frozen)
    if not any(w.requires_grad for w in model.parameters()):
        return Finding(
            "by heart", WRONG, "no parameter learns: all are frozen", "some learn", "unfreeze what is to learn"
        )
    pairs = bool((inputs["sentence_order_label"] != IGNORED).any()) and sop_weight > 0
    goal = {"words": 0.1 * math.log(model.config.vocab_size)} | ({"order": 0.1 * LN2} if pairs else {})
    rate = min(0.02, 0.2 / model.config.hidden_size)
    optimizer = Lamb(parameter_groups(model, 0.0), lr=0.0, trust=False, bias_correction=True)
    began, curve = time.monotonic(), []
    silent: list[str] = []
    for step in range(HEART_STEPS + 1):  # the last round looks, and makes no update any more
        out = model(**inputs)
        curve.append(
            {"words": float(out.mlm_loss.detach())} | ({"order": float(out.sop_loss.detach())} if pairs else {})
        )
        late = time.monotonic() - began > seconds
        if late or step == HEART_STEPS or all(curve[-1][key] < goal[key] for key in goal):
            break
        (out.mlm_loss + (out.sop_loss if pairs else 0.0)).backward()
        if step == 0 and (silent := without_gradient(model, pairs)):
            break
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_rate(optimizer, rate * min(1.0, (step + 1) / 10))
        optimizer.step()
        optimizer.zero_grad()
    rows, T = inputs["input_ids"].shape
    return heart_finding(f"{rows} examples of {T} pieces", curve, goal, silent, seconds if late else None)


def without_gradient(model: AlbertForPreTraining, pairs: bool) -> list[str]:
    """Parameters that are to learn and get no gradient at all."""
    idle = () if pairs else ("sop.", "albert.pooler.")
    learning = [(key, w) for key, w in model.named_parameters() if w.requires_grad and not key.startswith(idle)]
    return [key for key, w in learning if w.grad is None or not w.grad.any()]


def heart_finding(
    what: str, curve: list[dict[str, float]], goal: dict[str, float], silent: list[str], seconds: float | None
) -> Finding:
    """seconds: the limit, if the time was over."""
    name, steps, first, end = "by heart", len(curve) - 1, curve[0], curve[-1]
    told = f"{what}, {steps} steps: "
    told += ", ".join(f"{key} {first[key]:.3f} to {end[key]:.3f}" for key in goal)
    said = ", ".join(f"{key} below {limit:.3f}" for key, limit in goal.items())
    said += (
        f" within {HEART_STEPS} steps: a tenth of knowing nothing (ln V, ln 2); new models needed 52 to 113, measured"
    )
    missed = [key for key in goal if end[key] >= goal[key]]
    if silent:
        advice = "no path leads from the loss to them: look for a detach, or a layer that is not used"
        return Finding(name, WRONG, f"{told}; no gradient: {several(silent)}", said, advice)
    if not missed:
        return Finding(name, OK, told, said)
    if seconds is not None:
        return Finding(name, UNKNOWN, f"{seconds:g} seconds were too few; {told}", said, "give it more --seconds")
    half = all(end[key] < first[key] / 2 for key in missed)
    advice = f"{' and '.join(missed)} cannot be learnt even by heart: data, labels and gradient do not fit together"
    return Finding(name, LOOK if half else WRONG, told, said, "slow to learn" if half else advice)


def heart_of(
    model: AlbertForPreTraining, inputs: dict[str, Tensor], frozen: Sequence[str], sop_weight: float, seconds: float
) -> Finding:
    """`by_heart`; a trained model that fails is laid beside a new one, which tells a bad state from bad data."""
    found = by_heart(model, inputs, frozen, sop_weight, seconds)
    if found.verdict not in (LOOK, WRONG) or is_new(model):
        return found
    other = by_heart(fresh(model.config).to(model.device, model.dtype), inputs, (), sop_weight, seconds)
    told = f"{found.measured}. A new model of these sizes: {other.measured}"
    if other.verdict == OK and found.verdict == LOOK:  # slow from where it stands, and data, labels and gradient fit
        return found._replace(measured=told, verdict=OK, advice="")
    if other.verdict == OK:
        advice = "data and labels can be learnt, by a new model but not by this one any more: see collapse, below"
        return found._replace(measured=told, advice=advice)
    return found._replace(measured=told)


# ---- do all positions have the same state? ----


@torch.no_grad()
def similarity(model: AlbertForPreTraining, inputs: dict[str, Tensor]) -> list[float]:
    """Mean cosine between two positions of a text, padding left out, at hidden 0..L."""
    tape, real = Recorder("hidden"), inputs["attention_mask"].bool()
    model.eval()(**inputs, tap=tape)
    n = real.sum(1)
    means = []
    for layer in range(len(tape)):
        unit = nn.functional.normalize(tape["hidden", layer].float(), dim=-1) * real[..., None]
        total = unit.sum(1).square().sum(-1)  # sum of the cosines of all pairs, each position with itself included
        means.append(float(((total - n) / (n * (n - 1)).clamp(min=1)).mean()))
    return means


def fresh(config: AlbertConfig) -> AlbertForPreTraining:
    """A new model of these sizes; the generators of the process stay as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AlbertForPreTraining(config)


def collapse(model: AlbertForPreTraining, inputs: dict[str, Tensor], step: int, steps: int) -> Finding:
    """Have all positions of a text the same state? Then no word can be told from its neighbour.

    While a model learns how frequent words are, and nothing else yet, it makes the same guess everywhere and the cosine
    does go to 1: in small runs it was there from step 10 on (m).
    """
    row = similarity(model, inputs)
    told = "cosine of two positions, layer by layer: " + " ".join(f"{x:.2f}" for x in row)
    if step == 0:
        said = "not judged at step 0: a new block visited often draws positions together, at L = 24 to 0.99, measured"
        return Finding("collapse", OK, told, said)
    said = f"at most {SAME} at the last layer; measured: small runs that learnt 0.0 to 0.93, stuck ones 0.98 to 1.00"
    if row[-1] <= SAME:
        return Finding("collapse", OK, told, said)
    began = similarity(fresh(model.config).to(model.device, model.dtype), inputs)[-1]
    told += f"; the last one of a new model of these sizes: {began:.2f}"
    if step < min(steps, max(1000, steps // 10)):
        advice = "early this is usual, while the same guess serves everywhere; look again when the loss of words falls"
        return Finding("collapse", LOOK, told, said, advice)
    advice = "all positions have the same state: go on from before it, or begin anew, with a lower peak"
    return Finding("collapse", WRONG, told, said, advice)
