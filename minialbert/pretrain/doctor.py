"""Is this pre-training run healthy? A page of findings on its directory: before the first step, during, after.

`examine` is the whole; the checks are in fitness.py (data and plan), vitals.py (the model) and symptoms.py (what
training has left behind). The run may be going on in another process: nothing is written into its directory, and a
checkpoint that vanishes between two looks is passed over. Why these checks: each is the answer to a question that
people with a run that did not learn have asked in public.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from minialbert.checkpoints import OPTIMIZER, check_digests, checkpoints, read_state
from minialbert.errors import CheckpointError, FileError, MiniAlbertError
from minialbert.heads import AlbertForPreTraining
from minialbert.pretrain import fitness, symptoms, vitals
from minialbert.pretrain.corpus import Corpus
from minialbert.pretrain.examples import Example, Examples, Recipe
from minialbert.pretrain.fitness import LOOK, OK, UNKNOWN, WRONG, Finding, unknown
from minialbert.pretrain.plan import Plan, Stage
from minialbert.pretrain.report import epoch_of
from minialbert.pretrain.start import frequencies
from minialbert.tokenizers import Tokenizer, load_tokenizer
from minialbert.training import read_log

EXAMPLES = 500  # of which the data is judged
TOKENS = 2048  # of the batch on which the model is judged, about
MARKS = {OK: "  ok     ", LOOK: "? look   ", WRONG: "! WRONG  ", UNKNOWN: "  -      "}
WIDTH = 19  # of a name on the page
MARGIN = WIDTH + len(MARKS[OK])
SHORT = 64  # pieces of the examples learnt by heart, at most


@dataclass(frozen=True)
class Report:
    """summary: what the run is, in numbers. findings: in the order of the page, the first `before` of them about what
    is there before the first step."""

    summary: dict[str, Any]
    findings: list[Finding]
    before: int

    @property
    def healthy(self) -> bool:
        """Nothing is wrong; a person may still want to look."""
        return all(finding.verdict != WRONG for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        return {"summary": self.summary, "healthy": self.healthy, "findings": [f._asdict() for f in self.findings]}

    def lines(self) -> list[str]:
        """The page."""
        before, during = self.findings[: self.before], self.findings[self.before :]
        parts = ("before the first step", before), ("during the run", during)
        return [headline(self.summary), *(line for title, part in parts for line in ["", title, *lines_of(part)])]


# ---- what is read ----


@dataclass(frozen=True)
class Case:
    """What is known of a run: its newest checkpoint that can be read, its text, its log."""

    directory: Path
    checkpoint: Path
    state: dict[str, Any]
    plan: Plan
    model: AlbertForPreTraining
    tokenizer: Tokenizer
    damage: list[Finding]  # newer checkpoints that could not be read

    @property
    def step(self) -> int:
        return self.state["step"]

    @property
    def stage(self) -> Stage:
        """The one at hand; the last, when the run is done."""
        left = self.step
        for stage in self.plan.stages:
            if left < stage.steps:
                return stage
            left -= stage.steps
        return self.plan.stages[-1]


def newest_first(directory: Path) -> Iterator[Path]:
    """The checkpoints that are there when the first one is asked for."""
    yield from reversed(checkpoints(directory))


def read_case(directory: Path) -> Case:
    """Raises CheckpointError when there is nothing to examine."""
    bad: dict[Path, Finding] = {}
    for path in chain(newest_first(directory), newest_first(directory)):  # again: a run may have made new ones
        try:
            return Case(directory, path, *read_checkpoint(path), list(bad.values()))
        except (MiniAlbertError, OSError) as error:
            if path.exists():
                advice = f"delete {path}: the run goes on from the one before"
                bad[path] = Finding("checkpoint", WRONG, " ".join(str(error).split()), "whole files", advice)
    if bad:
        raise CheckpointError(next(iter(bad.values())).measured)
    raise CheckpointError(
        f"{directory}: no checkpoint of a run, expected step-NNNNNNNN; make one before the first step with the command "
        "of the run and --prepare-only: minialbert pretrain ... --prepare-only"
    )


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Plan, AlbertForPreTraining, Tokenizer]:
    """Raises CheckpointError, FileError."""
    state = read_state(path)
    check_digests(path, state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the files say of themselves was said when they were made
        model = AlbertForPreTraining.from_pretrained(path, dtype="auto")
        return state, plan_of(path, state), model, load_tokenizer(path)


def plan_of(path: Path, state: dict[str, Any]) -> Plan:
    """The plan that a checkpoint was made with; how it was worked off (log_every, ...) is not in it."""
    try:
        names = Plan((Stage(8, 1, 1),)).fixed()
        found = {name: state[name] for name in names}
        found["stages"] = tuple(Stage(*stage) for stage in found["stages"])
        return Plan(**found | {"recipe": Recipe(**found["recipe"])})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its plan is of another version ({error}); examine it with that one") from None


def start_of(case: Case) -> AlbertForPreTraining | None:
    """The model before its first update, if it is still there."""
    path = case.directory / "step-00000000"
    if case.checkpoint == path:
        return case.model
    try:
        return read_checkpoint(path)[2].to(case.model.device)
    except (MiniAlbertError, OSError):  # old checkpoints go
        return None


def read_corpus(case: Case, name: str = "corpus") -> Corpus | str:
    """The tokenized text of a run, or why there is none."""
    place = case.directory / name
    if not place.is_dir():
        return f"there is no {name}/ in {case.directory}"
    try:
        corpus = Corpus(place)
        corpus.check_tokenizer(case.tokenizer)
    except FileError as error:
        return str(error)
    if corpus.digest() != case.state["corpus"]:
        return f"{place} is not the text that this run was made with"
    return corpus


def trust_ratios(case: Case) -> dict[str, float]:
    """Of the last update before the checkpoint, by parameter."""
    ending = "/trust_ratio"
    with safe_open(case.checkpoint / OPTIMIZER, framework="pt") as file:
        keys = [key for key in file.keys() if key.endswith(ending)]  # noqa: SIM118  # no dictionary
        return {key.removesuffix(ending): float(file.get_tensor(key)) for key in keys}


# ---- the whole ----


def examine(
    directory: str | Path, *, heart: bool = True, seconds: float = 60.0, device: str | torch.device = "cpu"
) -> Report:
    """Everything that can be known of the run in `directory` (the --output of pretrain), without writing into it.

    heart: learn a few examples by heart, with a copy of the model, for at most so many seconds.
    Raises CheckpointError when there is no checkpoint.
    """
    case = read_case(Path(directory))
    case.model.to(device)
    rows = read_log(directory)
    training = [row for row in rows if "mlm_loss" in row]
    held = [row for row in rows if "held_out/loss" in row]
    corpus = read_corpus(case)
    drawn: list[Example] = []
    if isinstance(corpus, Corpus):
        drawn = draw(case, corpus, case.stage.length, EXAMPLES)
    before = case.damage + before_the_run(case, corpus, drawn, training, heart, seconds)
    during = during_the_run(case, corpus, drawn, training, held)
    return Report(summary_of(case, corpus, drawn), before + during, len(before))


def examples_of(case: Case, corpus: Corpus, length: int) -> Examples:
    return Examples(corpus, case.tokenizer, replace(case.plan.recipe, max_length=length), case.plan.seed)


def draw(case: Case, corpus: Corpus, length: int, count: int) -> list[Example]:
    """The run's own first examples."""
    return list(islice(epoch_of(examples_of(case, corpus, length), 0), count))


def batch_of(case: Case, corpus: Corpus, drawn: list[Example], length: int) -> dict[str, torch.Tensor]:
    inputs = examples_of(case, corpus, length).collate(drawn)
    return {name: x.to(case.model.device) for name, x in inputs.items()}


def before_the_run(
    case: Case, corpus: Corpus | str, drawn: list[Example], training: list[dict[str, Any]], heart: bool, seconds: float
) -> list[Finding]:
    """Data, plan and start."""
    plan, model, length = case.plan, case.model, case.stage.length
    found = [fitness.vocabulary(model.config, case.tokenizer)]
    if not isinstance(corpus, Corpus):
        found += [Finding("data", UNKNOWN, corpus)]
    else:
        found += fitness.data(examples_of(case, corpus, length), drawn)
    found += [fitness.warm_up(plan), fitness.peak(plan, model.config.hidden_size)]
    start = start_of(case)
    if start is not None:
        found.append(vitals.weights(start))
        if isinstance(corpus, Corpus):
            found += vitals.first_losses(start, batch_of(case, corpus, drawn[: max(8, TOKENS // length)], length))
    else:
        found.append(vitals.first_row(model.config, training, fitness.warm_up_of(plan)))
    if not heart:
        return [*found, unknown("by heart", "left out")]
    if not isinstance(corpus, Corpus):
        return [*found, unknown("by heart", corpus)]
    short = min(SHORT, length)
    inputs = batch_of(case, corpus, drawn[:8] if short == length else draw(case, corpus, short, 8), short)
    return [*found, vitals.heart_of(model, inputs, case.state["frozen"], plan.sop_weight, seconds)]


def during_the_run(
    case: Case, corpus: Corpus | str, drawn: list[Example], training: list[dict[str, Any]], held: list[dict[str, Any]]
) -> list[Finding]:
    """Log, newest checkpoint, and stops."""
    plan, directory = case.plan, case.directory
    alone = entropy(corpus, case.model.config.vocab_size) if isinstance(corpus, Corpus) else None
    found = [
        *symptoms.stops(directory, case.step),
        symptoms.words(training, plan, alone),
        symptoms.order(training, plan),
        symptoms.fall_back(training, held, best_of(directory)),
        symptoms.gradient(training, plan),
        symptoms.trust(trust_ratios(case), plan),
    ]
    if isinstance(corpus, Corpus):
        inputs = batch_of(case, corpus, drawn[:8], case.stage.length)
        found.append(vitals.collapse(case.model, inputs, case.step, plan.steps))
    else:
        found.append(unknown("collapse", corpus))
    return [*found, symptoms.gap(training, held), symptoms.speed(training, plan, case.step)]


def entropy(corpus: Corpus, V: int) -> float:
    """Of how frequent words are, in nats: the loss of the best guess that looks at no context."""
    counts = frequencies(corpus, V)
    return float(torch.special.entr(counts / counts.sum()).sum())


def best_of(directory: Path) -> str:
    """The checkpoint with the lowest held-out loss, in words."""
    losses = []
    for path in checkpoints(directory):
        try:
            figures = read_state(path)["held_out"]
        except FileError:  # gone, or damaged and told above
            continue
        losses += [(figures["loss"], path)] if figures else []
    return str(min(losses)[1]) + " (best held-out loss)" if losses else "an earlier checkpoint"


# ---- the page ----


def summary_of(case: Case, corpus: Corpus | str, drawn: list[Example]) -> dict[str, Any]:
    config, plan = case.model.config, case.plan
    summary: dict[str, Any] = {
        "run": str(case.directory), "checkpoint": case.checkpoint.name, "step": case.step, "steps": plan.steps,
        "parameters": sum(w.numel() for w in case.model.parameters()), "hidden_size": config.hidden_size,
        "layers": config.num_hidden_layers, "vocabulary": config.vocab_size, "optimizer": plan.optimizer,
        "stages": [list(stage) for stage in plan.stages],
    }  # fmt: skip
    if not isinstance(corpus, Corpus) or not drawn:
        return summary
    taken = sum(len(example.masked.ids) + example.lost for example in drawn) / len(drawn)  # text an example uses up
    planned = sum(stage.length / case.stage.length * stage.steps * stage.batch * taken for stage in plan.stages)
    return summary | {
        "documents": corpus.documents, "corpus_tokens": corpus.tokens,
        "examples_an_epoch": round(corpus.tokens / taken), "epochs_planned": round(planned / corpus.tokens, 3),
    }  # fmt: skip


def headline(s: dict[str, Any]) -> str:
    line = (
        f"{s['run']}: step {s['step']:,} of {s['steps']:,}; {s['parameters']:,} parameters (H = {s['hidden_size']}, "
        f"L = {s['layers']}, V = {s['vocabulary']:,}); {s['optimizer']}"
    )
    if "corpus_tokens" in s:
        line += (
            f"; {s['corpus_tokens']:,} tokens of text, about {s['examples_an_epoch']:,} examples an epoch, "
            f"{s['epochs_planned']:.3g} epochs planned"
        )
    return line


def lines_of(findings: list[Finding]) -> list[str]:
    """Marks and names first; below what was expected, and what to do. Neighbours not measured for one reason share a
    line."""
    lines = []
    for key, group in groupby(findings, key=lambda f: (f.verdict == UNKNOWN, f.measured, f.expected)):
        same = list(group)
        finding = same[0]
        names = [f.name for f in same]
        if key[0] and len(same) > 1:
            lines.append(f"{MARKS[UNKNOWN]}not measured: {'; '.join(names)}: {finding.measured}")
            continue
        told = f"not measured: {finding.measured}" if key[0] else finding.measured
        lines.append(f"{MARKS[finding.verdict]}{finding.name:<{WIDTH}}{told}")
        lines += [f"{'':{MARGIN}}expected {finding.expected}"] if finding.expected else []
        lines += [f"{'':{MARGIN}}do: {finding.advice}"] if finding.advice else []
    return lines
