"""Several seeds of one fine-tuning: trained one after the other, compared, and the best one kept as the model.

    run/seed-0/, seed-1/, ...   checkpoints and log of each (loop.py)
    run/model/                  the best by dev: Hugging Face's directory, and adapter/ where there is one
    run/report.json             figures of every seed, the median, the spread, what failed
    run/predictions.jsonl       what the best one says of each dev example

Small data make fine-tuning a lottery: some seeds never leave the commonest answer (Devlin et al. 2019; Mosbach et al.
2021). So a run tells the median and how many failed, not the best alone. The same command goes on after a kill, to the
same bytes: times and places are not in the report.
"""

import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minialbert.checkpoints import best as best_of
from minialbert.errors import InputError, MiniAlbertError
from minialbert.finetune.adapter import save_lora
from minialbert.finetune.loop import COMMONEST, GOAL, Diverged, Plan, Saved, Tuning, opened, take
from minialbert.finetune.lora import LoraModel, merge
from minialbert.finetune.predict import evaluate
from minialbert.finetune.task import Task
from minialbert.tokenizers import Tokenizer
from minialbert.training import discard
from minialbert.whole import whole_directory, whole_file

MODEL, ADAPTER, REPORT, PREDICTIONS = "model", "adapter", "report.json", "predictions.jsonl"
DIVERGED, COLLAPSED, BELOW = "diverged", "collapsed", "not above the floor"
ONE = 0.98  # of dev with the same answer: the model tells nothing apart
FEW = 200  # updates; below, more of them is the first thing to try


@dataclass(frozen=True)
class Seed:
    """How one seed went: its best epoch's figures on dev, those of all epochs, and what failed, if it did."""

    seed: int
    goal: float | None
    epoch: int | None
    failed: str  # "", "diverged"; or no better than an answer without looking, "collapsed" if all get the same one
    history: list[dict[str, Any]]


class AllFailed(MiniAlbertError, ArithmeticError):
    """No seed gave a model."""


def finetune(
    directory: str | Path, make: Callable[[], nn.Module], tokenizer: Tokenizer, task: Task, plan: Plan,
    train: Sequence[Any], dev: Sequence[Any] = (), *, seeds: Sequence[int] = (0,), name: str = "",
    about: Mapping[str, Any] | None = None, tell: Callable[[str], None] = lambda line: None,
    progress: bool | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains a model for each seed in `directory`, keeps the best by dev, and returns the report.

    make: gives the model to train, with a new head drawn from torch's generator, parts frozen, adapters on; the seed is
    set before each call. name: what the data is known by; a directory made with other data is refused. about: what else
    the report says first, of files and settings.
    Raises InputError, CheckpointError, FileError; AllFailed when every seed diverged.
    """
    check_seeds(Path(directory), seeds)
    directory, floor = Path(directory), task.floor(train, dev) if dev else None
    features, dev_features = task.features(tokenizer, train), task.features(tokenizer, dev)
    found: dict[int, Path] = {}
    outcomes: list[Seed] = []
    for seed in seeds:
        torch.manual_seed(seed)
        run = Tuning(directory / f"seed-{seed}", make(), tokenizer, task, replace(plan, seed=seed), features,
                     (dev, dev_features), name)  # fmt: skip
        failed = ""
        if run.step:
            tell(f"seed {seed}: " + ("is finished" if run.done else f"goes on from update {run.step} of {run.steps}"))
        try:
            run.train(progress=progress, tell=partial(tell_of, tell, seed))
        except Diverged as error:
            failed = DIVERGED
            tell(f"seed {seed}: {error}")
        if (reached := best_of(run.directory, GOAL)) is not None:  # if it diverged, before that
            found[seed] = reached
        outcomes.append(outcome_of(seed, run.history, failed, floor, bool(task.labels)))
        tell(line_of(outcomes[-1], task.goal, bool(dev)))
    good = [outcome for outcome in outcomes if outcome.seed in found]
    if not good:
        raise AllFailed(f"{directory}: every seed diverged; try a lower --peak than {plan.peak:g}")
    best = max(good, key=lambda outcome: (outcome.goal if outcome.goal is not None else 0.0, -outcome.seed))
    torch.manual_seed(best.seed)
    model = make()
    take(model, found[best.seed])
    scores: dict[str, Any] = {}
    predictions: list[dict[str, Any]] = []
    if dev:
        _, predictions = evaluate(model, tokenizer, task, dev, plan.micro_tokens)
        predictions = task.tune(dev, predictions)
        scores = task.scores(dev, predictions)
    report = {**(about or {}), "data": name, "examples": len(train)}
    report |= summary(task, plan, outcomes, best.seed, floor, scores)
    if advice := advice_on(outcomes, plan, run.steps):
        report["advice"] = advice
    keep_model(directory / MODEL, model, tokenizer, task)
    write_lines(directory / PREDICTIONS, predictions)
    with whole_file(directory / REPORT) as temporary:
        temporary.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def tell_of(tell: Callable[[str], None], seed: int, line: str) -> None:
    tell(f"seed {seed}, {line}")


def check_seeds(directory: Path, seeds: Sequence[int]) -> None:
    """Raises InputError where seeds of this directory would be left out, and a better model of theirs replaced."""
    there = {int(path.name[5:]) for path in directory.glob("seed-*") if path.name[5:].isdigit()}
    if left := sorted(there - set(seeds)):
        raise InputError(
            f"{directory}: has seeds {', '.join(map(str, sorted(there)))}, this run leaves out "
            f"{', '.join(map(str, left))} (--seeds, --seed); name them all, or give a new directory"
        )


def outcome_of(
    seed: int, history: list[dict[str, Any]], failed: str, floor: float | None, labelled: bool = False
) -> Seed:
    """The best epoch of a seed; it failed if even that is no better than `floor`, or, where answers are labels, has the
    same one for everything. (A rare label found now and then is no failure, nor are numbers that round to one.)
    """
    if not history or floor is None:
        return Seed(seed, None, history[-1]["epoch"] if history else None, failed, history)
    best = max(history, key=lambda row: (row[GOAL], -row["epoch"]))
    alike = best.get(COMMONEST, 0.0)
    if not failed and (best[GOAL] <= floor or (labelled and alike == 1 > best[GOAL])):
        failed = COLLAPSED if alike >= ONE else BELOW
    return Seed(seed, best[GOAL], best["epoch"], failed, history)


def advice_on(outcomes: Sequence[Seed], plan: Plan, updates: int) -> str:
    """What to try when no seed has learnt anything; "" when one has."""
    kinds = {outcome.failed for outcome in outcomes}
    if "" in kinds:
        return ""
    if updates < FEW and DIVERGED not in kinds:
        return (
            f"{updates:,} updates are few: try more --epochs than {plan.epochs}, or a higher --peak than {plan.peak:g}"
        )
    if kinds == {BELOW}:
        return f"try a higher --peak than {plan.peak:g}, or a lower one, or more --epochs than {plan.epochs}"
    return f"try a lower --peak than {plan.peak:g}"


def line_of(outcome: Seed, goal: str, measured: bool) -> str:
    told = f"{goal} {outcome.goal:.4f} in epoch {outcome.epoch}" if measured and outcome.goal is not None else "done"
    return f"seed {outcome.seed}: " + (f"{outcome.failed}; {told}" if outcome.failed else told)


def summary(
    task: Task, plan: Plan, outcomes: Sequence[Seed], best: int, floor: float | None, scores: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The report: the median is over all seeds that were measured, failed ones too."""
    goals = [outcome.goal for outcome in outcomes if outcome.goal is not None]
    spread = {"median": statistics.median(goals), "lowest": min(goals), "highest": max(goals),
              "deviation": statistics.stdev(goals) if len(goals) > 1 else 0.0} if goals else {}  # fmt: skip
    return {"task": task.settings, "labels": list(task.labels), "goal": task.goal, "floor": floor, **spread,
            "failed": sum(bool(outcome.failed) for outcome in outcomes), "best_seed": best, "scores": scores,
            **task.tuned, "plan": plan.fixed(), "seeds": [vars(outcome) for outcome in outcomes]}  # fmt: skip


def keep_model(path: Path, model: nn.Module, tokenizer: Tokenizer, task: Task) -> None:
    """Writes the model as everyone loads it: adapters merged into the weights, and beside them as they are."""
    inside, lora = opened(model)
    with whole_directory(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the tokenizer says of its files was said when it was made
        Saved(inside if lora is None else merge(inside, lora), task).save_pretrained(temporary)
        if isinstance(model, LoraModel):
            save_lora(model, temporary / ADAPTER)
        tokenizer.save_pretrained(temporary)
        discard(path)


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
