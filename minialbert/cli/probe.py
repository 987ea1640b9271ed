"""The command that asks what each layer knows: probe."""

import argparse
import json
import sys
from pathlib import Path

from minialbert.convert import load
from minialbert.embed import Embedder
from minialbert.errors import InputError
from minialbert.finetune.data import TASKS, leakage, read_data, read_labels, split
from minialbert.tools.plots import check_target, save
from minialbert.tools.plots import probe as figure_of
from minialbert.tools.probe import POOLINGS, probe


def add_commands(commands) -> None:
    ask = commands.add_parser(
        "probe", help="what each layer knows of a task",
        description="Fits a linear model on the vectors of each layer for a task, and says how good each is on DEV, "
        "beside what needs no model. The model itself does not learn. Files are .tsv, .csv or .jsonl (also .gz, .xz) "
        "with the columns text and label, or sentence1, sentence2 and label, or score instead of label. Without DEV "
        "a fifth of TRAIN is held out.",
        epilog="example: minialbert probe train.tsv dev.tsv\n"
        "         minialbert probe reviews.csv --columns text=review,label=stars --layers 0 3 6 --pooling mean max",
    )  # fmt: skip
    ask.add_argument("train", metavar="TRAIN", type=Path)
    ask.add_argument("dev", metavar="DEV", type=Path, nargs="?")
    ask.add_argument("--model", metavar="REF", help="what load takes; the small model that ships if left out")
    ask.add_argument("--layers", nargs="+", default=["all"], metavar="N", help="0, 3, -1 (the last), or all")
    ask.add_argument("--pooling", nargs="+", default=["mean", "cls"], choices=POOLINGS, metavar="NAME",
                     help=f"tokens to a vector, one or several of {', '.join(POOLINGS)}")  # fmt: skip
    ask.add_argument("--task", choices=TASKS, help="what the labels are; found from the file if left out")
    ask.add_argument("--columns", metavar="ROLE=NAME,...",
                     help="text=NAME,label=NAME, and pair=NAME; numbers from 1 if there is no header")  # fmt: skip
    ask.add_argument("--separator", metavar="SIGN", help="between several labels of one text in a table")
    ask.add_argument("--labels", metavar="F", type=Path, help="a .txt file, a label a line, in the order to be kept")
    ask.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    ask.add_argument("--plot", metavar="FILE", type=Path, help="a figure of the scores by layer: .png, .svg, .pdf")
    ask.add_argument("--json", action="store_true")
    ask.set_defaults(run=run_probe)


def run_probe(given: argparse.Namespace) -> int:
    if given.plot:
        check_target(given.plot)
    layers = "all" if given.layers == ["all"] else [_layer(layer) for layer in given.layers]
    how = {"columns": given.columns, "separator": given.separator}
    train = read_data(given.train, given.task, labels=read_labels(given.labels) if given.labels else None, **how)
    print(train.describe(), file=sys.stderr)
    if given.dev:
        dev = read_data(given.dev, like=train, **how)
        print(dev.describe(), file=sys.stderr)
        shared, conflicts = leakage(train, dev)
        if shared:
            also = f", {conflicts} of them with another label there" if conflicts else ""
            print(f"{shared} of the {len(dev):,} are also in {train.path}{also}", file=sys.stderr)
    else:
        train, dev = split(train)
        print(f"no DEV was given: {len(dev):,} of these are held out, the same ones each time", file=sys.stderr)
    found = probe(Embedder(*load(given.model), device=given.device), train, dev, layers, given.pooling)
    print(json.dumps(found.as_dict(), indent=2, ensure_ascii=False) if given.json else "\n".join(found.lines()))
    if given.plot:
        scores = {pooling: [cell.first for cell in column] for pooling, column in found.cells.items()}
        levels = {name: cell.first for name, cell in found.baselines.items()}
        save(figure_of(scores, list(found.layers), found.metrics[0], levels), given.plot)
    return 0


def _layer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"--layers {text}: expected numbers, as --layers 0 3 -1, or all alone") from None
