"""The doctor during a run: what its log, its newest checkpoint, and the places where it stopped, tell.

Figures jump from step to step, so what is compared are medians of tenths of the log, and a difference counts when it is
larger than noise: four standard errors, the noise taken from neighbouring rows. doctor.py reads the rows (`training`
ones and those of `held_out` figures) and puts the page together; fitness.py and vitals.py look at data and model.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from minialbert.pretrain.fitness import LOOK, OK, WRONG, Finding, several, unknown
from minialbert.pretrain.measure import fall
from minialbert.pretrain.plan import Plan

ENOUGH = 20  # rows; with fewer a tenth is a row or two
LN2 = math.log(2)
Rows = Sequence[Mapping[str, Any]]


class Level(NamedTuple):
    """The median of a figure over some rows, how far noise may carry it, and the steps they are of."""

    value: float
    error: float
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.value:.3f} (steps {self.first:,} to {self.last:,})"


def tenths(rows: Rows, key: str) -> list[Level]:
    """The log in ten parts of as many rows, the last ones whole."""
    values = [float(row[key]) for row in rows]
    size = max(1, len(values) // 10)
    jumps = statistics.median(abs(b - a) for a, b in pairwise(values))
    error = 1.25 * (1.4826 * jumps / math.sqrt(2)) / math.sqrt(size)  # of a median, from the median jump of a row
    ends = range(len(values), size - 1, -size)
    return [
        Level(statistics.median(values[end - size : end]), error, rows[end - size]["step"], rows[end - 1]["step"])
        for end in sorted(ends)
    ]


def still_falls(levels: list[Level]) -> bool:
    """Is the last tenth lower than the seventh?"""
    return levels[-1].value < levels[-4].value - 2 * levels[-1].error


def few(name: str, rows: Rows) -> Finding:
    had = "no row" if not rows else "one row" if len(rows) == 1 else f"{len(rows)} rows"
    return unknown(name, f"{had} of training in the log, {ENOUGH} are needed")


def words(rows: Rows, plan: Plan, alone: float | None) -> Finding:
    """Does the loss of masked words fall? alone: the entropy of word frequencies, the best guess without context."""
    name = "loss, words"
    if len(rows) < ENOUGH:
        return few(name, rows)
    levels = tenths(rows, "mlm_loss")
    first, last = levels[0], levels[-1]
    told = f"{first} -> {last}, {'still falling' if still_falls(levels) else 'level'}; noise {last.error:.3f}"
    said, known = "falls", alone is not None
    alone = last.value if alone is None else alone
    if known:
        said += f", and below {alone:.2f}: the entropy of how frequent the words of this text are (measured)"
    fell, begun = last.value < first.value - 4 * last.error, rows[-1]["step"] > 0.1 * plan.steps
    verdict, advice = OK, ""
    if not fell and last.value >= alone:
        verdict, advice = (WRONG if begun else LOOK), "nothing is learnt: see peak, warm-up and the batch by heart"
    elif begun and known and last.value > alone - 0.1:
        verdict = LOOK
        advice = (
            "it knows how frequent words are and nothing of their context: wait while it falls, else change the peak"
        )
    return Finding(name, verdict, told, said, advice)


def order(rows: Rows, plan: Plan) -> Finding:
    """Sentence order: has its loss left ln 2, and if not, is that normal yet?"""
    name = "loss, order"
    if plan.recipe.order == "none" or not plan.sop_weight:
        return unknown(name, "the plan has no task about pairs")
    if len(rows) < ENOUGH:
        return few(name, rows)
    levels, moving = tenths(rows, "sop_loss"), still_falls(tenths(rows, "mlm_loss"))
    last, room = levels[-1], max(0.02, 4 * levels[-1].error)
    told, said = str(last), f"ln 2 = {LN2:.3f}, a coin's, until word vectors are of use; then it falls"
    if last.value < LN2 - room:
        left = next(level for level in levels if level.value < LN2 - room)
        return Finding(name, OK, f"{told}; left ln 2 by step {left.last:,}", said)
    if last.value > LN2 + room:
        advice = "worse than a coin: a lower peak; if it stays, look at the order labels above"
        return Finding(name, LOOK, told, said, advice)
    told += "; waits at ln 2, while the loss of words " + ("still falls" if moving else "has stopped falling")
    waited = "in a world of 43 words it fell within 200 steps, somewhere from step 400 to 1,000; on real text later"
    if moving:
        return Finding(name, OK, told, f"{said}: {waited}")
    return Finding(name, LOOK, told, f"{said}: {waited}", "not a wait any more: another peak, or a longer run")


def fall_back(rows: Rows, held: Rows, best: str) -> Finding:
    """Is the model worse than it was? best: what to go on from, in words."""
    name, advice = "fall back", f"go on from {best}, in a new directory, with a lower peak"
    said = "a fifth of what a loss had won, at most; held out, a fifth of the words that were right"
    lines, lost = [], []
    for key, what in (("mlm_loss", "words"), ("sop_loss", "order")) if len(rows) >= ENOUGH else ():
        levels = tenths(rows, key)
        top, last = min(levels), levels[-1]
        margin = max(0.2 * (levels[0].value - top.value), 6 * last.error, 0.05)
        lines.append(f"{what} {last.value - top.value:.3f} above its best tenth (noise {last.error:.3f})")
        if last.value > top.value + margin:
            lost.append(f"{what}: from {top} back to {last}")
    if held:
        good = min(held, key=lambda row: row["held_out/loss"])
        now, then = ({key.removeprefix("held_out/"): x for key, x in row.items()} for row in (held[-1], good))
        if told := fall(now, then):
            lost.append(f"held out: {told} (step {good['step']:,} to {held[-1]['step']:,})")
    if lost:
        return Finding(name, WRONG, "; ".join(lost), said, advice)
    return Finding(name, OK, "; ".join(lines), said) if lines else few(name, rows)


def gradient(rows: Rows, plan: Plan) -> Finding:
    """How long gradients are, how many were cut, and whether one stands out."""
    name = "gradient"
    if len(rows) < ENOUGH:
        return few(name, rows)
    norms = [float(row["gradient_norm"]) for row in rows]
    middle, longest = statistics.median(norms), max(rows, key=lambda row: row["gradient_norm"])
    cut = sum(norm > plan.clip for norm in norms) / len(norms) if plan.clip else 0.0
    told = f"length {middle:.3g} in the middle, {max(norms):.3g} at most (step {longest['step']:,}); {cut:.0%} were cut"
    spikes = [f"{row['step']:,}" for row in rows if row["gradient_norm"] > 10 * middle]
    said = "none 10 times the middle one; how many are cut matters little, as the optimizers divide by the length"
    if not spikes:
        return Finding(name, OK, told, said)
    advice = "the losses of those steps: if they jump, a lower peak or a longer warm-up"
    return Finding(name, LOOK, f"{told}; 10 times that at steps {several(spikes)}", said, advice)


def stops(directory: Path, step: int) -> list[Finding]:
    """Where the run met what is no number."""
    found = []
    for path in sorted(directory.glob("stopped-*-rank*")):
        at = int(path.name.split("-")[1])
        told = f"the run stopped at step {at:,}; the batch and the weights are in {path.name}/"
        verdict, advice = WRONG, "lower the peak or warm up longer, in a new directory; the same run stops there again"
        if at < step:
            verdict, advice = LOOK, f"the run has gone past it, to step {step:,}"
        found.append(Finding("no number", verdict, told, "a loss and a gradient that are numbers, always", advice))
    return found


def trust(ratios: Mapping[str, float], plan: Plan) -> Finding:
    """LAMB's trust ratios in the last update, by name."""
    name = "trust ratios"
    if plan.optimizer != "lamb":
        return unknown(name, f"{plan.optimizer} has none")
    if not ratios:
        return unknown(name, "no update yet")
    ranked = sorted(ratios, key=lambda key: ratios[key])
    middle = statistics.median(ratios.values())
    told = (
        f"{ratios[ranked[0]]:.3g} ({ranked[0]}) to {ratios[ranked[-1]]:.3g} ({ranked[-1]}), {middle:.3g} in the middle"
    )
    odd = [f"{key} {x:.3g}" for key, x in ratios.items() if x < 1e-3 or x > 30 * middle or x == 1]
    said = (
        "from 0.001 to 30 times the middle one (healthy runs: 2 to 19 times, measured); exactly 1: zeros, no gradient"
    )
    if not odd:
        return Finding(name, OK, told, said)
    advice = (
        "these tensors move by another share of their length than all others: does each get a gradient, is one tiny?"
    )
    return Finding(name, LOOK, f"{told}; {several(odd)}", said, advice)


def gap(rows: Rows, held: Rows) -> Finding:
    """Held-out against training loss."""
    name = "held-out gap"
    if not held:
        return unknown(name, "no held-out figures in the log yet, or no --held-out")
    if len(rows) < ENOUGH:
        return few(name, rows)
    last, top = held[-1], min(held, key=lambda row: row["held_out/mlm_loss"])
    level = tenths(
        [row for row in rows if row["step"] <= last["step"]] if rows[0]["step"] < last["step"] else rows, "mlm_loss"
    )[-1]
    between, rose = last["held_out/mlm_loss"] - level.value, last["held_out/mlm_loss"] - top["held_out/mlm_loss"]
    told = f"words {last['held_out/mlm_loss']:.3f} held out, {level.value:.3f} in training: {between:+.3f}; "
    told += f"{rose:.3f} above its lowest (step {top['step']:,})"
    wide = between > max(0.2, 0.1 * level.value) + 4 * level.error
    advice = "it learns the text by heart: more text, or fewer epochs" if wide else ""
    return Finding(name, LOOK if wide else OK, told, "at most a tenth of the loss, and 0.2", advice)


def speed(rows: Rows, plan: Plan, step: int) -> Finding:
    """Tokens a second, and the time that is left."""
    known = [row for row in rows if row.get("tokens_per_second")]
    if not known:
        return unknown("speed", "no row of training in the log")
    pace = statistics.median(row["tokens_per_second"] for row in known)
    lately = statistics.median(row["tokens_per_second"] for row in known[-max(1, len(known) // 10) :])
    filled = known[-1]["tokens"] / max(1, slots_of(plan, known[-1]["step"] - 1))  # the share that is no padding
    left = sum(slots_of(plan, number) for number in range(step, plan.steps)) * filled / max(lately, 1)
    told = f"{pace:,.0f} tokens a second, {lately:,.0f} lately; {duration(left)} left"
    slow = lately < pace / 2
    advice = "something else took the machine, or memory is short" if slow else ""
    return Finding("speed", LOOK if slow else OK, told, "lately at least half of the median", advice)


def slots_of(plan: Plan, step: int) -> int:
    """Pieces of the batch after `step` updates, padding included."""
    for stage in plan.stages:
        if step < stage.steps:
            return stage.length * stage.batch
        step -= stage.steps
    return plan.stages[-1].length * plan.stages[-1].batch


def duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
