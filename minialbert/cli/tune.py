"""Commands for a task of one's own: finetune, evaluate, predict."""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minialbert.cli.settings import changes_of, note
from minialbert.config import AlbertConfig
from minialbert.convert import tokenizer_of
from minialbert.convert.sources import SHIPPED, opened
from minialbert.embed.texts import read_texts
from minialbert.errors import FileError, InputError
from minialbert.finetune.data import conflicts, leakage, read_labels, split
from minialbert.finetune.freeze import freeze, learn_only, table
from minialbert.finetune.loop import Plan
from minialbert.finetune.lora import MAPS, Lora, with_lora
from minialbert.finetune.metrics import report as table_of_labels
from minialbert.finetune.predict import evaluate, predict
from minialbert.finetune.presets import dropout_of, preset
from minialbert.finetune.seeds import MODEL, finetune, write_lines
from minialbert.finetune.task import Task
from minialbert.finetune.tasks import (
    TASKS,
    TEXTS,
    as_examples,
    load_tuned,
    named,
    read,
    read_for,
    started,
    task_for,
    task_name,
)
from minialbert.heads import encoder_of
from minialbert.sharing import unshare
from minialbert.tools.plots import check_target, save, tuning
from minialbert.version import VERSION
from minialbert.whole import whole_file

KINDS = (
    "Files: .tsv, .csv or .jsonl with columns text (or sentence1, sentence2) and label, labels or score; .conll with "
    "a word and its tag a line; SQuAD's .json; .jsonl with question, choices and answer. All also as .gz and .xz."
)


def add_commands(commands) -> None:
    tune = commands.add_parser(
        "finetune", help="a task from a data file: classifier, tagger, reader",
        description="Trains a model for the task of a data file and keeps the best by DEV as DIR/model, which "
        f"transformers loads too. {KINDS} Without DEV a fifth of TRAIN is held out. The same command goes on where it "
        "was broken off, to the same bits.",
        epilog="examples: minialbert finetune train.tsv dev.tsv --output run --seeds 5\n"
        "          minialbert finetune train.tsv dev.tsv --output run --lora 8 --per-visit",
    )  # fmt: skip
    tune.add_argument("train", metavar="TRAIN", type=Path)
    tune.add_argument("dev", metavar="DEV", type=Path, nargs="?")
    tune.add_argument(
        "--output", metavar="DIR", type=Path, required=True, help="of this run; one that is there goes on"
    )
    tune.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    _add_reading(tune)
    tune.add_argument("--labels", metavar="F", type=Path, help="a .txt file, a label a line, in the order to be kept")
    tune.add_argument("--max-length", type=int, metavar="N", help="pieces of a text or a window: 128; for answers 384")
    how = tune.add_argument_group("how to train (what is left out follows from the task, the model and the data)")
    how.add_argument("--epochs", type=int, metavar="N", help="times through TRAIN")
    how.add_argument("--batch", type=int, metavar="N", help="rows of an update")
    how.add_argument("--peak", type=float, metavar="X", help="the highest learning rate")
    how.add_argument("--warmup", type=float, default=0.1, metavar="X", help="share of all updates with a rising rate")
    how.add_argument(
        "--weight-decay", type=float, default=Plan.weight_decay, metavar="X", help="share of a weight that each update "
        "takes off, times the rate; none of biases and LayerNorm"
    )  # fmt: skip
    how.add_argument("--clip", type=float, default=Plan.clip, metavar="X", help="longest gradient; 0: never clipped")
    how.add_argument("--dropout", type=float, metavar="X", help="in all layers; the checkpoint's, or 0 for ALBERT v2")
    how.add_argument(
        "--patience", type=int, default=0, metavar="N", help="stop after so many epochs that are no better"
    )
    how.add_argument("--class-weights", choices=("balanced",), help="rare labels count more in the loss")
    how.add_argument("--seeds", type=int, default=1, metavar="N", help="train so many models and keep the best")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="the first of them")
    how.add_argument("--micro-tokens", type=int, default=4096, metavar="N", help="pieces in memory at once")
    how.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the products")
    how.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    part = tune.add_argument_group("what learns")
    which = part.add_mutually_exclusive_group()
    which.add_argument(
        "--freeze", nargs="+", metavar="PART", help="embeddings, projection, block, pooler, 'layer 3', ..."
    )
    which.add_argument("--learn", nargs="+", metavar="PART", help="these alone; head is a linear probe")
    which.add_argument("--lora", type=int, metavar="RANK", help="low-rank adapters beside frozen weights, and the head")
    part.add_argument("--alpha", type=float, metavar="X", help="of --lora: X / RANK is its weight; 2 RANK if left out")
    part.add_argument(
        "--per-visit", action="store_true", help="of --lora: adapters of its own for each visit of a block"
    )
    part.add_argument("--lora-maps", nargs="+", metavar="MAP",
                      help=f"of --lora, some of {', '.join(MAPS)}; attention and ffn are all of theirs")  # fmt: skip
    part.add_argument("--unshare", action="store_true", help="first give each layer its own weights")
    part.add_argument("--no-gradient", type=int, default=0, metavar="K", help="the first K visits run without gradient")
    part.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                      help="another size: num_hidden_layers=3 tunes three visits; may be given again")  # fmt: skip
    tune.add_argument(
        "--plot", metavar="FILE", type=Path, help="a figure of all seeds, epoch by epoch: .png, .svg, .pdf"
    )
    tune.add_argument("--json", action="store_true", help="print the report as JSON")
    tune.set_defaults(run=run_finetune)

    judge = commands.add_parser(
        "evaluate", help="how good a fine-tuned model is on a data file",
        description=f"Scores of a fine-tuned model on labelled data. {KINDS}",
        epilog="example: minialbert evaluate run test.tsv",
    )  # fmt: skip
    judge.add_argument("model", metavar="MODEL", help="a run of finetune, its model/, or one of another library")
    judge.add_argument("data", metavar="DATA", type=Path)
    _add_reading(judge, task=False)
    judge.add_argument("--predictions", metavar="FILE", type=Path, help="write what it says of each example: .jsonl")
    judge.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    judge.add_argument("--json", action="store_true")
    judge.set_defaults(run=run_evaluate)

    say = commands.add_parser(
        "predict", help="what a fine-tuned model says of texts",
        description="Predictions as JSON lines, one a text, in their order: its line in F, the text (or text and pair, "
        "or question), and what the model says of it. The two texts of a pair, or a question and what to read, are "
        "parted by a tab.",
        epilog='example: minialbert predict run "What a film!"\n'
        "         minialbert predict run --input texts.txt --output predictions.jsonl",
    )  # fmt: skip
    say.add_argument("model", metavar="MODEL", help="a run of finetune, its model/, or one of another library")
    say.add_argument("texts", nargs="*", metavar="TEXT")
    say.add_argument(
        "--input", metavar="F", help="a text a line (.txt, -), or a data file; its labels are not looked at"
    )
    say.add_argument("--output", metavar="F", type=Path, help="a .jsonl file; stdout if left out")
    _add_reading(say, task=False)
    say.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps")
    say.set_defaults(run=run_predict)


def _add_reading(command, task: bool = True) -> None:
    if task:
        command.add_argument("--task", choices=TASKS, help="what the data is for; found from the file if left out")
    command.add_argument("--columns", metavar="ROLE=NAME,...",
                         help="text=NAME,label=NAME, and pair=NAME; numbers from 1 if there is no header")  # fmt: skip
    command.add_argument("--separator", metavar="SIGN", help="between several labels of one text in a table")


# ---- finetune ----


def run_finetune(given: argparse.Namespace) -> int:
    if given.plot:
        check_target(given.plot)
    if given.seeds < 1:
        raise InputError(f"--seeds {given.seeds} must be at least 1")
    for option in ("alpha", "per_visit", "lora_maps"):
        if getattr(given, option) and given.lora is None:
            raise InputError(f"--{option.replace('_', '-')} is for --lora RANK")
    if given.dropout is not None and not 0 <= given.dropout < 1:
        raise InputError(f"--dropout {given.dropout} must be 0 to below 1")
    check_device(given.device)
    train, dev, name = _data(given)
    with opened(given.model) as source:
        config = AlbertConfig.from_json(source.config)
    changes = changes_of(given.set)
    config = replace(config, **changes)
    task = task_for(train, config.max_position_embeddings, given.max_length, class_weights=given.class_weights)
    if given.no_gradient and task.name == "choice":
        raise InputError("--no-gradient is not for choices; --freeze embeddings is")
    tokenizer = tokenizer_of(given.model)
    rates, told = dropout_of(config, task.name)
    if given.dropout is not None:
        rates = {"hidden_dropout_prob": given.dropout, "attention_probs_dropout_prob": given.dropout}
        told = f"dropout: hidden and attention {given.dropout:g}"
    note(told)

    def make() -> nn.Module:
        model = started(task, given.model, changes | rates, train.examples)
        model = unshare(model) if given.unshare else model
        if given.lora is not None:
            alpha = 2.0 * given.lora if given.alpha is None else given.alpha
            maps = given.lora_maps or ("query", "value")
            model = with_lora(model, Lora(model.config, given.lora, alpha, maps, given.per_visit))
        elif given.learn:
            learn_only(model, *given.learn)
        elif given.freeze:
            freeze(model, *given.freeze)
        return model.to(given.device)

    torch.manual_seed(given.seed)
    first: Any = make()
    note(table(first, given.no_gradient))
    learns = "lora" if given.lora is not None else "head" if given.learn == ["head"] else "all"
    rows = len(task.features(tokenizer, train.examples))
    usual = preset(task.name, first.config, rows, learns, len(task.labels))
    tell_lost(task.counts)
    plan = Plan(
        epochs=usual.epochs if given.epochs is None else given.epochs,
        batch=usual.batch if given.batch is None else given.batch,
        peak=usual.peak if given.peak is None else given.peak, warmup=given.warmup, visits=given.no_gradient,
        patience=given.patience, dtype=given.dtype, micro_tokens=given.micro_tokens, weight_decay=given.weight_decay,
        clip=given.clip,
    )  # fmt: skip
    updates = plan.epochs * -(-rows // plan.batch)
    note(f"epochs: {plan.epochs} of {rows:,} rows, batch {plan.batch}; updates: {updates:,}; peak {plan.peak:g}")
    note(f"{task.goal} on dev decides which epoch and which seed is kept")
    seeds = range(given.seed, given.seed + given.seeds)
    report = finetune(given.output, make, tokenizer, task, plan, train.examples, dev.examples, seeds=seeds,
                      name=name + encoder_digest(first), about=about(given), tell=note)  # fmt: skip
    print(json.dumps(report, indent=1, ensure_ascii=False) if given.json else "\n".join(_told(report, given.output)))
    if given.plot:
        save(tuning(report), given.plot)
    return 0


def _data(given: argparse.Namespace) -> tuple[Any, Any, str]:
    """Train and dev, and what they are known by."""
    how = {"columns": given.columns, "separator": given.separator}
    if given.labels:
        how["labels"] = read_labels(given.labels)
    train = read(given.train, given.task, **how)
    note(train.describe())
    if both := conflicts(train):
        first, second = (getattr(example, "where", f"line {getattr(example, 'line', 0)}") for example in both[0])
        note(f"warning: {len(both):,} texts have several labels in {train.path}, the first at {first} and {second}")
    name = f"train {digest_of_examples(train)}"
    if given.dev is None:
        train, dev = split(train)
        note(f"no DEV was given: {len(dev):,} of these are held out, the same ones each time")
        return train, dev, f"{name}, held out {digest_of_examples(dev)}, from "
    how.pop("labels", None)
    dev = read(given.dev, task_name(train), like=train, **how)
    note(dev.describe())
    shared, others = leakage(train, dev)
    if shared:
        also = f", {others} of them with another label there" if others else ""
        note(f"warning: {shared} of the {len(dev):,} are also in {train.path}{also}; figures on them flatter the model")
    return train, dev, f"{name}, dev {digest_of_examples(dev)}, from "


def digest_of_examples(data: Any) -> str:
    """What was read, whichever columns of whichever file it was."""
    return hashlib.sha256(repr((data.examples, getattr(data, "labels", ()))).encode()).hexdigest()[:12]


def check_device(name: str) -> None:
    """Raises InputError unless tensors can be made there."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name}: {str(error).splitlines()[0]}") from None


def about(given: argparse.Namespace) -> dict[str, Any]:
    """What the report says of how it was made: files as they were typed, the model, the options."""
    left = ("command", "run", "train", "dev", "model", "output", "plot", "json")
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()
               if name not in left and not (value is None or value is False or value == [])}  # fmt: skip
    return {"train": str(given.train), "dev": given.dev and str(given.dev), "model": given.model or SHIPPED,
            "minialbert": VERSION, "options": options}  # fmt: skip


def tell_lost(counts: Counter[str]) -> None:
    """What the texts lost on their way to the model."""
    for what, count in counts.items():
        if count:
            note(f"{count:,} {what}")


def _told(report: dict[str, Any], directory: Path) -> Iterator[str]:
    """The report as a page."""
    goal = report["goal"]
    yield f"{'seed':<8}{'epoch':>6}{goal:>14}"
    for seed in report["seeds"]:
        value = "-" if seed["goal"] is None else f"{seed['goal']:.4f}"
        yield f"{seed['seed']:<8}{seed['epoch'] or '-':>6}{value:>14}  {seed['failed']}".rstrip()
    if "median" in report and len(report["seeds"]) > 1:
        yield (f"median {report['median']:.4f}, from {report['lowest']:.4f} to {report['highest']:.4f}, "
               f"deviation {report['deviation']:.4f}; {report['failed']} of {len(report['seeds'])} failed")  # fmt: skip
    if report["floor"] is not None:
        yield f"without looking: {report['floor']:.4f}"
    if "advice" in report:
        yield f"no seed is better than that: {report['advice']}"
    yield ""
    if "threshold" in report:
        yield (f"nothing is answered where that wins by more than {report['threshold']:.4f}, a threshold tuned on "
               f"{report['tuned_on']}, the same questions: it flatters the figures")  # fmt: skip
    yield from _scores(report["scores"])
    yield f"the model of seed {report['best_seed']} is in {directory / MODEL}"


def _scores(scores: dict[str, Any]) -> Iterator[str]:
    """Figures, and a table of labels where there are several."""
    plain = {name: value for name, value in scores.items() if isinstance(value, (int, float))}
    yield ", ".join(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value:,}"
                    for name, value in plain.items())  # fmt: skip
    for name in ("answerable", "unanswerable"):
        if part := scores.get(name):
            yield f"{name}: {part['questions']:,} questions, exact_match {part['exact_match']:.4f}, f1 {part['f1']:.4f}"
    if rows := scores.get("labels") or scores.get("types"):
        yield ""
        yield from table_of_labels(rows)
        yield ""


def encoder_digest(model: Any) -> str:
    """What a run starts from, but for the new head."""
    inside = model.model if hasattr(model, "opened") else model
    return encoder_of(inside).digest()[:16]


# ---- evaluate, predict ----


def run_evaluate(given: argparse.Namespace) -> int:
    check_device(given.device)
    if given.predictions:
        check_output(given.predictions, "--predictions")
    model, tokenizer, task = load_tuned(given.model)
    data = read_for(given.model, task, given.data, columns=given.columns, separator=given.separator)
    note(data.describe())
    scores, predictions = evaluate(model.to(given.device), tokenizer, task, data.examples)
    tell_lost(task.counts)
    if given.predictions:
        write_lines(given.predictions, predictions)
    if given.json:
        print(
            json.dumps({"task": task.settings, "data": str(given.data), "scores": scores}, ensure_ascii=False, indent=1)
        )
    else:
        print("\n".join(_scores(scores)))
    return 0


def run_predict(given: argparse.Namespace) -> int:
    if bool(given.texts) == bool(given.input):
        raise InputError("give either texts or --input F (- for standard input)")
    if given.output:
        check_output(given.output, "--output")
    check_device(given.device)
    model, tokenizer, task = load_tuned(given.model)
    examples, same = tee(_examples(given, task))
    lost: Counter[str] = Counter()
    found = predict(model.to(given.device), tokenizer, task, examples, lost=lost)
    rows = (named(example, numbered=bool(given.input)) | row for row, example in zip(found, same, strict=True))
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    if given.output is None:
        for line in lines:
            print(line)
    else:
        with whole_file(given.output) as temporary, open(temporary, "w", encoding="utf-8") as file:
            count = sum(file.write(f"{line}\n") > 0 for line in lines)
        note(f"{given.output}: {count:,} predictions")
    tell_lost(lost)
    return 0


def check_output(path: Path, option: str) -> None:
    if path.suffix != ".jsonl":
        raise InputError(f"{option} {path}: predictions are JSON lines, give a name that ends in .jsonl")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no directory {path.parent}; make it first")


def _examples(given: argparse.Namespace, task: Task) -> Any:
    """Examples to predict: texts of the command line, of a file of lines as a stream, or of a data file."""
    if given.texts:
        return as_examples(task, given.texts)
    name = Path(given.input).name.removesuffix(".gz").removesuffix(".xz")
    if given.input == "-" or (name.endswith(".txt") and task.name in (*TEXTS, "tag", "answer")):
        return as_examples(task, read_texts(given.input))
    how = {"columns": given.columns, "separator": given.separator}
    return read_for(given.model, task, given.input, labelled=False, **how).examples
